"""What an SQLite store's files need besides SQLite: that nothing in this process takes the locks away, that what
happens to them from outside is noticed, and one writer at a time.

SQLite locks with POSIX locks, and these belong to the process: when anything in it closes the file, whichever library
opened it, all of them are gone, and the next client from outside takes itself for the only one and removes the `-wal`.
So such opens are refused (an audit hook); where one gets past that, locks of our own still stand, which on Linux belong
to the open file (F_OFD_SETLK); and the three files are compared with those that were opened, after each commit and
before anybody hears of it, unless nothing has changed in their folder since they were.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock
from typing import Any, Literal

import apsw

from ...errors import Misconfigured, Unavailable, UsageError

log = logging.getLogger("chatkeep")

Identity = tuple[int, int]  # device, inode
Look = tuple[int, int, int]  # device, inode, and when it was last changed
Kind = Literal["read", "write", "free"]

SUFFIXES = ("", "-wal", "-shm")
ASIDE = ("-wal", "-journal", "-shm")  # SQLite makes them beside a database, and applies them to whatever stands there
BUSY_MS = 10_000
SETTLED_NS = 3_000_000_000  # file systems tell times apart that are so far from each other, the coarsest by two seconds
SETTLED_FINE_NS = 100_000_000  # and those that write parts of a millisecond, by a tick of the clock: 10 ms at most
LOOK_AGAIN_NS = 100_000_000  # a folder in which something has just happened is no help for so long, whatever its time
# Where SQLite locks (sqlite.org/fileformat2.html, "lock-byte page", and wal.c). WRITER is a byte beside it, of our own.
SHARED, SHARED_BYTES, WRITER = 0x40000002, 510, 0x40000200
IN_USE = 128  # of the -shm, while it is mapped
FLOCK = "hhqqi4x"
NONE = -1  # no descriptor: whatever is asked of it is refused


class OpenRefused(UsageError, PermissionError):
    """A file of an open store was about to be opened beside it. Programs that copy whole folders expect an `OSError`."""


class FilesMoved(Exception):
    """The `-wal` or `-shm` at the path is not the one that is open. *written*: a commit went there."""

    def __init__(self, *, written: bool) -> None:
        super().__init__("its -wal or -shm was removed or replaced while it was open")
        self.written = written


class Slot:
    """One connection and who may use it: whoever holds the lock. *broken_off*: why whoever reads at length is to stop."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.db: apsw.Connection | None = None
        self.broken_off = ""

    def close(self, *, tidies: bool) -> None:
        """Close the connection, if there is one. *tidies*: as the last one it may end the `-wal` and remove it."""
        if self.db is not None:
            if not tidies:
                self.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self.db.close(force=True)
            self.db = None


class WriteLock:
    """Lets one process of chatkeep write at a time, whatever has become of SQLite's own locks. (A class: a generator for each
    commit costs more than the lock.)"""

    def __init__(self, path: str, database: int) -> None:
        self._path = path
        self.database = database
        self._here = Lock()

    def __enter__(self) -> None:
        if not self._here.acquire(blocking=False) and not self._here.acquire(timeout=BUSY_MS / 1000):
            raise self._busy()
        try:
            if not _lock(self.database, "write", WRITER):
                self._wait()
        except BaseException:
            self._here.release()
            raise

    def __exit__(self, *raised: object) -> None:
        try:
            _lock(self.database, "free", WRITER)
        finally:
            self._here.release()

    def _wait(self) -> None:
        """Wait until no other process has it."""
        deadline, pause = time.monotonic() + BUSY_MS / 1000, 0.0002
        while not _lock(self.database, "write", WRITER):
            if time.monotonic() > deadline:
                raise self._busy()
            time.sleep(pause)
            pause = min(pause * 2, 0.005)

    def _busy(self) -> Unavailable:
        return Unavailable(
            f"sqlite:///{self._path}: others have been writing for {BUSY_MS / 1000:g} s; nothing was written. Try again, and look "
            "for a process that was stopped."
        )


