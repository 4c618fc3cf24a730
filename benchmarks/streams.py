"""Many open event streams while people write: `python -m benchmarks.streams`. Real servers, each a process of its own.

Two clients watch each conversation, on different instances where there are several; some conversations are written to
once a second. Every stream must see every message of its conversation, once and in order, and the servers must keep
their memory and give all descriptors back.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import aiohttp
import msgspec
import psutil
import uvloop

from chatkeep import Chatkeep
from chatkeep.auth.credentials import issue_token
from chatkeep.server.settings import ServerSettings
from tests.support.service import Service, service

from .engines import ENGINES

HERE = Path(__file__).parent
WATCHERS = 2  # clients of a conversation
EVERY_S = 1.0  # how often a conversation is written to
AT_ONCE = 100  # streams that are being opened
TOLD_S = 10.0  # how often progress is told
LOOK_S, PATIENCE_S = 0.1, 30.0  # how often, and how long, is waited for what should come
STRAY = 10  # descriptors that may come and go, such as those of a scrape
SPARE = 500  # descriptors beside those of the streams: the store's, the posts', the program's own

SOON_S = 0.5
"""What 99 of 100 posts and events must not exceed: beyond it, somebody who looks at both ends begins to notice."""

GROWN = 1.05
"""How much more memory the servers may have in the last quarter than in the second one."""

PAGES_MB = 16.0
"""What SQLite keeps of its file in a server's memory; that takes minutes to fill, and is no leak."""

BOT = """
from chatkeep import Chatkeep
keep = Chatkeep({url!r})

@keep.on_message
async def bot(turn):
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"{{turn.state['count']}}: {{turn.text}}"
"""


class Seat(NamedTuple):
    """One client: which conversation it watches, where, and by which token."""

    conversation: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """The conversation's address."""
        return f"http://127.0.0.1:{self.port}/v1/conversations/{self.conversation}"

    @property
    def headers(self) -> dict[str, str]:
        """Who it is."""
        return {"authorization": f"Bearer {self.token}"}


class Shown(msgspec.Struct):
    """What is looked at of a message. A post's id ends with when it was sent, by the clock that all processes share."""

    id: str
    number: int
    reply_to: int | None = None


class Stream:
    """What one client has seen."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.opened = False
        self.number = 0
        self.sent: dict[int, float] = {}
        self.messages: list[float] = []
        self.replies: list[float] = []
        self.faults: list[str] = []

    async def read(self, session: aiohttp.ClientSession, opening: asyncio.Semaphore) -> None:
        """Reads until it is cancelled; whatever ends it before is a fault."""
        try:
            async with opening:
                response = await session.get(f"{self.seat.url}/events?after=0", headers=self.seat.headers)
                response.raise_for_status()
            self.opened, rest = True, b""
            async for part in response.content.iter_any():
                seen_at = time.monotonic()
                *events, rest = (rest + part).split(b"\n\n")
                for event in events:
                    self.note(event, seen_at)
            self.faults.append("the stream ended")
        except Exception as fault:  # whatever it is, it is told in the end
            self.faults.append(repr(fault))

    def note(self, event: bytes, seen_at: float) -> None:
        """Takes down a message that was seen, and whether it is the next one."""
        if kind_of(event) != b"message":
            return
        shown = msgspec.json.decode(event.partition(b"data: ")[2], type=Shown)
        if shown.number != self.number + 1:
            self.faults.append(f"{shown.number} came after {self.number}")
        self.number = shown.number
        if shown.reply_to is None:
            self.sent[shown.number] = sent_at = float(shown.id.rpartition("@")[2])
            self.messages.append(seen_at - sent_at)
        else:
            self.replies.append(seen_at - self.sent.pop(shown.reply_to))


def kind_of(event: bytes) -> bytes:
    """What kind of event it is; a beat, and how soon to come back, may stand before that."""
    found = re.search(rb"(?m)^event: (\S+)", event)
    return found[1] if found else b""


class Seen(NamedTuple):
    """What all clients have seen together."""

    messages: list[float]
    replies: list[float]
    faults: list[str]


async def seen(seats: list[Seat], pipe: Connection) -> Seen:
    """Opens all streams and says how many; told how long the logs are in the end, waits until that was seen."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(), connector=connector) as session:
        opening, streams = asyncio.Semaphore(AT_ONCE), [Stream(seat) for seat in seats]
        tasks = [asyncio.create_task(stream.read(session, opening)) for stream in streams]
        pipe.send(await settled(lambda: sum(stream.opened for stream in streams), len(streams)))
        heads: dict[str, int] = await asyncio.to_thread(pipe.recv)
        await settled(lambda: sum(stream.number >= heads[stream.seat.conversation] for stream in streams), len(streams))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for stream in streams:
        if stream.number != (head := heads[stream.seat.conversation]):
            stream.faults.append(f"{stream.number} of {head} messages were seen")
    return Seen(
        [lag for stream in streams for lag in stream.messages],
        [lag for stream in streams for lag in stream.replies],
        [f"{stream.seat.conversation} at {stream.seat.port}: {fault}" for stream in streams for fault in stream.faults],
    )


