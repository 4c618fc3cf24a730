"""Where hits of a rate limit are counted: in this process, in the store's Redis, or in the store's PostgreSQL.

A window begins with its first hit and ends by itself. All three answer the same: how many hits there were in the window,
this one included, and how many seconds it still lasts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..bounded import Newest
from ..drivers.base import Driver
from ..extras import from_extra

if TYPE_CHECKING:
    from ..drivers.postgresql.driver import PostgresqlDriver
    from ..drivers.redis.driver import RedisDriver

HELD = 100_000
"""Windows that one process keeps in memory; those without a hit for longest go first."""

TIDY_S = 60.0


class Counted(NamedTuple):
    """Hits in the window, and the seconds until it ends."""

    hits: int
    left_s: float


class Counters(Protocol):
    """Counts hits by key."""

    async def open(self) -> None:
        """Makes what it needs. The store is open."""

    async def hit(self, key: str, window_s: int, *, most: int) -> Counted:
        """Counts one hit; when the window ends need only be right where there were more than *most*."""

    async def close(self) -> None:
        """Gives everything back."""


def counters_for(driver: Driver) -> Counters | None:
    """The counters that all instances on *driver*'s store share; None where they cannot count there."""
    shared: dict[str, Any] = {"RedisDriver": InRedis, "PostgresqlDriver": InPostgresql}
    kind = shared.get(type(driver).__name__)  # by name, so that no driver is imported that nobody uses
    found: Counters | None = kind and kind(driver)
    return found


class InMemory:
    """Counters of this process."""

    def __init__(self, *, held: int = HELD) -> None:
        self._windows: Newest[str, tuple[int, float]] = Newest(held)

    async def open(self) -> None:
        """Nothing is needed."""

    async def hit(self, key: str, window_s: int, *, most: int) -> Counted:
        """Counts one hit."""
        return self.count(key, window_s, time.monotonic())

    def count(self, key: str, window_s: int, now: float) -> Counted:
        """Counts one hit at *now*."""
        hits, ends = self._windows.get(key, (0, 0.0))
        if ends <= now:
            hits, ends = 0, now + window_s
        self._windows[key] = hits + 1, ends
        return Counted(hits + 1, ends - now)

    async def close(self) -> None:
        """Forgets everything."""
        self._windows.clear()


class InRedis:
    """Counters beside the conversations, by the storage of the `limits` library: one script a hit."""

    def __init__(self, driver: RedisDriver) -> None:
        self._driver = driver

    async def open(self) -> None:
        """Connects with the first hit."""
        with from_extra("server", "A rate limit"):
            from limits.aio.storage import RedisClusterStorage, RedisSentinelStorage, RedisStorage

        site, prefix = self._driver._site, self._driver._acts.meta.decode().removesuffix(":meta")
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in site.hosts)
        options = {name: value for name, value in site.access.items() if value is not None and name != "db"}
        options |= {"socket_timeout": site.timeout, "socket_connect_timeout": site.timeout}
        common: dict[str, Any] = {"implementation": "redispy", "key_prefix": f"{prefix}:rate"}
        secured = site.sentinel_access.get("ssl", False)
        self._storage: Any
        if site.cluster:
            self._storage = RedisClusterStorage(f"async+redis+cluster://{hosts}", **common, **options, ssl=secured)
        elif site.service:
            watcher = {name: value for name, value in site.sentinel_access.items() if value is not None}
            url = f"async+redis+sentinel://{hosts}/{site.service}"
            self._storage = RedisSentinelStorage(url, **common, **options, sentinel_kwargs=watcher, ssl=secured)
        else:
            scheme = "rediss" if secured else "redis"
            self._storage = RedisStorage(f"async+{scheme}://{hosts}/{site.access['db']}", **common, **options)

    async def hit(self, key: str, window_s: int, *, most: int) -> Counted:
        """Counts one hit."""
        hits = await self._storage.incr(key, window_s)
        if hits <= most:  # when the window ends matters only to who is refused
            return Counted(hits, float(window_s))
        return Counted(hits, await self._storage.get_expiry(key) - time.time())

    async def close(self) -> None:
        """Closes the connections."""
        await self._storage.bridge.storage.aclose()


class Hit(NamedTuple):
    """A hit on its way to PostgreSQL."""

    key: str
    window_s: int

    def __str__(self) -> str:
        return "A rate limit"

    @property
    def size(self) -> int:
        """About how much it sends."""
        return 64


TABLE = """
CREATE UNLOGGED TABLE IF NOT EXISTS chatkeep.rates (key text PRIMARY KEY, hits integer NOT NULL, ends timestamptz NOT NULL)
"""

HITS = """
INSERT INTO chatkeep.rates AS there (key, hits, ends)
SELECT key, count(*), now() + make_interval(secs => max(window_s))
FROM unnest($2::text[], $3::integer[]) AS hit (key, window_s) WHERE $1::text IS NOT NULL GROUP BY key ORDER BY key
ON CONFLICT (key) DO UPDATE SET
    hits = CASE WHEN there.ends <= now() THEN 0 ELSE there.hits END + excluded.hits,
    ends = CASE WHEN there.ends <= now() THEN excluded.ends ELSE there.ends END
RETURNING key, hits, extract(epoch FROM ends - now())::float8 AS left_s
"""

TIDY = "DELETE FROM chatkeep.rates WHERE $1::text IS NOT NULL AND ends < now()"


class InPostgresql:
    """Counters in an UNLOGGED table beside the conversations: one statement for all hits that wait, on one connection.

    UNLOGGED: not written to the log, so a hit costs no flush, and a crash of the server empties it.
    """

    def __init__(self, driver: PostgresqlDriver) -> None:
        self._driver = driver
        self._tidy_at = 0.0

    async def open(self) -> None:
        """Makes the table."""
        from ..drivers.postgresql.transport import Combiner, Statement, in_schema

        connections = self._driver.connections
        schema = connections.site.schema
        connection = await connections.connected()
        try:
            await connection.execute(in_schema(TABLE, schema))
        except BaseException:
            connection.terminate()
            raise
        self._hits = Statement(in_schema(HITS, schema), columns, answers)
        self._tidy = Statement(in_schema(TIDY, schema), lambda _: (), lambda items, _: [None] * len(items))
        self._combiner = Combiner(connections, "limiter", 1, connection)

    async def hit(self, key: str, window_s: int, *, most: int) -> Counted:
        """Counts one hit."""
        counting = self._combiner.call(self._hits, Hit(key, window_s))
        if self._tidy_at < time.monotonic():
            self._tidy_at = time.monotonic() + TIDY_S
            self._combiner.call(self._tidy, Hit("", 0)).add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )
        counted: Counted = await counting
        return counted

    async def close(self) -> None:
        """Closes the connection."""
        await self._combiner.close()


def columns(hits: list[Hit]) -> tuple[list[str], list[int]]:
    """The hits as parameters."""
    return [hit.key for hit in hits], [hit.window_s for hit in hits]


def answers(hits: list[Hit], rows: Sequence[Any]) -> list[Counted]:
    """What each hit is told: those of one key that went together were counted one after another."""
    total = {row["key"]: (row["hits"], row["left_s"]) for row in rows}
    told = []
    for hit in reversed(hits):
        count, left_s = total[hit.key]
        told.append(Counted(count, left_s))
        total[hit.key] = count - 1, left_s
    return told[::-1]
