"""What an operator does to a conversation: takes it over from the bot, writes in it, hands it back, looks after deliveries and
dead letters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..auth.accounts import may_look_after, name_of, stored_accounts
from ..conversation.assignments import NAME_MOST
from ..conversation.snapshots import Condition, Snapshot
from ..model import Content
from . import answers, wire
from .access import allows, conversation_asked, keep_of, principal_of, tenant_of
from .api import condition_on, conversation, room
from .audit import audited, call
from .refusals import NOT_FOUND, not_found

SMALL = 16 * 1024


class Pausing(Struct, forbid_unknown_fields=True):
    """Whether the bot is silent here; when it answers again, what is *unread* is answered or skipped."""

    paused: bool
    unread: Literal["answer", "skip"] = "answer"


class Assignment(Struct, forbid_unknown_fields=True):
    """The account that is to look after the conversation, "" for nobody; *was*: only if this one has it now."""

    assignee: Annotated[str, Meta(max_length=NAME_MOST)]
    was: Annotated[str, Meta(max_length=NAME_MOST)] | None = None


class Written(Struct, forbid_unknown_fields=True):
    """What an operator writes. *author*: their name, as readers are to see it; the key's label unless told. *paused*: pauses the
    bot before, or resumes it afterwards."""

    content: Content
    id: str | None = None
    author: Annotated[str, Meta(max_length=200)] | None = None
    paused: bool | UnsetType = UNSET


class Bot(wire.Resource):
    """/v1/conversations/{id}/bot"""

    @audited("bot")
    @allows(right="operate")
    async def put(self, request: Request) -> Response:
        """Pause the bot, so that a person can take over, or resume it. A turn that runs meanwhile says nothing. Whoever is signed in and
        takes over is assigned the conversation; one that the bot has again is nobody's."""
        asked = await wire.body(request, Pausing, limit=SMALL)
        tenant, conversation = tenant_of(request), conversation_asked(request)
        call(request, "pause" if asked.paused else "resume")
        if asked.paused:
            await take_over(request)
        else:
            await tenant.resume(conversation, unread=asked.unread)
        return wire.as_json(answers.BotStatus(core_of(keep_of(request)).is_paused(tenant.name, conversation)))


class Assignee(wire.Resource):
    """/v1/conversations/{id}/assignee"""

    @audited("assign")
    @allows(right="operate")
    async def put(self, request: Request) -> Response:
        """Assign the conversation to an account that may operate in the tenant, or to nobody."""
        asked = await wire.body(request, Assignment, limit=SMALL)
        keep, principal = keep_of(request), principal_of(request)
        to = await assignee_asked(request, asked.assignee)
        call(request, f"assign:{to}" if to else "unassign")
        place = principal.tenant, conversation_asked(request)
        has = await core_of(keep).assign(*place, to, by=principal.label or principal.id, was=asked.was)
        if has is None:
            raise not_found()
        if has != to:
            said = f"It is assigned to {has} meanwhile" if has else "It is nobody's meanwhile"
            raise wire.Refused(409, "assigned", f"{said}; nothing was changed.")
        return wire.as_json(answers.Assigned(has))


class OperatorMessages(wire.Resource):
    """/v1/conversations/{id}/operator"""

    @audited("say")
    @allows(right="operate")
    async def post(self, request: Request) -> Response:
        """Say something as a person, through the same channel; with `"paused": true` the bot is paused before. `If-Match`: only if it is
        the revision that the client has, or, with `*`, only in a conversation that is there; without it one is created."""
        written = await wire.body(request, Written, limit=room(request, "message_limit"))
        tenant, place = tenant_of(request), conversation_asked(request)
        match = wire.tags(request, "if-match")
        into = only = None
        if match is not None:
            into = await core_of(keep_of(request)).load(tenant.name, place)
            if into is None:
                raise not_found()
            only = await condition_on(request, match, into, written.id, "nothing was said")
        if written.paused is not UNSET:
            call(request, "say:pause" if written.paused else "say:resume")
        principal = principal_of(request)
        # A person writes under the name of the account, whatever the request says.
        author = written.author if written.author is not None and principal.operator is None else principal.label
        told: dict[str, Any] = {
            "id": written.id,
            "role": "operator",
            "metadata": {"author": author} if author else None,
        }
        if written.paused is True:
            core_of(keep_of(request)).check_message(tenant.name, place, written.content, **told)
            await take_over(request, into=into)
            only = None if into is None else Condition(into)  # that has changed the revision
        if only is None:
            receipt = await tenant.accept(place, written.content, **told)
        else:
            receipt = await core_of(keep_of(request)).take_in(tenant.name, place, written.content, only=only, **told)
            if not receipt.number:  # it was erased, or has changed, meanwhile
                if only.unchanged and await core_of(keep_of(request)).exists(tenant.name, place):
                    raise wire.changed("nothing was said")
                raise not_found()
        if written.paused is False:
            await tenant.resume(place)
        return wire.as_json(answers.receipt(receipt), status=200 if receipt.duplicate else 201)


