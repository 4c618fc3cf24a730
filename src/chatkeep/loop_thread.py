"""An event loop in a thread of its own, for what is used without one; and decorators that make a method blocking."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import cache, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from .errors import NotOpen, Uncertain, UsageError
from .offload import start

P = ParamSpec("P")
T = TypeVar("T")
Inner = TypeVar("Inner")
Inner_co = TypeVar("Inner_co", covariant=True)
END: Any = object()


class Words(NamedTuple):
    """What the errors of a `LoopThread` say of what it runs: its name, how it is opened, how a lost answer is recovered, and, if
    it is refused where an event loop runs, what to do there."""

    subject: str
    use: str
    recover: str
    in_a_loop: str = ""


class LoopThread:
    """Runs an event loop in a thread, from `start` to `stop`, or until the process ends, which stops it in good order; any thread of
    this process may call in between."""

    def __init__(self, name: str, words: Words) -> None:
        self._name = name
        self._words = words
        self._process = 0  # that has started it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()
        self._lock = threading.Lock()  # what is begun before the stop is seen by it

    def start(self, opening: Callable[[], Awaitable[None]], closing: Callable[[], Awaitable[None]]) -> None:
        """Run *opening* on the loop and return when it is done; raises what it raises. *closing* is run by `stop`."""
        self._refuse_elsewhere()
        with self._lock:
            if self._thread is not None:
                raise UsageError(f"{self._words.subject} is open already; nothing was done.")
            opened: Future[asyncio.AbstractEventLoop] = Future()
            stopping = asyncio.Event()
            live = self._live(opening, closing, opened, stopping)
            thread = threading.Thread(target=lambda: asyncio.run(live), name=self._name, daemon=True)
            self._process, self._thread, self._stopping = os.getpid(), thread, stopping
            try:
                start(thread)
                self._loop = opened.result()
                _stop_at_exit(self)
            except BaseException:
                self._loop = self._thread = None
                if thread.ident is None:  # it was not started
                    live.close()
                # After Ctrl-C it is closed as soon as it is open.
                opened.add_done_callback(
                    lambda done: done.exception() or done.result().call_soon_threadsafe(stopping.set)
                )
                if opened.done():
                    thread.join()
                raise

    def stop(self) -> None:
        """Close what runs here and end the thread; calls that still wait then raise `Uncertain`. In a forked child it does nothing:
        what is open belongs to the parent."""
        if self._is_forked():
            return
        if threading.current_thread() is self._thread:
            raise UsageError(
                f"{self._words.subject} was closed from its own event loop, which would wait for itself; it is open still. "
                "Close it in another thread."
            )
        with self._lock:
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
            if loop is not None:
                loop.call_soon_threadsafe(self._stopping.set)
        if thread is not None:
            thread.join()
            _running.discard(self)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run *call* on the loop and return its result."""
        try:
            self._refuse_elsewhere()
            with self._lock:
                if self._loop is None:
                    raise NotOpen(f"{self._words.subject} is not open; nothing was done. Use it in {self._words.use}.")
                answered = asyncio.run_coroutine_threadsafe(call, self._loop)
        except UsageError:
            call.close()
            raise
        try:
            return answered.result()
        except CancelledError as closed:
            raise Uncertain(
                f"{self._words.subject} was closed before an answer came. {self._words.recover}"
            ) from closed
        except BaseException:
            answered.cancel()  # Ctrl-C, for example
            raise

    def iterate(self, items: AsyncIterator[T], *, until_closed: bool) -> Iterator[T]:
        """Yield what *items* yields; with *until_closed*, closing ends that, and otherwise raises `Uncertain`."""

        async def next_one() -> T:
            try:
                return await anext(items, END)
            except asyncio.CancelledError:
                if until_closed:
                    return END  # type: ignore[no-any-return]
                raise

        async def close() -> None:
            await cast(AsyncGenerator[T, None], items).aclose()

        try:
            while (item := self.run(next_one())) is not END:
                yield item
        finally:
            with suppress(UsageError, Uncertain):
                self.run(close())

    def _is_forked(self) -> bool:
        return self._thread is not None and self._process != os.getpid()

    def _refuse_elsewhere(self) -> None:
        if self._is_forked():  # (before the lock, which another thread may have held at the fork)
            raise NotOpen(
                f"{self._words.subject} was opened in another process, of which this one is a fork; nothing was done. Open it after "
                "the fork, once in each process, and not before."
            )
        if self._words.in_a_loop and runs_here():
            raise UsageError(
                f"{self._words.subject} was called where an event loop runs, which would stand still until the answer comes; nothing "
                f"was done. {self._words.in_a_loop}"
            )

    async def _live(
        self,
        opening: Callable[[], Awaitable[None]],
        closing: Callable[[], Awaitable[None]],
        opened: Future[asyncio.AbstractEventLoop],
        stopping: asyncio.Event,
    ) -> None:
        try:
            await opening()
        except BaseException as fault:
            opened.set_exception(fault)
            return
        opened.set_result(asyncio.get_running_loop())
        await stopping.wait()
        await closing()


_running: set[LoopThread] = set()


@cache
def _register_stop() -> None:
    # What `atexit` calls comes too late: by then no executor takes work any more, and closing a store needs one. What is registered here
    # last is called first, so that executors, which register themselves when they are imported, end after it.
    import concurrent.futures.thread  # noqa: F401

    getattr(threading, "_register_atexit", atexit.register)(_stop_all)


def _stop_all() -> None:
    for one in list(_running):
        one.stop()


def _stop_at_exit(running: LoopThread) -> None:
    _register_stop()
    _running.add(running)


def runs_here() -> bool:
    """Tell whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Blocking(Protocol[Inner_co]):
    """Stands for an *inner* one that lives on a loop."""

    @property
    def _inner(self) -> Inner_co: ...
    @property
    def _loop(self) -> LoopThread: ...


def blocking(
    method: Callable[Concatenate[Inner, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking[Inner], P], T]:
    """Return *method*, to be called from a plain thread."""

    @wraps(method)
    def call(self: Blocking[Inner], /, *args: P.args, **options: P.kwargs) -> T:
        return self._loop.run(method(self._inner, *args, **options))

    return call


def iterating(
    method: Callable[Concatenate[Inner, P], AsyncIterator[T]], *, until_closed: bool = False
) -> Callable[Concatenate[Blocking[Inner], P], Iterator[T]]:
    """Return *method*, an asynchronous generator, as an iterator of a plain thread; see `LoopThread.iterate`."""

    @wraps(method)
    def call(self: Blocking[Inner], /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        return self._loop.iterate(method(self._inner, *args, **options), until_closed=until_closed)

    return call
