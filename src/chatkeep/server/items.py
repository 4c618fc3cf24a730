"""What the list of the operators' desk shows of a conversation: its row and the end of its log, as an item, and whether that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct, structs

from ..conversation.codec import record_of
from ..conversation.keys import SAVED
from ..conversation.outbox import list_deliveries
from ..conversation.record import Record
from ..conversation.snapshots import unanswered
from ..conversation.words import called, customer_in, find_in, has_words, name_in, shown_of, terms_in
from ..core import Core
from ..drivers.base import Row
from ..errors import Corrupt, Unsupported
from ..model import TALK, WORDS_MOST, Message, OffBy, last_words

Show = Literal["all", "waiting", "failing", "off", "undelivered", "unread"]

TAIL = 12
"""So many of its last entries are looked at for what is said of a conversation."""

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


async def look(core: Core[Any], row: Row, wanted: Wanted) -> Item | None:
    """Return what is shown of a conversation; None where the row alone says that it is not wanted."""
    try:
        record = record_of(row)
        off_by = core.find_reasons(*row.key, record.paused)
        if not may_fit(row, record, off_by, wanted):
            return None
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


def around(text: str, begin: int, end: int) -> str:
    """Return the words from *begin* to *end* with some of those around them."""
    first, last = max(begin - AROUND, 0), end + AROUND
    return f"{'…' * (first > 0)}{text[first:last]}{'…' * (last < len(text))}"
