"""The floors on PostgreSQL: asyncpg, one statement to load, one to write; synchronous_commit=on."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any, cast

import asyncpg
import msgspec

from .. import work

CONNECTIONS = 16
LANES = 2
BATCH = 64

RAW = """
create table session (id text primary key, head integer not null, state text not null);
create table message (session text, number integer, role text not null, body text not null, primary key (session, number))
"""
LOAD = """
select state, array(select body from message where session = $1 order by number desc limit 20)
from session where id = $1
"""
WRITE = """
with put as (update session set head = head + 2, state = $2 where id = $1 returning head)
insert into message select $1, put.head - 2 + said.place, said.role, said.body
from put, (values (1, 'user', $3::text), (2, 'assistant', $4::text)) said (place, role, body)
"""
BARE = """
create table session (id text primary key, revision integer not null, state bytea not null);
create table turn (session text, number integer, body bytea not null, primary key (session, number))
"""
LOAD_CACHED = """
select revision, state, array(select body from turn where session = $1 order by number desc limit 10)
from session where id = $1
"""
WRITE_CACHED = """
with given as (select * from unnest($1::text[], $2::int[], $3::bytea[], $4::bytea[]) given (id, revision, state, body)),
put as (update session set revision = session.revision + 1, state = given.state
        from given where session.id = given.id and session.revision = given.revision
        returning session.id, session.revision, given.body)
insert into turn select id, revision, body from put returning session
"""


async def pool(url: str, size: int, schema: str) -> asyncpg.Pool:
    """Connections to a database that has the tables now."""
    found = await asyncpg.create_pool(url, min_size=size, max_size=size)
    await found.execute(schema)
    return found


class RawLoop:
    """(a): a pool of 16, a statement that loads and one that writes: two trips."""

    async def open(self, url: str) -> None:
        self.pool = await pool(url, CONNECTIONS, RAW)

    async def fill(self, conversation: str, messages: int) -> None:
        state = json.dumps(work.state(0))
        await self.pool.execute("insert into session values ($1, $2, $3)", conversation, messages, state)
        rows = [(conversation, n, role, json.dumps({"text": text})) for n, role, text in work.history(messages)]
        await self.pool.copy_records_to_table("message", records=rows)

    async def turn(self, conversation: str, step: int) -> int:
        raw, said = await self.pool.fetchrow(LOAD, conversation)
        state: dict[str, Any] = json.loads(raw)
        history = [json.loads(body) for body in reversed(said)]
        assert 0 < len(history) <= work.WINDOW
        before = cast(int, state["revision"])
        state.update(work.state(step))
        await self.pool.execute(
            WRITE,
            conversation,
            json.dumps(state),
            json.dumps({"text": work.question(step)}),
            json.dumps({"text": work.answer(step)}),
        )
        return before

    async def close(self) -> None:
        await self.pool.close()


class BareCombiner:
    """(b): all that waits in one statement over arrays, two of them on their way at most."""

    async def open(self, url: str) -> None:
        self.pool = await pool(url, LANES + 1, BARE)
        self.cache: dict[str, tuple[int, bytes, deque[str]]] = {}
        self.waiting: list[tuple[asyncio.Future[bool], str, int, bytes, bytes]] = []
        self.workers: set[asyncio.Task[None]] = set()
        self.free = [await self.pool.acquire() for _ in range(LANES)]

    async def fill(self, conversation: str, messages: int) -> None:
        state = msgspec.json.encode(work.state(0))
        rows = [(conversation, number, body) for number, body in enumerate(work.pairs(messages), 1)]
        await self.pool.execute("insert into session values ($1, $2, $3)", conversation, len(rows), state)
        await self.pool.copy_records_to_table("turn", records=rows)

    async def turn(self, conversation: str, step: int) -> int:
        if conversation not in self.cache:
            revision, raw, bodies = await self.pool.fetchrow(LOAD_CACHED, conversation)
            said = work.unpaired([(body,) for body in bodies])
            self.cache[conversation] = (revision, raw, deque(said, work.WINDOW))
        revision, raw, history = self.cache[conversation]
        assert 0 < len(history) <= work.WINDOW
        state = msgspec.json.decode(raw)
        before = cast(int, state["revision"])
        state.update(work.state(step))
        exchange = (work.question(step), work.answer(step))
        raw, body = msgspec.json.encode(state), msgspec.json.encode(exchange)
        if not await self._write(conversation, revision, raw, body):
            raise AssertionError("somebody else wrote")
        history.extend(exchange)
        self.cache[conversation] = (revision + 1, raw, history)
        return before

    async def close(self) -> None:
        for link in self.free:
            await self.pool.release(link)
        await self.pool.close()

    def _write(self, conversation: str, revision: int, raw: bytes, body: bytes) -> asyncio.Future[bool]:
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting.append((answered, conversation, revision, raw, body))
        if self.free:
            worker = asyncio.create_task(self._worker_for(self.free.pop()))
            self.workers.add(worker)
            worker.add_done_callback(self.workers.discard)
        return answered

    async def _worker_for(self, link: Any) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
            calls, *arrays = zip(*batch, strict=True)
            written = {name for (name,) in await link.fetch(WRITE_CACHED, *arrays)}
            for answered, name in zip(calls, arrays[0], strict=True):
                answered.set_result(name in written)
        self.free.append(link)
