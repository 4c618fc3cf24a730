"""Handlers as people write them, and as the engine calls them."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import CoroutineType, coroutine
from typing import Any, cast
from weakref import WeakSet

from msgspec import Struct

from ..conversation.shapes import repaired
from ..drivers.base import Key
from ..errors import BadMessage, Misconfigured
from ..model import Content, State
from .reply_stream import ReplyStream
from .turn import Turn

Handler = Callable[[Turn[State]], Any]
"""What `on_message` and `on_missing` are given, made awaitable by `handler_for`."""

STREAMING: WeakSet[Handler[Any]] = WeakSet()
"""Handlers whose reply is shown while it is made."""


class Streamed(Struct):
    """What a handler that streams has said, as one reply."""

    content: Content


HOLD_S = 0.02
"""So long a handler that streams may make pieces without waiting; then others have their turn."""

MOST = 400  # replies of one turn: what one act may carry (ENTRIES_MOST), with room for the message and notes


def check_handler(function: object) -> None:
    """Raise `Misconfigured` where *function* is nothing that can be called with a turn: else its first message would find out."""
    wanted = "Write `async def bot(turn): ...`. Nothing was opened."
    if not callable(function) or isinstance(function, type):
        raise Misconfigured(f"A handler or hook is a function of the turn, not {function!r:.80}. {wanted}")
    name = getattr(function, "__name__", type(function).__name__)
    if inspect.isgeneratorfunction(function):
        raise Misconfigured(f"{name} yields, and what yields its reply is an `async def`. {wanted}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function that is written in C, and does not say
        return
    try:
        signature.bind(None)
    except TypeError as fault:
        raise Misconfigured(f"{name}{signature} is called with the turn alone: {fault}. {wanted}") from None


def handler_for(
    function: Callable[..., Any], in_thread: Callable[[Callable[..., Any], Turn[Any]], Awaitable[Any]]
) -> Handler[Any]:
    """Make *function* something to await: plain functions run *in_thread*, the text of async generators is put together."""
    if inspect.isasyncgenfunction(function):

        async def whole(turn: Turn[Any]) -> Streamed:
            # (A hook that streams is shown to nobody.)
            reply = turn.stream or ReplyStream(Key(turn.tenant, turn.conversation))
            half, take, waited_at = "", reply.take, time.monotonic()
            pieces = cast("AsyncGenerator[Any, None]", function(turn))
            try:
                async for piece in pieces:
                    if time.monotonic() - waited_at > HOLD_S:
                        await asyncio.sleep(
                            0
                        )  # a handler that waits for its model in plain calls would hold everything else up
                        waited_at = time.monotonic()
                    if piece is None:  # as models' APIs send it where they have nothing to say
                        continue
                    if isinstance(piece, str):
                        if half or not piece.isascii():
                            piece, half = _split_half(half + piece)
                        if "\0" in piece:
                            piece = repaired(piece)
                        if piece:
                            take(piece)
                        continue
                    if not isinstance(piece, dict):
                        raise BadMessage(
                            f"a handler that streams yields text or a JSON part (a dict), not {type(piece).__name__}"
                        )
                    if half:
                        take("\ufffd")
                        half = ""
                    take(repaired(piece))
                if half:
                    take("\ufffd")
            except BaseException:
                await pieces.aclose()
                raise
            return Streamed(reply.content)

        STREAMING.add(whole)
        return whole
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        return cast(Handler[Any], function)

    async def threaded(turn: Turn[Any]) -> Any:
        return await in_thread(function, turn)

    return threaded


async def run_in_time(running: Awaitable[Any], timeout_s: float) -> Any:
    """Wait for what *running* gives. Raises TimeoutError after so many seconds.

    It is begun at once: a handler that waits for nothing, as most do in a fast bot, is not worth a timer, which costs as much
    as reading its state.
    """
    if type(running) is CoroutineType:
        try:
            awaited = running.send(None)
        except StopIteration as done:
            return done.value
        running = _go_on(running, awaited)
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await running
    except TimeoutError as late:
        if limit.expired():
            raise TimeoutError(f"it took longer than {timeout_s:g} s") from late
        raise


@coroutine
def _go_on(begun: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that was begun and waits for *awaited*."""
    try:
        while True:
            try:
                sent = yield awaited
            except BaseException as fault:
                awaited = begun.throw(fault)
            else:
                awaited = begun.send(sent)
    except StopIteration as done:
        return done.value


def _split_half(text: str) -> tuple[str, str]:
    """Take off the first half of a character from the end of *text*, until its other half comes; what else cannot be stored is
    repaired."""
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
    added: list[Content] = []
    for content in turn.replies:
        added += [content] if isinstance(content, list) else split_contents(content)
    replies = [*added, *split_contents(said)]
    if len(replies) > MOST:
        raise BadMessage(f"a turn replies with at most {MOST} messages, not {len(replies)}")
    return replies


def split_contents(said: Any) -> list[Content]:
    """Make replies of what a handler returned: nothing, text, a JSON part, or a list of these. Raises `BadMessage`."""
    if said is None or said == "":
        return []
    if isinstance(said, str):
        return [said]
    if isinstance(said, Streamed):
        return [said.content] if said.content else []
    if isinstance(said, dict):
        return [[said]]
    if isinstance(said, list | tuple):
        return [content for part in said for content in split_contents(part)]
    advice = "; await what is returned" if inspect.isawaitable(said) else ""
    raise BadMessage(
        f"a handler returns text, a JSON part (a dict), a list of these, or None, not {type(said).__name__}{advice}"
    )
