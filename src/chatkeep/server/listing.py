"""The list of the operators' desk: which conversations are shown, and in which order; `items` says what of each.

A page reads rows in the order of an index, and of those that may be shown the end of the log. Where few conversations are what is asked
for, a page ends after SPENT_S, or LOOKED_AT rows, with as many as were found and the place to go on from: no page takes longer than that,
however many conversations there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct, structs

from ..conversation.keys import RESERVED, key_for
from ..conversation.marks import FAILING, OFF, UNDELIVERED, assignee_mark, channel_mark, is_of_row
from ..conversation.words import called, has_words, terms_in
from ..core import Core
from ..drivers.base import FAR, Hit, Hits, Index, Indexed, Key, Row, row_at
from ..errors import Corrupt, Unsupported
from .items import SEARCHED, TAIL, Item, Wanted, fits, found_at, look

ROWS = 100
AT_ONCE = 25
"""So many rows are read in one act, and so many logs are looked at before the time is looked at."""

SPENT_S = 0.08
LOOKED_AT = 2000
"""So many logs are looked at for a page."""

ROWS_LOOKED_AT = 20_000
"""So many rows are looked at for a page: most tell by themselves that the log need not be."""


class Place(Struct, frozen=True, array_like=True):
    """How far a list was looked through: the last row, and which of the owner's names it is of. *said*: how far the full-text index was
    instead, of which there is more; *rows*: the index was searched to its end, and the list from its beginning is what comes now. *mark*:
    the mark that is looked for in the index, by which the filters are found."""

    tenant: str
    id: str
    updated_at: float
    name: int = 0
    said: int | None = None
    rows: bool = False
    mark: str = ""


class Found(Struct, frozen=True, kw_only=True):
    """A page: what was found, where to go on (None: at the end), and how many conversations were looked at. *index*: the full-text index,
    where there is one and was asked, for words or for what a filter is about; *all_said*: it has been searched to its end for words."""

    items: list[Item]
    place: Place | None = None
    looked_at: int = 0
    index: Indexed | None = None
    all_said: bool = False


async def find_page(core: Core[Any], tenant: str | None, wanted: Wanted, place: Place | None, *, limit: int) -> Found:
    """Return a page of the conversations of *tenant* (None: of all) that are *wanted*, from behind *place*: those that are called like
    that, those that the full-text index has, where it is complete, by their words or by what the filters are about, and then what the list
    has."""
    items: list[Item] = []
    seen, until = set[Key](), time.monotonic() + SPENT_S
    if place is None and wanted.text and wanted.named_first and tenant is not None:
        items = [item for item in await find_named(core, tenant, wanted.text, limit=limit) if fits(item, wanted)]
        seen = {Key(item.tenant, item.id) for item in items}
    marks = [] if wanted.text else await marks_wanted(core, tenant, wanted)
    asked = marks or (wanted.text and wanted.in_logs)
    index = await read_index(core) if asked else None
    if index is None or index.left:
        behind = place if place is not None and place.said is None and not place.rows else None
        return structs.replace(
            await find_listed(core, tenant, wanted, behind, items, seen, until, limit=limit), index=index
        )
    if marks:
        return structs.replace(await find_marked(core, tenant, wanted, marks, place, until, limit=limit), index=index)
    if place is None or place.said is not None:
        before = None if place is None else place.said
        if len(items) < limit:
            pages = partial(core.text_index.find, tenant, wanted.text, limit=ROWS)
            first = await pages(before=before)
            before = await find_hits(core, tenant, wanted, pages, first, items, seen, until, limit=limit)
        else:
            before = FAR if before is None else before
        if before is not None:
            return Found(items=items, place=Place("", "", 0.0, said=before), index=index)
        return Found(items=items, place=Place("", "", 0.0, rows=True), index=index, all_said=True)
    in_rows = structs.replace(wanted, in_logs=False, in_rows=True)
    found = await find_listed(core, tenant, in_rows, None if place.rows else place, items, seen, until, limit=limit)
    return structs.replace(found, index=index, all_said=True)


async def marks_wanted(core: Core[Any], tenant: str | None, wanted: Wanted) -> list[str]:
    """Return the marks that whatever is *wanted* has, each; none where the list finds it as soon: where a whole tenant is paused, too."""
    marks = {"failing": [FAILING], "undelivered": [UNDELIVERED]}.get(wanted.show, [])
    if wanted.show in ("off", "waiting"):
        paused = await core.find_paused() if tenant is None else core.find_reasons(tenant, "any")
        marks = [] if paused else [OFF]
    marks += [assignee_mark(wanted.assignee)] if wanted.assignee else []
    marks += [channel_mark(wanted.channel)] if wanted.channel else []
    return [] if wanted.owner else marks


async def find_marked(
    core: Core[Any],
    tenant: str | None,
    wanted: Wanted,
    marks: Sequence[str],
    place: Place | None,
    until: float,
    *,
    limit: int,
) -> Found:
    """Return a page of what is *wanted* by one of its marks in the full-text index: by that which fewest have, as far as a page of each
    tells. What was changed last comes first, to the minute."""
    items, seen = list[Item](), set[Key]()
    pages = {
        mark: partial(core.text_index.find_marked, tenant, mark, rows=is_of_row(mark), limit=ROWS) for mark in marks
    }
    if place is not None and place.mark in pages:
        mark, first = place.mark, await pages[place.mark](before=place.said)
    else:
        firsts = await asyncio.gather(*(pages[mark](before=None) for mark in marks))
        mark, first = min(zip(marks, firsts, strict=True), key=lambda one: (one[1].place is not None, len(one[1].hits)))
    before = await find_hits(core, tenant, wanted, pages[mark], first, items, seen, until, limit=limit)
    items.sort(key=lambda item: -item.updated_at)
    return Found(items=items, place=None if before is None else Place("", "", 0.0, said=before, mark=mark))


async def read_index(core: Core[Any]) -> Indexed | None:
    """Return how the full-text index is, with what was said last put in; None where there is none."""
    if not core.text_index.able:
        return None
    index = await core.text_index.catch_up()
    return index if index.on else None


async def find_hits(
    core: Core[Any],
    tenant: str | None,
    wanted: Wanted,
    pages: Callable[..., Awaitable[Hits]],
    page: Hits,
    items: list[Item],
    seen: set[Key],
    until: float,
    *,
    limit: int,
) -> int | None:
    """Add to *items*, but for those *seen*, the conversations that *page* of the full-text index and the *pages* behind it have and that
    are wanted; return where to go on, None at its end."""
    owners = await core.find_names(tenant, wanted.owner) if wanted.owner and tenant is not None else [wanted.owner]
    while True:
        hits = [hit for hit in page.hits if hit.key not in seen]
        for first in range(0, len(hits), AT_ONCE):
            some = hits[first : first + AT_ONCE]
            shown = await asyncio.gather(*(look_at_hit(core, hit, wanted, owners) for hit in some))
            for hit, item in zip(some, shown, strict=True):
                items += [item] if item is not None else []
                if len(items) >= limit:
                    return hit.place
            if time.monotonic() >= until:
                return some[-1].place
        if page.place is None or time.monotonic() >= until:
            return page.place
        page = await pages(before=page.place)


async def look_at_hit(core: Core[Any], hit: Hit, wanted: Wanted, owners: Sequence[str]) -> Item | None:
    """Return what is shown of a conversation that the full-text index has; None where it is not wanted, or has changed or gone by now."""
    row = await core.read_row(hit.key)
    if row is None or (wanted.owner and row.owner not in owners):
        return None
    beside = structs.replace(wanted, text="")
    item = await look(core, row, beside)
    if item is None or not fits(item, beside):
        return None
    if item.fault or not wanted.text:
        return item
    if hit.number == 0:
        return item if has_words(called(item.id, item.title), terms_in(wanted.text)) else None
    try:
        said = await core.read_tail(row, before=hit.number + 1, limit=1)
    except (Corrupt, Unsupported) as fault:
        return structs.replace(item, fault=str(fault))
    if not said or said[0].number != hit.number or said[0].redacted:
        return None
    return found_at(item, said[0], wanted.text)


async def find_listed(
    core: Core[Any],
    tenant: str | None,
    wanted: Wanted,
    place: Place | None,
    items: list[Item],
    seen: set[Key],
    until: float,
    *,
    limit: int,
) -> Found:
    """Return *items* and, but for those *seen*, what is found by going through the list from behind *place*."""
    looked_at = in_logs = 0
    async for rows, name in pages_of(core, tenant, wanted, place):
        looked_at += len(rows)
        behind = Place(*rows[-1].key, rows[-1].updated_at, name)
        chosen = [row for row in rows if not row.key.tenant.startswith(RESERVED) and row.key not in seen]
        shown = await asyncio.gather(*(look(core, row, wanted) for row in chosen))
        in_logs += sum(item is not None for item in shown)
        for row, item in zip(chosen, shown, strict=True):
            if item is None or not fits(item, wanted):
                continue
            items.append(item)
            if len(items) >= limit:
                return Found(items=items, place=Place(*row.key, row.updated_at, name), looked_at=looked_at)
        if in_logs >= LOOKED_AT or looked_at >= ROWS_LOOKED_AT or time.monotonic() >= until:
            return Found(items=items, place=behind, looked_at=looked_at)
    return Found(items=items, looked_at=looked_at)


async def pages_of(
    core: Core[Any], tenant: str | None, wanted: Wanted, place: Place | None
) -> AsyncIterator[tuple[list[Row], int]]:
    """Give rows, a few at a time, with which of the owner's names they are of: last changed first, or those of an owner."""
    names = [""]
    if wanted.owner:
        names = await core.find_names(tenant, wanted.owner) if tenant is not None else [wanted.owner]
    index: Index = "owner" if wanted.owner else "recent"
    for number in range(place.name if place else 0, len(names)):
        after = place_row(place, names[number]) if place is not None and number == place.name else None
        while rows := await core.scan(index, tenant=tenant, owner=names[number], after=after, limit=ROWS):
            after = rows[-1]
            for some in together(rows, searched=SEARCHED if wanted.text and wanted.in_logs else TAIL):
                yield some, number
            if len(rows) < ROWS:
                break


