"""Snapshots as they are held: what was not in the tail that was read is fetched, and the newest is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chatkeep.conversation.codec import entry_for
from chatkeep.conversation.keys import key_for
from chatkeep.conversation.snapshots import HELD
from chatkeep.drivers.base import Append, Erase, Read
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.storage.cache import Cache
from chatkeep.storage.gateway import Gateway
from chatkeep.storage.reader import Reader
from chatkeep.storage.snapshots import Snapshots, blank

ADA = key_for("", "ada")
WINDOW = 4


class Kept:
    """Snapshots over a store in memory, and the way to it."""

    def __init__(self) -> None:
        self.gateway = Gateway(MemoryDriver(), patience_s=1.0, lost=lambda: None)
        self.cache = Cache(entries=10, bytes=10**6)
        self.reader = Reader(self.gateway)
        self.snapshots = Snapshots(self.reader, self.cache, WINDOW)

    async def say(self, *numbers: int) -> None:
        """Have a message in the log for each of *numbers*; nobody has answered any."""
        for number in numbers:
            entry = entry_for(ADA, f"message {number}", id=f"m{number}", role="user", created_at=1.0, limit=10_000)
            act = Append(ADA, [entry], f"r{number}", 1.0)
            await self.gateway.act(self.gateway.driver.append, act)


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    """Open."""
    made = Kept()
    await made.gateway.open(Read(ADA, 1))
    yield made
    await made.gateway.driver.close()


async def test_what_waits_is_fetched_though_the_tail_that_is_read_has_not_all_of_it(kept: Kept) -> None:
    """A read brings the last of the window, and more waits than that; what is held is what was made of it."""
    await kept.say(*range(1, 3 * WINDOW))
    found = await kept.snapshots.load(ADA)

    assert found is not None
    assert [f"message {number}" for number in range(1, 3 * WINDOW)] == [message.text for message in found.messages]
    assert found is kept.cache.peek(ADA)
    assert {"Append": 3 * WINDOW - 1, "Read": 1, "Entries": 1} == kept.gateway.acts


async def test_more_than_is_held_waits_in_the_store_and_is_counted(kept: Kept) -> None:
    """The first that wait are held, and the last is known; `last` goes through what lies between."""
    many = 2 * HELD + 50
    await kept.say(*range(1, many + 1))
    found = await kept.snapshots.reload(ADA)
    last, waiting = await kept.snapshots.last(found)

    assert HELD <= len(found.messages) < many
    assert many == waiting
    assert [f"message {number}" for number in range(many - WINDOW + 1, many + 1)] == [one.text for one in last]


async def test_nothing_is_held_of_what_is_not_there(kept: Kept) -> None:
    """None is answered, or the blank snapshot, which is nobody's or somebody's."""
    await kept.say(1)
    await kept.snapshots.load(ADA)
    await kept.gateway.driver.erase(Erase(ADA, at=2.0))

    assert None is await kept.snapshots.load(ADA)
    assert None is kept.cache.peek(ADA)
    assert blank(ADA, "ada") == await kept.snapshots.reload(ADA, owner="ada")


async def test_who_is_told_what_is_read_hears_of_each_that_is_there(kept: Kept) -> None:
    """And of none that is not."""
    seen: list[str] = []
    kept.snapshots.seen = lambda key: seen.append(key.id)
    await kept.snapshots.load(ADA)
    await kept.say(1)
    await kept.snapshots.load(ADA)

    assert ["ada"] == seen
