"""Conversations as people are shown them: one, and lists of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, get_args

from msgspec import structs

from .conversation.keys import RESERVED, check_limits, check_user
from .conversation.sessions import is_session_over
from .conversation.snapshots import Snapshot, copy_messages, unread_messages
from .conversation.versions import find_checksum, find_version
from .drivers.base import Index, Key, Row, row_at
from .engine.engine import Engine
from .errors import Corrupt, Unavailable, Unsupported, UsageError
from .model import Conversation, Message, State
from .people.claims import Claims

PAGE = 100


async def show(engine: Engine[State], snapshot: Snapshot, messages: int | None) -> Conversation[State]:
    """Show a conversation with so many of its last *messages*; None: as many as are at hand."""
    await engine.pauses.refresh()
    return _shown(engine, snapshot, messages, *await engine.store.last(snapshot))


async def show_written(engine: Engine[State], snapshot: Snapshot) -> Conversation[State]:
    """Show a conversation that was just written, also where the store is away since."""
    try:
        return await show(engine, snapshot, None)
    except Unavailable:  # which would say that nothing was written
        return show_held(engine, snapshot, None)


def show_held(engine: Engine[State], snapshot: Snapshot, messages: int | None) -> Conversation[State]:
    """Show as much of a conversation as is known without the store."""
    last = (*snapshot.messages, *snapshot.beyond)
    return _shown(engine, snapshot, messages, last, len(unread_messages(snapshot)))


def show_unreadable(row: Row, fault: str) -> Conversation[Any]:
    """Show a conversation that cannot be read, with the reason."""
    return Conversation(
        tenant=row.key.tenant,
        id=row.key.id,
        owner=row.owner,
        revision=row.revision,
        state=None,
        session=0,
        messages=[],
        head=row.head,
        unread=0,
        paused=False,
        dead=[],
        updated_at=row.updated_at,
        due_at=_due_at(row),
        fault=fault,
    )


async def list_conversations(
    engine: Engine[State],
    tenant: str | None,
    *,
    owner: str | None,
    by: Index,
    limit: int | None,
    messages: int,
    after: Conversation[State] | None,
) -> AsyncIterator[Conversation[State]]:
    """List the conversations of a tenant (None: of all), each with so many of its last *messages*; see `Tenant.conversations`."""
    if by not in get_args(Index):
        raise UsageError(f'by is "recent" or "key", not {by!r:.40}; nothing was listed.')
    check_limits(limit=limit, messages=messages)
    if after is not None and not isinstance(after, Conversation):
        raise UsageError(f"after is the last Conversation of the list before, not {after!r:.40}; nothing was listed.")
    if owner is not None and owner != "":
        check_user(owner)
    behind = None if after is None else _row_of(after)
    if owner and tenant is not None:
        claims = Claims(engine.store, tenant, clock=engine.shared.clock)
        owners, left = list(await claims.find_owners(owner)), limit if limit is not None else 1 << 40
        begun = owners.index(behind.owner) if behind is not None and behind.owner in owners else 0
        for name in owners[begun:]:  # what was claimed for it is its own
            start = behind if behind is not None and behind.owner == name else None
            async for found in _list_of_owner(
                engine, tenant, owner=name, by=by, limit=left, messages=messages, after=start
            ):
                left -= 1
                yield found
        return
    async for found in _list_of_owner(engine, tenant, owner=owner, by=by, limit=limit, messages=messages, after=behind):
        yield found


async def _list_of_owner(
    engine: Engine[State],
    tenant: str | None,
    *,
    owner: str | None,
    by: Index,
    limit: int | None,
    messages: int,
    after: Row | None,
) -> AsyncIterator[Conversation[State]]:
    left = limit if limit is not None else 1 << 40
    index: Index = "owner" if owner is not None else by
    while True:
        engine.store.confinement.check()
        rows = await engine.store.rows(index, tenant=tenant, owner=owner or "", after=after, limit=PAGE)
        for row in rows:
            if row.key.tenant.startswith(RESERVED):
                continue
            if left <= 0:
                return
            left -= 1
            engine.store.confinement.check()  # what is behind the first may be asked for from elsewhere
            if (shown := await _show_row(engine, row, messages)) is not None:
                yield shown
        if len(rows) < PAGE or left <= 0:
            return
        after = rows[-1]


async def _show_row(engine: Engine[State], row: Row, messages: int) -> Conversation[State] | None:
    """Show a conversation of a list by the time that it is listed by, so that the list goes on behind it also while it is written to; None
    where it is gone by now."""
    try:
        snapshot = await engine.store.load(row.key)
        if snapshot is None:
            return None
        return structs.replace(await show(engine, snapshot, messages), updated_at=row.updated_at)
    except (Corrupt, Unsupported) as fault:
        return show_unreadable(row, str(fault))


def _shown(
    engine: Engine[State], snapshot: Snapshot, messages: int | None, last: Sequence[Message], unread: int
) -> Conversation[State]:
    row, record, shared = snapshot.row, snapshot.record, engine.shared
    over = is_session_over(record, shared.policy, shared.clock())
    raw, schema = (shared.states.fresh(), shared.states.schema) if over else (record.state, record.schema)
    shown = last if messages is None else last[-messages:] if messages else ()
    return Conversation(
        tenant=row.key.tenant,
        id=row.key.id,
        owner=row.owner,
        revision=row.revision,
        state=shared.states.decode(row.key, raw, schema),
        session=record.session,
        messages=copy_messages(shown),
        head=row.head,
        unread=unread,
        paused=bool(off_by := engine.pauses.find_reasons(row.key, record.paused)),
        off_by=off_by,
        dead=list(record.dead),
        updated_at=row.updated_at,
        due_at=_due_at(row),
        title=record.title,
        version=find_version(row.head, record),
        checksum=find_checksum(snapshot),
        waiting=copy_messages(unread_messages(snapshot)),
        assignee=record.assignee,
    )


def _due_at(row: Row) -> float | None:
    """Tell when it is looked at next, for people: what is due at once is due since it was changed."""
    return None if row.due_at is None else max(row.due_at, row.updated_at)


def _row_of(shown: Conversation[Any]) -> Row:
    """Return a row that stands where a conversation of a list does, in the index of its owner too."""
    return row_at(Key(shown.tenant, shown.id), owner=shown.owner, updated_at=shown.updated_at)
