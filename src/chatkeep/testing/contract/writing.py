"""Clauses on what a `write` makes of the row, and the incarnation that every act gives back. The drivers that break them stand below."""

from __future__ import annotations

from msgspec import structs

from ...drivers.base import Append, Appended, Driver, Entries, Entry, Erase, Read, Row, Write
from ...errors import Conflict
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, changed, found, numbers, refused, said


class Writing(Clauses):
    """What a `write` makes of the row, and the incarnation that every act gives back."""

    @clause
    async def test_a_write_puts_the_row_as_it_is_given(self, driver: Driver) -> None:
        """Every field comes back as it was written, on creation and after, except that the store counts the head."""
        first = Row(
            key=ADA,
            revision="r1",
            incarnation="r1",
            body=b"one",
            owner="eve",
            updated_at=50.5,
            due_at=60.25,
            lease="c",
            leased_until=70.125,
        )
        created = await driver.write(Write(first, replaces=None, entries=said("a")))

        assert structs.replace(first, head=1) == created
        assert (created, [Entry(1, "a", "user", b"a")]) == await driver.read(Read(ADA, tail=9))

        second = changed(created, "r2", head=99, body=b"", owner="bob", updated_at=40.0, due_at=None, lease=None)
        second = structs.replace(second, leased_until=0.0)
        stored = await driver.write(Write(second, replaces="r1", entries=said("b", "c")))

        assert structs.replace(second, head=3) == stored
        assert stored == (await found(driver, ADA))[0]

    @clause
    async def test_a_write_may_be_of_the_row_alone(self, driver: Driver) -> None:
        """A row without entries is a conversation too."""
        created = await driver.write(Write(Row(key=ADA, revision="r1", incarnation="r1", body=b"x"), replaces=None))
        stored = await driver.write(Write(changed(created, "r2", body=b"y"), replaces="r1"))

        assert (0, 0) == (created.head, stored.head)
        assert (stored, []) == await driver.read(Read(ADA, tail=9))

    @clause
    async def test_a_write_cannot_change_what_is_not_there(self, driver: Driver) -> None:
        """A row that was to be replaced and is gone is not created in passing."""
        act = Row(key=ADA, revision="r2", incarnation="r1", updated_at=9.0)
        conflict = await refused(Conflict, driver.write(Write(act, replaces="r1", entries=said("a"))))

        assert (None, []) == (conflict.row, list(conflict.entries))
        assert None is await driver.read(Read(ADA, tail=9))
        assert [] == await driver.entries(Entries(ADA, after=0, limit=9))

    @clause
    async def test_born_is_set_once_and_given_back_by_every_act(self, driver: Driver) -> None:
        """It is the revision of the creating act, whatever is written later."""
        append = await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))
        write = await driver.write(Write(changed(append.row, "r2"), replaces="r1"))
        later = await driver.append(Append(ADA, said("b"), revision="r3", at=2.0))
        conflict = await refused(Conflict, driver.write(Write(changed(write, "r4"), replaces="r2")))
        created = await driver.write(Write(Row(key=BOB, revision="q1", incarnation="q1"), replaces=None))
        later_bob = await driver.append(Append(BOB, said("b"), revision="q2", at=2.0))

        assert conflict.row is not None
        assert {"r1"} == {
            row.incarnation for row in (append.row, write, later.row, conflict.row, (await found(driver, ADA))[0])
        }
        assert {"q1"} == {row.incarnation for row in (created, later_bob.row, (await found(driver, BOB))[0])}

    @clause
    async def test_a_creation_keeps_the_incarnation_that_it_brings(self, driver: Driver) -> None:
        """A conversation that is moved here stays the one it was, and every later act gives that incarnation back."""
        moved = Row(key=ADA, revision="r7", incarnation="r1", head=6, body=b"state", updated_at=5.0)
        created = await driver.write(Write(moved, replaces=None, entries=said("g")))

        assert structs.replace(moved, head=7) == created
        assert (created, [Entry(7, "g", "user", b"g")]) == await driver.read(Read(ADA, tail=9))
        assert created == await driver.write(Write(moved, replaces=None, entries=said("g")))

        append = await driver.append(Append(ADA, said("h"), revision="r8", at=6.0))
        stale = changed(append.row, "r9", incarnation="r7")
        await refused(Conflict, driver.write(Write(stale, replaces="r8")))
        write = await driver.write(Write(changed(append.row, "r9"), replaces="r8"))

        assert ("r1", "r1", 8) == (append.row.incarnation, write.incarnation, write.head)

    @clause
    async def test_a_writer_of_an_erased_conversation_loses_against_the_next_one(self, driver: Driver) -> None:
        """Born is compared: even where a delayed append gave the new conversation the revision that the writer saw."""
        await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))
        stale = (await driver.append(Append(ADA, said("b"), revision="r2", at=2.0))).row
        await driver.erase(Erase(ADA, at=10.0))
        reborn = (await driver.append(Append(ADA, said("b"), revision="r2", at=11.0))).row
        conflict = await refused(
            Conflict, driver.write(Write(changed(stale, "r3", body=b"old"), replaces="r2", entries=said("c")))
        )

        assert reborn == conflict.row
        assert (reborn, [1]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))


