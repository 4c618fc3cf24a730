"""Runs every benchmark and writes RESULTS.md: `python -m benchmarks [--seconds 2] [--rounds 5]`, on an otherwise idle machine.

The subjects run in turn, round after round, each in a process of its own, so that whatever else the machine does hits all of
them; figures are medians over the rounds, with the smallest and the largest beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import platform
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import apsw
import msgspec

import chatkeep

from . import work
from .run import written
from .whole import Whole

HERE = Path(__file__).parent
SUBJECTS = {"raw": "(a) raw loop", "bare": "(b) bare combiner", "chatkeep": "chatkeep"}
Sample = dict[str, float]


def preloaded(folder: Path) -> str | None:
    """The library that counts and slows fsyncs, built for this machine; None where there is no C compiler."""
    library = folder / "slowfsync.so"
    try:
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(HERE / "slowfsync.c"), "-ldl"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        print("no C compiler: fsyncs are not counted and not slowed", file=sys.stderr)
        return None
    return str(library)


def one(subject: str, conversations: int, seconds: float, library: str | None, fsync_us: int) -> Sample:
    """One run in a fresh process and a fresh folder."""
    environment = dict(os.environ)
    if library:
        environment |= {"LD_PRELOAD": library} | ({"FSYNC_US": str(fsync_us)} if fsync_us else {})
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        command = [sys.executable, "-m", "benchmarks.run", subject, str(conversations), str(seconds), folder]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=HERE.parent)
    found: Sample = json.loads(ran.stdout)
    return found


def interleaved(
    rounds: int, seconds: float, library: str | None, fsync_us: int = 0
) -> dict[tuple[str, int], list[Sample]]:
    """Every subject with 1 and 64 conversations, round after round."""
    found: dict[tuple[str, int], list[Sample]] = {}
    for number in range(rounds):
        for conversations in (1, 64):
            for subject in SUBJECTS:
                sample = one(subject, conversations, seconds, library, fsync_us)
                found.setdefault((subject, conversations), []).append(sample)
                print(
                    f"  round {number + 1}: {subject} x{conversations}: {sample['turns_s']:.0f} turns/s",
                    file=sys.stderr,
                )
    return found


def table(samples: dict[tuple[str, int], list[Sample]]) -> str:
    """The comparison, as Markdown."""
    lines = [
        "| | conversations | turns/s (min-max) | x (a) | x (b) | p50 ms | p99 ms | CPU us/turn | acts/turn | fsyncs/turn | bytes written/turn |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (subject, conversations), runs in sorted(samples.items(), key=lambda item: item[0][1]):
        ratios = [
            statistics.median(
                run["turns_s"] / other["turns_s"] for run, other in zip(runs, samples[base, conversations], strict=True)
            )
            for base in ("raw", "bare")
        ]
        speeds = [run["turns_s"] for run in runs]
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        lines.append(
            f"| {SUBJECTS[subject]} | {conversations} | {middle['turns_s']:,.0f} ({min(speeds):,.0f}-{max(speeds):,.0f}) | {ratios[0]:.2f} | "
            f"{ratios[1]:.2f} | {middle['p50_ms']:.2f} | {middle['p99_ms']:.2f} | {middle['cpu_us']:.0f} | {middle.get('acts', 1):.2f} | "
            f"{middle['fsyncs']:.3f} | {middle['bytes']:,.0f} |"
        )
    return "\n".join(lines)


async def length(messages: int, turns: int = 1000) -> tuple[float, float]:
    """Median ms and bytes written of a turn in a conversation that holds so many messages already."""
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        subject = Whole()
        await subject.open(os.path.join(folder, "bench.db"))
        driver = subject.keep._engine.store.driver
        await subject.turn("long", 1)
        while (found := await subject.keep.conversation("long")) and found.head < messages:
            from chatkeep.codec import entry_for, key_for

            key = key_for("", "long")
            entries = [
                entry_for(
                    key,
                    work.question(n),
                    id=f"old.{found.head + n}",
                    role="operator",
                    created_at=time.time(),
                    limit=10**6,
                )
                for n in range(min(500, messages - found.head))
            ]
            await driver.append(key, entries, revision=os.urandom(6).hex(), at=time.time())
        await subject.close()  # what the filling has left in the write-ahead log is not part of a turn
        subject = Whole()
        await subject.open(os.path.join(folder, "bench.db"))
        for step in range(2, 30):
            await subject.turn("long", step)
        took, before = [], written()
        for step in range(30, 30 + turns):
            began = time.perf_counter()
            await subject.turn("long", step)
            took.append((time.perf_counter() - began) * 1e3)
        bytes_a_turn = (written() - before) / turns
        await subject.close()
        return statistics.median(took), bytes_a_turn


async def memory(turns: int = 100_000, conversations: int = 10_000) -> list[tuple[int, float]]:
    """Resident MB after each tenth of so many turns over so many conversations, with the cache limited to 1,000."""
    import psutil

    process = psutil.Process()
    seen: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        subject = Whole(cache_entries=1000)
        await subject.open(os.path.join(folder, "bench.db"))
        for tenth in range(10):

            async def client(first: int, tenth: int = tenth) -> None:
                for n in range(first, turns // 10, 64):
                    step = tenth * turns // 10 + n
                    await subject.turn(f"customer-{step * 7919 % conversations:05d}", step)

            await asyncio.gather(*(client(first) for first in range(64)))
            seen.append(((tenth + 1) * turns // 10, process.memory_info().rss / 2**20))
            print(f"  memory: {seen[-1]}", file=sys.stderr)
        await subject.close()
    return seen


async def stored(conversations: int = 2000, turns: int = 10) -> float:
    """Bytes of file for each conversation of 20 messages and 1 KB of state, after a checkpoint."""
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        path = os.path.join(folder, "bench.db")
        subject = Whole()
        await subject.open(path)
        for step in range(turns):
            await asyncio.gather(
                *(subject.turn(f"customer-{n:05d}", step * conversations + n) for n in range(conversations))
            )
        await subject.close()
        return os.path.getsize(path) / conversations


def imported() -> float:
    """Median seconds of `import chatkeep`, measured inside a fresh interpreter."""
    code = "import time; began = time.perf_counter(); import chatkeep; print(time.perf_counter() - began)"
    return statistics.median(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(7))


async def profile(seconds: float) -> str:
    """Where the time of the event loop's thread goes with 64 conversations, by module."""
    profiler = cProfile.Profile()
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        subject = Whole()
        await subject.open(os.path.join(folder, "bench.db"))
        until = time.perf_counter() + seconds

        async def client(name: str) -> None:
            step = 0
            while time.perf_counter() < until:
                step += 1
                await subject.turn(name, step)

        profiler.enable()
        await asyncio.gather(*(client(f"customer-{n}") for n in range(64)))
        profiler.disable()
        await subject.close()
    spent: dict[str, float] = {}
    stats: Any = pstats.Stats(profiler)
    for (file, _, function), (_, _, own, _, _) in stats.stats.items():
        path = Path(file)
        place = (
            "waiting for the writer's thread"
            if "poll" in function
            else "C: JSON, structs, containers"
            if file == "~"
            else path.stem
        )
        if "asyncio" in path.parts:
            place = "asyncio"
        spent[place] = spent.get(place, 0.0) + own
    total = sum(spent.values())
    shares = sorted(spent.items(), key=lambda item: -item[1])
    return "\n".join(f"| {place} | {own / total:.0%} |" for place, own in shares if own / total >= 0.01)


