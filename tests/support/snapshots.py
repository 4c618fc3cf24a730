"""Snapshots of a conversation, for rules that are tried without a store."""

from __future__ import annotations

from typing import Any

from chatkeep.conversation.record import Record
from chatkeep.conversation.snapshots import Snapshot
from chatkeep.drivers.base import Key, Row
from chatkeep.model import Message

ADA = Key("", "ada")
AT = 1000.0


def message(number: int, role: Any = "user", content: Any = "hello", **members: Any) -> Message:
    """An entry of the log with the id m1, m2 and so on, a second after the one before."""
    members = {"id": f"m{number}", "created_at": AT - 100 + number} | members
    return Message(number=number, role=role, content=content, **members)


def note(number: int, kind: str, /, *, about: int = 0, content: str = "", id: str = "", **metadata: Any) -> Message:
    """A note of chatkeep's own, about one message."""
    return message(
        number,
        "system",
        content,
        id=id or f"m{number}",
        reply_to=about or None,
        reply_from=about or None,
        metadata={"kind": kind} | metadata,
    )


def snapshot(*messages: Message, row: dict[str, Any] | None = None, **record: Any) -> Snapshot:
    """A conversation with these entries, and a record with these members."""
    head = messages[-1].number if messages else 0
    members = {"key": ADA, "revision": "r", "incarnation": "i", "head": head, "updated_at": AT - 100 + head}
    return Snapshot(Row(**members | (row or {})), Record(**record), messages)
