"""Who did what: one line of the log for each act of an operator, a backend or a token, and for keys an entry in the store.

    from chatkeep.server.access import allows
    from chatkeep.server.wire import Resource

    class Erasing(Resource):
        @audited("erase")
        @allows("erase")
        async def delete(self, request): ...

The logger is "chatkeep.audit". What a service key did, or a person who is signed in, is also kept with the store (`storage.audit`), some
moments later, so that an act costs no second round trip; it is read at /v1/audit and by `chatkeep audit`. Acts of tokens are lines only:
a visitor makes as many as they like.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import Chatkeep, core_of
from ..errors import ChatkeepError
from ..storage.audit import Act
from . import answers, wire
from .access import allows, keep_of, principal_of
from .principals import Principal

log = logging.getLogger("chatkeep.audit")

GATHER_S = 0.2
"""Acts of this time are written together."""

WAITING_MOST = 10_000

Endpoint = TypeVar("Endpoint", bound=Callable[..., Coroutine[Any, Any, Response]])


def audited(act: str, *, kept: bool = True, daily: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Have each use of an endpoint noted as *act*, or as what `call` says, with its outcome; stands above `allows`. It is a line of the log
    alone where not *kept*: what the endpoint calls has it kept with the store, and twice would be two acts. *daily*: customers do it all
    day, as they write messages, and only keys and people who are signed in are noted."""

    def noting(endpoint: Endpoint) -> Endpoint:
        @wraps(endpoint)
        async def answer(*args: Any) -> Response:
            request: Request = args[-1]
            outcome = "failed"
            try:
                response = await endpoint(*args)
                outcome = getattr(request.state, "outcome", str(response.status_code))
            except HTTPException as refused:
                outcome = str(refused.status_code)
                raise
            except ChatkeepError as fault:
                outcome = type(fault).__name__
                raise
            finally:
                trail: Trail = request.app.state.trail
                principal: Principal | None = getattr(request.state, "principal", None)
                if not daily or (principal is not None and principal.rules):
                    trail.note(request, getattr(request.state, "act", act), outcome, kept=kept)
            return response

        return answer  # type: ignore[return-value]

    return noting


def call(request: Request, act: str) -> None:
    """Say what a request does, where its method alone does not."""
    request.state.act = act


def end(request: Request, outcome: str) -> None:
    """Say how a request has ended, where the status that a browser is sent on with does not."""
    request.state.outcome = outcome


class Trail:
    """What was done through one application, on its way to the log and the store."""

    def __init__(self, keep: Chatkeep[Any]) -> None:
        self._keep = keep
        self._waiting: dict[str, list[Act]] = defaultdict(list)
        self._writer: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """How many acts wait to be written."""
        return sum(map(len, self._waiting.values()))

    def note(self, request: Request, act: str, outcome: str, *, conversation: str = "", kept: bool = True) -> None:
        """Note an act of whom `allows` has recognised, on a *conversation* or on that of the address; nobody else has done anything."""
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None or (principal.kind == "visitor" and not outcome.startswith("2")):
            return
        made = Act(
            act=act,
            by=principal.id or principal.user or "visitor",
            label=principal.label,
            conversation=conversation or getattr(request.state, "conversation", ""),
            address=request.client.host if request.client else "",
            outcome=outcome,
            at=core_of(self._keep).clock(),
        )
        tenant = getattr(request.state, "joined", principal.tenant)
        told = {"act": act, "by": made.by, "tenant": tenant, "conversation": made.conversation}
        log.info("%s %s", act, outcome, extra=told | {"address": made.address, "outcome": outcome})
        if not kept or not principal.rules or not outcome.startswith("2"):
            return
        if self.waiting >= WAITING_MOST:
            log.error("An act could not be kept, because %d wait for the store; it is in this log alone.", WAITING_MOST)
            return
        self._waiting[principal.tenant].append(made)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_soon(), name="chatkeep audit")

    async def close(self) -> None:
        """Write what waits; the store is open."""
        if self._writer is not None:
            async with self._writing:  # never in the middle of a write
                self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self.write()

    async def _write_soon(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            await self.write()

    async def write(self) -> None:
        """Have the store keep what is waiting; what it refuses is in the log alone."""
        async with self._writing:
            waiting, self._waiting = self._waiting, defaultdict(list)
            for tenant, acts in waiting.items():
                try:
                    await core_of(self._keep).audit.write(tenant, acts)
                except ChatkeepError as fault:
                    log.error("%d acts could not be kept, and are in this log alone: %s", len(acts), fault)


class AuditQuery(Struct, forbid_unknown_fields=True):
    """Which acts a client asks for: those before a number."""

    before: wire.Number | None = None
    limit: wire.Limit = 100


class Audit(wire.Resource):
    """/v1/audit"""

    @allows(right="audit")
    async def get(self, request: Request) -> Response:
        """Return what service keys of the tenant, and commands on the store, did: the newest first."""
        asked, tenant = wire.query(request, AuditQuery), principal_of(request).tenant
        trail: Trail = request.app.state.trail
        await trail.write()  # what was answered here is in the list
        found = await core_of(keep_of(request)).audit.read(tenant, before=asked.before, limit=asked.limit)
        return wire.as_json(answers.Audit(found))


ROUTES: list[BaseRoute] = [wire.RawRoute("/v1/audit", Audit)]
