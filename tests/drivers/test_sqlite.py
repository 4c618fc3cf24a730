"""What only SQLite has: a file, its schema, its locks, its log of changes, and a disk that can be full."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import random
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import pytest
from msgspec import structs

from chatkeep.drivers import driver_for, whole_files
from chatkeep.drivers.base import (
    COUNTERS_KEPT_S,
    Append,
    Count,
    Entries,
    Entry,
    Erase,
    Fence,
    Key,
    Read,
    Row,
    Write,
)
from chatkeep.drivers.sqlite import backup as sqlite_backup
from chatkeep.drivers.sqlite import batches, opening, transport
from chatkeep.drivers.sqlite import file as sqlite_file
from chatkeep.drivers.sqlite.check import examined
from chatkeep.drivers.sqlite.driver import SqliteDriver, sql
from chatkeep.drivers.statements import named, numbered
from chatkeep.errors import (
    Conflict,
    Misconfigured,
    Overloaded,
    Replaced,
    Unavailable,
    Uncertain,
    Unsupported,
    UsageError,
)
from tests.support.logs import ADA, log_of
from tests.support.recent import pages_are_whole
from tests.support.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"{tmp_path}/chat.db"


@pytest.fixture
async def driver(path: str) -> AsyncIterator[SqliteDriver]:
    """A driver on it."""
    opened = await opened_on(path)
    yield opened
    await opened.close()


async def opened_on(path: str) -> SqliteDriver:
    """Another driver on the file."""
    driver = SqliteDriver(f"sqlite:///{path}")
    await driver.open()
    return driver


async def refusal_to_open(path: str) -> Misconfigured:
    """Why the file is refused."""
    try:
        driver = await opened_on(path)
    except Misconfigured as refusal:
        return refusal
    await driver.close()
    raise AssertionError(f"{path} was opened")


async def say(driver: SqliteDriver, id: str, key: Key = ADA, body: bytes = b"hello", role: str = "user") -> int:
    """One append; the number it was given."""
    answer = await driver.append(Append(key, [Entry(0, id, role, body)], revision=f"revision of {id}", at=1.0))
    return answer.row.head


PROCESS = """
import asyncio
from chatkeep.drivers.base import *
from chatkeep.drivers.sqlite import SqliteDriver

async def main():
    driver = SqliteDriver("sqlite:///{path}")
    await driver.open()
{body}
    await driver.close()

print("ready", flush=True)
input()
asyncio.run(main())
"""


async def in_processes(count: int, path: str, body: str) -> list[str]:
    """What *body* says in several processes that open the file at the same moment; each must end well."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS.replace("{path}", path).replace("{body}", body.replace("OWN", f"{n}"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
    told = await asyncio.gather(*(asyncio.to_thread(process.communicate, "\n", timeout=60) for process in processes))

    assert [(0, "")] * count == [(process.returncode, err) for process, (_, err) in zip(processes, told, strict=True)]
    return [out for out, _ in told]


