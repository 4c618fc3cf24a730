"""The record: what is stored of a conversation beside its log."""

from __future__ import annotations

from msgspec import Raw, Struct, field, structs

from ..model import Content

FORMAT = 1
"""What is written. Members may be added under the same number: older code carries them along. A new number is for what older code
must not touch; a version that only reads it comes first."""

NONE = Raw(b"null")


class Reminder(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """An event that comes to a conversation at a time, unless the user writes before; *keep*: even then."""

    at: float
    name: str
    data: Raw = NONE
    keep: bool = False


class OutboxState(Struct, array_like=True, frozen=True, gc=False, forbid_unknown_fields=True):
    """How far the replies of a conversation have gone out through its channel.

    upto: what is numbered up to it is out, or was given up. sending: this one is just being sent, perhaps by somebody who
    died of it; with *at*, it waits and may be out already. tries, at, reason: attempts at the next one, when it is tried
    again, and why the last one failed. half, parts, done: a reply of which so many requests are done, under these ids of
    the platform. again: numbers to be sent once more.
    """

    upto: int = 0
    sending: int = 0
    tries: int = 0
    at: float = 0.0
    parts: int = 0
    again: tuple[int, ...] = ()
    half: int = 0
    done: tuple[str, ...] = ()
    reason: str = ""


class Said(Struct, frozen=True, gc=False):
    """What a streamed reply has said so far: the reply to message *number*, which nobody has answered yet, in turn *turn*."""

    number: int
    content: Content
    turn: str = ""


class Record(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """What the bot knows of a conversation, and how far it has read the log.

    schema, state: of the live session (null: there is none). session: its number. since: first entry number of the
    session. cursor: everything numbered up to it is handled or needs no handling. active_at: time of the last message
    handled. begun, raised, retry_at: attempts at the first unread message, how many of them raised, and when the next
    may start; failed_at: since when they fail, as if there had been no time in which nobody tried. deaths: processes in a row
    that ended while it was in flight. alone: the lease was taken to try it alone, with no other handler in that process.
    paused: the bot is silent here. dropped: entries up to this number are gone by retention. oldest_at: time of the first
    one left (0: not known). dead: numbers set aside. steps: results of what the turn of the first unread message has done so
    far, as JSON. reminders: what comes later. delivery: None where replies go nowhere. changes: the last acts from
    outside that left no entry in the log, so that each knows itself again. visitor: it is that of somebody whom nobody knows.
    redactions: how often something of the log was redacted; a snapshot of before may hold what must be seen no more. said:
    what the streamed reply to the first unread message has said so far.
    title; titled: when, by which device and at which version of the conversation it was set. archived, pinned: how its owner has put it
    away. seen: up to which number its owner has read. edits: acts that changed one of these, or the state, without adding an entry.
    paced: when the turns that a channel has brought would have been over, had each taken its share of `channel_rate`.
    version: the version of the application that began the session, or the turn of which something is recorded here.
    stamps: of a slot that somebody outside has merged into, when and by which device, and the checksum of what was left there.
    notes: how many entries of the log say nothing to people, as far as they were written by versions that count them.
    assignee: the account of the person who looks after it; "": nobody. sending_deaths: processes in a row that ended while the reply
    `delivery.sending` was on its way.
    unknown: members that a newer version has written and this one does not know, carried along; under the names of known ones,
    what a newer version has put behind their items.
    """

    format: int = FORMAT
    schema: int = 1
    state: Raw = NONE
    session: int = 0
    since: int = 1
    cursor: int = 0
    active_at: float = 0.0
    begun: int = 0
    raised: int = 0
    retry_at: float = 0.0
    paused: bool = field(default=False, name="off")
    dropped: int = 0
    oldest_at: float = 0.0
    dead: tuple[int, ...] = ()
    steps: dict[str, Raw] = {}
    reminders: tuple[Reminder, ...] = ()
    delivery: OutboxState | None = None
    deaths: int = 0
    alone: bool = False
    failed_at: float = 0.0
    redactions: int = 0
    visitor: bool = False
    changes: tuple[str, ...] = ()
    title: str = ""
    titled: tuple[float, str, int] = (0.0, "", 0)
    archived: bool = False
    pinned: bool = False
    seen: int = 0
    edits: int = 0
    stamps: dict[str, tuple[float, str, int]] = {}
    notes: int = 0
    said: Said | None = None
    paced: float = 0.0
    version: str = ""
    assignee: str = ""
    sending_deaths: int = 0
    unknown: dict[str, Raw] = field(default={}, name="")


OF_A_TRY = ("begun", "raised", "deaths", "alone", "retry_at", "failed_at", "steps", "said")
# The defaults themselves: the stored form leaves these out.
_UNTRIED = {name: getattr(Record(), name) for name in OF_A_TRY}


def untried(record: Record) -> Record:
    """Return *record* for a first unread message that is another one from now on: nothing was tried for it yet."""
    was_tried = (  # (asked in each turn, and one by one in a tenth of the time of a getter for OF_A_TRY)
        record.begun
        or record.raised
        or record.deaths
        or record.alone
        or record.retry_at
        or record.failed_at
        or record.steps
        or record.said
    )
    return structs.replace(record, **_UNTRIED) if was_tried else record
