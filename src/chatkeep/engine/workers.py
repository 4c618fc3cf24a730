"""The workers of one engine: at most one for each conversation, from when it is needed to when nothing is left to do.

Knows when a worker begins and ends, and how its end is told; nothing of what a worker does, which is the `WorkLoop`'s, or of how
messages come in.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..drivers.base import Key
from ..durations import seconds
from ..errors import ChatkeepError, Corrupt, StoreError, Unavailable, Uncertain, Unsupported
from .lease_keeper import LeaseKeeper
from .notifier import Notifier
from .runner import Runner
from .shared import Shared
from .work_loop import LOOK_S, WorkLoop
from .worker import HELD, IDLE, WORKING, Worker

log = logging.getLogger("chatkeep")


class Workers:
    """Who works on which conversation in this process."""

    def __init__(
        self,
        shared: Shared[Any],
        *,
        runner: Runner,
        leases: LeaseKeeper,
        notifier: Notifier,
        loop: WorkLoop,
        answers: Callable[[], bool],
    ) -> None:
        self.by_key: dict[Key, Worker] = {}
        self.ended: Callable[[Key], None] = lambda key: None
        """Called with the key of each worker whose task has ended."""
        self._shared = shared
        self._runner = runner
        self._leases = leases
        self._notifier = notifier
        self.loop = loop
        self.answers = answers
        """Whether there is a handler here."""
        self._turn_timeout_s = seconds(shared.settings.turn_timeout)

    @property
    def busy(self) -> int:
        """How many there are, but for those that wait to work alone: they must not keep the sweep from the others."""
        return len(self.by_key) - self._runner.places.lonely

    def register(self, key: Key) -> Worker:
        """Give the worker of *key*, a new one if there is none."""
        worker = self.by_key.get(key)
        if worker is None:
            worker = self.by_key[key] = Worker(key, self._leases.name)
        return worker

    def hold(self, key: Key) -> Worker:
        """Register a new worker for a call that does the work itself: no task starts before `release`."""
        worker = self.by_key[key] = Worker(key, self._leases.name, HELD)
        return worker

    def release(self, worker: Worker) -> None:
        """End what `hold` began."""
        if worker.state is HELD:  # (else its task has gone on with the work)
            worker.state = IDLE
        self.leave(worker)

    def start(self, worker: Worker) -> None:
        """Start the task of *worker*, unless it runs, or a call does the work."""
        # Only a worker that is registered may work: two at once would take each other for lost.
        assert self.by_key.get(worker.key) is worker
        if worker.state is IDLE:
            # Not in the context of whoever sent the message: the worker answers others' messages too.
            work = self._run(worker)
            if worker.context is None:
                worker.context = self._runner.make_context()
            name = f"chatkeep {worker.key}"
            worker.move(WORKING)
            worker.task = asyncio.get_running_loop().create_task(work, name=name, context=worker.context)
            self._count()

    def begin(self, key: Key) -> None:
        """Have work begun on a conversation, which no caller waits for."""
        self.start(self.register(key))

    def begin_answer(self, key: Key) -> None:
        """Have what waits in a conversation answered, where this process answers and has room. (What it leaves is found by the sweep.)"""
        settings = self._shared.settings
        if settings.background and self.answers() and len(self.by_key) < settings.backlog:
            self.begin(key)

    def join(self, worker: Worker) -> None:
        """Say that the turn of now, if there is one, waits for *worker*: so it waits for no place, and may not wait for that turn."""
        if worker.context is None:
            worker.context = self._runner.make_context()
        if self._runner.join(worker.context):
            self._runner.places.let_by(worker.key)

    def leave(self, worker: Worker) -> None:
        """End a worker that nobody works with, unless somebody has come to wait in it."""
        if worker.state is IDLE and self.by_key.get(worker.key) is worker:
            if worker.waiters or (worker.is_woken and self._shared.open):
                self.start(worker)
            else:
                del self.by_key[worker.key]

    async def stop(self) -> None:
        """Let running turns finish, hand the rest back, and cancel what takes too long."""
        by_key, places, grace_s = self.by_key, self._runner.places, self._runner.grace_s
        deadline = time.monotonic() + self._turn_timeout_s + grace_s + 1.0
        while by_key and time.monotonic() < deadline:
            places.turn_away()
            for worker in by_key.values():
                worker.wake.set()
            tasks = [worker.task for worker in by_key.values() if worker.task]
            # (A worker without a task is a call of `receive` that does the work itself.)
            await (asyncio.wait(tasks, timeout=1.0) if tasks else asyncio.sleep(LOOK_S))
        late = [(worker, worker.task) for worker in by_key.values() if worker.task]
        for _, task in late:
            task.cancel()
        if late:
            await asyncio.wait([task for _, task in late], timeout=grace_s + 1.0)
        for worker, _ in late:
            with suppress(ChatkeepError):
                await self.loop.give_back(worker)

    async def leave_unread(self, key: Key, lease: str, fault: Corrupt | Unsupported) -> None:
        """Leave a conversation that cannot be read to who can read it: our *lease* goes, and nothing else is written."""
        revision = ""
        cached = self._shared.store.cached(key)
        if cached is not None and cached.row.lease is None:
            revision = cached.row.revision
        else:
            with suppress(StoreError):  # then the lease runs out
                revision = await self._shared.store.release(key, lease)
        if self._shared.unreadable.add(key, revision, str(fault)):
            log.error("%s", fault)
            self._notifier.tell_of_work()

    async def _run(self, worker: Worker) -> None:
        try:
            await self.loop.run(worker)
        except ChatkeepError as fault:
            worker.fail(fault)
            if isinstance(fault, Corrupt | Unsupported):
                await self.leave_unread(worker.key, worker.lease, fault)
            else:
                log.warning("%s: %s", worker.key, fault)
            if isinstance(fault, Unavailable | Uncertain):  # our lease stands, and nobody works under it
                self._leases.lost = True
        except BaseException as fault:
            worker.fail(fault)
            raise
        finally:
            worker.task = None
            worker.move(IDLE)
            self.leave(worker)
            self._count()
            self.ended(worker.key)

    def _count(self) -> None:
        self._shared.statistics.workers = len(self.by_key)
