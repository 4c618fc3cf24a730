"""Clauses on the beginning of a log that a `write` drops. The drivers that break them stand below."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from ...drivers.base import Driver, Entry, Row
from ...errors import Duplicate
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, changed, found, numbers, said


class Retention(Clauses):
    """The beginning of a log that a `write` drops."""

    @clause
    async def test_a_write_drops_the_beginning_of_the_log(self, driver: Driver) -> None:
        """Entries up to `drop` are gone from every read, numbering goes on, and the rest stays as it was."""
        row = (await driver.append(ADA, said("a", "b", "", "c"), revision="r1", at=1.0)).row
        _, log = await found(driver, ADA)
        row = await driver.write(changed(row, "r2"), replaces="r1", entries=said("d"), drop=3)

        assert 5 == row.head
        assert (row, [log[3], Entry(5, "d", "user", b"d")]) == await found(driver, ADA)
        assert [4, 5] == numbers(await driver.entries(ADA, after=0, limit=9))
        assert [4, 5] == numbers(await driver.entries(ADA, before=9, limit=9))

        row = await driver.write(changed(row, "r3"), replaces="r2", drop=2)

        assert (row, 5, [4, 5]) == ((await found(driver, ADA))[0], row.head, numbers((await found(driver, ADA))[1]))

        row = await driver.write(changed(row, "r4"), replaces="r3", drop=99)
        answer = await driver.append(ADA, said("e"), revision="r5", at=2.0, tail=9)

        assert (5, 6, [6]) == (row.head, answer.row.head, numbers(answer.tail))

    @clause
    async def test_the_ids_of_dropped_entries_are_free_again(self, driver: Driver) -> None:
        """What the log no longer holds it no longer knows; what it still holds it does."""
        row = (await driver.append(ADA, said("a", "b", "c"), revision="r1", at=1.0)).row
        row = await driver.write(changed(row, "r2"), replaces="r1", drop=2)
        answer = await driver.append(ADA, said("a", "c"), revision="r3", at=2.0, tail=9)
        row = await driver.write(changed(answer.row, "r4"), replaces="r3", entries=said("b"))

        assert ({"c": 3}, [3, 4]) == (answer.known, numbers(answer.tail))
        assert [(3, "c"), (4, "a"), (5, "b")] == [(entry.number, entry.id) for entry in (await found(driver, ADA))[1]]


# Drivers that break these clauses


@caught_by("a_write_drops_the_beginning_of_the_log")
class WithoutTheDrop(Intact):
    """Retention is forgotten."""

    async def write(self, row: Row, *, drop: int = 0, **how: Any) -> Row:
        return await super().write(row, **how)


@caught_by("a_write_drops_the_beginning_of_the_log")
class DropCountsBack(Intact):
    """The head is taken from how many entries there are."""

    async def write(self, row: Row, **how: Any) -> Row:
        stored = await super().write(row, **how)
        if how.get("drop"):
            stored = structs.replace(stored, head=len(self._shelf.logs[row.key]))
            self._shelf.rows[row.key] = stored
        return stored


@caught_by("the_ids_of_dropped_entries_are_free_again", raises=Duplicate)
class DropKeepsIds(Intact):
    """Dropped entries are still known."""

    async def write(self, row: Row, **how: Any) -> Row:
        before = dict(self._shelf.ids.get(row.key, {}))
        stored = await super().write(row, **how)
        self._shelf.ids[row.key] = before | self._shelf.ids.get(row.key, {})
        return stored