def files_of(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


# Durability


async def test_every_connection_keeps_a_synced_write_ahead_log(driver: SqliteDriver) -> None:
    """WAL and synchronous=FULL on the writer; a reader of the same file sees WAL too."""
    assert driver._connections is not None
    pragmas = ("journal_mode", "synchronous", "application_id", "user_version")
    writer = await driver._connections.writer.call(lambda db, _: [db.pragma(name) for name in pragmas], None)
    reader = await driver._connections.readers.call(lambda db, _: db.pragma("journal_mode"), None)

    assert (["wal", 2, 0x63686B70, len(numbered("sqlite"))], "wal") == (writer, reader)


async def test_only_counters_are_committed_without_a_flush(
    driver: SqliteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone they do not wait for the disk; with an act in their transaction they do, and the writer is as before afterwards."""
    seen: list[tuple[int, int]] = []
    committed = batches._committed

    def noted(db: apsw.Connection, batch: list[batches.Job]) -> list[Any]:
        seen.append((len(batch), db.pragma("synchronous")))
        return committed(db, batch)

    assert driver._connections is not None
    monkeypatch.setattr(batches, "_committed", noted)
    await driver.count(Count("a", 60.0, 1.0))
    await driver.count(Count("a", 60.0, 1.0))
    answers = await asyncio.gather(
        say(driver, "m1"), driver.count(Count("a", 60.0, 1.0)), driver.count(Count("a", 60.0, 1.0))
    )

    assert 4 == answers[2].hits
    assert {(1, 1)} == {*seen[:2]}
    assert all(level == 2 for size, level in seen[2:] if size > 1)
    assert 2 == await driver._connections.writer.call(lambda db, _: db.pragma("synchronous"), None)


async def test_acts_do_not_pile_up_without_bound(driver: SqliteDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a slow disk only so many wait; the others are told at once that nothing was written."""
    goes_on, began = threading.Event(), threading.Event()

    def slow(db: apsw.Connection, _: None) -> None:
        began.set()
        goes_on.wait(10)

    monkeypatch.setattr(batches, "WAITING", 50)
    assert driver._connections is not None
    busy = driver._connections.write(slow, None)
    await asyncio.to_thread(began.wait, 10)
    acts = [asyncio.create_task(say(driver, f"m{n}")) for n in range(80)]
    await asyncio.wait(acts, timeout=0.2)
    refused = [act for act in acts if act.done()]
    goes_on.set()
    answers = await asyncio.gather(busy, *acts, return_exceptions=True)

    assert [Overloaded] * 30 == [type(act.exception()) for act in refused]
    assert [f"m{n}" for n in range(50)] == await log_of(driver)
    assert 51 == len([answer for answer in answers if not isinstance(answer, BaseException)])


async def test_counters_whose_windows_ended_long_ago_are_removed(driver: SqliteDriver) -> None:
    """The table does not grow for ever."""
    for n in range(20):
        await driver.count(Count(f"{n}", 60.0, float(n)))
    await driver.count(Count("last", 60.0, 100.0 + COUNTERS_KEPT_S))

    assert [("last",)] == await driver.query("select name from counter")


async def test_what_was_answered_is_in_the_files_at_that_moment(
    driver: SqliteDriver, path: str, tmp_path: Path
) -> None:
    """A copy of the files, taken while the driver runs, holds every act that was answered."""
    for n in range(20):
        await say(driver, f"m{n}")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("chat.db", "chat.db-wal"):
        subprocess.run(["cp", tmp_path / name, copy], check=True)  # reading them here is refused
    other = await opened_on(f"{copy}/chat.db")
    try:
        assert [f"m{n}" for n in range(20)] == await log_of(other)
        assert driver.epoch == other.epoch
    finally:
        await other.close()


async def test_acts_that_wait_share_a_commit(driver: SqliteDriver) -> None:
    """Under load a few commits carry hundreds of acts; an act alone has one of its own."""
    commits = 0

    def count() -> bool:
        nonlocal commits
        commits += 1
        return False

    assert driver._connections is not None
    await driver._connections.writer.call(lambda db, _: db.set_commit_hook(count), None)
    commits = 0
    await say(driver, "alone")

    assert 1 == commits

    commits = 0
    await asyncio.gather(*(say(driver, f"m{n}") for n in range(500)))

    assert 1 <= commits <= 10
    assert 501 == len(await log_of(driver))


async def test_who_was_answered_together_shares_the_next_commit_too(
    driver: SqliteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come back one after the other; one that comes alone after that is kept waiting only twice, and only for a moment.
    What is called first is numbered first."""
    sizes: list[int] = []

    def counted(db: apsw.Connection, batch: list[batches.Job]) -> list[Any]:
        sizes.append(len(batch))
        return batches.commit(db, batch)

    assert driver._connections is not None
    monkeypatch.setattr(driver._connections.writer, "_run", counted)
    monkeypatch.setattr(batches, "PAUSE_S", 0.5)  # for slow machines
    monkeypatch.setattr(batches, "GATHER_S", 10.0)
    keys = [Key("", f"c{number}") for number in range(8)]
    while sizes[-1:] != [8]:
        await asyncio.gather(*(say(driver, f"{len(sizes)}.{key.id}", key) for key in keys))
    before = len(sizes)
    calls = []
    for key in keys:
        calls.append(asyncio.create_task(say(driver, "later", key)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*calls)

    assert [8] == sizes[before:]
    calls = [asyncio.create_task(say(driver, f"alone {number}")) for number in range(3)]
    await asyncio.wait_for(asyncio.gather(*calls), 5)
    assert ["alone 0", "alone 1", "alone 2"] == await log_of(driver)
    for number in range(2):
        await asyncio.wait_for(say(driver, f"last {number}"), 5)
    assert [1, 1] == sizes[-2:]
    assert 1 == driver._connections.writer._crowd
    assert not driver._connections.writer._gathered


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that can fail, under every connection that is opened from now on."""
    found = Disk()
    connection = apsw.Connection
    monkeypatch.setattr(apsw, "Connection", lambda path: connection(path, vfs="failing"))
    yield found
    found.unregister()


class Disk(apsw.VFS):
    """Fails to sync a write-ahead log when it is told to."""

    def __init__(self) -> None:
        super().__init__("failing", "")
        self.failing: Callable[[], bool] = lambda: False

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        opened = DiskFile("", name, flags)
        opened.disk = self if str(name).endswith("-wal") else None
        return opened


class DiskFile(apsw.VFSFile):
    """One file of it."""

    disk: Disk | None = None

    def xSync(self, flags: int) -> None:
        if self.disk and self.disk.failing():
            raise apsw.IOError("the disk is gone")
        super().xSync(flags)


async def test_a_failed_sync_is_uncertain_and_the_same_act_settles_it(disk: Disk, path: str) -> None:
    """Nobody knows what is on the disk then; run again, the act happens once, and reads agree with it."""
    driver = await opened_on(path)
    try:
        await say(driver, "before")
        failures = 0

        def once() -> bool:
            nonlocal failures
            failures += 1
            return failures == 1

        disk.failing = once
        with pytest.raises(Uncertain):
            await say(driver, "unsure")
        await say(driver, "unsure")
        await say(driver, "after")

        assert ["before", "unsure", "after"] == await log_of(driver)
        assert failures >= 2
    finally:
        await driver.close()


# The schema


COLUMNS = {
    "meta": "name! value!",
    "conversation": "number tenant! id! revision! born! head! body! owner! updated_at! recent! due_at claim claimed_until!",
    "entry": "conversation! number! id! role! body!",
    "tombstone": "key! mark!",
    "counter": "name! hits! ends!",
}
INDEXES = {
    "conversation_wake": (False, True, "wake"),
    "conversation_owner": (False, True, "tenant owner id"),
    "conversation_recent": (False, False, "tenant recent"),
    "entry_number": (True, False, "conversation number"),
    "entry_id": (True, True, "conversation id"),
    "tombstone_mark": (False, False, "mark"),
    "counter_ends": (False, False, "ends"),
    "sqlite_autoindex_counter_1": (True, False, "name"),
    "sqlite_autoindex_conversation_1": (True, False, "tenant id"),
    "sqlite_autoindex_meta_1": (True, False, "name"),
    "sqlite_autoindex_tombstone_1": (True, False, "key"),
}


def schema(path: str) -> tuple[dict[str, str], dict[str, tuple[bool, bool, str]]]:
    """The tables with their columns (!: not null), and the indexes: unique, partial, columns."""
    db = apsw.Connection(path)
    tables = [
        name
        for (name,) in db.execute("select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'")
    ]
    columns = {
        table: " ".join(
            f"{name}{'!' if must else ''}"
            for name, must in db.execute(f"select name, \"notnull\" from pragma_table_info('{table}')")
        )
        for table in tables
    }
    indexes = {
        name: (
            bool(unique),
            bool(partial),
            " ".join(column for (column,) in db.execute("select name from pragma_index_info(?)", (name,))),
        )
        for table in tables
        for name, unique, partial in db.execute('select name, "unique", partial from pragma_index_list(?)', (table,))
    }
    db.close()
    return columns, indexes


async def test_the_built_database_is_the_expected_one(driver: SqliteDriver, path: str) -> None:
    """Tables, columns and indexes, as whoever reads the file with another tool relies on them."""
    assert (COLUMNS, INDEXES) == schema(path)


async def test_opening_again_changes_nothing(driver: SqliteDriver, path: str) -> None:
    """A file that is up to date is used as it is."""
    await say(driver, "m1")
    before = schema(path)
    others = [await opened_on(path) for _ in range(3)]
    for other in others:
        assert (["m1"], driver.epoch) == (await log_of(other), other.epoch)
        await other.close()

    assert before == schema(path)


async def test_two_files_have_two_epochs(driver: SqliteDriver, tmp_path: Path) -> None:
    """Or a replaced store could not be told from the old one."""
    other = await opened_on(f"{tmp_path}/other.db")
    await other.close()

    assert other.epoch != driver.epoch


OPENING = """
    await driver.append(Append(Key("", "ada"), [Entry(0, "mOWN", "user", b"")], revision="rOWN", at=1.0))
    print(driver.epoch)
"""


@pytest.mark.slow
async def test_many_processes_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    """One of them makes the schema, all of them use it."""
    for turn in range(2):
        path = f"{tmp_path}/{turn}.db"
        told = await in_processes(6, path, OPENING)
        driver = await opened_on(path)
        try:
            assert {f"{driver.epoch}\n"} == set(told)
            assert {f"m{n}" for n in range(6)} == set(await log_of(driver))
            assert (COLUMNS, INDEXES) == schema(path)
        finally:
            await driver.close()


async def test_a_closed_store_is_closed_to_who_does_not_look_at_the_epoch(driver: SqliteDriver, path: str) -> None:
    """A version that has it open and compares nothing, until it is opened again; this one goes on."""
    epoch, ada = driver.epoch, Append(Key("", "ada"), [Entry(0, "1", "user", b"hi")], revision="r", at=1.0)
    await driver.append(ada)
    columns = "tenant, id, revision, born, head, body, owner, updated_at, recent, claimed_until"
    changes = (
        f"insert into conversation ({columns}) select {columns} from conversation where false",
        "update conversation set head = head",
        "delete from conversation where false",
    )
    with contextlib.closing(apsw.Connection(path)) as older:
        for _ in range(2):
            await driver.fence(Fence("closed", closes=True))
        for change in changes:
            with pytest.raises(apsw.SQLError, match="closed_to_versions_before_0_2"):
                older.execute(change)
        await driver.write(Write(Row(key=Key("", "bob"), revision="b", incarnation="b"), replaces=None))
        await driver.fence(Fence(epoch))
        older.execute("select * from conversation").fetchall()  # (which sees that the schema is another one)
        for change in changes:
            older.execute(change)


async def test_a_file_whose_schema_another_made_meanwhile_is_not_foreign(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever moment the other one chooses: between any two statements of an opening."""
    for moment in range(12):
        file = f"{path}{moment}"
        asked = 0
        connection = apsw.Connection

        def trace(cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
            nonlocal asked
            asked += 1
            if asked == moment + 1 and not cursor.connection.in_transaction:
                other = connection(file)
                opening.migrate(other, file)
                other.close()
            return True

        def traced(path: str) -> apsw.Connection:
            db = connection(path)
            db.exec_trace = trace
            return db

        with monkeypatch.context() as patch:
            patch.setattr(apsw, "Connection", traced)
            driver = await opened_on(file)
            await driver.close()

        assert (COLUMNS, INDEXES) == schema(file)


KILLED = """
import itertools, os, signal, apsw
from chatkeep.drivers.sqlite import opening
for step in itertools.count(1):
    pid = os.fork()
    if pid == 0:
        db = apsw.Connection(f"{folder}/{step}.db")
        asked = 0
        def trace(cursor, statement, bindings):
            global asked
            asked += 1
            if asked == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return True
        db.exec_trace = trace
        opening.migrate(db, "x")
        os._exit(0)
    if os.waitpid(pid, 0)[1] == 0:
        break
print(step)
"""


@pytest.mark.slow
async def test_a_migration_that_was_killed_is_made_good(tmp_path: Path) -> None:
    """Killed before each of its statements in turn: the next opening finds an empty file or a finished one."""
    code = KILLED.replace("{folder}", f"{tmp_path}")
    told = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    steps = int(told.stdout)

    assert steps > 10

    for step in range(1, steps + 1):
        driver = await opened_on(f"{tmp_path}/{step}.db")
        try:
            await say(driver, "m1")
        finally:
            await driver.close()

        assert (COLUMNS, INDEXES) == schema(f"{tmp_path}/{step}.db")


@pytest.mark.parametrize(
    "statement",
    [
        "create table notes (text text); insert into notes values ('mine')",
        "create table notes (text text); pragma user_version = 1",
        "create table conversation (number integer primary key); pragma user_version = 7",
        "pragma application_id = 4711",
        "pragma user_version = 1",
        "create table notes (text text); pragma journal_mode = wal",
    ],
)
async def test_a_database_of_something_else_is_refused_and_left_alone(
    path: str, tmp_path: Path, statement: str
) -> None:
    """Not a byte of it changes, and nothing is left open."""
    other = apsw.Connection(path)
    other.execute(statement)
    other.close()
    before = files_of(tmp_path)
    refusal = await refusal_to_open(path)

    assert path in str(refusal)
    assert before == files_of(tmp_path)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: str, tmp_path: Path) -> None:
    """A mistyped path must not cost a document."""
    Path(path).write_text("Dear diary, " * 1000)
    before = files_of(tmp_path)
    refusal = await refusal_to_open(path)

    assert path in str(refusal)
    assert before == files_of(tmp_path)


async def test_a_newer_schema_is_refused_and_left_alone(driver: SqliteDriver, path: str, tmp_path: Path) -> None:
    """An old process next to a new one during a deploy says so and touches nothing."""
    await driver.close()
    db = apsw.Connection(path)
    db.pragma("user_version", 999)
    db.close()
    before = files_of(tmp_path)
    refusal = await refusal_to_open(path)

    assert "newer chatkeep" in str(refusal)
    assert before == files_of(tmp_path)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """And not made: it may be a typing error, or a disk that is not mounted."""
    with pytest.raises(Unavailable, match=f"{tmp_path}/nowhere"):
        await opened_on(f"{tmp_path}/nowhere/chat.db")
    assert f"{tmp_path}" in str(await refusal_to_open(f"{tmp_path}"))
    assert {} == files_of(tmp_path)


@pytest.mark.parametrize(
    "url", ["sqlite:", "sqlite://", "sqlite:///", "sqlite://chat.db", "sqlite:///:memory:", "sqlite:chat.db"]
)
def test_a_url_without_a_file_is_refused(url: str) -> None:
    """With the way to write it."""
    with pytest.raises(Misconfigured, match=re.escape("sqlite:///chat.db")):
        driver_for(url)


def test_an_option_does_not_become_a_part_of_the_name() -> None:
    """A file may have a question mark in its name all the same."""
    with pytest.raises(Misconfigured, match="takes none"):
        driver_for("sqlite:///chat.db?timeout=3")

    assert "why?.db" == SqliteDriver("sqlite:///why?.db").path


def test_a_scheme_that_is_spelt_wrongly_is_told_with_the_right_one() -> None:
    """And one that is like none of them without."""
    with pytest.raises(Unsupported, match=re.escape("'postgre' (did you mean postgres://?)")):
        driver_for("postgre://host/db")
    with pytest.raises(Unsupported, match="There is no driver for 'mysql';"):
        driver_for("mysql://host/db")


@pytest.mark.parametrize("url", ["", "chat.db", "mysql://host/db", "SQLITE3:///chat.db"])
def test_a_url_of_no_driver_is_refused(url: str) -> None:
    """With the schemes that there are, or with the URL that was meant."""
    with pytest.raises(Unsupported if "://" in url else Misconfigured, match="sqlite://"):
        driver_for(url)


# Several at one file


async def test_a_reader_blocks_no_writer(driver: SqliteDriver, path: str) -> None:
    """However long somebody reads."""
    await say(driver, "m1")
    reader = apsw.Connection(path)
    reader.execute("begin")
    seen = reader.execute("select count(*) from entry").get
    for n in range(50):
        await asyncio.wait_for(say(driver, f"n{n}"), 5)

    assert seen == reader.execute("select count(*) from entry").get == 1
    assert 51 == len(await log_of(driver))

    reader.close(True)


async def test_a_writer_blocks_no_reader(driver: SqliteDriver, path: str) -> None:
    """However long somebody writes; what waits for him is written when he is done."""
    await say(driver, "m1")
    writer = apsw.Connection(path)
    writer.execute("begin immediate; update conversation set body = x'00'")
    waiting = asyncio.ensure_future(say(driver, "m2"))
    for _ in range(50):
        assert ["m1"] == await asyncio.wait_for(log_of(driver), 5)
    assert not waiting.done()

    writer.execute("rollback")
    writer.close()

    assert 2 == await asyncio.wait_for(waiting, 5)


async def test_a_file_that_stays_busy_is_unavailable(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the timeout, certainly unwritten, for everyone who waited; and it goes on when the other is done."""
    monkeypatch.setattr(opening, "BUSY_MS", 100)
    driver = await opened_on(path)
    writer = apsw.Connection(path)
    writer.execute("begin immediate")
    try:
        answers = await asyncio.gather(*(say(driver, f"m{n}") for n in range(10)), return_exceptions=True)

        assert {Unavailable} == set(map(type, answers))
        assert [] == await log_of(driver)

        writer.execute("rollback")
        await asyncio.gather(*(say(driver, f"m{n}") for n in range(10)))

        assert 10 == len(await log_of(driver))
    finally:
        writer.close()
        await driver.close()


WORKING = """
    for n in range(150):
        entries = [Entry(0, f"shared{n}", "user", b""), Entry(0, f"OWN.{n}", "user", b"")]
        act = {"revision": f"OWN.{n}", "at": 1.0, "lease": Lease(f"OWN.{n}", 5.0)}
        await driver.append(Append(Key("", "ada"), entries, **act))
        answer = await driver.append(Append(Key("claims", f"{n}"), entries, **act))
        await driver.erase(Erase(Key("gone", f"{n}"), at=1.0))
        if answer.row.lease == f"OWN.{n}":
            print(n)
"""


@pytest.mark.slow
async def test_processes_work_on_one_file(driver: SqliteDriver, path: str) -> None:
    """Each new id once, no gap, none refused, and leases have one winner among processes too."""
    told = await in_processes(3, path, WORKING)
    ids = await log_of(driver)

    assert 150 + 450 == len(ids) == len(set(ids))
    assert list(range(150)) == sorted(int(line) for out in told for line in out.split())


# What fails


@pytest.mark.parametrize("how", ["abort", "rollback"])
async def test_an_act_that_fails_inside_sqlite_fails_alone(driver: SqliteDriver, path: str, how: str) -> None:
    """Even where SQLite undoes the whole transaction, the others of its batch are written, and it is not."""
    other = apsw.Connection(path)
    other.execute(
        f"create trigger explode before insert on entry when new.role = 'explode' begin select raise({how}, 'boom'); end"
    )
    other.close()
    acts: list[Awaitable[Any]] = [say(driver, f"m{n}") for n in range(30)]
    acts[7:7] = [say(driver, "bad", role="explode")]
    acts[20:20] = [say(driver, "worse", Key("", "new"), role="explode")]
    answers = await asyncio.gather(*acts, return_exceptions=True)
    refused = [place for place, answer in enumerate(answers) if isinstance(answer, BaseException)]

    assert [7, 20] == refused
    assert {Unavailable} == {type(answers[place]) for place in refused}
    assert {f"m{n}" for n in range(30)} == set(await log_of(driver))
    assert None is await driver.read(Read(Key("", "new"), tail=1))


async def test_a_read_that_fails_fails_alone(driver: SqliteDriver) -> None:
    """The reads of its batch, and those after it, are answered."""
    await say(driver, "m1")
    for _ in range(3):
        acts: list[Awaitable[Any]] = [driver.read(Read(ADA, tail=1)) for _ in range(20)]
        acts[5:5] = [driver.entries(Entries(ADA, after=10**30, limit=1))]
        answers = await asyncio.gather(*acts, return_exceptions=True)
        await driver.read(Read(ADA, tail=1))

        assert 20 == len([answer for answer in answers if isinstance(answer, tuple)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place]).returncode:
        pytest.skip("NOT RUN: a small disk can only be mounted by root")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_is_unavailable_until_there_is_room(small_disk: Path) -> None:
    """What was answered stays, what was refused is not there, reads go on, and so do writes as soon as they can."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1 << 20))
    driver = await opened_on(f"{small_disk}/chat.db")
    chance = random.Random(1)
    try:
        written, refused = [], []
        for n in range(60):
            try:
                await say(driver, f"m{n}", body=chance.randbytes(40_000))
                written.append(f"m{n}")
            except Unavailable:
                refused.append(f"m{n}")

        assert written
        assert refused
        assert written == await log_of(driver)

        filler.unlink()
        again = refused[:10]
        for name in again:
            await say(driver, name, body=chance.randbytes(1000))

        assert written + again == await log_of(driver)
    finally:
        await driver.close()
    driver = await opened_on(f"{small_disk}/chat.db")
    try:
        assert written + again == await log_of(driver)
    finally:
        await driver.close()


async def test_a_full_disk_is_told_by_who_copies_and_who_checks(small_disk: Path, tmp_path: Path) -> None:
    """What SQLite itself says of the copy is "not an error"."""
    driver = await opened_on(f"{tmp_path}/chat.db")
    try:
        await say(driver, "m", body=random.Random(1).randbytes(4_000_000))
        with pytest.raises(Unavailable, match="No space left on device"):
            await driver.backup(f"{small_disk}/copy.db")
        left = os.listdir(small_disk)
        (small_disk / "filler").write_bytes(bytes((2 << 20) - 100_000))
        found = [(one.level, one.subject) for one in examined(str(small_disk / "chat.db"))]
    finally:
        await driver.close()

    assert [] == left
    assert ("fail", "space") in found


async def test_a_full_disk_refuses_a_batch_as_it_refuses_an_act(small_disk: Path) -> None:
    """Many at once: each is answered, and what is there is what was answered."""
    driver = await opened_on(f"{small_disk}/chat.db")
    chance = random.Random(2)
    try:
        acts = [say(driver, f"m{n}", body=chance.randbytes(20_000)) for n in range(150)]
        answers = await asyncio.gather(*acts, return_exceptions=True)
        written = {f"m{n}" for n, answer in enumerate(answers) if not isinstance(answer, BaseException)}

        assert {Unavailable} <= set(map(type, answers)) <= {int, Unavailable}
        assert written == set(await log_of(driver))

        await say(driver, "small")

        assert written | {"small"} == set(await log_of(driver))
    finally:
        await driver.close()


async def test_an_erased_name_is_nowhere_in_the_tables(driver: SqliteDriver, path: str) -> None:
    """The mark of an erasure must not keep what it erased."""
    key = Key("the tenant", "somebody@example.org")
    await say(driver, "private", key, body=b"private")
    await driver.erase(Erase(key, at=2.0))
    db = apsw.Connection(path)
    stored = [value for table in COLUMNS for row in db.execute(f"select * from {table}") for value in row]
    db.close()

    assert not [
        value for value in stored if "somebody" in str(value) or "private" in str(value) or "tenant" in str(value)
    ]
    with pytest.raises(Conflict):
        await driver.append(Append(key, [], revision="r", at=1.0))


async def test_what_was_erased_is_nowhere_in_the_file(path: str) -> None:
    """Nor what was blanked, cut, or written over: small and large bodies, once the file is closed, which empties its -wal."""
    driver = await opened_on(path)
    kept = secrets.token_bytes(40)
    bodies = [secrets.token_bytes(40 if n % 3 else 9000) for n in range(60)]
    for n, body in enumerate(bodies):
        await say(driver, f"e{n}", Key("", "ada" if n % 2 else "eve"), body=body)
    await say(driver, "kept", Key("", "bob"), body=kept)
    for name in ("ada", "eve"):
        found = await driver.read(Read(Key("", name), tail=0))
        assert found is not None
        row = structs.replace(found[0], revision=f"r-{name}", body=secrets.token_bytes(500))
        bodies.append(row.body)
        act = Write(row, found[0].revision, (), drop=10, blank=[20]) if name == "ada" else Write(row, found[0].revision)
        await driver.write(act)
    await driver.erase(Erase(Key("", "eve"), at=2e9))
    found = await driver.read(Read(Key("", "ada"), tail=30))
    assert found is not None
    there = [entry.body for entry in found[1]] + [found[0].body]
    await driver.close()
    held = Path(path).read_bytes()

    assert kept in held
    assert [] == [body for body in bodies if (body[:30] in held or body[-30:] in held) != (body in there)]


# What it uses


async def test_closing_leaves_no_thread_and_no_file_open(path: str, tmp_path: Path) -> None:
    """Also after an opening that was refused."""
    Path(f"{tmp_path}/diary").write_text("Dear diary, " * 1000)
    for turn in range(10):
        driver = await opened_on(path)
        try:
            await asyncio.gather(*(say(driver, f"{turn}.{n}") for n in range(5)))
            await asyncio.gather(*(driver.read(Read(ADA, tail=1)) for _ in range(20)))
        finally:
            await driver.close()
        await refusal_to_open(f"{tmp_path}/diary")

    assert [] == [thread for thread in threading.enumerate() if thread.name.startswith("chatkeep")]
    assert [] == [file for file in open_files() if file.startswith(f"{tmp_path}")]
    assert ["chat.db", "diary"] == sorted(file.name for file in tmp_path.iterdir())


async def test_an_opening_that_is_cancelled_while_the_file_is_taken_gives_it_back(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it stayed open, and locked, for good: the next opening was one more store on it, and its closing not the last one."""
    taking, go, given_back = threading.Event(), threading.Event(), threading.Event()
    hold, leave = opening.hold, sqlite_file.OpenFile.leave

    def slow(path: str) -> sqlite_file.OpenFile:
        taking.set()
        go.wait(20)
        return hold(path)

    def seen(file: sqlite_file.OpenFile) -> None:
        leave(file)
        given_back.set()

    monkeypatch.setattr(opening, "hold", slow)
    monkeypatch.setattr(sqlite_file.OpenFile, "leave", seen)
    driver = driver_for(f"sqlite:///{path}")
    opened = asyncio.create_task(driver.open())
    await asyncio.to_thread(taking.wait, 20)
    opened.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opened
    go.set()

    assert await asyncio.to_thread(given_back.wait, 20)
    assert [] == sqlite_file._files
    assert [] == [file for file in open_files() if file == path]


def open_files() -> list[str]:
    """The files that this process holds open."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("NOT RUN: this system does not say which files are open")
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue
    return found


@pytest.mark.slow
async def test_the_write_ahead_log_stays_bounded_under_load(driver: SqliteDriver, path: str) -> None:
    """40 MB written while somebody always reads: checkpoints keep up, and the log is used again from its start."""
    chance = random.Random(4)
    busy = True

    async def keep_reading() -> None:
        while busy:
            await asyncio.gather(*(driver.read(Read(ADA, tail=3)) for _ in range(8)))

    readers = [asyncio.create_task(keep_reading()) for _ in range(4)]
    longest = 0
    for turn in range(100):
        await asyncio.gather(*(say(driver, f"{turn}.{n}", Key("", f"{n}"), chance.randbytes(8000)) for n in range(50)))
        longest = max(longest, os.path.getsize(f"{path}-wal"))
    busy = False
    await asyncio.gather(*readers)

    assert os.path.getsize(path) > 30 << 20
    assert longest < 16 << 20


PLACES = {
    "scan_key": "sqlite_autoindex_conversation_1 (tenant=? AND id>?)",
    "scan_due": "conversation_wake (wake>? AND wake<?)",
    "scan_owner": "conversation_owner (tenant=? AND owner=? AND id>?)",
    "scan_recent": "conversation_recent (tenant=? AND recent>? AND recent<?)",
}


async def test_every_statement_finds_what_it_needs_by_an_index(driver: SqliteDriver) -> None:
    """None walks a whole table; the look for what is newer than a time walks the index alone, and so does that for what is recent in very
    many tenants."""
    plans: dict[str, list[str]] = {}

    def explain(db: apsw.Connection, _: None) -> None:
        for name in named("sqlite"):
            statement = sql(name, ids=1, rows=1)
            values: Any = dict.fromkeys(re.findall(r":(\w+)", statement)) or (None,) * statement.count("?")
            plans[name] = [row[3] for row in db.execute(f"explain query plan {statement}", values)]

    assert driver._connections is not None
    await driver._connections.writer.call(explain, None)
    table = r"SCAN (c|conversation|entry|meta|tombstone|counter)\b"
    walked = {name for name, plan in plans.items() if any(re.match(table, step) for step in plan)}

    assert {"scan_recent_all", "scan_recent_since"} == walked
    for name, index in (("scan_recent_since", "conversation"), ("scan_recent_all", "c")):
        assert f"SCAN {index} USING COVERING INDEX conversation_recent" in plans[name]
        assert f"SCAN {index}" not in plans[name]
    assert PLACES == {name: plans[name][0].removeprefix("SEARCH conversation USING INDEX ") for name in PLACES}


@pytest.mark.parametrize("tenants", [60, 20_100])
@pytest.mark.each
async def test_what_is_recent_in_all_tenants_is_paged_in_one_order(driver: SqliteDriver, tenants: int) -> None:
    """However the rows lie in the tenants, of however many a page is, and on both ways that are gone, for few tenants and for very many."""
    await pages_are_whole(driver, tenants=tenants)


# The file belongs to one SQLite


def opens_of(file: str, folder: Path) -> dict[str, Callable[[], Any]]:
    """Ways to open one of a store's files in Python."""
    os.symlink(file, folder / "symlink")
    os.link(file, folder / "hardlink")
    return {
        "open": lambda: open(file, "rb"),
        "bytes": lambda: open(os.fsencode(file), "rb"),
        "path": lambda: Path(file).read_bytes(),
        "os.open": lambda: os.open(file, os.O_RDONLY),
        "relative": lambda: open(os.path.relpath(file), "rb"),
        "symlink": lambda: open(folder / "symlink", "rb"),
        "hardlink": lambda: open(folder / "hardlink", "rb"),
        "copy": lambda: shutil.copy(file, folder / "copy"),
        "wal": lambda: open(f"{file}-wal", "rb"),
        "shm": lambda: open(f"{file}-shm", "rb"),
        "sqlite3": lambda: sqlite3.connect(file),
        "sqlite3 path": lambda: sqlite3.connect(Path(file)),
        "sqlite3 uri": lambda: sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True),
        "sqlite3 uri with a host": lambda: sqlite3.connect(f"file://localhost{quote(file)}?immutable=1#x", uri=True),
        "sqlite3 symlink": lambda: sqlite3.connect(folder / "symlink"),
    }


async def test_whatever_would_take_the_locks_away_is_refused(path: str, tmp_path: Path) -> None:
    """While the store is open in this process, however its files are named; before and after, nothing is."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    strange = f"{tmp_path}/a b%41#?.db"
    for file in (path, strange):
        before = await opened_on(file)
        await before.close()
        shutil.copy(file, folder / "before")
        driver = await opened_on(file)
        try:
            for name, opens in opens_of(file, folder).items():
                with pytest.raises(UsageError, match=r"keep\.backup\(path\)") as refused:
                    opens()

                assert file in str(refused.value), name
            other = open(folder / "before", "rb")  # noqa: SIM115
            os.fdopen(os.dup(other.fileno())).close()
            other.close()
            with pytest.raises(FileNotFoundError):
                open(folder / "nothing")  # noqa: SIM115
        finally:
            await driver.close()
        for name in ("symlink", "hardlink"):
            os.unlink(folder / name)
        sqlite3.connect(file).close()
        open(file, "rb").close()


async def test_what_copies_a_folder_gets_on_beside_an_open_store(
    driver: SqliteDriver, path: str, tmp_path: Path
) -> None:
    """The refusal is an error of opening a file, as copying tools expect it: the other files are copied."""
    folder = tmp_path / "copies"
    Path(f"{tmp_path}/notes").write_text("mine")
    with pytest.raises(shutil.Error, match="belongs to sqlite:///"):
        shutil.copytree(tmp_path, folder, ignore=lambda *_: ["copies"])
    with pytest.raises(PermissionError) as refused:
        open(path, "rb")  # noqa: SIM115

    assert isinstance(refused.value, UsageError)
    assert errno.EACCES == refused.value.errno
    assert "mine" == Path(f"{folder}/notes").read_text()


async def test_what_is_no_ordinary_file_is_no_store(tmp_path: Path) -> None:
    """A pipe, a device, a folder: refused before it is touched, and `check` says the same."""
    os.mkfifo(tmp_path / "pipe")
    for name in (f"{tmp_path}/pipe", "/dev/null", f"{tmp_path}", f"{tmp_path}/a\0b", f"{tmp_path}/{'x' * 300}"):
        before = set(os.listdir(tmp_path))
        await refusal_to_open(name)

        assert before == set(os.listdir(tmp_path))
    for name in (f"{tmp_path}/pipe", "/dev/null", f"{tmp_path}"):
        assert "fail" in [found.level for found in await SqliteDriver(f"sqlite:///{name}").examine()]


async def test_a_file_that_is_named_by_a_link_is_the_same_store(path: str, tmp_path: Path) -> None:
    """Side by side with one that is opened by its name."""
    one = await opened_on(path)
    os.symlink(path, tmp_path / "link.db")
    other = await opened_on(f"{tmp_path}/link.db")
    await say(other, "a")
    await say(one, "b")
    await one.close()
    await say(other, "c")
    with pytest.raises(UsageError):
        sqlite3.connect(path)
    assert ["a", "b", "c"] == await log_of(other)
    await other.close()
    only = await opened_on(f"{tmp_path}/link.db")
    await say(only, "d")
    os.unlink(f"{path}-wal")
    assert ["a", "b", "c", "d"] == await log_of(only)
    await only.close()

    assert {"chat.db", "link.db"} == set(os.listdir(tmp_path))


@pytest.mark.parametrize("name", ["chat.db", "hard.db", "link.db"])
async def test_a_store_stays_where_it_was_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a chdir, or by a second name of its file, each connection that is opened later is on the same files."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    relative = SqliteDriver("sqlite:///chat.db")
    later = SqliteDriver("sqlite:///chat.db")
    await relative.open()
    await say(relative, "a")
    if name == "hard.db":
        os.link("chat.db", name)
    if name == "link.db":
        os.symlink("chat.db", name)
    other = await opened_on(f"{tmp_path}/{name}")
    await say(other, "b")
    monkeypatch.chdir("elsewhere")
    await later.open()
    await say(later, "c")
    await relative.close()
    if name == "link.db":
        os.unlink(tmp_path / name)
    os.unlink(tmp_path / "chat.db-wal")
    with contextlib.suppress(Unavailable):
        await say(other, "d")
    await say(later, "e")

    assert ["a", "b", "c", "d", "e"] == await log_of(other)
    await other.close()
    await later.close()
    assert [] == list((tmp_path / "elsewhere").iterdir())
    assert {"chat.db", "elsewhere", name} - {"link.db"} == set(os.listdir(tmp_path))


async def test_after_locks_were_taken_away_it_still_tidies_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has got past the refusal does not keep the last one who closes from ending the -wal."""
    monkeypatch.setattr(sqlite_file, "_target", lambda path: None)
    driver = await opened_on(path)
    await say(driver, "before")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("select count(*) from entry").fetchone()
    open(path, "rb").close()
    open(f"{path}-shm", "rb").close()
    await say(driver, "after")
    await driver.close()

    assert [True, False, False] == [os.path.exists(path + suffix) for suffix in sqlite_file.SUFFIXES]
    driver = await opened_on(path)
    assert ["before", "after"] == await log_of(driver)
    await driver.close()


async def test_all_stores_of_a_process_are_opened_anew_together(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite shares what it knows of a file within a process: one that stayed would hand the old to the others."""
    one, two = await opened_on(path), await opened_on(path)
    try:
        for n in range(4):
            await say(one, f"a{n}")
            await say(two, f"b{n}")
            os.unlink(f"{path}-wal")
            if n == 2:
                os.unlink(f"{path}-shm")
            if n == 3:
                await two.close()

        assert [f"{x}{n}" for n in range(4) for x in "ab"] == await log_of(one)
        await say(one, "end")
    finally:
        await one.close()
        await two.close()
    assert 4 == sum("opened anew" in record.message for record in caplog.records)
    driver = await opened_on(path)
    assert [*(f"{x}{n}" for n in range(4) for x in "ab"), "end"] == await log_of(driver)
    await driver.close()


def put_another(path: str) -> None:
    """Something else in the place of the -wal."""
    Path(f"{path}.other").touch()
    os.replace(f"{path}.other", f"{path}-wal")


def put_another_folder(path: str) -> None:
    """The whole folder away, and links to its files in a new one at its path."""
    folder = Path(path).parent
    gone = folder.rename(f"{folder}.gone")
    folder.mkdir()
    for suffix in sqlite_file.SUFFIXES:
        if suffix != "-shm":
            os.link(f"{gone}/{Path(path).name}{suffix}", path + suffix)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.unlink(f"{path}-wal"),
        lambda path: os.unlink(f"{path}-shm"),
        lambda path: os.rename(f"{path}-wal", f"{path}.moved"),
        lambda path: os.rename(f"{path}-shm", f"{os.path.dirname(path)}.moved"),
        lambda path: os.rename(path, f"{path}.moved"),
        put_another,
        put_another_folder,
    ],
    ids=["unlink wal", "unlink shm", "rename wal", "move shm away", "rename database", "replace wal", "replace folder"],
)
async def test_what_happens_in_a_folder_where_nothing_has_happened_for_long_is_noticed(
    change: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files themselves are not looked at again before anything happens there; what does, is seen at once."""
    monkeypatch.setattr(sqlite_file, "SETTLED_NS", 50_000_000)
    looked_at: list[str] = []
    found = sqlite_file._found
    monkeypatch.setattr(sqlite_file, "_found", lambda path: (looked_at.append(path), found(path))[1])
    (tmp_path / "folder").mkdir()
    path = f"{tmp_path}/folder/chat.db"
    driver = await opened_on(path)
    try:
        [file] = [file for file in sqlite_file._files if file.path == path]
        await until(lambda: file.moved() or file._folder.settled)
        looked_at.clear()
        for n in range(3):
            await say(driver, str(n))

        assert [] == [name for name in looked_at if name.startswith(path)]
        Path(f"{tmp_path}/folder/beside").touch()
        assert not file.moved()
        await until(lambda: file.moved() or file._folder.settled)
        change(path)
        assert file.moved()
        assert file.moved()
    finally:
        with contextlib.suppress(UsageError, Unavailable):
            await driver.close()


@pytest.mark.parametrize("kind", ["never changes", "changed a moment ago"])
async def test_a_folder_whose_time_may_stay_is_not_believed(
    kind: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems give folders no time of their own; and what changed just now may change again in the same moment."""
    now = time.time_ns() + 60_000_000_000  # (the test may take long)
    times = itertools.chain([0], itertools.repeat(now)) if kind == "changed a moment ago" else itertools.repeat(1)
    monkeypatch.setattr(sqlite_file.Folder, "look", lambda folder: (1, 1, next(times)))
    driver = await opened_on(path)
    try:
        await say(driver, "a")
        os.unlink(f"{path}-wal")
        await say(driver, "b")

        assert ["a", "b"] == await log_of(driver)
        assert os.path.exists(f"{path}-wal"), "the files were not opened anew"
    finally:
        await driver.close()


@pytest.mark.parametrize(
    ("ago_s", "parts", "believed"), [(0.05, 1, False), (0.5, 1, True), (2.9, 0, False), (3.1, 0, True)]
)
def test_a_folder_is_believed_as_soon_as_its_times_tell_two_changes_apart(
    ago_s: float, parts: int, believed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with parts of a millisecond do so at once, others perhaps after two seconds."""
    folder, now, files = sqlite_file.Folder(str(tmp_path)), 1_700_000_000_000_000_000, object()
    look = (1, 1, now - round(ago_s * 1e9) + parts)
    monkeypatch.setattr(sqlite_file.Folder, "look", lambda _: look)

    folder.settle(files, look, now)

    assert folder.settled == ((files, look) if believed else None)


async def test_a_folder_in_which_something_has_just_happened_is_not_looked_at_each_time(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of its files yet, so these are looked at, and what happens to them is noticed as before."""
    hour = 3_600_000_000_000
    monkeypatch.setattr(sqlite_file, "SETTLED_FINE_NS", hour)
    monkeypatch.setattr(sqlite_file, "SETTLED_NS", hour)
    monkeypatch.setattr(sqlite_file, "LOOK_AGAIN_NS", hour)
    looks = 0
    look = sqlite_file.Folder.look

    def counted(folder: sqlite_file.Folder) -> Any:
        nonlocal looks
        looks += 1
        return look(folder)

    monkeypatch.setattr(sqlite_file.Folder, "look", counted)
    driver = await opened_on(path)
    try:
        await say(driver, "a")
        looks = 0
        for text in "bcd":
            await say(driver, text)

        assert 0 == looks
        os.unlink(f"{path}-wal")
        await say(driver, "e")

        assert list("abcde") == await log_of(driver)
        assert os.path.exists(f"{path}-wal"), "the files were not opened anew"
    finally:
        await driver.close()


async def test_closing_saves_what_a_removed_wal_held(path: str) -> None:
    """Also when nothing has been asked of the store since."""
    driver = await opened_on(path)
    await say(driver, "a")
    os.unlink(f"{path}-wal")
    await driver.close()
    driver = await opened_on(path)
    assert ["a"] == await log_of(driver)
    await driver.close()


async def test_a_removal_during_a_commit_is_uncertain_and_the_same_act_settles_it(
    driver: SqliteDriver, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It went into a file that nobody else finds: not acknowledged before it is where it belongs."""
    commit = batches.commit

    def interrupted(db: apsw.Connection, batch: list[batches.Job]) -> list[Any]:
        answers = commit(db, batch)
        monkeypatch.setattr(transport, "commit", commit)
        os.unlink(f"{path}-wal")
        return answers

    monkeypatch.setattr(transport, "commit", interrupted)
    entry = [Entry(0, "a", "user", b"x")]
    with pytest.raises(Uncertain):
        await driver.append(Append(ADA, entry, revision="r", at=1.0))
    again = await driver.append(Append(ADA, entry, revision="r", at=1.0))

    assert ("r", 1) == (again.row.revision, again.row.head)
    assert ["a"] == await log_of(driver)


@pytest.mark.slow
async def test_files_of_two_databases_are_not_mixed(path: str) -> None:
    """A file that was moved over an open one is not opened with the other's -wal; the process that had it open makes room."""
    driver = await opened_on(path)
    await say(driver, "a")
    await driver.backup(f"{path}.copy")
    await say(driver, "lost by who puts the copy there")
    os.replace(f"{path}.copy", path)
    outside = [sys.executable, "-c", "from chatkeep.cli import main; main()", "history", path, "ada"]
    early = await asyncio.to_thread(subprocess.run, outside, capture_output=True, text=True)
    with pytest.raises(Replaced):
        await driver.read(Read(ADA, tail=1))
    await driver.close()

    assert 3 == early.returncode
    assert "another process has it open" in early.stderr
    driver = await opened_on(path)
    assert ["a"] == await log_of(driver)
    assert [("ok",)] == await driver.query("pragma integrity_check")
    await driver.close()


@pytest.mark.slow
async def test_one_process_writes_at_a_time_whatever_becomes_of_the_locks(
    driver: SqliteDriver, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own lock is gone in the middle of a commit; another process waits all the same."""
    monkeypatch.setattr(sqlite_file, "_target", lambda path: None)
    commit, waited = batches.commit, []
    other = subprocess.Popen(
        [sys.executable, "-c", PROCESS.replace("{path}", path).replace("{body}", WRITES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdin is not None
    assert other.stdout is not None
    await asyncio.to_thread(other.stdout.readline)

    def slow(db: apsw.Connection, batch: list[batches.Job]) -> list[Any]:
        assert other.stdin is not None
        db.execute("begin immediate")
        for suffix in sqlite_file.SUFFIXES:
            open(path + suffix, "rb").close()
        other.stdin.write("\n")
        other.stdin.flush()
        time.sleep(1.0)
        waited.append(other.poll())
        db.execute("rollback")
        return commit(db, batch)

    monkeypatch.setattr(transport, "commit", slow)
    await say(driver, "a")
    await asyncio.to_thread(other.wait, 30)
    other.stdout.close()
    other.stdin.close()

    assert [None] == waited
    assert ["a", "from outside"] == await log_of(driver)


WRITES = """
    await driver.append(Append(Key("", "ada"), [Entry(0, "from outside", "user", b"x")], revision="outside", at=1.0))
"""


async def test_a_forked_child_takes_no_lock_away_and_keeps_none(driver: SqliteDriver, path: str) -> None:
    """It may open the file as any other process may, closes what it has inherited, and outlives its parent."""
    await say(driver, "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this child runs nothing of ours
        child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            found = sqlite3.connect(path).execute("select count(*) from entry").fetchone()
            assert driver._connections is not None
            inherited = driver._connections.file
            assert (False, None) == (inherited.secured, inherited._shm)
            with open(path, "rb") as mine:
                inherited.leave()
                mine.read(1)
            os._exit(0 if found == (1,) else 1)
        os._exit(2)

    assert 0 == (await asyncio.to_thread(os.waitpid, child, 0))[1]
    assert os.path.exists(f"{path}-wal")
    await say(driver, "b")
    assert ["a", "b"] == await log_of(driver)


async def test_a_backup_is_whole_while_turns_run(driver: SqliteDriver, path: str, tmp_path: Path) -> None:
    """It holds all that was answered when it was asked for, for no more eyes than the store, and is a store itself."""
    os.chmod(path, 0o600)
    stop = asyncio.Event()

    async def go_on() -> int:
        for n in range(100_000):
            await say(driver, f"during{n}")
            if stop.is_set():
                return n
        return 0

    for n in range(50):
        await say(driver, f"before{n}")
    going = asyncio.create_task(go_on())
    await driver.backup(f"{tmp_path}/copy.db")
    stop.set()
    await going
    copy = await opened_on(f"{tmp_path}/copy.db")
    log = await log_of(copy)
    mode = os.stat(f"{tmp_path}/copy.db").st_mode & 0o777
    sound, epoch = await copy.query("pragma integrity_check"), copy.epoch
    await copy.close()

    assert [f"before{n}" for n in range(50)] == log[:50]
    assert [f"during{n}" for n in range(len(log) - 50)] == log[50:]
    assert driver.epoch == epoch
    assert [("ok",)] == sound
    assert 0o600 == mode
    with pytest.raises(UsageError, match="the store itself"):
        await driver.backup(path, replace=True)


DIES = """
    for n in range(300):
        await driver.append(Append(Key("", f"old{n % 7}"), [Entry(0, f"m{n}", "user", b"x" * 900)], f"r{n}", 1.0))
    import os
    os.kill(os.getpid(), 9)
"""


async def killed_on(path: str) -> None:
    """Leaves a store there whose process was killed, with what it had not brought into the database in its -wal."""
    code = PROCESS.replace("{path}", path).replace("{body}", DIES)
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], input="\n", text=True, stdout=subprocess.DEVNULL
    )
    assert os.path.getsize(f"{path}-wal") > 100_000


async def names_in(path: str) -> set[str]:
    """The conversations of a sound store."""
    opened = await opened_on(path)
    try:
        assert [("ok",)] == await opened.query("pragma integrity_check")
        return {name for (name,) in await opened.query("select distinct substr(id, 1, 3) from conversation")}
    finally:
        await opened.close()


async def test_a_backup_replaces_all_of_a_store_that_was_killed(
    driver: SqliteDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its -wal is not applied to the copy; and whenever the machine stops meanwhile, one of the two is there, or none."""
    await say(driver, "a")
    (tmp_path / "old").mkdir()
    old = f"{tmp_path}/old/old.db"
    await killed_on(old)
    unlink, replace, states = os.unlink, os.replace, 0

    def seen() -> None:
        nonlocal states
        states += 1
        shutil.copytree(tmp_path / "old", tmp_path / f"state {states}")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda name: (seen(), unlink(name))[1])
        patch.setattr(os, "replace", lambda one, other: (seen(), replace(one, other))[1])
        await driver.backup(old, replace=True)

    assert {"ada"} == await names_in(old)
    assert ["old.db"] == os.listdir(tmp_path / "old")
    assert states >= 4
    for state in range(1, states + 1):
        assert await names_in(f"{tmp_path}/state {state}/old.db") in ({"old"}, set(), {"ada"})


async def test_what_is_copied_is_not_locked_but_by_sqlite(
    driver: SqliteDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock of ours on it would keep SQLite out in a shared folder, where flock and fcntl are one; ours is on a file beside it."""
    fcntl = pytest.importorskip("fcntl")
    locked: dict[str, bool] = {}

    def put(made: str, path: str, *, replace: bool) -> None:
        for name in os.listdir(os.path.dirname(path)):
            if name.startswith("copy.db."):
                with open(f"{tmp_path}/{name}", "rb+") as file:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        locked[name] = True
                    else:
                        locked[name] = False
        whole_files.put(made, path, replace=replace)

    monkeypatch.setattr(sqlite_backup, "put", put)
    await say(driver, "a")
    await driver.backup(f"{tmp_path}/copy.db")

    assert [True, False] == [locked[name] for name in sorted(locked)]
    assert ["copy.db"] == [name for name in os.listdir(tmp_path) if name.startswith("copy")]
    assert {"ada"} == await names_in(f"{tmp_path}/copy.db")


async def test_a_backup_replaces_no_store_that_is_open(driver: SqliteDriver, tmp_path: Path) -> None:
    """In this process or another one; its files are left as they are."""
    await say(driver, "a")
    other = await opened_on(f"{tmp_path}/other.db")
    await say(other, "a", Key("", "old"))
    with pytest.raises(UsageError, match="is open"):
        await driver.backup(f"{tmp_path}/other.db", replace=True)
    await say(other, "b", Key("", "old"))
    await other.close()
    assert {"old"} == await names_in(f"{tmp_path}/other.db")
    code = PROCESS.replace("{path}", f"{tmp_path}/other.db").replace(
        "{body}", "    print('open', flush=True)\n    await asyncio.to_thread(input)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await asyncio.to_thread(process.stdout.readline)
        process.stdin.write("\n")
        process.stdin.flush()
        await asyncio.to_thread(process.stdout.readline)
        for _ in range(2):
            with pytest.raises(UsageError, match="is open"):
                await driver.backup(f"{tmp_path}/other.db", replace=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{tmp_path}/other.db")
    finally:
        await asyncio.to_thread(process.communicate, "\n")


async def test_a_backup_that_cannot_be_is_the_callers_to_mend(driver: SqliteDriver, path: str, tmp_path: Path) -> None:
    """With the reason, no name but the caller's, and nothing written; what can be named in bytes is."""
    await say(driver, "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone.db-wal").write_bytes(b"of an earlier one")
    before = set(os.listdir(tmp_path))
    wrong: dict[Any, str] = {
        path: "the store itself",
        f"{path}-journal": "part of another database",
        f"{path}-wal": "part of another database",
        f"{path}-shm": "part of another database",
        f"{tmp_path}/other.db-JOURNAL": "part of another database",
        f"{tmp_path}/gone.db": "of an earlier database",
        f"{tmp_path}/no folder/copy.db": "there is no folder",
        f"{tmp_path}/{'x' * 300}": "File name too long",
        f"{tmp_path}/a\0b": "null",
        f"{tmp_path}/folder": "there already",
        5: "not int",
    }
    for target, reason in wrong.items():
        with pytest.raises(UsageError, match=reason) as refused:
            await driver.backup(target)

        assert ".part" not in str(refused.value)
    for target in (path, f"{path}-wal", f"{path}-journal", f"{tmp_path}/folder", "/dev/null"):
        with pytest.raises(UsageError):
            await driver.backup(target, replace=True)

    assert before == set(os.listdir(tmp_path))
    await driver.backup(f"{tmp_path}/gone.db", replace=True)
    await driver.backup(os.fsencode(f"{tmp_path}/{'x' * 250}"))  # type: ignore[arg-type]
    assert before | {"gone.db", "x" * 250} == set(os.listdir(tmp_path)) | {"gone.db-wal"}
    assert {"ada"} == await names_in(f"{tmp_path}/gone.db")


async def test_sql_sees_bodies_as_json(driver: SqliteDriver) -> None:
    """However they are packed."""
    body = json.dumps({"state": {"cart": ["tea"] * 50}}).encode()
    await say(driver, "a", body=body)

    assert [(50,)] == await driver.query("select json_array_length(chatkeep_json(body), '$.state.cart') from entry")
    assert [(None,)] == await driver.query("select chatkeep_json(null)")


ENDLESS = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"
READS = (
    "select 1;  -- and nothing else",
    "pragma integrity_check",
    "PRAGMA Table_Info(entry)",
    "pragma journal_mode",
    "select name from pragma_index_list('entry')",
    "select value from json_each('[1]')",
    "explain query plan select * from entry",
    "with recursive c(n) as (select 1 union all select n + 1 from c where n < 3) select n from c",
)
REFUSED = (
    "insert into meta values ('a', 'b')",
    "selec",
    "select ?",
    "attach 'new.db' as x",
    "attach '/etc/passwd' as x",
    "vacuum into 'new.db'",
    "create temp table x (y)",
    "begin immediate",
    "select 1; select 2",
    "pragma journal_mode = delete",
    "pragma locking_mode = exclusive",
    "pragma wal_checkpoint",
    "pragma optimize",
    "pragma writable_schema = 1",
    "select load_extension('x')",
    "select 1\0",
    "select json('{')",
    "select zeroblob(1 << 40)",
)


async def test_a_query_reads_and_does_nothing_else(
    driver: SqliteDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it may not do, and what is no statement, is refused as the caller's to fix; the store and the folder stay as they are."""
    monkeypatch.chdir(tmp_path)
    await say(driver, "a")
    before = set(os.listdir(tmp_path))
    for statement in READS:
        assert await driver.query(statement), statement
    wrong: Any
    for wrong in [(text,) for text in REFUSED] + [("select ?", value) for value in (object(), 1 << 70, "\ud800")]:
        with pytest.raises(UsageError, match="was refused"):
            await driver.query(*wrong)
    with pytest.raises(UsageError, match="was refused"):
        await driver.query(5)  # type: ignore[arg-type]

    assert before == set(os.listdir(tmp_path))
    await say(driver, "b")
    assert [("wal",)] == await driver.query("pragma journal_mode")


@pytest.mark.parametrize("way", ["query", "backup"])
async def test_a_long_look_holds_nothing_up(way: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement, or a copy, ends when nobody waits for it, when the files are opened anew and when the store is closed."""
    monkeypatch.setattr(sqlite_backup, "PAGES", 1)
    driver = await opened_on(path)
    await say(driver, "a", body=os.urandom(500_000))
    copies = 0

    async def look() -> None:
        nonlocal copies
        if way == "query":
            await driver.query(ENDLESS)
        while way == "backup":
            copies += 1
            await driver.backup(f"{path}.{copies}")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(look(), 0.3)
    looking = asyncio.create_task(look())
    await asyncio.sleep(0.3)
    os.unlink(f"{path}-wal")
    assert 2 == await asyncio.wait_for(say(driver, "b"), 5)
    if way == "query":
        with pytest.raises(Unavailable, match="opened anew"):
            await asyncio.wait_for(looking, 5)
        looking = asyncio.create_task(look())
        await asyncio.sleep(0.3)
    await asyncio.wait_for(driver.close(), 5)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(looking, 5)

    await until(lambda: not any(thread.name.startswith("chatkeep") for thread in threading.enumerate()))
    assert [] == [name for name in os.listdir(os.path.dirname(path)) if name.endswith(".part")]


async def test_many_looks_are_few_at_a_time(driver: SqliteDriver) -> None:
    """The others wait for their turn, and are refused when the store is closed meanwhile."""
    looks = [asyncio.create_task(driver.query(ENDLESS)) for _ in range(30)]
    await asyncio.sleep(0.5)

    assert threading.active_count() < 20
    await asyncio.wait_for(driver.close(), 5)
    assert {Unavailable} == set(map(type, await asyncio.gather(*looks, return_exceptions=True)))


@pytest.mark.slow
async def test_a_process_ends_while_a_statement_runs(path: str) -> None:
    """A program whose loop has ended, with the store left open."""
    body = f"    asyncio.create_task(driver.query({ENDLESS!r}))\n    await asyncio.sleep(0.3)\n    return"
    code = PROCESS.replace("{path}", path).replace("{body}", body)
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], input="\n", capture_output=True, text=True, timeout=20
    )

    assert (0, "") == (ended.returncode, ended.stderr)


FEW_FILES = """
import asyncio, os, resource, sys
from chatkeep import Chatkeep

async def main():
    kinds, most = set(), resource.getrlimit(resource.RLIMIT_NOFILE)
    for more in range(14):
        keep = Chatkeep(f"sqlite:///{sys.argv[1]}.{more}", on_outage="journal", journal=f"{sys.argv[1]}.j{more}", background=False)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + more, most[1]))
        try:
            await keep.open()
            kinds.add("open")
        except Exception as fault:
            kinds.add(type(fault).__name__)
            if os.strerror(24) not in str(fault):
                kinds.add(str(fault))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        if not keep._core.is_open:
            await keep.open()
        await keep.accept("ada", "hello")
        await keep.close()
    print(sorted(kinds))

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="NOT RUN: only Linux tells which files are open")
def test_too_many_open_files_are_no_wrong_path(tmp_path: Path) -> None:
    """Wherever there is none left while a journal and a store are opened, that is said, as what may pass, or the journal takes messages."""
    command = [sys.executable, "-c", FEW_FILES, str(tmp_path / "chat.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert ("['Unavailable', 'open']", 0) == (done.stdout.strip(), done.returncode), done.stderr
