"""Uvicorn's HTTP protocol, with a deadline and a limit for what comes before a request's body; uvicorn has neither.

uvicorn.Config(app, http=PromptProtocol)
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 15.0
HEAD_MOST = 64 * 1024


class PromptProtocol(HttpToolsProtocol):
    """Hangs up on a client that does not finish its request line and headers within HEAD_S, or in HEAD_MOST bytes.

    The same clock runs for a body that nobody reads any more, because its request is answered already.
    """

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there, and has to say something."""
        super().connection_made(cast(asyncio.Transport, Corked(transport, self.loop)))
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Something was said."""
        super().data_received(data)
        if self._in_head:
            self._size += len(data)
            if self._size > HEAD_MOST:
                self._hang_up()
        if self.cycle is None or self.cycle.response_complete:
            self._wait()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The request is known; its body has a deadline of its own where it is read."""
        self._in_head = False
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_S, self._hang_up)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class Corked:
    """A transport whose writes of one tick leave as one: an answer's head and body in one packet, and in one system call."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends *data*, with whatever else is written in this tick."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Sends what is left, and closes."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))
