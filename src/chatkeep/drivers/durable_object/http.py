"""One connection to an HTTP server: a request, its answer, the next request; or a WebSocket that only listens.

httptools reads the answers, as it reads the requests of chatkeep's own server. It is imported in 3 ms; aiohttp, which would do all
of this, takes 170 ms or more, and that is what a function waits for that is started for one message.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple

from ...extras import from_extra

with from_extra("durable-object", "A Durable Objects store (durable-object://)"):
    import httptools

if TYPE_CHECKING:
    from ssl import SSLContext

READ_MOST = 1 << 18
HEAD_MOST = 1 << 16

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
"""Kinds of WebSocket frames (RFC 6455, 5.2)."""
LAST = 0x80


class Answer(NamedTuple):
    """A status and a body."""

    status: int
    body: bytes


class ConnectionLost(OSError):
    """The connection ended before the answer did."""


class _Reading:
    """What a parser has read of one answer."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.complete = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, arrived: bytes) -> None:
        """Read what has *arrived*."""
        self._parser.feed_data(arrived)

    def answer(self) -> Answer:
        """Return the answer, when it is complete."""
        return Answer(self._parser.get_status_code(), b"".join(self.parts))

    def is_kept(self) -> bool:
        """Tell whether the connection may be used again."""
        return bool(self._parser.should_keep_alive())

    # What the parser calls

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self.parts.append(body)

    def on_message_complete(self) -> None:
        """Note the end."""
        self.complete = True


class HttpConnection:
    """A connection to *host*; with *tls*, its certificate is checked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    @classmethod
    async def open(cls, host: str, port: int, tls: SSLContext | None) -> HttpConnection:
        """Connect. Raises OSError."""
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=HEAD_MOST)
        name = f"[{host}]" if ":" in host else host
        return cls(reader, writer, name if port in (80, 443) else f"{name}:{port}")

    @property
    def is_usable(self) -> bool:
        """Whether the other end, as far as is known, still listens."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def post(self, path: str, authorization: str, body: bytes) -> Answer:
        """Send a request and return its answer; afterwards the connection is usable for the next one, or closed. Raises OSError."""
        self._writer.write(
            self._head("POST", path, f"authorization: {authorization}\r\ncontent-length: {len(body)}\r\n")
        )
        self._writer.write(body)
        reading = _Reading()
        try:
            while not reading.complete:
                arrived = await self._reader.read(READ_MOST)
                if not arrived:
                    raise ConnectionLost("the server has closed the connection")
                reading.feed(arrived)
        except httptools.HttpParserError as fault:
            self.abort()
            raise ConnectionLost(f"what answered is no HTTP server ({fault})") from fault
        except BaseException:
            self.abort()
            raise
        if not reading.is_kept():
            self.abort()
        return reading.answer()

    async def listen(self, path: str, authorization: str, silent_s: float) -> AsyncGenerator[bytes]:
        """Return the messages of a WebSocket. Raises OSError when it ends, or is silent, also to a ping, for so long."""
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        asked = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        self._writer.write(
            self._head("GET", path, f"{asked}sec-websocket-key: {key}\r\nauthorization: {authorization}\r\n")
        )
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            status = head.split(b"\r\n", 1)[0]
            if b" 101 " not in status + b" ":
                raise ConnectionLost(f"the server answers {status.decode(errors='replace')!r}")
            asked_at = 0.0
            while True:
                try:
                    async with asyncio.timeout(silent_s):
                        kind, message = await self._frame()
                except TimeoutError:
                    if asked_at:
                        raise
                    asked_at = 1.0
                    self._send(PING, b"")
                    continue
                asked_at = 0.0
                if kind in (TEXT, BINARY):
                    yield message
                elif kind == PING:
                    self._send(PING + 1, message)
                elif kind == CLOSE:
                    raise ConnectionLost("the server has closed the WebSocket")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as fault:
            raise ConnectionLost("the server has closed the WebSocket") from fault
        finally:
            self.abort()

    async def _frame(self) -> tuple[int, bytes]:
        """Return a message, put together from its frames, or a control frame."""
        kind, parts = 0, []
        while True:
            first, size = await self._reader.readexactly(2)
            if size in (126, 127):
                size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8))
            part = await self._reader.readexactly(size)
            if first & 0x08:  # control frames come whole, also within a message
                return first & 0x0F, part
            kind = kind or first & 0x0F
            parts.append(part)
            if first & LAST:
                return kind, b"".join(parts)

    def _send(self, kind: int, said: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(said))
        self._writer.write(bytes([LAST | kind, LAST | len(said)]) + mask + masked)

    def _head(self, method: str, path: str, rest: str) -> bytes:
        return f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\n{rest}\r\n".encode()

    def abort(self) -> None:
        """Close it at once; what has not left is not sent."""
        self._writer.transport.abort()
