"""Snapshots this process has seen lately, bounded by number and by bytes.

Nothing here is trusted: a turn that starts from a cached snapshot is written only if the store still holds that
revision, and what people read is always read from the store. The cache saves reads and decoding, never a check. What it knows of each
conversation also tells when the store holds less than it did.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from msgspec import Struct

from ..bounded import Newest
from ..conversation import snapshots
from ..conversation.record import Record
from ..conversation.snapshots import Place, Snapshot, is_other_log, lacks_changes, place_of
from ..drivers.base import Key, Row
from ..model import Message

log = logging.getLogger("chatkeep")

SNAPSHOT_BYTES = 900
MESSAGE_BYTES = 280
PART_BYTES = 400
"""What the objects themselves take, roughly, next to their text (measured with tracemalloc on CPython 3.11)."""

ASIDE = 4
"""Of so many times as many conversations it is known how far their logs went."""


class CacheStatistics(Struct, kw_only=True):
    """Counts since the start; entries and bytes are what is held now. Bytes are an estimate, good to about a third."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    entries: int = 0
    bytes: int = 0


def _ignore(key: Key) -> None:
    """Do nothing: what is dropped is nowhere else."""


class HeldSnapshot:
    """A snapshot that is held, and what is known of it. From one snapshot to the next only the messages that came and went are looked
    at: the others are most of the window, and a look at each of them costs a tenth of a turn."""

    __slots__ = ("ids", "snapshot", "weight")

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.weight = weigh(snapshot)
        self.ids: dict[str, None] | None = None
        """The ids of its messages, once somebody has asked; in the place of a set, which takes three times as much memory."""

    def collect_ids(self) -> dict[str, None]:
        """Return the ids of its messages, and know them from now on."""
        self.ids = dict.fromkeys([message.id for message in self.snapshot.messages])
        return self.ids

    def follow(self, snapshot: Snapshot) -> int:
        """Hold *snapshot* of the same conversation instead; by how much heavier that is."""
        before, self.snapshot = self.snapshot, snapshot
        old, new = before.messages, snapshot.messages
        gone = new[0].number - old[0].number if old and new else -1
        kept = len(old) - gone
        if gone < 0 or old[gone:] != new[:kept]:  # (nearly always the same objects, which is seen at once)
            weight = self.weight
            self.weight, self.ids = weigh(snapshot), None
            return self.weight - weight
        grown = 2 * (len(snapshot.record.state) - len(before.record.state)) + MESSAGE_BYTES * (len(new) - len(old))
        ids: dict[str, None] = {} if self.ids is None else self.ids
        for message in old[:gone]:
            content = message.content
            grown -= len(content) if type(content) is str else PART_BYTES * len(content)
            ids.pop(message.id, None)
        for message in new[kept:]:
            content = message.content
            grown += len(content) if type(content) is str else PART_BYTES * len(content)
            ids[message.id] = None
        self.weight += grown
        return grown


class Cache:
    """The least recently used go first. With entries=0 it holds nothing and everything still works.

    *dropped* is told of each conversation that is not held any more, so that nothing else is kept of it (erased is erased).
    """

    def __init__(self, *, entries: int, bytes: int, dropped: Callable[[Key], object] = _ignore) -> None:
        self._entries = entries
        self._bytes = bytes
        self._dropped = dropped
        self._held: OrderedDict[Key, HeldSnapshot] = OrderedDict()
        self._aside: Newest[Key, Place] = Newest(ASIDE * entries)
        self._doubted: set[Key] = set()
        self.statistics = CacheStatistics()

    def get(self, key: Key) -> Snapshot | None:
        """Return the newest snapshot this process has seen of *key*."""
        held = self._held.get(key)
        if held is None:
            self.statistics.misses += 1
            return None
        self.statistics.hits += 1
        self._held.move_to_end(key)
        return held.snapshot

    def peek(self, key: Key) -> Snapshot | None:
        """Return what `get` does, without counting or keeping it alive."""
        held = self._held.get(key)
        return None if held is None else held.snapshot

    def holds_id(self, snapshot: Snapshot, id: str) -> bool:
        """Tell whether a message of this *id* is among those of *snapshot*: asked for every message, so nearly always answered by what
        is known of the snapshot that is held."""
        held = self._held.get(snapshot.row.key)
        if held is not None and held.snapshot is snapshot:
            return id in (held.ids or held.collect_ids())
        return snapshots.holds_id(snapshot, id)

    def put(self, snapshot: Snapshot) -> None:
        """Keep *snapshot*, unless a newer one of the same incarnation is held: answers may arrive out of order."""
        new, statistics = snapshot.row, self.statistics
        held = self._held.get(new.key)
        if held is None:
            self._held[new.key] = held = HeldSnapshot(snapshot)
            statistics.bytes += held.weight
            statistics.entries += 1
        else:
            old = held.snapshot.row
            if (
                old.head >= new.head
                and old.incarnation == new.incarnation
                and (old.head > new.head or old.updated_at > new.updated_at)
            ):
                return
            statistics.bytes += held.follow(snapshot)
            self._held.move_to_end(new.key)
        while statistics.entries > self._entries or statistics.bytes > self._bytes:
            self.drop(next(iter(self._held)))
            statistics.evictions += 1

    def drop(self, key: Key) -> None:
        """Forget *key*: what is held may be wrong."""
        held = self._held.pop(key, None)
        self._dropped(key)
        if held is not None:
            self._put_aside(key, held.snapshot)
            self.statistics.bytes -= held.weight
            self.statistics.entries = len(self._held)

    def last_place(self, key: Key) -> Place | None:
        """Return how far the log of *key* was seen to go, also where the snapshot itself is not held any more."""
        held = self._held.get(key)
        return self._aside.get(key) if held is None else place_of(held.snapshot)

    def forget_place(self, key: Key) -> None:
        """Forget how far the log of *key* went: it is known to be another one now."""
        self.drop(key)
        self._aside.pop(key, None)
        self._doubted.discard(key)

    def end_doubt(self, key: Key) -> bool:
        """Tell whether nobody has looked at this conversation since the store was found rolled back; it is looked at now."""
        if not self._doubted or key not in self._doubted:  # as nearly always
            return False
        self._doubted.remove(key)
        return True

    def distrust(self) -> None:
        """Forget everything but how far each log went: the store may hold less than it has answered."""
        for key, held in self._held.items():
            self._put_aside(key, held.snapshot)
            self._dropped(key)
        self._held.clear()
        self._doubted = set(self._aside)
        self.statistics.entries = self.statistics.bytes = 0

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._aside.clear()
        self._doubted.clear()
        self.statistics.entries = self.statistics.bytes = 0

    def _put_aside(self, key: Key, snapshot: Snapshot) -> None:
        self._aside[key] = place_of(snapshot)

    def __len__(self) -> int:
        return len(self._held)


