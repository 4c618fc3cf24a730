"""Cold starts: a process for one message, as a function has it, on each engine beside the plain driver: `python -m benchmarks.cold`.

A line for each engine: the whole process from its start to its end, how long after its start it had answered (a function's process does not
end then), and its stages, each the least of several runs, which other work on the machine disturbs least; and the processor's time of the
whole. What `import asyncio` takes is in all of them. `--record` puts all of it into results.json and RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from chatkeep.testing.servers import DurableObjectServer, PostgresServer, RedisServer, UpstashServer

from . import report

OURS = """
import sys, time
began = time.perf_counter()
import asyncio
from chatkeep import Chatkeep
at = [began, time.perf_counter()]

async def main():
    keep = Chatkeep(sys.argv[1], background=False)
    @keep.on_message
    async def bot(turn):
        return turn.text
    await keep.open()
    at.append(time.perf_counter())
    receipt = await keep.receive(sys.argv[2], "hello")
    assert receipt.status == "answered"
    print("answered", flush=True)
    at.append(time.perf_counter())
    await keep.close()

asyncio.run(main())
at.append(time.perf_counter())
print([round(1e3 * (after - before), 2) for before, after in zip(at, at[1:])])
"""
"""One message; tells when it is answered, then the ms of importing, opening, receiving and closing."""

SQLITE = """
import sys, apsw
db = apsw.Connection(sys.argv[1].removeprefix("sqlite:///") + "-plain")
db.execute("pragma journal_mode = wal; pragma synchronous = full")
db.execute("create table if not exists t(k primary key, v)")
db.execute("insert or replace into t values (?, ?)", (sys.argv[2], "hello"))
db.close()
"""

REDIS = """
import sys, asyncio
from redis.asyncio import Redis
async def main():
    async with Redis.from_url(sys.argv[1]) as redis:
        await redis.eval("redis.call('SET', KEYS[1], ARGV[1]) return 1", 1, sys.argv[2], "hello")
asyncio.run(main())
"""

POSTGRESQL = """
import sys, asyncio, asyncpg
async def main():
    link = await asyncpg.connect(sys.argv[1])
    await link.execute("create table if not exists plain(k text primary key, v text)")
    await link.execute("insert into plain values ($1, $2) on conflict (k) do update set v = excluded.v", sys.argv[2], "hello")
    await link.close()
asyncio.run(main())
"""

UPSTASH = """
import sys, json, http.client
from urllib.parse import urlsplit
url = urlsplit(sys.argv[1])
link = http.client.HTTPConnection(url.hostname, url.port)
command = ["EVAL", "redis.call('SET', KEYS[1], ARGV[1]) return 1", "1", sys.argv[2], "hello"]
link.request("POST", "/", json.dumps(command), {"Authorization": f"Bearer {url.username}"})
answer = link.getresponse()
assert answer.status == 200, answer.read()
link.close()
"""

DURABLE_OBJECT = """
import sys, http.client
from urllib.parse import urlsplit
url = urlsplit(sys.argv[1])
link = http.client.HTTPConnection(url.hostname, url.port)
link.request("GET", "/healthz")
assert link.getresponse().status == 200
link.close()
"""


class Engine(NamedTuple):
    """What is measured: a server, and what a careful person writes on the plain driver."""

    title: str
    plain: str
    plain_title: str
    server: Callable[[Path], AbstractContextManager[Any]]


ENGINES = {
    "sqlite": Engine("SQLite", SQLITE, "apsw", lambda home: nullcontext(SimpleNamespace(url=f"sqlite:///{home}/a.db"))),
    "redis": Engine("Redis", REDIS, "redis-py", lambda home: RedisServer("valkey-9", home)),
    "postgresql": Engine("PostgreSQL", POSTGRESQL, "asyncpg", PostgresServer),
    "upstash": Engine("Redis over REST", UPSTASH, "http.client, no asyncio", UpstashServer),
    "durable-object": Engine("Durable Objects", DURABLE_OBJECT, "a GET by http.client", DurableObjectServer),
}


BARE = "import sys; sys.modules.update(dict.fromkeys(['opentelemetry', 'psutil', 'typing_extensions']))\n"
"""Hides what is here for the tests, and is not where a function is: redis-py and msgspec import it where it is there."""


class Ran(NamedTuple):
    """One process: its stages if it told them, from its start to its end, its processor's time, and from its start to its answer (0 where it
    tells of none), in ms."""

    stages: list[float]
    whole: float
    processor: float
    answered: float = 0.0


def ran(code: str, *arguments: str) -> Ran:
    """Run *code* in a fresh interpreter that has its bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", BARE + code, *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    tells = process.stdout.readline()
    answered = 1e3 * (time.perf_counter() - began)
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    whole = 1e3 * (time.perf_counter() - began)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"It ended with {process.returncode}:\n{code}")
    processor = 1e3 * (used.ru_utime + used.ru_stime)
    return Ran(json.loads(said), whole, processor, answered) if tells else Ran([], whole, processor)


def least_of(runs: list[Ran]) -> Ran:
    """The least of each figure."""
    stages = [min(column) for column in zip(*(run.stages for run in runs), strict=True)]
    whole, processor, answered = (min(column) for column in zip(*(run[1:] for run in runs), strict=True))
    return Ran(stages, whole, processor, answered)


def shown(title: str, run: Ran) -> str:
    """A line."""
    return f"{title:<46}{run.whole:>8.0f}{run.processor:>8.0f}" + "".join(
        f"{stage:>9.0f}" for stage in ([run.answered, *run.stages] if run.stages else ())
    )


def main() -> None:
    """Measure, by turns, print, and record where that is asked for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__)
    options.add_argument("--engine", choices=ENGINES, action="append", help="one of them, or several; all by default")
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--record", action="store_true", help="into results.json and RESULTS.md")
    given = options.parse_args()
    header = f"{'least of ' + str(given.runs) + ' runs, ms':<46}{'whole':>8}{'CPU':>8}"
    print(header + "".join(f"{stage:>9}" for stage in ("answered", "import", "open", "receive", "close")))
    before: dict[str, float] = {}
    for title, code in (
        ("Python alone", "pass"),
        ("import asyncio", "import asyncio"),
        ("import chatkeep", "import chatkeep"),
    ):
        found = least_of([ran(code) for _ in range(given.runs)])
        before[title] = found.whole
        print(shown(title, found), flush=True)
    engines: dict[str, Any] = {}
    for name in given.engine or ENGINES:
        engine = ENGINES[name]
        with tempfile.TemporaryDirectory() as home, engine.server(Path(home)) as server:
            ran(OURS, server.url, "first")  # makes the store, and bytecode
            ran(engine.plain, server.url, "first")
            plain: list[Ran] = []
            ours: list[Ran] = []
            for n in range(given.runs):
                plain.append(ran(engine.plain, server.url, f"cold-{n}"))
                ours.append(ran(OURS, server.url, f"cold-{n}"))
        theirs, found = least_of(plain), least_of(ours)
        print(shown(f"{engine.title}: one write with {engine.plain_title}", theirs))
        print(shown(f"{engine.title}: chatkeep", found), flush=True)
        told = {"plain": theirs._asdict(), "ours": found._asdict()}
        engines[name] = {"title": engine.title, "plain_title": f"one write with {engine.plain_title}"} | told
    if given.record:
        report.record("cold", {"runs": given.runs, "before": before, "engines": engines})


if __name__ == "__main__":
    main()
