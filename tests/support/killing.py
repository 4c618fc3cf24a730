"""Kills real processes under load and checks every message afterwards: `python -m tests.support.killing FOLDER ENGINE`.

Two instances serve on loopback ports. Clients, in a process that survives everything, go to either one at random, send
new messages by receive and accept, and send again what was not answered, or was answered long ago. A supervisor kills
the instances with SIGKILL at random instants and starts the next ones, and kills the database server and starts it again
on what it had. What the clients were told is the judge; the store never is its own.

    --points     instead: an instance dies once at each named point
    --plant BUG  with a bug that the checker must find: early (answered before it is durable), forgetful (ids are not kept)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from msgspec import structs

from chatkeep import Chatkeep, ChatkeepError, Message, Turn, Unavailable
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Append, Driver
from chatkeep.drivers.durable_object import transport as durable_object
from chatkeep.drivers.postgresql import driver as postgresql
from chatkeep.drivers.redis import transport as redis  # redis-py with it
from chatkeep.drivers.sqlite import driver as sqlite_driver
from chatkeep.drivers.sqlite import opening as sqlite
from chatkeep.drivers.upstash import transport as upstash
from chatkeep.testing.crash import POINTS, CrashDriver, CrashPoint, Wrapped, wrapped
from chatkeep.testing.history import DeliveryReport, StoredConversation, Verdict, check, collect
from chatkeep.testing.servers import DurableObjectServer, PostgresServer, RedisServer, Server, UpstashServer

ENGINES = ("sqlite", "redis", "postgresql", "upstash", "durable-object")
INSIDE = ("handler:start", "handler:end")
INSIDE_SQLITE = ("sqlite:entry", "sqlite:commit", "sqlite:committed")
PLANTS = ("early", "forgetful")

CLIENTS = 12
INSTANCES = 2
GENERATION = 600  # so many messages go to a dozen conversations, then to the next dozen
PATIENCE_S = 10.0
GONE = "gone-"  # conversations that are erased while they are used

SERVERS = {
    "redis": lambda folder: RedisServer("valkey-9", folder),
    "postgresql": PostgresServer,
    "upstash": UpstashServer,
    "durable-object": lambda folder: DurableObjectServer(),  # (what outlives a kill -9 need not be on a disk)
}
DRIVERS = (sqlite_driver, redis, postgresql, upstash, durable_object)
"""Imported once, before every fork: an instance that imports them itself is killed before it can serve anybody."""


# -- an instance ----------------------------------------------------------------------------------------------------------


class ForgetfulDriver(Wrapped):
    """Planted bug: an append keeps no ids, as a set of seen ids in memory would not."""

    async def append(self, act: Append) -> Any:
        again = [structs.replace(entry, id=f"{entry.id}~{os.urandom(2).hex()}") for entry in act.entries]
        revision = act.revision + os.urandom(2).hex()
        return await self.inner.append(structs.replace(act, entries=again, revision=revision))


def keep_on(url: str, runs: Path, *, crash: CrashPoint | None = None, plant: str | None = None) -> Chatkeep[Any]:
    """A bot that notes each id in its state, and each run as a byte of a file."""
    driver: Driver = driver_for(url)
    if crash is not None:
        hook_sqlite(crash)
        driver = wrapped(CrashDriver(driver, crash))
    if plant == "forgetful":
        driver = wrapped(ForgetfulDriver(driver))
    keep: Chatkeep[Any] = Chatkeep(driver, poll="50ms", turn_timeout="5s", session_ttl="1h", history=5)
    counter = os.open(runs, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @keep.on_message
    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if crash is not None:
            crash("handler:start")
        name = plain(turn.id)
        os.write(counter, b".")
        turn.state.setdefault("seen", []).append(name)
        if random.random() < 0.2:
            await asyncio.sleep(random.random() * 0.01)
        if crash is not None:
            crash("handler:end")
        return f"{len(turn.state['seen'])}: {name}"

    return keep


def hook_sqlite(crash: CrashPoint) -> None:
    """Crash points inside a transaction: between its statements, before its commit, and after it, before anybody knows."""
    connect = sqlite.Opener._connect

    def hooked(self: sqlite.Opener, *arguments: Any) -> Any:
        db = connect(self, *arguments)
        db.set_update_hook(lambda kind, base, table, rowid: crash("sqlite:entry") if table == "entry" else None)
        db.set_commit_hook(lambda: bool(crash("sqlite:commit")))
        db.set_wal_hook(lambda *_: crash("sqlite:committed") or 0)  # replaces the automatic checkpoint
        return db

    sqlite.Opener._connect = hooked  # type: ignore[method-assign]


def plain(id: str) -> str:
    """The id that its client gave a message."""
    return id.partition("~")[0]


async def serve(listening: socket.socket, keep: Chatkeep[Any], plant: str | None) -> None:
    """An instance, until it is killed. One line of JSON is a request, one its answer."""
    late: set[asyncio.Task[Any]] = set()

    async def answer(how: str, name: str, id: str) -> list[Any]:
        if how == "look":
            found = await keep.conversation(name)
            async for _ in keep.history(name, limit=3):
                pass
            return [found is not None]
        if how == "erase":
            return [await keep.erase(name)]
        if how == "accept" and plant == "early":
            late.add(asyncio.create_task(later(name, id)))
            return [None, False]
        receipt = await (keep.receive if how == "receive" else keep.accept)(name, id, id=id)
        return [[reply.text for reply in receipt.replies] if how == "receive" else None, receipt.duplicate]

    async def later(name: str, id: str) -> None:
        await asyncio.sleep(0.01)
        with contextlib.suppress(ChatkeepError):
            await keep.accept(name, id, id=id)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            try:
                said: Any = await answer(*json.loads(line))
            except ChatkeepError as fault:
                said = f"{type(fault).__name__}: {fault}"
            writer.write(json.dumps(said).encode() + b"\n")

    while True:
        try:
            await keep.open()
            break
        except Unavailable:
            await asyncio.sleep(0.02)
    async with await asyncio.start_server(talk, sock=listening) as server:
        await server.serve_forever()


# -- the clients ----------------------------------------------------------------------------------------------------------


class Clients:
    """Many clients in front of the instances at *ports*: what they send, and everything that they are told, in order."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.told: list[DeliveryReport] = []
        self.unanswered: list[tuple[str, str]] = []
        self.errors: dict[str, int] = {}
        self.stopping = False

    async def work(self, number: int) -> None:
        """One client: asks, waits, asks again."""
        links: dict[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        chosen = random.Random(number)
        sent = 0
        while not self.stopping:
            name, id = f"c{chosen.randrange(CLIENTS)}-{len(self.told) // GENERATION}", f"{number}.{sent}"
            dice = chosen.random()
            if self.unanswered and dice < 0.5:
                name, id = self.unanswered.pop(chosen.randrange(len(self.unanswered)))
            elif self.told and 0.5 <= dice < 0.6:
                again = self.told[-chosen.randrange(1, 500) :][0]
                name, id = again.conversation, again.id
            elif dice > 0.97:
                gone = f"{GONE}{number}"
                for how in ("receive", "look", "erase"):
                    await self.ask(links, chosen.choice(self.ports), how, gone, f"{id}.{dice}")
                continue
            else:
                sent += 1
            self.told.append(DeliveryReport(name, id, False))
            how = chosen.choice(("receive", "accept"))
            answer = await self.ask(links, chosen.choice(self.ports), how, name, id)
            if answer is None:
                self.unanswered.append((name, id))
            else:
                self.told.append(DeliveryReport(name, id, True, *answer))
        for _, writer in links.values():
            writer.transport.abort()

    async def ask(self, links: dict[int, Any], port: int, *request: str) -> list[Any] | None:
        """What the instance at *port* says; None when it says nothing, or that it cannot."""
        said: Any
        try:
            async with asyncio.timeout(PATIENCE_S):
                if port not in links:
                    links[port] = await asyncio.open_connection("127.0.0.1", port)
                reader, writer = links[port]
                writer.write(json.dumps(request).encode() + b"\n")
                line = await reader.readline()
                said = json.loads(line) if line else "Gone: the instance died"
        except (OSError, ValueError) as fault:
            said = f"{type(fault).__name__}: {fault}"
        if isinstance(said, list):
            return said
        kind = said.partition(":")[0]
        self.errors[kind] = self.errors.get(kind, 0) + 1
        if kind in ("Gone", "ConnectionResetError", "BrokenPipeError", "TimeoutError", "JSONDecodeError"):
            links.pop(port)[1].transport.abort()
        elif kind not in ("Unavailable", "Uncertain", "Conflict"):
            raise SystemExit(f"A client was told {said}")
        return None

    async def run(self, stop: int) -> None:
        """Works until somebody writes to *stop*."""
        asyncio.get_running_loop().add_reader(stop, lambda: setattr(self, "stopping", True))
        await asyncio.gather(*(self.work(number) for number in range(CLIENTS)))


async def drained(url: str, runs: Path) -> dict[str, StoredConversation]:
    """What the store holds when it is opened once more and has answered everything."""
    async with keep_on(url, runs) as keep:
        held = await collect(keep)
    return {
        name: structs.replace(found, messages=[replaced_id(message) for message in found.messages])
        for name, found in held.items()
        if not name.startswith(GONE)
    }


def replaced_id(message: Message) -> Message:
    """The message under the id that its client gave it."""
    return structs.replace(message, id=plain(message.id))


async def judged(url: str, runs: Path, ports: list[int], stop: int) -> int:
    """Runs the clients to their end, checks, prints; the exit code."""
    clients = Clients(ports)
    await clients.run(stop)
    verdict: Verdict = check(clients.told, await drained(url, runs))
    kinds = Counter(fault.split()[0] for fault in verdict.faults)
    errors = ", ".join(f"{count} {kind}" for kind, count in sorted(clients.errors.items())) or "none"
    print(
        f"{verdict.acked} acked, {verdict.unacked} unacked but committed, {runs.stat().st_size} handler runs, "
        f"{len(verdict.faults)} faults {dict(kinds)} {verdict.faults[:5]}; errors told: {errors}",
        flush=True,
    )
    return 1 if verdict.faults else 0


# -- the supervisor -------------------------------------------------------------------------------------------------------


def fork(run: Callable[[], Coroutine[Any, Any, int | None]]) -> int:
    """Runs a coroutine in a forked process; its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = asyncio.run(run()) or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def reached(condition: Callable[[], bool], within: float) -> bool:
    """Waits for *condition*, at most so long; tells whether it came."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class House:
    """The processes of one run on one store: the clients, and an instance at each port."""

    def __init__(self, url: str, runs: Path, *, instances: int = INSTANCES, plant: str | None = None) -> None:
        self.url, self.runs, self.plant = url, runs, plant
        self.doors = [socket.create_server(("127.0.0.1", 0), backlog=100) for _ in range(instances)]
        ports = [door.getsockname()[1] for door in self.doors]
        stop, self.stop = os.pipe()
        self.clients = fork(lambda: judged(url, runs, ports, stop))
        self.instances = [0] * instances
        self._seen = 0  # bytes of what handlers have noted

    def start(self, place: int, crash: CrashPoint | None = None) -> None:
        """Starts the instance at *place*."""

        async def life() -> None:
            await serve(self.doors[place], keep_on(self.url, self.runs, crash=crash, plant=self.plant), self.plant)

        self.instances[place] = fork(life)

    def kill(self, place: int) -> None:
        """kill -9; an instance that has ended by itself before is a failure."""
        child, self.instances[place] = self.instances[place], 0
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"an instance ended by itself, with status {status}")

    def died(self, place: int, *, within: float) -> bool:
        """Waits for the instance at *place* to die by itself; whether it did."""
        killed = False

        def ended() -> bool:
            nonlocal killed
            child, status = os.waitpid(self.instances[place], os.WNOHANG)
            if child:
                self.instances[place], killed = 0, os.WIFSIGNALED(status)
            return bool(child)

        return reached(ended, within) and killed

    def work(self, *, within: float) -> None:
        """Waits until a handler has run since the last call, or so long: on a busy machine kills would come before there is anything
        to kill."""
        reached(lambda: self._size() != self._seen, within)
        self._seen = self._size()

    def _size(self) -> int:
        return self.runs.stat().st_size if self.runs.exists() else 0

    def verdict(self) -> bool:
        """Stops the clients, and has them say whether all was well."""
        os.write(self.stop, b".")
        _, status = os.waitpid(self.clients, 0)
        self.clients = 0
        return status == 0

    def __enter__(self) -> House:
        return self

    def __exit__(self, *exc: object) -> None:
        for child in (*self.instances, self.clients):
            if child:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        for door in self.doors:
            door.close()
        os.close(self.stop)


