"""Handlers as people write them, and as the engine calls them."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, cast

from msgspec import Struct

from ..conversation.shapes import repaired
from ..drivers.base import Key
from ..errors import BadMessage, Misconfigured
from ..model import Content, State
from .reply_stream import ReplyStream
from .turn import Turn

Handler = Callable[[Turn[State]], Any]
"""What `on_message` and `on_missing` are given, made awaitable by `handler_for`."""


class Streaming(partial[Any]):
    """A handler whose reply is shown while it is made."""


class Streamed(Struct):
    """What a handler that streams has said, as one reply."""

    content: Content


HOLD_S = 0.02
"""So long a handler that streams may make pieces without waiting; then others have their turn."""

MOST = 400  # replies of one turn: what one act may carry (ENTRIES_MOST), with room for the message and notes


def unnamed(turn: Any) -> Any:
    """Stand for the function that a decorator of a Chatkeep was not given, because it was written with parentheses."""


def check_handler(function: object) -> None:
    """Raise `Misconfigured` where *function* is nothing that can be called with a turn: else its first message would find out."""
    wanted = "Write `async def bot(turn): ...`. Nothing was opened."
    if not callable(function) or isinstance(function, type):
        raise Misconfigured(f"A handler or hook is a function of the turn, not {function!r:.80}. {wanted}")
    name = getattr(function, "__name__", type(function).__name__)
    if inspect.isgeneratorfunction(find_called(function)):
        raise Misconfigured(f"{name} yields, and what yields its reply is an `async def`. {wanted}")
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except ValueError:  # of a function that is written in C, and does not say
        return
    try:
        signature.bind(None)
    except TypeError as fault:
        raise Misconfigured(f"{name}{signature} is called with the turn alone: {fault}. {wanted}") from None


def handler_for(
    function: Callable[..., Any], in_thread: Callable[[Callable[..., Any], Turn[Any]], Awaitable[Any]]
) -> Handler[Any]:
    """Make *function* something to await: plain functions run *in_thread*, what async generators yield is put together."""
    called = find_called(function)
    if inspect.isasyncgenfunction(called):
        return Streaming(stream_reply, function)
    if inspect.iscoroutinefunction(called):
        return cast(Handler[Any], function)
    return (Streaming if streams(function) else partial)(call_plain, in_thread, function)


def streams(function: Callable[..., Any]) -> bool:
    """Tell whether *function* yields its reply, be it within a decorator."""
    return inspect.isasyncgenfunction(inspect.unwrap(find_called(function)))


def find_called(function: Callable[..., Any]) -> Callable[..., Any]:
    """Find the function that is called in the end: that of a partial, and the `__call__` of an object."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


async def call_plain(
    in_thread: Callable[[Callable[..., Any], Turn[Any]], Awaitable[Any]], function: Callable[..., Any], turn: Turn[Any]
) -> Any:
    """Run a plain function in a thread. What it returns may have to be awaited, as where a decorator stands around an async handler."""
    said = await in_thread(function, turn)
    if inspect.isasyncgen(said):
        return await stream_reply(lambda _: cast(AsyncGenerator[Any, None], said), turn)
    return await said if inspect.isawaitable(said) else said


async def stream_reply(function: Callable[[Turn[Any]], AsyncGenerator[Any, None]], turn: Turn[Any]) -> Streamed:
    """Run a handler that yields, and put its pieces into the reply as they come."""
    # (A hook that streams is shown to nobody.)
    reply = turn.stream or ReplyStream(Key(turn.tenant, turn.conversation))
    pieces, taker, waited_at = function(turn), PieceTaker(reply), time.monotonic()
    try:
        async for piece in pieces:
            if time.monotonic() - waited_at > HOLD_S:
                # A handler that waits for its model in plain calls would hold everything else up.
                await asyncio.sleep(0)
                waited_at = time.monotonic()
            taker.take(piece)
        taker.end()
    except BaseException:
        await pieces.aclose()
        raise
    return Streamed(reply.content)


class PieceTaker:
    """Takes what a handler yields into *reply*, as every store can keep it."""

    def __init__(self, reply: ReplyStream) -> None:
        self._reply = reply
        self._half = ""  # of a character, whose other half is still to come

    def take(self, piece: Any) -> None:
        """Take one piece. Raises `BadMessage` for what is neither text nor a JSON part."""
        if piece is None:  # as models' APIs send it where they have nothing to say
            return
        if isinstance(piece, str):
            if self._half or not piece.isascii():
                piece, self._half = _split_half(self._half + piece)
            if "\0" in piece:
                piece = repaired(piece)
            if piece:
                self._reply.take(piece)
            return
        if not isinstance(piece, dict):
            raise BadMessage(f"a handler that streams yields text or a JSON part (a dict), not {type(piece).__name__}")
        self.end()
        self._reply.take(repaired(piece))

    def end(self) -> None:
        """End the text: the half of a character that still waits for the other one is shown as what cannot be read."""
        if self._half:
            self._half = ""
            self._reply.take("\ufffd")


def _split_half(text: str) -> tuple[str, str]:
    """Take off the first half of a character from the end of *text*, until its other half comes; what else cannot be stored is repaired."""
    half = text[-1:] if "\ud800" <= text[-1:] < "\udc00" else ""
    whole = text[:-1] if half else text
    try:
        whole.encode()
    except UnicodeEncodeError:
        whole = repaired(whole)
    return whole, half


def collect_replies(turn: Turn[Any], said: Any) -> list[Content]:
    """Collect all that a turn replies: what was added with turn.reply, then what the handler returned. Raises `BadMessage`."""
    if type(said) is str and said and not turn.replies:
        return [said]  # as nearly all do
    replies: list[Content] = []
    for content in turn.replies:
        if isinstance(content, list):
            replies.append(content)
        else:
            add_replies(replies, content)
    add_replies(replies, said)
    if len(replies) > MOST:
        raise _too_many()
    return replies


def _too_many() -> BadMessage:
    return BadMessage(f"a turn replies with at most {MOST} messages; nothing of it was recorded")


def add_replies(replies: list[Content], said: Any) -> None:
    """Add what a handler returned to *replies*: nothing, text, a JSON part, or a list of these, of which no more is looked at when there
    are too many. Raises `BadMessage`."""
    if said is None or said == "":
        return
    if isinstance(said, str):
        replies.append(said)
    elif isinstance(said, Streamed):
        if said.content:
            replies.append(said.content)
    elif isinstance(said, dict):
        replies.append([said])
    elif isinstance(said, list | tuple):
        for part in said:
            add_replies(replies, part)
            if len(replies) > MOST:  # (a million of them would hold everybody else up)
                raise _too_many()
    else:
        advice = "; await what is returned" if inspect.isawaitable(said) else ""
        raise BadMessage(
            f"a handler returns text, a JSON part (a dict), a list of these, or None, not {type(said).__name__}{advice}"
        )