class RollbackWatch:
    """Tells whether a store holds less than it has answered before, as far as *cache* knows that, or something else: it was rolled back,
    to a backup or a stale copy.

    What is lost cannot be brought back from here. What can be promised is that nothing of it is mixed into what the store holds
    now: all that is cached goes.
    """

    def __init__(self, cache: Cache) -> None:
        self.found = 0
        """How often a conversation was found rolled back, or lost by that."""
        self._cache = cache

    def compare(self, known: Snapshot, row: Row, record: Record, news: list[Message]) -> bool:
        """Compare *news*, the last entries of the log now, with what is *known*: tell whether they overlap and say the same there.

        If they say something else the store was rolled back, and went on from there. What was known before a redaction is not
        gone on with.
        """
        if (
            known.row.incarnation != row.incarnation
            or known.record.redactions != record.redactions
            or not news
            or not known.messages
            or news[0].number > known.row.head
        ):
            return False
        held = {message.number: message for message in (*known.messages, *known.beyond)}
        both = [(held[message.number], message) for message in news if message.number in held]
        # (What is redacted has no time of its own.)
        if all(
            (a.id, a.role) == (b.id, b.role) and (a.redacted or b.redacted or a.created_at == b.created_at)
            for a, b in both
        ):
            return bool(both)
        self._tell_rolled_back(row.key, row.head, known.row.head)
        return False

    def look_back(
        self,
        known: Place | None,
        found: Row,
        record: Record,
        *,
        head: int | None = None,
        news: Sequence[Message] = (),
    ) -> bool:
        """Compare what was *found*, with its *record*, with what is *known*: tell whether it is less, or something else. *head*: where
        the log ended before the act that found it; *news*: the last entries of the log now."""
        head = found.head if head is None else head
        doubted = self._cache.end_doubt(found.key)
        if known is None:
            return False
        if known.incarnation != found.incarnation:
            if doubted:  # else it was erased, and has been begun anew
                self._tell_lost(found.key, known.head)
            return doubted
        if known.head <= head and not lacks_changes(known, record) and not is_other_log(known, news):
            return False
        self._tell_rolled_back(found.key, head, known.head, again=doubted)
        return True

    def note_missing(self, key: Key, known: Place | None) -> None:
        """Take in that nothing is under *key*, of which so much is *known*: erased or, where the store was rolled back, lost."""
        if known is not None and self._cache.end_doubt(key):
            self._tell_lost(key, known.head)
        self._cache.forget_place(key)

    def _tell_rolled_back(self, key: Key, head: int, known: int, *, again: bool = False) -> None:
        self.found += 1
        log.error(
            "%s: the log has %d entries, and is not what was seen when it had %d: the store was rolled back, and what came after is lost. "
            "Conversations go on from what it holds. Look for a failover to a stale replica, or a restored backup.",
            key,
            head,
            known,
        )
        self._cache.forget_place(key)
        # What was known since before a rollback that was told is of that one, and what was read after it is what the store holds.
        if not again:
            # How far the other logs went is kept, so that it is told of each that has lost something.
            self._cache.distrust()

    def _tell_lost(self, key: Key, known: int) -> None:
        """Tell of a conversation of before the store was found rolled back that is not there any more."""
        self.found += 1
        log.error(
            "%s: the conversation had %d entries before the store was rolled back, and is not there: it is lost, unless another instance "
            "has erased it.",
            key,
            known,
        )
        self._cache.forget_place(key)


def weigh(snapshot: Snapshot) -> int:
    """Return the memory a snapshot takes, estimated: the state also as the next turn gets it."""
    return SNAPSHOT_BYTES + 2 * len(snapshot.record.state) + _weigh_all(snapshot.messages)


def _weigh_all(messages: Sequence[Message]) -> int:
    said = 0
    for message in messages:
        content = message.content
        said += len(content) if isinstance(content, str) else PART_BYTES * len(content)
    return MESSAGE_BYTES * len(messages) + said
