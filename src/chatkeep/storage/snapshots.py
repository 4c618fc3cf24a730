"""Snapshots as they are held: made of what the driver answers, completed where that lacks something, the newest kept."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from ..conversation.codec import messages_from, record_from
from ..conversation.record import Record
from ..conversation.snapshots import (
    HELD,
    Place,
    Snapshot,
    Window,
    asks,
    choose_beyond,
    is_cut,
    is_used_up,
    keep_outbound,
    place_of,
    unread_messages,
)
from ..drivers.base import Entry, Key, Row, row_at
from ..errors import Conflict, Corrupt
from ..model import ASKING, TALK, Message
from .cache import Cache, RollbackWatch
from .reader import PAGE, Reader

LOOKS_BACK = 5  # pages in which the last replies are looked for, behind what waits


FEWEST = 4
"""So many of the last entries are read for a turn at least, or a fifth of a wider window: the last two questions and their answers, so that
a message that is sent again is nearly always found among them."""


SPARED_A_TURN = 0.25
"""A second read costs as much as thirty entries: where turns need now more, now less, most of them are to find enough in the first."""


class Reach:
    """How many of the last entries of a log are read for a turn, of a window of *size*: all of it at first, and one less with every fourth
    turn that can do without. One that needs more is a second read, and has the next ones read as much at once."""

    def __init__(self) -> None:
        self._spared = 0.0

    def tail(self, size: int) -> int:
        """Return how many entries are read."""
        return max(size - int(self._spared), 0)

    def note(self, needed: int, size: int) -> None:
        """Take in how many a turn has needed."""
        fewest = min(max(FEWEST, size // 5), size)
        self._spared = max(min(self._spared + SPARED_A_TURN, size - max(needed, fewest)), 0.0)


class Snapshots:
    """Reads conversations through *reader* as snapshots, and keeps the newest in *cache*. *window*: how many last messages one holds, at
    least."""

    def __init__(self, reader: Reader, cache: Cache, window: int) -> None:
        self.window = Window(window)
        self.rollbacks = RollbackWatch(cache)
        self.seen: Callable[[Key], None] = lambda key: None
        """Called with the key of each conversation that was read."""
        self._reach = Reach()
        self._reader = reader
        self._cache = cache

    async def load(self, key: Key, *, again: bool = True) -> Snapshot | None:
        """Return the conversation as it is now; None when there is none."""
        known = self._cache.last_place(key)
        return await self.take(key, known, await self._reader.read(key, tail=self.window.size), again=again)

    async def take(
        self, key: Key, known: Place | None, found: tuple[Row, list[Entry]] | None, *, again: bool = True
    ) -> Snapshot | None:
        """Return what was *found* under *key*, of which *known* was known before it was asked for."""
        if found is None:
            self.rollbacks.note_missing(key, known)
            return None
        snapshot = self.window.decode(*found)
        self.rollbacks.look_back(known, found[0], snapshot.record, news=snapshot.messages)
        self.seen(key)
        return self.keep(await self._complete(snapshot, again=again))

    async def load_to_answer(self, key: Key, needed: Callable[[Snapshot], int]) -> Snapshot | None:
        """Load as `load` does, for a turn that needs so many of the last entries as *needed* tells of what was read: of a conversation that
        has been silent for long that is its row, and hardly any. It is held without what came before these."""
        size, known = self.window.size, self._cache.last_place(key)
        tail = self._reach.tail(size)
        found = await self._reader.read(key, tail=tail)
        if found is None:
            self.rollbacks.note_missing(key, known)
            return None
        row, snapshot = found[0], self.window.decode(*found)
        count = needed(snapshot)
        self._reach.note(count, size)
        if known is not None:  # what was seen is compared with what is there, which takes the entry that was the last
            count = max(count, row.head - known.head + 1)
        wanted = min(max(count, tail), size, row.head - snapshot.record.dropped)
        if tail < size and len(snapshot.messages) < wanted:
            return await self.load(key)
        self.rollbacks.look_back(known, row, snapshot.record, news=snapshot.messages)
        self.seen(key)
        return self.keep(snapshot if tail < size else await self._complete(snapshot))

    async def reload(self, key: Key, *, again: bool = True, owner: str = "") -> Snapshot:
        """Load as `load` does, with the blank snapshot where there is none, of a conversation that will be *owner*'s."""
        return await self.load(key, again=again) or blank(key, owner)

    async def reach_back(self, snapshot: Snapshot) -> Snapshot:
        """Return *snapshot* with a page of the messages before its first one."""
        row, start = snapshot.row, snapshot.messages[0].number
        after = max(start - 1 - PAGE, snapshot.record.dropped)
        found = await self._reader.page(row.key, row.incarnation, after=after, before=start, limit=PAGE)
        if not found or found[-1].number != start - 1:  # erased, or dropped, meanwhile
            return snapshot
        grown = structs.replace(snapshot, messages=(*found, *snapshot.messages))
        held = self._cache.peek(row.key)
        if held is not None and held.row.revision == row.revision:
            self.keep(self.window.fit(row, snapshot.record, grown.messages, snapshot.plain, snapshot.beyond))
        return grown

    async def last(self, snapshot: Snapshot) -> tuple[list[Message], int]:
        """Return the last messages of the log, and how many wait, also where *snapshot* holds only the first of them, or was read for a
        turn that looks at fewer."""
        messages, count = list(snapshot.messages), len(unread_messages(snapshot))
        row, size = snapshot.row, self.window.size
        if not is_cut(snapshot):
            first = messages[0].number if messages else row.head + 1
            after = max(snapshot.record.cursor - size, snapshot.record.dropped)
            if after < first - 1:
                messages[:0] = await self._reader.page(
                    row.key, row.incarnation, after=after, before=first, limit=first - 1 - after
                )
            return messages, count
        seen = messages[-1].number
        while found := await self._reader.page(row.key, row.incarnation, after=seen, before=row.head + 1, limit=PAGE):
            count += sum(map(asks, found))
            messages, seen = (messages + found)[-max(size, 1) :], found[-1].number
        return messages, count

    def follow_append(
        self, key: Key, row: Row, entries: list[Entry], cached: Snapshot | None, place: Place | None, *, head: int
    ) -> Snapshot:
        """Return the snapshot after an act that has left *row* and the last *entries*; without messages where that is too far ahead.

        *cached*, *place*: what was known before the act; *head*: where the log ended then."""
        news, record = messages_from(key, row.incarnation, entries), record_from(key, row.body)
        if self.rollbacks.look_back(place, row, record, head=head, news=news if cached is None else ()):
            cached = None
        newest = self._cache.peek(key)  # of many that are sent at once, each goes on from what the one before has left
        if newest is not None and newest.row.incarnation == row.incarnation and newest.row.head <= row.head:
            cached = newest
        if cached is not None and self.rollbacks.compare(cached, row, record, news):
            news = [message for message in news if message.number > cached.row.head]
            return self.window.grow(cached, row, record, news)
        return self.window.decode(row, entries) if cached is None else Snapshot(row, Record(), ())

    async def keep_whole(self, snapshot: Snapshot) -> Snapshot:
        """Fetch what *snapshot* lacks, and hold it."""
        return self.keep(await self._complete(snapshot)) if snapshot.messages else await self.reload(snapshot.row.key)

    async def follow_conflict(self, snapshot: Snapshot, there: Conflict) -> Snapshot:
        """Return the snapshot that a conflict shows."""
        key, row = snapshot.row.key, there.row
        if row is None:
            if snapshot.row.revision and there.erased_at is None:
                self.rollbacks.look_back(place_of(snapshot), structs.replace(snapshot.row, head=0), snapshot.record)
            self._cache.drop(key)
            return blank(key, snapshot.row.owner)
        record = record_from(key, row.body)
        if self.rollbacks.look_back(place_of(snapshot), row, record):
            return await self.reload(key)
        news = messages_from(key, row.incarnation, there.entries)
        if self.rollbacks.compare(snapshot, row, record, news) and news[-1].number == row.head:
            news = [message for message in news if message.number > snapshot.row.head]
            return self.keep(self.window.grow(snapshot, row, record, news))
        return await self.reload(key)

    def keep(self, snapshot: Snapshot) -> Snapshot:
        """Return *snapshot*, and hold it as the newest, unless all is answered of it and more waits than it has."""
        if snapshot.beyond and is_used_up(snapshot):
            self._cache.drop(snapshot.row.key)
        else:
            self._cache.put(snapshot)
        return snapshot

    async def _complete(self, snapshot: Snapshot, *, again: bool = True) -> Snapshot:
        """Fetch what belongs into the snapshot and was not in the tail that was read."""
        row, record = snapshot.row, snapshot.record
        if is_cut(snapshot):
            return await self.reload(row.key) if is_used_up(snapshot) else snapshot
        start = snapshot.messages[0].number if snapshot.messages else row.head + 1
        seen = max(record.cursor - self.window.size, record.dropped)
        missing: list[Message] = []
        while start > seen + 1:
            found = await self._reader.page(row.key, row.incarnation, after=seen, before=start, limit=PAGE)
            if not found and again:  # retention was quicker: the record that we hold is older than the log
                return await self.reload(row.key, again=False)
            if not found:
                raise Corrupt(f"{row.key}: log entries {seen + 1} to {start - 1} are missing. Nothing was changed.")
            missing += found
            seen = found[-1].number
            so_far = structs.replace(snapshot, row=structs.replace(row, head=seen), messages=tuple(missing))
            waiting = unread_messages(so_far)
            if waiting and seen >= record.cursor + HELD and row.head > seen + HELD:
                beyond = choose_beyond(await self._last_replies(snapshot, seen), self.window.size)
                return structs.replace(snapshot, messages=so_far.messages, beyond=beyond)
            if not waiting and len(missing) > self.window.size + HELD:
                # What nobody answers is as good as handled, and need not be held.
                record = keep_outbound(so_far, structs.replace(record, cursor=seen))
                missing = missing[-self.window.size :] if self.window.size else []
                snapshot = structs.replace(snapshot, record=record)
        return self.window.fit(row, record, (*missing, *snapshot.messages), snapshot.plain) if missing else snapshot

    async def _last_replies(self, snapshot: Snapshot, seen: int) -> list[Message]:
        """Return the end of the log behind number *seen*, as far back as it takes to have the last replies in it, within bounds."""
        last = list(snapshot.messages)
        for _ in range(LOOKS_BACK):
            replies = sum(1 for message in last if message.role in TALK and message.role not in ASKING)
            before = last[0].number if last else snapshot.row.head + 1
            if replies >= self.window.size or before <= seen + 1:
                break
            key, incarnation = snapshot.row.key, snapshot.row.incarnation
            found = await self._reader.page(
                key, incarnation, after=max(seen, before - PAGE - 1), before=before, limit=PAGE
            )
            if not found:
                break
            last[:0] = found
        return last


def blank(key: Key, owner: str = "") -> Snapshot:
    """Return the snapshot of a conversation that does not exist yet, and will be *owner*'s."""
    return Snapshot(row_at(key, owner=owner), Record(), (), plain=1)
