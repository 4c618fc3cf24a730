"""What is measured of chatkeep alone: trips on the wire, two instances, long logs, memory, bytes kept, cold start, profile."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from chatkeep.testing.proxy import Proxy

from .engines import Engine
from .subjects import CHATKEEP
from .sweep import CONVERSATIONS, Process
from .whole import Whole

WIRED = 50  # turns whose trips are counted
STEPS = 1000  # turns of a length
A_GROUP = 50  # turns in a row on one length
CUSTOMERS = 2000
GROWN, GROWTH_TURNS = 2000, 50_000  # conversations and turns while memory is watched
COLD = """
import re, sys, time
before, began = set(sys.modules), time.perf_counter()
import asyncio, json
from chatkeep import Chatkeep
imported = time.perf_counter()

async def main():
    keep = Chatkeep(sys.argv[1])

    @keep.on_message
    async def bot(turn):
        return turn.text

    async with keep:
        opened = time.perf_counter()
        await keep.receive(sys.argv[2], "hello")
        answered = time.perf_counter()
    new = set(sys.modules) - before
    print(json.dumps({
        "import_s": imported - began, "open_s": opened - imported, "answer_s": answered - opened, "modules": len(new),
        "packages": sorted({name.split(".")[0] for name in new} - set(sys.stdlib_module_names) - {"chatkeep"}),
        "rss_mb": int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024,
    }))

asyncio.run(main())
"""


async def wire(url: str) -> dict[str, dict[str, float]]:
    """Round trips and bytes both ways of a `receive`, and of an `accept` with its answer, counted by a proxy.

    Empty where there is no wire.
    """
    found: dict[str, dict[str, float]] = {}
    port = urlsplit(url).port
    if port is None:
        return found
    async with Proxy(port) as proxy:
        subject = Whole(poll="1h")
        await subject.open(url.replace(f":{port}/", f":{proxy.port}/"))
        await subject.fill("warm", 100)
        keep, engine = subject.keep, subject.keep._engine
        driver, announced = engine.store.driver, 0

        async def counted(marks: Any) -> None:
            nonlocal announced
            announced += 1  # nobody waits for these, and they may ride with an act: they are counted for themselves

        setattr(driver, "announce", counted)  # noqa: B010

        async def received(step: int) -> None:
            await subject.turn("warm", step)

        async def accepted(step: int) -> None:
            turns = engine.statistics.turns
            await keep.accept("warm", "and a pedicure, please " * 8, id=f"accepted.{step}")
            while engine.statistics.turns == turns or engine.statistics.workers:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

        for name, act in (("receive", received), ("accept", accepted)):
            for step in range(-10, 0):
                await act(step)
            await asyncio.sleep(0.1)
            before = (proxy.trips, proxy.request_bytes, proxy.reply_bytes, announced)
            for step in range(WIRED):
                await act(step)
            # What goes out behind an answer counts too.
            await asyncio.sleep(0.1)
            after = (proxy.trips, proxy.request_bytes, proxy.reply_bytes, announced)
            trips, sent, got, told = ((now - then) / WIRED for now, then in zip(after, before, strict=True))
            found[name] = {"trips": trips, "sent": sent, "got": got, "announcements": told}
        await subject.close()
    return found


def instances(engine: Engine, rounds: int, seconds: float) -> list[dict[str, float]]:
    """Turns per second on one store, round by round: of *one* process with 64 conversations at once and *two* with 32 each,
    which takes all there is of two cores; and with a turn at a time, which leaves some, of one *alone* and of a *pair*."""
    url, half = engine.store(), CONVERSATIONS // 2
    with contextlib.ExitStack() as stack:
        processes: list[Process] = []
        for group, most in (("one", 2 * half), ("two-a", half), ("two-b", half)):
            process = Process(CHATKEEP, engine, url=url)
            stack.callback(process.end)
            process.ask(fill=group, length=100, most=most, cap_s=20, seconds=seconds)
            processes.append(process)
        single, *both = processes

        def two(clients: int) -> float:
            for process, group in zip(both, ("two-a", "two-b"), strict=True):
                process.tell(measure=group, clients=clients, seconds=seconds)
            return float(sum(process.answer()["turns_s"] for process in both))

        def one(clients: int) -> float:
            return float(single.ask(measure="one", clients=clients, seconds=seconds)["turns_s"])

        return [{"one": one(2 * half), "two": two(half), "alone": one(1), "pair": two(1)} for _ in range(rounds)]


async def filled(url: str, lengths: list[int]) -> dict[int, list[str]]:
    """Conversations of each length, their names."""
    subject = Whole()
    await subject.open(url)
    names = {length: [f"{length}-{n}" for n in range(max(1, min(10, 100_000 // length)))] for length in lengths}
    for length, group in names.items():
        for name in group:
            await subject.fill(name, length)
    await subject.close()
    return names


async def long_logs(engine: Engine, url: str, names: dict[int, list[str]]) -> dict[str, dict[str, float]]:
    """Median ms and bytes written of a turn at each length, by turns, so that whatever happens hits all of them."""
    subject, step = Whole(), 0
    await subject.open(url)
    for group in names.values():
        for name in group * 2:
            step += 1
            await subject.turn(name, step)
    process = psutil.Process()
    took: dict[int, list[float]] = {length: [] for length in names}
    wrote = dict.fromkeys(names, 0)
    for _ in range(STEPS // A_GROUP):
        for length, group in names.items():
            before = await asyncio.to_thread(engine.written, process)
            for n in range(A_GROUP):
                step += 1
                began = time.perf_counter()
                await subject.turn(group[n % len(group)], step)
                took[length].append((time.perf_counter() - began) * 1e3)
            wrote[length] += await asyncio.to_thread(engine.written, process) - before
    await subject.close()
    return {str(n): {"ms": statistics.median(took[n]), "bytes": wrote[n] / STEPS} for n in names}


def memory(url: str, turns: int) -> list[tuple[int, float]]:
    """As `growth`, in a fresh process: the heap of this one has room from before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_grown, url, turns).result()


