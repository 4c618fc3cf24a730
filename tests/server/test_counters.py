"""What counts for the rate limits: the store for all instances, or this process."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from chatkeep import Chatkeep
from chatkeep.auth.credentials import issue_token
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Ability
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.server.counters import InMemory, Window, counters_for
from chatkeep.server.limits import Limits
from chatkeep.server.wire import Refused
from chatkeep.testing.proxy import Proxy

from ..support.serving import limited
from ..support.stores import store_url
from ..support.waiting import time_passes

SHARED = ("redis", "postgresql")


@pytest.fixture(params=SHARED)
def shared_url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """A store whose counters all instances share."""
    return store_url(request.param, request, tmp_path)


async def test_hits_are_counted_one_after_another_and_a_window_begins_again(url: str) -> None:
    """On every store: 1, 2, 3 under one key, 1 under another; after the window 1 again; also when they come at once."""
    async with Chatkeep(url) as keep:
        found = counters_for(keep._engine.store.driver) or InMemory()
        await found.open()
        one = [(await found.hit("a", 1)).hits for _ in range(3)]
        other = await found.hit("b", 100)
        at_once = sorted([counted.hits for counted in await asyncio.gather(*(found.hit("c", 100) for _ in range(40)))])
        await time_passes(1.1)
        again = (await found.hit("a", 1)).hits
        await found.close()

    assert ([1, 2, 3], 1, list(range(1, 41)), 1) == (one, other.hits, at_once, again)
    assert 90 < other.left_s <= 100


async def test_instances_on_one_store_count_together(shared_url: str) -> None:
    """Two servers, one token, a limit of 5: five requests in all are let through."""
    async with (
        limited(shared_url, {"token": "5/hour"}) as (keep, one),
        limited(shared_url, {"token": "5/hour"}) as (_, two),
    ):
        token = (await issue_token(keep, "", "ada")).token
        one.key = two.key = token
        said = [(await client.ask("GET", "/v1/conversations/ada")).status for client in (one, two) * 4]

    assert 5 == said.count(200)
    assert 3 == said.count(429)


async def test_where_the_store_does_not_count_this_process_does(
    request: pytest.FixtureRequest, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that goes away takes no request with it: limits are counted here, and it is said once."""
    url = urlsplit(store_url("redis", request, tmp_path))
    async with Proxy(url.port or 0) as proxy:
        through = urlunsplit(url._replace(netloc=url.netloc.replace(f":{url.port}", f":{proxy.port}")))
        async with Chatkeep(through) as keep:
            limits = Limits(keep._engine.store.driver, {"peer": "3/hour"})
            await limits.open()
            await limits.hit({"peer": "a"})
            proxy.silent = True
            began = time.monotonic()
            for _ in range(3):
                await limits.hit({"peer": "a"})
            took = time.monotonic() - began
            with pytest.raises(Refused):
                await limits.hit({"peer": "a"})
            proxy.silent = False
            await limits.close()

    assert took < 1.5
    assert 1 == caplog.text.count("counted in this process")


async def test_what_counts_is_said_by_the_driver_and_not_by_the_name_of_its_class(url: str) -> None:
    """A driver of another name counts where the plain one does, for all servers on the store."""
    kind = type(driver_for(url))
    own = type("Logging", (kind,), {})
    async with Chatkeep(url) as keep, Chatkeep(own(url)) as other:
        hits = []
        for counting in (keep, other, keep):
            found = counters_for(counting._engine.store.driver)
            assert found is not None
            hits.append((await found.hit("a", 100)).hits)

    assert [1, 2, 3] == hits


async def test_a_store_that_does_not_count_is_named_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and each server counts for itself; without a rate there is nothing to say."""

    class Plain(MemoryDriver):
        abilities = MemoryDriver.abilities - {Ability.COUNT}

    async with Chatkeep(Plain()) as keep:
        driver = keep._engine.store.driver
        await Limits(driver, {}).open()

        assert "counted" not in caplog.text

        limits = Limits(driver, {"peer": "1/hour"})
        await limits.open()
        await limits.hit({"peer": "a"})
        with pytest.raises(Refused):
            await limits.hit({"peer": "a"})

    assert 1 == caplog.text.count(
        "counted in this process only, each server for itself: the store has not the ability COUNT"
    )


async def test_what_a_process_remembers_is_bounded() -> None:
    """A flood of addresses pushes out the oldest and no more."""
    found = InMemory(held=100)
    for number in range(1000):
        await found.hit(str(number), 60)

    assert 100 == len(found._windows)
    assert Window(2, 60) == found.count("999", 60, found._windows["999"][1] - 60)
