"""An answer as server-sent events, for all protocols, ended where a right ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from starlette.requests import Request

from ...errors import StoreError
from ..streams import CHECK_S, Stream
from .answer_stream import AnswerStream, Ended, Step
from .entrance import Caller

Writer = Callable[[Step], Awaitable[bytes]]
"""Makes the bytes that a protocol has for one step."""

BEAT = b": beat\n\n"


class SSE(Stream):
    """
    Streams one answer: *first*, then what *write* makes of each step.

    It ends with the answer, or when the client goes, the server stops or the caller's right ends; the answer is made all the same.
    """

    def __init__(
        self,
        request: Request,
        caller: Caller,
        answer: AnswerStream,
        write: Writer,
        *,
        first: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # (no-transform: what compresses, buffers.)
        super().__init__(request, {"cache-control": "no-store, no-transform", **(headers or {})})
        self._caller, self._answer, self._write, self._first = caller, answer, write, first

    def end(self, reason: str) -> None:
        """End it, because the server stops."""
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


async def whole(answer: AnswerStream) -> Ended:
    """Wait for the end of an answer, for a caller who takes it in one piece."""
    async for step in answer.steps():
        if isinstance(step, Ended):
            return step
    raise AssertionError("An answer ends with how it has ended.")
