"""Who did what: acts of operators and backends on a tenant, in a log of their own beside the conversations.

A log under a tenant of chatkeep's own ("~audit"), written as a conversation's is, and never due. It ends by itself: acts that are
older than KEPT_S, or more than MOST, leave it with the next ones that are written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct, structs

from ..conversation.codec import record_of
from ..conversation.keys import RESERVED
from ..conversation.snapshots import Commit, Draft, Snapshot
from ..drivers.base import Key, Row, mark_of
from ..errors import Corrupt, Duplicate, Unsupported
from ..model import Message
from .reader import PAGE
from .snapshots import blank
from .store import Store, step_back
from .tokens import fresh_token

log = logging.getLogger("chatkeep")

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


UNREADABLE = Act(act="unreadable", by="", outcome="")
"""Stands for an act that cannot be read."""


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
        row = await self._store.row(key)
        old = 0
        if row is not None:
            dropped = record_of(row).dropped
            oldest = await self._readable(row, dropped + 1, min(dropped + PAGE, row.head))
            old = max((found.number for found in oldest if found.created_at + KEPT_S < now), default=0)

        def decide(there: Snapshot) -> Commit:
            head = there.row.head + len(drafts)
            drop = max(head - MOST, old, there.record.dropped)
            record = structs.replace(there.record, cursor=head, dropped=drop)
            return Commit(record=record, drafts=drafts, drop=drop)

        try:
            # Without a look at the log: acts that cannot be read are in no other's way.
            conflicts = 0
            while row is not None and not await self._store.commit_row(row, decide, at=now):
                conflicts += 1
                await step_back(conflicts)
                row = await self._store.row(key)
            if row is None:
                await self._store.commit(blank(key), decide, at=now, begins=True)
        except Duplicate:  # an earlier run of this very act was written after all
            return

    async def read(self, tenant: str, *, before: int | None = None, limit: int = 100) -> list[Act]:
        """Return the last *limit* acts, or those before a number, the newest first. One that cannot be read is shown as UNREADABLE."""
        row = await self._store.row(key_of(tenant))
        if row is None:
            return []
        end = row.head + 1 if before is None else min(before, row.head + 1)
        first = max(end - limit, record_of(row).dropped + 1)
        found = {message.number: message for message in await self._readable(row, first, end - 1)}
        acts: list[Act] = []
        at = 0.0
        for number in range(first, end):
            at = found[number].created_at if number in found else at
            acts.append(structs.replace(_act_of(found.get(number)), at=at, number=number))
        return acts[::-1]

    async def _readable(self, row: Row, first: int, last: int) -> list[Message]:
        """Return the entries from *first* to *last*, without those that cannot be read."""
        if first > last:
            return []
        try:
            return await self._store.page(
                row.key, row.incarnation, after=first - 1, before=last + 1, limit=last - first + 1
            )
        except (Corrupt, Unsupported) as fault:
            if first == last:
                log.error("An act of the audit log is passed over, and the others are shown: %s", fault)
                return []
            middle = (first + last) // 2
            return [*await self._readable(row, first, middle), *await self._readable(row, middle + 1, last)]


def _act_of(entry: Message | None) -> Act:
    try:
        return UNREADABLE if entry is None else msgspec.convert(entry.metadata, Act)
    except msgspec.ValidationError:
        return UNREADABLE


def key_of(tenant: str) -> Key:
    """Return where the acts of a tenant are."""
    return Key(f"{RESERVED}audit", mark_of(Key(tenant, "-")))
