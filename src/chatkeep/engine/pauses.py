"""Pauses, in which the bot is silent: of one conversation (in its record), of a tenant, or of all (in a record of their own)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import structs

from ..conversation import commits, sessions, turns
from ..conversation.codec import record_from
from ..conversation.keys import RESERVED
from ..conversation.record import NONE
from ..conversation.snapshots import Commit, Policy, Snapshot
from ..conversation.state import StateCodec
from ..drivers.base import Key, Row
from ..errors import Corrupt, Unsupported
from ..model import OffBy
from ..storage.store import PAGE, Store, fresh_token

log = logging.getLogger("chatkeep")

PAUSES = Key(RESERVED + "chatkeep", "switches")
STATES: StateCodec[dict[str, bool]] = StateCodec(dict, limit=1024 * 1024)
EVERYWHERE = "*"
CACHE = "!cache"
"""Stands among what is paused while the shared cache is switched off: what all instances look at anyway."""


class Pauses:
    """What is paused, as far as this instance knows; a tenant of None is all of them."""

    def __init__(self, store: Store, policy: Policy, clock: Callable[[], float]) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._paused: frozenset[str] = frozenset()

    def is_paused(self, snapshot: Snapshot) -> bool:
        """Tell whether the bot is silent in this conversation: it, its tenant, or everything is paused."""
        return snapshot.record.paused or self.covers(snapshot.row.key)

    def covers(self, key: Key) -> bool:
        """Tell whether the tenant of *key*, or everything, is paused."""
        return bool(self._paused) and not self._paused.isdisjoint((EVERYWHERE, _scope(key.tenant)))

    def find_reasons(self, key: Key, paused: bool) -> list[OffBy]:
        """Tell what silences the bot in a conversation that is itself *paused*, or not: it, its tenant, everything."""
        found: list[OffBy] = ["conversation"] if paused else []
        if self._paused:
            found += ["tenant"] if _scope(key.tenant) in self._paused else []
            found += ["everywhere"] if EVERYWHERE in self._paused else []
        return found

    @property
    def scopes(self) -> list[str | None]:
        """The tenants that are paused as a whole; None among them: everything is."""
        return [_tenant(scope) for scope in sorted(self._paused - {CACHE})]

    @property
    def cache_is_off(self) -> bool:
        """Whether the shared cache is switched off on all instances."""
        return CACHE in self._paused

    async def page(
        self, tenant: str | None, *, after: Key | None, limit: int, rows_most: int
    ) -> tuple[list[Key], Key | None]:
        """Give conversations of a tenant that are paused themselves, from behind *after* on, having looked at *rows_most* at most.

        With the key to go on behind; None at the end.
        """
        found: list[Key] = []
        last = None if after is None else Row(key=after, revision="", incarnation="")
        while rows_most > 0:
            rows = await self._store.rows("key", tenant=tenant, after=last, limit=min(PAGE, rows_most))
            for row in rows:
                if not row.key.tenant.startswith(RESERVED) and _is_paused(row):
                    found.append(row.key)
                    if len(found) >= limit:
                        return found, row.key
            if len(rows) < min(PAGE, rows_most):
                return found, None
            rows_most, last = rows_most - len(rows), rows[-1]
        return found, None if last is None else last.key

    async def look(self) -> list[str | None]:
        """Look at what other instances have paused; give the tenants for which the bot answers again."""
        found = await self._store.load(PAUSES)
        if found is None or found.record.state == NONE:
            return []
        before, self._paused = self._paused, frozenset(STATES.decode(PAUSES, found.record.state, 1))
        if self._store.shared is not None and CACHE in before ^ self._paused:
            self._store.shared.on = not self.cache_is_off
        return [_tenant(scope) for scope in before - self._paused - {CACHE}]

    async def pause(self, tenant: str | None) -> None:
        """Silence the bot for a tenant; this instance and the others notice when they look."""
        await self._put(_scope(tenant), there=True)

    async def resume(self, tenant: str | None) -> None:
        """Let the bot answer again for a tenant."""
        await self._put(_scope(tenant), there=False)

    async def switch_cache(self, on: bool) -> None:
        """Switch the shared cache off, or on again; this instance and the others notice when they look."""
        await self._put(CACHE, there=not on)

    async def pause_one(self, key: Key) -> None:
        """Silence the bot in one conversation."""
        await self._put_one(key, paused=True)

    async def resume_one(self, key: Key) -> None:
        """Let the bot answer in one conversation again."""
        await self._put_one(key, paused=False)

    async def _put(self, scope: str, *, there: bool) -> None:
        note, now = commits.make_note("switch", fresh_token()), self._clock()

        def decide(found: Snapshot) -> Commit:
            record, opens = found.record, found.record.state == NONE
            scopes = {} if opens else STATES.decode(PAUSES, record.state, 1)
            if there:
                scopes[scope] = True
            else:
                scopes.pop(scope, None)
            raw = STATES.encode(PAUSES, scopes)
            if opens:
                record = sessions.open_session(record, raw, STATES.schema, number=found.row.head + 1, at=now)
            return commits.commit_note(found, structs.replace(record, state=raw), note, self._policy, at=now)

        await self._store.commit_once(await self._store.reload(PAUSES), decide, at=now)

    async def _put_one(self, key: Key, *, paused: bool) -> None:
        note = commits.make_note("switch", fresh_token(), content="off" if paused else "on")

        def decide(there: Snapshot) -> Commit:
            record = structs.replace(there.record, paused=paused)
            return commits.commit_note(there, record, note, self._policy, at=self._clock())

        await self._store.commit_once(await self._store.reload(key), decide, at=self._clock())

    async def skip(self, tenant: str | None) -> None:
        """Pass over what came while a tenant was paused, conversation by conversation; before the tenant is resumed."""
        await self.for_each(tenant, lambda key: self.skip_one(key, lifted=_scope(tenant)))

    async def skip_one(self, key: Key, *, lifted: str = "") -> None:
        """Pass over what came in one conversation; by default before the conversation itself is resumed."""
        snapshot = await self._store.load(key)
        if snapshot is None:
            return
        others = {EVERYWHERE, _scope(key.tenant)} - {lifted}
        if (snapshot.record.paused and lifted) or others & self._paused:
            return  # it stays paused
        now = self._clock()
        await self._store.commit_once(snapshot, lambda there: turns.skip_unread(there, self._policy, at=now), at=now)

    async def for_each(self, tenant: str | None, act: Callable[[Key], Coroutine[Any, Any, None]]) -> None:
        """Do *act* to every conversation of a tenant; those that cannot be read are told and passed over."""
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


def _tenant(scope: str) -> str | None:
    return None if scope == EVERYWHERE else scope[1:]


def _is_paused(row: Row) -> bool:
    try:
        return record_from(row.key, row.body).paused
    except (Corrupt, Unsupported):  # the list of conversations shows it, with the fault
        return False
