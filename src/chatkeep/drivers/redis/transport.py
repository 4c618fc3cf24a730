"""The connections of the Redis driver: one held link to each server that has something of the store.

The calls of one event-loop tick leave in one write, and at most two such batches are under way on a link, so that what
waits meanwhile goes together. Answers come in order. A call that never left is `Unavailable`; one that left and was not
answered is `Uncertain` if it writes, and its connection is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from binascii import crc_hqx
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from itertools import takewhile
from operator import attrgetter
from typing import Any, ClassVar

from msgspec import Struct

from ...errors import ChatkeepError, Overloaded, Unavailable, Uncertain
from ...extras import from_extra
from ..base import WAITING, Pool, settle
from ..batching import BatchingQueue, never_sent
from ..openable import end
from .connection import Command, Connection, pack_command, refused_by
from .scripts import HOMES, VERBS, Argument, Home, Script, ScriptRun, refusal
from .seam import Address, Site

with from_extra("redis", "A Redis store (redis://)"):
    from hiredis import ReplyError

log = logging.getLogger("chatkeep")


def pack_arguments(arguments: Sequence[Argument]) -> bytes:
    """*arguments* as a command carries them, without the count that opens it."""
    packed = pack_command(tuple(arguments))
    return packed[packed.index(b"\n") + 1 :]


@lru_cache(maxsize=HOMES)
def _opening(script: Script, home: Home) -> bytes:
    """Return what an EVALSHA begins with: the same for each act of a kind on one conversation, and half of its words."""
    return pack_arguments((b"EVALSHA", script.sha, len(home.keys), *home.keys, *home.names))


SLOTS = 16384  # of a cluster
FLYING = 2  # batches under way on one link
REDIRECTS = 8  # of one call, in a cluster that is being moved about
ASK_S = 1.0  # between two questions to the sentinels
PAUSE_S = 1.0  # the longest between two attempts to connect; the shortest is random


class Call(Struct, eq=False):
    """One command on its way, and the future of its answer. Cancelling that does not take the command back."""

    packed: bytes
    act: ScriptRun | None
    slot: int | None
    deadline: float
    answered: asyncio.Future[Any]
    whole: bool = False
    ends_batch: bool = False
    redirects: int = 0
    # One connection carries all of them, in order.
    kind: ClassVar[None] = None
    key: ClassVar[None] = None
    size: ClassVar[int] = 0

    def settle(self, answer: Any) -> None:
        """Give the caller, if one still waits, its answer or refusal."""
        settle(self.answered, answer)

    @property
    def undone(self) -> str:
        """What certainly did not happen."""
        return "nothing was written" if self.act and self.act.writes else "nothing was read"


class Link:
    """One server: a connection while there is one, what waits for it, and what it has not answered yet."""

    def __init__(self, servers: Servers, address: Address | None) -> None:
        self.address = address
        self.busy = False
        self._servers = servers
        self._queue: BatchingQueue[Call] = BatchingQueue(self._expire)
        self._sent: deque[Call] = deque()
        self._last_of_old: Call | None = None  # after it nothing comes back for want of a script
        self._flying = 0
        self._retiring = False
        self._left = False  # nothing that this server still answers counts
        self._fault = ""
        self._connection: Connection | None = None
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._task = self._loop.create_task(self._run(), name=f"chatkeep redis link {address or servers.site.name}")

    def put(self, call: Call) -> None:
        """Queue *call*; everything put in one tick leaves in one write."""
        if self._queue.put(call):
            self.busy = True
        else:
            call.settle(Overloaded(f"{WAITING} calls wait for {self._name} already; {call.undone}. Try again later."))

    def put_again(self, call: Call, act: ScriptRun) -> None:
        """Queue *call*, whose *act* met a server without its script, before all that was put after it.

        What left behind it meets the same and comes back too; until that is here nothing else leaves, or it would overtake.
        """
        call.packed, call.whole = pack_command(act.whole), True
        self._queue.put_back([call], place=self._whole)
        self._last_of_old = self._sent[-1]

    @property
    def _whole(self) -> int:
        return sum(1 for _ in takewhile(attrgetter("whole"), self._queue.calls))

    def pool(self) -> Pool:
        """Return the connection, if there is one, and what has not left yet."""
        return Pool(self._connection is not None, 1, len(self._queue.calls))

    def retire(self) -> None:
        """Let what is under way be answered, then connect anew: this server is no longer the one to talk to."""
        self._retiring = True
        self._queue.wake()

    def leave(self, fault: str) -> None:
        """Connect anew at once, and take no answer of this server any more: what is under way is uncertain."""
        self._fault, self._left = fault, self._connection is not None
        if self._connection is not None:
            self._connection.abort()

    def take(self) -> list[Call]:
        """Return what has not left yet, which is somebody else's from now on."""
        calls = self._queue.clear()
        self._note()
        return calls

    async def close(self) -> None:
        """Drop the connection and whatever still hangs on it."""
        await end(self._task)
        await self._queue.close()
        if self._alarm is not None:
            self._alarm.cancel()
        for call in self.take():
            call.settle(Unavailable(f"{self._name} was closed; {call.undone}."))

    @property
    def _name(self) -> str:
        host = "" if self.address is None else f" ({self.address[0]}:{self.address[1]})"
        return f"{self._servers.site.name}{host}"

    async def _run(self) -> None:
        while True:
            await self._queue.filled()
            with contextlib.suppress(OSError):
                self._connection = await self._connected()
                self._fault = ""
                await self._talk(self._connection)

    async def _connected(self) -> Connection:
        """Return a connection, as soon as there is one, for as long as anybody waits for it."""
        with contextlib.suppress(OSError):
            return await self._attempt()
        # Who is let in at once, as a function mostly is that is started for one message, does not wait for this import.
        from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

        attempts = AsyncRetrying(
            wait=wait_random_exponential(multiplier=0.02, max=PAUSE_S),
            retry=retry_if_exception_type(OSError),
            stop=lambda _: not self._queue.calls,
            reraise=True,
        )
        return await attempts(self._attempt)

    async def _attempt(self) -> Connection:
        try:
            return await self._servers.connect(self.address, loads=VERBS)
        except OSError as fault:
            self._fault = f"{type(fault).__name__}: {fault}"
            if refused := refused_by(fault):
                for call in self.take():
                    error = Unavailable(f"{self._name}: {refused}; {call.undone}. Mend its URL or its user.")
                    error.__cause__ = fault
                    call.settle(error)
            elif self.address is not None and self._servers.site.cluster:
                await self._servers.lost(self)
            raise

    async def _talk(self, connection: Connection) -> None:
        """Write batches until the connection is lost; the answers are read beside it."""
        reader = self._loop.create_task(self._read(connection), name="chatkeep redis reader")
        reader.add_done_callback(lambda _: self._queue.wake())
        try:
            while not reader.done() and not (self._retiring and not self._sent):
                ready = len(self._queue.calls) if self._last_of_old is None else self._whole
                if not ready or self._flying >= FLYING or self._retiring:
                    await self._queue.woken()
                    continue
                batch = self._queue.take(ready=ready)
                for call in batch:
                    call.ends_batch = call is batch[-1]
                self._sent.extend(batch)
                self._flying += 1
                self._watch(batch[0].deadline)
                await connection.send(b"".join([call.packed for call in batch]))
            if not self._retiring:
                await reader
        except Exception as fault:
            self._fault = self._fault or f"{type(fault).__name__}: {fault}"
        finally:
            reader.cancel()
            self._drop()  # before anything is awaited: who is cancelled in the meantime would leave the connection open
            await asyncio.wait([reader])

    async def _read(self, connection: Connection) -> None:
        while True:
            answers = await connection.answers()
            if self._left:
                return
            for answer in answers:
                self._settle(answer)

    def _settle(self, answer: Any) -> None:
        """Give the oldest call its answer."""
        call = self._sent[0]
        ended = call.ends_batch
        self._servers.answer(self, call, answer)
        self._sent.popleft()
        if call is self._last_of_old:
            self._last_of_old = None
            self._queue.wake()
        if ended:
            self._flying -= 1
            self._queue.wake()
        if not self._sent:
            self._note()

    def _drop(self) -> None:
        """End the connection at once: nothing of what it still holds back may reach the server later."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._flying = 0
        self._retiring = self._left = False
        for call in self._sent:
            call.settle(self._unanswered(call))
        self._sent.clear()
        self._last_of_old = None
        self._note()

    def _unanswered(self, call: Call) -> ChatkeepError:
        if call.act is not None and call.act.writes:
            return Uncertain(
                f"{self._name} did not answer ({self._fault}): perhaps it was written. Send it again under the same id."
            )
        return Unavailable(f"{self._name} did not answer ({self._fault}); {call.undone}. Try again.")

    def _expire(self, late: list[Call]) -> None:
        for call in late:
            call.settle(never_sent(self._name, self._fault, call.undone))
        self._note()

    def _ring(self) -> None:
        """Drop a connection that has been silent until the deadline of the oldest call."""
        self._alarm = None
        if not self._sent:
            return
        now = self._loop.time()
        if self._sent[0].deadline <= now:
            self._fault = f"silent for {self._servers.site.timeout:g} s"
            if self._connection is not None:
                self._connection.abort()
        self._watch(max(self._sent[0].deadline, now + 0.01))

    def _watch(self, deadline: float) -> None:
        if self._alarm is None or deadline < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(deadline, self._ring)

    def _note(self) -> None:
        self.busy = bool(self._queue.calls or self._sent)
        if not self.busy:
            self._servers.quiet.set()


class Servers:
    """Knows which link a slot's calls take: to the one server, to the primary that Sentinel names, or through a cluster."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.quiet = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._links: dict[Address | None, Link] = {}
        self._ranges: list[tuple[int, int, Address]] = []
        self._slots: dict[int, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._learning: asyncio.Task[None] | None = None
        self._closed = False
        self._primary_is: Address | None = None  # whom the sentinels have named last
        if not site.cluster:
            self._link(None)

    async def start(self) -> None:
        """Learn a cluster's slots, or begin to follow what the sentinels say."""
        if self.site.cluster:
            await self._learn()
        if self.site.service:
            self._spawn(self._follow())
            for address in self.site.hosts:
                self._spawn(self._hear_sentinel(address))

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""
        self._closed = True
        while any(link.busy for link in self._links.values()):
            self.quiet.clear()
            await self.quiet.wait()
        await asyncio.gather(*map(end, self._tasks), *(link.close() for link in self._links.values()))

    def pool(self) -> Pool:
        """One connection to each server that acts go to."""
        pools = [link.pool() for link in self._links.values()]
        return Pool(*map(sum, zip(*pools, strict=True))) if pools else Pool()

    def act(self, act: ScriptRun) -> asyncio.Future[Any]:
        """Run a script where its keys are."""
        keys, names = act.home.keys, act.home.names
        count = 3 + len(keys) + len(names) + len(act.arguments)
        opening = _opening if act.home.kept else _opening.__wrapped__
        packed = b"*%d\r\n%b%b" % (count, opening(act.script, act.home), pack_arguments(act.arguments))
        return self._put(packed, act, slot_of(keys[0]) if self.site.cluster else None)

    def ask(self, *command: Argument, key: bytes = b"", address: Address | None = None) -> asyncio.Future[Any]:
        """Send a plain command: to whoever has *key*, or to one server of a cluster."""
        slot = slot_of(key) if self.site.cluster and address is None else None
        return self._put(pack_command(command), None, slot, address)

    @property
    def primaries(self) -> Sequence[Address | None]:
        """Every server that has a part of the store."""
        if not self.site.cluster:
            return [None]
        return sorted({address for _, _, address in self._ranges})

    @property
    def covered(self) -> int:
        """How many of a cluster's slots somebody serves."""
        return sum(end - start + 1 for start, end, _ in self._ranges)

    def _put(
        self, packed: bytes, act: ScriptRun | None, slot: int | None, address: Address | None = None
    ) -> asyncio.Future[Any]:
        call = Call(packed, act, slot, self._loop.time() + self.site.timeout, self._loop.create_future())
        if self._closed:
            call.settle(Unavailable(f"{self.site.name} is closed; {call.undone}."))
        else:
            self._route(call, address)
        return call.answered

    def _route(self, call: Call, address: Address | None = None) -> None:
        if call.slot is None:
            self._link(address).put(call)
            return
        link = self._slots.get(call.slot)
        if link is None:
            owners = [address for start, end, address in self._ranges if start <= call.slot <= end]
            if not owners:
                call.settle(
                    Unavailable(f"{self.site.name}: no server has slot {call.slot}; {call.undone}. Mend the cluster.")
                )
                self._learn_soon()
                return
            link = self._slots[call.slot] = self._link(owners[0])
        link.put(call)

    def _link(self, address: Address | None) -> Link:
        if address not in self._links:
            self._links[address] = Link(self, address)
        return self._links[address]

    def answer(self, link: Link, call: Call, answer: Any) -> None:
        """Give *call* its answer, or send it on to where the server says; it was not executed then."""
        if not isinstance(answer, ReplyError):
            call.settle(answer)
            return
        act, words = call.act, str(answer)
        code, *rest = words.split(" ")
        if code == "NOSCRIPT" and act is not None and not call.whole:
            link.put_again(call, act)
        elif code in ("MOVED", "ASK") and self.site.cluster and call.redirects < REDIRECTS:
            call.redirects += 1
            slot, (host, _, port) = int(rest[0]), rest[1].rpartition(":")
            there = self._link((host or self._host_of(link), int(port)))
            if code == "MOVED":
                self._slots[slot] = there
                self._learn_soon()
            else:
                asking = Call(pack_command((b"ASKING",)), None, None, call.deadline, self._loop.create_future())
                asking.answered.cancel()
                there.put(asking)
            there.put(call)
        else:
            if code == "READONLY":
                link.retire()
            if code in ("READONLY", "CLUSTERDOWN", "MASTERDOWN"):
                self._learn_soon()
            call.settle(refusal(words, act))

    async def connect(self, address: Address | None, *, loads: Sequence[Script] = ()) -> Connection:
        """Return a new connection to *address*, or to whoever is the store's primary now, which has the scripts that it *loads*.

        An act whose script were missing would come back, and be overtaken by those behind it whose scripts are there.
        """
        async with asyncio.timeout(self.site.timeout / 2):  # so that a call may outlive a server that is gone
            if address is None:
                address = await self._primary()
            # A port that is open is not yet a server that takes commands: what is sent to it would be uncertain.
            # (Who may not load a script sends it whole when it is missing.)
            greeting: list[Command] = [(b"PING",), *((b"SCRIPT", b"LOAD", script.text) for script in loads)]
            return await Connection.open(address, **self.site.access, greeting=greeting)

    async def listen(self, channel: bytes, heard: Callable[[bytes], None]) -> None:
        """Have *heard* called with every message of a channel, on a connection of its own that comes back by itself."""
        while True:
            try:
                # Announcements go everywhere.
                with await self.connect(random.choice(self.primaries)) as connection:
                    async for message in connection.messages(channel):
                        heard(message)
            except OSError as fault:
                log.info("%s: announcements are interrupted (%s); listening again soon", self.site.name, fault)
            await asyncio.sleep(random.uniform(0, PAUSE_S))

    async def lost(self, link: Link) -> None:
        """Learn whose the slots of a server are that cannot be reached, and send its calls there."""
        with contextlib.suppress(OSError, Unavailable):
            await self._learn()
        for call in link.take():
            self._route(call, link.address)

    async def _primary(self) -> Address:
        """Return the one server, or whom the sentinels name: of several answers the newest."""
        if not self.site.service:
            return self.site.hosts[0]
        asked = [self._ask_sentinel(address) for address in self.site.hosts]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        known = [answer for answer in answers if isinstance(answer, tuple)]
        if not known:
            raise ConnectionError(f"no sentinel names a primary for {self.site.service!r} ({answers[0]})")
        address = max(known)[1]
        self._go_to(address)
        return address

    def _go_to(self, address: Address) -> None:
        """Let go of a primary that is not the primary any more, which perhaps does not know it: what it answered would be lost."""
        before, self._primary_is = self._primary_is, address
        if before not in (None, address):
            log.warning("%s: %s:%d is the primary now", self.site.name, *address)
            self._link(None).leave("the sentinels name another primary")

    async def _follow(self) -> None:
        """Ask the sentinels again and again who the primary is."""
        while True:
            await asyncio.sleep(ASK_S * random.uniform(0.8, 1.0))
            with contextlib.suppress(OSError):  # who is connected stays so
                await self._primary()

    async def _hear_sentinel(self, address: Address) -> None:
        """Hear of a switch when one sentinel tells it, which is sooner than the next asking."""
        while True:
            with contextlib.suppress(OSError), await self._sentinel(address) as connection:
                async for message in connection.messages(b"+switch-master"):
                    words = message.decode().split()
                    if len(words) == 5 and words[0] == self.site.service:
                        self._go_to((words[3], int(words[4])))
            await asyncio.sleep(random.uniform(0, PAUSE_S))

    async def _ask_sentinel(self, address: Address) -> tuple[int, Address]:
        """Whom one sentinel names, behind the epoch of that."""
        async with asyncio.timeout(self.site.timeout / 4):
            with await self._sentinel(address) as connection:
                said = await connection.ask(b"SENTINEL", b"MASTER", self.site.service)
        told = {name.decode(): value.decode() for name, value in zip(said[::2], said[1::2], strict=True)}
        if "down" in told["flags"]:
            raise ConnectionError(f"the sentinel at {address[0]}:{address[1]} calls the primary {told['flags']}")
        return int(told["config-epoch"]), (told["ip"], int(told["port"]))

    async def _sentinel(self, address: Address) -> Connection:
        async with asyncio.timeout(self.site.timeout / 4):
            return await Connection.open(address, **self.site.sentinel_access)

    def _host_of(self, link: Link) -> str:
        return (link.address or self.site.hosts[0])[0]

    def _learn_soon(self) -> None:
        if self.site.cluster and not self._closed and self._learning is None:
            self._learning = self._spawn(self._learn_quietly())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name="chatkeep redis slots")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _learn_quietly(self) -> None:
        try:
            await self._learn()
        except (OSError, Unavailable) as fault:
            log.warning("%s: its slots could not be learnt: %s", self.site.name, fault)
        finally:
            self._learning = None

    async def _learn(self) -> None:
        """Ask one server after another which slots are whose."""
        known = list(dict.fromkeys([*(address for _, _, address in self._ranges), *self.site.hosts]))
        random.shuffle(known)
        faults: list[str] = []
        for address in known:
            try:
                with await self.connect(address) as connection:
                    async with asyncio.timeout(self.site.timeout):
                        said = await connection.ask(b"CLUSTER", b"SLOTS")
            except OSError as fault:
                if refused := refused_by(fault):
                    raise Unavailable(f"{self.site.name}: {refused}; nothing was done.") from fault
                faults.append(f"{address[0]}:{address[1]}: {fault}")
                continue
            ranges = [
                (start, end, ((owner[0] or b"").decode() or address[0], owner[1])) for start, end, owner, *_ in said
            ]
            if ranges:
                self._ranges = ranges
                self._slots.clear()
                for stale in [a for a, link in self._links.items() if a not in self.primaries and not link.busy]:
                    self._spawn(self._links.pop(stale).close())
                return
            faults.append(f"{address[0]}:{address[1]}: it serves no slot")
        raise Unavailable(
            f"{self.site.name}: no server says which slots are whose ({'; '.join(faults)}); nothing was done."
        )


def slot_of(key: bytes) -> int:
    """Return a key's slot in a cluster, which is that of what stands in its first braces."""
    opened = key.find(b"{")
    closed = key.find(b"}", opened + 1)
    return crc_hqx(key[opened + 1 : closed] if closed > opened + 1 > 0 else key, 0) % SLOTS
