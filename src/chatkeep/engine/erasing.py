"""Erases conversations with all that belongs to them, also damaged ones, unless they are on hold."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from ..drivers.base import Key, Row, row_at
from ..errors import Conflict, Corrupt, OtherOwner
from ..storage.erasures import note_erasure
from ..storage.holds import refuse_held, refuse_unknown
from ..storage.records import erase_belongings
from ..storage.selection import find_row
from ..storage.store import Store
from .journal import Journal
from .shared import Shared

log = logging.getLogger("chatkeep")


async def erase_conversation(
    shared: Shared[Any], journal: Journal | None, key: Key, *, owners: Collection[str] | None
) -> None:
    """Remove everything of *key*, here and in the store; with *owners* only what is one of theirs, else raises `OtherOwner`."""
    store, clock = shared.store, shared.clock
    row = await _find(store, key, owners)
    if journal is not None and shared.open:
        await journal.spool.erase(key)
    while row is not None:
        await note_erasure(store, row, clock=clock)
        try:
            # (One that cannot be read has a revision that nobody knows.)
            await store.erase(key, at=clock(), revision=None if owners is None else row.revision or None)
            break
        except Conflict:
            row = await _find(store, key, owners)
    else:
        await store.erase(key, at=clock())
    await erase_belongings(store, key, at=clock())


async def _find(store: Store, key: Key, owners: Collection[str] | None) -> Row | None:
    """Return the row that is there, which may be erased; one that cannot be read also for who need not show whose it is."""
    try:
        row = await (store.row(key) if owners is None else find_row(store, key, owners))
    except Corrupt as damage:
        if owners is not None:
            raise
        await refuse_unknown(store, key)
        log.warning(
            "%s is erased unread (%s) If it had an owner, devices that keep a copy of the owner's list are not told.",
            key,
            damage,
        )
        return row_at(key)
    if row is not None:
        if owners is not None and row.owner not in owners:
            raise OtherOwner(f"{key}: the user has no such conversation; nothing was changed.", owner=row.owner)
        await refuse_held(store, row)
        if not row.revision:
            log.warning("%s, which is %r's, is erased unread: its row cannot be read.", key, row.owner)
    return row
