"""sqlite:///path  Conversations in one file, durable at each answer: WAL, synchronous=FULL, several processes on one
host.

One thread writes: whatever queued up while the last commit ran goes into the next BEGIN IMMEDIATE .. COMMIT, so that
under load many acts share one fsync. Where acts come one at a time, none waits for another. Reads have threads and connections of their
own. The statements are in sql/queries.sql, the schema in the numbered files beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

import apsw
from msgspec import structs

from ...errors import (
    ChatkeepError,
    Conflict,
    Corrupt,
    Duplicate,
    Misconfigured,
    Replaced,
    Unavailable,
    Uncertain,
    UsageError,
)
from ..base import (
    TOMBSTONE_KEPT_S,
    Ability,
    Appended,
    Entry,
    Finding,
    Index,
    Key,
    Lease,
    Row,
    create_row,
    mark_of,
    settle,
)
from ..openable import Openable
from ..packing import pack, unpack
from ..statements import named, numbered
from .file import ASIDE, BUSY_MS, Moved, OpenFile, Slot, beside, hold, replacing, sync_folder

T = TypeVar("T")
Act = Callable[[apsw.Connection], Any]
Job = tuple[Act, "asyncio.Future[Any]"]

APPLICATION_ID = 0x63686B70  # "chkp": says whose file this is
BATCH = 256
PAUSE_S, GATHER_S = 0.001, 0.004
PAGE_BYTES = 2048  # a turn touches four pages and fills none of them: half the size, half the bytes to sync
READERS = 2
LOOKERS = 4  # statements of `query` and backups at a time
LOOKS = 10_000  # steps of a statement, about 0.2 ms, until it notices that it is to stop
# Why a backup cannot be written that its caller can mend.
NOT_THERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
PAGES = 1000  # of a backup, likewise
SPACE_LEAST = 100_000_000
READING = frozenset({apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE})
# Pragmas that describe the file whatever is given to them, and those that only do so while nothing is.
DESCRIPTIONS = frozenset(
    {
        "integrity_check",
        "quick_check",
        "foreign_key_check",
        "table_info",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "index_xinfo",
        "foreign_key_list",
        "database_list",
        "collation_list",
        "function_list",
        "module_list",
        "pragma_list",
        "compile_options",
    }
)
SETTINGS = frozenset(
    {
        "application_id",
        "user_version",
        "schema_version",
        "data_version",
        "encoding",
        "page_size",
        "page_count",
        "freelist_count",
        "max_page_count",
        "auto_vacuum",
        "journal_mode",
        "synchronous",
        "cache_size",
    }
)
# What is no fault of a statement.
MACHINES = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.IOError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.NoMemError,
    apsw.FullError,
    apsw.ProtocolError,
)
# Before it, several connections on one WAL file can corrupt it (sqlite.org/wal.html, WAL-reset bug).
OLDEST = (3, 51, 3)


class SqliteDriver(Openable):
    """One SQLite file. See `Driver` for what each verb promises."""

    abilities = frozenset({Ability.LOG, Ability.SCAN, Ability.DURABLE, Ability.SHARED})

    def __init__(self, url: str) -> None:
        path = url.partition("://")[2]
        if not path.startswith("/") or len(path) == 1 or path == "/:memory:":
            raise Misconfigured(
                f"{url!r} names no file: write sqlite:///chat.db for a file here, sqlite:////var/chat.db for an absolute path, "
                "memory:// for no file at all."
            )
        self.path = path[1:]
        self._absolute = os.path.abspath(self.path)  # a later chdir leaves the store where it is
        super().__init__(f"sqlite:///{self.path}")
        self._file: OpenFile | None = None
        self._writer: Worker | None = None
        self._readers: Worker | None = None
        self._lookers: dict[Slot, asyncio.Future[Any]] = {}
        self._places = asyncio.Semaphore(LOOKERS)

    async def _start(self) -> str:
        if not _fit():
            raise Misconfigured(f"SQLite {apsw.sqlite_lib_version()} can corrupt a shared WAL file; upgrade apsw.")
        self._file = file = await asyncio.to_thread(self._take)
        self._places = asyncio.Semaphore(LOOKERS)
        joined = partial(self._joined, file)
        self._writer = Worker(file, joined, partial(self._committed, file), threads=1, gathers=True)
        self._readers = Worker(file, joined, partial(self._answered, file), threads=READERS)
        return await self._writer.call(_epoch)

    async def examine(self) -> list[Finding]:
        return await asyncio.to_thread(self._examined)

    async def announce(self, marks: Collection[str]) -> None:
        """Nobody can be told: other processes find out by asking."""

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        """There is nothing to hear."""

    async def _stop(self) -> None:
        workers, self._writer, self._readers = (self._readers, self._writer), None, None
        file, self._file = self._file, None
        for slot in self._lookers:
            slot.broken_off = "it is being closed"
        if self._lookers:
            await asyncio.wait(list(self._lookers.values()))
        for worker in workers:
            if worker is not None:
                await worker.close()
        if file is not None:
            await asyncio.to_thread(give_back, file, [slot for worker in workers if worker for slot in worker.slots])

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        def act(db: apsw.Connection) -> tuple[Row, list[Entry]] | None:
            found = self._find(db, key)
            return None if found is None else (found[1], _tail(db, found[0], found[1].head, tail))

        return await self._reading().call(act)

    async def append(
        self,
        key: Key,
        entries: Sequence[Entry],
        *,
        revision: str,
        at: float,
        due_at: float | None = None,
        lease: Lease | None = None,
        tail: int = 0,
        owner: str = "",
    ) -> Appended:
        row = create_row(key, revision=revision, at=at, due_at=due_at, lease=lease, owner=owner)

        def act(db: apsw.Connection) -> Appended:
            self._refuse_replaced(db)
            return self._append(db, row, entries, tail)

        return await self._writing().call(act)

    async def write(
        self, row: Row, *, replaces: str | None, entries: Sequence[Entry] = (), since: int = 0, drop: int = 0
    ) -> Row:
        def act(db: apsw.Connection) -> Row:
            self._refuse_replaced(db)
            return self._write(db, row, replaces, entries, since, drop)

        return await self._writing().call(act)

    async def entries(
        self, key: Key, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Entry]:
        above = {
            "tenant": key.tenant,
            "id": key.id,
            "limit": limit,
            "before": min(before, 1 << 62) if before is not None else 1 << 62,
        }

        def act(db: apsw.Connection) -> list[Entry]:
            self._find(db, key)
            if after is None and before is not None:
                return _entries(db.execute(sql("before"), above))[::-1]
            return _entries(db.execute(sql("between"), {**above, "after": min(after or 0, 1 << 62)}))

        return await self._reading().call(act)

    async def scan(
        self,
        index: Index,
        *,
        tenant: str | None = None,
        owner: str = "",
        until: float | None = None,
        after: Row | None = None,
        limit: int,
    ) -> list[Row]:
        name = f"scan_{index}_all" if tenant is None and index != "due" else f"scan_{index}"
        place = {
            "within": tenant,
            "owner": owner,
            "until": until if until is not None else 1e300,
            "limit": limit,
            "tenant": after.key.tenant if after else "",
            "id": after.key.id if after else "",
            "wake": -1e300 if after is None else after.wake,
            "recent": after.recent if after else 1 << 62,
        }

        def act(db: apsw.Connection) -> list[Row]:
            self._refuse_replaced(db)
            return [_row(Key(*found[:2]), found[2:]) for found in db.execute(sql(name), place)]

        return await self._reading().call(act)

    async def erase(self, key: Key, *, at: float) -> None:
        def act(db: apsw.Connection) -> None:
            self._refuse_replaced(db)
            found = self._find(db, key)
            mark = max(at, found[1].updated_at) if found else at
            db.execute(sql("bury"), {"mark": _mark(key), "at": mark})
            db.execute(sql("forget_marks"), {"before": at - TOMBSTONE_KEPT_S})
            if found:
                db.execute(sql("erase_entries"), {"conversation": found[0]})
                db.execute(sql("erase"), {"conversation": found[0]})

        await self._writing().call(act)

    async def backup(self, path: str, *, replace: bool = False) -> None:
        await self._looked(lambda file, slot: self._backed_up(file, slot, path, replace))

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await self._looked(lambda file, slot: self._queried(file, slot, sql, parameters))

    async def _looked(self, act: Callable[[OpenFile, Slot], T]) -> T:
        """Runs what may take long in a thread of its own. It ends when its caller is cancelled and when the store is closed, and a
        process does not wait for it."""
        async with self._places:
            file, slot, loop = self._opened(), Slot(), asyncio.get_running_loop()
            ended: asyncio.Future[Any] = loop.create_future()  # with the answer, or the error as a value

            def look() -> None:
                found: Any
                try:
                    found = act(file, slot)
                except BaseException as fault:
                    found = fault
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(ended.set_result, found)

            Thread(target=look, name="chatkeep-sqlite", daemon=True).start()
            self._lookers[slot] = ended
            ended.add_done_callback(lambda _: self._lookers.pop(slot))
            try:
                await asyncio.wait([ended])
            finally:
                slot.broken_off = "nobody waits for the answer any more"
        found = ended.result()
        if isinstance(found, BaseException):
            raise found
        return cast("T", found)

    def _append(self, db: apsw.Connection, row: Row, entries: Sequence[Entry], tail: int) -> Appended:
        key = row.key
        ids = [entry.id for entry in entries]
        values = _values(row, b"") | {"added": len(entries), "mark": _mark(key)}
        found = db.execute(sql("append", ids=len(ids)), values | _numbered(ids)).fetchone()
        if found is not None:
            number, stored = found[0], _row(key, found[1:])
            _add(db, number, stored.head, entries)
            return Appended(stored, _tail(db, number, stored.head, tail), {})
        there = self._find(db, key)
        erased = db.execute(sql("mark"), values).fetchone()
        if erased is not None:
            raise Conflict(
                f"{key} was erased later than this act", row=there[1] if there else None, erased_at=erased[0]
            )
        known = _known(db, there[0], ids) if there else {}
        if there and (there[1].revision == row.revision or (ids and len(known) == len(ids))):
            return Appended(there[1], _tail(db, there[0], there[1].head, tail), known)
        if there:
            news = [entry for entry in entries if entry.id not in known]
            rest = self._append(db, row, news, tail)
            return Appended(rest.row, rest.tail, known)
        number, head = db.execute(sql("create"), values | {"head": 0}).get
        _add(db, number, head, entries)
        return Appended(structs.replace(row, head=head), _tail(db, number, head, tail), {})

    def _write(
        self, db: apsw.Connection, row: Row, replaces: str | None, entries: Sequence[Entry], since: int, drop: int
    ) -> Row:
        key = row.key
        ids = [entry.id for entry in entries if entry.id]
        if replaces is None:
            values = _values(row, pack(row.body)) | {"added": len(entries), "head": row.head, "mark": _mark(key)}
            found = db.execute(sql("create"), values).fetchone()
        else:
            places = (
                row.revision,
                len(entries),
                pack(row.body),
                row.updated_at,
                key.tenant,
                key.id,
                replaces,
                row.incarnation,
                row.recent,
                row.due_at,
                row.lease,
                row.leased_until,
                row.owner,
                *ids,
            )
            found = db.execute(sql("rewrite", ids=len(ids)), places).fetchone()
            found = found or db.execute(sql("write", ids=len(ids)), places).fetchone()
        if found is not None:
            number, head = found
            _add(db, number, head, entries)
            if drop:
                db.execute(sql("drop"), {"conversation": number, "drop": drop})
            return structs.replace(row, head=head)
        there = self._find(db, key)
        if there is None:
            erased = db.execute(sql("mark"), {"mark": _mark(key), "at": -1e300}).fetchone()
            raise Conflict(f"{key}: nothing is there", erased_at=erased[0] if erased else None)
        number, stored = there
        if stored.revision == row.revision:
            return stored
        news = _entries(db.execute(sql("after"), {"conversation": number, "after": since, "limit": 200}))
        if known := _known(db, number, ids):
            raise Duplicate(f"{key}: {', '.join(known)} is in the log", row=stored, numbers=known, entries=news)
        raise Conflict(f"{key}: revision {replaces} is not the stored one", row=stored, entries=news)

    def _find(self, db: apsw.Connection, key: Key) -> tuple[int, Row] | None:
        found = db.execute(sql("find"), {"tenant": key.tenant, "id": key.id}).fetchone()
        if found is None:
            self._refuse_replaced(db)
            return None
        return found[0], _row(key, found[1:])

    def _refuse_replaced(self, db: apsw.Connection) -> None:
        """Raises `Replaced` when the file does not hold what it held when it was opened."""
        found = db.execute("select value from meta where name = 'epoch'").fetchone()
        if found is None or found[0] != self.epoch:
            raise self._replaced("was emptied")

    def _replaced(self, what: str) -> Replaced:
        return Replaced(
            f"sqlite:///{self.path} {what} since it was opened; nothing was done. Put the right file there if it is not, "
            "and open it anew: that begins with what is there."
        )

    def _committed(self, file: OpenFile, db: apsw.Connection, batch: list[Job]) -> list[Any]:
        with file.writer():
            # A commit may checkpoint: what is in a -wal that others have left for a new one must not get over their pages.
            self._refuse_moved(file)
            answers = commit(db, batch)
            # What went into a file that nobody else can find is lost with this process: nobody may hear of it.
            if file.moved():
                raise Moved(written=True)
        return answers

    def _answered(self, file: OpenFile, db: apsw.Connection, batch: list[Job]) -> list[Any]:
        self._refuse_moved(file)
        return answer(db, batch)

    def _refuse_moved(self, file: OpenFile) -> None:
        if file.moved():
            if file.made_way and file.replaced():
                raise self._replaced("was removed, or is another file")
            raise Moved(written=False)

    def _examined(self) -> list[Finding]:
        path = self._absolute
        folder = os.path.dirname(path)
        if not os.access(folder, os.W_OK):
            return [Finding("fail", "permissions", f"the folder {folder} is not there, or may not be written")]
        free = shutil.disk_usage(folder).free
        findings = [
            Finding("ok" if _fit() else "fail", "version", f"SQLite {apsw.sqlite_lib_version()} through apsw"),
            Finding("ok" if free > SPACE_LEAST else "warn", "space", f"{free // 1_000_000:,} MB are free in {folder}"),
        ]
        if not os.path.exists(path):
            return [*findings, Finding("ok", "file", f"{path} will be made when it is first opened")]
        if not os.path.isfile(path):
            return [*findings, Finding("fail", "file", f"{path} is no ordinary file")]
        if not os.access(path, os.W_OK):
            return [*findings, Finding("fail", "permissions", f"{path} may not be written")]
        try:
            with contextlib.closing(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)) as db:
                db.set_busy_timeout(BUSY_MS)
                schema, mode = _schema(db, path), db.pragma("journal_mode")
                began = time.perf_counter()
                for _ in range(20):
                    db.execute("select count(*) from sqlite_schema").get  # noqa: B018
                took = (time.perf_counter() - began) / 20
                sound = db.execute("pragma quick_check(1)").get
        except (apsw.Error, ChatkeepError) as fault:
            return [*findings, Finding("fail", "file", f"{path} cannot be used: {fault}")]
        return [
            *findings,
            Finding(
                "ok" if mode == "wal" else "warn", "durability", f"journal_mode {mode}, synchronous full when open"
            ),
            Finding("ok", "schema", f"{schema} of {len(numbered('sqlite'))}, upgraded when it is opened"),
            Finding("ok" if sound == "ok" else "fail", "integrity", f"quick_check says {sound}"),
            Finding("ok", "round trip", f"{took * 1000:.3f} ms for a small read"),
        ]

    def _backed_up(self, file: OpenFile, slot: Slot, path: str, replace: bool) -> None:
        path = _target(file, path, replace)
        folder, name = os.path.split(path)
        made = os.path.join(folder, f"{name[:32]}.{secrets.token_hex(4)}.part")
        try:
            with self._looking(file, slot) as db:
                # Nobody may read in the copy what they may not read in the store.
                os.close(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.stat(file.real).st_mode & 0o666))
                with contextlib.closing(apsw.Connection(made)) as copy:
                    db.execute("begin; select count(*) from sqlite_schema").get  # noqa: B018  all its pages are of this instant
                    with copy.backup("main", db, "main") as backup:
                        while not backup.done and not slot.broken_off:
                            backup.step(PAGES)
                    if slot.broken_off:
                        raise apsw.InterruptError("interrupted")
                    copy.pragma("journal_mode", "delete")  # one file, whole as it is
            if replace:
                with replacing(path):
                    os.replace(made, path)
            else:
                _put(made, path)
            sync_folder(path)
        except ChatkeepError:
            raise
        except FileExistsError:
            raise UsageError(f"{path} is there already; nothing was written. Name another file.") from None
        except (OSError, apsw.Error) as fault:
            said = fault.strerror if isinstance(fault, OSError) else fault
            refusal = UsageError if isinstance(fault, OSError) and fault.errno in NOT_THERE else Unavailable
            raise refusal(
                f"sqlite:///{self.path} was not copied to {path}: {said}. Nothing is there; try again when that is mended."
            ) from fault
        finally:
            with contextlib.suppress(OSError):
                os.unlink(made)

    def _queried(self, file: OpenFile, slot: Slot, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._looking(file, slot) as db:
            db.authorizer = _reads
            db.exec_trace = _one_statement()
            try:
                return db.execute(sql, parameters).fetchall()
            except apsw.InterruptError:
                raise
            except MACHINES as fault:
                raise _translated(fault, "Nothing was read") from fault
            except (apsw.Error, TypeError, ValueError, OverflowError) as fault:
                raise UsageError(
                    f"The statement was refused: {fault}. query() runs one statement that reads; nothing was changed."
                ) from fault

    @contextlib.contextmanager
    def _looking(self, file: OpenFile, slot: Slot) -> Iterator[apsw.Connection]:
        """The slot's connection, that can only read, on the files that are in place, until it is broken off."""
        file.add(slot)
        try:
            file.renew()
            with slot.lock:
                self._refuse_moved(file)
                slot.db = apsw.Connection(file.real, flags=apsw.SQLITE_OPEN_READONLY)
                slot.db.set_busy_timeout(BUSY_MS)
                slot.db.create_scalar_function("chatkeep_json", _json, 1, deterministic=True)
                # Connection.interrupt does nothing between two steps; this is asked at the next one.
                slot.db.set_progress_handler(lambda: bool(slot.broken_off), LOOKS)
                yield slot.db
        except Moved as moved:
            raise Unavailable(f"sqlite:///{self.path}: {moved}. Nothing was done; try again.") from moved
        except apsw.InterruptError as fault:
            raise Unavailable(
                f"sqlite:///{self.path} was not read to the end: {slot.broken_off}. Nothing was done; try again."
            ) from fault
        finally:
            file.drop(slot)

    def _opened(self) -> OpenFile:
        self.refuse_closed("done")
        assert self._file is not None
        return self._file

    def _reading(self) -> Worker:
        self.refuse_closed("read")
        assert self._readers is not None
        return self._readers

    def _writing(self) -> Worker:
        self.refuse_closed("written")
        assert self._writer is not None
        return self._writer

    def _take(self) -> OpenFile:
        folder = os.path.dirname(self._absolute)
        if not os.path.isdir(folder):
            # A typing error, or a disk that is not mounted yet.
            raise Unavailable(f"sqlite:///{self.path} was not opened: there is no folder {folder}. Make or mount it.")
        try:
            return hold(self._absolute)
        except (OSError, ValueError) as fault:
            raise Misconfigured(
                f"sqlite:///{self.path} was not opened: {fault}. Name a file that chatkeep may write."
            ) from fault

    def _joined(self, file: OpenFile) -> apsw.Connection:
        with file.joining() as first:
            if not first:
                self._refuse_moved(file)
            db = self._connect(file)
            try:
                file.secure() if first else self._refuse_moved(file)
            except BaseException:
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                db.close(force=True)
                raise
        return db

    def _connect(self, file: OpenFile) -> apsw.Connection:
        # Once it was open, what goes wrong is the machine's doing and may pass.
        refusal: type[Misconfigured | Unavailable] = Unavailable if self.epoch else Misconfigured
        db: apsw.Connection | None = None
        try:
            db = apsw.Connection(file.real)
            db.set_busy_timeout(BUSY_MS)
            _migrate(db, file.path)
            _use_wal(db)
            db.execute("pragma synchronous = full; pragma cache_size = -16000; pragma journal_size_limit = 67108864")
        except BaseException as fault:
            if db is not None:
                db.close(force=True)
            if isinstance(fault, ChatkeepError):
                raise
            if isinstance(fault, apsw.CantOpenError | apsw.NotADBError | apsw.ReadOnlyError):
                raise refusal(
                    f"sqlite:///{self.path} was not opened: {fault}. Name a file that chatkeep may write."
                ) from fault
            raise _translated(fault, f"sqlite:///{self.path} was not opened") from fault
        return db


