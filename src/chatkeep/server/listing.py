"""The list of the operators' desk: which conversations are shown, in which order, and what of each.

A page reads rows in the order of an index, and of those that may be shown the end of the log. Where few conversations are what is asked
for, a page ends after SPENT_S, or LOOKED_AT rows, with as many as were found and the place to go on from: no page takes longer than that,
however many conversations there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import Struct, structs

from ..conversation.codec import record_of
from ..conversation.keys import RESERVED, SAVED, key_for
from ..conversation.marks import FAILING, OFF, UNDELIVERED, assignee_mark, channel_mark, is_of_row
from ..conversation.outbox import list_deliveries
from ..conversation.record import Record
from ..conversation.snapshots import unanswered
from ..conversation.words import called, customer_in, find_in, has_words, name_in, shown_of, terms_in
from ..core import Core
from ..drivers.base import FAR, Hit, Hits, Index, Indexed, Key, Row, row_at
from ..errors import Corrupt, Unsupported
from ..model import TALK, WORDS_MOST, Message, OffBy, last_words

Show = Literal["all", "waiting", "failing", "off", "undelivered", "unread"]

TAIL = 12
"""So many of its last entries are looked at for what is said of a conversation."""

ROWS = 100
AT_ONCE = 25
"""So many rows are read in one act, and so many logs are looked at before the time is looked at."""

SPENT_S = 0.08
LOOKED_AT = 2000
"""So many logs are looked at for a page."""

ROWS_LOOKED_AT = 20_000
"""So many rows are looked at for a page: most tell by themselves that the log need not be."""

SEARCHED = 2000
"""So many of its last entries are searched for words, in each conversation; and about so many are read at once, of several."""

AROUND = 40
"""So many characters are shown before and behind the words that were found."""


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A conversation in the list.

    name: the customer's, as the channel has told it. last, last_role, last_at: the last words, whose they are, and when. waiting: how many
    messages nobody has answered, of the last TAIL entries; waiting_since: the oldest of them. dead: how many were set aside. undelivered:
    how many of the last replies did not go out; reason: why the last one did not, or why a message was set aside. assignee: the account of
    the person who looks after it. found: the words that were searched for, with some around them, where they are not the last ones;
    found_in: the number of that message.
    """

    id: str
    tenant: str
    owner: str = ""
    title: str = ""
    name: str = ""
    channel: str = ""
    last: str = ""
    last_role: str = ""
    last_at: float = 0.0
    updated_at: float
    off_by: list[OffBy] = []
    waiting: int = 0
    waiting_since: float = 0.0
    dead: int = 0
    undelivered: int = 0
    reason: str = ""
    assignee: str = ""
    found: str = ""
    found_in: int = 0
    fault: str = ""


class Wanted(Struct, frozen=True, kw_only=True):
    """What a page is to show. *text*: in an id, an owner, a title, a name or what was said; *in_logs*: in the last words alone, where
    this is false; *in_rows*: only in an id, an owner or a title, where the index has not found it. *named_first*: what is called like that
    begins the list. *assignee*: whose it is at the desk, "" for nobody's; None: whoever's."""

    show: Show = "all"
    assignee: str | None = None
    channel: str = ""
    owner: str = ""
    text: str = ""
    in_logs: bool = False
    in_rows: bool = False
    named_first: bool = True


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


def around(text: str, begin: int, end: int) -> str:
    """Return the words from *begin* to *end* with some of those around them."""
    first, last = max(begin - AROUND, 0), end + AROUND
    return f"{'…' * (first > 0)}{text[first:last]}{'…' * (last < len(text))}"


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


async def look(core: Core[Any], row: Row, wanted: Wanted) -> Item | None:
    """Return what is shown of a conversation; None where the row alone says that it is not wanted."""
    try:
        record = record_of(row)
    except (Corrupt, Unsupported) as fault:
        return Item(id=row.key.id, tenant=row.key.tenant, owner=row.owner, updated_at=row.updated_at, fault=str(fault))
    off_by = core.find_reasons(*row.key, record.paused)
    if not may_fit(row, record, off_by, wanted):
        return None
    try:
        tail = await core.read_tail(row, limit=TAIL)
        item = item_from(row, record, off_by, tail)
        if wanted.text and wanted.in_logs and not is_said(item, wanted.text):
            item = await searched(core, row, item, tail, wanted.text)
    except (Corrupt, Unsupported) as fault:
        return Item(id=row.key.id, tenant=row.key.tenant, owner=row.owner, updated_at=row.updated_at, fault=str(fault))
    return item


async def searched(core: Core[Any], row: Row, item: Item, tail: Sequence[Message], text: str) -> Item:
    """Return *item* with where *text* was said last; as it is where that was not in the last SEARCHED entries."""
    found = shown_in(item, tail, text)
    if found is None and tail and tail[0].number > 1:
        async for page in core.walk_back(row, before=tail[0].number, limit=SEARCHED - len(tail)):
            found = shown_in(item, page, text)
            if found is not None:
                break
    return found or item


