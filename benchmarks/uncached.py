"""Turns of conversations that are not in memory: `python -m benchmarks.uncached`, on each engine beside the same turn of those that are.

Sixty-four at once, each in a log of 30 messages: *warm* conversations that go on, *cold* ones that this process has not seen, though it has answered others,
*random* ones of a number of which the cache holds a tenth, and *new* ones. A line for each: the processor's time of chatkeep's process for a turn, the least of
several rounds, and how often the store was asked to read and to write for it. `--record` puts all of it into results.json and RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from . import report
from .cold import ENGINES
from .whole import Whole

AT_ONCE = 64
MESSAGES = 30
HELD = 10  # of so many conversations one is in the cache, where they come at random
ROUNDS = 5


class Cost(NamedTuple):
    """Of one turn: microseconds of the processor, and how often the store was asked to read and to write."""

    processor: float
    reads: float
    writes: float


async def cost_of(subject: Whole, names: Iterator[str], turns: int, steps: Iterator[int]) -> Cost:
    """Take so many turns, and tell what one has cost."""
    acts = subject.keep._engine.store.gateway.acts
    before, began = acts.copy(), time.process_time()
    left, busy = iter(range(turns)), set[str]()

    async def client() -> None:
        for _ in left:
            name = next(name for name in names if name not in busy)  # what comes behind another message waits for it
            busy.add(name)
            await subject.turn(name, next(steps))
            busy.discard(name)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    took, done = time.process_time() - began, acts - before
    writes = done["Append"] + done["Write"]
    return Cost(1e6 * took / turns, (done["Read"] + done["Entries"]) / turns, writes / turns)


async def measure(url: str, conversations: int) -> dict[str, Cost]:
    """Take all kinds of turns, by turns; the least of the rounds."""
    subject, steps, newcomers = Whole(cache_entries=conversations // HELD), count(1), count()
    await subject.open(url)
    names = [f"customer-{n:05d}" for n in range(conversations)]
    for first in range(0, conversations, AT_ONCE):
        await asyncio.gather(*(subject.fill(name, MESSAGES) for name in names[first : first + AT_ONCE]))
    chance, turns = random.Random(7), conversations // ROUNDS
    rounds: list[dict[str, Cost]] = []
    kinds: dict[str, Callable[[int], Iterator[str]]] = {
        "warm": lambda n: cycle(names[: 2 * AT_ONCE]),
        "cold": lambda n: iter(names[n * turns : (n + 1) * turns]),
        "random": lambda n: iter(lambda: chance.choice(names), ""),
        "new": lambda n: (f"newcomer-{next(newcomers):05d}" for _ in count()),
    }
    for n in range(ROUNDS):
        found: dict[str, Cost] = {}
        for kind, drawn in kinds.items():
            if kind == "warm":
                await cost_of(subject, drawn(n), 4 * AT_ONCE, steps)
            if kind == "cold":
                await subject.close()  # nothing is known of any of them
                await subject.open(url)
                # A process that has just begun does not know yet how quick its handlers are.
                await cost_of(subject, kinds["new"](n), 4 * AT_ONCE, steps)
            found[kind] = await cost_of(subject, drawn(n), turns, steps)
        rounds.append(found)
    await subject.close()
    return {kind: min(found[kind] for found in rounds) for kind in kinds}


def main() -> None:
    """Measure, print, and record where that is asked for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.uncached", description=__doc__)
    engines = ("sqlite", "redis", "postgresql")
    options.add_argument("--engine", choices=engines, action="append", help="one of them, or several; all by default")
    options.add_argument("--conversations", type=int, default=5000)
    options.add_argument("--record", action="store_true", help="into results.json and RESULTS.md")
    given = options.parse_args()
    print(f"{'least of ' + str(ROUNDS) + ' rounds':<24}{'us':>8}{'x warm':>8}{'reads':>8}{'writes':>8}")
    told: list[dict[str, Any]] = []
    for name in given.engine or engines:
        with tempfile.TemporaryDirectory() as home, ENGINES[name].server(Path(home)) as server:
            found = uvloop.run(measure(server.url, given.conversations))
        for kind, cost in found.items():
            x = cost.processor / found["warm"].processor
            title = f"{ENGINES[name].title}: {kind}"
            print(f"{title:<24}{cost.processor:>8.0f}{x:>8.2f}{cost.reads:>8.2f}{cost.writes:>8.2f}", flush=True)
            told.append({"title": title, "kind": kind, "x": x} | cost._asdict())
    if given.record:
        report.record("uncached", {"conversations": given.conversations, "held": HELD, "kinds": told})


if __name__ == "__main__":
    main()
