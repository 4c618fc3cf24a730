"""The floors on Redis: one Lua script to load, one to write; the server syncs before it answers."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
import msgspec
import redis.asyncio

from .. import work

LOAD = "return {redis.call('GET', KEYS[1]), redis.call('LRANGE', KEYS[2], -20, -1)}"
WRITE = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('RPUSH', KEYS[2], ARGV[2], ARGV[3])"
LOAD_CACHED = "return {redis.call('HMGET', KEYS[1], 'revision', 'state'), redis.call('LRANGE', KEYS[2], -10, -1)}"
WRITE_CACHED = """if redis.call('HGET', KEYS[1], 'revision') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'revision', ARGV[1] + 1, 'state', ARGV[2])
return redis.call('RPUSH', KEYS[2], ARGV[3])"""


class RawLoop:
    """(a): redis-py as it comes, EVALSHA to load and EVALSHA to write: two trips."""

    async def open(self, url: str) -> None:
        self.redis = redis.asyncio.Redis.from_url(url)
        self.load = await self.redis.script_load(LOAD)
        self.write = await self.redis.script_load(WRITE)

    async def fill(self, conversation: str, messages: int) -> None:
        await self.redis.set(f"state:{conversation}", json.dumps(work.state(0)))
        bodies = [json.dumps({"role": role, "text": text}) for _, role, text in work.history(messages)]
        for first in range(0, messages, 1000):
            await self.redis.rpush(f"messages:{conversation}", *bodies[first : first + 1000])

    async def turn(self, conversation: str, step: int) -> int:
        keys = (f"state:{conversation}", f"messages:{conversation}")
        raw, said = await self.redis.evalsha(self.load, 2, *keys)
        state: dict[str, Any] = json.loads(raw)
        history = [json.loads(body) for body in said]
        assert 0 < len(history) <= work.WINDOW
        before = cast(int, state["revision"])
        state.update(work.state(step))
        await self.redis.evalsha(
            self.write,
            2,
            *keys,
            json.dumps(state),
            json.dumps({"role": "user", "text": work.question(step)}),
            json.dumps({"role": "assistant", "text": work.answer(step)}),
        )
        return before

    async def close(self) -> None:
        await self.redis.aclose()


class Pipeline(asyncio.Protocol):
    """One connection: while a batch is on its way, what is called waits, and goes out together when it is answered."""

    def __init__(self) -> None:
        self.reader = hiredis.Reader()
        self.waiting: list[bytes] = []
        self.calls: deque[asyncio.Future[Any]] = deque()
        self.sent = 0
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def call(self, *words: Any) -> asyncio.Future[Any]:
        """Sends a command, together with the others of this batch."""
        if not self.waiting and not self.sent:
            self.loop.call_soon(self._flush)
        answered = self.loop.create_future()
        self.waiting.append(hiredis.pack_command(words))
        self.calls.append(answered)
        return answered

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (found := self.reader.gets()) is not False:
            self.sent -= 1
            answered = self.calls.popleft()
            if isinstance(found, Exception):
                answered.set_exception(found)
            else:
                answered.set_result(found)
        if self.waiting and not self.sent:
            self._flush()

    def _flush(self) -> None:
        self.sent = len(self.waiting)
        self.transport.write(b"".join(self.waiting))
        self.waiting.clear()


class BareCombiner:
    """(b): hiredis on one connection, all that waits in one write."""

    async def open(self, url: str) -> None:
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, self.link = await loop.create_connection(Pipeline, parts.hostname or "", parts.port or 6379)
        await self.link.call("SELECT", parts.path.strip("/"))
        self.load = await self.link.call("SCRIPT", "LOAD", LOAD_CACHED)
        self.write = await self.link.call("SCRIPT", "LOAD", WRITE_CACHED)
        self.cache: dict[str, tuple[int, bytes, deque[str]]] = {}

    async def fill(self, conversation: str, messages: int) -> None:
        state = msgspec.json.encode(work.state(0))
        await self.link.call("HSET", f"session:{conversation}", "revision", "0", "state", state)
        bodies = work.pairs(messages)
        for first in range(0, len(bodies), 1000):
            await self.link.call("RPUSH", f"turns:{conversation}", *bodies[first : first + 1000])

    async def turn(self, conversation: str, step: int) -> int:
        keys = (f"session:{conversation}", f"turns:{conversation}")
        if conversation not in self.cache:
            (found, raw), bodies = await self.link.call("EVALSHA", self.load, 2, *keys)
            said = work.unpaired([(body,) for body in reversed(bodies)])
            self.cache[conversation] = (int(found), raw, deque(said, work.WINDOW))
        revision, raw, history = self.cache[conversation]
        assert 0 < len(history) <= work.WINDOW
        state = msgspec.json.decode(raw)
        before = cast(int, state["revision"])
        state.update(work.state(step))
        exchange = (work.question(step), work.answer(step))
        raw, body = msgspec.json.encode(state), msgspec.json.encode(exchange)
        if not await self.link.call("EVALSHA", self.write, 2, *keys, revision, raw, body):
            raise AssertionError("somebody else wrote")
        history.extend(exchange)
        self.cache[conversation] = (revision + 1, raw, history)
        return before

    async def close(self) -> None:
        self.link.transport.close()
