"""Clauses on noticing that a store was emptied or replaced. The drivers that break them stand below."""

from __future__ import annotations

import secrets

from ...drivers.base import Ability, Append, Appended, Driver, Entries, Erase, Fence, Key, Read, Row, Scan, Write
from ...errors import Replaced
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, INDEXES, changed, found, need, refused, said, together, written


class Epochs(Clauses):
    """Noticing that a store was emptied or replaced."""

    @clause
    async def test_a_store_has_one_epoch(self, one: Driver, two: Driver) -> None:
        """Every driver on it names the same, and it is not empty."""
        need(one, Ability.EPOCH)
        assert one.epoch == two.epoch != ""

    @clause
    async def test_an_emptied_store_is_not_taken_for_an_empty_one(self, driver: Driver) -> None:
        """What was flushed has not "never been there": no verb says so, and none begins anything afresh."""
        need(driver, Ability.EPOCH)
        row = await written(driver, ADA, body=b"state")
        await self.empty_store()
        await refused(Replaced, driver.read(Read(ADA, tail=1)))
        await refused(Replaced, driver.read(Read(BOB, tail=1)))
        await refused(Replaced, driver.append(Append(ADA, said("a"), revision="r1", at=2.0)))
        await refused(Replaced, driver.append(Append(BOB, said("a"), revision="r2", at=2.0)))
        await refused(Replaced, driver.write(Write(changed(row, "r3"), replaces="second")))
        created = Row(key=BOB, revision="r4", incarnation="r4", updated_at=2.0)
        await refused(Replaced, driver.write(Write(created, replaces=None)))
        await refused(Replaced, driver.entries(Entries(ADA, after=0, limit=5)))
        await refused(Replaced, driver.entries(Entries(ADA, ids=["a"])))
        await refused(Replaced, driver.erase(Erase(ADA, at=3.0)))
        if Ability.SCAN in driver.abilities:
            for index in INDEXES:
                await refused(Replaced, driver.scan(Scan(index, owner="eve", limit=5)))
        again = await self.open_driver()
        try:
            assert driver.epoch != again.epoch
            assert [None, None] == [await again.read(Read(key, tail=1)) for key in (ADA, BOB)]
            assert 1 == (await again.append(Append(ADA, said("a"), revision="r5", at=2.0))).row.head
        finally:
            await again.close()

    @clause
    async def test_a_store_that_was_replaced_is_another(self, driver: Driver) -> None:
        """Nor when somebody else has opened the emptied store, and has begun the same conversation in it."""
        need(driver, Ability.EPOCH)
        row = await written(driver, ADA, body=b"state")
        await self.empty_store()
        other = await self.open_driver()
        try:
            await other.append(Append(ADA, said("b"), revision="other", at=2.0))
            await refused(Replaced, driver.read(Read(BOB, tail=1)))
            await refused(Replaced, driver.append(Append(BOB, said("a"), revision="r1", at=3.0)))
            if Ability.SCAN in driver.abilities:
                await refused(Replaced, driver.scan(Scan("due", limit=5)))
            await refused(Replaced, driver.write(Write(changed(row, "r2"), replaces="second")))

            assert ("other", 1) == ((await found(other, ADA))[0].revision, (await found(other, ADA))[0].head)
        finally:
            await other.close()

    @clause
    async def test_no_act_changes_what_a_replaced_store_holds(self, driver: Driver) -> None:
        """Not even where the other store holds the very row that the act was made for, as a copy of this one does."""
        need(driver, Ability.EPOCH)
        row = await written(driver, ADA, body=b"state")
        await self.empty_store()
        other = await self.open_driver()
        try:
            copy = await other.write(Write(row, replaces=None))
            await refused(Replaced, driver.append(Append(ADA, said("a"), revision="r1", at=3.0)))
            await refused(Replaced, driver.write(Write(changed(row, "r2"), replaces="second", entries=said("b"))))
            await refused(Replaced, driver.write(Write(row, replaces="first")))
            await refused(Replaced, driver.write(Write(row, replaces=None)))
            await refused(Replaced, driver.erase(Erase(ADA, at=4.0)))
            for answer in await together(
                [driver.append(Append(ADA, said(f"m{n}"), revision=f"{n}", at=5.0)) for n in range(9)]
            ):
                assert isinstance(answer, Replaced)

            assert (copy, []) == await found(other, ADA)
            assert 1 == (await other.append(Append(ADA, said("a"), revision="r3", at=3.0))).row.head - row.head
        finally:
            await other.close()

    @clause
    async def test_whoever_had_a_fenced_store_open_is_refused(self, driver: Driver, late: Driver) -> None:
        """All that it would write or find; whoever fences goes on, as does who opens the store afterwards."""
        need(driver, Ability.FENCE)
        need(driver, Ability.SHARED)
        row = await written(driver, ADA, body=b"state")
        await driver.fence(Fence("another"))
        await refused(Replaced, late.append(Append(ADA, said("a"), revision="r1", at=3.0)))
        await refused(Replaced, late.append(Append(BOB, said("a"), revision="r2", at=3.0)))
        await refused(Replaced, late.write(Write(changed(row, "r3"), replaces="second")))
        await refused(Replaced, late.erase(Erase(ADA, at=4.0)))
        await refused(Replaced, late.fence(Fence("a third")))
        if Ability.SCAN in driver.abilities:
            await refused(Replaced, late.scan(Scan("key", limit=5)))
        again = await self.open_driver()
        try:
            assert row == (await found(driver, ADA))[0]
            mine = await driver.write(Write(changed(row, "r4"), replaces="second"))
            assert mine == (await found(again, ADA))[0]
            assert "r5" == (await again.write(Write(changed(mine, "r5"), replaces="r4"))).revision
            assert ("another", "another") == (driver.epoch, again.epoch)
        finally:
            await again.close()

    @clause
    async def test_a_fence_run_again_finds_its_own(self, driver: Driver) -> None:
        """As does one of a driver that was opened under the new epoch; an epoch can be given back too."""
        need(driver, Ability.FENCE)
        before, row = driver.epoch, await written(driver, ADA, body=b"state")
        await driver.fence(Fence("another"))
        await driver.fence(Fence("another"))
        assert "another" == driver.epoch
        await driver.fence(Fence(before))
        assert (before, row) == (driver.epoch, (await found(driver, ADA))[0])

    @clause
    async def test_no_act_is_done_after_a_fence_is_answered(self, driver: Driver, late: Driver) -> None:
        """Of many that are under way meanwhile, those that were done are there to be seen at once, and no other comes."""
        need(driver, Ability.FENCE)
        need(driver, Ability.SHARED)

        async def fenced() -> int:
            await driver.fence(Fence("another"))
            seen = [await driver.read(Read(Key("", f"k{n}"), tail=0)) for n in range(40)]
            return sum(one is not None for one in seen)

        writes = [late.append(Append(Key("", f"k{n}"), said("a"), revision="r1", at=3.0)) for n in range(40)]
        seen, *answers = await together([fenced(), *writes])
        assert seen == sum(not isinstance(answer, Exception) for answer in answers)
        assert seen == sum([await driver.read(Read(Key("", f"k{n}"), tail=0)) is not None for n in range(40)])


