"""How fast a store is moved, and how much memory that takes: `python -m benchmarks.moving [CONVERSATIONS]`.

Each conversation has a state of 400 bytes and four messages. They go from SQLite to PostgreSQL to Redis to SQLite, each time by the
command, copied first and then finished. `--through` names other stores in between. Durable Objects (`--through durable-object`) are
not among them otherwise: each conversation is a database of its own there, and takes some milliseconds. `--record` puts it into
results.json and RESULTS.md, in a place of its own with `--through`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import structs

from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Append, Entry, Key, Write
from chatkeep.testing.servers import DurableObjectServer, PostgresServer, RedisServer

from . import report

TOGETHER = 500
TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "redis": "Redis", "durable-object": "Durable Objects"}
SERVERS: dict[str, Callable[[Path], PostgresServer | RedisServer | DurableObjectServer]] = {
    "postgresql": PostgresServer,
    "redis": lambda folder: RedisServer("valkey-9", folder),
    "durable-object": DurableObjectServer,
}
THROUGH = "postgresql,redis"


async def fill(url: str, count: int) -> None:
    """Put *count* conversations into an empty store."""
    driver = driver_for(url)
    await driver.open()

    async def one(n: int) -> None:
        key = Key("", f"customer-{n}")
        said = [Entry(0, f"m{n}.{m}", "u", b'["00000000",1763697600123,"a message of twelve words"]') for m in range(4)]
        row = (await driver.append(Append(key, said, revision="a", at=1e9 + n))).row
        await driver.write(Write(structs.replace(row, revision="b", body=os.urandom(200).hex().encode()), replaces="a"))

    for start in range(0, count, TOGETHER):
        await asyncio.gather(*[one(n) for n in range(start, min(start + TOGETHER, count))])
    await driver.close()


def run(*arguments: str) -> tuple[dict[str, Any], float, float]:
    """Run `chatkeep move`, which shows on a terminal how far it is; answers its result, the seconds it took and the most memory it
    had, in MB."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "chatkeep", "move", *arguments, "--json"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return result, time.monotonic() - began, usage.ru_maxrss / 1024


def main() -> None:
    """Move one store around, print what each way took, and record it where that is asked for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.moving", description=__doc__)
    options.add_argument("conversations", type=int, nargs="?", default=100_000)
    options.add_argument(
        "--through", default=THROUGH, help=f"stores in between: some of {', '.join(SERVERS)} (default: {THROUGH})"
    )
    options.add_argument("--record", action="store_true", help="into results.json and RESULTS.md")
    given = options.parse_args()
    count, through = given.conversations, given.through.split(",")
    if unknown := set(through) - set(SERVERS):
        options.error(f"no store is called {', '.join(sorted(unknown))}")
    load, ways = 0.0, []
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as servers:
        folder = Path(name)
        urls = [f"sqlite:///{folder}/a.db"]
        for kind in through:
            (folder / kind).mkdir()
            server = SERVERS[kind](folder / kind)
            servers.enter_context(server)
            urls.append(server.url)
        urls.append(f"sqlite:///{folder}/b.db")
        asyncio.run(fill(urls[0], count))
        print(f"{count:,} conversations are filled in", flush=True)
        for source, target in pairwise(urls):
            titles = [TITLES[url.partition(":")[0]] for url in (source, target)]
            _, copied, memory = run(source, target)
            print(f"{' to '.join(titles)}: copied in {copied:.1f} s, {count / copied:,.0f} a second", flush=True)
            result, finished, again = run(source, target, "--finish")
            way = {
                "way": " to ".join(titles),
                "copied_s": copied,
                "finished_s": finished,
                "closed_s": result["closed_s"],
                "memory_mb": max(memory, again),
            }
            ways.append(way)
            load = max(load, os.getloadavg()[0])
            print(
                f"{way['way']}: compared and finished in {finished:.1f} s, closed for {result['closed_s']:.1f} s; "
                f"{way['memory_mb']:.0f} MB",
                flush=True,
            )
    if given.record:
        part = "moving" if given.through == THROUGH else f"moving through {given.through}"
        report.record(part, {"conversations": count, "load": load, "ways": ways})


if __name__ == "__main__":
    main()
