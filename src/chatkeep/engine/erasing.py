"""Erases conversations with all that belongs to them, also damaged ones, unless they are on hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..drivers.base import Key, Row, row_at
from ..errors import Conflict, Corrupt
from ..storage.erasures import note_erasure
from ..storage.holds import refuse_held, refuse_unknown
from ..storage.records import erase_belongings
from ..storage.store import Store
from .journal import Journal
from .shared import Shared

log = logging.getLogger("chatkeep")

LookAtRow = Callable[[Row], None]


async def erase_conversation(shared: Shared[Any], journal: Journal | None, key: Key, *, look: LookAtRow | None) -> None:
    """Remove everything of *key*, here and in the store. *look* is given the row that is there, and refuses by raising."""
    store, clock = shared.store, shared.clock
    row = await _find(store, key, look)
    if journal is not None and shared.open:
        await journal.spool.erase(key)
    while row is not None:
        await note_erasure(store, row, clock=clock)
        try:
            await store.erase(key, at=clock(), revision=None if look is None else row.revision)
            break
        except Conflict:
            row = await _find(store, key, look)
    else:
        await store.erase(key, at=clock())
    await erase_belongings(store, key, at=clock())


async def _find(store: Store, key: Key, look: LookAtRow | None) -> Row | None:
    """Return the row that is there, which may be erased. Of one that cannot be read nobody knows whose it is: it is erased for who need not
    show that it is theirs."""
    try:
        row = await store.row(key)
    except Corrupt as damage:
        if look is not None:
            raise
        await refuse_unknown(store, key)
        log.warning(
            "%s is erased unread (%s) If it had an owner, devices that keep a copy of the owner's list are not told.",
            key,
            damage,
        )
        return row_at(key)
    if row is not None:
        if look is not None:
            look(row)
        await refuse_held(store, row)
    return row
