"""How many entries of a log are read at a time for somebody outside: as many as make a page, by their size and not by their number."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..drivers.base import Key
from ..model import Message
from .store import PAGE, Store

FIRST_READ = 20
"""So many entries are read first: how large they are is not known before, and a hundred may be 25 MB."""

PAGE_BYTES = 1024 * 1024
"""A page ends with the message that makes it so large."""


class Paging:
    """How somebody reads a log: *limit* is how many entries are asked for next."""

    __slots__ = ("limit",)

    def __init__(self) -> None:
        self.limit = FIRST_READ

    def fit(self, messages: Iterable[Message]) -> int:
        """Return how many of *messages*, the next ones that were read, are a page; at least one, if there is one."""
        size = count = 0
        for message in messages:
            if size >= PAGE_BYTES:
                break
            size += len(msgspec.json.encode((message.content, message.metadata)))
            count += 1
        if count:
            self.limit = max(1, min(PAGE, count * PAGE_BYTES // size))
        return count


async def read_page(store: Store, key: Key, incarnation: str, *, after: int) -> list[Message]:
    """Return the messages behind *after* that are a page; all, if they are fewer."""
    paging, found = Paging(), list[Message]()
    while (limit := min(paging.limit, PAGE - len(found))) > 0:
        more = await store.page(key, incarnation, after=found[-1].number if found else after, limit=limit)
        found += more
        if len(more) < limit or paging.fit(found) < len(found):
            break
    return found


def fitting(messages: Iterable[Message]) -> int:
    """Return how many of *messages* are a page; at least one, if there is one."""
    return Paging().fit(messages)
