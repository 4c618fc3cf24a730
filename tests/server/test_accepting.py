"""Connections that wait are taken together, however long a round of the event loop takes."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from chatkeep.server.accepting import AT_ONCE, FULL_S, Loop

from ..support.waiting import until

MANY = 5 * AT_ONCE


class Met(asyncio.Protocol):
    """Notes who is there, and whether its answers are sent at once."""

    def __init__(self, there: dict[Met, bool]) -> None:
        self.there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notes it."""
        peer = transport.get_extra_info("socket")
        self.there[self] = bool(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def connection_lost(self, exc: Exception | None) -> None:
        """Notes that it has gone."""
        del self.there[self]


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs it on the loop of `chatkeep serve`."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(coroutine)


async def end(server: Any, listener: socket.socket, clients: list[socket.socket], there: dict[Met, bool]) -> None:
    """Closes everything, and waits until it is closed."""
    server.close()
    await server.wait_closed()
    for one in (*clients, listener):
        one.close()
    await until(lambda: not there)


def test_all_that_wait_are_taken_in_a_few_rounds() -> None:
    """Eighty connections that came in one round of the loop."""

    async def count_rounds() -> tuple[int, list[bool]]:
        there: dict[Met, bool] = {}
        listener = socket.create_server(("127.0.0.1", 0), backlog=MANY)
        server = await asyncio.get_running_loop().create_server(lambda: Met(there), sock=listener)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(MANY)]
        rounds = 0
        while len(there) < MANY:
            rounds += 1
            await asyncio.sleep(0)
        at_once = list(there.values())
        await end(server, listener, clients, there)
        return rounds, at_once

    rounds, at_once = run(count_rounds())

    assert rounds < MANY / 4
    assert [True] * MANY == at_once


def test_who_comes_while_files_are_out_is_taken_later(caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and nobody is lost."""

    async def come_when_it_is_full() -> None:
        there: dict[Met, bool] = {}
        listener = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.get_running_loop().create_server(lambda: Met(there), sock=listener)
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        before, lowest = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(listener.fileno())
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
        try:
            await until(lambda: "No connection can be taken" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        async with asyncio.timeout(10 * FULL_S):
            await until(lambda: len(there) == 3)
        await end(server, listener, clients, there)

    with caplog.at_level(logging.CRITICAL, "chatkeep.server"):
        run(come_when_it_is_full())

    assert 1 == caplog.text.count("No connection can be taken")