class Deliveries(wire.Resource):
    """/v1/conversations/{id}/deliveries"""

    @allows(right="list", masks=True)
    async def get(self, request: Request) -> Response:
        """Return how the sending of each reply stands."""
        found = await tenant_of(request).deliveries(conversation_asked(request))
        if not found:
            await conversation(request, messages=0)  # an empty list of what is not there would hide that
        return wire.as_json(answers.Deliveries(found))


class Resending(wire.Resource):
    """/v1/conversations/{id}/deliveries/{number}"""

    @audited("resend")
    @allows(right="operate")
    async def post(self, request: Request) -> Response:
        """Send a reply once more."""
        await tenant_of(request).resend(conversation_asked(request), number_asked(request))
        return Response(status_code=204)


class OneMessage(wire.Resource):
    """/v1/conversations/{id}/messages/{number}"""

    @audited("redact")
    @allows(right="erase")
    async def delete(self, request: Request) -> Response:
        """Redact a message: what it says is removed for good, its number and id stay."""
        await tenant_of(request).redact(conversation_asked(request), number_asked(request))
        return Response(status_code=204)


class Change(wire.Resource):
    """/v1/conversations/{id}/changes/{number}"""

    @audited("undo")
    @allows(right="state:write")
    async def post(self, request: Request) -> Response:
        """Undo what a person has changed of the state, as the note of that number says what was there; only if it still is what the change
        has left."""
        principal = principal_of(request)
        by = principal.label or principal.id
        await tenant_of(request).undo(conversation_asked(request), number_asked(request), by=by)
        return Response(status_code=204)


class AsOf(wire.Resource):
    """/v1/conversations/{id}/as-of/{number}"""

    @allows(right="state:read")
    async def get(self, request: Request) -> Response:
        """Return what is known of the state as it was when this entry was the last one."""
        found = await tenant_of(request).as_of(conversation_asked(request), number_asked(request))
        if found is None:
            raise wire.Refused(404, "not-found", NOT_FOUND)
        return wire.as_json(found)


class LettersQuery(Struct, forbid_unknown_fields=True):
    """Which dead letters a client asks for: of the conversations *behind* one, about so many."""

    behind: wire.Name | None = None
    limit: wire.Limit = 100


class AllDeadLetters(wire.Resource):
    """/v1/dead-letters"""

    @allows(right="list")
    async def get(self, request: Request) -> Response:
        """Return a page of the messages that were set aside, of all conversations; its `next` is the `behind` of the page after it."""
        asked, core = wire.query(request, LettersQuery), core_of(keep_of(request))
        tenant = principal_of(request).tenant
        found, following = await core.dead_letters(tenant, after=asked.behind or "", limit=asked.limit)
        return wire.as_json(answers.DeadLetters(list(map(answers.dead_letter, found)), following))


class DeadLetters(wire.Resource):
    """/v1/conversations/{id}/dead-letters"""

    @allows(right="list", masks=True)
    async def get(self, request: Request) -> Response:
        """Return the messages of one conversation that were set aside, oldest first."""
        found = await tenant_of(request).dead_letters(conversation_asked(request))
        if not found:
            await conversation(request, messages=0)  # as `Deliveries`
        return wire.as_json(answers.DeadLetters(list(map(answers.dead_letter, found))))


