"""postgresql://user:password@host/db  Conversations in a PostgreSQL schema of their own, shared by any number of
processes.

A verb is one round trip: one statement that calls one function, in a transaction of its own. What queues up while
statements are under way goes into the next one, so that under load many acts share one trip and one commit, and an
act alone waits for nobody. The functions and tables are in the numbered files of sql/.

Options behind the `?`: `schema=chatkeep`, `timeout=5` (seconds a call may take), `connections=4` (half of them
write), `pooler=transaction` (behind one that hands out connections by transaction). What else asyncpg knows, such as
sslmode or target_session_attrs, is passed on; several hosts may be named.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import re
import socket
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from msgspec import structs
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, stop_never, wait_random_exponential

from ...errors import (
    BadMessage,
    ChatkeepError,
    Conflict,
    Corrupt,
    Duplicate,
    Misconfigured,
    Replaced,
    Unavailable,
    Uncertain,
    Unsupported,
)
from ...extras import from_extra
from ..base import TOMBSTONE_KEPT_S, Ability, Appended, Entry, Finding, Index, Key, Lease, Row, create_row, settle
from ..openable import Openable
from ..statements import named, numbered

with from_extra("postgres", "A PostgreSQL store (postgresql://)"):
    import asyncpg

log = logging.getLogger("chatkeep")

OPTIONS = ("schema", "timeout", "connections", "pooler")
ASYNCPG = (
    "host port user password passfile database dbname sslmode sslcert sslkey sslrootcert sslcrl sslpassword sslnegotiation "
    "ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib"
)
PASSED_ON = sorted(ASYNCPG.split())
OLDEST = 13  # gen_random_uuid() is built in from there on
BATCH = 256
BATCH_BYTES = 1 << 20
SHARES = 2  # of what waits and flies, whatever the number of connections
SHARE_LEAST = 4  # calls that are not worth a second transaction
ATTEMPTS = 5  # for what PostgreSQL itself asks to be tried again
FAR = 1 << 62
MIGRATION_S = 60.0
CLOSING_S = 2.0
PAYLOAD = 7_900  # NOTIFY takes less than 8000 bytes
LOCK = 0x63686B70  # "chkp": advisory locks of migrations, beside a hash of the schema's name

LOCKED = "55P03"
TRY_AGAIN = frozenset({"40P01", "40001", LOCKED})  # deadlock, serialization failure, lock timeout
VANISHED = frozenset({"42P01", "42883", "42704", "3F000", "3D000"})  # table, function, type, schema, database
YOURS_TO_FIX = frozenset({"28000", "28P01", "3D000", "08P01", "42501"})  # user, password, database, pooler, permission
STATEMENT_LOST = frozenset({"26000", "42P05"})
BAD_DATA = ("22", "54")  # classes of what cannot be stored, or is too large
DAMAGED = ("23", "XX001", "XX002")  # a constraint that chatkeep's acts cannot break, and pages that cannot be read
ONE_ITEM = (*BAD_DATA, *DAMAGED, LOCKED)  # what one item may do to its batch
READ_ONLY = "25006"

POOLER = "Behind a pooler by transaction (PgBouncer, Supavisor), say ?pooler=transaction."


class Act(NamedTuple):
    """An append, a write or an erasure on its way.

    since: of an append, its tail; of an erasure, the time from which on marks are kept.
    """

    kind: Literal["append", "write", "erase"]
    row: Row
    replaces: str | None = None
    entries: Sequence[Entry] = ()
    since: float = 0
    drop: int = 0

    def __str__(self) -> str:
        return str(self.row.key)

    @property
    def bytes(self) -> int:
        """About how much it sends."""
        return len(self.row.body) + sum([len(entry.body) + 64 for entry in self.entries])


class Page(NamedTuple):
    """A read: the first *most* entries above *first* and below *before*, or else the last *most* below *before*."""

    key: Key
    first: int | None
    before: int
    most: int

    def __str__(self) -> str:
        return str(self.key)

    @property
    def bytes(self) -> int:
        """About how much it sends."""
        return 128


class Other(NamedTuple):
    """Anything that goes alone: the parameters of its statement."""

    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return "The index"

    @property
    def bytes(self) -> int:
        """No room for another."""
        return BATCH_BYTES


class Statement(NamedTuple):
    """One function, run over as many items as are waiting for it.

    arguments: what the items are as its parameters, after the epoch. answers: what each of them is told; a refusal is
    an exception among them. writes: when the answer is lost, nobody knows whether it was done.
    """

    sql: str
    arguments: Callable[[list[Any]], tuple[Any, ...]]
    answers: Callable[[list[Any], list[Any]], list[Any]]
    writes: bool = False


class Call(NamedTuple):
    """An item that somebody waits for."""

    statement: Statement
    item: Any
    answered: asyncio.Future[Any]
    since: float


class PostgresqlDriver(Openable):
    """One schema of a PostgreSQL database. See `Driver` for what each verb promises."""

    abilities = frozenset({Ability.SHARED, Ability.LOG, Ability.SCAN, Ability.WATCH, Ability.DURABLE})

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        options = dict(parse_qsl(where.query, keep_blank_values=True))
        own = {name: options.pop(name) for name in OPTIONS if name in options}
        wrong = [f"{name} is not an option" for name in options if name not in PASSED_ON]
        self.schema = own.get("schema", "chatkeep")
        if not re.fullmatch("[a-z_][a-z0-9_]{0,47}", self.schema):
            wrong.append(f"schema={self.schema} is not a name of up to 48 a-z, 0-9 and _")
        self.timeout = _number(own.get("timeout", "5"))
        if not self.timeout > 0:
            wrong.append(f"timeout={own['timeout']} is not a number of seconds")
        connections = _number(own.get("connections", "4"))
        if not (connections >= 2 and connections.is_integer()):
            wrong.append(f"connections={own['connections']} is not a number from 2: some write, some read")
        if own.get("pooler", "transaction") != "transaction":
            wrong.append(f"pooler={own['pooler']} is not transaction")
        place = f"{where.netloc.rpartition('@')[2]}{where.path}"
        if wrong:
            raise Misconfigured(
                f"postgresql://{place} was not opened: {'; '.join(wrong)}. chatkeep's options are {', '.join(OPTIONS)}; to asyncpg are "
                f"passed on {', '.join(PASSED_ON)}."
            )
        super().__init__(f"postgresql://{place}, schema {self.schema}")
        self.pooler = "pooler" in own
        if self.pooler:
            self.abilities -= {Ability.WATCH}  # LISTEN belongs to a session, and there is none
        self._dsn = urlunsplit(where._replace(scheme="postgresql", query=urlencode(options)))
        self._target = options.get("target_session_attrs", "read-write")
        self._writing, self._reading = int(connections) // 2, int(connections + 1) // 2
        self._combiners: dict[str, Combiner] = {}
        self._listener: asyncio.Task[None] | None = None
        self._acts = Statement(self._sql("commit_acts"), _act_arguments, _act_answers, writes=True)
        self._pages = Statement(self._sql("read_logs"), _page_arguments, _page_answers)
        self._scans = Statement(self._sql("scan"), _only_arguments, _scan_answers)
        self._notify = Statement(self._sql("announce"), _only_arguments, _no_answers)

    async def _start(self) -> str:
        connection = await self._connect()
        try:
            with _given_up(connection, self.timeout):
                greeting = await self._greet(connection)
            if greeting is None or greeting["schema"] < len(migrations()):
                with _given_up(connection, MIGRATION_S):
                    await self._migrate(connection)
                    greeting = await self._greet(connection)
            if greeting is None or greeting["schema"] > len(migrations()):
                raise Misconfigured(
                    f"{self.store} was upgraded by a newer chatkeep (schema {greeting and greeting['schema']}, this code knows "
                    f"{len(migrations())}); nothing was changed. Deploy the newer version."
                )
        except BaseException as fault:
            connection.terminate()
            if isinstance(fault, ChatkeepError) or not isinstance(fault, Exception):
                raise
            raise self._closed_door(fault) from fault
        self.abilities |= {Ability.DURABLE}
        if careless := [name for name in ("fsync", "full_page_writes") if greeting[name] != "on"]:
            self.abilities -= {Ability.DURABLE}
            log.warning(
                "%s is not durable: with %s off, a power cut there loses or damages what was acknowledged.",
                self.store,
                " and ".join(careless),
            )
        self._combiners = {
            "write": Combiner(self, "writer", self._writing, connection),
            "read": Combiner(self, "reader", self._reading),
            "announce": Combiner(self, "announcer", 1),
        }
        epoch: str = greeting["epoch"]
        return epoch

    async def _stop(self) -> None:
        combiners, self._combiners = self._combiners, {}
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        await asyncio.gather(*(combiner.close() for combiner in combiners.values()))

    async def backup(self, path: str, *, replace: bool = False) -> None:
        raise Unsupported(
            f"The server copies a postgresql:// store; {path} was not written. Use pg_dump (docs/how-to/postgresql.md)."
        )

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        raise Unsupported("Nothing was read: ask the server with a client of its own (docs/how-to/postgresql.md).")

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        row, entries = await self._combiner("read").call(self._pages, Page(key, None, FAR, tail))
        return None if row is None else (row, entries)

    async def append(
        self,
        key: Key,
        entries: Sequence[Entry],
        *,
        revision: str,
        at: float,
        due_at: float | None = None,
        lease: Lease | None = None,
        tail: int = 0,
        owner: str = "",
    ) -> Appended:
        row = create_row(key, revision=revision, at=at, due_at=due_at, lease=lease, owner=owner)
        act = Act("append", row, None, entries, tail)
        appended: Appended = await self._combiner("write").call(self._acts, act)
        return appended

    async def write(
        self, row: Row, *, replaces: str | None, entries: Sequence[Entry] = (), since: int = 0, drop: int = 0
    ) -> Row:
        act = Act("write", row, replaces, entries, since, drop)
        stored: Row = await self._combiner("write").call(self._acts, act)
        return stored

    async def entries(
        self, key: Key, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Entry]:
        first = 0 if after is None and before is None else after
        page = Page(key, first, FAR if before is None else before, limit)
        _, entries = await self._combiner("read").call(self._pages, page)
        return list(entries)

    async def scan(
        self,
        index: Index,
        *,
        tenant: str | None = None,
        owner: str = "",
        until: float | None = None,
        after: Row | None = None,
        limit: int,
    ) -> list[Row]:
        place = ("", "", -math.inf, FAR) if after is None else (*after.key, after.wake, after.recent)
        scan = Other((index, tenant, owner, math.inf if until is None else until, *place, limit))
        rows: list[Row] = await self._combiner("read").call(self._scans, scan)
        return rows

    async def erase(self, key: Key, *, at: float) -> None:
        row = Row(key=key, revision="", incarnation="", updated_at=at)
        await self._combiner("write").call(self._acts, Act("erase", row, since=at - TOMBSTONE_KEPT_S))

    async def announce(self, marks: Collection[str]) -> None:
        if Ability.WATCH in self.abilities:
            announcer = self._combiner("announce")
            with contextlib.suppress(Unavailable):
                await announcer.call(self._notify, Other((self.schema, list(_payloads(marks)))))

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        self.refuse_closed("watched")
        if Ability.WATCH in self.abilities:
            self._listener = asyncio.create_task(self._listen(heard), name="chatkeep postgresql listener")

    async def examine(self) -> list[Finding]:
        try:
            connection = await self._connect()
        except ChatkeepError as refusal:
            return [Finding("fail", "connection", str(refusal))]
        try:
            with _given_up(connection, self.timeout):
                return await self._examined(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as fault:
            return [Finding("fail", "connection", str(self._closed_door(fault)))]
        finally:
            connection.terminate()

    def _combiner(self, name: str) -> Combiner:
        self.refuse_closed("done")
        return self._combiners[name]

    def _sql(self, name: str) -> str:
        return in_schema(named("postgresql")[name], self.schema)

    async def connected(self) -> asyncpg.Connection:
        """A connection to the store that was opened. Raises `Replaced` when it is another by now, `Unavailable` when
        there is none to be had."""
        epoch = self.epoch
        if not epoch:
            raise Unavailable(f"{self.store} is not open; nothing was done.")
        connection = await self._connect()
        try:
            with _given_up(connection, self.timeout):
                greeting = await self._greet(connection)
        except BaseException as fault:
            connection.terminate()
            if isinstance(fault, Exception):
                raise self._closed_door(fault) from fault
            raise
        if greeting is None or greeting["epoch"] != epoch:
            connection.terminate()
            raise Replaced(replaced(self.store))
        return connection

    async def _connect(self) -> asyncpg.Connection:
        # Nothing here may outlive a client that is gone, a server that gives up first says so for certain, and nobody else's
        # defaults apply. A pooler would refuse them.
        settings = {
            "application_name": "chatkeep",
            "default_transaction_isolation": "read committed",
            "statement_timeout": f"{self.timeout * 800:.0f}ms",
            "lock_timeout": f"{self.timeout * 50 + 1:.0f}ms",
            "idle_in_transaction_session_timeout": f"{MIGRATION_S:.0f}s",
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }
        try:
            connection = await asyncpg.connect(
                self._dsn,
                timeout=self.timeout,
                server_settings={} if self.pooler else settings,
                statement_cache_size=0 if self.pooler else 20,
                max_cached_statement_lifetime=0,
                target_session_attrs=self._target,
            )
        except Exception as fault:
            raise self._closed_door(fault) from fault
        _keep_alive(connection)
        version, encoding = connection.get_server_version(), connection.get_settings().server_encoding
        if version.major < OLDEST or encoding != "UTF8":
            connection.terminate()
            raise Misconfigured(
                f"{self.store} is PostgreSQL {version.major} with the encoding {encoding}; nothing was changed. chatkeep needs "
                f"{OLDEST} or newer, and a database with the encoding UTF8."
            )
        return connection

    async def _greet(self, connection: asyncpg.Connection) -> Any:
        """What has to be known of a store before it is used; None when there is no schema yet."""
        try:
            greeting = await connection.fetchrow(self._sql("greet"))
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            return None
        if greeting["schema"] is None and not self.epoch:
            raise Misconfigured(
                f"{self.store} has its tables, but meta is empty: somebody has emptied it by hand. Restore it, or drop the schema to "
                "begin afresh. Nothing was changed."
            )
        if greeting["standby"]:
            raise Unavailable(f"{self.store} is a standby, which cannot write; nothing was done. Name the primary too.")
        if greeting["isolation"] != "read committed":
            raise Misconfigured(
                f"{self.store} makes transactions {greeting['isolation']}; chatkeep's need read committed, and behind a pooler cannot ask "
                "for it. Run: alter role ... set default_transaction_isolation = 'read committed'."
            )
        return greeting

    async def _migrate(self, connection: asyncpg.Connection) -> None:
        """Brings the schema to this version's, each step in a transaction of its own, one instance at a time."""
        done = 0
        while done < len(migrations()):
            async with connection.transaction():
                await connection.execute(
                    f"set local statement_timeout = '{MIGRATION_S:g}s'; set local lock_timeout = 0"
                )
                await connection.execute("select pg_advisory_xact_lock($1, hashtext($2))", LOCK, self.schema)
                if await connection.fetchval("select to_regclass($1)", f"{self.schema}.meta"):
                    done = (await connection.fetchrow(self._sql("greet")))["schema"]
                elif not await connection.fetchval("select to_regnamespace($1)", self.schema):
                    await connection.execute(f'create schema "{self.schema}"')
                if done < len(migrations()):
                    await connection.execute(in_schema(migrations()[done], self.schema))
                    done += 1

    async def _listen(self, heard: Callable[[list[str]], None]) -> None:
        while True:
            connection = await _patiently(self.connected, None)
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _, ended=ended: ended.set())
            try:
                with _given_up(connection, self.timeout):
                    await connection.add_listener(self.schema, lambda _, pid, channel, text: heard(text.split("\n")))
                await ended.wait()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as fault:
                log.warning("%s: announcements are not heard for a moment (%s).", self.store, fault)
            finally:
                connection.terminate()

    def _closed_door(self, fault: BaseException) -> ChatkeepError:
        """Why there is no connection: yours to fix when the store is opened, and may pass once it was open."""
        if isinstance(fault, ChatkeepError):
            return fault
        code = _code(fault)
        said = f"{self.store} was not opened: {type(fault).__name__}: {fault}."
        if code == "08P01" and not self.pooler:
            said += f" {POOLER}"
        if code == "42501":
            said += (
                f" Let somebody who may run: create schema if not exists {self.schema}; grant usage, create on schema {self.schema} to "
                "this user. docs/how-to/postgresql.md has what a user needs that may create nothing."
            )
        if code in YOURS_TO_FIX or isinstance(fault, asyncpg.ClientConfigurationError | ValueError):
            return Misconfigured(said) if not self.epoch else Unavailable(said)
        if isinstance(fault, asyncpg.TargetServerAttributeNotMatched):
            said += f" None of these hosts is {self._target}: name the primary too."
        return Unavailable(f"{said} Nothing was done; try again.")

    async def _examined(self, connection: asyncpg.Connection) -> list[Finding]:
        trips = []
        for _ in range(20):
            began = time.perf_counter()
            await connection.fetchval("select 1")
            trips.append(time.perf_counter() - began)
        trip = statistics.median(trips)
        began = time.time()
        server = await connection.fetchrow(self._sql("examine_server"))
        skew = server["now"] - (began + time.time()) / 2
        durable = all(server[name] == "on" for name in ("fsync", "full_page_writes"))
        spare = server["max_connections"] - server["connections"]
        said: list[tuple[bool, Literal["warn", "fail"], str, str]] = [
            (True, "warn", "version", f"PostgreSQL {server['version']}"),
            (not server["standby"], "fail", "role", "a standby" if server["standby"] else "primary"),
            (
                durable,
                "warn",
                "durability",
                f"fsync is {server['fsync']}, full_page_writes {server['full_page_writes']}, synchronous_commit "
                f"{server['synchronous_commit']} (chatkeep turns it on for its acts)",
            ),
            (
                server["isolation"] == "read committed",
                "fail" if self.pooler else "warn",
                "isolation",
                f"transactions are {server['isolation']} unless told otherwise",
            ),
            (
                server["data_checksums"] == "on",
                "warn",
                "checksums",
                f"data_checksums is {server['data_checksums']}: without them a damaged page is noticed late",
            ),
            (spare >= 20, "warn", "connections", f"{server['connections']} of {server['max_connections']} are taken"),
            (
                server["idle_timeout"] != "0" or server["lock_timeout"] != "0",
                "warn",
                "timeouts",
                f"for other users idle_in_transaction_session_timeout is {server['idle_timeout']}, lock_timeout "
                f"{server['lock_timeout']}: with 0 somebody's forgotten transaction can hold a conversation",
            ),
            (abs(skew) <= 1, "warn", "clock", f"the server's is {skew:+.3f} s from this one's"),
            (trip < 0.02, "warn", "round trip", f"{trip * 1000:.2f} ms (median of {len(trips)})"),
        ]
        try:
            said += await self._examined_schema(connection)
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            said.append(
                (
                    True,
                    "warn",
                    "schema",
                    f"there is no {self.schema} yet; it will be made when the store is first opened",
                )
            )
        except asyncpg.InsufficientPrivilegeError as fault:
            said.append((False, "fail", "permissions", f"{fault}; docs/how-to/postgresql.md has what this user needs"))
        return [Finding("ok" if fine else otherwise, subject, text) for fine, otherwise, subject, text in said]

    async def _examined_schema(
        self, connection: asyncpg.Connection
    ) -> list[tuple[bool, Literal["warn", "fail"], str, str]]:
        schema = await connection.fetchrow(self._sql("examine_schema"), self.schema)
        tables = await connection.fetch(self._sql("examine_tables"), self.schema)
        number, known = schema["schema"] or 0, len(migrations())
        said: list[tuple[bool, Literal["warn", "fail"], str, str]] = [
            (
                number == known,
                "fail" if number > known else "warn",
                "schema",
                f"schema {number}, this code has {known}",
            ),
            (bool(schema["epoch"]), "fail", "epoch", schema["epoch"] or "missing: this store was emptied by hand"),
            (
                not schema["refused"],
                "fail",
                "permissions",
                f"this user lacks {', '.join(schema['refused'])}"
                if schema["refused"]
                else "this user may do all it needs",
            ),
        ]
        for table in tables:
            bloated = table["dead"] > 10_000 and table["dead"] > table["live"]
            said.append(
                (
                    not bloated and not table["vacuum_off"],
                    "warn",
                    f"table {table['name']}",
                    f"{table['live']} rows, {table['dead']} dead, autovacuum is {'off' if table['vacuum_off'] else 'on'}",
                )
            )
        return said


