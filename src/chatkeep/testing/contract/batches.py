"""Clauses on many acts at once, long acts, and acts whose caller is cancelled. The drivers that break them stand below."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import structs

from ...drivers.base import (
    ENTRIES_MOST,
    Ability,
    Append,
    Appended,
    Driver,
    Entries,
    Entry,
    Erase,
    Key,
    Lease,
    Read,
    Row,
    Scan,
    Write,
)
from ...errors import Conflict, Duplicate, StoreError, Unavailable
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, LOTS, changed, everyone, found, numbers, said, together


class Batches(Clauses):
    """Many acts at once, long acts, and acts whose caller is cancelled."""

    @clause
    async def test_a_refused_act_does_not_fail_its_neighbours(self, one: Driver, two: Driver) -> None:
        """Acts that travel together are each checked, answered and refused on their own."""
        row = (await one.append(Append(ADA, said("a"), revision="r1", at=1.0))).row
        await one.erase(Erase(BOB, at=100.0))
        for turn in range(3):
            keys = [Key(f"{turn}", f"{n}") for n in range(20)]
            fresh = [Row(key=key, revision="r", incarnation="r", updated_at=1.0) for key in keys]
            acts: list[Awaitable[Any]] = []
            for n, key in enumerate(keys):
                driver = (one, two)[n % 2]
                acts.append(driver.append(Append(Key("say", f"{key}"), said("m"), revision="r", at=1.0)))
                acts.append(driver.write(Write(changed(row, f"x{n}"), replaces="gone", entries=said("x", "y"))))
                acts.append(driver.write(Write(fresh[n], replaces=None, entries=said("m", ""))))
                acts.append(driver.write(Write(changed(row, f"y{n}"), replaces="r1", entries=said("y", "a"))))
                acts.append(driver.append(Append(BOB, said("late"), revision="late", at=50.0)))
                acts.append(driver.read(Read(ADA, tail=1)))
            kinds = [type(answer) for answer in await together(acts)]

            assert [Appended, Conflict, Row, Duplicate, Conflict, tuple] * 20 == kinds
            for key in keys:
                assert [1, 2] == numbers((await found(two, key))[1])
                assert [1] == numbers((await found(one, Key("say", f"{key}")))[1])
        assert (row, [Entry(1, "a", "user", b"a")]) == await one.read(Read(ADA, tail=9))
        assert None is await one.read(Read(BOB, tail=9))

    @clause
    async def test_an_act_lets_others_go_first(self, driver: Driver) -> None:
        """Each verb waits at least once (`await asyncio.sleep(0)` will do): else whoever calls it again and again stops the event loop."""
        row = (await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))).row
        acts: list[Callable[[], Awaitable[Any]]] = [
            lambda: driver.read(Read(ADA, tail=1)),
            lambda: driver.append(Append(ADA, said("b"), revision="r2", at=2.0)),
            lambda: driver.write(Write(changed(row, "r3"), replaces="r2")),
            lambda: driver.entries(Entries(ADA, after=0)),
            lambda: driver.erase(Erase(ADA, at=3.0)),
        ]
        if Ability.SCAN in driver.abilities:
            acts.append(lambda: driver.scan(Scan("key", limit=1)))
        for act in acts:
            others = asyncio.Event()
            asyncio.get_running_loop().call_soon(others.set)
            await act()

            assert others.is_set(), "the act was answered without waiting, so nothing else in the event loop could run"

    @clause
    async def test_acts_on_one_key_at_once_each_happen(self, driver: Driver) -> None:
        """Also when they are handed over in the same tick."""
        answers = await everyone(
            [driver.append(Append(ADA, said(f"{n}"), revision=f"r{n}", at=1.0, tail=LOTS)) for n in range(50)]
        )
        row, log = await found(driver, ADA)

        assert list(range(1, 51)) == numbers(log)
        assert sorted(f"{n}" for n in range(50)) == sorted(entry.id for entry in log)
        assert list(range(1, 51)) == sorted(answer.row.head for answer in answers)
        assert row in [answer.row for answer in answers]

    @clause
    async def test_hundreds_at_once_are_all_answered(self, driver: Driver) -> None:
        """More than fit into one batch of anything."""
        keys = [Key("many", f"{n}") for n in range(700)]
        answers = await everyone([driver.append(Append(key, said("m"), revision="r", at=1.0, tail=1)) for key in keys])
        reads = await everyone([driver.read(Read(key, tail=1)) for key in keys])

        assert [(key, 1, 1) for key in keys] == [(a.row.key, a.row.head, len(a.tail)) for a in answers]
        assert [(answer.row, answer.tail) for answer in answers] == reads

    @clause
    async def test_an_act_of_hundreds_of_entries_is_one_act(self, driver: Driver) -> None:
        """An import or a long burst is written whole, up to ENTRIES_MOST."""
        ids = [f"m{n}" for n in range(2 * ENTRIES_MOST)]
        first, second = said(*ids[:ENTRIES_MOST]), said(*ids[ENTRIES_MOST:])
        row, _, _ = await driver.append(Append(ADA, first, revision="r1", at=1.0))
        row = await driver.write(Write(changed(row, "r2"), replaces="r1", entries=second))
        _, log = await found(driver, ADA)
        again = await driver.append(Append(ADA, second, revision="r3", at=1.0))

        assert (ids, list(range(1, len(ids) + 1))) == ([entry.id for entry in log], numbers(log))
        assert (row, ENTRIES_MOST) == (again.row, len(again.known))

    @clause
    async def test_a_cancelled_caller_leaves_all_or_nothing(self, driver: Driver) -> None:
        """Whenever it happens, the act can be run again and is then done once, and the driver goes on."""
        row = (await driver.append(Append(ADA, said("first"), revision="r", at=1.0))).row
        for ticks in range(8):
            entries = said(*(f"{ticks}.{n}" for n in range(3)))
            put = Write(changed(row, f"w{ticks}", body=b"%d" % ticks), replaces=row.revision, entries=entries)
            await abandoned(driver.write(put), ticks)
            seen, log = await found(driver, ADA)

            assert (seen.head, seen.revision in (row.revision, put.row.revision)) == (len(log), True)
            row = await driver.write(put)

            entries = said(*(f"{ticks}.{n} said" for n in range(3)))
            say = Append(ADA, entries, revision=f"a{ticks}", at=1.0, lease=Lease(f"c{ticks}", 5.0))
            await abandoned(driver.append(say), ticks)
            seen, log = await found(driver, ADA)

            assert seen.head == len(log)
            row = (await driver.append(say)).row
            row, log = await found(driver, ADA)

            assert list(range(1, 2 + 6 * (ticks + 1))) == numbers(log)
            assert (len(log), f"a{ticks}", b"%d" % ticks) == (row.head, row.revision, row.body)
            await abandoned(driver.erase(Erase(BOB, at=1.0)), ticks)
            await abandoned(driver.read(Read(ADA, tail=9)), ticks)
            await abandoned(driver.entries(Entries(ADA, after=0, limit=9)), ticks)


async def abandoned(act: Awaitable[Any], ticks: int) -> None:
    """Start *act* and cancel its caller after some turns of the loop."""
    task = asyncio.ensure_future(act)
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


# Drivers that break these clauses


@caught_by("an_act_of_hundreds_of_entries_is_one_act")
class LongActsCut(Intact):
    """A statement takes 256 rows and the rest is lost."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        return super()._add(key, head, entries[:256])


