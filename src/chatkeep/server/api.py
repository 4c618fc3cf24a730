"""The addresses of conversations under /v1: what is said in them, and their state."""

from __future__ import annotations

import hashlib
import logging
import secrets
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .. import errors, model
from ..app import core_of
from ..conversation.shapes import Shape
from ..conversation.snapshots import Condition, Snapshot
from ..model import IDENTITY
from ..storage.paging import FIRST_READ, Paging, fitting
from ..tenant import Tenant
from . import answers, saving, state, wire
from .access import access_of, allows, conversation_asked, keep_of, principal_of, tenant_of
from .audit import audited
from .cookies import COOKIE, clear_cookie, refuse_other_pages, set_cookie
from .problems import RETRY_AFTER_S
from .refusals import forbidden, gone, not_found, refuse_step
from .telemetry import carried
from .wire import Refused, Resource, as_json

log = logging.getLogger("chatkeep.server")

LATER_ON = ("accepted", "journaled")  # durable, and not answered yet
SMALL = 64 * 1024
LOOKED_AT = 8
"""So many of its last entries are looked at for the last words of a conversation in a list."""

NOT_TAKEN = "The message was not taken; sent again without `If-Match` it begins a new one."
MERGE_PATCH = "application/merge-patch+json"


class Conversations(Resource):
    """/v1/conversations"""

    @audited("create", daily=True)
    @allows("send", right="send", user=True, visitor=True)
    async def post(self, request: Request) -> Response:
        """Begin a conversation; a visitor is given a token for it."""
        asked = await wire.body(request, wire.NewConversation, limit=SMALL, needed=False)
        if principal_of(request).kind == "visitor":
            return await visit(request, asked)
        if principal_of(request).kind == "user":
            return await begin_for_user(request, asked)
        if asked.cookie:
            raise Refused(422, "no-cookie", "A service key gets no token and so no cookie; nothing was begun.")
        id, core = asked.id if asked.id is not None else fresh_id(), core_of(keep_of(request))
        request.state.conversation = id
        revision, created = await core.create(principal_of(request).tenant, id, owner=asked.owner or "")
        headers = {"location": location(request, id)}
        told = answers.CreatedConversation(id, revision, created)
        return as_json(told, status=201 if created else 200, headers=headers)

    @allows(right="list")
    async def get(self, request: Request) -> Response:
        """Return conversations with their last words, last changed first; or those of one `owner`. `next` asks for the page behind."""
        asked, tenant = wire.query(request, wire.ListQuery), tenant_of(request)
        after = wire.place_from(asked.next, tenant.name)
        listing = tenant.conversations(owner=asked.owner, limit=asked.limit, messages=LOOKED_AT, after=after)
        found = [one async for one in listing]
        following = wire.place_of(found[-1]) if len(found) == asked.limit else ""
        return as_json(answers.Conversations([answers.summary(one) for one in found], following))


async def begin_for_user(request: Request, asked: wire.NewConversation) -> Response:
    """Begin a conversation for a user, under the id that the user's client has chosen, if it has."""
    if asked.owner is not None or asked.cookie:
        raise HTTPException(400, "A user's conversation is the user's and needs no cookie; nothing was begun.")
    tenant, user = tenant_of(request), principal_of(request).user
    there = asked.id is not None and await tenant.user(user).owns(asked.id)
    if not there:
        refuse_step(asked.id)
    taken = Refused(409, "taken", "This id is taken; nothing was begun. Choose another one.")
    if asked.id is not None and not there and access_of(request).is_customers(tenant.name, asked.id):
        raise taken
    try:
        saved = await tenant.user(user).create(asked.id)
    except errors.OtherOwner:
        raise taken from None
    headers = {"location": location(request, saved.id)}
    told = answers.CreatedConversation(saved.id, saved.checksum, not there)
    return as_json(told, status=200 if there else 201, headers=headers)


