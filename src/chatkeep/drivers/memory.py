"""memory://  Conversations in this process, gone with it: for tests, and the reference the other drivers are held
against.

`memory://` is private to one driver; `memory://name` is shared by every driver of that name in the process, which is
how tests play several instances, or a restart.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from types import coroutine
from typing import Any

from msgspec import structs

from ..bounded import Newest
from ..errors import Conflict, Duplicate, Replaced, Unsupported
from .base import (
    TOMBSTONE_KEPT_S,
    Ability,
    About,
    Append,
    Appended,
    Count,
    Counted,
    Entries,
    Entry,
    EntryWords,
    Erase,
    Fence,
    Finding,
    Hit,
    Hits,
    Index,
    Indexed,
    IndexText,
    Key,
    Pool,
    Read,
    Row,
    Scan,
    Search,
    Term,
    Unindexed,
    Write,
    first_place,
)
from .openable import Openable

COUNTERS = 100_000
"""Counters that a store keeps; those without a hit for longest go first."""


class MemoryTextIndex:
    """The full-text index of one store: the words of each entry, by its place."""

    def __init__(self, conversations: Collection[tuple[Key, str]]) -> None:
        self.conversations = list(conversations)
        """Each by its key and incarnation, where `of` says: those that were there when the index was made, and who came since."""
        self.total = len(self.conversations)
        self.places: dict[tuple[Key, int], int | None] = {}
        """Where the words of an entry are; None: it has none."""
        self.words: dict[int, tuple[Key, int, frozenset[str]]] = {}
        self.rows: dict[Key, bytes] = {}
        """The bodies of which the words are in it."""

    def put_row(self, row: Row, one: EntryWords) -> None:
        """Put in the words of a row, in place of those that it had."""
        if row.revision == one.revision:
            self.remove(row.key, [0])
            self.put(row.key, structs.replace(one, at=row.updated_at))
            self.rows[row.key] = row.body

    def put(self, key: Key, one: EntryWords) -> None:
        """Put in the words of an entry."""
        if (key, one.number) in self.places:
            return
        place = None
        if one.words:
            place = first_place(one.at)
            while place in self.words:
                place += 1
            self.words[place] = key, one.number, frozenset(one.words)
        self.places[key, one.number] = place

    def remove(self, key: Key, numbers: Collection[int] | None = None) -> None:
        """Take out the words of some entries of a conversation, or of all."""
        for of, number in [*self.places]:
            if of == key and (numbers is None or number in numbers):
                place = self.places.pop((of, number))
                if place is not None:
                    del self.words[place]
        if numbers is None:
            self.rows.pop(key, None)


class Shelf:
    """All that one store holds."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.rows: dict[Key, Row] = {}
        self.logs: dict[Key, dict[int, Entry]] = {}
        self.ids: dict[Key, dict[str, int]] = {}
        self.erased: dict[Key, float] = {}
        self.counters: Newest[str, Counted] = Newest(COUNTERS)
        self.text: MemoryTextIndex | None = None
        self.watching: list[Callable[[list[str]], None]] = []


SHELVES: dict[str, Shelf] = {}


