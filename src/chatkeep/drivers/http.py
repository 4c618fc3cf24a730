"""One connection to an HTTP server: a request, its answer, the next request.

httptools reads the answers, as it reads the requests of chatkeep's own server. It is imported in 3 ms; aiohttp, which would do all
of this, takes 170 ms or more, and that is what a function waits for that is started for one message. Each driver that imports this
module tells by `from_extra` which extra of its own brings httptools.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple

import httptools

from .sockets import connected, looking_at

if TYPE_CHECKING:
    from ssl import SSLContext

READ_MOST = 1 << 18
LONGEST_ANSWER = 512 << 20
"""Bytes of an answer; more than whole batches of the largest conversations take, and less than what ends a process."""
LONGEST_LINE = 1 << 20
"""Bytes of a line of an answer that goes on and on, and of what is no body, such as headers: these are small, and there is no end by which
they are read."""
LOOKS = 3  # ticks of the loop until it has read what has arrived, at most


class Answer(NamedTuple):
    """A status, the headers, their names in lower case, and a body."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class _Reading:
    """What a parser has read of one answer."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.parts: list[bytes] = []
        self.complete = self.keeps = False
        self.status = 0
        self._size = self._beside = 0  # bytes of the body that are kept here, and of what has come behind it
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, arrived: bytes) -> None:
        """Read what has *arrived*. Raises ConnectionError where it is no HTTP, or longer than anything that is asked for."""
        self._beside += len(arrived)
        try:
            self._parser.feed_data(arrived)
        except httptools.HttpParserError as fault:
            raise ConnectionError(f"what answered is no HTTP server ({fault})") from fault
        if self._beside > LONGEST_LINE:
            raise ConnectionError(f"the headers of its answer are longer than {LONGEST_LINE:,} bytes")
        if self._size > LONGEST_ANSWER:
            raise ConnectionError(f"its answer is longer than {LONGEST_ANSWER:,} bytes")

    def taken(self) -> bytes:
        """Return what came of the body since the last time."""
        taken = b"".join(self.parts)
        self.parts.clear()
        self._size = 0
        return taken

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self.parts.append(body)
        self._size += len(body)
        self._beside = 0

    def on_message_complete(self) -> None:
        """Note the end. (Only here the parser knows what the answer was: it is ready for the next one afterwards.)"""
        self.complete = True
        self.keeps = bool(self._parser.should_keep_alive())
        self.status = int(self._parser.get_status_code())


class HttpConnection:
    """A connection that carries one request at a time. A head is the first line and the headers of a request, without the last line
    break."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._used_at = time.time()  # what was frozen in between has no other clock that goes on
        self._has_arrivals = looking_at(writer.transport)

    @classmethod
    async def open(cls, host: str, port: int, tls: SSLContext | None) -> HttpConnection:
        """Connect to *host*; with *tls*, its certificate is checked. Raises OSError."""
        return cls(*await connected(host, port, tls))

    @property
    def is_usable(self) -> bool:
        """Whether the other end, as far as is known, still listens."""
        return not (self.reader.at_eof() or self.writer.is_closing())

    async def still_listens(self) -> bool:
        """Tell whether the other end still listens, also where its close has arrived in this moment and the loop has not read it."""
        for _ in range(LOOKS):
            if not (self.is_usable and self._has_arrivals()):
                break
            await asyncio.sleep(0)
        return self.is_usable

    @property
    def idle_s(self) -> float:
        """How long ago it was opened or brought an answer."""
        return abs(time.time() - self._used_at)

    async def post(self, head: bytes, body: bytes) -> Answer:
        """Send a request and return its answer; afterwards the connection is usable for the next one, or closed. Raises OSError."""
        reading = self._ask(head, body)
        try:
            while not reading.complete:
                await self._receive(reading)
        except BaseException:
            self.abort()
            raise
        if not reading.keeps:
            self.abort()
        self._used_at = time.time()
        return Answer(reading.status, reading.headers, reading.taken())

    async def lines(self, head: bytes) -> AsyncGenerator[bytes]:
        """Send a request whose answer goes on and on, and return its lines. Raises OSError when it ends."""
        reading = self._ask(head, b"")
        rest = b""
        try:
            while not reading.complete:
                await self._receive(reading)
                *whole, rest = (rest + reading.taken()).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    raise ConnectionError(f"a line of its answer is longer than {LONGEST_LINE:,} bytes")
                for line in whole:
                    yield line
            raise ConnectionError(f"the stream ended: HTTP {reading.status} {rest[:80]!r}")
        finally:
            self.abort()

    def _ask(self, head: bytes, body: bytes) -> _Reading:
        self.writer.write(b"%b\r\nContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        return _Reading()

    async def _receive(self, reading: _Reading) -> None:
        arrived = await self.reader.read(READ_MOST)
        if not arrived:
            raise ConnectionError("the server has closed the connection")
        reading.feed(arrived)

    def abort(self) -> None:
        """Close the connection at once; what has not left is not sent."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.writer.transport.abort()

    async def close(self) -> None:
        """Close it at once, and return when its socket is closed: the loop does that in a later round, which may be none."""
        self.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def scheme_fault(host: str, port: int, *, tls: bool, within: float) -> str:
    """Return what is wrong with a URL whose server speaks the other one of https and http; '' where that is not known.

    It is tried, with nothing in it that is secret. A server that only hangs up may not have liked either.
    """
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(within):
            if tls != await _speaks_tls(host, port, within / 2):
                if not tls:
                    return "it speaks https: leave tls=no out of the URL"
                await _asked(host, port)
                return "it speaks http without TLS: add tls=no to the options of the URL, or name the port of https"
            if not tls and (await _asked(host, port)).headers.get(b"location", b"").startswith(b"https:"):
                return "it sends one on to https: leave tls=no out of the URL"
    return ""


async def _speaks_tls(host: str, port: int, within: float) -> bool:
    """Tell whether a server speaks TLS, with whatever certificate."""
    import ssl  # takes 17 ms, and who gets here waits for longer

    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(within):
            (await HttpConnection.open(host, port, anybody)).abort()
            return True
    return False


async def _asked(host: str, port: int) -> Answer:
    connection = await HttpConnection.open(host, port, None)
    try:
        return await connection.post(b"POST / HTTP/1.1\r\nHost: %b" % host.encode(), b"")
    finally:
        connection.abort()
