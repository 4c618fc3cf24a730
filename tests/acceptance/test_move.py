"""`chatkeep move` as people run it: from store to store under load, killed at random moments, until nobody has to look twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Unavailable
from chatkeep.errors import ChatkeepError
from chatkeep.testing.history import DeliveryReport, check, collect

from ..support.moves import counting_bot, held, opened_on
from ..support.program import PATIENCE_S, PROGRAM, chatkeep, plain_environment
from ..support.stores import FAST, store_url
from ..support.waiting import time_passes, until

CONVERSATIONS = int(os.environ.get("CHATKEEP_MOVE_CONVERSATIONS", "300"))
CLIENTS = 8
LIVE = 24
"""So many conversations get messages while the store is moved."""
KILLED = 1 if CONVERSATIONS < 1000 else 5
"""How often a move is killed while it copies, before one is left to its end."""
WHOLE_S = 120.0 + CONVERSATIONS / 10
"""How long one may take that is not killed."""


class Customers:
    """Clients who send, send again what was not answered, and go wherever the bot is by now."""

    def __init__(self) -> None:
        self.told: list[DeliveryReport] = []
        self.bots: list[Chatkeep[Any]] = []
        self.elsewhere = 0
        self.ended = False
        self._count = 0

    async def hear_of_move(self) -> None:
        """Wait until somebody is told that the store was moved: from then on it is closed."""
        before = self.elsewhere
        await until(lambda: self.elsewhere > before, within=WHOLE_S)

    async def talk(self, rng: random.Random) -> None:
        """One client, until the end."""
        while not self.ended:
            self._count += 1
            name, id = f"c{rng.randrange(LIVE)}", f"live-{self._count}"
            await self.send(name, id, rng)
            if rng.random() < 0.1:
                await self.send(name, id, rng)

    async def send(self, name: str, id: str, rng: random.Random) -> None:
        """Send one message until somebody has answered it."""
        self.told.append(DeliveryReport(name, id, acked=False))
        again = False
        while True:
            keep = rng.choice(self.bots)
            try:
                receipt = await (keep.receive if again or rng.random() < 0.7 else keep.accept)(
                    name, f"text of {id}", id=id
                )
            except Unavailable as fault:
                self.elsewhere += "moved to" in str(fault)
            except ChatkeepError:
                pass
            else:
                replies = [reply.text for reply in receipt.replies] if receipt.status == "done" else None
                self.told.append(DeliveryReport(name, id, True, replies, receipt.duplicate))
                return
            again = True
            await time_passes(0.05)


async def run_move(
    source: str,
    target: str,
    *options: str,
    folder: Path,
    killed_after: float = WHOLE_S,
    killed_when: Awaitable[None] | None = None,
) -> int:
    """Runs the command in a process of its own, which is killed after so many seconds, or when something has happened."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        "move",
        source,
        target,
        *options,
        cwd=folder,
        env=plain_environment(),
        stdout=-3,
        stderr=asyncio.subprocess.PIPE,
    )
    ended = asyncio.ensure_future(process.communicate())
    signs: list[asyncio.Future[Any]] = [ended] if killed_when is None else [ended, asyncio.ensure_future(killed_when)]
    await asyncio.wait(signs, timeout=killed_after, return_when=asyncio.FIRST_COMPLETED)
    for sign in signs[1:]:
        sign.cancel()
    if not ended.done():
        process.send_signal(signal.SIGKILL)
        await ended
        return -9
    _, said = await ended
    sys.stderr.write(said.decode())
    assert process.returncode is not None
    return process.returncode


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.server
@pytest.mark.timeout(20 * WHOLE_S)
async def test_a_store_is_moved_under_load_and_killed_on_the_way(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """SQLite to PostgreSQL to Redis to Durable Objects to SQLite, two bots and eight clients on it; in the end each message is there
    once."""
    rng = random.Random(7)
    urls = []
    for place, kind in enumerate(("sqlite", "postgresql", "redis", "durable-object", "sqlite")):
        (tmp_path / f"{place}").mkdir()
        urls.append(store_url(kind, request, tmp_path / f"{place}"))
    customers = Customers()
    old: list[Chatkeep[Any]] = []
    async with counting_bot(Chatkeep(urls[0], **FAST)) as first:
        for start in range(0, CONVERSATIONS, 100):
            names = [f"c{n}" for n in range(start, min(start + 100, CONVERSATIONS))]
            for name, receipt in zip(
                names,
                await asyncio.gather(*[first.receive(name, f"hi {name}", id=f"first-{name}") for name in names]),
                strict=True,
            ):
                customers.told.append(DeliveryReport(name, f"first-{name}", False))
                customers.told.append(DeliveryReport(name, f"first-{name}", True, [m.text for m in receipt.replies]))
    customers.bots = [await counting_bot(Chatkeep(urls[0], **FAST)).__aenter__() for _ in range(2)]
    clients = [asyncio.create_task(customers.talk(random.Random(n))) for n in range(CLIENTS)]
    kills = 0
    try:
        for source, target in pairwise(urls):
            began = time.monotonic()
            for _ in range(KILLED):
                kills += await run_move(source, target, folder=tmp_path, killed_after=rng.uniform(1.0, 3.0)) == -9
            assert 0 == await run_move(source, target, folder=tmp_path)
            kills += (
                await run_move(source, target, "--finish", folder=tmp_path, killed_when=customers.hear_of_move()) == -9
            )
            assert 0 == await run_move(source, target, "--finish", folder=tmp_path)
            old += customers.bots
            customers.bots = [await counting_bot(Chatkeep(target, **FAST)).__aenter__() for _ in range(2)]
            await time_passes(0.5)
            way = f"{source.partition(':')[0]} to {target.partition(':')[0]}"
            print(
                f"{way}: {time.monotonic() - began:.0f} s, {kills} kills and {len(customers.told)} reports by now",
                flush=True,
            )
        customers.ended = True
        await asyncio.gather(*clients)
        verdict = check(customers.told, await collect(customers.bots[0], within=WHOLE_S))
    finally:
        customers.ended = True
        await asyncio.gather(*clients, return_exceptions=True)
        for keep in (*old, *customers.bots):
            await keep.__aexit__(None, None, None)
    print(f"{verdict.acked} messages acknowledged, {kills} kills, {len(verdict.faults)} faults", flush=True)

    assert [] == verdict.faults
    assert verdict.acked > CONVERSATIONS + 20
    assert kills > 2
    assert customers.elsewhere > 0
    assert 0 == await run_move(*urls[-2:], "--finish", folder=tmp_path)


@pytest.mark.slow
async def test_following_ends_when_it_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C is how it ends; what has changed until then is there."""
    url, there = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    async with counting_bot(Chatkeep(url, **FAST)) as keep:
        await keep.receive("ada", "one", id="1")
        process = await asyncio.create_subprocess_exec(
            *PROGRAM, "move", url, there, "--follow", cwd=tmp_path, env=plain_environment(), stdout=-1, stderr=-1
        )
        assert process.stdout is not None
        assert b"1 conversation or record is copied" in await process.stdout.readline()
        await keep.receive("bob", "two", id="2")
        deadline = time.monotonic() + 20
        theirs = None
        while theirs is None or len(await held(theirs)) < 2:
            assert time.monotonic() < deadline
            await time_passes(0.2)
            if theirs is not None:
                await theirs.close()
            theirs = await opened_on(there)
        await theirs.close()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_S):
            _, err = await process.communicate()

    assert 0 == process.returncode, err
    assert b"Interrupted" in err


@pytest.mark.long
def test_refusals_come_before_anything_is_touched(tmp_path: Path) -> None:
    """Each says what is true and what to do, ends with the code for it, and makes no file."""

    async def fill(name: str) -> None:
        async with counting_bot(Chatkeep(f"sqlite:///{tmp_path}/{name}", **FAST)) as keep:
            await keep.receive("ada", "hi", id="1")

    asyncio.run(fill("a.db"))
    asyncio.run(fill("full.db"))
    for arguments, code, said in [
        (("a.db", "a.db"), 2, "FROM and TO are the same file"),
        (("a.db", "full.db"), 2, "TO is not empty"),
        (("nowhere.db", "b.db"), 2, "There is no file nowhere.db"),
        (("a.db", "memory://"), 2, "exists only inside its process"),
        (("a.db", "carrier-pigeon://x"), 2, "There is no driver for 'carrier-pigeon'"),
        (("redis://127.0.0.1:1/0", "b.db"), 3, "127.0.0.1:1"),
        (("a.db", "redis://127.0.0.1:1/0"), 3, "127.0.0.1:1"),
        (("a.db", "b.db", "--cancel", "--finish"), 2, "--cancel cannot be combined with"),
    ]:
        result = chatkeep("move", *arguments, folder=tmp_path)
        assert (code, "") == result[:2], arguments
        assert said in result[2]
        assert {"a.db", "full.db"} == {
            path.name for path in tmp_path.iterdir() if not path.name.endswith(("-wal", "-shm"))
        }

    code, out, _ = chatkeep("move", "a.db", "b.db", "--finish", "--json", folder=tmp_path)
    assert 0 == code
    assert (True, 1) == (json.loads(out)["finished"], json.loads(out)["conversations"])
    assert f"moved to sqlite:///{tmp_path}/b.db" in chatkeep("list", "a.db", folder=tmp_path)[2]
    assert 3 == chatkeep("move", "a.db", "c.db", folder=tmp_path)[0]
    assert not (tmp_path / "c.db").exists()
    assert "This move is finished" in chatkeep("move", "a.db", "b.db", "--finish", folder=tmp_path)[1]


def test_an_export_is_the_same_file_after_a_round_trip(tmp_path: Path) -> None:
    """By the commands alone; a file with something wrong is told by its line, and imports nothing."""

    async def fill() -> None:
        async with counting_bot(Chatkeep(f"sqlite:///{tmp_path}/a.db", **FAST)) as keep:
            for n in range(5):
                await keep.receive(f"c{n}", f"hi {n}", id=f"{n}")

    asyncio.run(fill())
    assert 0 == chatkeep("export", "a.db", "-o", "a.jsonl", folder=tmp_path)[0]
    assert 2 == chatkeep("export", "a.db", "-o", "a.jsonl", folder=tmp_path)[0]
    code, out, _ = chatkeep("import", "b.db", "a.jsonl", folder=tmp_path)
    assert (0, "5 conversations and records are imported, with 10 entries.\n") == (code, out)
    code, out, _ = chatkeep("export", "b.db", folder=tmp_path)
    assert (0, (tmp_path / "a.jsonl").read_text()) == (code, out)

    lines = out.splitlines(keepends=True)
    (tmp_path / "bad.jsonl").write_text("".join([*lines[:5], lines[5].replace("role", "rule"), *lines[6:]]))
    code, out, err = chatkeep("import", "c.db", "bad.jsonl", folder=tmp_path)
    assert (2, "") == (code, out)
    assert "line 6: " in err
    assert "Nothing was imported." in err
    assert not (tmp_path / "c.db").exists()
    code, _, err = chatkeep("import", "c.db", "-", typed="".join(lines[:6]), folder=tmp_path)
    assert (2, True) == (code, "line 7: the export ends before its last line" in err)
    assert 2 == chatkeep("export", "nowhere.db", folder=tmp_path)[0]
    assert 1 == chatkeep("export", "b.db", "--conversation", "nobody", folder=tmp_path)[0]
    assert {"a.db", "b.db", "c.db", "a.jsonl", "bad.jsonl"} == {
        path.name for path in tmp_path.iterdir() if "-" not in path.name
    }
