"""Starts a server anew when the files of its application change. The listening socket stays open meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from socket import socket
from threading import Event

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp

LOOK_S = 0.25
PATIENCE_S = 5.0
"""A process that has not ended so long after it was told to is killed; the next one answers what it was about to answer."""

WATCHED = (".py", ".toml")
SKIPPED = {"node_modules", "__pycache__", "site-packages"}

Stamps = dict[Path, tuple[int, int]]


class Reloader:
    """Serves in a child process, and in the next one when a file in the current directory has changed.

    *target* is called in the child with the socket, an event that it sets when it serves, and the names of what has
    changed. Files are compared by time and size, a few times a second: no library is needed, and network folders work too.
    """

    def __init__(self, target: Callable[..., None], listener: socket, tell: Callable[[str], None]) -> None:
        self._target = target
        self._listener = listener
        self._tell = tell
        self._spawn = get_context("spawn")  # (a fork would keep the modules that are to be read anew)
        self._ready = self._spawn.Event()
        self._over = Event()

    def run(self) -> int:
        """Serve until SIGINT or SIGTERM; the exit code. A first process that cannot start ends it, with its own code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._over.set())
        known = stamps(Path.cwd())
        self._start([])
        first, mourned = True, False
        while not self._over.wait(LOOK_S):
            ended = self._process.exitcode
            if ended and first:
                return ended
            first = first and not self._ready.is_set()
            if ended and not mourned:
                mourned = True
                self._tell(f"The server has ended (exit code {ended}); it starts again when a file changes.")
            before, known = known, stamps(Path.cwd())
            if changed := sorted({str(path.relative_to(Path.cwd())) for path, _ in before.items() ^ known.items()}):
                self._end()
                first, mourned = False, False
                self._start(changed)
        self._end()
        self._listener.close()
        return 0

    def _start(self, changed: list[str]) -> None:
        arguments = (self._listener, self._ready, changed)
        self._process = self._spawn.Process(target=self._target, args=arguments, daemon=False)
        self._process.start()

    def _end(self) -> None:
        self._process.terminate()
        self._process.join(PATIENCE_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def refusing(why: str) -> ASGIApp:
    """Return an application that answers every request with 503, and *why* there is no other one."""
    answer = PlainTextResponse(f"{why}\n", 503, {"cache-control": "no-store", "retry-after": "1"})
    return Starlette(routes=[Mount("/", answer)])


def stamps(folder: Path) -> Stamps:
    """Return the files under *folder* that an application is made of, each with its time and size."""
    found: Stamps = {}
    for path in files(folder):
        try:
            seen = path.stat()
        except OSError:  # it went meanwhile
            continue
        found[path] = (seen.st_mtime_ns, seen.st_size)
    return found


def files(folder: Path) -> Iterator[Path]:
    """Return the files to be watched: no hidden folders, no environments."""
    for root, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in SKIPPED
            and not os.path.exists(os.path.join(root, name, "pyvenv.cfg"))
        ]
        yield from (Path(root, name) for name in names if name.endswith(WATCHED))
