"""The store is emptied, or rolled back, behind everybody's back: declared, never merged, never begun afresh (F19, F20)."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.errors import Replaced, Unavailable, Uncertain
from chatkeep.testing.history import check, collect
from chatkeep.testing.proxy import Proxy
from chatkeep.testing.servers import RedisServer

from ..support.stand import Clients, Stand, note
from ..support.stores import FAST
from ..support.waiting import time_passes, until


async def test_f19_an_emptied_server_is_not_begun_afresh(
    stand: Stand, opening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """FLUSHALL, or the schema dropped: everything is refused and the operator told, until somebody opens it anew."""

    await refused_until_opened_anew(stand.straight(), partial(empty, stand), opening, caplog)


async def test_f19_a_removed_file_is_not_begun_afresh(
    tmp_path: Path, opening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The file of a store that is open was removed: as with a server."""

    async def remove() -> None:
        for file in tmp_path.glob("chat.db*"):
            os.unlink(file)

    await refused_until_opened_anew(f"sqlite:///{tmp_path}/chat.db", remove, opening, caplog)


async def refused_until_opened_anew(url: str, empty: Any, opening: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Has two conversations on two instances, one of them cached, empties the store and tries everything."""
    keeps = [await opening(url) for _ in range(2)]
    for keep, name in zip(keeps, ("ada", "bob"), strict=True):
        for _ in range(3):
            await keep.receive(name, "hello")
    epochs = {keep._engine.store.driver.epoch for keep in keeps}
    with caplog.at_level(logging.CRITICAL):
        await empty()
        for keep in keeps:
            for act in (
                lambda: keep.receive("ada", "still there?"),
                lambda: keep.accept("bob", "still there?"),
                lambda: keep.receive("new", "hello"),
                lambda: keep.conversation("ada"),
                lambda: keep.change("bob", lambda state: state.clear()),
            ):
                with pytest.raises(Replaced):
                    await act()

    assert [0, 0] == [keep.statistics.cache.entries for keep in keeps]
    assert [True, True] == [keep.trouble != "" for keep in keeps]
    assert 2 <= len([said for said in caplog.records if said.levelno == logging.CRITICAL])
    for keep in keeps:
        await keep.close()
    anew = await opening(url)
    clients = Clients([anew])
    await clients.send("ada")

    assert anew._engine.store.driver.epoch not in epochs
    assert ([], 1) == ((verdict := await clients.verdict()).faults, verdict.acked)


async def test_f19_a_store_that_was_emptied_is_opened_anew_where_that_is_asked_for(stand: Stand, opening: Any) -> None:
    """on_replaced="reopen", on a server."""
    await opened_anew(stand.straight(), partial(empty, stand), opening)


async def test_f19_a_file_that_was_removed_is_opened_anew_where_that_is_asked_for(tmp_path: Path, opening: Any) -> None:
    """on_replaced="reopen", on a file."""

    async def remove() -> None:
        for file in tmp_path.glob("chat.db*"):
            os.unlink(file)

    await opened_anew(f"sqlite:///{tmp_path}/chat.db", remove, opening)


async def opened_anew(url: str, empty: Any, opening: Any) -> None:
    """Empties the store: within a poll messages are answered again, by every instance, and the hook rebuilds what was lost; the
    instance that is told nothing goes on refusing, and says why."""
    rebuilt: list[str] = []

    async def rebuild(turn: Turn[dict[str, Any]]) -> dict[str, Any]:
        rebuilt.append(turn.conversation)
        return {"seen": ["rebuilt"]}

    keeps = []
    for place in range(2):
        keep: Chatkeep[Any] = Chatkeep(url, **(FAST | {"on_replaced": "reopen"}))
        if place == 0:
            keep.on_message(note)
            keep.on_missing(rebuild)
        await keep.open()
        keeps.append(keep)
    refusing = await opening(url)
    bot, desk = keeps
    try:
        await bot.receive("ada", "hello")
        rebuilt.clear()
        await empty()
        with pytest.raises(Unavailable):
            await refusing.receive("ada", "there?")
        await until(lambda: answers(bot), within=10)
        await until(lambda: accepts(desk), within=10)

        assert ["ada"] == rebuilt
        assert ("", "") == (bot.trouble, desk.trouble)
        assert "since it was opened" in refusing.trouble
        assert "the store was emptied, or another one has taken its place" == core_of(refusing).trouble
        with pytest.raises(Replaced):
            await refusing.receive("ada", "there?")
    finally:
        for keep in keeps:
            await keep.close()


async def answers(keep: Any) -> bool:
    """Whether it answers a message."""
    try:
        return bool((await keep.receive("ada", "there?", id="there")).replies)
    except Unavailable:
        return False


async def accepts(keep: Any) -> bool:
    """Whether it accepts a message, once."""
    try:
        return "accepted" == (await keep.accept("bob", "there?")).status
    except Unavailable:
        return False


async def empty(stand: Stand) -> None:
    """Takes everything away that the store holds."""
    if isinstance(stand.server, RedisServer):
        stand.server.ask("FLUSHALL")
        return
    connection = await asyncpg.connect(stand.straight().partition("?")[0])
    await connection.execute(f"drop schema {stand.name} cascade")
    await connection.close()


async def test_f20_every_conversation_that_lost_something_is_told_of(
    tmp_path: Path, opening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is rolled back to a copy: the first conversation that shows it must not make the others be forgotten."""
    names = [f"c{number}" for number in range(12)]
    (home := tmp_path / "server").mkdir()
    with RedisServer("valkey-9", home) as server:
        keep = await opening(server.url + "?timeout=2", poll="50ms")
        for name in names:
            await keep.receive(name, "1")
        copy(server, tmp_path / "copy")
        for name in names:
            await insisted(keep.receive, name, "2")
        roll_back(server, tmp_path / "copy")
        with caplog.at_level(logging.ERROR):
            for place, name in enumerate(names):
                await insisted(
                    (keep.receive, keep.accept, keep.conversation)[place % 3], name, *(["3"] * (place % 3 < 2))
                )
        await keep.close()

    told = [said.message for said in caplog.records if "rolled back" in said.message]
    assert [True] * 12 == [any(said.startswith(f"{name}:") for said in told) for name in names]
    assert 12 == keep.statistics.engine.rolled_back


async def test_f20_a_state_that_was_lost_alone_is_told_of(
    tmp_path: Path, opening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its log is as long as it was, or longer by what another instance has taken in since; where nothing is lost nothing is told."""
    names = [f"c{number}" for number in range(6)]
    (home := tmp_path / "server").mkdir()
    with RedisServer("valkey-9", home) as server:
        url = server.url + "?timeout=2"
        keep, other = await opening(url, poll="50ms"), await opening(url, poll="50ms")
        for name in (*names, "whole"):
            await keep.receive(name, "1")
            await keep.change(name, lambda state: state.update(step=1))
        copy(server, tmp_path / "copy")
        for name in names:
            await insisted(keep.change, name, lambda state: state.update(step=2))
        roll_back(server, tmp_path / "copy")
        await insisted(other.accept, names[5], "2")
        with caplog.at_level(logging.ERROR):
            for place, name in enumerate((*names, "whole")):
                await insisted(
                    (keep.receive, keep.accept, keep.conversation)[place % 3], name, *(["3"] * (place % 3 < 2))
                )

    told = [said.message.split(":")[0] for said in caplog.records if "rolled back" in said.message]
    assert names == told
    assert 6 == keep.statistics.engine.rolled_back


async def test_f20_a_conversation_that_the_copy_lacks_is_told_of(
    tmp_path: Path, opening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One that began after the copy is lost as a whole: whoever looks at it is told so, and nobody of one that was erased, before the
    store was rolled back or after it was seen to be there."""
    names = [f"c{number}" for number in range(4)]
    (home := tmp_path / "server").mkdir()
    with RedisServer("valkey-9", home) as server:
        keep = await opening(server.url + "?timeout=2", poll="50ms")
        for name in ("old", "older", "whole"):
            await keep.receive(name, "1")
        await keep.receive("erased", "1")
        await keep.erase("erased")
        copy(server, tmp_path / "copy")
        for name in ("old", "older", *names):
            await insisted(keep.receive, name, "2")
        roll_back(server, tmp_path / "copy")
        with caplog.at_level(logging.ERROR):
            await insisted(keep.receive, "old", "3")
            assert await insisted(keep.conversation, "whole") is not None
            await insisted(keep.receive, "older", "3")
            other = await opening(server.url + "?timeout=2", poll="50ms")
            await other.erase("whole")
            assert await keep.conversation("whole") is None
            await other.close()
            for place, name in enumerate((*names, "erased", "new")):
                await insisted(
                    (keep.receive, keep.accept, keep.conversation)[place % 3], name, *(["3"] * (place % 3 < 2))
                )
            await keep.receive("erased", "3")
        await keep.close()

    told = [said.message.split(":")[0] for said in caplog.records if "rolled back" in said.message]
    assert ["old", "older", *names] == told
    assert 6 == keep.statistics.engine.rolled_back


async def test_f20_a_conversation_that_was_seen_since_and_erased_is_not_told_of(
    tmp_path: Path, opening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One that the copy holds, and that another instance erases later, is no loss: neither where this one has answered there since, nor
    where a turn was running when the store was found rolled back."""

    async def answer(turn: Turn[Any]) -> str:
        if turn.text == "slow":
            began.set()
            await going_on.wait()
        return "yes"

    began, going_on = asyncio.Event(), asyncio.Event()
    (home := tmp_path / "server").mkdir()
    with RedisServer("valkey-9", home) as server:
        url = server.url + "?timeout=2"
        keep, other = await opening(url, answer, cache_entries=2), await opening(url)
        for name in ("old", "seen", "running"):
            await keep.receive(name, "1")
        copy(server, tmp_path / "copy")
        await insisted(keep.receive, "old", "2")
        roll_back(server, tmp_path / "copy")
        with caplog.at_level(logging.ERROR):
            await insisted(keep.conversation, "running")
            running = asyncio.create_task(keep.receive("running", "slow"))
            await began.wait()
            await insisted(keep.receive, "old", "3")
            going_on.set()
            await running
            await insisted(other.erase, "running")
            await keep.conversation("running")
            for name in (*map(str, range(10)), "seen"):  # so many that it is not known any more how far that one went
                await keep.receive(name, "2")
            await insisted(other.erase, "seen")
            await keep.conversation("seen")

    assert ["old"] == [said.message.split(":")[0] for said in caplog.records if "rolled back" in said.message]
    assert 1 == keep.statistics.engine.rolled_back


def copy(server: RedisServer, place: Path) -> None:
    """Copies what the store holds."""
    server.kill()
    shutil.copytree(server.folder, place)
    server.start()


def roll_back(server: RedisServer, place: Path) -> None:
    """Sets the store back to a copy."""
    server.kill()
    shutil.rmtree(server.folder)
    shutil.copytree(place, server.folder)
    server.start()


async def insisted(act: Any, *arguments: Any) -> Any:
    """Does *act*, as often as it takes for the store to answer."""
    while True:
        try:
            return await act(*arguments)
        except (Unavailable, Uncertain):
            await time_passes(0.05)


async def test_f20_a_failover_to_a_stale_replica_is_a_declared_loss(
    tmp_path: Path, opening: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The replica lacks what was answered last: that is said and counted, and what remains is one history, not two mixed."""
    servers = []
    for role in ("primary", "replica"):
        home = tmp_path / role
        home.mkdir()
        servers.append(RedisServer("valkey-9", home, "--repl-diskless-sync-delay", "0"))
    primary, replica = servers
    names = [f"c{number}" for number in range(4)]
    with primary, replica:
        async with Proxy(primary.port) as proxy:
            replica.ask("REPLICAOF", "127.0.0.1", str(primary.port))
            await until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))
            keeps = [await opening(f"redis://127.0.0.1:{proxy.port}/0", poll="200ms") for _ in range(2)]
            clients = Clients(keeps)
            for place, name in enumerate(names * 4):
                await clients.insist(name, how=("receive", "accept")[place % 2])
            await clients.verdict()  # nothing is under way any more
            assert b":1\r\n" == primary.ask("WAIT", "1", "2000")
            replica.ask("REPLICAOF", "NO", "ONE")
            for name in names * 3:
                await clients.insist(name)
            primary.kill()
            proxy.upstream = replica.port
            proxy.cut()
            with caplog.at_level(logging.ERROR):
                for name in names * 3:
                    await clients.insist(name)
            held = await collect(keeps[0])
            for keep in keeps:
                await keep.close()
            rolled_back = [keep._engine.store.rolled_back for keep in keeps]
    verdict = check(clients.told, held, lossy=True)

    assert [] == verdict.faults
    assert 12 == verdict.lost
    assert sum(rolled_back) > 0
    assert any("rolled back" in said.message for said in caplog.records)
    for found in held.values():
        replies = [message.text for message in found.messages if message.role == "assistant"]

        assert [f"{place}: {id}" for place, id in enumerate(found.state["seen"], 1)] == replies
    assert [] == [fault for fault in check(clients.told, held).faults if not fault.startswith(("LOST", "OVERTAKEN"))]


async def test_f20_a_store_that_is_well_is_never_said_to_be_rolled_back(tmp_path: Path, opening: Any) -> None:
    """Two instances take turns at a moment that two ways of rounding to milliseconds do not agree about."""
    moment = next(t for n in range(10**6) if round((t := 1795251770.0005 + n / 1000) * 1000) / 1000 != round(t, 3))
    keeps = [await opening(f"sqlite:///{tmp_path}/chat.db", poll="30s", clock=lambda: moment) for _ in range(2)]
    clients = Clients(keeps)
    for _ in range(6):
        await clients.send("ada")

    assert [] == (await clients.verdict()).faults
    assert [0, 0] == [keep._engine.store.rolled_back for keep in keeps]
