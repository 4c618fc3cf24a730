"""The store is away when it is opened, or goes in the middle: nothing is called emptied that is not, nothing that was
acknowledged is lost, and `trouble` says why whenever a message is refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import asyncpg
import pytest

from chatkeep import Chatkeep, Misconfigured, Unavailable, Uncertain
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Key, Read
from chatkeep.drivers.sqlite import opening as sqlite
from chatkeep.errors import Replaced
from chatkeep.server.health import trouble_of
from chatkeep.testing.history import DeliveryReport, check, collect
from chatkeep.testing.proxy import Proxy
from chatkeep.testing.servers import PostgresServer, RedisServer, Server

from ..support.stand import Clients, Stand, note
from ..support.stores import FAST
from ..support.waiting import nothing_happens_for, takes, time_passes, until

QUICK = {"store_timeout": "200ms"}


@pytest.fixture
async def other(stand: Stand, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Another server of the same kind, which holds nothing."""
    folder = tmp_path_factory.mktemp("other")
    server: Server = (
        RedisServer("valkey-9", folder) if isinstance(stand.server, RedisServer) else PostgresServer(folder)
    )
    await asyncio.to_thread(server.start)
    yield server
    await asyncio.to_thread(server.stop)


def gone(proxy: Proxy) -> None:
    """From now on the store cannot be reached."""
    proxy.refusing = True
    proxy.cut()


def back(proxy: Proxy, upstream: int | None = None) -> None:
    """It can be reached again, or another server in its place."""
    proxy.upstream = upstream or proxy.upstream
    proxy.cut()
    proxy.refusing, proxy.lose = False, lambda request: None


def gone_after(proxy: Proxy, passing: int, loss: str) -> None:
    """The store goes when it has been sent so many requests more, and of the next one the request or the reply is lost."""

    def lose(request: bytes) -> Any:
        nonlocal passing
        passing -= 1
        if passing < 0:
            proxy.refusing = True
            return loss
        return None

    proxy.lose = lose


class Talkers:
    """Accept messages of many conversations all the time; remember what they were told, and whether it was explained."""

    def __init__(self, keep: Chatkeep[Any], told: list[DeliveryReport]) -> None:
        self.keep, self.told = keep, told
        self.seen: list[str] = []
        self.unexplained: list[str] = []
        self.tasks = [asyncio.create_task(self._talk(f"talker{number}.{len(told)}")) for number in range(3)]

    async def _talk(self, name: str) -> None:
        count = 0
        while True:
            count += 1
            await self.say(name if count % 2 else f"{name}.{count}", f"{name}.{count}")
            await takes(0.02)

    async def say(self, name: str, id: str) -> None:
        """Sends a message until it is taken."""
        self.told.append(DeliveryReport(name, id, False))
        while True:
            try:
                receipt = await self.keep.accept(name, id, id=id)
                self.seen.append(str(receipt.status))
                break
            except (Unavailable, Uncertain) as fault:
                self.seen.append(type(fault).__name__)
                if not self.keep.trouble:
                    self.unexplained.append(str(fault))
                await time_passes(0.02)
        self.told.append(DeliveryReport(name, id, True))

    async def stop(self) -> None:
        """No more messages."""
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


@pytest.mark.parametrize("loss", ["request", "reply"])
async def test_a_driver_whose_store_goes_while_it_is_opened_is_closed(stand: Stand, loss: str) -> None:
    """At each request of the opening, of a store that is made and of one that is there; the next open is as the first."""
    epochs = set()
    for passing in range(14):
        driver = driver_for(stand.url(timeout=1.0))
        gone_after(stand.proxy, passing, loss)
        with contextlib.suppress(Unavailable):
            await driver.open()
        opened = driver.epoch
        if not opened:
            with pytest.raises(Unavailable, match="not open"):
                await driver.read(Read(Key("", "ada"), tail=1))
        await driver.close()
        back(stand.proxy)
        await driver.open()

        assert None is await driver.read(Read(Key("", "ada"), tail=1))
        epochs |= {driver.epoch, opened or driver.epoch}
        await driver.close()
        if opened:
            break

    assert 1 == len(epochs)
    assert opened, "it went away at every request so far: there are more to be tried"


