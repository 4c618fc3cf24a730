"""Places: handlers side by side, and who has to run alone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.engine import places
from chatkeep.engine.places import Places

from ..support.waiting import takes


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(places, "SETTLE_S", 0.02)
    monkeypatch.setattr(places, "PATIENCE_S", 0.1)


class Crowd:
    """People who take places, and a note of who was in at the same time."""

    def __init__(self, most: int) -> None:
        self.places = Places(most)
        self.inside: set[str] = set()
        self.order: list[str] = []

    async def takes(self, name: str, seconds: float = 0.01) -> None:
        """Holds a place for a while."""
        await self.places.take(name)
        try:
            await self._is_in(name, seconds)
        finally:
            self.places.give_back()

    async def alone(self, name: str, rank: int = 0, seconds: float = 0.01) -> None:
        """Holds all of them."""
        async with self.places.take_all(name, rank):
            assert not self.inside
            await self._is_in(name, seconds)

    async def _is_in(self, name: str, seconds: float) -> None:
        assert not [other for other in self.inside if other.startswith("alone")]
        self.inside.add(name)
        self.order.append(name)
        assert len(self.inside) <= self.places.most
        try:
            await takes(seconds)
        finally:
            self.inside.discard(name)


async def test_suspects_run_alone_when_the_others_have_gone_first_and_the_least_suspect_before_the_rest() -> None:
    """Neither beside each other nor beside anybody else."""
    crowd = Crowd(2)
    others = [crowd.takes(f"{n}") for n in range(6)]
    suspects = [crowd.alone(f"alone{rank}", rank) for rank in (3, 1, 2)]
    await asyncio.gather(*suspects, *others)

    assert ["alone1", "alone2", "alone3"] == crowd.order[6:]
    assert 0 == crowd.places.lonely


async def test_a_suspect_is_not_starved_and_does_not_starve() -> None:
    """In a crowd without a pause the gate is closed for newcomers after a while; between two suspects they are let in."""
    crowd, over = Crowd(2), asyncio.Event()

    async def comes_again(name: str) -> None:
        while not over.is_set():
            await crowd.takes(name, 0.015)

    crowds = [asyncio.create_task(comes_again(f"{n}")) for n in range(3)]
    await asyncio.wait_for(asyncio.gather(crowd.alone("alone1"), crowd.alone("alone2")), 2)
    over.set()
    await asyncio.gather(*crowds)
    first, second = crowd.order.index("alone1"), crowd.order.index("alone2")

    assert first > 3
    assert second > first + 3


async def test_who_is_let_by_waits_neither_for_a_place_nor_to_run_alone() -> None:
    """Nothing is taken for it, and the others wait on in their order."""
    places = Places(1)
    assert places.take_at_once()
    waiting = [asyncio.create_task(places.take(name)) for name in ("ada", "bob", "ada")]
    suspects = {name: asyncio.create_task(enters(places, name)) for name in ("ada", "bob")}
    await asyncio.sleep(0.05)
    places.let_by("ada")
    await asyncio.sleep(0)

    assert [True, False, True] == [task.done() for task in waiting]
    assert (False, False) == (waiting[0].result(), waiting[2].result())
    assert (False, 1) == (await suspects["ada"], places.lonely)
    places.give_back()
    assert await waiting[1]
    assert not suspects["bob"].done()
    places.give_back()
    assert await asyncio.wait_for(suspects["bob"], 1)
    assert (0, 0) == (places._taken, places.lonely)


async def enters(places: Places, name: str) -> bool:
    """Waits to run alone, and answers whether it may."""
    async with places.take_all(name, 0) as alone:
        return alone


async def test_a_suspect_that_goes_away_lets_the_next_one_in() -> None:
    """Also the first in the row, while the gate is closed for newcomers."""
    places = Places(2)
    assert places.take_at_once()
    first, second = asyncio.create_task(enters(places, "a")), asyncio.create_task(enters(places, "b"))
    await asyncio.sleep(0.2)
    newcomer = asyncio.create_task(places.take("c"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0.01)
    places.give_back()

    assert await asyncio.wait_for(second, 1)
    assert await asyncio.wait_for(newcomer, 1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["takes", "alone"]), st.integers(0, 3), st.booleans(), st.integers(0, 30)),
        max_size=12,
    )
)
def test_whoever_goes_away_leaves_its_place_to_others(crowd: list[tuple[str, int, bool, int]]) -> None:
    """Cancelled at any moment; in the end every place is free."""

    async def play() -> None:
        there = Crowd(2)
        tasks = []
        for number, (how, rank, goes, after) in enumerate(crowd):
            if how == "takes":
                task = asyncio.create_task(there.takes(f"{number}", 0.002))
            else:
                task = asyncio.create_task(there.alone(f"alone{number}", rank, 0.002))
            tasks.append(task)
            if goes:
                asyncio.get_running_loop().call_later(after / 1000, task.cancel)
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [] == [found for found in results if isinstance(found, Exception)]
        await asyncio.wait_for(there.takes("last"), 1)
        await asyncio.wait_for(there.alone("alone"), 1)
        assert (0, 0, False) == (there.places.lonely, there.places._taken, there.places._shut)

    with suppress(asyncio.CancelledError):
        asyncio.run(play())
