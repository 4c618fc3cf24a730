"""One subject in a process of its own: `python -m benchmarks.run MODULE CLASS URL`, told what to do in lines of JSON.

    {"fill": "a", "length": 100, "most": 64, "cap_s": 20, "seconds": 1}   conversations of so many messages each
    {"measure": "a", "clients": 64, "seconds": 1}                         turns on them, by so many clients at once

Each line is answered with one of JSON; the end of the input ends the process. Every turn must find the state that the turn
before it left in the same conversation, or the run fails: nobody is quick by losing turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import sys
import time
from importlib import import_module
from importlib.metadata import version
from typing import Any

import uvloop

LENGTHY = 4  # a client's turn may take so many times the seconds that are asked for


class Run:
    """A subject that is open, and the conversations it has been filled with."""

    def __init__(self, subject: Any) -> None:
        self.subject = subject
        self.names: dict[str, list[str]] = {}
        self.left: dict[str, int] = {}
        self.step = 0

    async def turn(self, name: str) -> float:
        """One turn, checked; how long it took."""
        self.step += 1
        step = self.step
        began = time.perf_counter()
        found = await self.subject.turn(name, step)
        took = time.perf_counter() - began
        assert found == self.left[name], f"{name} held the state of turn {found}, not of {self.left[name]}"
        self.left[name] = step
        return took

    async def fill(self, group: str, length: int, most: int, cap_s: float, seconds: float) -> dict[str, Any]:
        """Conversations of so many messages: as many as a client can take one turn each in while it is measured."""
        began = now = time.perf_counter()
        names = self.names[group] = []
        longest = 0.0
        while len(names) < most and now - began + longest < cap_s:
            name, before = f"{group}-{len(names):03}", now
            try:
                # Only the first may be broken off: what was going on then must not be in the way of others.
                async with asyncio.timeout(None if names else cap_s):
                    await self.subject.fill(name, length)
                    self.left[name] = 0
                    took = [await self.turn(name) for _ in range(2)]
            except TimeoutError:
                break
            names.append(name)
            now = time.perf_counter()
            longest = max(longest, now - before)
            most = min(most, max(1, int(LENGTHY * seconds / min(took))))
        return {"conversations": len(names), "seconds": now - began}

    async def measure(self, group: str, clients: int, seconds: float) -> dict[str, float]:
        """Turns of so many clients at once, each with its own share of the group's conversations."""
        names, latencies = self.names[group], list[float]()
        acts = self.subject.acts() if hasattr(self.subject, "acts") else (0, 0)
        syncs, began = fsyncs(), time.perf_counter()

        async def client(mine: list[str]) -> None:
            while True:
                for name in mine:
                    latencies.append(await self.turn(name))
                    if time.perf_counter() > began + seconds:
                        return

        await asyncio.gather(*(client(names[first::clients]) for first in range(min(clients, len(names)))))
        took, turns = time.perf_counter() - began, len(latencies)
        latencies.sort()
        found = {
            "turns": turns,
            "turns_s": turns / took,
            "p50_ms": latencies[turns // 2] * 1e3,
            "p99_ms": latencies[turns * 99 // 100] * 1e3,
            "rss_mb": peak_mb(),
        }
        if syncs is not None:
            found["fsyncs"] = ((fsyncs() or 0) - syncs) / turns
        if acts[0]:
            done = self.subject.acts()
            found["acts"] = (done[1] - acts[1]) / (done[0] - acts[0])
        return found


def peak_mb() -> float:
    """The most memory this process has had; getrusage would begin with what its parent had."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def fsyncs() -> int | None:
    """How often this process has synced; None where the counting library is not preloaded."""
    counted = getattr(ctypes.CDLL(None), "fsync_count", None)
    return None if counted is None else int(counted())


async def serve(module: str, kind: str, url: str, answers: Any) -> None:
    """Opens the subject, then does what each line asks for."""
    began = time.perf_counter()
    found = import_module(module)
    imported = time.perf_counter() - began
    run = Run(getattr(found, kind)())
    await run.subject.open(url)
    packages = {name: version(name) for name in getattr(found, "PACKAGES", ())}
    print(json.dumps({"import_s": imported, "versions": packages}), file=answers, flush=True)
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            if "fill" in asked:
                said = await run.fill(asked.pop("fill"), **asked)
            else:
                said = await run.measure(asked.pop("measure"), **asked)
            print(json.dumps(said), file=answers, flush=True)
    finally:
        await run.subject.close()


if __name__ == "__main__":
    # What a library prints must not come between the answers.
    with os.fdopen(os.dup(1), "w") as answers, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        uvloop.run(serve(sys.argv[1], sys.argv[2], sys.argv[3], answers))
