"""An answer as server-sent events, for all protocols: cut off where nobody reads, ended where a right ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...errors import StoreError
from ..events import CHECK_S, SLOW_S, gone, sent
from .answer_stream import AnswerStream, Ended, Step
from .entrance import Caller

log = logging.getLogger("chatkeep.server")

Writer = Callable[[Step], Awaitable[bytes]]
"""Makes the bytes that a protocol has for one step."""


def event(value: Any, *, name: str = "", id: str = "") -> bytes:
    """Return *value* as one event. JSON has no line ends in it, so nothing that is said can end an event."""
    head = (f"id: {id}\n" if id else "") + (f"event: {name}\n" if name else "")
    return b"%sdata: %s\n\n" % (head.encode(), msgspec.json.encode(value))


BEAT = b": beat\n\n"


class SSE(Response):
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
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        # (no-transform: what compresses, buffers.)
        self.headers.update({"cache-control": "no-store, no-transform", "x-accel-buffering": "no", **(headers or {})})
        self._caller, self._answer, self._write, self._first = caller, answer, write, first
        self._streams = getattr(getattr(request.scope.get("app"), "state", None), "streams", None)
        caller.hand_over(request, self)

    def end(self, reason: str) -> None:
        """End it, because the server stops."""
        self._answer.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the one request."""
        if self._streams is not None:
            self._streams.add(self)
        tasks = [
            asyncio.create_task(work, name=f"chatkeep {what}")
            for what, work in (
                ("answer", self._talk(send)),
                ("answer left", gone(receive)),
                ("answer allowed", self._lose_right()),
            )
        ]
        try:
            await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._streams is not None:
                self._streams.remove(self)
            for task in tasks:
                task.cancel()
            found, *_ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(found, Exception):
            raise found

    async def _talk(self, send: Send) -> None:
        try:
            await sent(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await self._say(send, self._first)
            async for step in self._answer.steps():
                await self._say(send, BEAT if step is None else await self._write(step))
            await sent(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.info("An answer's stream was cut off: its client took nothing for %g s.", SLOW_S)

    async def _say(self, send: Send, text: bytes) -> None:
        if text:
            await sent(send, {"type": "http.response.body", "body": text, "more_body": True})

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
