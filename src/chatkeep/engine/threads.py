"""Threads for handlers that are plain functions: one for each that runs, so that one that hangs takes nobody else's."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from types import CoroutineType
from typing import Any

ENDS_S = 1.0


class Job:
    """A call of a function in a thread. *began*: when the thread has begun it, by the monotonic clock; *over*: it has ended,
    or the loop that would hear of that has. *context*: what it is called in."""

    __slots__ = ("_call", "_loop", "_over", "answered", "began", "context", "ended")

    def __init__(self, call: Callable[[], Any], ended: Callable[[BaseException | None], None]) -> None:
        self._call = call
        self.context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()
        self.began: float | None = None
        self._over = False
        self.ended = ended

    @property
    def over(self) -> bool:
        """Whether nothing more is heard of it."""
        return self._over or self._loop.is_closed()

    def do(self, thread: HandlerThread) -> bool:
        """Call the function, in *thread*; tell whether anybody is still there to hear of it."""
        self.began = time.monotonic()
        value, fault = None, None
        try:
            value = self.context.run(self._call)
        except BaseException as raised:
            fault = raised
        try:
            self._loop.call_soon_threadsafe(self._tell, thread, value, fault)
        except RuntimeError:  # the loop is closed
            _let_go(value)
            return False
        return True

    def _tell(self, thread: HandlerThread, value: Any, fault: BaseException | None) -> None:
        self._over = True
        heard = not self.answered.done()
        if heard:
            self.answered.set_result((value, fault))
        else:
            _let_go(value)
        thread.threads.take_back(thread)
        self.ended(None if heard else fault)


def _let_go(value: Any) -> None:
    """Let go of what nobody takes. A plain function may give a coroutine, and Python warns of one that nobody has awaited."""
    if isinstance(value, CoroutineType):
        value.close()


class HandlerThread(Thread):
    """A thread that does one job after another. A daemon: one that hangs does not keep its process from ending."""

    def __init__(self, threads: Threads) -> None:
        super().__init__(name="chatkeep handler", daemon=True)
        self.threads = threads
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()

    def run(self) -> None:
        """Do jobs until it is told to end."""
        while (job := self.jobs.get()) is not None:
            if not job.do(self):
                return
            del job


class Threads:
    """Begins each job at once: in a thread that is idle, else in a new one. At most *idle* are kept for later."""

    def __init__(self, idle: int) -> None:
        self._most = idle
        self._idle: list[HandlerThread] = []
        self._open = True

    def begin(self, call: Callable[[], Any], ended: Callable[[BaseException | None], None]) -> Job:
        """Have a thread call *call*; *ended* is called afterwards, with what it raised if nobody waits for it.

        Raises RuntimeError where no thread can be started.
        """
        job = Job(call, ended)
        self._open = True
        if self._idle:
            thread = self._idle.pop()
        else:
            thread = HandlerThread(self)
            thread.start()
        thread.jobs.put(job)
        return job

    def take_back(self, thread: HandlerThread) -> None:
        """Keep an idle thread, or let it end."""
        if self._open and len(self._idle) < self._most:
            self._idle.append(thread)
        else:
            thread.jobs.put(None)

    def close(self) -> None:
        """End the idle threads; those that work end after their job."""
        self._open = False
        idle, self._idle = self._idle, []
        for thread in idle:
            thread.jobs.put(None)
        for thread in idle:
            thread.join(ENDS_S)
