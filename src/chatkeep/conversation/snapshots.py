"""A conversation at one revision, what may be written next, and what can be read off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any

from msgspec import Struct, structs

from ..drivers.base import Entry, Row
from ..errors import Corrupt
from ..model import ASKING, TALK, Content, Conversation, Failing, Message, Role, Status
from .codec import LETTERS, message_from, messages_from, record_from
from .keys import SAVED
from .record import OutboxState, Record

OUTWARD: frozenset[Role] = frozenset({"assistant", "operator"})
"""Roles that a channel sends to the user."""

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Policy(Struct, frozen=True, kw_only=True):
    """The settings that rules depend on. Durations in seconds. turn_s: an attempt is over so long after it begins."""

    overlap: str = "queue"
    quiet_s: float = 1.5
    max_wait_s: float = 10.0
    session_ttl_s: float | None = None
    retention_s: float | None = None
    forget_after_s: float | None = None
    forget_visitors_s: float | None = None
    history: int = 20
    history_bytes: int | None = None
    retry_for_s: float = 600.0
    pause_most_s: float = 60.0
    max_raised: int | None = None
    max_begun: int = 8
    turn_s: float = 35.0
    lease_s: float = 35.0
    channel_turns: int | None = None
    channel_within_s: float = 60.0
    version: str = ""
    pin: str = "none"


class Snapshot(Struct, frozen=True, gc=False):
    """A conversation at one revision: its row, the record in it, and its last messages, dense up to row.head.

    plain: from this number on all messages are plain (`plain_from`), as far as is known. Where much waits the messages end before
    row.head (`is_cut`), with the first that wait; *beyond* has of what follows the last replies, and the last entry.
    """

    row: Row
    record: Record
    messages: tuple[Message, ...]
    plain: int = 1 << 62
    beyond: tuple[Message, ...] = ()


class Place(Struct, frozen=True, gc=False):
    """How far a conversation went: its incarnation, the number of its log's last entry, of which time that is (0: not known), and how
    many changes of the record alone there were."""

    incarnation: str
    head: int
    at: float = 0.0
    edits: int = 0


def place_of(snapshot: Snapshot) -> Place:
    """Return how far *snapshot* goes."""
    row, last = snapshot.row, snapshot.messages[-1:]
    known = last and last[0].number == row.head and not last[0].redacted
    return Place(row.incarnation, row.head, last[0].created_at if known else 0.0, snapshot.record.edits)


def lacks_changes(known: Place, record: Record) -> bool:
    """Tell whether *record* counts fewer changes than were seen, though the log may be as long: the store was rolled back. (The first
    releases count none, and what they write has lost the count.)"""
    return 0 < record.edits < known.edits


def is_other_log(known: Place, messages: Sequence[Message]) -> bool:
    """Tell whether these last *messages* of a log have another entry where it went as far as *known*: the store was rolled back, and
    somebody has gone on from there."""
    return any(
        known.at and message.number == known.head and not message.redacted and message.created_at != known.at
        for message in messages
    )


class Draft(Struct, frozen=True, kw_only=True, gc=False):
    """A message without a number; created_at=0: of the act's time. *channel*: as `Message` has it. *entry* is its stored form, if
    that was made before."""

    role: Role
    content: Content
    id: str = ""
    reply_to: int = 0
    reply_from: int = 0
    created_at: float = 0.0
    metadata: dict[str, Any] = {}
    channel: str = ""
    entry: Entry | None = None


class Condition(Struct, frozen=True, gc=False):
    """What must hold for a message when it is written: that its conversation is there, be it another one than its sender knew; with *seen*,
    that it is the one which this shows, and if *unchanged*, at that revision."""

    seen: Snapshot | None = None
    unchanged: bool = False

    def holds(self, now: Snapshot) -> bool:
        """Tell whether it holds for what is there *now*."""
        if self.seen is None:
            return bool(now.row.revision)
        there = self.seen.row
        same = there.revision == now.row.revision if self.unchanged else there.incarnation == now.row.incarnation
        return bool(now.row.revision) and same


class Commit(Struct, frozen=True, kw_only=True, gc=False):
    """What to write: the next record, new entries, the lease to hold afterwards, when to look again, how much log to
    drop, which entries lose what they say. *untouched*: nobody did anything, so the time of the last change stays. *owner*: whose the
    conversation is from then on; None: whose it was."""

    record: Record
    drafts: tuple[Draft, ...] = ()
    lease: str | None = None
    leased_until: float = 0.0
    due_at: float | None = None
    drop: int = 0
    blank: tuple[int, ...] = ()
    untouched: bool = False
    owner: str | None = None


class Outcome(Struct, frozen=True, gc=False):
    """What became of one message: its status and replies, and the reason if it was set aside. failing: what holds it up."""

    status: Status
    replies: list[Message] = []
    dead: str = ""
    failing: Failing | None = None


NOTES_A_MESSAGE = 5
"""So many notes a message may have where replies go out: delivery, sent, delivered, read, and the message itself."""

HELD = 200
"""So many messages that wait are held, or somewhat more; the others stay in the store until it is their turn."""


def is_cut(snapshot: Snapshot) -> bool:
    """Tell whether more waits than is held."""
    return bool(snapshot.beyond)


def is_used_up(snapshot: Snapshot) -> bool:
    """Tell whether all is answered of what a cut snapshot has held: nobody can tell from it what is next."""
    return is_cut(snapshot) and not unread_messages(snapshot)


def holds_id(snapshot: Snapshot, id: str) -> bool:
    """Tell whether a message of this *id* is among those that are held."""
    return id in [message.id for message in snapshot.messages]


def shorten(snapshot: Snapshot, window: int) -> Snapshot:
    """Return *snapshot* with as much as the next turns need, where a lot is behind the cursor: *window* entries before the first that
    waits, and HELD that wait."""
    if snapshot.row.head - snapshot.record.cursor <= 2 * HELD or snapshot.beyond:
        return snapshot
    if not snapshot.messages or snapshot.messages[0].number > snapshot.record.cursor + 1:
        return snapshot  # what waits first is not at hand yet
    waiting = unread_messages(snapshot)
    first = waiting[0].number if waiting else snapshot.row.head + 1
    # What nobody answers is as good as handled.
    record = keep_outbound(snapshot, structs.replace(snapshot.record, cursor=first - 1))
    last = waiting[:HELD][-1].number if waiting else first
    last = last if snapshot.row.head - last > HELD else snapshot.row.head
    messages = tuple([m for m in snapshot.messages if first - window <= m.number <= last])
    beyond = choose_beyond([m for m in snapshot.messages if m.number > last], window)
    return structs.replace(snapshot, record=record, messages=messages or snapshot.messages[-1:], beyond=beyond)


def choose_beyond(messages: Sequence[Message], window: int) -> tuple[Message, ...]:
    """Return what of the last *messages* of a log is held beyond those that wait: the last replies, and the last entry."""
    replies = [message for message in messages[:-1] if message.role in TALK and message.role not in ASKING]
    return (*(replies[-window:] if window else ()), *messages[-1:])


def unread_messages(snapshot: Snapshot) -> list[Message]:
    """Return what waits for an answer, oldest first, as far as it is held; something is, if anything waits."""
    cursor = snapshot.record.cursor
    if snapshot.row.head == cursor:
        return []
    # (As `asks`; a call for each message would cost more than it does.)
    return [
        m for m in snapshot.messages if m.number > cursor and m.role in ASKING and not m.redacted and m.channel != SAVED
    ]


def is_withdrawn(snapshot: Snapshot, number: int) -> bool:
    """Tell whether message *number*, which no turn has passed yet, was withdrawn, as far as it is held."""
    held = snapshot.messages
    at = number - held[-1].number - 1 if held else 0
    return -len(held) <= at < 0 and held[at].number == number and held[at].redacted


def asks(message: Message) -> bool:
    """Tell whether a turn answers *message*, if none has yet."""
    return message.role in ASKING and not message.redacted and message.channel != SAVED


def unanswered(messages: Sequence[Message], cursor: int) -> list[Message]:
    """Return which of *messages* nobody has answered: no turn has passed them, up to *cursor*, and no person has written behind them. What
    a save has brought was said elsewhere, and answers nothing here."""
    ours = [message.number for message in messages if message.role == "operator" and message.channel != SAVED]
    return [message for message in messages if message.number > max(cursor, *ours, 0) and asks(message)]


def is_answered(found: Conversation[Any]) -> bool:
    """Tell whether a person has written behind all that waits for the bot, as far as *found* holds the log."""
    waiting = found.waiting
    return bool(waiting) and not unanswered([*waiting, *found.messages], waiting[0].number - 1)


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
    """Return the number from which on *messages* are plain, which is text that stands in its place, as nearly all are: a history needs
    neither sort nor copy it. *otherwise* if all are."""
    for message in reversed(messages):
        if (
            type(message.content) is not str
            or message.metadata
            or message.redacted
            or message.role not in TALK
            or (message.reply_to and message.reply_to != message.number - 1)
        ):
            return message.number + 1
    return otherwise


def delivery_of(snapshot: Snapshot) -> OutboxState:
    """Return where sending stands. A conversation that begins to go out does so from what is not handled yet."""
    return snapshot.record.delivery or OutboxState(upto=snapshot.record.cursor)


def keep_outbound(snapshot: Snapshot, record: Record) -> Record:
    """Return *record*, whose cursor moves on: where that passes what a channel brought, what follows goes out through the channel, also if
    whoever writes this knows of no channel."""
    old = snapshot.record.cursor
    if snapshot.row.head <= old or record.cursor <= old or record.delivery is not None or not snapshot.messages:
        return record  # as nearly always: nothing that is in the log is passed
    unseen = is_cut(snapshot) and record.cursor > snapshot.messages[-1].number  # it may be like what is held
    passed = (message for message in snapshot.messages if unseen or old < message.number <= record.cursor)
    return (
        structs.replace(record, delivery=delivery_of(snapshot))
        if any(m.channel not in ("", SAVED) for m in passed)
        else record
    )


def is_outbound(message: Message | Draft) -> bool:
    """Tell whether a channel sends *message*; what was written in the platform's own inbox is there already, and what a save has brought
    was said elsewhere."""
    if message.role not in OUTWARD or message.channel == SAVED or message.metadata.get("sent"):
        return False
    return isinstance(message, Draft) or not message.redacted


def has_outbound(snapshot: Snapshot, record: Record, drafts: Sequence[Draft] = ()) -> bool:
    """Tell whether anything still has to be sent through a channel."""
    delivery, messages = record.delivery, snapshot.messages
    if delivery is None:
        return False
    # Nobody knows what is there.
    unseen = delivery.upto < (messages[0].number - 1 if messages and not is_cut(snapshot) else snapshot.row.head)
    return (
        bool(delivery.again)
        or unseen
        or any(is_outbound(message) for message in messages if message.number > delivery.upto)
        or any(map(is_outbound, drafts))
    )


def must_send(snapshot: Snapshot) -> bool:
    """Tell whether anything has to be sent, also where nothing ever was: from the first message that is not handled on."""
    return has_outbound(snapshot, structs.replace(snapshot.record, delivery=delivery_of(snapshot)))


def messages_after(snapshot: Snapshot, number: int) -> list[Message]:
    """Return the messages of the window that are numbered above *number*, as far as they are held."""
    if is_cut(snapshot):
        return [message for message in (*snapshot.messages, *snapshot.beyond) if message.number > number]
    count = snapshot.row.head - number
    return list(snapshot.messages[-count:]) if count > 0 else []


def find_failing(snapshot: Snapshot) -> Failing | None:
    """Return how the attempts at the first unread message fail; None where none has."""
    record = snapshot.record
    waiting = unread_messages(snapshot) if record.failed_at else []
    return Failing(waiting[0].number, record.begun, record.retry_at) if waiting else None


def find_outcome(record: Record, number: int, found: list[Message]) -> Outcome | None:
    """Return what became of message *number*, given the entries *found* behind it; None while it is unread."""
    if record.cursor < number:
        return None
    about = [
        message for message in found if message.reply_to and (message.reply_from or 0) <= number <= message.reply_to
    ]
    replies = [message for message in about if message.role == "assistant"]
    notes = {message.metadata.get("kind"): message.text for message in about if message.role == "system"}
    notes.pop("redacted", None)  # which says nothing of what became of it
    if "dead" in notes:
        return Outcome("failed", replies, notes["dead"])
    return Outcome("answered", replies) if replies or not notes else Outcome("dropped")


def _notes_redaction(messages: Sequence[Message]) -> bool:
    # 0.2.0 drops the count of the record with whatever it writes. The note stands behind what it is about, so a tail with one has both.
    return any([message.role == "system" and message.metadata.get("kind") == "redacted" for message in messages])


class Window:
    """Makes the snapshots that are held. *size*: how many last messages one holds, at least."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._with_notes = size * NOTES_A_MESSAGE

    def widen(self) -> None:
        """Make room for the notes that sending replies out leaves between what is said."""
        self.size *= NOTES_A_MESSAGE

    def decode(self, row: Row, entries: list[Entry]) -> Snapshot:
        """Return the snapshot of what was read. Raises `Corrupt`, or `Unsupported` if newer code wrote it."""
        messages = tuple(messages_from(row.key, row.incarnation, entries))
        if not row.body and any(message.reply_to for message in messages):
            raise Corrupt(
                f"{row.key}: the record is empty, but it was written before: there are replies. Nothing was changed."
            )
        plain = plain_from(messages, messages[0].number if messages else row.head + 1)
        record = record_from(row.key, row.body)
        if not record.redactions and any([message.redacted for message in messages]) and not _notes_redaction(messages):
            raise Corrupt(
                f"{row.key}: log entries are empty, and nothing of it was ever redacted. Nothing was changed."
            )
        return self.fit(row, record, messages, plain)

    def grow(self, known: Snapshot, row: Row, record: Record, news: list[Message]) -> Snapshot:
        """Return what is *known*, with what came after it."""
        plain = plain_from(news, known.plain)
        if not known.beyond:
            return self.fit(row, record, (*known.messages, *news), plain)
        beyond = choose_beyond((*known.beyond, *news), self.size)
        return self.fit(row, record, known.messages, plain, beyond)

    def fit(
        self,
        row: Row,
        record: Record,
        messages: tuple[Message, ...],
        plain: int,
        beyond: tuple[Message, ...] = (),
    ) -> Snapshot:
        """Return the snapshot to be held, without the body, for which the record stands: with the window before the cursor, and what is
        behind it as far as `shorten` says. What waits must not push out the talk that it belongs to."""
        window = size = self.size
        if messages:
            if plain > messages[0].number:  # notes, perhaps, which must not push out the talk
                notes = sum([message.role not in TALK for message in messages])
                window = min(size + notes, max(size, self._with_notes))
            behind = messages[-1].number - record.cursor
            surplus = len(messages) - window - (behind if behind > 0 else 0)
            if surplus > 0:
                messages = messages[surplus:]
        snapshot = Snapshot(structs.replace(row, body=b""), record, messages, plain, beyond)
        return shorten(snapshot, size) if row.head - record.cursor > HELD else snapshot


def blanked(known: Snapshot, numbers: Sequence[int]) -> Snapshot:
    """Return what is *known*, without what the entries with these *numbers* said."""
    key, incarnation = known.row.key, known.row.incarnation

    def blank(message: Message) -> Message:
        entry = Entry(message.number, message.id, LETTERS[message.role], b"")
        return structs.replace(message_from(key, incarnation, entry), created_at=message.created_at)

    messages, beyond = (
        tuple([blank(m) if m.number in numbers else m for m in held]) for held in (known.messages, known.beyond)
    )
    return structs.replace(known, messages=messages, beyond=beyond, plain=plain_from(messages, known.plain))
