"""Servers that a test may kill, with a proxy before them, and clients that remember everything they were told."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from itertools import count
from typing import Any
from urllib.parse import urlencode

from chatkeep import Chatkeep, Turn, Unavailable, Uncertain
from chatkeep.testing.history import DeliveryReport, Verdict, check, collect
from chatkeep.testing.proxy import Proxy
from chatkeep.testing.servers import PostgresServer, Server


class Stand:
    """A fresh store on a server that may be killed; `url` goes through the proxy, `straight` does not."""

    def __init__(self, server: Server, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self.name = f"t{secrets.token_hex(6)}"

    def url(self, **options: Any) -> str:
        """The store, through the proxy."""
        return self.straight(**options).replace(f":{self.server.port}", f":{self.proxy.port}", 1)

    def straight(self, **options: Any) -> str:
        """The store itself."""
        kept = "schema" if isinstance(self.server, PostgresServer) else "prefix"
        url: str = self.server.url  # type: ignore[attr-defined]
        return f"{url}{'&' if '?' in url else '?'}{urlencode({kept: self.name, **options})}"

    def commits(self, request: bytes) -> bool:
        """Whether *request*, as it passes the proxy, writes something."""
        if not isinstance(self.server, PostgresServer):
            return b"EVALSHA" in request
        return b"\0\0\0\6append" in request or b"\0\0\0\5write" in request

    async def start(self) -> None:
        """Starts the server again, on what it had."""
        await asyncio.to_thread(self.server.start)


async def note(turn: Turn[dict[str, Any]]) -> str:
    """A bot that the checker can judge: each reply says which message it answers, and where in the history that stands."""
    turn.state.setdefault("seen", []).append(turn.id)
    return f"{len(turn.state['seen'])}: {turn.id}"


class Clients:
    """Sends through several Chatkeeps, and remembers everything that was told, in order."""

    def __init__(self, keeps: Sequence[Chatkeep[Any]]) -> None:
        self.keeps = keeps
        self.told: list[DeliveryReport] = []
        self.faults: list[Exception] = []
        self.longest_s = 0.0
        self.acked_at = 0.0
        self._ids, self._places = count(1), count()

    async def send(self, name: str, id: str = "", *, how: str = "receive", to: int | None = None) -> bool:
        """Sends one message to the next Chatkeep; whether it was acknowledged."""
        id = id or str(next(self._ids))
        keep = self.keeps[(next(self._places) if to is None else to) % len(self.keeps)]
        self.told.append(DeliveryReport(name, id, False))
        began = time.monotonic()
        try:
            receipt = await getattr(keep, how)(name, id, id=id)
        except (Unavailable, Uncertain) as fault:
            self.faults.append(fault)
            return False
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - began)
        shown = [reply.text for reply in receipt.replies] if receipt.status == "answered" else None
        self.told.append(DeliveryReport(name, id, True, shown, receipt.duplicate))
        self.acked_at = time.monotonic()
        assert all(text.endswith(f": {id}") for text in shown or []), f"{id} was given the answer of another: {shown}"
        return True

    async def insist(self, name: str, id: str = "", *, how: str = "receive", within: float = 15.0) -> None:
        """Sends one message until it is acknowledged, to one Chatkeep after another."""
        id = id or str(next(self._ids))
        deadline = time.monotonic() + within
        while not await self.send(name, id, how=how):
            assert time.monotonic() < deadline, self.faults[-1]
            await asyncio.sleep(0.02)

    async def until(self, stop: asyncio.Event, *, names: int = 8) -> None:
        """Many clients, who insist, until *stop* is set."""

        async def client(number: int) -> None:
            while not stop.is_set():
                await self.insist(f"c{number % names}", how="accept" if number % 3 == 0 else "receive")
                await asyncio.sleep(0.005)

        await asyncio.gather(*(client(number) for number in range(2 * names)))

    async def verdict(self, *, lossy: bool = False) -> Verdict:
        """What the checker says of everything that was sent."""
        return check(self.told, await collect(self.keeps[0]), lossy=lossy)
