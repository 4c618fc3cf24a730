"""What HTTP costs: `python -m benchmarks.http`. CPU of one process for a posted message, for the same turn without HTTP, and for a
bare echo over the same server software; 16 connections, SQLite."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import issue_token
from chatkeep.server import create_app
from chatkeep.server.application import collect_less
from chatkeep.server.protocol import PromptProtocol

from . import work

CONNECTIONS = 16
BAR = 1.5


async def bot(turn: Turn[Any]) -> str:
    """Does what the bot of the other benchmarks does."""
    assert len(turn.history) <= work.WINDOW
    step = turn.state.get("revision", 0) + 1
    turn.state.update(work.state(step))
    return work.answer(step)


async def echo(request: Request) -> Response:
    """Gives back what it is sent."""
    return Response(json.dumps(json.loads(await request.body())), media_type="application/json")


def keep_on(folder: str) -> Chatkeep[Any]:
    """A Chatkeep on a file."""
    keep: Chatkeep[Any] = Chatkeep(
        "memory://" if not folder else f"sqlite:///{folder}/http.db", session_ttl="30m", history=work.WINDOW
    )
    keep.on_message(bot)
    return keep


def cpu() -> float:
    """Seconds of CPU that this process has used, with all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def served(app: Any, pipe: Connection, tokens: list[str], http: Any = "httptools") -> None:
    """Serves *app*; says how much CPU it has used whenever it is asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", access_log=False, http=http))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110 (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    pipe.send((listener.getsockname()[1], tokens))
    while await asyncio.to_thread(pipe.recv):
        pipe.send(cpu())
    server.should_exit = True
    await task


async def serve_echo(folder: str, pipe: Connection) -> None:
    """The floor of HTTP."""
    await served(Starlette(routes=[Route("/{path:path}", echo, methods=["POST"])]), pipe, [""] * CONNECTIONS)


async def serve_chatkeep(folder: str, pipe: Connection) -> None:
    """The server with a token for each conversation."""
    keep = keep_on(folder)
    async with keep:
        tokens = [(await issue_token(keep, "", f"customer-{n}")).token for n in range(CONNECTIONS)]
        await served(create_app(keep, hosts=["*"]), pipe, tokens, PromptProtocol)


async def serve_turns(folder: str, pipe: Connection) -> None:
    """The same turns without HTTP, as many at once."""
    keep = keep_on(folder)
    count = 0
    going = True

    async def client(n: int) -> None:
        nonlocal count
        while going:
            count += 1
            await keep.receive(f"customer-{n}", work.question(count), id=f"m{n}.{count}")

    async with keep:
        clients = [asyncio.create_task(client(n)) for n in range(CONNECTIONS)]
        pipe.send((0, []))
        while await asyncio.to_thread(pipe.recv):
            pipe.send((cpu(), count))
        going = False
        await asyncio.gather(*clients)


def child(main: Callable[[str, Connection], Awaitable[None]], folder: str, pipe: Connection) -> None:
    """Runs one subject in this process; each with the garbage collector as `chatkeep serve` sets it."""
    collect_less()
    uvloop.run(main(folder, pipe))  # type: ignore[arg-type]


async def post(port: int, n: int, token: str, until: float) -> int:
    """One connection that posts until a time; how often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    started = time.time_ns()
    while time.perf_counter() < until:
        count += 1
        body = json.dumps({"content": work.question(count), "id": f"{started}.{count}"}).encode()
        head = (
            f"POST /v1/conversations/customer-{n}/messages HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        told = await reader.readuntil(b"\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200"), told
        size = int(told.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(size)
    writer.close()
    return count


def asked(pipe: Connection) -> Any:
    """What a subject says of itself."""
    pipe.send(True)
    return pipe.recv()


async def load(port: int, tokens: list[str], seconds: float) -> int:
    """All connections at once."""
    until = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(post(port, n, token, until) for n, token in enumerate(tokens))))


def main() -> None:
    """Measures the three in turn, round after round, and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--store", choices=["sqlite", "memory"], default="sqlite")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    subjects = {"echo": serve_echo, "turn": serve_turns, "posted": serve_chatkeep}
    costs: dict[str, list[float]] = {name: [] for name in subjects}
    for round_number in range(1, options.rounds + 1):
        for name, subject in subjects.items():
            with tempfile.TemporaryDirectory() as folder:
                here, there = context.Pipe()
                process = context.Process(
                    target=child, args=(subject, folder if options.store == "sqlite" else "", there)
                )
                process.start()
                port, tokens = here.recv()
                if name == "turn":
                    time.sleep(0.5)
                    before, done = asked(here)
                    time.sleep(options.seconds)
                    after, count = asked(here)
                    cost = (after - before) / (count - done)
                else:
                    asyncio.run(load(port, tokens, 0.5))
                    before = asked(here)
                    count = asyncio.run(load(port, tokens, options.seconds))
                    cost = (asked(here) - before) / count
                here.send(False)
                process.join()
                costs[name].append(cost * 1e6)
                print(f"round {round_number}: {name:8} {cost * 1e6:6.0f} us of CPU", flush=True)
    middle = {name: statistics.median(found) for name, found in costs.items()}
    ratio = middle["posted"] / (middle["turn"] + middle["echo"])
    print(
        f"{'ok' if ratio <= BAR else 'MISSED'}: a posted message {middle['posted']:.0f} us, the turn without HTTP {middle['turn']:.0f} us and a bare echo "
        f"{middle['echo']:.0f} us: {ratio:.2f} x their sum (bar: at most {BAR})"
    )


if __name__ == "__main__":
    main()
