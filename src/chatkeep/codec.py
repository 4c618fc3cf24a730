"""Records and messages to bytes and back; what cannot be stored everywhere is refused here, before anything is touched.

Both forms are JSON text that any SQL engine can read, and both open with a checksum that is bound to the
conversation's key, so that a flipped bit, a cut, or two swapped rows are seen as `Corrupt` and never as something
else.

    record   {"crc":"1c291ca3","schema":1,"state":{...},"cursor":4,...}
    entry    ["1c291ca3",1763697600123,"text or parts",reply_to,reply_from,{metadata}]      (what is missing at the end is empty)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Generic, cast

import msgspec
from msgspec import Raw, Struct

from .drivers.base import Entry, Key
from .errors import BadKey, BadMessage, Corrupt, Misconfigured, TooLarge, Unsupported, UsageError
from .model import Content, Message, Role, State
from .shapes import Shape, Unfit, encoded, shared, told

FORMAT = 1
LONGEST_ID = 512
NONE = Raw(b"null")
RESERVED = "~"
"""Tenants and message ids that start with it are chatkeep's own."""

LETTERS: dict[Role, str] = {"user": "u", "assistant": "a", "operator": "o", "system": "s", "event": "e"}
ROLES = {letter: role for role, letter in LETTERS.items()}
"""Roles as the store keeps them, in every entry."""

Upgrades = Mapping[int, Callable[[Any], Any]]


class Reminder(Struct, array_like=True, frozen=True, gc=False):
    """An event that comes to a conversation at a time, unless the user writes before; *keep*: even then."""

    at: float
    name: str
    data: Raw = NONE
    keep: bool = False


class Delivery(Struct, array_like=True, frozen=True, gc=False):
    """How far the replies of a conversation have gone out through its channel.

    upto: what is numbered up to it is out, or was given up. sending: this one is just being sent, perhaps by somebody who died
    of it. tries, at: attempts at the next one, and when it is tried again. half, parts, done: a reply of which so many requests
    are done, under these ids of the platform. again: numbers to be sent once more.
    """

    upto: int = 0
    sending: int = 0
    tries: int = 0
    at: float = 0.0
    parts: int = 0
    again: tuple[int, ...] = ()
    half: int = 0
    done: tuple[str, ...] = ()


