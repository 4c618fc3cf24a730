"""Goes through the conversations of a tenant, by their rows, for those of which the record says what is looked for; a page at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from msgspec import structs

from ..conversation.codec import record_of
from ..conversation.keys import RESERVED
from ..conversation.record import Record
from ..drivers.base import Key, Row, row_at
from ..errors import Corrupt, Unsupported
from .reader import PAGE
from .store import Store

T = TypeVar("T")


async def select_page(
    store: Store,
    tenant: str | None,
    wanted: Callable[[Record], bool],
    read: Callable[[Key], Awaitable[list[T]]],
    *,
    after: Key | None,
    limit: int,
    rows_most: int,
) -> tuple[list[T], Key | None]:
    """Return what *read* answers for the *wanted* conversations of a tenant (None: of all tenants) whose keys come behind *after*, and the
    key to go on behind; None at the end.

    Ends with the conversation that makes *limit* of it, and when so many rows were looked at.
    """
    found: list[T] = []
    last = None if after is None else row_at(after)
    while rows_most > 0:
        asked = min(PAGE, rows_most)
        rows = await store.rows("key", tenant=tenant, after=last, limit=asked)
        for row in rows:
            if not row.key.tenant.startswith(RESERVED) and _is_wanted(row, wanted):
                found += await read(row.key)
                if len(found) >= limit:
                    return found, row.key
        if len(rows) < asked:
            return found, None
        rows_most, last = rows_most - asked, rows[-1]
    return found, None if last is None else last.key


def _is_wanted(row: Row, wanted: Callable[[Record], bool]) -> bool:
    try:
        return wanted(record_of(row))
    except (Corrupt, Unsupported):  # the list of conversations shows it, with the fault
        return False


async def find_row(store: Store, key: Key, owners: Collection[str]) -> Row | None:
    """Return the row of *key*, undecoded, as it is now, or what `find_listed` has for one that cannot be read; None when there is none."""
    try:
        return await store.row(key)
    except Corrupt:
        return await find_listed(store, key, owners)


async def find_listed(store: Store, key: Key, owners: Collection[str]) -> Row:
    """Return what the lists of *owners* show in the place of a row that cannot be read; where none of them has it, a row that is
    nobody's."""
    for owner in owners:
        async for row in store.walk("owner", tenant=key.tenant, owner=owner):
            if row.key == key:
                return structs.replace(row, owner=owner)
    return row_at(key)
