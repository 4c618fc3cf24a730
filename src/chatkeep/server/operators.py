"""What an operator does to a conversation: takes it over from the bot, writes in it, hands it back, looks after deliveries."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..model import Content
from . import answers, wire
from .access import NOT_FOUND, allows, conversation_asked, tenant_of

BODY_LIMIT = 1024 * 1024


class Switching(Struct, forbid_unknown_fields=True):
    """Whether the bot answers here; when it goes on again, what is *unread* is answered or skipped."""

    on: bool
    unread: Literal["answer", "skip"] = "answer"


class Written(Struct, forbid_unknown_fields=True):
    """What an operator writes. *bot*: the switch that goes with it, in the same breath."""

    content: Content
    id: str | None = None
    bot: bool | UnsetType = UNSET


class Bot(wire.Resource):
    """/v1/conversations/{id}/bot"""

    @allows(service=True)
    async def put(self, request: Request) -> Response:
        """Switches the bot off, so that a person can take over, or on again. A turn that runs meanwhile says nothing."""
        asked = await wire.body(request, Switching, limit=BODY_LIMIT)
        tenant, conversation = tenant_of(request), conversation_asked(request)
        await tenant.switch(asked.on, conversation, unread=asked.unread)
        return wire.as_json(answers.Switched(asked.on))


class OperatorMessages(wire.Resource):
    """/v1/conversations/{id}/operator"""

    @allows(service=True)
    async def post(self, request: Request) -> Response:
        """Says something as a person, through the same channel; with `"bot": false` the bot is switched off before."""
        written = await wire.body(request, Written, limit=BODY_LIMIT)
        tenant, conversation = tenant_of(request), conversation_asked(request)
        if written.bot is not UNSET and not written.bot:
            await tenant.switch(False, conversation)
        receipt = await tenant.accept(conversation, written.content, id=written.id, role="operator")
        if written.bot is True:
            await tenant.switch(True, conversation)
        return wire.as_json(answers.receipt(receipt), status=200 if receipt.duplicate else 201)


class Deliveries(wire.Resource):
    """/v1/conversations/{id}/deliveries"""

    @allows(service=True)
    async def get(self, request: Request) -> Response:
        """How the sending of each reply stands."""
        found = await tenant_of(request).deliveries(conversation_asked(request))
        return wire.as_json(answers.Deliveries(found))


class Resending(wire.Resource):
    """/v1/conversations/{id}/deliveries/{number}"""

    @allows(service=True)
    async def post(self, request: Request) -> Response:
        """Sends a reply once more."""
        try:
            number = wire.whole(request.path_params["number"])
        except ValueError:
            raise wire.Refused(404, "not-found", NOT_FOUND) from None
        await tenant_of(request).resend(conversation_asked(request), number)
        return Response(status_code=204)


ONE = "/v1/conversations/{id}"
ROUTES: list[BaseRoute] = [
    wire.RawRoute(f"{ONE}/bot", Bot),
    wire.RawRoute(f"{ONE}/operator", OperatorMessages),
    wire.RawRoute(f"{ONE}/deliveries", Deliveries),
    wire.RawRoute(f"{ONE}/deliveries/{{number}}", Resending),
]
