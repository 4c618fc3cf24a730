"""Switches that silence the bot: for one conversation (in its record), for a tenant, or everywhere (in a record of their own)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import structs

from ..conversation import commits, sessions, turns
from ..conversation.keys import RESERVED
from ..conversation.record import NONE
from ..conversation.snapshots import Commit, Policy, Snapshot
from ..conversation.state import StateCodec
from ..drivers.base import Key, Row
from ..errors import Corrupt, Unsupported
from ..storage.store import Store, fresh_token

log = logging.getLogger("chatkeep")

PAUSES = Key(RESERVED + "chatkeep", "switches")
STATES: StateCodec[dict[str, bool]] = StateCodec(dict, limit=1024 * 1024)
EVERYWHERE = "*"


class Pauses:
    """What is switched off, as far as this instance knows; a tenant of None is all of them."""

    def __init__(self, store: Store, policy: Policy, clock: Callable[[], float]) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._off: frozenset[str] = frozenset()

    def is_off(self, snapshot: Snapshot) -> bool:
        """Whether the bot is switched off for this conversation: itself, its tenant, or everywhere."""
        return snapshot.record.off or self.off(snapshot.row.key)

    def off(self, key: Key) -> bool:
        """Whether it is off for the tenant of *key*, or everywhere."""
        return bool(self._off) and not self._off.isdisjoint((EVERYWHERE, _scope(key.tenant)))

    async def look(self) -> list[str | None]:
        """Looks at what other instances have switched; answers the tenants for which the bot is on again."""
        found = await self._store.load(PAUSES)
        if found is None or found.record.state == NONE:
            return []
        before, self._off = self._off, frozenset(STATES.decode(PAUSES, found.record.state, 1))
        return [None if scope == EVERYWHERE else scope[1:] for scope in before - self._off]

    async def flip(self, on: bool, tenant: str | None) -> None:
        """Switches the bot for a tenant; this instance and the others notice when they look."""
        scope, note, now = _scope(tenant), commits.make_note("switch", fresh_token()), self._clock()

        def decide(there: Snapshot) -> Commit:
            record, opens = there.record, there.record.state == NONE
            off = {} if opens else STATES.decode(PAUSES, record.state, 1)
            if on:
                off.pop(scope, None)
            else:
                off[scope] = True
            raw = STATES.encode(PAUSES, off)
            if opens:
                record = sessions.open_session(record, raw, STATES.schema, number=there.row.head + 1, at=now)
            return commits.commit_note(there, structs.replace(record, state=raw), note, self._policy, at=now)

        await self._store.commit_once(await self._store.reload(PAUSES), decide, at=now)

    async def flip_one(self, key: Key, on: bool) -> None:
        """Switches the bot for one conversation."""
        note = commits.make_note("switch", fresh_token(), content="on" if on else "off")

        def decide(there: Snapshot) -> Commit:
            record = structs.replace(there.record, off=not on)
            return commits.commit_note(there, record, note, self._policy, at=self._clock())

        await self._store.commit_once(await self._store.reload(key), decide, at=self._clock())

    async def skip(self, tenant: str | None) -> None:
        """Before the switch of a tenant goes on: passes over what came while it was off, conversation by conversation."""
        await self.each(tenant, lambda key: self.skip_one(key, lifted=_scope(tenant)))

    async def skip_one(self, key: Key, *, lifted: str = "") -> None:
        """The same for one conversation; by default before its own switch goes on."""
        snapshot = await self._store.load(key)
        if snapshot is None:
            return
        others = {EVERYWHERE, _scope(key.tenant)} - {lifted}
        if (snapshot.record.off and lifted) or others & self._off:
            return  # it stays off
        now = self._clock()
        await self._store.commit_once(snapshot, lambda there: turns.skip_unread(there, self._policy, at=now), at=now)

    async def each(self, tenant: str | None, act: Callable[[Key], Coroutine[Any, Any, None]]) -> None:
        """Does *act* to every conversation of a tenant; those that cannot be read are told and passed over."""
        after: Row | None = None
        while rows := await self._store.rows("key", tenant=tenant, after=after):
            for row in rows:
                try:
                    if row.key != PAUSES:
                        await act(row.key)
                except (Corrupt, Unsupported) as unreadable:
                    log.error("%s", unreadable)
            after = rows[-1]


def _scope(tenant: str | None) -> str:
    return EVERYWHERE if tenant is None else "=" + tenant
