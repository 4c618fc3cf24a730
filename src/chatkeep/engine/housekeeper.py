"""Looks after conversations in which nothing waits for an answer: what is due there, and which of them come to an end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from ..conversation import housekeeping, snapshots
from ..conversation.codec import record_of
from ..conversation.keys import RESERVED
from ..conversation.snapshots import Commit, Snapshot
from ..drivers.base import Key, Row
from ..errors import Conflict, Corrupt, Unavailable, Uncertain, Unsupported
from ..model import Message
from ..storage.erasures import note_erasure
from ..storage.holds import find_hold
from ..storage.records import erase_belongings
from .high_water import HighWater
from .lease_keeper import LeaseKeeper
from .pauses import Pauses
from .sender import Sender
from .shared import Shared

PAGE = 100
"""Conversations that are scheduled at one beat."""

LOOK_S = 86_400.0
"""So often the store is gone through again where something is to be removed: instances with other settings, or of a version that knows no
such end, may have written since."""


class Housekeeper:
    """The housekeeping of one engine."""

    def __init__(
        self, shared: Shared[Any], *, leases: LeaseKeeper, sender: Sender, pauses: Pauses, high_water: HighWater
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._leases = leases
        self._sender = sender
        self._pauses = pauses
        self._high_water = high_water
        self.unscheduled: Row | bool = False
        """Up to which row what was written without the settings is scheduled; True: nothing yet, False: all."""
        self._all_at = 0.0  # when it was all

    async def tend(self, snapshot: Snapshot, now: float) -> bool:
        """Do what is due in a conversation without unread messages: bring reminders, end the session, drop old log.

        Tell whether there is something to answer now.
        """
        row, record = snapshot.row, snapshot.record
        if not row.revision or row.due_at is None or row.due_at > now:
            return False
        ends = await self._high_water.reach(now)
        if row.due_at > ends and housekeeping.may_wait(row, record, soon=now):
            return False  # it is over only by a clock that is doubtful
        policy = self._shared.policy
        forgotten = housekeeping.is_forgotten(snapshot, policy, at=ends) and self._sender.due(snapshot, at=ends) is None
        oldest: list[Message] = []
        if policy.retention_s is not None and not forgotten:
            oldest = await self._store.page(
                row.key, row.incarnation, after=record.dropped, limit=housekeeping.PAGE_DROPPED
            )
        drops = policy.retention_s is not None and oldest and oldest[0].created_at + policy.retention_s <= ends
        held = bool(forgotten or drops) and await find_hold(self._store, row) is not None
        if forgotten and not held:
            return await self._forget(snapshot, ends)
        rings = any(reminder.at <= now for reminder in record.reminders)
        paused = rings and self._pauses.is_paused(snapshot) and await self._pauses.is_still_paused(snapshot)

        def decide(there: Snapshot) -> Commit | None:
            if there.row.head != row.head or snapshots.unread_messages(there):
                return None
            if there.row.due_at is None or there.row.due_at > now:
                return None  # another instance was quicker
            if paused and there.row.revision != row.revision:
                return None  # a resume, perhaps: it is looked at again
            if self._leases.observe_holder(there.row):
                return None  # somebody is at work here
            sends = self._sender.takes(there.row.key)
            return housekeeping.do_housekeeping(
                there, policy, at=now, ends=ends, oldest=oldest, paused=paused, sends=sends, held=held
            )

        after, said = await self._shared.commit(snapshot, decide)
        return bool(said) and bool(snapshots.unread_messages(after))

    async def end_rest(self, snapshot: Snapshot, now: float) -> bool | None:
        """Erase a conversation that rests, and is to be forgotten *now*. Tell whether something has happened just now; None: it is on legal
        hold. By a clock that is doubtful nothing is done."""
        ends = await self._high_water.reach(now)
        if not housekeeping.is_forgotten(snapshot, self._shared.policy, at=ends):
            return False
        if await find_hold(self._store, snapshot.row) is not None:
            return None
        return await self._forget(snapshot, ends)

    async def end_sessions(self, rows: list[Row], now: float) -> list[Row]:
        """End the sessions of *rows*, all in one batch of the store. Give those where more is to be done than that, or where it could
        not be read what. Raises what the store raises that cannot be reached."""
        ended = await asyncio.gather(*(self._end_session(row, now) for row in rows), return_exceptions=True)
        for fault in ended:
            if isinstance(fault, Unavailable | Uncertain):
                raise fault
        return [row for row, done in zip(rows, ended, strict=True) if done is not True]

    async def _end_session(self, row: Row, now: float) -> bool:
        """End the session in a conversation of which only *row* was read, if that is all that is due there; False: it is to be looked
        at as a whole."""
        policy, clock = self._shared.policy, self._shared.clock
        if policy.retention_s is not None or self._leases.observe_holder(row):
            return False

        def decide(there: Snapshot) -> Commit | None:
            idle = housekeeping.may_wait(row, there.record, soon=now)
            if not idle or row.due_at is None or row.due_at > now or housekeeping.is_forgotten(there, policy, at=now):
                return None
            return housekeeping.do_housekeeping(there, policy, at=clock(), ends=now, oldest=[])

        return await self._store.commit_row(row, decide, at=clock())

    def look_again(self) -> None:
        """Begin to go through the store anew, when it is time to."""
        age = self._shared.clock() - self._all_at
        if self.unscheduled is False and not 0 <= age < LOOK_S:  # (a clock may have been set back by years)
            self.unscheduled = True

    async def schedule_page(self) -> None:
        """Go through the next page of the store for what was last written where no setting asked for its end."""
        after = None if isinstance(self.unscheduled, bool) else self.unscheduled
        rows = await self._store.rows("key", after=after, limit=PAGE)
        policy, now = self._shared.policy, self._shared.clock()
        for row in rows:
            if row.due_at is None and not row.key.tenant.startswith(RESERVED):
                with suppress(Corrupt, Unsupported):  # whoever answers there tells of it
                    if housekeeping.may_schedule(row, record_of(row), policy, at=now):
                        await self._schedule(row.key)
        self.unscheduled, self._all_at = rows[-1] if len(rows) == PAGE else False, now

    async def _schedule(self, key: Key) -> None:
        snapshot, now = await self._store.reload(key), self._shared.clock()

        def decide(there: Snapshot) -> Commit | None:
            return housekeeping.schedule(there, self._shared.policy, at=now) if there.row.revision else None

        await self._store.commit(snapshot, decide, at=now)

    async def _forget(self, snapshot: Snapshot, ends: float) -> bool:
        """Erase a conversation in which nothing has happened for long by *ends*; tell whether something has happened just now."""
        row = snapshot.row
        if self._leases.observe_holder(row):
            return False
        await note_erasure(self._store, row, clock=self._shared.clock)
        try:
            await self._store.erase(row.key, at=ends, revision=row.revision)
        except Conflict:
            return True
        await erase_belongings(self._store, row.key, at=ends)
        return False
