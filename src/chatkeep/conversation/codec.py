"""Records and messages to bytes and back; what cannot be stored everywhere is refused here, before anything is touched.

Both forms are JSON text that any SQL engine can read, and both open with a checksum that is bound to the
conversation's key, so that a flipped bit, a cut, or two swapped rows are seen as `Corrupt` and never as something
else.

    record   {"crc":"1c291ca3","schema":1,"state":{...},"cursor":4,...}
    entry    ["1c291ca3",1763697600123,"text or parts",reply_to,reply_from,{metadata},"channel"]      (what is missing at the end is empty)
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from ..drivers.base import Entry, Key, Row
from ..errors import BadMessage, Corrupt, TooLarge, Unsupported
from ..model import Content, Message, Role
from .keys import RESERVED, way_out
from .record import FORMAT, OutboxState, Record, Reminder
from .shapes import STORABLE, Unfit, encoded, repaired

LETTERS: dict[Role, str] = {"user": "u", "assistant": "a", "operator": "o", "system": "s", "event": "e"}

ROLES = {letter: role for role, letter in LETTERS.items()}
"""Roles as the store keeps them, in every entry."""


SEALED = b"\xf5"
"""How a sealed body begins, and no text does; see `storage.sealing`."""

REPLY_ROOM = 64  # what a reply's entry has beside its content, at most


class Line(Struct, array_like=True, frozen=True, gc=False):
    """An entry's body."""

    crc: str
    at: int
    content: Content
    reply_to: int = 0
    reply_from: int = 0
    metadata: dict[str, Any] = {}
    channel: str = ""


_encode = msgspec.json.Encoder().encode

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode

MEMBERS = frozenset(Record.__struct_encode_fields__)
OUTBOX_ITEMS = len(OutboxState.__struct_fields__)
REMINDER_ITEMS = len(Reminder.__struct_fields__)
CRC_END = len(b'{"crc":"00000000",')
LINE_CRC_END = len(b'["00000000",')
FORMAT_ALONE = b'"format":%d' % FORMAT
FORMAT_FIRST = FORMAT_ALONE + b","


def entry_for(
    key: Key,
    content: Content,
    *,
    number: int = 0,
    id: str,
    role: Role,
    created_at: float,
    limit: int,
    reply_to: int = 0,
    reply_from: int = 0,
    metadata: dict[str, Any] | None = None,
    channel: str = "",
) -> Entry:
    """Return a log entry, ready to be stored; *number*: its place, 0 where the store gives it; *channel*: as `Message` has it. Raises
    `BadMessage` or `TooLarge`, naming the key."""
    rest = b""
    if type(content) is str and not channel and (type(metadata) is dict or metadata is None) and not metadata:
        # As nearly always, and encoded at once in half the time.
        try:
            line: tuple[int | str, ...] = (round(created_at * 1000), content)
            if reply_to:
                line += (reply_to,) if reply_from == reply_to else (reply_to, reply_from)
            rest = _encode(line)[1:] if "\0" not in content else b""
        except (ValueError, OverflowError):  # half a character, or a time that is none
            pass
    rest = rest or _write_line(key, content, id, role, created_at, reply_to, reply_from, metadata, channel)
    if len(rest) > limit:
        this = "a reply" if role == "assistant" else "this message"
        raise TooLarge(
            f"{key}: {this} takes {len(rest):,} bytes, {limit:,} are allowed; nothing was touched. Refer to attachments by URL."
        )
    return Entry(number, id, LETTERS[role], b'["%08x",%s' % (zlib.crc32(rest, _seed(key)), rest))


def _other_than(content: object) -> str:
    """Return in words what *content* is, or has in it, that no content may be."""
    for at, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            return f", and content[{at}] is of type {type(part).__name__}"
    return f", not {type(content).__name__}"


