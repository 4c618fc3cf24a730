"""Clauses on what an `append` makes of the row. The drivers that break them stand below."""

from __future__ import annotations

from msgspec import structs

from ...drivers.base import Append, Appended, Driver, Entry, Lease, Read, Row
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, said, written


class Appending(Clauses):
    """What an `append` makes of the row."""

    @clause
    async def test_an_append_creates_the_row_and_answers_what_it_left(self, driver: Driver) -> None:
        """A first append makes a row with nothing in it but what was said."""
        answer = await driver.append(
            Append(ADA, said("m1", "m2"), revision="r1", at=5.0, due_at=7.0, lease=Lease("c", 9.0), tail=9, owner="eve")
        )
        row = Row(
            key=ADA,
            revision="r1",
            incarnation="r1",
            head=2,
            owner="eve",
            updated_at=5.0,
            due_at=7.0,
            lease="c",
            leased_until=9.0,
        )
        tail = [Entry(1, "m1", "user", b"m1"), Entry(2, "m2", "user", b"m2")]

        assert Appended(row, tail, {}) == answer
        assert (row, tail) == await driver.read(Read(ADA, tail=9))

    @clause
    async def test_a_bare_append_asks_for_no_more_than_its_entries(self, driver: Driver) -> None:
        """What was not asked for stays empty: no due time, no lease, no owner, no tail."""
        answer = await driver.append(Append(ADA, said("m1"), revision="r1", at=5.0))

        assert Appended(Row(key=ADA, revision="r1", incarnation="r1", head=1, updated_at=5.0), [], {}) == answer

    @clause
    async def test_an_append_changes_only_what_it_says(self, driver: Driver) -> None:
        """On a row that is there it sets revision, head and time; body, incarnation, owner, due time and lease stay."""
        row = await written(driver, ADA, body=b"state", owner="eve", due_at=3.0, lease="c", leased_until=4.0)
        answer = await driver.append(Append(ADA, said("m1"), revision="r9", at=50.0))

        assert structs.replace(row, revision="r9", head=row.head + 1, updated_at=50.0) == answer.row

    @clause
    async def test_the_earlier_of_two_due_times_stays(self, driver: Driver) -> None:
        """An append never makes a row due later, and never takes its due time away."""
        dues = []
        for turn, due_at in enumerate((None, 9.0, 12.0, None, 4.0, 9.0)):
            answer = await driver.append(Append(ADA, said(f"{turn}"), revision=f"r{turn}", at=1.0, due_at=due_at))
            dues.append(answer.row.due_at)

        assert [None, 9.0, 9.0, 9.0, 4.0, 4.0] == dues

    @clause
    async def test_an_append_sets_the_owner_only_on_creation(self, driver: Driver) -> None:
        """A later append cannot take a conversation over, nor give one to somebody."""
        await driver.append(Append(ADA, said("a"), revision="r1", at=1.0, owner="eve"))
        await driver.append(Append(BOB, said("a"), revision="r1", at=1.0))
        ada = await driver.append(Append(ADA, said("b"), revision="r2", at=1.0, owner="mallory"))
        bob = await driver.append(Append(BOB, said("b"), revision="r2", at=1.0, owner="mallory"))

        assert ("eve", "") == (ada.row.owner, bob.row.owner)


# Drivers that break these clauses


@caught_by("an_append_creates_the_row_and_answers_what_it_left")
class CreatedUnowned(Intact):
    """Only a write can set the owner."""

    async def append(self, act: Append) -> Appended:
        return await super().append(structs.replace(act, owner=""))


@caught_by("a_bare_append_asks_for_no_more_than_its_entries")
class AlwaysDue(Intact):
    """A row without a due time is given one."""

    async def append(self, act: Append) -> Appended:
        return await super().append(structs.replace(act, due_at=act.at if act.due_at is None else act.due_at))


@caught_by("an_append_changes_only_what_it_says", "no_update_is_lost_among_racing_writers_and_appends")
class AppendEmptiesTheBody(Intact):
    """An append writes the whole row, as far as it knows it."""

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        self._shelf.rows[act.key] = row = structs.replace(answer.row, body=b"")
        return answer._replace(row=row)


@caught_by("the_earlier_of_two_due_times_stays")
class DueOverwritten(Intact):
    """The last due time wins."""

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        self._shelf.rows[act.key] = row = structs.replace(answer.row, due_at=act.due_at)
        return answer._replace(row=row)


@caught_by("an_append_sets_the_owner_only_on_creation")
class AppendTakesOver(Intact):
    """Whoever speaks last owns the conversation."""

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        self._shelf.rows[act.key] = row = structs.replace(answer.row, owner=act.owner or answer.row.owner)
        return answer._replace(row=row)
