"""What only PostgreSQL has: a schema, its functions, its locks, its rights, connections that break, and a pooler."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec import structs
from packaging.requirements import Requirement
from packaging.version import Version

from chatkeep import Chatkeep, Turn
from chatkeep.drivers import batching
from chatkeep.drivers.base import (
    COUNTERS_KEPT_S,
    Ability,
    Append,
    Count,
    Driver,
    Entries,
    Entry,
    Erase,
    Index,
    Key,
    Lease,
    Read,
    Row,
    Scan,
    Write,
)
from chatkeep.drivers.postgresql.driver import PostgresqlDriver
from chatkeep.drivers.postgresql.opening import INNER, migrations
from chatkeep.drivers.postgresql.transport import Connections
from chatkeep.errors import (
    BadMessage,
    ChatkeepError,
    Corrupt,
    Misconfigured,
    Overloaded,
    Replaced,
    Unavailable,
    Uncertain,
)
from chatkeep.testing import DriverContract
from chatkeep.testing.machine import DriverMachine
from chatkeep.testing.programs import postgres_binary, unprivileged
from chatkeep.testing.proxy import Loss, Proxy
from chatkeep.testing.servers import PostgresServer

from ..support.logs import ADA, LOTS, log_of
from ..support.recent import pages_are_whole
from ..support.soaking import SOAK, few_or_many
from ..support.waiting import time_passes, until

pytestmark = pytest.mark.server

BOB = Key("", "bob")
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "postgresql.md"


@pytest.fixture
async def url(postgres: PostgresServer) -> AsyncIterator[str]:
    """A schema that is not there yet, and is gone afterwards."""
    schema = f"t{secrets.token_hex(6)}"
    yield f"{postgres.url}?schema={schema}"
    await run_sql(postgres.url, f"drop schema if exists {schema} cascade")


@pytest.fixture
async def driver(url: str) -> AsyncIterator[PostgresqlDriver]:
    """A driver on it."""
    opened = await opened_on(url)
    yield opened
    await opened.close()


async def run_sql(url: str, sql: str, *arguments: Any) -> list[Any]:
    """What an administrator does; CK stands for the URL's schema."""
    connection = await asyncpg.connect(url.partition("?")[0])
    schema = re.sub(r".*schema=(\w+).*|.*", r"\1", url)
    try:
        await connection.execute("set client_min_messages = warning")
        return list(await connection.fetch(sql.replace("CK", schema), *arguments))
    finally:
        await connection.close()


async def opened_on(url: str) -> PostgresqlDriver:
    """Another driver on the schema."""
    driver = PostgresqlDriver(url)
    await driver.open()
    return driver


async def refusal_to_open(url: str) -> ChatkeepError:
    """Why the store is refused."""
    try:
        driver = await opened_on(url)
    except ChatkeepError as refusal:
        return refusal
    await driver.close()
    raise AssertionError(f"{url} was opened")


async def say(driver: Driver, id: str, key: Key = ADA, at: float = 1.0) -> int:
    """One append; the number it was given."""
    answer = await driver.append(Append(key, [Entry(0, id, "u", b"hello")], revision=f"revision of {id}", at=at))
    return answer.row.head


async def settled(act: Any) -> Any:
    """Runs *act* again until it is known what became of it, as the store does."""
    while True:
        with contextlib.suppress(Uncertain, Unavailable):
            return await act()


class TestPostgresql(DriverContract):
    """postgresql://, several drivers on one schema."""

    @pytest.fixture(autouse=True)
    def fresh_store(self, url: str) -> None:
        """A schema of the test's own."""
        self.url = url

    async def open_driver(self) -> Driver:
        """Another driver on the schema."""
        return await opened_on(self.url)

    async def empty_store(self) -> None:
        """What somebody does who starts afresh."""
        await run_sql(self.url, "drop schema CK cascade")


@few_or_many("examples", 4, 25 * SOAK)
def test_random_histories(postgres: PostgresServer, examples: int) -> None:
    """Three connections on one schema, emptied for each history, never answer otherwise than the model."""
    url = f"{postgres.url}?schema=histories"

    def fresh_store() -> DriverMachine:
        asyncio.run(run_sql(url, "truncate CK.conversation, CK.entry, CK.tombstone"))
        return DriverMachine(lambda: opened_on(url))

    async def make_schema() -> None:
        await (await opened_on(url)).close()

    asyncio.run(make_schema())
    try:
        how = settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        )
        run_state_machine_as_test(fresh_store, settings=how)
    finally:
        asyncio.run(run_sql(url, "drop schema CK cascade"))


# On the wire


async def test_a_verb_is_one_round_trip(postgres: PostgresServer, url: str) -> None:
    """Counted at a proxy, on connections that have run the statement before."""
    trips: dict[str, int] = {}
    async with Proxy(postgres.port) as proxy:
        driver = await opened_on(url.replace(f":{postgres.port}", f":{proxy.port}") + "&connections=2")

        async def count(name: str, act: Awaitable[Any]) -> Any:
            before = proxy.trips
            answer = await act
            trips[name] = proxy.trips - before
            return answer

        for turn in range(2):
            row = (await count("append", driver.append(Append(ADA, [], revision=f"a{turn}", at=1.0)))).row
            row = await count(
                "write", driver.write(Write(structs.replace(row, revision=f"b{turn}"), replaces=row.revision))
            )
            await count("read", driver.read(Read(ADA, tail=5)))
            await count("entries", driver.entries(Entries(ADA, after=0, limit=5)))
            await count("scan", driver.scan(Scan("due", limit=5)))
            await count("erase", driver.erase(Erase(BOB, at=1.0)))
        await driver.close()

    assert dict.fromkeys(("append", "write", "read", "entries", "scan", "erase"), 1) == trips


async def test_what_a_function_takes(postgres: PostgresServer, url: str) -> None:
    """In round trips, counted at a proxy, on a store that is there: a process that answers one message, then one that is warm. asyncpg
    alone takes four of an opening (TLS refused, three to sign in), and one more for each statement of three when it is first run."""
    async with Proxy(postgres.port) as proxy:

        async def ran() -> list[int]:
            through = url.replace(f":{postgres.port}", f":{proxy.port}")
            keep: Chatkeep[dict[str, Any]] = Chatkeep(through, background=False, poll="1h")
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
        before = proxy.connections
        opened, cold, warm = await ran()

        assert (8, 1) == (opened, warm)
        assert cold <= 3
        assert 1 == proxy.connections - before