class Combiner:
    """Connections that each have one statement under way; what queues up meanwhile goes into the next one."""

    def __init__(
        self, driver: PostgresqlDriver, name: str, size: int, connection: asyncpg.Connection | None = None
    ) -> None:
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._calls: deque[Call] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._connections: list[asyncpg.Connection | None] = [connection] + [None] * (size - 1)
        self._expiry: asyncio.TimerHandle | None = None
        self._flying = 0
        self._writing: set[Key] = set()  # what the batches under way change
        self._down = False
        self._closing = False
        self._tasks = [
            asyncio.create_task(self._work(place), name=f"chatkeep postgresql {name} {place}") for place in range(size)
        ]

    def call(self, statement: Statement, item: Any) -> asyncio.Future[Any]:
        """Queues *item*. Cancelling the future does not take it back."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        self._calls.append(Call(statement, item, answered, self._loop.time()))
        if self._idle:
            self._wake()
        if self._expiry is None:
            self._expiry = self._loop.call_later(self._driver.timeout / 2, self._expire)
        return answered

    async def close(self) -> None:
        """Answers what is queued, then closes the connections."""
        self._closing = True
        while self._idle:
            self._wake()
        await asyncio.gather(*self._tasks)
        if self._expiry is not None:
            self._expiry.cancel()

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return

    def _expire(self) -> None:
        # Whoever is sent has the other half of its time for the answer.
        now = self._loop.time()
        expired = []
        while self._calls and self._calls[0].since <= now - self._driver.timeout / 2:
            expired.append(self._calls.popleft())
        _refuse(
            expired, Unavailable, f"nothing was done; {self._driver.store} has not been reached in time. Try again."
        )
        again = self._calls[0].since + self._driver.timeout / 2 if self._calls else 0
        self._expiry = self._loop.call_at(again, self._expire) if self._calls else None

    async def _work(self, place: int) -> None:
        try:
            while await self._something_waits():
                connection = self._connections[place]
                if connection is None or connection.is_closed():
                    connection = self._connections[place] = await self._reconnected(place)
                if connection is None:
                    continue
                batch, keys = self._taken()
                if batch:
                    self._flying += len(batch)
                    self._writing |= keys
                    try:
                        await self._run(connection, batch)
                    finally:
                        self._flying -= len(batch)
                        self._writing -= keys
                elif self._closing:  # what is left waits for a batch under way, whose connection takes it then
                    return
                else:
                    await self._woken()
        finally:
            connection, self._connections[place] = self._connections[place], None
            if connection is not None:
                try:
                    await connection.close(timeout=CLOSING_S)
                except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    connection.terminate()

    async def _something_waits(self) -> bool:
        while not self._calls and not self._closing:
            await self._woken()
        return bool(self._calls)

    async def _woken(self) -> None:
        idle: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(idle)
        await idle

    async def _reconnected(self, place: int) -> asyncpg.Connection | None:
        self._wake()  # another connection may be there
        if self._down:  # known to be: no storm of attempts, and nobody waits long
            await asyncio.sleep(random.uniform(0, 1))
        try:
            connection = await _patiently(self._driver.connected, 0 if self._down else self._driver.timeout / 2)
        except ChatkeepError as refusal:
            self._down = True
            if not self._open:
                waiting, self._calls = list(self._calls), deque()
                kind = type(refusal) if isinstance(refusal, Unavailable) else Unavailable  # it was well configured once
                _refuse(waiting, kind, str(refusal), refusal)
            return None
        self._down = False
        return connection

    @property
    def _open(self) -> int:
        return sum(1 for place in self._connections if place is not None and not place.is_closed())

    def _taken(self) -> tuple[list[Call], set[Key]]:
        """A share of what waits for one statement, and the conversations it writes to.

        Not all at once: while the server works on one share, the callers of the other go on. Acts on a conversation that a batch
        under way writes to wait for it, so that they are done in the order of the calls.
        """
        batch: list[Call] = []
        keys: set[Key] = set()
        later: list[Call] = []
        shares = min(SHARES, self._open if self._down else len(self._connections)) or 1
        most = min(max(-(-(len(self._calls) + self._flying) // shares), SHARE_LEAST), BATCH)
        room = BATCH_BYTES
        statement = self._calls[0].statement if self._calls else None
        while self._calls and len(batch) < most and room > 0 and self._calls[0].statement is statement:
            call = self._calls.popleft()
            if call.statement.writes:
                key = call.item.row.key
                if key in self._writing:
                    later.append(call)
                    continue
                keys.add(key)
            batch.append(call)
            room -= call.item.bytes
        self._calls.extendleft(reversed(later))
        if batch and self._calls:
            self._wake()
        if len(batch) > 1 and batch[0].statement.writes:
            batch.sort(key=lambda call: call.item.row.key)  # so that no two batches lock crosswise
        return batch, keys

    async def _run(self, connection: asyncpg.Connection, batch: list[Call]) -> None:
        statement = batch[0].statement
        items = [call.item for call in batch]
        deadline = min([call.since for call in batch]) + self._driver.timeout
        for attempt in range(ATTEMPTS):
            if connection.is_closed() or deadline < self._loop.time():
                _refuse(batch, Unavailable, f"nothing was done, {self._driver.store} has no time for it. Try again.")
                return
            try:
                with _given_up(connection, deadline - self._loop.time()):
                    arguments = statement.arguments(items)
                    answers = statement.answers(
                        items, await connection.fetch(statement.sql, self._driver.epoch, *arguments)
                    )
            except Exception as fault:
                if len(batch) > 1 and not connection.is_closed() and _code(fault).startswith(ONE_ITEM):
                    for call in batch:  # alone, it fails alone
                        await self._run(connection, [call])
                    return
                if _code(fault) in TRY_AGAIN and attempt < ATTEMPTS - 1:
                    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
                    continue
                self._failed(connection, batch, fault)
            except BaseException:
                connection.terminate()
                _refuse(batch, Uncertain if statement.writes else Unavailable, "the event loop is being shut down")
                raise
            else:
                _deliver(batch, answers)
            return

    def _failed(self, connection: asyncpg.Connection, batch: list[Call], fault: Exception) -> None:
        store, code, writes = self._driver.store, _code(fault), batch[0].statement.writes
        said = f"{store} says {type(fault).__name__}: {fault}"
        if connection.is_closed() or _ends_the_session(fault):
            # What a dying session had answered by then does not say whether it committed.
            connection.terminate()
            if writes:
                now = f"perhaps written, {store} stopped answering ({fault}). Run the same act again, it is done once."
                _refuse(batch, Uncertain, now, fault)
            else:
                _refuse(batch, Unavailable, f"nothing was read, {store} stopped answering ({fault}). Try again.", fault)
        elif code in VANISHED:
            _refuse(batch, Replaced, replaced(store), fault)
        elif code.startswith(DAMAGED):
            _refuse(
                batch, Corrupt, f"nothing was changed, its rows are damaged; {said}. Restore it from a backup.", fault
            )
        elif code.startswith(BAD_DATA):
            _refuse(batch, BadMessage, f"this cannot be stored, nothing was written; {said}.", fault)
        else:
            if code == READ_ONLY or code in STATEMENT_LOST:
                connection.terminate()
            hint = f" {POOLER}" if code in STATEMENT_LOST else ""
            _refuse(batch, Unavailable, f"nothing was written; {said}.{hint} Try again when that is mended.", fault)


def _deliver(batch: list[Call], answers: list[Any]) -> None:
    for call, answer in zip(batch, answers, strict=True):
        settle(call.answered, answer)


def _refuse(batch: list[Call], kind: type[ChatkeepError], said: str, cause: BaseException | None = None) -> None:
    refusals = [kind(f"{call.item}: {said}") for call in batch]
    for refusal in refusals:
        refusal.__cause__ = cause
    _deliver(batch, refusals)


def _code(fault: BaseException) -> str:
    return getattr(fault, "sqlstate", None) or ""


def _ends_the_session(fault: BaseException) -> bool:
    return _code(fault)[:2] in ("", "08") or getattr(fault, "severity_en", None) in ("FATAL", "PANIC")


@contextlib.contextmanager
def _given_up(connection: asyncpg.Connection, seconds: float) -> Iterator[None]:
    """Ends the connection if it does not answer in time: to cancel what runs on it would mean to wait for the server."""
    timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
    try:
        yield
    finally:
        timer.cancel()


async def _patiently(
    connect: Callable[[], Awaitable[asyncpg.Connection]], patience: float | None
) -> asyncpg.Connection:
    attempts = AsyncRetrying(
        retry=retry_if_exception(
            lambda fault: isinstance(fault, ChatkeepError) and (patience is None or type(fault) is Unavailable)
        ),
        wait=wait_random_exponential(multiplier=0.05, max=1.0 if patience is not None else 10.0),
        stop=stop_never if patience is None else stop_after_delay(patience),
        reraise=True,
    )
    return await attempts(connect)


def _keep_alive(connection: asyncpg.Connection) -> None:
    # A listener only waits: a host that is gone must show by itself.
    link = connection._transport.get_extra_info("socket")
    for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if link is not None and link.family != socket.AF_UNIX and hasattr(socket, option):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


# What goes over the wire: a batch as a few flat arrays, so that a turn costs little to encode.


def _act_arguments(acts: list[Act]) -> tuple[Any, ...]:
    texts: list[str | None] = []
    numbers: list[float | None] = []
    entries: list[Entry] = []
    for kind, row, replaces, added, since, drop in acts:
        texts += (kind, *row.key, row.revision, row.incarnation, replaces, row.owner, row.lease)
        asked = any([entry.id for entry in added])
        numbers += (row.updated_at, row.recent, row.due_at, row.leased_until, row.head, since, drop, len(added), asked)
        entries += added
    return (
        texts,
        numbers,
        [act.row.body for act in acts],
        [entry.id for entry in entries],
        [entry.role for entry in entries],
        [entry.body for entry in entries],
    )


def _act_answers(acts: list[Act], found: list[Any]) -> list[Any]:
    return [_act_answer(act, answer) for act, answer in zip(acts, found, strict=True)]


def _act_answer(act: Act, found: Any) -> Any:
    key, verdict = act.row.key, found[0]
    if verdict == "done" and act.kind == "write":
        return structs.replace(act.row, head=found[3])
    if verdict == "done" and act.kind == "append":
        return Appended(_row(key, found), _entries(found), _known(found))
    if verdict == "done":
        return None
    row = None if found[1] is None else _row(key, found)
    match verdict:
        case "found":
            return row
        case "known":
            known = _known(found)
            return Duplicate(
                f"{key}: {', '.join(known)} is in the log", row=_row(key, found), numbers=known, entries=_entries(found)
            )
        case "conflict":
            return Conflict(f"{key}: revision {act.replaces} is not the stored one", row=row, entries=_entries(found))
        case "erased":
            return Conflict(f"{key} was erased later than this act", row=row, erased_at=found[10])
        case "absent":
            return Conflict(f"{key}: nothing is there", erased_at=found[10])
    return Replaced(f"{key}: {replaced('the store')}")


def _page_arguments(pages: list[Page]) -> tuple[Any, ...]:
    return (
        [page.key.tenant for page in pages],
        [page.key.id for page in pages],
        [bound for page in pages for bound in page[1:]],
    )


def _page_answers(pages: list[Page], found: list[Any]) -> list[Any]:
    return [
        (_row(page.key, answer), _entries(answer))
        if answer[0] == "found"
        else (None, [])
        if answer[0] == "absent"
        else Replaced(f"{page.key}: {replaced('the store')}")
        for page, answer in zip(pages, found, strict=True)
    ]


def _only_arguments(items: list[Other]) -> tuple[Any, ...]:
    return items[0].arguments


def _scan_answers(_: list[Other], found: list[Any]) -> list[Any]:
    if found and found[0]["id"] is None:
        return [Replaced(replaced("the store"))]
    return [[_row(Key(row["tenant"], row["id"]), (None, *[row[name] for name in COLUMNS])) for row in found]]


def _no_answers(_: list[Other], found: list[Any]) -> list[Any]:
    return [None]


COLUMNS = ("revision", "born", "head", "body", "owner", "updated_at", "due_at", "claim", "claimed_until")
"""A row's, as answers have them behind the verdict."""


