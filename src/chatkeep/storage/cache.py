"""Snapshots this process has seen lately, bounded by number and by bytes.

Nothing here is trusted: a turn that starts from a cached snapshot is written only if the store still holds that
revision, and what people read is always read from the store. The cache saves reads and decoding, never a check.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from msgspec import Struct

from ..bounded import Newest
from ..conversation.snapshots import Snapshot
from ..drivers.base import Key
from ..model import Message

SNAPSHOT_BYTES = 900
MESSAGE_BYTES = 280
PART_BYTES = 400
"""What the objects themselves take, roughly, next to their text (measured with tracemalloc on CPython 3.11)."""


_content_of: Callable[[Message], Any] = attrgetter("content")

ASIDE = 4
"""Of so many times as many conversations it is known how far their logs went."""


class Place(NamedTuple):
    """How far a log went: in which incarnation of its conversation, and the number of its last entry."""

    incarnation: str
    head: int


class CacheStatistics(Struct, kw_only=True):
    """Counts since the start; entries and bytes are what is held now. Bytes are an estimate, good to about a third."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


class Cache:
    """The least recently used go first. With entries=0 it holds nothing and everything still works."""

    def __init__(self, *, entries: int, bytes: int) -> None:
        self._entries = entries
        self._bytes = bytes
        self._held: OrderedDict[Key, tuple[Snapshot, int]] = OrderedDict()
        self._aside: Newest[Key, Place] = Newest(ASIDE * entries)
        self.statistics = CacheStatistics()

    def get(self, key: Key) -> Snapshot | None:
        """Return the newest snapshot this process has seen of *key*."""
        held = self._held.get(key)
        if held is None:
            self.statistics.misses += 1
            return None
        self.statistics.hits += 1
        self._held.move_to_end(key)
        return held[0]

    def peek(self, key: Key) -> Snapshot | None:
        """As `get`, without counting or keeping it alive."""
        held = self._held.get(key)
        return None if held is None else held[0]

    def put(self, snapshot: Snapshot) -> None:
        """Keep *snapshot*, unless a newer one of the same incarnation is held: answers may arrive out of order."""
        new, all_held, statistics = snapshot.row, self._held, self.statistics
        held = all_held.get(new.key)
        if held is not None:
            old = held[0].row
            if old.incarnation == new.incarnation and (old.head, old.updated_at) > (new.head, new.updated_at):
                return
            statistics.bytes -= held[1]
        weight = weigh(snapshot)
        all_held[new.key] = (snapshot, weight)
        all_held.move_to_end(new.key)
        statistics.bytes += weight
        while len(all_held) > self._entries or statistics.bytes > self._bytes:
            gone, (old_snapshot, weight) = all_held.popitem(last=False)
            self._put_aside(gone, old_snapshot)
            statistics.bytes -= weight
            statistics.evictions += 1
        statistics.entries = len(all_held)

    def drop(self, key: Key) -> None:
        """Forget *key*: what is held may be wrong."""
        held = self._held.pop(key, None)
        if held is not None:
            self._put_aside(key, held[0])
            self.statistics.bytes -= held[1]
            self.statistics.entries = len(self._held)

    def last_place(self, key: Key) -> Place | None:
        """How far the log of *key* was seen to go, also where the snapshot itself is not held any more."""
        held = self._held.get(key)
        return self._aside.get(key) if held is None else Place(held[0].row.incarnation, held[0].row.head)

    def forget_place(self, key: Key) -> None:
        """Forget how far the log of *key* went: it is known to be another one now."""
        self.drop(key)
        self._aside.pop(key, None)

    def distrust(self) -> None:
        """Forget everything but how far each log went: the store may hold less than it has answered."""
        for key, (snapshot, _) in self._held.items():
            self._put_aside(key, snapshot)
        self._held.clear()
        self.statistics.entries = self.statistics.bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._aside.clear()
        self.statistics.entries = self.statistics.bytes = 0

    def _put_aside(self, key: Key, snapshot: Snapshot) -> None:
        self._aside[key] = Place(snapshot.row.incarnation, snapshot.row.head)

    def __len__(self) -> int:
        return len(self._held)


def weigh(snapshot: Snapshot) -> int:
    """Return the memory a snapshot takes, estimated."""
    try:
        said = len("".join(map(_content_of, snapshot.messages)))  # by far the quickest, and nearly always right
    except TypeError:
        contents = map(_content_of, snapshot.messages)
        said = sum(len(content) if isinstance(content, str) else PART_BYTES * len(content) for content in contents)
    return SNAPSHOT_BYTES + len(snapshot.record.state) + MESSAGE_BYTES * len(snapshot.messages) + said
