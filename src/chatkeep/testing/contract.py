"""What every driver must do, one test for each clause. Say how yours is opened, and run it under pytest:

    class TestMine(DriverContract):
        @pytest.fixture(autouse=True)
        def fresh_store(self, tmp_path):
            self.url = f"mine://{tmp_path}/chat"

        async def open_driver(self):
            driver = MyDriver(self.url)
            await driver.open()
            return driver

        async def empty_store(self):
            shutil.rmtree(...)

Tests are coroutines: they need pytest-asyncio in auto mode, or its mark on the class.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from unittest import SkipTest

from msgspec import structs

from ..drivers.base import (
    ENTRIES_MOST,
    RECENT_GRAIN_S,
    TOMBSTONE_KEPT_S,
    Ability,
    Appended,
    Driver,
    Entry,
    Finding,
    Index,
    Key,
    Lease,
    Row,
)
from ..errors import ChatkeepError, Conflict, Duplicate, Replaced, Unavailable, Unsupported, UsageError

E = TypeVar("E", bound=ChatkeepError)

ADA = Key("", "ada")
BOB = Key("", "bob")
LOTS = 10_000

_PLAIN = (
    "a A a/b a/ /a / // . .. : a:b 1:a { } {} {a} {a}b a{1} % %2F %s _ a% * ? [a-c] ^a $1 :id ~ - # \\ \\0 ' \" ` ''"
)
_WORDS = (
    "null None true 0 00 -1 1e3 NaN é e\u0301 ß SS ı I Ⅸ ﬁ fi ключ 鍵 مفتاح 😀 👩\u200d👩\u200d👧 \uffff \U0010ffff"
)
_BLANKS = (
    " |  | a|a |\t|\n|\r\n|a\nb|\x01|\x1f|\x7f|\u00a0|\u200b|\u202e|\ufeff|a' or '1'='1|'; drop table conversation; --"
)
_LONG = ("x" * 512, "x" * 511 + "y", "é" * 256, "😀" * 128, "/" * 512)
NASTY = (*_PLAIN.split(" "), *_WORDS.split(" "), *_BLANKS.split("|"), *_LONG)
SHIFTED = (("a", "bc"), ("ab", "c"), ("", "abc"), ("a/b", "c"), ("a", "b/c"), ("a:b", "c"), ("a", "b:c"), ("1:a", "b"))
NASTY_KEYS = [Key(*pair) for pair in SHIFTED] + [key for name in NASTY for key in (Key("", name), Key(name, "a b"))]


def clause(test: Callable[..., Awaitable[None]]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Hands a test as many drivers on its store as it has parameters, and closes them behind it."""
    wanted = test.__code__.co_argcount - 1

    async def run(self: DriverContract) -> None:
        drivers = [await self.open_driver()]
        try:
            while len(drivers) < wanted:
                drivers.append(await self.open_driver() if Ability.SHARED in drivers[0].abilities else drivers[0])
            await test(self, *drivers)
        finally:
            for driver in drivers:
                await driver.close()

    # Not functools.wraps: pytest would look through it and take the drivers for fixtures.
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return run


