"""Acts in batches: each connection has a thread of its own, and what queued up while its last batch ran goes into the next one.

Acts that write share one BEGIN IMMEDIATE .. COMMIT; each is checked, answered and refused on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import apsw
from msgspec import Struct

from ...errors import ChatkeepError, Overloaded, Unavailable, Uncertain
from ...offload import ended, start
from ..base import WAITING, settle
from .file import FilesMoved, OpenFile, Slot
from .handover import Handover
from .opening import rollback, translated

T = TypeVar("T")
A = TypeVar("A")

BATCH = 256
PAUSE_S, GATHER_S = 0.001, 0.004


class Job(Struct):
    """An act that somebody waits for, and what does it."""

    do: Callable[[apsw.Connection, Any], Any]
    act: Any
    answered: asyncio.Future[Any]
    durable: bool


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
        self._answered = Handover(self._deliver)
        self._gathers = gathers
        self._gathered: list[Job] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._crowd = self._last = 1  # the larger of the last two batches, and the last
        self._threads = [
            Thread(target=self._work, args=(slot,), name="chatkeep-sqlite", daemon=True) for slot in self.slots
        ]
        try:
            for thread in self._threads:
                start(thread)
        except BaseException:
            self.abandon()
            raise

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
            await ended(thread)
        self._answered.close()

    def abandon(self) -> None:
        """Have the threads that were started end, where there is nothing for them to do yet."""
        for _ in self._threads:
            self._jobs.put(None)
        for slot in self.slots:
            self._file.drop(slot)
        self._answered.close()

    def _work(self, slot: Slot) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            while len(batch) < BATCH and not self._jobs.empty():
                try:
                    job = self._jobs.get_nowait()
                except Empty:  # another thread was quicker
                    break
                if job is None:
                    self._jobs.put(None)
                    break
                batch.append(job)
            try:
                answers = self._answers(slot, batch)
            except BaseException as fault:
                answers = [translated(fault, "Nothing was done")] * len(batch)
            self._answered.put((batch, answers))

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

    def _deliver(self, done: tuple[list[Job], list[Any]]) -> None:
        batch, answers = done
        if self._gathers:
            self._crowd, self._last = max(len(batch), self._last), len(batch)
        for job, found in zip(batch, answers, strict=True):
            settle(job.answered, found)


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
    for job in batch:
        if job.durable:
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
            else Uncertain(f"SQLite may or may not have written ({fault}). Send it again under the same id.")
        )
        error.__cause__ = fault
        return [error] * len(batch)
    return answers


def _attempt(job: Job, db: apsw.Connection) -> Any:
    try:
        return job.do(db, job.act)
    except ChatkeepError as refused:
        return refused