async def test_an_open_that_was_cancelled_leaves_no_connection(stand: Stand) -> None:
    """At whatever moment, and whether the store answers or is silent."""
    for silent in (False, True):
        for ticks in (*range(0, 40, 3), 80, 160, 640, 2560):
            driver = driver_for(stand.url(timeout=0.3))
            opening = asyncio.create_task(driver.open())
            for tick in range(ticks):
                stand.proxy.silent = silent and tick > ticks // 2
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            stand.proxy.silent = False
            await driver.close()
            await until(lambda: not stand.proxy._links, within=1.0)


@pytest.mark.parametrize("pause_s", [0.1, 3.0])
async def test_journal_until_a_store_comes_that_was_away_at_the_start(
    stand: Stand, opening: Any, tmp_path: Path, pause_s: float
) -> None:
    """It is what it was: whatever was told before, meanwhile and after is there once, in order, and answered."""
    first = await opening(stand.straight(), **QUICK)
    clients = Clients([first])
    for _ in range(3):
        await clients.insist("ada")
    gone(stand.proxy)
    keep = await opening(stand.url(timeout=1), on_outage="journal", journal=f"{tmp_path}/journal.db", **QUICK)
    talkers = Talkers(keep, clients.told)
    await talkers.say("ada", "meanwhile")
    await time_passes(pause_s)
    away, public = keep.trouble, trouble_of(keep)
    back(stand.proxy)
    await until(lambda: talkers.seen[-1] == "accepted")
    await nothing_happens_for(0.3)
    await talkers.stop()
    await until(lambda: not keep.trouble and keep.statistics.engine.journaled == 0)
    await talkers.say("ada", "after")

    assert {"journaled", "accepted"} == set(talkers.seen)
    assert [] == talkers.unexplained
    assert "not been opened" in away
    assert ("the store is not reached", "") == (public, trouble_of(keep))
    assert [] == check(clients.told, await collect(keep)).faults


@pytest.mark.long
@pytest.mark.parametrize("loss", ["request", "reply"])
async def test_journal_while_the_store_goes_in_the_middle_of_an_opening(
    stand: Stand, opening: Any, tmp_path: Path, loss: str
) -> None:
    """After each number of requests that pass: all is journaled until it stays, and nothing is called emptied."""
    told: list[DeliveryReport] = []
    for passing in range(7):
        gone(stand.proxy)
        options = {"store_timeout": "1s"}  # (a busy machine may need more than QUICK for each act)
        keep = await opening(stand.url(timeout=1), on_outage="journal", journal=f"{tmp_path}/{passing}.db", **options)
        talkers = Talkers(keep, told)
        await time_passes(0.05)
        back(stand.proxy)
        gone_after(stand.proxy, passing, loss)
        with contextlib.suppress(AssertionError):
            await until(lambda: stand.proxy.refusing, within=0.6)
        await time_passes(0.1)
        back(stand.proxy)
        await until(lambda keep=keep: not keep.trouble and keep.statistics.engine.journaled == 0, within=30)
        await talkers.stop()
        await keep.close()

        assert {"journaled", "accepted", "answered"} >= set(talkers.seen)
        assert [] == talkers.unexplained

    assert [] == check(told, await collect(await opening(stand.straight()))).faults


@pytest.mark.parametrize("on_outage", ["refuse", "read"])
async def test_without_a_journal_an_open_fails_and_can_be_repeated(stand: Stand, on_outage: str) -> None:
    """Nobody gets in meanwhile; what is refused is explained; later it is as if nothing had been."""
    keep: Chatkeep[Any] = Chatkeep(stand.url(timeout=0.8), **(FAST | QUICK | {"on_outage": on_outage}))
    keep.on_message(note)
    gone(stand.proxy)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await keep.open()
        with pytest.raises(Unavailable):
            await keep.accept("ada", "1", id="1")
        assert "not open" in keep.trouble
    back(stand.proxy)
    async with keep:
        clients = Clients([keep])
        await clients.insist("ada")

        assert "" == keep.trouble
        assert [] == (await clients.verdict()).faults