class Folder:
    """The folder of an open file. Its own time changes with each name in it that comes, goes or is given to another file: while it is
    what it was at an earlier look, all files are where they were then, and one look at it does in the place of one at each."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._first = self.look()
        self.settled: tuple[object, Look] | None = None
        """Which files were found in place, and at which look."""
        self.look_from = 0
        """When a look at it may be worth something again, by the clock that files have their times of."""

    def look(self) -> Look | None:
        """Return which folder is at the path, and when names in it changed; None where the system does not say so."""
        if sys.platform == "win32":  # (there it is the time at which it was made)
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def settle(self, files: object, look: Look, began: int) -> None:
        """Note that *files* were found in place after *look*, by who *began* with that look."""
        # What changes in the moment of the change before may leave the same time. And a time that was never seen to change, as the files
        # were made, perhaps never does.
        changed = look[2]
        apart = SETTLED_FINE_NS if changed % 1_000_000 else SETTLED_NS
        if look != self._first and began - changed > apart:
            self.settled, self.look_from = (files, look), 0
        else:
            self.settled, self.look_from = None, began + LOOK_AGAIN_NS


class OpenFile:
    """One database file that this process has open, shared by all stores on it: `hold` gives it, `leave` takes it back."""

    def __init__(self, path: str) -> None:
        self.path = path
        # All connections are opened by this one path: by another name, a link or after a chdir, SQLite would make another -wal.
        self.real = os.path.realpath(path)
        self._paths = tuple(self.real + suffix for suffix in SUFFIXES)
        self._folder = Folder(os.path.dirname(self.real))
        self.users = 0
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(self.real).st_mode):
                raise Misconfigured(f"{path} is no ordinary file: nothing can be kept there. Name another file.")
        # Closing a descriptor takes SQLite's locks away, so these stay open while a connection is.
        self._database = os.open(self.real, os.O_RDWR | os.O_CREAT, 0o600)
        self._shm: int | None = None
        self._done_with: list[int] = []
        self.held: tuple[Identity | None, ...] = (_identity(os.fstat(self._database)), None, None)
        self.secured = False
        self.made_way = False
        self._slots: list[Slot] = []
        self.writer = WriteLock(path, self._database)
        self._first = Lock()
        self._renewing = Lock()

    def add(self, slot: Slot) -> Slot:
        """Take in a place for one more connection."""
        with self._renewing:
            self._slots.append(slot)
        return slot

    def drop(self, slot: Slot) -> None:
        """Close the slot's connection, and take the slot away."""
        with slot.lock:
            slot.close(tidies=not self.moved())
        with self._renewing:
            self._slots.remove(slot)

    @contextmanager
    def joining(self) -> Iterator[bool]:
        """Keep other processes of chatkeep from removing or making the files while a connection is opened; tell whether it is the
        first, after which `secure` is called."""
        with self._first:
            if not self.secured:
                with self.writer:
                    yield True
                return
        yield False

    def secure(self) -> None:
        """Note which files the first connection has, and take the locks that nothing in this process can take away."""
        with _registry:
            self.held = (self.held[0], *[_found(path) for path in self._paths[1:]])
            try:
                shm = os.open(self._paths[2], os.O_RDWR)
            except OSError as fault:
                raise Unavailable(f"sqlite:///{self.path}-shm: {fault}; nothing was done. Try again.") from fault
            if not (_lock(self._database, "read", SHARED, SHARED_BYTES) and _lock(shm, "read", IN_USE)):
                self._done_with.append(shm)
                raise Unavailable(f"sqlite:///{self.path} is locked by another program; nothing was done. Try again.")
            self._shm, self.secured = shm, True
            _guard()

    def holds(self, path: str) -> bool:
        """Tell whether *path* is one of the files that are open."""
        found = _found(path)
        return found is not None and found in self.held

    def replaced(self) -> bool:
        """Tell whether the database at the path is not the one that is open."""
        return _found(self.real) != self.held[0]

    def moved(self) -> bool:
        """Tell whether any of the three files at the path is not the one that is open."""
        held, folder, began = self.held, self._folder, time.time_ns()
        # The folder first: what changes from here on is seen the next time.
        look = folder.look() if began >= folder.look_from else None
        if look is not None and folder.settled == (held, look):
            return False
        database, wal, shm = self._paths
        if (_found(database), _found(wal), _found(shm)) != held:
            return True
        if look is not None:
            folder.settle(held, look, began)
        return False

    def renew(self) -> None:
        """Close all connections of this process together, so that they are opened anew on the files that are there.

        What is in a `-wal` that somebody removed is brought into the database first: it is nowhere else. Where others have
        gone on with a new `-wal`, they have done so. Where another database stands at the path, nothing is opened anew.
        """
        if not self.moved():
            return
        with self._renewing:
            for slot in self._slots:
                slot.broken_off = "its files are opened anew"
            for slot in self._slots:
                slot.lock.acquire()
            try:
                if self.moved():
                    with self.writer:
                        self._make_way() if self.replaced() else self._renew()
            finally:
                for slot in self._slots:
                    slot.lock.release()

    def _renew(self) -> None:
        connections = [slot.db for slot in self._slots if slot.db is not None]
        # Whoever opens the file joins the -shm that is there, or makes one: while it is ours, or nothing was written to the
        # new -wal, nobody has gone on.
        _, wal, shm = self._paths
        ours = _found(shm) in (None, self.held[2])
        saves = bool(connections) and (ours or _is_empty(wal))
        if saves:
            self._save(connections[0])
        if ours:
            self._remove(lambda found, held: True)
        for slot in self._slots:
            slot.close(tidies=False)
        self._unlock()
        self._close_descriptors()
        log.error(
            "sqlite:///%s: its -wal or -shm was removed or replaced while it was open. %s; the files were opened anew. Find out what "
            "does that; `chatkeep backup` and keep.backup() make copies, and nothing has to be tidied up.",
            self.path,
            "What was in it is in the database" if saves else "Another process had gone on with new ones",
        )

    def _make_way(self) -> None:
        """Put what is ours where it belongs, and away from the path: SQLite would apply it to the database that stands there."""
        if self.made_way:
            return
        self.made_way = True
        for db in [slot.db for slot in self._slots if slot.db is not None][:1]:
            self._save(db)
            self._remove(lambda found, held: found == held)

    def _save(self, db: apsw.Connection) -> None:
        busy, frames, copied = db.execute("pragma wal_checkpoint(full)").get
        if busy or frames != copied:
            raise Unavailable(f"sqlite:///{self.path}: what is in its -wal is not saved yet. Try again.")

    def part(self) -> None:
        """Give our locks back before the connections of the last store on the file are closed, so that SQLite tidies up."""
        with _registry:
            if self.users > 1 or not self.secured:
                return
        self.renew()
        with _registry:
            if self._shm is not None:
                # Should SQLite's own have been taken away, they are back before ours go.
                _lock(self._database, "read", SHARED, SHARED_BYTES, of="process")
                _lock(self._shm, "read", IN_USE, of="process")
            self._unlock()

    def leave(self) -> None:
        """Give the file back; no connection is left."""
        with _registry:
            self.users -= 1
            if self.users or self not in _files:
                return
            self._unlock()
            self._close_descriptors()
            os.close(self._database)
            _files.remove(self)

    def forget(self) -> None:
        """Let go of the file in a forked child: its locks stay the parent's, and end with it."""
        for descriptor in (self._database, self._shm, *self._done_with):
            if descriptor is not None:
                os.close(descriptor)
        # Their numbers will be other files of the child.
        self._database, self._shm, self._done_with, self.secured = NONE, None, [], False
        self.writer.database = NONE
        self.held = (None, None, None)

    def refuse_mixture(self) -> None:
        """Raise `Unavailable` when others have a `-wal` open that is not the one at the path: to join them would mix two."""
        for _ in range(100):
            if self._whole():
                return
            time.sleep(0.01)  # somebody may be opening or closing it right now
        raise Unavailable(
            f"sqlite:///{self.path} was not opened: another process has it open, and its -wal, or the database itself, was removed "
            "or replaced. That process sees to it within a second, if it is chatkeep; try again, or end it first."
        )

    def _whole(self) -> bool:
        in_use = _locked(self._database, SHARED, SHARED_BYTES)
        try:
            shm = os.open(self._paths[2], os.O_RDWR)
        except OSError:
            return not in_use
        try:
            mapped = _locked(shm, IN_USE)
        finally:
            os.close(shm)  # no connection of this process is open yet
        return _found(self._paths[1]) is not None if in_use else not mapped

    def _remove(self, which: Callable[[Identity, Identity | None], bool]) -> None:
        for path, held in zip(self._paths[1:], self.held[1:], strict=True):
            found = _found(path)
            if found is not None and which(found, held):
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def _unlock(self) -> None:
        if self._shm is not None:
            _lock(self._database, "free", SHARED, SHARED_BYTES)
            _lock(self._shm, "free", IN_USE)
            self._done_with.append(self._shm)
        self._shm, self.secured = None, False
        _guard()

    def _close_descriptors(self) -> None:
        while self._done_with:
            os.close(self._done_with.pop())


