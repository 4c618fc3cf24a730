"""What a shard is told late: that a conversation is due later than it says, or not at all."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from chatkeep.drivers.base import AT_ONCE, Append, Entry, Key, Row, Scan, Write
from chatkeep.drivers.durable_object import DurableObjectDriver
from chatkeep.drivers.http import HttpConnection
from chatkeep.testing.servers import DurableObjectServer, worker_module
from tests.support.waiting import until

pytestmark = pytest.mark.server

TOLD_AT_WILL = """
export default {
  async fetch(request, env) {
    const { store, news } = await request.json();
    const shard = shardOf(env, store, 0);
    for (const [version, place] of news) await shard.put("", "ada", version, place, store);
    const shown = ["key", "due", "owner", "recent"].map((index) => shard.places(index, null, "eve", null, null, 9));
    return Response.json((await Promise.all(shown)).map((places) => places.map(([score]) => score)));
  },
};
"""
"""What tells a shard whatever is asked for, and answers what it shows in each index."""

ALARM = "this.ctx.storage.setAlarm(Date.now() + TELL_MS);"


@pytest.fixture(scope="module")
def worker() -> Iterator[DurableObjectServer]:
    """A worker for all tests of this file; tests keep apart by their stores."""
    with DurableObjectServer() as server:
        yield server


@pytest.fixture(scope="module")
def late() -> Iterator[DurableObjectServer]:
    """One whose alarms never come."""
    module = worker_module()

    assert 1 == module.count(ALARM)
    with DurableObjectServer(worker=module.replace(ALARM, "")) as server:
        yield server


async def opened_on(server: DurableObjectServer) -> DurableObjectDriver:
    """A driver on a store of its own."""
    driver = DurableObjectDriver(f"{server.url}&store={secrets.token_hex(6)}&timeout=30")
    await driver.open()
    return driver


async def said(driver: DurableObjectDriver, name: str, due_at: float) -> Row:
    """A conversation with a message."""
    act = Append(Key("", name), [Entry(0, "m", "user", b"hello")], revision="r", at=100.0, due_at=due_at)
    return (await driver.append(act)).row


async def written(driver: DurableObjectDriver, row: Row, **changes: object) -> Row:
    """The same one with changes."""
    return await driver.write(
        Write(structs.replace(row, revision=secrets.token_hex(6), **changes), replaces=row.revision)
    )


async def places(driver: DurableObjectDriver) -> dict[str, float]:
    """When the shards say that conversations are due; no conversation is asked."""
    found, _ = await driver._places(driver._opened("read"), Scan("due", limit=100), None, 100)
    return {name: at for at, _, name in found}


async def test_only_what_a_scan_could_miss_is_told_before_the_answer(late: DurableObjectServer) -> None:
    """A due time that moved later, or went, is found too early at worst; an earlier one, another owner or minute would not be found."""
    driver = await opened_on(late)
    row = await said(driver, "ada", 50.0)
    seen = []
    for due_at in (60.0, None, 55.0, 50.0, 40.0, None, 30.0):
        row = await written(driver, row, due_at=due_at)
        seen.append((await places(driver)).get("ada"))
    for changes in ({"due_at": 70.0, "owner": "eve"}, {"due_at": 80.0, "updated_at": 900.0}):
        row = await written(driver, row, **changes)
        seen.append((await places(driver)).get("ada"))
    await driver.close()

    assert [50.0, 50.0, 50.0, 50.0, 40.0, 40.0, 30.0, 70.0, 80.0] == seen


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize(("end", "names"), [(None, "bcaf"), (32.0, "bc"), (35.0, "bca"), (15.0, "")])
async def test_a_scan_shows_what_is_due_where_it_stands(
    late: DurableObjectServer, end: float | None, names: str, limit: int
) -> None:
    """Whatever the shards say, page by page; and who was found at an old place is not looked at again."""
    driver = await opened_on(late)
    rows = {
        name: await said(driver, name, due) for name, due in zip("abcdef", (10, 20, 30, 15, AT_ONCE, 5), strict=True)
    }
    for name, due_at in (("a", 35.0), ("d", None), ("e", None), ("f", 90.0)):
        await written(driver, rows[name], due_at=due_at)
    stale = await places(driver)
    found: list[Row] = []
    while page := await driver.scan(Scan("due", limit, until=end, after=found[-1] if found else None)):
        found += page
    settled = await places(driver)
    await driver.close()

    assert {"a": 10.0, "b": 20.0, "c": 30.0, "d": 15.0, "e": 0.0, "f": 5.0} == stale
    assert names == "".join(row.key.id for row in found)
    assert {"a": 35.0, "b": 20.0, "c": 30.0, "f": 90.0} == settled


async def test_the_alarm_tells_what_nobody_asks_for(worker: DurableObjectServer) -> None:
    """Soon, so that nobody looks at it for nothing."""
    driver = await opened_on(worker)
    await written(driver, await said(driver, "ada", 50.0), due_at=None)

    async def is_told() -> bool:
        return await places(driver) == {}

    await until(is_told, within=20.0)
    await driver.close()


@pytest.fixture(scope="module")
def shard() -> Iterator[DurableObjectServer]:
    """One whose shards are told what a test says."""
    module = worker_module()
    assert 1 == module.count("export default {")
    with DurableObjectServer(worker=module.replace("export default {", "const worker = {") + TOLD_AT_WILL) as server:
        yield server


EVES = {"wake": 5, "owner": "eve", "recent": -2}


@pytest.mark.parametrize(
    ("news", "shown"),
    [
        ([(1, EVES)], [[0], [5], [0], [-2]]),
        ([(1, EVES), (2, EVES | {"wake": 9})], [[0], [9], [0], [-2]]),
        ([(1, EVES), (2, EVES | {"wake": None})], [[0], [], [0], [-2]]),
        ([(1, EVES), (2, EVES | {"recent": -3, "wake": 9})], [[0], [9], [0], [-3]]),
        ([(1, EVES), (2, EVES | {"owner": "", "wake": 9})], [[0], [9], [], [-2]]),
        ([(2, EVES | {"wake": 9}), (1, EVES)], [[0], [9], [0], [-2]]),
        ([(2, EVES | {"recent": -3}), (1, EVES)], [[0], [5], [0], [-3]]),
        ([(1, EVES), (2, None)], [[], [], [], []]),
        ([(2, None), (1, EVES)], [[], [], [], []]),
        ([(1, EVES), (2, None), (3, EVES)], [[0], [5], [0], [-2]]),
    ],
)
async def test_a_shard_shows_what_it_was_told_of_the_newest_version(
    shard: DurableObjectServer, news: list[Any], shown: list[Any]
) -> None:
    """In each index, whatever of a place has moved, and whichever of it comes last."""
    connection = await HttpConnection.open("127.0.0.1", shard.port, None)
    asked = json.dumps({"store": secrets.token_hex(6), "news": news}).encode()
    answer = await connection.post(b"POST / HTTP/1.1\r\nhost: worker", asked)
    connection.abort()

    assert (200, shown) == (answer.status, json.loads(answer.body))


@pytest.fixture(scope="module", params=["", "1"], ids=["as it is", "one by one"])
def sharing(request: pytest.FixtureRequest) -> Iterator[DurableObjectServer]:
    """One whose shards are asked for about their share of a page, and one where nobody's share is enough."""
    share = "Math.min(limit, shareOf(limit, shards))"
    module = worker_module()
    assert 1 == module.count(share)
    with DurableObjectServer(worker=module.replace(share, request.param or share)) as server:
        yield server


NAMES = [*(f"c{n:03}" for n in range(150)), "\uffee", "\U0001f642", "\ud7ff", "z"]


@pytest.mark.parametrize("limit", [1, 7, 40, 153, 154, 1000])
async def test_pages_of_all_shards_have_every_place_once_and_in_order(sharing: DurableObjectServer, limit: int) -> None:
    """By names, in the order of their code points, and by due times of which many are alike."""
    driver = await opened_on(sharing)
    dues = {name: float(n % 4) for n, name in enumerate(NAMES)}
    await asyncio.gather(*(said(driver, name, due_at) for name, due_at in dues.items()))
    found: list[list[str]] = []
    scans = Scan("key", limit=1), Scan("due", limit=1)
    for scan in scans:
        names: list[str] = []
        place, goes_on = None, True
        while goes_on:
            page, goes_on = await driver._places(driver._opened("read"), scan, place, limit)
            names += [name for _, _, name in page]
            place = page[-1] if page else place
        found.append(names)
    await driver.close()

    assert [sorted(NAMES), sorted(NAMES, key=lambda name: (dues[name], name))] == found
