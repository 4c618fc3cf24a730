"""The connections of the PostgreSQL driver: some that write, some that read, one that announces, one that counts and one
that listens.

Each has one statement under way; what queues up meanwhile goes into the next one. A call that was never sent is
`Unavailable`; one that was sent and not answered is `Uncertain` if it writes, and its connection is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from msgspec import Struct

from ...errors import BadMessage, ChatkeepError, Corrupt, Misconfigured, Overloaded, Replaced, Unavailable, Uncertain
from ...extras import from_extra
from ..base import WAITING, Key, Pool, settle
from ..batching import BatchingQueue
from ..openable import end
from ..sockets import keep_alive
from ..statements import newest, numbered
from .seam import Site, Statement, in_schema

with from_extra("postgres", "A PostgreSQL store (postgresql://)"):
    import asyncpg

log = logging.getLogger("chatkeep")

OLDEST = 13  # gen_random_uuid() is built in from there on
BATCH_BYTES = 1 << 20
SHARES = 2  # of what waits and flies, whatever the number of connections
ATTEMPTS = 5  # for what PostgreSQL itself asks to be tried again
MIGRATION_S = 60.0
CLOSING_S = 2.0
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

ARRAYS = [
    {
        "oid": oid,
        "ns": "pg_catalog",
        "name": f"_{name}",
        "kind": b"b",
        "elemtype": element,
        "elemtype_name": name,
        "elemdelim": b",",
    }
    | dict.fromkeys(("range_subtype", "attrtypoids", "basetype"))
    for oid, name, element in ((1001, "bytea", 17), (1016, "int8", 20), (1022, "float8", 701))
]
"""What acts travel in, beside text[]. asyncpg would ask each server, on each connection, by a query that takes tens of milliseconds;
their numbers are those of any PostgreSQL."""

POOLER = "Behind a pooler by transaction (PgBouncer, Supavisor), say ?pooler=transaction."


class Call(Struct, eq=False):
    """An act that somebody waits for. kind: a batch is one statement. key: two connections would do acts on one conversation in
    any order."""

    kind: Statement
    act: Any
    answered: asyncio.Future[Any]
    deadline: float
    """When it has waited too long to be sent."""
    key: Key | None
    size: int


class Connections:
    """All connections of one store, from its opening until `close`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.epoch = ""
        self._combiners: list[Combiner] = []
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> Any:
        """Make or upgrade the schema; answers what the server says of itself."""
        connection = await self.connect()
        try:
            with given_up(connection, self.site.timeout):
                greeting = await self._greet(connection)
            if greeting is None or greeting["schema"] < newest("postgresql"):
                with given_up(connection, MIGRATION_S):
                    await self._migrate(connection)
                    greeting = await self._greet(connection)
            if greeting is None or greeting["schema"] > newest("postgresql"):
                raise Misconfigured(
                    f"{self.site.store} was upgraded by a newer chatkeep (schema {greeting and greeting['schema']}, this code knows "
                    f"{newest('postgresql')}); nothing was changed. Deploy the newer version."
                )
        except BaseException as fault:
            connection.terminate()
            if isinstance(fault, ChatkeepError) or not isinstance(fault, Exception):
                raise
            raise self.closed_door(fault) from fault
        self.writer = Combiner(self, "writer", self.site.connections // 2, connection)
        self.readers = Combiner(self, "reader", (self.site.connections + 1) // 2)
        self.announcer = Combiner(self, "announcer", 1)
        self.counter = Combiner(self, "counter", 1)
        self._combiners = [self.writer, self.readers, self.announcer, self.counter]
        self.epoch = greeting["epoch"]
        return greeting

    def read(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, and on what else waits for it."""
        # Where one act follows another, or comes with others like it, as in a function that is started for one message, one connection
        # is enough.
        reads = self.writer if self.writer.is_free_for(statement) and not self.readers.is_open else self.readers
        return reads.call(statement, act)

    def write(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, and on what else waits for it."""
        return self.writer.call(statement, act)

    def announce(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, beside all else."""
        return self.announcer.call(statement, act)

    def count(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, beside all else, and on what else waits for it."""
        return self.counter.call(statement, act)

    def listen(self, heard: Callable[[list[str]], None]) -> None:
        """Have *heard* called with what is announced, on a connection of its own that comes back by itself."""
        self._listener = asyncio.create_task(self._listen(heard), name="chatkeep postgresql listener")

    def pool(self) -> Pool:
        """Return the connections that acts use."""
        pools = [combiner.pool() for combiner in self._combiners]
        return Pool(*map(sum, zip(*pools, strict=True))) if pools else Pool()

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""
        combiners, self._combiners = self._combiners, []
        listener, self._listener = self._listener, None
        if listener is not None:
            await end(listener)
        await asyncio.gather(*(combiner.close() for combiner in combiners))
        self.epoch = ""

    async def connected(self) -> asyncpg.Connection:
        """Return a connection to the store that was opened. Raises `Replaced` when it is another by now, `Unavailable` when
        there is none to be had."""
        epoch = self.epoch
        if not epoch:
            raise Unavailable(f"{self.site.store} is not open; nothing was done.")
        connection = await self.connect()
        try:
            with given_up(connection, self.site.timeout):
                greeting = await self._greet(connection)
        except BaseException as fault:
            connection.terminate()
            if isinstance(fault, Exception):
                raise self.closed_door(fault) from fault
            raise
        if greeting is None or greeting["epoch"] != epoch:
            connection.terminate()
            raise Replaced(replaced(self.site.store))
        return connection

    async def connect(self) -> asyncpg.Connection:
        """Return a new connection, to whatever is there."""
        # Nothing here may outlive a client that is gone, a server that gives up first says so for certain, and nobody else's
        # defaults apply. A pooler would refuse them.
        settings = {
            "application_name": "chatkeep",
            "default_transaction_isolation": "read committed",
            "statement_timeout": f"{self.site.timeout * 800:.0f}ms",
            "lock_timeout": f"{self.site.timeout * 50 + 1:.0f}ms",
            "idle_in_transaction_session_timeout": f"{MIGRATION_S:.0f}s",
            "tcp_keepalives_idle": "30",
            "tcp_keepalives_interval": "10",
            "tcp_keepalives_count": "3",
        }
        try:
            connection = await asyncpg.connect(
                self.site.dsn,
                timeout=self.site.timeout,
                server_settings={} if self.site.pooler else settings,
                statement_cache_size=0 if self.site.pooler else 20,
                max_cached_statement_lifetime=0,
                target_session_attrs=self.site.target,
            )
        except Exception as fault:
            raise self.closed_door(fault) from fault
        keep_alive(_transport_of(connection))
        connection.get_settings().register_data_types(ARRAYS)
        version, encoding = connection.get_server_version(), connection.get_settings().server_encoding
        if version.major < OLDEST or encoding != "UTF8":
            connection.terminate()
            raise Misconfigured(
                f"{self.site.store} is PostgreSQL {version.major} with the encoding {encoding}; nothing was changed. chatkeep needs "
                f"{OLDEST} or newer, and a database with the encoding UTF8."
            )
        return connection

    async def _greet(self, connection: asyncpg.Connection) -> Any:
        """Return what has to be known of a store before it is used; None when there is no schema yet."""
        try:
            greeting = await connection.fetchrow(self.site.sql("greet"))
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
            return None
        if greeting["schema"] is None and not self.epoch:
            raise Misconfigured(
                f"{self.site.store} has its tables, but meta is empty: somebody has emptied it by hand. Restore it, or drop the schema to "
                "begin afresh. Nothing was changed."
            )
        if greeting["standby"]:
            raise Unavailable(
                f"{self.site.store} is a standby, which cannot write; nothing was done. Name the primary too."
            )
        if greeting["isolation"] != "read committed":
            raise Misconfigured(
                f"{self.site.store} makes transactions {greeting['isolation']}; chatkeep's need read committed, and behind a pooler cannot "
                "ask for it. Run: alter role ... set default_transaction_isolation = 'read committed'."
            )
        return greeting

    async def _migrate(self, connection: asyncpg.Connection) -> None:
        """Bring the schema to this version's, each step in a transaction of its own, one instance at a time."""
        done = 0
        while done < newest("postgresql"):
            async with connection.transaction():
                await connection.execute(
                    f"set local statement_timeout = '{MIGRATION_S:g}s'; set local lock_timeout = 0"
                )
                await connection.execute("select pg_advisory_xact_lock($1, hashtext($2))", LOCK, self.site.schema)
                if await connection.fetchval("select to_regclass($1)", f"{self.site.schema}.meta"):
                    done = (await connection.fetchrow(self.site.sql("greet")))["schema"]
                elif not await connection.fetchval("select to_regnamespace($1)", self.site.schema):
                    await connection.execute(f'create schema "{self.site.schema}"')
                if done < newest("postgresql"):
                    await connection.execute(in_schema(migrations()[done], self.site.schema))
                    done += 1

    async def _listen(self, heard: Callable[[list[str]], None]) -> None:
        while True:
            connection = await _patiently(self.connected, None)
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _, ended=ended: ended.set())
            try:
                with given_up(connection, self.site.timeout):
                    await connection.add_listener(
                        self.site.schema, lambda _, pid, channel, text: heard(text.split("\n"))
                    )
                await ended.wait()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as fault:
                log.warning("%s: announcements are not heard for a moment (%s).", self.site.store, fault)
            finally:
                connection.terminate()

    def closed_door(self, fault: BaseException) -> ChatkeepError:
        """Why there is no connection: yours to fix when the store is opened, and may pass once it was open."""
        if isinstance(fault, ChatkeepError):
            return fault
        code = _code(fault)
        said = f"{self.site.store} was not opened: {type(fault).__name__}: {fault}."
        if code == "08P01" and not self.site.pooler:
            said += f" {POOLER}"
        if code == "42501":
            said += (
                f" Let somebody who may run: create schema if not exists {self.site.schema}; grant usage, create on schema "
                f"{self.site.schema} to this user. docs/how-to/postgresql.md has what a user needs that may create nothing."
            )
        if code in YOURS_TO_FIX or isinstance(fault, asyncpg.ClientConfigurationError | ValueError):
            return Misconfigured(said) if not self.epoch else Unavailable(said)
        if isinstance(fault, asyncpg.TargetServerAttributeNotMatched):
            said += f" None of these hosts is {self.site.target}: name the primary too."
        return Unavailable(f"{said} Nothing was done; try again.")


class Combiner:
    """Connections that each have one statement under way; what queues up meanwhile goes into the next one."""

    def __init__(
        self, connections: Connections, name: str, size: int, connection: asyncpg.Connection | None = None
    ) -> None:
        self._at = connections
        self._loop = asyncio.get_running_loop()
        self._queue: BatchingQueue[Call] = BatchingQueue(self._expire, room=BATCH_BYTES)
        self._connections: list[asyncpg.Connection | None] = [connection] + [None] * (size - 1)
        # Whoever is sent has the other half of its time for the answer.
        self._patience = connections.site.timeout / 2
        self._down = False
        self._busy = 0  # connections with a statement under way
        self._tasks = [
            asyncio.create_task(self._work(place), name=f"chatkeep postgresql {name} {place}") for place in range(size)
        ]

    def call(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Queue *act*. Cancelling the future does not take it back."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        key = act.key if statement.writes else None
        size = BATCH_BYTES if statement.alone else act.size
        if not self._queue.put(Call(statement, act, answered, self._loop.time() + self._patience, key, size)):
            said = f"{act}: {WAITING} acts wait for {self._at.site.store} already; nothing was done. Try again later."
            settle(answered, Overloaded(said))
        return answered

    async def close(self) -> None:
        """Answer what is queued, then close the connections."""
        await self._queue.close(*self._tasks)

    def pool(self) -> Pool:
        """Its connections, and what has not left yet."""
        return Pool(self._open, len(self._connections), len(self._queue.calls))

    def _expire(self, late: list[Call]) -> None:
        _refuse(late, Unavailable, f"nothing was done; {self._at.site.store} has not been reached in time. Try again.")

    async def _work(self, place: int) -> None:
        try:
            # (What comes is for whoever is connected already, if he has nothing else to do.)
            while await self._queue.filled(last=self._connections[place] is None):
                connection = self._connections[place]
                if connection is None or connection.is_closed():
                    connection = self._connections[place] = await self._reconnected(place)
                if connection is None:
                    continue
                batch = self._taken()
                if batch:
                    self._queue.begin(batch)
                    self._busy += 1
                    try:
                        await self._run(connection, batch)
                    finally:
                        self._busy -= 1
                        self._queue.end(batch)
                elif self._queue.closing:  # what is left waits for a batch under way, whose connection takes it then
                    return
                else:
                    await self._queue.woken()
        finally:
            connection, self._connections[place] = self._connections[place], None
            if connection is not None:
                try:
                    await connection.close(timeout=CLOSING_S)
                except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    connection.terminate()

    async def _reconnected(self, place: int) -> asyncpg.Connection | None:
        self._queue.wake()  # another connection may be there
        if self._down:  # known to be: no storm of attempts, and nobody waits long
            await asyncio.sleep(random.uniform(0, 1))
        try:
            connection = await _patiently(self._at.connected, 0 if self._down else self._patience)
        except ChatkeepError as refusal:
            self._down = True
            if not self._open:
                kind = type(refusal) if isinstance(refusal, Unavailable) else Unavailable  # it was well configured once
                _refuse(self._queue.clear(), kind, str(refusal), refusal)
            return None
        self._down = False
        return connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._open > 0

    def is_free_for(self, statement: Statement) -> bool:
        """Tell whether a connection has nothing to do, or nothing yet but to run *statement* in this tick."""
        calls = self._queue.calls
        return self._open > self._busy and (not calls or calls[0].kind is calls[-1].kind is statement)

    @property
    def _open(self) -> int:
        return sum(1 for place in self._connections if place is not None and not place.is_closed())

    def _taken(self) -> list[Call]:
        """Return a share of what waits for one statement."""
        shares = min(SHARES, self._open if self._down else len(self._connections)) or 1
        batch = self._queue.take(shares=shares)
        if batch and self._queue.calls:
            self._queue.wake()
        if len(batch) > 1 and batch[0].kind.writes:
            batch.sort(key=lambda call: call.act.key)  # so that no two batches lock crosswise
        return batch

    async def _run(self, connection: asyncpg.Connection, batch: list[Call]) -> None:
        statement = batch[0].kind
        acts = [call.act for call in batch]
        deadline = min([call.deadline for call in batch]) + self._patience
        for attempt in range(ATTEMPTS):
            if connection.is_closed() or deadline < self._loop.time():
                _refuse(batch, Unavailable, f"nothing was done, {self._at.site.store} has no time for it. Try again.")
                return
            try:
                with given_up(connection, deadline - self._loop.time()):
                    arguments = statement.arguments(acts)
                    answers = statement.answers(acts, await connection.fetch(statement.sql, self._at.epoch, *arguments))
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
        store, code, writes = self._at.site.store, _code(fault), batch[0].kind.writes
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
    refusals = [kind(f"{call.act}: {said}") for call in batch]
    for refusal in refusals:
        refusal.__cause__ = cause
    _deliver(batch, refusals)


def _code(fault: BaseException) -> str:
    return getattr(fault, "sqlstate", None) or ""


def _ends_the_session(fault: BaseException) -> bool:
    return _code(fault)[:2] in ("", "08") or getattr(fault, "severity_en", None) in ("FATAL", "PANIC")


@contextlib.contextmanager
def given_up(connection: asyncpg.Connection, seconds: float) -> Iterator[None]:
    """End the connection if it does not answer in time: to cancel what runs on it would mean to wait for the server."""
    timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
    try:
        yield
    finally:
        timer.cancel()


async def _patiently(
    connect: Callable[[], Awaitable[asyncpg.Connection]], patience: float | None
) -> asyncpg.Connection:
    def passes(fault: BaseException) -> bool:
        return isinstance(fault, ChatkeepError) and (patience is None or type(fault) is Unavailable)

    try:
        return await connect()
    except ChatkeepError as fault:
        if patience == 0 or not passes(fault):
            raise
    # Who is let in at once, as a function mostly is that is started for one message, does not wait for this import.
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, stop_never, wait_random_exponential

    attempts = AsyncRetrying(
        retry=retry_if_exception(passes),
        wait=wait_random_exponential(multiplier=0.05, max=1.0 if patience is not None else 10.0),
        stop=stop_never if patience is None else stop_after_delay(patience),
        reraise=True,
    )
    return await attempts(connect)


INNER = ("_transport",)
"""Inner names of an asyncpg connection, used in the function below and nowhere else; pyproject.toml bounds its version for them, and
a test looks whether they are there."""


def _transport_of(connection: asyncpg.Connection) -> asyncio.BaseTransport:
    transport: asyncio.BaseTransport = connection._transport
    return transport


def replaced(store: str) -> str:
    """Return what is the matter when another store answers."""
    return (
        f"{store} was emptied, or another one has taken its place, since it was opened; nothing was written. Restore it, or restart to "
        "begin with what is there now."
    )


def migrations() -> list[str]:
    """Return the SQL that makes and upgrades a schema, in order: what `open` runs, or somebody with more rights does."""
    return numbered("postgresql")
