"""The pace that each account keeps."""

from __future__ import annotations

import pytest

from chatkeep.channels.outlet import ChannelOutlet

from ..support.outgoing import ACCOUNTS
from ..support.samples import CHANNELS


@pytest.mark.parametrize(("name", "published"), [("telegram", 30), ("whatsapp", 80)])
async def test_no_second_has_more_requests_than_the_platform_publishes(name: str, published: int) -> None:
    """Not even the first one, in which a burst goes out at once."""
    limiter, _ = ChannelOutlet(CHANNELS[name])._pace_of(f"{name}:{ACCOUNTS[name]}", CHANNELS[name].rate)
    at_once = 0
    while limiter.has_capacity():
        await limiter.acquire()
        at_once += 1

    assert 1 <= at_once <= limiter.max_rate
    assert limiter.max_rate + limiter.max_rate / limiter.time_period <= published
