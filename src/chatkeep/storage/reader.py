"""What a store holds, read as it is: rows that nobody has decoded, and entries of logs. Nothing of it is cached."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence

from msgspec import structs

from ..conversation.codec import messages_from
from ..drivers.base import Driver, Entries, Entry, Index, Key, Read, Row, Scan
from ..model import Message
from .gateway import Gateway

PAGE = 200
NEAR = 10
"""So many entries are asked for first, where one that has a time is looked for."""


class Reader:
    """Reads rows and logs through *gateway*."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @property
    def driver(self) -> Driver:
        """What is asked; for what no act is, such as its epoch and abilities."""
        return self.gateway.driver

    def read(self, key: Key, *, tail: int) -> Awaitable[tuple[Row, list[Entry]] | None]:
        """Return the row of a conversation and its last *tail* entries, undecoded, as they are now; None when there is no row."""
        return self.gateway.act(self.gateway.driver.read, Read(key, tail))

    async def row(self, key: Key) -> Row | None:
        """Return the row of a conversation, undecoded, as it is now; None when there is none."""
        found = await self.read(key, tail=0)
        return None if found is None else found[0]

    async def rows(
        self,
        index: Index,
        *,
        tenant: str | None = None,
        owner: str = "",
        until: float | None = None,
        since: float | None = None,
        after: Row | None = None,
        limit: int = PAGE,
    ) -> list[Row]:
        """Return a page of conversations, undecoded."""
        scan = Scan(index, limit, tenant, owner, until, after, since)
        return await self.gateway.act(self.gateway.driver.scan, scan)

    async def walk(
        self, index: Index, *, tenant: str | None = None, owner: str = "", after: Row | None = None
    ) -> AsyncGenerator[Row, None]:
        """Yield conversations in the order of *index*, undecoded, from behind *after*: all of them, a page at a time."""
        while rows := await self.rows(index, tenant=tenant, owner=owner, after=after):
            for row in rows:
                yield row
            after = rows[-1]

    async def page(
        self, key: Key, incarnation: str, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Message]:
        """Return log entries, oldest first; `Driver.entries` says which."""
        found = await self.gateway.act(self.gateway.driver.entries, Entries(key, after, before, limit=limit))
        return await self._dated(key, incarnation, messages_from(key, incarnation, found))

    async def find(self, key: Key, incarnation: str, ids: Sequence[str]) -> list[Message]:
        """Return the log entries that have one of *ids*, wherever they stand."""
        found = await self.gateway.act(self.gateway.driver.entries, Entries(key, ids=ids))
        return await self._dated(key, incarnation, messages_from(key, incarnation, found))

    async def _dated(self, key: Key, incarnation: str, found: list[Message]) -> list[Message]:
        """Return what was *found*, with a time also where all of it was redacted: that of the last entry before it that still has one, or
        of the first behind it."""
        if not found or not all([message.redacted for message in found]):
            return found
        first, last = found[0].number, found[-1].number
        at = await self._find_time(key, incarnation, before=first) or await self._find_time(
            key, incarnation, after=last
        )
        return [structs.replace(message, created_at=at) for message in found]

    async def _find_time(
        self, key: Key, incarnation: str, *, before: int | None = None, after: int | None = None
    ) -> float:
        """Return the time of the nearest entry *before* or *after* a number that was not redacted; 0 where there is none."""
        limit = NEAR
        while page := await self.gateway.act(self.gateway.driver.entries, Entries(key, after, before, limit=limit)):
            told = [message for message in messages_from(key, incarnation, page) if not message.redacted]
            if told:
                return told[-1 if after is None else 0].created_at
            before, after = (page[0].number, None) if after is None else (None, page[-1].number)
            limit = PAGE
        return 0.0
