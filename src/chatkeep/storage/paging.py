"""How many entries of a log are read at a time: as many as make a page, by their size and not by their number.

A number alone says little: two hundred messages may be 50 MB, and sixteen who ask for them at the same time a gigabyte.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import msgspec
from msgspec import structs

from ..drivers.base import Key
from ..model import Message
from .reader import PAGE
from .store import Store

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


async def walk_log(
    store: Store, key: Key, incarnation: str, *, after: int, before: int | None = None
) -> AsyncIterator[list[Message]]:
    """Yield the log behind number *after*, a page at a time."""
    paging = Paging()
    while page := await store.page(key, incarnation, after=after, before=before, limit=paging.limit):
        yield page
        paging.fit(page)
        after = page[-1].number


async def walk_back(
    store: Store, key: Key, incarnation: str, *, before: int, limit: int
) -> AsyncIterator[list[Message]]:
    """Yield the last *limit* entries before a number, a page at a time, the last page first; each is in the order of the log."""
    paging = Paging()
    while limit > 0 and (page := await store.page(key, incarnation, before=before, limit=min(limit, paging.limit))):
        yield page
        paging.fit(page)
        before, limit = page[0].number, limit - len(page)


def outline(messages: Iterable[Message]) -> list[Message]:
    """Return *messages* without what people and the bot have said, for who goes through many and wants to know what happened."""
    return [message if message.role == "system" else structs.replace(message, content="") for message in messages]


def fitting(messages: Iterable[Message]) -> int:
    """Return how many of *messages* are a page; at least one, if there is one."""
    return Paging().fit(messages)
