"""A real server for each test, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from chatkeep import Chatkeep
from chatkeep.auth.credentials import create_key
from chatkeep.client import Client

from ..conftest import until
from ..support.client_server import Running, counting
from ..support.serving import served


class Place(NamedTuple):
    """A server in this process: its address, a service key, and the Chatkeep behind it."""

    port: int
    key: str
    keep: Chatkeep[Any]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self, token: str | None = "", *, port: int = 0, **options: Any) -> AsyncIterator[Client]:
        """A client of it, with the service key unless a *token* (None: none) says otherwise; through a *port*, if given."""
        url = f"http://127.0.0.1:{port or self.port}"
        async with Client(url, self.key if token == "" else token, **options) as client:
            yield client


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """A server over memory."""
    async with counting("memory://") as keep, served(keep, anonymous=True) as server:
        yield Place(server.port, (await create_key(keep, "")).token, keep)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A server in a process of its own."""
    with Running(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
async def nothing_open() -> AsyncIterator[None]:
    """No task and no socket of the client outlives a test (I10)."""
    tasks, sockets = asyncio.all_tasks(), connections()
    yield
    await until(lambda: connections() <= sockets)

    assert sockets == connections()
    assert set() == asyncio.all_tasks() - tasks - {asyncio.current_task()}


def connections() -> int:
    """Sockets that this process has open."""
    return len([found for found in psutil.Process().net_connections("inet") if found.status != psutil.CONN_TIME_WAIT])
