"""`count`: hits of a rate limit, in windows that begin with their first hit. Needs COUNT."""

from __future__ import annotations

import asyncio

from msgspec import structs

from ...drivers.base import Ability, Count, Counted, Driver
from ...errors import Unavailable
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import everyone, need, refused
from .values import NASTY

NOW = 1_700_000_000.25


class Counting(Clauses):
    """What `Driver.count` promises."""

    @clause
    async def test_a_window_begins_with_its_first_hit_and_ends(self, driver: Driver) -> None:
        """Hits within it are counted up and do not make it longer; at its end the next hit begins another one."""
        need(driver, Ability.COUNT)
        told = [await driver.count(Count("peer:a", 60.0, NOW + seconds)) for seconds in (0.0, 1.5, 59.0, 60.0, 61.0)]

        assert [(1, 60.0), (2, 60.0), (3, 60.0), (1, 120.0), (2, 120.0)] == [(hits, at - NOW) for hits, at in told]

    @clause
    async def test_names_are_counted_apart(self, driver: Driver) -> None:
        """Whatever text they are."""
        need(driver, Ability.COUNT)
        for name in NASTY:
            await driver.count(Count(name, 60.0, NOW))

        assert [2] * len(NASTY) == [(await driver.count(Count(name, 60.0, NOW))).hits for name in NASTY]

    @clause
    async def test_a_hit_may_cost_more_or_nothing(self, driver: Driver) -> None:
        """A cost of 0 tells and counts nothing."""
        need(driver, Ability.COUNT)
        told = [(await driver.count(Count("a", 60.0, NOW, cost))).hits for cost in (0, 5, 1, 0, 7)]

        assert [0, 5, 6, 6, 13] == told

    @clause
    async def test_hits_at_once_are_all_counted(self, one: Driver, two: Driver, three: Driver) -> None:
        """On all connections: each is told a number of its own, and none is lost."""
        need(one, Ability.COUNT)
        drivers = (one, two, three)
        told = await everyone([drivers[n % 3].count(Count(f"{n % 2}", 60.0, NOW)) for n in range(60)])

        assert [*range(1, 31)] == sorted(counted.hits for counted in told[::2])
        assert [*range(1, 31)] == sorted(counted.hits for counted in told[1::2])

    @clause
    async def test_a_clock_that_is_ahead_locks_nobody_out(self, driver: Driver) -> None:
        """A window ends no later than its length after the time of whoever hits it, whoever has begun it."""
        need(driver, Ability.COUNT)
        await driver.count(Count("a", 60.0, NOW + 3000))
        behind = await driver.count(Count("a", 60.0, NOW))
        over = await driver.count(Count("a", 60.0, NOW + 60))

        assert Counted(2, NOW + 60) == behind
        assert Counted(1, NOW + 120) == over

    @clause
    async def test_a_closed_driver_counts_nothing(self, driver: Driver) -> None:
        """As with every verb."""
        need(driver, Ability.COUNT)
        await driver.close()

        await refused(Unavailable, driver.count(Count("a", 60.0, NOW)))


# Drivers that break these clauses


@caught_by("a_window_begins_with_its_first_hit_and_ends")
class WindowsSlide(Intact):
    """Each hit makes the window last longer, as when the expiry is set with each."""

    async def count(self, act: Count) -> Counted:
        counted = await super().count(act)
        self._shelf.counters[act.name] = told = counted._replace(ends=act.at + act.window_s)
        return told


@caught_by("a_window_begins_with_its_first_hit_and_ends", "a_clock_that_is_ahead_locks_nobody_out")
class WindowsNeverEnd(Intact):
    """A window is over when the driver's own clock says so."""

    async def count(self, act: Count) -> Counted:
        if held := self._shelf.counters.get(act.name):
            act = structs.replace(act, at=min(act.at, held.ends - 1.0))
        return await super().count(act)


@caught_by("names_are_counted_apart")
class NamesWithoutCase(Intact):
    """Names are compared as a collation does."""

    async def count(self, act: Count) -> Counted:
        return await super().count(structs.replace(act, name=act.name.lower().strip()))


@caught_by("a_hit_may_cost_more_or_nothing")
class OneAHit(Intact):
    """Every hit costs 1."""

    async def count(self, act: Count) -> Counted:
        return await super().count(structs.replace(act, cost=1))


@caught_by("hits_at_once_are_all_counted")
class HitsLost(Intact):
    """Reads, waits, then writes what it has read plus one."""

    async def count(self, act: Count) -> Counted:
        before = self._shelf.counters.get(act.name)
        await asyncio.sleep(0)
        counted = await super().count(act)
        hits = before.hits if before is not None and before.ends > act.at else 0
        self._shelf.counters[act.name] = told = counted._replace(hits=hits + act.cost)
        return told


@caught_by("a_clock_that_is_ahead_locks_nobody_out")
class EndsAsItBegan(Intact):
    """A window ends when the clock that began it said so."""

    async def count(self, act: Count) -> Counted:
        before = self._shelf.counters.get(act.name)
        counted = await super().count(act)
        if before is not None and before.ends > act.at:
            self._shelf.counters[act.name] = counted = counted._replace(ends=before.ends)
        return counted


@caught_by("a_closed_driver_counts_nothing")
class CountsWhenClosed(Intact):
    """What counts needs nothing of the store, so nobody looks whether it is open."""

    async def count(self, act: Count) -> Counted:
        is_open, self.is_open = self.is_open, True
        try:
            return await super().count(act)
        finally:
            self.is_open = is_open
