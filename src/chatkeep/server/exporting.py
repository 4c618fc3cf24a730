"""An export over HTTP: the lines of one conversation, or of all of a tenant, while they are read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from ..app import core_of
from ..conversation.keys import key_for
from ..drivers.base import Ability
from ..storage.archive import Exported
from . import wire
from .access import access_of, allows, keep_of, principal_of
from .audit import audited
from .refusals import not_found

log = logging.getLogger("chatkeep.server")

TOGETHER = 64 * 1024
"""Lines are sent together until they are so many bytes."""


class ExportQuery(Struct, forbid_unknown_fields=True):
    """What is exported: one *conversation*, or all of the tenant."""

    conversation: wire.Name | None = None


class LeftOut(Struct, frozen=True):
    """The line behind the end of an export in which conversations are missing, because they cannot be read: which, and why."""

    left_out: dict[str, str]


class Export(wire.Resource):
    """/v1/export"""

    @audited("export")
    @allows(right="export")
    async def get(self, request: Request) -> Response:
        """Return conversations as lines of JSON. Credentials and the audit log are not among them."""
        asked, tenant = wire.query(request, ExportQuery), principal_of(request).tenant
        core = core_of(keep_of(request))
        if asked.conversation is not None:
            request.state.conversation = asked.conversation
            with wire.refusing(422, "bad-key"):
                key = key_for(tenant, asked.conversation)
            if await core.read_row(key) is None:
                raise not_found()
        elif Ability.SCAN not in core.abilities:
            raise wire.Refused(422, "unsupported", f"The store lacks {Ability.SCAN.name} ({Ability.SCAN}).")
        said = Exported()
        lines = together(core.export(tenant, asked.conversation, said), said, access_of(request).exports)
        return StreamingResponse(lines, media_type="application/jsonl", headers={"x-accel-buffering": "no"})


async def together(lines: AsyncIterator[bytes], said: Exported, places: asyncio.Semaphore) -> AsyncIterator[bytes]:
    """Give *lines*, many at a time; behind the last one what could not be read, if anything.

    One of *places* is held while lines are read, and not while they are sent."""
    held, goes_on = bytearray(), True
    while goes_on:
        async with places:
            goes_on = False
            async for line in lines:
                held += line
                if len(held) >= TOGETHER:
                    goes_on = True
                    break
        if goes_on:
            yield bytes(held)
            held.clear()
    if said.damaged:
        log.error("%d conversations could not be read and are not in an export.", len(said.damaged))
        held += msgspec.json.encode(LeftOut({key.id: why for key, why in said.damaged.items()})) + b"\n"
    yield bytes(held)


ROUTES: list[BaseRoute] = [wire.RawRoute("/v1/export", Export)]
