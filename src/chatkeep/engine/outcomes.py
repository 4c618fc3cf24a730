"""What became of a message: read from its conversation, and told to the call of `receive` that waits for it; which messages were set
aside; and how a state was. Knows nothing of how messages are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Struct, structs

from ..conversation import dead_letters, snapshots, streams
from ..conversation.codec import record_of
from ..conversation.edits import StateAsOf, find_state, may_move
from ..conversation.snapshots import Outcome, Snapshot
from ..drivers.base import Key, Row, settle
from ..errors import Corrupt, Unsupported
from ..model import Answering, DeadLetter, Message
from ..storage.paging import outline, walk_log
from ..storage.selection import select_page
from ..storage.snapshots import blank
from ..storage.store import Store
from .lease_keeper import LeaseKeeper
from .pauses import Pauses

NOTES_BEFORE = 100
"""So many entries before a number are looked through for what people have changed."""


class Waiter(Struct, eq=False):
    """A call of `receive` that waits for what becomes of its message."""

    incarnation: str
    number: int
    answered: asyncio.Future[Outcome]

    def tell(self, found: Outcome | BaseException) -> None:
        """Tell the caller what became of the message, if the caller still waits."""
        settle(self.answered, found)


async def read_outcome(store: Store, snapshot: Snapshot, number: int) -> Outcome | None:
    """Find out what became of message *number*, with as much of the log behind it as is needed to know; None: it is unread.

    One that was set aside and answered when it was replayed has that answer.
    """
    if snapshot.record.cursor < number:
        return Outcome("dropped") if snapshots.is_withdrawn(snapshot, number) else None
    found: list[Message] = []
    if snapshot.messages and snapshot.messages[0].number <= number + 1 and not snapshots.is_cut(snapshot):
        found = snapshots.messages_after(snapshot, number)
    else:
        # Replies stand in the order of what they answer: the first to something later ends the search.
        async for page in walk_log(store, snapshot.row.key, snapshot.row.incarnation, after=number):
            found += page
            if any((message.reply_from or 0) > number for message in page):
                break
    outcome = snapshots.find_outcome(snapshot.record, number, found)
    if outcome is None or outcome.status != "failed" or number in snapshot.record.dead:
        return outcome
    # Its letter is closed: whoever sends the message again gets the answer to its replay.
    for replay in await store.find(snapshot.row.key, snapshot.row.incarnation, [dead_letters.replay_id(number)]):
        replayed = await read_outcome(store, snapshot, replay.number)
        if replayed is not None and replayed.status == "answered":
            return replayed
    return outcome


async def read_answering(store: Store, key: Key, *, pauses: Pauses, leases: LeaseKeeper, here: bool) -> Answering:
    """Read whether somebody answers in a conversation now; *here*: this process works on it."""
    await pauses.refresh()
    snapshot = await store.load(key) or blank(key)
    row, waiting, said = snapshot.row, snapshots.unread_messages(snapshot), streams.find_said(snapshot)
    number = waiting[0].number if waiting else 0
    reply = streams.reply_id(row.incarnation, number) if said is not None else ""
    if pauses.is_paused(snapshot):
        return Answering("paused", number, reply)
    if waiting:
        works = here if leases.is_ours(row.lease) else leases.observe_holder(row)
        return Answering("running" if works else "waiting", number, reply, snapshots.find_failing(snapshot))
    asked = [message.number for message in snapshot.messages if snapshots.asks(message)]
    if asked and asked[-1] in snapshot.record.dead:
        return Answering("set aside", asked[-1])
    return Answering("idle")


async def read_state_as_of(store: Store, key: Key, number: int) -> StateAsOf | None:
    """Read what is known of the state as it was when entry *number* was the last one; None where there is no such conversation."""
    snapshot = await store.load(key)
    if snapshot is None:
        return None
    row, entries = snapshot.row, list[Message]()
    after = max(number - NOTES_BEFORE, 0)
    async for page in walk_log(store, key, row.incarnation, after=after, before=row.head + 1):
        entries += outline(page)
        if any(entry.number > number and may_move(entry) for entry in page):
            break  # what comes behind it tells nothing of before
    return find_state(msgspec.json.decode(snapshot.record.state), entries, number, begun=snapshot.record.since > number)


async def read_dead_letters(store: Store, key: Key) -> list[DeadLetter]:
    """Read the messages of one conversation that were set aside, are not closed and are still in the log, oldest first."""
    snapshot = await store.load(key)
    letters: list[DeadLetter] = []
    for number in snapshot.record.dead if snapshot else ():
        assert snapshot is not None
        page = await store.page(key, snapshot.row.incarnation, after=number - 1, limit=1)
        if page and page[0].number == number:
            found = await read_outcome(store, snapshot, number)
            metadata = page[0].metadata | {"reason": found.dead if found else ""}
            named = structs.asdict(page[0]) | {"metadata": metadata, "tenant": key.tenant, "conversation": key.id}
            letters.append(DeadLetter(**named))
    return letters


async def page_dead_letters(
    store: Store, tenant: str | None, *, after: Key | None, limit: int, rows_most: int
) -> tuple[list[DeadLetter], Key | None]:
    """Read a page of the dead letters of a tenant (None: of all tenants): see `select_page`.

    Where a log cannot be read its letters are named all the same, without what they say: their reason is the fault.
    """

    async def read(key: Key) -> list[DeadLetter]:
        try:
            return await read_dead_letters(store, key)
        except (Corrupt, Unsupported) as fault:
            return _name_dead_letters(await store.row(key), str(fault))

    return await select_page(
        store, tenant, lambda record: bool(record.dead), read, after=after, limit=limit, rows_most=rows_most
    )


def _name_dead_letters(row: Row | None, reason: str) -> list[DeadLetter]:
    if row is None:  # erased in the meantime
        return []
    named: dict[str, Any] = {"tenant": row.key.tenant, "conversation": row.key.id, "created_at": row.updated_at}
    return [
        DeadLetter(id="", number=number, role="user", content="", metadata={"reason": reason}, **named)
        for number in record_of(row).dead
    ]


async def read_replays(store: Store, snapshot: Snapshot, number: int) -> str | None:
    """Find the id under which message *number*, which was set aside once, is to be handed in again; None where it never was.

    It is that of the replay there is, if there is one; a replay that was passed over unanswered counts for nothing.
    """
    key, incarnation = snapshot.row.key, snapshot.row.incarnation
    noted = await store.find(key, incarnation, dead_letters.note_ids(incarnation, number))
    if number not in snapshot.record.dead and not noted:
        return None
    copy = number
    while known := await store.find(key, incarnation, [dead_letters.replay_id(copy)]):
        found = await read_outcome(store, snapshot, known[0].number)
        if found is None or found.status != "dropped":
            break
        copy = known[0].number
    return dead_letters.replay_id(copy)
