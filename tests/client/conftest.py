"""A real server for each test, and clients of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from chatkeep.auth.credentials import create_key

from ..support.client_server import Place, Running, counting
from ..support.serving import served
from ..support.waiting import until


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
