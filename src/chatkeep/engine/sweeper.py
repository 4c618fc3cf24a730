"""Finds what a crash, a failure or time has left: through the index of what is due, now and then, and when others tell of work.

Has workers started; knows nothing of what they do, or of how messages come in.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from ..conversation import snapshots
from ..drivers.base import Key
from ..errors import Misconfigured, StoreError
from ..settings import seconds
from .journal import Journal
from .lease_keeper import LeaseKeeper
from .pauses import PAUSES, Pauses
from .shared import Shared
from .turn_processor import TurnProcessor
from .workers import Workers

log = logging.getLogger("chatkeep")

SWEEP_PAGE = 100
ORPHANS_S = 5.0
SPREAD_S = 0.02


class Sweeper:
    """The sweep of one engine. *open_store* is tried at each sweep while the store is not open."""

    def __init__(
        self,
        shared: Shared[Any],
        *,
        workers: Workers,
        turns: TurnProcessor[Any],
        leases: LeaseKeeper,
        pauses: Pauses,
        journal: Journal | None,
        open_store: Callable[[], Awaitable[None]],
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        """The task that sweeps, while the engine is open and there is anything to sweep for."""
        self._shared = shared
        self._store = shared.store
        self._workers = workers
        self._turns = turns
        self._leases = leases
        self._pauses = pauses
        self._journal = journal
        self._open_store = open_store
        self._poll_s = seconds(shared.settings.poll)
        self._work_waits = asyncio.Event()
        self._look_for_orphans_at = 0.0

    def start(self) -> None:
        """Start sweeping, in the loop of now."""
        self._work_waits = asyncio.Event()  # the last one belongs to the loop of the last opening
        if self._turns.handler is not None or self._journal is not None:
            self.task = asyncio.create_task(self._sweep_for_ever(), name="chatkeep sweep")

    async def stop(self) -> None:
        """End the sweep."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None

    def hear_of_work(self) -> None:
        """Sweep at once: somebody tells that there is work."""
        self._work_waits.set()

    async def _sweep_for_ever(self) -> None:
        trouble = ""
        while True:
            self._work_waits.clear()
            try:
                if self._shared.unopened:
                    await self._open_store()
                if self._journal is not None:
                    await self._journal.hand_over()
                if self._turns.handler is not None:
                    await self.sweep()
                await self.look_at_pauses()
                self._shared.statistics.rolled_back = self._store.rolled_back
                trouble = ""
            except (StoreError, Misconfigured) as fault:
                if not trouble:  # once, and not at every beat until it is over
                    log.warning("The sweep could not look for work, and tries on: %s", fault)
                trouble = str(fault)
            except Exception:  # it must go on, whatever it was: nobody else finds what a crash has left
                log.exception("The sweep failed, and will look again.")
            # With jitter, so that instances do not all ask at once, on the clock's beat or when they hear of work.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s * random.uniform(0.8, 1.2)):
                    await self._work_waits.wait()
                await asyncio.sleep(random.uniform(0.0, SPREAD_S))

    async def sweep(self) -> int:
        """Start work on conversations that are due, a bounded number at a time; tell how many."""
        started, after, now = 0, None, self._shared.clock()
        until, workers = now, self._workers
        if self._leases.lost or now >= self._look_for_orphans_at:
            # A lease hides its conversation until it runs out; those of a process that died on this host need not wait.
            until += self._shared.policy.lease_s
            self._leases.lost, self._look_for_orphans_at = False, now + ORPHANS_S
        room = self._shared.settings.concurrency * 2
        while workers.busy < room:
            rows = await self._store.rows("due", until=until, after=after, limit=SWEEP_PAGE)
            for row in rows:
                due = (row.wake or 0.0) <= now or (
                    row.lease and (row.due_at or 0.0) <= now and self._leases.is_orphaned(row.lease)
                )
                put_off = row.key == PAUSES or self._shared.unreadable.avoids(row.key, row.revision)
                if due and not put_off and row.key not in workers.by_key and workers.busy < room:
                    workers.start(workers.register(row.key))
                    started += 1
            if len(rows) < SWEEP_PAGE:
                break
            after = rows[-1]
        return started

    async def look_at_pauses(self, *lifted: str | None) -> None:
        """Look at what is paused, and have what waits answered for each tenant for which that was *lifted*, here or elsewhere."""
        for tenant in dict.fromkeys([*lifted, *await self._pauses.look()]):  # perhaps another instance has lifted some
            if self._turns.handler is not None:
                await self._pauses.for_each(tenant, self.answer_unread)

    async def answer_unread(self, key: Key) -> None:
        """Start work on a conversation that is not paused any more."""
        snapshot = await self._store.load(key)
        if snapshot is None or not snapshots.unread_messages(snapshot) or self._pauses.is_paused(snapshot):
            return
        # (What finds no room here is found by the sweep, when it looks at parked conversations again.)
        if self._turns.handler is not None and len(self._workers.by_key) < self._shared.settings.backlog:
            self._workers.start(self._workers.register(key))
