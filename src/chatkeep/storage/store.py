"""The one way to a driver: decodes what it answers, keeps the newest snapshots, and writes an act however often that
takes.

`commit` is the loop that everything rests on: decide what to write from a snapshot, write it if the store still holds
that revision, else decide again from what is there now. An act whose outcome is unknown is run again as it is;
drivers recognise their own traces.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import time
from binascii import b2a_base64
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec import structs

from ..conversation.codec import messages_from, record_from
from ..conversation.commits import encode_act
from ..conversation.record import Record
from ..conversation.snapshots import (
    HELD,
    Commit,
    Condition,
    Draft,
    Place,
    Snapshot,
    Window,
    asks,
    blanked,
    choose_beyond,
    is_cut,
    is_used_up,
    keep_outbound,
    place_of,
    unread_messages,
)
from ..drivers.base import (
    AT_ONCE,
    Ability,
    Append,
    Appended,
    Driver,
    Entries,
    Entry,
    Erase,
    Hits,
    Index,
    Indexed,
    IndexText,
    Key,
    Lease,
    Read,
    Row,
    Scan,
    Search,
    Searching,
    Write,
    behind_erasure,
    row_at,
    searching,
)
from ..errors import Conflict, Corrupt, Duplicate, Replaced, Unavailable, Uncertain, Unsupported
from ..model import ASKING, TALK, Message
from .cache import Cache, CacheStatistics, SetBackWatch
from .circuit_breaker import StoreCircuitBreaker
from .confinement import Confinement
from .relocation import explain, refuse_elsewhere
from .seal_note import refuse_sealed

if TYPE_CHECKING:
    from .shared_cache import SharedCache

T = TypeVar("T")
A = TypeVar("A")

log = logging.getLogger("chatkeep")

PAGE = 200
LOOKS_BACK = 5  # pages in which the last replies are looked for, behind what waits
PATIENCE = 3  # conflicts in a row before a writer steps back for a moment

Decide = Callable[[Snapshot], Commit | None]


class Measured(Protocol):
    """What is told how long each act took; see `Instrument`."""

    def measured(self, name: str, seconds: float) -> None:
        """Take an act's verb and how long it took."""


class InLog(Exception):
    """A message is in the log, of a conversation that only a newer version reads: its number, and whether it was known."""

    def __init__(self, number: int, known: bool, newer: Unsupported) -> None:
        super().__init__(number, known, newer)
        self.number = number
        self.known = known
        self.newer = newer


