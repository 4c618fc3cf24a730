"""What retention and forgetting would end now: a look ahead that changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from msgspec import Struct

from ..conversation.housekeeping import is_forgotten
from ..conversation.keys import RESERVED
from ..conversation.snapshots import Policy, Snapshot
from ..errors import Corrupt, Unsupported
from .holds import find_hold
from .paging import walk_log
from .store import Store


class End(Struct, frozen=True, kw_only=True):
    """One conversation that the sweep would end: *what* is "erase" (all of it) or "drop" (the oldest *entries* of its log).

    It would stay because of a legal hold, whose reason is *held* (None: there is none), or because it cannot be read, as *fault* says.
    """

    tenant: str
    conversation: str
    owner: str = ""
    what: Literal["erase", "drop"] = "erase"
    entries: int = 0
    touched_at: float = 0.0
    held: str | None = None
    fault: str = ""


async def find_ends(store: Store, tenant: str | None, policy: Policy, *, at: float) -> AsyncIterator[End]:
    """Yield what would end *at* this time, in the order of keys; nothing is written. What cannot be read is told of, too."""
    async for row in store.walk("key", tenant=tenant):
        if row.key.tenant.startswith(RESERVED):
            continue
        try:
            snapshot = await store.load(row.key)
            end = None if snapshot is None else await _find_end(store, snapshot, policy, at=at)
        except (Corrupt, Unsupported) as fault:
            end = End(tenant=row.key.tenant, conversation=row.key.id, owner=row.owner, fault=str(fault))
        if end is not None:
            yield end


async def _find_end(store: Store, snapshot: Snapshot, policy: Policy, *, at: float) -> End | None:
    row = snapshot.row
    forgotten = is_forgotten(snapshot, policy, at=at)
    dropped = 0 if forgotten else await _count_old(store, snapshot, policy, at=at)
    if not forgotten and not dropped:
        return None
    held = await find_hold(store, row)
    return End(
        tenant=row.key.tenant,
        conversation=row.key.id,
        owner=row.owner,
        what="erase" if forgotten else "drop",
        entries=row.head - snapshot.record.dropped if forgotten else dropped,
        touched_at=row.updated_at,
        held=None if held is None else held.reason,
    )


async def _count_old(store: Store, snapshot: Snapshot, policy: Policy, *, at: float) -> int:
    """Return how many entries of the log retention would drop; none while a message waits, whose history they are."""
    row, seen = snapshot.row, snapshot.record.dropped
    if policy.retention_s is None or snapshot.record.cursor < row.head:
        return 0
    async for found in walk_log(store, row.key, row.incarnation, after=seen):
        for message in found:
            if message.created_at + policy.retention_s > at:
                return message.number - 1 - snapshot.record.dropped
        seen = found[-1].number
    return seen - snapshot.record.dropped
