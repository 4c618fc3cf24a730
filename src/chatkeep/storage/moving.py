"""Moves all that one store holds to another one, of any kind, while it is in use.

Conversations are copied as they are, with revision, incarnation, numbers, ids, owner, due time and lease, so that whoever has seen
one of them in the old store goes on with it in the new one: credentials, names of customers, pauses and the audit log are rows like
any other. Nothing is remembered anywhere else than in the two stores. A row that has the revision of the old store's is complete,
for its last write brings the revision; so a move that was killed, anywhere, is run again and goes on.

    copy     both stores are walked through in the order of keys, and what differs is copied. What the run before has left is compared
             to the last byte.
    follow   what was changed last is looked at, newest first.
    finish   the old store gets another epoch, which fences off everybody; one more walk copies the rest and removes what was erased;
             a last one finds every row alike; the new store takes over the epoch, and with it the journals that belong to it.

Counters of rate limits stay behind: their windows are short.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b

from msgspec import Struct

from ..drivers.base import RECENT_GRAIN_S, Ability, Driver, Erase, Fence, Read, Row, Scan
from ..errors import Corrupt, Misconfigured, Unsupported
from .copying import Copier, add_to
from .pacing import Pages, Room, do
from .relocation import FILLING, MOVED, NOTE, Note, moved, origin_of, read_note, write_note

MOST = 500  # rows that are asked for at once
TOGETHER = 128  # conversations that are copied at the same time, at most
OVERLAP_S = 2 * RECENT_GRAIN_S  # clocks of those who write may differ by so much
CAUGHT_UP = 200  # changes that are left for the last walk, at most, unless they come faster than they are copied


class Walk(Struct, kw_only=True):
    """What one walk through the stores has found: *conversations* that are there, how many *changed* and were copied, how many were
    *erased*, how many *messages* the logs are numbered to, and a *checksum* over all rows of the old store, and of the new one."""

    conversations: int = 0
    changed: int = 0
    erased: int = 0
    messages: int = 0
    checksum: str = ""
    checksum_there: str = ""


class Progress(Struct, kw_only=True):
    """How far a walk has come: *total* is None until all conversations are counted."""

    stage: str
    done: int = 0
    copied: int = 0
    total: int | None = None
    seconds: float = 0.0


class Move:
    """
    One move from *source* to *target*, two open drivers, in one run of however many it takes.

    *address*: of the new store, as people may read it; whoever comes late to the old one is told. *told* is called a few times a
    second while something goes on.
    """

    def __init__(
        self,
        source: Driver,
        target: Driver,
        *,
        address: str,
        told: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        together: int = TOGETHER,
    ) -> None:
        self.source = source
        self.target = target
        self._address = address
        self._told = told
        self._clock = clock
        self._copier = Copier(source, target)
        self._room = Room(together)
        self._origin = origin_of(source.epoch)
        self._compared = False
        """Whether this run has seen, or written and read back, every log that the new store has."""
        self._newest = 0.0
        self._total: int | None = None

    # -- before anything is touched ---------------------------------------------------------------------------------------

    async def begin(self) -> bool:
        """Refuse what cannot be moved, before anything is touched; then claim the new store. False: this move is finished already."""
        refuse_lacking(self.source, "FROM")
        refuse_lacking(self.target, "TO")
        source, target = self.source.epoch, self.target.epoch
        if source == target:
            raise Misconfigured(
                "FROM and TO are the same store, or one is a copy of the other; nothing was moved. Name an empty one as TO."
            )
        if source.startswith(FILLING):
            raise Misconfigured(
                "FROM is itself being filled by a move that has not finished; nothing was moved. Finish that one first."
            )
        if target == self._origin:
            return False
        if await self._is_ours():
            await self._claim()
            return True
        note = await do(read_note, self.target)
        if target.startswith(MOVED):
            whither = f" to {note.to}" if note is not None and note.to else ""
            raise Misconfigured(
                f"TO was itself moved{whither}, and stays closed; nothing was moved. Name an empty store (another file, schema or prefix)."
            )
        if target.startswith(FILLING) or note is not None:
            raise Misconfigured(
                "TO is being filled by a move from another store; nothing was moved. Finish that one, or name an empty store."
            )
        if source.startswith(MOVED):
            there = await do(read_note, self.source)
            if there is None or there.to != self._address or Ability.FENCE in self.target.abilities:
                raise moved(there or Note(of=self._origin))
            return False
        await self._refuse_full()
        await self._claim()
        try:
            await self._refuse_full()  # somebody may have had it open, and is fenced off only now
        except Misconfigured:
            await self._release(target)
            raise
        return True

    async def _is_ours(self) -> bool:
        """Tell whether an earlier run of this move has claimed the new store."""
        if self.target.epoch == FILLING + self._origin:
            return True
        note = await do(read_note, self.target)
        return note is not None and not note.to and note.of == self._origin

    async def _refuse_full(self) -> None:
        rows = await do(self.target.scan, Scan("key", limit=2))
        if [row for row in rows if row.key != NOTE]:
            raise Misconfigured(
                "TO is not empty, and what it holds is not of this move; nothing was moved. Name an empty store (another file, schema "
                "or prefix)."
            )

    async def _claim(self) -> None:
        await self._put_note(self.target, Note(of=self._origin))
        await self._fence(self.target, FILLING + self._origin)

    async def _release(self, epoch: str) -> None:
        await self._remove_note(self.target)
        await self._fence(self.target, epoch)

    async def _fence(self, driver: Driver, epoch: str) -> None:
        if Ability.FENCE in driver.abilities:
            await do(driver.fence, Fence(epoch, closes=epoch.startswith(MOVED)))

    async def _put_note(self, driver: Driver, note: Note) -> None:
        await do(lambda note: write_note(driver, note, at=self._clock()), note)

    async def _remove_note(self, driver: Driver) -> None:
        await do(driver.erase, Erase(NOTE, at=self._clock()))

    # -- the stages -------------------------------------------------------------------------------------------------------

    async def copy(self, stage: str = "copying") -> Walk:
        """Walk through both stores once and copy what differs; the first time, what is alike is compared to the last byte."""
        counting = asyncio.ensure_future(self._count()) if self._total is None else None
        try:
            walk = await self._walk(stage)
        finally:
            if counting is not None:
                counting.cancel()
                await asyncio.gather(counting, return_exceptions=True)
        self._compared = True
        self._total = walk.conversations
        return walk

    async def follow(self) -> int:
        """Copy what has changed since the last look, newest first; answers how many conversations."""
        since, newest = self._newest - OVERLAP_S, self._newest
        changed, pages = 0, Pages(self.source, Scan("recent", limit=MOST, since=since))
        while rows := await pages.next():
            fresh = [row for row in rows if row.updated_at >= since and row.key != NOTE]
            now = self._clock()  # (The clock of somebody who writes may be ahead.)
            newest = max([newest, *[min(row.updated_at, now) for row in fresh]])
            changed += sum(await asyncio.gather(*[self._brought_up(row) for row in fresh]))
            if rows[-1].updated_at < since:
                break
        self._newest = newest
        return changed

    async def _brought_up(self, row: Row) -> bool:
        entered = await self._room.enter()
        try:
            there = await do(self.target.read, Read(row.key, tail=0))
            if there is not None and there[0].revision == row.revision:
                return False
            return await self._copier.copy(row.key) != "alike"
        finally:
            self._room.leave(entered)

    async def finish(self, *, stopped: bool = False) -> Walk:
        """
        Fence off the old store, copy what is left, make sure that the two are alike, and open the new one.

        *stopped*: somebody says that nobody else has the old store open, which has to be so where it cannot be fenced off.
        """
        for _ in range(20):
            if await self.follow() < CAUGHT_UP:
                break
        if not stopped and Ability.FENCE not in self.source.abilities:
            raise Unsupported(
                "FROM cannot be fenced off; all is copied, nothing else was done. Stop everybody who has it open, and say so with "
                "--stopped."
            )
        await self._put_note(self.source, Note(of=self._origin, to=self._address, at=self._clock()))
        await self._fence(self.source, MOVED + self._origin)
        walk = await self.copy("the rest")
        while walk.changed or walk.erased:
            walk = await self.copy("comparing")
        if walk.checksum != walk.checksum_there:
            raise Corrupt("The two stores are not alike, though every row is; the move has stopped. Run it again.")
        await self._remove_note(self.target)
        await self._fence(self.target, self._origin)
        return walk

    async def cancel(self) -> None:
        """Give the old store back to those who had it open, if the new one was not opened yet; what was copied stays there."""
        if self.target.epoch == self._origin:
            raise Misconfigured(
                "This move is finished, and TO is in use; nothing was changed. Move it back instead, to an empty store."
            )
        if not await self._is_ours():  # the real one may be in use
            raise Misconfigured(
                "TO is not what FROM is moved to; nothing was changed. Name the store that was being filled."
            )
        await self._fence(self.source, self._origin)
        await self._remove_note(self.source)

    # -- one walk ---------------------------------------------------------------------------------------------------------

    async def _walk(self, stage: str) -> Walk:
        walk, began = Walk(), time.monotonic()
        ours, theirs = blake2b(digest_size=16), blake2b(digest_size=16)
        beat = 0.0

        async def settle(row: Row | None, there: Row | None, entered: float) -> None:
            try:
                await self._settled(walk, row, there)
            finally:
                self._room.leave(entered)

        try:
            async with asyncio.TaskGroup() as tasks:
                async for row, there in self._pairs():
                    if not self._compared or row != there:
                        tasks.create_task(settle(row, there, await self._room.enter()))
                    if row is not None:
                        walk.conversations += 1
                        walk.messages += row.head
                        add_to(ours, row)
                        self._newest = max(self._newest, min(row.updated_at, self._clock()))
                    if there is not None:
                        add_to(theirs, there)
                    if (now := time.monotonic()) > beat + 0.2:
                        beat = now
                        done = Progress(
                            stage=stage,
                            done=walk.conversations,
                            copied=walk.changed,
                            total=self._total,
                            seconds=now - began,
                        )
                        self._told(done)
        except BaseExceptionGroup as faults:
            raise first_of(faults) from None
        walk.checksum, walk.checksum_there = ours.hexdigest(), theirs.hexdigest()
        return walk

    async def _settled(self, walk: Walk, row: Row | None, there: Row | None) -> None:
        key = there.key if row is None and there is not None else row.key if row is not None else NOTE
        outcome = await self._copier.copy(key, absent=there is None, compare=not self._compared)
        walk.changed += outcome == "copied"
        walk.erased += outcome == "erased"

    async def _pairs(self) -> AsyncIterator[tuple[Row | None, Row | None]]:
        """Yield the rows of both stores in the order of keys, those of one key side by side."""
        ours, theirs = self._rows(self.source), self._rows(self.target)
        row, there = await anext(ours, None), await anext(theirs, None)
        while row is not None or there is not None:
            if there is None or (row is not None and row.key < there.key):
                yield row, None
                row = await anext(ours, None)
            elif row is None or there.key < row.key:
                yield None, there
                there = await anext(theirs, None)
            else:
                yield row, there
                row, there = await anext(ours, None), await anext(theirs, None)

    async def _rows(self, driver: Driver) -> AsyncIterator[Row]:
        """Yield all rows; the next page is asked for while one is worked on."""
        pages = Pages(driver, Scan("key", limit=MOST))
        ahead = asyncio.ensure_future(pages.next())
        try:
            while rows := await ahead:
                ahead = asyncio.ensure_future(pages.next())
                for row in rows:
                    if row.key != NOTE:
                        yield row
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _count(self) -> None:
        """Find out how many conversations there are, beside the first walk, so that the time left can be told; a store that is slow
        is left to the walk."""
        count, pages = 0, Pages(self.source, Scan("key", limit=MOST))
        while rows := await pages.next():
            count += len(rows)
            if pages.are_slow:
                return
        self._total = count


def refuse_lacking(driver: Driver, which: str) -> None:
    """Raise `Unsupported` where a store cannot be moved from or to."""
    lacking = [ability for ability in (Ability.LOG, Ability.SCAN, Ability.EPOCH) if ability not in driver.abilities]
    if lacking:
        what = "; ".join(f"{ability.name} ({ability})" for ability in lacking)
        raise Unsupported(f"{which} lacks {what}; nothing was moved.")


def first_of(faults: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return one of several errors that came together."""
    fault: BaseException = faults
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault
