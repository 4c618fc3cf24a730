"""Uvicorn's HTTP protocol, with one budget and one deadline for everything of a request that is not its body; uvicorn has neither.

    import uvicorn

    uvicorn.Config(app, http=PromptProtocol)

The one place that uses inner names of uvicorn; INNER lists them.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, cast

import msgspec

from ..extras import from_extra

with from_extra("server", "chatkeep serve"):
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger("chatkeep.server")

HEAD_S = 15.0
"""From the first byte of a request, or from the connection, to the end of its headers. A body that brings nothing is looked at
as often, and refused the second time: later than `wire.PATIENCE_S`, because the application's own refusal says more."""

FRAMING_MOST = 64 * 1024
"""Bytes of one request that are not its body: request line, headers, blank lines, sizes and extensions of chunks, trailers.
So many are always taken, and never more than so many and a PIECE."""

HEADERS_MOST = 100
URL_MOST = 8 * 1024
WAITING_MOST = 32
"""Requests of one connection that wait for the answer to the one before them."""

PIECE = 16 * 1024
"""What the parser is given at a time. Where in it a request begins or its headers end the parser does not say, so a request is
counted too much by at most this."""

CONTROL = frozenset((b"connection", b"proxy-connection", b"content-length", b"transfer-encoding", b"upgrade"))
"""What the parser obeys in trailers too, where it may not be (RFC 9110, 6.5.1)."""

LINGER_S = 1.0
LINGER_MOST = 1024 * 1024
"""So long, and for at most so many bytes, the rest of a refused request is read and thrown away: a connection that is closed with
bytes unread is reset, and its client may never see why."""

UNREAD_MOST = 16 * 1024 * 1024
"""So many bytes of a body that come after its request was answered are read and thrown away, so that the client sees why and may
use the connection again: more than any body that is taken, unless `message_limit` or `state_limit` are raised."""

TAKEN_S = 20.0
TAKEN_LEAST = 64 * 1024
"""A client must take what it is answered: all that waits for it, or at least so many bytes, in each such time. Else its connection
is cut off, since what waits is memory."""

CROWDED = 5_000
IDLE_S = 5
"""With more connections than that, new ones that have no request are closed after this long, whatever `keep_alive` says: else a few
clients that do nothing could hold all that a process takes."""

WORDS = {400: "bad-request", 408: "timeout", 413: "too-large", 414: "too-large", 431: "too-large"}
"""Types of the problem documents."""

INNER = {
    "HttpToolsProtocol": (
        "connections",
        "cycle",
        "flow",
        "headers",
        "loop",
        "on_body",
        "on_headers_complete",
        "on_message_begin",
        "on_message_complete",
        "parser",
        "pipeline",
        "send_400_response",
        "server_state",
        "timeout_keep_alive",
        "timeout_keep_alive_handler",
        "timeout_keep_alive_task",
        "transport",
        "url",
        "_start_asgi_task",
    ),
    "RequestResponseCycle": (
        "chunked_encoding",
        "disconnected",
        "expected_content_length",
        "keep_alive",
        "message_event",
        "response_complete",
        "response_started",
        "scope",
    ),
    "FlowControl": ("pause_reading", "read_paused", "resume_reading"),
    "ServerState": ("default_headers",),
}
"""Names of uvicorn's own that this file reads, sets or overrides, by class. The bounds of uvicorn in pyproject.toml are the
versions that have them."""

HEAD_TOO_LARGE = f"Request line and headers take more than {FRAMING_MOST:,} bytes."


class TooMuch(Exception):
    """Stops the parser in the middle of what it is given."""


