"""The addresses for users: their conversations, what has changed in them, claims and devices; and what clients save and merge."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .. import errors
from ..app import core_of
from ..auth import credentials
from ..auth.credentials import Listed, Scope
from ..conversation.merge import MISSING
from ..conversation.snapshots import Snapshot
from ..conversation.versions import find_checksum, is_checksum
from ..model import Content
from ..people.claims import UNDO_S
from ..people.lists import Summary
from ..people.surface import Lost
from ..people.user import CHANGED_MOST, User
from . import answers, wire
from .access import access_of, allows, conversation_asked, keep_of, principal_of, tenant_of
from .audit import audited
from .refusals import forbidden, not_found
from .streams import BEAT_S, RETRY, Stream, event
from .wire import Refused

BODY_LIMIT = 16 * 1024
SAVE_LIMIT = 8 * 1024 * 1024
OWN = "current"
MERGE = "application/vnd.chatkeep.merge+json"
LOOK_S = 2.0
"""A stream of a user's list looks for changes this often."""

DEVICES_S = 10.0
"""A stream of a user's list looks for new devices this often."""

SMALL = 1400
"""Bytes of an answer that compressing would not make quicker."""

DAY_S = 86_400.0
TITLE_MOST = 1000

Text = Annotated[str, Meta(max_length=TITLE_MOST)]
Time = Annotated[float, Meta(ge=0, le=1e11)]
Device = Annotated[str, Meta(max_length=200)]


class ListingQuery(Struct, forbid_unknown_fields=True):
    """What a client wants of a user's list: what has changed since a cursor ("": everything), or else a page, from *behind* an id on."""

    since: str | None = None
    behind: wire.Name | None = None
    limit: Annotated[int, Meta(ge=1, le=CHANGED_MOST)] = 100


class SinceQuery(Struct, forbid_unknown_fields=True):
    """From where on a client wants to hear of changes; without a cursor: from now on."""

    since: str | None = None


class UserTokenAsked(Struct, forbid_unknown_fields=True):
    """A user's token that is asked for; *label*: such as of the device."""

    scopes: tuple[Scope, ...] = credentials.USER_SCOPES
    expires_in: Annotated[float, Meta(gt=0, le=400 * DAY_S)] = credentials.TOKEN_S
    label: Device = ""


class Rotation(Struct, forbid_unknown_fields=True):
    """How long the old token goes on beside the new one, in seconds."""

    grace: Annotated[float, Meta(ge=0, le=3600)] = 60.0


class Claiming(Struct, forbid_unknown_fields=True):
    """A guest who has signed in, by the token that it has."""

    guest: str


class MessageToSave(Struct, forbid_unknown_fields=True):
    """A message that was said elsewhere; *created_at* then, in seconds since 1970."""

    id: wire.Name
    content: Content
    role: str = "user"
    created_at: Time | None = None
    metadata: dict[str, Any] = {}


class Saving(Struct, forbid_unknown_fields=True):
    """What a client saves; what is left out stays. *base*: the title that was there before; *version*: that of the conversation then;
    *at*, *by*: when, and on which device, the title was written; *seen*: up to which message the user has read; *owner*: of a conversation
    that this creates, for service keys."""

    title: Text | None = None
    messages: list[MessageToSave] = []
    seen: wire.Number | None = None
    archived: bool | None = None
    pinned: bool | None = None
    base: Text | None = None
    version: wire.Number | None = None
    force: bool = False
    at: Time | None = None
    by: Device = ""
    owner: wire.Owner | None = None


class Merging(Struct, forbid_unknown_fields=True):
    """What a device has made of a slot: *base* is what it held before (left out: nothing), *value* what it holds (left out: it was
    removed), *at* when it was changed, *by* on which device."""

    base: Any | UnsetType = UNSET
    value: Any | UnsetType = UNSET
    at: Time | None = None
    by: Device = ""


class SavedConversation(Struct, frozen=True, kw_only=True):
    """What a save has left. *conflicts*: "title", and ids under which the log has another text; the log keeps what gave way."""

    id: str
    title: str
    version: int
    checksum: str
    added: list[str]
    conflicts: list[str]


class SlotLoss(Struct, frozen=True):
    """What gave way in a merge, and where."""

    path: list[str]
    value: Any
    at: float
    by: str


class MergedValue(Struct, frozen=True, kw_only=True):
    """What a merge has left: the value (left out: there is none), and what gave way."""

    value: Any | UnsetType = UNSET
    losses: list[SlotLoss]
    version: int
    checksum: str


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


class Losses(Struct, frozen=True):
    """What gave way in merges and saves, the newest first."""

    losses: list[Lost]


class Claimed(Struct, frozen=True):
    """What was claimed, by whom it is now, and until when that can be undone."""

    guest: str
    user: str
    undo_until: float


class Devices(Struct, frozen=True):
    """A user's tokens, which are its devices."""

    tokens: list[Listed]


def user_of(request: Request) -> User[Any]:
    """Return the user who asks."""
    return tenant_of(request).user(principal_of(request).user)


