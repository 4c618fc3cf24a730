"""What happens in a conversation, as it happens: server-sent events, typed, across reconnects."""

from __future__ import annotations

import asyncio
import codecs
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from ..errors import ChatkeepError, Unavailable, UsageError
from ..model import Delta, Failing, Message, PartSaid, Redacted, SetAside, Typing
from .link import LONGEST_ANSWER, Link, TemporaryFailure, decoded, pause

log = logging.getLogger("chatkeep.client")

LINE_END = re.compile(r"\r\n|\n|\r")


class MessageEvent(Struct, frozen=True):
    """A message is in the log."""

    message: Message


class StateEvent(Struct, frozen=True, kw_only=True):
    """The state has changed; told to tokens with `state:read`."""

    etag: str
    state: Any


class Ended(Struct, frozen=True, kw_only=True):
    """There will be no more events: the token was revoked, or the conversation erased."""

    reason: Literal["revoked", "erased"]


Event = MessageEvent | StateEvent | Typing | Delta | PartSaid | Failing | SetAside | Redacted | Ended

KINDS: dict[str, type[Any]] = {
    "message": Message,
    "state": StateEvent,
    "typing": Typing,
    "piece": Delta,
    "part": PartSaid,
    "failing": Failing,
    "set-aside": SetAside,
    "redacted": Redacted,
}


class StreamEnd(Struct):
    """The server ends the stream."""

    reason: str


class Frame(NamedTuple):
    """One event as it comes."""

    event: str
    data: str
    retry_ms: int | None = None
    id: str = ""


async def follow(link: Link, path: str, after: int, *, about: str) -> AsyncGenerator[Event, None]:
    """Return the events of the stream at *path*, with every message numbered above *after*, each once and in order.

    When the connection ends it goes on where it was, for ever: of a reply that was being made, with the piece that comes next. Raises
    when the server refuses, and at the beginning also when something else than a server answers.
    """
    failures, first_s, state, place = 0, 1.0, None, ""
    reached = False
    while link.is_open:
        after_s = 0.0
        try:
            async with link.stream(path, f"{after}.{place}" if place else str(after), about) as chunks:
                reached = True
                async for frame in frames(chunks):
                    failures = 0
                    if frame.retry_ms is not None:
                        first_s = frame.retry_ms / 1000
                    if frame.event == "end":
                        if (reason := decoded(frame.data, StreamEnd).reason) in ("revoked", "erased"):
                            yield Ended(reason="revoked" if reason == "revoked" else "erased")
                            return
                        break
                    if frame.event not in KINDS:
                        continue  # of a newer server
                    if frame.id:
                        place = frame.id.partition(".")[2]
                    event = decoded(frame.data, KINDS[frame.event])
                    if isinstance(event, Message):
                        if event.number <= after:
                            continue
                        after, event = event.number, MessageEvent(event)
                    elif isinstance(event, StateEvent):
                        if event == state:
                            continue  # a new connection begins with it
                        state = event
                    yield event
        except TemporaryFailure as fault:
            after_s = fault.after
            log.info("event stream: %s", fault)
        except Unavailable as fault:
            if not reached:
                raise
            log.info("event stream: %s", fault)
        except UsageError:  # perhaps an older server, which knows no pieces
            if not place:
                raise
            place = ""
            continue
        if link.is_open:
            failures += 1
            await asyncio.sleep(pause(failures, first=first_s) + after_s)


async def frames(chunks: AsyncIterator[bytes]) -> AsyncIterator[Frame]:
    """Yield the server-sent events in bytes, however they are cut (the WHATWG's rules). Raises `ChatkeepError` for an endless one."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    kept: list[str] = []  # of a line that has not ended yet
    held = 0  # characters of the event that has not ended yet
    half = False  # the last chunk ended with \r, which may be half of \r\n
    event, data, retry_ms, id = "", list[str](), None, ""
    async for chunk in chunks:
        if not (text := decoder.decode(chunk)):
            continue
        if half:
            text = text.removeprefix("\n")
        half = text.endswith("\r")
        held += len(text)
        if held > LONGEST_ANSWER:
            raise ChatkeepError(
                f"An event is longer than {LONGEST_ANSWER:,} characters, and the stream is not read on."
            )
        if not LINE_END.search(text):
            kept.append(text)
            continue
        *lines, left = LINE_END.split("".join([*kept, text]))
        kept = [left]
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                event = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                id = value
            elif name == "retry" and value.isdecimal():
                retry_ms = int(value)
            elif not line:
                if data or retry_ms is not None:
                    yield Frame((event or "message") if data else "", "\n".join(data), retry_ms, id)
                event, data, retry_ms, id = "", [], None, ""
        held = len(left) + sum(map(len, data))
