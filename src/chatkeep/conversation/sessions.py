"""Sessions: when the live one is over, and how the next one opens."""

from __future__ import annotations

from msgspec import Raw, structs

from .record import NONE, Record
from .snapshots import Policy


def is_session_over(record: Record, policy: Policy, at: float, number: int = 0) -> bool:
    """Tell whether message *number*, of time *at*, finds no live session. Judged by its time: a backlog expires nothing."""
    ttl = policy.session_ttl_s
    if record.state == NONE:
        return True
    return ttl is not None and (ttl == 0 or at - record.active_at >= ttl) and record.since != number


def open_session(record: Record, state: Raw, schema: int, *, number: int, at: float) -> Record:
    """Return the record with a new session in it that begins with entry *number*."""
    told = {"state": state, "schema": schema, "since": number, "active_at": at, "version": ""}
    return structs.replace(record, session=record.session + 1, **told)
