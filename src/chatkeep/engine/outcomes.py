"""What became of a message: read from its conversation, and told to the call of `receive` that waits for it. Knows nothing of
how messages are answered."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from ..conversation import snapshots
from ..conversation.snapshots import Outcome, Snapshot
from ..drivers.base import settle
from ..model import Message
from ..storage.store import PAGE, Store


class Waiter(Struct):
    """A call of `receive` that waits for what becomes of its message."""

    incarnation: str
    number: int
    answered: asyncio.Future[Outcome]

    def tell(self, found: Outcome | BaseException) -> None:
        """Tell the caller what became of the message, if the caller still waits."""
        settle(self.answered, found)


async def read_outcome(store: Store, snapshot: Snapshot, number: int) -> Outcome | None:
    """Find out what became of message *number*, with as much of the log behind it as is needed to know; None: it is unread."""
    if snapshot.record.cursor < number:
        return None
    found: list[Message] = []
    if snapshot.messages and snapshot.messages[0].number <= number + 1 and not snapshots.is_cut(snapshot):
        found = snapshots.messages_after(snapshot, number)
    else:
        # Replies stand in the order of what they answer: the first to something later ends the search.
        seen = number
        while page := await store.page(snapshot.row.key, snapshot.row.incarnation, after=seen, limit=PAGE):
            found += page
            seen = page[-1].number
            if any((message.reply_from or 0) > number for message in page):
                break
    return snapshots.find_outcome(snapshot.record, number, found)
