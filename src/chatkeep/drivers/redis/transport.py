"""The connections of the Redis driver: one held link to each server that has something of the store, and which calls take which.

`opening` opens them, and acts travel over them in `batches`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from binascii import crc_hqx
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from typing import Any

from ...errors import Unavailable
from ...extras import from_extra
from ..base import Pool
from ..openable import end
from .batches import Call, Link
from .connection import pack_command, refused_by
from .opening import PAUSE_S, Opener
from .replies import refusal
from .scripts import Argument, Home, ScriptRun
from .seam import Address, Site

with from_extra("redis", "A Redis store (redis://)"):
    from hiredis import ReplyError

log = logging.getLogger("chatkeep")

SLOTS = 16384  # of a cluster
REDIRECTS = 8  # of one call, in a cluster that is being moved about


def pack_arguments(arguments: Sequence[Argument]) -> bytes:
    """Return *arguments* as a command carries them, without the count that opens it."""
    packed = pack_command(tuple(arguments))
    return packed[packed.index(b"\n") + 1 :]


@lru_cache(maxsize=64)
def _opening(sha: bytes, keys: int) -> bytes:
    """Return what an EVALSHA begins with, up to its keys."""
    return pack_arguments((b"EVALSHA", sha, keys))


def _packed_home(home: Home) -> bytes:
    """Return the keys and names of *home*: the same for each act that writes to one conversation, and half of its words."""
    if not home.packed:
        home.packed = pack_arguments(home.keys + home.names)
    return home.packed


class Servers:
    """Knows which link a slot's calls take: to the one server, to the primary that Sentinel names, or through a cluster."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._quiet = asyncio.Event()
        self._opener = Opener(site, self._leave_primary)
        self._loop = asyncio.get_running_loop()
        self._links: dict[Address | None, Link] = {}
        self._ranges: list[tuple[int, int, Address]] = []
        self._slots: dict[int, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._learning: asyncio.Task[None] | None = None
        self._closed = False
        if not site.cluster:
            self._link(None)

    async def start(self) -> None:
        """Learn a cluster's slots, or begin to follow what the sentinels say."""
        if self.site.cluster:
            await self._learn()
        if self.site.service:
            self._spawn(self._opener.follow())
            for address in self.site.hosts:
                self._spawn(self._opener.hear_sentinel(address))

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""
        self._closed = True
        while any(link.busy for link in self._links.values()):
            self._quiet.clear()
            await self._quiet.wait()
        await asyncio.gather(*map(end, self._tasks), *(link.close() for link in self._links.values()))

    def pool(self) -> Pool:
        """Return one connection to each server that acts go to."""
        pools = [link.pool() for link in self._links.values()]
        return Pool(*map(sum, zip(*pools, strict=True))) if pools else Pool()

    def act(self, act: ScriptRun) -> asyncio.Future[Any]:
        """Run a script where its keys are."""
        script, home, arguments, _ = act
        keys = home.keys
        count = 3 + len(keys) + len(home.names) + len(arguments)
        opening, named = _opening(script.sha, len(keys)), home.packed or _packed_home(home)
        packed = b"*%d\r\n%b%b%b" % (count, opening, named, pack_arguments(arguments))
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
        call = Call(act, self._loop.time() + self.site.timeout, self._loop.create_future(), packed, slot)
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
            self._links[address] = Link(
                self._opener, address, answer=self._answer, lost=self._lost, idle=self._quiet.set
            )
        return self._links[address]

    def _answer(self, link: Link, call: Call, answer: Any) -> None:
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
                asking = Call(None, call.deadline, self._loop.create_future(), pack_command((b"ASKING",)), None)
                asking.answered.cancel()
                there.put(asking)
            there.put(call)
        else:
            if code == "READONLY":
                link.retire()
            if code in ("READONLY", "CLUSTERDOWN", "MASTERDOWN"):
                self._learn_soon()
            call.settle(refusal(words, act))

    async def listen(self, channel: bytes, heard: Callable[[bytes], None]) -> None:
        """Have *heard* called with every message of a channel, on a connection of its own that comes back by itself."""
        while True:
            try:
                # Announcements go everywhere.
                with await self._opener.connect(random.choice(self.primaries)) as connection:
                    async for message in connection.messages(channel):
                        heard(message)
            except OSError as fault:
                log.info("%s: announcements are interrupted (%s); listening again soon", self.site.name, fault)
            await asyncio.sleep(random.uniform(0, PAUSE_S))

    async def _lost(self, link: Link) -> None:
        """Learn whose the slots of a server are that cannot be reached, and send its calls there."""
        with contextlib.suppress(OSError, Unavailable):
            await self._learn()
        for call in link.take():
            self._route(call, link.address)

    def _leave_primary(self) -> None:
        self._link(None).leave("the sentinels name another primary")

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
                with await self._opener.connect(address) as connection:
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
