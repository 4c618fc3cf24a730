"""How a store is asked for all that it holds: for no more at once than it keeps up with, and again where it does not answer.

A store that is asked for more than it can do in its time works for nobody: when an answer is there, whoever wanted it has given up
and asked again. So what takes long is followed by less.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec import structs

from ..drivers.base import Driver, Row, Scan
from ..errors import Replaced, Unavailable, Uncertain

A = TypeVar("A")
T = TypeVar("T")

PATIENCE_S = 120.0  # how long a store that does not answer is asked again
LONGEST_PAUSE_S = 5.0
PAGE_S = 2.0  # how long a page should take: less than half of what a driver gives an act
ROW_S = 0.001  # in a page, of a store that has rows side by side, at most
LONG_S = 4.0  # a conversation, which takes some acts one after another, that took longer is followed by fewer at a time
FIRST = 16  # places, until it is known how quick the store is
FEWEST = 2
PAGE = 100  # rows that are asked for at once, until it is known how large they are, and how quickly they come
LEAST = 10  # rows that any store can answer for at once
PAGE_BYTES = 2 << 20


async def do(verb: Callable[[A], Awaitable[T]], act: A) -> T:
    """Return the answer of an act; as all can be run again, a store that is away for a while, or that cannot keep up, is waited for.

    Pauses grow and differ, so that those who ask again leave room for those who ask first.
    """
    deadline, pause = time.monotonic() + PATIENCE_S, 0.05
    while True:
        try:
            return await verb(act)
        except Replaced:
            raise
        except (Unavailable, Uncertain):
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(random.uniform(pause / 2, pause))
        pause = min(2 * pause, LONGEST_PAUSE_S)


class Room:
    """Places for what is done at the same time, *most* of them at most: more while it is done quickly, half as many when it takes long."""

    def __init__(self, most: int) -> None:
        self.places = float(min(FIRST, most))
        self._most = most
        self._taken = 0
        self._left = asyncio.Event()
        self._halved_at = 0.0

    async def enter(self) -> float:
        """Wait for a place and take it; answers when that was, for `leave`."""
        while self._taken >= int(self.places):
            self._left.clear()
            await self._left.wait()
        self._taken += 1
        return time.monotonic()

    def leave(self, began: float) -> None:
        """Give a place back that was taken when it *began*."""
        self._taken -= 1
        self._left.set()
        now = time.monotonic()
        if now - began < LONG_S:
            more = 1 / self.places if self._halved_at else 1.0
            self.places = min(self.places + more, self._most)
        elif began > self._halved_at:  # (What began before shows nothing of what there is since.)
            self.places = max(self.places / 2, FEWEST)
            self._halved_at = now


class Pages:
    """The rows of an index, page by page: larger ones while they come quickly, up to the limit of *scan* and some megabytes, smaller
    ones when they do not."""

    def __init__(self, driver: Driver, scan: Scan) -> None:
        self.are_slow = False
        """Whether the last one took long, or each of its rows did, as where each is looked for by itself."""
        self._driver = driver
        self._scan = structs.replace(scan, limit=min(PAGE, scan.limit))
        self._most = scan.limit

    async def next(self) -> list[Row]:
        """Return the rows of the next page; none at the end."""
        began = time.monotonic()
        rows = await self._read()
        took = time.monotonic() - began
        self.are_slow = took > min(PAGE_S, ROW_S * max(len(rows), PAGE))
        if rows:
            limit = int(len(rows) * min(2.0, PAGE_S / max(took, 0.001)))
            fitting = PAGE_BYTES * len(rows) // sum(len(row.body) + 256 for row in rows)
            self._scan = structs.replace(self._scan, limit=max(min(limit, fitting, self._most), LEAST), after=rows[-1])
        return rows

    async def _read(self) -> list[Row]:
        """Return the rows of a page; of a smaller one where the store cannot answer for so many in its time."""
        while self._scan.limit > LEAST:
            try:
                return await self._driver.scan(self._scan)
            except Replaced:
                raise
            except (Unavailable, Uncertain):
                self._scan = structs.replace(self._scan, limit=max(self._scan.limit // 4, LEAST))
        return await do(self._driver.scan, self._scan)
