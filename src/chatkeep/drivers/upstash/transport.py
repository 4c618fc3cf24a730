"""Carries the acts of the Redis driver over Upstash's REST protocol: commands are JSON text, answers are base64.

What waits goes together in one POST, and one POST is under way at a time, so that acts reach the server in their order. A call
that never left is `Unavailable`; one that left and was not answered is `Uncertain` if it writes, and its connection is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from binascii import a2b_base64
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import sha1
from typing import Any

import msgspec

from ...errors import ChatkeepError, Overloaded, TooLarge, Unavailable
from ...extras import from_extra
from ..base import WAITING, Pool
from ..batching import ANSWERS, WAITS, BatchingQueue, never_sent
from ..redis.replies import Refused, refusal
from ..redis.scripts import Argument, Script, ScriptRun
from ..redis.seam import Address, Site, Waiting

with from_extra("upstash", "A store over REST (upstash://)"):
    from ..http import Answer, HttpConnection, scheme_fault

log = logging.getLogger("chatkeep")

BATCH = 200
BATCH_BYTES = 1_000_000
"""No more goes into one request, but for a single act that is larger: what the service takes depends on what is paid for."""

PAUSE_S = 1.0  # the longest between two attempts to connect; the shortest is random

LOCKS_KEYS = b"#!lua flags=allow-key-locking\n"
"""Without this line a script locks the whole database while it runs. (Redis and Valkey refuse it, and never see it.)"""

TOO_LARGE = "max request size exceeded"
USED_UP = ("limit exceeded", "quota exceeded")
"""What the refusals of the service have in common; each of them is said before anything is done."""

IDLE_S = 20.0
"""A connection that was not used for so long is not used again: what is between here and the service may have forgotten it."""


class Rejected(Refused):
    """No request would be served: the token or the address is wrong."""


class Call(Waiting, eq=False):
    """A command in words, as JSON has them."""

    words: list[str]
    script: Script | None
    size: int
    whole: bool = False


class Rest:
    """The one address of a store, and the connection to it while there is one."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.primaries: Sequence[Address | None] = [None]
        self.covered = 0
        self._loop = asyncio.get_running_loop()
        self._queue: BatchingQueue[Call] = BatchingQueue(self._expire, most=BATCH, room=BATCH_BYTES)
        self._loaded: set[bytes] = set()  # names of scripts that the server is known to have
        self._token = ""  # says to replicas what we have seen
        self._fault = ""
        self._closed = False
        self._connection: HttpConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to send; the first call connects."""
        self._task = self._loop.create_task(self._run(), name=f"chatkeep upstash {self.site.name}")

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""
        self._closed = True
        if self._task is not None:
            await self._queue.close(self._task)
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def pool(self) -> Pool:
        """Return the connection, if there is one, and what has not left yet."""
        return Pool(self._connection is not None, 1, len(self._queue.calls))

    def act(self, act: ScriptRun) -> asyncio.Future[Any]:
        """Run a script."""
        script = _marked(act.script)
        words = ["EVALSHA", script.sha.decode(), *_texts(_operands(act))]
        return self._put(words, act, script)

    def ask(self, *command: Argument, key: bytes = b"", address: Address | None = None) -> asyncio.Future[Any]:
        """Send a plain command."""
        return self._put(_texts(command))

    def _put(self, words: list[str], act: ScriptRun | None = None, script: Script | None = None) -> asyncio.Future[Any]:
        deadline = self._loop.time() + WAITS * self.site.timeout
        call = Call(act, deadline, self._loop.create_future(), words, script, sum(map(len, words)))
        if self._closed:
            call.settle(Unavailable(f"{self.site.name} is closed; {call.undone}."))
        elif not self._queue.put(call):
            said = f"{WAITING} calls wait for {self.site.name} already; {call.undone}. Try again later."
            call.settle(Overloaded(said))
        return call.answered

    async def _run(self) -> None:
        while await self._queue.filled():
            connection = await self._connected()
            if connection is not None and (batch := self._queue.take()):
                await self._send(connection, batch)
                if self._queue.calls:
                    await asyncio.sleep(0)  # those who were answered now may have more

    async def _send(self, connection: HttpConnection, batch: list[Call]) -> None:
        """Send *batch*, and give each call its answer."""
        commands = self._commands(batch)
        try:
            async with asyncio.timeout_at(batch[0].deadline + ANSWERS * self.site.timeout):
                answer = await connection.post(self._head(b"/pipeline"), msgspec.json.encode(commands))
        except BaseException as fault:
            # The request may still be under way: nothing of what it brings back counts.
            self._drop()
            silent = isinstance(fault, TimeoutError)
            self._fault = f"silent for {self.site.timeout:g} s" if silent else f"{type(fault).__name__}: {fault}"
            for call in batch:
                call.settle(call.unanswered(self.site.name, self._fault))
            if not isinstance(fault, Exception):
                raise
            return
        self._fault = ""
        if not connection.is_usable:
            self._drop()
        self._token = answer.headers.get(b"upstash-sync-token", b"").decode("latin-1") or self._token
        try:
            self._take(batch, answer, extra=len(commands) - len(batch))
        except Exception as fault:  # what came back is not what the protocol says; nobody may wait for ever for that
            self._fault = f"{type(fault).__name__}: {fault}"
            for call in batch:
                call.settle(call.unanswered(self.site.name, self._fault))

    def _expire(self, late: list[Call]) -> None:
        for call in late:
            call.settle(never_sent(self.site.name, self._fault, call.undone))

    def _commands(self, batch: list[Call]) -> list[list[str]]:
        """Return the commands of *batch*, behind the scripts that it needs and the server perhaps lacks.

        One that came back for want of its script would be overtaken by those behind it. A call that goes alone need not care, nor need
        calls that only read.
        """
        needed: dict[bytes, Script] = {}
        if len(batch) > 1 and any(call.act is not None and call.act.writes for call in batch):
            for call in batch:
                if call.script is not None and call.script.sha not in self._loaded and not call.whole:
                    needed[call.script.sha] = call.script
        return [["SCRIPT", "LOAD", script.text.decode()] for script in needed.values()] + [call.words for call in batch]

    def _take(self, batch: list[Call], answer: Answer, *, extra: int) -> None:
        """Give the calls of *batch* what came back; the answers of *extra* commands in front are nobody's."""
        status, body = answer.status, answer.body
        try:
            said = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = None
        if status == 200 and isinstance(said, list) and len(said) == len(batch) + extra:
            again = [call for call, item in zip(batch, said[extra:], strict=True) if self._answer(call, item)]
            self._queue.put_back(again)
            return
        words = said["error"] if isinstance(said, dict) and isinstance(said.get("error"), str) else ""
        if status >= 500 or (status < 400 and not words):
            self._fault = f"HTTP {status} {body[:80]!r}"
            for call in batch:
                call.settle(call.unanswered(self.site.name, self._fault))
        elif TOO_LARGE in words and len(batch) > 1:
            for call in batch:
                call.size = BATCH_BYTES  # alone
            self._queue.put_back(batch)
        else:
            for call in batch:
                call.settle(self._refused(call, status, words))

    def _answer(self, call: Call, item: Any) -> bool:
        """Settle *call*; tell whether it is to be sent again, with its script."""
        words = item.get("error") if isinstance(item, dict) else f"something that is no answer: {item!r}"
        if words is None:
            if call.script is not None:
                self._loaded.add(call.script.sha)
            call.settle(_decoded(item.get("result")))
            return False
        if words.startswith("NOSCRIPT") and call.script is not None and not call.whole:
            self._loaded.clear()
            call.words = ["EVAL", call.script.text.decode(), *call.words[2:]]
            call.whole = True
            return True
        call.settle(self._refused(call, 200, words))
        return False

    def _refused(self, call: Call, status: int, words: str) -> ChatkeepError:
        """Return what a refusal of the service, or of a single command, means."""
        name, done = self.site.name, call.undone
        if TOO_LARGE in words or status == 413:
            return TooLarge(
                f"{name}: the service takes no request of this size ({words or status}); {done}. Keep less in the state and in a "
                "message, or take a plan that allows more."
            )
        if any(limit in words for limit in USED_UP) or status == 429:
            return Refused(
                f"{name}: the quota is used up ({words or status}); {done}. Raise it, or wait until it begins anew."
            )
        if status == 401 or words.startswith(("WRONGPASS", "Unauthorized")):
            return Rejected(f"{name}: its token is not taken ({words or status}); {done}. Look it up in the console.")
        if status == 200:
            return refusal(words, call.act)
        said = f"HTTP {status}{': ' + words if words else ''}"
        if status == 400:
            return Refused(f"{name}: the service says {said}; {done}.")
        return Rejected(f"{name}: what is at this address speaks no REST of Redis ({said}); {done}.")

    def _head(self, path: bytes, accept: bytes = b"application/json") -> bytes:
        lines = [
            b"POST %b HTTP/1.1" % path,
            b"Host: %b" % self.site.access["host"].encode(),
            b"Authorization: Bearer %b" % self.site.access["token"].encode(),
            b"User-Agent: chatkeep",
            b"Content-Type: application/json",
            b"Accept: %b" % accept,
        ]
        if accept == b"application/json":
            lines.append(b"Upstash-Encoding: base64")
        if self._token:
            lines.append(b"Upstash-Sync-Token: %b" % self._token.encode("latin-1"))
        return b"\r\n".join(lines)

    async def _connected(self) -> HttpConnection | None:
        """Return a connection; None when there is none now, or no TLS with this address, which is told to all that wait."""
        if (there := self._connection) is not None and not (there.idle_s <= IDLE_S and await there.still_listens()):
            self._drop()
        if self._connection is None:
            try:
                self._connection = await self._connect()
            except (OSError, TimeoutError, ValueError) as fault:
                self._fault = f"{type(fault).__name__}: {fault}"
                if isinstance(fault, ssl.SSLError) and not isinstance(fault, ssl.SSLEOFError):
                    for call in self._queue.clear():
                        said = f"no TLS connection can be made ({fault}); {call.undone}. Mend its address."
                        call.settle(Rejected(f"{self.site.name}: {said}"))
                if self._queue.calls:
                    await asyncio.sleep(random.uniform(0.01, PAUSE_S) * 0.2)
                return None
        return self._connection

    async def _connect(self) -> HttpConnection:
        host, port = self.site.hosts[0]
        async with asyncio.timeout(self.site.timeout / 2):  # so that a call may outlive an address that is gone
            return await HttpConnection.open(host, port, self.site.access["tls"])

    def _drop(self) -> None:
        """End the connection at once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    async def listen(self, channel: bytes, heard: Callable[[bytes], None]) -> None:
        """Have *heard* called with every message of a channel, on a connection of its own that comes back by itself."""
        begins = b"message,%b," % channel
        while True:
            try:
                connection = await self._connect()
                head = self._head(b"/subscribe/" + channel, b"text/event-stream")
                async with contextlib.aclosing(connection.lines(head)) as lines:
                    async for line in lines:
                        event = line.removeprefix(b"data:").strip()
                        if event.startswith(begins):
                            heard(event.removeprefix(begins))
            except (OSError, TimeoutError) as fault:
                log.info("%s: announcements are interrupted (%s); listening again soon", self.site.name, fault)
            await asyncio.sleep(random.uniform(0, PAUSE_S))


async def scheme_fault_of(site: Site) -> str:
    """Return what is wrong with a URL whose server speaks the other one of https and http; '' where that is not known."""
    (host, port), *_ = site.hosts
    return await scheme_fault(host, port, tls=site.access["tls"] is not None, within=site.timeout)


@lru_cache(maxsize=32)
def _marked(script: Script) -> Script:
    """Return *script* as the service runs it best."""
    text = LOCKS_KEYS + script.text
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


def _operands(act: ScriptRun) -> tuple[Argument, ...]:
    keys = act.home.keys
    return len(keys), *keys, *act.home.names, *act.arguments


def _texts(words: Sequence[Argument]) -> list[str]:
    """Return *words* as JSON carries them."""
    return [word.decode() if isinstance(word, bytes) else str(word) for word in words]


def _decoded(result: Any) -> Any:
    """Return an answer whose texts came in base64; the bare word OK does not."""
    if isinstance(result, str):
        return b"OK" if result == "OK" else a2b_base64(result)
    return [_decoded(one) for one in result] if isinstance(result, list) else result
