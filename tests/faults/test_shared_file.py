"""An SQLite file that something besides SQLite's own clients opens, closes, removes or replaces while bots write to it
(I1).

Each way is tried from a bot's own process, as an ordinary program does it: that is refused. And again with the refusal
switched off, as a library that is not Python's gets past it, or from another process: nothing that was acknowledged may
be missing after kill -9, and the file is sound.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from chatkeep import Chatkeep

from ..support.fork_server import ROOT, Program
from ..support.program import PATIENCE_S
from ..support.shared_file import INSIDE, MESSAGES, OUTSIDE, look_outside, read_in_c


class Bot:
    """A bot's process on a file."""

    def __init__(self, file: str, name: str, what: str = "", rules: str = "") -> None:
        self.name = name
        typed, said = os.pipe(), os.pipe()
        self._logged = TemporaryFile("w+")  # noqa: SIM115
        self.process = Program(
            *(file, name, what, rules),
            folder=ROOT,
            environment=os.environ,
            streams=(typed[0], said[1], self._logged.fileno()),
            module="tests.support.shared_file",
        )
        os.close(typed[0])
        os.close(said[1])
        self._keys, self._output = os.fdopen(typed[1], "w"), os.fdopen(said[0])
        self.said: list[str] = []

    def until(self, word: str) -> None:
        """Reads on until the bot has said *word*."""
        for line in self._output:
            self.said.append(line.rstrip("\n"))
            if line.startswith(word):
                return
        raise AssertionError(f"the bot died: {self.kill()}")

    def until_done(self, ids: list[str]) -> None:
        """Reads on until those of the *ids* that are its own were acknowledged."""
        awaited = {id for id in ids if id.startswith(f"{self.name}.")} - {*self.done}
        while awaited:
            self.until("done ")
            awaited.discard(self.said[-1][5:])

    def go(self) -> None:
        """Lets it talk."""
        self._keys.write("\n")
        self._keys.flush()

    def kill(self) -> str:
        """kill -9; what it has logged."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        for pipe in (self._keys, self._output):
            pipe.close()
        with self._logged:
            self._logged.seek(0)
            return self._logged.read()

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
        for bot in running:  # the backup may hold a message whose answer was still under way
            await asyncio.to_thread(bot.until_done, kept)
        # (They talk on: told that it is enough, they may have ended before the file is moved.)
        await asyncio.to_thread(subprocess.run, ["mv", f"{file}.copy", file], check=True)
        for bot in running:
            await asyncio.to_thread(bot.until, "fault Replaced")
            bot.kill()

    before = {id for bot in running for id in bot.done}
    assert set(kept) <= before
    assert (kept, ["ok"]) == await held(file)
