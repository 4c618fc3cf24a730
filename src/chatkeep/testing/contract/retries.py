"""Clauses on an act that runs again, because its answer was lost. The drivers that break them stand below."""

from __future__ import annotations

from typing import ClassVar

from msgspec import structs

from ...drivers.base import Append, Appended, Driver, Lease, Row, Write
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
            first = await driver.append(Append(key, entries, revision="r1", at=1.0, lease=Lease("c", 5.0), tail=9))
            again = await driver.append(Append(key, entries, revision="r1", at=1.0, lease=Lease("c", 5.0), tail=9))
            second = await driver.append(Append(key, entries[:1], revision="r2", at=2.0, tail=9))
            twice = await driver.append(Append(key, entries[:1], revision="r2", at=2.0, tail=9))

            assert first[:2] == again[:2]
            assert second[:2] == twice[:2]
            assert (second.row, second.tail) == await found(driver, key)

    @clause
    async def test_an_append_may_run_again_late(self, driver: Driver) -> None:
        """After another act took its place the ids tell: nothing is written twice, no lease is taken again."""
        act = Append(ADA, said("a"), revision="r1", at=1.0, due_at=2.0, lease=Lease("c", 5.0), tail=9)
        row = (await driver.append(act)).row
        row = await driver.write(Write(changed(row, "r2", lease=None, leased_until=0.0, due_at=None), replaces="r1"))
        answer = await driver.append(act)

        assert (row, [1], {"a": 1}) == (answer.row, numbers(answer.tail), answer.known)

    @clause
    async def test_a_write_may_run_again_when_its_answer_was_lost(self, driver: Driver) -> None:
        """Its own revision is the stored one: done before. It gets the stored row, and nothing happens twice."""
        created = Row(key=ADA, revision="r1", incarnation="r1", body=b"one", updated_at=1.0)
        first = await driver.write(Write(created, replaces=None, entries=said("a", "")))

        assert first == await driver.write(Write(created, replaces=None, entries=said("a", "")))

        act = changed(first, "r2", body=b"two")
        second = await driver.write(Write(act, replaces="r1", entries=said("b", ""), drop=1))

        assert second == await driver.write(Write(act, replaces="r1", entries=said("b", ""), drop=1))
        assert (second, [2, 3, 4]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))

    @clause
    async def test_a_write_may_run_again_late(self, driver: Driver) -> None:
        """After another act took its place its ids tell that it happened; without ids it is one more stale writer."""
        row = (await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))).row
        with_id, without = changed(row, "r2"), changed(row, "q2")
        row = await driver.write(Write(with_id, replaces="r1", entries=said("b")))
        row = (await driver.append(Append(ADA, said("c"), revision="r3", at=2.0))).row
        duplicate = await refused(Duplicate, driver.write(Write(with_id, replaces="r1", entries=said("b"), since=1)))
        conflict = await refused(Conflict, driver.write(Write(without, replaces="r1", since=1)))

        assert (row, {"b": 2}, [2, 3]) == (duplicate.row, duplicate.numbers, numbers(duplicate.entries))
        assert (row, [2, 3]) == (conflict.row, numbers(conflict.entries))
        assert (row, [1, 2, 3]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))

    @clause
    async def test_done_before_comes_before_duplicate_and_duplicate_before_conflict(self, driver: Driver) -> None:
        """The answer that says most wins: mine already, there already, someone else's."""
        row = (await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))).row
        row = await driver.write(Write(changed(row, "r2"), replaces="r1", entries=said("b")))

        assert row == await driver.write(Write(changed(row, "r2"), replaces="gone", entries=said("b", "a")))
        await refused(Duplicate, driver.write(Write(changed(row, "r3"), replaces="gone", entries=said("b"))))
        await refused(
            Duplicate, driver.write(Write(changed(row, "r3", incarnation="gone"), replaces="r2", entries=said("b")))
        )
        await refused(
            Duplicate, driver.write(Write(changed(row, "r3", incarnation="r3"), replaces=None, entries=said("b")))
        )
        await refused(Conflict, driver.write(Write(changed(row, "r3"), replaces="gone", entries=said("c"))))

    @clause
    async def test_one_act_at_once_with_itself_happens_once(self, one: Driver, two: Driver) -> None:
        """A retry may overtake the first try: both are answered alike."""
        drivers = (one, two) * 3
        answers = await everyone(
            [driver.append(Append(ADA, said("a", ""), revision="r1", at=1.0, tail=9)) for driver in drivers]
        )
        row, log = await found(one, ADA)

        assert [1, 2] == numbers(log)
        assert [(row, log)] * 6 == [answer[:2] for answer in answers]

        act = changed(row, "r2", body=b"new")
        rows = await everyone(
            [driver.write(Write(act, replaces="r1", entries=said("b", ""), drop=1)) for driver in drivers]
        )

        assert [(await found(two, ADA))[0]] * 6 == rows
        assert [2, 3, 4] == numbers((await found(two, ADA))[1])


# Drivers that break these clauses


@caught_by("an_append_may_run_again_when_its_answer_was_lost", "one_act_at_once_with_itself_happens_once")
class OwnAppendsForgotten(Intact):
    """Only ids tell an append that it was there before: what has none is written again."""

    _done: ClassVar[set[str]] = set()

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        name = f"{self.epoch} {act.key} {act.revision}"
        if name in self._done:
            again = [entry for entry in act.entries if not entry.id]
            self._shelf.rows[act.key] = structs.replace(answer.row, head=self._add(act.key, answer.row.head, again))
        self._done.add(name)
        return answer


@caught_by("an_append_may_run_again_late", "an_append_of_known_ids_changes_nothing")
class KnownIdsStillBump(Intact):
    """An append that adds nothing changes the revision all the same."""

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        self._shelf.rows[act.key] = row = structs.replace(answer.row, revision=act.revision)
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

    async def write(self, act: Write) -> Row:
        stored = await super().write(act)
        name = f"{self.epoch} {act.key} {act.row.revision}"
        if name in self._done:
            raise Conflict(f"{act.key}: revision moved on", row=stored)
        self._done.add(name)
        return stored


@caught_by("done_before_comes_before_duplicate_and_duplicate_before_conflict", raises=Duplicate)
class DuplicateBeforeDone(Intact):
    """A write that runs again is told that its own ids are there already."""

    async def write(self, act: Write) -> Row:
        stored = self._shelf.rows.get(act.key)
        if stored and (known := self._known(act.key, act.entries)):
            raise Duplicate(f"{act.key}: known ids", row=stored, numbers=known, entries=self._after(act.key, 0))
        return await super().write(act)


@caught_by(
    "done_before_comes_before_duplicate_and_duplicate_before_conflict", "a_write_may_run_again_late", raises=Conflict
)
class ConflictBeforeDuplicate(Intact):
    """The revision is compared before the ids."""

    async def write(self, act: Write) -> Row:
        try:
            return await super().write(act)
        except Duplicate as known:
            if known.row.revision != act.replaces:
                raise Conflict(f"{act.key}: revision moved on", row=known.row, entries=known.entries) from known
            raise