def pairs(samples: dict[tuple[str, int], list[Sample]], conversations: int) -> float:
    """Median ratio of chatkeep to the raw loop, round by round."""
    runs, raws = samples["chatkeep", conversations], samples["raw", conversations]
    return statistics.median(run["turns_s"] / raw["turns_s"] for run, raw in zip(runs, raws, strict=True))


def main() -> None:
    """Measures, prints progress, writes RESULTS.md."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=2.0)
    options.add_argument("--rounds", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = preloaded(Path(folder))
        samples = interleaved(given.rounds, given.seconds, library)
        slowed = interleaved(max(2, given.rounds // 2), given.seconds, library, fsync_us=1000) if library else {}
    short, long = asyncio.run(length(10)), asyncio.run(length(100_000))
    grown = asyncio.run(memory())
    size, seconds = asyncio.run(stored()), imported()
    shares = asyncio.run(profile(given.seconds))
    bars: list[tuple[str, str, bool]] = [
        ("64 conversations, whole engine, x (a)", f"at least 2: {pairs(samples, 64):.2f}", pairs(samples, 64) >= 2),
        ("1 conversation, x (a)", f"at least 0.7: {pairs(samples, 1):.2f}", pairs(samples, 1) >= 0.7),
        (
            "a turn in a log of 100,000 messages, time, x one in a log of 10",
            f"at most 1.1: {long[0] / short[0]:.2f}",
            long[0] <= 1.1 * short[0],
        ),
        ("the same, bytes written", f"at most 1.1: {long[1] / short[1]:.2f}", long[1] <= 1.1 * short[1]),
        (
            "memory from turn 20,000 to 100,000 (10,000 conversations, cache of 1,000), MB",
            f"flat: {grown[1][1]:.1f} to {grown[-1][1]:.1f}",
            grown[-1][1] < 1.1 * grown[1][1],
        ),
        (
            "bytes stored per conversation of 20 messages (ids of 16 characters)",
            f"at most 5,120: {size:,.0f}",
            size <= 5120,
        ),
        ("import chatkeep, seconds", f"under 0.2: {seconds:.3f}", seconds < 0.2),
    ]
    if slowed:
        bars.insert(2, ("64 conversations with fsync slowed by 1 ms, x (a)", f"{pairs(slowed, 64):.1f}", True))
    results = RESULTS.format(
        command=f"python -m benchmarks --seconds {given.seconds:g} --rounds {given.rounds}",
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}",
        versions=f"CPython {platform.python_version()}, chatkeep {chatkeep.__version__}, SQLite {apsw.sqlite_lib_version()} "
        f"(apsw {apsw.apsw_version()}), msgspec {msgspec.__version__}",
        date=time.strftime("%Y-%m-%d"),
        bars="\n".join(f"| {what} | {figure} | {'met' if met else '**missed**'} |" for what, figure, met in bars),
        fast=table(samples),
        slow=table(slowed) if slowed else "(no C compiler here: not measured)",
        profile=shares,
        short=f"{short[0]:.3f} ms, {short[1]:,.0f} bytes",
        long=f"{long[0]:.3f} ms, {long[1]:,.0f} bytes",
        memory=", ".join(f"{turns:,}: {mb:.1f}" for turns, mb in grown),
    )
    (HERE / "RESULTS.md").write_text(results)
    print(table(samples), "", table(slowed) if slowed else "", "", sep="\n")
    print("\n".join(f"{'ok    ' if met else 'MISSED'} {what}: {figure}" for what, figure, met in bars))


RESULTS = """# Results