class DriverContract:
    """The clauses of `Driver`. What a driver has no ability for is skipped."""

    async def open_driver(self) -> Driver:
        """An opened driver on this test's store, which was empty at first.

        Called again within a test, it opens another driver on the same store: a second instance if the driver is
        SHARED, the same store reopened if it is DURABLE.
        """
        raise NotImplementedError("say how your driver is opened")

    async def empty_store(self) -> None:
        """Takes everything out of this test's store behind the drivers' backs, as FLUSHALL or a deleted file would."""
        raise NotImplementedError("say how your store loses everything")

    # Reading

    @clause
    async def test_what_was_never_written_reads_as_nothing(self, driver: Driver) -> None:
        """An absent conversation is None, an empty log and no row, not an error."""
        assert None is await driver.read(ADA, tail=5)
        assert [] == await driver.entries(ADA, after=0, limit=5)
        assert [] == await driver.entries(ADA, before=9, limit=5)
        if Ability.SCAN in driver.abilities:
            assert [[]] * 4 == [await driver.scan(index, limit=5) for index in INDEXES]

    @clause
    async def test_every_connection_sees_what_was_answered_before(
        self, one: Driver, two: Driver, three: Driver
    ) -> None:
        """A read, wherever it runs, is not older than any act that was answered."""
        for turn in range(1, 11):
            row, tail, _ = await one.append(ADA, said(f"a{turn}"), revision=f"r{turn}", at=2.0 * turn, tail=1)

            assert (row, tail) == await two.read(ADA, tail=1)
            assert tail == await three.entries(ADA, before=row.head + 1, limit=1)

            written = await two.write(changed(row, f"w{turn}", body=b"%d" % turn), replaces=row.revision)

            assert (written, tail) == await one.read(ADA, tail=1)
            assert (written, tail) == await three.read(ADA, tail=1)
        await three.erase(ADA, at=100.0)

        assert [None, None] == [await one.read(ADA, tail=1), await two.read(ADA, tail=1)]

    @clause
    async def test_a_read_is_of_one_instant(self, one: Driver, two: Driver) -> None:
        """Row and tail of one answer belong together, however busy the writer is."""
        row, _, _ = await one.append(ADA, said("first"), revision="r", at=1.0)
        done = asyncio.Event()

        async def keep_writing() -> None:
            nonlocal row
            for turn in range(60):
                act = changed(row, f"w{turn}", body=b"%d" % turn)
                row = await one.write(act, replaces=row.revision, entries=[Entry(0, "", "user", b"%d" % turn)] * 2)
            done.set()

        writer = asyncio.create_task(keep_writing())
        while not done.is_set():
            seen, tail = await found(two, ADA, tail=2)
            if seen.body:
                assert [(seen.head - 1, seen.body), (seen.head, seen.body)] == [(e.number, e.body) for e in tail]
        await writer

    @clause
    async def test_the_tail_is_dense_up_to_the_head(self, driver: Driver) -> None:
        """A tail holds exactly the last entries, oldest first, and the whole log when it is longer than that."""
        for turn in range(1, 4):
            for tail in (0, 1, 2, 99):
                answer = await driver.append(ADA, said(f"{turn}.{tail}"), revision=f"{turn}.{tail}", at=1.0, tail=tail)

                assert last(tail, answer.row.head) == numbers(answer.tail)
        for tail in (0, 1, 5, 11, 12, 13, 10**15):
            assert last(tail, 12) == numbers((await found(driver, ADA, tail=tail))[1])
        again = await driver.append(ADA, said("1.0"), revision="other", at=1.0, tail=3)

        assert [10, 11, 12] == numbers(again.tail)

    # Appending

    @clause
    async def test_an_append_creates_the_row_and_answers_what_it_left(self, driver: Driver) -> None:
        """A first append makes a row with nothing in it but what was said."""
        answer = await driver.append(
            ADA, said("m1", "m2"), revision="r1", at=5.0, due_at=7.0, lease=Lease("c", 9.0), tail=9, owner="eve"
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
        assert (row, tail) == await driver.read(ADA, tail=9)

    @clause
    async def test_a_bare_append_asks_for_no_more_than_its_entries(self, driver: Driver) -> None:
        """What was not asked for stays empty: no due time, no lease, no owner, no tail."""
        answer = await driver.append(ADA, said("m1"), revision="r1", at=5.0)

        assert Appended(Row(key=ADA, revision="r1", incarnation="r1", head=1, updated_at=5.0), [], {}) == answer

    @clause
    async def test_an_append_changes_only_what_it_says(self, driver: Driver) -> None:
        """On a row that is there it sets revision, head and time; body, incarnation, owner, due time and lease stay."""
        row = await written(driver, ADA, body=b"state", owner="eve", due_at=3.0, lease="c", leased_until=4.0)
        answer = await driver.append(ADA, said("m1"), revision="r9", at=50.0)

        assert structs.replace(row, revision="r9", head=row.head + 1, updated_at=50.0) == answer.row

    @clause
    async def test_numbers_run_from_1_without_gaps(self, driver: Driver) -> None:
        """The store numbers; what the caller put there is ignored, by appends and by writes, refused acts or not."""
        row = (
            await driver.append(ADA, [Entry(40, "a", "user", b""), Entry(7, "b", "user", b"")], revision="r1", at=1.0)
        ).row
        row = await driver.write(changed(row, "r2", head=70), replaces="r1", entries=[Entry(9, "c", "user", b"")])
        await refused(Conflict, driver.write(changed(row, "r3"), replaces="r1", entries=said("x", "y")))
        await refused(Duplicate, driver.write(changed(row, "r4"), replaces="r2", entries=said("x", "a")))
        await driver.append(ADA, said("a", "b"), revision="r5", at=1.0)
        row, tail, _ = await driver.append(ADA, [Entry(-3, "d", "user", b"")], revision="r6", at=1.0, tail=9)

        assert [(1, "a"), (2, "b"), (3, "c"), (4, "d")] == [(entry.number, entry.id) for entry in tail]
        assert 4 == row.head

    @clause
    async def test_racing_appends_lose_nothing_and_leave_no_gap(self, one: Driver, two: Driver, three: Driver) -> None:
        """Many at once from several connections: each new id once, numbers dense, every answer's tail too."""
        acts = [
            (one, two, three)[n % 3].append(ADA, said("shared", f"own{n}"), revision=f"r{n}", at=1.0, tail=LOTS)
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
    async def test_an_append_skips_the_ids_it_knows(self, driver: Driver) -> None:
        """Known and new ids in one act: the new ones are written, the known ones reported where they stand."""
        await driver.append(ADA, said("a", "b"), revision="r1", at=1.0)
        mixed = [Entry(0, "b", "user", b"other"), *said("c", "a", "d")]
        answer = await driver.append(ADA, mixed, revision="r2", at=2.0, tail=9)

        assert [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")] == [(entry.number, entry.body) for entry in answer.tail]
        assert {"a": 1, "b": 2} == answer.known
        assert ("r2", 4, 2.0) == (answer.row.revision, answer.row.head, answer.row.updated_at)

    @clause
    async def test_an_append_of_known_ids_changes_nothing(self, driver: Driver) -> None:
        """Not the log, and neither revision, time, due time, lease nor owner."""
        await driver.append(ADA, said("a", "b"), revision="r1", at=1.0, due_at=9.0)
        before = await found(driver, ADA)
        lease = Lease("c", 99.0)
        answer = await driver.append(
            ADA, said("b", "a"), revision="r2", at=2.0, due_at=3.0, lease=lease, tail=1, owner="eve"
        )

        assert Appended(before[0], before[1][-1:], {"a": 1, "b": 2}) == answer
        assert before == await found(driver, ADA)

    @clause
    async def test_ids_that_a_write_brought_are_known_to_appends(self, driver: Driver) -> None:
        """There is one log: what came with a write is found by an append, on a created row and on a changed one."""
        created = Row(key=ADA, revision="r1", incarnation="r1", updated_at=1.0)
        row = await driver.write(created, replaces=None, entries=said("a"))
        row = await driver.write(changed(row, "r2"), replaces="r1", entries=said("b"))
        answer = await driver.append(ADA, said("a", "b"), revision="r3", at=2.0)

        assert Appended(row, [], {"a": 1, "b": 2}) == answer

    @clause
    async def test_entries_without_an_id_are_always_written(self, driver: Driver) -> None:
        """An empty id is no id: nothing is ever taken for a repetition of it."""
        first = await driver.append(ADA, said("", ""), revision="r1", at=1.0)
        second = await driver.append(ADA, said("", "a", ""), revision="r2", at=1.0)
        third = await driver.append(ADA, said("", "a"), revision="r3", at=1.0)
        row = await driver.write(changed(third.row, "r4"), replaces="r3", entries=said("", ""))
        _, log = await found(driver, ADA)

        assert ["", "", "", "a", "", "", "", ""] == [entry.id for entry in log]
        assert (2, 5, 6, 8) == (first.row.head, second.row.head, third.row.head, row.head)
        assert [{}, {}, {"a": 4}] == [first.known, second.known, third.known]

    @clause
    async def test_the_earlier_of_two_due_times_stays(self, driver: Driver) -> None:
        """An append never makes a row due later, and never takes its due time away."""
        dues = []
        for turn, due_at in enumerate((None, 9.0, 12.0, None, 4.0, 9.0)):
            answer = await driver.append(ADA, said(f"{turn}"), revision=f"r{turn}", at=1.0, due_at=due_at)
            dues.append(answer.row.due_at)

        assert [None, 9.0, 9.0, 9.0, 4.0, 4.0] == dues

    @clause
    async def test_a_claim_is_granted_only_where_there_is_none(self, driver: Driver) -> None:
        """A held lease stays as it is, even one that ran out by any clock; a write gives it back."""
        await driver.append(ADA, said("a"), revision="r1", at=1.0)
        second = await driver.append(ADA, said("b"), revision="r2", at=2.0, lease=Lease("mine", 10.0))
        third = await driver.append(ADA, said("c"), revision="r3", at=999.0, lease=Lease("yours", 2000.0))
        fourth = await driver.append(ADA, said("d"), revision="r4", at=999.0)
        freed = await driver.write(changed(fourth.row, "r5", lease=None, leased_until=0.0), replaces="r4")
        fifth = await driver.append(ADA, said("e"), revision="r6", at=999.0, lease=Lease("yours", 2000.0))

        assert [("mine", 10.0)] * 3 == [
            (answer.row.lease, answer.row.leased_until) for answer in (second, third, fourth)
        ]
        assert (None, 0.0) == (freed.lease, freed.leased_until)
        assert ("yours", 2000.0) == (fifth.row.lease, fifth.row.leased_until)

    @clause
    async def test_one_of_many_racing_claims_is_granted(self, one: Driver, two: Driver, three: Driver) -> None:
        """On a row that is there and on one that is not yet."""
        await one.append(BOB, said("first"), revision="r", at=1.0)
        for key in (ADA, BOB):
            acts = [
                (one, two, three)[n % 3].append(key, said(f"m{n}"), revision=f"r{n}", at=1.0, lease=Lease(f"c{n}", 5.0))
                for n in range(15)
            ]
            answers = await everyone(acts)
            granted = [n for n, answer in enumerate(answers) if answer.row.lease == f"c{n}"]

            assert 1 == len(granted)
            assert {f"c{granted[0]}"} == {answer.row.lease for answer in answers}

    @clause
    async def test_an_append_sets_the_owner_only_on_creation(self, driver: Driver) -> None:
        """A later append cannot take a conversation over, nor give one to somebody."""
        await driver.append(ADA, said("a"), revision="r1", at=1.0, owner="eve")
        await driver.append(BOB, said("a"), revision="r1", at=1.0)
        ada = await driver.append(ADA, said("b"), revision="r2", at=1.0, owner="mallory")
        bob = await driver.append(BOB, said("b"), revision="r2", at=1.0, owner="mallory")

        assert ("eve", "") == (ada.row.owner, bob.row.owner)

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

    # Writing

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
        created = await driver.write(first, replaces=None, entries=said("a"))

        assert structs.replace(first, head=1) == created
        assert (created, [Entry(1, "a", "user", b"a")]) == await driver.read(ADA, tail=9)

        second = changed(created, "r2", head=99, body=b"", owner="bob", updated_at=40.0, due_at=None, lease=None)
        second = structs.replace(second, leased_until=0.0)
        stored = await driver.write(second, replaces="r1", entries=said("b", "c"))

        assert structs.replace(second, head=3) == stored
        assert stored == (await found(driver, ADA))[0]

    @clause
    async def test_a_write_may_be_of_the_row_alone(self, driver: Driver) -> None:
        """A row without entries is a conversation too."""
        created = await driver.write(Row(key=ADA, revision="r1", incarnation="r1", body=b"x"), replaces=None)
        stored = await driver.write(changed(created, "r2", body=b"y"), replaces="r1")

        assert (0, 0) == (created.head, stored.head)
        assert (stored, []) == await driver.read(ADA, tail=9)

    @clause
    async def test_a_stale_writer_is_refused_and_leaves_nothing(self, driver: Driver) -> None:
        """Row, entries and drop are one act: when the revision has moved on, none of them happens."""
        row = (await driver.append(ADA, said("a", "b"), revision="r1", at=1.0)).row
        await driver.append(ADA, said("c"), revision="r2", at=2.0)
        before = await found(driver, ADA)
        for replaces in ("r1", "r0", "", None):
            act = changed(row, f"w{replaces}", body=b"stale", owner="eve", due_at=1.0)
            await refused(Conflict, driver.write(act, replaces=replaces, entries=said("x", ""), drop=1))

        assert before == await found(driver, ADA)

    @clause
    async def test_a_write_cannot_change_what_is_not_there(self, driver: Driver) -> None:
        """A row that was to be replaced and is gone is not created in passing."""
        act = Row(key=ADA, revision="r2", incarnation="r1", updated_at=9.0)
        conflict = await refused(Conflict, driver.write(act, replaces="r1", entries=said("a")))

        assert (None, []) == (conflict.row, list(conflict.entries))
        assert None is await driver.read(ADA, tail=9)
        assert [] == await driver.entries(ADA, after=0, limit=9)

    @clause
    async def test_one_of_many_racing_writers_wins(self, one: Driver, two: Driver, three: Driver) -> None:
        """From one revision exactly one write happens; each loser is shown the winner."""
        row, _, _ = await one.append(ADA, said("first"), revision="r", at=1.0)
        for turn in range(5):
            acts = [
                (one, two, three)[n % 3].write(
                    changed(row, f"w{turn}.{n}"), replaces=row.revision, entries=said(f"{turn}.{n}"), since=row.head
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
                Row(key=ADA, revision=f"r{n}", incarnation=f"r{n}", updated_at=1.0),
                replaces=None,
                entries=said(f"m{n}"),
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
        await one.append(ADA, said("first"), revision="r", at=1.0)

        async def count(driver: Driver, name: str) -> None:
            row, _ = await found(driver, ADA)
            for attempt in range(LOTS):
                act = changed(row, f"{name}.{attempt}", body=b"%d" % (int(row.body or b"0") + 1))
                try:
                    await driver.write(act, replaces=row.revision, entries=said(name))
                    return
                except Conflict as conflict:
                    row = conflict.row or row

        async def say(driver: Driver, name: str) -> None:
            for turn in range(5):
                await driver.append(ADA, said(f"{name}.{turn}"), revision=f"{name}.{turn}", at=1.0)
                await found(driver, ADA)

        counts = [count((one, two)[n % 2], f"count{n}") for n in range(8)]
        await everyone([*counts, say(one, "one"), say(two, "two")])
        row, log = await found(two, ADA)

        assert b"8" == row.body
        assert list(range(1, 20)) == numbers(log)
        assert 19 == len({entry.id for entry in log})

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
    async def test_a_known_id_makes_a_write_a_duplicate(self, driver: Driver) -> None:
        """One known id refuses the whole act and is named with its number, beside the row and what came after."""
        row = (await driver.append(ADA, said("a", "b", "c"), revision="r1", at=1.0)).row
        before = await found(driver, ADA)
        act = changed(row, "r2", body=b"new", due_at=1.0)
        duplicate = await refused(
            Duplicate, driver.write(act, replaces="r1", entries=said("x", "c", "", "a"), since=1, drop=1)
        )

        assert row == duplicate.row
        assert {"a": 1, "c": 3} == dict(duplicate.numbers)
        assert before[1][1:] == list(duplicate.entries)
        assert before == await found(driver, ADA)
        assert {"x": 4} == {entry.id: entry.number for entry in (await grown(driver, ADA, "x")).tail}

    @clause
    async def test_a_conflict_shows_what_is_there_now(self, driver: Driver) -> None:
        """The stored row and every entry after `since`, so that the loser can go on without another trip."""
        stale = (await driver.append(ADA, said("a", "b"), revision="r1", at=1.0)).row
        row = (await driver.append(ADA, said("c", "d"), revision="r2", at=2.0)).row
        row = await driver.write(changed(row, "r3", body=b"news"), replaces="r2", entries=said("e"))
        _, log = await found(driver, ADA)
        for since in (0, 2, 4, 5, 99):
            for replaces in ("r1", None):
                conflict = await refused(Conflict, driver.write(changed(stale, "w"), replaces=replaces, since=since))

                assert (row, log[since:]) == (conflict.row, list(conflict.entries))

    @clause
    async def test_a_refusal_shows_the_first_200_entries(self, driver: Driver) -> None:
        """Those right after `since`, so that the rest can be fetched from there."""
        stale = (await driver.append(ADA, said("a"), revision="r1", at=1.0)).row
        await driver.append(ADA, said(*(f"m{n}" for n in range(250))), revision="r2", at=1.0)
        conflict = await refused(Conflict, driver.write(changed(stale, "w"), replaces="r1", since=10))
        duplicate = await refused(
            Duplicate, driver.write(changed(stale, "w"), replaces="r1", entries=said("m0"), since=10)
        )

        assert list(range(11, 211)) == numbers(conflict.entries)
        assert list(range(11, 211)) == numbers(duplicate.entries)

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
    async def test_born_is_set_once_and_given_back_by_every_act(self, driver: Driver) -> None:
        """It is the revision of the creating act, whatever is written later."""
        append = await driver.append(ADA, said("a"), revision="r1", at=1.0)
        write = await driver.write(changed(append.row, "r2"), replaces="r1")
        later = await driver.append(ADA, said("b"), revision="r3", at=2.0)
        conflict = await refused(Conflict, driver.write(changed(write, "r4"), replaces="r2"))
        created = await driver.write(Row(key=BOB, revision="q1", incarnation="q1"), replaces=None)
        later_bob = await driver.append(BOB, said("b"), revision="q2", at=2.0)

        assert conflict.row is not None
        assert {"r1"} == {
            row.incarnation for row in (append.row, write, later.row, conflict.row, (await found(driver, ADA))[0])
        }
        assert {"q1"} == {row.incarnation for row in (created, later_bob.row, (await found(driver, BOB))[0])}

    @clause
    async def test_a_writer_of_an_erased_conversation_loses_against_the_next_one(self, driver: Driver) -> None:
        """Born is compared: even where a delayed append gave the new conversation the revision that the writer saw."""
        await driver.append(ADA, said("a"), revision="r1", at=1.0)
        stale = (await driver.append(ADA, said("b"), revision="r2", at=2.0)).row
        await driver.erase(ADA, at=10.0)
        reborn = (await driver.append(ADA, said("b"), revision="r2", at=11.0)).row
        conflict = await refused(
            Conflict, driver.write(changed(stale, "r3", body=b"old"), replaces="r2", entries=said("c"))
        )

        assert reborn == conflict.row
        assert (reborn, [1]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))

    @clause
    async def test_creation_numbers_on_from_the_given_head(self, driver: Driver) -> None:
        """So that a log whose beginning is gone can be moved in; only a creation does that."""
        created = Row(key=ADA, revision="r1", incarnation="r1", head=40, updated_at=1.0)
        row = await driver.write(created, replaces=None, entries=said("a", "b"))
        bare = await driver.write(structs.replace(created, key=BOB), replaces=None)
        answer = await driver.append(BOB, said("a"), revision="r2", at=2.0, tail=9)

        assert (42, [41, 42]) == (row.head, numbers((await found(driver, ADA))[1]))
        assert (40, 41, [41]) == (bare.head, answer.row.head, numbers(answer.tail))

    @clause
    async def test_a_write_drops_the_beginning_of_the_log(self, driver: Driver) -> None:
        """Entries up to `drop` are gone from every read, numbering goes on, and the rest stays as it was."""
        row = (await driver.append(ADA, said("a", "b", "", "c"), revision="r1", at=1.0)).row
        _, log = await found(driver, ADA)
        row = await driver.write(changed(row, "r2"), replaces="r1", entries=said("d"), drop=3)

        assert 5 == row.head
        assert (row, [log[3], Entry(5, "d", "user", b"d")]) == await found(driver, ADA)
        assert [4, 5] == numbers(await driver.entries(ADA, after=0, limit=9))
        assert [4, 5] == numbers(await driver.entries(ADA, before=9, limit=9))

        row = await driver.write(changed(row, "r3"), replaces="r2", drop=2)

        assert (row, 5, [4, 5]) == ((await found(driver, ADA))[0], row.head, numbers((await found(driver, ADA))[1]))

        row = await driver.write(changed(row, "r4"), replaces="r3", drop=99)
        answer = await driver.append(ADA, said("e"), revision="r5", at=2.0, tail=9)

        assert (5, 6, [6]) == (row.head, answer.row.head, numbers(answer.tail))

    @clause
    async def test_the_ids_of_dropped_entries_are_free_again(self, driver: Driver) -> None:
        """What the log no longer holds it no longer knows; what it still holds it does."""
        row = (await driver.append(ADA, said("a", "b", "c"), revision="r1", at=1.0)).row
        row = await driver.write(changed(row, "r2"), replaces="r1", drop=2)
        answer = await driver.append(ADA, said("a", "c"), revision="r3", at=2.0, tail=9)
        row = await driver.write(changed(answer.row, "r4"), replaces="r3", entries=said("b"))

        assert ({"c": 3}, [3, 4]) == (answer.known, numbers(answer.tail))
        assert [(3, "c"), (4, "a"), (5, "b")] == [(entry.number, entry.id) for entry in (await found(driver, ADA))[1]]

    # Paging through the log

    @clause
    async def test_entries_go_forward_from_after(self, driver: Driver) -> None:
        """The first *limit* numbered above it, oldest first."""
        await driver.append(ADA, said(*"abcdefg"), revision="r1", at=1.0)
        for after, limit, expected in (
            (0, 3, "abc"),
            (3, 3, "def"),
            (6, 3, "g"),
            (7, 3, ""),
            (99, 3, ""),
            (2, 0, ""),
            (0, 99, "abcdefg"),
        ):
            assert expected == "".join(entry.id for entry in await driver.entries(ADA, after=after, limit=limit))

    @clause
    async def test_entries_go_back_from_before(self, driver: Driver) -> None:
        """The last *limit* numbered below it, oldest first; without any bound, from the beginning."""
        await driver.append(ADA, said(*"abcdefg"), revision="r1", at=1.0)
        for before, limit, expected in (
            (8, 3, "efg"),
            (5, 3, "bcd"),
            (2, 3, "a"),
            (1, 3, ""),
            (99, 1, "g"),
            (5, 0, ""),
            (99, 99, "abcdefg"),
        ):
            assert expected == "".join(entry.id for entry in await driver.entries(ADA, before=before, limit=limit))

    @clause
    async def test_entries_between_two_numbers_go_forward(self, driver: Driver) -> None:
        """With both bounds, the first *limit* between them, neither included."""
        await driver.append(ADA, said(*"abcdefg"), revision="r1", at=1.0)
        for after, before, limit, expected in (
            (2, 6, 9, "cde"),
            (2, 6, 2, "cd"),
            (2, 3, 9, ""),
            (6, 2, 9, ""),
            (0, 99, 1, "a"),
            (2, 6, 0, ""),
        ):
            page = await driver.entries(ADA, after=after, before=before, limit=limit)

            assert expected == "".join(entry.id for entry in page)

    @clause
    async def test_numbers_beyond_the_log_are_no_error(self, driver: Driver) -> None:
        """Bounds that lie far outside are answered like any others."""
        row = (await driver.append(ADA, said("a", "b"), revision="r1", at=1.0)).row
        far = 10**15

        assert [1, 2] == numbers(await driver.entries(ADA, before=far, limit=far))
        assert [] == await driver.entries(ADA, after=far, limit=far)
        assert [] == list((await refused(Conflict, driver.write(changed(row, "w"), replaces="x", since=far))).entries)
        assert [1, 2] == numbers((await driver.append(ADA, said("a"), revision="r2", at=1.0, tail=far)).tail)

    # Finding conversations

    @clause
    async def test_scan_by_key_goes_by_tenant_and_id(self, driver: Driver) -> None:
        """In the order of code points, over all tenants or within one."""
        need(driver, Ability.SCAN)
        keys = [Key(tenant, name) for tenant in ("", "b", "a") for name in ("z", "Z", "é", "a/b", "a", "😀", "\uffff")]
        for key in keys:
            await driver.append(key, said("m"), revision="r", at=1.0)

        assert sorted(keys) == [row.key for row in await driver.scan("key", limit=LOTS)]
        assert sorted(key for key in keys if key.tenant == "b") == [
            row.key for row in await driver.scan("key", tenant="b", limit=LOTS)
        ]
        assert [] == await driver.scan("key", tenant="nobody", limit=LOTS)

    @clause
    async def test_scan_by_due_shows_what_has_to_be_looked_at(self, driver: Driver) -> None:
        """Earliest first, up to and including `until`, and nothing that has no due time."""
        need(driver, Ability.SCAN)
        for name, due_at in (("c", 30.0), ("a", 20.0), ("never", None), ("b", 10.0), ("d", 40.5)):
            await driver.append(Key("t", name), said("m"), revision="r", at=1.0, due_at=due_at)
        await driver.append(Key("u", "e"), said("m"), revision="r", at=1.0, due_at=15.0)

        assert ["b", "e", "a", "c", "d"] == await names(driver, "due")
        assert ["b", "e", "a", "c"] == await names(driver, "due", until=30.0)
        assert ["b", "e", "a"] == await names(driver, "due", until=29.999)
        assert ["b", "a", "c"] == await names(driver, "due", until=40.0, tenant="t")
        assert [] == await names(driver, "due", until=9.0)
        assert ["b", "e"] == await names(driver, "due", limit=2)
        assert [] == await names(driver, "due", limit=0)

    @clause
    async def test_a_claimed_row_is_not_due_until_its_claim_runs_out(self, driver: Driver) -> None:
        """It wakes at the later of due time and end of lease, whoever set them, and at once when the lease is given
        back."""
        need(driver, Ability.SCAN)
        await driver.append(ADA, said("m"), revision="r1", at=1.0, due_at=10.0, lease=Lease("c", 50.0))
        await driver.append(BOB, said("m"), revision="r1", at=1.0, due_at=20.0)

        assert ["bob"] == await names(driver, "due", until=49.9)
        assert ["bob", "ada"] == await names(driver, "due", until=50.0)

        row = (await driver.append(BOB, said("n"), revision="r2", at=1.0, lease=Lease("d", 60.0))).row

        assert ["ada", "bob"] == await names(driver, "due", until=99.0)
        assert [] == await names(driver, "due", until=49.9)

        await driver.write(changed(row, "r3", lease=None, leased_until=0.0), replaces="r2")

        assert ["bob"] == await names(driver, "due", until=49.9)

        ada = await driver.write(changed((await found(driver, ADA))[0], "r3", due_at=None), replaces="r1")

        assert ["bob"] == await names(driver, "due", until=99.0)
        assert None is ada.wake

    @clause
    async def test_scan_by_owner_shows_the_conversations_of_one(self, driver: Driver) -> None:
        """By id within a tenant; of another's, and of nobody's, none."""
        need(driver, Ability.SCAN)
        for tenant, name, owner in (
            ("", "b", "eve"),
            ("", "c", "bob"),
            ("", "a", "eve"),
            ("", "d", ""),
            ("t", "e", "eve"),
        ):
            await driver.append(Key(tenant, name), said("m"), revision="r", at=1.0, owner=owner)

        assert ["a", "b"] == await names(driver, "owner", tenant="", owner="eve")
        assert ["e"] == await names(driver, "owner", tenant="t", owner="eve")
        assert ["a", "b", "e"] == await names(driver, "owner", owner="eve")
        assert ["a"] == await names(driver, "owner", tenant="", owner="eve", limit=1)
        assert [] == await names(driver, "owner", tenant="", owner="ev")
        assert [] == await names(driver, "owner", tenant="", owner="")
        assert [] == await names(driver, "owner", owner="")

    @clause
    async def test_a_new_owner_moves_the_row_in_the_index(self, driver: Driver) -> None:
        """Written to another, or to nobody, it is found there and no longer here."""
        need(driver, Ability.SCAN)
        row = (await driver.append(ADA, said("m"), revision="r1", at=1.0, owner="eve")).row
        row = await driver.write(changed(row, "r2", owner="bob"), replaces="r1")

        assert ([], ["ada"]) == (await names(driver, "owner", owner="eve"), await names(driver, "owner", owner="bob"))

        row = await driver.write(changed(row, "r3", owner=""), replaces="r2")

        assert [] == await names(driver, "owner", owner="bob")

        await driver.write(changed(row, "r4", owner="eve"), replaces="r3")

        assert ["ada"] == await names(driver, "owner", tenant="", owner="eve")

    @clause
    async def test_scan_by_recent_shows_the_last_changed_first(self, driver: Driver) -> None:
        """In steps of a minute, and by tenant and id within one, so that a quick exchange reorders nothing."""
        need(driver, Ability.SCAN)
        step = RECENT_GRAIN_S
        for name, at in (("c", 5 * step), ("a", 7 * step + 9), ("b", 7 * step + 1), ("d", 9 * step)):
            await driver.append(Key("", name), said("m"), revision="r1", at=at)
        await driver.append(Key("t", "a"), said("m"), revision="r1", at=7 * step)

        assert ["d", "a", "b", "a", "c"] == await names(driver, "recent")
        assert ["d", "a", "b", "c"] == await names(driver, "recent", tenant="")
        assert ["d", "a"] == await names(driver, "recent", limit=2)

        await driver.append(Key("", "b"), said("n"), revision="r2", at=8 * step - 1)
        row = (await found(driver, Key("", "c")))[0]
        await driver.write(changed(row, "r2", updated_at=8 * step), replaces="r1")

        assert ["d", "c", "a", "b"] == await names(driver, "recent", tenant="")

    @clause
    async def test_pages_of_any_size_show_each_row_once_and_in_order(self, driver: Driver) -> None:
        """Also where many rows stand at the same place of the index."""
        need(driver, Ability.SCAN)
        chance = random.Random(3)
        for tenant in ("", "t", "t/"):
            for n in range(10):
                row = Row(
                    key=Key(tenant, f"{n}"),
                    revision="r",
                    incarnation="r",
                    body=b"%d" % n,
                    owner=chance.choice(["", "eve", "bob"]),
                    updated_at=chance.choice([0.0, 100.0, 130.0, 1e9]),
                    due_at=chance.choice([None, 0.0, 50.0, 50.0, 1e9]),
                    leased_until=chance.choice([0.0, 0.0, 70.0]),
                )
                await driver.write(row, replaces=None)
        rows = [(await found(driver, Key(tenant, f"{n}")))[0] for tenant in ("", "t", "t/") for n in range(10)]
        for within in (None, "", "t", "t/"):
            near = [row for row in rows if within in (None, row.key.tenant)]
            expected: dict[Index, list[Row]] = {
                "key": sorted(near, key=lambda row: row.key),
                "due": [row for row in near if row.due_at is not None and (row.wake or 0.0) <= 70.0],
                "owner": sorted((row for row in near if row.owner == "eve"), key=lambda row: row.key),
                "recent": sorted(near, key=lambda row: (-(row.updated_at // RECENT_GRAIN_S), row.key)),
            }
            for index, wanted in expected.items():
                for size in (1, 2, 3, 7, LOTS):
                    shown = await paged(driver, index, size, tenant=within, owner="eve", until=70.0)
                    if index == "due":  # where it leaves the order of ties open
                        assert sorted(row.wake or 0.0 for row in wanted) == [row.wake for row in shown]
                        shown, wanted = (sorted(some, key=lambda row: row.key) for some in (shown, wanted))

                    assert wanted == shown

    @clause
    async def test_paging_goes_on_though_what_was_shown_has_moved(self, driver: Driver) -> None:
        """The place behind the last page is where that row stood when it was shown."""
        need(driver, Ability.SCAN)
        for n in range(4):
            await driver.append(
                Key("", f"{n}"), said("m"), revision="r", at=1000.0 - 60 * n, due_at=float(n), owner="eve"
            )
        for index in ("due", "recent", "key", "owner"):
            last_row = (await driver.scan(index, owner="eve", limit=2))[-1]
            row = (await found(driver, last_row.key))[0]
            moved = changed(row, f"{index}", due_at=99.0, updated_at=9000.0)
            await driver.write(moved, replaces=row.revision)
            rest = [row.key.id for row in await driver.scan(index, owner="eve", after=last_row, limit=9)]

            assert ["2", "3"] == [name for name in rest if name in "23"]
            assert "0" not in rest
            await driver.write(structs.replace(row, revision=f"{index} back"), replaces=f"{index}")
        last_row = (await driver.scan("key", limit=2))[-1]
        await driver.erase(last_row.key, at=9000.0)

        assert ["2", "3"] == [row.key.id for row in await driver.scan("key", after=last_row, limit=9)]

    @clause
    async def test_every_index_shows_the_row_as_it_is_stored(self, driver: Driver) -> None:
        """Whole, body and all, after each kind of act."""
        need(driver, Ability.SCAN)
        row = await written(driver, ADA, body=b"state", owner="eve", due_at=3.0, lease="c", leased_until=4.0)
        for _ in range(3):
            for index in INDEXES:
                assert [row] == await driver.scan(index, owner="eve", limit=9)
            row = (await driver.append(ADA, said(f"{row.head}"), revision=f"{row.head}", at=row.updated_at + 100)).row

    # Erasing

    @clause
    async def test_an_erasure_leaves_nothing(self, driver: Driver) -> None:
        """Neither row, log, ids nor a place in any index; a new conversation begins at 1."""
        row = await written(driver, ADA, body=b"state", owner="eve", due_at=3.0)
        await driver.append(ADA, said("a", "b"), revision="r1", at=2.0)
        await driver.append(BOB, said("a"), revision="r1", at=2.0, due_at=1.0, owner="eve")
        others = await found(driver, BOB)
        await driver.erase(ADA, at=10.0)

        assert None is await driver.read(ADA, tail=9)
        assert [] == await driver.entries(ADA, after=0, limit=9)
        assert [] == await driver.entries(ADA, before=99, limit=9)
        if Ability.SCAN in driver.abilities:
            assert [["bob"]] * 4 == [await names(driver, index, owner="eve") for index in INDEXES]

        answer = await driver.append(ADA, said("b", "a"), revision="r2", at=11.0, tail=9)

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
        await driver.erase(ADA, at=1.0)
        await driver.append(ADA, said("a"), revision="r1", at=2.0)
        await driver.erase(ADA, at=3.0)
        await driver.erase(ADA, at=3.0)

        assert None is await driver.read(ADA, tail=9)

    @clause
    async def test_an_erasure_among_racing_appends_leaves_no_orphan(
        self, one: Driver, two: Driver, three: Driver
    ) -> None:
        """Whatever comes before it is gone, whatever comes after it is whole."""
        for turn in range(5):
            at = 100.0 * turn
            acts: list[Awaitable[Any]] = [
                (one, two, three)[n % 3].append(ADA, said(f"m{n}"), revision=f"{turn}.{n}", at=at + n, tail=LOTS)
                for n in range(1, 16)
            ]
            acts[7:7] = [two.erase(ADA, at=at + 5)]
            for answer in await together(acts):
                if isinstance(answer, Appended):
                    assert list(range(1, answer.row.head + 1)) == numbers(answer.tail)
                else:
                    assert answer is None or answer.erased_at is not None
            there = await one.read(ADA, tail=LOTS)
            log = await two.entries(ADA, after=0, limit=LOTS)
            if there is not None:
                assert list(range(1, there[0].head + 1)) == numbers(there[1])
                assert log == there[1]
            else:
                assert [] == log
            await three.erase(ADA, at=at + 50)
            answer = await one.append(ADA, said("m1"), revision=f"{turn}", at=at + 51, tail=9)

            assert (1, [1], {}) == (answer.row.head, numbers(answer.tail), answer.known)
            await one.erase(ADA, at=at + 60)

    @clause
    async def test_an_append_from_before_an_erasure_is_refused(self, driver: Driver) -> None:
        """Not later than the mark means refused, and the refusal names the mark; a later one is welcome."""
        for row_is_there in (True, False):
            key = ADA if row_is_there else BOB
            if row_is_there:
                await driver.append(key, said("a"), revision="r1", at=1.0)
            await driver.erase(key, at=10.0)
            for at in (1.0, 9.999, 10.0):
                conflict = await refused(Conflict, driver.append(key, said("b"), revision="late", at=at))

                assert (None, 10.0) == (conflict.row, conflict.erased_at)
            assert None is await driver.read(key, tail=9)
            assert [] == await driver.entries(key, after=0, limit=9)

            answer = await driver.append(key, said("b"), revision="new", at=10.001)

            assert ("new", 1) == (answer.row.incarnation, answer.row.head)

    @clause
    async def test_a_creation_from_before_an_erasure_is_refused(self, driver: Driver) -> None:
        """A write that would create the conversation, by the time of its row."""
        await driver.write(Row(key=ADA, revision="r1", incarnation="r1", updated_at=1.0), replaces=None)
        await driver.erase(ADA, at=10.0)
        for at in (1.0, 10.0):
            act = Row(key=ADA, revision="late", incarnation="late", updated_at=at)
            conflict = await refused(Conflict, driver.write(act, replaces=None, entries=said("a")))

            assert (None, 10.0, []) == (conflict.row, conflict.erased_at, list(conflict.entries))
        assert None is await driver.read(ADA, tail=9)
        assert [] == await driver.entries(ADA, after=0, limit=9)

        await driver.write(Row(key=ADA, revision="new", incarnation="new", updated_at=10.5), replaces=None)

        assert "new" == (await found(driver, ADA))[0].incarnation

    @clause
    async def test_the_mark_outlives_a_new_conversation_of_that_key(self, driver: Driver) -> None:
        """A delayed append of the old one does not get into the new one, not even where the new one knows its id."""
        await driver.append(ADA, said("a"), revision="r1", at=1.0)
        await driver.erase(ADA, at=10.0)
        row = (await driver.append(ADA, said("a"), revision="r2", at=11.0)).row
        for ids in ("b", "a"), ("b",), ("a",):
            conflict = await refused(Conflict, driver.append(ADA, said(*ids), revision="late", at=9.0))

            assert (row, 10.0) == (conflict.row, conflict.erased_at)
        assert (row, [1]) == ((await found(driver, ADA))[0], numbers((await found(driver, ADA))[1]))

        row = await driver.write(changed(row, "r3", updated_at=12.0), replaces="r2")
        await refused(Conflict, driver.append(ADA, said("b"), revision="late", at=9.0))

        assert 2 == (await driver.append(ADA, said("b"), revision="r4", at=13.0)).row.head

    @clause
    async def test_the_mark_is_not_earlier_than_the_row_it_erased(self, driver: Driver) -> None:
        """An eraser whose clock is behind still wins against every act that the row had seen."""
        await driver.append(ADA, said("a"), revision="r1", at=100.0)
        await driver.erase(ADA, at=10.0)
        conflict = await refused(Conflict, driver.append(ADA, said("a"), revision="r1", at=100.0))

        assert 100.0 == conflict.erased_at
        assert None is await driver.read(ADA, tail=9)

    @clause
    async def test_the_mark_never_goes_back(self, driver: Driver) -> None:
        """A second erasure with an earlier time takes nothing away from the first."""
        await driver.erase(ADA, at=100.0)
        await driver.erase(ADA, at=50.0)
        conflict = await refused(Conflict, driver.append(ADA, said("a"), revision="r", at=70.0))

        assert 100.0 == conflict.erased_at

        await driver.erase(ADA, at=150.0)

        assert 150.0 == (await refused(Conflict, driver.append(ADA, said("a"), revision="r", at=120.0))).erased_at

    @clause
    async def test_the_mark_stands_as_long_as_promised(self, driver: Driver) -> None:
        """Other erasures do not sweep it away too early, and it concerns no key but its own."""
        await driver.erase(ADA, at=1000.0)
        await driver.erase(BOB, at=1000.0 + TOMBSTONE_KEPT_S - 1)
        await refused(Conflict, driver.append(ADA, said("a"), revision="r", at=1000.0))
        for key in (Key("", "ad"), Key("", "adaa"), Key("a", "da"), Key("t", "ada"), Key("", "Ada")):
            assert 1 == (await driver.append(key, said("a"), revision="r", at=1.0)).row.head

    # What may stand in them

    @clause
    async def test_any_key_is_its_own(self, driver: Driver) -> None:
        """However odd its text and however like another's, nothing of one shows up at another."""
        for n, key in enumerate(NASTY_KEYS):
            answer = await driver.append(key, said("same", f"{n}"), revision=f"r{n}", at=1.0, due_at=1.0, tail=9)

            assert ({}, 2) == (answer.known, answer.row.head)
            await driver.write(changed(answer.row, f"w{n}", body=b"%d" % n), replaces=f"r{n}")
        for n, key in enumerate(NASTY_KEYS):
            row, log = await found(driver, key)

            assert (key, b"%d" % n, ["same", f"{n}"]) == (row.key, row.body, [entry.id for entry in log])
        if Ability.SCAN in driver.abilities:
            assert sorted(NASTY_KEYS) == [row.key for row in await paged(driver, "key", 7)]
            assert sorted(NASTY_KEYS) == sorted(row.key for row in await paged(driver, "due", 7))
        for key in NASTY_KEYS[::2]:
            await driver.erase(key, at=2.0)

        assert [None] * len(NASTY_KEYS[::2]) == [await driver.read(key, tail=1) for key in NASTY_KEYS[::2]]
        assert [2] * len(NASTY_KEYS[1::2]) == [(await found(driver, key))[0].head for key in NASTY_KEYS[1::2]]

    @clause
    async def test_any_text_survives_where_there_is_text(self, driver: Driver) -> None:
        """In entry ids, roles, owners, revisions and leases, and no two of them are taken for the same."""
        for n, text in enumerate(NASTY):
            key = Key("texts", f"{n}")
            row = (await driver.append(key, [Entry(0, text, text, b"")], revision=text, at=1.0, owner=text)).row
            act = changed(row, f"{text}!", lease=text, leased_until=9.0)
            row = await driver.write(act, replaces=text)

            assert (text, text, text) == (row.incarnation, row.owner, row.lease)
            assert (row, [Entry(1, text, text, b"")]) == await driver.read(key, tail=9)
            if Ability.SCAN in driver.abilities:
                assert [row] == await driver.scan("owner", tenant="texts", owner=text, limit=9)
        answer = await driver.append(ADA, said(*NASTY), revision="r1", at=1.0)
        again = await driver.append(ADA, said(*NASTY), revision="r2", at=1.0)

        assert len(NASTY) == answer.row.head == again.row.head
        assert {text: n for n, text in enumerate(NASTY, 1)} == again.known

    @clause
    async def test_any_bytes_survive_as_a_body(self, driver: Driver) -> None:
        """Empty ones, zeros, what looks packed, what is no text, and a megabyte."""
        chance = random.Random(5)
        bodies = [b"", b"\0", b"\1", b"\2", b"\0\0", b"\0\1", b"\1\0", b"\0a", b"\1a", b"\xff\xfe", bytes(range(256))]
        bodies += [b"\0" * size for size in (47, 48, 49, 5000)] + [b"\1" * size for size in (47, 48, 49, 5000)]
        bodies += [chance.randbytes(size) for size in (1, 47, 48, 49, 1000, 70_000)]
        bodies += [
            b"\1" + chance.randbytes(60),
            b'{"type":"text","text":"caf\xc3\xa9"}' * 9,
            b"x" * (1 << 20),
            chance.randbytes(1 << 20),
        ]
        row = (await driver.append(ADA, [Entry(0, "", "user", body) for body in bodies], revision="r", at=1.0)).row
        for n, body in enumerate(bodies):
            row = await driver.write(changed(row, f"w{n}", body=body), replaces=row.revision)

            assert body == row.body
            assert body == (await found(driver, ADA, tail=0))[0].body

        assert bodies == [entry.body for entry in (await found(driver, ADA))[1]]

    @clause
    async def test_times_come_back_exactly(self, driver: Driver) -> None:
        """To the last bit: a mark or a page that is off by a hair lets the wrong act through."""
        for n, at in enumerate((1763697600.1234567, 0.1 + 0.2, 1e-9, 4102444800.000001, 0.0)):
            key = Key("times", f"{n}")
            row = Row(key=key, revision="r", incarnation="r", updated_at=at, due_at=at, lease="c", leased_until=at)

            assert row == await driver.write(row, replaces=None)
            assert row == (await found(driver, key))[0]
            answer = await driver.append(key, said("a"), revision="r2", at=at, due_at=at)

            assert (at, at, at) == (answer.row.updated_at, answer.row.due_at, answer.row.leased_until)
            await driver.erase(key, at=at)

            assert at == (await refused(Conflict, driver.append(key, said("a"), revision="r", at=at))).erased_at

    # Many at once

    @clause
    async def test_a_refused_act_does_not_fail_its_neighbours(self, one: Driver, two: Driver) -> None:
        """Acts that travel together are each checked, answered and refused on their own."""
        row = (await one.append(ADA, said("a"), revision="r1", at=1.0)).row
        await one.erase(BOB, at=100.0)
        for turn in range(3):
            keys = [Key(f"{turn}", f"{n}") for n in range(20)]
            fresh = [Row(key=key, revision="r", incarnation="r", updated_at=1.0) for key in keys]
            acts: list[Awaitable[Any]] = []
            for n, key in enumerate(keys):
                driver = (one, two)[n % 2]
                acts.append(driver.append(Key("say", f"{key}"), said("m"), revision="r", at=1.0))
                acts.append(driver.write(changed(row, f"x{n}"), replaces="gone", entries=said("x", "y")))
                acts.append(driver.write(fresh[n], replaces=None, entries=said("m", "")))
                acts.append(driver.write(changed(row, f"y{n}"), replaces="r1", entries=said("y", "a")))
                acts.append(driver.append(BOB, said("late"), revision="late", at=50.0))
                acts.append(driver.read(ADA, tail=1))
            kinds = [type(answer) for answer in await together(acts)]

            assert [Appended, Conflict, Row, Duplicate, Conflict, tuple] * 20 == kinds
            for key in keys:
                assert [1, 2] == numbers((await found(two, key))[1])
                assert [1] == numbers((await found(one, Key("say", f"{key}")))[1])
        assert (row, [Entry(1, "a", "user", b"a")]) == await one.read(ADA, tail=9)
        assert None is await one.read(BOB, tail=9)

    @clause
    async def test_acts_on_one_key_at_once_each_happen(self, driver: Driver) -> None:
        """Also when they are handed over in the same tick."""
        answers = await everyone(
            [driver.append(ADA, said(f"{n}"), revision=f"r{n}", at=1.0, tail=LOTS) for n in range(50)]
        )
        row, log = await found(driver, ADA)

        assert list(range(1, 51)) == numbers(log)
        assert sorted(f"{n}" for n in range(50)) == sorted(entry.id for entry in log)
        assert list(range(1, 51)) == sorted(answer.row.head for answer in answers)
        assert row in [answer.row for answer in answers]

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

    @clause
    async def test_hundreds_at_once_are_all_answered(self, driver: Driver) -> None:
        """More than fit into one batch of anything."""
        keys = [Key("many", f"{n}") for n in range(700)]
        answers = await everyone([driver.append(key, said("m"), revision="r", at=1.0, tail=1) for key in keys])
        reads = await everyone([driver.read(key, tail=1) for key in keys])

        assert [(key, 1, 1) for key in keys] == [(a.row.key, a.row.head, len(a.tail)) for a in answers]
        assert [(answer.row, answer.tail) for answer in answers] == reads

    @clause
    async def test_an_act_of_hundreds_of_entries_is_one_act(self, driver: Driver) -> None:
        """An import or a long burst is written whole, up to ENTRIES_MOST."""
        ids = [f"m{n}" for n in range(2 * ENTRIES_MOST)]
        first, second = said(*ids[:ENTRIES_MOST]), said(*ids[ENTRIES_MOST:])
        row, _, _ = await driver.append(ADA, first, revision="r1", at=1.0)
        row = await driver.write(changed(row, "r2"), replaces="r1", entries=second)
        _, log = await found(driver, ADA)
        again = await driver.append(ADA, second, revision="r3", at=1.0)

        assert (ids, list(range(1, len(ids) + 1))) == ([entry.id for entry in log], numbers(log))
        assert (row, ENTRIES_MOST) == (again.row, len(again.known))

    @clause
    async def test_a_cancelled_caller_leaves_all_or_nothing(self, driver: Driver) -> None:
        """Whenever it happens, the act can be run again and is then done once, and the driver goes on."""
        row = (await driver.append(ADA, said("first"), revision="r", at=1.0)).row
        for ticks in range(8):
            entries = said(*(f"{ticks}.{n}" for n in range(3)))
            act = changed(row, f"w{ticks}", body=b"%d" % ticks)
            await abandoned(driver.write(act, replaces=row.revision, entries=entries), ticks)
            seen, log = await found(driver, ADA)

            assert (seen.head, seen.revision in (row.revision, act.revision)) == (len(log), True)
            row = await driver.write(act, replaces=row.revision, entries=entries)

            say: dict[str, Any] = {"revision": f"a{ticks}", "at": 1.0, "lease": Lease(f"c{ticks}", 5.0)}
            entries = said(*(f"{ticks}.{n} said" for n in range(3)))
            await abandoned(driver.append(ADA, entries, **say), ticks)
            seen, log = await found(driver, ADA)

            assert seen.head == len(log)
            row = (await driver.append(ADA, entries, **say)).row
            row, log = await found(driver, ADA)

            assert list(range(1, 2 + 6 * (ticks + 1))) == numbers(log)
            assert (len(log), f"a{ticks}", b"%d" % ticks) == (row.head, row.revision, row.body)
            await abandoned(driver.erase(BOB, at=1.0), ticks)
            await abandoned(driver.read(ADA, tail=9), ticks)
            await abandoned(driver.entries(ADA, after=0, limit=9), ticks)

    # Opening and closing

    @clause
    async def test_a_store_has_one_epoch(self, one: Driver, two: Driver) -> None:
        """Every driver on it names the same, and it is not empty."""
        assert one.epoch == two.epoch != ""

    async def test_closing_twice_is_fine_and_a_closed_driver_says_so(self) -> None:
        """It raises `Unavailable`, for nothing was written, and answers nothing."""
        driver = await self.open_driver()
        try:
            row = (await driver.append(ADA, said("a"), revision="r1", at=1.0)).row
        finally:
            await driver.close()
        await driver.close()
        await refused(Unavailable, driver.read(ADA, tail=1))
        await refused(Unavailable, driver.append(ADA, said("b"), revision="r2", at=1.0))
        await refused(Unavailable, driver.write(changed(row, "r2"), replaces="r1"))
        await refused(Unavailable, driver.entries(ADA, after=0, limit=1))
        await refused(Unavailable, driver.scan("key", limit=1))
        await refused(Unavailable, driver.erase(ADA, at=2.0))

    @clause
    async def test_a_driver_is_usable_only_when_its_epoch_is_known(self, driver: Driver) -> None:
        """While it is being opened each verb is `Unavailable` and the epoch is ""; from then on both are there."""
        epoch, row = driver.epoch, await written(driver, ADA, body=b"state")
        await driver.close()
        assert "" == driver.epoch
        opening = asyncio.ensure_future(driver.open())

        async def too_early(make: Callable[[], Awaitable[object]]) -> None:
            if not driver.epoch:  # as it is when the act begins, whenever that is answered
                await refused_closed(make())

        acts = [*verbs(row), lambda driver: driver.erase(BOB, at=1.0)]
        while not driver.epoch and not opening.done():
            await asyncio.gather(*(too_early(partial(act, driver)) for act in acts))
            await asyncio.sleep(0)
        assert row == (await found(driver, ADA))[0]
        await opening
        assert epoch == driver.epoch

    @clause
    async def test_an_open_that_was_cancelled_leaves_it_closed(self, driver: Driver) -> None:
        """At whatever moment: no verb works, no task or thread is left, and it can be opened again."""
        epoch, row = driver.epoch, await written(driver, ADA, body=b"state")
        await driver.close()
        for ticks in MOMENTS:
            before = at_work()
            opening = asyncio.ensure_future(driver.open())
            await ticked(ticks)
            ended = opening.done()
            opening.cancel()
            await asyncio.wait([opening])
            if not ended:
                assert "" == driver.epoch
                for act in verbs(row):
                    await refused_closed(act(driver))
                assert before == at_work()
                await driver.open()
            assert (epoch, row) == (driver.epoch, (await found(driver, ADA))[0])
            await driver.close()

    @clause
    async def test_closing_breaks_off_an_open_under_way(self, driver: Driver) -> None:
        """Whoever opens is told so, nothing is left, and the driver can be opened again."""
        row = await written(driver, ADA, body=b"state")
        await driver.close()
        for ticks in MOMENTS[1:]:  # (before its first turn it has not begun)
            before = at_work()
            opening = asyncio.ensure_future(driver.open())
            await ticked(ticks)
            await driver.close()
            (answer,) = await together([opening])
            assert answer is None or isinstance(answer, Unavailable)
            assert "" == driver.epoch
            for act in verbs(row):
                await refused_closed(act(driver))
            assert before == at_work()
        await driver.open()
        assert row == (await found(driver, ADA))[0]

    @clause
    async def test_it_is_opened_once_at_a_time(self, driver: Driver) -> None:
        """A second `open` is refused, beside the first and after it, and does the first no harm."""
        row = await written(driver, ADA, body=b"state")
        await refused(UsageError, driver.open())
        assert row == (await found(driver, ADA))[0]
        await driver.close()
        before = at_work()
        answers = await together([driver.open(), driver.open()])
        assert [False, True] == sorted(isinstance(answer, UsageError) for answer in answers)
        assert row == (await found(driver, ADA))[0]
        await driver.close()
        for act in verbs(row):
            await refused_closed(act(driver))
        assert before == at_work()

    @clause
    async def test_an_act_is_settled_in_the_opening_it_began_in(self, driver: Driver) -> None:
        """When `close` has ended, each act that began before is answered; none is done in the opening after it."""
        await written(driver, ADA, body=b"state")
        for ticks in range(4):
            acts = [asyncio.ensure_future(grown(driver, ADA, f"{ticks}.{n}")) for n in range(9)]
            await ticked(ticks)
            await driver.close()
            await asyncio.sleep(0)
            assert all(act.done() for act in acts)
            await driver.open()
            await asyncio.sleep(0.02)
            done = {answer.tail[0].id for answer in await together(acts) if isinstance(answer, Appended)}
            there = {entry.id for entry in (await found(driver, ADA))[1]}
            assert done == {id for id in there if id.startswith(f"{ticks}.")}

    async def test_acts_under_way_are_answered_before_it_closes(self) -> None:
        """What was accepted is done and stays; what came too late was certainly not."""
        done: list[str] = []
        for ticks in range(4):
            driver = await self.open_driver()
            ids = [f"{ticks}.{n}" for n in range(20)]
            acts = [asyncio.ensure_future(driver.append(ADA, said(id), revision=id, at=1.0)) for id in ids]
            for _ in range(ticks):
                await asyncio.sleep(0)
            await driver.close()
            answers = await together(acts)
            done += [id for id, answer in zip(ids, answers, strict=True) if isinstance(answer, Appended)]

            assert {Appended, Unavailable} >= {type(answer) for answer in answers}
        if Ability.DURABLE in driver.abilities:
            driver = await self.open_driver()
            there = await driver.read(ADA, tail=LOTS)
            await driver.close()

            assert sorted(done) == sorted(entry.id for entry in (there[1] if there else []))

    # The store itself

    @clause
    async def test_an_emptied_store_is_not_taken_for_an_empty_one(self, driver: Driver) -> None:
        """What was flushed has not "never been there": no verb says so, and none begins anything afresh."""
        row = await written(driver, ADA, body=b"state")
        await self.empty_store()
        await refused(Replaced, driver.read(ADA, tail=1))
        await refused(Replaced, driver.read(BOB, tail=1))
        await refused(Replaced, driver.append(ADA, said("a"), revision="r1", at=2.0))
        await refused(Replaced, driver.append(BOB, said("a"), revision="r2", at=2.0))
        await refused(Replaced, driver.write(changed(row, "r3"), replaces="second"))
        created = Row(key=BOB, revision="r4", incarnation="r4", updated_at=2.0)
        await refused(Replaced, driver.write(created, replaces=None))
        await refused(Replaced, driver.entries(ADA, after=0, limit=5))
        await refused(Replaced, driver.erase(ADA, at=3.0))
        if Ability.SCAN in driver.abilities:
            for index in INDEXES:
                await refused(Replaced, driver.scan(index, owner="eve", limit=5))
        again = await self.open_driver()
        try:
            assert driver.epoch != again.epoch
            assert [None, None] == [await again.read(key, tail=1) for key in (ADA, BOB)]
            assert 1 == (await again.append(ADA, said("a"), revision="r5", at=2.0)).row.head
        finally:
            await again.close()

    @clause
    async def test_a_store_that_was_replaced_is_another(self, driver: Driver) -> None:
        """Nor when somebody else has opened the emptied store, and has begun the same conversation in it."""
        row = await written(driver, ADA, body=b"state")
        await self.empty_store()
        other = await self.open_driver()
        try:
            await other.append(ADA, said("b"), revision="other", at=2.0)
            await refused(Replaced, driver.read(BOB, tail=1))
            await refused(Replaced, driver.append(BOB, said("a"), revision="r1", at=3.0))
            if Ability.SCAN in driver.abilities:
                await refused(Replaced, driver.scan("due", limit=5))
            answers = await together([driver.write(changed(row, "r2"), replaces="second")])

            assert isinstance(answers[0], Conflict | Replaced)
            assert ("other", 1) == ((await found(other, ADA))[0].revision, (await found(other, ADA))[0].head)
        finally:
            await other.close()

    @clause
    async def test_a_conflict_with_nothing_there_says_whether_it_was_erased(self, driver: Driver) -> None:
        """So that whoever held the conversation can tell an erasure from a store that was set back."""
        row = await written(driver, ADA, body=b"state")
        await driver.erase(ADA, at=50.0)
        erased = await refused(Conflict, driver.write(changed(row, "r", updated_at=99.0), replaces="second"))
        for replaces in ("second", ""):
            never = await refused(Conflict, driver.write(changed(row, "r", key=BOB), replaces=replaces))

            assert [(None, 50.0), (None, None)] == [(erased.row, erased.erased_at), (never.row, never.erased_at)]

    @clause
    async def test_an_announcement_is_heard_by_all_who_watch(self, one: Driver, two: Driver) -> None:
        """By other drivers and by the one that announced it, until it is closed. Without WATCH it goes nowhere."""
        heard: tuple[list[str], list[str]] = ([], [])
        for driver, ears in zip((one, two), heard, strict=True):
            driver.watch(ears.extend)
        for turn in range(200):
            await one.announce([f"a{turn}", "b"])
            await asyncio.sleep(0.025)
            if Ability.WATCH not in one.abilities or all("b" in ears for ears in heard):
                break

        assert [Ability.WATCH in one.abilities] * 2 == ["b" in ears for ears in heard]
        assert {"b"} | {f"a{turn}" for turn in range(200)} >= {*heard[0], *heard[1]}

        await two.close()
        heard[1].clear()
        await one.announce(["late"])
        await asyncio.sleep(0.1)

        assert [] == heard[1]

    @clause
    async def test_a_hundred_marks_go_in_one_announcement(self, one: Driver, two: Driver) -> None:
        """That many at once, as long as `mark_of` makes them, arrive whole."""
        need(one, Ability.WATCH)
        marks = [f"{turn:032x}" for turn in range(100)]
        heard: list[str] = []
        two.watch(heard.extend)
        for _ in range(200):
            await one.announce(marks)
            await asyncio.sleep(0.025)
            if heard:
                break

        assert set(marks) == set(heard)

    @clause
    async def test_an_examination_changes_nothing(self, driver: Driver) -> None:
        """On an open store and on a closed one it says what there is to say, and finds no failing."""
        await written(driver, ADA, body=b"state")
        before = await found(driver, ADA)
        open_now = await driver.examine()
        after = await found(driver, ADA)
        await driver.close()
        closed = await driver.examine()

        assert before == after
        for findings in (open_now, closed):
            assert findings
            assert [] == [finding for finding in findings if finding.level == "fail"]
            assert all(isinstance(finding, Finding) and finding.subject and finding.said for finding in findings)

    @clause
    async def test_a_backup_is_a_new_file_or_refused(self, driver: Driver) -> None:
        """Where there is one, it is there when the call returns, and takes the place of nothing unless told to."""
        await written(driver, ADA, body=b"state")
        with TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            answered = (await together([driver.backup(str(copy))]))[0]
            if isinstance(answered, Unsupported):
                assert str(answered)
                assert [] == list(copy.parent.iterdir())
                return
            assert answered is None
            assert [copy] == list(copy.parent.iterdir())
            held = copy.read_bytes()
            await refused(UsageError, driver.backup(str(copy)))

            assert held
            assert held == copy.read_bytes()
            await driver.backup(str(copy), replace=True)
            assert [copy] == list(copy.parent.iterdir())

    @clause
    async def test_sql_reads_or_is_refused(self, driver: Driver) -> None:
        """Where there is SQL, it sees what was answered, and changes nothing."""
        answered = (await together([driver.query("select 1 + ?", 1)]))[0]
        if isinstance(answered, Unsupported):
            assert str(answered)
            return
        await written(driver, ADA, body=b"state")

        assert [(2,)] == answered
        assert [("ada",)] == await driver.query("select id from conversation where tenant = ?", ADA.tenant)
        await refused(UsageError, driver.query("delete from conversation"))
        assert (await found(driver, ADA))[0].key == ADA

    async def test_a_reopened_store_holds_everything(self) -> None:
        """Rows, logs, ids, indexes, marks and the epoch: what was answered before closing is there after opening."""
        driver = await self.open_driver()
        try:
            need(driver, Ability.DURABLE)
            await written(driver, ADA, body=b"state", owner="eve", due_at=3.0, lease="c", leased_until=4.0)
            await driver.append(ADA, said("a", "b"), revision="r1", at=2.0)
            await driver.erase(BOB, at=10.0)
            epoch, before = driver.epoch, await found(driver, ADA)
        finally:
            await driver.close()
        driver = await self.open_driver()
        try:
            assert epoch == driver.epoch
            assert before == await found(driver, ADA)
            if Ability.SCAN in driver.abilities:
                assert [["ada"]] * 4 == [await names(driver, index, owner="eve") for index in INDEXES]
            assert {"a": 2, "b": 3} == (await driver.append(ADA, said("a", "b"), revision="r2", at=3.0)).known
            assert 10.0 == (await refused(Conflict, driver.append(BOB, said("a"), revision="r", at=9.0))).erased_at
        finally:
            await driver.close()


INDEXES: tuple[Index, ...] = ("key", "due", "owner", "recent")


def said(*ids: str) -> list[Entry]:
    """Entries as a caller hands them over: unnumbered."""
    return [Entry(0, id, "user", id.encode()) for id in ids]


def changed(row: Row, revision: str, **fields: Any) -> Row:
    """The row that a writer who saw *row* hands over."""
    return structs.replace(row, revision=revision, **fields)


def numbers(entries: Sequence[Entry]) -> list[int]:
    """Where *entries* stand."""
    return [entry.number for entry in entries]


def last(tail: int, head: int) -> list[int]:
    """The numbers of a log's last *tail* entries."""
    return list(range(max(head - tail, 0) + 1, head + 1))


def need(driver: Driver, ability: Ability) -> None:
    """Skips the test for a driver that does not have *ability*."""
    if ability not in driver.abilities:
        raise SkipTest(f"it does not say that {ability}")


async def found(driver: Driver, key: Key, *, tail: int = LOTS) -> tuple[Row, list[Entry]]:
    """What `read` shows of a conversation that must be there."""
    there = await driver.read(key, tail=tail)
    assert there is not None, f"{key} is gone"
    return there


async def written(driver: Driver, key: Key, **fields: Any) -> Row:
    """A conversation that was appended to and then written with *fields*."""
    row = (await driver.append(key, said("first"), revision="first", at=1.0)).row
    return await driver.write(changed(row, "second", **fields), replaces="first")


async def grown(driver: Driver, key: Key, id: str) -> Appended:
    """The answer of one more append."""
    return await driver.append(key, said(id), revision=f"grown by {id}", at=1.0, tail=1)


async def refused(kind: type[E], act: Awaitable[object]) -> E:
    """The refusal of *act*, which must be of this kind."""
    try:
        answer = await act
    except kind as refusal:
        return refusal
    raise AssertionError(f"expected {kind.__name__}, got {answer!r}")


MOMENTS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 1024, 4096)
"""After so many turns of the loop something happens to an open: near its beginning each one counts."""


async def refused_closed(act: Awaitable[object]) -> None:
    """*act* must say that the driver is not open, and nothing of the store."""
    refusal = await refused(Unavailable, act)
    assert not isinstance(refusal, Replaced), "a store that has not been opened was called another one"


async def ticked(ticks: int) -> None:
    """Lets the loop turn."""
    for _ in range(ticks):
        await asyncio.sleep(0)


def verbs(row: Row) -> list[Callable[[Driver], Awaitable[object]]]:
    """Each verb but `erase` once, on a conversation that has *row*."""
    return [
        lambda driver: driver.read(row.key, tail=1),
        lambda driver: driver.append(row.key, said("too early"), revision="too early", at=1.0),
        lambda driver: driver.write(changed(row, "too early"), replaces=row.revision),
        lambda driver: driver.entries(row.key, after=0, limit=1),
        lambda driver: driver.scan("key", limit=1),
    ]


def at_work() -> set[str]:
    """The tasks and threads that are there now, but for those of the interpreter's own pools."""
    tasks = {f"{id(task)} {task.get_name()}" for task in asyncio.all_tasks() if not task.done()}
    threads = {f"{thread.ident} {thread.name}" for thread in threading.enumerate()}
    return tasks | {name for name in threads if "asyncio_" not in name}


async def together(acts: Sequence[Awaitable[Any]]) -> list[Any]:
    """The answers of *acts* run at once, refusals among them; an error that is not chatkeep's is a failure."""
    answers = await asyncio.gather(*acts, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ChatkeepError):
            raise AssertionError(f"not one of chatkeep's errors: {answer!r}") from answer  # noqa: TRY004
    return answers


async def everyone(acts: Sequence[Awaitable[Any]]) -> list[Any]:
    """The answers of *acts* run at once, none of which may be refused."""
    answers = await together(acts)
    for answer in answers:
        if isinstance(answer, ChatkeepError):
            raise answer
    return answers


async def abandoned(act: Awaitable[Any], ticks: int) -> None:
    """Starts *act* and cancels its caller after some turns of the loop."""
    task = asyncio.ensure_future(act)
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def names(driver: Driver, index: Index, *, limit: int = LOTS, **where: Any) -> list[str]:
    """The ids that a scan shows."""
    return [row.key.id for row in await driver.scan(index, limit=limit, **where)]


async def paged(driver: Driver, index: Index, size: int, **where: Any) -> list[Row]:
    """All rows of an index, page by page."""
    rows: list[Row] = []
    while page := await driver.scan(index, after=rows[-1] if rows else None, limit=size, **where):
        assert len(page) <= size, "a page is longer than its limit"
        rows += page
        assert len(rows) < LOTS, "the pages never end"
    return rows
