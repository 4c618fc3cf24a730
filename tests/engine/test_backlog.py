"""What is left by a crash or by time is worked off at once, in a good order, and in bounded memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.drivers.base import Entry, Key, Read, Row, Scan, Write
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.engine.backlog import ENDING, ENDING_BESIDE, PAGE, TIDYING, IndexWalk
from chatkeep.engine.pauses import PAUSES

from ..support.clock import Clock
from ..support.counting import answered, count
from ..support.waiting import takes, until


async def test_a_backlog_is_worked_off_without_waiting_for_the_next_poll(opened: Any) -> None:
    """Far more conversations wait than are begun at once, and the store is asked only once a minute."""
    desk = await opened(None)
    for start in range(0, 300, 100):
        await asyncio.gather(*(desk.accept(f"c{number}", "hi", id="1") for number in range(start, start + 100)))
    seen: list[str] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append(turn.conversation)
        return "ok"

    await opened(bot, concurrency=4, poll="1m")
    await until(lambda: len(seen) >= 300, within=20)

    assert 300 == len(set(seen))


async def test_the_sweep_begins_no_more_than_there_is_room_for(opened: Any) -> None:
    """While handlers are busy no more than twice as many conversations as may run are held in memory."""
    desk = await opened(None)
    await asyncio.gather(*(desk.accept(f"c{number}", "hi", id="1") for number in range(60)))
    most, go_on = 0, asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal most
        most = max(most, keep.statistics.engine.workers)
        if keep.statistics.engine.turns < 4:
            await go_on.wait()
        return "ok"

    keep = await opened(bot, concurrency=4)
    await until(lambda: keep.statistics.engine.workers >= 8)
    go_on.set()
    await until(lambda: keep.statistics.engine.turns >= 60)

    assert most <= 8


def reminding(after: str, brought: Callable[[], Awaitable[None]]) -> Callable[[Turn[dict[str, Any]]], Awaitable[str]]:
    """Gives a bot that is asked to remind, and says when the reminder is *brought*."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = 1
        if turn.reminder:
            await brought()
        elif turn.text == "remind":
            turn.remind(after, "later")
        return "ok"

    return bot


async def begin(keep: Chatkeep[Any], sessions: int) -> None:
    """Begins so many sessions and, behind them all, one with a reminder."""
    for start in range(0, sessions, 100):
        some = range(start, min(start + 100, sessions))
        await asyncio.gather(*(keep.receive(f"c{number}", "hi") for number in some))
    await keep.receive("zoe", "remind")


async def test_ended_sessions_hold_no_reminder_up(opened: Any) -> None:
    """A reminder comes due behind many ended sessions: it is brought before most of them are looked after, though all of
    them, and its own session too, have been due for longer."""
    clock, sessions = Clock(), 12 * TIDYING
    left: list[int] = []

    async def note() -> None:
        left.append(await due(keep, clock.now))

    keep = await opened(reminding("31m", note), clock=clock, session_ttl="30m")
    await begin(keep, sessions)
    clock.now += 2000
    await until(lambda: left, within=20)
    await until(lambda: none_due(keep, clock), within=30)

    assert left[0] > sessions / 2


async def test_a_reminder_that_was_overdue_when_the_store_was_opened_waits_for_no_ended_session(opened: Any) -> None:
    """It is brought when the first walk has come to it, and no session is ended before that is over."""
    clock, sessions = Clock(), 3 * PAGE
    left: list[int] = []

    async def note() -> None:
        left.append(await due(keep, clock.now))

    bot = reminding("31m", note)
    keep = await opened(bot, clock=clock, session_ttl="30m", background=False)
    await begin(keep, sessions)
    clock.now += 2000
    keep = await opened(bot, clock=clock, session_ttl="30m")
    await until(lambda: left, within=20)

    assert left[0] >= sessions - 2 * ENDING_BESIDE


async def test_a_reminder_that_comes_due_while_sessions_are_looked_after_is_not_held_up(opened: Any) -> None:
    """The sweep is in the middle of many ended sessions, when a reminder comes due whose place is behind all of them."""
    clock, sessions = Clock(), 30 * TIDYING
    left: list[int] = []

    async def note() -> None:
        left.append(await due(keep, clock.now))

    keep = await opened(reminding("34m", note), clock=clock, session_ttl="30m")
    await begin(keep, sessions)
    before = clock.now
    clock.now += 2000
    await until(lambda: fewer(keep, clock, sessions - TIDYING), within=20)
    clock.now = before + 2041
    await until(lambda: left, within=20)
    await until(lambda: none_due(keep, clock), within=30)

    assert left[0] > 0


