"""Kills real processes under load and checks every message afterwards: `python -m tests.acceptance.killing FOLDER KILLS`.

A supervisor forks workers on one SQLite file, kills each with SIGKILL at a random instant, and starts the next one. Each worker
plays many clients: new messages by receive and accept, and redeliveries of what was never answered, or long ago. What a client
sends and is told goes into an append-only journal of its own, before and after; the store is never its own judge.

    --at POINT   dies at a named point instead, once
    --plant BUG  with a bug that the checker must find: early (answered before it is durable), forgetful (ids are not kept)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from chatkeep import Chatkeep, Turn
from chatkeep.drivers import sqlite
from chatkeep.drivers.base import Driver, Entry
from chatkeep.testing.crash import POINTS, CrashDriver, CrashPoint, Wrapped, wrapped
from chatkeep.testing.history import Held, Told, Verdict, check

T = TypeVar("T")

INSIDE = ("handler:start", "handler:end", "sqlite:entry", "sqlite:commit", "sqlite:committed")
ALL_POINTS = (*POINTS, *INSIDE)
CLIENTS = 12
WORKERS = 2


class Journal:
    """Lines that survive a kill: each is one write to a file opened for appending."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *fields: Any) -> None:
        os.write(self.file, (json.dumps(fields) + "\n").encode())


class ForgetfulDriver(Wrapped):
    """Planted bug: an append keeps no ids, as a set of seen ids in memory would not."""

    async def append(self, key: Any, entries: list[Entry], **options: Any) -> Any:
        options["revision"] += os.urandom(2).hex()
        again = [structs.replace(entry, id=f"{entry.id}~{os.urandom(2).hex()}") for entry in entries]
        return await self.inner.append(key, again, **options)


def plant_early() -> None:
    """Planted bug: answers what is in the transaction, and commits it a moment later."""
    loop = asyncio.get_running_loop()

    def deliver(batch: list[Any], answers: list[Any]) -> None:
        for (_, answered), found in zip(batch, answers, strict=True):
            if not answered.done():
                answered.set_exception(found) if isinstance(found, Exception) else answered.set_result(found)

    def commit(db: Any, batch: list[Any]) -> list[Any]:
        db.execute("begin immediate")
        answers = [sqlite._attempt(act, db) for act, _ in batch]
        loop.call_soon_threadsafe(deliver, batch, answers)
        time.sleep(0.01)
        db.execute("commit")
        return answers

    sqlite._deliver, sqlite.commit = deliver, commit


PLANTS = ("early", "forgetful")


def keep_on(folder: Path, crash: CrashPoint | None, plant: str | None) -> Chatkeep[Any]:
    """A bot that notes each id in its state, and each run in a file beside."""
    driver: Driver = sqlite.SqliteDriver(f"sqlite:///{folder}/chat.db")
    if crash is not None:
        hook_sqlite(crash)
        driver = wrapped(CrashDriver(driver, crash))
    if plant == "early":
        plant_early()
    if plant == "forgetful":
        driver = wrapped(ForgetfulDriver(driver))
    keep: Chatkeep[Any] = Chatkeep(driver, poll="50ms", turn_timeout="5s", session_ttl="1h", history=5)
    runs = Journal(folder / "runs.jsonl")

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if crash is not None:
            crash("handler:start")
        name = turn.id.partition("~")[0]
        runs.note(turn.conversation, name)
        turn.state.setdefault("seen", []).append(name)
        if random.random() < 0.2:
            await asyncio.sleep(random.random() * 0.01)
        if crash is not None:
            crash("handler:end")
        return f"{len(turn.state['seen'])}: {name}"

    return keep


def hook_sqlite(crash: CrashPoint) -> None:
    """Crash points inside a transaction: between its statements, before its commit, and after it, before anybody knows."""
    connect = sqlite.SqliteDriver._connect

    def hooked(self: sqlite.SqliteDriver) -> Any:
        db = connect(self)
        db.set_update_hook(lambda kind, base, table, rowid: crash("sqlite:entry") if table == "entry" else None)
        db.set_commit_hook(lambda: bool(crash("sqlite:commit")))
        db.set_wal_hook(lambda *_: crash("sqlite:committed") or 0)  # replaces the automatic checkpoint
        return db

    sqlite.SqliteDriver._connect = hooked  # type: ignore[method-assign]


