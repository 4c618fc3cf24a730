"""Clauses on what `erase` leaves: nothing but a mark against acts that come late. The drivers that break them stand below."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from msgspec import structs

from ...drivers.base import (
    TOMBSTONE_KEPT_S,
    Ability,
    Append,
    Appended,
    Driver,
    Entries,
    Entry,
    Erase,
    Key,
    Read,
    Row,
    Scan,
    Write,
)
from ...errors import Conflict
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, INDEXES, LOTS, changed, found, names, numbers, refused, said, together, written


class Erasing(Clauses):
    """What `erase` leaves: nothing but a mark against acts that come late."""

    @clause
    async def test_an_erasure_leaves_nothing(self, driver: Driver) -> None:
        """Neither row, log, ids nor a place in any index; a new conversation begins at 1."""
        row = await written(driver, ADA, body=b"state", owner="eve", due_at=3.0)
        await driver.append(Append(ADA, said("a", "b"), revision="r1", at=2.0))
        await driver.append(Append(BOB, said("a"), revision="r1", at=2.0, due_at=1.0, owner="eve"))
        others = await found(driver, BOB)
        await driver.erase(Erase(ADA, at=10.0))

        assert None is await driver.read(Read(ADA, tail=9))
        assert [] == await driver.entries(Entries(ADA, after=0, limit=9))
        assert [] == await driver.entries(Entries(ADA, before=99, limit=9))
        if Ability.SCAN in driver.abilities:
            assert [["bob"]] * 4 == [await names(driver, index, owner="eve") for index in INDEXES]

        answer = await driver.append(Append(ADA, said("b", "a"), revision="r2", at=11.0, tail=9))

        assert (
            Appended(
                Row(key=ADA, revision="r2", incarnation="r2", head=2, updated_at=11.0),
                [Entry(1, "b", "user", b"b"), Entry(2, "a", "user", b"a")],
                {},
            )
            == answer
        )
        assert row.incarnation != answer.row.incarnation
        assert others == await found(driver, BOB)

    @clause
    async def test_erasing_twice_or_nothing_is_fine(self, driver: Driver) -> None:
        """What is not there is gone as well as what was."""
        await driver.erase(Erase(ADA, at=1.0))
        await driver.append(Append(ADA, said("a"), revision="r1", at=2.0))
        await driver.erase(Erase(ADA, at=3.0))
        await driver.erase(Erase(ADA, at=3.0))

        assert None is await driver.read(Read(ADA, tail=9))

    @clause
    async def test_an_erasure_among_racing_appends_leaves_no_orphan(
        self, one: Driver, two: Driver, three: Driver
    ) -> None:
        """Whatever comes before it is gone, whatever comes after it is whole."""
        for turn in range(5):
            at = 100.0 * turn
            acts: list[Awaitable[Any]] = [
                (one, two, three)[n % 3].append(
                    Append(ADA, said(f"m{n}"), revision=f"{turn}.{n}", at=at + n, tail=LOTS)
                )
                for n in range(1, 16)
            ]
            acts[7:7] = [two.erase(Erase(ADA, at=at + 5))]
            for answer in await together(acts):
                if isinstance(answer, Appended):
                    assert list(range(1, answer.row.head + 1)) == numbers(answer.tail)
                else:
                    assert answer is None or answer.erased_at is not None
            there = await one.read(Read(ADA, tail=LOTS))
            log = await two.entries(Entries(ADA, after=0, limit=LOTS))
            if there is not None:
                assert list(range(1, there[0].head + 1)) == numbers(there[1])
                assert log == there[1]
            else:
                assert [] == log
            await three.erase(Erase(ADA, at=at + 50))
            answer = await one.append(Append(ADA, said("m1"), revision=f"{turn}", at=at + 51, tail=9))

            assert (1, [1], {}) == (answer.row.head, numbers(answer.tail), answer.known)
            await one.erase(Erase(ADA, at=at + 60))

    @clause
    async def test_an_append_from_before_an_erasure_is_refused(self, driver: Driver) -> None:
        """Not later than the mark means refused, and the refusal names the mark; a later one is welcome."""
        for row_is_there in (True, False):
            key = ADA if row_is_there else BOB
            if row_is_there:
                await driver.append(Append(key, said("a"), revision="r1", at=1.0))
            await driver.erase(Erase(key, at=10.0))
            for at in (1.0, 9.999, 10.0):
                conflict = await refused(Conflict, driver.append(Append(key, said("b"), revision="late", at=at)))

                assert (None, 10.0) == (conflict.row, conflict.erased_at)
            assert None is await driver.read(Read(key, tail=9))
            assert [] == await driver.entries(Entries(key, after=0, limit=9))

            answer = await driver.append(Append(key, said("b"), revision="new", at=10.001))

            assert ("new", 1) == (answer.row.incarnation, answer.row.head)

    @clause
    async def test_a_creation_from_before_an_erasure_is_refused(self, driver: Driver) -> None:
        """A write that would create the conversation, by the time of its row."""
        await driver.write(Write(Row(key=ADA, revision="r1", incarnation="r1", updated_at=1.0), replaces=None))
        await driver.erase(Erase(ADA, at=10.0))
        for at in (1.0, 10.0):
            act = Row(key=ADA, revision="late", incarnation="late", updated_at=at)
            conflict = await refused(Conflict, driver.write(Write(act, replaces=None, entries=said("a"))))

            assert (None, 10.0, []) == (conflict.row, conflict.erased_at, list(conflict.entries))
        assert None is await driver.read(Read(ADA, tail=9))
        assert [] == await driver.entries(Entries(ADA, after=0, limit=9))

        await driver.write(Write(Row(key=ADA, revision="new", incarnation="new", updated_at=10.5), replaces=None))

        assert "new" == (await found(driver, ADA))[0].incarnation

    @clause
    async def test_the_mark_outlives_a_new_conversation_of_that_key(self, driver: Driver) -> None:
        """A delayed append of the old one does not get into the new one, not even where the new one knows its id."""
        await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))
        await driver.erase(Erase(ADA, at=10.0))
        row = (await driver.append(Append(ADA, said("a"), revision="r2", at=11.0))).row
        for ids in ("b", "a"), ("b",), ("a",):
            conflict = await refused(Conflict, driver.append(Append(ADA, said(*ids), revision="late", at=9.0)))

            assert (row, 10.0) == (conflict.row, conflict.erased_at)
        assert (row, [1]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))

        row = await driver.write(Write(changed(row, "r3", updated_at=12.0), replaces="r2"))
        await refused(Conflict, driver.append(Append(ADA, said("b"), revision="late", at=9.0)))

        assert 2 == (await driver.append(Append(ADA, said("b"), revision="r4", at=13.0))).row.head

    @clause
    async def test_the_mark_is_not_earlier_than_the_row_it_erased(self, driver: Driver) -> None:
        """An eraser whose clock is behind still wins against every act that the row had seen."""
        await driver.append(Append(ADA, said("a"), revision="r1", at=100.0))
        await driver.erase(Erase(ADA, at=10.0))
        conflict = await refused(Conflict, driver.append(Append(ADA, said("a"), revision="r1", at=100.0)))

        assert 100.0 == conflict.erased_at
        assert None is await driver.read(Read(ADA, tail=9))

    @clause
    async def test_the_mark_never_goes_back(self, driver: Driver) -> None:
        """A second erasure with an earlier time takes nothing away from the first."""
        await driver.erase(Erase(ADA, at=100.0))
        await driver.erase(Erase(ADA, at=50.0))
        conflict = await refused(Conflict, driver.append(Append(ADA, said("a"), revision="r", at=70.0)))

        assert 100.0 == conflict.erased_at

        await driver.erase(Erase(ADA, at=150.0))

        assert (
            150.0 == (await refused(Conflict, driver.append(Append(ADA, said("a"), revision="r", at=120.0)))).erased_at
        )

    @clause
    async def test_the_mark_stands_as_long_as_promised(self, driver: Driver) -> None:
        """Other erasures do not sweep it away too early, and it concerns no key but its own."""
        await driver.erase(Erase(ADA, at=1000.0))
        await driver.erase(Erase(BOB, at=1000.0 + TOMBSTONE_KEPT_S - 1))
        await refused(Conflict, driver.append(Append(ADA, said("a"), revision="r", at=1000.0)))
        for key in (Key("", "ad"), Key("", "adaa"), Key("a", "da"), Key("t", "ada"), Key("", "Ada")):
            assert 1 == (await driver.append(Append(key, said("a"), revision="r", at=1.0))).row.head

    @clause
    async def test_an_erasure_may_be_of_one_revision_only(self, driver: Driver) -> None:
        """Where the row has moved on it stays, and the refusal shows it; where it is gone already all is well."""
        row = await written(driver, ADA, body=b"state", owner="eve", due_at=3.0)
        for revision in ("first", "", "nobody's"):
            conflict = await refused(Conflict, driver.erase(Erase(ADA, at=10.0, revision=revision)))

            assert (row, []) == (conflict.row, list(conflict.entries))
        assert row == (await found(driver, ADA))[0]
        assert 2 == (await driver.append(Append(BOB, said("a", "b"), revision="r1", at=1.0))).row.head

        await driver.erase(Erase(ADA, at=10.0, revision="second"))
        await driver.erase(Erase(ADA, at=10.0, revision="second"))

        assert None is await driver.read(Read(ADA, tail=9))
        assert [] == await driver.entries(Entries(ADA, after=0, limit=9))
        assert (
            10.0 == (await refused(Conflict, driver.append(Append(ADA, said("a"), revision="r1", at=10.0)))).erased_at
        )

        row = (await driver.append(Append(ADA, said("a"), revision="r2", at=11.0))).row
        conflict = await refused(Conflict, driver.erase(Erase(ADA, at=12.0, revision="second")))

        assert row == conflict.row == (await found(driver, ADA))[0]
        assert 2 == (await driver.append(Append(ADA, said("b"), revision="r3", at=11.5))).row.head, (
            "a refusal left a mark"
        )

    @clause
    async def test_an_erasure_of_one_revision_loses_no_racing_act(self, one: Driver, two: Driver) -> None:
        """Either it was first and the append began anew, or the append was first and nothing is erased."""
        for turn in range(20):
            key = Key("", f"{turn}")
            before = (await one.append(Append(key, said("a"), revision="r1", at=1.0))).row
            acts: list[Awaitable[Any]] = [
                one.erase(Erase(key, at=2.0, revision="r1")),
                two.append(Append(key, said("b"), revision="r2", at=3.0)),
            ]
            if turn % 2:
                erased, appended = await together(acts)
            else:
                appended, erased = await together(acts[::-1])
            row = (await found(two, key))[0]

            assert appended.row == row
            if erased is None:
                assert ("r2", 1) == (row.incarnation, row.head)
            else:
                assert isinstance(erased, Conflict)
                assert (before.incarnation, 2, row) == (row.incarnation, row.head, erased.row)


# Drivers that break these clauses


@caught_by("an_erasure_leaves_nothing", "every_index_shows_the_row_as_it_is_stored")
class ScansShowGhosts(Intact):
    """The recent index is not told of changes and erasures."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._first: dict[Key, Row] = {}

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        self._first.setdefault(act.key, answer.row)
        return answer

    async def scan(self, act: Scan) -> list[Row]:
        return list(self._first.values()) if act.index == "recent" else await super().scan(act)