class Store:
    """Conversations as snapshots over one driver. *place*: where it is, for people, without a password. *window*: how many last
    messages a snapshot holds, at least. *another* makes a second driver of the same store, which is asked where it was moved to.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        place: str = "",
        cache: Cache,
        shared: SharedCache | None = None,
        window: int,
        message_limit: int,
        patience_s: float = 5.0,
        another: Callable[[], Driver] | None = None,
    ) -> None:
        self.driver = driver
        self.place = place
        self.shared = shared
        self.acts: Counter[str] = Counter()
        """How many acts were asked of the driver, by verb."""
        self._circuit = StoreCircuitBreaker(
            patience_s=patience_s,
            replaced=self._replaced,
            look=lambda: driver.scan(Scan("due", limit=1)),
            explain=partial(explain, another=another),
        )
        self.confinement = Confinement()
        self._open = False
        self._cache = cache
        self.cached: Callable[[Key], Snapshot | None] = cache.get
        """Returns the newest snapshot of a key that this process has seen; the store may have moved on."""
        self.holds_id: Callable[[Snapshot, str], bool] = cache.holds_id
        """Tells whether a message of an id is among those that a snapshot holds."""
        self._window = Window(window)
        self._set_back = SetBackWatch(cache)
        self._message_limit = message_limit
        self.observe((), changed=lambda key: None, seen=lambda key: None)

    @property
    def rolled_back(self) -> int:
        """How often it was found to hold less than it has answered before."""
        return self._set_back.found

    @property
    def statistics(self) -> CacheStatistics:
        """What the cache did so far."""
        return self._cache.statistics

    def observe(
        self, instruments: Sequence[Measured], *, changed: Callable[[Key], None], seen: Callable[[Key], None]
    ) -> None:
        """From now on call *changed* with each key that was written to, after it is durable, and *seen* with each that was read, and
        tell *instruments* each act's verb and the seconds it took."""
        self._instruments = instruments
        self._changed = changed
        self._seen = seen

    async def open(self, fits: Callable[[str], Awaitable[None]] | None = None, *, first: Key) -> Snapshot | None:
        """Open the driver, and return what is under *first* as `load` does: it is read in the round trip that opening takes anyway.

        No other act gets to the driver before *fits*, given the store's epoch, has raised nothing.
        """
        await self.driver.open()
        await refuse_elsewhere(self.driver)
        _, found = await asyncio.gather(refuse_sealed(self.driver), self.driver.read(Read(first, self._window.size)))
        if fits is not None:
            await fits(self.driver.epoch)
        self._circuit.reset()
        self._cache.clear()  # what was seen of it before it was closed may be of another store
        if self.shared is not None:
            self.shared.open(self.driver.epoch)
        self._open = True
        return await self._loaded(first, self._cache.last_place(first), found)

    def widen(self) -> None:
        """Make room in the window for the notes that sending replies out leaves between what is said."""
        self._window.widen()

    async def close(self) -> None:
        """Close the driver."""
        self._open = False
        try:
            if self.shared is not None:
                await self.shared.close()
        finally:
            await self.driver.close()

    @property
    def trouble(self) -> str:
        """What is wrong with the store, as far as the last act has shown; "" when it answers."""
        return self._circuit.trouble

    @property
    def replaced(self) -> bool:
        """Whether the store was emptied, or another one answers in its place."""
        return self._circuit.replaced

    @property
    def moved(self) -> bool:
        """Whether what it held is in another store now."""
        return self._circuit.moved

    async def fetched(self, key: Key) -> Snapshot | None:
        """Return what other instances have left in the shared cache; the store may have moved on from there too."""
        found = await self.shared.get(key) if self.shared is not None else None
        return None if found is None else self._keep(found)

    def forget(self, key: Key) -> None:
        """Let go of what is cached: it is known to be old."""
        self._cache.drop(key)

    async def load(self, key: Key, *, again: bool = True) -> Snapshot | None:
        """Return the conversation as it is now; None when there is none."""
        known = self._cache.last_place(key)
        return await self._loaded(
            key, known, await self._act(self.driver.read, Read(key, self._window.size)), again=again
        )

    async def _loaded(
        self, key: Key, known: Place | None, found: tuple[Row, list[Entry]] | None, *, again: bool = True
    ) -> Snapshot | None:
        """Return what was *found* under *key*, of which *known* was known before it was asked for."""
        if found is None:
            self._set_back.note_missing(key, known)
            return None
        snapshot = self._window.decode(*found)
        self._set_back.look_back(known, found[0], snapshot.record, news=snapshot.messages)
        self._seen(key)
        return self._keep(await self._complete(snapshot, again=again))

    async def reload(self, key: Key, *, again: bool = True, owner: str = "") -> Snapshot:
        """As `load`, with the blank snapshot where there is none, of a conversation that will be *owner*'s."""
        return await self.load(key, again=again) or blank(key, owner)

    async def reach_back(self, snapshot: Snapshot) -> Snapshot:
        """*snapshot* with a page of the messages before its first one."""
        row, start = snapshot.row, snapshot.messages[0].number
        after = max(start - 1 - PAGE, snapshot.record.dropped)
        found = await self.page(row.key, row.incarnation, after=after, before=start, limit=PAGE)
        if not found or found[-1].number != start - 1:  # erased, or dropped, meanwhile
            return snapshot
        grown = structs.replace(snapshot, messages=(*found, *snapshot.messages))
        held = self._cache.peek(row.key)
        if held is not None and held.row.revision == row.revision:
            self._keep(self._window.fit(row, snapshot.record, grown.messages, snapshot.plain, snapshot.beyond))
        return grown

    async def append(
        self,
        key: Key,
        entry: Entry,
        *,
        at: float,
        due_at: float | None,
        lease: Lease | None = None,
        owner: str = "",
        there: bool = False,
    ) -> tuple[Snapshot, int, bool]:
        """Add *entry* to the log, unless its id is there: the snapshot it leaves, the entry's number, and whether it
        was known. *there*: only to a conversation that is there; raises `Conflict` where none is. Raises `InLog` when it is in the log,
        and only a newer version reads the conversation."""
        cached, place = self._cache.get(key), self._cache.last_place(key)
        # (The window lies before the cursor, so before what is added.)
        tail = self._window.size + 1 if cached is None else 4
        while True:
            revision = fresh_token()
            append = Append(key, [entry], revision, at, due_at, lease, tail, owner)
            try:
                if there:
                    row, entries, known = await self._append_there(append)
                else:
                    row, entries, known = await self._act(self.driver.append, append)
                break
            except Conflict as erased:
                if there:
                    raise
                at = behind_erasure(at, erased.erased_at)
        try:
            return await self._appended(key, entry, row, entries, known, cached, place, ours=row.revision == revision)
        except Unsupported as newer:
            self._cache.drop(key)
            raise InLog(known.get(entry.id, row.head), entry.id in known and row.revision != revision, newer) from newer

    async def _append_there(self, act: Append) -> Appended:
        """Do *act*, where its conversation is there: a driver's `append` would begin it anew. Its record need not be readable. Raises
        `Conflict` where none is there."""
        known: dict[str, int] = {}
        conflicts = 0
        while True:
            await step_back(conflicts)
            found = await self._act(self.driver.read, Read(act.key, tail=0))
            if found is None:
                raise Conflict(f"{act.key} is not there; nothing was written.")
            row, entries = found[0], [entry for entry in act.entries if entry.id not in known]
            if not entries:
                return Appended(row, [], known)
            due_at = min([due for due in (row.due_at, act.due_at) if due is not None], default=None)
            written = structs.replace(row, revision=act.revision, updated_at=act.at, due_at=due_at)
            try:
                stored = await self._act(self.driver.write, Write(written, row.revision, entries, since=row.head))
                return Appended(stored, [], known)
            except Duplicate as there:
                known.update(there.numbers)
            except Conflict:  # others have written to it, or erased it
                conflicts += 1

    async def append_into(
        self, only: Condition, draft: Draft, *, at: float, due_at: float | None
    ) -> tuple[Snapshot, int, bool]:
        """As `append`, to the conversation that *only* has seen. Raises `Conflict` where that was erased, or *only* does not hold."""
        assert only.seen is not None
        there, key = only.seen, only.seen.row.key

        def decide(now: Snapshot) -> Commit | None:
            if not only.holds(now):
                return None
            row = now.row
            due = min([time for time in (due_at, row.due_at) if time is not None], default=None)
            return Commit(
                record=now.record, drafts=(draft,), lease=row.lease, leased_until=row.leased_until, due_at=due
            )

        try:
            after, added = await self.commit(there, decide, at=at)
        except Duplicate as known:
            return await self.reload(key), known.numbers[draft.id], True
        if added is None:
            raise Conflict(f"{key} was erased, or changed, before message {draft.id} was written.")
        return after, added[0].number, False

    async def _appended(
        self,
        key: Key,
        entry: Entry,
        row: Row,
        entries: list[Entry],
        known: dict[str, int],
        cached: Snapshot | None,
        place: Place | None,
        *,
        ours: bool,
    ) -> tuple[Snapshot, int, bool]:
        before = row.head - (ours and entry.id not in known)  # without the entry of this act
        news, record = messages_from(key, row.incarnation, entries), record_from(key, row.body)
        if self._set_back.look_back(place, row, record, head=before, news=news if cached is None else ()):
            cached = None
        newest = self._cache.peek(key)  # of many that are sent at once, each goes on from what the one before has left
        if newest is not None and newest.row.incarnation == row.incarnation and newest.row.head <= row.head:
            cached = newest
        if cached is not None and self._set_back.compare(cached, row, record, news):
            news = [message for message in news if message.number > cached.row.head]
            snapshot = self._window.grow(cached, row, record, news)
        elif cached is None:
            snapshot = self._window.decode(row, entries)
        else:
            snapshot = Snapshot(row, Record(), ())  # too far behind to be brought up to date
        number = known.get(entry.id, row.head)
        try:
            snapshot = self._keep(await self._complete(snapshot)) if snapshot.messages else await self.reload(key)
        except Unavailable as fault:
            raise Uncertain(
                f"{key}: message {entry.id} is in the log as number {number}, and will be answered; what became of it could not "
                f"be read ({fault}). Send it again under the same id to get the answer."
            ) from fault
        finally:
            if ours:
                self._changed(key)
        if snapshot.row.incarnation != row.incarnation:
            raise Conflict(f"{key} was erased while message {entry.id} was written.")
        return snapshot, number, entry.id in known and not ours

    async def release(self, key: Key, lease: str) -> str:
        """Give *lease* back in a conversation whose record need not be readable; nothing else of it changes. Answers the revision
        that this leaves, "" where the lease is somebody else's."""
        for conflicts in count():
            await step_back(conflicts)
            found = await self._act(self.driver.read, Read(key, tail=0))
            if found is None or found[0].lease != lease:
                break
            row = structs.replace(found[0], revision=fresh_token(), lease=None, leased_until=0.0)
            with suppress(Conflict):  # somebody has written to it meanwhile, and has left the lease
                await self._act(self.driver.write, Write(row, replaces=found[0].revision, since=row.head))
                self._cache.drop(key)
                self._changed(key)
                return row.revision
        return ""

    async def hand_in(self, key: Key, entries: list[Entry], *, at: float, owner: str = "", there: bool = False) -> bool:
        """Add *entries* that were accepted elsewhere before, in order; those whose ids are there already, not again. *there*: only to a
        conversation that is there; False: none is, and nothing was written."""
        while True:
            append = Append(key, entries, revision=fresh_token(), at=at, due_at=AT_ONCE, owner=owner)
            try:
                await (self._append_there(append) if there else self._act(self.driver.append, append))
                break
            except Conflict as erased:
                if there:
                    return False
                at = behind_erasure(at, erased.erased_at)
        self._cache.drop(key)
        self._changed(key)
        return True

    async def adopt(self, row: Row, entries: list[Entry]) -> bool:
        """Put in a conversation that was kept elsewhere before, as it is: with its incarnation, numbers and ids.

        *row*.head is the number before the first of *entries*. False where the key was erased here since: nothing is written.
        A conversation that is there already stays, whatever it holds.
        """
        try:
            await self._act(self.driver.write, Write(row, None, entries))
        except (Conflict, Duplicate) as there:
            return there.row is not None
        self._cache.drop(row.key)
        self._changed(row.key)
        return True

    async def commit(
        self, snapshot: Snapshot, decide: Decide, *, at: float, begins: bool = False
    ) -> tuple[Snapshot, list[Message] | None]:
        """Write what *decide* makes of the snapshot, on top of whatever others wrote meanwhile.

        Answers the snapshot it leaves and the entries it added, or, when *decide* gives None, the newest snapshot and
        None. It is an act on the conversation that *snapshot* shows: where there is none, or it was erased meanwhile, that is the answer
        too, unless the act *begins* one. Raises `Duplicate` when one of the ids is in the log already, `Uncertain` when the store kept
        silent to the end.
        """
        key, incarnation = snapshot.row.key, snapshot.row.incarnation
        conflicts = 0
        while True:
            if snapshot.beyond and is_used_up(snapshot):
                snapshot = await self.reload(key)
            if not begins and (not incarnation or snapshot.row.incarnation != incarnation):
                return snapshot, None
            act = decide(snapshot)
            if act is None:
                return snapshot, None
            row, entries, said, record = encode_act(
                snapshot, act, revision=fresh_token(), at=at, limit=self._message_limit
            )
            # With the last entry that is known already, so that a conflict shows whether it is still the same log.
            replaces, since = snapshot.row.revision or None, max(snapshot.row.head - 1, 0)
            write = Write(row, replaces, entries, since, act.drop, act.blank)
            try:
                stored = await self._act(self.driver.write, write)
                if stored.head != row.head + len(entries):
                    raise Corrupt(f"{key}: the store numbered the log to {stored.head}, not {row.head + len(entries)}.")
            except Conflict as there:
                conflicts += 1
                await step_back(conflicts)
                at = behind_erasure(at, there.erased_at)
                snapshot = await self._moved(snapshot, there)
                continue
            except BaseException:
                # Perhaps written, perhaps by the time this is read: only the store knows.
                self._cache.drop(key)
                raise
            self._cache.end_doubt(key)  # it was there
            known = blanked(snapshot, act.blank) if act.blank else snapshot
            after = self._keep(self._window.grow(known, stored, record, said))
            self._changed(key)
            if self.shared is not None and act.blank:
                await self.shared.drop(key)
            elif self.shared is not None and not is_cut(after):
                self.shared.put(after)
            return after, said

    async def commit_row(self, row: Row, decide: Decide, *, at: float) -> bool:
        """Write what *decide* makes of *row* as it was found, without a look at the log: it is given a snapshot without messages.

        False where it gives None, or where somebody has written meanwhile: nothing was written then. Nothing of it is cached.
        """
        snapshot = Snapshot(row, record_from(row.key, row.body), ())
        act = decide(snapshot)
        if act is None:
            return False
        written, entries, _, _ = encode_act(snapshot, act, revision=fresh_token(), at=at, limit=self._message_limit)
        try:
            await self._act(self.driver.write, Write(written, row.revision, entries, row.head, act.drop, act.blank))
        except Conflict:
            return False
        finally:
            self._cache.drop(row.key)
        self._changed(row.key)
        if self.shared is not None:
            await self.shared.drop(row.key)
        return True

    async def commit_once(
        self, snapshot: Snapshot, decide: Decide, *, at: float, begins: bool = False
    ) -> tuple[Snapshot, list[Message] | None]:
        """As `commit`; a note that is in the log already was written by an earlier run of the same act."""
        try:
            return await self.commit(snapshot, decide, at=at, begins=begins)
        except Duplicate:
            return await self.reload(snapshot.row.key), []

    async def page(
        self, key: Key, incarnation: str, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Message]:
        """Log entries, oldest first; `Driver.entries` says which."""
        found = await self._act(self.driver.entries, Entries(key, after, before, limit=limit))
        return messages_from(key, incarnation, found)

    async def find(self, key: Key, incarnation: str, ids: Sequence[str]) -> list[Message]:
        """Return the log entries that have one of *ids*, wherever they stand."""
        found = await self._act(self.driver.entries, Entries(key, ids=ids))
        return messages_from(key, incarnation, found)

    async def last(self, snapshot: Snapshot) -> tuple[list[Message], int]:
        """Return the last messages of the log, and how many wait, also where *snapshot* holds only the first of them."""
        messages, count = list(snapshot.messages), len(unread_messages(snapshot))
        if not is_cut(snapshot):
            return messages, count
        row, seen = snapshot.row, messages[-1].number
        while found := await self.page(row.key, row.incarnation, after=seen, before=row.head + 1, limit=PAGE):
            count += sum(map(asks, found))
            messages, seen = (messages + found)[-max(self._window.size, 1) :], found[-1].number
        return messages, count

    async def rows(
        self,
        index: Index,
        *,
        tenant: str | None = None,
        owner: str = "",
        until: float | None = None,
        after: Row | None = None,
        limit: int = PAGE,
    ) -> list[Row]:
        """Return a page of conversations, undecoded."""
        return await self._act(self.driver.scan, Scan(index, limit, tenant, owner, until, after))

    async def search(self, act: Search) -> Hits:
        """See `Search`. Raises `Unsupported` where the store can have no index."""
        return await self._act(self._searching.search, act)

    async def index_text(self, act: IndexText) -> Indexed:
        """See `IndexText`. Raises `Unsupported` where the store can have no index."""
        return await self._act(self._searching.index_text, act)

    @property
    def _searching(self) -> Searching:
        found = searching(self.driver)
        if found is None:
            raise Unsupported(f"The store lacks {Ability.SEARCH.name} ({Ability.SEARCH}); nothing was done.")
        return found

    async def walk(
        self, index: Index, *, tenant: str | None = None, owner: str = "", after: Row | None = None
    ) -> AsyncGenerator[Row, None]:
        """Yield conversations in the order of *index*, undecoded, from behind *after*: all of them, a page at a time."""
        while rows := await self.rows(index, tenant=tenant, owner=owner, after=after):
            for row in rows:
                yield row
            after = rows[-1]

    async def row(self, key: Key) -> Row | None:
        """Return the row of a conversation, undecoded, as it is now; None when there is none."""
        found = await self._act(self.driver.read, Read(key, tail=0))
        return None if found is None else found[0]

    async def erase(self, key: Key, *, at: float, revision: str | None = None) -> None:
        """Remove everything of *key*; with *revision* only while it has that one, else raises `Conflict`."""
        self._cache.drop(key)
        await self._act(self.driver.erase, Erase(key, at, revision))
        self._cache.forget_place(key)
        if self.shared is not None:
            await self.shared.drop(key)
        self._changed(key)

    def _act(self, verb: Callable[[A], Awaitable[T]], act: A) -> Awaitable[T]:
        if not self._open:
            raise Unavailable("The store is not open; nothing was done. Try again when it is.")
        self.acts[type(act).__name__] += 1
        return self._timed(verb, act) if self._instruments else self._circuit.settle(partial(verb, act))

    async def _timed(self, verb: Callable[[A], Awaitable[T]], act: A) -> T:
        began = time.perf_counter()
        try:
            return await self._circuit.settle(partial(verb, act))
        finally:
            took = time.perf_counter() - began
            for instrument in self._instruments:
                instrument.measured(type(act).__name__.lower(), took)

    def _replaced(self, replaced: Replaced) -> None:
        log.critical("%s", replaced)
        self._cache.clear()

    async def _complete(self, snapshot: Snapshot, *, again: bool = True) -> Snapshot:
        """Fetch what belongs into the snapshot and was not in the tail that was read."""
        row, record = snapshot.row, snapshot.record
        if is_cut(snapshot):
            return await self.reload(row.key) if is_used_up(snapshot) else snapshot
        start = snapshot.messages[0].number if snapshot.messages else row.head + 1
        seen = max(record.cursor - self._window.size, record.dropped)
        missing: list[Message] = []
        while start > seen + 1:
            found = await self.page(row.key, row.incarnation, after=seen, before=start, limit=PAGE)
            if not found and again:  # retention was quicker: the record that we hold is older than the log
                return await self.reload(row.key, again=False)
            if not found:
                raise Corrupt(f"{row.key}: log entries {seen + 1} to {start - 1} are missing. Nothing was changed.")
            missing += found
            seen = found[-1].number
            so_far = structs.replace(snapshot, row=structs.replace(row, head=seen), messages=tuple(missing))
            waiting = unread_messages(so_far)
            if waiting and seen >= record.cursor + HELD and row.head > seen + HELD:
                beyond = choose_beyond(await self._last_replies(snapshot, seen), self._window.size)
                return structs.replace(snapshot, messages=so_far.messages, beyond=beyond)
            if not waiting and len(missing) > self._window.size + HELD:
                # What nobody answers is as good as handled, and need not be held.
                record = keep_outbound(so_far, structs.replace(record, cursor=seen))
                missing = missing[-self._window.size :] if self._window.size else []
                snapshot = structs.replace(snapshot, record=record)
        return self._window.fit(row, record, (*missing, *snapshot.messages), snapshot.plain) if missing else snapshot

    async def _last_replies(self, snapshot: Snapshot, seen: int) -> list[Message]:
        """Return the end of the log behind number *seen*, as far back as it takes to have the last replies in it, within bounds."""
        last = list(snapshot.messages)
        for _ in range(LOOKS_BACK):
            replies = sum(1 for message in last if message.role in TALK and message.role not in ASKING)
            before = last[0].number if last else snapshot.row.head + 1
            if replies >= self._window.size or before <= seen + 1:
                break
            key, incarnation = snapshot.row.key, snapshot.row.incarnation
            found = await self.page(key, incarnation, after=max(seen, before - PAGE - 1), before=before, limit=PAGE)
            if not found:
                break
            last[:0] = found
        return last

    async def _moved(self, snapshot: Snapshot, there: Conflict) -> Snapshot:
        """Return the snapshot that a conflict shows."""
        key, row = snapshot.row.key, there.row
        if row is None:
            if snapshot.row.revision and there.erased_at is None:
                self._set_back.look_back(place_of(snapshot), structs.replace(snapshot.row, head=0), snapshot.record)
            self._cache.drop(key)
            return blank(key, snapshot.row.owner)
        record = record_from(key, row.body)
        if self._set_back.look_back(place_of(snapshot), row, record):
            return await self.reload(key)
        news = messages_from(key, row.incarnation, there.entries)
        if self._set_back.compare(snapshot, row, record, news) and news[-1].number == row.head:
            news = [message for message in news if message.number > snapshot.row.head]
            return self._keep(self._window.grow(snapshot, row, record, news))
        return await self.reload(key)

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        if snapshot.beyond and is_used_up(snapshot):
            self._cache.drop(snapshot.row.key)
        else:
            self._cache.put(snapshot)
        return snapshot


