"""Numbers of one Chatkeep and of the HTTP requests to it, for Prometheus. No label holds what a user or client chose."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sized
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..app import Chatkeep, core_of
from ..channels.accounts import Accounts
from ..channels.base import Channel
from ..drivers.url import is_loopback
from ..engine.instruments import Instrument
from ..extras import from_extra
from .health import trouble_of
from .limits import is_forwarded
from .wire import Refused

with from_extra("server", "/metrics"):
    from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import generate_latest
    from prometheus_client.metrics_core import Metric

TURN_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ACT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)

COUNTS = {
    "one_trip": "Turns that were recorded in a single act on the store",
    "reruns": "Turns thrown away because their input had changed, and run again",
    "duplicates": "Messages whose id was in the log already",
    "failures": "Attempts that failed: the handler raised, took too long, or still runs from an earlier one",
    "dead": "Messages set aside after their last attempt (dead letters)",
    "taken_over": "Turns taken over from a process that died",
    "rolled_back": "Times the store held less than it had answered before",
}
GAUGES = {
    "journaled": "Conversations with messages in the journal, waiting for the store",
    "waiting": "Messages that wait for an answer in this process",
    "workers": "Conversations that are worked on in this process",
    "abandoned": "Handlers that were given up, because their time was over or their caller went away, and still run",
    "unreadable": "Conversations that wait and that this version cannot read: newer, or damaged",
}
OUTCOMES = (
    ("delivered", "none"),
    ("uncertain", "unclear"),
    *(("failed", cause) for cause in ("window", "recipient", "content", "account", "platform", "bug")),
    *(("retry", cause) for cause in ("platform", "account", "recipient", "store", "stopping")),
)
POOL = {
    "connections": ("Open connections to the store", "open"),
    "connections_most": ("Connections to the store that there may be", "most"),
    "acts_waiting": ("Acts that wait for a connection to the store", "waiting"),
}
NAMES = {"unreadable": "unreadable_conversations"}
CACHE_COUNTS = {"hits": "found", "misses": "not found", "evictions": "pushed out"}


Buckets = dict[float, float]
"""How many lay below each bound, by the bound."""


class Metrics(Instrument):
    """All numbers of *keep* and its server, in a registry of their own."""

    def __init__(self, keep: Chatkeep[Any]) -> None:
        self._keep = keep
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._turns = Histogram(
            "chatkeep_turn_seconds",
            "Time from taking up messages to the recorded answer",
            buckets=TURN_S,
            registry=self.registry,
        )
        self._acts = Histogram(
            "chatkeep_store_act_seconds", "Time of an act on the store", ["act"], buckets=ACT_S, registry=self.registry
        )
        self._requests = Histogram(
            "chatkeep_http_request_seconds",
            "Time until an HTTP request begins to be answered",
            ["route", "method"],
            buckets=REQUEST_S,
            registry=self.registry,
        )
        self._answers = Counter(
            "chatkeep_http_requests", "HTTP requests answered", ["route", "method", "status"], registry=self.registry
        )
        self._limited = Counter(
            "chatkeep_rate_limited",
            "Requests refused because a rate limit was reached",
            ["rate"],
            registry=self.registry,
        )
        self._deliveries = Counter(
            "chatkeep_deliveries",
            "Attempts to send a reply through a channel, and what became of them",
            ["channel", "status", "cause"],
            registry=self.registry,
        )
        outlet = core_of(keep).outlet
        channels: tuple[Channel, ...] = outlet.channels if isinstance(outlet, Accounts) else ()
        for channel in channels:
            for status, cause in OUTCOMES:  # a number that is not there before cannot be seen to grow
                self._deliveries.labels(channel.name, status, cause)
        self.streams: Sized = ()
        self.registry.register(self)
        keep.instruments.append(self)

    def measured(self, name: str, seconds: float) -> None:
        """Note a turn or an act on the store."""
        if name == "turn":
            self._turns.observe(seconds)
        else:
            self._acts.labels(name).observe(seconds)

    def sent(self, channel: str, status: str, cause: str, seconds: float) -> None:
        """Note an attempt to send a reply."""
        self._deliveries.labels(channel or "other", status, cause or "none").inc()

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Note an HTTP request."""
        self._requests.labels(route, method).observe(seconds)
        self._answers.labels(route, method, str(status)).inc()

    def limited(self, rate: str) -> None:
        """Note a request that a rate limit refused."""
        self._limited.labels(rate).inc()

    def times(self) -> tuple[Buckets, Buckets]:
        """Return how many turns, and acts on the store, took less than each bound, since the start."""
        return buckets_of(self._turns), buckets_of(self._acts)

    def describe(self) -> list[Metric]:
        """Return nothing: what `collect` gives needs no description beforehand."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return what the Chatkeep counts itself, as it is now."""
        counts, cache = self._keep.statistics.engine, self._keep.statistics.cache
        pool = core_of(self._keep).driver.pool()
        yield GaugeMetricFamily("chatkeep_ready", "1 while messages are answered here", int(not trouble_of(self._keep)))
        yield CounterMetricFamily("chatkeep_turns", "Turns recorded", counts.turns)
        yield GaugeMetricFamily("chatkeep_event_streams", "Open event streams (SSE)", len(self.streams))
        for name, said in COUNTS.items():
            yield CounterMetricFamily(f"chatkeep_{name}", said, getattr(counts, name))
        for name, said in GAUGES.items():
            yield GaugeMetricFamily(f"chatkeep_{NAMES.get(name, name)}", said, getattr(counts, name))
        for name, said in CACHE_COUNTS.items():
            yield CounterMetricFamily(
                f"chatkeep_cache_{name}", f"Conversations {said} in the cache", getattr(cache, name)
            )
        for name, (said, part) in POOL.items():
            yield GaugeMetricFamily(f"chatkeep_store_{name}", said, getattr(pool, part))
        sweeper = self._keep.stats().sweeper
        behind = sweeper.behind_s if sweeper.running and sweeper.behind_s is not None else 0.0
        yield GaugeMetricFamily(
            "chatkeep_sweep_behind_seconds",
            "Time since all that is due had been looked at; 0 where nothing sweeps",
            behind,
        )
        yield GaugeMetricFamily("chatkeep_cache_entries", "Conversations in the cache", cache.entries)
        yield GaugeMetricFamily("chatkeep_cache_bytes", "Memory that the cache takes, roughly", cache.bytes)


def buckets_of(histogram: Histogram) -> Buckets:
    """Return how many values of *histogram* lay below each bound, whatever their labels."""
    found: Buckets = {}
    for metric in histogram.collect():
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                bound = float(sample.labels["le"])
                found[bound] = found.get(bound, 0.0) + sample.value
    return found


def may_read(request: Request) -> bool:
    """Tell whether who asks has the token for the numbers or, where there is none, is a program of this machine and no proxy."""
    token = str(request.app.state.metrics_token)
    if token:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        return secrets.compare_digest(given.encode(), token.encode())
    return not is_forwarded(request.scope) and request.client is not None and is_loopback(request.client.host)


async def get_metrics(request: Request) -> Response:
    """Return the numbers in Prometheus' text format. No name of a user is there, but they say how busy this server is."""
    if not may_read(request):
        raise Refused(
            401, "unauthorized", "Send `metrics_token` as `Authorization: Bearer ...`, or ask from this machine."
        )
    raw = generate_latest(request.app.state.metrics.registry)
    return Response(raw, headers={"cache-control": "no-store"}, media_type="text/plain; version=0.0.4; charset=utf-8")
