"""Messages that came while the store was away: kept in a local SQLite file, durable, until the store has them.

The journal is a store of its own, with the same keys and entries, so that what it holds can be handed over as it is:
in order, under the ids it came with, which is what makes a second hand-over harmless. Each process has a file of its
own: one that did not know what another has put there would let later messages overtake.

A message may be for a conversation that is there, and begin none. Nobody can tell while the store is away, so that is noted
beside it, before it is kept, and judged when it is handed over.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from itertools import count, groupby
from operator import itemgetter

from msgspec import structs

from ..conversation.keys import RESERVED
from ..drivers import driver_for
from ..drivers.base import (
    ENTRIES_MOST,
    Append,
    Entries,
    Entry,
    Erase,
    Key,
    Read,
    Row,
    Scan,
    Write,
    behind_erasure,
    mark_of,
)
from ..errors import ChatkeepError, Conflict, Misconfigured, Unavailable, Uncertain
from ..own_file import OwnFile
from .seal_note import refuse_sealed
from .tokens import fresh_token

PAGE = 100
WHOSE = Key(RESERVED + "chatkeep", "journal")

HandOver = Callable[[Key, list[Entry], str, bool], Awaitable[bool]]
"""Takes entries of a conversation, its owner, and whether they are only for one that is there; tells whether it has taken them."""


class Spool:
    """What the SQLite file at *path* holds for the real store; sealed, where there are *keys*."""

    def __init__(self, path: str, keys: Sequence[str] = ()) -> None:
        self._path = path
        self._driver = driver_for(f"sqlite:///{path}")
        if keys:
            from .sealing import sealed  # an extra: imported only where it is wanted

            self._driver = sealed(self._driver, keys)
        self._own = OwnFile("journal", path)
        self.refused: dict[Key, ChatkeepError] = {}  # what the last hand-over could not give, and why
        self.dropped = 0
        """How many messages the last hand-over has let go of, since what they were for was not there any more."""
        self._holding: dict[Key, int] = {}  # key: when something was put there last, as a count of all that was
        self._puts = count(1)
        self._writing: Counter[Key] = Counter()
        self._erasing: dict[Key, asyncio.Event] = {}

    async def open(self) -> None:
        """Open the file; what an earlier run has left in it will be handed over. Raises `Misconfigured`."""
        self._own.take()
        self._holding.clear()
        try:
            await self._driver.open()
            await refuse_sealed(self._driver)
            async for row in self._rows():
                self._put(row.key)
        except BaseException:
            await self.close()
            raise

    async def belong(self, epoch: str) -> None:
        """Note whose messages these are: of the store with this *epoch*. Raises `Misconfigured` when they are another's."""
        found = await self._driver.read(Read(WHOSE, tail=1))
        if found is not None and found[1][0].body.decode() != epoch:
            if self._holding:
                raise Misconfigured(
                    f"journal={self._path} holds messages of {len(self._holding)} conversations for another store; nothing was handed "
                    "over. They are handed over where chatkeep is started with this file and their store. Give each store a journal of "
                    "its own; who deletes this one loses what is in it."
                )
            await self._driver.erase(Erase(WHOSE, at=0.0))
            found = None
        if found is None:
            mine = [Entry(0, "", "", epoch.encode())]
            await self._driver.append(Append(WHOSE, mine, revision=fresh_token(), at=time.time()))

    async def close(self) -> None:
        """Close the file; what it holds stays."""
        try:
            await self._driver.close()
        finally:
            self._own.leave()

    def __len__(self) -> int:
        return len(self._holding)

    def holds(self, key: Key) -> bool:
        """Tell whether messages of *key* wait here; later ones must then wait behind them."""
        return key in self._holding

    async def keep(self, key: Key, entry: Entry, *, at: float, owner: str, there: bool = False) -> None:
        """Make *entry* durable here. *there*: only for a conversation that is there when it is handed over, unless it was kept without
        that as well."""
        self._put(key)
        self._writing[key] += 1
        try:
            while (erasing := self._erasing.get(key)) is not None:
                await erasing.wait()
            if not there:  # whatever was noted of it before
                await self._rewrite(_notes_of(key), blank=[note.number for note in await self._notes(key, [entry.id])])
            elif not await self._driver.entries(Entries(key, ids=[entry.id])):
                await self._append(_notes_of(key), structs.replace(entry, body=b"there"), at=at)
            await self._append(key, entry, at=at, due_at=at, owner=owner)
        finally:
            self._put(key)  # again: a hand-over that looked before this was written must look once more
            self._writing[key] -= 1
            if not self._writing[key]:
                del self._writing[key]

    async def hand_over(self, take: HandOver) -> int:
        """Give everything to *take*, each conversation in order, and let go of what was taken; how many messages.

        What is not taken stays. A conversation that *take* refuses is put into `refused` and holds up no other; when
        the store does not answer (`Unavailable`, `Uncertain`) that is raised, and ends it.
        """
        total, self.refused, self.dropped = 0, {}, 0
        for key in list(self._holding):
            try:
                total += await self._give(key, take)
            except (Unavailable, Uncertain):
                raise
            except ChatkeepError as refusal:
                self.refused[key] = refusal
        return total

    async def _give(self, key: Key, take: HandOver) -> int:
        total, seen, taken, of = 0, -1, 0, ""
        while seen != self._holding.get(key, 0) or self._writing[key]:
            seen = self._holding.get(key, 0)
            while found := await self._driver.read(Read(key, tail=0)):
                row = found[0]
                if row.incarnation != of:  # erased meanwhile, and begun anew: numbered from the first again
                    of, taken = row.incarnation, 0
                entries = await self._driver.entries(Entries(key, after=taken, limit=ENTRIES_MOST))
                if not entries:
                    break
                ids = [entry.id for entry in entries]
                noted = {note.id for note in await self._notes(key, ids)}
                for there, run in groupby([(entry.id in noted, entry) for entry in entries], itemgetter(0)):
                    given = [entry for _, entry in run]
                    if await take(key, given, row.owner, there):
                        total += len(given)
                    else:
                        # What comes behind it may begin the conversation: it is not to be judged again.
                        await self._rewrite(key, of=of, drop=given[-1].number)
                        self.dropped += len(given)
                taken = entries[-1].number
        await self.erase(key)  # nothing comes in between: what comes now waits for its end
        return total

    async def erase(self, key: Key) -> None:
        """Let go of whatever is here of *key*."""
        before, over = self._erasing.get(key), asyncio.Event()
        self._erasing[key] = over
        # (What is noted of a message that is on its way stays.)
        gone = (key,) if self._writing[key] else (key, _notes_of(key))
        self._holding.pop(key, None)
        try:
            for each in gone:
                await self._driver.erase(Erase(each, at=0.0))
            if before is not None:
                await before.wait()
        finally:
            if self._erasing.get(key) is over:
                del self._erasing[key]
            over.set()

    async def _append(self, key: Key, entry: Entry, *, at: float, due_at: float | None = None, owner: str = "") -> None:
        while True:
            try:
                append = Append(key, [entry], revision=fresh_token(), at=at, due_at=due_at, owner=owner)
                await self._driver.append(append)
                return
            except Conflict as taken:  # handed over a moment ago, by a clock that was ahead
                at = behind_erasure(at, taken.erased_at)

    async def _notes(self, key: Key, ids: list[str]) -> list[Entry]:
        """Return the notes that messages with these *ids* are only for a conversation that is there."""
        return [note for note in await self._driver.entries(Entries(_notes_of(key), ids=ids)) if note.body]

    async def _rewrite(self, key: Key, *, of: str = "", drop: int = 0, blank: Collection[int] = ()) -> None:
        """Let go of what is numbered up to *drop*, and of the bodies of those numbered in *blank*. *of*: only of this incarnation."""
        while (drop or blank) and (found := await self._driver.read(Read(key, tail=0))):
            if of and found[0].incarnation != of:
                return
            row = structs.replace(found[0], revision=fresh_token())
            with suppress(Conflict):  # another message was kept meanwhile
                await self._driver.write(Write(row, found[0].revision, since=row.head, drop=drop, blank=blank))
                return

    def _put(self, key: Key) -> None:
        self._holding[key] = next(self._puts)

    async def _rows(self) -> AsyncIterator[Row]:
        after: Row | None = None
        while rows := await self._driver.scan(Scan("due", after=after, limit=PAGE)):
            for row in rows:
                yield row
            after = rows[-1]


def _notes_of(key: Key) -> Key:
    """Return where it is noted which messages of *key* are only for a conversation that is there."""
    return Key(WHOSE.tenant, f"there:{mark_of(key)}")
