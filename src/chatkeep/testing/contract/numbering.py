"""Clauses on the numbers of entries, which the store gives. The drivers that break them stand below."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from ...drivers.base import Append, Appended, Driver, Entry, Key, Row, Write
from ...errors import Conflict, Duplicate
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, LOTS, changed, everyone, found, numbers, refused, said


class Numbering(Clauses):
    """The numbers of entries, which the store gives."""

    @clause
    async def test_numbers_run_from_1_without_gaps(self, driver: Driver) -> None:
        """The store numbers; what the caller put there is ignored, by appends and by writes, refused acts or not."""
        row = (
            await driver.append(
                Append(ADA, [Entry(40, "a", "user", b""), Entry(7, "b", "user", b"")], revision="r1", at=1.0)
            )
        ).row
        row = await driver.write(
            Write(changed(row, "r2", head=70), replaces="r1", entries=[Entry(9, "c", "user", b"")])
        )
        await refused(Conflict, driver.write(Write(changed(row, "r3"), replaces="r1", entries=said("x", "y"))))
        await refused(Duplicate, driver.write(Write(changed(row, "r4"), replaces="r2", entries=said("x", "a"))))
        await driver.append(Append(ADA, said("a", "b"), revision="r5", at=1.0))
        row, tail, _ = await driver.append(Append(ADA, [Entry(-3, "d", "user", b"")], revision="r6", at=1.0, tail=9))

        assert [(1, "a"), (2, "b"), (3, "c"), (4, "d")] == [(entry.number, entry.id) for entry in tail]
        assert 4 == row.head

    @clause
    async def test_racing_appends_lose_nothing_and_leave_no_gap(self, one: Driver, two: Driver, three: Driver) -> None:
        """Many at once from several connections: each new id once, numbers dense, every answer's tail too."""
        acts = [
            (one, two, three)[n % 3].append(Append(ADA, said("shared", f"own{n}"), revision=f"r{n}", at=1.0, tail=LOTS))
            for n in range(30)
        ]
        answers = await everyone(acts)
        row, log = await found(one, ADA)

        assert sorted(["shared", *(f"own{n}" for n in range(30))]) == sorted(entry.id for entry in log)
        assert list(range(1, 32)) == numbers(log)
        assert 31 == row.head
        for n, answer in enumerate(answers):
            assert log[: answer.row.head] == answer.tail
            assert f"own{n}" in {entry.id for entry in answer.tail[-2:]}
        assert 29 == len([answer for answer in answers if answer.known == {"shared": 1}])

    @clause
    async def test_creation_numbers_on_from_the_given_head(self, driver: Driver) -> None:
        """So that a log whose beginning is gone can be moved in; only a creation does that."""
        created = Row(key=ADA, revision="r1", incarnation="r1", head=40, updated_at=1.0)
        row = await driver.write(Write(created, replaces=None, entries=said("a", "b")))
        bare = await driver.write(Write(structs.replace(created, key=BOB), replaces=None))
        answer = await driver.append(Append(BOB, said("a"), revision="r2", at=2.0, tail=9))

        assert (42, [41, 42]) == (row.head, numbers((await found(driver, ADA))[1]))
        assert (40, 41, [41]) == (bare.head, answer.row.head, numbers(answer.tail))


# Drivers that break these clauses


@caught_by("numbers_run_from_1_without_gaps")
class NumbersFromTheCaller(Intact):
    """Entries keep the number they came with."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        after = super()._add(key, head, entries)
        self._shelf.logs[key].update(enumerate(entries, head + 1))
        return after


@caught_by("numbers_run_from_1_without_gaps", "a_stale_writer_is_refused_and_leaves_nothing")
class RefusalsCostNumbers(Intact):
    """Numbers are drawn before the check and not given back, as by a sequence."""

    async def write(self, act: Write) -> Row:
        try:
            return await super().write(act)
        except Conflict:
            if stored := self._shelf.rows.get(act.key):
                self._shelf.rows[act.key] = structs.replace(stored, head=stored.head + 1)
            raise


@caught_by("racing_appends_lose_nothing_and_leave_no_gap", "acts_on_one_key_at_once_each_happen")
class HeadReadTooSoon(Intact):
    """The next number is computed from a head that was read before others wrote."""

    async def append(self, act: Append) -> Appended:
        before = self._shelf.rows.get(act.key)
        answer = await super().append(act)
        head = (before.head if before else 0) + len(act.entries)
        self._shelf.rows[act.key] = structs.replace(answer.row, head=head)
        return answer


@caught_by("creation_numbers_on_from_the_given_head")
class CreationFromOne(Intact):
    """Every new log begins at 1, also one that is moved in without its beginning."""

    async def write(self, act: Write) -> Row:
        return await super().write(structs.replace(act, row=structs.replace(act.row, head=0)))
