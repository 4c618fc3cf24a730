"""Copies one conversation from store to store, as it is.

Its revision comes with the last write: what has that revision is complete. All acts can be run again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from typing import Literal

from msgspec import structs

from ..conversation.codec import record_from
from ..drivers.base import Driver, Entries, Entry, Erase, Key, Read, Row, Write
from ..errors import ChatkeepError, Conflict, Corrupt, Misconfigured
from .pacing import do

CopyOutcome = Literal["alike", "copied", "erased"]

PAGE = 100
TAIL = 50  # so many entries come with the row; a longer log is read in pages
CHUNK_BYTES = 256 * 1024
CONFLICTS = 20  # in a row, on one conversation of the new store, before somebody else is taken to write there
PART = "~part:"
"""How the revision of a conversation begins whose log is not all there yet."""

LONG_AGO = 0.0  # a time before all others


class LogReader:
    """Reads whole logs of one store, in pages."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    async def first(self, row: Row, tail: Sequence[Entry]) -> int:
        """Return the number of the first entry that retention has left."""
        if not tail:
            return row.head + 1
        if len(tail) < TAIL or tail[0].number == 1:
            return tail[0].number
        found = await do(self.driver.entries, Entries(row.key, after=0, limit=1))
        if not found:
            raise Gone
        return found[0].number

    async def entries(self, row: Row, tail: Sequence[Entry], start: int) -> AsyncIterator[Entry]:
        """Yield the entries numbered above *start*, up to the row's head."""
        if row.head <= start:
            return
        while not tail or tail[0].number > start + 1:
            found = await do(self.driver.entries, Entries(row.key, after=start, before=row.head + 1, limit=PAGE))
            if not found:
                raise Gone
            for entry in found:
                yield entry
            start = found[-1].number
            if start >= row.head:
                return
        for entry in tail:
            if entry.number > start:
                yield entry