def together(rows: Sequence[Row], *, searched: int) -> Iterator[list[Row]]:
    """Yield *rows*, as many at once as are read before the time is looked at, where so many entries of each log may be *searched*."""
    some, entries = list[Row](), 0
    for row in rows:
        weight = min(row.head, searched)
        if some and (len(some) == AT_ONCE or entries + weight > SEARCHED):
            yield some
            some, entries = [], 0
        some.append(row)
        entries += weight
    if some:
        yield some


def place_row(place: Place, owner: str = "") -> Row:
    """Return a row that stands where *place* says, in the index of an *owner* too."""
    return row_at(Key(place.tenant, place.id), owner=owner, updated_at=place.updated_at)


async def find_named(core: Core[Any], tenant: str, text: str, *, limit: int) -> list[Item]:
    """Return the conversation whose id *text* is, those whose id begins like that, and those of the owner of that name: at once, by the
    indexes, however many conversations there are."""
    rows: dict[Key, Row] = {}
    exact = await core.read_row(key_for(tenant, text))
    found = [exact] if exact is not None else []
    found += await core.scan("key", tenant=tenant, after=row_at(Key(tenant, text)), limit=limit)
    found = [row for row in found if row.key.id.startswith(text)]
    for name in await core.find_names(tenant, text):
        found += await core.scan("owner", tenant=tenant, owner=name, after=None, limit=limit)
    rows = {row.key: row for row in found}
    shown = await asyncio.gather(*(look(core, row, Wanted()) for row in list(rows.values())[:limit]))
    return [item for item in shown if item is not None]


def place_as_text(place: Place) -> str:
    """Return *place* as text."""
    return msgspec.json.encode(place).decode()


def place_from_text(text: str) -> Place | None:
    """Return the place in *text*; None if there is none."""
    try:
        return msgspec.json.decode(text, type=Place)
    except ValueError:
        return None
