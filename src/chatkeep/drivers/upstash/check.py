"""What can be found out about a store over REST, and what cannot: for `open`, which refuses, and for `examine`, which tells a person."""

from __future__ import annotations

import time

from ...errors import Misconfigured
from ..base import Finding
from ..redis import replies
from ..redis import scripts as acts
from ..redis.check import SKEW_S, inscribed
from ..redis.seam import Transport

PINGS = 5  # each is counted and paid for

READ_ONLY = "its token may only read. Take the standard token (UPSTASH_REDIS_REST_TOKEN, KV_REST_API_TOKEN), not the read-only one."


async def refuse_read_only(servers: Transport, said: acts.Acts) -> None:
    """Raise `Misconfigured` where the token may not write; removes what is not there, which changes nothing."""
    try:
        await servers.ask(b"DEL", said.buckets[0].start + b"probe")
    except replies.Refused as refused:
        if "NOPERM" not in f"{refused}":
            raise
        raise Misconfigured(f"{servers.site.name} was not opened: {READ_ONLY}") from refused


async def examined(servers: Transport, said: acts.Acts) -> list[Finding]:
    """Return everything that can be found out without changing anything."""
    try:
        await refuse_read_only(servers, said)
        found = [Finding("ok", "permissions", "its token may write")]
    except Misconfigured:
        found = [Finding("fail", "permissions", READ_ONLY)]
    found.insert(0, Finding("ok", "reachable", servers.site.name))
    unseen = "it cannot be seen from here: "
    found += [
        Finding("warn", "persistence", unseen + "the service says that it writes to disk. See to its backups."),
        Finding(
            "warn", "eviction", unseen + "leave it off in the console, or conversations go when the store is full."
        ),
        await _timed(servers),
        await _clock(servers),
    ]
    return found + await inscribed(servers, said)


async def _timed(servers: Transport) -> Finding:
    trips = []
    for _ in range(PINGS):
        begun = time.perf_counter()
        await servers.ask(b"PING")
        trips.append(time.perf_counter() - begun)
    import statistics  # takes milliseconds, which an opening need not wait for

    return Finding("ok", "round trip", f"{statistics.median(trips) * 1000:.2f} ms, the median of {PINGS}")


async def _clock(servers: Transport) -> Finding:
    begun = time.time()
    try:
        seconds, micros = await servers.ask(b"TIME")
    except replies.Refused as refused:
        return Finding("warn", "clock", f"it could not be checked: {refused}")
    skew = int(seconds) + int(micros) / 1e6 - (begun + time.time()) / 2
    if abs(skew) > SKEW_S:
        return Finding("warn", "clock", f"it is {skew:+.1f} s off from this host's: set this host's right")
    return Finding("ok", "clock", f"{skew * 1000:+.1f} ms off from this host's")
