"""Where hits of a rate limit are counted: in the store, for all servers on it, or in this process.

A window begins with its first hit and ends by itself. Both answer the same: how many hits there were in the window,
this one included, and how many seconds it still lasts.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

from ..bounded import Newest
from ..drivers.base import Ability, Count, Driver

HELD = 100_000
"""Windows that one process keeps in memory; those without a hit for longest go first."""


class Window(NamedTuple):
    """Hits in the window, and the seconds until it ends."""

    hits: int
    left_s: float


class Counters(Protocol):
    """Counts hits by key."""

    async def open(self) -> None:
        """Make what it needs. The store is open."""

    async def hit(self, key: str, window_s: int, cost: int = 1) -> Window:
        """Count a hit, or so many."""

    async def close(self) -> None:
        """Give everything back."""


def counters_for(driver: Driver) -> Counters | None:
    """Return the counters that all instances on *driver*'s store share; None where they cannot count there."""
    return InStore(driver) if Ability.COUNT in driver.abilities else None


class InMemory:
    """Counters of this process."""

    def __init__(self, *, held: int = HELD) -> None:
        self._windows: Newest[str, tuple[int, float]] = Newest(held)

    async def open(self) -> None:
        """Do nothing: nothing is needed."""

    async def hit(self, key: str, window_s: int, cost: int = 1) -> Window:
        """Count a hit, or so many."""
        return self.count(key, window_s, time.monotonic(), cost)

    def count(self, key: str, window_s: int, now: float, cost: int = 1) -> Window:
        """Count a hit at *now*, or so many."""
        hits, ends = self._windows.get(key, (0, 0.0))
        if ends <= now:
            hits, ends = 0, now + window_s
        self._windows[key] = hits + cost, ends
        return Window(hits + cost, ends - now)

    async def close(self) -> None:
        """Forget everything."""
        self._windows.clear()


class InStore:
    """Counters beside the conversations, for all servers on the store."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def open(self) -> None:
        """Raise what stands in the way of counting there."""
        await self._driver.count(Count("opened", 1.0, time.time(), cost=0))

    async def hit(self, key: str, window_s: int, cost: int = 1) -> Window:
        """Count a hit, or so many."""
        at = time.time()
        hits, ends = await self._driver.count(Count(key, window_s, at, cost))
        return Window(hits, ends - at)

    async def close(self) -> None:
        """Do nothing: whoever has opened the driver closes it."""
