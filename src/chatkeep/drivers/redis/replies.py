"""What the replies of a Redis mean: answers of the verbs, and the errors that it says. `scripts` is what was asked."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from msgspec import structs

from ...errors import ChatkeepError, Conflict, Corrupt, Duplicate, Replaced, Unavailable, Uncertain
from ..base import RECENT_GRAIN_S, Append, Appended, Counted, Entries, Entry, Erase, Key, Read, Row, Scan, Write
from ..packing import MARKS, unpack
from .scripts import Meta, Place, ScriptRun, changed_at, key_of


def meta_of(reply: Any) -> Meta:
    """Return what META says, read or made: epoch, format, number of buckets, and the epoch that every bucket once had."""
    return Meta(*((word or b"").decode(errors="replace") for word in reply))


def places_in(act: Scan, pages: Iterable[list[bytes]], share: int, limit: int) -> tuple[list[Place], bool]:
    """Return the next places, *limit* at most, of what the buckets answered to `Acts.scan`, and whether there are more."""
    start = len(act.owner.encode()) + 1 if act.index == "owner" else 0
    found: list[Place] = []
    ends: list[Place] = []
    for page in pages:
        if act.index in ("key", "owner"):
            places = [(0.0, member[start:]) for member in page]
        else:
            places = [(float(score), member) for member, score in zip(page[::2], page[1::2], strict=True)]
        found += places
        if len(places) >= share:
            ends.append(places[-1])
    found.sort()
    # A bucket that gave its whole share may have more, all behind the last one that it gave.
    known = bisect_right(found, min(ends)) if ends else len(found)
    return found[: min(known, limit)], bool(ends) or known > limit


def read_answer(act: Read, reply: Any) -> tuple[Row, list[Entry]] | None:
    """Return the answer of `Acts.read`."""
    return None if reply is None else (_row(act.key, reply[0]), _page(act.key, reply[1]))


def rows_answer(places: Iterable[Place], reply: Any) -> list[Row | None]:
    """Return the answer of one of `Acts.rows`; None for what cannot be told without looking closer."""
    return [
        None if stored is None else _found(key_of(member), stored)
        for (_, member), stored in zip(places, reply, strict=True)
    ]


def moments_answer(places: Iterable[Place], reply: Any) -> list[Place]:
    """Return the answer of one of `Acts.moments`, as `moment_of` says it of a row; for one without a time of its place's step, the
    beginning of that."""
    return [(-_time_in(at, stored), at[1]) for at, stored in zip(places, reply, strict=True)]


def _time_in(at: Place, stored: bytes | None) -> float:
    began = changed_at(at)
    try:
        time = float(stored or b"")
    except ValueError:
        return began
    return time if began <= time < began + RECENT_GRAIN_S else began


def _found(key: Key, stored: list[Any]) -> Row | None:
    try:
        return _row(key, stored)
    except Corrupt:
        return None


def entries_answer(act: Entries, reply: Any) -> list[Entry]:
    """Return the answer of `Acts.entries`."""
    if act.ids is not None:
        return _log(act.key, zip(reply[::2], reply[1::2], strict=True))
    return _page(act.key, reply)


def _page(key: Key, reply: Any) -> list[Entry]:
    first, stored = reply
    return _log(key, enumerate(stored, first))


def _log(key: Key, stored: Iterable[tuple[int, bytes]]) -> list[Entry]:
    try:
        return [_entry(int(number), entry) for number, entry in stored]
    except (ValueError, IndexError) as fault:
        raise Corrupt(f"{key}: an entry of its log cannot be read ({fault}). Nothing was changed.") from fault


def append_answer(act: Append, reply: Any) -> Appended:
    """Return the answer of `Acts.append`. Raises `Conflict`."""
    key = act.key
    if reply[0] == b"erased":
        row = None if reply[1] is None else _row(key, reply[1])
        raise Conflict(
            f"{key} was erased later than this act; nothing was written.", row=row, erased_at=float(reply[2])
        )
    return Appended(_row(key, reply[0]), _page(key, reply[1]), _numbers(reply[2]))


def write_answer(act: Write, reply: Any) -> Row:
    """Return the answer of `Acts.write`. Raises `Conflict` and `Duplicate`."""
    row = act.row
    if isinstance(reply, int):
        return row if reply == row.head else structs.replace(row, head=reply)
    key, verdict = row.key, reply[0]
    if verdict == b"erased":
        at = None if reply[1] is None else float(reply[1])
        said = "nothing is there" if at is None else "it was erased"
        raise Conflict(f"{key}: {said}; nothing was written.", erased_at=at)
    stored = _row(key, reply[1])
    if verdict == b"done":
        return stored
    news = _page(key, reply[2])
    if verdict == b"duplicate":
        known = _numbers(reply[3])
        raise Duplicate(f"{key}: {', '.join(known)} is in the log", row=stored, numbers=known, entries=news)
    raise Conflict(f"{key}: another revision is stored; nothing was written.", row=stored, entries=news)


def erase_answer(act: Erase, reply: Any) -> None:
    """Take the answer of `Acts.erase`. Raises `Conflict`."""
    if not isinstance(reply, int):
        raise Conflict(f"{act.key}: another revision is stored; nothing was erased.", row=_row(act.key, reply))


def count_answer(reply: Any) -> Counted:
    """Return the answer of `Acts.count`."""
    return Counted(int(reply[0]), float(reply[1]))


class Refused(Unavailable):
    """The server answered, and will not do it."""


CERTAIN = "LOADING READONLY CLUSTERDOWN TRYAGAIN MASTERDOWN OOM MISCONF NOPERM NOAUTH NOREPLICAS BUSY CROSSSLOT NOSCRIPT MOVED ASK"
_WRAPPED = rf"(?:^|[\s-])({'|'.join(CERTAIN.split())}|WRONGTYPE|CORRUPT|REPLACED)\b"
_FORBIDDEN = r"can't (?:run|access)|[Nn]o permissions"


def refusal(words: str, act: ScriptRun | None) -> ChatkeepError:
    """Return what an error reply means for *act*, or for a plain command. Redis before 7 wraps the words of an error that a script met."""
    found = re.search(_WRAPPED, words)
    code = found[1] if found else "NOPERM" if re.search(_FORBIDDEN, words) else ""
    writes = act is not None and act.writes
    done = "Nothing was written" if writes else "Nothing was read"
    keys = act.home.keys if act is not None else ()
    name = keys[1].decode(errors="replace").replace("\0", "/") if len(keys) > 1 else "its meta"
    if code == "REPLACED":
        return Replaced(
            f"{done}: this store was emptied, or another has taken its place, since it was opened. Look at what happened to "
            "it; then start chatkeep anew."
        )
    if code in ("CORRUPT", "WRONGTYPE"):
        return Corrupt(f"{done}: what is stored at {name} is not what chatkeep put there ({words}). Restore it.")
    if code == "NOPERM":
        return Refused(f"{done}: its user may not do that ({words}). `chatkeep check` says what it needs.")
    if code or not writes:
        return Refused(f"{done}: the server says {words}. Try again when that is mended.")
    return Uncertain(f"{name}: the server says {words}; perhaps it was written. Send it again under the same id.")


def _entry(number: int, stored: bytes) -> Entry:
    id_size, role_size, rest = stored.split(b":", 2)
    middle = int(id_size)
    end = middle + int(role_size)
    body = rest[end:]
    return Entry(number, rest[:middle].decode(), rest[middle:end].decode(), unpack(body) if body[:1] in MARKS else body)


def _row(key: Key, stored: list[Any]) -> Row:
    revision, incarnation, head, at, _, owner, due, lease, until, body = stored
    try:
        return Row(
            key=key,
            revision=revision.decode(),
            incarnation=incarnation.decode(),
            head=int(head),
            body=unpack(body or b""),
            owner=(owner or b"").decode(),
            updated_at=float(at),
            due_at=float(due) if due else None,
            lease=lease.decode() if lease else None,
            leased_until=float(until or 0.0),
        )
    except (ValueError, TypeError, AttributeError) as fault:
        raise Corrupt(f"{key}: its row cannot be read ({fault}). Nothing was changed.") from fault


def _numbers(flat: list[bytes]) -> dict[str, int]:
    return {id.decode(): int(number) for id, number in zip(flat[::2], flat[1::2], strict=True)}
