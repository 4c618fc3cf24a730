"""A store in which one conversation cannot be read."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from chatkeep.drivers.base import Entries, Entry, Key, Read, Row, Scan, row_at
from chatkeep.errors import Corrupt


class Damaged(Struct):
    """A driver that cannot read the row of *key*, or only its *log*: says so as Redis does of bytes that are not chatkeep's."""

    driver: Any
    key: Key
    log: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        """Read any other."""
        found: tuple[Row, list[Entry]] | None = await self.driver.read(act)
        if found is not None and act.key == self.key and (act.tail if self.log else True):
            raise self._fault
        return found

    async def entries(self, act: Entries) -> list[Entry]:
        """Read those of any other."""
        if act.key == self.key:
            raise self._fault
        found: list[Entry] = await self.driver.entries(act)
        return found

    async def scan(self, act: Scan) -> list[Row]:
        """Show where the row stands."""
        rows: list[Row] = await self.driver.scan(act)
        return [
            row_at(row.key, updated_at=row.updated_at, due_at=row.due_at)
            if row.key == self.key and not self.log
            else row
            for row in rows
        ]

    @property
    def _fault(self) -> Corrupt:
        return Corrupt(
            f"{self.key}: {'an entry of its log' if self.log else 'its row'} cannot be read. Nothing was changed."
        )
