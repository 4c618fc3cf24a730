"""Runs handlers: each under a task of its own, with a place and a time limit; and judges how each run ended, in one table.

    how a run ended                                          fate         what the engine does
    it returned in time, and what it returned can be kept    ANSWERED     records it
    it raised anything else than the next two; it was        FAILED       counts a failed attempt
      cancelled by itself or by its own tasks; it ended
      after its time, whatever it returned
    SystemExit, KeyboardInterrupt                            EXITS        lets it end the process, as Python does
    the call that waits for it was cancelled: close(), or    STOPPED      counts nothing, hands the message back
      a caller that went away; its turn is not to go on
    its time and the grace are over, and it still runs       ABANDONED    counts a failed attempt; its place is free
    no thread could be started for it                        NOT_BEGUN    counts nothing, tries again later

An abandoned run is kept among `Runner.abandoned` until it ends; nothing that it does has an effect on its conversation any
more. While it runs, its message is not run again. A stopped run that does not end, such as one in a thread, is kept there too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from enum import Enum
from functools import partial
from types import CoroutineType
from typing import Any

from ..drivers.base import Key
from ..errors import UsageError, describe_fault
from .instruments import Instrument, run_surrounded
from .places import Places
from .threads import Job, Threads
from .turn import Turn

log = logging.getLogger("chatkeep")

enter_task, leave_task = asyncio.tasks._enter_task, asyncio.tasks._leave_task
"""What asyncio itself does around each step of a task: a handler finds the task it runs under by `asyncio.current_task`."""

GRACE_S = 1.0
"""A handler whose time is over is cancelled, and has so long to end."""

ABANDONED_MOST = 100
"""With so many abandoned runs, or twice as many as there are places, no handler is begun before some of them end."""


class Fate(Enum):
    """How a run ended; the table is in the module's docstring."""

    ANSWERED = "answered"
    FAILED = "failed"
    ABANDONED = "abandoned"
    STOPPED = "stopped"
    EXITS = "exits"
    NOT_BEGUN = "not begun"


class CannotBegin(Exception):
    """There is no thread for a handler that needs one."""


def judge(fault: BaseException | None, *, ended: bool = True, late: bool = False, stopped: bool = False) -> Fate:
    """Judge how a run ended that raised *fault*, or returned: the one place where exceptions of handlers are told apart.

    *stopped*: it was cancelled from outside; *late*: its time was over before it ended.
    """
    if isinstance(fault, SystemExit | KeyboardInterrupt):
        return Fate.EXITS
    if stopped:
        return Fate.STOPPED
    if not ended:
        return Fate.ABANDONED
    if late:
        return Fate.FAILED
    if isinstance(fault, CannotBegin):
        return Fate.NOT_BEGUN
    return Fate.ANSWERED if fault is None else Fate.FAILED


RunnableHandler = Callable[[Turn[Any]], Awaitable[Any]]