def _grown(url: str, turns: int) -> list[tuple[int, float]]:
    return asyncio.run(growth(url, turns))


async def growth(url: str, turns: int) -> list[tuple[int, float]]:
    """Resident MB after each tenth of the *turns*, the cache limited to a tenth of the conversations.

    Each of them has a full window after 20,000 turns, SQLite its page cache by 30,000; from there on nothing may grow.
    """
    process = psutil.Process()
    seen: list[tuple[int, float]] = []
    subject = Whole(cache_entries=GROWN // 10)
    await subject.open(url)
    for tenth in range(10):

        async def client(first: int, tenth: int = tenth) -> None:
            for n in range(first, turns // 10, CONVERSATIONS):
                step = tenth * turns // 10 + n
                await subject.turn(f"customer-{step * 7919 % GROWN:05d}", step)

        await asyncio.gather(*(client(first) for first in range(CONVERSATIONS)))
        seen.append(((tenth + 1) * turns // 10, process.memory_info().rss / 2**20))
        print(f"  memory after {seen[-1][0]:,} turns: {seen[-1][1]:.1f} MB", file=sys.stderr)
    await subject.close()
    return seen


async def served(url: str, customers: int, turns: int) -> None:
    """So many turns for each of so many conversations."""
    subject = Whole()
    await subject.open(url)

    async def client(first: int) -> None:
        for step in range(turns):
            for n in range(first, customers, CONVERSATIONS):
                await subject.turn(f"customer-{n:05d}", step * customers + n)

    # (All of them at once would wait longer than a store may take on a machine that has other work.)
    await asyncio.gather(*map(client, range(CONVERSATIONS)))
    await subject.close()


def stored(engine: Engine, customers: int) -> float:
    """Bytes for each conversation of 20 messages and 1 KB of state."""
    url = engine.store()
    asyncio.run(served(url, customers, 0))
    before = engine.held(url)
    asyncio.run(served(url, customers, 10))
    return (engine.held(url) - before) / customers


def cold_start(url: str, runs: int = 5) -> dict[str, Any]:
    """A fresh process: import, open a store that is there, answer the first message. Medians."""
    found = []
    for n in range(runs + 1):
        ran = subprocess.run([sys.executable, "-c", COLD, url, f"cold-{n}"], check=True, capture_output=True, text=True)
        found.append(json.loads(ran.stdout))
    first, *rest = found  # the first one made the schema
    return {
        name: value if isinstance(value, list) else statistics.median(run[name] for run in rest)
        for name, value in first.items()
    }


async def profile(url: str, seconds: float) -> dict[str, float]:
    """Where the time of the event loop's thread goes with 64 conversations, by module."""
    profiler = cProfile.Profile()
    subject = Whole()
    await subject.open(url)
    until = time.perf_counter() + seconds

    async def client(name: str) -> None:
        step = 0
        while time.perf_counter() < until:
            step += 1
            await subject.turn(name, step)

    profiler.enable()
    await asyncio.gather(*(client(f"customer-{n}") for n in range(CONVERSATIONS)))
    profiler.disable()
    await subject.close()
    spent: dict[str, float] = {}
    stats: Any = pstats.Stats(profiler)
    for (file, _, function), (_, _, own, _, _) in stats.stats.items():
        place = _place(Path(file), function)
        spent[place] = spent.get(place, 0.0) + own
    total = sum(spent.values())
    return {
        place: own / total for place, own in sorted(spent.items(), key=lambda item: -item[1]) if own / total >= 0.01
    }


def _place(path: Path, function: str) -> str:
    if "poll" in function:
        return "waiting for the store"
    if str(path) == "~":
        return "C: JSON, structs, containers, sockets"
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1]
    if "chatkeep" in path.parts[:-1] and path.parent.name in ("chatkeep", "drivers"):
        return f"chatkeep {path.stem}"
    return next((part for part in ("asyncio", "benchmarks") if part in path.parts), "Python's library")
