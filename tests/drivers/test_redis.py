"""Redis and Valkey: the contract on every kind of server, and what only they have."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import ipaddress
import itertools
import logging
import math
import os
import random
import re
import secrets
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings, strategies
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs
from redis.crc import key_slot

from chatkeep import Chatkeep
from chatkeep.drivers import batching
from chatkeep.drivers.base import (
    COUNTERS_KEPT_S,
    TOMBSTONE_KEPT_S,
    Ability,
    Append,
    Count,
    Driver,
    Entries,
    Entry,
    Erase,
    Key,
    Read,
    Row,
    Scan,
    Write,
)
from chatkeep.drivers.redis import scripts as redis_acts
from chatkeep.drivers.redis.connection import Connection, ErrorReply
from chatkeep.drivers.redis.driver import RedisDriver
from chatkeep.drivers.redis.transport import slot_of
from chatkeep.drivers.sockets import PROBES
from chatkeep.errors import Conflict, Corrupt, Misconfigured, Overloaded, Replaced, StoreError, Unavailable, Uncertain
from chatkeep.testing import DriverContract
from chatkeep.testing.contract.steps import paged
from chatkeep.testing.machine import DriverMachine
from chatkeep.testing.proxy import Proxy
from chatkeep.testing.servers import RedisServer, redis_cluster, redis_sentinel, stop_all
from tests.support.logs import ADA, LOTS, log_of
from tests.support.plain_transport import PlainTransport
from tests.support.soaking import SOAK, examples, few_or_many, long
from tests.support.stores import cluster_url
from tests.support.waiting import takes, time_passes

pytestmark = pytest.mark.server

BOB = Key("", "bob")


class Store(NamedTuple):
    """A URL, and the servers whose keys it is about."""

    url: str
    servers: list[RedisServer]

    @property
    def fresh(self) -> str:
        """The URL of a store that nobody else has: under a prefix of its own."""
        return f"{self.url}?prefix={secrets.token_hex(8)}"


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The servers of the kind that the test's class or parameter says, for as long as tests want that kind."""
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    if kind == "cluster":
        servers = redis_cluster("valkey-9", folder)
        yield Store(cluster_url(servers), servers)
        for server in servers:
            server.kill()
    elif kind == "sentinel":
        watched = redis_sentinel("valkey-9", folder)
        yield Store(watched["url"], [watched["primary"]])
        stop_all(watched)
    else:
        with RedisServer(kind, folder) as server:
            yield Store(server.url, [server])


KINDS = ["valkey-9", "valkey-8", "redis-8", "redis-6", "cluster", "sentinel"]
"""`make test` has the contract on the newest, the oldest and the one whose keys are on several servers; the others are between them."""


async def opened_on(url: str) -> RedisDriver:
    """Another driver on a store."""
    driver = RedisDriver(url)
    await driver.open()
    return driver


class RedisContract(DriverContract):
    """The contract under a prefix of the test's own."""

    @pytest.fixture(autouse=True)
    def fresh_store(self, store: Store) -> None:
        """A store of the test's own."""
        self.servers = store.servers
        self.url = store.fresh

    async def open_driver(self) -> Driver:
        """Another driver on it."""
        return await opened_on(self.url)

    async def empty_store(self) -> None:
        """FLUSHALL on every server."""
        for server in self.servers:
            assert b"+OK\r\n" == server.ask("FLUSHALL")


def on(kind: str) -> Any:
    """Runs a test, or the tests of a class, on that kind of server."""
    return pytest.mark.parametrize("store", [kind], indirect=True, scope="module")


@on("valkey-9")
class TestValkey9(RedisContract):
    """Valkey 9."""


@on("valkey-9")
class TestAnotherTransport(RedisContract):
    """Valkey 9, over a transport that is none of chatkeep's."""

    async def open_driver(self) -> Driver:
        """Another driver on it."""
        driver = RedisDriver(self.url, PlainTransport)
        await driver.open()
        return driver


@pytest.mark.long
@on("valkey-8")
class TestValkey8(RedisContract):
    """Valkey 8."""


@pytest.mark.long
@on("redis-8")
class TestRedis8(RedisContract):
    """Redis 8."""


@on("redis-6")
class TestRedis6(RedisContract):
    """Redis 6.2, the oldest that is supported."""


@on("cluster")
class TestCluster(RedisContract):
    """Three masters."""


@pytest.mark.long
@on("sentinel")
class TestSentinel(RedisContract):
    """The primary that Sentinel names."""


