"""Records and messages to bytes and back; what cannot be stored everywhere is refused here, before anything is touched.

Both forms are JSON text that any SQL engine can read, and both open with a checksum that is bound to the
conversation's key, so that a flipped bit, a cut, or two swapped rows are seen as `Corrupt` and never as something
else.

    record   {"crc":"1c291ca3","schema":1,"state":{...},"cursor":4,...}
    entry    ["1c291ca3",1763697600123,"text or parts",reply_to,reply_from,{metadata}]      (what is missing at the end is empty)
"""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Annotated, Any, Generic, cast

import msgspec
from msgspec import Meta, Raw, Struct

from .drivers.base import Entry, Key
from .errors import BadKey, BadMessage, Corrupt, Misconfigured, TooLarge, Unsupported
from .model import Content, Message, Role, State

FORMAT = 1
DEEPEST = 64
PLAIN_LEVELS = 5  # deeper values are looked at by slower code; each level makes the type that says so twice as large
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
    may start. off: the bot is switched off here. dropped: entries up to this number are gone by retention.
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

_DIGITS = bytes(48 if 48 <= byte < 58 else byte for byte in range(256))
_LONG_NUMBER = b"0" * 19


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
    said = json_of(key, content, "this message")
    extra = b""
    if metadata:
        extra = b",%d,%d,%s" % (reply_to, reply_from, json_of(key, metadata, "its metadata"))
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
    """

    def __init__(self, kind: type[State], *, schema: int = 1, upgrades: Upgrades | None = None, limit: int) -> None:
        if not isinstance(schema, int) or schema < 0:
            raise Misconfigured(f"schema is a whole number from 1, or 0 to look only, not {schema!r}.")
        self.schema = schema
        self.kind = kind
        self._upgrades = dict(upgrades or {})
        self._limit = limit
        self._pydantic = hasattr(kind, "model_validate_json")
        if not (kind is dict or self._pydantic or is_dataclass(kind) or issubclass(kind, Struct)):
            raise Misconfigured(f"state={kind.__name__} is not a dict, dataclass, msgspec Struct or pydantic model.")
        if missing := [n for n in range(min(self._upgrades, default=schema), schema) if n not in self._upgrades]:
            raise Misconfigured(f"schema={schema}, but upgrades has no step from {', '.join(map(str, missing))}.")
        try:
            kind()
        except Exception as fault:
            raise Misconfigured(
                f"state={kind.__name__} cannot be made without arguments ({fault}); give every field a default."
            ) from fault
        self._decode = msgspec.json.Decoder(kind).decode if not self._pydantic else kind.model_validate_json  # type: ignore[attr-defined]

    def fresh(self, key: Key) -> Raw:
        """The state that a session starts with: `kind()`."""
        return self.encode(key, self.kind())

    def encode(self, key: Key, state: State) -> Raw:
        """*state* as JSON. Raises `BadMessage` or `TooLarge`, naming the key."""
        if self.schema == 0 and state:
            raise Unsupported(f"{key}: opened with schema=0, to look only; nothing was stored.")
        if not isinstance(state, self.kind):
            raise BadMessage(
                f"{key}: the state is {type(state).__name__}, not {self.kind.__name__}; nothing was stored."
            )
        if self._pydantic:
            raw = _checked(key, cast(Any, state).model_dump_json().encode(), cast(Any, state).model_dump(), "the state")
        else:
            raw = json_of(key, state, "the state", keyed=True)
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
            return cast(State, self._decode(raw if not self._pydantic else bytes(raw)))
        except Unsupported:
            raise
        except Exception as fault:  # the application's own types may raise anything
            raise Corrupt(
                f"{key}: the state of schema {schema} is not a {self.kind.__name__}: {fault}. Nothing was changed."
            ) from fault

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
        return Raw(_encode(plain))


def json_of(key: Key, value: Any, what: str, *, keyed: bool = False) -> bytes:
    """*value* as JSON, if every store can keep it. Raises `BadMessage`, naming the key and *what* it is.

    Keys that are numbers, dates and the like become text; of what is *keyed*, they must be text already.
    """
    try:
        raw = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as fault:
        raise BadMessage(f"{key}: {what} cannot be stored as JSON: {fault}. Nothing was touched.") from fault
    if type(value) is str and "\0" not in value:
        return raw
    if type(value) in (dict, list) and _is_plain(value):
        # (The first look is at one byte, and nearly always enough.)
        if b"\\" not in raw or b"\\u0000" not in raw:
            return raw
    elif keyed and not _has_text_keys(value):
        raise BadMessage(f"{key}: {what} has a key that is no text, which JSON cannot keep. Nothing was touched.")
    return _checked(key, raw, value, what)


def _plain_at(levels: int) -> Any:
    """The type of JSON of so many levels, but for its NUL characters, that every store keeps as it is."""
    number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
    scalar = str | number | finite | bool | None
    if not levels:
        return scalar
    inner = _plain_at(levels - 1)
    return scalar | list[inner] | dict[str, inner]  # type: ignore[valid-type]


_Plain = msgspec.defstruct("_Plain", [("value", _plain_at(PLAIN_LEVELS))], array_like=True, gc=False)


def _is_plain(value: Any) -> bool:
    """The quick way to a yes for what can be stored; whoever gets a no has to look closer."""
    try:
        msgspec.convert((value,), _Plain)
    except Exception:  # objects of other kinds may raise anything
        return False
    return True


def _has_text_keys(value: Any) -> bool:
    pending = [value]
    for item in pending:  # which grows
        if isinstance(item, dict):
            if not all(isinstance(name, str) for name in item):
                return False
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item
    return True


def _checked(key: Key, raw: bytes, value: Any, what: str) -> bytes:
    """Refuses what some engine or language would lose. Cheap tests on the bytes say whether the value itself must be
    looked at."""
    if (
        raw.rfind(b"null") >= 0  # what NaN and infinity are encoded as (rfind takes half the time of `in` here)
        or (b"\\" in raw and b"\\u0000" in raw)
        # (Taking brackets out tells their number in a tenth of the time of counting them.)
        or 2 * len(raw) - len(raw.replace(b"{", b"")) - len(raw.replace(b"[", b"")) > DEEPEST
        or (
            # (In 19 digits every third byte is one, six times: a look at these saves nearly everybody one at all.)
            raw[::3].translate(_DIGITS).rfind(b"000000") >= 0 and raw.translate(_DIGITS).rfind(_LONG_NUMBER) >= 0
        )
    ) and (reason := _unstorable(msgspec.to_builtins(value))):
        raise BadMessage(f"{key}: {what} holds {reason}, which cannot be stored everywhere. Nothing was touched.")
    return raw


def _unstorable(value: Any) -> str:
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > DEEPEST + 1:
            return f"more than {DEEPEST} levels of nesting"
        if isinstance(item, str) and "\0" in item:
            return "a NUL character"
        if isinstance(item, float) and not math.isfinite(item):
            return f"the number {item}"
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            return "a number of more than 64 bits"
        if isinstance(item, dict):
            pending += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple):
            pending += [(part, depth + 1) for part in item]
    return ""


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
