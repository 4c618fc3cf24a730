"""The gateway: no act gets by it, each is counted and timed, and none is done before the store is known to be the right one."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.drivers.base import Append, Entry, Key, Read
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.errors import Misconfigured, Unavailable
from chatkeep.storage.gateway import Gateway

ADA = Key("", "ada")
FIRST = Read(ADA, 1)
HELLO = Append(ADA, [Entry(0, "m1", "u", b"{}")], "r1", 1.0)


def gateway(driver: Any) -> Gateway:
    """One that nobody has opened."""
    return Gateway(driver, patience_s=1.0, lost=lambda: None)


class Stopwatch:
    """An instrument."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def measured(self, name: str, seconds: float) -> None:
        """Write it down."""
        self.told.append((name, seconds >= 0.0))


async def test_no_act_gets_to_a_store_that_is_not_open() -> None:
    """Not before the opening, and not after the closing; those between are counted by their verb."""
    way = gateway(MemoryDriver())
    with pytest.raises(Unavailable, match="not open; nothing was done"):
        way.act(way.driver.append, HELLO)

    assert None is await way.open(FIRST)
    await way.act(way.driver.append, HELLO)
    found = await way.act(way.driver.read, FIRST)
    way.is_open = False
    with pytest.raises(Unavailable, match="not open; nothing was done"):
        way.act(way.driver.read, FIRST)
    await way.driver.close()

    assert found is not None
    assert [b"{}"] == [entry.body for entry in found[1]]
    assert {"Append": 1, "Read": 1} == way.acts


async def test_a_store_that_does_not_fit_stays_shut() -> None:
    """Whoever finds another store than it expects has not begun to use it."""
    way = gateway(MemoryDriver())

    async def fits(epoch: str) -> None:
        raise Misconfigured(f"{epoch} is another one.")

    with pytest.raises(Misconfigured, match="is another one"):
        await way.open(FIRST, fits)
    with pytest.raises(Unavailable, match="not open"):
        way.act(way.driver.read, FIRST)
    await way.driver.close()


async def test_instruments_are_told_of_each_act_also_of_one_that_fails() -> None:
    """By the name of its verb."""
    way, watch = gateway(MemoryDriver()), Stopwatch()
    await way.open(FIRST)
    way.instruments = [watch]
    await way.act(way.driver.append, HELLO)
    await way.driver.close()
    with pytest.raises(Unavailable):
        await way.act(way.driver.read, FIRST)

    assert [("append", True), ("read", True)] == watch.told