class Worker:
    """Threads that each own a connection and answer in batches whatever queued up meanwhile.

    With *gathers*, and when one of the last two batches had several acts in it, those that come wait until they are as many again, or
    none has come for a millisecond, or four have passed: callers who are answered together come back one after the other,
    and the first of them would else have a transaction of its own.
    """

    def __init__(
        self,
        file: OpenFile,
        connect: Callable[[], apsw.Connection],
        run: Callable[[apsw.Connection, list[Job]], list[Any]],
        *,
        threads: int,
        gathers: bool = False,
    ) -> None:
        self._file = file
        self._connect = connect
        self._run = run
        self.slots = [file.add(Slot()) for _ in range(threads)]
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._gathers = gathers
        self._gathered: list[Job] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._crowd = self._last = 1  # the larger of the last two batches, and the last
        self._threads = [
            Thread(target=self._work, args=(slot,), name="chatkeep-sqlite", daemon=True) for slot in self.slots
        ]
        for thread in self._threads:
            thread.start()

    def call(self, act: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Queues *act*. Cancelling the future does not take it back."""
        answered: asyncio.Future[T] = self._loop.create_future()
        job = (act, answered)
        if self._crowd == 1 and not self._gathered:
            self._jobs.put(job)
            return answered
        self._gathered.append(job)
        if len(self._gathered) == 1:
            self._look_again(self._loop.time() + GATHER_S)
        elif len(self._gathered) >= self._crowd and self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
            self._loop.call_soon(self._hand_over)  # with what else comes in this tick
        return answered

    def _look_again(self, until: float) -> None:
        self._alarm = self._loop.call_later(PAUSE_S, self._look, len(self._gathered), until)

    def _look(self, seen: int, until: float) -> None:
        if len(self._gathered) > seen and self._loop.time() < until:
            self._look_again(until)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        jobs, self._gathered = self._gathered, []
        for job in jobs:
            self._jobs.put(job)

    async def close(self) -> None:
        """Answers what is queued; the connections are left in their slots."""
        self._hand_over()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self, slot: Slot) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            with contextlib.suppress(Empty):
                while len(batch) < BATCH:
                    if (job := self._jobs.get_nowait()) is None:
                        self._jobs.put(None)
                        break
                    batch.append(job)
            try:
                answers = self._answers(slot, batch)
            except BaseException as fault:
                answers = [_translated(fault, "Nothing was done")] * len(batch)
            self._loop.call_soon_threadsafe(self._deliver, batch, answers)

    def _answers(self, slot: Slot, batch: list[Job], *, again: bool = True) -> list[Any]:
        try:
            return self._tried(slot, batch)
        except Moved as moved:
            said = f"sqlite:///{self._file.path}: {moved}"
            try:
                self._file.renew()
            except (apsw.Error, ChatkeepError) as fault:
                said, again = f"{said}; {fault}", False
            if moved.written:
                return [
                    Uncertain(f"{said}. What was just written is perhaps there: send it again under its id.")
                ] * len(batch)
            if not again:
                raise Unavailable(f"{said}. Nothing was done; try again.") from moved
        return self._answers(slot, batch, again=False)

    def _tried(self, slot: Slot, batch: list[Job]) -> list[Any]:
        with slot.lock:
            try:
                slot.db = slot.db or self._connect()
                answers = self._run(slot.db, batch)
            except BaseException:
                if slot.db is not None:
                    _rollback(slot.db)
                raise
            if any(isinstance(found, Uncertain) for found in answers):
                # After a failed fsync the page cache may disagree with the disk: only a new connection reads what is there.
                slot.close(tidies=True)
            return answers

    def _deliver(self, batch: list[Job], answers: list[Any]) -> None:
        if self._gathers:
            self._crowd, self._last = max(len(batch), self._last), len(batch)
        for (_, answered), found in zip(batch, answers, strict=True):
            settle(answered, found)


def give_back(file: OpenFile, slots: list[Slot]) -> None:
    """Closes the connections of one store, and gives its file back."""
    try:
        file.part()
    finally:
        for slot in slots:
            file.drop(slot)
        file.leave()


def answer(db: apsw.Connection, batch: list[Job]) -> list[Any]:
    """Runs reads, all of one instant; one that fails fails alone."""
    answers: list[Any] = []
    db.execute("begin")
    for act, _ in batch:
        try:
            answers.append(act(db))
        except Exception as fault:
            answers.append(_translated(fault, "Nothing was read"))
    db.execute("commit")
    return answers


def commit(db: apsw.Connection, batch: list[Job]) -> list[Any]:
    """Runs acts in one transaction; each is checked and answered, or refused, on its own."""
    try:
        db.execute("begin immediate")
        answers = [_attempt(act, db) for act, _ in batch]
    except BaseException as fault:
        _rollback(db)
        if len(batch) == 1 or isinstance(fault, apsw.BusyError):
            return [_translated(fault, "Nothing was written")] * len(batch)
        # One act failed half-way: alone, it fails alone.
        return [commit(db, [job])[0] for job in batch]
    try:
        db.execute("commit")
    except apsw.Error as fault:
        # A full disk or a busy file rolls back for certain; an I/O error leaves the outcome open.
        sure = isinstance(fault, apsw.FullError | apsw.BusyError)
        _rollback(db)
        error = (
            _translated(fault, "Nothing was written")
            if sure
            else Uncertain(f"SQLite may or may not have written: {fault}")
        )
        error.__cause__ = fault
        return [error] * len(batch)
    return answers


def _attempt(act: Act, db: apsw.Connection) -> Any:
    try:
        return act(db)
    except ChatkeepError as refused:
        return refused


def _rollback(db: apsw.Connection) -> None:
    if db.in_transaction:
        with contextlib.suppress(apsw.Error):
            db.execute("rollback")


def _translated(fault: BaseException, now: str) -> BaseException:
    if isinstance(fault, apsw.CorruptError | apsw.NotADBError):
        return Corrupt(f"{now}: the SQLite file is damaged ({fault}). Restore it from a backup.")
    if isinstance(fault, apsw.Error):
        return Unavailable(f"{now}: SQLite says {fault}. Try again when that is mended.")
    return fault


def _values(row: Row, body: bytes) -> dict[str, Any]:
    return {
        "tenant": row.key.tenant,
        "id": row.key.id,
        "revision": row.revision,
        "born": row.incarnation,
        "body": body,
        "owner": row.owner,
        "at": row.updated_at,
        "recent": row.recent,
        "due_at": row.due_at,
        "claim": row.lease,
        "claimed_until": row.leased_until,
    }


def _numbered(ids: Sequence[str]) -> dict[str, str]:
    return {f"id{place}": entry_id for place, entry_id in enumerate(ids)}


def _row(key: Key, found: tuple[Any, ...]) -> Row:
    revision, incarnation, head, body, owner, updated_at, due_at, lease, leased_until = found
    return Row(
        key=key,
        revision=revision,
        incarnation=incarnation,
        head=head,
        body=unpack(body),
        owner=owner,
        updated_at=updated_at,
        due_at=due_at,
        lease=lease,
        leased_until=leased_until,
    )


def _add(db: apsw.Connection, conversation: int, head: int, entries: Sequence[Entry]) -> None:
    if not entries:
        return
    values: list[Any] = []
    for number, entry in enumerate(entries, head - len(entries) + 1):
        values += (conversation, number, entry.id, entry.role, pack(entry.body))
    db.execute(sql("add", rows=len(entries)), values)


def _known(db: apsw.Connection, conversation: int, ids: Sequence[str]) -> dict[str, int]:
    found: list[Any] = db.execute(
        sql("known", ids=len(ids)), {"conversation": conversation, **_numbered(ids)}
    ).fetchall()
    return dict(found)


def _tail(db: apsw.Connection, conversation: int, head: int, tail: int) -> list[Entry]:
    if not tail:
        return []
    return _entries(db.execute(sql("after"), {"conversation": conversation, "after": head - tail, "limit": tail}))


def _entries(found: apsw.Cursor) -> list[Entry]:
    return [Entry(number, entry_id, role, unpack(body)) for number, entry_id, role, body in found]


def _reads(action: int, what: str | None, value: str | None, database: str | None, within: str | None) -> int:
    """Whether SQLite may do one thing that a statement asks for: to read, and nothing else."""
    if action == apsw.SQLITE_PRAGMA:
        name = (what or "").lower()
        allowed = name in DESCRIPTIONS or (name in SETTINGS and value is None)
    else:
        allowed = action in READING
    return apsw.SQLITE_OK if allowed else apsw.SQLITE_DENY


def _one_statement() -> Callable[[apsw.Cursor, str, Any], bool]:
    """Refuses the second statement of a text, before it runs."""
    begun = False

    def begin(cursor: apsw.Cursor, statement: str, bindings: Any) -> bool:
        nonlocal begun
        if begun and cursor.has_vdbe:  # a comment has none
            raise ValueError("it is more than one statement")
        begun = True
        return True

    return begin


def _json(*bodies: Any) -> str | None:
    [body] = bodies
    return unpack(body).decode(errors="replace") if isinstance(body, bytes) else None


def _target(file: OpenFile, path: str, replace: bool) -> str:
    """The absolute path of a backup. Raises `UsageError` when no copy can be put there."""
    try:
        path = os.path.abspath(os.fsdecode(path))
        there = os.lstat(path)
    except FileNotFoundError:
        there = None
    except (OSError, TypeError, ValueError) as fault:
        said = fault.strerror if isinstance(fault, OSError) else fault
        raise UsageError(f"{path!r} can be no backup: {said}; nothing was written. Name another file.") from fault
    folder = os.path.dirname(path)
    wrong = ""
    if path.lower().endswith(ASIDE):
        wrong = "has a name that SQLite gives to a part of another database"
    elif not os.path.isdir(folder):
        wrong = f"can be no backup: there is no folder {folder}"
    elif there is None and not replace and (left := beside(path)):
        wrong = f"is not there, but {', '.join(left)} of an earlier database is, and would be applied to the copy"
    elif there is not None and (not replace or file.holds(path)):
        wrong = "is there already"
    elif there is not None and not (stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode)):
        wrong = "is no ordinary file"
    if wrong:
        raise UsageError(f"{path} {wrong}; nothing was written. Name another file.")
    return path


def _put(made: str, path: str) -> None:
    """Renames, and replaces nothing."""
    try:
        os.link(made, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.rename(made, path)


def _mark(key: Key) -> bytes:
    # A tombstone must not keep the name it erased.
    return bytes.fromhex(mark_of(key))


def _fit() -> bool:
    return tuple(map(int, apsw.sqlite_lib_version().split("."))) >= OLDEST


def _epoch(db: apsw.Connection) -> str:
    db.execute("insert into meta values ('epoch', ?) on conflict do nothing", (secrets.token_hex(8),))
    return str(db.execute("select value from meta where name = 'epoch'").get)


@cache
def sql(name: str, *, ids: int = 0, rows: int = 0) -> str:
    """The named statement of queries.sql, made for that many ids or rows."""
    return (
        named("sqlite")[name]
        .replace("{places}", ", ".join(f"?{n}" for n in range(14, 14 + ids)) or "null")
        .replace("{ids}", ", ".join(f":id{n}" for n in range(ids)) or "null")
        .replace("{rows}", ", ".join(["(?, ?, ?, ?, ?)"] * rows))
    )


def _migrate(db: apsw.Connection, path: str) -> None:
    """Brings the file to this version's schema, each step in a transaction of its own."""
    while (done := _schema(db, path)) < len(numbered("sqlite")):
        if done == 0:
            db.pragma("page_size", PAGE_BYTES)  # only a file that is still empty takes it
        _use_wal(db)
        db.execute("begin immediate")
        try:
            if _schema(db, path) == done:
                db.execute(numbered("sqlite")[done])
                db.execute(f"pragma user_version = {done + 1}; pragma application_id = {APPLICATION_ID}")
            db.execute("commit")
        except BaseException:
            _rollback(db)
            raise


def _schema(db: apsw.Connection, path: str) -> int:
    """The number of the file's schema, 0 when it is empty. Raises `Misconfigured` when it is not ours, or newer."""
    # One statement, one instant: another process may be making the schema right now.
    owner, done, tables = db.execute(
        "select (select application_id from pragma_application_id), (select user_version from pragma_user_version),"
        " (select count(*) from sqlite_schema)"
    ).get
    if owner != APPLICATION_ID and (owner or done or tables):
        raise Misconfigured(f"{path} is a database of something else; nothing was changed. Name another file.")
    if done > len(numbered("sqlite")):
        raise Misconfigured(
            f"{path} was upgraded by a newer chatkeep (schema {done}, this code knows {len(numbered('sqlite'))}); nothing was "
            "changed. Deploy the newer version."
        )
    return int(done)


def _use_wal(db: apsw.Connection) -> None:
    deadline = time.monotonic() + BUSY_MS / 1000
    while db.pragma("journal_mode") != "wal":
        try:
            db.pragma("journal_mode", "wal")
        except apsw.BusyError:  # the busy timeout does not cover this change
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    db.execute("select count(*) from sqlite_schema").get  # noqa: B018  the first read makes -wal and -shm
