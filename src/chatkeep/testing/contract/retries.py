"""Clauses on an act that runs again, because its answer was lost. The drivers that break them stand below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec import structs

from ...drivers.base import Appended, Driver, Entry, Key, Lease, Row
from ...errors import Conflict, Duplicate
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, changed, everyone, found, numbers, refused, said


class Retries(Clauses):
    """An act that runs again, because its answer was lost."""

    @clause
    async def test_an_append_may_run_again_when_its_answer_was_lost(self, driver: Driver) -> None:
        """The same act finds its own revision and answers the same row and tail, even when its entries have no id."""
        for key, entries in ((ADA, said("a", "b")), (BOB, said("", ""))):
            first = await driver.append(key, entries, revision="r1", at=1.0, lease=Lease("c", 5.0), tail=9)
            again = await driver.append(key, entries, revision="r1", at=1.0, lease=Lease("c", 5.0), tail=9)
            second = await driver.append(key, entries[:1], revision="r2", at=2.0, tail=9)
            twice = await driver.append(key, entries[:1], revision="r2", at=2.0, tail=9)

            assert first[:2] == again[:2]
            assert second[:2] == twice[:2]
            assert (second.row, second.tail) == await found(driver, key)

    @clause
    async def test_an_append_may_run_again_late(self, driver: Driver) -> None:
        """After another act took its place the ids tell: nothing is written twice, no lease is taken again."""
        act: dict[str, Any] = {"revision": "r1", "at": 1.0, "lease": Lease("c", 5.0), "due_at": 2.0}
        row = (await driver.append(ADA, said("a"), **act)).row
        row = await driver.write(changed(row, "r2", lease=None, leased_until=0.0, due_at=None), replaces="r1")
        answer = await driver.append(ADA, said("a"), **act, tail=9)

        assert (row, [1], {"a": 1}) == (answer.row, numbers(answer.tail), answer.known)

    @clause
    async def test_a_write_may_run_again_when_its_answer_was_lost(self, driver: Driver) -> None:
        """Its own revision is the stored one: done before. It gets the stored row, and nothing happens twice."""
        created = Row(key=ADA, revision="r1", incarnation="r1", body=b"one", updated_at=1.0)
        first = await driver.write(created, replaces=None, entries=said("a", ""))

        assert first == await driver.write(created, replaces=None, entries=said("a", ""))

        act = changed(first, "r2", body=b"two")
        second = await driver.write(act, replaces="r1", entries=said("b", ""), drop=1)

        assert second == await driver.write(act, replaces="r1", entries=said("b", ""), drop=1)
        assert (second, [2, 3, 4]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))

    @clause
    async def test_a_write_may_run_again_late(self, driver: Driver) -> None:
        """After another act took its place its ids tell that it happened; without ids it is one more stale writer."""
        row = (await driver.append(ADA, said("a"), revision="r1", at=1.0)).row
        with_id, without = changed(row, "r2"), changed(row, "q2")
        row = await driver.write(with_id, replaces="r1", entries=said("b"))
        row = (await driver.append(ADA, said("c"), revision="r3", at=2.0)).row
        duplicate = await refused(Duplicate, driver.write(with_id, replaces="r1", entries=said("b"), since=1))
        conflict = await refused(Conflict, driver.write(without, replaces="r1", since=1))

        assert (row, {"b": 2}, [2, 3]) == (duplicate.row, duplicate.numbers, numbers(duplicate.entries))
        assert (row, [2, 3]) == (conflict.row, numbers(conflict.entries))
        assert (row, [1, 2, 3]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))

    @clause
    async def test_done_before_comes_before_duplicate_and_duplicate_before_conflict(self, driver: Driver) -> None:
        """The answer that says most wins: mine already, there already, someone else's."""
        row = (await driver.append(ADA, said("a"), revision="r1", at=1.0)).row
        row = await driver.write(changed(row, "r2"), replaces="r1", entries=said("b"))

        assert row == await driver.write(changed(row, "r2"), replaces="gone", entries=said("b", "a"))
        await refused(Duplicate, driver.write(changed(row, "r3"), replaces="gone", entries=said("b")))
        await refused(Duplicate, driver.write(changed(row, "r3", incarnation="gone"), replaces="r2", entries=said("b")))
        await refused(Duplicate, driver.write(changed(row, "r3", incarnation="r3"), replaces=None, entries=said("b")))
        await refused(Conflict, driver.write(changed(row, "r3"), replaces="gone", entries=said("c")))

    @clause
    async def test_one_act_at_once_with_itself_happens_once(self, one: Driver, two: Driver) -> None:
        """A retry may overtake the first try: both are answered alike."""
        drivers = (one, two) * 3
        answers = await everyone(
            [driver.append(ADA, said("a", ""), revision="r1", at=1.0, tail=9) for driver in drivers]
        )
        row, log = await found(one, ADA)

        assert [1, 2] == numbers(log)
        assert [(row, log)] * 6 == [answer[:2] for answer in answers]

        act = changed(row, "r2", body=b"new")
        rows = await everyone([driver.write(act, replaces="r1", entries=said("b", ""), drop=1) for driver in drivers])

        assert [(await found(two, ADA))[0]] * 6 == rows
        assert [2, 3, 4] == numbers((await found(two, ADA))[1])