async def step_back(conflicts: int) -> None:
    """Wait a moment, at random and a quarter of a second at most, after more than a few *conflicts* in a row: of many that write to one
    row at the same time somebody gets through then."""
    if conflicts > PATIENCE:
        await asyncio.sleep(secrets.randbelow(1 << min(conflicts, 8)) / 1000)


def blank(key: Key, owner: str = "") -> Snapshot:
    """Return the snapshot of a conversation that does not exist yet, and will be *owner*'s."""
    return Snapshot(row_at(key, owner=owner), Record(), (), plain=1)


_URLSAFE = bytes.maketrans(b"+/", b"-_")
_DRAWN = 64
_random = random.Random(secrets.token_bytes(32))
_tokens: list[str] = []  # drawn at once and used one by one: drawn singly, each would cost a turn 1 %


def _draw_anew() -> None:
    _random.seed(secrets.token_bytes(32))
    _tokens.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_draw_anew)


def fresh_token() -> str:
    """Return a random token for a revision, lease or id: 72 bits, unique, and no secret (asking the system costs 10 us)."""
    while True:
        try:
            return _tokens.pop()
        except IndexError:  # (another thread may take them as well)
            drawn = b2a_base64(_random.randbytes(9 * _DRAWN), newline=False).translate(_URLSAFE).decode()
            _tokens.extend([drawn[place : place + 12] for place in range(0, len(drawn), 12)])
