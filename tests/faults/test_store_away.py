"""The store goes away, falls silent, is slow, loses replies, is full or locked, and comes back (F15 to F18, F23, F28)."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Unavailable
from chatkeep.drivers.sqlite import opening as sqlite
from chatkeep.server.health import trouble_of
from chatkeep.testing.proxy import Loss
from chatkeep.testing.servers import RedisServer

from ..support.stand import Clients, Stand
from ..support.waiting import nothing_happens_for, time_passes, until

EVERYWHERE = pytest.mark.parametrize("stand", ["redis", "postgresql", "upstash"], indirect=True)
"""Each engine that has a server."""


@EVERYWHERE
@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_f15_a_restarted_server_is_found_again(stand: Stand, opening: Any, how: str) -> None:
    """In the middle of everything: nothing is acknowledged that is not there, and within 5 s all is as before."""
    keeps = [await opening(stand.straight(timeout=0.5), store_timeout="500ms") for _ in range(2)]
    clients = Clients(keeps)
    stop = asyncio.Event()
    working = asyncio.create_task(clients.until(stop))
    await until(lambda: clients.acked_at)
    await asyncio.to_thread(getattr(stand.server, how))
    await time_passes(1.0)
    troubles = [keep.trouble for keep in keeps]
    await stand.start()
    back = time.monotonic()
    await until(lambda: clients.acked_at > back)
    await until(lambda: not any(keep.trouble for keep in keeps))
    took = time.monotonic() - back
    stop.set()
    await working
    verdict = await clients.verdict()

    assert [] == verdict.faults
    assert all(troubles)
    assert took < 5.0
    assert clients.faults, "nobody noticed: this says nothing"


@EVERYWHERE
async def test_f16_a_second_of_silence_is_waited_out(stand: Stand, opening: Any) -> None:
    """Shorter than the deadline: everybody is answered, a second later, and nobody is told of it."""
    keeps = [await opening(stand.url(timeout=5)) for _ in range(2)]
    clients = Clients(keeps)
    stop = asyncio.Event()
    working = asyncio.create_task(clients.until(stop))
    await until(lambda: clients.acked_at)
    before, began = clients.longest_s, time.monotonic()
    stand.proxy.silent = True
    await time_passes(1.0)
    stand.proxy.silent = False
    lasted = time.monotonic() - began
    stop.set()
    await working
    verdict = await clients.verdict()

    assert ([], []) == (verdict.faults, clients.faults)
    assert 0.9 < clients.longest_s < lasted + 1.5 + 10 * before  # (a machine that is busy is slow with both)


@EVERYWHERE
async def test_f16_silence_for_ever_ends_every_call_in_time(stand: Stand, opening: Any) -> None:
    """Each call ends within its deadlines, tasks and connections stay few, the trouble has a name, and closing ends too."""
    keep = await opening(stand.url(timeout=0.5), store_timeout="500ms")
    clients = Clients([keep])
    for number in range(8):
        await clients.insist(f"c{number}")
    tasks, connections = len(asyncio.all_tasks()), stand.proxy.connections
    clients.longest_s = 0.0
    stand.proxy.silent = True
    stop = asyncio.Event()
    working = asyncio.create_task(clients.until(stop))
    await until(lambda: clients.faults)
    most = 0
    for _ in range(20):
        await time_passes(0.1)
        most = max(most, len(asyncio.all_tasks()) - tasks)
        assert "" != keep.trouble
    stop.set()
    working.cancel()
    await asyncio.wait([working])
    began = time.monotonic()
    await keep.close()
    closed = time.monotonic() - began
    stand.proxy.silent = False

    assert clients.longest_s < 5.0
    assert most < 5 * 16  # of the test's clients there are 16
    assert stand.proxy.connections - connections < 20
    assert closed < 5.0
    again = await opening(stand.url())
    clients.keeps = [again]
    await nothing_happens_for(0.3)  # what was held up on its way arrives now, from a client that has long gone
    assert [] == (await clients.verdict()).faults


@EVERYWHERE
async def test_f17_a_slow_store_is_only_slow(stand: Stand, opening: Any) -> None:
    """A fifth of a second for each trip: two instances keep every promise, and nobody is told of trouble."""
    keeps = [await opening(stand.url()) for _ in range(2)]
    stand.proxy.delay_s = 0.1
    clients = Clients(keeps)
    await asyncio.gather(*(clients.insist(f"c{number % 4}") for number in range(12)))
    await asyncio.gather(*(clients.insist(f"c{number % 4}", how="accept") for number in range(12)))
    stand.proxy.delay_s = 0.0
    verdict = await clients.verdict()

    assert ([], 24, []) == (verdict.faults, verdict.acked, clients.faults)
    assert clients.longest_s > 0.2


@EVERYWHERE
async def test_f18_lost_commits_are_settled(stand: Stand, opening: Any) -> None:
    """One commit of five is lost before the server sees it, or its answer after: each message is there exactly once."""
    keeps = [await opening(stand.url()) for _ in range(2)]
    chosen = random.Random(18)

    def lose(request: bytes) -> Loss | None:
        return chosen.choice(("request", "reply")) if stand.commits(request) and chosen.random() < 0.2 else None

    stand.proxy.lose = lose
    clients = Clients(keeps)

    async def client(name: str) -> None:
        for number in range(15):
            await clients.insist(name, how=("receive", "accept")[number % 2])

    await asyncio.gather(*(client(f"c{number % 6}") for number in range(8)))
    stand.proxy.lose = lambda request: None
    verdict = await clients.verdict()

    assert ([], 120) == (verdict.faults, verdict.acked)
    assert min(stand.proxy.lost.values()) >= 5, stand.proxy.lost


@pytest.mark.parametrize("stand", ["redis"], indirect=True)
async def test_f23_a_full_server_refuses_and_goes_on(stand: Stand, opening: Any) -> None:
    """At maxmemory: Unavailable, and no part of an act; with room again, everything goes on by itself."""
    keep = await opening(stand.straight())
    assert isinstance(stand.server, RedisServer)
    used = int(stand.server.ask("INFO", "memory").partition(b"used_memory:")[2].split()[0])
    clients = Clients([keep])
    stand.server.ask("CONFIG", "SET", "maxmemory", str(used + 300_000))
    try:
        for number in range(2000):
            if not await clients.send(f"c{number % 4}", f"{number} {'x' * 500}"):
                break
        stand.server.ask("CONFIG", "SET", "maxmemory", "1mb")
        full = await keep.conversation("c1")
        refused = [await clients.send(f"c{number}", f"full {number}") for number in range(4)]
        await until(
            lambda: trouble_of(keep) == "the store refuses what is written"
        )  # a poll has read from it meanwhile
        trouble = keep.trouble
    finally:
        stand.server.ask("CONFIG", "SET", "maxmemory", "0")
    await time_passes(1.0)  # after five refusals the store is left alone for a second
    for number in range(8):
        await clients.insist(f"c{number % 4}")
    verdict = await clients.verdict()

    assert [False] * 4 == refused
    assert "Nothing was written" in trouble
    assert full is not None
    assert full.head == 2 * len(full.state["seen"])
    assert [] == verdict.faults
    assert [] == [fault for fault in clients.faults if not isinstance(fault, Unavailable)]
    assert "" == keep.trouble


LOCKER = """
import sys, apsw
db = apsw.Connection(sys.argv[1])
db.execute("begin immediate")
print("locked", flush=True)
sys.stdin.readline()
"""


async def test_f28_a_locked_file_is_waited_for_and_refused(
    tmp_path: Path, opening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process sits on the write lock: writers are refused in bounded time, readers are not, and then it goes on."""
    monkeypatch.setattr(sqlite, "BUSY_MS", 500)  # else 10 s
    path = tmp_path / "chat.db"
    keep = await opening(f"sqlite:///{path}")
    clients = Clients([keep])
    await clients.insist("ada")
    command = [sys.executable, "-c", LOCKER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
        assert locker.stdin is not None
        assert locker.stdout is not None
        await asyncio.to_thread(locker.stdout.readline)
        acked = await asyncio.gather(*(clients.send(f"c{number}") for number in range(20)), clients.send("ada"))
        found = await keep.conversation("ada")
        locker.stdin.close()
    for number in range(20):
        await clients.insist(f"c{number}")
    verdict = await clients.verdict()

    assert [False] * 21 == acked
    assert found is not None
    assert 2 == found.head
    assert ({Unavailable}, []) == ({type(fault) for fault in clients.faults}, verdict.faults)
    assert clients.longest_s < 5.0
