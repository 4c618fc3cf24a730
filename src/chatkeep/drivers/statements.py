"""The SQL files of a driver: numbered ones make and upgrade its schema, queries.sql and search.sql hold named statements."""

from __future__ import annotations

import re
from functools import cache

from .shipped import list_files, read_file


def newest(engine: str) -> int:
    """Return the number of this version's schema: the steps to it, which need not be read to be counted."""
    return len(_steps(engine))


@cache
def numbered(engine: str) -> list[str]:
    """Return the steps from an empty database to this version's schema, in order."""
    return [read_file(engine, "sql", name).decode() for name in _steps(engine)]


@cache
def _steps(engine: str) -> list[str]:
    return [name for name in list_files(engine, "sql") if name[0].isdigit()]


@cache
def named(engine: str, file: str = "queries.sql") -> dict[str, str]:
    """Return every statement of *file* by its name, without comments."""
    text = read_file(engine, "sql", file).decode()
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.M)
    return {
        name: re.sub(r"^--.*\n", "", body, flags=re.M).strip().rstrip(";")
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
