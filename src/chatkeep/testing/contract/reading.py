"""Clauses on what `read` shows, and when. The drivers that break them stand below."""

from __future__ import annotations

import asyncio

from msgspec import structs

from ...drivers.base import Ability, Append, Appended, Driver, Entries, Entry, Erase, Key, Read, Row, Scan, Write
from ...errors import Unavailable
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, INDEXES, changed, found, numbers, said


class Reading(Clauses):
    """What `read` shows, and when."""

    @clause
    async def test_what_was_never_written_reads_as_nothing(self, driver: Driver) -> None:
        """An absent conversation is None, an empty log and no row, not an error."""
        assert None is await driver.read(Read(ADA, tail=5))
        assert [] == await driver.entries(Entries(ADA, after=0, limit=5))
        assert [] == await driver.entries(Entries(ADA, before=9, limit=5))
        if Ability.SCAN in driver.abilities:
            assert [[]] * 4 == [await driver.scan(Scan(index, limit=5)) for index in INDEXES]

    @clause
    async def test_every_connection_sees_what_was_answered_before(
        self, one: Driver, two: Driver, three: Driver
    ) -> None:
        """A read, wherever it runs, is not older than any act that was answered."""
        for turn in range(1, 11):
            row, tail, _ = await one.append(Append(ADA, said(f"a{turn}"), revision=f"r{turn}", at=2.0 * turn, tail=1))

            assert (row, tail) == await two.read(Read(ADA, tail=1))
            assert tail == await three.entries(Entries(ADA, before=row.head + 1, limit=1))

            written = await two.write(Write(changed(row, f"w{turn}", body=b"%d" % turn), replaces=row.revision))

            assert (written, tail) == await one.read(Read(ADA, tail=1))
            assert (written, tail) == await three.read(Read(ADA, tail=1))
        await three.erase(Erase(ADA, at=100.0))

        assert [None, None] == [await one.read(Read(ADA, tail=1)), await two.read(Read(ADA, tail=1))]

    @clause
    async def test_a_read_is_of_one_instant(self, one: Driver, two: Driver) -> None:
        """Row and tail of one answer belong together, however busy the writer is."""
        row, _, _ = await one.append(Append(ADA, said("first"), revision="r", at=1.0))

        async def keep_writing() -> None:
            nonlocal row
            for turn in range(60):
                act = changed(row, f"w{turn}", body=b"%d" % turn)
                row = await one.write(
                    Write(act, replaces=row.revision, entries=[Entry(0, "", "user", b"%d" % turn)] * 2)
                )

        writer = asyncio.create_task(keep_writing())
        while not writer.done():
            await asyncio.sleep(0)
            seen, tail = await found(two, ADA, tail=2)
            if seen.body:
                assert [(seen.head - 1, seen.body), (seen.head, seen.body)] == [(e.number, e.body) for e in tail]
        await writer

    @clause
    async def test_the_tail_is_dense_up_to_the_head(self, driver: Driver) -> None:
        """A tail holds exactly the last entries, oldest first, and the whole log when it is longer than that."""
        for turn in range(1, 4):
            for tail in (0, 1, 2, 99):
                answer = await driver.append(
                    Append(ADA, said(f"{turn}.{tail}"), revision=f"{turn}.{tail}", at=1.0, tail=tail)
                )

                assert last(tail, answer.row.head) == numbers(answer.tail)
        for tail in (0, 1, 5, 11, 12, 13, 10**15):
            assert last(tail, 12) == numbers((await found(driver, ADA, tail=tail))[1])
        again = await driver.append(Append(ADA, said("1.0"), revision="other", at=1.0, tail=3))

        assert [10, 11, 12] == numbers(again.tail)


def last(tail: int, head: int) -> list[int]:
    """Return the numbers of a log's last *tail* entries."""
    return list(range(max(head - tail, 0) + 1, head + 1))


# Drivers that break these clauses


@caught_by("what_was_never_written_reads_as_nothing", raises=Unavailable)
class AbsentIsAnError(Intact):
    """Nothing there is reported as a failure."""

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        found = await super().read(act)
        if found is None:
            raise Unavailable(f"{act.key} was not found")
        return found


@caught_by("every_connection_sees_what_was_answered_before")
class StaleReads(Intact):
    """A connection goes on showing what it saw once, until it writes itself."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._seen: dict[Key, tuple[Row, list[Entry]] | None] = {}

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        if act.key not in self._seen:
            self._seen[act.key] = await super().read(act)
        return self._seen[act.key]

    async def append(self, act: Append) -> Appended:
        self._seen.pop(act.key, None)
        return await super().append(act)

    async def write(self, act: Write) -> Row:
        self._seen.pop(act.key, None)
        return await super().write(act)


@caught_by("a_read_is_of_one_instant")
class TornReads(Intact):
    """The row is read first and the entries a moment later."""

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        row = self._shelf.rows.get(act.key)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return None if row is None else (row, self._after(act.key, row.head - act.tail))


@caught_by("the_tail_is_dense_up_to_the_head")
class TailShortByOne(Intact):
    """An off-by-one at the beginning of the tail."""

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        return await super().read(structs.replace(act, tail=max(act.tail - 1, 0)))

    async def append(self, act: Append) -> Appended:
        return await super().append(structs.replace(act, tail=max(act.tail - 1, 0)))