@caught_by("an_erasure_leaves_nothing", "an_erasure_among_racing_appends_leaves_no_orphan")
class EraseLeavesIds(Intact):
    """The next conversation of that key is told that its messages are known."""

    async def erase(self, act: Erase) -> None:
        ids = self._shelf.ids.get(act.key, {})
        await super().erase(act)
        self._shelf.ids[act.key] = ids


@caught_by("an_erasure_leaves_nothing", "an_erasure_among_racing_appends_leaves_no_orphan")
class EraseLeavesEntries(Intact):
    """Entries hang on the key, and stay when the row goes."""

    async def erase(self, act: Erase) -> None:
        log = self._shelf.logs.get(act.key, {})
        await super().erase(act)
        self._shelf.logs[act.key] = log

    def _after(self, key: Key, number: int) -> list[Entry]:
        return [entry for found, entry in sorted(self._shelf.logs.get(key, {}).items()) if found > number]


@caught_by("erasing_twice_or_nothing_is_fine", raises=KeyError)
class ErasingNothingFails(Intact):
    """Nothing to erase is an error."""

    async def erase(self, act: Erase) -> None:
        if act.key not in self._shelf.rows:
            raise KeyError(act.key)
        await super().erase(act)


@caught_by(
    "an_append_from_before_an_erasure_is_refused",
    "a_creation_from_before_an_erasure_is_refused",
    "the_mark_outlives_a_new_conversation_of_that_key",
    "the_mark_is_not_earlier_than_the_row_it_erased",
)
class NoTombstone(Intact):
    """A delayed act brings back what was erased."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        pass


@caught_by("an_append_from_before_an_erasure_is_refused", "the_mark_never_goes_back")
class MarkNotNamed(Intact):
    """The refused caller cannot tell an erasure from a race."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        try:
            super()._refuse_erased(key, at)
        except Conflict as conflict:
            conflict.erased_at = None
            raise


