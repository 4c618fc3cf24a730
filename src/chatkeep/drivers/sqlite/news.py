"""What processes on one SQLite file tell each other: marks, a line each, appended to a file beside it, `-news`.

Each process looks ten times a second whether that file has grown, which is one call of the system; one that is alone writes nothing. Who
begins to listen appends an empty line, so that the others know of it. Nothing in the file is needed: what gets lost is found out by
asking the store. So it is not synced, and errors of the system are no errors here.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable, Collection
from contextlib import suppress

from ..whole_files import lock_alone

if sys.platform != "win32":
    import fcntl

LOOK_S = 0.1
MOST = 1 << 20
"""Bytes. A file that has grown so long is left to those who still read it, and another one begun."""


class News:
    """The news of the database at *path*: `listen` to what is told, `tell` it, until `close`."""

    def __init__(self, path: str) -> None:
        self._database, self._path = path, f"{path}-news"
        self._heard: Callable[[list[str]], None] | None = None
        self._file: int | None = None
        self._identity: os.stat_result | None = None
        self._at = 0
        self._rest = b""  # of a line that was not whole yet
        self._alone = False
        self._held: list[str] = []  # marks that nobody else was there to hear, since the last look
        self._next: asyncio.TimerHandle | None = None

    def listen(self, heard: Callable[[list[str]], None]) -> None:
        """Have *heard* called in the event loop with what anybody tells from now on."""
        self._heard = heard
        with suppress(OSError):
            self._at = os.lseek(self._join(), 0, os.SEEK_END)
        self._look_again()

    def hold(self, marks: Collection[str]) -> bool:
        """Keep *marks* for who begins to listen before the next look, if nobody else does now. False: they have to be told."""
        if self._alone:
            self._held += marks
        return self._alone

    def tell(self, marks: Collection[str]) -> None:
        """Tell *marks* to whoever listens; without the file nobody does. It may wait for the disk."""
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND
            if os.stat(self._path).st_size >= MOST:
                os.unlink(self._path)
                flags |= os.O_CREAT
            file = self._open(flags)
            try:
                os.write(file, "".join(f"{mark}\n" for mark in marks).encode())
            finally:
                os.close(file)

    def close(self) -> None:
        """Hear nothing more. The last one who listens takes the file away."""
        if self._next is not None:
            self._next.cancel()
        self._heard = self._next = None
        with suppress(OSError):
            # (Who listens holds a shared lock, and gives that up to ask for it alone.)
            if self._file is not None and self._in_place() is not None and lock_alone(self._file):
                os.unlink(self._path)
        self._part()

    def _look(self) -> None:
        """Hear what was told since the last time."""
        with suppress(OSError):
            size = self._in_place()
            if size is None or size > self._at:
                self._read()
            if size is None:  # another one was begun, or somebody has removed it
                self._part()
                self._join()
                self._read()
        if self._held and not self._alone:
            self.tell(self._held)
        self._held = []
        self._look_again()

    def _look_again(self) -> None:
        if self._heard is not None:  # (what was heard may have ended it)
            self._next = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _read(self) -> None:
        if self._file is None or self._heard is None:
            return
        found = os.read(self._file, 2 * MOST)
        self._at += len(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        if lines:
            self._alone = False
            self._heard([line.decode() for line in lines if line])

    def _join(self) -> int:
        """Open the file, made if need be, and be known as one who listens."""
        self._file = file = self._open(os.O_RDONLY | os.O_CREAT)
        self._identity, self._alone = os.fstat(file), lock_alone(file)
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_SH)  # (another one holds it alone only as long as these two lines)
        if not self._alone:
            self.tell([""])
        return file

    def _open(self, flags: int) -> int:
        file = os.open(self._path, flags, 0o600)
        with suppress(OSError):
            if (mode := stat.S_IMODE(os.stat(self._database).st_mode)) != stat.S_IMODE(os.fstat(file).st_mode):
                os.chmod(self._path, mode)  # whoever may use the database may hear of it
        return file

    def _part(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._identity, self._at, self._rest = None, None, 0, b""

    def _in_place(self) -> int | None:
        """Return the size of the file that is open; None where others write to another one."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return None
        return there.st_size if self._identity is not None and os.path.samestat(there, self._identity) else None
