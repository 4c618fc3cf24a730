"""One measurement in a process of its own: `python -m benchmarks.run NAME CONVERSATIONS SECONDS FOLDER` prints JSON."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import resource
import sys
import time
from typing import Any

import uvloop

from .floors import BareCombiner, RawLoop
from .whole import Whole

SUBJECTS: dict[str, Any] = {"raw": RawLoop, "bare": BareCombiner, "chatkeep": Whole}
WARM_TURNS = 12


def fsyncs() -> int:
    """How often this process has synced, if the counting library is preloaded."""
    try:
        return int(ctypes.CDLL(None).fsync_count())
    except AttributeError:
        return 0


def written() -> int:
    """Bytes this process has sent towards the disk."""
    with open("/proc/self/io") as counters:
        return next(int(line.split()[1]) for line in counters if line.startswith("write_bytes"))


async def measure(name: str, conversations: int, seconds: float, folder: str) -> dict[str, float]:
    """Turns of *conversations* clients, each with one conversation, for so many seconds after a warm-up."""
    subject = SUBJECTS[name]()
    await subject.open(os.path.join(folder, "bench.db"))
    latencies: list[float] = []
    step = 0

    async def client(conversation: str, until: float) -> None:
        nonlocal step
        while time.perf_counter() < until:
            step += 1
            began = time.perf_counter()
            await subject.turn(conversation, step)
            latencies.append(time.perf_counter() - began)

    names = [f"customer-{number:04d}" for number in range(conversations)]
    for _ in range(WARM_TURNS):
        for conversation in names:
            step += 1
            await subject.turn(conversation, step)
    before = (fsyncs(), written(), time.process_time(), time.perf_counter())
    latencies.clear()
    await asyncio.gather(*(client(conversation, before[3] + seconds) for conversation in names))
    took = time.perf_counter() - before[3]
    turns = len(latencies)
    found = {
        "turns_s": turns / took,
        "p50_ms": sorted(latencies)[turns // 2] * 1e3,
        "p99_ms": sorted(latencies)[turns * 99 // 100] * 1e3,
        "cpu_us": (time.process_time() - before[2]) / turns * 1e6,
        "fsyncs": (fsyncs() - before[0]) / turns,
        "bytes": (written() - before[1]) / turns,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if name == "chatkeep":
        engine = subject.keep.statistics.engine
        found["acts"] = 1 + (engine.turns - engine.one_trip) / engine.turns
    await subject.close()
    return found


if __name__ == "__main__":
    name, conversations, seconds, folder = sys.argv[1:]
    # On the loop that the server runs on; all subjects alike.
    print(json.dumps(uvloop.run(measure(name, int(conversations), float(seconds), folder))))