_registry = Lock()
_files: list[OpenFile] = []
_guarded: dict[Identity | None, OpenFile] = {}
_hooked = False


def hold(path: str) -> OpenFile:
    """Return the file at *path*, made if there is none, for one more store of this process."""
    path = os.path.abspath(path)
    with _registry:
        there = _found(path)
        file = next((file for file in _files if file.held[0] == there), None) if there else None
        if file is None:
            file = OpenFile(path)
            _files.append(file)
        file.users += 1
        if file.users > 1:
            return file
    try:
        file.refuse_mixture()
    except BaseException:
        file.leave()
        raise
    return file


def beside(path: str) -> list[str]:
    """Return what SQLite would take for parts of a database at *path*."""
    return [path + suffix for suffix in ASIDE if os.path.lexists(path + suffix)]


@contextmanager
def replacing(path: str) -> Iterator[None]:
    """Leave nothing that belonged to the database at *path* while another one is put in its place. Raises `UsageError` when
    anybody has it open."""
    opened: list[int] = []
    in_use = f"{path} is open, here or in another process; nothing was written. Close it first, or name another file."
    try:
        for name, start, length in ((path, SHARED, SHARED_BYTES), (f"{path}-shm", IN_USE, 1)):
            if _found(name) in _guarded:
                raise UsageError(in_use)
            with suppress(FileNotFoundError):
                opened.append(os.open(name, os.O_RDWR))
                if not _lock(opened[-1], "write", start, length):
                    raise UsageError(in_use)
        if left := beside(path):
            # The database goes first: without its -wal or -journal it may be half of two states, while what stands beside no
            # database, or an empty one, SQLite throws away. A crash in between leaves no database at the path, never a mixture.
            for name in (path, *left):
                with suppress(FileNotFoundError):
                    os.unlink(name)
                sync_folder(path)
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)


