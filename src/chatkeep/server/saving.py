"""What clients save of a conversation and merge into a slot, and what gave way in that."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, structs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from .. import errors
from ..app import core_of
from ..conversation import commits
from ..conversation.merge import MISSING
from ..conversation.saves import SLOT, TITLE, TITLE_MOST, is_loss
from ..conversation.snapshots import Snapshot
from ..conversation.versions import find_checksum, is_checksum
from ..model import Content
from ..people.surface import Lost, merge_if
from ..tenant import Tenant
from . import wire
from .access import access_of, allows, conversation_asked, keep_of, principal_of, tenant_of
from .audit import audited
from .refusals import forbidden, gone, not_found
from .wire import Refused

SAVE_LIMIT = 8 * 1024 * 1024
NOT_CHANGED = "Nothing was changed; sent again without `If-Match` it begins a new one."
MERGE = "application/vnd.chatkeep.merge+json"
Text = Annotated[str, Meta(max_length=TITLE_MOST)]
Time = Annotated[float, Meta(ge=0, le=1e11)]


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
    by: wire.Device = ""
    owner: wire.Owner | None = None


class Merging(Struct, forbid_unknown_fields=True):
    """What a device has made of a slot: *base* is what it held before (left out: nothing), *value* what it holds (left out: it was
    removed), *at* when it was changed, *by* on which device."""

    base: Any | UnsetType = UNSET
    value: Any | UnsetType = UNSET
    at: Time | None = None
    by: wire.Device = ""


class SavedConversation(Struct, frozen=True, kw_only=True):
    """What a save has left. *title*: "" for who may not read, unless it is the one that was sent. *conflicts*: "title", and ids under
    which the log has another text; the log keeps what gave way."""

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


class Losses(Struct, frozen=True):
    """What gave way in merges and saves, the newest first."""

    losses: list[Lost]


class ConversationLosses(wire.Resource):
    """/v1/conversations/{id}/losses"""

    @allows("state:read")
    async def get(self, request: Request) -> Response:
        """Return what gave way in merges and saves, the newest first; titles and messages to who may `read`."""
        found = await tenant_of(request).losses(conversation_asked(request))
        if "read" not in principal_of(request).scopes:  # titles and messages are nothing of the state
            found = [lost for lost in found if lost.about == SLOT]
        return wire.as_json(Losses(found))


class ConversationLoss(wire.Resource):
    """/v1/conversations/{id}/losses/{number}"""

    @audited("restore")
    @allows("state:write")
    async def post(self, request: Request) -> Response:
        """Put back what gave way, as a change of now; a title takes the scope `send`."""
        number = request.path_params["number"]
        if not (number.isascii() and number.isdecimal() and len(number) < 16):
            raise not_found()
        await refuse_title(request, int(number))
        with wire.refusing(409, "no-loss"):
            await tenant_of(request).restore(conversation_asked(request), int(number), by=principal_of(request).id)
        return Response(status_code=204)


async def refuse_title(request: Request, number: int) -> None:
    """Refuse a credential that may not name a conversation where what gave way as *number* is a title."""
    if principal_of(request).kind == "operator" or "send" in principal_of(request).scopes:
        return
    page = tenant_of(request).history(conversation_asked(request), after=number - 1, limit=1)
    if any(is_loss(entry) and entry.metadata.get("about") == TITLE for entry in [entry async for entry in page]):
        raise forbidden(
            "This credential has not the scope 'send', which it takes to give a title; nothing was changed."
        )


async def save(request: Request, *, creates: bool) -> Response:
    """Save title, messages and marks of a conversation."""
    asked = await wire.body(request, Saving, limit=SAVE_LIMIT)
    principal, id = principal_of(request), conversation_asked(request)
    if asked.owner is not None and not principal.rules:
        raise HTTPException(400, "Only a service key names the owner; nothing was saved.")
    if asked.messages and "save" not in principal.scopes:
        raise forbidden("This token has not the scope 'save', which it takes to save messages.")
    match, key = wire.tags(request, "if-match"), wire.idempotency_key(request)
    force = asked.force or match == {"*"}

    def look(there: Snapshot) -> None:
        if not there.row.revision and not creates:
            raise not_found()
        refuse_other_version(request, there)

    # Sent again, since its answer was lost, it has made its own `If-Match` untrue.
    name = ["match", principal.asker, sorted(match or ())] if key is None else ["key", principal.asker, key]
    names = key is not None or match not in (None, {"*"})
    told = structs.asdict(asked) | {"force": force, "renews": key is None}
    told["id"] = msgspec.json.encode([*name, asked]).decode() if names else None
    told["owner"] = asked.owner or await access_of(request).find_beginner(request)
    messages = [structs.asdict(one) for one in told.pop("messages")]
    try:
        saved = await core_of(keep_of(request)).save(principal.tenant, id, messages, look=look, **told)
    except errors.OtherOwner:  # somebody was faster, and has it now
        if principal.rules:
            raise
        raise not_found() from None
    shown = msgspec.convert(saved, SavedConversation, from_attributes=True)
    if "read" not in principal.scopes and shown.title != asked.title:
        shown = structs.replace(shown, title="")
    return wire.as_json(shown, headers={"etag": f'"{saved.checksum}"'})


def refuse_other_version(request: Request, there: Snapshot) -> None:
    """Refuse what is done to a conversation where `If-Match` names another version than what is *there*, or nothing is: what waited on a
    device is not to begin anew what was erased."""
    match, row = wire.tags(request, "if-match"), there.row
    if match is None:
        return
    if not row.revision:
        raise gone(NOT_CHANGED)
    if match == {"*"} or f'"{row.revision}"' in match or any(is_checksum(there, tag.strip('"')) for tag in match):
        return
    shown = f'"{find_checksum(there)}"' if "read" in principal_of(request).scopes else None
    raise Refused(
        412,
        "precondition-failed",
        "The conversation is not the version that this was made for; nothing was changed. Read it, and save on top of that.",
        etag=shown,
    )


def _refuse_none(there: Snapshot) -> None:
    if not there.row.revision:
        raise gone(NOT_CHANGED)


async def merge(request: Request) -> Response:
    """Merge what a device has made of a slot. `If-Match: *`: only in a conversation that is there."""
    limit = 8 * int(keep_of(request).settings.state_limit)
    plain = await wire.value(request, limit=limit, media=MERGE)
    asked = wire.as_kind(plain, Merging)
    key = change_named(request)
    tenant = await access_of(request).beginning(request)
    place = conversation_asked(request), request.path_params["slot"]
    made: dict[str, Any] = {
        "base": MISSING if asked.base is UNSET else asked.base,
        "value": MISSING if asked.value is UNSET else asked.value,
        "at": asked.at,
        "by": asked.by,
        "id": key,
    }
    try:
        try:
            merged = await merge_if(tenant, partial(refuse_other_version, request), *place, **made)
        except Refused as refused:
            await refuse_unless_made(refused, tenant, place[0], key)
            merged = await merge_if(tenant, _refuse_none, *place, **made)  # the same again, which changes nothing
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


def change_named(request: Request) -> str | None:
    """Return what the request's Idempotency-Key calls a change of a state, among those of whoever asks: another one's key is another
    name, though it is written alike."""
    key = wire.idempotency_key(request)
    if key is None:
        return None
    said = msgspec.json.encode([principal_of(request).asker, key])
    return sha256(said).hexdigest()[:32]


async def refuse_unless_made(refused: Refused, tenant: Tenant[Any], id: str, key: str | None) -> None:
    """Raise *refused*, unless the change that `change_named` calls *key* is among the last entries: its precondition held once."""
    if refused.status_code == 412 and key is not None:
        noted = commits.make_note("change", key).id
        if noted in [entry.id async for entry in tenant.history(id, before=wire.NEWEST, limit=wire.PAGE_MOST)]:
            return
    raise refused


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/conversations/{id}/losses/{number}", ConversationLoss),
    wire.RawRoute("/v1/conversations/{id}/losses", ConversationLosses),
]
