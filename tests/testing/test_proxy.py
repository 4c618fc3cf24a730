"""The proxy with faults closes what it has opened."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from contextlib import closing

import pytest

from chatkeep.testing.proxy import Proxy


@pytest.mark.parametrize("ticks", range(8))
def test_a_client_that_comes_at_the_very_end_leaves_no_socket(ticks: int) -> None:
    """The proxy ends so many ticks of the loop after a client has connected, and the loop with it."""

    async def come_late() -> None:
        async with Proxy(server.getsockname()[1]) as proxy:
            client = socket.create_connection(("127.0.0.1", proxy.port))
            for _ in range(ticks):
                await asyncio.sleep(0)
        client.close()

    gc.collect()
    with closing(socket.create_server(("127.0.0.1", 0))) as server, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        asyncio.run(come_late())
        gc.collect()

    assert [] == [str(one.message) for one in told]
