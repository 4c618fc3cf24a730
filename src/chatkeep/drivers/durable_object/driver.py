"""durable-object://SECRET@host[:port][?tls=no&store=chatkeep&timeout=5]  Conversations in Cloudflare Durable Objects.

The worker in workers/, which you deploy, does the acts: each conversation is an object with a database of its own, and an act is one
transaction of it. It is as durable as the platform: no answer leaves an object before what it says is stored. Shards find
conversations; a conversation answers nobody, readers included, before its shard knows where it stands.

Each request is signed with SECRET, the worker's secret of that name. *store* is the name of the store in the worker, which may have
many; *tls=no* is for a worker on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from ...errors import Corrupt, Misconfigured, StoreError, Unavailable, Unsupported
from ..announcements import announcement_of, listener_for
from ..base import (
    Ability,
    About,
    Append,
    Appended,
    Count,
    Counted,
    Entries,
    Entry,
    Erase,
    Fence,
    Finding,
    Index,
    Key,
    Pool,
    Read,
    Row,
    Scan,
    Write,
)
from ..openable import Openable, end
from ..scanning import scan_places
from ..url import UrlOptions
from . import acts
from .check import examined, foreign
from .seam import Crowded, Refused, Site, Transport

PAGE = 200  # rows that a scan has under way at once
PATIENCE = 6  # so many times an act's time a scan waits for a next row, while the worker lets go of others
OPTIONS = {"tls", "store", "timeout"}
EXAMPLE = "durable-object://SECRET@chatkeep.example.workers.dev"


class Crowd:
    """What a scan waits in while the worker has as many conversations in memory as it may. It goes on as long as one of its rows is read
    now and then: given up, it would have to ask for all of them again, and they would stay where they are for that."""

    def __init__(self, timeout: float) -> None:
        self._patience_s = PATIENCE * timeout
        self._went_on_at = time.monotonic()

    async def through(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Return what is answered, as soon as it is the turn of this one. Raises `Unavailable`."""
        while True:
            try:
                told = await ask()
            except Crowded:
                if time.monotonic() > self._went_on_at + self._patience_s:
                    raise
            else:
                self._went_on_at = time.monotonic()
                return told
            await asyncio.sleep(random.uniform(0.2, 1.0))


