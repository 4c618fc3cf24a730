"""An answer as server-sent events, for all protocols, ended where a right ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress

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
        allowed = asyncio.create_task(self._lose_right(), name="chatkeep answer allowed")
        try:
            yield self._first
            async for step in self._answer.steps():
                yield BEAT if step is None else await self._write(step)
        finally:
            allowed.cancel()

    async def _lose_right(self) -> None:
        """End the stream when the caller's right ends."""
        while self._caller.principal.name:
            await asyncio.sleep(CHECK_S)
            with suppress(StoreError):
                if not await self._caller.holds():
                    self._answer.stop()


async def whole(answer: AnswerStream) -> Ended:
    """Wait for the end of an answer, for a caller who takes it in one piece."""
    async for step in answer.steps():
        if isinstance(step, Ended):
            return step
    raise AssertionError("An answer ends with how it has ended.")
