"""What can be said of a worker and its store, for `examine`, which tells a person, and for `open`, which refuses."""

from __future__ import annotations

import time
from typing import Any

from ..base import Finding
from ..url import is_loopback
from .seam import Site, Transport

FORMAT = 1
SKEW_S = 1.0
TRIPS = 5


def foreign(told: Any) -> str:
    """Tell why a store that says *told* of itself is not for this code; '' when it is."""
    if told.get("format") != FORMAT:
        return (
            f"it was made by another chatkeep (format {told.get('format')!r}, this code knows {FORMAT}). Deploy that version, or "
            "its worker."
        )
    return ""


async def examined(worker: Transport) -> list[Finding]:
    """Return everything that can be found out without changing anything. Raises `Unavailable`."""
    trips, skews = [], []
    told: Any = {}
    for _ in range(TRIPS):
        begun, clock = time.perf_counter(), time.time()
        told = await worker.act("look", b"[]")
        trips.append(time.perf_counter() - begun)
        skews.append(told["now"] - (clock + time.time()) / 2)
    import statistics  # takes milliseconds, which an opening need not wait for

    skew = statistics.median(skews)
    found = [
        Finding("ok", "reachable", worker.site.name),
        *_secured(worker.site),
        Finding("ok", "round trip", f"{statistics.median(trips) * 1000:.2f} ms, the median of {TRIPS}"),
    ]
    if abs(skew) > SKEW_S:
        said = f"its clock is {skew:+.1f} s off from this host's: set one of them right; from 300 s on it refuses every request"
        found.append(Finding("warn", "clock", said))
    else:
        found.append(Finding("ok", "clock", f"{skew * 1000:+.1f} ms off from this host's"))
    if not told.get("epoch"):
        return [*found, Finding("ok", "format", "nothing is stored yet")]
    wrong = foreign(told)
    said = wrong or f"format {told['format']}, {told['shards']} shards"
    return [*found, Finding("fail" if wrong else "ok", "format", said), Finding("ok", "epoch", told["epoch"])]


def _secured(site: Site) -> list[Finding]:
    if site.tls:
        return [Finding("ok", "transport", "TLS, and each request is signed")]
    said = "no TLS: requests are signed, and whoever is on the way can read them, and the answers"
    return [Finding("ok" if is_loopback(site.host) else "warn", "transport", said)]
