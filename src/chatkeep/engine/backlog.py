"""Works off what a crash, a failure or time has left, found through the index of what is due.

Has workers started, as many as there is room for, and goes on as soon as there is room again; holds one page of the index.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ..conversation.codec import record_of
from ..conversation.housekeeping import may_wait
from ..conversation.keys import RESERVED
from ..drivers.base import AT_ONCE, RECENT_GRAIN_S, Key, Row, row_at, step_at
from ..durations import seconds
from ..errors import ChatkeepError, Unavailable, Uncertain
from ..storage.store import Store
from .high_water import HighWater
from .housekeeper import Housekeeper
from .lease_keeper import LeaseKeeper
from .pauses import PAUSES
from .shared import Shared
from .workers import Workers

PAGE = 250
"""A walk costs Redis, whose index is in many buckets, more for each page than for each row: by pages of 100, 1.6 times as much."""
ORPHANS_S = 5.0
TIDYING = 50
"""So many conversations in which nobody waits are looked after at once."""

ENDING = 200
"""So many sessions are ended at once: one batch for the store."""

ENDING_BESIDE = 25
"""As ENDING, while there is work for which somebody waits: each of its acts, four for a reminder, may wait for a whole batch."""

AFRESH_S = 30.0
"""After so long what nobody waits for is looked through again, in case something else has come up among it."""

AHEAD_S = 10.0
"""So often it is looked for what a clock that is ahead has put off."""

MARGIN_S = 5.0
"""Due times of other hosts, by their clocks, may come so late."""


class Stretch(Struct):
    """A part of the index that is walked through: from behind *after* (None: the beginning) *until* then (None: now)."""

    after: Row | None
    until: float | None


class IndexWalk:
    """Goes through what is due in the order of the index, page by page."""

    def __init__(self, store: Store, *stretches: tuple[float | None, float | None]) -> None:
        self._store = store
        self._stretches = deque(Stretch(behind(since), until) for since, until in stretches)
        self._page: deque[Row] = deque()
        self._glances = 0  # of the first stretches so many are glances
        self._glanced_until = 0.0
        self.asked_at = 0.0
        """The *now* of the last page."""

    def glance(self, since: float, until: float) -> None:
        """Look next at what has come due in between, then go on as before. While an earlier glance is under way, which may be long, the new
        one begins where that ends."""
        if self._glances:
            since = self._glanced_until
        self._stretches.appendleft(Stretch(behind(since), until))
        self._glances, self._glanced_until = self._glances + 1, until

    def put_back(self, rows: list[Row]) -> None:
        """Have `step` give *rows* again, next."""
        self._page.extendleft(reversed(rows))

    async def step(self, now: float, *, ahead: float = 0.0) -> Row | None:
        """Return the next row that is due *now*, or will be so much *ahead*; None at the end."""
        while not self._page and self._stretches:
            stretch = self._stretches[0]
            until = now + ahead if stretch.until is None else stretch.until
            rows = await self._store.rows("due", until=until, after=stretch.after, limit=PAGE)
            await asyncio.sleep(0)  # long walks must not keep the loop from others, however quick the store is
            self.asked_at = now
            self._page.extend(rows)
            if len(rows) == PAGE:
                stretch.after = rows[-1]
            else:
                self._stretches.popleft()
                self._glances = max(self._glances - 1, 0)
        return self._page.popleft() if self._page else None


class Ahead:
    """Goes through what was written by a clock that is ahead of the one here: what waits by such a clock is due nobody knows when.

    That is a clock of another host, or the one here before it was set back. The newest rows of the store show whether there is
    anything; it is looked for now and then, and a page at a time.

    It is looked for behind the running minute: of that some stores must read each row to tell which is newer than now. What a clock
    has put off that is ahead by less waits no longer than that.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.restart()

    def restart(self) -> None:
        """Look at once, from the newest on."""
        self._after: Row | None = None
        self._look_at = 0.0
        self._page = 1

    @property
    def is_done(self) -> bool:
        """Whether it is not time to look."""
        return self._after is None and time.monotonic() < self._look_at

    async def step(self, now: float) -> list[Row]:
        """Return the next rows that are newer than the minute of *now*."""
        if self.is_done:
            return []
        since = (step_at(now + MARGIN_S) + 1) * RECENT_GRAIN_S
        rows = await self._store.rows("recent", since=since, after=self._after, limit=self._page)
        found = [row for row in rows if row.updated_at >= since]  # (A driver of an older package knows no *since*.)
        if found and len(found) == self._page:
            self._after, self._page = found[-1], PAGE
        else:
            self._after, self._page, self._look_at = None, 1, time.monotonic() + AHEAD_S
        return found


