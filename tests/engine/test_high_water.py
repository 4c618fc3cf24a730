"""Nothing is ended for good by a clock that is suddenly ahead."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Turn
from chatkeep.conversation.keys import RESERVED
from chatkeep.drivers.base import Key, Read, Write
from chatkeep.engine import high_water

from ..support.clock import Clock
from ..support.waiting import nothing_happens_for, until

MARK = Key(f"{RESERVED}chatkeep", high_water.NAME)
YEAR_S = 365 * 86_400.0
ENDS: dict[str, Any] = {"session_ttl": "30m", "retention": "30d", "forget_after": "60d"}


async def bot(turn: Turn[dict[str, Any]]) -> str:
    """Remembers, and sets a reminder when it is asked to."""
    turn.state["seen"] = True
    if turn.text == "remind":
        turn.remind("1h", "later")
    return "ok"


@pytest.mark.parametrize("years", [1, 50])
async def test_a_clock_that_is_years_ahead_ends_nothing(
    opened: Any, years: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is used, perhaps by a board without a clock of its own, which begins in 1970; then somebody opens it whose clock is wrong.
    Messages are answered meanwhile, reminders come."""
    right = await opened(bot, **ENDS)
    for name in ("ada", "bob"):
        await right.receive(name, "hi")
    await right.receive("zoe", "remind")
    wrong = await opened(bot, clock=lambda: time.time() + years * YEAR_S, **ENDS)
    await until(lambda: has_event(wrong, "zoe"))
    assert "ok" == (await wrong.receive("eve", "hi")).replies[0].text
    await nothing_happens_for(0.5)
    await wrong.close()

    for name in ("ada", "bob"):
        found = await right.conversation(name)
        assert ({"seen": True}, 2) == (found.state, len(found.messages))
        assert 2 == len([message async for message in right.history(name)])
    assert {"seen": True} == (await right.conversation("zoe")).state
    assert "The sweep failed" not in caplog.text


async def test_a_store_that_was_not_used_for_long_is_ended_after_a_while(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was right all along: it is believed when it has said so for as long as that takes."""
    monkeypatch.setattr(high_water, "PROBATION_S", 0.6)
    monkeypatch.setattr(high_water, "LOOK_S", 0.05)
    earlier = await opened(bot, clock=lambda: time.time() - YEAR_S, **ENDS)
    await earlier.receive("ada", "hi")
    await earlier.close()
    began = time.monotonic()
    later = await opened(bot, **ENDS)
    await until(lambda: is_gone(later, "ada"))

    assert time.monotonic() - began > 0.5


async def test_a_mark_that_cannot_be_read_holds_up_no_work(
    opened: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is ended while nobody knows the time; what is due is done, and after a while the mark is made anew."""
    monkeypatch.setattr(high_water, "PROBATION_S", 3600.0)
    monkeypatch.setattr(high_water, "LOOK_S", 0.05)
    earlier = await opened(bot, clock=lambda: time.time() - YEAR_S, **ENDS)
    await earlier.receive("ada", "hi")
    driver = earlier._engine.store.driver
    await until(lambda: driver.read(Read(MARK, tail=0)))
    await earlier.close()
    desk = await opened(None)
    driver = desk._engine.store.driver
    row, _ = await driver.read(Read(MARK, tail=0))
    await driver.write(Write(structs.replace(row, revision="damaged", body=b"{"), row.revision))
    keep = await opened(bot, **ENDS)
    await desk.accept("bob", "hi")
    await until(lambda: is_answered(desk, "bob"))
    found = [message.text async for message in keep.history("ada")]
    monkeypatch.setattr(high_water, "PROBATION_S", 0.0)
    await until(lambda: is_gone(keep, "ada"))

    assert ["hi", "ok"] == found
    assert 1 == caplog.text.count("is not known, so nothing is ended")
    assert "is known again" in caplog.text


async def test_a_mark_that_somebody_else_has_mended_is_read_again(
    opened: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has not mended it itself tells as before when its own clock is ahead."""
    monkeypatch.setattr(high_water, "LOOK_S", 0.0)
    store = (await opened(None))._engine.store
    clock = Clock()
    one, other = (high_water.HighWater(store, clock) for _ in range(2))
    await other.reach(clock.now)
    row, _ = await store.driver.read(Read(MARK, tail=0))
    await store.driver.write(Write(structs.replace(row, revision="damaged", body=b"{"), row.revision))
    await one.reach(clock.now)
    clock.now += high_water.STEP_S + 1.0
    await other.reach(clock.now)
    await one.reach(clock.now)
    one._turned = False  # as with a host's own clock
    with caplog.at_level(logging.INFO, "chatkeep"):
        await one.reach(clock.now + YEAR_S)

    assert "365 days ahead" in caplog.text


async def is_answered(keep: Any, name: str) -> bool:
    """Whether nothing is unread there."""
    return not (await keep.conversation(name)).unread


async def test_a_clock_is_not_believed_while_somebody_is_there_who_says_otherwise(
    opened: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And an error names the two of them."""
    monkeypatch.setattr(high_water, "PROBATION_S", 0.3)
    monkeypatch.setattr(high_water, "LOOK_S", 0.05)
    monkeypatch.setattr(high_water, "STEP_S", 0.05)
    right = await opened(bot, **ENDS)
    await right.receive("ada", "hi")
    wrong = await opened(bot, clock=lambda: time.time() + YEAR_S, **ENDS)
    with caplog.at_level(logging.ERROR, "chatkeep"):
        await until(lambda: "364 days" in caplog.text or "365 days" in caplog.text)
    await nothing_happens_for(1.0)

    assert 2 == len([message async for message in wrong.history("ada")])
    assert "another process" in caplog.text


async def test_a_program_may_turn_its_own_clock(opened: Any) -> None:
    """As tests do: what is over then is ended at once, also before anything else was looked at."""
    clock = Clock()
    keep = await opened(bot, clock=clock, **ENDS)
    await keep.receive("ada", "hi")
    clock.now += YEAR_S
    await until(lambda: is_gone(keep, "ada"))


async def has_event(keep: Any, conversation: str) -> bool:
    """Whether a reminder has come."""
    return "event" in [message.role async for message in keep.history(conversation)]


async def is_gone(keep: Any, conversation: str) -> bool:
    """Whether there is no such conversation."""
    return await keep.conversation(conversation) is None


async def test_whoever_asks_at_once_at_the_beginning_shares_one_look(opened: Any) -> None:
    """As all workers do where much is due: on Redis each look asks the whole index."""
    keep = await opened()
    store = keep._engine.store
    water = high_water.HighWater(store, time.time)
    before = store.gateway.acts["Scan"]
    await asyncio.gather(*(water.reach(time.time()) for _ in range(50)))

    assert 1 == store.gateway.acts["Scan"] - before
