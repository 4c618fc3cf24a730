"""The SQL files of a driver: numbered ones make and upgrade its schema, queries.sql holds its named statements."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files


@cache
def numbered(engine: str) -> list[str]:
    """Return the steps from an empty database to this version's schema, in order."""
    folder = files(__package__) / engine / "sql"
    return [file.read_text() for file in sorted(folder.iterdir(), key=lambda file: file.name) if file.name[0].isdigit()]


@cache
def named(engine: str) -> dict[str, str]:
    """Every statement of queries.sql by its name, without comments."""
    text = (files(__package__) / engine / "sql" / "queries.sql").read_text()
    _, *parts = re.split(r"^-- name: (\w+)\n", text, flags=re.M)
    return {
        name: re.sub(r"^--.*\n", "", body, flags=re.M).strip().rstrip(";")
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }
