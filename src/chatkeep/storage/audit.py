"""Who did what: acts of operators and backends on a tenant, in a log of their own beside the conversations.

A log under a tenant of chatkeep's own ("~audit"), written as a conversation's is, and never due. It ends by itself: acts that are
older than KEPT_S, or more than MOST, leave it with the next ones that are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct, structs

from ..conversation.keys import RESERVED
from ..conversation.snapshots import Commit, Draft, Snapshot
from ..drivers.base import Key, mark_of
from ..errors import Duplicate
from .store import PAGE, Store, fresh_token

KEPT_S = 400 * 86_400.0
MOST = 50_000


class Act(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One act. *by*: the id of the credential, or the user of this machine who typed the command; *label*: what that is called.

    *address*: where it came from. *outcome*: the HTTP status, or "done".
    """

    act: str
    by: str
    label: str = ""
    conversation: str = ""
    address: str = ""
    outcome: str = "done"
    at: float = 0.0
    number: int = 0


class AuditLog:
    """The acts of all tenants, in one store."""

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock

    async def write(self, tenant: str, acts: Sequence[Act]) -> None:
        """Add *acts* to the log of *tenant*, in one act on the store."""
        key, now = key_of(tenant), self._clock()
        drafts = tuple(
            Draft(
                id=f"{RESERVED}act:{fresh_token()}",
                role="system",
                content=act.act,
                created_at=act.at or now,
                metadata=msgspec.to_builtins(structs.replace(act, at=0.0, number=0)),
            )
            for act in acts
        )
        snapshot = await self._store.reload(key)
        oldest = await self._store.page(key, snapshot.row.incarnation, limit=PAGE) if snapshot.row.revision else []
        old = max((found.number for found in oldest if found.created_at + KEPT_S < now), default=0)

        def decide(there: Snapshot) -> Commit:
            head = there.row.head + len(drafts)
            drop = max(head - MOST, old, there.record.dropped)
            record = structs.replace(there.record, cursor=head, dropped=drop)
            return Commit(record=record, drafts=drafts, drop=drop)

        try:
            await self._store.commit(snapshot, decide, at=now, begins=True)
        except Duplicate:  # an earlier run of this very act was written after all
            return

    async def read(self, tenant: str, *, before: int | None = None, limit: int = 100) -> list[Act]:
        """Return the last *limit* acts, or those before a number, the newest first."""
        key = key_of(tenant)
        snapshot = await self._store.load(key)
        if snapshot is None:
            return []
        end = snapshot.row.head + 1 if before is None else before
        found = await self._store.page(key, snapshot.row.incarnation, before=end, limit=limit)
        return [
            structs.replace(msgspec.convert(entry.metadata, Act), at=entry.created_at, number=entry.number)
            for entry in reversed(found)
        ]


def key_of(tenant: str) -> Key:
    """Where the acts of a tenant are."""
    return Key(f"{RESERVED}audit", mark_of(Key(tenant, "-")))
