"""A cache that instances share, in a Redis or Valkey in front of the store: a conversation that this process has not
seen yet is answered without reading it first.

Never trusted: a turn that starts from what it holds is written only if the store still has that revision, and what
people read comes from the store. What it holds carries a checksum, the format and the store's epoch. When it fails,
only time is lost; it is then left alone for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from typing import cast

import msgspec
from msgspec import Struct

from ..conversation.snapshots import Snapshot
from ..drivers.base import Finding, Key, mark_of
from ..drivers.url import host_fault
from ..errors import Misconfigured, StoreError
from ..extras import from_extra
from .seal_note import Sealing

with from_extra("redis", 'A shared cache (cache="redis://...")'):
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError

log = logging.getLogger("chatkeep")

FORMAT = 2
KEPT_S = 3600
TIMEOUT_S = 0.25
CONNECTIONS = 16
PAUSE_S = 1.0
GATHER_S = 0.02
ERASED_S = 5
# What was erased leaves an empty value for a moment, so that what another instance was about to put here does not bring it back.
PUT = "if redis.call('GET', KEYS[1]) ~= '' then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Snapshot).decode


class SharedCacheStatistics(Struct, kw_only=True):
    """Counts since the start. faults: how often it did not answer, or held something unreadable."""

    hits: int = 0
    misses: int = 0
    writes: int = 0
    faults: int = 0


class SharedCache:
    """Snapshots at *url*, of the store whose epoch is given with `open`; sealed by *sealing*, where there is one."""

    def __init__(self, url: str, sealing: Sealing | None = None) -> None:
        fault = host_fault(url)
        try:
            if fault:
                raise ValueError(fault)
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=TIMEOUT_S,
                socket_timeout=TIMEOUT_S,
                socket_connect_timeout=TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:
            # Its words may quote the password, which the library takes for the port where it holds a slash.
            wrong = fault or "it is not the URL of a Redis"
            raise Misconfigured(f"cache: {wrong}. Write redis://host:6379/0, or rediss:// with TLS.") from None
        self._redis = Redis.from_pool(pool)
        self._sealing = sealing
        self.on = True
        self.statistics = SharedCacheStatistics()
        self._epoch = ""
        self._rest_until = 0.0
        self._waiting: dict[Key, Snapshot] = {}
        self._writer: asyncio.Task[None] | None = None

    def open(self, epoch: str) -> None:
        """Hold conversations of the store with this epoch, and show no others."""
        self._epoch = epoch

    async def examine(self) -> list[Finding]:
        """Tell whether it answers; for a look before anything is opened."""
        began = time.monotonic()
        try:
            await self._redis.get(self._name(Key("", "-")))
        except (RedisError, OSError) as fault:
            why = type(fault).__name__
            said = f"it does not answer within {TIMEOUT_S:g} s ({why}): turns are slower without it; start it, or correct `cache`"
            return [Finding("fail", "shared cache", said)]
        finally:
            await self._redis.aclose()
        return [Finding("ok", "shared cache", f"it answers, within {1000 * (time.monotonic() - began):.1f} ms")]

    async def close(self) -> None:
        """Write what waits and close the connections."""
        if self._writer is not None:
            await self._writer
        await self._redis.aclose()

    async def get(self, key: Key) -> Snapshot | None:
        """Return what some instance has put here of *key*; perhaps old, never damaged."""
        if not self._usable():
            return None
        try:
            found = cast("bytes | None", await self._redis.get(self._name(key)))
        except (RedisError, OSError) as fault:
            self._failed(fault)
            return None
        snapshot = await self._opened(key, found) if found else None
        if snapshot is None:
            self.statistics.misses += 1
        else:
            self.statistics.hits += 1
        return snapshot

    def put(self, snapshot: Snapshot) -> None:
        """Have *snapshot* written in a moment, together with others, unless a newer one comes before."""
        if self._usable():
            self._waiting[snapshot.row.key] = snapshot
            if self._writer is None:
                self._writer = asyncio.create_task(self._write(), name="chatkeep shared cache")

    async def drop(self, key: Key) -> None:
        """Take *key* out: what was erased must not stay here. Tried even when the cache is switched off."""
        self._waiting.pop(key, None)
        try:
            await self._redis.set(self._name(key), b"", ex=ERASED_S)
        except (RedisError, OSError) as fault:
            self._failed(fault)
            log.warning("%s was erased, but may stay in the shared cache for up to an hour: %s", key, fault)

    async def _write(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_S)
                waiting, self._waiting = self._waiting, {}
                pipeline = self._redis.pipeline(transaction=False)
                for key, snapshot in waiting.items():
                    value = _with_checksum(key, snapshot)
                    if self._sealing is not None:
                        value = await self._sealing.seal_value(key, value)
                    pipeline.eval(PUT, 1, self._name(key), value, KEPT_S)
                await pipeline.execute()
                self.statistics.writes += len(waiting)
        except (RedisError, OSError, StoreError) as fault:
            self._failed(fault)
        finally:
            self._writer = None

    def _usable(self) -> bool:
        return self.on and time.monotonic() >= self._rest_until

    def _failed(self, fault: Exception) -> None:
        self.statistics.faults += 1
        self._rest_until = time.monotonic() + PAUSE_S
        self._waiting.clear()
        log.debug("The shared cache is left alone for %g s: %s", PAUSE_S, fault)

    async def _opened(self, key: Key, found: bytes) -> Snapshot | None:
        if self._sealing is not None:
            try:
                found = await self._sealing.open_value(key, found) or b""
            except StoreError:  # the conversation's key is in the store, which does not answer
                return None
        if found[:8] != _crc(key, found[8:]):
            self.statistics.faults += 1
            return None
        try:
            snapshot = _decode(found[8:])
        except msgspec.MsgspecError:
            self.statistics.faults += 1
            return None
        return snapshot if snapshot.row.key == key else None

    def _name(self, key: Key) -> str:
        return f"chatkeep:cache:{FORMAT}:{self._epoch}:{mark_of(key)}"


def _with_checksum(key: Key, snapshot: Snapshot) -> bytes:
    raw = _encode(snapshot)
    return _crc(key, raw) + raw


def _crc(key: Key, raw: bytes) -> bytes:
    return b"%08x" % zlib.crc32(raw, zlib.crc32(str(key).encode()))