def _write_line(
    key: Key,
    content: Content,
    id: str,
    role: Role,
    created_at: float,
    reply_to: int,
    reply_from: int,
    metadata: dict[str, Any] | None,
    channel: str,
) -> bytes:
    """Return what follows the checksum in an entry, whatever is in it. Raises `BadMessage`, naming the key."""
    if type(content) is str:
        said = json_of(key, content, "content")
    elif isinstance(content, str) or (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        said = json_of(key, content, "content", _allowed_in(role, id))
    else:
        raise BadMessage(
            f"{key}: content is text or a list of JSON objects{_other_than(content)}; nothing was touched."
        )
    if metadata is not None and not isinstance(metadata, dict):
        raise BadMessage(f"{key}: metadata is a dict, not {type(metadata).__name__}; nothing was touched.")
    extra = b""
    if metadata or channel:
        told = json_of(key, metadata or {}, "metadata", _allowed_in(role, id))
        extra = b",%d,%d,%s" % (reply_to, reply_from, told)
        extra += b"," + json_of(key, channel, "channel") if channel else b""
    elif reply_to:
        extra = b",%d" % reply_to if reply_from == reply_to else b",%d,%d" % (reply_to, reply_from)
    return b"%d,%s%s]" % (round(created_at * 1000), said, extra)


def _allowed_in(role: Role, id: str) -> Container[int]:
    """Return which integers an entry may hold although a browser would change them: it does not write chatkeep's own, which hold what
    a platform has sent, or a reminder that was set before."""
    return STORABLE if role == "system" or id.startswith(RESERVED) else ()


def make_storable(key: Key, content: Content, *, limit: int) -> Content:
    """Return *content* as a reply that can be stored; repaired, if it has to be. Raises `BadMessage` or `TooLarge`, naming the key."""
    if type(content) is str and content.isascii() and "\0" not in content and len(content) * 6 < limit - REPLY_ROOM:
        return content  # (in JSON one character takes six bytes at most)
    try:
        _check_reply(key, content, limit)
    except BadMessage:
        try:
            content = repaired(content)
        except RecursionError:
            raise BadMessage(f"{key}: the reply is nested too deeply; nothing was touched.") from None
        _check_reply(key, content, limit)
    return content


def _check_reply(key: Key, content: Content, limit: int) -> None:
    # (Its number and time are not known yet; these take as much room as any.)
    entry_for(key, content, id="", role="assistant", created_at=1e10, limit=limit, reply_to=10**9, reply_from=10**9 - 1)


def messages_from(key: Key, incarnation: str, entries: Sequence[Entry]) -> list[Message]:
    """Return the messages in log entries, oldest first; a redacted one, which has no time any more, has that of the one before it.
    Raises `Corrupt`."""
    found = [message_from(key, incarnation, entry) for entry in entries]
    if all([entry.body for entry in entries]):
        return found
    at = next((message.created_at for message in found if not message.redacted), 0.0)
    for place, message in enumerate(found):
        if message.redacted:
            found[place] = structs.replace(message, created_at=at)
        else:
            at = message.created_at
    return found


def message_from(key: Key, incarnation: str, entry: Entry) -> Message:
    """Return the message in a log entry. Raises `Corrupt`."""
    if not entry.body and entry.role in ROLES:
        return _redacted(incarnation, entry)
    body = entry.body
    # (Of a window each of them is looked at: the check itself is most of what that takes.)
    if body[:LINE_CRC_END] != b'["%08x",' % zlib.crc32(body[LINE_CRC_END:], _seed(key)):
        raise _damaged(key, body, f"log entry {entry.number}")
    try:
        line = msgspec.json.decode(body, type=Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise Corrupt(f"{key}: log entry {entry.number} cannot be read ({fault}). Nothing was changed.") from fault
    role = ROLES.get(entry.role)
    if role is None:
        raise Corrupt(
            f"{key}: log entry {entry.number} has the role {entry.role!r}, which there is not. Nothing was changed."
        )
    reply_to = line.reply_to or None
    return Message(
        id=entry.id or f"{incarnation}.{entry.number}",
        number=entry.number,
        role=role,
        content=line.content,
        created_at=line.at / 1000,
        reply_to=reply_to,
        reply_from=line.reply_from or reply_to,
        metadata=line.metadata,
        channel=line.channel,
    )


def _redacted(incarnation: str, entry: Entry) -> Message:
    """Return what is left of a redacted entry. The note that a message was set aside still says so, by its id."""
    number, metadata = 0, {}
    if entry.role == LETTERS["system"]:
        of = entry.id.rpartition(".")[2]
        number = int(of) if entry.id.startswith(f"{RESERVED}dead:") and of.isdecimal() else 0
        metadata = {"kind": "dead" if number else "blank"}
    return Message(
        id=entry.id or f"{incarnation}.{entry.number}",
        number=entry.number,
        role=ROLES[entry.role],
        content="redacted" if number else "",
        created_at=0.0,
        reply_to=number or None,
        reply_from=number or None,
        metadata=metadata,
        redacted=True,
    )


def body_of(key: Key, record: Record) -> bytes:
    """Return the stored form of *record*."""
    raw = _encode(record) if not record.unknown else _encode_carrying(record)
    rest = (FORMAT_FIRST if len(raw) > 2 else FORMAT_ALONE) + raw[1:]
    return b'{"crc":"%08x",%s' % (zlib.crc32(rest, _seed(key)), rest)


def record_from(key: Key, body: bytes) -> Record:
    """Return the record in *body*; the blank one when it is empty. Raises `Corrupt`, or `Unsupported` if newer code wrote it."""
    if not body:
        return Record()
    if body[:CRC_END] != b'{"crc":"%08x",' % zlib.crc32(body[CRC_END:], _seed(key)):
        raise _damaged(key, body, "record")
    rest = b"{" + body[CRC_END:]
    try:
        record = msgspec.json.decode(rest, type=Record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        record = _decode_carrying(key, rest)
    _refuse_newer(key, record.format)
    return record


def record_of(row: Row) -> Record:
    """Return what `record_from` does, of a row that a scan has found: `Corrupt` also where it only stands for one that cannot be read."""
    if not row.revision:
        raise Corrupt(f"{row.key}: its row cannot be read. Nothing was changed; {way_out(row.key)}.")
    return record_from(row.key, row.body)


def _refuse_newer(key: Key, format: int) -> None:
    if format > FORMAT:
        raise Unsupported(
            f"{key}: the record has format {format}, this version reads up to {FORMAT}. Nothing was changed; deploy the newer one."
        )


def _decode_carrying(key: Key, rest: bytes) -> Record:
    """Return the record in JSON that this version's type does not fit: with what is unknown set apart, if that is why."""
    try:
        members = _decode_members(rest)
        # (Members of a newer format may be of other types, which does not make them damaged.)
        _refuse_newer(key, msgspec.json.decode(members.get("format", b"1"), type=int))
        unknown = {name: members.pop(name) for name in list(members) if name not in MEMBERS}
        if (delivery := _items(members.get("delivery"))) and (tail := delivery[OUTBOX_ITEMS:]):
            unknown["delivery"] = Raw(_encode(tail))
            members["delivery"] = Raw(_encode(delivery[:OUTBOX_ITEMS]))
        reminders = [_items(reminder) for reminder in _items(members.get("reminders"))]
        if tails := [[*one[:2], *one[REMINDER_ITEMS:]] for one in reminders if len(one) > REMINDER_ITEMS]:
            unknown["reminders"] = Raw(_encode(tails))
            members["reminders"] = Raw(_encode([one[:REMINDER_ITEMS] for one in reminders]))
        return structs.replace(msgspec.json.decode(_encode(members), type=Record), unknown=unknown)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise Corrupt(f"{key}: the record cannot be read ({fault}). Nothing was changed.") from fault


def _encode_carrying(record: Record) -> bytes:
    """Return *record* as JSON, with what this version does not know of it where it was."""
    members = _decode_members(_encode(structs.replace(record, unknown={}))) | {
        name: value for name, value in record.unknown.items() if name not in MEMBERS
    }
    if "delivery" in record.unknown and record.delivery is not None:
        members["delivery"] = Raw(_encode(_items(members["delivery"]) + _items(record.unknown["delivery"])))
    if "reminders" in record.unknown and record.reminders:
        tails = {(bytes(at), bytes(name)): tail for at, name, *tail in map(_items, _items(record.unknown["reminders"]))}
        # (One that was set anew is another one.)
        reminders = [(one, (bytes(one[0]), bytes(one[1]))) for one in map(_items, _items(members["reminders"]))]
        members["reminders"] = Raw(_encode([one + tails.get(which, []) for one, which in reminders]))
    return _encode(members)


def _items(raw: Raw | None) -> list[Raw]:
    return msgspec.json.decode(raw or b"[]", type=list[Raw] | None) or []


def json_of(key: Key, value: Any, what: str, allowed: Container[int] = ()) -> bytes:
    """Return *value* as JSON, if it is plain JSON and every store can keep it. Raises `BadMessage`, naming the key and the member of
    *what*."""
    if type(value) is str and "\0" not in value:
        try:
            return _encode(value)
        except ValueError:  # half a character
            pass
    try:
        return encoded(value, what, allowed)
    except Unfit as unfit:
        raise BadMessage(f"{key}: {unfit}. Nothing was touched.") from unfit


def checked_body(key: Key, opening: bytes, rest: bytes) -> bytes:
    """Return the stored form of a record or an entry that goes on as *rest* behind its checksum; *opening* is what stands before that."""
    return b'%s%s",%s' % (opening, _crc(key, rest), rest)


def _damaged(key: Key, body: bytes, what: str) -> Corrupt:
    """Return the error for a *body* whose checksum does not fit."""
    if body.startswith(SEALED):
        return Corrupt(
            f"{key}: the {what} is sealed, and none of the keys given here opens it. Nothing was changed; add the key to seal_keys."
        )
    return Corrupt(f"{key}: the {what} is damaged (its checksum does not fit). Nothing was changed; {way_out(key)}.")


def _crc(key: Key, rest: bytes) -> bytes:
    return b"%08x" % zlib.crc32(rest, _seed(key))


@lru_cache(maxsize=4096)
def _seed(key: Key) -> int:
    return zlib.crc32(f"{len(key.tenant)}:{key.tenant}{key.id}".encode())
