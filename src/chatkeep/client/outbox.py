"""Messages that wait on this host until the server has them: durable in a local SQLite file, sent in order, once each.

Once each comes from the ids: a message whose answer was lost is sent again under the id it was posted with. Each process
has a file of its own, as two that send from one would overtake each other.

A message belongs to the subject whose credential the client had when it was posted, and goes out with a credential of
that subject only. As long as the server has not said whose a credential is, the message belongs to the credential itself
(its SHA-256); what was posted without any belongs to the run of the program, and what an older release has queued to
nobody.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from typing import Any, TypeVar, cast

import apsw
import msgspec
from filelock import FileLock, Timeout

from ..conversation.keys import key_for, message_id
from ..errors import BadMessage, ChatkeepError, Misconfigured, Uncertain, UsageError
from .confinement import Confinement
from .link import TokenChanged, pause
from .refusals import PreconditionFailed
from .values import Pending, Queued

log = logging.getLogger("chatkeep.client")

T = TypeVar("T")

SENDERS = 8
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

BUSY_S = 1.0
KNOWN_MOST = 100
"""So many credentials are remembered with their subject."""

HELD = (
    "Messages of another subject, or of nobody known, stay here. Give the client their credential; what nobody known has posted "
    "goes out as this credential's after client.adopt()."
)

Told = Callable[[str], None]
Deliver = Callable[[Queued, bool, bool, str | None, Told], Awaitable[bool]]
NameOf = Callable[[str, Told], Awaitable[str]]
Settled = Callable[[Queued, str], None]


class Postponed(Exception):
    """The server has the message, and does not know yet what becomes of it: it is asked again in a while, and others go out meanwhile."""


def credential_of(token: str) -> str:
    """Return the owner of what is posted with *token*, as long as its subject is not known. (A subject has no colon.)"""
    return f"credential:{sha256(token.encode()).hexdigest()}"


class _Waiting(msgspec.Struct):
    """A conversation to be looked at. came: something came since somebody looked. postponed: the number of its message that was
    `Postponed` last, *tries* times in a row."""

    came: bool = True
    postponed: int = 0
    tries: int = 0


class Outbox:
    """The file at *path*, holding messages for the server at *server*."""

    def __init__(self, path: str, server: str) -> None:
        self._path, self._server = path, server
        self._lock = FileLock(f"{path}.lock", mode=0o600)
        self._thread: ThreadPoolExecutor | None = None
        self._db: apsw.Connection | None = None
        self._confinement = Confinement()
        self._tasks: list[asyncio.Task[None]] = []
        self._workers: dict[str, _Waiting] = {}  # conversations to be looked at
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._empty = asyncio.Event()
        self._changed = asyncio.Event()  # there is another credential, or the first message for one
        self._trouble = ""
        self._waited_until = time.time()  # what was posted by then has waited: for this run, or for the server
        self._token: str | None = None
        self._run = f"run:{secrets.token_hex(8)}"
        self._first = True  # no credential was in hand yet in this run
        self._asking = False  # whose the credential is may bring more to be sent
        self._subjects: dict[str, str] = {}
        self._totals: dict[str, list[int]] = {}  # by owner: how many wait, how many were refused

    async def open(self, deliver: Deliver, name_of: NameOf, settled: Settled) -> None:
        """
        Open the file; what an earlier run has left in it goes out first.

        *deliver* is told, too, whether the conversation was there when the message was posted, and whether the message has waited
        since; it tells whether the conversation is there by now: what a server has in its journal has begun none yet, and where it is
        to begin none, this raises `Postponed`. *settled* is told of each message that went out, and of each that was refused, with the
        reason. *name_of* asks the server for the subject of a token, as long as it takes. Raises `Misconfigured`.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as taken:
            raise Misconfigured(
                f"queue={self._path} is in use by another process; nothing was opened. Give each process a queue of its own."
            ) from taken
        except OSError as fault:
            raise Misconfigured(f"queue={self._path} cannot be used ({fault}); nothing was opened.") from fault
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chatkeep-outbox")
        self._workers, self._ready = {}, asyncio.Queue()
        self._empty, self._changed = asyncio.Event(), asyncio.Event()  # an event belongs to the loop that waits for it
        self._confinement.begin()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)
            self._subjects = dict(await self._do(_known))
            self._asking = self._is_unnamed()
            await self._look_again()
        except BaseException:
            await self.close()
            raise
        self._changed.set()
        work = [self._keep_named(name_of), *[self._send(deliver, settled) for _ in range(SENDERS)]]
        self._tasks = [asyncio.create_task(each, name="chatkeep-outbox") for each in work]

    async def close(self) -> None:
        """Stop sending and close the file; what it holds stays."""
        tasks, self._tasks, self._confinement.loop = [task for task in self._tasks if not task.done()], [], None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._disconnect)
            thread.shutdown()
        self._lock.release()

    @property
    def pending(self) -> Pending:
        """How far it is."""
        waiting, refused = self._counts()
        held = sum(map(sum, self._totals.values())) - waiting - refused
        trouble = self._trouble if waiting else HELD if held and not self._asking else ""
        return Pending(waiting=waiting, refused=refused, held=held, trouble=trouble)

    def use(self, token: str | None) -> None:
        """Send from now on what belongs to the subject of *token*. Any thread may say so."""
        self._token = token
        self._recover()
        self._asking = self._is_unnamed()
        if self._asking:
            self._empty.clear()
        if self._confinement.loop is not None and not self._confinement.loop.is_closed():
            self._confinement.loop.call_soon_threadsafe(self._changed.set)

    async def hand_over(self, before: str | None, after: str) -> None:
        """Give what was posted with one token, or without any in this run, to another token of the same holder."""
        source = self._run if before is None else credential_of(before)
        if (subject := self._subjects.get(source)) is not None:
            await self.name(after, subject)
            return
        target = self._subjects.get(credential_of(after), credential_of(after))
        await self._do(lambda db: _give(db, target, source))
        await self._look_again()

    async def hand_on(self, before: str, after: str) -> None:
        """Give what was posted with a guest's token, by the guest, to the user of another one: the guest was claimed."""
        source = credential_of(before)
        sources = source, self._subjects.get(source, source)
        target = self._subjects.get(credential_of(after), credential_of(after))
        await self._do(lambda db: _give(db, target, *sources))
        await self._look_again()

    async def discard(self) -> None:
        """Delete what waits and what was refused of the subject in whose name is sent now, and which conversations it has."""
        owners = self._owners()

        def act(db: apsw.Connection) -> None:
            with db:
                for table in ("outbox", "taken"):
                    db.execute(f"delete from {table} where owner in (?, ?)", owners)

        await self._do(act)
        await self._look_again()

    async def adopt(self) -> int:
        """Give what nobody known has posted to the owner in whose name is sent now; answers how many messages that are."""
        owner = self._owners()[1]

        def act(db: apsw.Connection) -> int:
            nobodys = "(owner = '' or owner like 'credential:%' or owner like 'run:%')"
            db.execute(f"update outbox set owner = ? where {nobodys} and owner <> ?", (owner, owner))
            return db.changes()

        adopted = await self._do(act)
        await self._look_again()
        return adopted

    async def put(self, conversation: str, id: str, message: bytes) -> None:
        """Make a message durable here. The same once more changes nothing; other content under its id is refused."""
        message_id(key_for("", conversation), id)
        owners = self._owners()

        def act(db: apsw.Connection) -> int:
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
            return int(found is None)

        await self._settled(self._put(conversation, owners[1], act))

    async def drained(self) -> None:
        """Wait until no message waits that may go out with the client's credential."""
        self._confinement.check(f"queue={self._path}")
        await self._empty.wait()

    async def refused(self) -> list[Queued]:
        """Return what the server did not want, oldest first."""
        owners = self._owners()
        sql = f"select {COLUMNS} from outbox where owner in (?, ?) and reason <> '' order by number"
        return await self._do(lambda db: [_queued(row) for row in db.execute(sql, owners)])

    async def retry(self, number: int) -> None:
        """Send a refused message again, also where its conversation was erased: it begins a new one then."""
        await self._settled(self._one("update outbox set reason = '', there = 0", number, waiting=1))

    async def forget(self, conversation: str) -> None:
        """Note that a conversation was erased on purpose: what is posted from now on begins a new one."""
        owners = self._owners()
        await self._do(lambda db: _end(db, conversation, owners))

    async def drop(self, number: int) -> None:
        """Forget a refused message."""
        await self._settled(self._one("delete from outbox", number, waiting=0))

    async def _put(self, conversation: str, owner: str, act: Callable[[apsw.Connection], int]) -> None:
        self._count(owner, await self._do(act), 0)
        self._wake(conversation)
        if self._is_unnamed():
            self._changed.set()

    async def _one(self, sql: str, number: int, *, waiting: int) -> None:
        which = "where number = ? and owner in (?, ?) and reason <> '' returning conversation, owner"
        values = (number, *self._owners())
        found = await self._do(lambda db: db.execute(f"{sql} {which}", values).fetchone())
        if found is None:
            raise UsageError(f"queue={self._path}: no refused message has the number {number}; nothing was done.")
        self._count(str(found[1]), waiting, -1)
        if waiting:
            self._wake(str(found[0]))

    async def _settled(self, act: Coroutine[Any, Any, None]) -> None:
        # Who is cancelled meanwhile leaves the file changed all the same; it must be counted and sent then.
        await asyncio.shield(asyncio.create_task(act))

    async def _keep_named(self, name_of: NameOf) -> None:
        """Learn of each credential whose it is, once there is something in the queue."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            token = self._token
            try:
                if token is not None and self._first:
                    self._first = False
                    await self.hand_over(None, token)
                self._asking = self._is_unnamed() and any(map(any, self._totals.values()))
                await self._look_again()
                if token is not None and self._asking:
                    await self.name(token, await name_of(token, self._tell))
            except TokenChanged:
                continue
            except ChatkeepError as fault:  # an older server, for one: what is posted belongs to the credential alone
                log.info("queue=%s: whose the credential is was not told: %s", self._path, fault)
            except Exception as fault:
                log.exception("queue=%s: %s", self._path, fault)  # noqa: TRY401
                await asyncio.sleep(BUSY_S)
            self._asking = False
            self._count(self._run, 0, 0)

    async def name(self, token: str, subject: str) -> None:
        """Note whose a token is; what was posted with it is that subject's."""
        credential = credential_of(token)

        def act(db: apsw.Connection) -> None:
            with db:
                db.execute("insert or replace into subjects values (?, ?)", (credential, subject))
                db.execute("delete from subjects where rowid <= (select max(rowid) from subjects) - ?", (KNOWN_MOST,))
                _give(db, subject, credential)

        await self._do(act)
        self._subjects[credential] = subject
        self._asking = False
        await self._look_again()

    async def _send(self, deliver: Deliver, settled: Settled) -> None:
        while True:
            conversation = await self._ready.get()
            waiting = self._workers[conversation]
            waiting.came = False
            token, owners = self._token, self._owners()  # the message goes out with this token, or not at all
            try:
                if (first := await self._do(_first_of(conversation, owners))) is not None:
                    try:
                        await self._settle(*first, token, owners, deliver, settled)
                    except Postponed:
                        # Its conversation waits, and no sender with it.
                        number = first[0].number
                        waiting.tries = waiting.tries + 1 if waiting.postponed == number else 1
                        waiting.postponed = number
                        asyncio.get_running_loop().call_later(
                            pause(waiting.tries), self._ready.put_nowait, conversation
                        )
                        continue
                elif not waiting.came:
                    del self._workers[conversation]
                    continue
            except Exception as fault:  # a full disk, or a bug: the message stays, and its conversation waits
                log.exception("queue=%s: %s", self._path, fault)  # noqa: TRY401
                self._tell(f"{type(fault).__name__}: {fault}")
                await asyncio.sleep(BUSY_S)
            self._ready.put_nowait(conversation)

    async def _settle(
        self,
        queued: Queued,
        there: bool,
        token: str | None,
        owners: tuple[str, str],
        deliver: Deliver,
        settled: Settled,
    ) -> None:
        values: list[Any] = [queued.number]
        logged = False
        sql, refused, reason = "delete from outbox where number = ?", 0, ""
        try:
            waited = (
                queued.posted_at <= self._waited_until or queued.number == self._workers[queued.conversation].postponed
            )
            logged = await deliver(queued, there, waited, token, self._tell)
        except TokenChanged:
            return
        except ChatkeepError as refusal:
            if isinstance(refusal, PreconditionFailed):  # it was erased meanwhile, for what was posted behind it too
                await self._do(lambda db: _end(db, queued.conversation, owners))
            reason = str(refusal)
            values = [reason, queued.number]
            sql, refused = "update outbox set reason = ? where number = ?", 1

        # Under the owner that it has now: whose the credential is may have become known meanwhile.
        def act(db: apsw.Connection) -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = []
            with db:
                if logged:
                    db.execute("insert or ignore into taken values (?, ?)", (owners[1], queued.conversation))
                found += db.execute(f"{sql} returning owner", values)
            return found

        for (owner,) in await self._do(act):
            self._count(str(owner), -1, refused)
        self._recover()
        settled(queued, reason)

    def _wake(self, conversation: str) -> None:
        if conversation not in self._workers:
            self._ready.put_nowait(conversation)
            self._workers[conversation] = _Waiting()
        self._workers[conversation].came = True

    def _is_unnamed(self) -> bool:
        return self._token is not None and credential_of(self._token) not in self._subjects

    def _owners(self) -> tuple[str, str]:
        """Tell whose messages go out now: those of the credential itself, and of the subject that it stands for."""
        credential = self._run if self._token is None else credential_of(self._token)
        return credential, self._subjects.get(credential, credential)

    def _counts(self) -> tuple[int, int]:
        mine = [self._totals.get(owner, [0, 0]) for owner in {*self._owners()}]
        return sum(waiting for waiting, _ in mine), sum(refused for _, refused in mine)

    def _count(self, owner: str, waiting: int, refused: int) -> None:
        totals = self._totals.setdefault(owner, [0, 0])
        totals[0] += waiting
        totals[1] += refused
        if self._counts()[0] or self._asking:
            self._empty.clear()
        else:
            self._empty.set()

    async def _look_again(self) -> None:
        """Count anew, and wake every conversation: others may go out now."""
        found = await self._do(_counted)
        self._totals = {}
        for owner, conversation, waiting, refused in found:
            totals = self._totals.setdefault(owner, [0, 0])
            totals[0] += waiting
            totals[1] += refused
            if waiting:
                self._wake(conversation)
        self._count(self._run, 0, 0)  # only now is it known whether nothing waits

    def _tell(self, trouble: str) -> None:
        self._trouble = trouble

    def _recover(self) -> None:
        if self._trouble:
            self._trouble, self._waited_until = "", time.time()

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
        self._confinement.check(f"queue={self._path}")
        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    def _connect(self) -> None:
        try:
            # SQLite itself would make a file that all may read. What is wrong with the path is said below.
            with suppress(OSError):
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = apsw.Connection(self._path)
            self._db.execute(PRAGMAS).fetchall()  # it stops at each row that a pragma answers
            columns = [row[1] for row in self._db.execute("pragma table_info(outbox)")]
            self._db.execute(OLDER if columns and "owner" not in columns else SCHEMA).fetchall()
            if "owner" in columns and "there" not in columns:
                self._db.execute(THERE_ADDED)
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


