"""What is paused: the newest answer counts, in whatever order answers come."""

from __future__ import annotations

import asyncio
from typing import Any

from chatkeep import Turn


async def echo(turn: Turn[Any]) -> str:
    """Says the same."""
    return turn.text


async def test_a_look_that_began_before_a_pause_does_not_lift_it(opened: Any) -> None:
    """The store answers the sweep's look late, with what was true before; so for a pause, and for its end."""
    keep = await opened(echo, poll="1h")
    driver, pauses = keep._engine.store.driver, keep._engine.pauses
    await keep.tenant("other").pause()
    read, late, go = driver.read, asyncio.Event(), asyncio.Event()

    async def reads_late(*args: Any, **how: Any) -> Any:
        found = await read(*args, **how)
        if not late.is_set():
            late.set()
            await go.wait()
        return found

    driver.read = reads_late
    for act, status in ((keep.pause, "paused"), (keep.resume, "answered")):
        late.clear()
        go.clear()
        look = asyncio.create_task(pauses.look())
        await late.wait()
        await act()
        go.set()
        await look

        assert status == (await keep.receive("ada", "hi")).status
