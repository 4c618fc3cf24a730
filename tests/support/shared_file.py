"""A bot on an SQLite file, and what somebody does to that file: `python -m tests.support.shared_file FILE NAME WHAT RULES`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from chatkeep import Chatkeep, ChatkeepError, Turn
from chatkeep.drivers.sqlite import file as sqlite_file

from .waiting import takes

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
    """rm chat.db-*, whichever are still there: the bot may have noticed the first and removed the second itself"""
    subprocess.run(["rm", "-f", f"{file}-wal", f"{file}-shm"], check=True)


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
        await takes(60)


if __name__ == "__main__":
    logging.basicConfig()
    asyncio.run(talk(*sys.argv[1:]))
