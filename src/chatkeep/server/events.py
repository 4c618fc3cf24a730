"""What happens in a conversation as server-sent events: resumable by the log's numbers, bounded, and ended in words.

A stream pulls what it sends from the log, so a client that reads slowly costs no memory; one that is cut off goes on later from the
last id that it has.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..app import core_of
from ..engine.watch import ShownReply, Watch
from ..errors import StoreError
from ..model import Delta, Erased, Event, Failing, Message, PartSaid, Redacted, SetAside, StateChanged, Typing
from . import answers, api, state, wire
from .access import access_of, allows, conversation_asked, keep_of, principal_of
from .presence import presence_of
from .streams import BEAT_S, CHECK_S, RETRY, Stream, event

log = logging.getLogger("chatkeep.server")


class EventsQuery(Struct, forbid_unknown_fields=True):
    """From which number of the log a client wants to know; None: only what comes from now on."""

    after: wire.Number | None = None


class Events(wire.Resource):
    """/v1/conversations/{id}/events"""

    @allows("read", masks=True)
    async def get(self, request: Request) -> Response:
        """Stream what happens, from `Last-Event-ID` or `after` on; whoever comes back with the former is told the state first."""
        after, shown = wire.query(request, EventsQuery).after, None
        if (known := request.headers.get("last-event-id")) is not None:
            number, dot, place = known.partition(".")
            try:
                after, shown = min(wire.whole(number), wire.NEWEST), read_place(place) if dot else None
            except ValueError as fault:
                raise HTTPException(
                    400, f"Last-Event-ID is the id of an event, or a number of the log: {fault}."
                ) from None
        if request.method == "HEAD":
            return Response(media_type="text/event-stream", headers={"cache-control": "no-store"})
        watch = core_of(keep_of(request)).watch(
            principal_of(request).tenant, conversation_asked(request), after=after, shown=shown
        )
        await watch.open(returns=known is not None)
        return EventStream(request, watch)


class EventStream(Stream):
    """A stream of events that lasts until the client goes, its right ends, or the conversation or the server does."""

    def __init__(self, request: Request, watch: Watch) -> None:
        super().__init__(request)
        self._watch = watch
        self._reason = ""
        self._leave: Callable[[], None] | None = None

    def end(self, reason: str) -> None:
        """Say why, and end."""
        self._reason = self._reason or reason
        self._watch.wake.set()

    def close(self) -> None:
        """End the watch; whoever had it open at the desk has left."""
        self._watch.close()
        if self._leave is not None:
            self._leave()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give what happens, as text, and at last the reason why nothing more comes."""
        principal = principal_of(self._request)
        if principal.kind == "operator":
            self._leave = presence_of(self._request).enter(self._request)
        shows = self._plain if "state:read" in principal.scopes and not principal.masked else None
        yield RETRY
        async for events in self._happening():
            told = self._mask(events) if principal.masked else events
            ids = name_events(told, self._watch.number or 0, self._watch.shown)
            async with access_of(self._request).reads:
                text = b"".join(written(told, ids, shows, api.secret_of(self._request)))
                await asyncio.sleep(0)  # others have their turn: a thousand may be told the same at the same time
            yield text or b": beat\n"
        yield event({"reason": self._reason}, name="end")

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

    def _mask(self, events: Iterable[Event]) -> list[Event]:
        """Return *events* as somebody is told them who may not see what is personal: a number could stand in two pieces of a reply."""
        access, principal = access_of(self._request), principal_of(self._request)
        told: list[Event] = []
        for found in events:
            if isinstance(found, Message):
                shown = access.mask(principal, {"content": found.content, "metadata": found.metadata, "id": found.id})
                found = structs.replace(found, **shown)
            if not isinstance(found, Delta | PartSaid):
                told.append(found)
        return told

    def _plain(self, raw: Raw) -> Any:
        """Return a state as GET /state shows it: what a stored one lacks is there as the application's type has it."""
        states = core_of(keep_of(self._request)).states
        return states.shape.json_of(states.decode(self._watch.key, raw, states.schema))


def write_place(shown: ShownReply) -> str:
    """Return what was shown of a reply, as the end of an event's id."""
    return base64.urlsafe_b64encode(msgspec.json.encode(shown)).decode().rstrip("=")


def read_place(text: str) -> ShownReply:
    """Return what `write_place` has written. Raises ValueError for anything else."""
    found = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=ShownReply)
    if min(found.parts, default=0) < 0:
        raise ValueError("a part of a reply has no length")
    return found


def name_events(events: Sequence[Event], number: int, shown: ShownReply) -> list[str]:
    """Return the ids of *events*, behind which the log is known up to *number*, and a reply is *shown*: a message's number; of a
    piece the number before it, and how much of its reply was shown with it."""
    ids = []
    for found in reversed(events):
        id = ""
        if isinstance(found, Message):
            id, number = str(found.number), found.number - 1
        elif isinstance(found, Delta | PartSaid) and found.reply == shown.reply:
            # (Parts grow one after another: those behind this one were not begun.)
            id = f"{number}.{write_place(ShownReply(shown.reply, shown.turn, shown.parts[: found.part + 1]))}"
        ids.append(id)
    return ids[::-1]


def written(
    events: Sequence[Event], ids: Sequence[str], shows: Callable[[Raw], Any] | None, secret: bytes
) -> Iterable[bytes]:
    """Return *events* as the wire has them, with their *ids*; states only where *shows* makes plain JSON of them, with tags by *secret*."""
    for found, id in zip(events, ids, strict=True):
        if isinstance(found, Message):
            yield event(answers.message(found), name="message", id=id)
        elif isinstance(found, Typing):
            yield event(found, name="typing")
        elif isinstance(found, Delta):
            yield event(found, name="piece", id=id)
        elif isinstance(found, PartSaid):
            yield event(found, name="part", id=id)
        elif isinstance(found, Failing):
            yield event(found, name="failing")
        elif isinstance(found, SetAside):
            yield event(found, name="set-aside")
        elif isinstance(found, Redacted):
            yield event(found, name="redacted")
        elif isinstance(found, StateChanged) and shows is not None:
            plain = shows(found.state)
            yield event({"etag": state.etag(plain, secret), "state": plain}, name="state")