async def test_calls_do_not_pile_up_without_bound(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many wait; the others are told at once that nothing was written, and each that waits is answered."""
    monkeypatch.setattr(batching, "WAITING", 50)
    driver = await opened_on(url)
    answers = await asyncio.gather(*(say(driver, f"m{n}") for n in range(80)), return_exceptions=True)

    assert [int] * 50 + [Overloaded] * 30 == list(map(type, answers))
    assert 51 == await say(driver, "after")
    await driver.close()


async def test_counters_whose_windows_ended_long_ago_are_removed(
    driver: PostgresqlDriver, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table does not grow for ever, and costs no flush to disk."""
    await asyncio.gather(*(driver.count(Count(f"{n}", 60.0, float(n))) for n in range(20)))
    await driver.count(Count("last", 60.0, 100.0 + COUNTERS_KEPT_S))
    await driver.count(Count("last", 60.0, 101.0 + COUNTERS_KEPT_S))
    left = await run_sql(url, "select name, hits from CK.counter")
    [kind] = await run_sql(url, "select relpersistence from pg_class where oid = 'CK.counter'::regclass")

    assert [("last", 2)] == [tuple(row) for row in left]
    assert b"u" == kind[0]


async def test_acts_that_wait_share_a_commit(driver: PostgresqlDriver) -> None:
    """Under load a few transactions carry hundreds of acts."""
    sizes: list[int] = []
    arguments = driver._acts.arguments
    driver._acts = structs.replace(driver._acts, arguments=lambda acts: sizes.append(len(acts)) or arguments(acts))
    await say(driver, "alone")
    await asyncio.gather(*(say(driver, f"m{n}", Key("", f"{n % 50}")) for n in range(500)))

    assert (1, 501) == (sizes[0], sum(sizes))
    assert len(sizes) <= 8


async def test_an_act_that_cannot_be_stored_fails_alone(driver: PostgresqlDriver) -> None:
    """Its neighbours in the batch are done; nothing of it is."""
    broken = [Key("", "a\0b"), Key("", "\ud800")]
    acts = [say(driver, "m1", key) for key in (ADA, *broken, BOB)]
    answers = await asyncio.gather(*acts, return_exceptions=True)

    assert [int, BadMessage, BadMessage, int] == [type(answer) for answer in answers]
    assert (["m1"], ["m1"]) == (await log_of(driver), await log_of(driver, BOB))


async def test_a_log_that_was_tampered_with_is_corrupt(driver: PostgresqlDriver, url: str) -> None:
    """Numbers that are taken already are refused, for that conversation only."""
    for turn in range(3):
        await say(driver, f"{turn}")
    await run_sql(url, "update CK.conversation set head = 1")
    answers = await asyncio.gather(say(driver, "new"), say(driver, "m1", BOB), return_exceptions=True)

    assert [Corrupt, int] == [type(answer) for answer in answers]
    assert "ada: nothing was changed" in str(answers[0])


# Speed that lasts


async def test_the_common_turn_is_a_hot_update(driver: PostgresqlDriver, url: str) -> None:
    """It changes revision, head and body in the same page: no index learns of it."""
    row = Row(key=ADA, revision="r0", incarnation="r0", updated_at=600.0, body=b"x" * 900)
    row = await driver.write(Write(row, replaces=None))
    for turn in range(100):
        new = structs.replace(row, revision=f"r{turn + 1}", body=b"%d" % turn * 300, updated_at=600.0 + turn / 10)
        row = await driver.write(Write(new, replaces=row.revision, entries=[Entry(0, f"{turn}", "u", b"hello")]))
    await driver.close()
    sql = (
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where schemaname = 'CK' and relname = 'conversation'"
    )
    for _ in range(100):
        updates, hot = (await run_sql(url, sql))[0]
        if updates == 100:
            break
        await asyncio.sleep(0.05)

    assert 100 == updates
    assert hot >= 95


@pytest.mark.parametrize("first", ["append", "write"])
async def test_no_plan_walks_a_table_that_has_grown(driver: PostgresqlDriver, url: str, first: str) -> None:
    """Plans made on empty tables, without any statistics, touch a few pages an act and no more, for as long as they
    live."""
    for table in ("conversation", "entry"):
        await run_sql(url, f"alter table CK.{table} set (autovacuum_enabled = false)")
    keys = [Key("", f"{n}") for n in range(100)]
    if first == "append":
        rows = [(await driver.append(Append(key, [Entry(0, "0", "u", b"")], revision="r", at=1.0))).row for key in keys]
    else:
        rows = [
            await driver.write(Write(Row(key=key, revision="r", incarnation="r", updated_at=1.0), replaces=None))
            for key in keys
        ]
    for turn in range(1, 41):
        entries = [Entry(0, f"{turn} of {first}", "u", b""), Entry(0, "", "a", b"")]
        acts = [
            driver.write(Write(structs.replace(row, revision=f"{turn}"), replaces=row.revision, entries=entries))
            for row in rows
        ]
        rows = list(await asyncio.gather(*acts))
    for row in rows:
        row, _, _ = await driver.append(Append(row.key, [Entry(0, "last", "u", b"")], revision="a", at=2.0, tail=2))

        assert (row.head, "a") == (
            (await driver.entries(Entries(row.key, before=LOTS, limit=1)))[0].number,
            row.revision,
        )
    await driver.scan(Scan("due", limit=5))
    await driver.scan(Scan("recent", tenant="", limit=5))
    await driver.close()
    entries_made = 8_200 if first == "append" else 8_100
    sql = (
        "select sum(seq_tup_read)::int, sum(n_tup_ins)::int, sum(idx_tup_fetch)::int, "
        "(select sum(idx_blks_hit)::int from pg_statio_user_indexes "
        "where schemaname = 'CK') from pg_stat_user_tables where schemaname = 'CK' and relname in ('conversation', 'entry')"
    )
    for _ in range(100):
        walked, inserted, fetched, blocks = (await run_sql(url, sql))[0]
        if inserted == entries_made + 100:
            break
        await asyncio.sleep(0.05)

    assert (0, entries_made + 100) == (walked, inserted)
    assert blocks < 60_000
    assert fetched < 15_000


# Durability


async def test_an_answered_act_is_flushed_whatever_the_role_prefers(postgres: PostgresServer, url: str) -> None:
    """With synchronous_commit off for everybody else, the log is on disk up to the act when it is answered."""
    role = f"r{secrets.token_hex(4)}"
    await run_sql(url, f"create role {role} superuser login password 'secret'")
    await run_sql(url, f"alter role {role} set synchronous_commit = off")
    try:
        driver = await opened_on(url.replace("//postgres:", f"//{role}:"))
        for turn in range(20):
            before = await run_sql(url, "select pg_current_wal_insert_lsn()")
            await say(driver, f"{turn}")
            flushed = await run_sql(url, "select pg_current_wal_flush_lsn() > $1", before[0][0])

            assert [True] == [*flushed[0]]
        await driver.close()
    finally:
        await run_sql(url, f"drop owned by {role} cascade")
        await run_sql(url, f"drop role {role}")


# Breaking connections


@pytest.mark.parametrize("loss", ["request", "reply"])
async def test_a_lost_commit_is_uncertain_and_the_same_act_settles_it(
    postgres: PostgresServer, url: str, loss: Loss
) -> None:
    """Reset before the server saw it, or after it was done: nobody can tell, and running it again does it once."""
    countdown = 0

    def lose(request: bytes) -> Loss | None:
        nonlocal countdown
        if b"\0\0\0\6append" not in request and b"\0\0\0\5write" not in request:
            return None
        countdown += 1
        return loss if countdown % 4 == 3 else None

    async with Proxy(postgres.port) as proxy:
        driver = await opened_on(url.replace(f":{postgres.port}", f":{proxy.port}"))
        proxy.lose = lose
        uncertain = 0

        async def counted(act: Any) -> Any:
            nonlocal uncertain
            try:
                return await act()
            except Uncertain:
                uncertain += 1
                raise

        row = Row(key=ADA, revision="", incarnation="")
        for turn in range(12):
            await settled(lambda turn=turn: counted(lambda: say(driver, f"a{turn}")))
            row, _ = await settled(lambda: driver.read(Read(ADA, tail=0)))
            new = structs.replace(row, revision=f"w{turn}", body=b"%d" % (int(row.body or b"0") + 1))
            entry = [Entry(0, "", "a", b"")]
            row = await settled(
                lambda new=new, row=row, entry=entry: counted(
                    lambda: driver.write(Write(new, replaces=row.revision, entries=entry))
                )
            )
        await driver.close()
    driver = await opened_on(url)
    ids = await log_of(driver)
    await driver.close()

    assert [id for turn in range(12) for id in (f"a{turn}", "")] == ids
    assert b"12" == row.body
    assert uncertain == proxy.lost[loss] >= 6


async def test_a_silent_server_is_not_waited_for(postgres: PostgresServer, url: str) -> None:
    """Acts that were sent are uncertain, reads and acts that were not are unavailable, all in time; then it goes on."""
    async with Proxy(postgres.port) as proxy:
        driver = await opened_on(url.replace(f":{postgres.port}", f":{proxy.port}") + "&timeout=2&connections=2")
        await say(driver, "before")
        await driver.read(Read(ADA, tail=1))
        proxy.silent = True
        acts = [say(driver, "sent"), driver.read(Read(ADA, tail=1))]
        loop = asyncio.get_running_loop()
        began = loop.time()
        sent = asyncio.gather(*acts, return_exceptions=True)
        await time_passes(0.05)
        waiting = asyncio.gather(say(driver, "waiting"), driver.scan(Scan("key", limit=1)), return_exceptions=True)

        assert [Unavailable, Unavailable] == [type(answer) for answer in await waiting]
        assert loop.time() - began < 1.9
        assert [Uncertain, Unavailable] == [type(answer) for answer in await sent]
        assert loop.time() - began < 3.5

        proxy.silent = False
        await settled(lambda: say(driver, "sent"))

        assert ["before", "sent"] == await log_of(driver)
        await driver.close()


async def test_a_refusing_server_is_unavailable_and_not_stormed(postgres: PostgresServer, url: str) -> None:
    """While nothing answers every call is refused in time, after growing pauses; when it is back, calls are done."""
    async with Proxy(postgres.port) as proxy:
        driver = await opened_on(url.replace(f":{postgres.port}", f":{proxy.port}") + "&timeout=2&connections=2")
        proxy.refusing = True
        proxy.cut()
        await time_passes(0.05)
        before = proxy.connections
        for turn in range(3):
            with pytest.raises(Unavailable, match=r"[Nn]othing was done"):
                await say(driver, f"lost{turn}")

        assert proxy.connections - before < 40

        proxy.refusing = False
        await settled(lambda: say(driver, "found"))

        assert ["found"] == await log_of(driver)
        await driver.close()


async def test_a_session_that_an_administrator_ends_is_replaced(driver: PostgresqlDriver, url: str) -> None:
    """An idle connection that was ended is not used again: nobody notices."""
    for turn in range(5):
        links = driver._connections
        assert isinstance(links, Connections)
        ended = await run_sql(
            url, "select pid, pg_terminate_backend(pid) from pg_stat_activity where application_name = 'chatkeep'"
        )
        pids = {row["pid"] for row in ended}

        def are_known_as_ended(links: Connections = links, pids: set[int] = pids) -> bool:
            held = [link for one in (links.writer, links.readers) for link in one._connections if link is not None]
            return not any(link.get_server_pid() in pids and not link.is_closed() for link in held)

        await until(are_known_as_ended)

        assert turn + 1 == await say(driver, f"{turn}")
        assert turn + 1 == len(await log_of(driver))


async def test_announcements_are_heard_again_after_a_break(driver: PostgresqlDriver, url: str) -> None:
    """The listener comes back by itself."""
    heard: list[str] = []
    driver.watch(heard.extend)

    async def announced(mark: str) -> bool:
        for _ in range(200):
            await driver.announce([mark, "x" * 5000, "y" * 5000])
            await asyncio.sleep(0.025)
            if {mark, "x" * 5000, "y" * 5000} <= set(heard):
                return True
        return False

    assert await announced("before")

    heard.clear()
    await run_sql(url, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'chatkeep'")

    assert await announced("after")


async def test_a_deadlock_is_tried_again_inside(url: str) -> None:
    """Somebody else locks crosswise: the act is rolled back, run again, and done once."""
    driver = await opened_on(
        f"{url}&timeout=60"
    )  # or its patience with locks ends before PostgreSQL looks for a deadlock
    await asyncio.gather(say(driver, "a", ADA), say(driver, "a", BOB))
    other = await asyncpg.connect(url.partition("?")[0])
    lock = f"select 1 from {driver._site.schema}.conversation where id = $1 for update"
    async with other.transaction():
        await other.execute("set local deadlock_timeout = '20s'")  # so that it is the driver who is told
        await other.fetch(lock, "bob")
        acts = asyncio.gather(say(driver, "b", ADA), say(driver, "b", BOB))
        await time_passes(0.2)
        await other.fetch(lock, "ada")
    await other.close()

    assert [2, 2] == await acts
    assert (["a", "b"], ["a", "b"]) == (await log_of(driver), await log_of(driver, BOB))
    await driver.close()


@contextlib.asynccontextmanager
async def ada_locked(url: str, driver: PostgresqlDriver) -> AsyncIterator[None]:
    """Somebody else's transaction holds a conversation's row."""
    other = await asyncpg.connect(url.partition("?")[0])
    try:
        async with other.transaction():
            await other.fetch(f"select 1 from {driver._site.schema}.conversation where id = 'ada' for update")
            yield
    finally:
        await other.close()


async def test_a_conversation_that_somebody_locks_holds_up_no_other(url: str) -> None:
    """Its act is certainly not done and says so; its neighbours in the batch are done."""
    driver = await opened_on(f"{url}&timeout=1&connections=2")
    await say(driver, "a", ADA)
    async with ada_locked(url, driver):
        answers = await asyncio.gather(say(driver, "b", ADA), say(driver, "b", BOB), return_exceptions=True)

    assert [Unavailable, int] == [type(answer) for answer in answers]
    assert "nothing was written" in str(answers[0])
    assert 2 == await say(driver, "b", ADA)
    await driver.close()


async def test_a_crowd_is_shared_by_the_connections(url: str) -> None:
    """While one half waits for a lock, the other is done; and acts on one conversation are done in their order."""
    driver = await opened_on(f"{url}&timeout=20")
    await say(driver, "a", ADA)
    async with ada_locked(url, driver):
        keys = [*(ADA, *(Key("", f"{n}") for n in range(30))), *(ADA, *(Key("", f"{n}") for n in range(30, 60)))]
        acts = [asyncio.create_task(say(driver, f"{n}", key)) for n, key in enumerate(keys)]
        await asyncio.wait(acts[-30:], timeout=0.5)
        done = [act.done() for act in acts]

    assert [*[False] * 32, *[True] * 30] == done
    assert [2, *[1] * 30, 3, *[1] * 30] == [await act for act in acts]
    assert ["a", "0", "31"] == await log_of(driver)
    await driver.close()


async def test_acts_on_one_conversation_wait_for_each_other_and_for_nobody_else(url: str) -> None:
    """What comes later, while an act on it is under way, is done after it; what is in between is not held up."""
    driver = await opened_on(f"{url}&timeout=20")
    await asyncio.gather(say(driver, "a", ADA), say(driver, "a", BOB))
    async with ada_locked(url, driver):
        first = [asyncio.create_task(say(driver, "b", key)) for key in (ADA, BOB)]
        await time_passes(0.1)
        later = [asyncio.create_task(say(driver, "c", key)) for key in (BOB, Key("", "carl"), ADA)]
        await asyncio.wait(later, timeout=0.4)
        done = [act.done() for act in (*first, *later)]

    assert [False, False, False, True, False] == done
    assert [2, 2, 3, 1, 3] == [await act for act in (*first, *later)]
    assert (["a", "b", "c"], ["a", "b", "c"]) == (await log_of(driver), await log_of(driver, BOB))
    await driver.close()


async def test_closing_waits_for_acts_that_wait_for_each_other(url: str) -> None:
    """One is under way, another waits for it, a third worker has nothing to do: all are done before it is closed."""
    driver = await opened_on(f"{url}&connections=6")
    acts: list[asyncio.Task[int]] = []
    for turn in range(5):
        acts += [asyncio.create_task(say(driver, f"{turn}.{n}", (ADA, BOB)[n % 2])) for n in range(30)]
        await time_passes(0.001)
    await asyncio.wait_for(driver.close(), 10)

    assert [75, 75] == [max([await act for act in acts[start::2]]) for start in (0, 1)]


async def test_batches_never_lock_crosswise(url: str) -> None:
    """Whatever order acts come in, two instances take the same keys in the same order."""
    drivers = [await opened_on(url) for _ in range(2)]
    sql = "select deadlocks from pg_stat_database where datname = current_database()"
    before = await run_sql(url, sql)
    for turn in range(10):
        keys = [Key("", f"{n}") for n in range(40)]
        acts = [say(drivers[0], f"{turn}.0", key) for key in keys]
        acts += [say(drivers[1], f"{turn}.1", key) for key in reversed(keys)]
        await asyncio.gather(*acts)
    for driver in drivers:
        await driver.close()
    await asyncio.sleep(0.1)

    assert before == await run_sql(url, sql)


async def test_a_read_only_server_is_unavailable_and_left(url: str) -> None:
    """After a failover the old primary answers 25006: nothing was written, and the connection is not used again."""
    driver = await opened_on(f"{url}&connections=2")
    await say(driver, "before")
    connection = driver._connections.writer._connections[0]
    assert connection is not None
    await connection.execute("set default_transaction_read_only = on")
    with pytest.raises(Unavailable, match=r"nothing was written.*ReadOnly"):
        await say(driver, "refused")

    assert 2 == await say(driver, "after")
    await driver.close()


# A server of the test's own


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that may be killed."""
    with PostgresServer(tmp_path) as started:
        yield started


async def test_what_was_answered_survives_kill_9(server: PostgresServer) -> None:
    """The postmaster and all its children, several times; the driver comes back by itself, appends in flight included."""
    driver = await opened_on(server.url)
    answered: list[str] = []
    sent: list[str] = []

    async def talk() -> None:
        for turn in range(LOTS):
            if stopping.is_set():
                return
            id = f"{turn}"
            sent.append(id)
            await settled(lambda name=id: say(driver, name))
            answered.append(id)

    stopping = asyncio.Event()
    talking = asyncio.create_task(talk())
    for _ in range(2):
        await time_passes(0.3)
        server.kill()
        await asyncio.to_thread(server.start)
        before = len(answered)
        for _ in range(500):
            if len(answered) > before + 10:
                break
            await asyncio.sleep(0.02)

        assert len(answered) > before + 10
    stopping.set()
    await talking

    assert answered == sent == await log_of(driver)
    await driver.close()


async def test_a_careless_server_is_not_called_durable(
    server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """fsync off: it works, is loud about it, and does not declare what it cannot keep."""
    server.stop()
    server.options = ("fsync=off", "full_page_writes=off")
    await asyncio.to_thread(server.start)
    with caplog.at_level(logging.WARNING, "chatkeep"):
        driver = await opened_on(server.url)
    findings = {finding.subject: finding for finding in await driver.examine()}
    await driver.close()

    assert Ability.DURABLE not in driver.abilities
    assert "is not durable: with fsync and full_page_writes off" in caplog.text
    assert ("warn", True) == (findings["durability"].level, "fsync is off" in findings["durability"].said)


async def test_a_standby_is_refused_and_the_primary_beside_it_found(server: PostgresServer, tmp_path: Path) -> None:
    """Whichever is named first; a standby alone says what to do."""
    first = await opened_on(server.url)
    await say(first, "m1")
    await first.close()
    home = tmp_path / "standby"
    home.mkdir()
    standby = PostgresServer(home, "hot_standby=on")
    copy = [
        *unprivileged(),
        postgres_binary("pg_basebackup"),
        "-h",
        "127.0.0.1",
        "-p",
        f"{server.port}",
        "-U",
        "postgres",
    ]
    copy += ["-D", str(standby.data), "-R", "-c", "fast", "--no-sync"]
    await asyncio.to_thread(
        subprocess.run, copy, check=True, capture_output=True, env=os.environ | {"PGPASSWORD": server.password}
    )
    standby.data.chmod(0o700)
    with standby:
        refusal = await refusal_to_open(standby.url)
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{server.port}"
        driver = await opened_on(server.url.replace(f"127.0.0.1:{server.port}", hosts))

        assert ["m1"] == await log_of(driver)
        assert 2 == await say(driver, "m2")
        await driver.close()

    assert isinstance(refusal, Unavailable)
    assert "name the primary too" in str(refusal)


# The schema


COLUMNS = {
    "meta": "name! value!",
    "conversation": "number! tenant! id! born! owner! created_at! erased_at recent! due_at claim claimed_until! wake updated_at! head! "
    "revision! body!",
    "entry": "conversation! number! id! role! body!",
    "tombstone": "key! mark!",
    "counter": "name! hits! ends!",
}
INDEXES = {
    "meta_pkey": "(name)",
    "conversation_pkey": "(tenant, id)",
    "conversation_wake": "(wake, tenant, id) WHERE (wake IS NOT NULL)",
    "conversation_owner": "(owner, tenant, id) WHERE (owner <> ''::text)",
    "conversation_recent": "(((tenant || ''::text)), recent)",
    "entry_pkey": "(conversation, number)",
    "entry_id": "(id, ((- conversation))) WHERE (id <> ''::text)",
    "tombstone_pkey": "(key)",
    "tombstone_mark": "(mark)",
    "counter_pkey": "(name)",
    "counter_ends": "(ends)",
}


async def schema(url: str) -> tuple[dict[str, str], dict[str, str]]:
    """The tables with their columns (!: not null), and the indexes."""
    columns = await run_sql(
        url,
        "select relname, string_agg(attname || case when attnotnull then '!' else '' end, ' ' order by attnum) from pg_class c "
        "join pg_attribute a on attrelid = c.oid and attnum > 0 where relnamespace = 'CK'::regnamespace and relkind = 'r' group by 1",
    )
    indexes = await run_sql(
        url,
        "select indexname, regexp_replace(indexdef, '.* USING btree ', '') as columns from pg_indexes where schemaname = 'CK'",
    )
    return dict(map(tuple, columns)), dict(map(tuple, indexes))


async def test_the_built_schema_is_the_expected_one(driver: PostgresqlDriver, url: str) -> None:
    """Tables, columns and indexes, as whoever reads them with SQL relies on."""
    assert (COLUMNS, INDEXES) == await schema(url)


async def test_many_may_open_a_new_store_at_once(url: str) -> None:
    """One of them makes the schema, all of them use it."""
    drivers = await asyncio.gather(*(opened_on(url) for _ in range(8)))
    await asyncio.gather(*(say(driver, f"{n}") for n, driver in enumerate(drivers)))

    assert {f"{n}" for n in range(8)} == set(await log_of(drivers[0]))
    assert 1 == len({driver.epoch for driver in drivers})
    assert (COLUMNS, INDEXES) == await schema(url)
    for driver in drivers:
        await driver.close()


MIGRATING = """
import asyncio, sys
import asyncpg
from chatkeep.drivers.postgresql import PostgresqlDriver

steps = 0

async def stuck(transaction, *how):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        print("inside", flush=True)
        await asyncio.sleep(60)
    return await done(transaction, *how)

done = asyncpg.transaction.Transaction.__aexit__
asyncpg.transaction.Transaction.__aexit__ = stuck
asyncio.run(PostgresqlDriver(sys.argv[1]).open())
"""


@pytest.mark.parametrize("step", [1, 2, 3, 4])
async def test_a_migration_that_is_killed_midway_is_run_again(url: str, step: int) -> None:
    """kill -9 inside the transaction: nothing of that step is there, and whoever opens next makes the rest."""
    process = subprocess.Popen([sys.executable, "-c", MIGRATING, url, f"{step}"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = await asyncio.to_thread(process.stdout.readline)
    opening = asyncio.create_task(opened_on(url))  # one that waits for the lock meanwhile
    await time_passes(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    driver = await opening
    await say(driver, "m1")
    await driver.close()

    assert "inside\n" == said
    assert (COLUMNS, INDEXES) == await schema(url)


async def test_a_newer_schema_is_refused(driver: PostgresqlDriver, url: str) -> None:
    """Untouched, with what to do."""
    await run_sql(url, "update CK.meta set value = '99' where name = 'schema'")
    refusal = await refusal_to_open(url)
    failed = [finding.subject for finding in await driver.examine() if finding.level == "fail"]

    assert isinstance(refusal, Misconfigured)
    assert re.search(r"newer chatkeep \(schema 99.*nothing was changed.*Deploy", str(refusal))
    assert ["schema"] == failed


async def test_an_emptied_meta_is_refused(driver: PostgresqlDriver, url: str) -> None:
    """By drivers that are open, and by those that would open it."""
    await run_sql(url, "truncate CK.meta, CK.conversation, CK.entry")
    refusal = await refusal_to_open(url)
    with pytest.raises(Replaced):
        await driver.read(Read(ADA, tail=1))

    assert isinstance(refusal, Misconfigured)
    assert "emptied it by hand" in str(refusal)


async def test_a_restored_backup_goes_on(driver: PostgresqlDriver, url: str) -> None:
    """It has the epoch of the store it was taken from, so that an open driver accepts it."""
    await say(driver, "m1")
    await run_sql(url, "create table CK.copy as select * from CK.entry")
    await say(driver, "m2")
    await run_sql(url, "truncate CK.entry")
    await run_sql(url, "insert into CK.entry select * from CK.copy")
    await run_sql(url, "update CK.conversation set head = 1, revision = 'revision of m1'")

    assert ["m1"] == await log_of(driver)
    assert 2 == await say(driver, "m3")
    assert None is await driver.read(Read(BOB, tail=1))


# Rights


@pytest.fixture
async def chat(url: str) -> AsyncIterator[str]:
    """The URL for a user who owns nothing and may create nothing."""
    role = f"chat{secrets.token_hex(4)}"
    await run_sql(url, f"create role {role} login password 'secret'")
    yield url.replace("//postgres:", f"//{role}:")
    await run_sql(url, f"drop owned by {role} cascade")
    await run_sql(url, f"drop role {role}")


def adapted(sql: str, url: str) -> str:
    """SQL of the docs, for a test's schema and user."""
    role, schema = re.sub(r".*//(\w+):.*schema=(\w+).*", r"\1 \2", url).split()
    return re.sub(r"\bto chat\b", f"to {role}", re.sub(r"\bchatkeep(?=\.|$| to)", schema, sql))


def documented(kind: str) -> list[str]:
    """The blocks of the page in that language."""
    return re.findall(rf"```{kind}\n(.*?)```", DOCS.read_text(), re.S)


async def test_a_user_who_may_create_nothing_is_told_what_to_ask_for(chat: str) -> None:
    """And after that it works."""
    refusal = await refusal_to_open(chat)

    assert isinstance(refusal, Misconfigured)
    assert "create schema if not exists" in str(refusal)

    role, schema = re.sub(r".*//(\w+):.*schema=(\w+).*", r"\1 \2", chat).split()
    url = chat.replace(f"//{role}:", "//postgres:")
    await run_sql(url, f"create schema {schema}")
    await run_sql(url, f"grant usage, create on schema {schema} to {role}")
    driver = await opened_on(chat)

    assert 1 == await say(driver, "m1")
    await driver.close()


async def test_a_user_who_owns_nothing_needs_what_the_docs_say(chat: str, url: str) -> None:
    """The owner runs the migrations; without the grants the user is refused, with them every verb works."""
    await (await opened_on(url)).close()
    refusal = await refusal_to_open(chat)

    assert isinstance(refusal, Misconfigured)
    assert "permission denied" in str(refusal)

    grants = [adapted(block, chat) for block in documented("sql") if block.startswith("grant")]

    assert 3 == len(grants)
    for grant in grants[:2]:
        await run_sql(url, grant)
    eight = "text, text[], float8[], bytea[], text[], text[], bytea[], text[]"
    await run_sql(url, f"revoke execute on function CK.commit_acts({eight}) from public")
    failed = [finding for finding in await PostgresqlDriver(chat).examine() if finding.level == "fail"]

    assert [("permissions", "this user lacks execute on commit_acts")] == [
        (finding.subject, finding.said) for finding in failed
    ]

    await run_sql(url, grants[2])
    driver = await opened_on(chat)
    row = (
        await driver.append(Append(ADA, [Entry(0, "a", "u", b"")], revision="r1", at=1.0, lease=Lease("c", 2.0)))
    ).row
    await driver.write(Write(structs.replace(row, revision="r2"), replaces="r1", drop=1))
    await driver.scan(Scan("recent", limit=1))
    await driver.erase(Erase(ADA, at=2.0))
    findings = await driver.examine()
    await driver.close()

    assert [] == [finding for finding in findings if finding.level == "fail"]


async def test_the_look_for_what_is_newer_than_a_time_reads_no_row_of_before(
    driver: PostgresqlDriver, url: str
) -> None:
    """However many there are: the index tells that there is none."""
    for n in range(30):
        await say(driver, "m", Key("", f"{n}"), at=60.0 + n)
    connection = await asyncpg.connect(url.partition("?")[0])
    schema = url.partition("schema=")[2]
    rows_read = f"select pg_stat_get_xact_tuples_fetched('{schema}.conversation_recent'::regclass)"
    counts = []
    for since in (120.0, 80.5):
        async with connection.transaction():
            await connection.execute("set local enable_seqscan = off; set local enable_bitmapscan = off")
            statement = driver._scans["scan_recent_since"]
            arguments = statement.arguments([Scan("recent", limit=9, since=since)])
            found = await connection.fetch(statement.sql, driver.epoch, *arguments)
            counts.append((len(found), await connection.fetchval(rows_read) > 0))
    await connection.close()

    assert [(0, False), (9, True)] == counts
    assert ["29", "28"] == [row.key.id for row in await driver.scan(Scan("recent", limit=5, since=88.0))]


async def test_the_files_run_as_they_are(postgres: PostgresServer) -> None:
    """For the schema named chatkeep nothing is replaced: an administrator may run them, and the driver finds its store."""
    await run_sql(postgres.url, "create schema chatkeep")
    try:
        connection = await asyncpg.connect(postgres.url)
        for file in migrations():
            await connection.execute(file)
        await connection.close()
        driver = await opened_on(postgres.url)

        assert 1 == await say(driver, "m1")
        await driver.close()
    finally:
        await run_sql(postgres.url, "drop schema chatkeep cascade")


# Settings


async def test_what_the_url_gets_wrong_is_listed(postgres: PostgresServer) -> None:
    """All of it at once, with the options there are, and without the password."""
    with pytest.raises(Misconfigured) as refused:
        PostgresqlDriver(
            "postgresql://u:hush@h/db?schema=A;b&timeout=soon&connections=1&pooler=x&colour=red&sslmode=require"
        )
    said = str(refused.value)

    assert ["colour", "schema=A;b", "timeout=soon", "connections=1", "pooler=x"] == re.findall(
        r"schema=\S+|timeout=\S+|connections=\S+|pooler=\S+|colour", said
    )
    assert "chatkeep's options are schema, timeout, connections, pooler;" in said
    assert "hush" not in said


@pytest.mark.parametrize(("old", "new"), [("secret", "wrong"), ("/postgres?", "/nowhere?")])
async def test_a_wrong_password_or_database_is_yours_to_fix(url: str, old: str, new: str) -> None:
    """It is not taken for an outage, and the password is not shown."""
    refusal = await refusal_to_open(url.replace(old, new))

    assert isinstance(refusal, Misconfigured)
    assert "was not opened" in str(refusal)
    assert "wrong" not in str(refusal)


async def test_an_unreachable_server_is_unavailable() -> None:
    """Nobody listens there."""
    refusal = await refusal_to_open("postgresql://u:p@127.0.0.1:9/db")

    assert isinstance(refusal, Unavailable)


async def test_another_default_isolation_does_no_harm(chat: str, url: str) -> None:
    """Directly chatkeep asks for its own; behind a pooler it cannot, and refuses."""
    role, schema = re.sub(r".*//(\w+):.*schema=(\w+).*", r"\1 \2", chat).split()
    await run_sql(url, f"create schema {schema} authorization {role}")
    await run_sql(url, f"alter role {role} set default_transaction_isolation = 'serializable'")
    driver = await opened_on(chat)
    answers = await asyncio.gather(*(say(driver, f"{n}") for n in range(50)))
    await driver.close()
    refusal = await refusal_to_open(f"{chat}&pooler=transaction")

    assert list(range(1, 51)) == sorted(answers)
    assert isinstance(refusal, Misconfigured)
    assert "alter role" in str(refusal)


async def test_another_way_to_read_backslashes_does_no_harm(chat: str, url: str) -> None:
    """Statements and functions are read as they were written, also where the role prefers the way of old; behind a pooler it is refused."""
    role, schema = re.sub(r".*//(\w+):.*schema=(\w+).*", r"\1 \2", chat).split()
    await run_sql(url, f"create schema {schema} authorization {role}")
    await run_sql(url, f"alter role {role} set standard_conforming_strings = off")
    refusal = await refusal_to_open(f"{chat}&pooler=transaction")
    driver = await opened_on(chat)
    answers = await asyncio.gather(*(say(driver, f"{n}") for n in range(50)))
    await driver.close()

    assert list(range(1, 51)) == sorted(answers)
    assert isinstance(refusal, Misconfigured)
    assert "alter role ... set standard_conforming_strings = on" in str(refusal)


async def test_closing_leaves_nothing_behind(url: str) -> None:
    """No task, no session on the server."""
    driver = await opened_on(url)
    driver.watch(lambda marks: None)
    await asyncio.gather(say(driver, "m1"), driver.read(Read(ADA, tail=1)), driver.announce(["a"]))
    await driver.close()
    await asyncio.sleep(0)
    sessions = "select count(*) from pg_stat_activity where application_name = 'chatkeep'"
    for _ in range(100):
        left = (await run_sql(url, sessions))[0][0]
        if not left:
            break
        await asyncio.sleep(0.02)

    assert 0 == left
    assert [] == [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]


# Behind a pooler


async def test_without_a_session_every_verb_works(url: str) -> None:
    """?pooler=transaction depends on no session: the same store, nothing prepared, nothing announced."""
    driver, other = await opened_on(f"{url}&pooler=transaction"), await opened_on(url)
    row = (await driver.append(Append(ADA, [Entry(0, "a", "u", b"a")], revision="r1", at=1.0, tail=1))).row
    row = await driver.write(
        Write(structs.replace(row, revision="r2"), replaces="r1", entries=[Entry(0, "b", "a", b"b")])
    )

    assert row == (await other.scan(Scan("key", limit=1)))[0]
    assert ["a", "b"] == await log_of(driver)
    assert Ability.WATCH not in driver.abilities
    await driver.announce(["a"])
    driver.watch(lambda marks: None)
    await driver.close()
    await other.close()


@pytest.fixture
async def pgbouncer(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[int]:
    """The port of a PgBouncer by transaction, with fewer connections than clients."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not os.path.exists(program):
        pytest.skip("NOT RUN: there is no pgbouncer here (apt-get install pgbouncer)")
    port = PostgresServer(tmp_path).port
    (tmp_path / "users").write_text(f'"postgres" "{postgres.password}"\n')
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={postgres.port} password={postgres.password}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\npool_mode = transaction\nauth_type = scram-sha-256\nauth_file = {tmp_path}/users\n"
        "default_pool_size = 3\nunix_socket_dir =\n"
    )
    command = [*unprivileged(), program, str(tmp_path / "pgbouncer.ini")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
            break
        await asyncio.sleep(0.02)
    yield port
    process.terminate()
    process.wait()


async def test_a_pooler_by_transaction_works_when_it_is_named(
    postgres: PostgresServer, url: str, pgbouncer: int
) -> None:
    """Several drivers over fewer connections: everything happens once; unnamed, the refusal names the option."""
    through = url.replace(f":{postgres.port}", f":{pgbouncer}")
    unnamed = await refusal_to_open(through)
    drivers = [await opened_on(f"{through}&pooler=transaction") for _ in range(3)]
    answers = await asyncio.gather(*(say(drivers[n % 3], f"{n}", Key("", f"{n % 5}")) for n in range(300)))
    reads = await asyncio.gather(*(drivers[n % 3].read(Read(Key("", f"{n % 5}"), tail=1)) for n in range(300)))
    for driver in drivers:
        await driver.close()

    assert isinstance(unnamed, Misconfigured)
    assert "?pooler=transaction" in str(unnamed)
    assert sorted(n + 1 for n in range(60) for _ in range(5)) == sorted(answers)
    assert {60} == {there[0].head for there in reads if there}


# The views


async def talked(url: str) -> None:
    """Two conversations, of which one has a state and a reply, and a switch of chatkeep's own."""
    keep = Chatkeep(url)

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["city"] = turn.text
        return f"Bonjour {turn.text}"

    async with keep:
        await keep.receive("ada", "Lyon", id="m1")
        await keep.tenant("salon").receive(
            "bob", [{"type": "text", "text": "Nice"}, {"type": "image", "url": "x"}], id="m1"
        )
        await keep.pause_all()


async def test_the_views_show_what_was_said(url: str) -> None:
    """Times as timestamps, roles in words, JSON as jsonb; nothing of chatkeep's own tenants."""
    await talked(url)
    conversations = await run_sql(
        url,
        "select tenant, id, owner, state ->> 'city', session, messages, unread, damaged, updated_at - created_at < interval '1 minute', "
        "now() - created_at < interval '1 minute' from CK.conversations order by tenant",
    )
    messages = await run_sql(
        url,
        "select tenant, conversation, number, id = 'm1', role, text, jsonb_typeof(content), reply_to, now() - created_at < interval "
        "'1 minute' from CK.messages order by tenant, number",
    )

    assert [
        ("", "ada", None, "Lyon", 1, 2, 0, False, True, True),
        ("salon", "bob", None, "Nice", 1, 2, 0, False, True, True),
    ] == [tuple(row) for row in conversations]
    assert [
        ("", "ada", 1, True, "user", "Lyon", "string", None, True),
        ("", "ada", 2, False, "assistant", "Bonjour Lyon", "string", 1, True),
        ("salon", "bob", 1, True, "user", "Nice", "array", None, True),
        ("salon", "bob", 2, False, "assistant", "Bonjour Nice", "string", 1, True),
    ] == [tuple(row) for row in messages]


@pytest.mark.parametrize("tenants", [60, 2100])
@pytest.mark.each
async def test_what_is_recent_in_all_tenants_is_paged_in_one_order(url: str, tenants: int) -> None:
    """However the rows lie in the tenants, of however many a page is, and on both ways that are gone, for few tenants and for many."""
    driver = await opened_on(url)
    await pages_are_whole(driver, tenants=tenants)
    await driver.close()


async def test_the_queries_of_the_docs_run(url: str) -> None:
    """Each as it stands there; the index of what has changed lately is used, and the one on a field of the state."""
    await talked(url)
    blocks = [block for block in documented("sql") if not block.startswith("grant")]
    found = [await run_sql(url, re.sub(r"\bchatkeep\.", "CK.", block)) for block in blocks]
    connection = await asyncpg.connect(url.partition("?")[0])
    await connection.execute("set enable_seqscan = off")
    schema = url.partition("schema=")[2]
    lately, by_city = [
        str(await connection.fetch("explain " + re.sub(r"\bchatkeep\.", f"{schema}.", blocks[place])))
        for place in (-3, -1)
    ]
    await connection.close()

    assert [2, 2, 0, 2, 0, 0, 1, 0, 1] == [len(rows) for rows in found]
    assert "conversation_recent" in lately
    assert "conversation_state_idx" in by_city or "conversation_expr_idx" in by_city


DAMAGE = [
    b"",
    b"\xff\xfe",
    b"{",
    b'{"state":1,"session":"x","cursor":1e400}',
    b"[]",
    b"[1,1e300,{},[]]",
    b'["c",-1e18,[1,"a",null]]',
    b"7",
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_body_breaks_no_view(url: str, damage: bytes) -> None:
    """It is shown as null; everything else is shown as it is."""
    await talked(url)
    await run_sql(url, "update CK.conversation set body = $1 where id = 'ada'", damage)
    await run_sql(url, "update CK.entry set body = $1 where number = 1", damage)
    conversations = await run_sql(
        url, "select id, state ->> 'city', damaged, c from CK.conversations c where tenant >= '' order by id"
    )
    messages = await run_sql(url, "select text, m from CK.messages m order by tenant, number")

    assert ["ada", "bob"] == [row[0] for row in conversations]
    assert (None, "Nice") == (conversations[0][1], conversations[1][1])
    assert ["Bonjour Lyon", "Bonjour Nice"] == [row[0] for row in messages][1::2]


# Examination


async def test_an_examination_says_what_an_operator_should_know(driver: PostgresqlDriver, url: str) -> None:
    """Of a store in use nothing fails; of a server that is not there, that."""
    said = {finding.subject: finding for finding in await driver.examine()}
    nowhere = await PostgresqlDriver("postgresql://u:p@127.0.0.1:9/db").examine()

    assert {
        "version",
        "role",
        "durability",
        "isolation",
        "checksums",
        "connections",
        "timeouts",
        "clock",
        "round trip",
        "schema",
        "epoch",
        "permissions",
        "table conversation",
        "table entry",
    } == set(said)
    assert {"ok", "warn"} >= {finding.level for finding in said.values()}
    assert driver.epoch == said["epoch"].said
    assert ["fail"] == [finding.level for finding in nowhere]


def test_the_inner_names_of_asyncpg_are_there_and_its_version_is_bounded() -> None:
    """What the transport uses of a connection beyond the public API: another minor version is tried before it is allowed."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    [pinned] = [
        needed.specifier
        for needed in map(Requirement, project["project"]["optional-dependencies"]["postgres"])
        if needed.name == "asyncpg"
    ]
    installed = Version(version("asyncpg"))

    assert [] == [name for name in INNER if not hasattr(asyncpg.Connection, name)]
    assert installed in pinned
    assert f"{installed.major}.{installed.minor + 1}.0" not in pinned


async def test_no_connection_asks_what_a_type_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever acts it carries: the question takes tens of milliseconds, and all that arrives on it is known."""
    asked: list[Any] = []
    ask = asyncpg.Connection._introspect_types

    async def noted(connection: Any, oids: Any, timeout: Any) -> Any:
        asked.append(oids)
        return await ask(connection, oids, timeout)

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", noted)
    driver = await opened_on(url)
    await say(driver, "one")
    await asyncio.gather(*(driver.read(Read(ADA, tail=1)) for _ in range(20)))
    await driver.entries(Entries(ADA, ids=["one"], limit=1))
    for index in get_args(Index):
        await driver.scan(Scan(index, limit=1))
    await driver.write(
        Write(
            Row(key=BOB, revision="r", incarnation="r", body=b"{}"),
            replaces=None,
            entries=[Entry(0, "b", "u", b"hello")],
            drop=1,
        )
    )
    await driver.count(Count("hits", window_s=1.0, at=1.0))
    await driver.announce(["mark"])
    await driver.erase(Erase(ADA, at=2.0))
    await driver.close()

    assert [] == asked


async def test_acts_that_follow_one_another_take_one_connection_and_those_beside_them_more(
    driver: PostgresqlDriver, url: str
) -> None:
    """A function that is started for one message does not open a second one."""
    for n in range(5):
        await say(driver, f"{n}")
        await driver.read(Read(ADA, tail=1))
    alone = driver.pool().open
    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(say(driver, f"{n} of many"))
            group.create_task(driver.read(Read(BOB, tail=1)))

    assert 1 == alone < driver.pool().open