class Run:
    """One run of a handler, under a task of its own; what the task does is to step through it.

    key: whose turn it is. id: the first of the messages it answers, which is blamed. outer: the turn that waits for it. over: what it
    does has no effect any more. began, took: by the monotonic clock. value, fault: what it returned or raised; fate: how that is judged.
    """

    # Most runs are over at once and need none of these set.
    over = ended = late = abandoned = unwanted = _pending = _dropped = False
    gone: tuple[Callable[[], None], ...] = ()  # called when it ends, if it was abandoned before
    cancelled: asyncio.CancelledError | None = None  # of whoever waits for it
    value: Any = None
    fault: BaseException | None = None
    fate = Fate.ANSWERED
    job: Job | None = None
    waiter: asyncio.Future[None] | None = None
    began = took = 0.0
    task: asyncio.Task[None]
    timer: asyncio.TimerHandle
    turn: Turn[Any] | None = None

    def __init__(
        self,
        key: Key,
        id: str,
        outer: Run | None,
        handler: RunnableHandler,
        context: Context,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        self.key = key
        self.id = id
        self.outer = outer
        self.handler = handler
        self.context = context
        self.instruments = instruments

    @property
    def time_began(self) -> float:
        """Since when its time counts: since its thread has begun, if it has one."""
        if self.job is None or self.job.over:
            return self.began
        return self.job.began or time.monotonic()

    @property
    def still_runs(self) -> bool:
        """Whether anything of it still runs, be it in a thread."""
        return not self.ended or (self.job is not None and not self.job.over)

    def call_handler(self, turn: Turn[Any]) -> None:
        """Call the handler and go on until it waits for something, or has ended."""
        RUNNING.set(self)
        try:
            found = self.handler(turn) if not self.instruments else run_surrounded(self.instruments, self.handler, turn)
        except StopIteration as stop:  # which would be taken for the end of a coroutine
            raise RuntimeError("the handler raised StopIteration") from stop
        self._coroutine: Coroutine[Any, Any, Any] = found if type(found) is CoroutineType else wait_for(found)
        self._awaited = self._coroutine.send(None)
        self._pending = True

    def step(self, step: Callable[[Any], Any], given: Any) -> Any:
        """Do a step in the context of the run, and take what it gives or raises; give what the handler waits for then."""
        try:
            return self.context.run(step, given)
        except StopIteration as done:
            if not self.abandoned:
                self.value = done.value
        except (SystemExit, KeyboardInterrupt) as exits:
            self.fault, self.ended = exits, True
            return None  # it ends the loop, and whoever waits here with it
        except BaseException as fault:
            if not self.abandoned:
                self.fault = fault
            else:
                self.tell_fault(fault)
        self.ended = True
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        if self.gone:
            self.tell_gone()
        return None

    def send(self) -> Any:
        """Do one step, for the task."""
        if self._pending:  # what the handler has waited for since it began
            self._pending = False
            return self._awaited
        return self._go_on(self._coroutine.send, None)

    def throw(self, fault: BaseException) -> Any:
        """Do one step with an exception, such as that of a cancellation."""
        if self._pending:
            self._pending = False
            if asyncio.isfuture(self._awaited) and self._awaited.cancel():
                return self._awaited  # as a task does that was cancelled before it begins to wait
        return self._go_on(self._coroutine.throw, fault)

    def _go_on(self, step: Callable[..., Any], given: Any) -> Any:
        if not self._dropped:
            awaited = self.step(step, given)
            if not self.ended:
                return awaited
            if isinstance(self.fault, SystemExit | KeyboardInterrupt):
                raise self.fault
        raise StopIteration

    def drop(self) -> None:
        """End the run, whatever it does about that: nobody goes on with it."""
        if not self.ended:
            self._dropped = self.ended = True
            try:
                self._coroutine.close()
            except RuntimeError:
                import ctypes

                # It swallows this too. When it is freed Python asks it once more, where no loop runs any more: then it may
                # spin for ever, so it is never freed.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._coroutine))
            except BaseException as fault:
                log.warning("%s: a handler that was let go of raised %s", self.key, describe_fault(fault))
            self.task.cancel()
            self.tell_gone()

    def tell_fault(self, fault: BaseException) -> None:
        """Log what the run has raised after it was given up, where nobody else hears of it."""
        if not isinstance(fault, asyncio.CancelledError):
            log.warning(
                "%s: a handler that was given up has raised %s", self.key, describe_fault(fault), exc_info=fault
            )

    def release(self) -> None:
        """Let go of what the run ran in, which refers to the run: circles of garbage would cost more than the run itself."""
        del self.context, self.task
        self.turn = None
        if self.waiter is not None:
            del self.timer

    def tell_gone(self) -> None:
        """Tell those who wait for its end, if it was abandoned."""
        if self.gone and not self.still_runs:
            gone, self.gone = self.gone, ()
            for tell in gone:
                tell()


RUNNING: ContextVar[Run | None] = ContextVar("chatkeep run", default=None)
"""The run that the code of now belongs to; tasks that a handler starts inherit it, and see when it is over."""


RAN: ContextVar[Context | None] = ContextVar("chatkeep ran", default=None)
"""The context of the handler whose turn the code of now records; only where somebody observes."""


def refuse_own_turn(key: Key, why: str) -> None:
    """Refuse what a handler must not do to the conversation whose turn it runs. Raises `UsageError`."""
    running = RUNNING.get()
    while running is not None:
        if running.key == key and not running.over:
            raise UsageError(f"{key}: a handler that does this to its own conversation {why}. Nothing was done.")
        running = running.outer


async def wait_for(found: Awaitable[Any]) -> Any:
    """Wait for *found*, for which no coroutine stands."""
    return await found


class Shell(Coroutine[Any, Any, None]):
    """What the task does under which a handler runs: waits for a run, and steps through it.

    The task is made beforehand, because that takes more time than a whole turn should. A handler that waits for nothing leaves
    it to the next one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop = loop
        self._run: Run | None = None
        self._parked: asyncio.Future[None] | None = None
        self._over = False
        self.task = asyncio.Task(self, loop=loop, name="chatkeep turn", context=context)

    @property
    def fit(self) -> bool:
        """Whether a handler may run under it: the last one has not cancelled it."""
        return not (self.task.cancelling() if self._parked is None else self._parked.done())

    def take(self, run: Run) -> None:
        """Go on with *run*, which has begun and waits for something."""
        self._run = run
        self.task.set_name(f"chatkeep turn {run.key}")
        self._wake()

    def leave(self) -> None:
        """Let go of the run that has ended here, and of the task that has ended with it."""
        if self._run is not None:
            self._run = None
            del self.task

    def end(self) -> None:
        """End the task, in which nothing runs."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def send(self, value: Any) -> Any:
        """Do one step, for the task."""
        if self._run is not None:
            return self._run.send()
        if self._over:
            raise StopIteration
        self._parked = self._loop.create_future()
        return self._parked.__await__().send(None)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Do one step with an exception."""
        fault = kind if isinstance(kind, BaseException) else value or kind()
        if self._run is not None:
            return self._run.throw(fault)
        self._over = True
        raise fault

    def close(self) -> None:
        """Do nothing: nothing is held here."""

    def __await__(self) -> Any:
        raise TypeError("nobody waits for this")


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

    async def run(
        self,
        key: Key,
        id: str,
        handler: RunnableHandler,
        turn: Turn[Any],
        then: Callable[[Any], Any],
        *,
        admitted: bool = False,
        observed: bool = False,
        instruments: Sequence[Instrument] = (),
    ) -> Run:
        """Run the handler when there is a place (who is *admitted* has one), and then make of what it returned what is to be
        kept. Never raises what the handler raised, but for SystemExit and KeyboardInterrupt. *instruments* surround the handler;
        where there are any, or it is *observed* without them, RAN is set."""
        outer = RUNNING.get()
        if outer is not None and outer.over:  # nobody waits for this
            outer = None
        run = Run(key, id, outer, handler, self._context.copy(), instruments)
        # A turn that a handler waits for must not wait for the place that this handler holds.
        queues = not admitted and outer is None
        if queues and not self.places.take_at_once():
            queues = await self.places.take(key)
            if not queues:  # meanwhile a turn has come to wait for this one
                run.outer = RUNNING.get()
        run.began = time.monotonic()
        try:
            shell = self._begin(run, turn)
            if not run.ended:
                await self._wait(run, shell)
                if run.still_runs:
                    self._abandon(run)
            if run.fault is None and not (run.late or run.abandoned):
                try:
                    run.value = then(run.value)
                except BaseException as fault:  # types of the application's own may raise anything
                    run.fault = fault
        finally:
            run.over = True
            run.outer = None  # what it has left behind, such as a task, keeps no other run alive
            run.took = time.monotonic() - run.began
            if queues:
                self.places.give_back()
        if run.ended and not run.abandoned:
            if instruments or observed:
                RAN.set(run.context)
            run.release()
            if run.waiter is None:
                if run.fault is None:
                    return run  # it has waited for nothing, as most do: nobody can have ended it
            else:
                shell.leave()
        stopped = run.cancelled is not None or run.unwanted
        run.fate = judge(run.fault, ended=not run.abandoned, late=run.late, stopped=stopped)
        if run.fate is Fate.EXITS and run.fault is not None:
            raise run.fault
        if run.cancelled is not None:
            raise run.cancelled
        if run.late and not run.unwanted:
            late = TimeoutError(f"it took longer than {self._timeout_s:g} s{', and still runs' * run.abandoned}")
            late.__cause__ = run.fault
            run.fault = late
        return run

    def _begin(self, run: Run, turn: Turn[Any]) -> Shell:
        # The handler begins at once, and not when the loop comes to it: most wait for nothing, and are over then.
        loop, shell = asyncio.get_running_loop(), self._shell
        if shell is None or not shell.fit:  # (the task of one that was cancelled ends by that)
            shell = Shell(loop, self._context.copy())
        self._shell = None  # (a handler may begin another one)
        current, run.task, run.turn = asyncio.current_task(loop), shell.task, turn
        if current is not None:
            leave_task(loop, current)
        enter_task(loop, run.task)
        try:
            run.step(run.call_handler, turn)
        finally:
            leave_task(loop, run.task)
            if current is not None:
                enter_task(loop, current)
        if run.ended:
            if self._shell is None:
                self._shell = shell
            else:
                shell.end()
        return shell

    async def _wait(self, run: Run, shell: Shell) -> None:
        loop = asyncio.get_running_loop()
        run.waiter = loop.create_future()
        run.timer = loop.call_later(self._timeout_s, self._too_late, run)
        shell.take(run)
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
            run.timer = asyncio.get_running_loop().call_later(self.grace_s, self._give_up, run)
            run.task.cancel()

    def _too_late(self, run: Run) -> None:
        loop = asyncio.get_running_loop()
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
            loop = asyncio.get_running_loop()
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
