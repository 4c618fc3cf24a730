"""An SQLite file that something besides SQLite's own clients opens, closes, removes or replaces while bots write to it
(I1).

Each way is tried from a bot's own process, as an ordinary program does it: that is refused. And again with the refusal
switched off, as a library that is not Python's gets past it, or from another process: nothing that was acknowledged may
be missing after kill -9, and the file is sound.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, ChatkeepError, Turn
from chatkeep.drivers.sqlite import file as sqlite_file

MESSAGES = 20


# What somebody does to the file, in a bot's process


def look(file: str) -> None:
    """A /stats handler with Python's own SQLite."""
    link = sqlite3.connect(file)
    link.execute("select count(*) from entry").fetchone()
    link.close()


def copy_online(file: str) -> None:
    """A backup with Python's own SQLite."""
    with contextlib.closing(sqlite3.connect(file)) as link, contextlib.closing(sqlite3.connect(f"{file}.copy")) as copy:
        link.backup(copy)


def copy_files(file: str) -> None:
    """A backup by hand."""
    for suffix in sqlite_file.SUFFIXES:
        shutil.copy(file + suffix, f"{file}.copy{suffix}")


def read(file: str) -> None:
    """A hash of the files, and meanwhile somebody outside looks too."""
    for suffix in sqlite_file.SUFFIXES:
        Path(file + suffix).read_bytes()
    look_outside(file)


def read_in_c(file: str) -> None:
    """The same by a library that tells Python nothing."""
    c = ctypes.CDLL(None)
    for suffix in sqlite_file.SUFFIXES:
        c.close(c.open((file + suffix).encode(), os.O_RDONLY))
    look_outside(file)


# And outside


def look_outside(file: str, *, check: bool = True) -> None:
    """Another SQLite opens the file, reads, and closes it."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select count(*) from entry').fetchall(); c.close()"
    subprocess.run([sys.executable, "-c", code, file], check=check, stderr=None if check else subprocess.DEVNULL)


def remove_wal(file: str) -> None:
    """rm chat.db-wal"""
    subprocess.run(["rm", f"{file}-wal"], check=True)


def remove_shm(file: str) -> None:
    """rm chat.db-shm"""
    subprocess.run(["rm", f"{file}-shm"], check=True)


def remove_both(file: str) -> None:
    """rm chat.db-*"""
    subprocess.run(["rm", f"{file}-wal", f"{file}-shm"], check=True)


def remove_wal_and_look(file: str) -> None:
    """And then somebody looks with another SQLite, which makes a new one."""
    remove_wal(file)
    look_outside(file, check=False)


def remove_both_and_look(file: str) -> None:
    """And then somebody looks with another SQLite, which makes new ones."""
    remove_both(file)
    look_outside(file, check=False)


def move_wal(file: str) -> None:
    """mv chat.db-wal elsewhere"""
    subprocess.run(["mv", f"{file}-wal", f"{file}.moved"], check=True)


INSIDE = (look, copy_online, copy_files, read)
OUTSIDE = (look_outside, remove_wal, remove_shm, remove_both, remove_wal_and_look, remove_both_and_look, move_wal)


# A bot's process: `python -m tests.faults.test_shared_file FILE NAME WHAT RULES`


async def answer(turn: Turn[dict[str, Any]]) -> str:
    """Counts."""
    turn.state["n"] = turn.state.get("n", 0) + 1
    return str(turn.state["n"])


async def talk(file: str, name: str, what: str, rules: str) -> None:
    """Talks, does *what* in the middle of it, goes on until told that it is enough, and a little more; says what was acknowledged
    and refused."""
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{file}", poll="50ms")
    keep.on_message(answer)
    async with keep:
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if rules == "bypassed":
            sqlite_file._target = lambda path: None  # type: ignore[assignment]
        doing: asyncio.Task[None] | None = None
        enough = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        n, left = 0, MESSAGES
        while left:
            try:
                await keep.receive(f"ada{n % 3}", "x", id=f"{name}.{n}")
                print(f"done {name}.{n}", flush=True)
            except ChatkeepError as fault:
                print(f"fault {type(fault).__name__}: {fault}", flush=True)
            n += 1
            if n == MESSAGES and what:
                doing = asyncio.create_task(asyncio.to_thread(globals()[what], file))
            if n == MESSAGES and not what:
                print("ready", flush=True)
            if doing is not None and doing.done():
                if fault := doing.exception():
                    print(f"refused {type(fault).__name__}: {fault}", flush=True)
                print("ready", flush=True)
                doing = None
            left -= enough.done()
        print("end", flush=True)
        await asyncio.sleep(60)


class Bot:
    """A bot's process on a file."""

    def __init__(self, file: str, name: str, what: str = "", rules: str = "") -> None:
        command = [sys.executable, "-m", "tests.faults.test_shared_file", file, name, what, rules]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said: list[str] = []

    def until(self, word: str) -> None:
        """Reads on until the bot has said *word*."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith(word):
                return
        assert self.process.stderr is not None
        raise AssertionError(f"the bot died: {self.process.stderr.read()}")

    def go(self) -> None:
        """Lets it talk."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> str:
        """kill -9; what it has logged."""
        self.process.send_signal(signal.SIGKILL)
        return self.process.communicate(timeout=30)[1]

    @property
    def done(self) -> list[str]:
        """The ids that were acknowledged."""
        return [line[5:] for line in self.said if line.startswith("done ")]

    def told(self, word: str) -> list[str]:
        """What it said of that kind."""
        return [line for line in self.said if line.startswith(f"{word} ")]


