"""A shop for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.browsing import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A running shop."""
    with Shop(tmp_path) as shop:
        yield shop