class PromptProtocol(HttpToolsProtocol):
    """
    Refuses, and hangs up on, a client that does not come to the point.

    Whatever arrives and is not a body counts against FRAMING_MOST, and must go on arriving in time. What follows the headers
    is never a header: trailers are read and dropped.
    """

    # One timer for many deadlines: to set and cancel one for each request costs more.
    _timer: asyncio.TimerHandle | None = None
    _since: float | None = None
    _running: RequestResponseCycle | None = None
    _verdict: tuple[int, str] | None = None
    _in_head = _in_body = False
    _owes = True  # a connection that says nothing is late as well
    _progress = False
    _deaf = False
    _framing = 0
    _piece = 0
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, on which something has to be said in time."""
        super().connection_made(cast(asyncio.Transport, BufferedTransport(transport, self.loop)))
        if len(self.connections) > CROWDED:
            self.timeout_keep_alive = min(self.timeout_keep_alive, IDLE_S)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes that the client has sent, a piece at a time; refuse it where all but the body of its request is too long."""
        if len(data) <= PIECE:
            self._feed(data)
            return
        whole = memoryview(data)
        for start in range(0, len(whole), PIECE):
            self._feed(whole[start : start + PIECE])

    def _feed(self, piece: bytes | memoryview) -> None:
        size = len(piece)
        self._framing += size
        if self._deaf:
            if self._framing > FRAMING_MOST + LINGER_MOST:
                self.flow.pause_reading()
            return
        self._piece = size
        self._owes = True
        super().data_received(piece)  # type: ignore[arg-type]  # (its parser takes any buffer)
        if self._deaf:
            return
        if self._framing > FRAMING_MOST + PIECE:
            if self._receiving():
                self._refuse(
                    413, f"Sizes of chunks, their extensions and trailers take more than {FRAMING_MOST:,} bytes."
                )
            else:
                self._refuse(431, HEAD_TOO_LARGE)
        elif self._owes:
            self._wait()
        else:
            self._since = None
            if (
                self.cycle.response_complete
                and self.timeout_keep_alive_task is None
                and not self.transport.is_closing()
            ):
                # The request was answered before its body had ended; uvicorn would keep this connection for ever.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def on_message_begin(self) -> None:
        """Begin a request; what of this piece belongs to the one before is counted for both."""
        self._since = None
        self._in_head = self._owes = True
        self._framing, self._unread = self._piece, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Have uvicorn serve the request, which is known now, or have it wait."""
        self._since = None
        upgrade = self.parser.should_upgrade()
        if self._framing > FRAMING_MOST + PIECE:
            self._stop_parser(431, HEAD_TOO_LARGE)
        if len(self.headers) > HEADERS_MOST:
            self._stop_parser(431, f"There are more than {HEADERS_MOST} headers.")
        if len(self.url) > URL_MOST:
            self._stop_parser(414, f"The address is longer than {URL_MOST:,} bytes.")
        if upgrade and has_body(self.headers):
            self._stop_parser(
                400,
                "Nothing is upgraded here, and a request with `Upgrade` cannot have a body. Send HTTP/1.1 without it (Java: "
                "`version(HTTP_1_1)`, curl: `--http1.1`).",
            )
        super().on_headers_complete()
        self._in_head, self._in_body, self._progress = False, True, True
        if upgrade:  # to the parser, what follows is another protocol; it must not become somebody's request
            self.cycle.keep_alive, self._deaf = False, True
        self.headers = []  # of the scope no more: the parser reports trailers as further headers
        if len(self.pipeline) > WAITING_MOST:
            self._stop_parser(400, f"More than {WAITING_MOST} requests wait on this connection.")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._framing -= len(body)
        self._progress = True
        if self.cycle.response_complete:
            self._unread += len(body)
            if self._unread > UNREAD_MOST:
                self._stop_parser(413, f"More than {UNREAD_MOST:,} bytes of a body came after the answer.")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, which is there with its trailers; they are dropped."""
        if self.headers and not CONTROL.isdisjoint(name for name, _ in self.headers):
            self._stop_parser(400, "A trailer says how the request or its connection is to be read.")
        self._in_body = self._owes = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection, also for the request that runs while others wait, which uvicorn does not tell."""
        if self._timer is not None:
            self._timer.cancel()
        self._leave(self._running)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with what the parser does not take; uvicorn would say it into the middle of another answer."""
        status, detail = self._verdict or (400, msg)
        self._refuse(status, detail)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] == "1.1" else Unchunked(app, cycle))

    def _stop_parser(self, status: int, detail: str) -> None:
        self._verdict = status, detail
        raise TooMuch

    def _wait(self) -> None:
        """Have the clock run from now on, if it does not already."""
        if self._since is None:
            self._since = self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self._look)

    def _look(self) -> None:
        """Refuse a client that is late, unless it is this side that does not read, or the body goes on."""
        self._timer = None
        if self._since is None:
            return
        left_s = self._since + HEAD_S - self.loop.time()
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._look)
        elif self.flow.read_paused or (self._progress and self._receiving()):
            self._progress, self._since = False, None
            self._wait()
        elif self._in_head or self._receiving():
            self._refuse(408, "The request did not arrive in time.")
        elif self._running is None or self._running.response_complete:
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Take no more, say why, and hang up; after the answer to an earlier request, if one is still to come."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf, self._since = True, None
        log.info("A connection is closed, refused with %d: %s", status, detail)
        running, receiving = self._running, self._receiving()
        if running is not None and not running.response_complete and not (receiving and running is self.cycle):
            running.keep_alive = False
            self.pipeline.clear()
            self.flow.resume_reading()
        elif self._in_body and self.cycle.response_started:  # a second answer would be taken for the next request's
            self.transport.close()
        else:
            if receiving:
                self._leave(self.cycle)
            cast(BufferedTransport, self.transport).end(self._answer(status, f"{detail} The request was not served."))
            self.flow.resume_reading()
            self.loop.call_later(LINGER_S, self.transport.close)

    def _receiving(self) -> bool:
        """Tell whether the body of a request that is not answered yet is still to come."""
        cycle = self.cycle
        return cycle is not None and self._in_body and not cycle.response_complete

    def _answer(self, status: int, detail: str) -> bytes:
        title = HTTPStatus(status).phrase
        body = msgspec.json.encode(
            {"type": f"urn:chatkeep:{WORDS[status]}", "title": title, "status": status, "detail": detail}
        )
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"connection", b"close"),
        ]
        lines = [f"HTTP/1.1 {status} {title}".encode(), *(name + b": " + value for name, value in headers), b"", body]
        return b"\r\n".join(lines)

    def _leave(self, cycle: RequestResponseCycle | None) -> None:
        """Tell the application that nobody waits for its answer any more."""
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()


