"""Writes conversations as lines of JSON, and reads them back into any store: see `conversation.archive` for the lines.

What is imported is what was exported, to the byte: revision, incarnation, numbers, ids. So importing the same lines again does
nothing, and goes on where an import was interrupted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from hashlib import blake2b
from tempfile import SpooledTemporaryFile
from typing import IO, Literal

from msgspec import Struct, structs

from ..conversation.archive import (
    HEADER,
    ConversationLine,
    EndLine,
    Header,
    encode_end,
    entry_from,
    key_from,
    line_of_entry,
    line_of_row,
    parse_line,
    refuse_other,
    row_from,
)
from ..conversation.keys import RESERVED
from ..drivers.base import Driver, Entry, Key, Read, Row, Scan
from ..errors import BadMessage, ChatkeepError, Conflict, Corrupt, StoreError
from .copying import PART, TAIL, Gone, LogReader, LogWriter, goes_on
from .pacing import Pages, Room, do
from .records import CLAIMS
from .relocation import NOTE

PAGE = 50
TOGETHER = 64  # conversations that are written at the same time, at most
HELD_BYTES = 1 << 20  # of one conversation, in memory; what is more goes to a temporary file
TURN_BYTES = 256 * 1024
TRIES = 20
LONGEST_LINE = 64 << 20

Existing = Literal["refuse", "skip", "replace"]
"""What is done with a conversation that is there already, and is another one than the one that is imported."""


class Exported(Struct, kw_only=True):
    """What an export wrote. *damaged*: what could not be read of the store, and why; it is not in there."""

    conversations: int = 0
    entries: int = 0
    damaged: dict[Key, str] = {}


async def export_lines(
    driver: Driver, said: Exported, *, tenant: str | None = None, conversation: str | None = None
) -> AsyncIterator[bytes]:
    """
    Yield the lines of one conversation, of a tenant's, or of all there is, in the order of keys; *said* is filled in.

    Each conversation is of one instant; those that change meanwhile are of different ones. A tenant's come with the claims of its
    users, by which their lists find what they said as guests, and one conversation with those that say who its owner has become;
    chatkeep's other records (credentials, audit, holds) stay out of what is not all.
    """
    sums = blake2b(digest_size=16)

    def counted(line: bytes) -> bytes:
        sums.update(line)
        return line

    yield counted(HEADER + b"\n")
    async for keys in _pages(driver, tenant, conversation):
        with ExitStack() as opened:  # (whoever reads may leave between two lines)
            blocks = [opened.enter_context(SpooledTemporaryFile(max_size=HELD_BYTES)) for _ in keys]
            await asyncio.gather(*[_write_block(driver, *one, said) for one in zip(keys, blocks, strict=True)])
            for block in blocks:
                with block:
                    block.seek(0)
                    for line in block:
                        yield counted(line)
    yield encode_end(said.conversations, said.entries, sums.hexdigest()) + b"\n"


async def _pages(driver: Driver, tenant: str | None, conversation: str | None) -> AsyncIterator[list[Key]]:
    if conversation is not None:
        key = Key(tenant or "", conversation)
        yield [key]
        if claims := await _claims_on_the_way_from(driver, key):
            yield claims
        return
    for name in (tenant,) if tenant is None else (tenant, f"{RESERVED}{CLAIMS}{tenant}"):
        pages = Pages(driver, Scan("key", tenant=name, limit=PAGE))
        while rows := await pages.next():
            yield [row.key for row in rows if row.key != NOTE]


async def _claims_on_the_way_from(driver: Driver, key: Key) -> list[Key]:
    """Return the keys of the claims that lead from the owner of a conversation to whoever has it now; of each the row tells to whom."""
    claims: list[Key] = []
    with suppress(Corrupt):  # (that something is damaged is said where its lines are)
        found = await do(driver.read, Read(key, tail=0))
        while found is not None and found[0].owner:
            claim = Key(f"{RESERVED}{CLAIMS}{key.tenant}", found[0].owner)
            if claim in claims or (found := await do(driver.read, Read(claim, tail=0))) is None:
                break
            claims.append(claim)
    return claims


async def _write_block(driver: Driver, key: Key, block: IO[bytes], said: Exported) -> None:
    """Write the lines of one conversation into *block*; none when it is gone, or cannot be read."""
    reader = LogReader(driver)
    for _ in range(TRIES):
        try:
            entries = await _write_lines(driver, reader, key, block)
        except (Gone, Corrupt) as fault:
            block.seek(0)
            block.truncate()
            if isinstance(fault, Corrupt):
                said.damaged[key] = str(fault)
                return
            await asyncio.sleep(0.01)  # it has gone on while it was read
        else:
            if entries is not None:
                said.conversations += 1
                said.entries += entries
            return
    said.damaged[key] = f"{key}: log entries are missing."


async def _write_lines(driver: Driver, reader: LogReader, key: Key, block: IO[bytes]) -> int | None:
    """Write the lines of one conversation, and return how many entries it has; None where there is none. Raises `Gone`, `Corrupt`."""
    found = await do(driver.read, Read(key, tail=TAIL))
    if found is None:
        return None
    row, tail = found
    number, written = (first := await reader.first(row, tail)) - 1, 0
    block.write(line_of_row(row, first) + b"\n")
    async for entry in reader.entries(row, tail, first - 1):
        if entry.number != number + 1:
            raise Gone
        number = entry.number
        written += block.write(line_of_entry(key, entry) + b"\n")
        if written > TURN_BYTES:
            written = 0
            await asyncio.sleep(0)  # what else the process does goes on between pages that are all there
    now = await do(driver.read, Read(key, tail=0)) if row.head - first >= TAIL else found
    if number != row.head or now is None or not (now[0] == row or goes_on(now[0], row, first)):
        raise Gone
    return row.head - first + 1


class Imported(Struct, kw_only=True):
    """What an import has done so far: conversations that are *new*, were there *already*, were *skipped* or *replaced*; *entries* of
    the logs; *line*: how far it has read."""

    new: int = 0
    already: int = 0
    skipped: int = 0
    replaced: int = 0
    entries: int = 0
    line: int = 0

    @property
    def conversations(self) -> int:
        """How many there were."""
        return self.new + self.already + self.skipped + self.replaced


class Block(Struct, kw_only=True):
    """One conversation of an export: the line it begins on, its row, and the lines of its entries."""

    line: int
    row: Row
    first: int
    texts: IO[bytes]

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield the entries of the log."""
        self.texts.seek(0)
        for number, text in enumerate(self.texts, self.first):
            yield entry_from(self.row.key, parse_line(text), number)