class Record(Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """What the bot knows of a conversation, and how far it has read the log.

    schema, state: of the live session (null: there is none). session: its number. since: first entry number of the
    session. cursor: everything numbered up to it is handled or needs no handling. active_at: time of the last message
    handled. begun, raised, retry_at: attempts at the first unread message, how many of them raised, and when the next
    may start. deaths: processes in a row that ended while it was in flight. alone: the claim was taken to try it alone, with no
    other handler in that process. off: the bot is switched off here. dropped: entries up to this number are gone by retention.
    oldest_at: time of the first one left (0: not known). dead: numbers set aside. steps: results of what the turn of the
    first unread message has done so far, as JSON. reminders: what comes later. delivery: None where replies go nowhere.
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
    off: bool = False
    dropped: int = 0
    oldest_at: float = 0.0
    dead: tuple[int, ...] = ()
    steps: dict[str, Raw] = {}
    reminders: tuple[Reminder, ...] = ()
    delivery: Delivery | None = None
    deaths: int = 0
    alone: bool = False


class Line(Struct, array_like=True, frozen=True):
    """An entry's body."""

    crc: str
    at: int
    content: Content
    reply_to: int = 0
    reply_from: int = 0
    metadata: dict[str, Any] = {}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_decode_record = msgspec.json.Decoder(Record).decode
_decode_line = msgspec.json.Decoder(Line).decode


@lru_cache(maxsize=4096, typed=True)
def key_for(tenant: str, conversation: str) -> Key:
    """The key of a conversation. Raises `BadKey`."""
    for what, text in (("tenant", tenant), ("conversation id", conversation)):
        if not isinstance(text, str):
            raise BadKey(f"The {what} must be text, not {type(text).__name__}; nothing was touched.")
        if "\0" in text or (not text.isascii() and not _is_unicode(text)) or len(text.encode()) > LONGEST_ID:
            raise BadKey(
                f"The {what} {text[:40]!r} must be UTF-8 of at most {LONGEST_ID} bytes without NUL; nothing was touched."
            )
    if tenant.startswith(RESERVED):
        raise BadKey(f"Tenants that start with {RESERVED!r} are chatkeep's own ({tenant[:40]!r}); nothing was touched.")
    if not conversation:
        raise BadKey(
            f"The conversation id is empty (tenant {tenant!r}); nothing was touched. Give each conversation a name."
        )
    return Key(tenant, conversation)


def message_id(key: Key, given: str) -> str:
    """*given*, if it can be stored everywhere. Raises `BadMessage`."""
    if isinstance(given, str) and given.isascii() and 0 < len(given) <= LONGEST_ID and "\0" not in given:
        return given
    if (
        not isinstance(given, str)
        or not given
        or "\0" in given
        or not _is_unicode(given)
        or len(given.encode()) > LONGEST_ID
    ):
        raise BadMessage(
            f"{key}: a message id is 1 to {LONGEST_ID} bytes of UTF-8 without NUL, not {given!r:.60}; nothing was touched."
        )
    return given


def entry_for(
    key: Key,
    content: Content,
    *,
    id: str,
    role: Role,
    created_at: float,
    limit: int,
    reply_to: int = 0,
    reply_from: int = 0,
    metadata: dict[str, Any] | None = None,
) -> Entry:
    """A log entry, ready to be stored. Raises `BadMessage` or `TooLarge`, naming the key."""
    if not isinstance(content, str) and not (
        isinstance(content, list) and all(isinstance(part, dict) for part in content)
    ):
        raise BadMessage(
            f"{key}: content is text or a list of JSON objects, not {type(content).__name__}; nothing was touched."
        )
    if metadata is not None and not isinstance(metadata, dict):
        raise BadMessage(f"{key}: metadata is a dict, not {type(metadata).__name__}; nothing was touched.")
    said = json_of(key, content, "content")
    extra = b""
    if metadata:
        extra = b",%d,%d,%s" % (reply_to, reply_from, json_of(key, metadata, "metadata"))
    elif reply_to:
        extra = b",%d" % reply_to if reply_from == reply_to else b",%d,%d" % (reply_to, reply_from)
    rest = b"%d,%s%s]" % (round(created_at * 1000), said, extra)
    if len(rest) > limit:
        raise TooLarge(
            f"{key}: this message takes {len(rest):,} bytes, {limit:,} are allowed; nothing was touched. Refer to attachments by URL."
        )
    return Entry(0, id, LETTERS[role], b'["%s",%s' % (_crc(key, rest), rest))


def message_from(key: Key, born: str, entry: Entry) -> Message:
    """The message in a log entry. Raises `Corrupt`."""
    _check(key, entry.body, b'["', f"log entry {entry.number}")
    try:
        line = _decode_line(entry.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise Corrupt(f"{key}: log entry {entry.number} cannot be read ({fault}). Nothing was changed.") from fault
    role = ROLES.get(entry.role)
    if role is None:
        raise Corrupt(
            f"{key}: log entry {entry.number} has the role {entry.role!r}, which there is not. Nothing was changed."
        )
    reply_to = line.reply_to or None
    return Message(
        id=entry.id or f"{born}.{entry.number}",
        number=entry.number,
        role=role,
        content=line.content,
        created_at=line.at / 1000,
        reply_to=reply_to,
        reply_from=line.reply_from or reply_to,
        metadata=line.metadata,
    )


def body_of(key: Key, record: Record) -> bytes:
    """The stored form of *record*."""
    raw = _encode(record)
    rest = b'"format":%d%s%s' % (FORMAT, b"," if len(raw) > 2 else b"", raw[1:])
    return b'{"crc":"%s",%s' % (_crc(key, rest), rest)


def record_from(key: Key, body: bytes) -> Record:
    """The record in *body*; the blank one when it is empty. Raises `Corrupt`, or `Unsupported` if newer code wrote
    it."""
    if not body:
        return Record()
    _check(key, body, b'{"crc":"', "record")
    try:
        record = _decode_record(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as fault:
        raise Corrupt(f"{key}: the record cannot be read ({fault}). Nothing was changed.") from fault
    if record.format > FORMAT:
        raise Unsupported(
            f"{key}: the record has format {record.format}, this version reads up to {FORMAT}. Deploy the newer one."
        )
    return record


class StateCodec(Generic[State]):
    """Turns the application's state into plain JSON and back: a dict, a dataclass, a msgspec Struct or a pydantic
    model.

    *schema* is the number of its shape; `upgrades[n]` takes the plain JSON value of schema n to that of n + 1. Old
    states are upgraded when they are next loaded, and stored in the new shape with the next turn. With schema=0 states
    of any schema are shown as plain JSON, and none can be written.

    Promised: what `encode` gives is read by `decode` as the same state (`Shape.encode` says what is the same), and `kind()`
    was seen to be. Not promised: that a state is read by code of another shape, which upgrades are for.
    """

    def __init__(self, kind: type[State], *, schema: int = 1, upgrades: Upgrades | None = None, limit: int) -> None:
        if not isinstance(schema, int) or schema < 0:
            raise Misconfigured(f"schema is a whole number from 1, or 0 to look only, not {schema!r}.")
        self.schema = schema
        self.kind = kind
        self._upgrades = dict(upgrades or {})
        self._limit = limit
        try:
            self.shape: Shape[State] = Shape(kind)
        except Exception as fault:
            raise Misconfigured(str(fault)) from fault
        if missing := [n for n in range(min(self._upgrades, default=schema), schema) if n not in self._upgrades]:
            raise Misconfigured(f"schema={schema}, but upgrades has no step from {', '.join(map(str, missing))}.")
        try:
            fresh, another = kind(), kind()
        except Exception as fault:
            raise Misconfigured(
                f"state={self.shape.name} cannot be made without arguments ({fault}); give every field a default."
            ) from fault
        try:
            self.shape.encode(fresh)
        except Unfit as unfit:
            raise Misconfigured(
                f"state={self.shape.name}: a fresh one would not come back from the store as it is: {unfit}. Give that "
                "member another type, default or serializer, or keep it elsewhere."
            ) from unfit
        if member := shared(fresh, another, "state"):
            raise Misconfigured(
                f"state={self.shape.name}: {member} is shared by all fresh states; give it a default_factory."
            )

    def fresh(self) -> Raw:
        """The state that a session starts with: `kind()`."""
        return Raw(self.shape.encode(self.kind()))

    def encode(self, key: Key, state: State) -> Raw:
        """*state* as JSON that will be read as the same state. Raises `BadMessage`, naming the key and the member, or `TooLarge`."""
        if self.schema == 0:
            raise Unsupported(f"{key}: opened with schema=0, to look only; nothing was stored.")
        if not isinstance(state, self.shape.type):
            raise BadMessage(f"{key}: the state is {type(state).__name__}, not {self.shape.name}; nothing was stored.")
        try:
            raw = self.shape.encode(state)
        except Unfit as unfit:
            raise BadMessage(f"{key}: {unfit}. Nothing was stored. {self.shape.advice}") from unfit
        if len(raw) > self._limit:
            raise TooLarge(
                f"{key}: the state takes {len(raw):,} bytes, {self._limit:,} are allowed; nothing was stored. Keep less, or elsewhere."
            )
        return Raw(raw)

    def decode(self, key: Key, raw: Raw, schema: int) -> State:
        """The state in *raw*, upgraded. Raises `Unsupported` if newer code wrote it, `Corrupt` if it does not fit."""
        if self.schema == 0:
            return cast(State, _decode(raw))
        if schema > self.schema:
            raise Unsupported(
                f"{key}: the state has schema {schema}, this code knows up to {self.schema}. Nothing was changed and its messages stay "
                "unread; deploy the newer code."
            )
        try:
            if schema < self.schema:
                raw = self._upgraded(key, raw, schema)
            return self.shape.decode(raw)
        except Unsupported:
            raise
        except Exception as fault:  # the application's own types may raise anything
            raise Corrupt(
                f"{key}: the state of schema {schema} is not a {self.shape.name}: {told(fault)}. Nothing was changed. "
                "Read it as plain JSON (chatkeep show), mend the code, or clear the state or the member (forget)."
            ) from fault

    def cleared(self, key: Key, raw: Raw, schema: int, slot: str | None) -> tuple[Raw, int]:
        """
        What is left of *raw* when *slot* is cleared, or all of it, and its schema. What is cleared need not be readable.

        A slot is taken out of the stored JSON, so that it is read as in a fresh state; other members stay as they are, also
        those that cannot be read. Raises `UsageError` where there can be no such slot, and `BadMessage` when a state that
        was readable would not be any more.
        """
        if slot is None:  # (Who only looks does not know what a fresh state is: without one, the session is over.)
            return (self.fresh(), self.schema) if self.schema else (NONE, schema)
        before = raw, schema
        if 0 < schema < self.schema:
            with suppress(Unsupported):
                raw, schema = self._upgraded(key, raw, schema), self.schema
        plain = _decode(raw)
        if not isinstance(plain, dict):
            raise UsageError(
                f"{key}: the state is stored as no object, so it has no slots; nothing was changed. Clear all of it."
            )
        stored = {name for name, own in self.shape.stored_names.items() if own == slot}
        if not stored and not self.shape.plain and slot not in plain:
            raise UsageError(f"{key}: {self.shape.name} has no slot {slot!r:.60}; nothing was changed.")
        left = Raw(_encode({name: value for name, value in plain.items() if name not in (stored or {slot})}))
        try:
            self.decode(key, left, schema)
        except (Corrupt, Unsupported) as fault:
            with suppress(Corrupt, Unsupported):
                self.decode(key, *before)
                raise BadMessage(
                    f"{key}: without {slot!r:.60} the state cannot be read; nothing was changed. Clear all of it, or change it."
                ) from fault
        return left, schema

    def _upgraded(self, key: Key, raw: Raw, schema: int) -> Raw:
        plain = _decode(raw)
        for step in range(schema, self.schema):
            if step not in self._upgrades:
                raise Unsupported(
                    f"{key}: the state has schema {step} and no upgrade leads on to {self.schema}. Add upgrades[{step}]."
                )
            try:
                plain = self._upgrades[step](plain)
            except Exception as fault:
                raise Unsupported(
                    f"{key}: upgrades[{step}] raised {type(fault).__name__}: {fault}. Nothing was changed and its messages stay "
                    "unread; mend the upgrade."
                ) from fault
        try:
            return Raw(encoded(plain, "the state"))
        except Unfit as unfit:
            raise Unsupported(
                f"{key}: the upgrades to schema {self.schema} gave what is not plain JSON: {unfit}. Nothing was changed and its messages "
                "stay unread; mend the upgrade."
            ) from unfit


def json_of(key: Key, value: Any, what: str) -> bytes:
    """*value* as JSON, if it is plain JSON and every store can keep it. Raises `BadMessage`, naming the key and the member of *what*."""
    try:
        return encoded(value, what)
    except Unfit as unfit:
        raise BadMessage(f"{key}: {unfit}. Nothing was touched.") from unfit


def _check(key: Key, body: bytes, opening: bytes, what: str) -> None:
    rest = body[len(opening) + 10 :]
    if body[: len(opening) + 10] != b'%s%s",' % (opening, _crc(key, rest)):
        raise Corrupt(
            f"{key}: the {what} is damaged (its checksum does not fit). Nothing was changed; restore it or erase the conversation."
        )


def _crc(key: Key, rest: bytes) -> bytes:
    return b"%08x" % zlib.crc32(rest, _seed(key))


@lru_cache(maxsize=4096)
def _seed(key: Key) -> int:
    return zlib.crc32(f"{len(key.tenant)}:{key.tenant}{key.id}".encode())


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