@few_or_many("examples", 4, 8 * SOAK)
@pytest.mark.parametrize("store", ["valkey-9", *long(*KINDS[1:])], indirect=True, scope="module")
def test_random_histories(store: Store, examples: int) -> None:
    """Three connections to one store, a new store for each history."""

    def fresh_store() -> DriverMachine:
        url = store.fresh
        return DriverMachine(lambda: opened_on(url))

    how = settings(max_examples=examples, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(fresh_store, settings=how)


# What follows needs a server of its own kind, or one that may be treated badly.


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    with RedisServer("valkey-9", tmp_path) as running:
        yield running


@pytest.fixture
async def driver(server: RedisServer) -> AsyncIterator[RedisDriver]:
    """A driver on it."""
    opened = await opened_on(server.url)
    yield opened
    await opened.close()


async def say(driver: RedisDriver, id: str, key: Key = ADA, body: bytes = b"hello", at: float = 1.0) -> int:
    """One append; the head it left."""
    answer = await driver.append(Append(key, [Entry(0, id, "user", body)], revision=f"revision of {id}", at=at))
    return answer.row.head


async def settled(act: Callable[[], Awaitable[Any]], *, within: float = 15.0) -> Any:
    """The answer of an act that is run again until it has one, as the store runs it."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        try:
            return await act()
        except (Uncertain, Unavailable) as fault:
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError("it was never answered") from fault
            await asyncio.sleep(0.005)


async def refusal_to_open(url: str) -> Misconfigured:
    """Why a store is refused."""
    with pytest.raises(Misconfigured) as refused:
        await (await opened_on(url)).close()
    return refused.value


def calls_of(server: RedisServer) -> dict[str, int]:
    """How often each command has run."""
    said = server.ask("INFO", "commandstats").decode()
    return {name: int(calls) for name, calls in re.findall(r"cmdstat_([^:]+):calls=(\d+)", said)}


def keys_of(server: RedisServer, prefix: str = "") -> list[str]:
    """Every key that begins like that, epochs and meta apart."""
    words = server.ask("KEYS", f"{prefix}*").decode().split("\r\n")[2::2]
    return sorted(word for word in words if not word.endswith((":epoch", ":meta")))


async def test_what_is_forgotten_in_great_number_leaves_nothing(driver: RedisDriver, server: RedisServer) -> None:
    """An erasure by revision of what was not changed for longer than marks are kept leaves no mark; any other one does."""
    before, keys = keys_of(server), [Key("", f"visitor {n}") for n in range(20)]
    rows = [(await driver.append(Append(key, [Entry(0, "a", "user", b"x")], revision="r", at=1.0))).row for key in keys]
    for row in rows:
        await driver.erase(Erase(row.key, at=2.0 + TOMBSTONE_KEPT_S, revision=row.revision))

    assert before == keys_of(server)

    row = (await driver.append(Append(keys[0], [Entry(0, "a", "user", b"x")], revision="r", at=5.0))).row
    await driver.erase(Erase(row.key, at=6.0, revision=row.revision))

    assert 1 == len(keys_of(server)) - len(before)


# The scripts


async def test_the_server_may_forget_its_scripts(driver: RedisDriver, server: RedisServer) -> None:
    """NOSCRIPT is answered with the script itself, in the middle of whatever is under way."""
    for turn in range(3):
        assert b"+OK\r\n" == server.ask("SCRIPT", "FLUSH")
        await asyncio.gather(
            *(say(driver, f"{turn}.{n}") for n in range(30)), *(driver.read(Read(ADA, tail=1)) for _ in range(9))
        )

    assert 90 == len(await log_of(driver))


async def test_no_act_is_overtaken_for_want_of_its_script(driver: RedisDriver, server: RedisServer) -> None:
    """A server that was started anew has no script, but for one that somebody else has used: every connection brings all."""
    for turn in range(5):
        server.ask("SCRIPT", "FLUSH")
        server.ask("EVAL", redis_acts.APPEND.text.decode(), "0")
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await time_passes(0.05)
        key = Key("", f"{turn}")
        created, appended = await asyncio.gather(
            driver.write(Write(Row(key=key, revision="w", incarnation="w"), replaces=None)),
            driver.append(Append(key, [Entry(0, "m", "user", b"hello")], revision="a", at=1.0)),
        )

        assert ("w", "w", 1) == (created.revision, appended.row.incarnation, appended.row.head)


async def test_an_ordinary_turn_touches_no_index(driver: RedisDriver, server: RedisServer) -> None:
    """Revision, head, body and time change, and the log grows: three writes, and no sorted set among them."""
    row = (
        await driver.append(Append(ADA, [Entry(0, "m", "user", b"")], revision="r", at=60.0, due_at=100.0, owner="eve"))
    ).row
    before = calls_of(server)
    act = structs.replace(row, revision="w", body=b"state", updated_at=61.0)
    row = await driver.write(Write(act, replaces="r", entries=[Entry(0, "n", "user", b""), Entry(0, "", "bot", b"")]))
    after = calls_of(server)
    ran = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}

    assert {"rpush": 1, "hset": 2} == {
        name: count for name, count in ran.items() if name in ("rpush", "hset", "zadd", "zrem", "hdel")
    }
    assert not {"hget", "zadd", "zrem", "zcard"} & ran.keys()

    await driver.write(Write(structs.replace(row, revision="x", updated_at=120.0, due_at=90.0), replaces="w"))

    assert 2 == calls_of(server)["zadd"] - after["zadd"]


@pytest.mark.parametrize("part", ["row:\0ada", "log:\0ada", "ids:\0ada", "due", "key", "owner", "recent", "erased"])
@pytest.mark.parametrize("store", ["valkey-9", "redis-6"], indirect=True, scope="module")
async def test_what_is_not_ours_is_corrupt_and_left_alone(store: Store, part: str) -> None:
    """A key of another type under one of our names: no act gets half-way before it finds out."""
    driver = await opened_on(store.fresh)
    server = store.servers[0]
    bucket = driver._acts.buckets[redis_acts.bucket_of(redis_acts.member_of(ADA))]
    name = (bucket.start + part.encode()).decode()
    try:
        assert b"+OK\r\n" == server.ask("SET", name, "a diary")
        prefix = name.partition(":")[0]
        before = keys_of(server, prefix)
        row = Row(key=ADA, revision="r", incarnation="r", owner="eve", updated_at=1.0, due_at=1.0)
        acts = [
            lambda: driver.append(
                Append(ADA, [Entry(0, "m", "user", b"")], revision="r", at=1.0, due_at=1.0, owner="eve")
            ),
            lambda: driver.write(Write(row, replaces=None, entries=[Entry(0, "m", "user", b"")], drop=1)),
        ]
        for act in acts:
            with pytest.raises(Corrupt, match=re.escape("is not what chatkeep put there")):
                await act()

            assert before == keys_of(server, prefix)
        if part in ("due", "key", "owner", "recent", "erased"):
            with pytest.raises(Corrupt):
                await driver.erase(Erase(ADA, at=1.0))
        assert b"$7\r\na diary\r\n" == server.ask("GET", name)
        assert 1 == await say(driver, "elsewhere", BOB)
    finally:
        await driver.close()


async def test_a_row_without_its_revision_is_corrupt_not_absent(driver: RedisDriver, server: RedisServer) -> None:
    """What is left of a row is not written over, and goes only when it is erased."""
    await say(driver, "m")
    name = next(name for name in keys_of(server) if ":row:" in name)
    server.ask("HDEL", name, "revision")
    with pytest.raises(Corrupt):
        await driver.read(Read(ADA, tail=1))
    with pytest.raises(Corrupt):
        await say(driver, "n")
    await driver.erase(Erase(ADA, at=2.0))

    assert 1 == await say(driver, "n", at=3.0)


async def test_a_row_that_was_lost_alone_is_not_begun_afresh(driver: RedisDriver, server: RedisServer) -> None:
    """Its log is there, so it is not true that there is nothing; only an erasure makes room."""
    for id in ("m", "n"):
        await say(driver, id)
    server.ask("DEL", next(name for name in keys_of(server) if ":row:" in name))
    for act in (
        lambda: driver.read(Read(ADA, tail=1)),
        lambda: say(driver, "o"),
        lambda: driver.entries(Entries(ADA, after=0, limit=5)),
    ):
        with pytest.raises(Corrupt):
            await act()
    await driver.erase(Erase(ADA, at=2.0))

    assert 1 == await say(driver, "o", at=3.0)


async def test_a_damaged_row_does_not_hide_the_others(driver: RedisDriver, server: RedisServer) -> None:
    """A scan shows where it stands, so that whoever reads it is told; the others are as they were."""
    await say(driver, "m")
    await say(driver, "m", BOB)
    name = next(name for name in keys_of(server) if name.endswith("\0ada") and ":row:" in name)
    server.ask("HSET", name, "head", "zz")

    assert [ADA, BOB] == [row.key for row in await driver.scan(Scan("key", limit=9))]
    assert ["", "m"] == [row.revision and "m" for row in await driver.scan(Scan("key", limit=9))]


@pytest.mark.parametrize("store", ["valkey-9", "redis-6", "redis-8"], indirect=True, scope="module")
async def test_a_full_server_does_no_part_of_an_act(store: Store) -> None:
    """OOM refuses it whole and says so, reads and erasures go on, and so do writes when there is room."""
    driver = await opened_on(store.fresh)
    server = store.servers[0]
    chance = random.Random(1)
    try:
        await say(driver, "old", BOB)
        assert b"+OK\r\n" == server.ask("CONFIG", "SET", "maxmemory", "8mb")
        done = 0
        refused: Unavailable | None = None
        while refused is None:
            try:
                done = await say(driver, f"m{done}", body=chance.randbytes(40_000))
            except Unavailable as full:
                refused = full

        assert "OOM" in f"{refused}"

        assert [f"m{n}" for n in range(done)] == await log_of(driver)
        assert (f"revision of m{done - 1}", done) == ((await driver.read(Read(ADA, tail=0)))[0].revision, done)

        server.ask("CONFIG", "SET", "maxmemory", "1mb")
        created = Row(key=Key("", "new"), revision="r", incarnation="r", owner="eve", due_at=1.0)
        with pytest.raises(Unavailable, match="OOM"):
            await driver.write(Write(created, replaces=None, entries=[Entry(0, "m", "user", b"")]))
        assert None is await driver.read(Read(created.key, tail=0))
        assert ["bob", "ada"] == [row.key.id for row in await driver.scan(Scan("key", limit=9))][::-1]

        await driver.erase(Erase(ADA, at=5.0))
        server.ask("CONFIG", "SET", "maxmemory", "8mb")

        assert None is await driver.read(Read(ADA, tail=0))
        assert 1 == await say(driver, "again", at=6.0)
    finally:
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await driver.close()


async def test_counters_expire_and_ask_for_no_right_of_their_own(driver: RedisDriver, server: RedisServer) -> None:
    """The server lets go of one some time after its window."""
    await driver.count(Count("peer:a", 60.0, 1.0))
    left_ms = int(server.ask("PTTL", "chatkeep:count:peer:a").strip(b":\r\n"))

    assert 60_000 < left_ms <= (60 + COUNTERS_KEPT_S) * 1000


async def test_a_scan_is_a_script_for_all_buckets_and_one_for_what_they_name(
    driver: RedisDriver, server: RedisServer
) -> None:
    """An idle look at what is due costs the server one script, a page of rows a second one."""
    for n in range(40):
        await driver.append(Append(Key("", f"{n}"), [Entry(0, "m", "user", b"")], revision="0", at=1.0, due_at=1.0))
    scripts = []
    for until in (0.5, 1.0):
        before = calls_of(server).get("evalsha", 0)
        shown = await driver.scan(Scan("due", until=until, limit=100))
        scripts.append((len(shown), calls_of(server).get("evalsha", 0) - before))

    assert [(0, 1), (40, 2)] == scripts


@pytest.mark.parametrize("limit", [1, 5, 30, 100])
async def test_pages_are_whole_where_one_bucket_has_most_of_what_is_due(driver: RedisDriver, limit: int) -> None:
    """Each bucket is asked for a share of a page; what one of them has beyond that comes before what others have behind it."""
    names = [f"{n}" for n in range(6000) if redis_acts.bucket_of(redis_acts.member_of(Key("", f"{n}"))) == 7][:50]
    names += [f"other{n}" for n in range(20)]
    due = {name: float(place * 37 % 71) for place, name in enumerate(names)}
    for name, at in due.items():
        await driver.append(Append(Key("", name), [Entry(0, "m", "user", b"")], revision="0", at=1.0, due_at=at))
    shown: list[Row] = []
    while page := await driver.scan(Scan("due", after=shown[-1] if shown else None, limit=limit)):
        shown += page

        assert len(page) == min(limit, len(names) - len(shown) + len(page))

    assert sorted(names, key=lambda name: (due[name], name.encode())) == [row.key.id for row in shown]


Seen = dict[Key, set[Row]]
"""Each row as it was at any time."""


@contextlib.asynccontextmanager
async def moving(
    driver: RedisDriver, rows: dict[Key, Row], still: str, moved: Callable[..., Row]
) -> AsyncIterator[Seen]:
    """Move, at random, those of *rows* whose ids are not below *still*, as *moved* says of a row, the turn and the chance."""
    seen = {key: {row} for key, row in rows.items()}
    going = True

    async def keep_moving() -> None:
        chance = random.Random(7)
        turn = 0
        while going:
            turn += 1
            key = chance.choice([key for key in rows if key.id >= still])
            act = moved(rows[key], turn, chance)
            seen[key].add(act)
            rows[key] = await driver.write(Write(act, replaces=rows[key].revision))

    mover = asyncio.create_task(keep_moving())
    try:
        yield seen
    finally:
        going = False
        await mover


async def test_a_scan_does_not_invent_what_moves_meanwhile(driver: RedisDriver) -> None:
    """Rows that come and go while pages are read: each row that is shown was there like that, in order, once."""
    rows = {}
    for n in range(60):
        key = Key("", f"{n:02}")
        rows[key] = (
            await driver.append(Append(key, [Entry(0, "m", "user", b"")], revision="0", at=1.0, due_at=float(n)))
        ).row

    def moved(row: Row, turn: int, chance: random.Random) -> Row:
        return structs.replace(row, revision=f"{turn}", due_at=float(chance.randrange(100)))

    async with moving(driver, rows, "30", moved) as seen:
        for size in (1, 7, 20, 100):
            shown = await paged(driver, "due", size)

            assert sorted(shown, key=lambda row: (row.wake, row.key)) == shown
            assert all(row in seen[row.key] for row in shown)
            assert {f"{n:02}" for n in range(30)} <= {row.key.id for row in shown}


async def test_of_many_that_were_changed_in_one_minute_only_those_are_read_that_are_shown(
    driver: RedisDriver, server: RedisServer
) -> None:
    """The index knows the minute alone: of the others the server is asked for the time, and not for the row."""
    keys = [Key("", f"{n:03}") for n in range(300)]
    for n, key in enumerate(keys):
        at = 60.0 + n * 7 % 59 / 2
        await driver.append(Append(key, [Entry(0, "m", "user", b"")], revision="0", at=at))
    before = calls_of(server).get("hmget", 0)
    shown: list[Row] = []
    while page := await driver.scan(Scan("recent", after=shown[-1] if shown else None, limit=40)):
        shown += page

        assert len(page) == min(40, len(keys) - len(shown) + len(page))

    assert sorted(keys, key=lambda key: (-(int(key.id) * 7 % 59), key)) == [row.key for row in shown]
    assert len(keys) == calls_of(server)["hmget"] - before


async def test_the_look_for_what_is_newer_than_a_time_reads_no_row_of_before(
    driver: RedisDriver, server: RedisServer
) -> None:
    """In a minute in which much was changed only the index is asked; where the bound lies within it, each row is asked for its time."""
    for n in range(50):
        await say(driver, "m", Key("", f"{n:02}"), at=60.0 + n)

    def read() -> int:
        calls = calls_of(server)
        return sum(calls.get(name, 0) for name in ("hget", "hmget", "hgetall"))

    before = read()

    assert [] == await driver.scan(Scan("recent", limit=1, since=120.0))
    assert before == read()

    assert ["49", "48"] == [row.key.id for row in await driver.scan(Scan("recent", limit=2, since=107.5))]
    assert before < read()

    assert ["49", "48"] == [row.key.id for row in await driver.scan(Scan("recent", limit=9, since=108.0))]


async def test_a_row_without_its_time_stands_at_the_end_of_its_minute(driver: RedisDriver, server: RedisServer) -> None:
    """Where a part of a minute is shown, too: a damaged row hides none, and is shown like that."""
    for n in range(60):
        await say(driver, "m", Key("", f"{n:02}"), at=61.0 + n / 2)
    bucket = redis_acts.bucket_of(b"\0" + b"59")
    server.ask("HDEL", f"chatkeep:{{{bucket}}}:row:\0" + "59", "at")
    shown = await paged(driver, "recent", 7)

    assert [*(f"{n:02}" for n in range(58, -1, -1)), "59"] == [row.key.id for row in shown]
    assert ("", 60.0) == (shown[-1].revision, shown[-1].updated_at)


@pytest.mark.parametrize(("field", "value"), [("head", "many"), ("born", None), ("until", "later")])
async def test_a_damaged_row_stands_where_its_time_says(
    driver: RedisDriver, server: RedisServer, field: str, value: str | None
) -> None:
    """It hides none of those that were changed in the same minute, and is shown once, by pages of any size."""
    for n in range(60):
        await say(driver, "m", Key("", f"{n:02}"), at=61.0 + n / 2)
    bucket = redis_acts.bucket_of(b"\0" + b"50")
    row = f"chatkeep:{{{bucket}}}:row:\0" + "50"
    server.ask(*(("HDEL", row, field) if value is None else ("HSET", row, field, value)))

    for size in (7, 15, 100):
        shown = await paged(driver, "recent", size)

        assert [f"{n:02}" for n in range(59, -1, -1)] == [row.key.id for row in shown]
        assert ["50"] == [row.key.id for row in shown if not row.revision]


async def test_what_is_written_by_a_clock_that_is_behind_hides_nothing(
    driver: RedisDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the times of a minute and that at its rows one becomes older than those that are not shown yet."""
    for n in range(60):
        await say(driver, "m", Key("", f"{n:02}"), at=61.0 + n / 2)
    tell = driver._moments_at

    async def tell_and_set_back(*asked: Any) -> list[redis_acts.Place]:
        told = await tell(*asked)
        row = (await driver.scan(Scan("key", limit=60)))[-1]
        await driver.write(Write(structs.replace(row, revision=row.revision + "-", updated_at=60.5), row.revision))
        return told

    monkeypatch.setattr(driver, "_moments_at", tell_and_set_back)
    shown = await paged(driver, "recent", 7)

    assert [*(f"{n:02}" for n in range(58, -1, -1)), "59"] == [row.key.id for row in shown]


async def test_a_scan_of_the_recent_does_not_invent_what_moves_meanwhile(driver: RedisDriver) -> None:
    """As for what is due; what was changed last is shown first or not at all, for it has moved to before the page."""
    rows = {}
    for n in range(100):
        key = Key("", f"{n:02}")
        rows[key] = (await driver.append(Append(key, [Entry(0, "m", "user", b"")], revision="0", at=60.0 + n / 4))).row

    def moved(row: Row, turn: int, chance: random.Random) -> Row:
        return structs.replace(row, revision=f"{turn}", updated_at=86.0 + turn / 1000)

    async with moving(driver, rows, "40", moved) as seen:
        for size in (1, 7, 20, 200):
            shown = await paged(driver, "recent", size)

            assert sorted(shown, key=lambda row: (-row.updated_at, row.key)) == shown
            assert all(row in seen[row.key] for row in shown)
            assert {f"{n:02}" for n in range(40)} <= {row.key.id for row in shown}


# The wire


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    """A network in front of the server."""
    async with Proxy(server.port) as between:
        yield between


def through(proxy: Proxy, **options: Any) -> str:
    """The server's URL through the network."""
    return f"redis://127.0.0.1:{proxy.port}/0?" + "&".join(f"{name}={value}" for name, value in options.items())


async def test_what_a_function_takes(server: RedisServer, proxy: Proxy) -> None:
    """In round trips, on a store that is there: a process that answers one message, then one that is warm. Opening is to be let in, to
    learn what server and store this is, and to read what is paused."""

    async def ran() -> list[int]:
        keep: Chatkeep[dict[str, Any]] = Chatkeep(through(proxy), background=False, poll="1h")
        keep.on_message(lambda turn: "fine")
        told = [proxy.trips]
        await keep.open()
        told.append(proxy.trips)
        for _ in range(2):
            await keep.receive("ada", "hello", id=secrets.token_hex(4))
            told.append(proxy.trips)
        await keep.close()
        return [after - before for before, after in itertools.pairwise(told)]

    await ran()

    assert [3, 2, 1] == await ran()


async def test_one_is_let_in_in_one_round_trip(server: RedisServer, proxy: Proxy) -> None:
    """With a password, a database and the scripts; a password that is wrong is told as the server does."""
    address = ("127.0.0.1", proxy.port)
    with await Connection.open(("127.0.0.1", server.port)) as admin:
        await admin.ask(b"ACL", b"SETUSER", b"guest", b"on", b">secret", b"allkeys", b"allcommands")
    # (A server that reads ahead takes no word of more than 16,384 bytes from whoever is not let in yet.)
    greeting = [(b"PING",), *((b"SCRIPT", b"LOAD", script.text) for script in redis_acts.VERBS)]
    before = proxy.trips
    (await Connection.open(address, user="guest", password="secret", database=1, greeting=greeting)).abort()

    assert 1 == proxy.trips - before
    with pytest.raises(ErrorReply, match="WRONGPASS"):
        await Connection.open(address, user="guest", password="wrong", database=1, greeting=greeting)


async def test_every_verb_is_one_round_trip(proxy: Proxy) -> None:
    """An append, a write, a refusal, a read, a page, an erasure; an idle look at what is due is one too."""
    driver = await opened_on(through(proxy))
    try:
        # The first time the server has to be told the scripts.
        row = (await driver.append(Append(ADA, [Entry(0, "m", "user", b"")], revision="r", at=1.0, tail=5))).row
        await driver.write(Write(structs.replace(row, revision="w"), replaces="r"))
        await driver.read(Read(ADA, tail=5))
        await driver.entries(Entries(ADA, after=0, limit=5))
        await driver.scan(Scan("due", until=0.5, limit=100))
        await driver.erase(Erase(ADA, at=0.5))
        trips = []
        row = Row(key=BOB, revision="r", incarnation="r", updated_at=1.0)
        for act in (
            lambda: driver.append(Append(BOB, [Entry(0, "m", "user", b"")], revision="q", at=1.0, tail=5)),
            lambda: driver.write(Write(structs.replace(row, revision="w", incarnation="q"), replaces="q")),
            lambda: driver.write(Write(structs.replace(row, revision="v"), replaces="r")),
            lambda: driver.read(Read(BOB, tail=5)),
            lambda: driver.entries(Entries(BOB, after=0, limit=5)),
            lambda: driver.scan(Scan("due", until=0.5, limit=100)),
            lambda: driver.erase(Erase(BOB, at=1.0)),
        ):
            before = proxy.trips
            with contextlib.suppress(Conflict):
                await act()
            trips.append(proxy.trips - before)

        assert [1] * 7 == trips
        assert 1 == proxy.connections
    finally:
        await driver.close()


async def test_the_calls_of_one_tick_leave_in_one_write(proxy: Proxy) -> None:
    """However many there are, up to a batch; and what comes while two batches are under way goes together."""
    chunks: list[bytes] = []
    driver = await opened_on(through(proxy))
    try:
        await say(driver, "first")
        proxy.lose = chunks.append
        await asyncio.gather(
            *(say(driver, f"a{n}") for n in range(20)), *(driver.read(Read(ADA, tail=1)) for _ in range(20))
        )

        assert [40] == [chunk.count(b"EVALSHA") + chunk.count(b"EVAL\r") for chunk in chunks][:1]

        chunks.clear()
        proxy.delay_s = 0.03
        acts = []
        for n in range(50):
            acts.append(asyncio.create_task(say(driver, f"b{n}")))
            await takes(0.001)
        await asyncio.gather(*acts)
        sizes = [chunk.count(b"EVALSHA") for chunk in chunks]

        assert 50 == sum(sizes)
        assert [1, 1] == sizes[:2]
        assert len(sizes) < 12
        assert 71 == len(await log_of(driver))
    finally:
        await driver.close()


async def test_a_network_that_loses_things_changes_nothing(proxy: Proxy) -> None:
    """Every fifth batch is lost, before the server or after it: acts that are run again happen exactly once."""
    chance = random.Random(3)
    driver = await opened_on(through(proxy))
    proxy.lose = lambda _: chance.choice(["request", "reply", *[None] * 8])
    kinds: set[type[Exception]] = set()

    async def count(name: str) -> None:
        key = Key("", name)
        row = (
            await settled(lambda: driver.append(Append(key, [Entry(0, "first", "user", b"")], revision="r", at=1.0)))
        ).row
        for turn in range(30):
            act = structs.replace(row, revision=f"w{turn}", body=b"%d" % turn)
            while True:
                try:
                    row = await driver.write(
                        Write(act, replaces=row.revision, entries=[Entry(0, f"{turn}", "user", b"")])
                    )
                    break
                except (Uncertain, Unavailable) as fault:
                    kinds.add(type(fault))
            await settled(lambda turn=turn: say(driver, f"said {turn}", key))
            row = (await settled(lambda: driver.read(Read(key, tail=0))))[0]

    try:
        await asyncio.gather(*(count(f"{n}") for n in range(8)))
        proxy.lose = lambda _: None
        for n in range(8):
            expected = ["first", *(id for turn in range(30) for id in (f"{turn}", f"said {turn}"))]

            assert expected == await log_of(driver, Key("", f"{n}"))

        assert min(proxy.lost.values()) > 0
        assert Uncertain in kinds
    finally:
        await driver.close()


async def test_what_was_not_answered_is_uncertain_and_reads_are_not(proxy: Proxy) -> None:
    """A lost reply: the act is done, nobody knows; the same act finds its own trace."""
    driver = await opened_on(through(proxy, timeout=0.5))
    try:
        await say(driver, "first")
        proxy.lose = lambda _: "reply"
        with pytest.raises(Uncertain, match="perhaps it was written"):
            await say(driver, "second")
        with pytest.raises(Unavailable, match="nothing was read"):
            await driver.read(Read(ADA, tail=1))
        proxy.lose = lambda _: None

        assert 2 == await settled(lambda: say(driver, "second"))
        assert ["first", "second"] == await log_of(driver)
    finally:
        await driver.close()


async def test_a_silent_server_is_waited_for_no_longer_than_the_deadline(proxy: Proxy) -> None:
    """What left is uncertain, what did not is certainly not written, and all goes on when it speaks again."""
    driver = await opened_on(through(proxy, timeout=0.5))
    clock = asyncio.get_running_loop().time
    try:
        await say(driver, "first")
        proxy.silent = True
        begun = clock()
        # The first two leave alone, as two batches; what comes behind them waits.
        acts = []
        for n in range(4):
            acts.append(asyncio.create_task(say(driver, f"m{n}")))
            await takes(0.01)
        answers = await asyncio.gather(*acts, return_exceptions=True)

        assert [Uncertain, Uncertain, Unavailable, Unavailable] == list(map(type, answers))
        assert 0.4 < clock() - begun < 1.5

        begun = clock()
        with pytest.raises(StoreError):
            await driver.read(Read(ADA, tail=1))

        assert clock() - begun < 1.5

        proxy.silent = False

        await settled(lambda: say(driver, "m2"))
        log = await log_of(driver)

        # (What was silent may still come through, however late: that is what uncertain means.)
        assert "first" == log[0]
        assert {"m2"} <= set(log[1:]) <= {"m0", "m1", "m2"}
    finally:
        await driver.close()


async def test_calls_do_not_pile_up_without_bound(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a server that is away only so many wait; the others are told at once that nothing was written."""
    driver = await opened_on(through(proxy, timeout=0.5))
    monkeypatch.setattr(batching, "WAITING", 50)
    try:
        await say(driver, "first")
        proxy.refusing = True
        proxy.cut()
        await time_passes(0.05)
        answers = await asyncio.gather(*(say(driver, f"m{n}") for n in range(80)), return_exceptions=True)

        assert [Unavailable] * 50 + [Overloaded] * 30 == list(map(type, answers))

        proxy.refusing = False

        assert 2 == await settled(lambda: say(driver, "m1"))
    finally:
        await driver.close()


async def test_kill_9_and_a_restart_between_acts(server: RedisServer) -> None:
    """What was answered is there after it; acts during it are answered in the end, each done once."""
    driver = await opened_on(f"{server.url}?timeout=10")
    answered: list[str] = []

    async def keep_saying(name: str) -> None:
        for n in range(60):
            await settled(lambda n=n: say(driver, f"{name}.{n}", Key("", name)))
            answered.append(f"{name}.{n}")

    try:
        talking = [asyncio.create_task(keep_saying(f"{n}")) for n in range(6)]
        for _ in range(3):
            await time_passes(0.03)
            server.kill()
            await time_passes(0.05)
            await asyncio.to_thread(server.start)
        await asyncio.gather(*talking)
        for n in range(6):
            assert [f"{n}.{turn}" for turn in range(60)] == await log_of(driver, Key("", f"{n}"))
        assert 360 == len(answered)
    finally:
        await driver.close()


async def test_a_server_that_comes_back_empty_is_replaced(server: RedisServer, tmp_path: Path) -> None:
    """Nothing is written to it, whatever the driver had there before."""
    driver = await opened_on(server.url)
    try:
        await say(driver, "m")
        server.kill()
        for file in (tmp_path / "appendonlydir").iterdir():
            file.unlink()
        await asyncio.to_thread(server.start)
        with pytest.raises(Replaced, match="start chatkeep anew"):
            await say(driver, "n")

        assert [] == keys_of(server)
    finally:
        await driver.close()


async def test_a_cancelled_caller_does_not_cancel_the_act(proxy: Proxy) -> None:
    """It is on its way, and is done."""
    driver = await opened_on(through(proxy))
    try:
        await say(driver, "first")
        proxy.delay_s = 0.05
        act = asyncio.create_task(say(driver, "second"))
        await asyncio.sleep(0.01)
        act.cancel()
        await asyncio.wait([act])

        assert 3 == await say(driver, "third")
        assert ["first", "second", "third"] == await log_of(driver)
    finally:
        await driver.close()


async def test_calls_that_meet_a_server_without_scripts_keep_their_order(server: RedisServer) -> None:
    """Some are on their way when the scripts are flushed, some come while these come back: none overtakes another."""
    driver = await opened_on(server.url)
    asked: list[str] = []
    acts: list[asyncio.Task[int]] = []
    for turn in range(60):
        if turn % 6 == 0:
            server.ask("SCRIPT", "FLUSH")
        for n in range((1, 3, 40)[turn % 3]):
            asked.append(f"{turn}.{n}")
            acts.append(asyncio.create_task(say(driver, asked[-1])))
        await asyncio.sleep(0 if turn % 2 else 0.0005)
    await asyncio.gather(*acts)

    assert asked == await log_of(driver)
    await driver.close()


async def test_what_is_remembered_of_names_does_not_hold_a_driver_that_is_gone(server: RedisServer) -> None:
    """Homes are found again by names; a thousand drivers opened and closed leave no thousand sets of buckets."""
    driver = await opened_on(server.url)
    await say(driver, "m")
    assert await driver.scan(Scan("key", limit=5))
    acts = weakref.ref(driver._acts)
    bucket = weakref.ref(driver._acts.buckets[0])
    await driver.close()
    del driver
    gc.collect()

    assert (None, None) == (acts(), bucket())


async def test_closing_leaves_no_task_and_no_socket(server: RedisServer) -> None:
    """Also after an opening that was refused, and in the middle of an outage."""

    def sockets() -> int:
        return len([1 for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")])

    before, tasks = sockets(), asyncio.all_tasks()
    for turn in range(5):
        driver = await opened_on(server.url)
        driver.watch(lambda marks: None)
        await asyncio.gather(*(say(driver, f"{turn}.{n}") for n in range(5)))
        await driver.close()
    await refusal_to_open(server.url.replace("redis://", "redis://:wrong@"))
    driver = await opened_on(f"{server.url}?timeout=0.3")
    server.kill()
    act = asyncio.create_task(say(driver, "m"))
    await time_passes(0.05)
    await driver.close()

    assert isinstance((await asyncio.gather(act, return_exceptions=True))[0], Unavailable | Uncertain)
    await asyncio.sleep(0.05)
    assert (before, tasks) == (sockets(), asyncio.all_tasks())


async def test_closing_just_when_the_server_hangs_up_leaves_no_socket(server: RedisServer) -> None:
    """The link has seen that, and is about to drop its connection."""
    driver: Any = await opened_on(server.url)
    link = driver._servers._links[None]
    transport = link._connection._writer.transport
    [reader] = [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep redis reader"]
    reader.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(link._task.cancel))
    server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await asyncio.wait([link._task])
    await driver.close()

    assert transport.is_closing()


async def test_a_primary_that_became_a_replica_is_left(server: RedisServer) -> None:
    """READONLY is certainly not written; the connection is given up, so that the new primary is looked for."""
    driver = await opened_on(server.url)
    try:
        await say(driver, "m")
        link = driver._servers._links[None]
        server.ask("REPLICAOF", "127.0.0.1", "1")
        held = link._connection
        with pytest.raises(Unavailable, match="READONLY"):
            await say(driver, "n")
        server.ask("REPLICAOF", "NO", "ONE")

        assert 2 == await settled(lambda: say(driver, "n"))
        assert held is not link._connection
    finally:
        await driver.close()


async def test_a_server_that_is_loading_is_unavailable(server: RedisServer) -> None:
    """It has its data and cannot show it yet; that is not "nothing is there"."""
    driver = await opened_on(f"{server.url}?timeout=1.2")
    try:
        for n in range(4):
            await asyncio.gather(*(say(driver, f"{n}.{m}", body=os.urandom(2000)) for m in range(250)))
        server.kill()
        server.args = ("--key-load-delay", "400")
        loading = asyncio.create_task(asyncio.to_thread(server.start))
        answers = set()
        while not loading.done():
            try:
                answers.add(type(await driver.read(Read(ADA, tail=1))))
            except Unavailable as refused:
                answers.add("loading" if "loading" in f"{refused}" else "unreachable")
            await asyncio.sleep(0.005)
        await loading

        assert {"loading"} <= answers <= {"loading", "unreachable", tuple}
        assert 1000 == len(await settled(lambda: log_of(driver)))
    finally:
        await driver.close()


# Announcements


async def test_a_watcher_listens_again_when_it_was_cut_off(driver: RedisDriver, server: RedisServer) -> None:
    """By itself; nothing is made up meanwhile, and other stores on the server are not heard."""
    other = await opened_on(f"{server.url.replace('/0', '/1')}")
    heard: list[str] = []
    driver.watch(heard.extend)
    try:
        for turn in range(3):
            for _ in range(400):
                await other.announce(["foreign"])
                await driver.announce([f"{turn}"])
                if f"{turn}" in heard:
                    break
                await asyncio.sleep(0.02)

            assert {f"{made}" for made in range(turn + 1)} == set(heard)
            assert b":1\r\n" == server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    finally:
        await other.close()


async def test_an_announcement_that_cannot_be_made_is_no_error(proxy: Proxy) -> None:
    """It is best effort; only a closed driver says that it is closed."""
    driver = await opened_on(through(proxy, timeout=0.3))
    proxy.refusing = True
    proxy.cut()
    await driver.announce(["m"])
    await driver.close()
    with pytest.raises(Unavailable):
        await driver.announce(["m"])


async def test_a_listener_that_raises_goes_on_listening(driver: RedisDriver, caplog: pytest.LogCaptureFixture) -> None:
    """What it raised is in the log."""
    heard: list[list[str]] = []

    def hear(marks: list[str]) -> None:
        heard.append(marks)
        raise KeyError(marks[0])

    driver.watch(hear)
    while len(heard) < 2:
        await driver.announce(["m"])
        await asyncio.sleep(0.01)

    assert "an announcement was lost" in caplog.text


# How it is opened


async def test_what_may_be_lost_makes_it_a_cache(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No fsync at each answer, or nothing kept at all: it opens, is not DURABLE, and says so with the way to mend it."""
    said = {}
    for name, args in {"everysec": ("--appendfsync", "everysec"), "off": ("--appendonly", "no")}.items():
        (tmp_path / name).mkdir()
        with RedisServer("valkey-9", tmp_path / name, *args) as server:
            driver = await opened_on(server.url)
            found = {finding.subject: finding.level for finding in await driver.examine()}
            said[name] = (Ability.DURABLE in driver.abilities, found["fsync"], found["persistence"])
            await driver.close()
            await say(driver := await opened_on(server.url), "m")
            await driver.close()

    assert {"everysec": (False, "warn", "ok"), "off": (False, "ok", "warn")} == said
    assert "is a cache now" in caplog.text
    assert "appendfsync everysec: a crash loses what was answered last. Set appendonly yes" in caplog.text
    assert {logging.WARNING} == {record.levelno for record in caplog.records}


async def test_a_durable_server_is_durable(driver: RedisDriver, caplog: pytest.LogCaptureFixture) -> None:
    """And says nothing."""
    assert Ability.DURABLE in driver.abilities
    assert "" == caplog.text


async def test_a_server_that_throws_things_away_is_refused(server: RedisServer) -> None:
    """With a limit of memory and any policy but noeviction; without a limit nothing is thrown away."""
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    driver = await opened_on(server.url)
    await driver.close()
    server.ask("FLUSHALL")
    server.ask("CONFIG", "SET", "maxmemory", "100mb")

    assert "throws conversations away" in f"{await refusal_to_open(server.url)}"
    assert b"*0\r\n" == server.ask("KEYS", "*")
    findings = await RedisDriver(server.url).examine()
    assert ["eviction"] == [finding.subject for finding in findings if finding.level == "fail"]


GRANT = "on >secret resetchannels ~chatkeep:* &chatkeep:* +@read +@write +@scripting +@pubsub +@connection"
RIGHTS = "+info +config|get +time"


@pytest.mark.parametrize("kind", ["valkey-9", "redis-6", "redis-8"])
async def test_a_user_with_the_rights_of_the_docs_can_do_everything(tmp_path: Path, kind: str) -> None:
    """Verbs, scans, announcements, and an examination without a complaint."""
    with RedisServer(kind, tmp_path) as server:
        assert b"+OK\r\n" == server.ask("ACL", "SETUSER", "chatkeep", "reset", *GRANT.split(), *RIGHTS.split())
        driver = await opened_on(server.url.replace("redis://", "redis://chatkeep:secret@"))
        heard: list[str] = []
        driver.watch(heard.extend)
        try:
            row = (
                await driver.append(
                    Append(ADA, [Entry(0, "m", "user", b"")], revision="r", at=1.0, due_at=1.0, owner="e")
                )
            ).row
            row = await driver.write(
                Write(structs.replace(row, revision="w", owner="", due_at=None), replaces="r", drop=1)
            )
            for index in ("key", "due", "owner", "recent"):
                await driver.scan(Scan(index, owner="e", limit=9))
            await driver.erase(Erase(ADA, at=1.0))
            while not heard:
                await driver.announce(["m"])
                await asyncio.sleep(0.01)

            assert Ability.DURABLE in driver.abilities
            assert [] == [finding for finding in await driver.examine() if finding.level != "ok"]
        finally:
            await driver.close()


@pytest.mark.parametrize("kind", ["valkey-9", "redis-6", "redis-8"])
async def test_what_a_user_may_not_see_is_said_to_be_unknown(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """CONFIG, INFO and TIME forbidden: it works, is not called durable, and the examination copes."""
    with RedisServer(kind, tmp_path) as server:
        assert b"+OK\r\n" == server.ask(
            "ACL", "SETUSER", "chatkeep", "reset", *GRANT.split(), "-info", "-config", "-time"
        )
        url = server.url.replace("redis://", "redis://chatkeep:secret@")
        driver = await opened_on(url)
        try:
            assert 1 == await say(driver, "m")
            assert Ability.DURABLE not in driver.abilities
            assert "could not be checked" in caplog.text

            findings = await driver.examine()
            unknown = {finding.subject for finding in findings if "could not be checked" in finding.said}

            assert {"server", "persistence", "fsync", "eviction", "memory", "role", "clock"} == unknown
            assert "fail" not in {finding.level for finding in findings}
        finally:
            await driver.close()


@pytest.mark.parametrize("kind", ["valkey-9", "redis-6", "redis-8"])
@pytest.mark.parametrize("missing", ["zadd", "hset", "del", "ltrim", "eval"])
async def test_a_user_with_too_few_rights_is_refused_before_it_does_half_of_anything(
    tmp_path: Path, kind: str, missing: str
) -> None:
    """A script would stop in the middle; so the refusal comes at opening, and names the command."""
    with RedisServer(kind, tmp_path) as server:
        rights = [*GRANT.split(), *RIGHTS.split(), f"-{missing}", *(["-evalsha"] if missing == "eval" else [])]
        assert b"+OK\r\n" == server.ask("ACL", "SETUSER", "chatkeep", "reset", *rights)
        url = server.url.replace("redis://", "redis://chatkeep:secret@")
        refused = await refusal_to_open(url)

        assert missing in f"{refused}"
        assert "Grant it" in f"{refused}"
        assert [] == keys_of(server)
        assert ["permissions"] == [found.subject for found in await RedisDriver(url).examine() if found.level == "fail"]


async def test_a_user_of_other_keys_is_refused(server: RedisServer) -> None:
    """The prefix is not one of its own."""
    assert b"+OK\r\n" == server.ask("ACL", "SETUSER", "chatkeep", "reset", *GRANT.split(), *RIGHTS.split())
    url = server.url.replace("redis://", "redis://chatkeep:secret@")
    driver = await opened_on(f"{url}?prefix=chatkeep:two")
    await driver.close()

    assert "permission" in f"{await refusal_to_open(f'{url}?prefix=other')}"


async def test_a_wrong_password_is_said_at_once_and_never_shown(tmp_path: Path) -> None:
    """By `open` and by `examine`; and so it is where one is needed and none is given."""
    with RedisServer("valkey-9", tmp_path, password="right") as server:
        driver = await opened_on(server.url)
        assert 1 == await say(driver, "m")
        await driver.close()
        clock = asyncio.get_running_loop().time
        begun = clock()
        for url in (server.url.replace(":right@", ":secret-word@"), server.url.replace(":right@", "")):
            refused = await refusal_to_open(url)
            findings = await RedisDriver(url).examine()

            assert f"127.0.0.1:{server.port}" in f"{refused}"
            assert "secret-word" not in f"{refused}{findings}"
            assert ["fail"] == [finding.level for finding in findings if finding.level == "fail"]
        assert clock() - begun < 2.0


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """Within the deadline, with its address and what was tried; an examination finds just that."""
    url = "redis://127.0.0.1:1/0?timeout=0.3"
    with pytest.raises(Unavailable, match=re.escape("127.0.0.1:1")):
        await opened_on(url)
    findings = await RedisDriver(url).examine()

    assert [("fail", "reachable")] == [(finding.level, finding.subject) for finding in findings]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h/0?retries=3", "there is no option retries"),
        ("redis://h/0?ca=x", "there is no option ca"),
        ("redis://h/zero", "the number of the database"),
        ("redis://h/0?prefix=a{b}", "the prefix 'a{b}'"),
        ("redis://h/0?prefix=", "the prefix ''"),
        ("redis://h/0?timeout=soon", "timeout is a number"),
        ("redis://h/0?timeout=0", "timeout is a number"),
        ("redis:///0", "it names no host."),
        ("redis:///h", "it names no host."),
        ("redis+cluster://a:1,b:2/3", "with a cluster, nothing"),
        ("redis+cluster://a:1,", "it names no host"),
        ("redis+sentinel://a:1,b:2", "the name of the service"),
        ("redis+sentinel://a:1/name?tls=maybe", "tls is yes or no"),
        ("redis+cluster://a:1?ca=x", "need tls=yes"),
        ("redis+cluster://a:1?ca=", "need tls=yes"),
        ("rediss://h/0?ca=x&cert=", "there is no file 'x', ''"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url: str, said: str) -> None:
    """With what is wrong with it, an example, and the options there are; never with its password."""
    with pytest.raises(Misconfigured, match=re.escape(said)) as refused:
        RedisDriver(url.replace("://", "://me:hidden@"))

    assert "A URL looks like" in f"{refused.value}"
    assert "hidden" not in f"{refused.value}"


async def test_a_newer_store_is_left_alone(driver: RedisDriver, server: RedisServer) -> None:
    """Another format, another number of buckets, or something else under that name."""
    for field, value in (("format", "2"), ("buckets", "many"), ("buckets", "0"), ("buckets", "1025")):
        kept = {"format": "1", "buckets": "64"}[field]
        server.ask("HSET", "chatkeep:meta", field, value)

        assert value in f"{await refusal_to_open(server.url)}"
        assert ["format"] == [found.subject for found in await driver.examine() if found.level == "fail"]
        server.ask("HSET", "chatkeep:meta", field, kept)
    server.ask("SET", "other:meta", "x")

    assert "WRONGTYPE" in f"{await refusal_to_open(f'{server.url}?prefix=other')}"


async def test_a_store_that_lost_a_part_gets_a_new_epoch(
    driver: RedisDriver, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As when one node of a cluster lost its data: whoever had it open is refused there, and the operator is told."""
    await say(driver, "m")
    server.ask("DEL", "chatkeep:{7}:epoch")
    assert "epoch" in [found.subject for found in await driver.examine() if found.level == "warn"]
    again = await opened_on(server.url)
    try:
        assert driver.epoch != again.epoch
        assert "a part of this store was emptied" in caplog.text
        with pytest.raises(Replaced):
            await driver.scan(Scan("due", limit=1))
        assert 2 == await say(again, "n")
    finally:
        await again.close()


async def test_many_who_open_an_empty_store_agree(server: RedisServer) -> None:
    """On one epoch, whoever was first."""
    drivers = await asyncio.gather(*(opened_on(server.url) for _ in range(20)))
    epochs = {driver.epoch for driver in drivers}
    heads = await asyncio.gather(*(say(driver, f"{n}") for n, driver in enumerate(drivers)))
    for driver in drivers:
        await driver.close()

    assert 1 == len(epochs)
    assert list(range(1, 21)) == sorted(heads)


# TLS


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates of it for a server and for a client."""
    folder = tmp_path_factory.mktemp("papers")
    authority = ec.generate_private_key(ec.SECP256R1())
    for name in ("ca", "server", "client"):
        key = authority if name == "ca" else ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=name == "ca",
                    crl_sign=name == "ca",
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
            )  # Python 3.13 wants it
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(authority, hashes.SHA256())
        )
        plain = serialization.NoEncryption()
        pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(key.private_bytes(*pem))
    return folder


@contextlib.asynccontextmanager
async def secured(port: int, papers: Path, *, asks: bool = False) -> AsyncIterator[int]:
    """A port that speaks TLS in front of one that does not; it *asks* clients for a certificate too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(papers / "server.pem", papers / "server.key")
    if asks:
        context.load_verify_locations(papers / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while chunk := await source.read(1 << 16):
                sink.write(chunk)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()  # also when the pump is cancelled

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up, down = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, down), pump(up, writer))

    served = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with served:
        yield served.sockets[0].getsockname()[1]


async def test_tls_to_a_server_whose_certificate_is_trusted(server: RedisServer, papers: Path) -> None:
    """With ?ca=; a server that asks for a certificate gets the one of ?cert= and ?key=."""
    async with secured(server.port, papers) as port:
        driver = await opened_on(f"rediss://127.0.0.1:{port}/0?ca={papers}/ca.pem")
        heard: list[str] = []
        driver.watch(heard.extend)
        await asyncio.gather(*(say(driver, f"{n}", body=os.urandom(20_000)) for n in range(50)))
        while not heard:
            await driver.announce(["m"])
            await asyncio.sleep(0.01)
        await driver.close()
    async with secured(server.port, papers, asks=True) as port:
        url = f"rediss://127.0.0.1:{port}/0?ca={papers}/ca.pem&cert={papers}/client.pem&key={papers}/client.key"
        driver = await opened_on(url)

        assert 50 == len(await log_of(driver))
        await driver.close()


async def test_tls_to_a_server_whose_certificate_is_not_trusted(server: RedisServer, papers: Path) -> None:
    """Refused at once, whether nobody vouches for it or it is another host's; never spoken to in the clear."""
    async with secured(server.port, papers) as port:
        assert "CERTIFICATE_VERIFY_FAILED" in f"{await refusal_to_open(f'rediss://127.0.0.1:{port}/0')}"
        trusting = f"rediss://localhost:{port}/0?ca={papers}/ca.pem"
        assert "CERTIFICATE_VERIFY_FAILED" in f"{await refusal_to_open(trusting)}"
    with pytest.raises((Misconfigured, Unavailable)):
        await opened_on(f"rediss://127.0.0.1:{server.port}/0?timeout=1")
    assert "ca" in f"{await refusal_to_open('rediss://127.0.0.1:1/0?ca=/nowhere.pem')}"


# Clusters


async def half_moved(servers: list[RedisServer], slot: int, owner: int, other: int) -> None:
    """Brings every key of a slot from one server to another, while the slot is still the first one's."""
    ids = [re.findall(rb"\r\n([0-9a-f]{40})", server.ask("CLUSTER", "MYID"))[0].decode() for server in servers]
    servers[other].ask("CLUSTER", "SETSLOT", f"{slot}", "IMPORTING", ids[owner])
    servers[owner].ask("CLUSTER", "SETSLOT", f"{slot}", "MIGRATING", ids[other])
    while keys := servers[owner].ask("CLUSTER", "GETKEYSINSLOT", f"{slot}", "1").split(b"\r\n")[2:-1:2]:
        servers[owner].ask("MIGRATE", "127.0.0.1", f"{servers[other].port}", keys[0].decode(), "0", "5000")
        await asyncio.sleep(0.01)


def wholly_moved(servers: list[RedisServer], slot: int, owner: int, other: int) -> None:
    """Makes the slot the second one's."""
    new = re.findall(rb"\r\n([0-9a-f]{40})", servers[other].ask("CLUSTER", "MYID"))[0].decode()
    for server in (servers[other], servers[owner], servers[3 - owner - other]):
        assert b"+OK\r\n" == server.ask("CLUSTER", "SETSLOT", f"{slot}", "NODE", new)


async def test_a_slot_that_moved_is_followed(tmp_path: Path) -> None:
    """Half-moved (ASK), moved (MOVED), and with keys on both sides: every act is done once, or certainly not."""
    servers = redis_cluster("valkey-9", tmp_path)
    try:
        url = cluster_url(servers)
        driver = await opened_on(url)
        bucket = driver._acts.buckets[redis_acts.bucket_of(redis_acts.member_of(ADA))]
        slot = key_slot(bucket.epoch)
        owner = next(n for n, server in enumerate(servers) if b"MOVED" not in server.ask("GET", bucket.epoch.decode()))
        other = (owner + 1) % 3
        answered = [f"{n}" for n in range(30)]
        for name in answered:
            await say(driver, name)
        going = True

        async def keep_saying() -> None:
            for n in range(LOTS):
                if not going:
                    return
                await settled(lambda n=n: say(driver, f"m{n}"))
                answered.append(f"m{n}")

        talker = asyncio.create_task(keep_saying())
        await half_moved(servers, slot, owner, other)
        await time_passes(0.05)

        # Asked for there, all the keys of a read are found; an act has some that are nowhere yet, and has to wait.
        assert (await driver.read(Read(ADA, tail=1))) is not None
        with pytest.raises(Unavailable, match="TRYAGAIN"):
            await say(driver, "between")
        moved = len(answered)
        wholly_moved(servers, slot, owner, other)
        await settled(lambda: say(driver, "after", BOB))
        await time_passes(0.1)
        going = False
        await talker

        assert answered == await log_of(driver)
        assert len(answered) > moved > 1
        assert ["ada", "bob"] == [row.key.id for row in await driver.scan(Scan("key", limit=9))]
        await driver.close()
    finally:
        for server in servers:
            server.kill()


async def test_a_node_that_is_down_takes_only_its_own_conversations_along(tmp_path: Path) -> None:
    """The others go on; its own are unavailable, not absent, until it is back."""
    servers = redis_cluster("valkey-9", tmp_path, "--cluster-require-full-coverage", "no")
    try:
        driver = await opened_on(cluster_url(servers) + "?timeout=1")
        keys = [Key("", f"{n}") for n in range(30)]
        await asyncio.gather(*(say(driver, "m", key) for key in keys))
        servers[1].kill()
        answers = await asyncio.gather(*(driver.read(Read(key, tail=1)) for key in keys), return_exceptions=True)
        kinds = {type(answer) for answer in answers}

        assert {tuple, Unavailable} == kinds
        with pytest.raises(Unavailable):
            await driver.scan(Scan("key", limit=9))

        await asyncio.to_thread(servers[1].start)
        heads = await asyncio.gather(*(settled(lambda key=key: say(driver, "n", key)) for key in keys))

        assert [2] * 30 == heads
        await driver.close()
    finally:
        for server in servers:
            server.kill()


async def test_a_slot_is_looked_for_when_its_server_is_gone(tmp_path: Path) -> None:
    """Nobody is left to say MOVED: the others are asked, and the call goes on to the new server within its deadline."""
    servers = redis_cluster("valkey-9", tmp_path, "--cluster-require-full-coverage", "no")
    try:
        driver = await opened_on(cluster_url(servers))
        await say(driver, "m")
        name = driver._acts.buckets[redis_acts.bucket_of(redis_acts.member_of(ADA))].epoch
        owner = next(n for n, server in enumerate(servers) if b"MOVED" not in server.ask("GET", name.decode()))
        other = (owner + 1) % 3
        await half_moved(servers, key_slot(name), owner, other)
        wholly_moved(servers, key_slot(name), owner, other)
        servers[owner].kill()
        await time_passes(0.05)

        assert 2 == await say(driver, "n")
        await driver.close()
    finally:
        for server in servers:
            server.kill()


async def test_a_node_of_a_cluster_is_not_taken_for_a_server(tmp_path: Path) -> None:
    """redis:// to it is refused with the scheme that is meant; redis+cluster:// to a lone server too."""
    servers = redis_cluster("valkey-9", tmp_path)
    try:
        assert "redis+cluster://" in f"{await refusal_to_open(servers[0].url)}"
    finally:
        for server in servers:
            server.kill()


async def test_a_lone_server_is_not_taken_for_a_cluster(server: RedisServer) -> None:
    """It says so itself."""
    assert "cluster support disabled" in f"{await refusal_to_open(f'redis+cluster://127.0.0.1:{server.port}')}"


# Sentinel


async def test_a_failover_is_followed(tmp_path: Path) -> None:
    """The primary is killed: what was replicated is there on the new one, and the driver finds it by itself."""
    watched = redis_sentinel("valkey-9", tmp_path)
    try:
        driver = await opened_on(f"{watched['url']}?timeout=2")
        heard: list[str] = []
        driver.watch(heard.extend)
        await say(driver, "before")
        found = {finding.subject: finding for finding in await driver.examine()}
        watched["primary"].ask("WAIT", "1", "1000")
        watched["primary"].kill()
        with pytest.raises((Unavailable, Uncertain)):
            await say(driver, "during")
        head = await settled(lambda: say(driver, "after"))

        assert "lost when one of them takes over" in found["role"].said
        assert ["before", "after"] == [id for id in await log_of(driver) if id != "during"]
        assert head == len(await log_of(driver))
        assert b"master" in watched["replica"].ask("ROLE")
        while not heard:
            await driver.announce(["m"])
            await asyncio.sleep(0.01)
        await driver.close()
    finally:
        stop_all(watched)


async def test_a_switch_is_followed_though_the_old_primary_lives_on(tmp_path: Path) -> None:
    """The sentinels switch, and the old primary, which is not told for seconds, still takes what it is sent: what was answered a
    second after the switch or later is on the new one."""
    watched = redis_sentinel("valkey-9", tmp_path)
    watcher, old = watched["sentinels"][0], watched["primary"]
    try:
        driver = await opened_on(f"{watched['url']}?timeout=2")
        await say(driver, "before")
        found = {finding.subject: finding for finding in await driver.examine()}
        old.ask("WAIT", "1", "1000")
        watcher.ask("SENTINEL", "FAILOVER", "chat")
        named, answered, began = math.inf, list[str](), time.monotonic()
        while time.monotonic() < min(named + 5, began + 15):
            if named == math.inf and str(old.port).encode() not in watcher.ask(
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "chat"
            ):
                named = time.monotonic()
            id = f"{len(answered)}-{time.monotonic()}"
            begun = time.monotonic()
            with contextlib.suppress(Unavailable, Uncertain):
                await say(driver, id)
                answered += [id] if begun > named + 1 else []
            await time_passes(0.02)
        await driver.close()
        anew = await opened_on(f"{watched['url']}?timeout=2")  # on whom the sentinels name
        kept = set(await log_of(anew))
        await anew.close()

        assert "min-replicas-to-write" in found["role"].said
        assert named < math.inf
        assert len(answered) > 20
        assert [] == [id for id in answered if id not in kept]
    finally:
        stop_all(watched)


async def test_a_service_that_sentinel_does_not_know_is_unavailable(tmp_path: Path) -> None:
    """The name is in the message."""
    watched = redis_sentinel("valkey-9", tmp_path)
    try:
        with pytest.raises(Unavailable, match="'nobody'"):
            await opened_on(watched["url"].replace("/chat", "/nobody?timeout=0.5"))
    finally:
        stop_all(watched)


@examples(4)
@given(strategies.lists(strategies.sampled_from([b"{", b"}", b"chatkeep", b"7"])).map(b"".join))
def test_a_key_has_the_slot_that_redis_py_gives_it(key: bytes) -> None:
    """Whatever stands in braces, or in half of them."""
    assert key_slot(key) == slot_of(key)


async def test_a_host_that_is_gone_shows_on_a_connection_that_only_waits(server: RedisServer) -> None:
    """The listener's, above all."""
    address = urlsplit(server.url)
    with await Connection.open((address.hostname or "", address.port or 0)) as connection:
        link = connection._writer.get_extra_info("socket")
        kept = link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        probes = [link.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name, _ in PROBES]

    assert 1 == kept
    assert [30, 10, 3] == probes


async def test_a_server_that_is_no_redis_is_unavailable_and_that_is_said() -> None:
    """An HTTP server at the port, say."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable, match="is no Redis"):
            await opened_on(f"redis://127.0.0.1:{port}?timeout=0.5")


async def test_why_a_server_hangs_up_at_once_is_said(tmp_path: Path) -> None:
    """It has as many clients as it takes, here; it could be in protected mode."""
    with RedisServer("valkey-9", tmp_path, "--maxclients", "1") as full:
        address = urlsplit(full.url)
        with await Connection.open((address.hostname or "", address.port or 0)) as only:
            await only.ask(b"PING")
            with pytest.raises(Unavailable, match="max number of clients reached"):
                await opened_on(f"{full.url}?timeout=0.5")
