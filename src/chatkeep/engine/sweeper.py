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

from ..drivers.base import Key
from ..errors import Misconfigured, StoreError
from ..settings import seconds
from .backlog import Backlog
from .journal import Journal
from .lease_keeper import LeaseKeeper
from .pauses import Pauses
from .shared import Shared
from .turn_processor import TurnProcessor
from .workers import Workers

log = logging.getLogger("chatkeep")

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
        self._pauses = pauses
        self._journal = journal
        self._open_store = open_store
        self._poll_s = seconds(shared.settings.poll)
        self._backlog = Backlog(shared, workers=workers, leases=leases, go_on=self._go_on)
        self._wake = asyncio.Event()
        self._told = False  # somebody tells that there is work

    def start(self) -> None:
        """Start sweeping, in the loop of now."""
        self._wake = asyncio.Event()  # the last one belongs to the loop of the last opening
        self._backlog.restart()
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
        self._told = True
        self._wake.set()

    def _go_on(self) -> None:
        self._wake.set()

    async def _sweep_for_ever(self) -> None:
        trouble, beat_at, loop = "", 0.0, asyncio.get_running_loop()
        while True:
            self._wake.clear()
            try:
                if self._told or loop.time() >= beat_at:
                    # With jitter, so that instances do not all ask at once, on the clock's beat or when they hear of work.
                    self._told, beat_at = False, loop.time() + self._poll_s * random.uniform(0.8, 1.2)
                    await self._beat()
                if self._turns.handler is not None:
                    await self._backlog.work_off()
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
        """Do what is done once a poll."""
        if self._shared.unopened:
            await self._open_store()
        if self._journal is not None:
            await self._journal.hand_over()
        self._backlog.look_again()
        await self.look_at_pauses()
        self._shared.statistics.rolled_back = self._store.rolled_back

    async def look_at_pauses(self) -> None:
        """Look at what is paused, and have what waits answered where that was lifted, by whomever."""
        lifted, unfinished = await self._pauses.look()
        for tenant in lifted:
            await self._pauses.wake(tenant, self.start_on, rewrites=False)
        for resumption in unfinished:
            await self._pauses.finish(resumption, self.start_on)

    def start_on(self, key: Key) -> None:
        """Start work on a conversation that is paused no more. (What finds no room here is found by the sweep.)"""
        if self._turns.handler is not None and len(self._workers.by_key) < self._shared.settings.backlog:
            self._workers.start(self._workers.register(key))