class LogWriter:
    """Writes whole conversations to one store, as they are, and reads them back."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    async def extend(self, row: Row, entries: AsyncIterator[Entry], first: int, there: Row | None) -> None:
        """
        Write what the store lacks of *row* and its log, which begins with number *first*; the last write brings the row itself.

        *there*: an earlier state of it, or None. *entries*: those behind that. Raises `Gone` where one of them is missing.
        """
        start = first - 1 if there is None else there.head
        written, replaces = blake2b(digest_size=16), None if there is None else there.revision
        chunk: list[Entry] = []
        size, number = 0, start
        async for entry in entries:
            if entry.number != number + 1:
                raise Gone
            number = entry.number
            add_to(written, entry)
            if size > CHUNK_BYTES or len(chunk) >= 2 * PAGE:
                replaces = await self._partly(row, chunk, replaces, start)
                chunk, size = [], 0
            chunk.append(entry)
            size += len(entry.body) + 64
        if number != row.head:
            raise Gone
        last = row if replaces is not None else structs.replace(row, head=start)
        await do(self.driver.write, Write(last, replaces, chunk, since=row.head, drop=first - 1))
        await self._read_back(row, start, written)

    async def _read_back(self, row: Row, start: int, written: blake2b) -> None:
        """Raise `Corrupt` where the store has something else than what was *written* behind number *start*."""
        count = row.head - start
        found = await do(self.driver.read, Read(row.key, tail=count if count <= TAIL else 0))
        if found is None or found[0].revision != row.revision:
            return  # somebody has gone on with it already
        if count <= TAIL:
            read = blake2b(digest_size=16)
            for entry in found[1]:
                add_to(read, entry)
        else:
            read = await digest(self.driver, row.key, start, row.head)
        if found[0] != row or read.digest() != written.digest():
            raise Corrupt(
                f"{row.key}: what the store answers is not what was written there; nothing more is written. See `chatkeep check`."
            )

    async def _partly(self, row: Row, chunk: Sequence[Entry], replaces: str | None, start: int) -> str:
        """Write a part of the log, under a revision that nobody has seen, and with nothing that anybody would look for."""
        part = structs.replace(
            row, revision=PART + secrets.token_hex(9), head=start, due_at=None, lease=None, leased_until=0.0
        )
        await do(self.driver.write, Write(part, replaces, chunk, since=row.head))
        return part.revision

    async def remove(self, there: Row) -> None:
        """Remove what cannot be gone on with, by a mark that is earlier than anything which takes its place."""
        early = structs.replace(there, revision=secrets.token_hex(9), updated_at=LONG_AGO, due_at=None)
        await do(self.driver.write, Write(early, there.revision, since=there.head))
        await do(self.driver.erase, Erase(there.key, at=LONG_AGO))


class Copier:
    """Copies from *source* to *target*, two open drivers."""

    def __init__(self, source: Driver, target: Driver) -> None:
        self.source = source
        self.target = target
        self._reader = LogReader(source)
        self._writer = LogWriter(target)

    async def copy(self, key: Key, *, absent: bool = False, compare: bool = False) -> CopyOutcome:
        """
        Bring one conversation of the new store to where the old one has it; answers what had to be done for that.

        *absent*: it was not there a moment ago, so it is not asked for. *compare*: what is there of it may be of another run, and is
        compared to the last byte.
        """
        lacking = ""
        for _ in range(CONFLICTS):
            found = await do(self.source.read, Read(key, tail=TAIL))
            there = None if absent else await do(self.target.read, Read(key, tail=TAIL if compare else 0))
            if compare and found is not None and found == there and len(found[1]) < TAIL:
                return "alike"
            target, absent = None if there is None else there[0], False
            try:
                if found is None:
                    return "alike" if target is None else await self._erase(target)
                row, tail = found
                first = await self._reader.first(row, tail)
                if target is not None and not await self._fits(row, target, first, compare):
                    await self._writer.remove(target)
                    target = None
                if target is not None and target.revision == row.revision:
                    return "alike"
                start = first - 1 if target is None else target.head
                await self._writer.extend(row, self._reader.entries(row, tail, start), first, target)
                return "copied"
            except Gone as gone:  # from the old store, while it was read
                if found is not None and found[0].revision == lacking:
                    raise Corrupt(
                        f"{key}: log entries are missing in FROM; the move has stopped. Restore the conversation or erase it, then run "
                        "the move again."
                    ) from gone
                lacking = found[0].revision if found is not None else ""
            except Conflict:  # of two runs of this move at once, say
                await asyncio.sleep(0.01)
        raise Misconfigured(
            f"{key}: somebody else writes to TO while it is filled; the move has stopped. Stop them, and run it again."
        )

    async def _fits(self, row: Row, there: Row, first: int, compare: bool) -> bool:
        """Tell whether *there* is *row*, or an earlier state of it that only lacks what came since."""
        if not (there == row if there.revision == row.revision else goes_on(row, there, first)):
            return False
        if not compare:
            return True
        sums = [await digest(driver, row.key, first - 1, there.head) for driver in (self.source, self.target)]
        return sums[0].digest() == sums[1].digest()

    async def _erase(self, there: Row) -> CopyOutcome:
        """Erase a conversation that the old store has no more, with the mark that it left there."""
        probe = Row(key=there.key, revision=secrets.token_hex(9), incarnation="-")
        mark: float | None = None
        try:
            await do(self.source.write, Write(probe, replaces=secrets.token_hex(9)))
        except Conflict as gone:
            if gone.row is not None:
                raise Gone from gone
            mark = gone.erased_at
        await do(self.target.erase, Erase(there.key, at=there.updated_at if mark is None else mark))
        return "erased"


def goes_on(row: Row, there: Row, first: int) -> bool:
    """Tell whether *there* is an earlier state of *row*, which only lacks what came since."""
    if there.incarnation != row.incarnation or not first - 1 <= there.head <= row.head:
        return False
    try:
        return record_from(row.key, row.body).redactions == record_from(there.key, there.body).redactions
    except ChatkeepError:  # one that only a newer version reads, or that is damaged, is copied whole
        return False


async def digest(driver: Driver, key: Key, start: int, head: int) -> blake2b:
    """Return the checksum of the entries numbered above *start*, up to *head*."""
    sums = blake2b(digest_size=16)
    while start < head:
        found = await do(driver.entries, Entries(key, after=start, before=head + 1, limit=PAGE))
        if not found:
            break
        for entry in found:
            add_to(sums, entry)
        start = found[-1].number
    return sums


class Gone(Exception):
    """The old store has gone on while a conversation was read; it is read again."""


def add_to(sums: blake2b, held: Row | Entry) -> None:
    """Add a row or an entry to a checksum."""
    sums.update(repr(structs.astuple(held)).encode())
