"""Clauses on what a driver says of its connections. The drivers that break them stand below."""

from __future__ import annotations

import asyncio

from ...drivers.base import Append, Driver, Key, Pool
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import said


class Pools(Clauses):
    """What a driver says of its connections."""

    @clause
    async def test_a_pool_is_within_its_bounds_and_empties(self, driver: Driver) -> None:
        """While acts are under way and afterwards; then none waits, and a closed driver has no connection."""
        acts = [
            asyncio.ensure_future(driver.append(Append(Key("", f"c{n}"), said("m"), revision="r", at=1.0)))
            for n in range(50)
        ]
        seen = [driver.pool()]
        for act in acts:
            await act
            seen.append(driver.pool())
        await driver.close()
        closed = driver.pool()

        assert [] == [pool for pool in seen if not (0 <= pool.open <= pool.most and 0 <= pool.waiting <= len(acts))]
        assert 0 == seen[-1].waiting
        assert (0, 0) == (closed.open, closed.waiting)


# Drivers that break these clauses


@caught_by("a_pool_is_within_its_bounds_and_empties")
class CountsTheClosed(Intact):
    """A connection is counted that was given back."""

    def pool(self) -> Pool:
        return Pool(1, 1, 0)


@caught_by("a_pool_is_within_its_bounds_and_empties")
class CountsTheAnswered(Intact):
    """What was answered is said to wait."""

    def pool(self) -> Pool:
        return Pool(0, 0, 1)
