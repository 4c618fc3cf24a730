"""What the bots do of their own accord: reminders, and replies that come word by word."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

from chatkeep import Message
from chatkeep.demos import demo_for
from chatkeep.model import Delta

from ..support.talking import Clock, as_json, bot_on, labels, told
from ..support.waiting import nothing_happens_for, until

HOUR = 3600.0


async def replies(keep: Any) -> list[Message]:
    """All that the bot said to ada."""
    return [message async for message in keep.history("ada") if message.role == "assistant"]


async def came(keep: Any, words: str) -> None:
    """Waits until the bot has said it."""

    async def said() -> bool:
        return words in told(await replies(keep))

    await until(said)


async def test_a_half_filled_form_is_asked_about_once(tmp_path: Path) -> None:
    """Two hours later, by another process: the question that is open, and not a second time."""
    url, clock = f"sqlite:///{tmp_path}/chat.db", Clock()
    async with bot_on("tutoring", url, tmp_path, clock=clock) as keep:
        for line in ("math for high school", "Maya", "monday 3pm"):
            await keep.receive("ada", line)
    clock.now += 2 * HOUR + 1
    async with bot_on("tutoring", url, tmp_path, clock=clock) as keep:
        await came(keep, "Shall we finish your booking?\nWhat is the student's name?")
        clock.now += 5 * HOUR
        await nothing_happens_for(0.1)
        after = await keep.receive("ada", "Ada")
        asked = told(await replies(keep)).count("Shall we finish")

    assert "Where can we reach you?" in told(after.replies)
    assert 1 == asked


async def test_an_appointment_is_announced_on_the_evening_before(tmp_path: Path) -> None:
    """Also after other talk and a restart; one that was moved on its new day, one that was cancelled never."""
    url, clock = f"sqlite:///{tmp_path}/chat.db", Clock()
    async with bot_on("salon", url, tmp_path, clock=clock) as keep:
        for line in (
            "haircut tuesday 9am",
            "facial tuesday 11:00",
            "pedicure wednesday 10:00",
            "Ada",
            "confirm",
            "cancel my facial",
            "move my pedicure to thursday 2pm",
            "confirm",
            "thanks",
        ):
            await keep.receive("ada", line)
        state = as_json((await keep.conversation("ada")).state)
    async with bot_on("salon", url, tmp_path, clock=clock) as keep:
        clock.now += 2 * 24 * HOUR + 8 * HOUR + 1  # Monday, six in the evening
        await came(keep, "See you tomorrow!\n• Haircut on Tue 2026-11-24 at 09:00")
        monday = await replies(keep)
        clock.now += 2 * 24 * HOUR  # Wednesday
        await came(keep, "See you tomorrow!\n• Pedicure on Thu 2026-11-26 at 14:00")
        wednesday = await replies(keep)
        events = [message async for message in keep.history("ada") if message.role == "event"]

    assert ["Haircut", "Pedicure"] == [kept["service"] for kept in state["appointments"]]
    assert ["move my haircut", "cancel my haircut"] == [button["id"] for button in labels(monday[-1:])]
    assert 2 == len(events)
    assert 2 == told(wednesday).count("See you tomorrow!")


async def test_a_longer_answer_comes_word_by_word(tmp_path: Path) -> None:
    """Whoever watches sees it grow; the log has it as one reply."""
    pieces: list[str] = []

    async def watched(keep: Any) -> None:
        async with aclosing(keep.events("ada")) as events:
            async for event in events:
                if isinstance(event, Delta):
                    pieces.append(event.text)
                elif isinstance(event, Message) and event.role == "assistant":
                    return

    async with bot_on("tutoring", "memory://", tmp_path, pace_s=0.03) as keep:
        watching = asyncio.create_task(watched(keep))
        await asyncio.sleep(0.05)
        said = (await keep.receive("ada", "tell me about Maya")).replies
        await asyncio.wait_for(watching, 5)

    assert 1 == len(said)
    assert len(pieces) > 2
    assert said[0].text == "".join(pieces)


def test_each_sqlite_store_has_orders_of_its_own(tmp_path: Path) -> None:
    """Two demos in one folder do not rebuild each other's conversations."""

    async def said_to(line: str, name: str) -> str:
        async with demo_for("restaurant", f"sqlite:///{tmp_path}/{name}.db") as keep:
            return told((await keep.receive("ada", line)).replies)

    assert "Added 1 water" in asyncio.run(said_to("a water", "one"))
    assert "Your cart is empty" in asyncio.run(said_to("cart", "two"))
    assert ["one-orders.db"] == [path.name for path in tmp_path.glob("*-orders.db")]
