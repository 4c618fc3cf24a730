"""The connections of the SQLite driver: a thread that writes, threads that read, and one for whoever looks for long.

What queued up while the last commit ran goes into the next BEGIN IMMEDIATE .. COMMIT. Each connection is opened on the file
that `file` guards, with the schema of this version, and opened anew when that file was moved away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar, cast

import apsw
from msgspec import Struct

from ...errors import ChatkeepError, Corrupt, Misconfigured, Overloaded, Replaced, Unavailable, Uncertain
from ..base import WAITING, Pool, settle
from ..statements import newest, numbered
from .file import BUSY_MS, FilesMoved, OpenFile, Slot, hold

T = TypeVar("T")
A = TypeVar("A")


class Job(Struct):
    """An act that somebody waits for, and what does it."""

    do: Callable[[apsw.Connection, Any], Any]
    act: Any
    answered: asyncio.Future[Any]
    durable: bool


APPLICATION_ID = 0x63686B70  # "chkp": says whose file this is
BATCH = 256
PAUSE_S, GATHER_S = 0.001, 0.004
PAGE_BYTES = 2048  # a turn touches four pages and fills none of them: half the size, half the bytes to sync
READERS = 2
LOOKERS = 4  # statements of `query` and backups at a time
LOOKS = 10_000  # steps of a statement, about 0.2 ms, until it notices that it is to stop


class Connections:
    """All connections of one store to its file, from the moment that it was taken until `close`."""

    def __init__(self, path: str, file: OpenFile) -> None:
        self.path = path
        self.file = file
        self._was_open = self._closed = False
        self._lookers: dict[Slot, asyncio.Future[Any]] = {}
        self._places = asyncio.Semaphore(LOOKERS)
        self.writer = ConnectionThreads(file, self._joined, self._committed, threads=1, gathers=True)
        self.readers = ConnectionThreads(file, self._joined, self._answered, threads=READERS)

    def read(self, do: Callable[[apsw.Connection, A], T], act: A) -> asyncio.Future[T]:
        """Have *do* called with *act* on one instant of the store, beside others."""
        return self.readers.call(do, act)

    def write(self, do: Callable[[apsw.Connection, A], T], act: A, *, durable: bool = True) -> asyncio.Future[T]:
        """Have *do* called with *act* in a transaction, shared with what else waits; answered before it is on the disk where
        nothing in the transaction is *durable*."""
        return self.writer.call(do, act, durable)

    def pool(self) -> Pool:
        """Return the connections that acts use."""
        both = (self.readers, self.writer)
        slots = [slot for threads in both for slot in threads.slots]
        opened = sum(slot.db is not None for slot in slots)
        return Pool(opened, len(slots), sum(threads.waiting for threads in both))

    async def close(self) -> None:
        """Have what is under way answered, break off who looks for long, and give the file back."""
        self._closed = True
        for slot in self._lookers:
            slot.broken_off = "it is being closed"
        if self._lookers:
            await asyncio.wait(list(self._lookers.values()))
        for threads in (self.readers, self.writer):
            await threads.close()
        await asyncio.to_thread(give_back, self.file, [*self.readers.slots, *self.writer.slots])

    async def look(self, act: Callable[[Slot], T]) -> T:
        """Run what may take long in a thread of its own. It ends when its caller is cancelled and when the store is closed, and a
        process does not wait for it."""
        async with self._places:
            if self._closed:
                raise Unavailable(f"sqlite:///{self.path} is not open; nothing was done.")
            slot, loop = Slot(), asyncio.get_running_loop()
            ended: asyncio.Future[Any] = loop.create_future()  # with the answer, or the error as a value

            def look() -> None:
                found: Any
                try:
                    found = act(slot)
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

    @contextlib.contextmanager
    def looking(self, slot: Slot) -> Iterator[apsw.Connection]:
        """Return the slot's connection, that can only read, on the files that are in place, until it is broken off."""
        file = self.file
        file.add(slot)
        try:
            file.renew()
            with slot.lock:
                self._refuse_moved()
                slot.db = apsw.Connection(file.real, flags=apsw.SQLITE_OPEN_READONLY)
                slot.db.set_busy_timeout(BUSY_MS)
                # Connection.interrupt does nothing between two steps; this is asked at the next one.
                slot.db.set_progress_handler(lambda: bool(slot.broken_off), LOOKS)
                yield slot.db
        except FilesMoved as moved:
            raise Unavailable(f"sqlite:///{self.path}: {moved}. Nothing was done; try again.") from moved
        except apsw.InterruptError as fault:
            raise Unavailable(
                f"sqlite:///{self.path} was not read to the end: {slot.broken_off}. Nothing was done; try again."
            ) from fault
        finally:
            file.drop(slot)

    def _committed(self, db: apsw.Connection, batch: list[Job]) -> list[Any]:
        with self.file.writer:
            # A commit may checkpoint: what is in a -wal that others have left for a new one must not get over their pages.
            self._refuse_moved()
            answers = commit(db, batch)
            # What went into a file that nobody else can find is lost with this process: nobody may hear of it.
            if self.file.moved():
                raise FilesMoved(written=True)
        return answers

    def _answered(self, db: apsw.Connection, batch: list[Job]) -> list[Any]:
        self._refuse_moved()
        return answer(db, batch)

    def _refuse_moved(self) -> None:
        if self.file.moved():
            if self.file.made_way and self.file.replaced():
                raise replaced(self.path, "was removed, or is another file")
            raise FilesMoved(written=False)

    def _joined(self) -> apsw.Connection:
        file = self.file
        with file.joining() as first:
            if not first:
                self._refuse_moved()
            db = self._connect()
            try:
                file.secure() if first else self._refuse_moved()
            except BaseException:
                db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                db.close(force=True)
                raise
        self._was_open = True
        return db

    def _connect(self) -> apsw.Connection:
        # Once it was open, what goes wrong is the machine's doing and may pass.
        refusal: type[Misconfigured | Unavailable] = Unavailable if self._was_open else Misconfigured
        db: apsw.Connection | None = None
        try:
            db = apsw.Connection(self.file.real)
            db.set_busy_timeout(BUSY_MS)
            migrate(db, self.file.path)
            _use_wal(db)
            db.execute("pragma synchronous = full; pragma cache_size = -16000; pragma journal_size_limit = 67108864")
            db.create_scalar_function("closed_to_versions_before_0_2", lambda *_: None, 0, deterministic=True)
            db.execute("pragma secure_delete = on")  # what was erased, cut or written over stays on no page of the file
        except BaseException as fault:
            if db is not None:
                db.close(force=True)
            if isinstance(fault, ChatkeepError):
                raise
            if isinstance(fault, apsw.CantOpenError | apsw.NotADBError | apsw.ReadOnlyError):
                raise refusal(
                    f"sqlite:///{self.path} was not opened: {fault}. Name a file that chatkeep may write, in a folder that it may write."
                ) from fault
            raise translated(fault, f"sqlite:///{self.path} was not opened") from fault
        return db


