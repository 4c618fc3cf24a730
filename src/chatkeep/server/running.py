"""What is being answered in a conversation right now, and what waits: whether somebody answers, the end of it, messages taken back."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..model import Content
from ..storage.paging import fitting
from . import answers, wire
from .access import allows, conversation_asked, tenant_of
from .api import conversation, room
from .audit import audited
from .operators import number_asked


class Running(wire.Resource):
    """/v1/conversations/{id}/answering"""

    @allows("read", masks=True)
    async def get(self, request: Request) -> Response:
        """Tell whether somebody answers in the conversation now, on whichever instance."""
        found = await tenant_of(request).answering(conversation_asked(request))
        return wire.as_json(answers.Answering(found.status, found.number, found.reply, found.failing))


class Stop(wire.Resource):
    """/v1/conversations/{id}/stop"""

    @audited("stop")
    @allows("send", right="operate")
    async def post(self, request: Request) -> Response:
        """End the reply that is being made, and keep what was said of it; answers when that is recorded. Twice is fine."""
        found = await tenant_of(request).stop(conversation_asked(request))
        return wire.as_json(
            answers.Stopped(found.stopped, None if found.reply is None else answers.message(found.reply))
        )


class Amendment(Struct, forbid_unknown_fields=True):
    """What a message that waits says from now on."""

    content: Content


class Waiting(wire.Resource):
    """/v1/conversations/{id}/waiting"""

    @allows("read", masks=True)
    async def get(self, request: Request) -> Response:
        """Return the messages that wait for an answer, oldest first; the first may be being answered."""
        found = await conversation(request, messages=0)
        shown = found.waiting[: fitting(found.waiting)]
        return wire.as_json(answers.Messages([answers.message(one) for one in shown], len(shown) < found.unread))


class WaitingMessage(wire.Resource):
    """/v1/conversations/{id}/waiting/{number}"""

    @audited("amend")
    @allows("send", right="operate")
    async def put(self, request: Request) -> Response:
        """Say a message that waits anew: the old one is withdrawn, the new one goes to the end of what waits."""
        said = await wire.body(request, Amendment, limit=room(request, "message_limit"))
        receipt = await tenant_of(request).amend(conversation_asked(request), number_asked(request), said.content)
        return wire.as_json(answers.receipt(receipt))

    @audited("withdraw")
    @allows("send", right="operate")
    async def delete(self, request: Request) -> Response:
        """Take back a message that waits: what it says is removed for good, and nobody answers it. Twice is fine."""
        await tenant_of(request).withdraw(conversation_asked(request), number_asked(request))
        return Response(status_code=204)


ROUTES: list[BaseRoute] = [
    wire.RawRoute(f"{wire.ONE}/answering", Running),
    wire.RawRoute(f"{wire.ONE}/stop", Stop),
    wire.RawRoute(f"{wire.ONE}/waiting", Waiting),
    wire.RawRoute(f"{wire.ONE}/waiting/{{number}}", WaitingMessage),
]
