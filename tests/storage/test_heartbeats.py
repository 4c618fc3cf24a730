"""What the processes on a store tell each other of themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Struct

from chatkeep import Chatkeep
from chatkeep.storage.heartbeats import GONE, Heartbeats
from chatkeep.storage.records import Records

GONE_S = 10.0


class Beat(Struct, frozen=True):
    """What a process says."""

    name: str = ""
    at: float = 0.0


@pytest.fixture
async def records() -> AsyncIterator[Records[Beat]]:
    """Where they say it."""
    async with Chatkeep[Any]("memory://") as keep:
        yield Records(keep._engine.store, "beats", Beat, clock=keep._engine.shared.clock)


def process(records: Records[Beat]) -> Heartbeats[Beat]:
    """One of them."""
    return Heartbeats(records, "desk", gone_s=GONE_S, said_at=lambda told: told.at)


async def heard(listener: Heartbeats[Beat], now: float) -> list[str]:
    """Whom a process knows of then."""
    return sorted([told.name for told in await listener.others(now)])


async def test_each_hears_what_the_others_have_said_last(records: Records[Beat]) -> None:
    """And nothing of itself; who ends is not heard any more."""
    one, two, three = (process(records) for _ in range(3))
    await one.say(Beat("one", 999.0))
    await one.say(Beat("one, later", 1000.0))
    await two.say(Beat("two", 1000.0))

    assert (["two"], ["one, later"], ["one, later", "two"]) == tuple(
        [await heard(each, 1000.0) for each in (one, two, three)]
    )
    await one.end()
    await three.end()
    assert ["two"] == await heard(three, 1000.0)


@pytest.mark.parametrize(
    ("silent_s", "believed", "kept"),
    [
        (GONE_S - 0.1, True, True),
        (GONE_S, False, True),
        (GONE * GONE_S, False, True),
        (GONE * GONE_S + 0.1, False, False),
        (0.1 - GONE * GONE_S, True, True),
        (-GONE * GONE_S, False, True),
    ],
)
async def test_who_is_silent_for_long_was_killed(
    records: Records[Beat], silent_s: float, believed: bool, kept: bool
) -> None:
    """It is believed for a while, by its own clock, and its record goes after ten times as long."""
    await process(records).say(Beat("killed", 1000.0 - silent_s))

    assert (["killed"] if believed else []) == await heard(process(records), 1000.0)
    assert kept is bool([name async for name in records.owned("desk")])
