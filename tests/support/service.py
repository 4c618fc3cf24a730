"""`chatkeep serve` as a process of its own, as an operator runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import fork_server
from .fork_server import Program
from .serving import Client

PATIENCE_S = 20.0
CHATKEEP = str(Path(sys.executable).with_name("chatkeep"))

BOT = """
import asyncio
from chatkeep import Chatkeep
keep = Chatkeep({url!r})

@keep.on_message
async def bot(turn):
    if turn.text.startswith("wait"):
        await asyncio.sleep(1.5)
    if turn.text.startswith("break"):
        raise RuntimeError("I broke on " + turn.text)
    return "you said " + turn.text + str(dict(keep.settings.flags.of(turn.tenant)))
"""


class Service:
    """A running server: its port, its process and what it has logged."""

    def __init__(self, process: Program, logged: Path) -> None:
        self.process = process
        self._logged = logged

    @property
    def log(self) -> str:
        """Everything that it has said so far."""
        return self._logged.read_text()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.wait_for(r"Serving .* on http://\S+:(\d+)/")[1])

    def client(self, key: str = "") -> Client:
        """Somebody who speaks to it."""
        return Client(self.port, key)

    def key(self, *options: str) -> str:
        """A new service key from the command line, as soon as the store is there: it is opened after the address is told."""
        store = self._logged.with_name("chat.db")
        self._wait(store.exists, str(store))
        made = run(store.parent, "key", "create", store.name, *options)
        assert 0 == made.returncode, made.stderr
        return made.stdout.strip()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The last of *count* places in the log that match, as soon as it is there."""
        self._wait(lambda: len(list(re.finditer(pattern, self.log))) >= count, pattern)
        return list(re.finditer(pattern, self.log))[count - 1]

    def _wait(self, reached: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, f"{what} is not there:\n{self.log}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tells it to stop; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def service(folder: Path, *arguments: str, url: str = "", bot: str = BOT, **settings: str) -> Iterator[Service]:
    """Serves the bot on the store *url* (else an SQLite file in *folder*), with *settings* in its environment."""
    folder.joinpath("bot.py").write_text(bot.format(url=url or f"sqlite:///{folder}/chat.db"))
    logged = folder / f"log-{time.monotonic_ns()}.txt"
    command = "serve", "bot:keep", "--port", "0", *arguments
    with logged.open("wb") as out:
        streams = fork_server.NOWHERE, out.fileno(), out.fileno()
        process = Program(*command, folder=folder, environment=environment(settings), streams=streams)
    running = Service(process, logged)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE_S)


def environment(settings: dict[str, str]) -> dict[str, str]:
    """This process's environment with *settings* (port="0") as variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CHATKEEP_")}
    return clean | {f"CHATKEEP_{name.upper()}": value for name, value in settings.items()}


def run(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of chatkeep to its end."""
    code, said, errors = fork_server.run(
        *arguments, folder=folder, environment=environment(settings), within=PATIENCE_S
    )
    return subprocess.CompletedProcess(arguments, code, said.decode(), errors.decode())