async def test_messages_for_one_store_do_not_get_into_another_that_comes_in_its_place(
    stand: Stand, other: Server, opening: Any, tmp_path: Path
) -> None:
    """A journal holds messages, and the store comes back empty, as another: all goes on into the journal, and `trouble`
    says why, until the right one is there."""
    options = {"on_outage": "journal", "journal": f"{tmp_path}/journal.db", **QUICK}
    first = await opening(stand.url(timeout=3), **options)
    clients = Clients([first])
    await clients.insist("ada")
    await first.close()
    gone(stand.proxy)
    keep = await opening(stand.url(timeout=3), **options)
    talkers = Talkers(keep, clients.told)
    await time_passes(0.1)
    stand.proxy.delay_s = 0.01  # so that messages come while it is being found out
    back(stand.proxy, other.port)
    await until(lambda: "another store" in keep.trouble)
    await nothing_happens_for(0.3)
    wrong = list(talkers.seen)
    back(stand.proxy, stand.server.port)
    stand.proxy.delay_s = 0.0
    await until(lambda: not keep.trouble and keep.statistics.engine.journaled == 0)
    await talkers.stop()
    elsewhere = await opening(stand.straight().replace(f":{stand.server.port}/", f":{other.port}/"))

    assert {"journaled"} == set(wrong)
    assert [] == talkers.unexplained
    assert {} == await collect(elsewhere)
    assert [] == check(clients.told, await collect(keep)).faults


@pytest.mark.parametrize("on_outage", ["refuse", "read", "journal"])
async def test_another_store_is_refused_until_the_right_one_is_back(
    stand: Stand, other: Server, opening: Any, tmp_path: Path, on_outage: str
) -> None:
    """While it is open: everything is refused and told, nothing is journaled; then all goes on without a restart."""
    journal = {"journal": f"{tmp_path}/journal.db"} if on_outage == "journal" else {}
    keep = await opening(stand.url(timeout=3), on_outage=on_outage, **journal, **QUICK)
    clients = Clients([keep])
    await clients.insist("ada")
    driver = driver_for(stand.straight().replace(f":{stand.server.port}/", f":{other.port}/"))
    await driver.open()
    await driver.close()
    back(stand.proxy, other.port)
    await until(lambda: "taken its place" in keep.trouble)
    for _ in range(20):
        with pytest.raises(Replaced):
            await keep.accept("bob", "1", id="1")
        assert "taken its place" in keep.trouble
        assert "taken its place" in trouble_of(keep)
        await time_passes(0.07)
    back(stand.proxy, stand.server.port)
    await until(lambda: not keep.trouble)
    await clients.insist("ada")

    assert [] == (await clients.verdict()).faults
    assert ["ada"] == [one.id async for one in keep.conversations()]


async def test_the_bot_is_off_from_the_first_message_on(stand: Stand, opening: Any, tmp_path: Path) -> None:
    """It was paused elsewhere; this instance learns so before it gives the store any message to answer."""
    first = await opening(stand.straight())
    await first.accept("ada", "1", id="1")
    await until(lambda: first.statistics.engine.turns == 1)
    await first.pause_all()
    await first.close()
    gone(stand.proxy)
    keep = await opening(stand.url(timeout=3), on_outage="journal", journal=f"{tmp_path}/journal.db", **QUICK)
    talkers = Talkers(keep, [])
    await time_passes(0.1)
    stand.proxy.delay_s = 0.03
    back(stand.proxy)
    await until(lambda: "accepted" in talkers.seen)
    await talkers.stop()
    stand.proxy.delay_s = 0.0
    await until(lambda: not keep.trouble and keep.statistics.engine.journaled == 0)

    assert 0 == keep.statistics.engine.turns
    assert {"journaled", "accepted"} == set(talkers.seen)


async def test_one_opens_or_closes_at_a_time(stand: Stand, tmp_path: Path) -> None:
    """A second open is refused and does no harm; close waits for it; a cancelled one leaves journal and store free."""
    options = FAST | QUICK | {"on_outage": "journal", "journal": f"{tmp_path}/journal.db"}
    keep: Chatkeep[Any] = Chatkeep(stand.url(), **options)
    keep.on_message(note)
    answers = await asyncio.gather(keep.open(), keep.open(), return_exceptions=True)

    assert [True, False] == [answer is None for answer in answers]
    assert isinstance(answers[1], Misconfigured)
    assert "answered" == (await keep.receive("ada", "1", id="1")).status

    await keep.close()
    opening = asyncio.create_task(keep.open())
    await asyncio.sleep(0)
    await keep.close()
    await opening
    assert "not open" in keep.trouble
    for moment in (0.0, 0.001, 0.003, 0.006, 0.012, 0.024):
        opening = asyncio.create_task(keep.open())
        await asyncio.sleep(moment)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
            await keep.close()
        assert "not open" in keep.trouble
    async with keep:
        assert ["1"] == (await keep.conversation("ada")).state["seen"]
    await asyncio.sleep(0)
    assert [] == [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]


