"""What the verbs say to the worker, and what its answers mean. No connection is in here.

Everything is JSON. A body that is text stays text, so that the worker, and whoever looks into an object's database, can read it; any
other is {"b": base64}.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import msgspec
from msgspec import structs

from ...errors import Conflict, Corrupt, Duplicate, TooLarge, Unsupported
from ..base import (
    RECENT_GRAIN_S,
    Append,
    Appended,
    Count,
    Counted,
    Entries,
    Entry,
    Erase,
    Index,
    Key,
    Read,
    Row,
    Scan,
    Write,
    row_at,
)
from ..scanning import due_of

Place = tuple[float, str, str]
"""Where a row stands in an index: its score there (0 where names order), tenant and id."""

BODY_MOST = 2_000_000
"""What an object's database takes as one value."""

FAR = 1 << 53  # what the worker's numbers hold exactly

_said = msgspec.json.Encoder().encode


def read(act: Read) -> bytes:
    """`Driver.read`."""
    return _said([*act.key, "read", bounded(act.tail)])


def read_of_many(act: Read) -> bytes:
    """Read one of the rows of a scan, which leaves places in memory to those who ask for one conversation."""
    return _said([*act.key, "read", bounded(act.tail), True])


def entries(act: Entries) -> bytes:
    """`Driver.entries`."""
    ids = None if act.ids is None else [id for id in act.ids if id]
    return _said([*act.key, "entries", bounded(act.after), bounded(act.before), ids, bounded(act.limit)])


def append(act: Append) -> bytes:
    """`Driver.append`. Raises `TooLarge`."""
    token, until = act.lease or (None, 0.0)
    said = _packed(act.key, act.entries)
    times = _time(act.at), _time(act.due_at)
    return _said([*act.key, "append", said, act.revision, *times, token, _time(until), bounded(act.tail), act.owner])


def write(act: Write) -> bytes:
    """`Driver.write`. Raises `TooLarge`."""
    row, key = act.row, act.row.key
    body = _text(key, row.body)
    fields = [row.revision, row.incarnation, row.head, body, row.owner, _time(row.updated_at), _time(row.due_at)]
    fields += [row.lease, _time(row.leased_until)]
    rest = [_packed(key, act.entries), bounded(act.since), bounded(act.drop), list(map(bounded, act.blank))]
    return _said([*key, "write", fields, act.replaces, *rest])


def erase(act: Erase) -> bytes:
    """`Driver.erase`."""
    return _said([*act.key, "erase", _time(act.at), act.revision])


def count(act: Count) -> bytes:
    """`Driver.count`."""
    return _said([act.name, _time(act.window_s), _time(act.at), act.cost])


def places(act: Scan, after: Place | None, limit: int) -> bytes:
    """Return the places of the next *limit* rows of each shard, from behind the place *after*."""
    return _said([act.index, act.tenant, act.owner, _time(act.until), after, bounded(limit)])


def place_of(index: Index, row: Row) -> Place:
    """Return where *row* stands in an index."""
    score = due_of(row) if index == "due" else -row.recent if index == "recent" else 0
    return float(score), *row.key


def is_found(index: Index, row: Row, at: Place) -> bool:
    """Tell whether *row*, which an index has at a place, stands there, or behind it where it is due later by now: an index may be told of
    that after the act is answered."""
    place = place_of(index, row)
    return place == at or (index == "due" and at < place and row.wake is not None)


def step_of(row: Row) -> Place:
    """Return a place before all others of *row*'s step of the index `recent`: no id is so short."""
    return float(-row.recent), "", ""


def moment_of(row: Row) -> tuple[float, Key]:
    """Return where *row* stands among those changed lately, exactly."""
    return -row.updated_at, row.key


def key_of(place: Place) -> Key:
    """Return whose place it is."""
    return Key(place[1], place[2])


def unreadable(index: Index, at: Place) -> Row:
    """Return what stands for a row that cannot be read, at its place of an index."""
    changed = -at[0] * RECENT_GRAIN_S if index == "recent" else 0.0
    due = at[0] if index == "due" else None
    return row_at(key_of(at), updated_at=changed, due_at=due)


# What the answers mean