class DeadLetterAsked(wire.Resource):
    """/v1/conversations/{id}/dead-letters/{number}"""

    @audited("replay")
    @allows(right="operate")
    async def post(self, request: Request) -> Response:
        """Hand the message in again, once; the letter is closed when that is answered."""
        receipt = await tenant_of(request).replay(conversation_asked(request), number_asked(request))
        return wire.as_json(answers.receipt(receipt), status=200 if receipt.duplicate else 201)

    @audited("dismiss")
    @allows(right="operate")
    async def delete(self, request: Request) -> Response:
        """Close the letter without a replay; the message stays in the log."""
        await tenant_of(request).dismiss(conversation_asked(request), number_asked(request))
        return Response(status_code=204)


class Settlement(Struct, forbid_unknown_fields=True):
    """How a call in doubt has ended: whether it was *done*, and with which *result*."""

    done: bool
    result: Any = None


class Doubts(wire.Resource):
    """/v1/conversations/{id}/doubts"""

    @allows(right="list")
    async def get(self, request: Request) -> Response:
        """Return the calls of tools that must not run twice that have begun and not ended, oldest first."""
        found = await tenant_of(request).doubts(conversation_asked(request))
        if not found:
            await conversation(request, messages=0)  # an empty list of what is not there would hide that
        return wire.as_json(answers.Doubts(found))


class DoubtAsked(wire.Resource):
    """/v1/conversations/{id}/doubts/{call}"""

    @audited("settle")
    @allows(right="operate")
    async def post(self, request: Request) -> Response:
        """Say how a call in doubt has ended; a message that was set aside because of it is then handed in again."""
        asked = await wire.body(request, Settlement, limit=room(request, "message_limit"))
        place = tenant_of(request).name, conversation_asked(request), request.path_params["call"]
        if not await core_of(keep_of(request)).settle(*place, done=asked.done, result=asked.result):
            raise wire.Refused(404, "not-found", "No call of this name is in doubt there; nothing was settled.")
        return Response(status_code=204)


async def take_over(request: Request, *, into: Snapshot | None = None) -> None:
    """Pause the bot; whoever is signed in is assigned the conversation in the same act, unless a person has it. *into*: only in the
    conversation that this shows."""
    operator = principal_of(request).operator
    by = "" if operator is None else operator.name
    await core_of(keep_of(request)).take_over(tenant_of(request).name, conversation_asked(request), by, into=into)


async def assignee_asked(request: Request, name: str) -> str:
    """Return the account of this name as it is stored, "" for nobody. Raises 422 for one that may not operate in the tenant."""
    principal = principal_of(request)
    if not name or name == principal.id:
        return name
    with wire.refusing(422, "bad-assignee"):
        name = name_of(name)
    account = await stored_accounts(keep_of(request)).get(name)
    if account is None or not may_look_after(account, principal.tenant):
        raise wire.Refused(
            422, "bad-assignee", "No account of that name may operate in this tenant; nothing was assigned."
        )
    return name


def number_asked(request: Request) -> int:
    """Return the number of a message that the address names."""
    try:
        return min(wire.whole(request.path_params["number"]), wire.NEWEST)
    except ValueError:
        raise wire.Refused(404, "not-found", NOT_FOUND) from None


ROUTES: list[BaseRoute] = [
    wire.RawRoute(f"{wire.ONE}/bot", Bot),
    wire.RawRoute(f"{wire.ONE}/assignee", Assignee),
    wire.RawRoute(f"{wire.ONE}/operator", OperatorMessages),
    wire.RawRoute(f"{wire.ONE}/deliveries", Deliveries),
    wire.RawRoute(f"{wire.ONE}/deliveries/{{number}}", Resending),
    wire.RawRoute(f"{wire.ONE}/messages/{{number}}", OneMessage),
    wire.RawRoute(f"{wire.ONE}/changes/{{number}}", Change),
    wire.RawRoute(f"{wire.ONE}/as-of/{{number}}", AsOf),
    wire.RawRoute("/v1/dead-letters", AllDeadLetters),
    wire.RawRoute(f"{wire.ONE}/dead-letters", DeadLetters),
    wire.RawRoute(f"{wire.ONE}/dead-letters/{{number}}", DeadLetterAsked),
    wire.RawRoute(f"{wire.ONE}/doubts", Doubts),
    wire.RawRoute(f"{wire.ONE}/doubts/{{call}}", DoubtAsked),
]
