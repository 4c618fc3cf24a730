"""Clauses on writers that come too late, and what a refusal shows them. The drivers that break them stand below."""

from __future__ import annotations

from msgspec import structs

from ...drivers.base import Append, Driver, Erase, Row, Write
from ...errors import Conflict, Duplicate
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, LOTS, changed, everyone, found, numbers, refused, said, together, written


class Conflicts(Clauses):
    """Writers that come too late, and what a refusal shows them."""

    @clause
    async def test_a_stale_writer_is_refused_and_leaves_nothing(self, driver: Driver) -> None:
        """Row, entries and drop are one act: when the revision has moved on, none of them happens."""
        row = (await driver.append(Append(ADA, said("a", "b"), revision="r1", at=1.0))).row
        await driver.append(Append(ADA, said("c"), revision="r2", at=2.0))
        before = await found(driver, ADA)
        for replaces in ("r1", "r0", "", None):
            act = changed(row, f"w{replaces}", body=b"stale", owner="eve", due_at=1.0)
            await refused(Conflict, driver.write(Write(act, replaces=replaces, entries=said("x", ""), drop=1)))

        assert before == await found(driver, ADA)

    @clause
    async def test_one_of_many_racing_writers_wins(self, one: Driver, two: Driver, three: Driver) -> None:
        """From one revision exactly one write happens; each loser is shown the winner."""
        row, _, _ = await one.append(Append(ADA, said("first"), revision="r", at=1.0))
        for turn in range(5):
            acts = [
                (one, two, three)[n % 3].write(
                    Write(
                        changed(row, f"w{turn}.{n}"), replaces=row.revision, entries=said(f"{turn}.{n}"), since=row.head
                    )
                )
                for n in range(12)
            ]
            answers = await together(acts)
            winners = [answer for answer in answers if isinstance(answer, Row)]

            assert 1 == len(winners)

            row, log = await found(one, ADA)

            assert winners == [row]
            assert turn + 2 == row.head == len(log)
            assert [(row, log[-1:])] * 11 == [(a.row, list(a.entries)) for a in answers if isinstance(a, Conflict)]

    @clause
    async def test_one_of_many_racing_creators_wins(self, one: Driver, two: Driver, three: Driver) -> None:
        """One conversation comes of it, with the entries of one of them."""
        acts = [
            (one, two, three)[n % 3].write(
                Write(
                    Row(key=ADA, revision=f"r{n}", incarnation=f"r{n}", updated_at=1.0),
                    replaces=None,
                    entries=said(f"m{n}"),
                )
            )
            for n in range(12)
        ]
        answers = await together(acts)
        winners = [answer for answer in answers if isinstance(answer, Row)]
        row, log = await found(one, ADA)

        assert [row] == winners
        assert row.revision == row.incarnation
        assert ["m" + row.revision[1:]] == [entry.id for entry in log]
        assert [row] * 11 == [answer.row for answer in answers if isinstance(answer, Conflict)]

    @clause
    async def test_no_update_is_lost_among_racing_writers_and_appends(self, one: Driver, two: Driver) -> None:
        """Writers that try again after each conflict count to the end, while appends get in between."""
        await one.append(Append(ADA, said("first"), revision="r", at=1.0))

        async def count(driver: Driver, name: str) -> None:
            row, _ = await found(driver, ADA)
            for attempt in range(LOTS):
                act = changed(row, f"{name}.{attempt}", body=b"%d" % (int(row.body or b"0") + 1))
                try:
                    await driver.write(Write(act, replaces=row.revision, entries=said(name)))
                    return
                except Conflict as conflict:
                    row = conflict.row or row

        async def say(driver: Driver, name: str) -> None:
            for turn in range(5):
                await driver.append(Append(ADA, said(f"{name}.{turn}"), revision=f"{name}.{turn}", at=1.0))
                await found(driver, ADA)

        counts = [count((one, two)[n % 2], f"count{n}") for n in range(8)]
        await everyone([*counts, say(one, "one"), say(two, "two")])
        row, log = await found(two, ADA)

        assert b"8" == row.body
        assert list(range(1, 20)) == numbers(log)
        assert 19 == len({entry.id for entry in log})

    @clause
    async def test_a_conflict_shows_what_is_there_now(self, driver: Driver) -> None:
        """The stored row and every entry after `since`, so that the loser can go on without another trip."""
        stale = (await driver.append(Append(ADA, said("a", "b"), revision="r1", at=1.0))).row
        row = (await driver.append(Append(ADA, said("c", "d"), revision="r2", at=2.0))).row
        row = await driver.write(Write(changed(row, "r3", body=b"news"), replaces="r2", entries=said("e")))
        _, log = await found(driver, ADA)
        for since in (0, 2, 4, 5, 99):
            for replaces in ("r1", None):
                conflict = await refused(
                    Conflict, driver.write(Write(changed(stale, "w"), replaces=replaces, since=since))
                )

                assert (row, log[since:]) == (conflict.row, list(conflict.entries))

    @clause
    async def test_a_refusal_shows_the_first_200_entries(self, driver: Driver) -> None:
        """Those right after `since`, so that the rest can be fetched from there."""
        stale = (await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))).row
        await driver.append(Append(ADA, said(*(f"m{n}" for n in range(250))), revision="r2", at=1.0))
        conflict = await refused(Conflict, driver.write(Write(changed(stale, "w"), replaces="r1", since=10)))
        duplicate = await refused(
            Duplicate, driver.write(Write(changed(stale, "w"), replaces="r1", entries=said("m0"), since=10))
        )

        assert list(range(11, 211)) == numbers(conflict.entries)
        assert list(range(11, 211)) == numbers(duplicate.entries)

    @clause
    async def test_a_conflict_with_nothing_there_says_whether_it_was_erased(self, driver: Driver) -> None:
        """So that whoever held the conversation can tell an erasure from a store that was rolled back."""
        row = await written(driver, ADA, body=b"state")
        await driver.erase(Erase(ADA, at=50.0))
        erased = await refused(Conflict, driver.write(Write(changed(row, "r", updated_at=99.0), replaces="second")))
        for replaces in ("second", ""):
            never = await refused(Conflict, driver.write(Write(changed(row, "r", key=BOB), replaces=replaces)))

            assert [(None, 50.0), (None, None)] == [(erased.row, erased.erased_at), (never.row, never.erased_at)]


