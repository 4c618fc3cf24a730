"""One run of a handler, and how it ended, in one table.

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
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, ContextVar
from enum import Enum
from types import CoroutineType
from typing import Any

from ..drivers.base import Key
from ..errors import UsageError, describe_fault, log_fault, presentable
from .instruments import Instrument, run_surrounded
from .threads import Job
from .turn import Turn
from .work import Work

log = logging.getLogger("chatkeep")


class Fate(Enum):
    """How a run ended; the table is in the module's docstring."""

    ANSWERED = "answered"
    FAILED = "failed"
    ABANDONED = "abandoned"
    STOPPED = "stopped"
    EXITS = "exits"
    NOT_BEGUN = "not begun"


ANSWERED, FAILED, ABANDONED, STOPPED, EXITS, NOT_BEGUN = Fate
"""The same at hand: an Enum looks each of its members up anew, for a tenth of a microsecond."""


class CannotBegin(Exception):
    """There is no thread for a handler that needs one."""


def judge(fault: BaseException | None, *, ended: bool = True, late: bool = False, stopped: bool = False) -> Fate:
    """Judge how a run ended that raised *fault*, or returned: the one place where exceptions of handlers are told apart.

    *stopped*: it was cancelled from outside; *late*: its time was over before it ended.
    """
    if isinstance(fault, SystemExit | KeyboardInterrupt):
        return EXITS
    if stopped:
        return STOPPED
    if not ended:
        return ABANDONED
    if late:
        return FAILED
    if isinstance(fault, CannotBegin):
        return NOT_BEGUN
    return ANSWERED if fault is None else FAILED


RunnableHandler = Callable[[Any], Awaitable[Any]]


class Run:
    """One run of a handler, under a task of its own; what the task does is to step through it.

    key: whose turn it is. id: the first of the messages it answers, which is blamed. instruments: surround the handler; where there are
    any, or it is *observed* without them, RAN is set. queued: it has taken a place. outer: the turn that waits for it. over: what it
    does has no effect any more. began, took: by the monotonic clock. value, fault: what it returned or raised; fate: how that is judged.
    work: its steps and reminders, if it has any.
    """

    # Most runs are over at once and need none of these set.
    queued = over = ended = late = abandoned = unwanted = observed = _pending = _dropped = False
    instruments: Sequence[Instrument] = ()
    outer: Run | None = None
    gone: tuple[Callable[[], None], ...] = ()  # called when it ends, if it was abandoned before
    cancelled: asyncio.CancelledError | None = None  # of whoever waits for it
    value: Any = None
    fault: BaseException | None = None
    fate = ANSWERED
    work: Work | None = None
    job: Job | None = None
    waiter: asyncio.Future[None] | None = None
    began = took = 0.0
    context: Context
    task: asyncio.Task[None]
    shell: Shell
    timer: asyncio.TimerHandle

    def __init__(self, key: Key, id: str, handler: RunnableHandler, turn: Turn[Any]) -> None:
        self.key = key
        self.id = id
        self.handler = handler
        self.turn: Turn[Any] | None = turn

    def keep(self, said: Any) -> Any:
        """Make of what the handler has returned what is to be kept; what this raises counts as raised by the handler."""
        return said

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

    def call_handler(self) -> None:
        """Call the handler and go on until it waits for something, or has ended."""
        RUNNING.set(self)
        turn: Any = self.turn
        instruments = self.instruments
        try:
            found = run_surrounded(instruments, self.handler, turn) if instruments else self.handler(turn)
        except StopIteration as stop:  # which would be taken for the end of a coroutine
            raise RuntimeError("the handler raised StopIteration") from stop
        coroutine: Coroutine[Any, Any, Any] = found if type(found) is CoroutineType else wait_for(found)
        try:
            self._awaited = coroutine.send(None)
        except StopIteration as done:
            self.value, self.ended = done.value, True
        else:
            self._coroutine, self._pending = coroutine, True

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
                self.fault = presentable(fault)
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
        fault = presentable(fault)
        if not isinstance(fault, asyncio.CancelledError):
            log_fault(
                log,
                logging.WARNING,
                fault,
                "%s: a handler that was given up has raised %s",
                self.key,
                describe_fault(fault),
            )

    def leave(self) -> None:
        """Have what it does from now on count for nothing: it has ended, or was given up."""
        self.over = True
        self.outer = None  # what it has left behind, such as a task, keeps no other run alive
        self.took = time.monotonic() - self.began
        turn = self.turn
        if turn is not None:
            turn.begin_work = None
            if turn.work is not None:
                self.work = turn.work
                self.work.over = True
        if self.ended and not self.abandoned:
            if self.observed or self.instruments:
                RAN.set(self.context)
            # What it ran in refers to it, and circles of garbage would cost more than the run itself.
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


if sys.version_info >= (3, 12):
    swap_task = asyncio.tasks._swap_current_task
else:
    current_tasks: dict[asyncio.AbstractEventLoop, asyncio.Task[Any]] = vars(asyncio.tasks)["_current_tasks"]

    def swap_task(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any] | None) -> asyncio.Task[Any] | None:
        """Have *loop* run *task* from now on, as asyncio itself does around each step of one, and give the task that it has run: a
        handler finds the task it runs under by `asyncio.current_task`."""
        current = current_tasks.pop(loop, None)
        if task is not None:
            current_tasks[loop] = task
        return current


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
