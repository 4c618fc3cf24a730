"""The SQLite file of an outbox: what waits, what the server refused, whose it is, and of whom the server has taken something before.

One process has it at a time. It knows nothing of sending; each act is one transaction, durable when it is answered.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar, cast

import apsw
import msgspec

from ..errors import BadMessage, Misconfigured, NotOpen, Unavailable, Uncertain, UsageError, is_transient, is_utf8
from ..own_file import OwnFile
from .confinement import Confinement
from .values import Queued

T = TypeVar("T")

PRAGMAS = "pragma journal_mode = wal; pragma synchronous = full;"
SCHEMA = """
create table if not exists outbox (
    number integer primary key autoincrement,
    server text not null,
    owner text not null,
    conversation text not null,
    id text not null,
    message blob not null,
    posted_at real not null,
    reason text not null default '',
    there integer not null default 0
) strict;
create table if not exists taken (
    owner text not null, conversation text not null, primary key (owner, conversation)
) strict, without rowid;
create table if not exists subjects (credential text primary key, subject text not null) strict;
create index if not exists waiting on outbox (conversation, number) where reason = '';
create index if not exists refused on outbox (number) where reason <> '';
create index if not exists ids on outbox (conversation, id);
"""
OLDER = f"""
begin immediate;
alter table outbox rename to older;
drop index waiting;
drop index refused;
{SCHEMA}
insert into outbox (number, server, owner, conversation, id, message, posted_at, reason)
    select number, server, '', conversation, id, message, posted_at, reason from older;
