"""The shared cache: what comes out is what was put in, or nothing."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from chatkeep.conversation.record import Record
from chatkeep.conversation.snapshots import Snapshot
from chatkeep.drivers.base import Key, Row
from chatkeep.errors import Misconfigured
from chatkeep.model import Message
from chatkeep.storage.shared_cache import SharedCache

ADA = Key("salon", "ada")
SAID = Message(
    id="m", number=1, role="user", content=[{"type": "text", "text": "hi"}], created_at=1.5, metadata={"a": 1}
)
SNAPSHOT = Snapshot(Row(key=ADA, revision="r", incarnation="b", head=1, updated_at=1.25), Record(cursor=1), (SAID,))


async def written(url: str, epoch: str = "e") -> SharedCache:
    """A cache that holds SNAPSHOT; closing it has it written."""
    cache = SharedCache(url)
    cache.open(epoch)
    cache.put(SNAPSHOT)
    await cache.close()
    return cache


async def test_another_instance_finds_what_was_put(valkey: Any) -> None:
    """Row, record and messages; of the same store only."""
    await written(valkey.url, "one")
    cache = SharedCache(valkey.url)
    cache.open("one")
    found = await cache.get(ADA)
    cache.open("another store")
    nothing = await cache.get(ADA)
    await cache.close()

    assert (SNAPSHOT, None) == (found, nothing)
    assert (1, 1, 0) == (cache.statistics.hits, cache.statistics.misses, cache.statistics.faults)


async def test_what_is_damaged_is_not_there(valkey: Any) -> None:
    """One changed byte is a miss, and is counted."""
    await written(valkey.url, "damaged")
    async with Redis.from_url(valkey.url) as raw:
        [name] = [name async for name in raw.scan_iter("chatkeep:cache:*:damaged:*")]
        held = await raw.get(name)
        await raw.set(name, held.replace(b'"r"', b'"x"'))
    cache = SharedCache(valkey.url)
    cache.open("damaged")
    found = await cache.get(ADA)
    await cache.close()

    assert (None, 1) == (found, cache.statistics.faults)


async def test_what_was_dropped_or_switched_off_is_not_there(valkey: Any) -> None:
    """An erasure takes it out, also while the cache is switched off; switched off, it holds and shows nothing."""
    await written(valkey.url, "dropped")
    cache = SharedCache(valkey.url)
    cache.open("dropped")
    cache.on = False
    cache.put(SNAPSHOT)
    off = await cache.get(ADA)
    await cache.drop(ADA)
    cache.on = True
    on = await cache.get(ADA)
    await cache.close()

    assert (None, None, 0) == (off, on, cache.statistics.writes)


async def test_a_cache_that_is_away_costs_one_short_wait() -> None:
    """Then it is left alone for a moment, without a word to the caller."""
    cache = SharedCache("redis://127.0.0.1:1/0")
    cache.open("e")
    found = [await cache.get(ADA) for _ in range(5)]
    cache.put(SNAPSHOT)
    await cache.close()

    assert [None] * 5 == found
    assert 1 == cache.statistics.faults


def test_a_url_that_is_none_is_refused() -> None:
    """With what to write instead."""
    with pytest.raises(Misconfigured, match="redis://host"):
        SharedCache("localhost")
