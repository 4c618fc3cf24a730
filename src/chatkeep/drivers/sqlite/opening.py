"""Opening a connection on the file that `file` guards: with the schema of this version, and anew when that file was moved away."""

from __future__ import annotations

import contextlib
import os
import time

import apsw

from ...errors import ChatkeepError, Corrupt, Misconfigured, Replaced, Unavailable, is_transient
from ..statements import newest, numbered
from .file import BUSY_MS, FilesMoved, OpenFile, Slot, hold

APPLICATION_ID = 0x63686B70  # "chkp": says whose file this is
PAGE_BYTES = 2048  # a turn touches four pages and fills none of them: half the size, half the bytes to sync


class Opener:
    """Opens the connections of one store to its file."""

    def __init__(self, path: str, file: OpenFile) -> None:
        self.path = path
        self.file = file
        self._was_open = False

    def open_connection(self) -> apsw.Connection:
        """Return a new connection, beside those that the process has on the file."""
        file = self.file
        with file.joining() as first:
            if not first:
                self.refuse_moved()
            db = self._connect()
            try:
                file.secure() if first else self.refuse_moved()
            except BaseException:
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                db.close(force=True)
                raise
        self._was_open = True
        return db

    def _connect(self) -> apsw.Connection:
        # Once it was open, what goes wrong is the machine's doing and may pass.
        refusal: type[Misconfigured | Unavailable] = Unavailable if self._was_open else Misconfigured
        db: apsw.Connection | None = None
        try:
            db = apsw.Connection(self.file.real)
            db.set_busy_timeout(BUSY_MS)
            migrate(db, self.file.path)
            _use_wal(db)
            db.execute("pragma synchronous = full; pragma cache_size = -16000; pragma journal_size_limit = 67108864")
            db.create_scalar_function("closed_to_versions_before_0_2", lambda *_: None, 0, deterministic=True)
            db.execute("pragma secure_delete = on")  # what was erased, cut or written over stays on no page of the file
        except BaseException as fault:
            cause = _cause_of(db)
            if db is not None:
                db.close(force=True)
            if isinstance(fault, ChatkeepError):
                raise
            if isinstance(fault, apsw.CantOpenError) and cause is not None and is_transient(cause):
                raise _not_now(self.path, cause) from fault
            if isinstance(fault, apsw.CantOpenError | apsw.NotADBError | apsw.ReadOnlyError):
                advice = "Name a file that chatkeep may write, in a folder that it may write"
                if isinstance(fault, apsw.NotADBError):
                    advice = "Nothing in it was touched. Name another file, or put a backup of the store in its place"
                raise refusal(f"sqlite:///{self.path} was not opened: {fault}. {advice}.") from fault
            raise translated(fault, f"sqlite:///{self.path} was not opened") from fault
        return db

    def refuse_moved(self) -> None:
        """Raise `FilesMoved` when the files that are open are not those in place, `Replaced` when others have come there."""
        if self.file.moved():
            if self.file.made_way and self.file.replaced():
                raise replaced(self.path, "was removed, or is another file")
            raise FilesMoved(written=False)


def _not_now(path: str, cause: OSError) -> Unavailable:
    return Unavailable(
        f"sqlite:///{path} was not opened: {cause.strerror}. Nothing was done; try again when that is mended."
    )


def _cause_of(db: apsw.Connection | None) -> OSError | None:
    """Return what the system has said, of which SQLite tells only that a file cannot be opened; None where it cannot be known."""
    if db is not None:
        return OSError(db.system_errno, os.strerror(db.system_errno)) if db.system_errno else None
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as fault:
        return fault
    return None


def take(path: str, absolute: str) -> OpenFile:
    """Return the file at *absolute*, which is called *path*, for one more store of this process."""
    folder = os.path.dirname(absolute)
    if not os.path.isdir(folder):
        # A typing error, or a disk that is not mounted yet.
        raise Unavailable(f"sqlite:///{path} was not opened: there is no folder {folder}. Make or mount it.")
    try:
        return hold(absolute)
    except OSError as fault:
        if is_transient(fault):
            raise _not_now(path, fault) from fault
        raise Misconfigured(
            f"sqlite:///{path} was not opened: {fault}. Name a file that chatkeep may write."
        ) from fault
    except ValueError as fault:
        raise Misconfigured(
            f"sqlite:///{path} was not opened: {fault}. Name a file that chatkeep may write."
        ) from fault


def give_back(file: OpenFile, slots: list[Slot]) -> None:
    """Close the connections of one store, and give its file back."""
    try:
        file.part()
    finally:
        for slot in slots:
            file.drop(slot)
        file.leave()


def rollback(db: apsw.Connection) -> None:
    """Leave the transaction, if there is one."""
    if db.in_transaction:
        with contextlib.suppress(apsw.Error):
            db.execute("rollback")


def replaced(path: str, what: str) -> Replaced:
    """Return what is the matter when the file does not hold what it held when it was opened."""
    return Replaced(
        f"sqlite:///{path} {what} since it was opened; nothing was done. Put the right file there if it is not, "
        "and open it anew: that begins with what is there."
    )


def translated(fault: BaseException, now: str) -> BaseException:
    """Return what *fault* of SQLite is to chatkeep; *now* says what is true."""
    if isinstance(fault, apsw.CorruptError | apsw.NotADBError):
        return Corrupt(f"{now}: the SQLite file is damaged ({fault}). Restore it from a backup.")
    if isinstance(fault, apsw.Error):
        return Unavailable(f"{now}: SQLite says {fault}. Try again when that is mended.")
    return fault


def migrate(db: apsw.Connection, path: str) -> None:
    """Bring the file to this version's schema, each step in a transaction of its own."""
    while (done := schema_of(db, path)) < newest("sqlite"):
        if done == 0:
            db.pragma("page_size", PAGE_BYTES)  # only a file that is still empty takes it
        _use_wal(db)
        db.execute("begin immediate")
        try:
            if schema_of(db, path) == done:
                db.execute(numbered("sqlite")[done])
                db.execute(f"pragma user_version = {done + 1}; pragma application_id = {APPLICATION_ID}")
            db.execute("commit")
        except BaseException:
            rollback(db)
            raise


def schema_of(db: apsw.Connection, path: str) -> int:
    """Return the number of the file's schema, 0 when it is empty. Raises `Misconfigured` when it is not ours, or newer."""
    # One statement, one instant: another process may be making the schema right now.
    owner, done, tables = db.execute(
        "select (select application_id from pragma_application_id), (select user_version from pragma_user_version),"
        " (select count(*) from sqlite_schema)"
    ).get
    if owner != APPLICATION_ID and (owner or done or tables):
        raise Misconfigured(f"{path} is a database of something else; nothing was changed. Name another file.")
    if done > newest("sqlite"):
        raise Misconfigured(
            f"{path} was upgraded by a newer chatkeep (schema {done}, this code knows {newest('sqlite')}); nothing was "
            "changed. Deploy the newer version."
        )
    return int(done)


def _use_wal(db: apsw.Connection) -> None:
    deadline = time.monotonic() + BUSY_MS / 1000
    while db.pragma("journal_mode") != "wal":
        try:
            db.pragma("journal_mode", "wal")
        except apsw.BusyError:  # the busy timeout does not cover this change
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    db.execute("select count(*) from sqlite_schema").get  # noqa: B018  the first read makes -wal and -shm
