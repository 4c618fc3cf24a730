"""How a server has been doing for an hour, for the charts of the desk's health page; and which servers there are on the store.

Every SAMPLE_S the counts of the Chatkeep and the histograms of /metrics are read, and what has changed since is kept in memory: a turn pays
nothing for it. One row is asked for, the oldest that is due. Twice a minute the process says in a record of its own that it is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ..app import Chatkeep, core_of
from ..drivers.base import AT_ONCE
from ..errors import ChatkeepError
from ..storage.heartbeats import Heartbeats
from .health import trouble_of

if TYPE_CHECKING:
    from .metrics import Buckets, Metrics

log = logging.getLogger("chatkeep.server")

SAMPLE_S = 15.0
KEPT = 240
"""Samples: an hour."""

SAYS = 2
"""After so many samples a process says again that it is there."""

GONE_S = 120.0
"""One that has said nothing for so long is not listed any more."""

LISTED = "instance"
"""The owner of the records of all processes, by which they are listed."""


class Sample(Struct, frozen=True, kw_only=True):
    """
    What happened until *at*, since the sample before.

    turns, failures, conflicts, hits, misses: of each in a second; conflicts are turns that ran again because somebody else had written,
    hits and misses those of the cache. turn_p50, turn_p99, act_p50, act_p99: seconds that half, and 99 of 100, turns and acts on the store
    took at most; null where there was none, or /metrics is off. backlog: for how many seconds the oldest that is due is due; null where
    the store does not say. waiting: messages that wait in this process.
    """

    at: float
    turns: float
    failures: float
    conflicts: float
    hits: float
    misses: float
    turn_p50: float | None = None
    turn_p99: float | None = None
    act_p50: float | None = None
    act_p99: float | None = None
    backlog: float | None = None
    waiting: int = 0


class Instance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process that serves: where it runs, since when, when it last said so, by its clock, and what it says of itself."""

    host: str = ""
    process: int = 0
    version: str = ""
    begun_at: float = 0.0
    seen_at: float = 0.0
    trouble: str = ""
    turns: float = 0.0


class Samples:
    """The samples of one application over *keep*, and what it says of itself to others on the store."""

    def __init__(self, keep: Chatkeep[Any]) -> None:
        self._keep = keep
        self.metrics: Metrics | None = None
        """Where the times of turns and acts are read from, if they are measured."""
        self.taken: deque[Sample] = deque(maxlen=KEPT)
        self._before: tuple[float, dict[str, int], Buckets, Buckets] | None = None
        self._said = Heartbeats(
            core_of(keep).records("instances", Instance), LISTED, gone_s=GONE_S, said_at=lambda told: told.seen_at
        )
        self._begun_at = 0.0
        self._sampling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the Chatkeep is open."""
        self._begun_at = core_of(self._keep).clock()
        self._sampling = asyncio.create_task(self._go_on(), name="chatkeep samples")

    async def close(self) -> None:
        """End, and say so to the others."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await self._said.end()

    async def _go_on(self) -> None:
        count = 0
        while True:
            try:
                await self.take()
                if count % SAYS == 0:
                    await self._said.say(self._told())
            except ChatkeepError as fault:
                log.debug("No sample could be taken: %s", fault)
            count += 1
            await asyncio.sleep(SAMPLE_S)

    async def take(self) -> None:
        """Take a sample, unless it is the first one: that has nothing to be compared with."""
        core = core_of(self._keep)
        now, counts = core.clock(), self._counts()
        turns, acts = self.metrics.times() if self.metrics else ({}, {})
        before, self._before = self._before, (now, counts, turns, acts)
        if before is None or now <= before[0]:
            return
        rates = {name: max(count - before[1][name], 0) / (now - before[0]) for name, count in counts.items()}
        of_turns, of_acts = since(before[2], turns), since(before[3], acts)
        self.taken.append(
            Sample(
                at=now,
                **rates,
                turn_p50=quantile(of_turns, 0.5),
                turn_p99=quantile(of_turns, 0.99),
                act_p50=quantile(of_acts, 0.5),
                act_p99=quantile(of_acts, 0.99),
                backlog=await self._backlog(now),
                waiting=self._keep.statistics.engine.waiting,
            )
        )

    async def instances(self) -> list[Instance]:
        """Return the processes that serve on this store, as far as they have said so lately; this one among them."""
        others = await self._said.others(core_of(self._keep).clock())
        return [self._told(), *sorted(others, key=lambda one: (one.host, one.process))]

    async def _backlog(self, now: float) -> float | None:
        try:
            rows = await core_of(self._keep).scan("due", tenant=None, after=None, limit=1)
        except ChatkeepError:
            return None
        due_at = rows[0].due_at if rows else None
        if due_at is None:
            return 0.0
        return max(now - (rows[0].updated_at if due_at == AT_ONCE else due_at), 0.0)

    def _counts(self) -> dict[str, int]:
        counts, cache = self._keep.statistics.engine, self._keep.statistics.cache
        return {
            "turns": counts.turns,
            "failures": counts.failures,
            "conflicts": counts.reruns,
            "hits": cache.hits,
            "misses": cache.misses,
        }

    def _told(self) -> Instance:
        return Instance(
            host=socket.gethostname(),
            process=os.getpid(),
            version=self._keep.settings.version,
            begun_at=self._begun_at,
            seen_at=core_of(self._keep).clock(),
            trouble=trouble_of(self._keep),
            turns=self.taken[-1].turns if self.taken else 0.0,
        )


def since(before: Mapping[float, float], now: Mapping[float, float]) -> list[tuple[float, float]]:
    """Return how many lay below each bound since *before*, of cumulative counts, in order of the bounds."""
    return [(bound, now[bound] - before.get(bound, 0.0)) for bound in sorted(now)]


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """Return below which value that share lies, between two bounds as on a straight line; the last finite bound where it lies above
    them; None where there is nothing."""
    total = buckets[-1][1] if buckets else 0.0
    if total <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= share * total:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (share * total - below) / max(count - below, 1e-9)
        low, below = bound, count
    return low
