"""The program as people run it: commands to their end, and a demo server that can be killed and started again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, Self

from . import fork_server
from .fork_server import Program

PATIENCE_S = 20.0
PROGRAM = [sys.executable, "-c", "from chatkeep.cli import main; main(prog_name='chatkeep')"]
"""A command, started from nothing; what is here is forked (`fork_server`)."""


def chatkeep(
    *arguments: str, typed: str = "", folder: Path, within: float = PATIENCE_S, **variables: str
) -> tuple[int, str, str]:
    """Runs a command to its end, with *variables* in its environment: exit code, output, errors."""
    environment = plain_environment() | variables
    code, output, errors = fork_server.run(
        *arguments, folder=folder, environment=environment, within=within, typed=typed.encode()
    )
    return code, output.decode(), errors.decode()


def plain_environment() -> dict[str, str]:
    """An environment in which output is UTF-8 and warnings are shown."""
    return {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "default", "NO_COLOR": "1"}


@contextmanager
def killed_when_late(process: subprocess.Popen[bytes] | Program) -> Iterator[None]:
    """Ends *process*, and with it a block that waits for its output, when the block takes too long."""
    timer = Timer(PATIENCE_S, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Demo:
    """`chatkeep demo` on one store, from its start to its end; use it in a with statement."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0) -> None:
        self.folder, self.arguments, self.port = folder, arguments, port
        self.greeting = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Starts it, on the same port as before if there was one, and waits for its greeting."""
        command = "demo", *self.arguments, "--port", str(self.port)
        source, end = os.pipe()
        with (self.folder / "demo.err").open("ab") as errors:
            streams = fork_server.NOWHERE, end, errors.fileno()
            self.process = Program(*command, folder=self.folder, environment=plain_environment(), streams=streams)
        os.close(end)
        self._output = os.fdopen(source, "rb")
        with killed_when_late(self.process):
            self.greeting = b"".join(self._output.readline() for _ in range(4)).decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", self.greeting)
        assert found, self.complaints()
        self.port = int(found[1])

    @property
    def address(self) -> str:
        """Where its page is."""
        return f"http://127.0.0.1:{self.port}/"

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends it a signal and waits for its end; answers its exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self._output.close()
        return code

    def complaints(self) -> str:
        """What it wrote to its error output, ever."""
        return (self.folder / "demo.err").read_text()


def post(address: str, conversation: str, content: str, store: Path) -> dict[str, Any]:
    """Posts a message to a running demo with a service key made for it; answers the receipt."""
    key = json.loads(chatkeep("key", "create", store.name, "--json", folder=store.parent)[1])["token"]
    request = urllib.request.Request(
        f"{address}v1/conversations/{conversation}/messages",
        data=json.dumps({"content": content}).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {key}"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        receipt: dict[str, Any] = json.load(answer)
    return receipt
