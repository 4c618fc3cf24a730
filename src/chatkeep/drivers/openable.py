"""How every driver is opened and closed: it may be used from the end of an `open` that went well until `close`, and
never in between.

What is learnt while a store is being opened, its epoch above all, is known of no part of it before all of it is known.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import Misconfigured, Unavailable, Uncertain


class Openable:
    """Opens and closes a driver for the store named *store*; a driver adds `_start` and `_stop`.

    One opening at a time: `_stop` has given everything back before the next `_start` begins, so that no act of one
    opening can meet the connections or the epoch of another.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.epoch = ""
        self.is_open = False
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the driver usable, or leave it closed: see `Driver.open`."""
        while self._stopping is not None:
            await asyncio.wait([self._stopping])
        if self._starting is not None:
            raise Misconfigured(f"{self.store} is open already, or being opened; nothing was done. Close it first.")
        starting = self._starting = asyncio.create_task(self._started(), name="chatkeep opening")
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            await self.close()
            raise
        fault = None if starting.cancelled() else starting.exception()
        if fault is not None:
            await self.close()
            if isinstance(fault, Uncertain):  # nothing of anybody's was written, and opening again does no harm
                raise Unavailable(f"{self.store} was not opened: {fault}") from fault
            raise fault
        if not self.is_open:
            raise Unavailable(f"{self.store} was closed while it was being opened; nothing was done.")

    async def close(self) -> None:
        """Give everything back, also when the caller is cancelled: see `Driver.close`."""
        self.is_open = False
        if self._starting is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stopped(self._starting), name="chatkeep closing")
        await asyncio.shield(self._stopping)

    def refuse_closed(self, done: str) -> None:
        """Raise `Unavailable` where the driver may not be used; *done* says what was not done."""
        if not self.is_open:
            raise Unavailable(f"{self.store} is not open; nothing was {done}.")

    async def _started(self) -> None:
        epoch = await self._start()
        if not isinstance(epoch, str):
            raise Misconfigured(
                f"{self.store} was not opened: {type(self).__name__}._start returned {epoch!r}, and has to return the epoch of the "
                "store, the random text that was written when it was made."
            )
        self.epoch, self.is_open = epoch, True

    async def _stopped(self, starting: asyncio.Task[None]) -> None:
        try:
            await end(starting)
            self.is_open = False
            await self._stop()
        finally:
            self.epoch, self._starting, self._stopping = "", None, None

    async def _start(self) -> str:
        """Make what the driver needs; answers the store's epoch. Whatever is raised, `_stop` is called."""
        raise NotImplementedError

    async def _stop(self) -> None:
        """Have the acts under way answered and give back what `_start` has made, be it half of it."""
        raise NotImplementedError


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel *task* until it has ended: asyncio.wait_for, which libraries use, may swallow a cancellation."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
