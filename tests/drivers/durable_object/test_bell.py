"""The shards of Durable Objects ring when something is due."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator

import pytest
from msgspec import structs

from chatkeep import Chatkeep, Turn
from chatkeep.drivers.base import Append, Entry, Key
from chatkeep.drivers.durable_object import DurableObjectDriver
from chatkeep.testing.servers import DurableObjectServer
from tests.support.waiting import nothing_happens_for, until

pytestmark = pytest.mark.server

WORK = "!__worker"
SAID = Append(Key("", "ada"), [Entry(0, "a", "user", b"hello")], revision="r1", at=100.0)


@pytest.fixture(scope="module")
def worker() -> Iterator[DurableObjectServer]:
    """A worker for all tests of this file; tests keep apart by their stores."""
    with DurableObjectServer() as server:
        yield server


@pytest.fixture
def url(worker: DurableObjectServer) -> str:
    """A store that nobody else has."""
    return f"{worker.url}&store={secrets.token_hex(8)}&timeout=30"


async def opened_on(url: str) -> tuple[DurableObjectDriver, list[str]]:
    """A driver that watches, and what it has heard since it is known to be heard."""
    driver = DurableObjectDriver(url)
    await driver.open()
    heard: list[str] = []
    driver.watch(heard.extend)

    async def is_heard() -> bool:
        await driver.announce(["mark"])
        return "mark" in heard

    await until(is_heard, within=20, every=0.05)
    await nothing_happens_for(0.1)  # (what was announced last has arrived)
    heard.clear()
    return driver, heard


async def test_it_rings_at_the_time_at_which_something_is_due(url: str) -> None:
    """Not before; a lease puts it off."""
    driver, heard = await opened_on(url)
    begun = time.time()
    due = structs.replace(SAID, due_at=begun + 1.0)
    leased = Append(Key("", "bob"), SAID.entries, revision="r2", at=1.0, due_at=0.0, lease=("l", begun + 3.0))
    await driver.append(due)
    await driver.append(leased)
    for after in (1.0, 3.0):
        await until(lambda: heard, within=20)

        assert ([WORK], True) == (heard, time.time() >= begun + after)

        heard.clear()
    await driver.close()


async def test_what_is_due_at_once_is_rung_for_and_not_with_each_act(url: str) -> None:
    """A hundred conversations that wait cost the bell a ring a second for each shard, and then none."""
    driver, heard = await opened_on(url)
    acts = [structs.replace(SAID, key=Key("", f"{n}"), due_at=0.0) for n in range(100)]
    await asyncio.gather(*map(driver.append, acts))
    await until(lambda: heard, within=20)
    await nothing_happens_for(1.5)

    assert {WORK} == set(heard)
    assert 48 >= len(heard)

    heard.clear()
    await nothing_happens_for(1.5)

    assert [] == heard
    await driver.close()


async def test_a_bot_that_seldom_polls_is_rung_for_what_a_function_has_left(url: str) -> None:
    """At once, though nobody announced it; the poll is a minute."""

    async def bot(turn: Turn) -> str:
        return turn.text.upper()

    keep, function = Chatkeep(url, poll="1m"), Chatkeep(url, background=False)
    for each in (keep, function):
        each.on_message(bot)
    async with keep:
        await keep.receive("bob", "hello")
        async with function:
            await function.accept("ada", "hello", id="a")

        async def replied() -> bool:
            return ["hello", "HELLO"] == [message.text async for message in keep.history("ada")]

        await until(replied, within=20)


async def test_who_was_away_looks_when_it_is_back(worker: DurableObjectServer, url: str) -> None:
    """What was rung for while the worker was away, or while nobody watched, is not waited for."""
    driver, heard = await opened_on(url)
    await driver.append(structs.replace(SAID, due_at=0.0))
    await until(lambda: heard, within=20)
    heard.clear()
    worker.kill()
    await asyncio.to_thread(worker.start)
    await until(lambda: WORK in heard, within=20)
    await driver.close()