drop table older;
commit;
"""
"""Moves on what was queued by a release that did not note whose it is."""

THERE_ADDED = "alter table outbox add column there integer not null default 0"
"""The same, of a release that did not note whether the conversation was there."""

TAKEN = "exists (select 1 from taken where conversation = ? and owner in (?, ?))"
"""Whether the server has taken a message for a conversation before: who posts another one means this conversation, and no later one."""

COLUMNS = "number, conversation, id, message, posted_at, reason"

NOBODYS = "(owner = '' or owner like 'credential:%' or owner like 'run:%')"
"""What was posted by nobody whose subject is known."""

KNOWN_MOST = 100
"""So many credentials are remembered with their subject."""

Owners = tuple[str, str]
"""A credential and the subject that it stands for; the same twice while that is not known."""


class Held(NamedTuple):
    """What one owner has in the file for one conversation."""

    owner: str
    conversation: str
    waiting: int
    refused: int


class OutboxFile:
    """The file at *path*, holding messages for the server at *server*. *confinement*: where it was opened, and may be used."""

    def __init__(self, path: str, server: str) -> None:
        if not isinstance(path, str):
            raise Misconfigured(f"queue is text, not {path!r:.80}; nothing was opened.")
        if not is_utf8(path):
            raise Misconfigured(f"queue={path!a} is not UTF-8, in which SQLite names files; nothing was opened.")
        self.confinement = Confinement()
        self._path, self._server = path, server
        self._absolute = os.path.abspath(path)  # a later chdir leaves the queue where it is
        self._own = OwnFile("queue", path)
        self._thread: ThreadPoolExecutor | None = None
        self._db: apsw.Connection | None = None

    async def open(self) -> None:
        """
        Open the file, or make it.

        Raises `Misconfigured` where another process has it, or it is for another server, and `Unavailable` where that may pass.
        """
        self.confinement.begin()
        try:
            self._own.take()
            await asyncio.wrap_future(self._begin_thread())
        except BaseException:
            await self.close()
            raise

    def _begin_thread(self) -> Future[None]:
        """Have a thread connect, which is the only one to touch the file. Raises `Unavailable` where none is to be had."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="chatkeep-outbox")
        try:
            connected = thread.submit(self._connect)
        except RuntimeError as none_left:
            raise Unavailable(
                f"queue={self._path} needs a thread, and none could be started ({none_left}); nothing was opened. Raise how many this "
                "process may have, or try again later."
            ) from none_left
        self._thread = thread
        return connected

    async def close(self) -> None:
        """Close the file and let another process have it; what it holds stays."""
        self.confinement.loop = None
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
            thread.shutdown()
        self._own.leave()

    async def put(self, conversation: str, id: str, message: bytes, owners: Owners) -> bool:
        """Tell whether a message is new here; it is durable then. Raises `BadMessage` for other content under its id."""

        def act(db: apsw.Connection) -> bool:
            same = "select message from outbox where owner in (?, ?) and conversation = ? and id = ?"
            found = db.execute(same, (*owners, conversation, id)).fetchone()
            if found is not None and found[0] != message:
                raise BadMessage(f"{conversation}: other content is queued under the id {id!r}; nothing was queued.")
            if found is None:
                db.execute(
                    "insert into outbox (server, owner, conversation, id, message, posted_at, there) "
                    f"values (?, ?, ?, ?, ?, ?, {TAKEN})",
                    (self._server, owners[1], conversation, id, message, time.time(), conversation, *owners),
                )
            return found is None

        return await self._do(act)

    async def first(self, conversation: str, owners: Owners) -> tuple[Queued, bool] | None:
        """Return the first message that waits, and whether its conversation was there; None when none waits."""
        place = "from outbox where conversation = ? and owner in (?, ?) and reason = '' order by number limit 1"
        sql = f"select {COLUMNS}, there or {TAKEN} {place}"

        def act(db: apsw.Connection) -> tuple[Queued, bool] | None:
            row = db.execute(sql, (conversation, *owners, conversation, *owners)).fetchone()
            return None if row is None else (_queued(row[:-1]), bool(row[-1]))

        return await self._do(act)

    async def settle(self, queued: Queued, reason: str, *, taken_by: str = "") -> str | None:
        """
        Remove a message that went out, or keep it as refused for *reason*; *taken_by* has something on the server from now on.

        Returns the owner that the message has now: whose its credential is may have become known meanwhile. None when it is gone.
        """
        sql = "delete from outbox where number = ?"
        values: tuple[str | int, ...] = (queued.number,)
        if reason:
            sql, values = "update outbox set reason = ? where number = ?", (reason, queued.number)

        def act(db: apsw.Connection) -> str | None:
            with db:
                if taken_by:
                    db.execute("insert or ignore into taken values (?, ?)", (taken_by, queued.conversation))
                found = db.execute(f"{sql} returning owner", values).fetchall()
            return str(found[0][0]) if found else None

        return await self._do(act)

    async def refused(self, owners: Owners) -> list[Queued]:
        """Return what the server did not want, oldest first."""
        sql = f"select {COLUMNS} from outbox where owner in (?, ?) and reason <> '' order by number"
        return await self._do(lambda db: [_queued(row) for row in db.execute(sql, owners)])

    async def retry(self, number: int, owners: Owners) -> tuple[str, str]:
        """Let a refused message wait again, for a conversation that need not be there any more; returns that and the owner."""
        return await self._one("update outbox set reason = '', there = 0", number, owners)

    async def drop(self, number: int, owners: Owners) -> tuple[str, str]:
        """Remove a refused message; returns its conversation and owner."""
        return await self._one("delete from outbox", number, owners)

    async def _one(self, sql: str, number: int, owners: Owners) -> tuple[str, str]:
        which = "where number = ? and owner in (?, ?) and reason <> '' returning conversation, owner"
        found = await self._do(lambda db: db.execute(f"{sql} {which}", (number, *owners)).fetchone())
        if found is None:
            raise UsageError(f"queue={self._path}: no refused message has the number {number}; nothing was done.")
        return str(found[0]), str(found[1])

    async def end(self, conversation: str, owners: Owners) -> None:
        """Note that a conversation is gone: what waits was meant for it, what comes is not."""
        where = "where conversation = ? and owner in (?, ?)"

        def act(db: apsw.Connection) -> None:
            with db:
                db.execute(f"update outbox set there = 1 {where} and reason = ''", (conversation, *owners))
                db.execute(f"delete from taken {where}", (conversation, *owners))

        await self._do(act)

    async def give(self, target: str, *sources: str) -> None:
        """Give what one owner has, or several, to another."""
        await self._do(lambda db: _give(db, target, *sources))

    async def adopt(self, owner: str) -> int:
        """Give what nobody known has posted to *owner*; answers how many messages that are."""

        def act(db: apsw.Connection) -> int:
            db.execute(f"update outbox set owner = ? where {NOBODYS} and owner <> ?", (owner, owner))
            return db.changes()

        return await self._do(act)

    async def discard(self, owners: Owners) -> None:
        """Delete what waits and what was refused, and which conversations these owners have."""

        def act(db: apsw.Connection) -> None:
            with db:
                for table in ("outbox", "taken"):
                    db.execute(f"delete from {table} where owner in (?, ?)", owners)

        await self._do(act)

    async def name(self, credential: str, subject: str) -> None:
        """Note whose a credential is; what was posted with it is that subject's."""

        def act(db: apsw.Connection) -> None:
            with db:
                db.execute("insert or replace into subjects values (?, ?)", (credential, subject))
                db.execute("delete from subjects where rowid <= (select max(rowid) from subjects) - ?", (KNOWN_MOST,))
                _give(db, subject, credential)

        await self._do(act)

    async def subjects(self) -> dict[str, str]:
        """Return the subjects of the credentials that are remembered."""
        sql = "select credential, subject from subjects"
        return await self._do(lambda db: dict(cast(list[tuple[str, str]], db.execute(sql).fetchall())))

    async def held(self) -> list[Held]:
        """Return what is here, in the order in which each conversation's oldest message came."""
        sql = (
            "select owner, conversation, sum(reason = ''), sum(reason <> '') from outbox "
            "group by owner, conversation order by min(number)"
        )
        return await self._do(lambda db: [Held(*row) for row in db.execute(sql)])

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
            raise NotOpen(f"queue={self._path} is not open; nothing was done.")
        self.confinement.check(f"queue={self._path}")
        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _connect(self) -> None:
        passing = False
        try:
            # SQLite itself would make a file that all may read. What is wrong with the path is said below.
            try:
                os.close(os.open(self._absolute, os.O_RDWR | os.O_CREAT, 0o600))
            except OSError as fault:
                passing = is_transient(fault)
            self._db = apsw.Connection(self._absolute)
            self._db.execute(PRAGMAS).fetchall()  # it stops at each row that a pragma answers
            columns = [row[1] for row in self._db.execute("pragma table_info(outbox)")]
            self._db.execute(OLDER if columns and "owner" not in columns else SCHEMA).fetchall()
            if "owner" in columns and "there" not in columns:
                self._db.execute(THERE_ADDED)
            other = self._db.execute("select server from outbox where server <> ? limit 1", (self._server,)).fetchone()
        except apsw.Error as fault:
            refusal = Unavailable if passing or isinstance(fault, apsw.FullError) else Misconfigured
            raise refusal(f"queue={self._path} cannot be used ({fault}); nothing was opened.") from fault
        if other is not None:
            raise Misconfigured(
                f"queue={self._path} holds messages for {other[0]}; nothing was sent. Give each server a queue of its own; to let go "
                "of what is in this one, delete it."
            )

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()


def _give(db: apsw.Connection, target: str, *sources: str) -> None:
    with db:
        for source in sources:
            db.execute("update outbox set owner = ? where owner = ?", (target, source))
            db.execute("update or replace taken set owner = ? where owner = ?", (target, source))


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