def behind(since: float | None) -> Row | None:
    """Return a row behind which the index begins with what comes due at *since*."""
    return None if since is None else row_at(Key("", ""), due_at=since)


class Backlog:
    """What is due and not begun.

    Reminders, retries and messages that wait come first. What nobody waits for, ended sessions and old log, is passed over
    until there is nothing else, and then done beside what comes next; so a great number of it holds nobody up.
    """

    def __init__(
        self,
        shared: Shared[Any],
        *,
        workers: Workers,
        leases: LeaseKeeper,
        high_water: HighWater,
        housekeeper: Housekeeper,
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._workers = workers
        self._leases = leases
        self.high_water = high_water
        self._housekeeper = housekeeper
        self.room_made: Callable[[], None] = lambda: None
        """Called when there is room for more of it: then `work_off` is to be called."""
        self._poll_s = seconds(shared.settings.poll)
        self._room = shared.settings.concurrency * 2
        self.started = 0
        """In how many conversations something was due."""
        self._ahead = Ahead(self._store)
        workers.ended = self._hear_of_end
        self.open()

    @property
    def is_done(self) -> bool:
        """Whether all was looked at, and what was begun has ended."""
        walked = self._urgent is None and self._tidy is None and self._ahead.is_done
        return walked and not (self._untidy or self._workers.by_key)

    @property
    def _working(self) -> int:
        """In how many conversations there is work for which somebody waits."""
        return self._workers.busy - len(self._tidying)

    @property
    def looked_at(self) -> float | None:
        """Up to when all that is due has been looked at, by the clock; None before the first time."""
        return self._looked_at or None

    def open(self) -> None:
        """Begin from the beginning, knowing nothing."""
        self.high_water.restart()
        self._clock_began = self._shared.clock() - time.monotonic()
        self._ahead.restart()
        self.restart()

    def restart(self) -> None:
        """Look at all that is due from the beginning."""
        self._urgent: IndexWalk | None = None
        self._tidy: IndexWalk | None = None
        self._tidying: set[Key] = set()
        self._untidy = False  # something was passed over
        self._looked_at = 0.0  # up to when all that is due has been looked at, by the clock
        self._afresh_at = 0.0
        self._orphans = False
        self._look_for_orphans_at = 0.0

    def look_again(self) -> None:
        """Have `work_off` look from the beginning; while it is still under way, first at what has come due meanwhile."""
        if self._urgent is not None:
            at = self._shared.clock()
            self._urgent.glance(at - 2 * self._poll_s - MARGIN_S, at)
            return
        now = time.monotonic()
        clock_began = self._shared.clock() - now
        if clock_began < self._clock_began - MARGIN_S:  # the clock here was set back
            self._afresh_at = 0.0
            self._ahead.restart()
        self._clock_began = clock_began
        if self._tidy is None or now >= self._afresh_at:
            self._urgent, self._afresh_at = IndexWalk(self._store, (None, None)), now + AFRESH_S
        else:
            # What was passed over last time need not be read again.
            self._urgent = IndexWalk(self._store, (None, AT_ONCE), (self._looked_at - MARGIN_S, None))
        # A lease hides its conversation until it runs out; those of a process that died on this host need not wait.
        self._orphans = self._leases.lost or now >= self._look_for_orphans_at
        if self._orphans:
            self._leases.lost, self._look_for_orphans_at = False, now + ORPHANS_S

    async def work_off(self, until: float) -> None:
        """Start work on what is due, as far as there is room; *until* then by the loop's clock, when it is time to `look_again`."""
        loop = asyncio.get_running_loop()
        while self._urgent is not None and self._working < self._room:
            if loop.time() >= until:
                return
            now = self._shared.clock()
            row = await self._urgent.step(now, ahead=self._shared.policy.lease_s if self._orphans else 0.0)
            if row is None:
                self._looked_at, self._urgent = self._urgent.asked_at, None
            elif self._observe(row, now):
                if self._may_wait(row, now):
                    self._untidy = True
                else:
                    self._start(row.key)
        if self._urgent is None:
            await self._begin_put_off()
            await self._tidy_up()

    async def _begin_put_off(self) -> None:
        """Start work on what a clock that was ahead has put off."""
        now = self._shared.clock()
        for row in await self._ahead.step(now):
            rests = row.wake is None or row.key.tenant.startswith(RESERVED)
            begun = (
                row.key in self._workers.by_key or self._shared.left_alone.skip(row) or self._leases.observe_holder(row)
            )
            if not (rests or begun or self._may_wait(row, now)):
                self._start(row.key)

    async def _tidy_up(self) -> None:
        if self._untidy and self._tidy is None:
            self._tidy, self._untidy = IndexWalk(self._store, (None, None)), False
        if self._tidy is None or len(self._tidying) >= TIDYING:
            return
        now, rows, walk = await self.high_water.reach(self._shared.clock()), list[Row](), self._tidy
        most = ENDING_BESIDE if self._working > 0 else ENDING
        while self._tidy is not None and len(rows) < most:
            row = await walk.step(now)
            if row is None:
                self._tidy = None
            elif self._observe(row, now) and self._may_wait(row, now):
                rows.append(row)
        if left := await self._end_sessions(rows, now):
            walk.put_back(left)
            self._tidy = walk
        if rows:
            self.room_made()

    async def _end_sessions(self, rows: list[Row], now: float) -> list[Row]:
        """End the sessions of *rows*, all in one batch of the store; where more is to be done than that, a worker does it. Give the
        rows for which there is no room yet."""
        try:
            others = await self._housekeeper.end_sessions(rows, now)
        except (Unavailable, Uncertain):
            self._untidy = True
            raise
        self.started += len(rows) - len(others)
        room = TIDYING - len(self._tidying)
        for row in others[:room]:
            if row.key not in self._workers.by_key:  # (who has it by now looks after it anyway)
                self._tidying.add(row.key)
                self._start(row.key)
        return others[room:]

    def _start(self, key: Key) -> None:
        self.started += 1
        self._workers.begin(key)

    def _observe(self, row: Row, now: float) -> bool:
        """Note what stands on *row*, and tell whether work on it is to be started."""
        # (What is looked at ahead is only noted, so that it is known how long its lease has stood when that runs out.)
        held = self._leases.observe_holder(row)
        due = not held and ((row.wake or 0.0) <= now or (row.lease and (row.due_at or 0.0) <= now))
        begun = row.key in self._workers.by_key or row.key == PAUSES
        return bool(due) and not begun and not self._shared.left_alone.skip(row)

    def _may_wait(self, row: Row, now: float) -> bool:
        try:
            return may_wait(row, record_of(row), soon=now + 2 * AFRESH_S)
        except ChatkeepError:  # the worker says what is wrong with it
            return False

    def _hear_of_end(self, key: Key) -> None:
        self._tidying.discard(key)
        urgent = self._urgent is not None and self._working <= self._room // 2
        tidy = self._tidy is not None and len(self._tidying) <= TIDYING // 2
        if urgent or tidy or (self.is_done and not self._shared.settings.background):
            self.room_made()
