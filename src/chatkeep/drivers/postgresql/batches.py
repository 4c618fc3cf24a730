"""Acts in batches: each connection has one statement under way, and what queues up meanwhile goes into the next one.

An act that was never sent is `Unavailable`; one that was sent and not answered is `Uncertain` if it writes, and its connection is dropped.
"""

from __future__ import annotations

import asyncio
import random
from operator import attrgetter
from typing import Any

from msgspec import Struct

from ...errors import BadMessage, ChatkeepError, Corrupt, Overloaded, Replaced, Unavailable, Uncertain
from ...extras import from_extra
from ..base import WAITING, Key, Pool, settle
from ..batching import BatchingQueue
from .opening import POOLER, Opener, code_of, connect_patiently, given_up, replaced
from .seam import Statement

with from_extra("postgres", "A PostgreSQL store (postgresql://)"):
    import asyncpg

BATCH_BYTES = 1 << 20
SHARES = 2  # of what waits and flies, whatever the number of connections
ATTEMPTS = 5  # for what PostgreSQL itself asks to be tried again
CLOSING_S = 2.0

LOCKED = "55P03"
TRY_AGAIN = frozenset({"40P01", "40001", LOCKED})  # deadlock, serialization failure, lock timeout
VANISHED = frozenset({"42P01", "42883", "42704", "3F000", "3D000"})  # table, function, type, schema, database
STATEMENT_LOST = frozenset({"26000", "42P05"})
BAD_DATA = ("22", "54")  # classes of what cannot be stored, or is too large
DAMAGED = ("23", "XX001", "XX002")  # a constraint that chatkeep's acts cannot break, and pages that cannot be read
ONE_ITEM = (*BAD_DATA, *DAMAGED, LOCKED)  # what one item may do to its batch
READ_ONLY = "25006"


class Call(Struct, eq=False):
    """An act that somebody waits for. kind: a batch is one statement. key: two connections would do acts on one conversation in
    any order."""

    kind: Statement
    act: Any
    answered: asyncio.Future[Any]
    deadline: float
    """When it has waited too long to be sent."""
    key: Key | None
    size: int


