"""Erasing a user: all that the store has of one person, with a receipt of what it was."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from msgspec import Struct

from ..conversation.keys import RESERVED
from ..drivers.base import Row
from ..engine.engine import Engine
from ..errors import OtherOwner
from ..storage.audit import Act, AuditLog
from ..storage.erasures import SPACE as ERASURES
from ..storage.records import owner_of_user
from ..storage.store import PAGE
from .claims import SPACE as CLAIMS


class ErasedUser(Struct, frozen=True, kw_only=True):
    """
    What was erased of a user: a receipt, without anything of what was said.

    names: those under which the user had conversations: the user's own, and those that were claimed for the user. conversations: their ids;
    entries: how many entries their logs had. tokens: how many devices were signed out. claims: how many claims were removed; notes: how
    many notes that a conversation was erased, those of this act among them. at: when it was done, in seconds since 1970.
    """

    tenant: str
    user: str
    names: list[str]
    conversations: list[str]
    entries: int
    tokens: int
    claims: int
    notes: int
    at: float


async def erase_user(engine: Engine[Any], tenant: str, user: str, names: Iterable[str], *, by: str) -> ErasedUser:
    """
    Erase all that is the user's under *names*, and note in the audit log who had it done.

    The claims go last: what was erased until a crash is gone, and the same again finds the rest.
    """
    store, clock = engine.store, engine.shared.clock
    names = list(names)

    def look(row: Row) -> None:
        if row.owner not in names:
            raise OtherOwner(f"{row.key}: it is somebody else's by now; nothing was changed.", owner=row.owner)

    async def erase_records(space: str, owner: str) -> int:
        """Erase the records of *owner*; their names are the owner's secrets, or the conversations'."""
        erased = 0
        while rows := await store.rows("owner", tenant=RESERVED + space, owner=owner, limit=PAGE):
            for row in rows:
                await store.erase(row.key, at=clock())
            erased += len(rows)
        return erased

    tokens = sum([await erase_records("access", owner_of_user(tenant, name)) for name in names])
    conversations, entries = list[str](), 0
    for name in names:
        while rows := await store.rows("owner", tenant=tenant, owner=name, limit=PAGE):
            for row in rows:
                with suppress(
                    OtherOwner
                ):  # erased meanwhile, and created by somebody else: it is not in the next answer
                    await engine.changes.erase(row.key, look=look)
                    conversations.append(row.key.id)
                    entries += row.head
    notes = sum([await erase_records(ERASURES + tenant, name) for name in names])
    claims = 0
    for name in names:
        claims += await erase_records(CLAIMS + tenant, name)
    at = clock()
    made = Act(act="user:erase", by=by or user, label=user, at=at)
    await AuditLog(store, clock=clock).write(tenant, [made])
    return ErasedUser(
        tenant=tenant,
        user=user,
        names=names,
        conversations=sorted(set(conversations)),
        entries=entries,
        tokens=tokens,
        claims=claims,
        notes=notes,
        at=at,
    )