async def damage(stand: Stand, name: str) -> Callable[[], Any]:
    """Makes a conversation unreadable; what is answered mends it."""
    if isinstance(stand.server, RedisServer):
        names = stand.server.ask("KEYS", f"{stand.name}:*row:*").split(b"\r\n")
        (row,) = [found.decode() for found in names if found.endswith(f"\0{name}".encode())]
        stand.server.ask("RENAME", row, f"{stand.name}:aside")
        stand.server.ask("SET", row, "garbage")

        async def mend() -> None:
            stand.server.ask("RENAME", f"{stand.name}:aside", row)  # type: ignore[attr-defined]

        return mend

    async def run(sql: str) -> None:
        connection = await asyncpg.connect(stand.straight().partition("?")[0])
        await connection.execute(sql)
        await connection.close()

    await run(f"update {stand.name}.conversation set head = head - 1 where id = '{name}'")
    return lambda: run(f"update {stand.name}.conversation set head = head + 1 where id = '{name}'")


async def test_a_damaged_conversation_holds_up_no_other(stand: Stand, opening: Any, tmp_path: Path) -> None:
    """Of three in the journal one cannot be given to the store: the others are, `trouble` names it, and it is given when
    it is mended."""
    keep = await opening(stand.url(timeout=1), on_outage="journal", journal=f"{tmp_path}/journal.db", **QUICK)
    told: list[DeliveryReport] = []
    for name in ("ada", "bob", "zoe"):
        await keep.receive(name, "1", id=f"{name}1")
    keep._engine.store._cache.clear()
    mend = await damage(stand, "ada")
    gone(stand.proxy)
    await until(lambda: keep.trouble)
    for name in ("ada", "bob", "zoe"):
        for number in (2, 3):
            assert "journaled" == (await keep.accept(name, str(number), id=f"{name}{number}")).status
    back(stand.proxy)
    await until(lambda: keep.statistics.engine.journaled == 1)
    await until(lambda: "ada" in keep.trouble)
    public = trouble_of(keep)
    statuses = [(await keep.accept(name, "4", id=f"{name}4")).status for name in ("ada", "bob", "zoe")]
    await mend()
    await until(lambda: not keep.trouble and keep.statistics.engine.journaled == 0)
    held = await collect(keep)

    assert "messages wait in the journal" == public
    assert ["journaled", "accepted", "accepted"] == statuses
    for name in ("ada", "bob", "zoe"):
        told += [DeliveryReport(name, f"{name}{number}", True) for number in range(1, 5)]
    assert [] == check(told, held).faults


async def test_a_locked_file_is_a_store_that_is_away(
    tmp_path: Path, opening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds the write lock, or the folder is not there yet: taken into the journal, and handed over then."""
    monkeypatch.setattr(sqlite, "BUSY_MS", 100)
    for folder, holds in ((tmp_path, True), (tmp_path / "mounted later", False)):
        url = f"sqlite:///{folder}/chat.db"
        if holds:
            await (await opening(url)).close()
            holder = apsw.Connection(f"{folder}/chat.db")
            holder.execute("begin immediate")
        keep = await opening(url, on_outage="journal", journal=f"{tmp_path}/journal{holds}.db", **QUICK)
        told: list[DeliveryReport] = []
        talkers = Talkers(keep, told)
        await time_passes(0.3)
        away = keep.trouble
        if holds:
            holder.execute("rollback")
            holder.close()
        else:
            folder.mkdir()
        await until(lambda talkers=talkers: talkers.seen[-1] == "accepted")
        await talkers.stop()
        await until(lambda keep=keep: not keep.trouble and keep.statistics.engine.journaled == 0)

        assert "not been opened" in away
        assert {"journaled", "accepted"} == set(talkers.seen)
        assert [] == talkers.unexplained
        assert [] == check(told, await collect(keep)).faults