# Drivers that break these clauses


@caught_by("whoever_had_a_fenced_store_open_is_refused", "no_act_is_done_after_a_fence_is_answered")
@caught_by("a_fence_run_again_finds_its_own")
class FenceOfTheDriver(Intact):
    """Only the driver that fences knows the new epoch."""

    async def fence(self, act: Fence) -> None:
        self._refuse_replaced()

    def _refuse_replaced(self) -> None:
        pass


@caught_by("a_fence_run_again_finds_its_own")
@caught_by("whoever_had_a_fenced_store_open_is_refused", raises=Replaced)
class FencedOffItself(Intact):
    """Whoever fences is refused like everybody else."""

    async def fence(self, act: Fence) -> None:
        before = self.epoch
        await super().fence(act)
        self.epoch = before


@caught_by("a_store_has_one_epoch")
@caught_by("a_reopened_store_holds_everything", raises=Replaced)
class EpochOfTheDriver(Intact):
    """Each instance draws an epoch of its own."""

    async def open(self) -> None:
        await super().open()
        self.epoch = secrets.token_hex(8)


@caught_by("an_emptied_store_is_not_taken_for_an_empty_one", "a_store_that_was_replaced_is_another")
class EpochNotCompared(Intact):
    """A flushed store looks like one where nothing was ever written."""

    def _refuse_replaced(self) -> None:
        pass


@caught_by("an_emptied_store_is_not_taken_for_an_empty_one")
class EpochComparedByScansOnly(Intact):
    """It is noticed sooner or later, and until then conversations begin afresh."""

    def _row(self, key: Key) -> Row | None:
        return self._shelf.rows.get(key)


@caught_by("no_act_changes_what_a_replaced_store_holds")
class EpochComparedWhereNothingIs(Intact):
    """Where a row is found it is taken for one of this store."""

    async def append(self, act: Append) -> Appended:
        self._look_at(act.key)
        return await super().append(act)

    async def write(self, act: Write) -> Row:
        self._look_at(act.key)
        return await super().write(act)

    def _look_at(self, key: Key) -> None:
        if key in self._shelf.rows:
            self.epoch = self._shelf.epoch


@caught_by("no_act_changes_what_a_replaced_store_holds")
class ErasuresUnfenced(Intact):
    """What is to be erased may go from whatever store answers."""

    async def erase(self, act: Erase) -> None:
        self.epoch = self._shelf.epoch
        await super().erase(act)