class DurableObjectDriver(Openable):
    """One store of a worker. See `Driver` for what each verb promises."""

    abilities = frozenset(Ability) - {Ability.SEARCH}
    about = About(
        urls=("durable-object://SECRET@host",),
        use="no server of your own: Cloudflare Durable Objects, through [a worker](../how-to/durable-objects.md)",
        costs="a message: one HTTPS request, and two inside of the service; looking for work: one request",
        lacks="speed near that of a database: each conversation is an object of its own, and each page of an index asks all shards",
    )

    def __init__(self, url: str, transport: Callable[[Site], Transport] | None = None) -> None:
        if transport is None:
            from .transport import Connections

            transport = Connections
        self._transport = transport
        self._site = site_of(url)
        super().__init__(self._site.name)
        self._worker: Transport | None = None
        self._ear: asyncio.Task[None] | None = None

    async def _start(self) -> str:
        self._worker = worker = self._transport(self._site)
        try:
            told = await worker.act("open", msgspec.json.encode([secrets.token_hex(8)]))
        except Unavailable as fault:
            if wrong := await self._scheme_fault():
                raise Misconfigured(f"{self._site.name} was not opened: {wrong}.") from fault
            if isinstance(fault, Refused):
                raise Misconfigured(f"{fault} The store was not opened.") from fault
            raise
        if wrong := foreign(told):
            raise Misconfigured(f"{self._site.name}: {wrong}")
        worker.epoch = epoch = told["epoch"]
        return str(epoch)

    async def examine(self) -> list[Finding]:
        worker = self._transport(self._site)
        try:
            return await examined(worker)
        except StoreError as fault:
            return [Finding("fail", "reachable", await self._scheme_fault() or f"{fault}")]
        finally:
            await worker.close()

    async def announce(self, marks: Collection[str]) -> None:
        worker = self._opened("announced")
        with contextlib.suppress(StoreError):  # best effort: whoever missed it looks by itself in the end
            await worker.act("rings", announcement_of(self.epoch, marks))

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        worker = self._opened("watched")
        self._ear = asyncio.create_task(worker.listen(listener_for(self, heard)), name="chatkeep durable object watch")

    async def _stop(self) -> None:
        worker, self._worker = self._worker, None
        ear, self._ear = self._ear, None
        if ear is not None:
            await end(ear)
        if worker is not None:
            await worker.close()

    def pool(self) -> Pool:
        return self._worker.pool() if self._worker is not None else Pool()

    async def backup(self, path: str, *, replace: bool = False) -> None:
        raise Unsupported(
            f"The platform keeps 30 days of each Durable Object; {path} was not written. Restore from there."
        )

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        raise Unsupported(
            "Each Durable Object has a database of its own; nothing was read. Use conversations() and history()."
        )

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        return acts.read_answer(act, await self._act("read", act.key, acts.read(act)))

    async def append(self, act: Append) -> Appended:
        return acts.append_answer(act, await self._act("written", act.key, acts.append(act), writes=True))

    async def write(self, act: Write) -> Row:
        return acts.write_answer(act, await self._act("written", act.key, acts.write(act), writes=True))

    async def entries(self, act: Entries) -> list[Entry]:
        return acts.entries_answer(act, await self._act("read", act.key, acts.entries(act)))

    async def scan(self, act: Scan) -> list[Row]:
        worker = self._opened("read")
        places_of, rows_at = partial(self._places, worker, act), partial(self._rows_at, worker, act.index)
        return await scan_places(act, places_of, rows_at, acts, page=PAGE)

    async def _places(
        self, worker: Transport, act: Scan, place: acts.Place | None, wanted: int
    ) -> tuple[list[acts.Place], bool]:
        """Return the next places of an index, *wanted* at most, and whether there may be more."""
        places = acts.places_answer(await worker.act("places", acts.places(act, place, wanted)))[:wanted]
        return places, len(places) == wanted

    async def _rows_at(self, worker: Transport, index: Index, places: list[acts.Place]) -> list[Row]:
        """Return the rows that stand at places of an index, or are due later than it says, without those that stand elsewhere by now: they
        are still to come."""
        crowd = Crowd(self._site.timeout)
        found: list[Row | None] = []
        for start in range(0, len(places), PAGE):  # a step of the index `recent` may have any number of them
            some = places[start : start + PAGE]
            asked = [asyncio.ensure_future(self._row_at(worker, crowd, index, at)) for at in some]
            try:
                found += await asyncio.gather(*asked)
            finally:
                for task in asked:
                    task.cancel()  # where one has failed, the others would wait on in the crowd, for nobody
        return [row for row in found if row is not None]

    async def _row_at(self, worker: Transport, crowd: Crowd, index: Index, at: acts.Place) -> Row | None:
        """Return the row that an index has at a place; none if it stands elsewhere by now, which is shown if it is still to come."""
        read = Read(acts.key_of(at), tail=0)
        try:
            told = await crowd.through(lambda: worker.act("acts", acts.read_of_many(read), lane=hash(read.key)))
            there = acts.read_answer(read, told)
        except Corrupt:
            # Whoever reads it is told what is wrong; the others must not have to wait for that.
            return acts.unreadable(index, at)
        return there[0] if there and acts.is_found(index, there[0], at) else None

    async def erase(self, act: Erase) -> None:
        acts.erase_answer(act, await self._act("erased", act.key, acts.erase(act), writes=True))

    async def count(self, act: Count) -> Counted:
        worker = self._opened("counted")
        return acts.count_answer(await worker.act("counts", acts.count(act), writes=True))

    async def fence(self, act: Fence) -> None:
        worker = self._opened("done")
        await worker.act("fences", msgspec.json.encode([act.epoch]), writes=True)
        worker.epoch = self.epoch = act.epoch

    async def _scheme_fault(self) -> str:
        from .transport import scheme_fault_of

        return await scheme_fault_of(self._site)

    async def _act(self, done: str, key: Key, said: bytes, *, writes: bool = False) -> Any:
        return await self._opened(done).act("acts", said, lane=hash(key), writes=writes)

    def _opened(self, done: str) -> Transport:
        self.refuse_closed(done)
        assert self._worker is not None
        return self._worker


def site_of(url: str) -> Site:
    """Return what *url* says. Raises `Misconfigured`."""
    parts = urlsplit(url)
    entry, _, place = parts.netloc.rpartition("@")
    shown = place if entry else ""  # without an @ it may be the secret
    options = UrlOptions(f"durable-object://{shown}", parts.query, OPTIONS, example=EXAMPLE)
    if not entry:
        raise options.wrong("it has no secret: the worker's SECRET stands before the @.")
    if parts.path.strip("/") or not parts.hostname:
        raise options.wrong("it names a host, and nothing behind it.")
    tls = options.is_on("tls", default=True)
    store = options.name("store")
    return Site(
        name=f"durable-object://{place}" + (f"?store={store}" if "store" in options else ""),
        host=parts.hostname,
        port=parts.port or (443 if tls else 80),
        tls=tls,
        secret=unquote(entry),
        store=store,
        timeout=options.seconds("timeout", 5.0),
    )
