"""Measures chatkeep, the floors and the peers, and writes RESULTS.md: `python -m benchmarks`, on an otherwise idle machine.

Engines can be run one after another: each replaces its own part of results.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
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


def measured(engine: Engine, given: argparse.Namespace, library: str | None) -> dict[str, Any]:
    """Everything about one engine."""
    ours = [CHATKEEP, *floors(engine.name)]
    subjects = [*ours, *(PEERS_OF[engine.name] if given.peers else [])]
    preload = {"LD_PRELOAD": library} if library and not engine.wired else {}
    found = swept(engine, subjects, given.lengths, given.rounds, given.seconds, preload)
    slowed = []
    if preload:
        slow = preload | {"FSYNC_US": str(SLOWER_US)}
        slowed = swept(engine, ours, [10], min(2, given.rounds), given.seconds, slow).samples
    url = engine.store()
    long = [length for length in LONG[engine.wired] if length <= given.longest]
    names = asyncio.run(alone.filled(url, long))
    engine.settle(url)
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
        "wire": asyncio.run(alone.wire(engine.store())),
        "long_logs": asyncio.run(alone.long_logs(engine, url, names)),
        "instances": alone.instances(engine, given.rounds, given.seconds),
        "memory": alone.memory(engine.store(), given.grown),
        "stored_bytes": alone.stored(engine),
        "cold": alone.cold_start(engine.store()),
        "profile": asyncio.run(alone.profile(engine.store(), given.seconds)),
    }


def main() -> None:
    """Measures, prints progress, merges into results.json, writes RESULTS.md."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument(
        "--engine", choices=ENGINES, action="append", help="one of them, or several times; all by default"
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=1.0, help="how long each sample takes")
    options.add_argument("--lengths", default="10,100,1000,10000", type=lambda said: [int(n) for n in said.split(",")])
    options.add_argument(
        "--longest", type=int, default=100_000, help="entries of the longest log that is measured alone"
    )
    options.add_argument("--grown", type=int, default=alone.GROWTH_TURNS, help="turns over which memory is looked at")
    options.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    given = options.parse_args()
    if given.peers and not PEERS.exists():
        print("The peers are not installed and will be reported as that: make bench-peers", file=sys.stderr)
    for name in given.engine or ENGINES:
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
