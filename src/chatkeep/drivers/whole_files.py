"""Files that are made under another name, and stand under their own when they are complete.

Who makes one holds a lock on it (flock). One that nobody has locked is left over from a process that was killed, and the next that makes
a file of this name takes it away. SQLite, which has locks of its own, makes its file beside the locked one: on a shared folder (NFS, SMB)
the two kinds of locks are one, and it would wait for ours.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from contextlib import suppress

if sys.platform != "win32":
    import fcntl


COPY = "-copy"
"""Ends the name of a database that is made beside the locked file."""

COPIED = (COPY, *(COPY + end for end in ("-journal", "-wal", "-shm")))
"""What SQLite may have left of it."""


def make_part(path: str, mode: int) -> tuple[str, int]:
    """Make a file under a name beside *path* that nobody else uses, and return that name and the file, open and locked. Whoever makes it
    closes it when it has its own name, or is gone."""
    folder, name = os.path.split(path)
    _remove_leftovers(folder, name)
    while True:
        made = os.path.join(folder, f"{name[:32]}.{secrets.token_hex(4)}.part")
        file = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        if sys.platform != "win32":
            with suppress(OSError):  # (Where the file system has no locks, it is made without.)
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(made):
            return made, file
        os.close(file)  # before it was locked, somebody has taken it for a leftover


def _remove_leftovers(folder: str, name: str) -> None:
    """Remove what nobody makes any more. (Where the system has no such locks it stays.)"""
    of_name = re.compile(re.escape(name[:32]) + r"\.[0-9a-f]{8}\.part")
    with suppress(OSError):
        for found in filter(of_name.fullmatch, os.listdir(folder or ".")):
            _remove_leftover(os.path.join(folder, found))


def _remove_leftover(part: str) -> None:
    with suppress(OSError):
        file = os.open(part, os.O_RDWR)
        try:
            if lock_alone(file):
                _remove_all(part)
        finally:
            os.close(file)


def _remove_all(part: str) -> None:
    for end in COPIED:
        with suppress(FileNotFoundError):
            os.unlink(part + end)
    os.unlink(part)


def lock_alone(file: int) -> bool:
    """Lock an open file for its holder alone; False where somebody else has locked it, or the system knows no such locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def put(made: str, path: str, *, replace: bool) -> None:
    """Give a file that is complete its name. Raises `FileExistsError` where there is one by now that it is not to *replace*."""
    if replace:
        os.replace(made, path)
        return
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(made, path)
    else:
        os.unlink(made)
