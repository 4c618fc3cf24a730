"""Runs subjects side by side: each in a process of its own, told in turn what to measure, round after round."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from . import work
from .engines import PEERS, Engine
from .subjects import Subject

HERE = Path(__file__).parent
CONVERSATIONS = 64
FILL_S = 8.0
PATIENCE_S = 120.0
SHORT = 100  # logs up to here are made anew for each round, so that quick subjects do not measure longer ones

Sample = dict[str, Any]


class Absent(Exception):
    """A subject cannot be measured; the text says why."""


class Process:
    """A subject that runs in a process of its own."""

    def __init__(self, subject: Subject, engine: Engine, *, url: str = "", environment: dict[str, str] | None = None):
        self.subject = subject
        self.engine = engine
        self.url = url or engine.store()
        self.filled: dict[str, int] = {}
        self.log = engine.folder / f"{subject.name}.{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=HERE.parent,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        try:
            self.hello = self.answer()
        except Absent:
            self.end()
            raise
        self.process = psutil.Process(self.child.pid)

    def _command(self) -> list[str]:
        subject = self.subject
        if subject.module.endswith(".mjs"):
            if not (HERE / "peers" / "node_modules").exists():
                raise Absent("benchmarks/peers/node_modules is not there: make bench-peers")
            given = self.engine.folder / "work.json"
            given.write_text(json.dumps({"texts": work.TEXTS, "states": [work.state(step) for step in range(512)]}))
            return ["node", str(HERE / "peers" / subject.module), self.url, str(given)]
        python = PEERS / "bin" / "python" if subject.peer else Path(sys.executable)
        if not python.exists():
            raise Absent(f"benchmarks/{PEERS.name} is not there: make bench-peers")
        return [str(python), "-m", "benchmarks.run", subject.module, subject.kind, self.url]

    def tell(self, **asked: Any) -> None:
        """Sends what is asked for; `answer` has what comes of it."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(asked) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            raise Absent(self._why()) from None

    def ask(self, **asked: Any) -> Sample:
        """Sends what is asked for, and waits."""
        self.tell(**asked)
        return self.answer()

    def answer(self) -> Sample:
        """What the process says next."""
        assert self.child.stdout is not None
        ready, _, _ = select.select([self.child.stdout], [], [], PATIENCE_S)
        line = self.child.stdout.readline() if ready else ""
        if not line:
            raise Absent(self._why() if ready else f"no answer in {PATIENCE_S:.0f} s")
        found: Sample = json.loads(line)
        return found

    def measure(self, group: str, clients: int, seconds: float) -> Sample:
        """A sample, with what it cost in CPU and written bytes."""
        before = self._cost()
        found = self.ask(measure=group, clients=clients, seconds=seconds)
        after = self._cost()
        return found | {
            "cpu_us": (after[0] - before[0]) / found["turns"] * 1e6,
            "bytes": (after[1] - before[1]) / found["turns"],
        }

    def end(self) -> None:
        """Lets it close its store, and makes sure that nothing of it stays."""
        assert self.child.stdin is not None
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self.child.stdin.close()
            self.child.wait(timeout=20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def _cost(self) -> tuple[float, int]:
        family = [self.process, *self.process.children(recursive=True)]
        times = [one.cpu_times() for one in family]
        return sum(one.user + one.system for one in times), self.engine.written(self.process)

    def _why(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(timeout=5)  # it may still be saying why
        said = self.log.read_text(errors="replace").strip().splitlines() or ["it ended without a word"]
        return next((line for line in reversed(said) if re.match(r"[\w.]*(Error|Exception)", line)), said[-1])[:200]


class Swept(NamedTuple):
    """What a sweep has found: samples, who could not be measured and why, import times, versions here and of the peers."""

    samples: list[Sample]
    absent: dict[str, str]
    imports: dict[str, float]
    versions: dict[str, str]
    peer_versions: dict[str, str]


def swept(
    engine: Engine,
    subjects: Sequence[Subject],
    lengths: Sequence[int],
    rounds: int,
    seconds: float,
    environment: dict[str, str] | None = None,
    until: float = math.inf,
) -> Swept:
    """Every subject with every length of history, one turn at a time and many at once, round after round; after the first one no
    round is begun later than *until*, by the monotonic clock."""
    found = Swept([], {}, {}, {}, {})
    with contextlib.ExitStack() as stack:
        running = _started(engine, subjects, environment, found, stack)
        for number, length in product(range(rounds), lengths):
            if number and length == lengths[0] and time.monotonic() > until:
                print(f"  no time for more than {number} of {rounds} rounds", file=sys.stderr)
                break
            group = f"l{length}r{number if length <= SHORT else 0}"
            for process in list(running):
                try:
                    _round(process, group, length, number, seconds, found)
                except (Absent, psutil.Error, ValueError) as why:  # it said so, it is gone, or what it says is no JSON
                    if not process.subject.peer:
                        raise
                    print(f"  {process.subject.title} is out: {why}", file=sys.stderr)
                    found.absent[process.subject.name] = f"at {length:,} messages: {why}"
                    running.remove(process)
    return found


def _started(
    engine: Engine,
    subjects: Sequence[Subject],
    environment: dict[str, str] | None,
    found: Swept,
    stack: contextlib.ExitStack,
) -> list[Process]:
    running = []
    for subject in subjects:
        try:
            server = engine
            if subject.server is not None:
                server = stack.enter_context(subject.server(engine.folder))
            process = Process(subject, server, environment=environment)
        except (Absent, RuntimeError, psutil.Error, ValueError) as why:
            if not subject.peer:
                raise
            print(f"  {subject.title} cannot be had: {why}", file=sys.stderr)
            found.absent[subject.name] = str(why).strip().splitlines()[-1]
            continue
        stack.callback(process.end)
        found.imports[subject.name] = process.hello["import_s"]
        (found.peer_versions if subject.peer else found.versions).update(process.hello["versions"])
        running.append(process)
    return running


def _round(process: Process, group: str, length: int, number: int, seconds: float, found: Swept) -> None:
    line = {"subject": process.subject.name, "length": length, "round": number}
    if group not in process.filled:
        said = process.ask(fill=group, length=length, most=CONVERSATIONS, cap_s=FILL_S, seconds=seconds)
        process.filled[group] = int(said["conversations"])
        process.engine.settle(process.url)
    many = process.filled[group]
    for mode, clients in (("one", 1), ("many", many)):
        if not many:
            found.samples.append(line | {"mode": mode, "note": "too slow to fill"})
            continue
        sample = process.measure(group, clients, seconds)
        found.samples.append(line | {"mode": mode, "clients": clients} | sample)
        where = f"{process.subject.title}: {length:,} messages, {clients} at once: {sample['turns_s']:,.0f} turns/s"
        print(f"  round {number + 1}: {where}", file=sys.stderr)
