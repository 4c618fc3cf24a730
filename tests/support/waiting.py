"""Waiting in tests: for what is to happen, never for a time that ought to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def until(reached: Callable[[], Any], *, within: float = 20.0, every: float = 0.005) -> None:
    """Waits for *reached* to be true, which is asked so often; fails when it is not in time. What is to happen soon says
    *within* how long; else the limit is for a machine that is busy."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        found = reached()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(every)


async def nothing_happens_for(seconds: float) -> None:
    """Gives time to what must not happen; the test looks afterwards. For what has to happen there is `until`."""
    await asyncio.sleep(seconds)


async def takes(seconds: float) -> None:
    """Is slow: what a handler, a client or a server of a test does for so long."""
    await asyncio.sleep(seconds)


async def time_passes(seconds: float) -> None:
    """Lets an outage last, or a time to live, a pause or a deadline run out, by the clock of this machine."""
    await asyncio.sleep(seconds)
