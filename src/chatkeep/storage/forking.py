"""Copies one conversation to another name, here or in another store, to look for a fault in it: nothing that happens to the copy reaches
the customer."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from msgspec import structs

from ..conversation.archive import entry_from, line_of_entry, parse_line
from ..conversation.codec import body_of, record_from
from ..conversation.record import NONE, untried
from ..drivers.base import Driver, Entry, Key, Read, Row, behind_erasure
from ..errors import Conflict, Duplicate, UsageError
from .copying import TAIL, Gone, LogReader, LogWriter
from .pacing import do

TRIES = 20


async def fork_conversation(
    source: Driver, target: Driver, key: Key, name: Key, *, at: float, as_of: int | None = None
) -> Row | None:
    """
    Copy the conversation *key* of *source* to *name* in *target*, where there must be none; None where there is no such conversation.

    Log, state and session are as they were; owner, lease, reminders, replies that wait to be sent and attempts stay behind, and
    what was unread counts as handled. *as_of*: only the log up to this number; the state, which is known of now alone, is fresh then.
    """
    reader = LogReader(source)
    for _ in range(TRIES):
        found = await do(source.read, Read(key, tail=TAIL))
        if found is None:
            return None
        row, tail = found
        first = await reader.first(row, tail)
        head = row.head if as_of is None else min(row.head, as_of)
        if head < first - 1:
            raise UsageError(f"{key}: retention has left the log from number {first} on; nothing was copied.")
        made = _forked(row, name, head, at=at)
        try:
            await LogWriter(target).extend(made, _renamed(reader, row, tail, first, head, name), first, None)
            return made
        except Gone:  # it has gone on while it was read
            continue
        except (Conflict, Duplicate) as there:
            if isinstance(there, Duplicate) or there.row is not None:
                raise UsageError(f"{name} is there already; nothing was copied. Choose another name.") from there
            at = behind_erasure(at, there.erased_at)
    raise Conflict(f"{key} is written to all the time; it was not copied. Try again.")


async def _renamed(
    reader: LogReader, row: Row, tail: list[Entry], first: int, head: int, name: Key
) -> AsyncIterator[Entry]:
    async for entry in reader.entries(row, tail, first - 1):
        if entry.number > head:
            return
        yield entry_from(name, parse_line(line_of_entry(row.key, entry)), entry.number)


def _forked(row: Row, name: Key, head: int, *, at: float) -> Row:
    """Return the row of a copy, whose log ends with number *head*."""
    record = structs.replace(
        untried(record_from(row.key, row.body)),
        cursor=head,
        reminders=(),
        delivery=None,
        dead=(),
        changes=(),
        visitor=False,
        archived=False,
        pinned=False,
    )
    if head < row.head:
        record = structs.replace(
            record, state=NONE, stamps={}, since=min(record.since, head + 1), seen=min(record.seen, head)
        )
    revision = secrets.token_hex(9)
    return Row(key=name, revision=revision, incarnation=revision, head=head, body=body_of(name, record), updated_at=at)