class MyConversations(wire.Resource):
    """/v1/me/conversations"""

    @allows(user=True)
    async def get(self, request: Request) -> Response:
        """Return the user's conversations: a page of the list, or what has changed `since` a cursor."""
        readable(request)
        asked = wire.query(request, ListingQuery)
        with wire.refusing(400, "bad-request"):
            if asked.since is not None:
                found: Any = await user_of(request).changes(asked.since or None, limit=asked.limit)
            else:
                found = await user_of(request).page(behind=asked.behind, limit=asked.limit)
        return compressed(request, wire.as_json(msgspec.convert(found, UserListing, from_attributes=True)))


class MyEvents(wire.Resource):
    """/v1/me/events"""

    @allows(user=True)
    async def get(self, request: Request) -> Response:
        """Stream what changes in the user's list, from `Last-Event-ID` or `since` on."""
        readable(request)
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
    @allows(user=True)
    async def post(self, request: Request) -> Response:
        """Make what a guest has the user's, who shows the guest's token for it."""
        asked = await wire.body(request, Claiming, limit=BODY_LIMIT)
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
    @allows(user=True)
    async def delete(self, request: Request) -> Response:
        """Undo a claim, within a day."""
        with wire.refusing(409, "too-late"):
            undone = await user_of(request).undo_claim(request.path_params["guest"], by=principal_of(request).id)
        if not undone:
            raise not_found()
        access_of(request).look_again()
        return Response(status_code=204)


class MyTokens(wire.Resource):
    """/v1/me/tokens"""

    @allows(user=True)
    async def get(self, request: Request) -> Response:
        """Return the user's tokens, which are its devices, without what they are."""
        principal = principal_of(request)
        found = await credentials.list_user_tokens(keep_of(request), principal.tenant, principal.user)
        return wire.as_json(Devices(found))


class MyToken(wire.Resource):
    """/v1/me/tokens/{token}"""

    @audited("token:end")
    @allows(user=True)
    async def delete(self, request: Request) -> Response:
        """End one of the user's tokens: sign a device out, or this one, `current`."""
        principal = principal_of(request)
        id = own_token(request)
        if not await credentials.revoke_user_token(keep_of(request), principal.tenant, principal.user, id):
            raise not_found()
        access_of(request).look_again()
        return Response(status_code=204)


class MyTokenRotated(wire.Resource):
    """/v1/me/tokens/{token}/rotate"""

    @audited("token:rotate")
    @allows(user=True)
    async def post(self, request: Request) -> Response:
        """Put a new token in the place of the one that the request is made with."""
        asked = await wire.body(request, Rotation, limit=BODY_LIMIT, needed=False)
        principal, id = principal_of(request), own_token(request)
        if id != principal.id:
            raise forbidden("A token can rotate only itself.")
        place = keep_of(request), principal.tenant, principal.user, id
        with wire.refusing(409, "rotated"):
            issued = await credentials.rotate_user_token(*place, grace=asked.grace)
        if issued is None:
            raise not_found()
        access_of(request).look_again()
        return wire.as_json(credential_of(issued), status=201)


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


class UserTokens(wire.Resource):
    """/v1/users/{user}/tokens"""

    @audited("token:create")
    @allows(right="tokens")
    async def post(self, request: Request) -> Response:
        """Make a token for a user; the only time that it is shown."""
        asked = await wire.body(request, UserTokenAsked, limit=BODY_LIMIT, needed=False)
        place = keep_of(request), principal_of(request).tenant, request.path_params["user"]
        return wire.as_json(
            credential_of(await credentials.issue_user_token(*place, **structs.asdict(asked))), status=201
        )

    @allows(right="tokens")
    async def get(self, request: Request) -> Response:
        """Return a user's tokens, without what they are."""
        place = keep_of(request), principal_of(request).tenant, request.path_params["user"]
        return wire.as_json(Devices(await credentials.list_user_tokens(*place)))


class UserToken(wire.Resource):
    """/v1/users/{user}/tokens/{token}"""

    @audited("token:end")
    @allows(right="tokens")
    async def delete(self, request: Request) -> Response:
        """End one of a user's tokens."""
        place = keep_of(request), principal_of(request).tenant, request.path_params["user"]
        if not await credentials.revoke_user_token(*place, request.path_params["token"]):
            raise not_found()
        access_of(request).look_again()
        return Response(status_code=204)


class ConversationLosses(wire.Resource):
    """/v1/conversations/{id}/losses"""

    @allows("state:read")
    async def get(self, request: Request) -> Response:
        """Return what gave way in merges and saves, the newest first."""
        return wire.as_json(Losses(await tenant_of(request).losses(conversation_asked(request))))


class ConversationLoss(wire.Resource):
    """/v1/conversations/{id}/losses/{number}"""

    @audited("restore")
    @allows("state:write")
    async def post(self, request: Request) -> Response:
        """Put back what gave way, as a change of now."""
        number = request.path_params["number"]
        if not (number.isascii() and number.isdecimal() and len(number) < 16):
            raise not_found()
        with wire.refusing(409, "no-loss"):
            await tenant_of(request).restore(conversation_asked(request), int(number), by=principal_of(request).id)
        return Response(status_code=204)


