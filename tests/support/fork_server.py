"""Programs of chatkeep as processes of their own, forked from one that has imported chatkeep.

Importing takes most of the time of a command, and much of that of a server that is started to be killed. What is forked is a
process like any other: it has arguments, an environment, a folder and files of its own, and an exit code. `PROGRAM` of
`tests/support/program.py` starts one from nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("chatkeep")
IMPORTED = (
    "chatkeep.__main__",
    "chatkeep.demos.bulk",
    "chatkeep.demos.restaurant",
    "chatkeep.demos.salon",
    "chatkeep.demos.tutoring",
    "chatkeep.channels.outlet",
    "chatkeep.drivers.postgresql.driver",
    "chatkeep.drivers.redis.driver",
    "chatkeep.drivers.sqlite.driver",
    "chatkeep.server.serving",
    "chatkeep.testing.history",
    "uvicorn.loops.auto",
)
"""What programs use; what only some use is imported by them."""

BARE = ("chatkeep",)
"""What imports no library of an extra."""

NOWHERE = -1
"""A stream with nothing to read, and which keeps nothing."""

LONGEST = 1 << 17
"""So many bytes a request has at most."""


class Program:
    """`python -m MODULE ARGUMENTS`, running; where a test uses it, it is used as `subprocess.Popen` is."""

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str],
        streams: Sequence[int] = (NOWHERE, NOWHERE, NOWHERE),
        module: str = "chatkeep",
        imported: tuple[str, ...] = IMPORTED,
    ) -> None:
        """Start it, where *imported* is imported. *streams* are what it reads from, writes to, and writes errors to."""
        request = json.dumps([module, arguments, str(folder), dict(environment)]).encode()
        self._ended, told = os.pipe()
        nowhere = os.open(os.devnull, os.O_RDWR)
        places = [nowhere if stream == NOWHERE else stream for stream in streams]
        with LOCK:
            socket.send_fds(server(imported), [request], [*places, told])
        os.close(told)
        os.close(nowhere)
        self.returncode: int | None = None
        self.pid = self._read()
        self._lock = threading.Lock()

    def __del__(self) -> None:
        os.close(self._ended)

    def _read(self) -> int:
        found = os.read(self._ended, 4)
        assert len(found) == 4, "the process that forks is gone"
        return int.from_bytes(found, "big")

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        return self._wait(0)

    def wait(self, timeout: float) -> int:
        """Its exit code, when it has ended."""
        if (code := self._wait(timeout)) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def _wait(self, timeout: float) -> int | None:
        waiting = select.poll()
        waiting.register(self._ended, select.POLLIN)
        if self.returncode is None and waiting.poll(timeout * 1000):
            with self._lock:  # several threads may wait
                if self.returncode is None:
                    self.returncode = os.waitstatus_to_exitcode(self._read())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Tells it to stop."""
        self.send_signal(signal.SIGTERM)


def run(
    *arguments: str, folder: Path, environment: Mapping[str, str], within: float, typed: bytes = b"", **more: Any
) -> tuple[int, bytes, bytes]:
    """Runs a command of chatkeep, or what *more* of `Program` says, to its end: exit code, output, errors."""
    reading, writing = os.pipe()
    with TemporaryFile() as output, TemporaryFile() as errors:
        streams = [reading, output.fileno(), errors.fileno()]
        try:
            program = Program(*arguments, folder=folder, environment=environment, streams=streams, **more)
        finally:
            os.close(reading)
            threading.Thread(target=type_in, args=(writing, typed)).start()  # it may be more than a pipe holds
        try:
            code = program.wait(within)
        finally:
            program.kill()
        output.seek(0)
        errors.seek(0)
        return code, output.read(), errors.read()


def type_in(writing: int, typed: bytes) -> None:
    """Writes into a pipe what is typed, as far as somebody reads it."""
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as keys:
        keys.write(typed)


LOCK = threading.Lock()


@functools.cache
def server(imported: tuple[str, ...]) -> socket.socket:
    """Starts the process that forks, with *imported*, which ends with this one; the connection to it."""
    mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONWARNINGS", None)
    with other:
        command = [sys.executable, "-m", __name__, str(other.fileno()), *imported]
        forking = subprocess.Popen(command, stdin=-3, pass_fds=[other.fileno()], cwd=ROOT, env=environment)
    atexit.register(forking.wait)
    atexit.register(mine.close)  # before that
    return mine


def fork_when_asked(asking: socket.socket) -> tuple[str, list[str], str, dict[str, str]]:
    """Answers in each process that is forked: with what it is to be. Ends this one when nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, streams, _, _ = socket.recv_fds(asking, LONGEST, 4)
        if not request:
            sys.exit()
        if os.fork():
            for stream in streams:
                os.close(stream)
        else:
            break
    # The process between the two waits for the program, and tells how it has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, told = streams
    if program := os.fork():
        for stream in (*streams, asking.fileno()):
            os.close(stream)
        tell(told, program)
        tell(told, os.waitpid(program, 0)[1])
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
    for stream in (*streams, told, asking.detach()):
        os.close(stream)
    module, arguments, folder, environment = json.loads(request)
    return module, arguments, folder, environment


def tell(told: int, number: int) -> None:
    """Writes a number for `Program`, who may be gone."""
    with contextlib.suppress(BrokenPipeError):
        os.write(told, number.to_bytes(4, "big"))


def prepare() -> None:
    """Has made once what each server would make at its start."""
    from chatkeep import Chatkeep
    from chatkeep.server import create_app

    for url in ("memory://", "sqlite:///a.db", "redis://127.0.0.1/0", "postgresql://a@127.0.0.1/a"):
        create_app(Chatkeep(url), title="A bot")


def become(module: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Makes this process the program."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    if kind := environment.get("PYTHONWARNINGS"):
        warnings.simplefilter(kind)  # type: ignore[arg-type]
    sys.modules["__main__"] = types.ModuleType("__main__")
    if module == "chatkeep":
        sys.argv = [str(COMMAND), *arguments]
        sys.path[0] = str(COMMAND.parent)
        from chatkeep.cli import main

        main(prog_name="chatkeep")
    else:
        sys.argv = ["", *arguments]
        sys.path[0] = folder
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        import_module(name)
    if "chatkeep.server.serving" in sys.argv:
        prepare()
    gc.collect()
    gc.freeze()
    become(*fork_when_asked(socket.socket(fileno=int(sys.argv[1]))))
