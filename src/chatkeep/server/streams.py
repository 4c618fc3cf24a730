"""Answers that stay open: server-sent events until the client goes, the server stops, or there is no more to say.

A client that takes nothing for SLOW_S is cut off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

log = logging.getLogger("chatkeep.server")

BEAT_S = 15.0
CHECK_S = 3.0  # how soon a revoked token is noticed
SLOW_S = 30.0
RETRY = b"retry: 1000\n"
"""How soon a client comes back. A blank line after it would be an event without data to readers that are not strict."""


def event(value: Any, *, name: str = "", id: str = "") -> bytes:
    """Return *value* as one event. JSON has no line ends in it, so nothing that is said can end an event."""
    head = (f"event: {name}\n" if name else "") + (f"id: {id}\n" if id else "")
    return b"%sdata: %s\n\n" % (head.encode(), msgspec.json.encode(value))


class Stream(Response):
    """A stream of events; a kind of it has `pieces` and `end`, and `close` if it holds anything."""

    def __init__(self, request: Request, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers.update({"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        self._request = request

    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give what is to be sent, as it comes."""
        raise NotImplementedError

    def end(self, reason: str) -> None:
        """Say why, and end."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what it holds; it is over."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the one request."""
        with listed_open(self._request, self):
            talking = asyncio.create_task(self._talk(send), name="chatkeep event stream")
            leaving = asyncio.create_task(gone(receive), name="chatkeep event stream left")
            try:
                await asyncio.wait((talking, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self.close()
                for task in (talking, leaving):
                    task.cancel()
                found, _ = await asyncio.gather(talking, leaving, return_exceptions=True)
        if isinstance(found, Exception):
            raise found

    async def _talk(self, send: Send) -> None:
        try:
            await _sent(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self.pieces()) as pieces:
                async for text in pieces:
                    if text:
                        await _sent(send, {"type": "http.response.body", "body": text, "more_body": True})
            await _sent(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.info("An event stream was cut off: its client took nothing for %g s.", SLOW_S)


class Endable(Protocol):
    """An answer that stays open: a stream, or a request that waits for something to come."""

    def end(self, reason: str) -> None:
        """Say why, and end."""
        ...


class Streams:
    """The event streams, and requests that wait, of one application that are open."""

    def __init__(self) -> None:
        self._open: set[Endable] = set()
        self._ended = False

    def __len__(self) -> int:
        return len(self._open)

    def add(self, stream: Endable) -> None:
        """Have *stream* ended with the others."""
        self._open.add(stream)
        if self._ended:
            stream.end("closing")

    def remove(self, stream: Endable) -> None:
        """Forget a stream that is over."""
        self._open.discard(stream)

    def end(self) -> None:
        """End them all, because the server stops; their clients come back to another instance, or later."""
        self._ended = True
        for stream in self._open:
            stream.end("closing")


@contextmanager
def listed_open(request: Request, stream: Endable) -> Iterator[None]:
    """Have *stream* ended with the others of the application that serves *request*, as long as the block lasts."""
    streams = getattr(getattr(request.scope.get("app"), "state", None), "streams", None)
    if not isinstance(streams, Streams):  # (the routes of a protocol may be in somebody else's application)
        yield
        return
    streams.add(stream)
    try:
        yield
    finally:
        streams.remove(stream)


async def _sent(send: Send, message: dict[str, object]) -> None:
    async with asyncio.timeout(SLOW_S):
        await send(message)


async def gone(receive: Receive) -> None:
    """Wait until the client goes."""
    while (await receive())["type"] != "http.disconnect":
        pass
