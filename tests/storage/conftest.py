"""What tests of whole stores share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chatkeep.drivers.base import Driver

from ..support.moves import opened_on
from ..support.stores import store_url


@pytest.fixture
async def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """Makes open drivers on empty stores of a kind, with their URLs, and closes them in the end."""
    drivers: list[Driver] = []

    async def make(kind: str) -> tuple[str, Driver]:
        folder = tmp_path / f"{len(drivers)}"
        folder.mkdir()
        url = store_url(kind, request, folder)
        drivers.append(await opened_on(url))
        return url, drivers[-1]

    yield make
    for driver in drivers:
        await driver.close()