@caught_by("an_append_from_before_an_erasure_is_refused", "a_creation_from_before_an_erasure_is_refused")
class SameTimeIsLater(Intact):
    """An act of the very time of the mark passes."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        if at != self._shelf.erased.get(key):
            super()._refuse_erased(key, at)


@caught_by("a_creation_from_before_an_erasure_is_refused")
class CreationsUnmarked(Intact):
    """Only appends look at the mark."""

    async def write(self, act: Write) -> Row:
        mark = self._shelf.erased.pop(act.key, None)
        try:
            return await super().write(act)
        finally:
            if mark is not None:
                self._shelf.erased[act.key] = mark


@caught_by("the_mark_outlives_a_new_conversation_of_that_key")
class MarkGoneWithANewConversation(Intact):
    """The mark is looked at only where there is no row."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        if key not in self._shelf.rows:
            super()._refuse_erased(key, at)


@caught_by("the_mark_outlives_a_new_conversation_of_that_key")
class KnownBeforeTheMark(Intact):
    """A delayed append whose ids the new conversation has is answered from it."""

    async def append(self, act: Append) -> Appended:
        row, known = self._shelf.rows.get(act.key), self._known(act.key, act.entries)
        if row and all(entry.id in known for entry in act.entries):
            return Appended(row, self._after(act.key, row.head - act.tail), known)
        return await super().append(act)


