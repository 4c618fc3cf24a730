"""A conversation at one revision, what may be written next, and what can be read off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

from msgspec import Struct, structs

from ..drivers.base import Entry, Row
from ..model import ASKING, TALK, Content, Message, Role, Status
from .record import OutboxState, Record

OUTWARD: frozenset[Role] = frozenset({"assistant", "operator"})
"""Roles that a channel sends to the user."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Policy(Struct, frozen=True, kw_only=True):
    """The settings that rules depend on. Durations in seconds."""

    overlap: str = "queue"
    quiet_s: float = 1.5
    max_wait_s: float = 10.0
    session_ttl_s: float | None = None
    retention_s: float | None = None
    history: int = 20
    history_bytes: int | None = None
    max_raised: int = 3
    max_begun: int = 8
    lease_s: float = 35.0


class Snapshot(Struct, frozen=True, gc=False):
    """A conversation at one revision: its row, the record in it, and its last messages, dense up to row.head.

    plain: from this number on all messages are `is_plain`, as far as is known.
    """

    row: Row
    record: Record
    messages: tuple[Message, ...]
    plain: int = 1 << 62


class Draft(Struct, frozen=True, kw_only=True, gc=False):
    """A message without a number; created_at=0: of the act's time. *entry* is its stored form, if that was made
    before."""

    role: Role
    content: Content
    id: str = ""
    reply_to: int = 0
    reply_from: int = 0
    created_at: float = 0.0
    metadata: dict[str, Any] = {}
    entry: Entry | None = None


class Commit(Struct, frozen=True, kw_only=True, gc=False):
    """What to write: the next record, new entries, the lease to hold afterwards, when to look again, how much log to
    drop. *untouched*: nobody did anything, so the time of the last change stays."""

    record: Record
    drafts: tuple[Draft, ...] = ()
    lease: str | None = None
    leased_until: float = 0.0
    due_at: float | None = None
    drop: int = 0
    untouched: bool = False


class Outcome(Struct, frozen=True, gc=False):
    """What became of one message: its status and replies, or the reason why it was set aside."""

    status: Status
    replies: list[Message] = []
    dead: str = ""


def unread_messages(snapshot: Snapshot) -> list[Message]:
    """What waits for an answer, oldest first."""
    cursor = snapshot.record.cursor
    if snapshot.row.head == cursor:
        return []
    return [message for message in snapshot.messages if message.number > cursor and message.role in ASKING]


def is_plain(message: Message) -> bool:
    """Whether a message is text that stands in its place, as nearly all are: a history needs neither sort nor copy it."""
    return (
        type(message.content) is str
        and not message.metadata
        and message.role in TALK
        and (message.reply_to or message.number - 1) == message.number - 1
    )


def copy_messages(messages: Sequence[Message]) -> list[Message]:
    """Copy *messages* for somebody to keep or change: whatever of them could be changed in place is a copy."""
    for message in messages:
        if message.metadata or type(message.content) is not str:
            break
    else:
        return list(messages)
    return [
        message
        if isinstance(message.content, str) and not message.metadata
        else structs.replace(message, content=deepcopy(message.content), metadata=deepcopy(message.metadata))
        for message in messages
    ]


def plain_from(messages: Sequence[Message], otherwise: int) -> int:
    """The number from which on *messages* are plain; *otherwise* if all are."""
    odd = [message.number for message in messages if not is_plain(message)]
    return odd[-1] + 1 if odd else otherwise


def delivery_of(snapshot: Snapshot) -> OutboxState:
    """Where sending stands. A conversation that begins to go out does so from what is not handled yet."""
    return snapshot.record.delivery or OutboxState(upto=snapshot.record.cursor)


def keep_outbound(snapshot: Snapshot, record: Record) -> Record:
    """*record*, whose cursor moves on: where that passes what a channel brought, what follows goes out through the channel, also
    if whoever writes this knows of no channel."""
    old = snapshot.record.cursor
    if record.delivery is not None or record.cursor <= old:
        return record
    passed = (message for message in snapshot.messages if old < message.number <= record.cursor)
    return structs.replace(record, delivery=delivery_of(snapshot)) if any(m.channel for m in passed) else record


def is_outbound(message: Message | Draft) -> bool:
    """Whether a channel sends *message*; what was written in the platform's own inbox is there already."""
    return message.role in OUTWARD and not message.metadata.get("sent")


def has_outbound(snapshot: Snapshot, record: Record, drafts: Sequence[Draft] = ()) -> bool:
    """Whether anything still has to be sent through a channel."""
    delivery, messages = record.delivery, snapshot.messages
    if delivery is None:
        return False
    unseen = delivery.upto < (messages[0].number - 1 if messages else snapshot.row.head)  # nobody knows what is there
    return (
        bool(delivery.again)
        or unseen
        or any(is_outbound(message) for message in messages if message.number > delivery.upto)
        or any(map(is_outbound, drafts))
    )


def must_send(snapshot: Snapshot) -> bool:
    """Whether anything has to be sent, also where nothing ever was: from the first message that is not handled on."""
    return has_outbound(snapshot, structs.replace(snapshot.record, delivery=delivery_of(snapshot)))


def messages_after(snapshot: Snapshot, number: int) -> list[Message]:
    """The messages of the window that are numbered above *number*."""
    count = snapshot.row.head - number
    return list(snapshot.messages[-count:]) if count > 0 else []


def find_outcome(record: Record, number: int, found: list[Message]) -> Outcome | None:
    """What became of message *number*, given the entries *found* behind it; None while it is unread."""
    if record.cursor < number:
        return None
    about = [
        message for message in found if message.reply_to and (message.reply_from or 0) <= number <= message.reply_to
    ]
    replies = [message for message in about if message.role == "assistant"]
    notes = {message.metadata.get("kind"): message.text for message in about if message.role == "system"}
    if replies or not notes:
        return Outcome("answered", replies)
    return Outcome("failed", dead=notes["dead"]) if "dead" in notes else Outcome("dropped")