class MemoryDriver(Openable):
    """The reference driver: each verb is plain code without an await in it, so each is one act."""

    abilities = frozenset(Ability) - {Ability.SHARED, Ability.DURABLE}
    about = About(
        urls=("memory://", "memory://name"),
        use="tests",
        costs="nothing waits",
        lacks="anything after the end of the process",
    )

    def __init__(self, url: str = "memory://") -> None:
        super().__init__("this memory:// store")
        name = url.partition("://")[2]
        self._shelf = SHELVES.setdefault(name, Shelf()) if name else Shelf()
        self._heard: Callable[[list[str]], None] | None = None

    async def _start(self) -> str:
        await asyncio.sleep(0)  # as any store, it takes a moment
        return self._shelf.epoch

    async def examine(self) -> list[Finding]:
        return [Finding("warn", "durability", "memory:// is gone with its process; use sqlite:///chat.db to keep it")]

    async def announce(self, marks: Collection[str]) -> None:
        for heard in list(self._shelf.watching):
            asyncio.get_running_loop().call_soon(heard, list(marks))

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        self.refuse_closed("watched")
        self._heard = heard
        self._shelf.watching.append(heard)

    async def _stop(self) -> None:
        if self._heard is not None:
            self._shelf.watching.remove(self._heard)
            self._heard = None

    def pool(self) -> Pool:
        return Pool()

    async def backup(self, path: str, *, replace: bool = False) -> None:
        raise Unsupported(
            f"memory:// is gone with its process; {path} was not written. Use sqlite:///chat.db to keep it."
        )

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        raise Unsupported("memory:// knows no SQL; nothing was read. Use conversations() and history().")

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        await self._come_in()
        row = self._row(act.key)
        return None if row is None else (row, self._after(act.key, row.head - act.tail))

    async def append(self, act: Append) -> Appended:
        await self._come_in()
        self._refuse_replaced()
        key, entries = act.key, act.entries
        row = self._row(key)
        self._refuse_erased(key, act.at)
        known = self._known(key, entries)
        if row is None:
            row = act.make_row()
            self._shelf.rows[key] = row
        elif row.revision == act.revision or (entries and all(entry.id in known for entry in entries)):
            return Appended(row, self._after(key, row.head - act.tail), known)
        dues = [due for due in (row.due_at, act.due_at) if due is not None]
        lease = (row.lease, row.leased_until) if row.lease is not None else act.lease or (None, 0.0)
        row = structs.replace(
            row,
            revision=act.revision,
            head=self._add(key, row.head, [entry for entry in entries if entry.id not in known]),
            updated_at=act.at,
            due_at=min(dues, default=None),
            lease=lease[0],
            leased_until=lease[1],
        )
        self._shelf.rows[key] = row
        return Appended(row, self._after(key, row.head - act.tail), known)

    async def write(self, act: Write) -> Row:
        await self._come_in()
        self._refuse_replaced()
        row, key, replaces, entries = act.row, act.row.key, act.replaces, act.entries
        stored = self._shelf.rows.get(key)
        if stored and stored.revision == row.revision:
            return stored
        if stored and (known := self._known(key, entries)):
            raise Duplicate(f"{key}: known ids", row=stored, numbers=known, entries=self._after(key, act.since)[:200])
        if stored is None and replaces is not None:
            raise Conflict(f"{key}: nothing is there", erased_at=self._shelf.erased.get(key))
        if (stored.revision if stored else None) != replaces or (stored and stored.incarnation != row.incarnation):
            raise Conflict(f"{key}: revision moved on", row=stored, entries=self._after(key, act.since)[:200])
        if stored is None:
            self._refuse_erased(key, row.updated_at)
        row = structs.replace(row, head=self._add(key, stored.head if stored else row.head, entries))
        self._shelf.rows[key] = row
        if act.drop or act.blank:
            self._remove(key, act.drop, act.blank)
        return row

    async def entries(self, act: Entries) -> list[Entry]:
        await self._come_in()
        key, after, before, limit = act.key, act.after, act.before, act.limit
        self._row(key)
        if act.ids is not None:
            return [entry for entry in self._after(key, 0) if entry.id and entry.id in act.ids][:limit]
        found = [entry for entry in self._after(key, after or 0) if before is None or entry.number < before]
        return found[:limit] if after is not None or before is None else found[-limit:] if limit else []

    async def scan(self, act: Scan) -> list[Row]:
        await self._come_in()
        self._refuse_replaced()
        place, until = PLACES[act.index], act.until
        rows = [row for row in self._shelf.rows.values() if act.tenant is None or row.key.tenant == act.tenant]
        if act.index == "due":
            rows = [row for row in rows if row.wake is not None and (until is None or row.wake <= until)]
        if act.index == "owner":
            rows = [row for row in rows if act.owner and row.owner == act.owner]
        if act.index == "recent" and act.since is not None:
            rows = [row for row in rows if row.updated_at >= act.since]
        if act.after is not None:
            behind = place(act.after)
            rows = [row for row in rows if place(row) > behind]
        return sorted(rows, key=place)[: act.limit]

    async def erase(self, act: Erase) -> None:
        await self._come_in()
        self._refuse_replaced()
        shelf, key, at = self._shelf, act.key, act.at
        row = self._row(key)
        if row is not None and act.revision not in (None, row.revision):
            raise Conflict(f"{key}: revision moved on", row=row)
        shelf.rows.pop(key, None)
        shelf.logs.pop(key, None)
        shelf.ids.pop(key, None)
        if shelf.text is not None:
            shelf.text.remove(key)
        if act.revision is None or row is None or row.updated_at >= at - TOMBSTONE_KEPT_S:
            shelf.erased[key] = max(at, row.updated_at if row else at, shelf.erased.get(key, at))
        for other in [other for other, mark in shelf.erased.items() if mark < at - TOMBSTONE_KEPT_S]:
            del shelf.erased[other]

    async def count(self, act: Count) -> Counted:
        await self._come_in()
        at, ends = act.at, act.at + act.window_s
        counters = self._shelf.counters
        found = counters.get(act.name)
        if found is None or found.ends <= at:
            found = Counted(0, ends)
        counters[act.name] = counted = Counted(found.hits + act.cost, min(found.ends, ends))
        return counted

    async def fence(self, act: Fence) -> None:
        await self._come_in()
        if self._shelf.epoch != act.epoch:
            self._refuse_replaced()
        self._shelf.epoch = self.epoch = act.epoch

    async def search(self, act: Search) -> Hits:
        await self._come_in()
        self._refuse_replaced()
        text = self._shelf.text
        hits: list[Hit] = []
        fitting = [
            (place, key, number)
            for place, (key, number, words) in (text.words.items() if text is not None else ())
            if act.tenant in (None, key.tenant)
            and not (act.rows and number)
            and all(_has(words, term) for term in act.terms)
        ]
        last = {key: number for _, key, number in sorted(fitting, key=lambda one: one[2])}
        for place, key, number in sorted(fitting, reverse=True):
            if (act.before is None or place < act.before) and number == last[key]:
                hits.append(Hit(key, number, place))
                if len(hits) == act.limit:
                    return Hits(hits, place)
        return Hits(hits, None)

    async def index_text(self, act: IndexText) -> Indexed:
        await self._come_in()
        self._refuse_replaced()
        shelf = self._shelf
        if act.keep is False:
            shelf.text = None
        elif act.keep and shelf.text is None:
            shelf.text = MemoryTextIndex([(key, row.incarnation) for key, row in shelf.rows.items()])
        text = shelf.text
        if text is None:
            return Indexed(False, [])
        for one in act.words:
            key, incarnation = text.conversations[one.of]
            row, entry = shelf.rows.get(key), shelf.logs.get(key, {}).get(one.number)
            if row is None or row.incarnation != incarnation:
                continue
            if one.number == 0:
                text.put_row(row, one)
            elif entry is not None and entry.body:
                text.put(key, one)
        known = {there: of for of, there in enumerate(text.conversations)}
        for key, row in shelf.rows.items():
            if (key, row.incarnation) not in known:
                known[key, row.incarnation] = len(text.conversations)
                text.conversations.append((key, row.incarnation))
        lacking = list(self._unindexed(text))
        old = {one.of for one in lacking if one.of < text.total and one.key not in text.rows}
        waiting = sum(one.of not in old for one in lacking)
        return Indexed(True, lacking[: act.limit], len(old), text.total, waiting)

    def _unindexed(self, text: MemoryTextIndex) -> Iterator[Unindexed]:
        for of, (key, incarnation) in reversed([*enumerate(text.conversations)]):
            row = self._shelf.rows.get(key)
            if row is not None and row.incarnation == incarnation:
                for entry in self._after(key, 0):
                    if entry.body and (key, entry.number) not in text.places:
                        yield Unindexed(key, of, entry)
                if text.rows.get(key) != row.body:
                    yield Unindexed(key, of, Entry(0, row.revision, "", row.body))

    async def _come_in(self) -> None:
        if self.is_open:
            await let_others_go_first()  # as any store
        if not self.is_open:
            self.refuse_closed("done")

    def _row(self, key: Key) -> Row | None:
        row = self._shelf.rows.get(key)
        if row is None:
            self._refuse_replaced()
        return row

    def _refuse_replaced(self) -> None:
        if self._shelf.epoch != self.epoch:
            raise Replaced("This memory:// store was emptied since it was opened; nothing was done. Open it anew.")

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        log = self._shelf.logs.setdefault(key, {})
        ids = self._shelf.ids.setdefault(key, {})
        for entry in entries:
            head += 1
            log[head] = entry if entry.number == head else structs.replace(entry, number=head)
            if entry.id:
                ids[entry.id] = head
        return head

    def _remove(self, key: Key, drop: int, blank: Collection[int]) -> None:
        log, ids = self._shelf.logs.get(key, {}), self._shelf.ids.get(key, {})
        for number in [number for number in log if number <= drop]:
            ids.pop(log.pop(number).id, None)
        for number in log.keys() & set(blank):
            log[number] = structs.replace(log[number], body=b"")
        if self._shelf.text is not None:
            self._shelf.text.remove(
                key, {*blank, *(number for of, number in self._shelf.text.places if 0 < number <= drop)}
            )

    def _after(self, key: Key, number: int) -> list[Entry]:
        log = self._shelf.logs.get(key, {})
        row = self._shelf.rows.get(key)
        return [log[n] for n in range(max(number, 0) + 1, (row.head if row else 0) + 1) if n in log]

    def _known(self, key: Key, entries: Sequence[Entry]) -> dict[str, int]:
        ids, known = self._shelf.ids.get(key, {}), {}
        for entry in entries:
            if entry.id in ids:
                known[entry.id] = ids[entry.id]
        return known

    def _refuse_erased(self, key: Key, at: float) -> None:
        mark = self._shelf.erased.get(key)
        if mark is not None and at <= mark:
            raise Conflict(f"{key} was erased later than this act", row=self._shelf.rows.get(key), erased_at=mark)


@coroutine
def let_others_go_first() -> Generator[None, None, None]:
    """Be asyncio.sleep(0), which every act takes, without the frame around it."""
    yield


def _has(words: frozenset[str], term: Term) -> bool:
    return any(word.startswith(term.text) for word in words) if term.begins else term.text in words


PLACES: dict[Index, Callable[[Row], tuple[object, ...]]] = {
    "key": lambda row: row.key,
    "due": lambda row: (row.wake or 0.0, row.key),
    "owner": lambda row: row.key,
    "recent": lambda row: (-row.updated_at, row.key),
}
"""Where a row stands in each index."""