@contextlib.contextmanager
def bots(file: str, count: int, what: str = "", rules: str = "") -> Iterator[list[Bot]]:
    """So many bots on a file, of which the first does *what*."""
    running = [Bot(file, "a", what, rules)]
    try:
        running[0].until("open")
        for number in range(1, count):
            running.append(Bot(file, f"b{number}"))
            running[-1].until("open")
        yield running
    finally:
        for bot in running:
            if bot.process.poll() is None:
                bot.kill()


async def held(file: str) -> tuple[list[str], list[str]]:
    """The ids that the store holds, each once, and what an integrity check says."""
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{file}")
    async with keep:
        sound = [str(found[0]) for found in await keep.query("pragma integrity_check")]
        ids = [m.id for n in range(3) async for m in keep.history(f"ada{n}") if m.role == "user"]
    return sorted(ids), sound


async def ended(running: list[Bot], meanwhile: Callable[[], None] = lambda: None) -> tuple[list[str], str]:
    """Lets them talk, does something *meanwhile*, and kills them; the ids they acknowledged, and what they have logged."""
    for bot in running:
        bot.go()
    for bot in running:
        await asyncio.to_thread(bot.until, "ready")
    await asyncio.to_thread(meanwhile)
    for bot in running:
        bot.go()
    for bot in running:
        await asyncio.to_thread(bot.until, "end")
    logged = "".join([bot.kill() for bot in running])
    acknowledged = sorted(id for bot in running for id in bot.done)

    assert [] == [line for bot in running for line in bot.told("fault")]
    assert 2 * MESSAGES * len(running) <= len(acknowledged)
    return acknowledged, logged


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("what", INSIDE)
async def test_i1_an_open_in_the_bots_process_is_refused(
    tmp_path: Path, what: Callable[[str], None], count: int
) -> None:
    """With the way out in the error; the bot goes on."""
    file = f"{tmp_path}/chat.db"
    with bots(file, count, what.__name__) as running:
        acknowledged, _ = await ended(running)

    [refused] = running[0].told("refused")
    assert all(word in refused for word in ("OpenRefused", file, "keep.backup", "keep.query"))
    assert (acknowledged, ["ok"]) == await held(file)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("what", [*INSIDE, read_in_c])
async def test_i1_what_gets_past_the_refusal_loses_nothing(
    tmp_path: Path, what: Callable[[str], None], count: int
) -> None:
    """SQLite's locks are gone, in the middle of the talk, and others come and go; what is acknowledged after that is there."""
    file = f"{tmp_path}/chat.db"

    def others() -> None:
        look_outside(file)
        running.append(Bot(file, "late"))
        running[-1].until("open")
        running[-1].go()
        running[-1].until("ready")

    with bots(file, count, what.__name__, "bypassed") as running:
        acknowledged, _ = await ended(running, others)

    assert [] == [line for bot in running for line in bot.told("refused")]
    assert [bot for bot in running if "late.0" in bot.done]
    assert (acknowledged, ["ok"]) == await held(file)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("what", OUTSIDE)
async def test_i1_what_happens_outside_is_noticed_before_the_answer(
    tmp_path: Path, what: Callable[[str], None], count: int
) -> None:
    """Nothing is acknowledged that a kill would lose; the files are opened anew, and the log says so."""
    file = f"{tmp_path}/chat.db"
    with bots(file, count) as running:
        acknowledged, logged = await ended(running, lambda: what(file))

    assert (acknowledged, ["ok"]) == await held(file)
    assert (what is not look_outside) == ("opened anew" in logged)


@pytest.mark.parametrize("count", [1, 2])
async def test_i1_a_backup_that_is_moved_over_the_file_is_what_there_is(tmp_path: Path, count: int) -> None:
    """Nothing is acknowledged that would go into the old one; what the backup held is there, and nothing of the other is mixed into
    it."""
    file = f"{tmp_path}/chat.db"
    with bots(file, count) as running:
        for bot in running:
            bot.go()
        for bot in running:
            await asyncio.to_thread(bot.until, "ready")
        copy = [sys.executable, "-c", "from chatkeep.cli import main; main()", "backup", file, f"{file}.copy"]
        await asyncio.to_thread(subprocess.run, copy, check=True)
        kept, _ = await held(f"{file}.copy")
        for bot in running:
            bot.go()
        await asyncio.to_thread(subprocess.run, ["mv", f"{file}.copy", file], check=True)
        for bot in running:
            await asyncio.to_thread(bot.until, "fault Replaced")
            bot.kill()

    before = {id for bot in running for id in bot.done}
    assert set(kept) <= before
    assert (kept, ["ok"]) == await held(file)


if __name__ == "__main__":
    logging.basicConfig()
    asyncio.run(talk(*sys.argv[1:]))
