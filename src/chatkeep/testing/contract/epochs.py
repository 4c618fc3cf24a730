"""Clauses on noticing that a store was emptied or replaced. The drivers that break them stand below."""

from __future__ import annotations

import secrets

from ...drivers.base import Ability, Append, Appended, Driver, Entries, Erase, Key, Read, Row, Scan, Write
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


# Drivers that break these clauses


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
