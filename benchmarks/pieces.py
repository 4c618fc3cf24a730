"""Many replies that are streamed at once: `python -m benchmarks.pieces`. Two instances on one store, each a process of its own.

Each conversation is written to on one instance and watched on the other one. Each piece says when it was yielded, so what is measured is all of the
way: gathered, recorded, announced, read by the other instance, sent, received. Some clients open a stream and never read; they must cost the others
nothing. Every reply that is seen must be the whole one, no piece twice. Beside it stands the same without a store: one process that keeps pieces in its memory,
shows each at once, and loses them when it dies. `--record` puts what was found into RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import psutil
import uvloop

from chatkeep.server.settings import ServerSettings
from tests.support.service import service

from . import report
from .engines import ENGINES
from .streams import AT_ONCE, Seat, Servers, kind_of, seats_at, store_of, tokens

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


HEAD = (
    "store                             ",
    "replies at once",
    "a piece is seen: p50, ms",
    "p99, ms",
    "KB a stream",
    "CPU a piece, us",
)
KEPT_NOWHERE = """
import asyncio, json, time
from collections import defaultdict
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

said, news = defaultdict(list), defaultdict(asyncio.Event)

async def answer(name, pieces):
    for _ in range(pieces):
        said[name].append(f"{time.monotonic():.6f} ")
        news[name].set()
        await asyncio.sleep(0.5)
    said[name].append(None)
    news[name].set()

async def post(request):
    name = request.path_params["name"]
    request.app.state.answering = [*getattr(request.app.state, "answering", []),
        asyncio.create_task(answer(name, int((await request.json())["content"])))]
    return Response()

async def events(request):
    name = request.path_params["name"]
    async def told():
        shown = at = 0
        while True:
            for piece in said[name][shown:]:
                if piece is None:
                    yield 'event: message\\ndata: {"role": "assistant"}\\n\\n'
                    return
                yield "event: piece\\ndata: " + json.dumps({"at": at, "text": piece}) + "\\n\\n"
                at += len(piece)
                shown += 1
            news[name].clear()
            await news[name].wait()
    return StreamingResponse(told(), media_type="text/event-stream")

one = "/v1/conversations/{name}"
app = Starlette(routes=[Route(one + "/messages", post, methods=["POST"]), Route(one + "/events", events)])
"""
"""A server whose streams are kept in its memory alone."""


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
                if kind_of(event) == b"piece":
                    self._note(msgspec.json.decode(event.partition(b"data: ")[2], type=Piece), seen_at)
                elif kind_of(event) == b"message" and b'"assistant"' in event:
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


class Cost(NamedTuple):
    """What the servers have taken: memory in MB while the replies were made, and CPU for all of it."""

    memory_mb: float
    cpu_s: float


async def watched(readers: list[Reader], writers: list[Seat], servers: Servers, slow: list[Seat]) -> Cost:
    """Has all replies made at once and read."""
    opening, unread = asyncio.Semaphore(AT_ONCE), [refuse_to_read(seat) for seat in slow]
    before = servers.sample()
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
        during = servers.sample()
        await asyncio.gather(*reading)
    for client in unread:
        client.close()
    return Cost(during.memory_mb - before.memory_mb, servers.sample().cpu_s - before.cpu_s)


@contextmanager
def kept_nowhere(folder: Path) -> Iterator[Servers]:
    """The server whose streams are not durable."""
    folder.joinpath("kept_nowhere.py").write_text(KEPT_NOWHERE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "kept_nowhere:app", "--port", str(port), "--log-level", "error"]
    with subprocess.Popen([*command, "--no-access-log"], cwd=folder) as process:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            servers = Servers([])
            servers.ports, servers.processes = [port], [psutil.Process(process.pid)]
            yield servers
        finally:
            process.kill()


def measured(what: str, servers: Servers, named: list[tuple[str, str]], given: argparse.Namespace) -> Iterator[str]:
    """Measures, and gives the cells of a row; raises where a reply was not seen as it was made."""
    seats = seats_at(servers.ports, named)
    writers, watchers = seats[: given.streams], seats[given.streams :]
    readers = [Reader(seat, given.pieces) for seat in watchers]
    cost = uvloop.run(watched(readers, writers, servers, watchers[: given.slow]))
    took = [took for reader in readers for took in reader.took]
    faults = [reader.fault for reader in readers if reader.fault]
    if faults or not took:
        raise SystemExit(f"{what}: {len(faults)} replies were not seen as they were made {faults[:3]}")
    cuts = statistics.quantiles(took, n=100)
    yield what
    yield f"{given.streams:,}"
    yield f"{1e3 * cuts[49]:.0f}"
    yield f"{1e3 * cuts[98]:.0f}"
    yield f"{1024 * cost.memory_mb / given.streams:.0f}"
    yield f"{1e6 * cost.cpu_s / len(took):.0f}"


def main() -> None:
    """Measures, and ends with 1 when a reply was not seen as it was made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pieces", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="replies that are streamed at once")
    parser.add_argument("--pieces", type=int, default=40, help="pieces of a reply, two a second")
    parser.add_argument("--slow", type=int, default=20, help="clients that never read")
    parser.add_argument("--store", nargs="+", default=["redis"], help=f"{', '.join(ENGINES)} (new ones), or URLs")
    parser.add_argument("--record", action="store_true", help="puts the figures into RESULTS.md")
    given = parser.parse_args()
    rows = []
    for store in given.store:
        with tempfile.TemporaryDirectory() as folder, store_of(store, Path(folder)) as url, ExitStack() as stack:
            settings = {name: "off" for name in ServerSettings.__struct_fields__ if name.startswith("rate_")}
            settings |= {"concurrency": str(given.streams), "turn_timeout": "10m"}
            services = [stack.enter_context(service(Path(folder), url=url, bot=BOT, **settings)) for _ in range(2)]
            servers = Servers(services)
            named = asyncio.run(tokens(url, 2 * given.streams))
            servers.streams()  # (which is answered when they have started)
            rows.append(list(measured(f"{store.partition(':')[0]}, two instances", servers, named, given)))
    with tempfile.TemporaryDirectory() as folder, kept_nowhere(Path(folder)) as servers:
        named = [(str(number % given.streams), "") for number in range(2 * given.streams)]
        rows.append(list(measured("not durable: one process, no store", servers, named, given)))
    for row in (HEAD, *rows):
        print("  ".join(f"{cell:<{len(name)}}" for cell, name in zip(row, HEAD, strict=True)))
    if given.record:
        report.record("pieces", {"head": [name.strip() for name in HEAD], "rows": rows})


if __name__ == "__main__":
    main()
