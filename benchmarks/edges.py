"""The stores without a TCP connection of their own beside their floors, by turns: `python -m benchmarks.edges`.

Redis over REST: a write of the driver, beside one bare EVAL in a request of its own. Durable Objects: a write, one that moves an index,
one that is due later, as the end of a turn is, and a read of a row with 20 entries, beside a bare read-modify-write of one row of one
object, and of one that tells a second. All of them store on the disk that has the folder for temporary files. One act at a time on one connection, so the figures are what a caller
waits for; the least and the median of a round's means, and how many times as fast as the floor they are within a round. Then the
requests of a warm `receive`. `--record` puts all of it into results.json and RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from chatkeep import Chatkeep, Turn
from chatkeep.drivers.base import Append, Entry, Key, Read, Row, Write
from chatkeep.drivers.durable_object import DurableObjectDriver
from chatkeep.drivers.http import Answer, HttpConnection
from chatkeep.drivers.upstash import UpstashDriver
from chatkeep.testing.servers import DurableObjectServer, UpstashServer

from . import report
from .work import answer, question, state

BARE = """
import { DurableObject } from "cloudflare:workers";
export class Conversation extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("create table if not exists t(k integer primary key, revision text, body text)");
  }
  change(revision, body) {
    return this.ctx.storage.transactionSync(() => {
      const [row] = [...this.ctx.storage.sql.exec("select revision from t where k = 0")];
      this.ctx.storage.sql.exec("insert or replace into t values (0, ?, ?)", revision, body);
      return row ? row.revision : null;
    });
  }
  async tell(revision, body) {
    const old = this.change(revision, body);
    await this.env.SHARD.get(this.env.SHARD.idFromName("a")).put(revision);
    return old;
  }
}
export class Shard extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("create table if not exists t(k integer primary key, revision text)");
  }
  put(revision) {
    this.ctx.storage.sql.exec("insert or replace into t values (0, ?)", revision);
  }
}
export class Meta extends DurableObject {}
export class Bell extends DurableObject {}
export default {
  async fetch(request, env) {
    if (request.method !== "POST") return new Response("ok");
    const { revision, body, tells } = await request.json();
    const there = env.CONVERSATION.get(env.CONVERSATION.idFromName("a"));
    return Response.json(await (tells ? there.tell(revision, body) : there.change(revision, body)));
  },
};
"""
"""The least that a store on an object does: one object, one row, read and replaced in a transaction; and, if it *tells*, the least
that an index beside it takes: a second object, which has written it before there is an answer."""

BODY = json.dumps(state(1)).encode()
MESSAGES = 20
Act = Callable[[int], Awaitable[object]]


class Writer:
    """Writes a turn of one conversation after another: its row and two entries; *moves*: by how much its due time moves too."""

    def __init__(self, driver: UpstashDriver | DurableObjectDriver, key: Key, *, moves: int = 0) -> None:
        self._driver, self._key, self._moves = driver, key, moves
        self._row: Row | None = None

    async def __call__(self, step: int) -> None:
        old, revision = self._row, secrets.token_hex(6)
        row = Row(
            key=self._key,
            revision=revision,
            incarnation=old.incarnation if old else revision,
            head=old.head if old else 0,
            body=BODY,
            updated_at=1000.0,
            due_at=1e9 + step * self._moves if self._moves else None,
        )
        said = [
            Entry(0, f"{step}", "user", question(step).encode()),
            Entry(0, "", "assistant", answer(step).encode()),
        ]
        self._row = await self._driver.write(Write(row, replaces=old.revision if old else None, entries=said))


def reader(driver: DurableObjectDriver, key: Key) -> Act:
    """Reads a row and its last 20 entries."""

    async def read(step: int) -> None:
        assert await driver.read(Read(key, tail=20)) is not None

    return read


async def poster(url: str, head: bytes, body: Callable[[int], bytes]) -> Act:
    """A bare request for each step."""
    parts = urlsplit(url)
    connection = await HttpConnection.open(parts.hostname or "", parts.port or 0, None)

    async def post(step: int) -> None:
        nonlocal connection
        if not connection.is_usable:  # the server has closed it while others were measured
            connection = await HttpConnection.open(parts.hostname or "", parts.port or 0, None)
        told = await connection.post(head, body(step))
        assert told.status == 200, told

    return post


async def measured(acts: dict[str, Act], rounds: int, each: int) -> list[dict[str, Any]]:
    """Print and return what each act takes; the first one is the floor."""
    took: dict[str, list[float]] = {name: [] for name in acts}
    for number in range(-1, rounds):  # (the first round makes connections, objects and scripts)
        for name, act in acts.items():
            began = time.perf_counter()
            for n in range(each):
                await act((number + 1) * each + n)
            if number >= 0:
                took[name].append(1e3 * (time.perf_counter() - began) / each)
    floor, *_ = took
    found = []
    for name, times in took.items():
        x = statistics.median(bare / one for bare, one in zip(took[floor], times, strict=True))
        least, median = min(times), statistics.median(times)
        writes = "bare" not in name and "read" not in name
        found.append({"name": name, "floor": floor, "writes": writes, "least_ms": least, "median_ms": median, "x": x})
        print(f"{name:<46}{least:>8.2f}{median:>8.2f}{x:>8.2f} x", flush=True)
    return found


async def requests_of_a_receive(url: str) -> float:
    """How many requests a message takes in a process that is warm."""
    keep: Chatkeep[dict[str, Any]] = Chatkeep(url, background=False)

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return turn.text

    posted = 0

    async def counted(connection: HttpConnection, head: bytes, body: bytes) -> Answer:
        nonlocal posted
        posted += 1
        return await post(connection, head, body)

    async with keep:
        await keep.receive("warm", "hello")
        post = HttpConnection.post
        with patch.object(HttpConnection, "post", counted):
            for _ in range(MESSAGES):
                await keep.receive("warm", "hello")
    return posted / MESSAGES


async def over_rest(home: Path, rounds: int, each: int) -> tuple[list[dict[str, Any]], float]:
    """Redis over REST, on the double of its protocol: acts, and the requests of a message."""
    with UpstashServer(home) as server:
        driver = UpstashDriver(server.url)
        await driver.open()
        head = (
            b"POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b"
            % (urlsplit(server.url).username or "").encode()
        )
        script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('RPUSH', KEYS[2], ARGV[2], ARGV[3])"

        def bare(step: int) -> bytes:
            words = ["EVAL", script, "2", "plain", "plain-log", BODY.decode(), question(step), answer(step)]
            return json.dumps(words).encode()

        acts: dict[str, Act] = {
            "Redis over REST: one bare EVAL": await poster(server.url, head, bare),
            "Redis over REST: write": Writer(driver, Key("", "a")),
        }
        found = await measured(acts, rounds, each)
        await driver.close()
        return found, await requests_of_a_receive(server.url)


async def on_objects(home: Path, rounds: int, each: int) -> tuple[list[dict[str, Any]], float]:
    """Durable Objects, on workerd: acts, and the requests of a message."""
    # (A server without a folder of its own has one in memory, where no act waits for a disk.)
    for name in ("ours", "bare"):
        (home / name).mkdir()
    with DurableObjectServer(home / "ours") as server, DurableObjectServer(home / "bare", worker=BARE) as plain:
        driver = DurableObjectDriver(server.url)
        await driver.open()
        await driver.append(
            Append(
                Key("", "r"), [Entry(0, f"{n}", "user", question(n).encode()) for n in range(40)], revision="r", at=1.0
            )
        )

        def bare(*, tells: bool = False) -> Awaitable[Act]:
            def body(step: int) -> bytes:
                return json.dumps({"revision": f"{step}", "body": BODY.decode(), "tells": tells}).encode()

            return poster(plain.url, b"POST / HTTP/1.1\r\nHost: localhost", body)

        acts: dict[str, Act] = {
            "Durable Objects: a bare read-modify-write": await bare(),
            "Durable Objects: write": Writer(driver, Key("", "a")),
            "Durable Objects: a bare one that tells another": await bare(tells=True),
            "Durable Objects: write that moves an index": Writer(driver, Key("", "b"), moves=-1),
            "Durable Objects: write that is due later": Writer(driver, Key("", "c"), moves=1),
            "Durable Objects: read with 20 entries": reader(driver, Key("", "r")),
        }
        found = await measured(acts, rounds, each)
        await driver.close()
        return found, await requests_of_a_receive(server.url)


def main() -> None:
    """Measure both, print, and record where that is asked for."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.edges", description=__doc__)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--each", type=int, default=200, help="acts of a round")
    options.add_argument("--record", action="store_true", help="into results.json and RESULTS.md")
    given = options.parse_args()
    print(f"{'ms an act; x: times as fast as the floor':<46}{'least':>8}{'median':>8}{'x':>10}")
    with tempfile.TemporaryDirectory() as home:
        acts, rest = asyncio.run(over_rest(Path(home), given.rounds, given.each))
        more, objects = asyncio.run(on_objects(Path(home), given.rounds, given.each))
    requests = {"Redis over REST": rest, "Durable Objects": objects}
    for title, count in requests.items():
        print(f"{title}: {count:.2f} requests for a warm message")
    if given.record:
        report.record("edges", {"acts": acts + more, "requests": requests})


if __name__ == "__main__":
    main()
