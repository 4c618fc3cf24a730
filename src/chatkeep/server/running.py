"""What is being answered in a conversation right now: whether somebody does, and the end of it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from . import answers, wire
from .access import allows, conversation_asked, tenant_of
from .audit import audited


class Running(wire.Resource):
    """/v1/conversations/{id}/answering"""

    @allows("read")
    async def get(self, request: Request) -> Response:
        """Tell whether somebody answers in the conversation now, on whichever instance."""
        found = await tenant_of(request).answering(conversation_asked(request))
        return wire.as_json(answers.Answering(found.status, found.number, found.reply))


class Stop(wire.Resource):
    """/v1/conversations/{id}/stop"""

    @audited("stop")
    @allows("send")
    async def post(self, request: Request) -> Response:
        """End the reply that is being made, and keep what was said of it; answers when that is recorded. Twice is fine."""
        found = await tenant_of(request).stop(conversation_asked(request))
        return wire.as_json(
            answers.Stopped(found.stopped, None if found.reply is None else answers.message(found.reply))
        )


ONE = "/v1/conversations/{id}"
ROUTES: list[BaseRoute] = [
    wire.RawRoute(f"{ONE}/answering", Running),
    wire.RawRoute(f"{ONE}/stop", Stop),
]