def watch(seats: list[Seat], pipe: Connection) -> None:
    """The process of the clients that watch."""
    pipe.send(uvloop.run(seen(seats, pipe)))


async def settled(look: Callable[[], int], wanted: int) -> int:
    """What *look* finds when that is *wanted*, or when patience ends."""
    found = look()
    for _ in range(round(PATIENCE_S / LOOK_S)):
        if found == wanted:
            break
        await asyncio.sleep(LOOK_S)
        found = look()
    return found


class Posts:
    """What became of the messages that were posted."""

    def __init__(self, seats: list[Seat]) -> None:
        self.seats = seats
        self.took: list[float] = []
        self.refused: list[str] = []

    async def make(self, seconds: float) -> None:
        """Posts to each conversation, every EVERY_S, on a connection of its own."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            for number, seat in enumerate(self.seats):
                session = await stack.enter_async_context(aiohttp.ClientSession())
                first_at = time.monotonic() + EVERY_S * number / len(self.seats)
                group.create_task(self._write(session, seat, first_at, round(seconds / EVERY_S)))

    async def _write(self, session: aiohttp.ClientSession, seat: Seat, first_at: float, count: int) -> None:
        for step in range(count):
            await asyncio.sleep(max(0.0, first_at + step * EVERY_S - time.monotonic()))
            await self._post(session, seat, step)

    async def _post(self, session: aiohttp.ClientSession, seat: Seat, step: int) -> None:
        sent_at = time.monotonic()
        message = {"id": f"{seat.conversation}.{step}@{sent_at}", "content": f"this is message {step}"}
        try:
            async with session.post(f"{seat.url}/messages", json=message, headers=seat.headers) as response:
                said = await response.text()
            if response.status != 200:
                self.refused.append(f"{response.status}: {said}")
        except aiohttp.ClientError as fault:
            self.refused.append(repr(fault))
        self.took.append(time.monotonic() - sent_at)


class Sample(NamedTuple):
    """All servers at one moment, together."""

    memory_mb: float
    descriptors: int
    cpu_s: float


class Servers:
    """The instances that are measured."""

    def __init__(self, services: list[Service]) -> None:
        self.ports = [service.port for service in services]
        self.processes = [psutil.Process(service.process.pid) for service in services]
        self.samples: list[Sample] = []

    def sample(self) -> Sample:
        """What they take now."""
        return Sample(
            sum(process.memory_info().rss for process in self.processes) / 2**20,
            self.descriptors(),
            sum(sum(process.cpu_times()[:2]) for process in self.processes),
        )

    def descriptors(self) -> int:
        """How many files and sockets they have open."""
        return sum(process.num_fds() for process in self.processes)

    def streams(self) -> int:
        """How many event streams they say are open."""
        return sum(self._streams(port) for port in self.ports)

    def _streams(self, port: int) -> int:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            found = re.search(rb"(?m)^chatkeep_event_streams (\S+)", answer.read())
        assert found is not None
        return int(float(found[1]))

    async def watched(self, posts: Posts) -> None:
        """Takes a sample every second, and tells how it goes."""
        began = time.monotonic()
        while True:
            self.samples.append(self.sample())
            if len(self.samples) % TOLD_S == 1:
                now, past = self.samples[-1], self.samples[-min(len(self.samples), round(TOLD_S) + 1)]
                print(
                    f"{time.monotonic() - began:4.0f} s: {now.memory_mb:.1f} MB, {now.descriptors} descriptors, "
                    f"{(now.cpu_s - past.cpu_s) / TOLD_S:.0%} of a core, {len(posts.took)} posts",
                    flush=True,
                )
            await asyncio.sleep(1.0)


@contextmanager
def store_of(name: str, folder: Path) -> Iterator[str]:
    """The URL of the store: of a new one on an engine of that name, or *name* itself."""
    if name not in ENGINES:
        yield name
        return
    with ENGINES[name](folder) as engine:
        print(engine.version())
        yield engine.store()


async def tokens(url: str, clients: int) -> list[tuple[str, str]]:
    """A conversation and a token for it, for each client."""
    run = format(time.time_ns(), "x")  # a store that was given may have been here before
    names = [f"{run}-{number % (clients // WATCHERS)}" for number in range(clients)]
    async with Chatkeep[dict[str, object]](url) as keep:
        issued = [await issue_token(keep, "", name) for name in names]
    return [(name, one.token) for name, one in zip(names, issued, strict=True)]


def seats_at(ports: list[int], named: list[tuple[str, str]]) -> list[Seat]:
    """A seat for each client; those of one conversation are at different instances, where there are several."""
    conversations = len(named) // WATCHERS
    return [
        Seat(name, ports[(number % conversations + number // conversations) % len(ports)], token)
        for number, (name, token) in enumerate(named)
    ]


async def written(posts: Posts, servers: Servers, seconds: float) -> dict[str, int]:
    """Writes to the conversations while the servers are watched: how long each log is then."""
    watching = asyncio.create_task(servers.watched(posts))
    await posts.make(seconds)
    watching.cancel()
    async with aiohttp.ClientSession() as session:
        heads = {}
        for seat in posts.seats:
            async with session.get(f"{seat.url}?messages=0", headers=seat.headers) as response:
                heads[seat.conversation] = (await response.json())["head"]
    return heads


def quantiles(times: list[float]) -> tuple[str, float]:
    """The three that are told, in words; the 99th percentile in seconds."""
    if len(times) < 2:
        return "none", float("inf")
    cuts = statistics.quantiles(times, n=100)
    return f"p50 {cuts[49] * 1e3:.1f}, p95 {cuts[94] * 1e3:.1f}, p99 {cuts[98] * 1e3:.1f} ms of {len(times)}", cuts[98]


def measured(given: argparse.Namespace, url: str, folder: Path, stack: ExitStack) -> Iterator[tuple[bool, str]]:
    """Everything on one store: whether each thing was as it should be, and what it was."""
    named = asyncio.run(tokens(url, given.clients))
    rates = {name: "off" for name in ServerSettings.__struct_fields__ if name.startswith("rate_")}
    services = [stack.enter_context(service(folder, url=url, bot=BOT, **rates)) for _ in range(given.instances)]
    servers = Servers(services)
    seats = seats_at(servers.ports, named)
    assert servers.streams() == 0  # (which is answered when the server has started)
    start = servers.sample()

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    clients = context.Process(target=watch, args=(seats, there), daemon=True)
    clients.start()
    opened = here.recv()
    held_mb = servers.sample().memory_mb - start.memory_mb
    print(f"{opened} streams are open: {held_mb:.1f} MB more than the {start.memory_mb:.1f} MB before", flush=True)

    posts = Posts(seats[: given.posting])
    heads = {name: 0 for name, _ in named} | uvloop.run(written(posts, servers, given.seconds))
    here.send(heads)
    found: Seen = here.recv()
    clients.join()
    streams = asyncio.run(settled(servers.streams, 0))
    left = asyncio.run(settled(servers.descriptors, start.descriptors))
    for fault in [*found.faults[:10], *posts.refused[:10]]:
        print(f"       {fault}")

    yield opened == given.clients, f"{opened} of {given.clients} streams open, {held_mb * 1024 / opened:.0f} KB each"
    wanted = given.posting * round(given.seconds / EVERY_S)
    answered = len(posts.took) - len(posts.refused)
    yield answered == wanted, f"{answered} of {wanted} posts answered"
    wanted, events = sum(heads[seat.conversation] for seat in seats), len(found.messages) + len(found.replies)
    yield not found.faults and events == wanted, f"{events} of {wanted} messages seen, {len(found.faults)} faults"
    for what, times in {
        "a post is answered": posts.took,
        "from the post to the message seen": found.messages,
        "from the post to the reply seen": found.replies,
    }.items():
        said, p99 = quantiles(times)
        yield p99 <= SOON_S, f"{what}: {said}"
    quarter = max(len(servers.samples) // 4, 1)
    early, late = servers.samples[quarter : 2 * quarter], servers.samples[-quarter:]
    before, after = (statistics.mean(sample.memory_mb for sample in part) for part in (early, late))
    pages_mb = PAGES_MB * given.instances if url.startswith("sqlite") else 0.0
    yield (
        after <= before * GROWN + pages_mb,
        f"memory: {before:.1f} MB in the second quarter, {after:.1f} MB in the last",
    )
    files = [sample.descriptors for sample in servers.samples[quarter:]]
    yield max(files) - min(files) <= STRAY, f"descriptors while it ran: {min(files)} to {max(files)}"
    yield left <= start.descriptors, f"descriptors when all had gone: {left}, at the start {start.descriptors}"
    yield streams == 0, f"streams in /metrics when all had gone: {streams}"


def main() -> None:
    """Measures, and ends with 1 when something was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--posting", type=int, default=200, help="conversations that are written to")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--store", default="sqlite", help=f"{', '.join(ENGINES)} (a new one), or a URL")
    parser.add_argument("--instances", type=int, default=1)
    given = parser.parse_args()
    if given.posting > given.clients // WATCHERS:
        parser.error(f"{WATCHERS} clients watch each conversation: --posting is at most {given.clients // WATCHERS}")
    needed = given.clients + given.posting + SPARE
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < needed:
        parser.error(f"a process may open {hard} files (ulimit -Hn); {given.clients} clients need {needed}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    # Beside the code and not in /tmp, which may be memory: a disk is what is measured.
    with (
        tempfile.TemporaryDirectory(dir=HERE, prefix=".data-") as name,
        store_of(given.store, folder := Path(name)) as url,
        ExitStack() as stack,
    ):
        bars = list(measured(given, url, folder, stack))
    for met, said in bars:
        print(f"{'ok    ' if met else 'MISSED'} {said}")
    sys.exit(not all(met for met, _ in bars))


if __name__ == "__main__":
    main()