async def visit(request: Request, asked: wire.NewConversation) -> Response:
    """Begin a conversation for somebody whom nobody knows."""
    if asked.id is not None or asked.owner is not None:
        raise HTTPException(400, "Without a service key the server chooses id and owner; nothing was begun.")
    if asked.cookie:
        refuse_other_pages(request)
    id, access = fresh_id(), access_of(request)
    await core_of(keep_of(request)).create_for_visitor(tenant_of(request).name, id)
    issued = await access.visit(id)
    told = answers.Visit(id=id, scopes=issued.scopes, expires_at=issued.expires_at or 0.0)
    if not asked.cookie:
        told = msgspec.structs.replace(told, token=issued.token)
    answer = as_json(told, status=201, headers={"location": location(request, id)})
    if asked.cookie:
        set_cookie(answer, COOKIE, issued, now=core_of(keep_of(request)).clock())
    return answer


class Conversation(Resource):
    """/v1/conversations/{id}"""

    @allows("read", masks=True)
    async def get(self, request: Request) -> Response:
        """Return the conversation as it is now, with its last messages."""
        asked = wire.query(request, wire.ConversationQuery)
        found = await conversation(request, messages=min(asked.messages, FIRST_READ))
        whole = with_notes(request, asked.notes)
        messages = [message for message in found.messages if whole or message.role != "system"]
        first = found.messages[0].number if found.messages else found.head + 1
        readable = first > 1 and not found.stale  # (of a store that is away nothing more is)
        if len(messages) < asked.messages and readable and fitting(messages) == len(messages):
            window = wire.LogWindow(before=first, limit=asked.messages - len(messages))
            messages = (await talk(tenant_of(request), found.id, window, whole=whole))[0] + messages
        messages = messages[-fitting(reversed(messages)) :] if messages else []
        shown = shape_of(request).json_of(found.state) if shows_state(request) else UNSET
        if not principal_of(request).rules:  # a customer is not told the names of accounts
            found = msgspec.structs.replace(found, assignee="")
        told = answers.conversation(found, messages, shown, whole=whole)
        return as_json(told, headers={"etag": f'"{found.revision}"'})

    @audited("save", daily=True)
    @allows("send", creates=True)
    async def put(self, request: Request) -> Response:
        """Save title, messages and marks; it is created where there is none. `If-Match`: only if it is the version that the client has."""
        return await saving.save(request, creates=True)

    @audited("save", daily=True)
    @allows("send")
    async def patch(self, request: Request) -> Response:
        """Do what PUT does, with a conversation that is there."""
        return await saving.save(request, creates=False)

    @audited("erase")
    @allows("erase")
    async def delete(self, request: Request) -> Response:
        """Erase the conversation, and its tokens and shares with it. There is no way back."""
        id, access = conversation_asked(request), access_of(request)
        await tenant_of(request).erase(id)
        await access.forget(principal_of(request).tenant, id)
        answer = Response(status_code=204)
        if cookie := principal_of(request).cookie:
            clear_cookie(answer, cookie)
        return answer


