"""One connection to an HTTP server, while nothing is asked, and while what comes has no end."""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import aclosing, suppress

import pytest

from chatkeep.drivers import http
from chatkeep.drivers.durable_object.websocket import messages
from chatkeep.drivers.http import HttpConnection


async def connected() -> tuple[HttpConnection, socket.socket]:
    """A connection, and its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        connection = await HttpConnection.open("127.0.0.1", port, None)
        return connection, listening.accept()[0]


async def test_a_close_that_the_loop_has_not_read_is_seen() -> None:
    """Nothing is sent into a connection that is known to be closed: perhaps it was done, somebody would have to say."""
    connection, other = await connected()
    assert await connection.still_listens()
    other.close()
    arriving = select.poll()
    arriving.register(connection.writer.get_extra_info("socket"), select.POLLIN)
    assert arriving.poll(20_000)

    assert connection.is_usable
    assert not await connection.still_listens()
    await connection.close()


async def test_looking_takes_no_tick_where_nothing_has_come() -> None:
    """It stands before each request."""
    connection, other = await connected()
    ticks: list[int] = []
    asyncio.get_running_loop().call_soon(ticks.append, 1)

    assert await connection.still_listens()
    assert [] == ticks
    await connection.close()
    other.close()


async def test_a_server_that_goes_on_talking_holds_nobody_up() -> None:
    """More than the loop takes before somebody reads it, so that there is always something left."""
    connection, other = await connected()
    other.setblocking(False)
    refused = 0
    while refused < 100:
        try:
            other.send(b"x" * 65_536)
            refused = 0
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        assert await connection.still_listens()
    await connection.close()
    other.close()


@pytest.mark.parametrize(
    ("why", "head", "more"),
    [
        ("its answer is longer than", b"HTTP/1.1 200 OK\r\ncontent-length: 9000000000\r\n\r\n", b"x" * 65_536),
        ("the headers of its answer are longer than", b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 10_000),
        ("the headers of its answer are longer than", b"HTTP/1.1 200 OK\r\na: ", b"b" * 65_536),
    ],
    ids=["body", "headers", "header"],
)
async def test_an_answer_without_an_end_is_not_read_on(
    why: str, head: bytes, more: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever grows in it: a server that is wrong, or is another one, takes no memory of the application."""
    monkeypatch.setattr(http, "LONGEST_ANSWER", 4 << 20)
    connection, other = await connected()
    with other:
        talking = asyncio.create_task(talk(other, head, more))
        async with asyncio.timeout(60):
            with pytest.raises(ConnectionError, match=why):
                await connection.post(b"GET / HTTP/1.1", b"")
        await talking


async def test_a_line_without_an_end_is_not_read_on() -> None:
    """Nor one of a stream, whose answer has none."""
    connection, other = await connected()
    with other:
        talking = asyncio.create_task(talk(other, b"HTTP/1.1 200 OK\r\n\r\nfirst\n", b"x" * 65_536))
        async with asyncio.timeout(60), aclosing(connection.lines(b"GET / HTTP/1.1")) as lines:
            assert b"first" == await anext(lines)
            with pytest.raises(ConnectionError, match="a line of its answer is longer than"):
                await anext(lines)
        await talking


@pytest.mark.parametrize("frame", [b"\x81\x7f" + (1 << 40).to_bytes(8), b"\x01\x7e\xff\xff" + b"x" * 65_535])
async def test_a_message_of_a_websocket_without_an_end_is_not_read_on(frame: bytes) -> None:
    """One that says it is so long, and one of more and more frames."""
    connection, other = await connected()
    with other:
        talking = asyncio.create_task(talk(other, b"HTTP/1.1 101 Switching Protocols\r\n\r\n", frame))
        async with asyncio.timeout(60), aclosing(messages(connection, b"GET / HTTP/1.1", 30.0)) as arriving:
            with pytest.raises(ConnectionError, match="a message of the WebSocket is longer than"):
                await anext(arriving)
        await talking


async def talk(other: socket.socket, first: bytes, more: bytes) -> None:
    """Says *first*, then *more* again and again, until nobody listens, or 32 MB were said."""
    other.setblocking(False)
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        await loop.sock_sendall(other, first)
        for _ in range((32 << 20) // len(more)):
            await loop.sock_sendall(other, more)