def _counted(db: apsw.Connection) -> list[tuple[str, str, int, int]]:
    # In the order in which each conversation's oldest message came.
    sql = (
        "select owner, conversation, sum(reason = ''), sum(reason <> '') from outbox "
        "group by owner, conversation order by min(number)"
    )
    return cast(list[tuple[str, str, int, int]], db.execute(sql).fetchall())


def _known(db: apsw.Connection) -> list[tuple[str, str]]:
    return cast(list[tuple[str, str]], db.execute("select credential, subject from subjects").fetchall())


def _give(db: apsw.Connection, target: str, *sources: str) -> None:
    """Give what one owner has, or several, to another."""
    with db:
        for source in sources:
            db.execute("update outbox set owner = ? where owner = ?", (target, source))
            db.execute("update or replace taken set owner = ? where owner = ?", (target, source))


def _end(db: apsw.Connection, conversation: str, owners: tuple[str, str]) -> None:
    """Note that what was there is gone: what waits was meant for it, what comes is not."""
    where = "where conversation = ? and owner in (?, ?)"
    with db:
        db.execute(f"update outbox set there = 1 {where} and reason = ''", (conversation, *owners))
        db.execute(f"delete from taken {where}", (conversation, *owners))


def _first_of(conversation: str, owners: tuple[str, str]) -> Callable[[apsw.Connection], tuple[Queued, bool] | None]:
    """Return the first message that waits, and whether its conversation was there."""
    place = "from outbox where conversation = ? and owner in (?, ?) and reason = '' order by number limit 1"
    sql = f"select {COLUMNS}, there or {TAKEN} {place}"

    def act(db: apsw.Connection) -> tuple[Queued, bool] | None:
        row = db.execute(sql, (conversation, *owners, conversation, *owners)).fetchone()
        return None if row is None else (_queued(row[:-1]), bool(row[-1]))

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
