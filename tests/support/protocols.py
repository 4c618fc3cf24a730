"""A bot that streams, applications with the routes of protocols, and what comes over their streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute

from chatkeep import Chatkeep, Turn

from .serving import Client, serving
from .stores import FAST


class Bot:
    """Says `Hello there, ` and the message in three pieces, the second when it is let go on. It knows what it was asked.

    *goes_on*: when it has failed in the middle, it goes on with its answer; else the answer ends there.
    """

    def __init__(self, url: str = "memory://", *, goes_on: bool = False, **options: Any) -> None:
        self.goes_on = goes_on
        self.keep: Chatkeep[Any] = Chatkeep(url, **(FAST | options))
        self.asked: list[str] = []
        self.faults = self.faults_at_once = 0
        self.goes = asyncio.Event()
        self.goes.set()
        self.said = 0
        self.keep.on_message(self.answer)

    async def answer(self, turn: Turn[Any]) -> AsyncIterator[str]:
        """The handler."""
        self.asked.append(turn.id)
        turn.state["count"] = turn.state.get("count", 0) + 1
        if turn.text == "ask":
            turn.reply({"type": "interrupt", "id": "i1", "reason": "approval", "message": "Really?"})
        if self.faults_at_once:
            self.faults_at_once -= 1
            raise RuntimeError("the model is away")
        if turn.message.role == "event":
            yield json.dumps(turn.message.content)
            return
        if not (self.goes_on and turn.said):
            yield "Hello "
        self.said = 1
        await self.goes.wait()
        if self.faults:
            self.faults -= 1
            raise RuntimeError("the model is away")
        yield "there, "
        yield turn.text


@asynccontextmanager
async def mounted(bot: Bot | Chatkeep[Any], routes: Sequence[BaseRoute]) -> AsyncIterator[Client]:
    """An application of somebody else's with these routes, without credentials."""

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        async with bot.keep if isinstance(bot, Bot) else bot:
            yield

    async with serving(Starlette(routes=list(routes), lifespan=life)) as port:
        yield Client(port, "")


class Sse:
    """An answer that streams: its head, and its events as they come."""

    def __init__(self, status: int, headers: dict[str, str], lines: Callable[[], Any]) -> None:
        self.status, self.headers, self._lines = status, headers, lines

    async def next(self) -> Any:
        """The next event's data; None at the end."""
        while (line := await self._lines()) is not None:
            if line.startswith("data: "):
                return line[6:] if line == "data: [DONE]" else json.loads(line[6:])
        return None

    async def line(self) -> str | None:
        """The next line; None at the end."""
        found: str | None = await self._lines()
        return found

    async def lines(self) -> list[str | None]:
        """All lines that still come, with the comments."""
        found = list[str | None]()
        async with asyncio.timeout(20):
            while (line := await self._lines()) is not None:
                found.append(line)
        return found

    async def rest(self) -> list[Any]:
        """All that still come."""
        found = []
        async with asyncio.timeout(20):
            while (one := await self.next()) is not None:
                found.append(one)
        return found


@asynccontextmanager
async def streamed(
    client: Client, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> AsyncIterator[Sse]:
    """One request whose answer streams; its connection is closed at the end of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    raw = json.dumps(body).encode() if body is not None else b""
    told = {"Host": "localhost", "Connection": "close"} | (headers or {})
    if client.key:
        told |= {"Authorization": f"Bearer {client.key}"}
    if raw:
        told |= {"Content-Type": "application/json", "Content-Length": str(len(raw))}
    lines = [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in told.items()], "", ""]
    writer.write("\r\n".join(lines).encode() + raw)
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        said = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        buffer = b""

        async def line() -> str | None:
            nonlocal buffer
            while b"\n" not in buffer:
                if "content-length" in said:
                    if not (more := await reader.readline()):
                        return None
                    buffer += more
                    continue
                size = int(await reader.readline() or b"0", 16)
                if not size:
                    return None
                buffer += (await reader.readexactly(size + 2))[:-2]
            found, buffer = buffer.split(b"\n", 1)
            return found.decode()

        yield Sse(int(head[0].split()[1]), said, line)
    finally:
        writer.close()