class ConnectionThreads:
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

    @property
    def waiting(self) -> int:
        """How many acts no thread has taken up yet."""
        return self._jobs.qsize() + len(self._gathered)

    def call(self, do: Callable[[apsw.Connection, A], T], act: A, durable: bool = True) -> asyncio.Future[T]:
        """Queue *act*. Cancelling the future does not take it back."""
        answered: asyncio.Future[T] = self._loop.create_future()
        if self._jobs.qsize() + len(self._gathered) >= WAITING:
            said = f"{WAITING} acts wait for sqlite:///{self._file.path} already; nothing was done. Try again later."
            settle(answered, Overloaded(said))
            return answered
        job = Job(do, act, answered, durable)
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
        """Answer what is queued; the connections are left in their slots."""
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
                answers = [translated(fault, "Nothing was done")] * len(batch)
            self._loop.call_soon_threadsafe(self._deliver, batch, answers)

    def _answers(self, slot: Slot, batch: list[Job], *, again: bool = True) -> list[Any]:
        try:
            return self._tried(slot, batch)
        except FilesMoved as moved:
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
                    rollback(slot.db)
                raise
            if Uncertain in map(type, answers):
                # After a failed fsync the page cache may disagree with the disk: only a new connection reads what is there.
                slot.close(tidies=True)
            return answers

    def _deliver(self, batch: list[Job], answers: list[Any]) -> None:
        if self._gathers:
            self._crowd, self._last = max(len(batch), self._last), len(batch)
        for job, found in zip(batch, answers, strict=True):
            settle(job.answered, found)


def take(path: str, absolute: str) -> OpenFile:
    """Return the file at *absolute*, which is called *path*, for one more store of this process."""
    folder = os.path.dirname(absolute)
    if not os.path.isdir(folder):
        # A typing error, or a disk that is not mounted yet.
        raise Unavailable(f"sqlite:///{path} was not opened: there is no folder {folder}. Make or mount it.")
    try:
        return hold(absolute)
    except (OSError, ValueError) as fault:
        raise Misconfigured(
            f"sqlite:///{path} was not opened: {fault}. Name a file that chatkeep may write."
        ) from fault


