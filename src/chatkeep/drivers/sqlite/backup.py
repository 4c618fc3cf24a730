"""A copy of the whole file, of one instant, that is complete or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

import apsw

from ...errors import ChatkeepError, Unavailable, UsageError, is_transient
from ..whole_files import COPIED, COPY, make_part, put
from .file import ASIDE, OpenFile, Slot, beside, replacing, sync_folder
from .seam import Transport

PAGES = 1000  # of a backup, until it notices that it is to stop
THERE = "is there already; nothing was written. Name another file, or have this one replaced (replace=True, --replace)."


def back_up(connections: Transport, slot: Slot, path: str, replace: bool) -> None:
    """Copy the store to *path*, unless *slot* is broken off."""
    file = connections.file
    path = _target(file, path, replace)
    made, part = "", -1
    try:
        with connections.looking(slot) as db:
            # Nobody may read in the copy what they may not read in the store.
            mode = os.stat(file.real).st_mode & 0o666
            made, part = make_part(path, mode)
            os.close(os.open(made + COPY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            with contextlib.closing(apsw.Connection(made + COPY)) as copy:
                db.execute("begin; select count(*) from sqlite_schema").get  # noqa: B018  all its pages are of this instant
                with copy.backup("main", db, "main") as backup:
                    while not backup.done and not slot.broken_off:
                        backup.step(PAGES)
                if slot.broken_off:
                    raise apsw.InterruptError("interrupted")
                copy.pragma("journal_mode", "delete")  # one file, whole as it is
        with replacing(path) if replace else contextlib.nullcontext():
            put(made + COPY, path, replace=replace)
        sync_folder(path)
    except ChatkeepError:
        raise
    except FileExistsError:
        raise UsageError(f"{path} {THERE}") from None
    except (OSError, apsw.Error) as fault:
        said = fault.strerror if isinstance(fault, OSError) else fault
        if isinstance(fault, apsw.FullError):
            said = os.strerror(errno.ENOSPC)  # SQLite says "not an error" of a copy that has no room
        refusal = UsageError if isinstance(fault, OSError) and not is_transient(fault) else Unavailable
        raise refusal(
            f"sqlite:///{file.path} was not copied to {path}: {said}. Nothing is there; try again when that is mended."
        ) from fault
    finally:
        if made:
            for end in COPIED:  # SQLite leaves a journal where there was no room for the copy
                with contextlib.suppress(OSError):
                    os.unlink(made + end)
            os.close(part)  # (On Windows nothing that is open can be removed.)
            with contextlib.suppress(OSError):
                os.unlink(made)


def _target(file: OpenFile, path: str, replace: bool) -> str:
    """Return the absolute path of a backup. Raises `UsageError` when no copy can be put there."""
    try:
        path = os.path.abspath(os.fsdecode(path))
        path.encode()  # in which SQLite names files
        there = os.lstat(path)
    except FileNotFoundError:
        there = None
    except (OSError, TypeError, ValueError) as fault:
        said = fault.strerror if isinstance(fault, OSError) else fault
        raise UsageError(f"{path!r} can be no backup: {said}; nothing was written. Name another file.") from fault
    folder = os.path.dirname(path)
    wrong = ""
    if path.lower().endswith(ASIDE):
        wrong = "has a name that SQLite gives to a part of another database"
    elif not os.path.isdir(folder):
        wrong = f"can be no backup: there is no folder {folder}"
    elif there is None and not replace and (left := beside(path)):
        wrong = f"is not there, but {', '.join(left)} of an earlier database is, and would be applied to the copy"
    elif there is not None and file.holds(path):
        wrong = "belongs to the store itself"
    elif there is not None and not replace:
        raise UsageError(f"{path} {THERE}")
    elif there is not None and not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
        wrong = "is no ordinary file"
    if wrong:
        raise UsageError(f"{path} {wrong}; nothing was written. Name another file.")
    return path
