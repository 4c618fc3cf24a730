"""For how much at once a store is asked: more while it answers quickly, half as much when it takes long."""

from __future__ import annotations

import asyncio
import time

import pytest

from chatkeep.errors import Replaced, Unavailable, Uncertain
from chatkeep.storage import pacing
from chatkeep.storage.pacing import FEWEST, FIRST, LONG_S, Room, do

from ..support.waiting import until


async def test_no_more_is_done_at_once_than_there_are_places() -> None:
    room, inside = Room(2), list[float]()

    async def enters() -> None:
        inside.append(await room.enter())

    tasks = [asyncio.create_task(enters()) for _ in range(3)]
    await until(lambda: len(inside) == 2)
    assert not all(task.done() for task in tasks)
    room.leave(inside[0])
    await asyncio.gather(*tasks)

    assert 3 == len(inside)


async def test_places_grow_one_by_one_until_something_took_long() -> None:
    """Then there are half as many, once for all that began before; and they grow slowly, for the store is near its end."""
    room = Room(100)
    for _ in range(4):
        room.leave(await room.enter())
    assert FIRST + 4 == room.places
    begans = [await room.enter() for _ in range(3)]
    now = time.monotonic()
    room.leave(now - 2 * LONG_S)
    room.leave(now - 2 * LONG_S)
    halved = room.places
    room.leave(await room.enter())

    assert (FIRST + 4) / 2 == halved
    assert halved + 1 / halved == room.places
    assert len(begans) == 3


async def test_places_stay_within_their_bounds() -> None:
    small = Room(1)
    small.leave(await small.enter())
    assert 1 == small.places
    room = Room(100)
    for _ in range(20):
        await room.enter()
        room._halved_at = 0.0
        room.leave(time.monotonic() - 2 * LONG_S)

    assert FEWEST == room.places


async def test_a_store_that_is_away_is_asked_again_and_one_that_was_replaced_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def verb(act: str) -> str:
        asked.append(act)
        if act == "replaced":
            raise Replaced("another store")
        if len(asked) < 3:
            raise (Unavailable("away"), Uncertain("no answer"))[len(asked) - 1]
        return "done"

    assert "done" == await do(verb, "read")
    assert ["read"] * 3 == asked
    with pytest.raises(Replaced):
        await do(verb, "replaced")
    assert 4 == len(asked)


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PATIENCE_S", -1.0)

    async def verb(act: str) -> str:
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        await do(verb, "read")
