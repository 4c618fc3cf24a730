"""Sockets of the drivers, and addresses that nobody can have."""

from __future__ import annotations

import pytest

from chatkeep.drivers import driver_for
from chatkeep.errors import Unavailable


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 70}.example"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://{}?timeout=0.2",
        "redis+cluster://{}?timeout=0.2",
        "redis+sentinel://{}/name?timeout=0.2",
        "upstash://token@{}?timeout=0.2&tls=no",
        "durable-object://secret@{}?timeout=0.2&tls=no",
    ],
)
async def test_an_address_that_nobody_can_have_is_unavailable_and_that_is_said(url: str, host: str) -> None:
    """Python raises no OSError for it."""
    driver = driver_for(url.format(host))
    with pytest.raises(Unavailable, match="cannot be an address"):
        await driver.open()
