"""The lines of an export, one JSON object each: what they hold, how they are made of rows and entries, and back.

    {"format":"chatkeep","version":1}
    {"conversation":"ada","tenant":"","revision":"..","incarnation":"..","first":1,"head":2,"updated_at":1763697600.1,"record":{..}}
    {"number":1,"id":"wamid.1","role":"user","at":1763697600123,"content":"hello"}
    {"number":2,"role":"assistant","at":1763697600456,"content":"hi","reply_to":1}
    {"end":true,"conversations":1,"entries":2,"checksum":".."}

Whoever writes such lines without chatkeep leaves out what is left out here by default; a conversation needs its name, an entry its
role, time and content. What cannot be shown as JSON, because it is damaged or of a newer version, is carried as it is, in base64.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from ..drivers.base import AT_ONCE, Entry, Key, Row
from ..errors import BadMessage, ChatkeepError, Unsupported
from ..model import Role
from .codec import CRC_END, LETTERS, ROLES, body_of, checked_body, json_of, message_from, record_from
from .keys import LONGEST_ID, RESERVED, key_for, message_id
from .record import Record
from .shapes import STORABLE

VERSION = 1


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line. *version*: of these lines; a reader refuses one that it does not know."""

    format: str
    version: int


class ConversationLine(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A conversation; its entries follow, numbered from *first* to *head*.

    record: what the bot knows and how far it has read; left out, everything in the log counts as handled. body: the record
    as it is stored, in base64, where it cannot be shown. due_at: when somebody has to look at it; left out, at once where something
    waits and its bot is not paused.
    """

    conversation: str
    tenant: str = ""
    revision: str = ""
    incarnation: str = ""
    owner: str = ""
    first: int = 1
    head: int | None = None
    updated_at: float | None = None
    due_at: float | None = None
    record: Raw | UnsetType = UNSET
    body: str | UnsetType = UNSET


class EntryLine(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An entry of the log. at: milliseconds since 1970. reply_from, reply_to: which entries a reply answers. redacted: what it said
    was removed. letter, body: its role and content as they are stored, the latter in base64, where they cannot be shown."""

    number: int | None = None
    id: str = ""
    role: Role | UnsetType = UNSET
    at: int | None = None
    content: Raw | UnsetType = UNSET
    reply_to: int = 0
    reply_from: int = 0
    metadata: Raw | UnsetType = UNSET
    channel: str = ""
    redacted: bool = False
    letter: str = ""
    body: str | UnsetType = UNSET


class EndLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last line: tells that nothing is missing. checksum: of all bytes before it."""

    end: bool
    conversations: int
    entries: int
    checksum: str = ""


AnyLine = Header | ConversationLine | EntryLine | EndLine

HEADER = msgspec.json.encode(Header(format="chatkeep", version=VERSION))


def encode_end(conversations: int, entries: int, checksum: str) -> bytes:
    """Return the last line."""
    return msgspec.json.encode(EndLine(end=True, conversations=conversations, entries=entries, checksum=checksum))


def parse_line(text: bytes) -> AnyLine:
    """Return what a line says. Raises `BadMessage`, with what is wrong with it."""
    try:
        members = msgspec.json.decode(text, type=dict[str, Raw])
        kind: type[AnyLine] = (
            ConversationLine
            if "conversation" in members
            else Header
            if "format" in members
            else EndLine
            if "end" in members
            else EntryLine
        )
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise BadMessage(f"this is no line of an export: {fault}") from fault


def refuse_other(header: AnyLine) -> None:
    """Raise where the first line of a file is not the header of an export that this version reads."""
    if not isinstance(header, Header) or header.format != "chatkeep":
        raise BadMessage('an export begins with {"format":"chatkeep","version":1}')
    if header.version != VERSION:
        raise Unsupported(
            f"version {header.version} of the export is not known here, which reads {VERSION}; use the chatkeep that wrote it"
        )


def line_of_row(row: Row, first: int) -> bytes:
    """Return the line of a conversation whose log begins with number *first*. Leases stay behind: whoever has one works elsewhere."""
    shown = _record_shown(row)
    body = UNSET if shown is not None or not row.body else b64encode(row.body).decode()
    line = ConversationLine(
        conversation=row.key.id,
        tenant=row.key.tenant,
        revision=row.revision,
        incarnation=row.incarnation,
        owner=row.owner,
        first=first,
        head=row.head,
        updated_at=row.updated_at,
        due_at=row.due_at,
        record=UNSET if shown is None else shown,
        body=body if row.body else "",
    )
    return msgspec.json.encode(line)


def _record_shown(row: Row) -> Raw | None:
    """Return the stored record as JSON, if that is all it takes to store it again."""
    try:
        record_from(row.key, row.body)
    except ChatkeepError:
        return None
    shown = b"{" + row.body[CRC_END:]
    fits = row.body and b"\n" not in shown and checked_body(row.key, b'{"crc":"', shown[1:]) == row.body
    return Raw(shown) if fits else None


def line_of_entry(key: Key, entry: Entry) -> bytes:
    """Return the line of an entry of the log."""
    role = ROLES.get(entry.role)
    if role is not None and not entry.body:
        return msgspec.json.encode(EntryLine(number=entry.number, id=entry.id, role=role, redacted=True))
    try:
        message_from(key, "", entry)
        at, content, *rest = msgspec.json.decode(entry.body, type=list[Raw])[1:]
        to, of, metadata, channel = [*rest, *(Raw(b"0"), Raw(b"0"), Raw(b"{}"), Raw(b'""'))[len(rest) :]]
        reply_to = int(bytes(to))
        line = EntryLine(
            number=entry.number,
            id=entry.id,
            role=role if role is not None else UNSET,
            at=int(bytes(at)),
            content=content,
            reply_to=reply_to,
            reply_from=int(bytes(of)) or reply_to,
            metadata=UNSET if bytes(metadata) == b"{}" else metadata,
            channel=msgspec.json.decode(channel, type=str),
        )
        text = msgspec.json.encode(
            structs.replace(line, reply_from=0 if line.reply_from == reply_to else line.reply_from)
        )
        if b"\n" not in text and entry_from(key, parse_line(text), entry.number) == entry:
            return text
    except (ChatkeepError, msgspec.MsgspecError, ValueError):
        pass  # it is carried as it is
    shown = EntryLine(number=entry.number, id=entry.id, letter=entry.role, body=b64encode(entry.body).decode())
    return msgspec.json.encode(shown)


def key_from(line: ConversationLine) -> Key:
    """Return which conversation a line is about. Raises `BadKey`."""
    tenant = line.tenant.removeprefix(RESERVED)  # a space of chatkeep's own
    return Key(line.tenant, key_for(tenant, line.conversation).id)


def row_from(key: Key, line: ConversationLine, *, entries: int, latest: float, revision: str) -> Row:
    """
    Return the row of a conversation of which so many entries follow. Where the line does not say, it has that *revision*, and
    *latest* as the time of its last change.

    Raises `BadMessage`.
    """
    head = line.first + entries - 1
    if line.first < 1 or (line.head is not None and line.head != head):
        raise BadMessage(
            f"{key}: {entries} entries follow, which are not those from {line.first} to {line.head}; some are missing"
        )
    for what, text in (("revision", line.revision), ("incarnation", line.incarnation), ("owner", line.owner)):
        if "\0" in text or len(text.encode(errors="replace")) > LONGEST_ID:
            raise BadMessage(f"{key}: the {what} must be at most {LONGEST_ID} bytes without NUL")
    revision = line.revision or revision
    if line.body is not UNSET:
        body = _bytes_of(line.body)
    elif line.record is not UNSET:
        body = _record_body(key, bytes(line.record))
    else:
        body = body_of(key, Record(cursor=head, dropped=line.first - 1)) if entries or line.first > 1 else b""
    return Row(
        key=key,
        revision=revision,
        incarnation=line.incarnation or revision,
        head=head,
        body=body,
        owner=line.owner,
        updated_at=latest if line.updated_at is None else line.updated_at,
        due_at=AT_ONCE if _waits(key, head, body, line.due_at) else line.due_at,
    )


def _waits(key: Key, head: int, body: bytes, due_at: float | None) -> bool:
    """Tell whether somebody has to look at a conversation at once that is not due, or later: it rested, or who wrote the line has set no
    time. What has paused its bot need not have come with it."""
    if key.tenant.startswith(RESERVED) or not body:
        return False
    try:
        record = record_from(key, body)
    except ChatkeepError:
        return False
    if record.paused:
        return False
    unread = head > record.cursor
    return unread or bool(record.reminders) if due_at is None else unread and not record.retry_at


def entry_from(key: Key, line: AnyLine, number: int) -> Entry:
    """Return the entry that a line describes, which has to have this *number*. Raises `BadMessage`."""
    if not isinstance(line, EntryLine):
        raise BadMessage(f"{key}: entry {number} is missing")
    if line.number not in (None, number):
        raise BadMessage(f"{key}: this entry is number {line.number}, where {number} belongs")
    if line.body is not UNSET:
        return Entry(number, line.id, line.letter, _bytes_of(line.body))
    if line.role is UNSET or (not line.redacted and (line.at is None or line.content is UNSET)):
        raise BadMessage(f"{key}: entry {number} has no role, time (at) or content")
    if line.id:
        message_id(key, line.id)
    letter = LETTERS[line.role]
    if line.redacted:
        return Entry(number, line.id, letter, b"")
    assert line.content is not UNSET
    rest = b"%d,%s" % (line.at or 0, bytes(line.content))
    reply_from = line.reply_from or line.reply_to
    if line.metadata is not UNSET or line.channel:
        metadata = b"{}" if line.metadata is UNSET else bytes(line.metadata)
        # (As `entry_for` writes them.)
        rest += b",%d,%d,%s" % (line.reply_to, reply_from, metadata)
        rest += b"," + msgspec.json.encode(line.channel) if line.channel else b""
    elif line.reply_to:
        rest += b",%d" % line.reply_to if reply_from == line.reply_to else b",%d,%d" % (line.reply_to, reply_from)
    entry = Entry(number, line.id, letter, checked_body(key, b'["', rest + b"]"))
    try:
        message = message_from(key, "", entry)
    except ChatkeepError as fault:
        raise BadMessage(f"{key}: entry {number} cannot be read: {fault}") from fault
    for what, value in (("content", message.content), ("metadata", message.metadata), ("channel", message.channel)):
        json_of(key, value, what, STORABLE)
    return entry


def _record_body(key: Key, shown: bytes) -> bytes:
    body = checked_body(key, b'{"crc":"', shown[1:])
    try:
        state = msgspec.json.decode(record_from(key, body).state)
    except (ChatkeepError, msgspec.MsgspecError) as fault:
        raise BadMessage(f"{key}: the record cannot be read: {fault}") from fault
    json_of(key, state, "state", STORABLE)
    return body


def _bytes_of(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as fault:
        raise BadMessage(f"body is not base64: {fault}") from fault
