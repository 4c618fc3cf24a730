"""The connections of the PostgreSQL driver: some that write, some that read, one that announces, one that counts and one
that listens. `opening` opens them, and acts travel over them in `batches`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ...extras import from_extra
from ..base import Pool
from ..openable import end
from .batches import Combiner
from .opening import Opener, connect_patiently, given_up
from .opening import migrations as migrations  # as docs/how-to/postgresql.md has it
from .seam import Site, Statement

with from_extra("postgres", "A PostgreSQL store (postgresql://)"):
    import asyncpg

log = logging.getLogger("chatkeep")


class Connections:
    """All connections of one store, from its opening until `close`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._opener = Opener(site)
        self._combiners: list[Combiner] = []
        self._listener: asyncio.Task[None] | None = None

    @property
    def epoch(self) -> str:
        """The store's, once started; a connection to a store that has another one is refused."""
        return self._opener.epoch

    @epoch.setter
    def epoch(self, epoch: str) -> None:
        """Take another one, as after a fence."""
        self._opener.epoch = epoch

    async def start(self) -> Any:
        """Make or upgrade the schema; answers what the server says of itself."""
        connection, greeting = await self._opener.open_first()
        self.writer = Combiner(self._opener, "writer", self.site.connections // 2, connection)
        self.readers = Combiner(self._opener, "reader", (self.site.connections + 1) // 2)
        self.announcer = Combiner(self._opener, "announcer", 1)
        self.counter = Combiner(self._opener, "counter", 1)
        self._combiners = [self.writer, self.readers, self.announcer, self.counter]
        return greeting

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""
        combiners, self._combiners = self._combiners, []
        listener, self._listener = self._listener, None
        if listener is not None:
            await end(listener)
        await asyncio.gather(*(combiner.close() for combiner in combiners))
        self._opener.epoch = ""

    def pool(self) -> Pool:
        """Return the connections that acts use."""
        pools = [combiner.pool() for combiner in self._combiners]
        return Pool(*map(sum, zip(*pools, strict=True))) if pools else Pool()

    def read(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, and on what else waits for it."""
        # Where one act follows another, or comes with others like it, as in a function that is started for one message, one connection
        # is enough.
        reads = self.readers if self.readers.is_open or not self.writer.is_free_for(statement) else self.writer
        return reads.call(statement, act)

    def write(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, and on what else waits for it."""
        return self.writer.call(statement, act)

    def announce(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, beside all else."""
        return self.announcer.call(statement, act)

    def count(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Run *statement* on *act*, beside all else, and on what else waits for it."""
        return self.counter.call(statement, act)

    def listen(self, heard: Callable[[list[str]], None]) -> None:
        """Have *heard* called with what is announced, on a connection of its own that comes back by itself."""
        self._listener = asyncio.create_task(self._listen(heard), name="chatkeep postgresql listener")

    async def _listen(self, heard: Callable[[list[str]], None]) -> None:
        while True:
            connection = await connect_patiently(self._opener.connected, None)
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _, ended=ended: ended.set())
            try:
                with given_up(connection, self.site.timeout):
                    await connection.add_listener(
                        self.site.schema, lambda _, pid, channel, text: heard(text.split("\n"))
                    )
                await ended.wait()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as fault:
                log.warning("%s: announcements are not heard for a moment (%s).", self.site.store, fault)
            finally:
                connection.terminate()