class Messages(Resource):
    """/v1/conversations/{id}/messages"""

    @allows("send", creates=True)
    async def post(self, request: Request) -> Response:
        """Take a message and answer with its receipt; with `Prefer: respond-async` before the bot has answered. `If-Match: *`: only in a
        conversation that is there."""
        tenant, id = tenant_of(request), conversation_asked(request)
        incoming, keyed = await wire.message(request, limit=room(request, "message_limit"))
        only = await condition_asked(request, incoming.id)
        later = "respond-async" in wire.preferences(request)
        if not principal_of(request).rules:
            refuse_identity(incoming.metadata or {})
        metadata = carried(incoming.metadata)
        told: dict[str, Any] = {"id": incoming.id, "metadata": metadata}
        await access_of(request).begin(request, incoming.content, **told, waits=not later)
        if only is not None:
            told |= {"only": only, "waits": not later, "owner": principal_of(request).user}
            core = core_of(keep_of(request))
            receipt = await core.take_in(tenant.name, id, incoming.content, wait_if_duplicate=not keyed, **told)
            if not receipt.number and receipt.status == "dropped":
                raise wire.changed("the message was not taken") if only.unchanged else gone(NOT_TAKEN)
        elif later:
            receipt = await tenant.accept(id, incoming.content, **told)
        else:
            receipt = await tenant.receive(id, incoming.content, **told, wait_if_duplicate=not keyed)
        headers = {"preference-applied": "respond-async"} if later else {}
        if receipt.duplicate:
            await refuse_other(tenant, receipt, incoming)
            if keyed and not later and receipt.status == "accepted":
                raise Refused(
                    409,
                    "still-running",
                    "The message is in the log and being answered; its replies will be there. Ask again under the same key.",
                    {"retry-after": RETRY_AFTER_S},
                )
            headers["idempotent-replayed"] = "true"
        return as_json(answers.receipt(receipt), status=202 if receipt.status in LATER_ON else 200, headers=headers)

    @allows("read", masks=True)
    async def get(self, request: Request) -> Response:
        """Return a page of the log, oldest first: the last messages, or those around `after` and `before`."""
        asked = wire.query(request, wire.LogWindow)
        whole = with_notes(request, asked.notes)
        found, truncated = await talk(tenant_of(request), conversation_asked(request), asked, whole=whole)
        if not found and principal_of(request).rules:
            await conversation(request, messages=0)  # an empty page of what is not there would hide that
        return as_json(answers.Messages([answers.message(message, whole=whole) for message in found], truncated))


async def condition_asked(request: Request, id: str | None) -> Condition | None:
    """Return what `If-Match` says must hold for the message *id* when it is written; None: nothing. Raises 412 where it does not now."""
    match = wire.tags(request, "if-match")
    if match is None:
        return None
    if request.state.absent:
        raise gone(NOT_TAKEN)
    if match == {"*"}:
        return Condition()  # what writes it looks, and the journal does so when the store is back
    there = await core_of(keep_of(request)).load(tenant_of(request).name, conversation_asked(request))
    if there is None:
        raise gone(NOT_TAKEN)
    return await condition_on(request, match, there, id, "the message was not taken")


async def condition_on(request: Request, match: set[str], there: Snapshot, id: str | None, why: str) -> Condition:
    """Return what must hold for the message *id*, which is for one of the revisions *match* of what is *there*, or with {"*"} for any.
    Raises 412 where it does not; *why*: what was not done. What is sent again has changed the revision itself, and is for what is there."""
    known = f'"{there.row.revision}"' in match
    if match == {"*"} or (not known and await core_of(keep_of(request)).holds_message(there, id)):
        return Condition(there)
    wire.refuse_other_revision(match, there.row.revision, why)
    return Condition(there, unchanged=True)


def refuse_identity(metadata: dict[str, Any]) -> None:
    """Refuse a customer's message that says who the customer is."""
    if claimed := [name for name in IDENTITY if name in metadata]:
        raise Refused(
            422,
            "bad-message",
            f"The metadata has {claimed[0]!r}, which a channel or a service key says of a customer; nothing was touched. Say it in the "
            "content, or in the state.",
        )


def with_notes(request: Request, notes: int) -> bool:
    """Tell whether chatkeep's own notes are answered, which say why a message was set aside, and who changed what. Raises 403 for those
    who may not know it."""
    if notes and not (principal_of(request).rules and "list" in principal_of(request).scopes):
        raise forbidden("The notes are for service keys and people who may `list`; leave `notes` out.")
    return bool(notes)


async def refuse_other(tenant: Tenant[Any], receipt: model.Receipt, incoming: wire.Incoming) -> None:
    """Refuse a message that says something else than the one recorded under its id."""
    number = receipt.number
    async for recorded in tenant.history(receipt.conversation, after=number - 1, before=number + 1, limit=1):
        if recorded.redacted:
            return  # nobody knows any more what it said
        there = [recorded.role, recorded.content, answers.public(recorded.metadata)]
        here = ["user", incoming.content, answers.public(incoming.metadata or {})]
        if state.canonical(there) != state.canonical(here):
            raise Refused(
                422,
                "key-reused",
                f"Message {number} is recorded under this id and says something else; nothing was touched. Name each message once.",
            )