# Drivers that break these clauses


@caught_by("an_append_may_run_again_when_its_answer_was_lost", "one_act_at_once_with_itself_happens_once")
class OwnAppendsForgotten(Intact):
    """Only ids tell an append that it was there before: what has none is written again."""

    _done: ClassVar[set[str]] = set()

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        act = f"{self.epoch} {key} {how['revision']}"
        if act in self._done:
            again = [entry for entry in entries if not entry.id]
            self._shelf.rows[key] = structs.replace(answer.row, head=self._add(key, answer.row.head, again))
        self._done.add(act)
        return answer


@caught_by("an_append_may_run_again_late", "an_append_of_known_ids_changes_nothing")
class KnownIdsStillBump(Intact):
    """An append that adds nothing changes the revision all the same."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        self._shelf.rows[key] = row = structs.replace(answer.row, revision=how["revision"])
        return answer._replace(row=row)


@caught_by(
    "a_write_may_run_again_when_its_answer_was_lost",
    "done_before_comes_before_duplicate_and_duplicate_before_conflict",
    "one_act_at_once_with_itself_happens_once",
    raises=Conflict,
)
class OwnWritesConflict(Intact):
    """A writer does not recognise what it wrote itself."""

    _done: ClassVar[set[str]] = set()

    async def write(self, row: Row, **how: Any) -> Row:
        stored = await super().write(row, **how)
        act = f"{self.epoch} {row.key} {row.revision}"
        if act in self._done:
            raise Conflict(f"{row.key}: revision moved on", row=stored)
        self._done.add(act)
        return stored


@caught_by("done_before_comes_before_duplicate_and_duplicate_before_conflict", raises=Duplicate)
class DuplicateBeforeDone(Intact):
    """A write that runs again is told that its own ids are there already."""

    async def write(self, row: Row, **how: Any) -> Row:
        stored = self._shelf.rows.get(row.key)
        if stored and (known := self._known(row.key, how.get("entries", ()))):
            raise Duplicate(f"{row.key}: known ids", row=stored, numbers=known, entries=self._after(row.key, 0))
        return await super().write(row, **how)


@caught_by(
    "done_before_comes_before_duplicate_and_duplicate_before_conflict", "a_write_may_run_again_late", raises=Conflict
)
class ConflictBeforeDuplicate(Intact):
    """The revision is compared before the ids."""

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except Duplicate as known:
            if known.row.revision != how["replaces"]:
                raise Conflict(f"{row.key}: revision moved on", row=known.row, entries=known.entries) from known
            raise
