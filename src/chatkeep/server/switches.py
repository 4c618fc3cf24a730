"""What is switched for more than one conversation: the bot of a tenant, or of all; the shared cache."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import core_of
from ..auth.credentials import EVERYWHERE
from ..conversation.keys import key_for
from ..engine.parts import Stats
from . import answers, wire
from .access import allows, keep_of, principal_of, tenant_of
from .audit import audited, call
from .refusals import forbidden


class TenantPausing(Struct, forbid_unknown_fields=True):
    """Whether the bot is silent for the key's tenant or, with *everywhere*, for all; what is *unread* then is answered or skipped."""

    paused: bool
    everywhere: bool = False
    unread: Literal["answer", "skip"] = "answer"


class CacheSwitch(Struct, forbid_unknown_fields=True):
    """Whether the shared cache is in use."""

    on: bool


class PausedQuery(Struct, forbid_unknown_fields=True):
    """Which paused conversations a client asks for: those *behind* one, so many."""

    behind: wire.Name | None = None
    limit: wire.Limit = 100


class TenantBot(wire.Resource):
    """/v1/bot"""

    @allows(right="list", masks=True)
    async def get(self, request: Request) -> Response:
        """Tell whether the bot answers in the key's tenant and, if not, what is paused."""
        return wire.as_json(await status(request))

    @audited("switch")
    @allows(right="switch")
    async def put(self, request: Request) -> Response:
        """Pause the bot for the key's tenant, or resume it; everywhere, with a key that may (`chatkeep key create --everywhere`)."""
        asked = await wire.body(request, TenantPausing, limit=wire.SHORT_BODY)
        keep, tenant = keep_of(request), tenant_of(request)
        where = "everywhere" if asked.everywhere else "tenant"
        call(request, f"{'pause' if asked.paused else 'resume'}:{where}")
        if asked.everywhere:
            refuse_without_everywhere(request)
            await (keep.pause_all() if asked.paused else keep.resume_all(unread=asked.unread))
        else:
            await (tenant.pause() if asked.paused else tenant.resume(unread=asked.unread))
        return wire.as_json(await status(request))


class Paused(wire.Resource):
    """/v1/paused"""

    @allows(right="list")
    async def get(self, request: Request) -> Response:
        """Return the conversations that are paused themselves, a page at a time; its `next` is the `behind` of the page after it."""
        asked, tenant = wire.query(request, PausedQuery), principal_of(request).tenant
        after = key_for(tenant, asked.behind) if asked.behind else None
        found, last = await core_of(keep_of(request)).page_paused(tenant, after=after, limit=asked.limit)
        return wire.as_json(answers.Paused([key.id for key in found], last and last.id))


class ServerStats(Struct, frozen=True, kw_only=True):
    """The server around the Chatkeep: how many answers are open (event streams), and how many acts wait to be noted in the audit log."""

    streams: int
    acts_waiting: int


class ProcessStats(Stats, frozen=True, kw_only=True):
    """What this process has done, part by part, the server among them."""

    server: ServerStats


class Statistics(wire.Resource):
    """/v1/stats"""

    @allows(right="list")
    async def get(self, request: Request) -> Response:
        """Tell what each part of the process that answers has done since it was started, and how it is now: of all tenants together."""
        found, state = keep_of(request).stats(), request.app.state
        server = ServerStats(streams=len(state.streams), acts_waiting=state.trail.waiting)
        return wire.as_json(ProcessStats(**structs.asdict(found), server=server))


class SharedCache(wire.Resource):
    """/v1/cache"""

    @allows(right="list")
    async def get(self, request: Request) -> Response:
        """Tell whether the shared cache is in use."""
        return wire.as_json(answers.CacheStatus(await core_of(keep_of(request)).cache_is_on()))

    @audited("switch")
    @allows(right="switch")
    async def put(self, request: Request) -> Response:
        """Switch the shared cache off, or on again, on all instances; only speed changes. It takes a key for everywhere."""
        asked = await wire.body(request, CacheSwitch, limit=wire.SHORT_BODY)
        call(request, f"cache:{'on' if asked.on else 'off'}")
        refuse_without_everywhere(request)
        await core_of(keep_of(request)).switch_cache(asked.on)
        return wire.as_json(answers.CacheStatus(asked.on))


async def status(request: Request) -> answers.TenantBotStatus:
    """Return how the bot stands in the tenant of who asks."""
    principal = principal_of(request)
    scopes = await core_of(keep_of(request)).find_paused()
    off_by: list[Literal["tenant", "everywhere"]] = ["tenant"] if principal.tenant in scopes else []
    off_by += ["everywhere"] if None in scopes else []
    told = answers.TenantBotStatus(paused=bool(off_by), off_by=off_by)
    if EVERYWHERE in principal.scopes:
        told.tenants = [scope for scope in scopes if scope is not None]
    return told


def refuse_without_everywhere(request: Request) -> None:
    """Raise 403 for a key of one tenant alone."""
    if EVERYWHERE not in principal_of(request).scopes:
        raise forbidden(
            "This key is for one tenant, and this concerns all; nothing was changed. `chatkeep key create --everywhere` makes one that may."
        )


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/bot", TenantBot),
    wire.RawRoute("/v1/paused", Paused),
    wire.RawRoute("/v1/cache", SharedCache),
    wire.RawRoute("/v1/stats", Statistics),
]