async def talk(
    tenant: Tenant[Any], id: str, asked: wire.LogWindow, *, whole: bool = False
) -> tuple[list[model.Message], bool]:
    """Return as many messages as were *asked* for, if there are as many, and whether they end early because they are large;
    chatkeep's own notes are left out, unless the *whole* log is wanted."""
    found: list[model.Message] = []
    after, before = asked.after, asked.before
    if after is None and before is None:
        before = wire.NEWEST
    paging = Paging()
    while (missing := asked.limit - len(found)) > 0:
        page = [message async for message in tenant.history(id, after=after, before=before, limit=paging.limit)]
        if not page:
            break
        paging.fit(page)
        shown = [message for message in page if whole or message.role != "system"]
        if after is None:
            found, before = shown[-missing:] + found, page[0].number
        else:
            found, after = found + shown[:missing], page[-1].number
        fits = fitting(reversed(found) if asked.after is None else found)
        if fits < len(found):
            return found[-fits:] if asked.after is None else found[:fits], True
    return found, False


class State(Resource):
    """/v1/conversations/{id}/state"""

    slot: str | None = None

    @allows("state:read")
    async def get(self, request: Request) -> Response:
        """Return the state as JSON, with an ETag of its value."""
        found = await conversation(request, messages=0)
        there = state.member(shape_of(request).json_of(found.state), self._slot(request))
        if there is UNSET:
            raise Refused(404, "not-found", f"The state has no slot {self._slot(request)!r:.80}.")
        tag, known = state.etag(there, secret_of(request)), wire.tags(request, "if-none-match")
        headers = {"etag": tag} | ({"chatkeep-stale": "true"} if found.stale else {})
        if known is not None and state.is_in(tag, known):
            return Response(status_code=304, headers=headers)
        return as_json(there, headers=headers)

    @audited("state")
    @allows("state:write", creates=True)
    async def put(self, request: Request) -> Response:
        """Replace the state, or the slot, if it is the one named in If-Match."""
        precondition = preconditions(request)
        if precondition.match is None and precondition.none_match is None:
            raise Refused(
                428,
                "precondition-required",
                "Say which value this replaces: If-Match with the ETag you have read, or *; for a new slot If-None-Match: *. "
                "Nothing was changed.",
            )
        new = await wire.value(request, limit=room(request, "state_limit"))
        return await self._changed(request, lambda there: new, precondition)

    @audited("state")
    @allows("state:write")
    async def delete(self, request: Request) -> Response:
        """Clear the state, or the slot, also where it cannot be read."""
        tenant, id, precondition = tenant_of(request), conversation_asked(request), preconditions(request)
        try:
            there = await tenant.conversation(id, messages=0) is not None
        except (errors.Corrupt, errors.Unsupported):
            there = True  # (whether more than its state is damaged is seen below)
        if not there:
            await conversation(request, messages=0)  # nothing to clear; a service key is told so
            if precondition.match is None:
                return Response(status_code=204)
        if there and precondition.clears(self._slot(request)):
            await tenant.clear(id, self._slot(request), id=saving.change_named(request))
        else:
            slot, key = self._slot(request), saving.change_named(request)
            look = state.look_for(precondition, slot, shape=shape_of(request), shows=shows_state(request))
            try:
                await core_of(keep_of(request)).clear(tenant.name, id, slot, look=look, id=key)
            except Refused as refused:
                await saving.refuse_unless_made(refused, tenant, id, key)
        return Response(status_code=204)

    async def _changed(self, request: Request, edit: state.Edit, precondition: state.Precondition) -> Response:
        slot, shows = self._slot(request), shows_state(request)
        change = state.guarded(edit, precondition, slot, shape=shape_of(request), shows=shows)
        tenant, id = await access_of(request).beginning(request), conversation_asked(request)
        key = saving.change_named(request)
        try:
            after = await tenant.change(id, change, id=key, by=person(request))
        except errors.OtherOwner:
            raise not_found() from None
        except Refused as refused:
            await saving.refuse_unless_made(refused, tenant, id, key)
            after = await conversation(request, messages=0)
        there = state.member(shape_of(request).json_of(after.state), slot)
        if not shows or there is UNSET:
            return Response(status_code=204)
        return as_json(there, headers={"etag": state.etag(there, secret_of(request))})

    def _slot(self, request: Request) -> str | None:
        return request.path_params.get("slot")


