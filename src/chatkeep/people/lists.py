"""A user's list: what is shown of each conversation, in which order, and what has changed since somebody looked.

A page costs one look at the owner index, which brings the records with it, and one short look at the log of each conversation that is
shown. What has changed is told by the time of the last change; a cursor holds the time of the newest that was shown, and which of the
last ones were shown in which version, so that clocks which differ by less than SLACK_S leave nothing out.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from zlib import crc32

import msgspec
from msgspec import Struct, structs

from ..conversation.codec import record_of
from ..conversation.record import NONE, Record
from ..conversation.snapshots import OUTWARD
from ..conversation.versions import checksum_before, checksum_from, find_version
from ..drivers.base import Key, Row
from ..errors import Corrupt, Unsupported, UsageError
from ..model import TALK, Message

LOOKED_AT = 50
"""So many of its last entries are looked at for the last words of a conversation and for what its owner has not seen."""

SLACK_S = 30.0
"""Clocks of the hosts that write to one store may differ by so much."""

MARKS_MOST = 1000
"""A cursor goes into an address, which has room for so many marks; with more, clocks may differ by less."""


class Summary(Struct, frozen=True, kw_only=True):
    """
    A conversation in its owner's list.

    version: grows with each message and each change of title, state or marks.
    checksum: another one for each change of title, messages or state.
    last: the last words, and last_role: whose they are. unseen: how many replies its owner has not seen, up to LOOKED_AT; who
    writes has seen what is there. seen: up to which message its owner has read. fault: why it cannot be read; its other members then say
    nothing.
    """

    id: str
    title: str = ""
    version: int = 0
    checksum: str = ""
    updated_at: float = 0.0
    head: int = 0
    seen: int = 0
    unseen: int = 0
    last: str = ""
    last_role: str = ""
    archived: bool = False
    pinned: bool = False
    fault: str = ""


class Listed(Struct, frozen=True):
    """A conversation of a user, of which its row is known: what a list is made of."""

    key: Key
    incarnation: str
    head: int
    updated_at: float
    record: Record
    checksum: str = ""
    fault: str = ""

    @property
    def mark(self) -> int:
        """Names this version of the conversation."""
        return crc32(f"{self.incarnation}:{find_version(self.head, self.record)}:{self.key.id}".encode())


class Changed(Struct, frozen=True, kw_only=True):
    """
    What has changed in a user's list.

    conversations: those that are new or changed. erased: ids that are gone. total: how many conversations the user has now: who knows
    another number, once *more* is False, has missed something and begins anew, without a cursor. cursor: where to go on. more: there is
    more to be had at once. reset: the cursor was too old, or another store's: what is told now is everything.
    """

    conversations: list[Summary]
    erased: list[str] = []
    total: int
    cursor: str
    more: bool = False
    reset: bool = False


class Cursor(Struct, frozen=True, array_like=True):
    """How far somebody has seen a user's list: all that changed before *at*, but for clocks that differ, and of what changed about then
    what has these *marks*, four bytes each. *erased*: the same of what was erased. *of*: whose list it is, and of which store.
    *since*: what changed before is not looked at any more, by time and id."""

    of: str
    at: float
    marks: bytes = b""
    erased: bytes = b""
    since: tuple[float, str] = (0.0, "")


def listed_from(row: Row) -> Listed:
    """Return *row* as a list needs it."""
    try:
        record, fault = record_of(row), ""
    except (Corrupt, Unsupported) as unreadable:
        record, fault = Record(), str(unreadable)
    checksum = (
        checksum_before(row.incarnation, row.head, row.body)
        if fault
        else checksum_from(row.incarnation, row.head, record)
    )
    # A state may be large, and all conversations of a user are held at once.
    record = structs.replace(record, state=NONE, steps={}, unknown={})
    return Listed(row.key, row.incarnation, row.head, row.updated_at, record, checksum, fault)


def order(found: Iterable[Listed]) -> list[Listed]:
    """Return conversations as people see them: pinned ones first, then the last changed first."""
    return sorted(found, key=lambda one: (not one.record.pinned, -one.updated_at, one.key.id))


def summarize(one: Listed, last: Sequence[Message]) -> Summary:
    """Return what is shown of a conversation, given the *last* entries of its log."""
    said = [message for message in last if message.role in TALK and not message.redacted]
    written = max((message.number for message in said if message.role == "user"), default=0)
    seen = max(one.record.seen, written)
    words = next((message for message in reversed(said) if message.role != "event"), None)
    return Summary(
        id=one.key.id,
        title=one.record.title,
        version=find_version(one.head, one.record),
        checksum=one.checksum,
        updated_at=one.updated_at,
        head=one.head,
        seen=seen,
        unseen=sum(1 for message in said if message.number > seen and message.role in OUTWARD),
        last="" if words is None else words.text,
        last_role="" if words is None else words.role,
        archived=one.record.archived,
        pinned=one.record.pinned,
        fault=one.fault,
    )


def find_changes(
    found: Sequence[Listed], erased: Iterable[tuple[str, float]], cursor: Cursor, *, limit: int, now: float
) -> tuple[list[Listed], list[str], Cursor, bool]:
    """Return which of a user's conversations are new to who has the *cursor*, the oldest change first, which were erased, the next cursor,
    and whether there is more. *erased*: ids, and when; a cursor of time 0 knows nothing, and so of nothing that it was erased. *now*: no
    cursor is of a later time, for what others write until then would never be told."""
    since, known, told = cursor.at - SLACK_S, _marks(cursor.marks), _marks(cursor.erased)
    near = sorted((one for one in found if _place(one) >= cursor.since), key=_place)
    news = [one for one in near if one.mark not in known]
    page, more = news[:limit], len(news) > limit
    gone = {crc32(f"{id}:{when}".encode()): (id, when) for id, when in erased if when >= since}
    times = [one.updated_at for one in page] + ([] if more else [when for _, when in gone.values()])
    at = min(max([cursor.at, *times]), now)
    shown = known | {one.mark for one in page}
    held = [one for one in near if one.updated_at >= at - SLACK_S and one.mark in shown][-MARKS_MOST:]
    begin = (at - SLACK_S, "") if len(held) < MARKS_MOST else _place(held[0])
    fresh = [id for mark, (id, _) in gone.items() if cursor.at and mark not in told]
    kept = [mark for mark, (_, when) in gone.items() if when >= at - SLACK_S]
    marks = [one.mark for one in held]
    return page, fresh, Cursor(cursor.of, at, _packed(marks), _packed(kept), max(begin, cursor.since)), more


def _place(one: Listed) -> tuple[float, str]:
    return one.updated_at, one.key.id


def _marks(packed: bytes) -> frozenset[int]:
    return frozenset(int.from_bytes(packed[place : place + 4]) for place in range(0, len(packed), 4))


def _packed(marks: Iterable[int]) -> bytes:
    return b"".join(mark.to_bytes(4) for mark in marks)


def write_cursor(cursor: Cursor) -> str:
    """Return *cursor* as text for clients, who need not understand it."""
    return urlsafe_b64encode(msgspec.msgpack.encode(cursor)).decode().rstrip("=")


def read_cursor(text: str) -> Cursor:
    """Return the cursor in *text*. Raises `UsageError`."""
    try:
        return msgspec.msgpack.decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Cursor)
    except (TypeError, ValueError, binascii.Error, msgspec.MsgspecError):
        raise UsageError("The cursor is none of this store's; ask without one. Nothing was done.") from None
