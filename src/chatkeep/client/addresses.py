"""Where on a server something is, and what of a request is said at all."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode


def conversation_at(id: str) -> str:
    """Return the address of a conversation."""
    return f"/v1/conversations/{quote(id, safe='')}"


def given(**asked: Any) -> dict[str, Any]:
    """Return what was given of arguments whose default is None."""
    return {name: value for name, value in asked.items() if value is not None}


def with_query(path: str, **asked: Any) -> str:
    """Return *path* with what was given of a query."""
    return f"{path}?{urlencode(found)}" if (found := given(**asked)) else path
