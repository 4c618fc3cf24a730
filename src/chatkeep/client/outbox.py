"""Messages that wait on this host until the server has them: durable in a local SQLite file, sent in order, once each.

Once each comes from the ids: a message whose answer was lost is sent again under the id it was posted with. Each process
has a file of its own, as two that send from one would overtake each other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import apsw
import msgspec
from filelock import FileLock, Timeout

from ..codec import key_for, message_id
from ..errors import BadMessage, ChatkeepError, Misconfigured, Uncertain, UsageError
from .values import Pending, Queued

log = logging.getLogger("chatkeep.client")

T = TypeVar("T")

SENDERS = 8
SCHEMA = """
pragma journal_mode = wal;
pragma synchronous = full;
create table if not exists outbox (
    number integer primary key autoincrement,
    server text not null,
    conversation text not null,
    id text not null,
    message blob not null,
    posted_at real not null,
    reason text not null default '',
    unique (conversation, id)
) strict;
create index if not exists waiting on outbox (conversation, number) where reason = '';
create index if not exists refused on outbox (number) where reason <> '';
"""
COLUMNS = "number, conversation, id, message, posted_at, reason"

BUSY_S = 1.0

Deliver = Callable[[Queued, Callable[[str], None]], Awaitable[None]]


class Outbox:
    """The file at *path*, holding messages for the server at *server*."""

    def __init__(self, path: str, server: str) -> None:
        self._path, self._server = path, server
        self._lock = FileLock(f"{path}.lock")
        self._thread: ThreadPoolExecutor | None = None
        self._db: apsw.Connection | None = None
        self._senders: list[asyncio.Task[None]] = []
        self._lanes: dict[str, bool] = {}  # conversations to be looked at; True: something came since somebody looked
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._empty = asyncio.Event()
        self._trouble = ""
        self._waiting = self._refused = 0

    async def open(self, deliver: Deliver) -> None:
        """Opens the file; what an earlier run has left in it goes out first. Raises `Misconfigured`."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as taken:
            raise Misconfigured(
                f"queue={self._path} is in use by another process; nothing was opened. Give each process a queue of its own."
            ) from taken
        except OSError as fault:
            raise Misconfigured(f"queue={self._path} cannot be used ({fault}); nothing was opened.") from fault
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chatkeep-outbox")
        self._lanes, self._ready, self._waiting, self._refused = {}, asyncio.Queue(), 0, 0
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)
            for conversation, waiting, refused in await self._do(_totals):
                self._count(waiting, refused)
                if waiting:
                    self._wake(conversation)
        except BaseException:
            await self.close()
            raise
        self._count(0, 0)
        self._senders = [asyncio.create_task(self._send(deliver), name="chatkeep-outbox") for _ in range(SENDERS)]

    async def close(self) -> None:
        """Stops sending and closes the file; what it holds stays."""
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
            thread.shutdown()
        self._lock.release()

    @property
    def pending(self) -> Pending:
        """How far it is."""
        return Pending(waiting=self._waiting, refused=self._refused, trouble=self._trouble if self._waiting else "")

    async def put(self, conversation: str, id: str, message: bytes) -> None:
        """Makes a message durable here. The same once more changes nothing; other content under its id is refused."""
        message_id(key_for("", conversation), id)

        def act(db: apsw.Connection) -> int:
            db.execute(
                "insert or ignore into outbox (server, conversation, id, message, posted_at) values (?, ?, ?, ?, ?)",
                (self._server, conversation, id, message, time.time()),
            )
            if added := db.changes():
                return added
            same = "select 1 from outbox where conversation = ? and id = ? and message = ?"
            if db.execute(same, (conversation, id, message)).fetchone() is None:
                raise BadMessage(f"{conversation}: other content is queued under the id {id!r}; nothing was queued.")
            return 0

        await self._settled(self._put(conversation, act))

    async def drained(self) -> None:
        """Waits until no message waits."""
        await self._empty.wait()

    async def refused(self) -> list[Queued]:
        """What the server did not want, oldest first."""
        return await self._do(
            lambda db: [
                _queued(row) for row in db.execute(f"select {COLUMNS} from outbox where reason <> '' order by number")
            ]
        )

    async def retry(self, number: int) -> None:
        """Sends a refused message again."""
        sql = "update outbox set reason = '' where number = ? and reason <> '' returning conversation"
        await self._settled(self._one(sql, number, waiting=1))

    async def drop(self, number: int) -> None:
        """Forgets a refused message."""
        sql = "delete from outbox where number = ? and reason <> '' returning conversation"
        await self._settled(self._one(sql, number, waiting=0))

    async def _put(self, conversation: str, act: Callable[[apsw.Connection], int]) -> None:
        self._count(await self._do(act), 0)
        self._wake(conversation)

    async def _one(self, sql: str, number: int, *, waiting: int) -> None:
        found = await self._do(lambda db: db.execute(sql, (number,)).fetchone())
        if found is None:
            raise UsageError(f"queue={self._path}: no refused message has the number {number}; nothing was done.")
        self._count(waiting, -1)
        if waiting:
            self._wake(str(found[0]))

    async def _settled(self, act: Coroutine[Any, Any, None]) -> None:
        # Who is cancelled meanwhile leaves the file changed all the same; it must be counted and sent then.
        await asyncio.shield(asyncio.create_task(act))

    async def _send(self, deliver: Deliver) -> None:
        while True:
            conversation = await self._ready.get()
            self._lanes[conversation] = False
            try:
                if (queued := await self._do(_first_of(conversation))) is not None:
                    await self._settle(queued, deliver)
                elif not self._lanes[conversation]:
                    del self._lanes[conversation]
                    continue
            except Exception as fault:  # a full disk, or a bug: the message stays, and its conversation waits
                log.exception("queue=%s: %s", self._path, fault)  # noqa: TRY401
                self._tell(f"{type(fault).__name__}: {fault}")
                await asyncio.sleep(BUSY_S)
            self._ready.put_nowait(conversation)

    async def _settle(self, queued: Queued, deliver: Deliver) -> None:
        try:
            await deliver(queued, self._tell)
        except ChatkeepError as refusal:
            reason = str(refusal)
            await self._do(
                lambda db: db.execute("update outbox set reason = ? where number = ?", (reason, queued.number))
            )
            self._count(-1, 1)
        else:
            await self._do(lambda db: db.execute("delete from outbox where number = ?", (queued.number,)))
            self._count(-1, 0)
        self._trouble = ""

    def _wake(self, conversation: str) -> None:
        if conversation not in self._lanes:
            self._ready.put_nowait(conversation)
        self._lanes[conversation] = True

    def _count(self, waiting: int, refused: int) -> None:
        self._waiting += waiting
        self._refused += refused
        if self._waiting:
            self._empty.clear()
        else:
            self._empty.set()

    def _tell(self, trouble: str) -> None:
        self._trouble = trouble

    async def _do(self, act: Callable[[apsw.Connection], T]) -> T:
        def run() -> T:
            assert self._db is not None
            try:
                return act(self._db)
            except apsw.Error as fault:
                raise Uncertain(
                    f"queue={self._path}: {fault}. Perhaps it was done; do it again, under the same id."
                ) from fault

        if self._thread is None:
            raise UsageError(f"queue={self._path} is not open; nothing was done.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _connect(self) -> None:
        try:
            self._db = apsw.Connection(self._path)
            self._db.execute(SCHEMA).fetchall()  # it stops at each row that a pragma answers
            other = self._db.execute("select server from outbox where server <> ? limit 1", (self._server,)).fetchone()
        except apsw.Error as fault:
            raise Misconfigured(f"queue={self._path} cannot be used ({fault}); nothing was opened.") from fault
        if other is not None:
            raise Misconfigured(
                f"queue={self._path} holds messages for {other[0]}; nothing was sent. Give each server a queue of its own; to let go "
                "of what is in this one, delete it."
            )

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()


def _totals(db: apsw.Connection) -> list[tuple[str, int, int]]:
    # In the order in which each conversation's oldest message came.
    sql = "select conversation, sum(reason = ''), sum(reason <> '') from outbox group by conversation order by min(number)"
    return cast(list[tuple[str, int, int]], db.execute(sql).fetchall())


def _first_of(conversation: str) -> Callable[[apsw.Connection], Queued | None]:
    sql = f"select {COLUMNS} from outbox where conversation = ? and reason = '' order by number limit 1"

    def act(db: apsw.Connection) -> Queued | None:
        row = db.execute(sql, (conversation,)).fetchone()
        return None if row is None else _queued(row)

    return act


def _queued(row: tuple[Any, ...]) -> Queued:
    number, conversation, id, message, posted_at, reason = row
    said = msgspec.json.decode(message)
    return Queued(
        number=number,
        conversation=conversation,
        id=id,
        content=said["content"],
        metadata=said.get("metadata"),
        posted_at=posted_at,
        reason=reason,
    )
