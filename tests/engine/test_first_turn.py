"""The first turn of a process: what comes with it waits for what it shows of the handler, and for nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.engine import places

from ..support.counting import count
from ..support.waiting import until


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, the store is not taken for slow."""
    monkeypatch.setattr(places, "FIRST_S", 3600.0)


async def receive_all(keep: Chatkeep[Any], *names: str) -> list[str]:
    """Sends a message to each of these conversations at once; what is answered."""
    async with asyncio.timeout(60):
        receipts = await asyncio.gather(*(keep.receive(name, "hi") for name in names))
    return [reply.text for receipt in receipts for reply in receipt.replies]


async def test_what_comes_with_the_first_turn_takes_one_act_that_writes(opened: Any) -> None:
    """Only the first message is in the log before its handler runs, though nobody knows at first how quick that is."""
    keep = await opened(count, quick="1h")
    names = [f"customer {n}" for n in range(20)]

    assert ["1: hi"] * 20 == await receive_all(keep, *names)
    assert 19 == keep.statistics.engine.one_trip


async def test_nobody_waits_for_a_first_handler_that_is_not_quick(opened: Any) -> None:
    """What came with it is in the log, and answered, while it still runs."""
    ends = asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.conversation == "ada":
            await ends.wait()
        return turn.text

    keep = await opened(bot, quick="20ms")
    slow = asyncio.create_task(keep.receive("ada", "hi"))
    await until(lambda: keep._engine.turns.first_turn._begun)

    assert ["hi", "hi"] == await receive_all(keep, "eve", "bob")
    assert not slow.done()

    ends.set()
    await slow


async def test_nobody_waits_for_long_where_no_handler_begins(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else answers the first message, whose handler takes its time."""
    monkeypatch.setattr(places, "FIRST_S", 0.05)
    ends, runs = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn[dict[str, Any]]) -> str:
        runs.set()
        await ends.wait()
        return turn.text

    other, keep = await opened(slow, quick="0s"), await opened(count, quick="1h")
    answered = asyncio.create_task(other.receive("ada", "hi", id="m1"))
    await runs.wait()
    first = asyncio.create_task(keep.receive("ada", "hi", id="m1"))
    await until(lambda: keep._engine.turns.first_turn.is_under_way)

    assert ["1: hi"] == await receive_all(keep, "eve")
    assert not first.done()

    ends.set()
    await asyncio.gather(answered, first)


async def test_messages_to_the_conversation_of_the_first_turn_do_not_hold_it_up(opened: Any) -> None:
    """They are answered in their order."""
    keep = await opened(count, quick="1h")

    assert ["1: hi", "2: hi", "3: hi"] == await receive_all(keep, "ada", "ada", "ada")


async def test_a_first_turn_that_hands_on_does_not_wait_for_itself(opened: Any) -> None:
    """Its handler waits for the answer of another conversation."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.conversation != "ada":
            return turn.text
        return f"eve says {(await keep.receive('eve', turn.text)).replies[0].text}"

    keep: Chatkeep[Any] = await opened(bot, quick="1h")

    assert ["eve says hi"] == await receive_all(keep, "ada")
