"""Which conversations of an owner were erased: for whoever keeps a copy of the owner's list. Nothing of what was in them is kept."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ..conversation.keys import RESERVED
from ..drivers.base import Row
from .records import Records
from .store import Store
from .tokens import fresh_token

SPACE = "erased:"
"""Begins the space of a tenant's erasures."""

KEPT_S = 30 * 86_400.0
"""Whoever has not looked for longer is told everything anew."""

REMOVED_AT_ONCE = 20


class Erasure(Struct, frozen=True, omit_defaults=True):
    """That a conversation was erased, and when."""

    id: str = ""
    at: float = 0.0


async def note_erasure(store: Store, row: Row, *, clock: Callable[[], float]) -> None:
    """Note that the conversation in *row*, if it is somebody's, is about to be erased; without the erasure the note says nothing."""
    if row.owner and not row.key.tenant.startswith(RESERVED):
        made = Erasure(row.key.id, clock())
        records = Records(store, SPACE + row.key.tenant, Erasure, clock=clock)
        # (Of a row that cannot be read nobody knows the incarnation.)
        await records.change(row.incarnation or fresh_token(), lambda held: made, owner=row.owner)


async def find_erasures(
    store: Store, tenant: str, owner: str, *, since: float, clock: Callable[[], float]
) -> dict[str, tuple[str, float]]:
    """Return the conversations of *owner* that were erased *since* a time: id and time by incarnation. Some that are older than KEPT_S are
    forgotten."""
    records = Records(store, SPACE + tenant, Erasure, clock=clock)
    found, removed = dict[str, tuple[str, float]](), 0
    async for incarnation, erasure in records.owned_records(owner):
        if erasure.at + KEPT_S < clock() and removed < REMOVED_AT_ONCE:
            await records.erase(incarnation)
            removed += 1
        elif erasure.at >= since:
            found[incarnation] = erasure.id, erasure.at
    return found