class Slot(State):
    """/v1/conversations/{id}/state/{slot}"""

    @audited("state")
    @allows("state:write", creates=True)
    async def patch(self, request: Request) -> Response:
        """Merge what a device has made of the slot into what is there: three-way, by `base` and time."""
        return await saving.merge(request)


class WholeState(State):
    """/v1/conversations/{id}/state"""

    @audited("state")
    @allows("state:write", creates=True)
    async def patch(self, request: Request) -> Response:
        """Merge a patch (RFC 7396) into the state, on top of whatever is there."""
        precondition = preconditions(request)
        patch = await wire.value(request, limit=room(request, "state_limit"), media=MERGE_PATCH)
        return await self._changed(request, lambda there: state.merged(there, patch), precondition)


def person(request: Request) -> str:
    """Return the person who asks, by the name that others at the desk know; "" for credentials."""
    principal = principal_of(request)
    return (principal.label or principal.id) if principal.operator is not None else ""


def preconditions(request: Request) -> state.Precondition:
    """Return what the request says must hold for the write."""
    return state.Precondition(wire.tags(request, "if-match"), wire.tags(request, "if-none-match"), secret_of(request))


def secret_of(request: Request) -> bytes:
    """Return what the tags of the conversation's state are made with: the store's epoch, which all instances know and no client."""
    place = (core_of(keep_of(request)).driver.epoch, principal_of(request).tenant, conversation_asked(request))
    return hashlib.blake2b(msgspec.json.encode(place), digest_size=32).digest()


def shape_of(request: Request) -> Shape[Any]:
    """Tell how states of this application look as JSON."""
    return core_of(keep_of(request)).states.shape


def shows_state(request: Request) -> bool:
    """Tell whether who asks may see the state."""
    return "state:read" in principal_of(request).scopes


async def conversation(request: Request, *, messages: int) -> model.Conversation[Any]:
    """Return the conversation that is asked for; a token's own that has nothing in it yet reads as an empty one."""
    tenant, id = tenant_of(request), conversation_asked(request)
    found = await tenant.conversation(id, messages=messages)
    if found is None and principal_of(request).rules:
        raise HTTPException(404)
    return found or blank(request)


def blank(request: Request) -> model.Conversation[Any]:
    """Return a conversation that has nothing in it yet."""
    off_by = core_of(keep_of(request)).find_reasons(principal_of(request).tenant, conversation_asked(request))
    return model.Conversation(
        tenant=principal_of(request).tenant,
        id=conversation_asked(request),
        owner="",
        revision="",
        state=core_of(keep_of(request)).states.kind(),
        session=0,
        messages=[],
        head=0,
        unread=0,
        paused=bool(off_by),
        off_by=off_by,
        dead=[],
        updated_at=0.0,
        due_at=None,
    )


@allows(anyone=True)
async def get_health(request: Request) -> Response:
    """Say that the server runs."""
    return as_json(answers.Health(status="ok"))


def room(request: Request, limit: Literal["message_limit", "state_limit"]) -> int:
    """Tell how long a body may be whose content has that *limit*: JSON escapes take more room than what they stand for."""
    return 4 * int(getattr(keep_of(request).settings, limit))


def fresh_id() -> str:
    """Return an id for a conversation that is given none; one that a command line does not take for an option."""
    return secrets.token_hex(16)


def location(request: Request, id: str) -> str:
    """Return the address of a conversation on this host."""
    return f"{quote(request.scope.get('root_path', ''))}/v1/conversations/{quote(id, safe='')}"
