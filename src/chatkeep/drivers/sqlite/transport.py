"""The connections of the SQLite driver: a thread that writes, threads that read, and one for whoever looks for long.

`opening` opens them, and acts run on them in `batches`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any, TypeVar, cast

import apsw

from ...errors import Unavailable
from ...offload import offload, start
from ..base import Pool
from .batches import ConnectionThreads, Job, answer, commit
from .file import BUSY_MS, FilesMoved, OpenFile, Slot
from .opening import Opener, give_back

T = TypeVar("T")
A = TypeVar("A")

READERS = 2
LOOKERS = 4  # statements of `query` and backups at a time
LOOKS = 10_000  # steps of a statement, about 0.2 ms, until it notices that it is to stop


class Connections:
    """All connections of one store to its file, from the moment that it was taken until `close`."""

    def __init__(self, path: str, file: OpenFile) -> None:
        self.path = path
        self.file = file
        self._opener = Opener(path, file)
        self._closed = False
        self._lookers: dict[Slot, asyncio.Future[Any]] = {}
        self._places = asyncio.Semaphore(LOOKERS)
        self.writer = ConnectionThreads(file, self._opener.open_connection, self._committed, threads=1, gathers=True)
        try:
            self.readers = ConnectionThreads(file, self._opener.open_connection, self._answered, threads=READERS)
        except BaseException:
            self.writer.abandon()
            raise

    async def close(self) -> None:
        """Have what is under way answered, break off who looks for long, and give the file back."""
        self._closed = True
        for slot in self._lookers:
            slot.broken_off = "it is being closed"
        if self._lookers:
            await asyncio.wait(list(self._lookers.values()))
        for threads in (self.readers, self.writer):
            await threads.close()
        slots = [*self.readers.slots, *self.writer.slots]
        try:
            await offload(give_back, self.file, slots)
        except Unavailable:  # there is no thread to be had
            give_back(self.file, slots)

    def pool(self) -> Pool:
        """Return the connections that acts use."""
        both = (self.readers, self.writer)
        slots = [slot for threads in both for slot in threads.slots]
        opened = sum(slot.db is not None for slot in slots)
        return Pool(opened, len(slots), sum(threads.waiting for threads in both))

    def read(self, do: Callable[[apsw.Connection, A], T], act: A) -> asyncio.Future[T]:
        """Have *do* called with *act* on one instant of the store, beside others."""
        return self.readers.call(do, act)

    def write(self, do: Callable[[apsw.Connection, A], T], act: A, *, durable: bool = True) -> asyncio.Future[T]:
        """Have *do* called with *act* in a transaction, shared with what else waits; answered before it is on the disk where
        nothing in the transaction is *durable*."""
        return self.writer.call(do, act, durable)

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

            start(Thread(target=look, name="chatkeep-sqlite", daemon=True))
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
                self._opener.refuse_moved()
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
            self._opener.refuse_moved()
            answers = commit(db, batch)
            # What went into a file that nobody else can find is lost with this process: nobody may hear of it.
            if self.file.moved():
                raise FilesMoved(written=True)
        return answers

    def _answered(self, db: apsw.Connection, batch: list[Job]) -> list[Any]:
        self._opener.refuse_moved()
        return answer(db, batch)
