"""Clauses on what a `write` takes out of a log: its beginning, or bodies of entries. The drivers that break them stand below."""

from __future__ import annotations

from msgspec import structs

from ...drivers.base import Append, Driver, Entries, Entry, Row, Write
from ...errors import Conflict, Duplicate
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, changed, found, numbers, refused, said


class Retention(Clauses):
    """What a `write` takes out of the log: its beginning, or the bodies of single entries."""

    @clause
    async def test_a_write_drops_the_beginning_of_the_log(self, driver: Driver) -> None:
        """Entries up to `drop` are gone from every read, numbering goes on, and the rest stays as it was."""
        row = (await driver.append(Append(ADA, said("a", "b", "", "c"), revision="r1", at=1.0))).row
        _, log = await found(driver, ADA)
        row = await driver.write(Write(changed(row, "r2"), replaces="r1", entries=said("d"), drop=3))

        assert 5 == row.head
        assert (row, [log[3], Entry(5, "d", "user", b"d")]) == await found(driver, ADA)
        assert [4, 5] == numbers(await driver.entries(Entries(ADA, after=0, limit=9)))
        assert [4, 5] == numbers(await driver.entries(Entries(ADA, before=9, limit=9)))

        row = await driver.write(Write(changed(row, "r3"), replaces="r2", drop=2))

        assert (row, 5, [4, 5]) == ((await found(driver, ADA))[0], row.head, numbers((await found(driver, ADA))[1]))

        row = await driver.write(Write(changed(row, "r4"), replaces="r3", drop=99))
        answer = await driver.append(Append(ADA, said("e"), revision="r5", at=2.0, tail=9))

        assert (5, 6, [6]) == (row.head, answer.row.head, numbers(answer.tail))

    @clause
    async def test_the_ids_of_dropped_entries_are_free_again(self, driver: Driver) -> None:
        """What the log no longer holds it no longer knows; what it still holds it does."""
        row = (await driver.append(Append(ADA, said("a", "b", "c"), revision="r1", at=1.0))).row
        row = await driver.write(Write(changed(row, "r2"), replaces="r1", drop=2))
        answer = await driver.append(Append(ADA, said("a", "c"), revision="r3", at=2.0, tail=9))
        row = await driver.write(Write(changed(answer.row, "r4"), replaces="r3", entries=said("b")))

        assert ({"c": 3}, [3, 4]) == (answer.known, numbers(answer.tail))
        assert [(3, "c"), (4, "a"), (5, "b")] == [(entry.number, entry.id) for entry in (await found(driver, ADA))[1]]

    @clause
    async def test_a_write_takes_the_bodies_of_single_entries(self, driver: Driver) -> None:
        """Number, id and role stay, so that the log stays dense and the id known; what is not there is passed over."""
        row = (await driver.append(Append(ADA, said("a", "b", "", "c"), revision="r1", at=1.0))).row
        await driver.append(Append(BOB, said("a", "b"), revision="r1", at=1.0))
        _, log = await found(driver, ADA)
        others = await found(driver, BOB)
        row = await driver.write(
            Write(changed(row, "r2", body=b"state"), replaces="r1", entries=said("d"), blank=[2, 3, 3, 0, -1, 6, 99])
        )
        blank = [Entry(2, "b", "user", b""), Entry(3, "", "user", b"")]

        assert (5, b"state") == (row.head, row.body)
        assert (row, [log[0], *blank, log[3], Entry(5, "d", "user", b"d")]) == await found(driver, ADA)
        assert blank[:1] == await driver.entries(Entries(ADA, ids=["b"]))
        assert {"b": 2} == (await driver.append(Append(ADA, said("b"), revision="r3", at=2.0))).known
        assert others == await found(driver, BOB)

        row = await driver.write(Write(changed(row, "r4"), replaces="r2", drop=2, blank={1, 2, 3, 5}))
        row = await driver.write(Write(changed(row, "r5"), replaces="r4", entries=said("e"), blank=range(1, 500)))

        assert [(3, b""), (4, b""), (5, b""), (6, b"")] == [
            (entry.number, entry.body) for entry in (await found(driver, ADA))[1]
        ]

    @clause
    async def test_a_refused_write_takes_nothing_out_of_the_log(self, driver: Driver) -> None:
        """Neither on a conflict nor for a known id; and run again after others it takes nothing either."""
        row = (await driver.append(Append(ADA, said("a", "b"), revision="r1", at=1.0))).row
        log = await found(driver, ADA)
        act = changed(row, "r2")
        await refused(Conflict, driver.write(Write(act, replaces="r0", drop=1, blank=[2])))
        await refused(Duplicate, driver.write(Write(act, replaces="r1", entries=said("a"), drop=1, blank=[2])))

        assert log == await found(driver, ADA)

        await driver.write(Write(act, replaces="r1", blank=[1]))
        await driver.append(Append(ADA, said("c"), revision="r3", at=2.0))
        await refused(Conflict, driver.write(Write(act, replaces="r1", blank=[3])))

        assert [b"", b"b", b"c"] == [entry.body for entry in (await found(driver, ADA))[1]]


# Drivers that break these clauses


@caught_by("a_write_drops_the_beginning_of_the_log")
class WithoutTheDrop(Intact):
    """Retention is forgotten."""

    async def write(self, act: Write) -> Row:
        return await super().write(structs.replace(act, drop=0))


@caught_by("a_write_drops_the_beginning_of_the_log")
class DropCountsBack(Intact):
    """The head is taken from how many entries there are."""

    async def write(self, act: Write) -> Row:
        stored = await super().write(act)
        if act.drop:
            stored = structs.replace(stored, head=len(self._shelf.logs[act.key]))
            self._shelf.rows[act.key] = stored
        return stored


@caught_by("the_ids_of_dropped_entries_are_free_again", raises=Duplicate)
class DropKeepsIds(Intact):
    """Dropped entries are still known."""

    async def write(self, act: Write) -> Row:
        before = dict(self._shelf.ids.get(act.key, {}))
        stored = await super().write(act)
        self._shelf.ids[act.key] = before | self._shelf.ids.get(act.key, {})
        return stored


@caught_by("a_write_takes_the_bodies_of_single_entries")
class BlankIsGone(Intact):
    """An entry without a body is thought to be no entry."""

    async def write(self, act: Write) -> Row:
        stored = await super().write(structs.replace(act, blank=()))
        for number in act.blank:
            self._shelf.logs.get(act.key, {}).pop(number, None)
        return stored


@caught_by("a_write_takes_the_bodies_of_single_entries")
class BlankForgetsTheId(Intact):
    """The id goes with the body, and the message that is redelivered comes in again."""

    async def write(self, act: Write) -> Row:
        stored = await super().write(act)
        log = self._shelf.logs.get(act.key, {})
        for number in log.keys() & set(act.blank):
            self._shelf.ids[act.key].pop(log[number].id, None)
        return stored


@caught_by("a_refused_write_takes_nothing_out_of_the_log")
class BlankBeforeItLooks(Intact):
    """The bodies are gone before the revision is compared."""

    async def write(self, act: Write) -> Row:
        log = self._shelf.logs.get(act.key, {})
        for number in log.keys() & set(act.blank):
            log[number] = structs.replace(log[number], body=b"")
        return await super().write(structs.replace(act, blank=()))
