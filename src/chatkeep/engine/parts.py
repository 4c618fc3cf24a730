"""What each part of one process has done since it was made, and how it is now: what `Chatkeep.stats` answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from ..storage.cache import CacheStatistics
from .statistics import EngineStatistics

if TYPE_CHECKING:
    from .engine import Engine


class StoreStats(Struct, frozen=True, kw_only=True):
    """
    The way to the store.

    engine: which kind it is. trouble: why it is not used now, "" when it is. acts: how many were asked of it, by verb. connections,
    connections_most: to it, open and at most (0: it needs none); acts_waiting: for one of these. rolled_back: how often it was found
    to hold less than it had answered.
    """

    engine: str
    trouble: str = ""
    acts: dict[str, int] = {}
    connections: int = 0
    connections_most: int = 0
    acts_waiting: int = 0
    rolled_back: int = 0


class SharedCacheStats(Struct, frozen=True, kw_only=True):
    """The cache of all instances. on: whether this process uses it; faults: how often it did not answer, or held what cannot be read."""

    on: bool
    hits: int = 0
    misses: int = 0
    writes: int = 0
    faults: int = 0


class OutboxStats(Struct, frozen=True, kw_only=True):
    """
    Replies on their way out. sends: whether this process has an outlet. attempts: to send one, by channel and what became of it
    ("delivered", "failed", "uncertain", "retry"). last_sent_s: how long ago the last one was delivered; None: none was.
    """

    sends: bool
    attempts: dict[str, dict[str, int]] = {}
    last_sent_s: float | None = None


class SweeperStats(Struct, frozen=True, kw_only=True):
    """
    Looking for what is due. running: whether this process does. started: in how many conversations something was due. behind_s: how long
    ago all that is due had been looked at; None: not yet.
    """

    running: bool
    started: int = 0
    behind_s: float | None = None


class StreamStats(Struct, frozen=True, kw_only=True):
    """Those who follow conversations in this process: how many are *watching*, and whether other instances are heard at once (*live*)."""

    watching: int = 0
    live: bool = False


class Stats(Struct, frozen=True, kw_only=True):
    """
    What this process has done since the Chatkeep was made, *since_s* seconds ago, and how it is now, part by part.

    store: the way to the store. cache: conversations held in memory, with counts and bytes; shared_cache: the one of all instances,
    None where there is none. engine: turns, failures, what waits. outbox: replies that go out through channels. sweeper: what looks for
    work. streams: who follows conversations.
    """

    since_s: float
    store: StoreStats
    cache: CacheStatistics
    shared_cache: SharedCacheStats | None = None
    engine: EngineStatistics
    outbox: OutboxStats
    sweeper: SweeperStats
    streams: StreamStats


def read_parts(engine: Engine[Any], kind: str, *, since: float) -> Stats:
    """Tell what each part of *engine*, which was made at *since* on a store of a *kind*, has done, and how it is now; asks nobody."""
    now, shared = engine.shared.clock(), engine.store.shared
    store, sender, sweeper, pool = engine.store, engine.sender, engine.sweeper, engine.store.driver.pool()
    attempts: dict[str, dict[str, int]] = {}
    for (channel, status), count in sorted(sender.attempts.items()):
        attempts.setdefault(channel, {})[status] = count
    return Stats(
        since_s=max(now - since, 0.0),
        store=StoreStats(
            engine=kind,
            trouble=store.gateway.trouble,
            acts={verb.lower(): count for verb, count in sorted(store.gateway.acts.items())},
            connections=pool.open,
            connections_most=pool.most,
            acts_waiting=pool.waiting,
            rolled_back=store.rolled_back,
        ),
        cache=structs.replace(store.statistics),
        shared_cache=None if shared is None else SharedCacheStats(on=shared.on, **structs.asdict(shared.statistics)),
        engine=structs.replace(engine.statistics),
        outbox=OutboxStats(
            sends=sender.outlet is not None,
            attempts=attempts,
            last_sent_s=None if sender.sent_at is None else max(now - sender.sent_at, 0.0),
        ),
        sweeper=SweeperStats(
            running=sweeper.task is not None,
            started=sweeper.started,
            behind_s=None if sweeper.looked_at is None else max(now - sweeper.looked_at, 0.0),
        ),
        streams=StreamStats(watching=engine.watches.watching, live=engine.watches.is_live),
    )
