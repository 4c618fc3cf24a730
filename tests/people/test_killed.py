"""A process that is killed at each step of a claim, its undoing, a save and a deletion: all of it is there afterwards, or none."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from ..support.clock import Clock
from ..support.counting import count
from ..support.fork_server import ROOT, Program
from ..support.people import ids
from ..support.program import PATIENCE_S
from ..support.signing_in import GUEST, SAVED

STEPS = [
    ("claim", "write:before", 1),
    ("claim", "write:after", 1),
    ("claim", "write:before", 2),
    ("undo", "erase:before", 1),
    ("undo", "erase:after", 1),
    ("save", "write:before", 1),
    ("save", "write:after", 1),
    ("delete", "erase:before", 1),
    ("delete", "erase:after", 1),
    ("erase", "erase:before", 1),
    ("erase", "erase:after", 3),
    ("erase", "erase:after", 12),
    ("settle", "write:after", 1),
    ("settle", "write:after", 3),
]


async def killed(url: str, what: str, point: str, nth: int, tenant: str) -> bool:
    """Does *what* in a process that dies at *point*; tells whether it has."""
    asked = url, what, point, str(nth), tenant
    process = Program(*asked, folder=ROOT, environment=os.environ, module="tests.support.signing_in")
    return await asyncio.to_thread(process.wait, PATIENCE_S) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "redis", "postgresql"], indirect=True)
async def test_after_a_kill_it_is_all_there_or_none_of_it(url: str, opened: Any) -> None:
    """Of a guest with five conversations and a user with one, at each step; the same act again does the rest."""
    for place, (what, point, nth) in enumerate(STEPS):
        opening, clock, tenant = await opened(count, clock=Clock()), Clock(), f"t{place}"
        keep = opening.tenant(tenant)
        mine = {f"g{n}" for n in range(5)}
        await asyncio.gather(
            *(keep.receive(id, "hi", owner=GUEST) for id in mine), keep.receive("a", "hi", owner="ada")
        )
        if what not in ("claim", "save"):
            await keep.user("ada").claim(GUEST)
        await opening.close()

        assert await killed(url, what, point, nth, tenant), (what, point, nth)
        opening = await opened(count, clock=clock)
        keep = opening.tenant(tenant)
        ada, guest_has = set(await ids(keep.user("ada"))), set(await ids(keep.user(GUEST)))
        log = [m.id async for m in keep.history("new") if m.role != "system"]
        match what:
            case "claim" | "undo":
                assert (ada, guest_has) in ((mine | {"a"}, set()), ({"a"}, mine)), (what, point)
                if (what, point, nth) == ("claim", "write:after", 1) or nth == 2:
                    assert mine < ada
            case "save":
                assert ([], {"a"}) == (log, ada) or ([m["id"] for m in SAVED], {"a", "new"}) == (log, ada)
                assert ("write:after" == point) == ("new" in ada)
            case "delete":
                changed = await keep.user("ada").changes()
                assert ada in (mine | {"a"}, (mine | {"a"}) - {"g0"})
                assert len(ada) == changed.total
                await keep.user("ada").delete("g0")
                assert "g0" not in await ids(keep.user("ada"))
            case "erase":
                # Until the last claim goes, the rest is found again under all names; nobody else's was there.
                receipt = await keep.user("ada").erase()
                assert ada - set(receipt.conversations) == set()
                assert (set(), set()) == (set(await ids(keep.user("ada"))), set(await ids(keep.user(GUEST))))
                continue_with = await keep.receive("g0", "hi", owner=GUEST)
                assert not continue_with.duplicate
            case _:
                assert (mine | {"a"}, set()) == (ada, guest_has)
                assert all([len((await keep.receive(id, "and", id="again")).replies) for id in mine])
        await opening.close()