@contextlib.contextmanager
def store(engine: str, folder: Path) -> Iterator[tuple[Callable[[], str], Server | None]]:
    """A server of *engine* of our own, if it has one, and URLs of fresh stores on it."""
    if engine == "sqlite":
        yield lambda: f"sqlite:///{folder}/{secrets.token_hex(4)}.db", None
        return
    with SERVERS[engine](folder) as server:
        option = {"redis": "?prefix", "postgresql": "?schema", "upstash": "&prefix", "durable-object": "&store"}[engine]
        yield lambda: f"{server.url}{option}=t{secrets.token_hex(4)}", server


def kill_at_random(engine: str, folder: Path, kills: int, server_kills: int, plant: str | None) -> bool:
    """Kills instances and the server, one after another, every 50 to 250 ms; whether all was well."""
    with store(engine, folder) as (url, server), House(url(), folder / "runs", plant=plant) as house:
        for place in range(INSTANCES):
            house.start(place)
        victims = ["instance"] * kills + ["server"] * (server_kills if server else 0)
        random.shuffle(victims)
        for done, victim in enumerate(victims):
            time.sleep(random.uniform(0.05, 0.25))
            house.work(within=2.0)
            if victim == "server" and server:
                server.kill()
                server.start()
            else:
                house.kill(done % INSTANCES)
                house.start(done % INSTANCES)
            if done % 100 == 99:
                print(f"  {done + 1} kills", file=sys.stderr, flush=True)
        time.sleep(0.5)
        return house.verdict()


