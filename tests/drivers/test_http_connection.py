"""One connection to an HTTP server, while nothing is asked."""

from __future__ import annotations

import asyncio
import select
import socket

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
