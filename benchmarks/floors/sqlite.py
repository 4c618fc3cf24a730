"""The floors on SQLite: apsw, WAL, synchronous=FULL."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, cast

import apsw
import msgspec

from .. import work

RAW = """
create table if not exists session (id text primary key, state text not null) without rowid;
create table if not exists message (session text not null, number integer not null, role text not null, body text not null,
                                    primary key (session, number)) without rowid;
"""
BARE = """
create table if not exists session (id integer primary key, name text unique, revision integer not null, state blob not null);
create table if not exists turn (session integer not null, body blob not null);
create index if not exists turn_session on turn (session);
"""


def connect(url: str, schema: str) -> apsw.Connection:
    """A connection as durable as chatkeep's."""
    db = apsw.Connection(url.removeprefix("sqlite:///"))
    db.execute("pragma journal_mode = wal; pragma synchronous = full; pragma cache_size = -16000")
    db.execute(schema)
    return db


class RawLoop:
    """(a): load and write in one transaction. It blocks the event loop, as such code does."""

    async def open(self, url: str) -> None:
        self.db = connect(url, RAW)

    async def fill(self, conversation: str, messages: int) -> None:
        db = self.db
        db.execute("begin immediate")
        db.execute("insert into session values (?, ?)", (conversation, json.dumps(work.state(0))))
        db.executemany(
            "insert into message values (?, ?, ?, ?)",
            [(conversation, n, role, json.dumps({"text": text})) for n, role, text in work.history(messages)],
        )
        db.execute("commit")

    async def turn(self, conversation: str, step: int) -> int:
        db = self.db
        db.execute("begin immediate")
        raw = db.execute("select state from session where id = ?", (conversation,)).get
        said = db.execute(
            "select number, role, body from message where session = ? order by number desc limit ?",
            (conversation, work.WINDOW),
        ).fetchall()
        state: dict[str, Any] = json.loads(raw)
        history = [json.loads(body) for _, _, body in reversed(said)]
        assert 0 < len(history) <= work.WINDOW
        before = cast(int, state["revision"])
        state.update(work.state(step))
        number = cast(int, said[0][0])
        db.execute("update session set state = ? where id = ?", (json.dumps(state), conversation))
        db.execute(
            "insert into message values (?, ?, 'user', ?), (?, ?, 'assistant', ?)",
            (
                conversation,
                number + 1,
                json.dumps({"text": work.question(step)}),
                conversation,
                number + 2,
                json.dumps({"text": work.answer(step)}),
            ),
        )
        db.execute("commit")
        return before

    async def close(self) -> None:
        self.db.close()


class BareCombiner:
    """(b): a thread that commits what has queued up meanwhile."""

    async def open(self, url: str) -> None:
        self.url = url
        self.loop = asyncio.get_running_loop()
        self.jobs: SimpleQueue[tuple[Callable[[apsw.Connection], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self.cache: dict[str, tuple[int, int, bytes, deque[str]]] = {}
        self.thread = Thread(target=self._work)
        self.thread.start()

    async def fill(self, conversation: str, messages: int) -> None:
        await self._call(lambda db: self._fill(db, conversation, messages))

    async def turn(self, conversation: str, step: int) -> int:
        held = self.cache.get(conversation)
        if held is None:
            held = await self._call(lambda db: self._load(db, conversation))
        number, revision, raw, history = held
        assert 0 < len(history) <= work.WINDOW
        state = msgspec.json.decode(raw)
        before = cast(int, state["revision"])
        state.update(work.state(step))
        said = (work.question(step), work.answer(step))
        raw, body = msgspec.json.encode(state), msgspec.json.encode(said)
        if not await self._call(lambda db: self._write(db, number, revision, raw, body)):
            raise AssertionError("somebody else wrote")
        history.extend(said)
        self.cache[conversation] = (number, revision + 1, raw, history)
        return before

    async def close(self) -> None:
        self.jobs.put(None)
        await asyncio.to_thread(self.thread.join)

    def _call(self, act: Callable[[apsw.Connection], Any]) -> asyncio.Future[Any]:
        answered = self.loop.create_future()
        self.jobs.put((act, answered))
        return answered

    def _fill(self, db: apsw.Connection, name: str, messages: int) -> None:
        state = msgspec.json.encode(work.state(0))
        (number,) = db.execute(
            "insert into session (name, revision, state) values (?, 0, ?) returning id", (name, state)
        ).fetchall()[0]
        db.executemany("insert into turn values (?, ?)", [(number, body) for body in work.pairs(messages)])

    def _load(self, db: apsw.Connection, name: str) -> tuple[int, int, bytes, deque[str]]:
        number, revision, raw = db.execute("select id, revision, state from session where name = ?", (name,)).get
        bodies: list[Any] = db.execute(
            "select body from turn where session = ? order by rowid desc limit ?", (number, work.WINDOW // 2)
        ).fetchall()
        return number, revision, raw, deque(work.unpaired(bodies), work.WINDOW)

    def _write(self, db: apsw.Connection, number: int, revision: int, raw: bytes, body: bytes) -> bool:
        done = db.execute(
            "update session set revision = revision + 1, state = ? where id = ? and revision = ? returning 1",
            (raw, number, revision),
        ).fetchone()
        db.execute("insert into turn values (?, ?)", (number, body))
        return done is not None

    def _work(self) -> None:
        db = connect(self.url, BARE)
        while (job := self.jobs.get()) is not None:
            batch = [job]
            try:
                while len(batch) < 256 and (job := self.jobs.get_nowait()) is not None:
                    batch.append(job)
            except Empty:
                pass
            db.execute("begin immediate")
            answers = [act(db) for act, _ in batch]
            db.execute("commit")
            self.loop.call_soon_threadsafe(self._deliver, batch, answers)
            if job is None:
                break
        db.close()

    @staticmethod
    def _deliver(batch: list[tuple[Any, asyncio.Future[Any]]], answers: list[Any]) -> None:
        for (_, answered), found in zip(batch, answers, strict=True):
            answered.set_result(found)