def kill_at_points(engine: str, folder: Path, points: tuple[str, ...], nth: int) -> bool:
    """Has an instance die once at each of *points*, each time on a fresh store; whether all was well."""
    well = True
    with store(engine, folder) as (url, _):
        for point in points:
            print(f"{point}: ", end="", flush=True)
            with House(url(), folder / f"{point}.runs", instances=1) as house:
                house.start(0, CrashPoint(point, nth))
                if house.died(0, within=30.0):
                    house.start(0)
                    time.sleep(0.1)
                    well = house.verdict() and well
                else:
                    print("was never reached", flush=True)
                    well = False
    return well


def points_of(engine: str) -> tuple[str, ...]:
    """Every named point that there is on *engine*."""
    return (*POINTS, *INSIDE, *(INSIDE_SQLITE if engine == "sqlite" else ()))


def main() -> None:
    """Kills, drains, checks, prints; exit code 1 when a promise was broken or a point never reached."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("engine", choices=ENGINES)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--server-kills", type=int, default=0)
    options.add_argument("--points", action="store_true")
    options.add_argument("--nth", type=int, default=7)
    options.add_argument("--plant", choices=PLANTS)
    given = options.parse_args()
    if given.points:
        well = kill_at_points(given.engine, given.folder, points_of(given.engine), given.nth)
    else:
        well = kill_at_random(given.engine, given.folder, given.kills, given.server_kills, given.plant)
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