def has_body(headers: list[tuple[bytes, bytes]]) -> bool:
    """Tell whether a request with these *headers* has a body."""
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


class Unchunked:
    """
    *app* for one request of HTTP/1.0, which knows no chunks (RFC 9112, 6.1): an answer whose length is not said ends with its connection.

    uvicorn would send it in chunks, and their sizes would be read as a part of it.
    """

    def __init__(self, app: Any, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the request."""
        has_length = True

        async def send_plain(message: Any) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if not has_length:
                self._cycle.chunked_encoding = False
                self._cycle.expected_content_length = len(message.get("body", b""))  # each piece is as long as it is
            await send(message)

        await self._app(scope, receive, send_plain)


class BufferedTransport:
    """
    A transport whose writes of one tick leave as one: an answer's head and body in one packet, and in one system call.

    It is cut off when its other side does not take what was written, also after it was closed, which waits for that for ever.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._written = 0
        self._watched = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send *data*, with whatever else is written in this tick."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def end(self, data: bytes) -> None:
        """Send *data* as the last; the other side may still be heard."""
        self.write(data)
        self._flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Send what is left, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            data = b"".join(held)
            self._written += len(data)
            self._transport.write(data)
            if not self._watched and (waits := self._transport.get_write_buffer_size()):
                self._watch(waits)

    def _watch(self, waits: int) -> None:
        self._watched = True
        self._loop.call_later(TAKEN_S, self._look, self._written, self._written - waits)

    def _look(self, written: int, taken: int) -> None:
        self._watched = False
        waits = self._transport.get_write_buffer_size()
        now_taken = self._written - waits
        if not waits:
            return
        if now_taken >= min(written, taken + TAKEN_LEAST):
            self._watch(waits)
            return
        log.info(
            "A connection is cut off: %d bytes of its answer wait, and its client took next to nothing for %g s.",
            waits,
            TAKEN_S,
        )
        self._transport.abort()
