"""Opening a connection to a server of one store: the one that its URL names, or whom the sentinels call the primary."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence

from .connection import Command, Connection
from .scripts import Script
from .seam import Address, Site

log = logging.getLogger("chatkeep")

ASK_S = 1.0  # between two questions to the sentinels
PAUSE_S = 1.0  # the longest between two attempts to connect; the shortest is random


class Opener:
    """Opens the connections of one store. *moved* is called when the sentinels name another primary than before."""

    def __init__(self, site: Site, moved: Callable[[], None]) -> None:
        self.site = site
        self._moved = moved
        self._primary_is: Address | None = None  # whom the sentinels have named last

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
            self._moved()

    async def follow(self) -> None:
        """Ask the sentinels again and again who the primary is."""
        while True:
            await asyncio.sleep(ASK_S * random.uniform(0.8, 1.0))
            with contextlib.suppress(OSError):  # who is connected stays so
                await self._primary()

    async def hear_sentinel(self, address: Address) -> None:
        """Hear of a switch when one sentinel tells it, which is sooner than the next asking."""
        while True:
            with contextlib.suppress(OSError), await self._sentinel(address) as connection:
                async for message in connection.messages(b"+switch-master"):
                    words = message.decode().split()
                    if len(words) == 5 and words[0] == self.site.service:
                        self._go_to((words[3], int(words[4])))
            await asyncio.sleep(random.uniform(0, PAUSE_S))

    async def _ask_sentinel(self, address: Address) -> tuple[int, Address]:
        """Return whom one sentinel names, behind the epoch of that."""
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