def places_answer(told: Any) -> list[Place]:
    """Return the places that the shards have answered, in order."""
    return sorted((float(score), tenant, id) for score, tenant, id in told["places"])


def read_answer(act: Read, told: Any) -> tuple[Row, list[Entry]] | None:
    """Return the answer of `read`."""
    return (_row(act.key, told["row"]), _log(act.key, told["tail"])) if "row" in told else None


def entries_answer(act: Entries, told: Any) -> list[Entry]:
    """Return the answer of `entries`."""
    return _log(act.key, told["tail"])


def append_answer(act: Append, told: Any) -> Appended:
    """Return the answer of `append`. Raises `Conflict`."""
    key = act.key
    row = None if told["row"] is None else _row(key, told["row"])
    if row is None or "erased" in told:
        said = f"{key} was erased later than this act; nothing was written."
        raise Conflict(said, row=row, erased_at=float(told["erased"]))
    return Appended(row, _log(key, told["tail"]), dict(told["known"]))


def write_answer(act: Write, told: Any) -> Row:
    """Return the answer of `write`. Raises `Conflict` and `Duplicate`."""
    row, key = act.row, act.row.key
    if "head" in told:
        return row if told["head"] == row.head else structs.replace(row, head=told["head"])
    if told["row"] is None:
        at = told["erased"]
        said = "nothing is there" if at is None else "it was erased"
        raise Conflict(f"{key}: {said}; nothing was written.", erased_at=None if at is None else float(at))
    stored = _row(key, told["row"])
    if "duplicate" in told:
        known = dict(told["duplicate"])
        said = f"{key}: {', '.join(known)} is in the log"
        raise Duplicate(said, row=stored, numbers=known, entries=_log(key, told["tail"]))
    if "conflict" in told:
        said = f"{key}: another revision is stored; nothing was written."
        raise Conflict(said, row=stored, entries=_log(key, told["tail"]))
    return stored


def erase_answer(act: Erase, told: Any) -> None:
    """Take the answer of `erase`. Raises `Conflict`."""
    if "conflict" in told:
        raise Conflict(f"{act.key}: another revision is stored; nothing was erased.", row=_row(act.key, told["row"]))


def count_answer(told: Any) -> Counted:
    """Return the answer of `count`."""
    return Counted(told["hits"], float(told["ends"]))


# Fields and entries


def bounded(number: int | None) -> int | None:
    """Return *number*, or one as far out that the worker can still count with."""
    return None if number is None else max(-FAR, min(FAR, number))


def _time(at: float | None) -> float | None:
    if at is not None and not isfinite(at):
        raise Unsupported(f"{at} is no time; nothing was done.")
    return at


def _text(key: Key, body: bytes) -> str | dict[str, str]:
    if len(body) > BODY_MOST:
        raise TooLarge(
            f"{key}: a Durable Object holds {BODY_MOST:,} bytes as one value, not {len(body):,}; nothing was written."
        )
    if b"\0" not in body:
        try:
            return body.decode()
        except UnicodeDecodeError:
            pass
    return {"b": b64encode(body).decode()}


def _packed(key: Key, entries: Sequence[Entry]) -> list[Any]:
    return [[entry.id, entry.role, _text(key, entry.body)] for entry in entries]


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else b64decode(body["b"])


def _log(key: Key, tail: Iterable[Any]) -> list[Entry]:
    try:
        return [Entry(number, id, role, _bytes(body)) for number, id, role, body in tail]
    except (ValueError, TypeError, KeyError) as fault:
        raise Corrupt(f"{key}: an entry of its log cannot be read ({fault}). Nothing was changed.") from fault


def _row(key: Key, stored: Any) -> Row:
    try:
        revision, incarnation, head, body, owner, at, due, lease, until = stored
        return Row(
            key=key,
            revision=revision,
            incarnation=incarnation,
            head=head,
            body=_bytes(body),
            owner=owner,
            updated_at=float(at),
            due_at=None if due is None else float(due),
            lease=lease,
            leased_until=float(until),
        )
    except (ValueError, TypeError, KeyError) as fault:
        raise Corrupt(f"{key}: its row cannot be read ({fault}). Nothing was changed.") from fault
