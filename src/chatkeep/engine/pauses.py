"""Pauses, in which the bot is silent: of one conversation (in its record), of a tenant, or of all (in a record of their own).

What waits in a paused conversation rests: it is not due, and nothing is written there. The act that resumes a conversation
makes it due again. Whoever resumes a tenant says so first and then goes through its conversations; should that process die
in between, others find what it has said, and go through them in its place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from msgspec import structs

from ..conversation import assignments, commits, housekeeping, sessions, turns
from ..conversation.codec import record_of
from ..conversation.keys import RESERVED
from ..conversation.record import NONE, Record
from ..conversation.snapshots import Commit, Policy, Snapshot
from ..conversation.state import StateCodec
from ..drivers.base import Key, Row
from ..errors import Corrupt, StoreError, Unsupported
from ..model import OffBy
from ..storage.selection import select_page
from ..storage.store import Store
from ..storage.tokens import fresh_token

log = logging.getLogger("chatkeep")

PAUSES = Key(RESERVED + "chatkeep", "switches")
STATES: StateCodec[dict[str, bool]] = StateCodec(dict, limit=1024 * 1024)
EVERYWHERE = "*"
WAKING = "-"
"""Begins what is said of a resumption whose conversations are not all due again: WAKING, a token, "/", the scope."""

TAKEN_OVER_S = 15.0
"""A resumption that is not finished after so long is finished by others too."""
CACHE = "!cache"
"""Stands among what is paused while the shared cache is switched off: what all instances look at anyway."""


class Pauses:
    """What is paused, as far as this instance knows; a tenant of None is all of them. *fresh_s*: nobody sweeps here, and what was looked
    at so long ago is looked at again before anything is judged by it."""

    def __init__(
        self, store: Store, policy: Policy, clock: Callable[[], float], *, fresh_s: float | None = None
    ) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock
        self._fresh_s = fresh_s
        self._paused: frozenset[str] = frozenset()
        self._known: tuple[str, int] = ("", 0)  # incarnation and head of the record that this is known from
        self._lifted: set[str] = set()
        self._unfinished: dict[str, float] = {}  # when each was seen first
        self._finishing: set[str] = set()  # here
        self._assumed = False  # nobody knows what is paused, and everything counts as paused
        self._looked_at = 0.0  # by the clock of this host, which goes on while a process is frozen

    def is_paused(self, snapshot: Snapshot) -> bool:
        """Tell whether the bot is silent in this conversation: it, its tenant, or everything is paused."""
        return snapshot.record.paused or (bool(self._paused) and self.covers(snapshot.row.key))

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
    def trouble(self) -> str:
        """Why the bot is silent where nobody may have paused it; "" where what is paused is known."""
        if not self._assumed:
            return ""
        return (
            "what is paused cannot be read, so the bot is silent everywhere until `chatkeep resume STORE --everywhere`"
        )

    @property
    def cache_is_off(self) -> bool:
        """Whether the shared cache is switched off on all instances."""
        return CACHE in self._paused

    async def page(
        self, tenant: str | None, *, after: Key | None, limit: int, rows_most: int
    ) -> tuple[list[Key], Key | None]:
        """Give a page of the conversations of a tenant that are paused themselves: see `select_page`."""

        async def name(key: Key) -> list[Key]:
            return [key]

        return await select_page(
            self._store, tenant, lambda record: record.paused, name, after=after, limit=limit, rows_most=rows_most
        )

    async def is_still_paused(self, snapshot: Snapshot) -> bool:
        """Tell whether the bot is silent there, by what the store says now."""
        if not snapshot.record.paused:
            await self.learn()
        return self.is_paused(snapshot)

    async def learn(self) -> None:
        """Read what the store says now, before what cannot be undone is judged by it; where that cannot be read, what was known goes on."""
        with suppress(Corrupt, Unsupported):  # the sweep tells of it
            await self._read()

    async def look(self) -> tuple[list[str | None], list[str]]:
        """Look at what other instances have paused; answers as `note`."""
        await self._read()
        return self._follow()

    def note(self, found: Snapshot | None) -> tuple[list[str | None], list[str]]:
        """Take what was *found* to be paused; give the tenants for which the bot answers again, and the resumptions that somebody has
        begun and, it seems, will not finish."""
        self._take(found)
        return self._follow()

    def assume(self) -> None:
        """Take everything for paused, because nobody can tell what is: a bot that was silenced must not begin to answer."""
        self._assumed = True
        self._paused |= {EVERYWHERE}

    def _follow(self) -> tuple[list[str | None], list[str]]:
        lifted, self._lifted = self._lifted, set()
        late = time.monotonic() - TAKEN_OVER_S
        unfinished = [one for one, since in self._unfinished.items() if since <= late and one not in self._finishing]
        return list(map(_tenant, lifted)), unfinished

    async def refresh(self) -> None:
        """Look at what is paused where nobody sweeps, if that was long ago; where the store does not tell, what was known goes on."""
        if self._fresh_s is not None and abs(time.time() - self._looked_at) > self._fresh_s:
            with suppress(StoreError, Unsupported):
                await self._read()

    async def _read(self) -> None:
        """Read what is paused. Raises `Corrupt` or `Unsupported` where that cannot be read: what was known goes on, or everything is
        paused."""
        try:
            self._take(await self._store.load(PAUSES))
        except (Corrupt, Unsupported):
            if not self._known[0]:
                self.assume()
            raise

    def _take(self, found: Snapshot | None) -> None:
        """Take *found* for what is paused now, unless something newer is known: answers may arrive out of order."""
        self._looked_at = time.time()
        if found is None or found.record.state == NONE:
            if not self._assumed:
                return
            said = dict[str, bool]()
        else:
            incarnation, head = self._known
            if not self._assumed and found.row.incarnation == incarnation and found.row.head < head:
                return
            said = STATES.decode(PAUSES, found.record.state, 1)
            self._known = found.row.incarnation, found.row.head
        self._assumed = False
        before, self._paused = self._paused, frozenset(scope for scope in said if not scope.startswith(WAKING))
        self._lifted |= before - self._paused - {CACHE}
        if self._store.shared is not None and CACHE in before ^ self._paused:
            self._store.shared.on = not self.cache_is_off
        now = time.monotonic()
        self._unfinished = {one: self._unfinished.get(one, now) for one in said if one.startswith(WAKING)}

    async def pause(self, tenant: str | None) -> None:
        """Silence the bot for a tenant; the other instances notice when they look."""
        await self._put({_scope(tenant): True})

    async def resume(self, tenant: str | None) -> str:
        """Let the bot answer again for a tenant; give the resumption, to be finished."""
        resumption = f"{WAKING}{fresh_token()}/{_scope(tenant)}"
        await self._put({_scope(tenant): False, resumption: True})
        self._lifted.discard(_scope(tenant))
        return resumption

    async def finish(self, resumption: str, awake: Callable[[Key], None]) -> None:
        """Go through the conversations of a *resumption*, and say that this is done."""
        self._finishing.add(resumption)
        try:
            await self.wake(_tenant(resumption.partition("/")[2]), awake, rewrites=True)
            await self._put({resumption: False})
        finally:
            self._finishing.discard(resumption)

    async def wake(self, tenant: str | None, awake: Callable[[Key], None], *, rewrites: bool) -> None:
        """Make due again what rests in conversations of a tenant that are paused no more, and tell *awake*; *rewrites*: as
        `housekeeping.wake`."""

        async def wake_one(key: Key) -> None:
            snapshot, now = await self._store.load(key), self._clock()
            if snapshot is None or self.is_paused(snapshot):
                return

            def decide(there: Snapshot) -> Commit | None:
                if there.record.paused:
                    return None
                return housekeeping.wake(there, self._policy, at=now, rewrites=rewrites)

            after, said = await self._store.commit(snapshot, decide, at=now)
            if said is not None or (after.row.due_at is not None and after.row.due_at <= now):
                awake(key)

        await self._for_each(tenant, housekeeping.may_rest, wake_one)

    async def switch_cache(self, on: bool) -> None:
        """Switch the shared cache off, or on again, on all instances: the others notice when they look."""
        await self._put({CACHE: not on})

    async def pause_one(self, key: Key, by: str = "", *, into: Snapshot | None = None) -> None:
        """Silence the bot in one conversation, which *by* takes over, if anybody does; *into*: only in the one that this shows."""
        await self._put_one(key, lambda record: assignments.take_over(record, by), into)

    async def resume_one(self, key: Key) -> Snapshot:
        """Let the bot answer in one conversation again; give what is there then."""
        return await self._put_one(key, assignments.hand_back)

    async def _put(self, scopes: dict[str, bool]) -> None:
        note, now = commits.make_note("switch", fresh_token()), self._clock()
        snapshot, damaged = await self._store.reload_over(PAUSES, at=now)
        known = dict.fromkeys([*self._paused, *self._unfinished], True)

        def decide(there: Snapshot) -> Commit | None:
            record, opens = there.record, there.record.state == NONE
            anew = opens and damaged
            try:
                before = {} if opens else STATES.decode(PAUSES, record.state, 1)
            except Corrupt:
                opens = anew = True
            if anew:  # on top of what this process knows, or takes for true
                before = known
            said = {scope: True for scope in (before | scopes) if scopes.get(scope, True)}
            if said == before and not anew:
                return None
            raw = STATES.encode(PAUSES, said)
            if opens:
                record = sessions.open_session(record, raw, STATES.schema, number=there.row.head + 1, at=now)
            act = commits.commit_note(there, structs.replace(record, state=raw), note, self._policy, at=now)
            return structs.replace(act, drop=record.dropped) if anew else act

        after, _ = await self._store.commit_once(snapshot, decide, at=now, begins=True)
        self._take(after)

    async def _put_one(self, key: Key, edit: Callable[[Record], Record], into: Snapshot | None = None) -> Snapshot:
        name = fresh_token()

        def decide(there: Snapshot) -> Commit | None:
            record = edit(there.record)
            if record == there.record:
                return None
            note = commits.make_note("switch", name, content="off" if record.paused else "on")
            if record.assignee != there.record.assignee:
                note = structs.replace(note, metadata=note.metadata | {"assignee": record.assignee})
            return commits.commit_note(there, record, note, self._policy, at=self._clock())

        there = into or await self._store.reload(key)
        begins = not there.row.revision  # what is erased in this moment is not begun anew
        after, _ = await self._store.commit_once(there, decide, at=self._clock(), begins=begins)
        return after

    async def skip(self, tenant: str | None) -> None:
        """Pass over what came, or fell due, while a tenant was paused, conversation by conversation; before the tenant is resumed."""
        await self._for_each(
            tenant,
            housekeeping.may_rest,
            lambda key: self.skip_one(key, lifted=_scope(tenant)),
        )

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

    async def _for_each(
        self,
        tenant: str | None,
        wanted: Callable[[Row, Record], bool],
        act: Callable[[Key], Coroutine[Any, Any, None]],
    ) -> None:
        """Do *act* to each conversation of a tenant that is *wanted*; those that cannot be read are told and passed over."""
        async for row in self._store.walk("key", tenant=tenant):
            try:
                if row.key != PAUSES and wanted(row, record_of(row)):
                    await act(row.key)
            except (Corrupt, Unsupported) as unreadable:
                log.error("%s", unreadable)


def _scope(tenant: str | None) -> str:
    return EVERYWHERE if tenant is None else "=" + tenant


def _tenant(scope: str) -> str | None:
    return None if scope == EVERYWHERE else scope[1:]