async def test_a_reminder_comes_while_the_index_is_still_walked_through(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes long to pass over all that is due and waits for nobody, and a reminder's place is behind it."""
    clock, sessions, read = Clock(), 10 * PAGE, [0]

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.reminder:
            reminded.append(read[0])
        elif turn.text == "remind":
            turn.remind("5m", "later")
        return "ok"

    reminded: list[int] = []
    keep = await opened(bot, clock=clock, session_ttl="30m", poll="50ms")
    for start in range(0, sessions, 100):
        await asyncio.gather(*(keep.receive(f"c{number}", "hi") for number in range(start, start + 100)))
    clock.now += 1700
    await keep.receive("zoe", "remind")
    rows = keep._engine.store.rows

    async def read_slowly(index: str, **options: Any) -> list[Row]:
        found: list[Row] = await rows(index, **options)
        if index == "due":
            read[0] += len(found)
            await takes(0.0 if reminded else 0.2)
        return found

    monkeypatch.setattr(keep._engine.store, "rows", read_slowly)
    clock.now += 290
    await until(lambda: read[0] > PAGE)
    clock.now += 11
    await until(lambda: reminded, within=20)

    assert reminded[0] < sessions


async def test_what_nobody_waits_for_is_done_in_the_end(opened: Any) -> None:
    """Ended sessions are cleared while messages keep coming."""
    clock = Clock()
    keep = await opened(count, clock=clock, session_ttl="30m")
    await asyncio.gather(*(keep.receive(f"c{number}", "hi") for number in range(3 * TIDYING)))
    clock.now += 2000

    async def none_left() -> bool:
        await keep.receive("ada", "hi")
        return 0 == await due(keep, clock.now)

    await until(none_left, within=20)

    assert (await keep.conversation("c7")).state == {}


async def due(keep: Any, at: float) -> int:
    """How many conversations are due."""
    return len(await keep._engine.store.rows("due", until=at, limit=10_000))


async def none_due(keep: Any, clock: Callable[[], float]) -> bool:
    """Whether none is."""
    return 0 == await due(keep, clock())


async def fewer(keep: Any, clock: Callable[[], float], most: int) -> bool:
    """Whether less than *most* are."""
    return await due(keep, clock()) < most


async def test_clocks_that_differ_do_not_make_two_instances_run_one_message(opened: Any) -> None:
    """One instance's clock is a minute ahead, one's a minute behind: while a handler runs nobody else begins, and all is answered."""
    runs: list[str] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        runs.append(turn.text)
        await takes(0.3)
        return "ok"

    keeps = [await opened(bot, clock=lambda ahead=ahead: time.time() + ahead) for ahead in (0.0, 60.0, -60.0)]
    for place, keep in enumerate(keeps):
        await keep.accept(f"c{place}", f"{place}", id="1")
    await until(lambda: len(runs) >= 3)
    for place in range(3):
        await until(lambda place=place: answered(keeps[0], f"c{place}", 1))

    assert ["0", "1", "2"] == sorted(runs)


async def test_what_comes_due_during_a_long_glance_is_found_before_its_end(opened: Any) -> None:
    """Thousands of sessions that ended a moment ago are in the glance too, and hold up no reminder."""
    keep = await opened(None, background=False)
    store, ended = keep._engine.store, 3 * PAGE
    for number in range(ended):
        await store.driver.write(due_row(f"c{number:03}", 100.0))
    walk = IndexWalk(store, (None, None))
    walk.glance(95.0, 101.0)
    first = await walk.step(101.0)
    await store.driver.write(due_row("reminder", 101.5))
    walk.glance(95.0, 102.0)
    found = [row.key.id for _ in range(PAGE) if (row := await walk.step(102.0))]
    walk.glance(95.0, 103.0)
    rest = [row.key.id for _ in range(3 * ended) if (row := await walk.step(103.0))]

    assert first is not None
    assert "reminder" == found[-1]
    assert {f"c{number:03}" for number in range(ended)} <= {first.key.id, *found, *rest}
    assert await walk.step(103.0) is None


def due_row(name: str, at: float) -> Write:
    """Makes a conversation that is due."""
    return Write(Row(key=Key("", name), revision="r", incarnation="r", updated_at=1.0, due_at=at), replaces=None)


async def test_an_ended_session_costs_one_write_and_no_read(opened: Any) -> None:
    """All are ended from what the index shows of them; each opens a new session with its next message, and has kept its log."""
    clock, sessions = Clock(), TIDYING + 10

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        return f"{turn.session}.{turn.state['n']}"

    keep = await opened(bot, clock=clock, session_ttl="30m")
    await asyncio.gather(*(keep.receive(f"c{number}", "hi") for number in range(sessions)))
    acts = keep._engine.store.gateway.acts
    reads, writes = acts["Read"], acts["Write"]
    clock.now += 2000
    await until(lambda: none_due(keep, clock), within=30)
    reads, writes = acts["Read"] - reads, acts["Write"] - writes
    later = [(await keep.receive(f"c{number}", "again")).replies[0].text for number in range(sessions)]

    assert sessions <= writes < sessions + 5  # (the mark of the clocks is one too)
    # One that is found a second time, on a store that is slow to answer, is read to see what became of it.
    assert reads < sessions
    assert ["2.1"] * sessions == later
    assert 4 == (await keep.conversation("c0")).head


async def test_a_message_that_comes_while_its_session_is_ended_is_answered(opened: Any) -> None:
    """What the index has shown is old by then, and nothing is written on it."""
    clock = Clock()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        return f"{turn.session}.{turn.state['n']}"

    keep = await opened(bot, clock=clock, session_ttl="30m", background=False)
    await keep.receive("ada", "hi")
    clock.now += 2000
    store, housekeeper = keep._engine.store, keep._engine.sweeper._housekeeper
    (row,) = [row for row in await store.rows("due", until=clock.now) if row.key.id == "ada"]
    answered = await keep.receive("ada", "again")
    left = await housekeeper.end_sessions([row], clock.now)

    assert [row] == left
    assert "2.1" == answered.replies[0].text
    assert {"n": 1} == (await keep.conversation("ada")).state


async def test_fewer_sessions_are_ended_at_once_while_a_handler_runs() -> None:
    """The acts of who is waited for are not behind a great batch, and the others are all ended meanwhile; then batches are large again."""
    clock, go_on, running = Clock(), asyncio.Event(), asyncio.Event()
    driver = CountsWrites("memory://many-end")

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = 1
        if turn.text == "wait":
            running.set()
            await go_on.wait()
        return "ok"

    async def end_some() -> int:
        await asyncio.gather(*(keep.receive(f"c{number}", "hi") for number in range(2 * ENDING)))
        driver.most = 0
        clock.now += 2000
        await until(lambda: none_due(keep, clock))
        return driver.most

    keep = Chatkeep(driver, clock=clock, session_ttl="30m", poll="50ms")
    keep.on_message(bot)
    async with keep:
        await keep.accept("ada", "wait")
        await running.wait()
        beside = await end_some()
        go_on.set()
        await until(lambda: not keep.statistics.engine.workers)
        alone = await end_some()

    assert 1 < beside <= ENDING_BESIDE + 1  # (the mark of the clocks, or a lease, is a write too)
    assert ENDING <= alone


class CountsWrites(MemoryDriver):
    """A store that knows how many writes were under way at once."""

    flying = most = 0

    async def write(self, act: Write) -> Row:
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        try:
            return await super().write(act)
        finally:
            self.flying -= 1


async def test_what_waits_is_answered_before_the_store_is_gone_through() -> None:
    """For what was written before the settings asked for its end nobody waits."""
    assert ["hi"] == await answered_on(LongList, session_ttl="30m")


class LongList(MemoryDriver):
    """A store whose list of conversations nobody gets to see."""

    async def scan(self, act: Scan) -> list[Row]:
        if act.index == "key":
            await asyncio.Event().wait()
        return await super().scan(act)


async def answered_on(store: type[MemoryDriver], **settings: Any) -> list[str]:
    """What a bot on such a store is given of a message that waits there."""
    url = f"memory://{store.__name__}"
    async with Chatkeep(url) as desk:
        await desk.accept("ada", "hi", id="1")
        seen: list[str] = []

        async def bot(turn: Turn[dict[str, Any]]) -> str:
            seen.append(turn.text)
            return "ok"

        keep = Chatkeep(store(url), **settings)
        keep.on_message(bot)
        async with keep:
            await until(lambda: seen, within=5)
    return seen


async def test_conversations_that_never_end_are_not_read_for_that(opened: Any) -> None:
    """Whoever opens a store goes through its rows for what was written before the settings; what has ended shows that it has."""
    clock = Clock()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = 1
        return "ok"

    first = await opened(bot, clock=clock, session_ttl="30m")
    await asyncio.gather(*(first.receive(f"c{number}", "hi") for number in range(30)))
    clock.now += 2000
    await until(lambda: none_due(first, clock))
    await first.close()
    keep = await opened(bot, clock=clock, session_ttl="30m")
    await until(lambda: keep._engine.sweeper._housekeeper.unscheduled is False)

    assert keep._engine.store.gateway.acts["Read"] < 10  # (the mark of the clocks, pauses and releases)


class SlowBeat(MemoryDriver):
    """A store in which each look at the pauses takes longer than a poll."""

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        if act.key == PAUSES:
            await takes(0.2)
        return await super().read(act)


async def test_a_beat_that_takes_longer_than_a_poll_leaves_time_for_the_work() -> None:
    """What waits is answered all the same."""
    assert ["hi"] == await answered_on(SlowBeat, poll="100ms")
