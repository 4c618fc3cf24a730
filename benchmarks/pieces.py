"""Many replies that are streamed at once: `python -m benchmarks.pieces`. Two instances on one store, each a process of its own.

Each conversation is written to on one instance and watched on the other one. Each piece says when it was yielded, so what is measured is all of the
way: gathered, recorded, announced, read by the other instance, sent, received. Some clients open a stream and never read; they must cost the others
nothing. Every reply that is seen must be the whole one, no piece twice.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import msgspec
import uvloop

from chatkeep.server.settings import ServerSettings
from tests.support.service import service

from .engines import ENGINES
from .streams import AT_ONCE, Seat, Servers, quantiles, seats_at, store_of, tokens

BOT = """
import asyncio, time
from chatkeep import Chatkeep
keep = Chatkeep({url!r})

@keep.on_message
async def bot(turn):
    for _ in range(len(turn.said.split()), int(turn.text)):
        yield f"{{time.monotonic():.6f}} "
        await asyncio.sleep(0.5)
"""


class Piece(msgspec.Struct):
    """What is looked at of a piece."""

    at: int
    text: str


class Reader:
    """Who watches one reply."""

    def __init__(self, seat: Seat, pieces: int) -> None:
        self.seat, self.pieces = seat, pieces
        self.opened = asyncio.Event()
        self.said = ""
        self.took: list[float] = []
        self.fault = ""

    async def read(self, session: aiohttp.ClientSession, opening: asyncio.Semaphore) -> None:
        """Reads until the reply is there."""
        async with opening:
            response = await session.get(f"{self.seat.url}/events?after=0", headers=self.seat.headers)
        self.opened.set()
        rest = b""
        async for part in response.content.iter_any():
            seen_at = time.monotonic()
            *events, rest = (rest + part).split(b"\n\n")
            for event in events:
                if event.startswith(b"event: piece"):
                    self._note(msgspec.json.decode(event.partition(b"data: ")[2], type=Piece), seen_at)
                elif event.startswith(b"event: message") and b'"assistant"' in event:
                    whole = len(self.said.split()) == self.pieces
                    self.fault = self.fault or ("" if whole else f"{len(self.said.split())} pieces of {self.pieces}")
                    response.close()
                    return

    def _note(self, piece: Piece, seen_at: float) -> None:
        if piece.at != len(self.said):
            self.fault = "a piece came twice, or was left out"
        self.said += piece.text
        self.took += [seen_at - float(said) for said in piece.text.split()]


def refuse_to_read(seat: Seat) -> socket.socket:
    """A client that opens a stream and reads nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", seat.port))
    path, token = f"/v1/conversations/{seat.conversation}/events?after=0", seat.token
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return client


async def watched(readers: list[Reader], writers: list[Seat], servers: Servers, slow: list[Seat]) -> float:
    """Has all replies made at once and read: how much more memory the servers have while that goes on, in MB."""
    opening, unread = asyncio.Semaphore(AT_ONCE), [refuse_to_read(seat) for seat in slow]
    before_mb = servers.sample().memory_mb
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
        reading = [asyncio.create_task(reader.read(session, opening)) for reader in readers]
        await asyncio.gather(*(reader.opened.wait() for reader in readers))

        async def post(seat: Seat) -> None:
            message, headers = {"content": str(readers[0].pieces)}, {**seat.headers, "prefer": "respond-async"}
            async with opening, session.post(f"{seat.url}/messages", json=message, headers=headers) as response:
                response.raise_for_status()

        await asyncio.gather(*map(post, writers))
        await asyncio.sleep(readers[0].pieces * 0.25)
        during_mb = servers.sample().memory_mb
        await asyncio.gather(*reading)
    for client in unread:
        client.close()
    return during_mb - before_mb


def main() -> None:
    """Measures, and ends with 1 when a reply was not seen as it was made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pieces", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="replies that are streamed at once")
    parser.add_argument("--pieces", type=int, default=40, help="pieces of a reply, two a second")
    parser.add_argument("--slow", type=int, default=20, help="clients that never read")
    parser.add_argument("--store", default="redis", help=f"{', '.join(ENGINES)} (a new one), or a URL")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, store_of(given.store, Path(folder)) as url, ExitStack() as stack:
        settings = {name: "off" for name in ServerSettings.__struct_fields__ if name.startswith("rate_")}
        settings |= {"concurrency": str(given.streams), "turn_timeout": "10m"}
        services = [stack.enter_context(service(Path(folder), url=url, bot=BOT, **settings)) for _ in range(2)]
        servers = Servers(services)
        named = asyncio.run(tokens(url, 2 * given.streams))
        seats = seats_at(servers.ports, named)
        servers.streams()  # (which is answered when they have started)
        writers, watchers = seats[: given.streams], seats[given.streams :]
        readers = [Reader(seat, given.pieces) for seat in watchers]
        held_mb = uvloop.run(watched(readers, writers, servers, watchers[: given.slow]))
    faults = [reader.fault for reader in readers if reader.fault]
    said, _ = quantiles([took for reader in readers for took in reader.took])
    print(f"{given.streams} replies at once, {given.slow} clients that never read, on {given.store}")
    print(f"from the piece yielded to the piece seen on the other instance: {said}")
    print(f"memory: {held_mb:.1f} MB more, {held_mb * 1024 / given.streams:.0f} KB for each stream")
    print(f"{len(faults)} replies were not seen as they were made {faults[:3]}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
