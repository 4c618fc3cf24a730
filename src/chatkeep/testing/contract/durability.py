"""Clauses on what is there when a store is opened again. The drivers that break them stand below."""

from __future__ import annotations

from ...drivers.base import Ability, Append, Erase
from ...drivers.memory import SHELVES, Shelf
from ...errors import Conflict
from .broken import Intact, caught_by
from .clauses import Clauses
from .steps import ADA, BOB, INDEXES, found, names, need, refused, said, written


class Durability(Clauses):
    """What is there when a store is opened again."""

    async def test_a_reopened_store_holds_everything(self) -> None:
        """Rows, logs, ids, indexes, marks and the epoch: what was answered before closing is there after opening."""
        driver = await self.open_driver()
        try:
            need(driver, Ability.DURABLE)
            await written(driver, ADA, body=b"state", owner="eve", due_at=3.0, lease="c", leased_until=4.0)
            await driver.append(Append(ADA, said("a", "b"), revision="r1", at=2.0))
            await driver.erase(Erase(BOB, at=10.0))
            epoch, before = driver.epoch, await found(driver, ADA)
        finally:
            await driver.close()
        driver = await self.open_driver()
        try:
            assert epoch == driver.epoch
            assert before == await found(driver, ADA)
            if Ability.SCAN in driver.abilities:
                assert [["ada"]] * 4 == [await names(driver, index, owner="eve") for index in INDEXES]
            assert {"a": 2, "b": 3} == (await driver.append(Append(ADA, said("a", "b"), revision="r2", at=3.0))).known
            assert (
                10.0 == (await refused(Conflict, driver.append(Append(BOB, said("a"), revision="r", at=9.0)))).erased_at
            )
        finally:
            await driver.close()


# Drivers that break these clauses


@caught_by("a_reopened_store_holds_everything")
class MarksGoneWhenClosed(Intact):
    """Marks live in the process."""

    async def close(self) -> None:
        await super().close()
        self._shelf.erased.clear()


@caught_by("a_reopened_store_holds_everything")
class FlushedWhenClosed(Intact):
    """Everything lives in the process."""

    def __init__(self, url: str) -> None:
        self._name = url.partition("://")[2]
        super().__init__(url)

    async def close(self) -> None:
        await super().close()
        SHELVES[self._name] = Shelf()
