"""Where an open Chatkeep may be used: in the event loop and the process that opened it, and nowhere else.

Its connections, tasks and locks belong to that loop. From another one an act could be done and its answer be lost, and a
forked child would write into its parent's connections.
"""

from __future__ import annotations

import asyncio
import os

from ..errors import NotOpen, StoreError, Unavailable, UsageError

forks = 0
"""How often this process was forked off another since chatkeep was imported."""


def _count_fork() -> None:
    global forks  # read at each call: the id of the process is a system call
    forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)

OPEN = """Open it around everything that uses it:

    async with keep:
        ...

or, in a web application, in its lifespan (of the parent, where create_app(keep) is mounted):

    @asynccontextmanager
    async def lifespan(app):
        async with keep:
            yield
"""


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs here. Raises `UsageError` where there is none, as under Trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise UsageError(
            "chatkeep needs an event loop of asyncio, and none runs here (Trio has another); nothing was opened. Use asyncio.run, or "
            'the backend "asyncio" of anyio. Code without an event loop opens it with `chatkeep.blocking.BlockingChatkeep(keep)`.'
        ) from None


class Confinement:
    """Remembers the event loop and process of an opening, and refuses calls from anywhere else."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = 0
        self._before = "never opened"
        self._failed: StoreError | None = None

    def begin(self) -> None:
        """Confine use to the running loop and this process."""
        self._loop, self._forks = running_loop(), forks

    def end(self, failed: BaseException | None = None) -> None:
        """End that: closed again, or the opening has *failed*."""
        self._loop, self._before = None, "closed" if failed is None else f"not opened ({failed})"
        self._failed = failed if isinstance(failed, Unavailable) else None

    @property
    def is_inside(self) -> bool:
        """Whether the caller is where the Chatkeep was opened."""
        try:
            return asyncio.get_running_loop() is self._loop and self._forks == forks
        except RuntimeError:  # no loop runs here
            return False

    def check(self) -> None:
        """Raise `NotOpen` unless the caller is where the Chatkeep was opened; `Unavailable` where its store was away then."""
        try:
            if asyncio.get_running_loop() is self._loop and self._forks == forks:
                return
        except RuntimeError:  # no loop runs here
            pass
        self.refuse_elsewhere()
        if self._failed is not None:
            raise Unavailable(f"This Chatkeep is not open: {self._failed} Nothing was done. Open it again.")
        raise NotOpen(f"This Chatkeep was {self._before}; nothing was done. {OPEN}")

    def refuse_elsewhere(self) -> None:
        """Raise `NotOpen` where another loop or process has opened it."""
        if self._loop is None:
            return
        if self._forks != forks:
            raise NotOpen(
                "This Chatkeep was opened in another process, of which this one is a fork; nothing was done. Make and open "
                "a Chatkeep of its own in this process."
            )
        try:
            if asyncio.get_running_loop() is self._loop:
                return
        except RuntimeError:
            pass
        if self._loop.is_closed():
            raise NotOpen(
                "The event loop in which this Chatkeep was opened has ended, and the Chatkeep was not closed before; nothing was "
                "done. Make another one and use it inside `async with keep:`, which closes it."
            )
        raise NotOpen(
            "This Chatkeep was opened in another event loop; nothing was done. From another thread, hand the call over to that "
            'loop: `asyncio.run_coroutine_threadsafe(keep.receive("ada", "hello"), loop).result()`. Code without an event loop '
            "opens it with `chatkeep.blocking.BlockingChatkeep(keep)`. Or make and open a Chatkeep in the loop that is to use it."
        )
