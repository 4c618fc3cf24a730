"""A chatkeep server in a process of its own, which can be killed: `python -m tests.support.client_server FOLDER PORT`."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import create_key
from chatkeep.client import Client
from chatkeep.server import create_app
from chatkeep.testing.servers import free_port

from .fork_server import NOWHERE, ROOT, Program
from .program import PATIENCE_S, killed_when_late
from .waiting import until

SLOW_S = 0.4


def counting(url: str, **options: Any) -> Chatkeep[Any]:
    """A bot that counts; "slow" takes a while, "fail" fails."""
    keep: Chatkeep[Any] = Chatkeep(
        url, **({"retry_after": "1ms", "retry_longest": "5ms", "poll": "20ms", "attempts": 3} | options)
    )

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "fail":
            raise RuntimeError("as asked")
        if turn.text == "slow":
            await asyncio.sleep(SLOW_S)
        turn.state["count"] = turn.state.get("count", 0) + 1
        return f"{turn.text} is number {turn.state['count']}"

    return keep


class Pages:
    """What answers every request with a page of its own, as a proxy without a server behind it does: under *status*; or with *told* as
    JSON."""

    def __init__(self, port: int) -> None:
        self.port, self.status, self.requests = port, 404, 0
        self.told: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: Request) -> Response:
        """The page."""
        self.requests += 1
        if self.told is not None:
            return JSONResponse(self.told)
        where = {"location": "/sign-in"} if self.status == 302 else None
        return HTMLResponse("<!doctype html><title>nothing here</title>", self.status, where)


@asynccontextmanager
async def answering_pages(port: int = 0) -> AsyncIterator[Pages]:
    """A running one, on *port* or a free one."""
    listener = socket.create_server(("127.0.0.1", port))
    pages = Pages(listener.getsockname()[1])
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", pages.answer, methods=every)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield pages
    finally:
        server.should_exit = True
        await serving


class Running:
    """The server on *folder*, from `start` to `kill`, as often as wanted, always on one port and with one key."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: Program | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        """A service key."""
        return (self.folder / "key").read_text()

    def start(self) -> Self:
        """Starts it and waits until it answers."""
        source, end = os.pipe()
        self.process = Program(
            str(self.folder),
            str(self.port),
            folder=ROOT,
            environment=os.environ,
            streams=(NOWHERE, end, 2),
            module=__name__,
        )
        os.close(end)
        with killed_when_late(self.process), os.fdopen(source, "rb") as output:
            assert b"ready\n" == output.readline()
        return self

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.kill()


class Place(NamedTuple):
    """A server in this process: its address, a service key, and the Chatkeep behind it."""

    port: int
    key: str
    keep: Chatkeep[Any]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self, token: str | None = "", *, port: int = 0, **options: Any) -> AsyncIterator[Client]:
        """A client of it, with the service key unless a *token* (None: none) says otherwise; through a *port*, if given."""
        url = f"http://127.0.0.1:{port or self.port}"
        async with Client(url, self.key if token == "" else token, **options) as client:
            yield client


async def serve(folder: Path, port: int) -> None:
    """Serves until killed."""
    keep = counting(f"sqlite:///{folder}/chat.db")
    async with keep:
        if not (folder / "key").exists():
            (folder / "key").write_text((await create_key(keep, "")).token)
        listener = socket.create_server(("127.0.0.1", port))
        # asyncio does that only where a socket names its protocol; without it each answer waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = uvicorn.Server(uvicorn.Config(create_app(keep), log_level="critical", ws="none"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        print("ready", flush=True)
        await task


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
