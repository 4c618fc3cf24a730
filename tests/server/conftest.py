"""A house for the tests of who may do what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ..support.salon import Clock, House, housed


@pytest.fixture
async def clock() -> Clock:
    """A clock that a test can put forward."""
    return Clock()


@pytest.fixture
async def house(tmp_path: Path, clock: Clock) -> AsyncIterator[House]:
    """A house over SQLite that lets visitors in."""
    async with housed(f"sqlite:///{tmp_path}/chat.db", clock=clock, anonymous=True) as found:
        yield found
