"""What a PostgreSQL says about itself, and whether conversations may be kept on it: for `open`, which warns, and for `examine`,
which tells a person."""

from __future__ import annotations

import time
from typing import Any, Literal

from ...errors import ChatkeepError
from ...extras import from_extra
from ..base import Finding
from ..statements import newest
from .opening import Opener, given_up
from .seam import Site

with from_extra("postgres", "A PostgreSQL store (postgresql://)"):
    import asyncpg


def passing(greeting: Any) -> str:
    """Tell why what was answered may be lost with the server; '' when it is kept."""
    careless = [name for name in ("fsync", "full_page_writes") if greeting[name] != "on"]
    return (
        f"with {' and '.join(careless)} off, a power cut there loses or damages what was acknowledged"
        if careless
        else ""
    )


async def examined(opener: Opener) -> list[Finding]:
    """Return everything that can be found out without changing anything."""
    try:
        connection = await opener.connect()
    except ChatkeepError as refusal:
        return [Finding("fail", "connection", str(refusal))]
    try:
        with given_up(connection, opener.site.timeout):
            return await _examined(opener.site, connection)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as fault:
        return [Finding("fail", "connection", str(opener.closed_door(fault)))]
    finally:
        connection.terminate()


async def _examined(site: Site, connection: asyncpg.Connection) -> list[Finding]:
    trips = []
    for _ in range(20):
        began = time.perf_counter()
        await connection.fetchval("select 1")
        trips.append(time.perf_counter() - began)
    import statistics  # takes milliseconds, which an opening need not wait for

    trip = statistics.median(trips)
    began = time.time()
    server = await connection.fetchrow(site.sql("examine_server"))
    skew = server["now"] - (began + time.time()) / 2
    said = _judged(site, server, skew=skew, trip=trip, trips=len(trips))
    try:
        said += await _examined_schema(site, connection)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        said.append(
            (
                True,
                "warn",
                "schema",
                f"there is no {site.schema} yet; it will be made when the store is first opened",
            )
        )
    except asyncpg.InsufficientPrivilegeError as fault:
        said.append((False, "fail", "permissions", f"{fault}; docs/how-to/postgresql.md has what this user needs"))
    return [Finding("ok" if fine else otherwise, subject, text) for fine, otherwise, subject, text in said]


def _judged(
    site: Site, server: Any, *, skew: float, trip: float, trips: int
) -> list[tuple[bool, Literal["warn", "fail"], str, str]]:
    """Return what is to be said of a server: whether it is fine, how bad it is where not, on what, and in which words."""
    durable = all(server[name] == "on" for name in ("fsync", "full_page_writes"))
    spare = server["max_connections"] - server["connections"]
    return [
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
            "fail" if site.pooler else "warn",
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
        (trip < 0.02, "warn", "round trip", f"{trip * 1000:.2f} ms (median of {trips})"),
    ]


async def _examined_schema(
    site: Site, connection: asyncpg.Connection
) -> list[tuple[bool, Literal["warn", "fail"], str, str]]:
    schema = await connection.fetchrow(site.sql("examine_schema"), site.schema)
    tables = await connection.fetch(site.sql("examine_tables"), site.schema)
    number, known = schema["schema"] or 0, newest("postgresql")
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
            f"this user lacks {', '.join(schema['refused'])}" if schema["refused"] else "this user may do all it needs",
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