Written by `{command}` on {date}; {machine}; {versions}.

One turn: the user's message of 200 bytes comes in, the handler is given the state (about 1 KB of JSON) and the last 20 messages,
puts a changed state and answers 200 bytes (ids of 16 characters; all subjects on uvloop, as the server runs), and all of it is durable (WAL, synchronous=FULL) before the answer is seen. (a) and (b)
are in `floors.py`: what a careful person writes by hand on the bare driver, and the least that a write-combining loop can cost. The
whole of chatkeep has message ids, dedupe, order, session expiry, checksums and attempts on top. Each subject runs in a process of its
own, in turn with the others; medians over the rounds, smallest and largest in brackets; ratios are medians of ratios within a round.
Latencies of (a) with 64 conversations leave out waiting: it blocks the loop. fsync on this disk is quick; the second table adds 1 ms.

| bar | figure | |
|---|---|---|
{bars}

## As the disk is

{fast}

## With each fsync 1 ms slower

{slow}

## Where the event loop's thread spends its time (chatkeep, 64 conversations, under cProfile)

| | share |
|---|---|
{profile}

## Long logs

A turn in a log of 10 messages: {short}. In a log of 100,000: {long}. (Medians of 1,000 turns.)

## Memory

Resident MB after so many turns over 10,000 conversations, cache limited to 1,000: {memory}.
"""


if __name__ == "__main__":
    main()