def _row(key: Key, found: Sequence[Any]) -> Row:
    return Row(
        key=key,
        revision=found[1],
        incarnation=found[2],
        head=found[3],
        body=found[4],
        owner=found[5],
        updated_at=found[6],
        due_at=found[7],
        lease=found[8],
        leased_until=found[9],
    )


def _known(found: Any) -> dict[str, int]:
    return dict(zip(found[11], found[12], strict=True)) if found[11] else {}


def _entries(found: Any) -> list[Entry]:
    if found[13] is None:
        return []
    return [Entry(*parts) for parts in zip(*found[13:17], strict=True)]


def _payloads(marks: Collection[str]) -> Iterator[str]:
    """The marks, one a line, in pieces that a notification can carry."""
    piece = ""
    for mark in marks:
        if piece and len(f"{piece}\n{mark}".encode()) > PAYLOAD:
            yield piece
            piece = mark
        else:
            piece = f"{piece}\n{mark}" if piece else mark
    if piece:
        yield piece


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def replaced(store: str) -> str:
    """What is the matter when another store answers."""
    return (
        f"{store} was emptied, or another one has taken its place, since it was opened; nothing was written. Restore it, or restart to "
        "begin with what is there now."
    )


def in_schema(sql: str, schema: str) -> str:
    """*sql* for another schema than `chatkeep`."""
    return re.sub(r"\bchatkeep\.(?=\w)", f'"{schema}".', sql)


def migrations() -> list[str]:
    """The SQL that makes and upgrades a schema, in order: what `open` runs, or somebody with more rights does."""
    return numbered("postgresql")
