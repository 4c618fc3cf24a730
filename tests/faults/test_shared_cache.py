"""The shared cache in front of a store: it saves a trip, is never trusted, and its loss costs only time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.storage import shared_cache
from chatkeep.storage.shared_cache import SharedCache
from chatkeep.testing.servers import RedisServer

from ..support.stand import Clients, Stand
from ..support.waiting import nothing_happens_for, until

pytestmark = pytest.mark.parametrize("stand", ["postgresql"], indirect=True)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[RedisServer]:
    """A cache server that a test may kill."""
    with RedisServer("valkey-9", tmp_path, "--appendonly", "no") as server:
        yield server


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the cache time to answer on a busy machine, where a quarter of a second is short; not where its silence is the subject."""
    if request.function is not test_its_death_costs_only_time:
        monkeypatch.setattr(shared_cache, "TIMEOUT_S", 10.0)


def shared(keep: Chatkeep[Any]) -> SharedCache:
    """The shared cache of *keep*."""
    assert keep._engine.store.shared is not None
    return keep._engine.store.shared


async def written(keep: Chatkeep[Any]) -> None:
    """Waits until everything that was to be cached is."""
    await until(lambda: not shared(keep)._waiting and shared(keep)._writer is None)


def asked_of(keep: Chatkeep[Any]) -> tuple[int, int]:
    """How often it was read, and written."""
    statistics = shared(keep).statistics
    return statistics.hits + statistics.misses, statistics.writes


async def kept(keep: Chatkeep[Any]) -> dict[bytes, bytes]:
    """Every entry there; a mark of an erasure is none."""
    redis = shared(keep)._redis
    entries = {name: await redis.get(name) for name in await redis.keys("chatkeep:cache:*")}
    return {name: entry for name, entry in entries.items() if entry}


async def two(stand: Stand, cache: RedisServer, opening: Any) -> tuple[Clients, Chatkeep[Any], Chatkeep[Any]]:
    """Two instances with the cache, both warmed up on another conversation; the first has talked with ada."""
    keeps = [await opening(stand.url(), cache=cache.url, poll="30s", quick="5s") for _ in range(2)]
    clients = Clients(keeps)
    for place in (0, 0, 0, 1, 1, 1):
        await clients.send(f"warm-{place}", to=place)
    for _ in range(3):
        await clients.send("ada", to=0)
    for keep in keeps:
        await written(keep)
    return clients, keeps[0], keeps[1]


async def test_an_instance_that_is_cold_answers_in_one_act(stand: Stand, cache: RedisServer, opening: Any) -> None:
    """It begins from what the other has left, and the store is asked once, by the write itself."""
    clients, _, cold = await two(stand, cache, opening)
    requests: list[bytes] = []
    stand.proxy.lose = (
        requests.append
    )  # (what else the instances do now, such as connecting once more, names no conversation)
    acts = cold.statistics.engine.one_trip
    await clients.send("ada", to=1)

    assert 1 == cold.statistics.engine.one_trip - acts
    assert 1 == sum(b"ada" in request for request in requests)
    assert 1 == shared(cold).statistics.hits
    assert [] == (await clients.verdict()).faults


async def test_what_is_old_in_it_does_no_harm(stand: Stand, cache: RedisServer, opening: Any) -> None:
    """The store has moved on without it: the turn that began from it is thrown away and runs on what is there."""
    clients, warm, cold = await two(stand, cache, opening)
    warm.use_shared_cache(False)
    for _ in range(3):
        await clients.send("ada", to=0)
    await clients.send("ada", to=1)

    assert 1 == shared(cold).statistics.hits
    assert [] == (await clients.verdict()).faults


@pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
async def test_what_is_damaged_in_it_is_a_miss(stand: Stand, cache: RedisServer, opening: Any, damage: str) -> None:
    """A flipped bit, half an entry, another conversation's entry: none is taken for ada's."""
    clients, _, cold = await two(stand, cache, opening)
    redis = shared(cold)._redis
    entries = await kept(cold)
    for name, entry in entries.items():
        half = len(entry) // 2
        other = next(there for there in entries if there != name)
        damaged = {
            "flip": entry[:half] + bytes([entry[half] ^ 1]) + entry[half + 1 :],
            "cut": entry[:half],
            "swap": entries[other],
        }
        await redis.set(name, damaged[damage])
    await clients.send("ada", to=1)

    assert (0, 1) == (shared(cold).statistics.hits, shared(cold).statistics.faults)
    assert [] == (await clients.verdict()).faults


async def test_its_death_costs_only_time(stand: Stand, cache: RedisServer, opening: Any) -> None:
    """Killed, and frozen: everything is answered, none takes long; back again, it is used again."""
    clients, warm, cold = await two(stand, cache, opening)
    clients.longest_s = 0.0
    for number in range(20):
        await clients.send(f"before {number}")
    before = clients.longest_s
    for end, begin in ((cache.kill, cache.start), (cache.pause, cache.resume)):
        shared(warm)._rest_until = shared(cold)._rest_until = 0.0  # it is left alone for a second after a fault
        end()
        clients.longest_s = 0.0
        for number in range(20):
            await clients.send(f"{end.__name__} {number}")
        longest = clients.longest_s
        begin()

        assert longest < 0.6 + 10 * before  # (a machine that is busy is slow with both)
    assert ([], "") == (clients.faults, cold.trouble)
    shared(cold)._rest_until = 0.0
    writes = shared(cold).statistics.writes
    await clients.send("ada", to=1)
    await until(lambda: shared(cold).statistics.writes > writes)
    assert [] == (await clients.verdict()).faults


async def test_it_can_be_switched_off_and_on_while_everything_runs(
    stand: Stand, cache: RedisServer, opening: Any
) -> None:
    """Off, it is neither read nor written; on, it is used again; answers are the same."""
    clients, _, cold = await two(stand, cache, opening)
    counted = []
    for on in (False, True):
        cold.use_shared_cache(on)
        await until(lambda: not cold.statistics.engine.workers)  # while there is one, its message goes another way
        cold._engine.store._cache.clear()
        before = asked_of(cold)
        await clients.send("ada", to=1)
        await written(cold)
        counted.append([now - then for now, then in zip(asked_of(cold), before, strict=True)])

    assert [0, 0] == counted[0]
    assert all(counted[1])  # (what is there is older than what was said meanwhile, so it may be written twice)
    assert [] == (await clients.verdict()).faults


async def test_what_is_erased_leaves_it_too(stand: Stand, cache: RedisServer, opening: Any) -> None:
    """By any instance, and even while it is switched off; and what comes later begins anew."""
    clients, warm, cold = await two(stand, cache, opening)
    before = set(await kept(cold))
    cold.use_shared_cache(False)
    await cold.erase("ada")
    gone = before - set(await kept(cold))
    cold.use_shared_cache(True)
    began = time.time()
    receipt = await cold.receive("ada", "hello", id="anew")

    assert 1 == len(gone)
    assert ["1: anew"] == [reply.text for reply in receipt.replies]
    found = await warm.conversation("ada")
    assert found is not None
    assert [] == [message for message in found.messages if message.created_at < began - 0.01]
    assert clients.faults == []


async def test_an_erasure_is_not_undone_by_an_entry_on_its_way(stand: Stand, cache: RedisServer, opening: Any) -> None:
    """One instance has just answered and is about to note it there, when the other erases the conversation."""
    clients, warm, cold = await two(stand, cache, opening)
    before = set(await kept(cold))
    await clients.send("eve", to=0)
    await cold.erase("eve")
    await written(warm)
    await nothing_happens_for(0.5)

    assert before == set(await kept(cold))
