"""Measures chatkeep, the floors and the peers, and writes RESULTS.md: `python -m benchmarks`, on an otherwise idle machine.

Engines can be run one after another: each replaces its own part of results.json as soon as it is measured. One that fails leaves its part
as it was, and is told at the end. With what is measured by default all of them take about twenty minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import alone, report
from .engines import ENGINES, PEERS, Engine
from .subjects import CHATKEEP, floors
from .subjects import PEERS as PEERS_OF
from .sweep import swept

HERE = Path(__file__).parent
SLOWER_US = 1000
LONG = {True: [10, 10_000], False: [10, 10_000, 100_000]}
"""Entries of the logs whose turns are compared with each other, where a server is asked and where none is."""


def preloaded(folder: Path) -> str | None:
    """The library that counts and slows fsyncs, built for this machine; None where there is no C compiler."""
    library = folder / "slowfsync.so"
    source = HERE / "slowfsync.c"
    try:
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        print("no C compiler: fsyncs are not counted and not slowed", file=sys.stderr)
        return None
    return str(library)


@contextmanager
def timed(engine: Engine, part: str) -> Iterator[None]:
    """Tells on stderr how long a *part* of the measurements took."""
    began = time.monotonic()
    yield
    print(f"  {engine.title}, {part}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def measured(engine: Engine, given: argparse.Namespace, library: str | None) -> dict[str, Any]:
    """Everything about one engine."""
    ours = [CHATKEEP, *floors(engine.name)]
    subjects = [*ours, *(PEERS_OF[engine.name] if given.peers else [])]
    preload = {"LD_PRELOAD": library} if library and not engine.wired else {}
    with timed(engine, "side by side"):
        until = time.monotonic() + 60 * given.minutes
        found = swept(engine, subjects, given.lengths, given.rounds, given.seconds, preload, until)
    slowed = []
    if preload:
        with timed(engine, "with slower fsyncs"):
            slow = preload | {"FSYNC_US": str(SLOWER_US)}
            slowed = swept(engine, ours, [10], min(2, given.rounds), given.seconds, slow).samples
    told = measured_alone(engine, given)
    return {
        "name": engine.name,
        "title": engine.title,
        "version": engine.version(),
        **report.circumstances(),
        "lengths": given.lengths,
        "subjects": [
            {"name": one.name, "title": one.title, "peer": one.peer, "python": one.python} for one in subjects
        ],
        "versions": found.versions,
        "peer_versions": found.peer_versions,
        "samples": found.samples,
        "absent": found.absent,
        "imports": found.imports,
        "slowed": slowed,
        **told,
    }


def measured_alone(engine: Engine, given: argparse.Namespace) -> dict[str, Any]:
    """What is measured of chatkeep without anybody beside it."""
    parts: dict[str, Callable[[], Any]] = {
        "wire": lambda: asyncio.run(alone.wire(engine.store())),
        "long_logs": lambda: long_logs(engine, [length for length in LONG[engine.wired] if length <= given.longest]),
        "instances": lambda: alone.instances(engine, given.rounds, given.seconds),
        "memory": lambda: alone.memory(engine.store(), given.grown),
        "stored_bytes": lambda: alone.stored(engine, given.customers),
        "cold": lambda: alone.cold_start(engine.store()),
        "profile": lambda: asyncio.run(alone.profile(engine.store(), given.seconds)),
    }
    found = {}
    for name, part in parts.items():
        with timed(engine, name):
            found[name] = part()
    return found


def long_logs(engine: Engine, lengths: list[int]) -> dict[str, dict[str, float]]:
    """Turns in logs of these lengths, which are filled for it."""
    url = engine.store()
    names = asyncio.run(alone.filled(url, lengths))
    engine.settle(url)
    return asyncio.run(alone.long_logs(engine, url, names))


def main() -> None:
    """Measures, prints progress, merges into results.json, writes RESULTS.md."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument(
        "--engine", choices=ENGINES, action="append", help="one of them, or several times; all by default"
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument(
        "--minutes", type=float, default=5.0, help="no round of an engine is begun after so long, but for its first"
    )
    options.add_argument("--seconds", type=float, default=1.0, help="how long each sample takes")
    options.add_argument("--lengths", default="10,100,1000,10000", type=lambda said: [int(n) for n in said.split(",")])
    options.add_argument(
        "--longest", type=int, default=100_000, help="entries of the longest log that is measured alone"
    )
    options.add_argument("--grown", type=int, default=alone.GROWTH_TURNS, help="turns over which memory is looked at")
    options.add_argument(
        "--customers", type=int, default=alone.CUSTOMERS, help="conversations whose bytes in the store are counted"
    )
    options.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    given = options.parse_args()
    if given.peers and not PEERS.exists():
        print("The peers are not installed and will be reported as that: make bench-peers", file=sys.stderr)
    failed: list[str] = []
    for name in given.engine or ENGINES:
        try:
            one_engine(name, given)
        except Exception:  # whatever it is, the rows of the others do not depend on it
            traceback.print_exc()
            failed.append(ENGINES[name].title)
    if failed:
        raise SystemExit(f"Not measured, and left in RESULTS.md as they were: {', '.join(failed)}.")


def one_engine(name: str, given: argparse.Namespace) -> None:
    """Measures one engine, and puts its part into results.json and RESULTS.md."""
    began = time.monotonic()
    # Beside the code and not in /tmp, which may be memory: a disk is what is measured.
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".data-") as folder, ENGINES[name](Path(folder)) as engine:
        found = measured(engine, given, preloaded(Path(folder)))
    merged = json.loads(report.RESULTS.read_text()) if report.RESULTS.exists() else {}
    merged[name] = found
    ordered = {one: merged[one] for one in (*ENGINES, report.APART) if one in merged}
    report.RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
    report.write()
    print(f"{engine.title}: {time.monotonic() - began:.0f} s")
    for bar in report.bars(found):
        word = {True: "ok    ", False: "MISSED", None: "      "}[bar.met]
        print(f"{word} {bar.what}: {bar.figure}" + (f" (bar: {bar.wanted})" if bar.wanted else ""))


if __name__ == "__main__":
    main()