# Drivers that break these clauses


@caught_by("a_write_puts_the_row_as_it_is_given")
class ClaimsNeverGivenBack(Intact):
    """What is empty in the row that is written does not overwrite what is stored."""

    async def write(self, act: Write) -> Row:
        stored = self._shelf.rows.get(act.key)
        if stored and act.row.lease is None:
            row = structs.replace(act.row, lease=stored.lease, leased_until=stored.leased_until)
            act = structs.replace(act, row=row)
        return await super().write(act)


@caught_by("a_write_puts_the_row_as_it_is_given", "numbers_run_from_1_without_gaps")
class HeadFromTheCaller(Intact):
    """A write numbers on from the head that its caller believes in."""

    async def write(self, act: Write) -> Row:
        stored = self._shelf.rows.get(act.key)
        if stored and stored.revision == act.replaces:
            self._shelf.rows[act.key] = structs.replace(stored, head=act.row.head)
        return await super().write(act)


@caught_by("a_write_may_be_of_the_row_alone")
class NothingSaidNothingWritten(Intact):
    """A write without entries is taken for one that has nothing to do."""

    async def write(self, act: Write) -> Row:
        return await super().write(act) if act.entries else act.row


@caught_by("a_write_cannot_change_what_is_not_there")
class WritesCreate(Intact):
    """A write on a row that is gone brings it back."""

    async def write(self, act: Write) -> Row:
        if act.key not in self._shelf.rows:
            act = structs.replace(act, replaces=None)
        return await super().write(act)


@caught_by("born_is_set_once_and_given_back_by_every_act")
class BornAgainAndAgain(Intact):
    """Born follows the revision."""

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        self._shelf.rows[act.key] = row = structs.replace(answer.row, incarnation=answer.row.revision)
        return answer._replace(row=row)


@caught_by("a_creation_keeps_the_incarnation_that_it_brings")
class BornWhereItIsMade(Intact):
    """A creation is the beginning of an incarnation, whatever the row says."""

    async def write(self, act: Write) -> Row:
        if act.replaces is None:
            act = structs.replace(act, row=structs.replace(act.row, incarnation=act.row.revision))
        return await super().write(act)


@caught_by("a_writer_of_an_erased_conversation_loses_against_the_next_one")
class BornUnchecked(Intact):
    """Only the revision is compared."""

    async def write(self, act: Write) -> Row:
        if stored := self._shelf.rows.get(act.key):
            act = structs.replace(act, row=structs.replace(act.row, incarnation=stored.incarnation))
        return await super().write(act)
