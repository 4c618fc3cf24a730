"""Which people have a conversation open at the desk just now, or write in it, so that two of them do not answer the same customer.

Who has it open holds an event stream of it; who writes says so now and then. Both are kept in memory. A process tells the others in one
record of its own, when something has changed, at most every SAYS_S, and after AGAIN_S: no key press is a write, nor is a conversation's own
record touched. With nobody at the desk nothing is written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..app import Chatkeep, core_of
from ..auth.credentials import EVERYWHERE
from ..conversation.keys import key_for
from ..errors import ChatkeepError
from ..storage.heartbeats import Heartbeats
from . import wire
from .access import allows, conversation_asked, principal_of

log = logging.getLogger("chatkeep.server")

SAYS_S = 1.0
AGAIN_S = 20.0
"""A process with somebody at the desk says so again after so long."""

GONE_S = 60.0
"""One that has said nothing for so long is believed no more: it was killed."""

LOOKS_S = 2.0
"""What the other processes say is read no more often than this."""

WRITES_S = 12.0
"""So long somebody writes who has said so once."""

WRITING_MOST = 1000
"""So many are known to write at once in a process."""

TOLD_MOST = 500
"""A process tells the others of so many at most; of those beyond only the process itself knows."""

TOLD_BYTES = 48 * 1024
"""So much room is for them, as JSON: a record takes 64 KiB."""

LISTED = "presence"
"""The owner of the records of all processes, by which they are listed."""


class Present(Struct, frozen=True, order=True):
    """Somebody who has a conversation open: the account, the name that customers see, and whether they write just now."""

    tenant: str
    conversation: str
    account: str
    shown: str
    writing: bool


class Told(Struct, frozen=True, omit_defaults=True):
    """What a process has told: who is there, and when it said so, by its clock."""

    present: list[Present] = []
    at: float = 0.0


class PresentPeople(Struct, frozen=True):
    """Who has a conversation open, in the tenants that whoever asks may see."""

    present: list[Present]


Who = tuple[str, str, str, str]


class Presence:
    """The people at the desk of one application over *keep*, and what other processes on the store say of theirs."""

    def __init__(self, keep: Chatkeep[Any]) -> None:
        self._keep = keep
        self._said = Heartbeats(
            core_of(keep).records("presence", Told), LISTED, gone_s=GONE_S, said_at=lambda told: told.at
        )
        self._open: Counter[Who] = Counter()
        self._writing: dict[Who, float] = {}
        self._teller: asyncio.Task[None] | None = None
        self._others: list[Present] = []
        self._looked_at = -LOOKS_S

    async def close(self) -> None:
        """Say that nobody is here any more."""
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)
            await self._said.end()

    def enter(self, request: Request) -> Callable[[], None]:
        """Note that whoever asks has the conversation open; returns what notes that they have left."""
        who = who_asks(request)
        if who is None:
            return lambda: None
        self._open[who] += 1
        self._tell()

        def leave() -> None:
            self._open[who] -= 1
            self._open += Counter()  # without those of whom nothing is left
            if not self._open[who]:
                self._writing.pop(who, None)

        return leave

    def write(self, request: Request) -> None:
        """Note that whoever asks writes there."""
        who = who_asks(request)
        if who is not None and (who in self._writing or len(self._writing) < WRITING_MOST):
            self._writing[who] = time.monotonic() + WRITES_S
            self._tell()

    async def find(self) -> list[Present]:
        """Return who is there, by all processes on the store as far as they have said so; asks it after LOOKS_S."""
        if time.monotonic() - self._looked_at >= LOOKS_S:
            self._looked_at = time.monotonic()
            others = await self._said.others(core_of(self._keep).clock())
            self._others = [one for told in others for one in told.present]
        found: dict[tuple[str, str, str], Present] = {}
        for one in [*self._here(), *self._others]:
            place = one.tenant, one.conversation, one.account
            if place not in found or one.writing:
                found[place] = one
        return sorted(found.values())

    def _here(self) -> list[Present]:
        now = time.monotonic()
        self._writing = {who: until for who, until in self._writing.items() if until > now}
        return sorted(Present(*who, who in self._writing) for who in self._open.keys() | self._writing.keys())

    def _tell(self) -> None:
        if self._teller is None or self._teller.done():
            self._teller = asyncio.create_task(self._go_on(), name="chatkeep presence")

    async def _go_on(self) -> None:
        told: list[Present] | None = None
        again_at = 0.0
        while told is None or told or self._here():  # (somebody may have come while the last one's leaving was told)
            try:
                if (here := self._here()) != told or time.monotonic() >= again_at:
                    await self._said.say(Told(fitting(here), core_of(self._keep).clock()))
                    told, again_at = here, time.monotonic() + AGAIN_S
            except ChatkeepError as fault:
                log.debug("Who is at the desk could not be told: %s", fault)
            await asyncio.sleep(SAYS_S)


def fitting(present: Sequence[Present]) -> list[Present]:
    """Return those of *present* whom a record has room for: first who writes, then the others, each in order of tenant and conversation."""
    kept, left = list[Present](), TOLD_BYTES
    for one in sorted(present, key=lambda one: (not one.writing, one))[:TOLD_MOST]:
        left -= len(msgspec.json.encode(one)) + 1
        if left < 0:
            break
        kept.append(one)
    return kept


def who_asks(request: Request) -> Who | None:
    """Return where whoever asks is, and who that is; None for nobody who could answer there."""
    principal = principal_of(request)
    if principal.operator is None or "operate" not in principal.scopes:
        return None
    return principal.tenant, conversation_asked(request), principal.id, principal.label


class PeoplePresent(wire.Resource):
    """/v1/desk/present"""

    @allows(right="operate")
    async def get(self, request: Request) -> Response:
        """Return who has which conversation open at the desk, or writes in it; whoever asks is among them."""
        principal, presence = principal_of(request), presence_of(request)
        seen = principal.operator.tenants if principal.operator else (principal.tenant,)
        found = [one for one in await presence.find() if EVERYWHERE in principal.scopes or one.tenant in seen]
        return wire.as_json(PresentPeople(found))


class Writing(wire.Resource):
    """/v1/conversations/{id}/writing"""

    @allows(right="operate")
    async def put(self, request: Request) -> Response:
        """Say that one writes there, for other people at the desk; it holds for some seconds, and is kept in memory alone."""
        key_for(principal_of(request).tenant, conversation_asked(request))  # refuses what names no conversation
        presence_of(request).write(request)
        return Response(status_code=204)


def presence_of(request: Request) -> Presence:
    """Return who is at the desk of the application."""
    found: Presence = request.app.state.presence
    return found


ROUTES: list[BaseRoute] = [
    wire.RawRoute("/v1/desk/present", PeoplePresent),
    wire.RawRoute("/v1/conversations/{id}/writing", Writing),
]
