"""Clauses on the ids of entries, by which an act finds what is in the log already. The drivers that break them stand below."""

from __future__ import annotations

from collections.abc import Sequence

from ...drivers.base import Append, Appended, Driver, Entry, Key, Lease, Row, Write
from ...errors import Duplicate
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, changed, found, grown, refused, said


class Ids(Clauses):
    """The ids of entries, by which an act finds what is in the log already."""

    @clause
    async def test_an_append_skips_the_ids_it_knows(self, driver: Driver) -> None:
        """Known and new ids in one act: the new ones are written, the known ones reported where they stand."""
        await driver.append(Append(ADA, said("a", "b"), revision="r1", at=1.0))
        mixed = [Entry(0, "b", "user", b"other"), *said("c", "a", "d")]
        answer = await driver.append(Append(ADA, mixed, revision="r2", at=2.0, tail=9))

        assert [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")] == [(entry.number, entry.body) for entry in answer.tail]
        assert {"a": 1, "b": 2} == answer.known
        assert ("r2", 4, 2.0) == (answer.row.revision, answer.row.head, answer.row.updated_at)

    @clause
    async def test_an_append_of_known_ids_changes_nothing(self, driver: Driver) -> None:
        """Not the log, and neither revision, time, due time, lease nor owner."""
        await driver.append(Append(ADA, said("a", "b"), revision="r1", at=1.0, due_at=9.0))
        before = await found(driver, ADA)
        lease = Lease("c", 99.0)
        answer = await driver.append(
            Append(ADA, said("b", "a"), revision="r2", at=2.0, due_at=3.0, lease=lease, tail=1, owner="eve")
        )

        assert Appended(before[0], before[1][-1:], {"a": 1, "b": 2}) == answer
        assert before == await found(driver, ADA)

    @clause
    async def test_ids_that_a_write_brought_are_known_to_appends(self, driver: Driver) -> None:
        """There is one log: what came with a write is found by an append, on a created row and on a changed one."""
        created = Row(key=ADA, revision="r1", incarnation="r1", updated_at=1.0)
        row = await driver.write(Write(created, replaces=None, entries=said("a")))
        row = await driver.write(Write(changed(row, "r2"), replaces="r1", entries=said("b")))
        answer = await driver.append(Append(ADA, said("a", "b"), revision="r3", at=2.0))

        assert Appended(row, [], {"a": 1, "b": 2}) == answer

    @clause
    async def test_entries_without_an_id_are_always_written(self, driver: Driver) -> None:
        """An empty id is no id: nothing is ever taken for a repetition of it."""
        first = await driver.append(Append(ADA, said("", ""), revision="r1", at=1.0))
        second = await driver.append(Append(ADA, said("", "a", ""), revision="r2", at=1.0))
        third = await driver.append(Append(ADA, said("", "a"), revision="r3", at=1.0))
        row = await driver.write(Write(changed(third.row, "r4"), replaces="r3", entries=said("", "")))
        _, log = await found(driver, ADA)

        assert ["", "", "", "a", "", "", "", ""] == [entry.id for entry in log]
        assert (2, 5, 6, 8) == (first.row.head, second.row.head, third.row.head, row.head)
        assert [{}, {}, {"a": 4}] == [first.known, second.known, third.known]

    @clause
    async def test_a_known_id_makes_a_write_a_duplicate(self, driver: Driver) -> None:
        """One known id refuses the whole act and is named with its number, beside the row and what came after."""
        row = (await driver.append(Append(ADA, said("a", "b", "c"), revision="r1", at=1.0))).row
        before = await found(driver, ADA)
        act = changed(row, "r2", body=b"new", due_at=1.0)
        duplicate = await refused(
            Duplicate, driver.write(Write(act, replaces="r1", entries=said("x", "c", "", "a"), since=1, drop=1))
        )

        assert row == duplicate.row
        assert {"a": 1, "c": 3} == dict(duplicate.numbers)
        assert before[1][1:] == list(duplicate.entries)
        assert before == await found(driver, ADA)
        assert {"x": 4} == {entry.id: entry.number for entry in (await grown(driver, ADA, "x")).tail}


# Drivers that break these clauses


@caught_by(
    "an_append_skips_the_ids_it_knows", "an_append_of_known_ids_changes_nothing", "a_known_id_makes_a_write_a_duplicate"
)
class DuplicatesWritten(Intact):
    """Ids are not looked for."""

    def _known(self, key: Key, entries: Sequence[Entry]) -> dict[str, int]:
        return {}


@caught_by("an_append_skips_the_ids_it_knows")
class KnownNotReported(Intact):
    """Known ids are left out silently."""

    async def append(self, act: Append) -> Appended:
        return (await super().append(act))._replace(known={})


@caught_by("ids_that_a_write_brought_are_known_to_appends")
class IdsOfAppendsOnly(Intact):
    """A write does not enter its ids where appends look for them."""

    async def write(self, act: Write) -> Row:
        ids = dict(self._shelf.ids.get(act.key, {}))
        stored = await super().write(act)
        self._shelf.ids[act.key] = ids
        return stored


@caught_by("entries_without_an_id_are_always_written", raises=Duplicate)
class EmptyIdsDeduplicated(Intact):
    """The empty id is an id like any other."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        after = super()._add(key, head, entries)
        if not all(entry.id for entry in entries):
            self._shelf.ids[key][""] = after
        return after
