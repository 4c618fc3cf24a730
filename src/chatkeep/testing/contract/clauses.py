"""What every file of clauses is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ...drivers.base import Ability, Driver


def clause(test: Callable[..., Awaitable[None]]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Hands a test as many drivers on its store as it has parameters, and closes them behind it."""
    wanted = test.__code__.co_argcount - 1

    async def run(self: Clauses) -> None:
        drivers = [await self.open_driver()]
        try:
            while len(drivers) < wanted:
                drivers.append(await self.open_driver() if Ability.SHARED in drivers[0].abilities else drivers[0])
            try:
                async with asyncio.timeout(self.longest_s) as timer:
                    await test(self, *drivers)
            except TimeoutError:
                if not timer.expired():
                    raise
                raise AssertionError(
                    f"not over after {self.longest_s:g} s: an act is not answered (longest_s says how long a clause may take)"
                ) from None
        finally:
            for driver in drivers:
                await driver.close()

    # Not functools.wraps: pytest would look through it and take the drivers for fixtures.
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return run


class Clauses:
    """The clauses of one subject, on a store that the test opens."""

    longest_s = 300.0
    """A clause that is not over by then has failed: an act that is never answered holds nobody up."""

    async def open_driver(self) -> Driver:
        """Return an opened driver on this test's store, which was empty at first.

        Called again within a test, it opens another driver on the same store: a second instance if the driver is
        SHARED, the same store reopened if it is DURABLE.
        """
        raise NotImplementedError("say how your driver is opened")

    async def empty_store(self) -> None:
        """Take everything out of this test's store behind the drivers' backs, as FLUSHALL or a deleted file would."""
        raise NotImplementedError("say how your store loses everything")
