"""Calls that wait or take long, each in a thread of its own that ends with it.

The threads of `asyncio.to_thread` are the application's: they are a handful, and whatever of it hangs there would hold up all that is
asked of them afterwards, the closing of a store too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Generic, ParamSpec, TypeVar

from .errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 8
"""So many calls of one event loop run at a time; others wait for their turn."""

LOOK_S = 0.01


def start(thread: Thread) -> None:
    """Start *thread*. Raises `Unavailable` where the system lets this process have no more."""
    try:
        thread.start()
    except RuntimeError as none_left:
        raise Unavailable(
            f"No thread could be started ({none_left}); nothing was done. Raise how many this process may have (ulimit -u, the pids limit "
            "of its container, its memory), or try again later."
        ) from none_left


async def ended(thread: Thread) -> None:
    """Wait for the end of *thread*, which is near; also where there is no other thread to be had."""
    try:
        await offload(thread.join)
    except Unavailable:
        while thread.is_alive():  # noqa: ASYNC110 only a thread could wait for another and tell the loop
            await asyncio.sleep(LOOK_S)


async def offload(call: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
    """
    Return what *call* answers, or raise what it raises; meanwhile the event loop does other things.

    Who is cancelled does not wait for its end. A process does not either. *call* must not wait for another call that is offloaded.
    """
    return await _offloaded(partial(call, *args, **options), None)


async def offload_taking(take: Callable[[], T], give_back: Callable[[T], object]) -> T:
    """Return what *take* answers, as `offload`; where the caller was cancelled meanwhile, *give_back* is called with it, in some thread."""
    return await _offloaded(take, give_back)


async def _offloaded(call: Callable[[], T], give_back: Callable[[T], object] | None) -> T:
    async with _places.of_now():
        answered: Future[T] = Future()
        answered.set_running_or_notify_cancel()  # from here on it is not taken back
        thread = Thread(target=_call, args=(answered, call), name="chatkeep call", daemon=True)
        start(thread)
        try:
            return await asyncio.wrap_future(answered)
        except asyncio.CancelledError:
            if give_back is not None:
                answered.add_done_callback(lambda done: done.exception() or give_back(done.result()))
            raise
        finally:
            if answered.done():
                thread.join()  # it has nothing left to do


class OfEachLoop(Generic[T]):
    """What each event loop has one of, as *make* makes it, for as long as the loop is open."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held: dict[asyncio.AbstractEventLoop, T] = {}

    def of_now(self) -> T:
        """Return that of the running loop."""
        loop = asyncio.get_running_loop()
        if (found := self._held.get(loop)) is None:
            for other in list(self._held):
                if other.is_closed():  # (weak keys would not do: what somebody has waited for knows its loop)
                    self._held.pop(other, None)
            found = self._held[loop] = self._make()
        return found


_places = OfEachLoop(lambda: asyncio.Semaphore(AT_ONCE))


def _call(answered: Future[T], call: Callable[[], T]) -> None:
    try:
        answer = call()
    except BaseException as fault:
        answered.set_exception(fault)
    else:
        answered.set_result(answer)
