"""Marks: words of the full-text index that nobody can say or search for, by which a filter finds the few conversations among many.

A mark says that a conversation may be what is looked for; whoever finds it looks at the conversation.
"""

from __future__ import annotations

from ..model import Message
from .keys import SAVED
from .record import Record

FAILING = ":failing"
"""Something was set aside, or the record cannot be read."""

OFF = ":off"
"""The bot is off in this conversation."""

UNDELIVERED = ":undelivered"
"""A reply was refused, or nobody knows of it, or it is tried again."""


def channel_mark(channel: str) -> str:
    """Return the mark of what was said through *channel*."""
    return f":channel {channel}"


def assignee_mark(account: str) -> str:
    """Return the mark of what is assigned to *account*."""
    return f":assignee {account}"


def is_of_row(mark: str) -> bool:
    """Tell whether the record alone has *mark*, and no entry of the log."""
    return mark != UNDELIVERED and not mark.startswith(channel_mark(""))


def marks_of_record(record: Record) -> list[str]:
    """Return the marks of a conversation, as far as its record has them."""
    marks = {
        FAILING: bool(record.dead),
        OFF: record.paused,
        UNDELIVERED: record.delivery is not None and record.delivery.tries > 0,
        assignee_mark(record.assignee): bool(record.assignee),
    }
    return [mark for mark, has in marks.items() if has]


def marks_of_message(message: Message) -> list[str]:
    """Return the marks of an entry: through which channel it came, or that a delivery has failed."""
    if message.role == "system":
        failed = message.metadata.get("status") in ("failed", "uncertain")
        return [UNDELIVERED] if failed and message.metadata.get("kind") in ("delivery", "status") else []
    return [channel_mark(message.channel)] if message.channel not in ("", SAVED) else []
