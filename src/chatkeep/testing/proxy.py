"""A TCP proxy that does what networks do: loses replies, resets, goes silent, is slow. It also counts round trips.

    from chatkeep.drivers.redis import RedisDriver

    async with Proxy(server.port) as proxy:
        driver = RedisDriver(f"redis://127.0.0.1:{proxy.port}/0")
        proxy.lose = lambda request: "reply" if b"EVALSHA" in request else None

Clients cannot tell a lost reply (the act was done) from a request that was lost before (it was not): a driver must
come through both.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Literal, Self

Loss = Literal["request", "reply"]


class Proxy:
    """Stands between a client and 127.0.0.1:*upstream*, on a port of its own.

    lose: is asked for each request that passes, and says what is lost of it: "request" (the connection is reset and
    the server never sees it), "reply" (the server does it, then the connection is reset), or None. silent: nothing passes any
    more, connections stay (a blackhole). delay_s: how long each chunk is held up, both ways. refusing: new
    connections are reset. lost counts both kinds of loss; trips counts requests that came after the reply to the one
    before, request_bytes and reply_bytes what passed.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self.lose: Callable[[bytes], Loss | None] = lambda request: None
        self.silent = False
        self.refusing = False
        self.delay_s = 0.0
        self.lost = {"request": 0, "reply": 0}
        self.trips = 0
        self.request_bytes = 0
        self.reply_bytes = 0
        self.connections = 0
        self._door: socket.socket
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        # Not by asyncio.start_server: what that has accepted just when it is closed, or the loop ends, nobody closes.
        self._door = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._door.setblocking(False)
        self.port = self._door.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._door, self._accept)
        return self

    async def __aexit__(self, *exc: object) -> None:
        asyncio.get_running_loop().remove_reader(self._door)
        self._door.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for link in self._links:
            link.cancel()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._door.accept()
            self.connections += 1
            if self.refusing:
                _close(client)
                return
            link = asyncio.create_task(self._serve(client))
            self._links.add(link)
            link.add_done_callback(self._links.discard)
            link.add_done_callback(lambda _: _close(client))  # also if it was cancelled before it began

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        ends: list[asyncio.StreamWriter] = []
        try:
            reader, writer = await asyncio.open_connection(sock=client)
            ends.append(writer)
            up, down = await asyncio.open_connection("127.0.0.1", self.upstream)
            ends.append(down)
            await Link(self, reader, writer, up, down).run()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in ends:
                _reset(end)


class Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up: asyncio.StreamReader,
        down: asyncio.StreamWriter,
    ) -> None:
        self.proxy = proxy
        self.client, self.server = (reader, writer), (up, down)
        self.answered = True
        self.losing = False

    async def run(self) -> None:
        """Pass bytes both ways until one end is closed or something is lost."""
        ways = [asyncio.create_task(self.requests()), asyncio.create_task(self.replies())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def requests(self) -> None:
        """Client to server."""
        proxy = self.proxy
        while chunk := await self.client[0].read(1 << 20):
            await self.held_up()
            loss = proxy.lose(chunk)
            if loss:
                proxy.lost[loss] += 1
            if loss == "request":
                return
            self.losing = loss == "reply"
            proxy.trips += self.answered
            self.answered = False
            proxy.request_bytes += len(chunk)
            self.server[1].write(chunk)
            await self.server[1].drain()

    async def replies(self) -> None:
        """Server to client."""
        while chunk := await self.server[0].read(1 << 20):
            if self.losing:
                return
            await self.held_up()
            self.answered = True
            self.proxy.reply_bytes += len(chunk)
            self.client[1].write(chunk)
            await self.client[1].drain()

    async def held_up(self) -> None:
        """Wait as long as the network wants."""
        if self.proxy.delay_s:
            await asyncio.sleep(self.proxy.delay_s)
        while self.proxy.silent:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # a test sets it like a switch


def _reset(writer: asyncio.StreamWriter) -> None:
    _do_not_linger(writer.get_extra_info("socket"))
    writer.transport.abort()


def _close(end: socket.socket) -> None:
    _do_not_linger(end)
    end.close()


def _do_not_linger(end: socket.socket) -> None:
    # A close is a reset then: the other end sees an error, not an orderly end.
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
