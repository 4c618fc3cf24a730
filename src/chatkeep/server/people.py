"""The addresses for users: their conversations, what has changed in them, claims of guests, and an end of all that is theirs."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .. import errors
from ..app import core_of
from ..auth import credentials
from ..auth.credentials import Listed
from ..people.claims import UNDO_S
from ..people.lists import Summary
from ..people.user import CHANGED_MOST, User
from . import wire
from .access import access_of, allows, keep_of, principal_of, tenant_of
from .audit import audited
from .refusals import not_found
from .streams import BEAT_S, RETRY, Stream, event
from .wire import Refused

LOOK_S = 2.0
"""A stream of a user's list looks for changes this often."""


DEVICES_S = 10.0
"""A stream of a user's list looks for new devices this often."""


SMALL = 1400
"""Bytes of an answer that compressing would not make quicker."""


class ListingQuery(Struct, forbid_unknown_fields=True):
    """What a client wants of a user's list: what has changed since a cursor ("": everything), or else a page, from *behind* an id on."""

    since: str | None = None
    behind: wire.Name | None = None
    limit: Annotated[int, Meta(ge=1, le=CHANGED_MOST)] = 100


class SinceQuery(Struct, forbid_unknown_fields=True):
    """From where on a client wants to hear of changes; without a cursor: from now on."""

    since: str | None = None


class Claiming(Struct, forbid_unknown_fields=True):
    """A guest who has signed in, by the token that it has."""

    guest: str


