"""What happens in a conversation as server-sent events: resumable by the log's numbers, bounded, and ended in words.

A stream pulls what it sends from the log, so a client that reads slowly costs no memory; one that takes nothing for
SLOW_S is cut off, and goes on later from the last id that it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from msgspec import Raw, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..app import core_of
from ..engine.watch import Watch
from ..errors import StoreError
from ..model import Delta, Erased, Event, Message, PartSaid, Redacted, StateChanged, Typing
from . import answers, api, state, wire
from .access import access_of, allows, conversation_asked, keep_of, principal_of

log = logging.getLogger("chatkeep.server")

BEAT_S = 15.0
CHECK_S = 3.0  # how soon a revoked token is noticed
SLOW_S = 30.0
RETRY_MS = 1000


class EventsQuery(Struct, forbid_unknown_fields=True):
    """From which number of the log a client wants to know; None: only what comes from now on."""

    after: wire.Number | None = None


class Endable(Protocol):
    """A stream that the server ends when it stops."""

    def end(self, reason: str) -> None:
        """Say why, and end."""


class Streams:
    """The event streams of one application that are open."""

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


class Events(wire.Resource):
    """/v1/conversations/{id}/events"""

    @allows("read")
    async def get(self, request: Request) -> Response:
        """Stream what happens, from `Last-Event-ID` or `after` on."""
        after = wire.query(request, EventsQuery).after
        if (known := request.headers.get("last-event-id")) is not None:
            try:
                after = min(wire.whole(known), wire.NEWEST)
            except ValueError as fault:
                raise HTTPException(400, f"Last-Event-ID is a number of the log: {fault}.") from None
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers={"cache-control": "no-store"})
        watch = core_of(keep_of(request)).watch(principal_of(request).tenant, conversation_asked(request), after=after)
        await watch.open()
        return EventStream(request, watch)


class EventStream(Response):
    """A stream of events that lasts until the client goes, its right ends, or the conversation or the server does."""

    def __init__(self, request: Request, watch: Watch) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers.update({"cache-control": "no-store", "x-accel-buffering": "no"})
        self._request = request
        self._watch = watch
        self._reason = ""

    def end(self, reason: str) -> None:
        """Say why, and end."""
        self._reason = self._reason or reason
        self._watch.wake.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the one request."""
        streams: Streams = self._request.app.state.streams
        streams.add(self)
        talking = asyncio.create_task(self._talk(send), name="chatkeep event stream")
        leaving = asyncio.create_task(gone(receive), name="chatkeep event stream left")
        try:
            await asyncio.wait((talking, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            streams.remove(self)
            self._watch.close()
            for task in (talking, leaving):
                task.cancel()
            found, _ = await asyncio.gather(talking, leaving, return_exceptions=True)
        if isinstance(found, Exception):
            raise found

    async def _talk(self, send: Send) -> None:
        shows = self._plain if "state:read" in principal_of(self._request).scopes else None
        try:
            await sent(send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            # A blank line after these would be an event without data to readers that are not strict, named "message" like ours.
            await self._say(send, b"retry: %d\n" % RETRY_MS)
            async for events in self._happening():
                await self._say(send, b"".join(written(events, shows, api.secret_of(self._request))) or b": beat\n")
            await self._say(send, _event("end", {"reason": self._reason}))
            await sent(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.info("An event stream was cut off: its client took nothing for %g s.", SLOW_S)

    async def _happening(self) -> AsyncIterator[list[Event]]:
        """Return what happens, in portions; an empty one now and then. Ends with the reason why."""
        loop = asyncio.get_running_loop()
        access, principal = access_of(self._request), principal_of(self._request)
        beat_at, check_at = loop.time() + BEAT_S, loop.time() + CHECK_S
        while not self._reason:
            events: list[Event] | None = []
            try:
                events = await self._watch.next(min(beat_at, check_at) - loop.time())
            except StoreError as away:  # nothing is left out: it goes on from there
                log.warning("An event stream waits for the store: %s", away)
                await asyncio.sleep(1.0)
            if events is None:
                self.end("closing")
                return
            if events or loop.time() >= beat_at:
                yield events
                beat_at = loop.time() + BEAT_S
            if events and isinstance(events[-1], Erased):
                self.end("erased")
                return
            if loop.time() >= check_at:
                with suppress(StoreError):
                    if not await access.holds(principal):
                        self.end("revoked")
                check_at = loop.time() + CHECK_S

    def _plain(self, raw: Raw) -> Any:
        """Return a state as GET /state shows it: what a stored one lacks is there as the application's type has it."""
        states = core_of(keep_of(self._request)).states
        return states.shape.json_of(states.decode(self._watch.key, raw, states.schema))

    async def _say(self, send: Send, text: bytes) -> None:
        await sent(send, {"type": "http.response.body", "body": text, "more_body": True})


def written(events: Iterable[Event], shows: Callable[[Raw], Any] | None, secret: bytes) -> Iterable[bytes]:
    """*events* as the wire has them; states only where *shows* makes plain JSON of them, with tags by *secret*.

    JSON has no line ends in it, so nothing that is said can end an event.
    """
    for event in events:
        if isinstance(event, Message):
            yield _event("message", answers.message(event), number=event.number)
        elif isinstance(event, Typing):
            yield _event("typing", event)
        elif isinstance(event, Delta):
            yield _event("piece", event)
        elif isinstance(event, PartSaid):
            yield _event("part", event)
        elif isinstance(event, Redacted):
            yield _event("redacted", event)
        elif isinstance(event, StateChanged) and shows is not None:
            plain = shows(event.state)
            yield _event("state", {"etag": state.etag(plain, secret), "state": plain})


def _event(kind: str, value: object, *, number: int | None = None) -> bytes:
    id = b"" if number is None else b"id: %d\n" % number
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), id, msgspec.json.encode(value))


async def sent(send: Send, message: dict[str, object]) -> None:
    """Send a message of ASGI; TimeoutError when the client takes nothing for SLOW_S."""
    async with asyncio.timeout(SLOW_S):
        await send(message)


async def gone(receive: Receive) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