def read_blocks(lines: Iterable[bytes], said: Imported, *, now: float) -> Iterator[Block]:
    """
    Yield the conversations of an export, each when all its lines are read and found right; *said.line* is the line it is at.

    Raises `BadMessage` or `Unsupported` with the number of the line; also at the end of a file that was cut.
    """
    sums, count, entries = blake2b(digest_size=16), 0, 0
    reading: _Reading | None = None
    ended = False
    try:
        for said.line, text in enumerate(lines, 1):
            try:
                if ended:
                    raise BadMessage("there is more behind the last line")
                if len(text) > LONGEST_LINE:
                    raise BadMessage(f"the line is longer than {LONGEST_LINE:,} bytes")
                line = parse_line(text)
                if said.line == 1:
                    refuse_other(line)
                elif isinstance(line, Header):
                    raise BadMessage("a second header; import one export after the other")
                elif isinstance(line, ConversationLine | EndLine):
                    if reading is not None:
                        block = reading.finish(now)
                        reading, count, entries = None, count + 1, entries + block.row.head - block.first + 1
                        yield block
                    if isinstance(line, ConversationLine):
                        reading = _Reading(said.line, line, text)
                    else:
                        ended = True
                        _refuse_cut(line, count, entries, sums.hexdigest())
                elif reading is None:
                    raise BadMessage("an entry that belongs to no conversation")
                else:
                    reading.add(text)
            except ChatkeepError as fault:
                raise _at_line(said.line, fault) from fault
            sums.update(text)
    finally:
        if reading is not None:
            reading.close()
    if not ended:
        raise BadMessage(f"line {said.line + 1}: the export ends before its last line; something is missing")


def _refuse_cut(end: EndLine, count: int, entries: int, checksum: str) -> None:
    if (count, entries) != (end.conversations, end.entries):
        raise BadMessage(
            f"there were {count} conversations with {entries} entries, and {end.conversations} with {end.entries} were written: "
            "something is missing"
        )
    if end.checksum not in ("", checksum):
        raise BadMessage(
            "the checksum does not fit: something was changed. Leave it out of the last line if that was you"
        )


def _at_line(number: int, fault: ChatkeepError) -> ChatkeepError:
    kind = type(fault) if not isinstance(fault, StoreError) else BadMessage
    return kind(f"line {number}: {str(fault).rstrip('.')}")


