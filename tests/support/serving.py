"""A real server on a free loopback port inside the test's loop, and a client that can also send what no client should."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, NamedTuple
from urllib.parse import quote

import uvicorn
from starlette.middleware import Middleware

from chatkeep import Chatkeep
from chatkeep.auth.credentials import create_key
from chatkeep.server import create_app
from chatkeep.server.limits import Limits, RateLimitMiddleware
from chatkeep.server.protocol import PromptProtocol

PATIENCE_S = 10.0
PROBLEM = "application/problem+json"


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def narrow_connection(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of whose answers the system takes 64 KB before they are read, whatever its settings are."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=peer)


class Client:
    """Speaks HTTP/1.1 to one port, one connection a request, with a service key of the tenant ""."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key

    async def raw(self, request: bytes, *, bodyless: bool = False) -> Answer:
        """Sends bytes as they are and reads to the end; *bodyless*: as the answer to a HEAD."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            return await answer_from(reader, bodyless=bodyless)
        finally:
            writer.close()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request, with a JSON content type, a Host and the key unless *headers* say otherwise ("": not at all)."""
        told = {
            "Host": f"127.0.0.1:{self.port}",
            "Connection": "close",
            "Authorization": self.key and f"Bearer {self.key}",
        }
        if body is not None:
            told |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        told |= headers or {}
        lines = [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in told.items() if value], "", ""]
        return await self.raw("\r\n".join(lines).encode() + (body or b""))

    async def post(self, conversation: str, message: Any, headers: dict[str, str] | None = None) -> Answer:
        """Posts a message to a conversation."""
        return await self.ask("POST", path_of(conversation), json.dumps(message).encode(), headers)

    async def log(self, conversation: str, query: str = "") -> list[dict[str, Any]]:
        """The messages of a conversation; none when there is no such conversation."""
        answer = await self.ask("GET", path_of(conversation) + query)
        assert answer.status in (200, 404), answer
        found: list[dict[str, Any]] = answer.json["messages"] if answer.status == 200 else []
        return found

    def opening(self, method: str, path: str, *lines: str) -> bytes:
        """A request with the key, up to and with the end of its headers."""
        told = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {self.key}", *lines, "", ""]
        return "\r\n".join(told).encode()


def path_of(conversation: str) -> str:
    """The address of a conversation's messages."""
    return f"/v1/conversations/{quote(conversation, safe='')}/messages"


async def answer_from(reader: asyncio.StreamReader, *, bodyless: bool = False) -> Answer:
    """The answer on a connection that ends after it."""
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        bodyless = bodyless or head[0].split()[1] in ("204", "304")
        body = b"" if bodyless else await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(int(head[0].split()[1]), headers, body)


@asynccontextmanager
async def served(keep: Chatkeep[Any], **options: Any) -> AsyncIterator[Client]:
    """Serves *keep* until the end of the block, by `create_app(keep, **options)`."""
    app = create_app(keep, **({"title": "A bot"} | options))
    async with serving(app) as port:
        yield Client(port, (await create_key(keep, "")).token)


class PromptServer(uvicorn.Server):
    """Stops when it is told, and not at the next tenth of a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopped = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stops at Ctrl-C too."""
        super().handle_exit(sig, frame)
        self.stopped.set()

    async def main_loop(self) -> None:
        """Does what uvicorn does ten times a second, once, and waits."""
        await self.on_tick(0)
        await self.stopped.wait()


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Serves any application until the end of the block: its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # (asyncio does so for sockets that it makes itself)
    config = uvicorn.Config(app, log_level="critical", ws="none", lifespan="on", http=PromptProtocol)
    server = PromptServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not server.started:
                assert not task.done(), "the server did not start"
                await asyncio.sleep(0.005)
        yield listener.getsockname()[1]
    finally:
        server.stopped.set()
        async with asyncio.timeout(PATIENCE_S):
            await task


@asynccontextmanager
async def limited(url: str, rates: dict[str, str], **options: Any) -> AsyncIterator[tuple[Chatkeep[Any], Client]]:
    """A server with *rates* on the store *url*, and a client without a key."""
    keep: Chatkeep[Any] = Chatkeep(url)
    keep.on_message(lambda turn: f"you said {turn.text}")
    limits = Limits(keep._engine.store.driver, rates)
    app = create_app(keep, middleware=[Middleware(RateLimitMiddleware, limits=limits)], **options)
    app.state.limits = limits
    async with keep:
        await limits.open()
        async with serving(app) as port:
            yield keep, Client(port, "")
        await limits.close()
