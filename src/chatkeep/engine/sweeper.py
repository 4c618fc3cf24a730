"""Looks after the store, now and then, and when others tell of work: for what is due, the journal, and what is paused.

Has workers started; knows nothing of what they do, or of how messages come in.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ..conversation.codec import record_of
from ..conversation.snapshots import Snapshot
from ..drivers.base import Key
from ..durations import seconds
from ..errors import Corrupt, Misconfigured, StoreError, Unavailable, Unsupported
from ..storage.leftovers import Leftovers
from .backlog import Backlog
from .housekeeper import Housekeeper
from .indexer import Indexer
from .journal import Journal
from .pauses import PAUSES, Pauses
from .releases import VERSIONS, Releases
from .shared import Shared
from .statistics import Tended
from .work_loop import LOOK_LONGEST_S as LOOK_S
from .workers import Workers

log = logging.getLogger("chatkeep")

SPREAD_S = 0.02
SWEEP_PAGE = 100
OTHERS_S = 10.0  # so often a process without a handler looks for what is over


class Sweeper:
    """The sweep of one engine. *open_store* is tried at each sweep while the store is not open, *reopen_store* when
    another one is in its place and the settings say so."""

    def __init__(
        self,
        shared: Shared[Any],
        *,
        workers: Workers,
        pauses: Pauses,
        versions: Releases,
        backlog: Backlog,
        housekeeper: Housekeeper,
        indexer: Indexer,
        journal: Journal | None,
        open_store: Callable[[], Awaitable[None]],
        reopen_store: Callable[[], Awaitable[None]],
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        """The task that sweeps, while the engine is open and there is anything to sweep for."""
        self._shared = shared
        self._workers = workers
        self._pauses = pauses
        self.versions = versions
        """Which versions of the application are there, and their shares."""
        self.indexer = indexer
        """What keeps the full-text index."""
        self._housekeeper = housekeeper
        self._leftovers = Leftovers(shared.store, shared.clock)
        self._journal = journal
        self._open_store = open_store
        self._reopen_store = reopen_store
        self._backlog = backlog
        self._wake = asyncio.Event()
        backlog.room_made = self._go_on
        self._told = False  # somebody tells that there is work
        self._look_for_others_at = 0.0

    @property
    def _reopens(self) -> bool:
        return self._shared.settings.on_replaced == "reopen"

    @property
    def _ends(self) -> bool:
        """Whether the settings ask for an end of anything."""
        return self._removes or self._shared.policy.session_ttl_s is not None

    @property
    def _removes(self) -> bool:
        """Whether they ask that something be removed."""
        policy = self._shared.policy
        visits = policy.forget_visitors_s if self._shared.visitors else None
        return (policy.retention_s, policy.forget_after_s, visits) != (None, None, None)

    @property
    def started(self) -> int:
        """In how many conversations something was due."""
        return self._backlog.started

    @property
    def looked_at(self) -> float | None:
        """Up to when all that is due has been looked at; None before the first time."""
        return self._backlog.looked_at

    def start(self) -> None:
        """Start sweeping, in the loop of now."""
        self._wake = asyncio.Event()  # the last one belongs to the loop of the last opening
        self._backlog.open()
        self._leftovers.open()
        if not self._shared.settings.background:
            return
        self._housekeeper.unscheduled = self._ends
        looks = self._workers.answers() or self._journal is not None
        if looks or self._ends or self._reopens:
            self.task = asyncio.create_task(self._sweep_for_ever(), name="chatkeep sweep")

    async def stop(self) -> None:
        """End the sweep."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    async def tend(self, within_s: float | None, *, thorough: bool) -> Tended:
        """Do what is due, once, as far as there is time; *thorough*: also go through the store for what no setting had asked an end
        of when it was written."""
        while self.task is not None:
            await asyncio.wait([self.task])
        statistics, started = self._shared.statistics, self._backlog.started
        before = statistics.turns, statistics.failures, statistics.dead
        task = asyncio.create_task(self._sweep_once(thorough), name="chatkeep sweep")
        self.task = task
        try:
            _, late = await asyncio.wait([task], timeout=within_s)
            if not late and task.cancelled():
                raise Unavailable("This Chatkeep was closed while it did what is due. What is left stays due.")
            if not late:
                task.result()
        finally:
            if self.task is task:
                await self.stop()
        return Tended(
            conversations=self._backlog.started - started,
            turns=statistics.turns - before[0],
            failures=statistics.failures - before[1],
            dead=statistics.dead - before[2],
            done=not late,
        )

    async def _sweep_once(self, thorough: bool) -> None:
        """Look for what is due, again and again as long as there are turns: a handler may have sent a message elsewhere."""
        turns = -1
        self._housekeeper.unscheduled = thorough and self._ends
        while self._shared.statistics.turns != turns:
            turns = self._shared.statistics.turns
            self._backlog.restart()
            await self._beat()
            await self.indexer.look()
            while self._housekeeper.unscheduled:
                await self._housekeeper.schedule_page()
            if thorough:
                self._leftovers.ask()
                while not self._leftovers.is_done:
                    await self._remove_leftovers()
            while self._workers.answers():
                self._wake.clear()
                await self._backlog.work_off(asyncio.get_running_loop().time() + LOOK_S)
                if self._backlog.is_done:
                    break
                with suppress(TimeoutError):  # (what a call of `receive` works on tells nobody of its end)
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()

    def hear_of_work(self) -> None:
        """Sweep at once: somebody tells that there is work."""
        self._told = True
        self._wake.set()

    def _go_on(self) -> None:
        self._wake.set()

    async def _sweep_for_ever(self) -> None:
        trouble, beat_at, loop = "", 0.0, asyncio.get_running_loop()
        while True:
            self._wake.clear()
            beats = self._told or loop.time() >= beat_at
            try:
                if beats:
                    # With jitter, so that instances do not all ask at once, on the clock's beat or when they hear of work.
                    poll_s = seconds(self._shared.settings.poll) * random.uniform(0.8, 1.2)
                    self._told = False
                    try:
                        await self._beat()
                    finally:  # counted from its end: one that takes longer than a poll leaves time for the work too
                        beat_at = loop.time() + poll_s
                if self._workers.answers():
                    await self._backlog.work_off(beat_at)
                if beats:  # nobody waits for this, so it comes behind what is due
                    if self._removes:
                        self._housekeeper.look_again()
                    if self._housekeeper.unscheduled:
                        await self._housekeeper.schedule_page()
                    await self.indexer.look()
                    await self._remove_leftovers()
                trouble = ""
            except (StoreError, Misconfigured) as fault:
                if not trouble:  # once, and not at every beat until it is over
                    log.warning("The sweep could not look for work, and tries on: %s", fault)
                trouble = str(fault)
            except Exception:  # it must go on, whatever it was: nobody else finds what a crash has left
                log.exception("The sweep failed, and will look again.")
            with suppress(TimeoutError):
                async with asyncio.timeout_at(beat_at):
                    await self._wake.wait()
            if self._told:
                await asyncio.sleep(random.uniform(0.0, SPREAD_S))

    async def _beat(self) -> None:
        """Do what is done once a poll, before the work."""
        gateway = self._shared.store.gateway
        if self._reopens and gateway.replaced and not (gateway.moved or self._shared.unopened):
            await self._reopen_store()
        if self._shared.unopened:
            await self._open_store()
        if self._journal is not None:
            await self._journal.hand_over()
        self._backlog.look_again()
        await self.look_at_versions()
        await self._look_at(PAUSES, self.look_at_pauses)
        if self._ends:
            await self._backlog.high_water.keep()
        if not self._workers.answers() and self._ends:
            await self._sweep_for_others()

    async def _look_at(self, record: Key, look: Callable[[], Awaitable[None]]) -> None:
        """Look at what others have said; where that cannot be read, the work does not wait for it."""
        try:
            await look()
        except (Corrupt, Unsupported) as fault:
            if self._shared.unreadable.add(record, "", str(fault)):
                log.error("What other instances have said cannot be read, so what was known of it goes on: %s", fault)
        else:
            self._shared.unreadable.discard(record)

    async def _sweep_for_others(self) -> None:
        """End what is over, where there is no handler here; what is unread is left to those who have one."""
        after, now = None, self._shared.clock()
        if now < self._look_for_others_at:
            return
        self._look_for_others_at = now + OTHERS_S
        ends = await self._backlog.high_water.reach(now)
        while rows := await self._shared.store.rows("due", until=ends, after=after, limit=SWEEP_PAGE):
            over = []
            for row in rows:
                with suppress(Corrupt, Unsupported):  # whoever answers there tells of it
                    read = record_of(row).cursor >= row.head
                    if read and row.key != PAUSES and row.key not in self._workers.by_key:
                        over.append(row)
            for row in await self._housekeeper.end_sessions(over, ends):
                if row.key not in self._workers.by_key:
                    self._workers.begin(row.key)
            if len(rows) < SWEEP_PAGE or self._workers.busy >= self._shared.settings.concurrency * 2:
                return
            after = rows[-1]

    async def _remove_leftovers(self) -> None:
        """Remove a page of chatkeep's own records that are over, when it is time to."""
        if not self._leftovers.is_done:
            await self._leftovers.step(await self._backlog.high_water.reach(self._shared.clock()))

    async def look_at_pauses(self) -> None:
        """Look at what is paused, and have what waits answered where that was lifted, by whomever."""
        await self._follow(*await self._pauses.look())

    async def look_at_versions(self) -> None:
        """Look at which versions of the application are there; where that cannot be read, what was known goes on."""
        await self._look_at(VERSIONS, self.versions.look)

    async def note_pauses(self, found: Snapshot | Corrupt | Unsupported | None) -> None:
        """Do what `look_at_pauses` does, with what was *found* to be paused just now; everything is where that could not be read."""
        try:
            if isinstance(found, Corrupt | Unsupported):
                raise found
            followed = self._pauses.note(found)
        except (Corrupt, Unsupported) as fault:
            self._pauses.assume()
            silent = (
                f"{fault} What is paused is not known, so the bot is silent everywhere until `chatkeep resume STORE "
                "--everywhere` (resume_all): pause the tenants that were paused before that."
            )
            self._shared.unreadable.add(PAUSES, "", silent)
            log.error("What is paused cannot be read: %s", silent)
            return
        self._shared.unreadable.discard(PAUSES)
        await self._follow(*followed)

    async def _follow(self, lifted: list[str | None], unfinished: list[str]) -> None:
        for tenant in lifted:
            await self._pauses.wake(tenant, self._workers.begin_answer, rewrites=False)
        for resumption in unfinished:
            await self._pauses.finish(resumption, self._workers.begin_answer)