class _Reading:
    """A conversation whose lines are being read."""

    def __init__(self, number: int, line: ConversationLine, text: bytes) -> None:
        self._number = number
        self._line = line
        self._key = key_from(line)
        self._texts: IO[bytes] = SpooledTemporaryFile(max_size=HELD_BYTES)  # noqa: SIM115  the block has it
        self._sums = blake2b(text.strip(), digest_size=12)
        self._ids: set[bytes] = set()
        self._count = 0
        self._latest = 0

    def add(self, text: bytes) -> None:
        """Take the line of one entry. Raises `BadMessage`."""
        line = parse_line(text)
        entry = entry_from(self._key, line, self._line.first + self._count)
        if entry.id:
            mark = blake2b(entry.id.encode(), digest_size=8).digest()
            if mark in self._ids:
                raise BadMessage(f"{self._key}: the id {entry.id!r:.80} is there twice")
            self._ids.add(mark)
        self._latest = max(self._latest, getattr(line, "at", None) or 0)
        self._count += 1
        self._sums.update(text.strip())
        self._texts.write(text.strip() + b"\n")

    def close(self) -> None:
        """Let go of what was read."""
        self._texts.close()

    def finish(self, now: float) -> Block:
        """Return the conversation, all of which was read. Raises `BadMessage`."""
        latest = self._latest / 1000 or now
        row = row_from(
            self._key, self._line, entries=self._count, latest=latest, revision=f"import:{self._sums.hexdigest()}"
        )
        return Block(line=self._number, row=row, first=self._line.first, texts=self._texts)


async def import_lines(
    driver: Driver,
    lines: Iterable[bytes],
    *,
    existing: Existing = "refuse",
    told: Callable[[Imported], None] = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> Imported:
    """
    Write what an export holds into the store, a conversation at a time; what is there already is passed over.

    A short conversation comes in one act; one that is longer, in several, and nobody works on it before the last. What is wrong is told by
    the number of the line, and how far the import came.
    """
    said, room = Imported(), Room(TOGETHER)
    writing: set[asyncio.Task[None]] = set()
    faults: list[ChatkeepError] = []

    async def put(block: Block, entered: float) -> None:
        try:
            with closing(block.texts):
                await _put(driver, block, existing, said)
        except ChatkeepError as fault:
            faults.append(fault)
        finally:
            room.leave(entered)

    try:
        try:
            for block in read_blocks(lines, said, now=clock()):
                entered = await room.enter()
                if faults:
                    block.texts.close()
                    break
                writing.add(task := asyncio.create_task(put(block, entered)))
                task.add_done_callback(writing.discard)
                told(said)
        finally:
            await asyncio.gather(*writing)
        if faults:
            raise faults[0]
    except ChatkeepError as fault:
        raise type(fault)(
            f"{str(fault).rstrip('.')}. {said.conversations:,} other conversations are in the store, nothing of this one. Import the same "
            "again when it is mended: what is there is passed over."
        ) from fault
    return said


async def _put(driver: Driver, block: Block, existing: Existing, said: Imported) -> None:
    row, writer = block.row, LogWriter(driver)
    for _ in range(TRIES):
        found = await do(driver.read, Read(row.key, tail=0))
        there = None if found is None else found[0]
        ours = there is not None and there.incarnation == row.incarnation
        if there is not None and there.revision.startswith(PART) and ours:  # an import that was interrupted
            await writer.remove(there)
        elif there is not None and ours and there.head >= row.head:
            said.already += 1  # and it may have gone on
            return
        elif there is not None:
            if existing == "skip":
                said.skipped += 1
                return
            if existing == "refuse":
                raise Conflict(
                    f"line {block.line}: {row.key} is in the store already, and is another one. See --existing.",
                    row=there,
                )
            await writer.remove(there)
        try:
            await writer.extend(row, block.entries(), block.first, None)
        except Conflict as refusal:
            if refusal.erased_at is not None and refusal.row is None:
                if existing == "skip":
                    said.skipped += 1
                    return
                if existing == "refuse":
                    raise Conflict(
                        f"line {block.line}: {row.key} was erased in this store after that. See --existing."
                    ) from refusal
                row = structs.replace(row, updated_at=refusal.erased_at + 0.001)
            continue
        said.entries += row.head - block.first + 1
        if there is not None and not ours:
            said.replaced += 1
        else:
            said.new += 1
        return
    raise Conflict(f"line {block.line}: {row.key} is written to by somebody else; it was not imported.")
