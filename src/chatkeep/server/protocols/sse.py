"""An answer as server-sent events, for all protocols, ended where a right ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from starlette.requests import Request

from ...app import core_of
from ...errors import StoreError
from ...model import Failing
from ..streams import CHECK_S, Stream
from .answer_stream import Ended, Step
from .entrance import Caller

FAILING_S = 20.0
"""So long a caller who sees nothing of an answer before its end waits for that of a bot that fails."""

Writer = Callable[[Step], Awaitable[bytes]]
"""Makes the bytes that a protocol has for one step."""

BEAT = b": beat\n\n"


class Steps(Protocol):
    """What is streamed: an answer, or several of them one after another."""

    def steps(self) -> AsyncIterator[Step]:
        """Give what happens, as it happens."""
        ...

    def stop(self) -> None:
        """End the answer for this caller early."""
        ...


class SSE(Stream):
    """
    Streams one answer: *first*, then what *write* makes of each step.

    It ends with the answer, or when the client goes, the server stops or the caller's right ends; the answer is made all the same.
    """

    def __init__(
        self,
        request: Request,
        caller: Caller,
        answer: Steps,
        write: Writer,
        *,
        first: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # (no-transform: what compresses, buffers.)
        super().__init__(request, {"cache-control": "no-store, no-transform", **(headers or {})})
        self._caller, self._answer, self._write, self._first = caller, answer, write, first

    def end(self, reason: str) -> None:
        """End the stream, because the server stops."""
        self._answer.stop()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give what the protocol has for each step."""
        async with losing_right(self._caller, self._answer.stop):
            yield self._first
            async for step in self._answer.steps():
                yield BEAT if step is None else await self._write(step)


@asynccontextmanager
async def losing_right(caller: Caller, stop: Callable[[], None]) -> AsyncIterator[None]:
    """Call *stop* when the caller's right ends, as long as the block lasts."""

    async def look() -> None:
        while caller.principal.name:
            await asyncio.sleep(CHECK_S)
            with suppress(StoreError):
                if not await caller.holds():
                    stop()

    looking = asyncio.create_task(look(), name="chatkeep answer allowed")
    try:
        yield
    finally:
        looking.cancel()


class WhileItWorks:
    """
    The answer to message *number*, for a caller who sees nothing of it before its end.

    It is followed as long as the bot works on it. Where the bot has failed and will not have tried again within FAILING_S of the
    beginning, it ends at once with that: with the status "accepted", since the answer is still to come.
    """

    def __init__(self, caller: Caller, number: int) -> None:
        self._answer, self._clock = caller.answer(number), core_of(caller.access.keep).clock

    def stop(self) -> None:
        """End the answer for this caller early."""
        self._answer.stop()

    async def steps(self) -> AsyncIterator[Step]:
        """Give what happens, as it happens."""
        loop = asyncio.get_running_loop()
        until, failing = loop.time() + FAILING_S, None
        async for step in self._answer.steps():
            yield step
            failing = step if isinstance(step, Failing) else failing
            if failing is not None and loop.time() + max(failing.retry_at - self._clock(), 0.0) >= until:
                yield Ended("accepted", failing=failing)
                return


async def whole(answer: Steps) -> Ended:
    """Wait for the end of an answer, for a caller who takes it in one piece."""
    async for step in answer.steps():
        if isinstance(step, Ended):
            return step
    raise AssertionError("An answer ends with how it has ended.")
