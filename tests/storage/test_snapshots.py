"""Snapshots as they are held: what was not in the tail that was read is fetched, and the newest is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from chatkeep.conversation.codec import entry_for
from chatkeep.conversation.keys import key_for
from chatkeep.conversation.snapshots import HELD
from chatkeep.drivers.base import Append, Driver, Erase, Read
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.drivers.sqlite import SqliteDriver
from chatkeep.errors import Corrupt
from chatkeep.model import Role
from chatkeep.storage.cache import Cache
from chatkeep.storage.gateway import Gateway
from chatkeep.storage.reader import Reader
from chatkeep.storage.snapshots import Reach, Snapshots, blank

ADA = key_for("", "ada")
WINDOW = 4


class Kept:
    """Snapshots over a store in memory, and the way to it."""

    def __init__(self, driver: Driver, window: int = WINDOW) -> None:
        self.gateway = Gateway(driver, patience_s=1.0, lost=lambda: None)
        self.cache = Cache(entries=10, bytes=10**6)
        self.reader = Reader(self.gateway)
        self.snapshots = Snapshots(self.reader, self.cache, window)

    async def say(self, *numbers: int, role: Role = "user", at: float = 1.0) -> None:
        """Have a message in the log for each of *numbers*; nobody has answered any."""
        for number in numbers:
            entry = entry_for(ADA, f"message {number}", id=f"m{number}", role=role, created_at=at, limit=10_000)
            act = Append(ADA, [entry], f"r{number}", 1.0)
            await self.gateway.act(self.gateway.driver.append, act)


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    """Open."""
    made = Kept(MemoryDriver())
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


@pytest.mark.parametrize(("size", "fewest"), [(0, 0), (3, 3), (20, 4), (100, 20)])
def test_so_much_is_read_as_turns_have_needed_lately(size: int, fewest: int) -> None:
    """All at first, one less with each fourth turn that can do without it, and as much at once as one of them needs, of the window."""
    reach = Reach()

    assert size == reach.tail(size)

    for n in range(size + 1):
        assert max(size - n, fewest) == reach.tail(size)
        for _ in range(4):
            reach.note(0, size)
    for needed in (size // 2, 10 * size, 0):
        before = reach.tail(size)
        reach.note(needed, size)
        assert min(max(needed, before, fewest), size) == reach.tail(size)


@pytest.fixture
async def little_read(tmp_path: Path) -> AsyncIterator[tuple[Kept, apsw.Connection]]:
    """Snapshots of a log of 30 entries, of which turns have needed hardly any lately, and the file that they are in."""
    kept = Kept(SqliteDriver(f"sqlite:///{tmp_path}/chat.db"), 20)
    await kept.gateway.open(Read(ADA, 1))
    await kept.say(*range(1, 31), role="operator")
    for _ in range(65):
        found = await kept.snapshots.load_to_answer(ADA, lambda found: 0)
    assert found is not None
    assert [27, 28, 29, 30] == [message.number for message in found.messages]
    db = apsw.Connection(f"{tmp_path}/chat.db")
    yield kept, db
    db.close()
    await kept.gateway.driver.close()


async def test_a_log_that_is_lost_is_damage_however_little_a_turn_needs(
    little_read: tuple[Kept, apsw.Connection],
) -> None:
    """I8: what is missing is never taken for what nobody has said."""
    kept, db = little_read
    db.execute("delete from entry")
    with pytest.raises(Corrupt, match=r"ada: log entries .* are missing"):
        await kept.snapshots.load_to_answer(ADA, lambda found: 0)


@pytest.mark.parametrize(("again_at", "rollbacks"), [(1.0, 0), (2.0, 1)])
async def test_what_was_seen_last_is_compared_with_what_is_there_however_little_a_turn_needs(
    little_read: tuple[Kept, apsw.Connection], again_at: float, rollbacks: int
) -> None:
    """Much was written since: the log is read back to where it was seen to end, and whether that is still the same entry is told."""
    kept, db = little_read
    kept.cache.drop(ADA)
    db.execute("delete from entry where number = 30")
    db.execute("update conversation set head = 29, revision = 'copied'")
    await kept.say(*range(30, 41), role="operator", at=again_at)
    found = await kept.snapshots.load_to_answer(ADA, lambda found: 0)

    assert found is not None
    assert (30, 40) == (found.messages[-11].number, found.row.head)
    assert rollbacks == kept.snapshots.rollbacks.found
