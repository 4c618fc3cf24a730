"""One SQL statement of a person, that can only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw

from ...errors import UsageError
from ..packing import unpack
from .file import Slot
from .opening import translated
from .seam import Transport

READING = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE})
# Pragmas that describe the file whatever is given to them, and those that only do so while nothing is.
DESCRIPTIONS = frozenset(
    {
        "integrity_check",
        "quick_check",
        "foreign_key_check",
        "table_info",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "index_xinfo",
        "foreign_key_list",
        "database_list",
        "collation_list",
        "function_list",
        "module_list",
        "pragma_list",
        "compile_options",
    }
)
SETTINGS = frozenset(
    {
        "application_id",
        "user_version",
        "schema_version",
        "data_version",
        "encoding",
        "page_size",
        "page_count",
        "freelist_count",
        "max_page_count",
        "auto_vacuum",
        "journal_mode",
        "synchronous",
        "cache_size",
    }
)
# What is no fault of a statement.
MACHINES = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.NoMemError,
    apsw.FullError,
    apsw.ProtocolError,
)


def run_query(connections: Transport, slot: Slot, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of *sql*, unless *slot* is broken off. Raises `UsageError` when it is not one statement that reads."""
    with connections.looking(slot) as db:
        db.create_scalar_function("chatkeep_json", _json, 1, deterministic=True)
        db.authorizer = _reads
        db.exec_trace = _one_statement()
        try:
            return db.execute(sql, parameters).fetchall()
        except apsw.InterruptError:
            raise
        except MACHINES as fault:
            raise translated(fault, "Nothing was read") from fault
        except (apsw.Error, TypeError, ValueError, OverflowError) as fault:
            raise UsageError(
                f"The statement was refused: {fault}. query() runs one statement that reads; nothing was changed."
            ) from fault


def _reads(action: int, what: str | None, value: str | None, database: str | None, within: str | None) -> int:
    """Tell whether SQLite may do one thing that a statement asks for: to read, and nothing else."""
    if action == apsw.SQLITE_PRAGMA:
        name = (what or "").lower()
        allowed = name in DESCRIPTIONS or (name in SETTINGS and value is None)
    else:
        allowed = action in READING
    return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY


def _one_statement() -> Callable[[apsw.Cursor, str, Any], bool]:
    """Refuse the second statement of a text, before it runs."""
    begun = False

    def begin(cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
        nonlocal begun
        if begun and cursor.has_vdbe:  # a comment has none
            raise ValueError("it is more than one statement")
        begun = True
        return True

    return begin


def _json(*bodies: Any) -> str | None:
    [body] = bodies
    return unpack(body).decode(errors="replace") if isinstance(body, bytes) else None