# Drivers that break these clauses


@caught_by("a_stale_writer_is_refused_and_leaves_nothing", "a_conflict_shows_what_is_there_now")
class RevisionUnchecked(Intact):
    """Whatever is stored is replaced."""

    async def write(self, act: Write) -> Row:
        if stored := self._shelf.rows.get(act.key):
            act = structs.replace(act, replaces=stored.revision)
        return await super().write(act)


@caught_by(
    "one_of_many_racing_writers_wins",
    "one_of_many_racing_creators_wins",
    "no_update_is_lost_among_racing_writers_and_appends",
)
class LastWriterWins(Intact):
    """A writer that lost a race is put on top of the winner, unasked."""

    async def write(self, act: Write) -> Row:
        try:
            return await super().write(act)
        except Conflict as conflict:
            if conflict.row is None:
                raise
            again = structs.replace(act.row, incarnation=conflict.row.incarnation)
            return await self.write(structs.replace(act, row=again, replaces=conflict.row.revision))


@caught_by("a_stale_writer_is_refused_and_leaves_nothing", "a_known_id_makes_a_write_a_duplicate")
class EntriesBeforeTheCheck(Intact):
    """Entries are written first; a refusal comes too late for them."""

    async def write(self, act: Write) -> Row:
        stored = self._shelf.rows.get(act.key)
        if stored:
            head = self._add(
                act.key, stored.head, [entry for entry in act.entries if not self._known(act.key, [entry])]
            )
            self._shelf.rows[act.key] = structs.replace(stored, head=head)
        return await super().write(structs.replace(act, entries=() if stored else act.entries))


@caught_by("a_conflict_shows_what_is_there_now", "a_write_may_run_again_late")
class ConflictWithoutNews(Intact):
    """The loser is shown the row and has to fetch the entries."""

    async def write(self, act: Write) -> Row:
        try:
            return await super().write(act)
        except Conflict as conflict:
            conflict.entries = ()
            raise


@caught_by("a_refusal_shows_the_first_200_entries")
class NewsWithoutEnd(Intact):
    """A refusal drags the whole log along."""

    async def write(self, act: Write) -> Row:
        try:
            return await super().write(act)
        except (Conflict, Duplicate) as refusal:
            refusal.entries = self._after(act.key, act.since)
            raise


@caught_by("a_conflict_with_nothing_there_says_whether_it_was_erased")
class ErasureNotMentioned(Intact):
    """An erased conversation looks like one that the store has lost."""

    async def write(self, act: Write) -> Row:
        try:
            return await super().write(act)
        except Conflict as there:
            if there.row is None:
                there.erased_at = None
            raise