class Combiner:
    """Connections that each have one statement under way; what queues up meanwhile goes into the next one."""

    def __init__(self, opener: Opener, name: str, size: int, connection: asyncpg.Connection | None = None) -> None:
        self._opener = opener
        self._loop = asyncio.get_running_loop()
        self._queue: BatchingQueue[Call] = BatchingQueue(self._expire, room=BATCH_BYTES)
        self._connections: list[asyncpg.Connection | None] = [connection] + [None] * (size - 1)
        # Whoever is sent has the other half of its time for the answer.
        self._patience = opener.site.timeout / 2
        self._down = False
        self._busy = 0  # connections with a statement under way
        self._tasks = [
            asyncio.create_task(self._work(place), name=f"chatkeep postgresql {name} {place}") for place in range(size)
        ]

    def call(self, statement: Statement, act: Any) -> asyncio.Future[Any]:
        """Queue *act*. Cancelling the future does not take it back."""
        answered: asyncio.Future[Any] = self._loop.create_future()
        key = act.key if statement.writes else None
        size = BATCH_BYTES if statement.alone else act.size
        if not self._queue.put(Call(statement, act, answered, self._loop.time() + self._patience, key, size)):
            said = (
                f"{act}: {WAITING} acts wait for {self._opener.site.store} already; nothing was done. Try again later."
            )
            settle(answered, Overloaded(said))
        return answered

    async def close(self) -> None:
        """Answer what is queued, then close the connections."""
        await self._queue.close(*self._tasks)

    def pool(self) -> Pool:
        """Return its connections, and what has not left yet."""
        return Pool(self._open, len(self._connections), len(self._queue.calls))

    def _expire(self, late: list[Call]) -> None:
        _refuse(
            late, Unavailable, f"nothing was done; {self._opener.site.store} has not been reached in time. Try again."
        )

    async def _work(self, place: int) -> None:
        try:
            # (What comes is for whoever is connected already, if he has nothing else to do.)
            while await self._queue.filled(last=self._connections[place] is None):
                connection = self._connections[place]
                if connection is None or connection.is_closed():
                    connection = self._connections[place] = await self._reconnected(place)
                if connection is None:
                    continue
                batch = self._taken()
                if batch:
                    self._queue.begin(batch)
                    self._busy += 1
                    try:
                        await self._run(connection, batch)
                    finally:
                        self._busy -= 1
                        self._queue.end(batch)
                elif self._queue.closing:  # what is left waits for a batch under way, whose connection takes it then
                    return
                else:
                    await self._queue.woken()
        finally:
            connection, self._connections[place] = self._connections[place], None
            if connection is not None:
                await _close(connection)

    async def _reconnected(self, place: int) -> asyncpg.Connection | None:
        self._queue.wake()  # another connection may be there
        if self._down:  # known to be: no storm of attempts, and nobody waits long
            await asyncio.sleep(random.uniform(0, 1))
        try:
            connection = await connect_patiently(self._opener.connected, 0 if self._down else self._patience)
        except ChatkeepError as refusal:
            self._down = True
            if not self._open:
                kind = type(refusal) if isinstance(refusal, Unavailable) else Unavailable  # it was well configured once
                _refuse(self._queue.clear(), kind, str(refusal), refusal)
            return None
        self._down = False
        return connection

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return any([place is not None and not place.is_closed() for place in self._connections])

    def is_free_for(self, statement: Statement) -> bool:
        """Tell whether a connection has nothing to do, or nothing yet but to run *statement* in this tick."""
        calls = self._queue.calls
        return self._open > self._busy and (not calls or calls[0].kind is calls[-1].kind is statement)

    @property
    def _open(self) -> int:
        return sum(1 for place in self._connections if place is not None and not place.is_closed())

    def _taken(self) -> list[Call]:
        """Return a share of what waits for one statement."""
        shares = min(SHARES, self._open if self._down else len(self._connections)) or 1
        batch = self._queue.take(shares=shares)
        if batch and self._queue.calls:
            self._queue.wake()
        if len(batch) > 1 and batch[0].kind.writes:
            batch.sort(key=attrgetter("key"))  # so that no two batches lock crosswise
        return batch

    async def _run(self, connection: asyncpg.Connection, batch: list[Call]) -> None:
        statement = batch[0].kind
        acts = [call.act for call in batch]
        deadline = min([call.deadline for call in batch]) + self._patience
        for attempt in range(ATTEMPTS):
            if connection.is_closed() or deadline < self._loop.time():
                _refuse(
                    batch, Unavailable, f"nothing was done, {self._opener.site.store} has no time for it. Try again."
                )
                return
            try:
                with given_up(connection, deadline - self._loop.time()):
                    arguments = statement.arguments(acts)
                    answers = statement.answers(
                        acts, await connection.fetch(statement.sql, self._opener.epoch, *arguments)
                    )
            except Exception as fault:
                if len(batch) > 1 and not connection.is_closed() and code_of(fault).startswith(ONE_ITEM):
                    for call in batch:  # alone, it fails alone
                        await self._run(connection, [call])
                    return
                if code_of(fault) in TRY_AGAIN and attempt < ATTEMPTS - 1:
                    await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
                    continue
                self._failed(connection, batch, fault)
            except BaseException:
                connection.terminate()
                _refuse(batch, Uncertain if statement.writes else Unavailable, "the event loop is being shut down")
                raise
            else:
                _deliver(batch, answers)
            return

    def _failed(self, connection: asyncpg.Connection, batch: list[Call], fault: Exception) -> None:
        store, code, writes = self._opener.site.store, code_of(fault), batch[0].kind.writes
        said = f"{store} says {type(fault).__name__}: {fault}"
        if connection.is_closed() or _ends_the_session(fault):
            # What a dying session had answered by then does not say whether it committed.
            connection.terminate()
            if writes:
                now = f"perhaps written, {store} stopped answering ({fault}). Run the same act again, it is done once."
                _refuse(batch, Uncertain, now, fault)
            else:
                _refuse(batch, Unavailable, f"nothing was read, {store} stopped answering ({fault}). Try again.", fault)
        elif code in VANISHED:
            _refuse(batch, Replaced, replaced(store), fault)
        elif code.startswith(DAMAGED):
            _refuse(
                batch, Corrupt, f"nothing was changed, its rows are damaged; {said}. Restore it from a backup.", fault
            )
        elif code.startswith(BAD_DATA):
            _refuse(batch, BadMessage, f"this cannot be stored, nothing was written; {said}.", fault)
        else:
            if code == READ_ONLY or code in STATEMENT_LOST:
                connection.terminate()
            hint = f" {POOLER}" if code in STATEMENT_LOST else ""
            _refuse(batch, Unavailable, f"nothing was written; {said}.{hint} Try again when that is mended.", fault)


async def _close(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=CLOSING_S)
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()


def _deliver(batch: list[Call], answers: list[Any]) -> None:
    for call, answer in zip(batch, answers, strict=True):
        settle(call.answered, answer)


def _refuse(batch: list[Call], kind: type[ChatkeepError], said: str, cause: BaseException | None = None) -> None:
    refusals = [kind(f"{call.act}: {said}") for call in batch]
    for refusal in refusals:
        refusal.__cause__ = cause
    _deliver(batch, refusals)


def _ends_the_session(fault: BaseException) -> bool:
    return code_of(fault)[:2] in ("", "08") or getattr(fault, "severity_en", None) in ("FATAL", "PANIC")