def shown_in(item: Item, messages: Sequence[Message], text: str) -> Item | None:
    """Return *item* with where *text* was said last in *messages*; None where it was not."""
    terms = terms_in(text)
    for message in reversed(messages):
        if message.role == "system":
            continue
        if is_in(text, message.text, customer := customer_in(message)) or (customer and has_words(customer, terms)):
            return found_at(item, message, text)
    return None


def found_at(item: Item, message: Message, text: str) -> Item:
    """Return *item* with where *text* was found: in *message*."""
    shown = shown_of(message, text)
    return structs.replace(item, found=around(shown, *find_in(shown, text)), found_in=message.number)


def may_fit(row: Row, record: Record, off_by: Sequence[OffBy], wanted: Wanted) -> bool:
    """Tell whether a conversation may be wanted, by its row alone: most are passed over without a look at their log."""
    if wanted.in_rows and not is_in(wanted.text, row.key.id, row.owner, record.title):
        return False
    if wanted.in_rows and has_words(called(row.key.id, record.title), terms_in(wanted.text)):
        return False  # the index had it
    if wanted.show == "failing" and not record.dead:
        return False
    if wanted.assignee not in (None, record.assignee):
        return False
    if wanted.show in ("off", "waiting") and not off_by:
        return False
    if wanted.show in ("waiting", "unread") and row.head <= record.cursor:
        return False
    return not (wanted.show == "undelivered" or wanted.channel) or record.delivery is not None


def item_from(row: Row, record: Record, off_by: list[OffBy], tail: Sequence[Message]) -> Item:
    """Return what is shown of a conversation, given the *tail* of its log."""
    said = [message for message in tail if message.role in TALK]
    people = [message for message in said if message.role == "user"]
    last = last_words(tail)
    waiting = unanswered(said, record.cursor)
    notes = [message for message in reversed(tail) if message.role == "system"]
    failure = next((reason_in(note) for note in notes if note.metadata.get("kind") == "dead"), "")
    bad = [
        one
        for one in (list_deliveries(tail, record.delivery) if record.delivery is not None else ())
        if one.status in ("failed", "uncertain") or (one.status == "waiting" and one.tries)
    ]
    return Item(
        id=row.key.id,
        tenant=row.key.tenant,
        owner=row.owner,
        title=record.title,
        assignee=record.assignee,
        name=next((name for message in reversed(people) if (name := name_in(message))), ""),
        channel=next((message.channel for message in reversed(said) if message.channel not in ("", SAVED)), ""),
        last="" if last is None else last.text,
        last_role="" if last is None else last.role,
        last_at=0.0 if last is None else last.at,
        updated_at=row.updated_at,
        off_by=off_by,
        waiting=len(waiting),
        waiting_since=waiting[0].created_at if waiting else 0.0,
        dead=len(record.dead),
        undelivered=len(bad),
        reason=(bad[-1].reason if bad else failure if record.dead else "")[:WORDS_MOST],
    )


def reason_in(note: Message) -> str:
    """Return why a message was set aside, as the note says; "" where that was removed."""
    return str(note.metadata.get("reason", "")) or note.text


def fits(item: Item, wanted: Wanted) -> bool:
    """Tell whether a conversation is wanted. One that cannot be read fails."""
    if wanted.assignee not in (None, item.assignee):
        return False
    if item.fault:
        return (
            wanted.show in ("all", "failing") and not wanted.channel and (not wanted.text or is_said(item, wanted.text))
        )
    shows = {
        "all": True,
        "waiting": bool(item.waiting and item.off_by),
        "failing": bool(item.dead),
        "off": bool(item.off_by),
        "undelivered": bool(item.undelivered),
        "unread": bool(item.waiting),
    }
    if not shows[wanted.show] or (wanted.channel and item.channel != wanted.channel):
        return False
    return not wanted.text or is_said(item, wanted.text)


def is_said(item: Item, text: str) -> bool:
    """Tell whether *text* is in what is shown of a conversation, whatever the case."""
    return bool(item.found) or is_in(text, item.id, item.owner, item.title, item.name, item.last)


def is_in(text: str, *parts: str) -> bool:
    """Tell whether *text* is in one of *parts*, whatever the case."""
    text = text.casefold()
    return any(text in part.casefold() for part in parts)


def place_as_text(place: Place) -> str:
    """Return *place* as text."""
    return msgspec.json.encode(place).decode()


def place_from_text(text: str) -> Place | None:
    """Return the place in *text*; None if there is none."""
    try:
        return msgspec.json.decode(text, type=Place)
    except ValueError:
        return None