@caught_by("a_refused_act_does_not_fail_its_neighbours")
class OneForAll(Intact):
    """A refusal undoes the batch, and the acts behind it are told that they failed."""

    _refusal: StoreError | None = None

    async def write(self, act: Write) -> Row:
        try:
            return await super().write(act)
        except StoreError as refusal:
            self._refusal = refusal
            asyncio.get_running_loop().call_soon(setattr, self, "_refusal", None)
            raise

    async def append(self, act: Append) -> Appended:
        answer = await super().append(act)
        if self._refusal:
            raise Unavailable("nothing of the batch was written") from self._refusal
        return answer


@caught_by("an_act_lets_others_go_first")
class Selfish(Intact):
    """It answers at once, without having waited for anything."""

    async def _come_in(self) -> None:
        self.refuse_closed("done")


@caught_by("acts_on_one_key_at_once_each_happen")
class OnceInABatch(Intact):
    """A batch holds a key once: later acts on it replace earlier ones."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._batch: dict[Key, str] = {}

    async def append(self, act: Append) -> Appended:
        self._batch[act.key] = act.revision
        await asyncio.sleep(0)
        if self._batch[act.key] == act.revision:
            return await super().append(act)
        await asyncio.sleep(0)
        row = self._shelf.rows[act.key]
        return Appended(row, self._after(act.key, row.head - act.tail), {})


@caught_by("hundreds_at_once_are_all_answered", raises=Unavailable)
class FullQueue(Intact):
    """More than 256 acts at once are turned away."""

    _waiting = 0

    async def append(self, act: Append) -> Appended:
        self._waiting += 1
        try:
            if self._waiting > 256:
                raise Unavailable("the queue is full")
            return await super().append(act)
        finally:
            self._waiting -= 1


@caught_by("a_cancelled_caller_leaves_all_or_nothing", "a_read_is_of_one_instant")
class HalfWhenCancelled(Intact):
    """Row and entries are two steps, and the caller's cancellation gets between them."""

    async def write(self, act: Write) -> Row:
        stored = await super().write(structs.replace(act, entries=()))
        await asyncio.sleep(0)
        stored = structs.replace(stored, head=self._add(act.key, stored.head, act.entries))
        self._shelf.rows[act.key] = stored
        return stored
