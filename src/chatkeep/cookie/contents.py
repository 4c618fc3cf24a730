"""What a cookie holds: a whole conversation, or where one is. To bytes and back, and as a store for one request."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct, msgpack, structs

from ..drivers.base import Ability, Entry, Key, Row
from ..drivers.memory import MemoryDriver


class Kept(Struct, array_like=True, frozen=True):
    """A conversation at rest: its row, and as much of its log as there is room for, up to *head*."""

    revision: str
    incarnation: str
    head: int
    updated_at: float
    due_at: float | None
    body: bytes
    entries: list[tuple[str, str, bytes]]


class Contents(Struct, array_like=True, frozen=True):
    """The conversation *id*, until *expires* (seconds since 1970). *kept* None: it is in the store that `then` names."""

    id: str
    expires: int
    kept: Kept | None


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(Contents).decode


def to_bytes(contents: Contents) -> bytes:
    """Return the stored form of *contents*."""
    return _encode(contents)


def from_bytes(plain: bytes) -> Contents | None:
    """Return the contents in *plain*, which were sealed by us; None where another program has sealed something else."""
    try:
        return _decode(plain)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def row_of(key: Key, kept: Kept) -> tuple[Row, list[Entry]]:
    """Return the row of *kept*, and its entries with their numbers."""
    first = kept.head - len(kept.entries) + 1
    entries = [Entry(number, id, role, body) for number, (id, role, body) in enumerate(kept.entries, first)]
    row = Row(
        key=key,
        revision=kept.revision,
        incarnation=kept.incarnation,
        head=kept.head,
        body=kept.body,
        updated_at=kept.updated_at,
        due_at=kept.due_at,
    )
    return row, entries


def kept_from(row: Row, entries: Sequence[Entry]) -> Kept:
    """Return what is kept of *row* and *entries*."""
    lines = [(entry.id, entry.role, entry.body) for entry in entries]
    return Kept(row.revision, row.incarnation, row.head, row.updated_at, row.due_at, row.body, lines)


class RequestDriver(MemoryDriver):
    """A store with the one conversation of one request in it, or nothing."""

    abilities = frozenset({Ability.LOG, Ability.SCAN})

    def __init__(self, key: Key, kept: Kept | None) -> None:
        super().__init__()
        self.key = key
        if kept is not None:
            row, entries = row_of(key, kept)
            self._shelf.rows[key] = row
            self._shelf.logs[key] = {entry.number: entry for entry in entries}
            self._shelf.ids[key] = {entry.id: entry.number for entry in entries if entry.id}

    @property
    def kept(self) -> Kept | None:
        """The conversation as it is now, at rest; None while there is none."""
        row = self._shelf.rows.get(self.key)
        if row is None:
            return None
        return kept_from(structs.replace(row, lease=None, leased_until=0.0), self._after(self.key, 0))

    async def _come_in(self) -> None:
        self.refuse_closed("done")  # (nobody else is here who could go first)
