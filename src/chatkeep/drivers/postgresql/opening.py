"""Opening a connection to one schema of a PostgreSQL database: what is asked of the server first, the schema made or upgraded, and why
there is no connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from ...errors import ChatkeepError, Misconfigured, Replaced, Unavailable
from ...extras import from_extra
from ..sockets import ResolvingLoop, keep_alive
from ..statements import newest, numbered
from .seam import Site, in_schema

with from_extra("postgres", "A PostgreSQL store (postgresql://)"):
    import asyncpg

OLDEST = 13  # gen_random_uuid() is built in from there on
MIGRATION_S = 60.0
LOCK = 0x63686B70  # "chkp": advisory locks of migrations, beside a hash of the schema's name

YOURS_TO_FIX = frozenset({"28000", "28P01", "3D000", "08P01", "42501"})  # user, password, database, pooler, permission

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


class Opener:
    """Opens the connections of one store, from its first one until `epoch` is taken away."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.epoch = ""

    async def open_first(self) -> tuple[asyncpg.Connection, Any]:
        """Make or upgrade the schema; return the connection that has done it, and what the server says of itself."""
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
        self.epoch = greeting["epoch"]
        return connection, greeting

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
            "standard_conforming_strings": "on",
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
                loop=ResolvingLoop(),
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
        version, told = connection.get_server_version(), connection.get_settings()
        encoding = told.server_encoding
        if version.major < OLDEST or encoding != "UTF8":
            connection.terminate()
            raise Misconfigured(
                f"{self.site.store} is PostgreSQL {version.major} with the encoding {encoding}; nothing was changed. chatkeep needs "
                f"{OLDEST} or newer, and a database with the encoding UTF8."
            )
        if told.standard_conforming_strings != "on":
            connection.terminate()
            raise Misconfigured(
                f"{self.site.store} reads backslashes in a way of its own; nothing was changed. chatkeep cannot ask for another one behind "
                "a pooler. Run: alter role ... set standard_conforming_strings = on."
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

    def closed_door(self, fault: BaseException) -> ChatkeepError:
        """Tell why there is no connection: yours to fix when the store is opened, and may pass once it was open."""
        if isinstance(fault, ChatkeepError):
            return fault
        code = code_of(fault)
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


def code_of(fault: BaseException) -> str:
    """Return the SQLSTATE of *fault*; '' where it is none of the server's."""
    return getattr(fault, "sqlstate", None) or ""


@contextlib.contextmanager
def given_up(connection: asyncpg.Connection, seconds: float) -> Iterator[None]:
    """End the connection if it does not answer in time: to cancel what runs on it would mean to wait for the server."""
    timer = asyncio.get_running_loop().call_later(seconds, connection.terminate)
    try:
        yield
    finally:
        timer.cancel()


async def connect_patiently(
    connect: Callable[[], Awaitable[asyncpg.Connection]], patience: float | None
) -> asyncpg.Connection:
    """Return what *connect* opens, tried again for so long as there may be something to open: *patience* seconds, or without an end."""

    def passes(fault: BaseException) -> bool:
        return isinstance(fault, ChatkeepError) and (patience is None or type(fault) is Unavailable)

    try:
        return await connect()
    except ChatkeepError as fault:
        if patience == 0 or not passes(fault):
            raise
    # Who connects at the first try, as a function mostly does that is started for one message, does not wait for this import.
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
