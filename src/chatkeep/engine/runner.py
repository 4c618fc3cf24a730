"""Runs handlers: each under a task of its own, with a place and a time limit. What a run is, and how it ended, stands in `run`.

An abandoned run is kept among `Runner.abandoned` until it ends; nothing that it does has an effect on its conversation any
more. While it runs, its message is not run again. A stopped run that does not end, such as one in a thread, is kept there too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from ..drivers.base import Key
from ..errors import presentable
from .places import Places
from .run import EXITS, RUNNING, CannotBegin, Run, Shell, judge, swap_task
from .threads import Threads
from .turn import Turn

log = logging.getLogger("chatkeep")

GRACE_S = 1.0
"""A handler whose time is over is cancelled, and has so long to end."""

ABANDONED_MOST = 100
"""With so many abandoned runs, or twice as many as there are places, no handler is begun before some of them end."""


class Runner:
    """Runs handlers for one engine. *changed* is called with the number of abandoned runs when it changes."""

    def __init__(self, places: int, timeout_s: float, changed: Callable[[int], None]) -> None:
        self.places = Places(places)
        self.grace_s = GRACE_S
        self.abandoned: set[Run] = set()
        self._waiting: dict[Key, Run] = {}  # that have begun and wait for something
        self.most = max(ABANDONED_MOST, 2 * places)
        self._timeout_s = timeout_s
        self._changed = changed
        self._threads = Threads(places)
        self._context = copy_context()
        self._shell: Shell | None = None

    def open(self) -> None:
        """Have handlers see the context variables of now, and nothing of whoever sent their message."""
        self._loop = asyncio.get_running_loop()  # in which all calls come: see `Confinement`
        self._context = copy_context()
        self._context.run(RUNNING.set, None)
        # (An earlier loop may have ended with some of them.)
        self.abandoned = {run for run in self.abandoned if run.still_runs}
        self._count()

    async def close(self) -> None:
        """Let go of what still runs: tasks end, threads that hang are left to themselves."""
        for run in list(self.abandoned):
            run.drop()
        if self._shell is not None:
            self._shell.end()
            self._shell = None
        self._threads.close()
        await asyncio.sleep(0)

    def make_context(self) -> Context:
        """Make a context for a task that works on a conversation: that of `open`."""
        return self._context.copy()

    def join(self, context: Context) -> bool:
        """Say, in the context of a task, that the turn of now waits for what the task does; tell whether there is such a turn."""
        running = RUNNING.get()
        if running is None or running.over:
            return False
        earlier = context.get(RUNNING)
        if earlier is None or earlier.over:
            context.run(RUNNING.set, running)
        return True

    @property
    def awaited(self) -> bool:
        """Whether the turn of another handler, which has not ended, waits for what the task of now does."""
        outer = RUNNING.get()
        return outer is not None and not outer.over

    @property
    def may_begin(self) -> bool:
        """Whether a handler may begin at once: there is a place, or the turn that has one waits for this."""
        return self.places.free or self.awaited

    @property
    def full(self) -> bool:
        """Whether so many runs were abandoned that no handler is begun."""
        return len(self.abandoned) >= self.most

    @property
    def trouble(self) -> str:
        """What is wrong when as many handlers hang as there are places; else ""."""
        if self.full:
            more = "no handler is begun before some of them end"
            return f"{len(self.abandoned)} handlers still run that were given up (turn_timeout); {more}"
        count = sum(self.time_left(run) <= 0 for run in self.abandoned)
        if count < self.places.most:
            return ""
        return f"{count} handlers still run after their time was over (turn_timeout)"

    def time_left(self, run: Run) -> float:
        """Tell how long an abandoned run may still go on before it is late: one whose caller went away may have time left."""
        if run.late:
            return 0.0
        return max(0.0, run.time_began + self._timeout_s + self.grace_s - time.monotonic())

    def find_abandoned(self, handler: object, key: Key, id: str) -> Run | None:
        """Find a run of *handler* that was abandoned and still runs, and for which message *id* is blamed: the first that it had.

        The others that it had with it are tried again beside it, when the first one has been set aside.
        """
        found = (run for run in self.abandoned if run.handler is handler and run.key == key and run.id == id)
        return next(found, None)

    def has_abandoned(self, key: Key) -> bool:
        """Tell whether any run of this conversation was abandoned and still runs."""
        return any(run.key == key for run in self.abandoned)

    async def call_in_thread(self, function: Callable[[Turn[Any]], Any], turn: Turn[Any]) -> Any:
        """Call the plain function *function* in a thread, on behalf of the run of now, and give what it returns. The context variables that
        it has set are set here too: what it returns may be the coroutine of an async handler, which a decorator has set them for."""
        run = RUNNING.get()
        assert run is not None
        try:
            run.job = self._threads.begin(partial(function, turn), partial(self._thread_ended, run))
        except RuntimeError as none_left:
            raise CannotBegin(f"no thread could be started for the handler ({none_left})") from none_left
        value, fault = await run.job.answered
        for variable, held in run.job.context.items():
            variable.set(held)
        if fault is not None:
            raise fault
        return value

    def _thread_ended(self, run: Run, unheard: BaseException | None) -> None:
        if unheard is not None:
            run.tell_fault(unheard)
        run.tell_gone()

    async def run(self, run: Run, *, admitted: bool = False) -> None:
        """Run a handler when there is a place (who is *admitted* has one), and wait for its end. Never raises what the handler raised,
        but for SystemExit and KeyboardInterrupt."""
        if not self.begin(run, admitted=admitted):
            run.queued = await self.places.take(run.key)
            if not run.queued:  # meanwhile a turn has come to wait for this one
                run.outer = RUNNING.get()
            self._start(run)
        if not run.over:
            await self.wait(run)

    def begin(self, run: Run, *, admitted: bool = False) -> bool:
        """Begin a run; it is over already where the handler waits for nothing, as most do, and else to be waited for with `wait`.
        False: there is no place, and nothing was begun."""
        outer = RUNNING.get()
        if outer is not None and not outer.over:
            run.outer = outer  # a turn that a handler waits for must not wait for the place that this handler holds
        elif not admitted:
            if not self.places.take_at_once():
                return False
            run.queued = True
        self._start(run)
        return True

    async def wait(self, run: Run) -> None:
        """Wait for the end of a run that has begun and is not over."""
        try:
            await self._wait(run)
            if run.still_runs:
                self._abandon(run)
        except BaseException:
            self._leave(run)
            raise
        self._conclude(run)

    def _start(self, run: Run) -> None:
        # The handler begins at once, and not when the loop comes to it: most wait for nothing, and are over then.
        run.began = time.monotonic()
        run.context = self._context.copy()
        try:
            loop, shell = self._loop, self._shell
            if shell is None or not shell.fit:  # (the task of one that was cancelled ends by that)
                shell = Shell(loop, self._context.copy())
            self._shell = None  # (a handler may begin another one)
            run.task = task = shell.task
            current = swap_task(loop, task)
            try:
                run.context.run(run.call_handler)
            except BaseException as fault:
                run.fault, run.ended = presentable(fault), True
            finally:
                swap_task(loop, current)
        except BaseException:
            self._leave(run)
            raise
        if not run.ended:
            run.shell = shell
            return
        if self._shell is None:
            self._shell = shell
        else:
            shell.end()
        # Nobody has cancelled it, and it is not late: nothing of that happens before somebody waits.
        if run.fault is None:
            self._keep(run)
        self._leave(run)
        if run.fault is not None:
            self._judge(run)

    def _conclude(self, run: Run) -> None:
        """Judge how a run has ended that was waited for."""
        if run.fault is None and not (run.late or run.abandoned):
            self._keep(run)
        self._leave(run)
        if run.ended and not run.abandoned:
            run.shell.leave()
        self._judge(run)

    def _keep(self, run: Run) -> None:
        try:
            run.value = run.keep(run.value)
        except BaseException as fault:  # types of the application's own may raise anything
            run.fault = presentable(fault)

    def _leave(self, run: Run) -> None:
        run.leave()
        if run.queued:
            self.places.give_back()

    def _judge(self, run: Run) -> None:
        stopped = run.cancelled is not None or run.unwanted
        run.fate = judge(run.fault, ended=not run.abandoned, late=run.late, stopped=stopped)
        if run.fate is EXITS and run.fault is not None:
            raise run.fault
        if run.cancelled is not None:
            raise run.cancelled
        if run.late and not run.unwanted:
            late = TimeoutError(f"it took longer than {self._timeout_s:g} s{', and still runs' * run.abandoned}")
            late.__cause__ = run.fault
            run.fault = late

    async def _wait(self, run: Run) -> None:
        loop = self._loop
        run.waiter = loop.create_future()
        run.timer = loop.call_later(self._timeout_s, self._too_late, run)
        run.shell.take(run)
        self._waiting[run.key] = run
        try:
            await run.waiter
        except asyncio.CancelledError as cancelled:
            run.cancelled = cancelled
            await self._stop(run)
        finally:
            run.timer.cancel()
            if self._waiting.get(run.key) is run:
                del self._waiting[run.key]

    def end(self, key: Key) -> None:
        """End the run in *key*, if one waits for something: its turn is not to go on. It is cancelled and has the grace to end; one
        in a thread, which nobody can end, is given up."""
        run = self._waiting.get(key)
        if run is None or run.ended or run.waiter is None or run.waiter.done():
            return
        run.unwanted = True
        run.timer.cancel()
        if run.job is not None and not run.job.over:
            self._give_up(run)
        else:
            run.timer = self._loop.call_later(self.grace_s, self._give_up, run)
            run.task.cancel()

    def _too_late(self, run: Run) -> None:
        loop = self._loop
        if run.ended:
            return
        if run.job is not None and not run.job.over:  # its time began when its thread began
            left = run.time_began + self._timeout_s - time.monotonic()
            if left > 0:
                run.timer = loop.call_later(left, self._too_late, run)
                return
        else:
            run.task.cancel()
        run.late = True
        run.timer = loop.call_later(self.grace_s, self._give_up, run)

    def _give_up(self, run: Run) -> None:
        if not run.ended and run.waiter is not None and not run.waiter.done():
            self._abandon(run)
            run.waiter.set_result(None)

    async def _stop(self, run: Run) -> None:
        """Cancel a run whose caller was cancelled, and give it the grace."""
        run.timer.cancel()
        if not run.ended and (run.job is None or run.job.over):
            loop = self._loop
            run.waiter = loop.create_future()
            run.timer = loop.call_later(self.grace_s, self._give_up, run)
            run.task.cancel()
            with suppress(asyncio.CancelledError):  # told twice: without the grace
                await run.waiter

    def _abandon(self, run: Run) -> None:
        if run.abandoned:
            return
        run.over = run.abandoned = True
        self.abandoned.add(run)
        why = "after its time was over" if run.late else "though nobody waits for it any more"
        log.warning("%s: a handler still runs %s, and was given up.", run.key, why)
        run.gone += (partial(self._gone, run),)
        self._count()
        if run.job is not None:
            run.task.cancel()  # which only waits for its thread

    def _gone(self, run: Run) -> None:
        self.abandoned.discard(run)
        self._count()

    def _count(self) -> None:
        self._changed(len(self.abandoned))
        if self.places.blocked != self.full:
            self.places.block(self.full)