async def work(folder: Path, life: int, crash: CrashPoint | None, plant: str | None, seconds: float) -> None:
    """One life of a worker: clients that send until they are killed, or their time is over."""
    journal = Journal(folder / "told.jsonl")
    chosen = random.Random(f"{folder}{life}")
    unanswered = [one for one in told(folder) if not one.acked][-200:]
    keep = keep_on(folder, crash, plant)
    until = time.monotonic() + seconds
    async with keep:

        async def client(number: int) -> None:
            sent = 0
            while time.monotonic() < until:
                name = f"c{chosen.randrange(CLIENTS)}-{life // 20}"
                if unanswered and chosen.random() < 0.4:
                    again = unanswered.pop(chosen.randrange(len(unanswered)))
                    name, id = again.conversation, again.id
                else:
                    sent += 1
                    id = f"{life}.{number}.{sent}"
                journal.note(name, id, False, None)
                if chosen.random() < 0.5:
                    receipt = await keep.receive(name, id, id=id)
                    journal.note(name, id, True, [reply.text for reply in receipt.replies])
                else:
                    await keep.accept(name, id, id=id)
                    journal.note(name, id, True, None)
                if chosen.random() < 0.1:
                    unanswered.append(Told(name, id, False))
                if crash is not None:
                    await keep.conversation(name)
                    [message async for message in keep.history(name, limit=3)]
                    await keep.receive(f"gone-{number}", "x")
                    await keep.erase(f"gone-{number}")

        await asyncio.gather(*(client(number) for number in range(CLIENTS)))


async def drained(folder: Path, plant: str | None) -> dict[str, Held]:
    """Opens the store once more, waits until nothing is unread, and takes everything out."""
    keep = keep_on(folder, None, plant)
    async with keep:
        held: dict[str, Held] = {}
        deadline = time.monotonic() + 20
        pending = {conversation.id async for conversation in keep.conversations(by="key")}
        while pending:
            for name in sorted(pending):
                found = await keep.conversation(name)
                if found is None or name.startswith("gone-"):
                    pending.discard(name)
                elif not found.unread or time.monotonic() > deadline:
                    messages = [replace_id(message) async for message in keep.history(name)]
                    held[name] = Held(messages, found.state, found.unread)
                    pending.discard(name)
            await asyncio.sleep(0.02)
        return held


def replace_id(message: Any) -> Any:
    """The message under the id that its client gave it."""
    return structs.replace(message, id=message.id.partition("~")[0])


def told(folder: Path) -> list[Told]:
    """What the clients know, from the journal; a line that was cut by the kill is left out."""
    path = folder / "told.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found: dict[tuple[str, str], Told] = {}
    every = []
    for line in lines:
        try:
            one = Told(*json.loads(line))
        except ValueError:
            continue
        every.append(one)
        if one.acked or (one.conversation, one.id) not in found:
            found[one.conversation, one.id] = one
    return [*found.values(), *(one for one in every if one.acked)]


def fork(run: Callable[[], Awaitable[None]]) -> int:
    """Runs a coroutine in a forked process; its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(run())  # type: ignore[arg-type]
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def kill_at_random(folder: Path, kills: int, plant: str | None) -> None:
    """Keeps WORKERS processes alive on one file and kills them, one after another, until *kills* have died."""
    life = 0
    alive: dict[int, float] = {}
    done = 0
    while done < kills:
        while len(alive) < WORKERS:
            life += 1
            this = life
            alive[fork(lambda: work(folder, this, None, plant, 30.0))] = time.monotonic() + random.uniform(0.02, 0.4)
        child, due = min(alive.items(), key=lambda item: item[1])
        time.sleep(max(0.0, due - time.monotonic()))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        del alive[child]
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"a worker ended by itself, with status {status}")
        done += 1
        if done % 50 == 0:
            print(f"  {done} kills, {len(told(folder))} messages", file=sys.stderr, flush=True)
    for child in alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def kill_at_point(folder: Path, point: str, nth: int) -> bool:
    """Runs one worker that dies at *point*; whether it did."""
    child = fork(lambda: work(folder, 1, CrashPoint(point, nth), None, 5.0))
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return False
    child = fork(lambda: work(folder, 2, None, None, 0.2))
    _, status = os.waitpid(child, 0)
    return status == 0


def judge(folder: Path, plant: str | None) -> Verdict:
    """The checker's verdict on everything that happened in *folder*."""
    return check(told(folder), asyncio.run(drained(folder, plant)))


def main() -> None:
    """Kills, drains, checks, prints; exit code 1 when a promise was broken, 2 when a crash point was never reached."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("kills", type=int)
    options.add_argument("--at", choices=ALL_POINTS)
    options.add_argument("--nth", type=int, default=7)
    options.add_argument("--plant", choices=PLANTS)
    given = options.parse_args()
    if given.at:
        if not kill_at_point(given.folder, given.at, given.nth):
            print(f"{given.at} was never reached")
            raise SystemExit(2)
    else:
        kill_at_random(given.folder, given.kills, given.plant)
    verdict = judge(given.folder, given.plant)
    runs = len((given.folder / "runs.jsonl").read_text().splitlines())
    print(
        f"{verdict.acked} acked, {verdict.unacked} unacked but committed, {runs} handler runs, "
        f"{len(verdict.faults)} faults {verdict.faults[:5]}"
    )
    raise SystemExit(1 if verdict.faults else 0)


if __name__ == "__main__":
    main()
