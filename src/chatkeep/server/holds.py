"""Legal holds over HTTP: for who may `hold`, which is admins and the keys that are made for it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..conversation.keys import key_for
from ..storage.holds import Hold
from . import wire
from .access import allows, keep_of, principal_of
from .audit import audited

Reason = Annotated[str, Meta(min_length=1, max_length=1000)]


class Holding(Struct, forbid_unknown_fields=True):
    """What is to be on hold, a *conversation* or all that is an *owner*'s, and why."""

    reason: Reason
    conversation: wire.Owner = ""
    owner: wire.Owner = ""


class HeldQuery(Struct, forbid_unknown_fields=True):
    """Which hold is to be lifted: that of a *conversation*, or of an *owner*."""

    conversation: wire.Owner = ""
    owner: wire.Owner = ""


class HeldThings(Struct, frozen=True):
    """Legal holds."""

    holds: list[Hold]


class LegalHolds(wire.Resource):
    """/v1/holds"""

    @allows(right="hold")
    async def get(self, request: Request) -> Response:
        """Return the legal holds of the tenant."""
        holds = core_of(keep_of(request)).holds(principal_of(request).tenant)
        return wire.as_json(HeldThings([held async for held in holds.all()]))

    @audited("hold")
    @allows(right="hold")
    async def post(self, request: Request) -> Response:
        """Put a conversation, or all that is an owner's, on hold; where it is on hold already, that stands."""
        asked = await wire.body(request, Holding, limit=wire.SHORT_BODY)
        tenant = note_subject(request, asked.conversation, asked.owner)
        made = await core_of(keep_of(request)).hold(tenant, asked.conversation, asked.owner, reason=asked.reason)
        return wire.as_json(HeldThings(made))

    @audited("unhold")
    @allows(right="hold")
    async def delete(self, request: Request) -> Response:
        """Lift a hold, and answer what it was; what is over by then ends within the hour."""
        asked = wire.query(request, HeldQuery)
        tenant = note_subject(request, asked.conversation, asked.owner)
        lifted = await core_of(keep_of(request)).lift_hold(tenant, asked.conversation, asked.owner)
        if not lifted:
            raise wire.Refused(404, "not-found", "There is no such hold; nothing was changed.")
        return wire.as_json(HeldThings(lifted))


def note_subject(request: Request, conversation: str, owner: str) -> str:
    """Have the audit log say what a hold is about, and return its tenant. Raises 422 unless it is about one thing."""
    if bool(conversation) == bool(owner):
        raise wire.Refused(422, "bad-subject", "Name either a conversation or an owner; nothing was changed.")
    tenant = principal_of(request).tenant
    with wire.refusing(422, "bad-subject"):
        key_for(tenant, conversation or owner)
    request.state.conversation = conversation or f"owner {owner}"
    return tenant


ROUTES: list[BaseRoute] = [wire.RawRoute("/v1/holds", LegalHolds)]
