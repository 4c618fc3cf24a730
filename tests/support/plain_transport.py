"""A second transport of the Redis driver: one plain socket, a command at a time, without redis-py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from chatkeep.drivers.base import Pool, settle
from chatkeep.drivers.redis.replies import refusal
from chatkeep.drivers.redis.scripts import Argument, ScriptRun
from chatkeep.drivers.redis.seam import Address, Site
from chatkeep.errors import Unavailable


class PlainTransport:
    """Sends each script whole, as a gateway would that remembers none."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.primaries: Sequence[Address | None] = [None]
        self.covered = 0
        self._calls: asyncio.Queue[tuple[tuple[Argument, ...], ScriptRun | None, asyncio.Future[Any]] | None]
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects."""
        self._calls = asyncio.Queue()
        reader, writer = await asyncio.open_connection(*self.site.hosts[0])
        self._task = asyncio.create_task(self._work(reader, writer))

    async def close(self) -> None:
        """Answers what is queued, then closes the socket."""
        task, self._task = self._task, None
        if task is not None:
            self._calls.put_nowait(None)
            await task

    def pool(self) -> Pool:
        return Pool()

    def act(self, act: ScriptRun) -> asyncio.Future[Any]:
        """Runs a script."""
        return self._put(act.whole, act)

    def ask(self, *command: Argument, key: bytes = b"", address: Address | None = None) -> asyncio.Future[Any]:
        """Sends a plain command."""
        return self._put(command, None)

    def _put(self, command: tuple[Argument, ...], act: ScriptRun | None) -> asyncio.Future[Any]:
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._task is None:
            answered.set_exception(Unavailable(f"{self.site.name} is closed; nothing was done."))
        else:
            self._calls.put_nowait((command, act, answered))
        return answered

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (call := await self._calls.get()) is not None:
                command, act, answered = call
                answer = await self._exchange(reader, writer, command)
                settle(answered, refusal(str(answer), act) if isinstance(answer, hiredis.ReplyError) else answer)
        finally:
            writer.close()
        await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: Any) -> Any:
        writer.write(hiredis.pack_command(command))
        answers = hiredis.Reader(notEnoughData=self)
        while (answer := answers.gets()) is self:
            answers.feed(await reader.read(1 << 16))
        return answer

    async def listen(self, channel: bytes, heard: Callable[[bytes], None]) -> None:
        """Hears a channel."""
        reader, writer = await asyncio.open_connection(*self.site.hosts[0])
        answers = hiredis.Reader(notEnoughData=self)
        try:
            writer.write(hiredis.pack_command((b"SUBSCRIBE", channel)))  # type: ignore[arg-type]
            while True:
                while (answer := answers.gets()) is self:
                    answers.feed(await reader.read(1 << 16))
                if answer[0] == b"message":
                    heard(answer[2])
        finally:
            writer.close()