async def save(request: Request, *, creates: bool) -> Response:
    """Save title, messages and marks of a conversation."""
    asked = await wire.body(request, Saving, limit=SAVE_LIMIT)
    principal, id = principal_of(request), conversation_asked(request)
    if asked.owner is not None and not principal.rules:
        raise HTTPException(400, "Only a service key names the owner; nothing was saved.")
    if asked.messages and "save" not in principal.scopes:
        raise forbidden("This token has not the scope 'save', which it takes to save messages.")
    match = wire.tags(request, "if-match")
    force = asked.force or match == {"*"}

    def look(there: Snapshot) -> None:
        row = there.row
        if not row.revision and not creates:
            raise not_found()
        checksum = find_checksum(there) if row.revision else ""
        known = match is None or match == {"*"} or f'"{row.revision}"' in match
        if not known and not (row.revision and any(is_checksum(there, tag.strip('"')) for tag in match or ())):
            tag = {"etag": f'"{checksum}"'} if "read" in principal.scopes and checksum else {"etag": None}
            raise Refused(
                412,
                "precondition-failed",
                "The conversation is not the version that this was made for; nothing was changed. Read it, and save on top of that.",
                **tag,
            )

    told = structs.asdict(asked) | {"force": force}
    told["owner"] = asked.owner or await access_of(request).find_beginner(request)
    messages = [structs.asdict(one) for one in told.pop("messages")]
    try:
        saved = await core_of(keep_of(request)).save(principal.tenant, id, messages, look=look, **told)
    except errors.OtherOwner:  # somebody was faster, and has it now
        if principal.rules:
            raise
        raise not_found() from None
    shown = msgspec.convert(saved, SavedConversation, from_attributes=True)
    return wire.as_json(shown, headers={"etag": f'"{saved.checksum}"'})


async def merge(request: Request) -> Response:
    """Merge what a device has made of a slot."""
    limit = 8 * int(keep_of(request).settings.state_limit)
    plain = await wire.value(request, limit=limit, media=MERGE)
    try:
        asked = msgspec.convert(plain, Merging)
    except ValueError as fault:
        raise wire.misread(str(fault)) from None
    key = wire.idempotency_key(request)
    tenant = await access_of(request).beginning(request)
    try:
        merged = await tenant.merge(
            conversation_asked(request),
            request.path_params["slot"],
            base=MISSING if asked.base is UNSET else asked.base,
            value=MISSING if asked.value is UNSET else asked.value,
            at=asked.at,
            by=asked.by,
            id=key,
        )
    except errors.OtherOwner:  # somebody was faster, and has it now
        raise not_found() from None
    shows = "state:read" in principal_of(request).scopes
    told = MergedValue(
        value=UNSET if merged.value is MISSING or not shows else merged.value,
        losses=[SlotLoss(list(loss.path), loss.value if shows else None, loss.at, loss.by) for loss in merged.losses],
        version=merged.version,
        checksum=merged.checksum,
    )
    return wire.as_json(told, headers={"etag": f'"{merged.checksum}"'})


def compressed(request: Request, answer: Response) -> Response:
    """Return *answer* as gzip where it is long and the client reads that. Nothing in a list is secret to whom it is shown."""
    answer.headers["vary"] = "accept-encoding"
    if wire.reads_gzip(request) and len(answer.body) > SMALL:
        answer.body = gzip.compress(bytes(answer.body), 5, mtime=0)
        answer.headers["content-encoding"] = "gzip"
        answer.headers["content-length"] = str(len(answer.body))
    return answer


def readable(request: Request) -> None:
    """Refuse a token that may not read."""
    if "read" not in principal_of(request).scopes:
        raise forbidden("This token has not the scope 'read', which this takes.")


def own_token(request: Request) -> str:
    """Return the token that is asked for, by its id or as `current`."""
    asked = str(request.path_params["token"])
    return principal_of(request).id if asked == OWN else asked


def credential_of(issued: credentials.Issued) -> answers.Credential:
    """Return a new token as it is shown, this once."""
    return answers.Credential(
        id=issued.id, scopes=issued.scopes, expires_at=issued.expires_at, token=issued.token, label=issued.label
    )


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/me/conversations", MyConversations),
    wire.RawRoute("/v1/me/events", MyEvents),
    wire.RawRoute("/v1/me/claim", MyClaims),
    wire.RawRoute("/v1/me/claim/{guest}", MyClaim),
    wire.RawRoute("/v1/me/tokens", MyTokens),
    wire.RawRoute("/v1/me/tokens/{token}/rotate", MyTokenRotated),
    wire.RawRoute("/v1/me/tokens/{token}", MyToken),
    wire.RawRoute("/v1/users/{user}", UserErased),
    wire.RawRoute("/v1/users/{user}/tokens", UserTokens),
    wire.RawRoute("/v1/users/{user}/tokens/{token}", UserToken),
    wire.RawRoute("/v1/conversations/{id}/losses/{number}", ConversationLoss),
    wire.RawRoute("/v1/conversations/{id}/losses", ConversationLosses),
]
