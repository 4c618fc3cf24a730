"""Waiting in tests: for what is to happen, never for a time that ought to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


async def until(reached: Callable[[], Any], *, within: float = 5.0) -> None:
    """Waits for *reached* to be true; fails when it is not in time."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        found = reached()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