def sync_folder(path: str) -> None:
    """Have the names in the folder of *path* last."""
    if hasattr(os, "O_DIRECTORY"):
        found = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(found)
        finally:
            os.close(found)


def _guard() -> None:
    """Refuse, in this process and from now on, what would close one of the open files behind SQLite's back."""
    global _guarded, _hooked
    _guarded = {found: file for file in _files if file.secured for found in file.held if found}
    if not _hooked:
        _hooked = True
        sys.addaudithook(_refuse)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_forget)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    # Python calls this for every event of the process: the others are to cost next to nothing.
    if (event != "open" and event != "sqlite3.connect") or not _guarded:
        return
    file = _guarded.get(_target(args[0]))
    if file is not None:
        raise OpenRefused(
            errno.EACCES,
            f"{os.fsdecode(args[0])} belongs to sqlite:///{file.path}, which is open in this process. To open and close it here would "
            "take SQLite's locks away, and with them what is acknowledged next; it was not opened. For a copy use `await "
            "keep.backup(path)`, to read with SQL `await keep.query(sql)`; other processes may open it with any SQLite.",
        )


def _target(path: Any) -> Identity | None:
    """Return which file an open would open; None where there is none."""
    if isinstance(path, int):
        return None
    try:
        if (found := _found(path)) is not None:
            return found
        name = os.fsdecode(path)
        if not name.startswith("file:"):
            return None
        name = name[5:].partition("#")[0].partition("?")[0]
        if name.startswith("//"):
            name = "/" + name[2:].partition("/")[2]
        from urllib.parse import unquote  # imports ipaddress; hardly anybody names a file like this

        return _found(unquote(name))
    except (TypeError, ValueError):
        return None


def _forget() -> None:
    global _registry, _guarded
    for file in _files:
        file.forget()
    _files.clear()
    _registry, _guarded = Lock(), {}


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def _is_empty(path: str) -> bool:
    try:
        return os.stat(path).st_size == 0
    except FileNotFoundError:
        return True


def _found(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


if sys.platform == "linux":
    import fcntl

    _KINDS: dict[Kind, int] = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "free": fcntl.F_UNLCK}

    @cache
    def _flock(kind: Kind, start: int, length: int) -> bytes:
        """Return the struct flock that says so; there are a handful of them."""
        return struct.pack(FLOCK, _KINDS[kind], os.SEEK_SET, start, length, 0)

    def _lock(fd: int, kind: Kind, start: int, length: int = 1, *, of: Literal["file", "process"] = "file") -> bool:
        """Take a lock, or give it back, that belongs to the open file or, as SQLite's do, to the process; whether it was
        granted. A file system that knows no such locks grants them."""
        command = fcntl.F_OFD_SETLK if of == "file" else fcntl.F_SETLK
        try:
            fcntl.fcntl(fd, command, _flock(kind, start, length))
        except OSError as fault:
            return fault.errno not in (errno.EAGAIN, errno.EACCES)
        return True

    def _locked(fd: int, start: int, length: int = 1) -> bool:
        """Tell whether anybody has it locked."""
        try:
            found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock("write", start, length))
        except OSError:
            return False
        return bool(struct.unpack(FLOCK, found)[0] != fcntl.F_UNLCK)

else:  # locks of an open file are Linux's

    def _lock(fd: int, kind: Kind, start: int, length: int = 1, *, of: Literal["file", "process"] = "file") -> bool:
        """Grant everything."""
        return True

    def _locked(fd: int, start: int, length: int = 1) -> bool:
        """Know of nothing."""
        return False
