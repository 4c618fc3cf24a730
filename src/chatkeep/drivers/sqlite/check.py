"""What can be said of a SQLite file and of the SQLite that opens it: for `open`, which refuses, and for `examine`, which tells a person."""

from __future__ import annotations

import contextlib
import os
import time

import apsw

from ...errors import ChatkeepError
from ..base import Finding
from ..statements import newest
from .file import BUSY_MS
from .opening import schema_of

SPACE_LEAST = 100_000_000
SPACE_NONE = 1_000_000
"""With less free a store is refused, or full after some messages."""

# Before it, several connections on one WAL file can corrupt it (sqlite.org/wal.html, WAL-reset bug).
OLDEST = (3, 51, 3)


def fit() -> bool:
    """Tell whether this SQLite may share a file in WAL mode."""
    return tuple(map(int, apsw.sqlite_lib_version().split("."))) >= OLDEST


def examined(path: str) -> list[Finding]:
    """Return everything that can be found out without changing anything."""
    folder = os.path.dirname(path)
    if not os.access(folder, os.W_OK):
        return [Finding("fail", "permissions", f"the folder {folder} is not there, or may not be written")]
    import shutil  # takes milliseconds, which an opening need not wait for

    free = shutil.disk_usage(folder).free
    findings = [
        Finding("ok" if fit() else "fail", "version", f"SQLite {apsw.sqlite_lib_version()} through apsw"),
        Finding(
            "ok" if free > SPACE_LEAST else "warn" if free > SPACE_NONE else "fail",
            "space",
            f"{free // 1_000_000:,} MB are free in {folder}",
        ),
    ]
    if not os.path.exists(path):
        return [*findings, Finding("ok", "file", f"{path} will be made when it is first opened")]
    if not os.path.isfile(path):
        return [*findings, Finding("fail", "file", f"{path} is no ordinary file")]
    if not os.access(path, os.W_OK):
        return [*findings, Finding("fail", "permissions", f"{path} may not be written")]
    try:
        with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as db:
            db.set_busy_timeout(BUSY_MS)
            schema, mode = schema_of(db, path), db.pragma("journal_mode")
            began = time.perf_counter()
            for _ in range(20):
                db.execute("select count(*) from sqlite_schema").get  # noqa: B018
            took = (time.perf_counter() - began) / 20
            sound = db.execute("pragma quick_check(1)").get
            epoch = db.execute("select value from meta where name = 'epoch'").get if schema else None
    except (apsw.Error, ChatkeepError) as fault:
        return [*findings, Finding("fail", "file", f"{path} cannot be used: {fault}")]
    if epoch is not None:
        findings.append(Finding("ok", "epoch", epoch))
    return [
        *findings,
        Finding("ok" if mode == "wal" else "warn", "durability", f"journal_mode {mode}, synchronous full when open"),
        Finding("ok", "schema", f"{schema} of {newest('sqlite')}, upgraded when it is opened"),
        Finding("ok" if sound == "ok" else "fail", "integrity", f"quick_check says {sound}"),
        Finding("ok", "round trip", f"{took * 1000:.3f} ms for a small read"),
    ]
