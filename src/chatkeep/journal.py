"""Messages that came while the store was away: kept in a local SQLite file, durable, until the store has them.

The journal is a store of its own, with the same keys and entries, so that what it holds can be handed over as it is:
in order, under the ids it came with, which is what makes a second hand-over harmless. Processes on one host may share
the file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from msgspec import structs

from .drivers.base import ENTRIES_MOST, Driver, Entry, Key, Row
from .errors import Conflict
from .store import fresh_token

PAGE = 100

HandOver = Callable[[Key, list[Entry], str], Awaitable[None]]


class Journal:
    """What *driver*, a local store, holds for the real one."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._holding: dict[Key, int] = {}  # key: how often something was put there

    async def open(self) -> None:
        """Opens the file; what an earlier run has left in it will be handed over."""
        await self._driver.open()
        async for row in self._rows():
            self._put(row.key)

    async def close(self) -> None:
        """Closes the file; what it holds stays."""
        await self._driver.close()

    def __len__(self) -> int:
        return len(self._holding)

    def holds(self, key: Key) -> bool:
        """Whether messages of *key* wait here; later ones must then wait behind them."""
        return key in self._holding

    async def keep(self, key: Key, entry: Entry, *, at: float, owner: str) -> None:
        """Makes *entry* durable here."""
        self._put(key)
        while True:
            try:
                await self._driver.append(key, [entry], revision=fresh_token(), at=at, due_at=at, owner=owner)
                break
            except Conflict as erased:  # handed over a moment ago, by the clock of another process
                at = max(at, erased.erased_at or 0.0) + 0.001
        self._put(key)  # again: a hand-over that looked before this was written must look once more

    async def hand_over(self, take: HandOver) -> int:
        """Gives everything to *take*, each conversation in order, and lets go of what was taken; how many messages.

        What *take* raises ends it; what it has not taken stays.
        """
        count = 0
        async for row in self._rows():
            key, seen = row.key, -1
            while seen != self._holding.get(key, 0):
                seen = self._holding.get(key, 0)
                while entries := await self._driver.entries(key, after=0, limit=ENTRIES_MOST):
                    await take(key, entries, row.owner)
                    count += len(entries)
                    row = await self._let_go(row, entries[-1].number)
            self._holding.pop(key, None)
        return count

    def _put(self, key: Key) -> None:
        self._holding[key] = self._holding.get(key, 0) + 1

    async def _let_go(self, row: Row, number: int) -> Row:
        while True:
            # Nothing is due any more once the last entry is gone; an append that comes in between makes this a conflict.
            after = structs.replace(row, revision=fresh_token(), due_at=row.due_at if number < row.head else None)
            try:
                return await self._driver.write(after, replaces=row.revision, drop=number)
            except Conflict as there:
                if there.row is None:
                    return row
                row = there.row

    async def _rows(self) -> AsyncIterator[Row]:
        after: Row | None = None
        while rows := await self._driver.scan("due", after=after, limit=PAGE):
            for row in rows:
                yield row
            after = rows[-1]
