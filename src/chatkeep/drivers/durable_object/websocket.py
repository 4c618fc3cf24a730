"""A WebSocket that only listens, on a connection of the driver."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..http import HttpConnection

TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9
"""Kinds of WebSocket frames (RFC 6455, 5.2)."""
LAST = 0x80

LONGEST_MESSAGE = 1 << 20
"""Bytes of a message; announcements are names, and a frame may say that it has any number of bytes."""


async def messages(connection: HttpConnection, head: bytes, silent_s: float) -> AsyncGenerator[bytes]:
    """Ask with *head* for a WebSocket, and return its messages. Raises OSError when it ends, or is silent, also to a ping, for so long."""
    key = base64.b64encode(secrets.token_bytes(16))
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: %b" % key
    connection.writer.write(b"%b\r\n%b\r\n\r\n" % (head, upgrade))
    try:
        answer = await connection.reader.readuntil(b"\r\n\r\n")
        status = answer.split(b"\r\n", 1)[0]
        if b" 101 " not in status + b" ":
            raise ConnectionError(f"the server answers {status.decode(errors='replace')!r}")
        asked = False
        while True:
            try:
                async with asyncio.timeout(silent_s):
                    kind, message = await _frame(connection.reader)
            except TimeoutError:
                if asked:
                    raise
                asked = True
                _send(connection.writer, PING, b"")
                continue
            asked = False
            if kind in (TEXT, BINARY):
                yield message
            elif kind == PING:
                _send(connection.writer, PING + 1, message)
            elif kind == CLOSE:
                raise ConnectionError("the server has closed the WebSocket")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as fault:
        raise ConnectionError("the server has closed the WebSocket") from fault
    finally:
        connection.abort()


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return a message, put together from its frames, or a control frame. Raises ConnectionError for a longer one than there is."""
    kind, parts, left = 0, [], LONGEST_MESSAGE
    while True:
        first, size = await reader.readexactly(2)
        if size in (126, 127):
            size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
        if (left := left - size) < 0:
            raise ConnectionError(f"a message of the WebSocket is longer than {LONGEST_MESSAGE:,} bytes")
        part = await reader.readexactly(size)
        if first & 0x08:  # control frames come whole, also within a message
            return first & 0x0F, part
        kind = kind or first & 0x0F
        parts.append(part)
        if first & LAST:
            return kind, b"".join(parts)


def _send(writer: asyncio.StreamWriter, kind: int, said: bytes) -> None:
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[n % 4] for n, byte in enumerate(said))
    writer.write(bytes([LAST | kind, LAST | len(said)]) + mask + masked)