@caught_by("the_mark_is_not_earlier_than_the_row_it_erased")
class MarkIgnoresTheRow(Intact):
    """The mark is the eraser's time, however far its clock is behind."""

    async def erase(self, act: Erase) -> None:
        before = self._shelf.erased.get(act.key, act.at)
        await super().erase(act)
        self._shelf.erased[act.key] = max(act.at, before)


@caught_by("the_mark_never_goes_back")
class MarkGoesBack(Intact):
    """The last erasure sets the mark, whenever it was asked for."""

    async def erase(self, act: Erase) -> None:
        self._shelf.erased.pop(act.key, None)
        await super().erase(act)


@caught_by("the_mark_stands_as_long_as_promised")
class MarksForgottenSoon(Intact):
    """A mark stands for an hour."""

    async def erase(self, act: Erase) -> None:
        await super().erase(act)
        for other in [other for other, mark in self._shelf.erased.items() if mark < act.at - 3600]:
            del self._shelf.erased[other]


@caught_by("the_mark_stands_as_long_as_promised", raises=Conflict)
class MarksOfTooMany(Intact):
    """A mark is found by a key that is only similar."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        for other in list(self._shelf.erased):
            if other.id.lower() == key.id.lower():
                super()._refuse_erased(other, at)


@caught_by("an_erasure_may_be_of_one_revision_only", "an_erasure_of_one_revision_loses_no_racing_act")
class ErasesWhateverIsThere(Intact):
    """The revision is not looked at."""

    async def erase(self, act: Erase) -> None:
        await super().erase(structs.replace(act, revision=None))


@caught_by("an_erasure_may_be_of_one_revision_only", raises=Conflict)
class NothingIsAnotherRevision(Intact):
    """Where the row is gone, as after the first run of the same act, the erasure is refused."""

    async def erase(self, act: Erase) -> None:
        if act.revision is not None and act.key not in self._shelf.rows:
            raise Conflict(f"{act.key}: nothing is there")
        await super().erase(act)


@caught_by("an_erasure_of_one_revision_loses_no_racing_act")
class LooksThenErases(Intact):
    """The revision is compared in one act and the row erased in the next."""

    async def erase(self, act: Erase) -> None:
        there = await self.read(Read(act.key, tail=0))
        if there is not None and act.revision not in (None, there[0].revision):
            raise Conflict(f"{act.key}: revision moved on", row=there[0])
        await super().erase(structs.replace(act, revision=None))
