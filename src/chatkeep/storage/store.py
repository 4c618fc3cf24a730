"""Conversations as snapshots: loads them, adds to their logs, and writes an act however often that takes.

`commit` is the loop that everything rests on: decide what to write from a snapshot, write it if the store still holds
that revision, else decide again from what is there now.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING

from msgspec import structs

from ..conversation.codec import record_from
from ..conversation.commits import encode_act
from ..conversation.record import Record
from ..conversation.snapshots import Commit, Condition, Draft, Snapshot, blanked, is_cut, is_used_up
from ..drivers.base import (
    AT_ONCE,
    Append,
    Appended,
    Driver,
    Entry,
    Erase,
    Key,
    Lease,
    Read,
    Row,
    Write,
    behind_erasure,
    row_at,
)
from ..errors import Conflict, Corrupt, Duplicate, Unavailable, Uncertain, Unsupported
from ..model import Message
from .cache import Cache, CacheStatistics
from .confinement import Confinement
from .gateway import Gateway, Measured
from .reader import Reader
from .snapshots import Snapshots
from .tokens import fresh_token

if TYPE_CHECKING:
    from .shared_cache import SharedCache

PATIENCE = 3  # conflicts in a row before a writer steps back for a moment

Decide = Callable[[Snapshot], Commit | None]


class InLog(Exception):
    """A message is in the log, of a conversation that only a newer version reads: its number, and whether it was known."""

    def __init__(self, number: int, known: bool, newer: Unsupported) -> None:
        super().__init__(number, known, newer)
        self.number = number
        self.known = known
        self.newer = newer


class Store(Reader):
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
        super().__init__(Gateway(driver, patience_s=patience_s, lost=cache.clear, another=another))
        self.place = place
        self.shared = shared
        self.confinement = Confinement()
        self.cached: Callable[[Key], Snapshot | None] = cache.get
        """Returns the newest snapshot of a key that this process has seen; the store may have moved on."""
        self.holds_id: Callable[[Snapshot, str], bool] = cache.holds_id
        """Tells whether a message of an id is among those that a snapshot holds."""
        self._cache = cache
        self._snapshots = Snapshots(Reader(self.gateway), cache, window)
        self._message_limit = message_limit
        self._changed: Callable[[Key], None] = lambda key: None

    @property
    def rolled_back(self) -> int:
        """How often it was found to hold less than it has answered before."""
        return self._snapshots.rollbacks.found

    @property
    def statistics(self) -> CacheStatistics:
        """What the cache did so far."""
        return self._cache.statistics

    def observe(
        self, instruments: Sequence[Measured], *, changed: Callable[[Key], None], seen: Callable[[Key], None]
    ) -> None:
        """Call *changed*, from now on, with each key that was written to, after it is durable, and *seen* with each that was read, and tell
        *instruments* each act's verb and the seconds it took."""
        self.gateway.instruments = instruments
        self._snapshots.seen = seen
        self._changed = changed

    async def open(
        self, fits: Callable[[str], Awaitable[None]] | None = None, *, first: Key
    ) -> Snapshot | Corrupt | Unsupported | None:
        """Open the driver, and return what is under *first* as `load` does: it is read in the round trip that opening takes anyway. Where
        it cannot be read, the store is open all the same, and the answer is why.

        No other act gets to the driver before *fits*, given the store's epoch, has raised nothing.
        """
        found = await self.gateway.open(Read(first, self._snapshots.window.size), fits)
        self._cache.clear()  # what was seen of it before it was closed may be of another store
        if self.shared is not None:
            self.shared.open(self.driver.epoch)
        try:
            if not isinstance(found, Corrupt):
                return await self._snapshots.take(first, self._cache.last_place(first), found)
        except (Corrupt, Unsupported) as fault:
            return fault
        return found

    def widen(self) -> None:
        """Make room in the window for the notes that sending replies out leaves between what is said."""
        self._snapshots.window.widen()

    async def close(self) -> None:
        """Close the driver."""
        self.gateway.is_open = False
        try:
            if self.shared is not None:
                await self.shared.close()
        finally:
            await self.gateway.driver.close()

    async def load(self, key: Key, *, again: bool = True) -> Snapshot | None:
        """Return the conversation as it is now; None when there is none."""
        return await self._snapshots.load(key, again=again)

    async def load_to_answer(self, key: Key, needed: Callable[[Snapshot], int]) -> Snapshot | None:
        """Load as `load` does, for a turn: with as many of the last messages as are *needed* for it, and perhaps without what came
        before."""
        return await self._snapshots.load_to_answer(key, needed)

    async def reload(self, key: Key, *, again: bool = True, owner: str = "") -> Snapshot:
        """Load as `load` does, with the blank snapshot where there is none, of a conversation that will be *owner*'s."""
        return await self._snapshots.reload(key, again=again, owner=owner)

    async def reload_over(self, key: Key, *, at: float) -> tuple[Snapshot, bool]:
        """Read a record as `reload` does, to write it anew where it is damaged: then it is shown as one without a log, whose next act
        replaces what is there, and the second answer is True."""
        try:
            return await self.reload(key), False
        except Corrupt:
            self._cache.drop(key)
        try:
            row = await self.row(key)
        except Corrupt:
            row = row_at(key)
        if row is not None and row.revision:
            return Snapshot(row, Record(cursor=row.head, dropped=row.head), ()), True
        # (Of a row that cannot be read nobody knows the revision.)
        await self.erase(key, at=at)
        return await self.reload(key), True

    async def reach_back(self, snapshot: Snapshot) -> Snapshot:
        """Return *snapshot* with a page of the messages before its first one."""
        return await self._snapshots.reach_back(snapshot)

    async def last(self, snapshot: Snapshot) -> tuple[list[Message], int]:
        """Return the last messages of the log, and how many wait, also where *snapshot* holds only the first of them."""
        return await self._snapshots.last(snapshot)

    async def fetched(self, key: Key) -> Snapshot | None:
        """Return what other instances have left in the shared cache; the store may have moved on from there too."""
        found = await self.shared.get(key) if self.shared is not None else None
        return None if found is None else self._snapshots.keep(found)

    def forget(self, key: Key) -> None:
        """Let go of what is cached: it is known to be old."""
        self._cache.drop(key)

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
        tail = self._snapshots.window.size + 1 if cached is None else 4
        while True:
            revision = fresh_token()
            append = Append(key, [entry], revision, at, due_at, lease, tail, owner)
            try:
                if there:
                    row, entries, known = await self._append_there(append)
                else:
                    row, entries, known = await self.gateway.act(self.gateway.driver.append, append)
                break
            except Conflict as erased:
                if there:
                    raise
                at = behind_erasure(at, erased.erased_at)
        ours = row.revision == revision
        number, was_known = known.get(entry.id, row.head), entry.id in known and not ours
        head = row.head - (ours and entry.id not in known)  # without the entry of this act
        try:
            snapshot = self._snapshots.follow_append(key, row, entries, cached, place, head=head)
            try:
                snapshot = await self._snapshots.keep_whole(snapshot)
            except Unavailable as fault:
                raise Uncertain(
                    f"{key}: message {entry.id} is in the log as number {number}, and will be answered; what became of it could not "
                    f"be read ({fault}). Send it again under the same id to get the answer."
                ) from fault
            finally:
                if ours:
                    self._changed(key)
        except Unsupported as newer:
            self._cache.drop(key)
            raise InLog(number, was_known, newer) from newer
        if snapshot.row.incarnation != row.incarnation:
            raise Conflict(f"{key} was erased while message {entry.id} was written.")
        return snapshot, number, was_known

    async def _append_there(self, act: Append) -> Appended:
        """Do *act*, where its conversation is there: a driver's `append` would begin it anew. Its record need not be readable. Raises
        `Conflict` where none is there."""
        known: dict[str, int] = {}
        conflicts = 0
        while True:
            await step_back(conflicts)
            found = await self.read(act.key, tail=0)
            if found is None:
                raise Conflict(f"{act.key} is not there; nothing was written.")
            row, entries = found[0], [entry for entry in act.entries if entry.id not in known]
            if not entries:
                return Appended(row, [], known)
            due_at = min([due for due in (row.due_at, act.due_at) if due is not None], default=None)
            written = structs.replace(row, revision=act.revision, updated_at=act.at, due_at=due_at)
            try:
                stored = await self.gateway.act(
                    self.gateway.driver.write, Write(written, row.revision, entries, since=row.head)
                )
                return Appended(stored, [], known)
            except Duplicate as there:
                known.update(there.numbers)
            except Conflict:  # others have written to it, or erased it
                conflicts += 1

    async def append_into(
        self, only: Condition, draft: Draft, *, at: float, due_at: float | None
    ) -> tuple[Snapshot, int, bool]:
        """Add as `append` does, to the conversation that *only* has seen. Raises `Conflict` where that was erased, or *only* does not
        hold."""
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

    async def release(self, key: Key, lease: str) -> str:
        """Give *lease* back in a conversation whose record need not be readable; nothing else of it changes. Answers the revision
        that this leaves, "" where the lease is somebody else's."""
        for conflicts in count():
            await step_back(conflicts)
            found = await self.read(key, tail=0)
            if found is None or found[0].lease != lease:
                break
            row = structs.replace(found[0], revision=fresh_token(), lease=None, leased_until=0.0)
            with suppress(Conflict):  # somebody has written to it meanwhile, and has left the lease
                await self.gateway.act(
                    self.gateway.driver.write, Write(row, replaces=found[0].revision, since=row.head)
                )
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
                if there:
                    await self._append_there(append)
                else:
                    await self.gateway.act(self.gateway.driver.append, append)
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
            await self.gateway.act(self.gateway.driver.write, Write(row, None, entries))
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
                stored = await self.gateway.act(self.gateway.driver.write, write)
                if stored.head != row.head + len(entries):
                    raise Corrupt(f"{key}: the store numbered the log to {stored.head}, not {row.head + len(entries)}.")
            except Conflict as there:
                conflicts += 1
                await step_back(conflicts)
                at = behind_erasure(at, there.erased_at)
                snapshot = await self._snapshots.follow_conflict(snapshot, there)
                continue
            except BaseException:
                # Perhaps written, perhaps by the time this is read: only the store knows.
                self._cache.drop(key)
                raise
            self._cache.end_doubt(key)  # it was there
            known = blanked(snapshot, act.blank) if act.blank else snapshot
            after = self._snapshots.keep(self._snapshots.window.grow(known, stored, record, said))
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
            await self.gateway.act(
                self.gateway.driver.write, Write(written, row.revision, entries, row.head, act.drop, act.blank)
            )
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
        """Write as `commit` does; a note that is in the log already was written by an earlier run of the same act."""
        try:
            return await self.commit(snapshot, decide, at=at, begins=begins)
        except Duplicate:
            return await self.reload(snapshot.row.key), []

    async def erase(self, key: Key, *, at: float, revision: str | None = None) -> None:
        """Remove everything of *key*; with *revision* only while it has that one, else raises `Conflict`."""
        self._cache.drop(key)
        await self.gateway.act(self.gateway.driver.erase, Erase(key, at, revision))
        self._cache.forget_place(key)
        if self.shared is not None:
            await self.shared.drop(key)
        self._changed(key)


async def step_back(conflicts: int) -> None:
    """Wait a moment, at random and a quarter of a second at most, after more than a few *conflicts* in a row: of many that write to one
    row at the same time somebody gets through then."""
    if conflicts > PATIENCE:
        await asyncio.sleep(secrets.randbelow(1 << min(conflicts, 8)) / 1000)
