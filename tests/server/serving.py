"""A real server on a free loopback port inside the test's loop, and a client that can also send what no client should."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import uvicorn

from chatkeep import Chatkeep
from chatkeep.server import create_app

PATIENCE_S = 10.0


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """Speaks HTTP/1.1 to one port, one connection a request."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def raw(self, request: bytes) -> Answer:
        """Sends bytes as they are and reads to the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            return await answer_from(reader)
        finally:
            writer.close()

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request, with a JSON content type and a Host unless *headers* say otherwise."""
        told = {"Host": f"127.0.0.1:{self.port}", "Connection": "close"}
        if body is not None:
            told |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        told |= headers or {}
        lines = [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in told.items() if value], "", ""]
        return await self.raw("\r\n".join(lines).encode() + (body or b""))

    async def post(self, conversation: str, message: Any, headers: dict[str, str] | None = None) -> Answer:
        """Posts a message to a conversation."""
        return await self.ask("POST", path_of(conversation), json.dumps(message).encode(), headers)

    async def log(self, conversation: str, query: str = "") -> list[dict[str, Any]]:
        """The messages of a conversation."""
        found: list[dict[str, Any]] = (await self.ask("GET", path_of(conversation) + query)).json["messages"]
        return found


def path_of(conversation: str) -> str:
    """The address of a conversation's messages."""
    return f"/v1/conversations/{quote(conversation, safe='')}/messages"


async def answer_from(reader: asyncio.StreamReader) -> Answer:
    """The answer on a connection that ends after it."""
    async with asyncio.timeout(PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0))) if head[0].split()[1] != "304" else b""
    return Answer(int(head[0].split()[1]), headers, body)


@asynccontextmanager
async def served(keep: Chatkeep[Any], **options: Any) -> AsyncIterator[Client]:
    """Serves *keep* until the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(keep, **({"title": "A bot"} | options))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", lifespan="on"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not server.started:
                assert not task.done(), "the server did not start"
                await asyncio.sleep(0.005)
        yield Client(listener.getsockname()[1])
    finally:
        server.should_exit = True
        async with asyncio.timeout(PATIENCE_S):
            await task
