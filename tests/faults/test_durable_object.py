"""Durable Objects whose machine dies: every row against every index, every log against what was answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec import structs

from chatkeep.drivers.base import Append, Entry, Erase, Index, Key, Read, Row, Scan, Write
from chatkeep.drivers.durable_object import DurableObjectDriver
from chatkeep.errors import Conflict, StoreError, Uncertain
from chatkeep.testing.servers import DurableObjectServer, worker_module
from tests.support.soaking import KILLS
from tests.support.waiting import nothing_happens_for, time_passes, until

pytestmark = pytest.mark.server

ADA = Key("", "ada")
SAID = Append(ADA, [Entry(0, "a", "user", b"hello")], revision="r1", at=100.0, due_at=50.0, owner="eve")
INDEXES: tuple[Index, ...] = ("key", "due", "owner", "recent")

TELLS = "await shardOf(this.env, store, shard).put("
PLANTS = {
    "no alarm": ("this.ctx.storage.setAlarm(Date.now() + TELL_MS);", ""),
    "answers early": (
        "await this.tell();\n    this.wake();",
        "this.ctx.waitUntil(this.tell());\n    this.wake();",
    ),
}
"""Bugs that the tests must find: what stands in the worker, and what takes its place."""
TOLD = 300
"""Answers that a load gets at least: of so many, one in twenty that was no act is found (0.95 ** 300)."""


def module(plant: str = "", *, before: str = "") -> str:
    """The worker, with a planted bug; *before*: what it does before a shard is told."""
    found = worker_module()
    for old, new in [*([PLANTS[plant]] if plant else []), (TELLS, f"{before} {TELLS}")]:
        assert found.count(old) == 1, old
        found = found.replace(old, new)
    return found


async def opened_on(server: DurableObjectServer, timeout: float = 5.0) -> DurableObjectDriver:
    """A driver on it."""
    driver = DurableObjectDriver(f"{server.url}&timeout={timeout}")
    await driver.open()
    return driver


async def shown(driver: DurableObjectDriver) -> list[set[Key]]:
    """Whom each index shows."""
    found: list[set[Key]] = []
    for index in INDEXES:
        rows: list[Row] = []
        while page := await driver.scan(Scan(index, owner="eve", after=rows[-1] if rows else None, limit=200)):
            rows += page
        found.append({row.key for row in rows})
    return found


@contextmanager
def holding(plant: str = "") -> Iterator[tuple[DurableObjectServer, Callable[[bool], None]]]:
    """A worker whose shards are not told anything until it is started again without `held`."""
    text = module(
        plant, before='if (this.env.HELD === "yes") await new Promise((resolve) => setTimeout(resolve, 60_000));'
    )
    with DurableObjectServer(worker=text, settings={"HELD": "yes"}) as server:

        def start_again(held: bool) -> None:
            server.kill()
            server.settings["HELD"] = "yes" if held else "no"
            server.start()

        yield server, start_again


async def left_untold(plant: str) -> list[set[Key]]:
    """Whom the indexes show when a machine has died between the act and the shard, and a while has passed."""
    with holding(plant) as (server, start_again):
        driver = await opened_on(server, 1.0)
        with pytest.raises(Uncertain):
            await driver.append(SAID)
        await asyncio.to_thread(start_again, False)
        if plant:
            await time_passes(4.0)
        else:
            await until(lambda: is_shown(driver), within=20.0)
        found = await shown(driver)
        await driver.close()
    return found


async def is_shown(driver: DurableObjectDriver) -> bool:
    """Whether an index shows a conversation that nobody has asked for."""
    return bool((await shown(driver))[0])


async def test_a_slow_worker_is_given_what_it_does_in_time() -> None:
    """A burst of which it does only a part before the time is over: that part is answered, and most of the rest was never sent."""
    takes = "async acts(env, store, epoch, acts) {"
    slow = "await new Promise((resolve) => setTimeout(resolve, 40 * acts.length));"
    text = worker_module()
    assert text.count(takes) == 1
    with DurableObjectServer(worker=text.replace(takes, f"{takes} {slow}")) as server:
        driver = await opened_on(server, 4.0)
        burst = [structs.replace(SAID, key=Key("", f"c{n}")) for n in range(1000)]
        told = await asyncio.gather(*map(driver.append, burst), return_exceptions=True)
        await driver.close()
    unknown = [one for one in told if isinstance(one, Uncertain)]
    answered = [one for one in told if not isinstance(one, Exception)]

    assert len(answered) > len(unknown)


async def test_what_waits_for_a_silent_worker_hears_of_that() -> None:
    """And not that the worker is slow, though its machine lets everybody connect."""
    with DurableObjectServer() as server:
        driver = await opened_on(server, 1.0)
        server.pause()
        with pytest.raises(Uncertain):
            await driver.append(SAID)
        told = await asyncio.gather(driver.append(SAID), driver.append(SAID), return_exceptions=True)
        server.resume()
        await driver.close()

    assert isinstance(told[0], Uncertain)
    assert "cannot be reached (silent for 1 s); nothing was written" in str(told[1])


async def test_what_a_death_left_untold_is_told_by_the_alarm() -> None:
    """Without anybody asking for the conversation, which nobody knows of; and the check finds a worker that sets no alarm."""
    assert [{ADA}] * 4 == await left_untold("")
    assert [set[Key]()] * 4 == await left_untold("no alarm")


async def answered_before(plant: str) -> list[bool]:
    """Whether an act, and a reader, was answered while the shard had not been told."""
    with holding(plant) as (server, _):
        driver, reader = await opened_on(server, 1.0), await opened_on(server, 1.0)
        done, told = await asyncio.gather(driver.append(SAID), later(reader), return_exceptions=True)
        assert [set[Key]()] * 4 == await shown(driver)
        await driver.close()
        await reader.close()
    assert isinstance(done, Uncertain) or not isinstance(done, BaseException)
    return [not isinstance(answer, StoreError) for answer in (done, told)]


async def later(reader: DurableObjectDriver) -> Any:
    """What a reader sees when the act is under way."""
    await nothing_happens_for(0.3)
    return await reader.read(Read(ADA, tail=1))


async def test_nobody_is_answered_before_the_shard_knows() -> None:
    """Neither who has written nor who reads what was written; and the check finds a worker that answers early."""
    assert [False, False] == await answered_before("")
    assert [True] == (await answered_before("answers early"))[:1]


async def test_an_act_that_fails_halfway_leaves_the_conversation_as_it_was() -> None:
    """Also what its object has in memory: revision, head, owner and place are those of the database."""
    drops = "if (drop > 0)"
    text = module()
    assert text.count(drops) == 1
    with DurableObjectServer(
        worker=text.replace(drops, f'if (drop === 7) throw new Error("planted"); {drops}')
    ) as server:
        driver = await opened_on(server)
        row = (await driver.append(SAID)).row
        other = structs.replace(row, revision="r2", owner="bob", due_at=70.0, updated_at=900.0)
        with pytest.raises(Uncertain, match="planted"):
            await driver.write(Write(other, row.revision, [Entry(0, "b", "user", b"lost")], drop=7))
        with pytest.raises(Conflict):
            await driver.write(Write(structs.replace(other, revision="r3"), other.revision))
        assert (row, [Entry(1, "a", "user", b"hello")]) == await driver.read(Read(ADA, tail=9))
        assert [{ADA}] * 4 == await shown(driver)

        assert 2 == (await driver.write(Write(other, row.revision, [Entry(0, "b", "user", b"kept")]))).head
        await driver.close()


class Load:
    """Callers of bare verbs that give up for good at the first error, and what they were told."""

    def __init__(self, driver: DurableObjectDriver, *, forgetful: bool = False) -> None:
        self.driver, self.forgetful = driver, forgetful
        self.told: dict[Key, set[str]] = {}
        """Ids that were answered, by conversation."""
        self.perhaps: dict[Key, list[set[str]]] = {}
        """What was there at each erasure of unknown outcome: it has taken all of that, or nothing."""
        self.done = False
        self.errors = 0

    async def call(self, name: int) -> None:
        """One caller."""
        chance, n = random.Random(name), 0
        while not self.done:
            n += 1
            key, at = Key("", f"{name}.{n % 9}.{n // 40}"), 1000.0 + n * 7
            try:
                dice = chance.random()
                if dice < 0.08:
                    await self._erase(key, at)
                elif dice < 0.3 and (there := await self.driver.read(Read(key, tail=0))):
                    owner, due = chance.choice(["", "eve", "bob"]), chance.choice([None, at])
                    row = structs.replace(there[0], revision=f"w{n}", owner=owner, due_at=due, updated_at=at)
                    await self.driver.write(Write(row, replaces=there[0].revision))
                else:
                    if not (self.forgetful and chance.random() < 0.05):
                        entry = Entry(0, f"m{n}", "user", b"x")
                        await self.driver.append(Append(key, [entry], revision=f"a{n}", at=at, due_at=at, owner="eve"))
                    self.told.setdefault(key, set()).add(f"m{n}")
            except Conflict:
                pass
            except StoreError:
                self.errors += 1
                await time_passes(0.02)

    async def _erase(self, key: Key, at: float) -> None:
        try:
            await self.driver.erase(Erase(key, at=at))
        except Uncertain:
            self.perhaps.setdefault(key, []).append(set(self.told.get(key, set())))
            raise
        self.told[key], self.perhaps[key] = set(), []

    async def judge(self) -> tuple[int, int]:
        """How many answered ids are lost, and how many conversations stand in an index as they should not."""
        lost = wrong = 0
        keys, dues, owned, recent = await shown(self.driver)
        for key, ids in sorted(self.told.items()):
            there = await self.driver.read(Read(key, tail=10_000))
            held = {entry.id for entry in there[1]} if there else set()
            gone = ids - held
            lost += 0 if gone in [set(), *self.perhaps.get(key, [])] else len(gone)
            row = there[0] if there else None
            is_due, is_eves = row is not None and row.wake is not None, row is not None and row.owner == "eve"
            places = [key in keys, key in recent, key in dues, key in owned]
            wrong += places != [row is not None, row is not None, is_due, is_eves]
        return lost, wrong


async def hammered(kills: int, *, forgetful: bool = False) -> tuple[int, int]:
    """Kill the machine again and again under load; what `judge` finds afterwards."""
    slow = "await new Promise((resolve) => setTimeout(resolve, 4));"
    with DurableObjectServer(worker=module(before=slow)) as server:
        load = Load(await opened_on(server, 2.0), forgetful=forgetful)
        callers = [asyncio.create_task(load.call(name)) for name in range(6)]
        for _ in range(kills):
            await time_passes(random.uniform(0.15, 0.5))
            await asyncio.to_thread(lambda: (server.kill(), server.start()))
        await until(lambda: sum(map(len, load.told.values())) > TOLD, within=60)
        load.done = True
        await asyncio.gather(*callers)
        await asyncio.to_thread(lambda: (server.kill(), server.start()))
        await time_passes(4.0)  # alarms of what the last death left
        await load.driver.close()
        load.driver = await opened_on(server, 30.0)
        found = await load.judge()
        await load.driver.close()
    assert load.errors, "no kill has hit anybody"
    return found


@pytest.mark.long
@pytest.mark.slow
async def test_nothing_answered_is_lost_and_every_index_is_right_under_kill_9() -> None:
    """After many deaths under load; and the check finds one acknowledgement in twenty that was no act."""
    assert (0, 0) == await hammered(KILLS // 5)
    assert (await hammered(2, forgetful=True))[0] > 0
