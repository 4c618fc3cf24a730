"""Servers that a test may kill, with a proxy before them, and clients that remember everything they were told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.testing.proxy import Proxy
from chatkeep.testing.servers import PostgresServer, RedisServer, Server, UpstashServer

from ..support.stand import Stand, note
from ..support.stores import FAST, store_url

ENGINES = ("sqlite", "redis", "postgresql")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """One of each kind, for tests that break them."""
    made: dict[str, Server] = {
        "redis": RedisServer("valkey-9", tmp_path_factory.mktemp("valkey")),
        "postgresql": PostgresServer(tmp_path_factory.mktemp("postgres")),
        "upstash": UpstashServer(tmp_path_factory.mktemp("upstash")),
    }
    yield made
    for server in made.values():
        server.stop()


@pytest.fixture(params=("redis", "postgresql"))
async def stand(request: pytest.FixtureRequest, servers: dict[str, Server]) -> AsyncIterator[Stand]:
    """A store that can be taken away, on each engine that has a server."""
    server = servers[request.param]
    if server.process is None:  # not used so far, or left like that by a test that failed
        server.start()
    async with Proxy(server.port) as proxy:
        yield Stand(server, proxy)


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """A store that nothing happens to."""
    return store_url(request.param, request, tmp_path)


@pytest.fixture
async def opening() -> AsyncIterator[Callable[..., Any]]:
    """`await opening(url, **options)` gives an open Chatkeep whose bot notes each id; all are closed at the end, in time."""
    keeps: list[Chatkeep[Any]] = []

    async def make(url: str, handler: Callable[..., Any] | None = note, **options: Any) -> Chatkeep[Any]:
        keep: Chatkeep[Any] = Chatkeep(url, **(FAST | options))
        if handler is not None:
            keep.on_message(handler)
        await keep.open()
        keeps.append(keep)
        return keep

    yield make
    began = time.monotonic()
    for keep in reversed(keeps):
        await keep.close()
    took = time.monotonic() - began
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]

    assert [] == left
    assert took < 10