class UserListing(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A page of a user's conversations, or what has changed. *cursor*: for `since`. *next*: for `behind`, if there is more of the list.
    *more*: there is more that has changed. *reset*: forget what is held; this is everything. *total*: how many there are."""

    conversations: list[Summary]
    erased: list[str] = []
    total: int
    cursor: str
    next: str | None = None
    more: bool = False
    reset: bool = False


class Claimed(Struct, frozen=True):
    """What was claimed, by whom it is now, and until when that can be undone."""

    guest: str
    user: str
    undo_until: float


def user_of(request: Request) -> User[Any]:
    """Return the user who asks."""
    return tenant_of(request).user(principal_of(request).user)


class MyConversations(wire.Resource):
    """/v1/me/conversations"""

    @allows("read", user=True)
    async def get(self, request: Request) -> Response:
        """Return the user's conversations: a page of the list, or what has changed `since` a cursor."""
        asked = wire.query(request, ListingQuery)
        with wire.refusing(400, "bad-request"):
            if asked.since is not None:
                found: Any = await user_of(request).changes(asked.since or None, limit=asked.limit)
            else:
                found = await user_of(request).page(behind=asked.behind, limit=asked.limit)
        return compressed(request, wire.as_json(msgspec.convert(found, UserListing, from_attributes=True)))


class MyEvents(wire.Resource):
    """/v1/me/events"""

    @allows("read", user=True)
    async def get(self, request: Request) -> Response:
        """Stream what changes in the user's list, from `Last-Event-ID` or `since` on."""
        cursor = request.headers.get("last-event-id") or wire.query(request, SinceQuery).since
        user = user_of(request)
        with wire.refusing(400, "bad-request"):
            if cursor is None:
                cursor = (await user.page(limit=1)).cursor
            else:
                await user.changes(cursor, limit=1)  # refuses what is no cursor, before the stream begins
        return ListStream(request, user, cursor)


class ListStream(Stream):
    """A stream of what changes in a user's list, until the client goes, its right ends, or the server does."""

    def __init__(self, request: Request, user: User[Any], cursor: str) -> None:
        super().__init__(request)
        self._user = user
        self._cursor = cursor
        self._reason = ""
        self._wake = asyncio.Event()
        self._devices: set[str] | None = None

    def end(self, reason: str) -> None:
        """Say why, and end."""
        self._reason = self._reason or reason
        self._wake.set()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give what changes, as text, and at last the reason why nothing more comes."""
        yield RETRY
        async for text in self._happening():
            yield text
        yield event({"reason": self._reason}, name="end")

    async def _happening(self) -> AsyncIterator[bytes]:
        """Return what changes, as text; a beat now and then."""
        loop = asyncio.get_running_loop()
        beat_at, look_at = loop.time() + BEAT_S, loop.time()
        while not self._reason:
            try:
                if loop.time() >= look_at:
                    look_at = loop.time() + DEVICES_S
                    if said := [event(device, name="device") for device in await self._new_devices()]:
                        yield b"".join(said)
                if not await access_of(self._request).holds(principal_of(self._request)):
                    self.end("revoked")
                    return
                changed = await self._user.changes(self._cursor)
            except errors.StoreError:  # nothing is left out: it goes on from there
                changed = None
            if changed is not None and changed.cursor != self._cursor:
                said = [event(one, name="changed") for one in changed.conversations]
                said += [event({"id": id}, name="erased") for id in changed.erased]
                self._cursor = changed.cursor
                told = {"total": changed.total, "reset": changed.reset}
                yield b"".join(said) + event(told, name="cursor", id=self._cursor)
                beat_at = loop.time() + BEAT_S
            elif loop.time() >= beat_at:
                yield b": beat\n"
                beat_at = loop.time() + BEAT_S
            if changed is None or not changed.more:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LOOK_S)

    async def _new_devices(self) -> list[Listed]:
        """Return the user's tokens that were made since somebody looked."""
        principal = principal_of(self._request)
        found = await credentials.list_user_tokens(keep_of(self._request), principal.tenant, principal.user)
        known = {device.id for device in found} if self._devices is None else self._devices
        self._devices = {device.id for device in found}
        return [device for device in found if device.id not in known and device.id != principal.id]


class MyClaims(wire.Resource):
    """/v1/me/claim"""

    @audited("claim")
    @allows("send", user=True)
    async def post(self, request: Request) -> Response:
        """Make what a guest has the user's, who shows the guest's token for it."""
        asked = await wire.body(request, Claiming, limit=wire.SHORT_BODY)
        principal, keep = principal_of(request), keep_of(request)
        stored = await access_of(request).find_guest(asked.guest)
        if stored is None or stored.tenant != principal.tenant:
            raise Refused(404, "not-found", "This is no guest's token, or it has ended; nothing was claimed.")
        try:
            if stored.conversation:
                await core_of(keep).give_owner(stored.tenant, stored.conversation, stored.subject)
            user = await user_of(request).claim(stored.subject, by=principal.id or principal.user)
        except errors.OtherOwner:
            raise Refused(409, "claimed", "Somebody else has claimed this guest; nothing was changed.") from None
        access_of(request).look_again()
        return wire.as_json(Claimed(stored.subject, user, core_of(keep).clock() + UNDO_S))


class MyClaim(wire.Resource):
    """/v1/me/claim/{guest}"""

    @audited("claim:undo")
    @allows("send", user=True)
    async def delete(self, request: Request) -> Response:
        """Undo a claim, within a day."""
        with wire.refusing(409, "too-late"):
            undone = await user_of(request).undo_claim(request.path_params["guest"], by=principal_of(request).id)
        if not undone:
            raise not_found()
        access_of(request).look_again()
        return Response(status_code=204)


class UserErased(wire.Resource):
    """/v1/users/{user}"""

    @audited("user:erase", kept=False)
    @allows(right="erase")
    async def delete(self, request: Request) -> Response:
        """Erase all that is a user's, in each of the user's names, and answer a receipt. There is no way back."""
        user = tenant_of(request).user(request.path_params["user"])
        with wire.refusing(409, "claimed"):
            receipt = await user.erase(by=principal_of(request).id)
        access_of(request).look_again()
        return wire.as_json(receipt)


def compressed(request: Request, answer: Response) -> Response:
    """Return *answer* as gzip where it is long and the client reads that. Nothing in a list is secret to whom it is shown."""
    answer.headers["vary"] = "accept-encoding"
    if wire.reads_gzip(request) and len(answer.body) > SMALL:
        answer.body = gzip.compress(bytes(answer.body), 5, mtime=0)
        answer.headers["content-encoding"] = "gzip"
        answer.headers["content-length"] = str(len(answer.body))
    return answer


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/me/conversations", MyConversations),
    wire.RawRoute("/v1/me/events", MyEvents),
    wire.RawRoute("/v1/me/claim", MyClaims),
    wire.RawRoute("/v1/me/claim/{guest}", MyClaim),
    wire.RawRoute("/v1/users/{user}", UserErased),
]
