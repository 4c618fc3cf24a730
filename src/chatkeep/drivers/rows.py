"""What a store holds of one conversation: its key, its row, and the entries of its log."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Literal, NamedTuple

from msgspec import Struct

Index = Literal["key", "due", "owner", "recent"]

RECENT_GRAIN_S = 60.0
"""The `recent` index moves in steps this wide, so that an ordinary turn does not have to touch it; within a step rows are
put in order when they are asked for."""

AT_ONCE = 0.0
"""The due time of what has to be looked at now. It has come by every clock, also where the writer's is ahead."""


class Key(NamedTuple):
    """Names one conversation. Any UTF-8 text without NUL must survive in both parts; only the tenant may be empty."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.id}" if self.tenant else self.id


class Entry(Struct, frozen=True, gc=False):
    """One line of the log. *id* may be empty: such an entry is never looked for by id."""

    number: int
    id: str
    role: str
    body: bytes


class Row(Struct, frozen=True, kw_only=True, gc=False):
    """One conversation's record as the store sees it.

    revision: random token of the act that wrote it, chosen by the caller; never a counter.
    incarnation: the revision it was first created with; tells this incarnation from one before an erasure.
    head: number of the last log entry.
    due_at: when somebody has to look at it (None: never; AT_ONCE: now). lease: token of whoever works on it, until leased_until.
    """

    key: Key
    revision: str
    incarnation: str
    head: int = 0
    body: bytes = b""
    owner: str = ""
    updated_at: float = 0.0
    due_at: float | None = None
    lease: str | None = None
    leased_until: float = 0.0

    @property
    def wake(self) -> float | None:
        """When the `due` index shows it: a leased row stays hidden until its lease runs out."""
        return None if self.due_at is None else max(self.due_at, self.leased_until)

    @property
    def recent(self) -> int:
        """Its place in the `recent` index, to the step."""
        return step_at(self.updated_at)


def step_at(at: float) -> int:
    """Return the step of the `recent` index in which rows stand that were changed at a time."""
    return int(at // RECENT_GRAIN_S)


def row_at(key: Key, *, owner: str = "", updated_at: float = 0.0, due_at: float | None = None) -> Row:
    """Return a row that only says where it stands in the indexes: a scan begins behind it, or it stands for one that cannot be read."""
    return Row(key=key, revision="", incarnation="", owner=owner, updated_at=updated_at, due_at=due_at)


@lru_cache(maxsize=8192)
def mark_of(key: Key) -> str:
    """Return a short name for a key where the name itself must not stay, or has no room: tombstones, announcements."""
    return hashlib.blake2b(f"{len(key.tenant)}:{key.tenant}{key.id}".encode(), digest_size=16).hexdigest()