def give_back(file: OpenFile, slots: list[Slot]) -> None:
    """Close the connections of one store, and give its file back."""
    try:
        file.part()
    finally:
        for slot in slots:
            file.drop(slot)
        file.leave()


def answer(db: apsw.Connection, batch: list[Job]) -> list[Any]:
    """Run reads, all of one instant; one that fails fails alone."""
    answers: list[Any] = []
    db.execute("begin")
    for job in batch:
        try:
            answers.append(job.do(db, job.act))
        except Exception as fault:
            answers.append(translated(fault, "Nothing was read"))
    db.execute("commit")
    return answers


def commit(db: apsw.Connection, batch: list[Job]) -> list[Any]:
    """Run acts in one transaction; each is checked and answered, or refused, on its own."""
    if any([job.durable for job in batch]):
        return _committed(db, batch)
    # In a WAL "normal" writes the same pages, and leaves the flush to the next commit that is durable.
    db.execute("pragma synchronous = normal")
    try:
        return _committed(db, batch)
    finally:
        db.execute("pragma synchronous = full")


def _committed(db: apsw.Connection, batch: list[Job]) -> list[Any]:
    try:
        db.execute("begin immediate")
        answers = [_attempt(job, db) for job in batch]
    except BaseException as fault:
        rollback(db)
        if len(batch) == 1 or isinstance(fault, apsw.BusyError):
            return [translated(fault, "Nothing was written")] * len(batch)
        # One act failed half-way: alone, it fails alone.
        return [_committed(db, [job])[0] for job in batch]
    try:
        db.execute("commit")
    except apsw.Error as fault:
        # A full disk or a busy file rolls back for certain; an I/O error leaves the outcome open.
        sure = isinstance(fault, apsw.FullError | apsw.BusyError)
        rollback(db)
        error = (
            translated(fault, "Nothing was written")
            if sure
            else Uncertain(f"SQLite may or may not have written: {fault}")
        )
        error.__cause__ = fault
        return [error] * len(batch)
    return answers


def _attempt(job: Job, db: apsw.Connection) -> Any:
    try:
        return job.do(db, job.act)
    except ChatkeepError as refused:
        return refused


def rollback(db: apsw.Connection) -> None:
    """Leave the transaction, if there is one."""
    if db.in_transaction:
        with contextlib.suppress(apsw.Error):
            db.execute("rollback")


def replaced(path: str, what: str) -> Replaced:
    """Return what is the matter when the file does not hold what it held when it was opened."""
    return Replaced(
        f"sqlite:///{path} {what} since it was opened; nothing was done. Put the right file there if it is not, "
        "and open it anew: that begins with what is there."
    )


def translated(fault: BaseException, now: str) -> BaseException:
    """Return what *fault* of SQLite is to chatkeep; *now* says what is true."""
    if isinstance(fault, apsw.CorruptError | apsw.NotADBError):
        return Corrupt(f"{now}: the SQLite file is damaged ({fault}). Restore it from a backup.")
    if isinstance(fault, apsw.Error):
        return Unavailable(f"{now}: SQLite says {fault}. Try again when that is mended.")
    return fault


def migrate(db: apsw.Connection, path: str) -> None:
    """Bring the file to this version's schema, each step in a transaction of its own."""
    while (done := schema_of(db, path)) < newest("sqlite"):
        if done == 0:
            db.pragma("page_size", PAGE_BYTES)  # only a file that is still empty takes it
        _use_wal(db)
        db.execute("begin immediate")
        try:
            if schema_of(db, path) == done:
                db.execute(numbered("sqlite")[done])
                db.execute(f"pragma user_version = {done + 1}; pragma application_id = {APPLICATION_ID}")
            db.execute("commit")
        except BaseException:
            rollback(db)
            raise


def schema_of(db: apsw.Connection, path: str) -> int:
    """Return the number of the file's schema, 0 when it is empty. Raises `Misconfigured` when it is not ours, or newer."""
    # One statement, one instant: another process may be making the schema right now.
    owner, done, tables = db.execute(
        "select (select application_id from pragma_application_id), (select user_version from pragma_user_version),"
        " (select count(*) from sqlite_schema)"
    ).get
    if owner != APPLICATION_ID and (owner or done or tables):
        raise Misconfigured(f"{path} is a database of something else; nothing was changed. Name another file.")
    if done > newest("sqlite"):
        raise Misconfigured(
            f"{path} was upgraded by a newer chatkeep (schema {done}, this code knows {newest('sqlite')}); nothing was "
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
