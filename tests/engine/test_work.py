"""Steps are done once, whatever happens to the turn; reminders come once, unless the user writes before."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from chatkeep import HandlerFailed, Turn

from ..support.waiting import nothing_happens_for, takes, until


class Till:
    """The other side of a step: takes money, and remembers under which key."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def charge(self, key: str, amount: int) -> dict[str, Any]:
        """Answers with a reference."""
        self.keys.append(key)
        return {"reference": f"R{len(self.keys)}", "amount": amount}


class Clock:
    """The time, and how far it was set on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


async def test_a_step_is_not_done_again_when_its_turn_is(opened: Any) -> None:
    """The handler fails twice behind it; the recorded result comes back, and the next message has steps of its own."""
    till, runs = Till(), 0

    async def bot(turn: Turn[Any]) -> str:
        nonlocal runs
        runs += 1
        paid = await turn.step("charge", till.charge, turn.step_key("charge"), 42)
        again = await turn.step("charge", till.charge, turn.step_key("charge"), 42)
        assert paid == again
        if runs < 4:
            raise RuntimeError("the printer is out of paper")
        return f"paid {paid['amount']}: {paid['reference']}"

    keep = await opened(bot, attempts=9)
    first = await keep.receive("ada", "buy", id="m1")
    second = await keep.receive("ada", "buy more", id="m2")

    assert ["paid 42: R1"] == [reply.text for reply in first.replies]
    assert ["paid 42: R2"] == [reply.text for reply in second.replies]
    assert 2 == len(till.keys) == len(set(till.keys))
    assert 5 <= runs <= 6  # (the first run of all found that its message was not in the log yet)


async def test_another_instance_goes_on_behind_the_step(opened: Any) -> None:
    """The one that did it hangs and is cut off; the state was changed meanwhile too."""
    till, hangs = Till(), asyncio.Event()

    async def hanging(turn: Turn[Any]) -> str:
        await turn.step("charge", till.charge, turn.step_key("charge"), 42)
        hangs.set()
        await takes(60)
        return "never"

    async def quick(turn: Turn[Any]) -> str:
        paid = await turn.step("charge", till.charge, turn.step_key("charge"), 42)
        return f"paid {paid['reference']}, {turn.state}"

    one = await opened(hanging, turn_timeout="500ms", poll="10s")
    await one.accept("ada", "buy", id="m1")
    await hangs.wait()
    await one.change("ada", lambda state: {"vip": True})
    await one.close()
    two = await opened(quick)
    receipt = await two.receive("ada", "buy", id="m1")

    assert ["paid R1, {'vip': True}"] == [reply.text for reply in receipt.replies]
    assert 1 == len(till.keys)


async def test_a_step_that_cannot_be_recorded_says_so(opened: Any) -> None:
    """Too large, no JSON, or no name; and one that raises is done again."""
    tries = 0

    def unlucky() -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OSError("no line")
        return "done"

    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "ok":
            return await turn.step("call", unlucky)
        work = {"large": lambda: "x" * 70_000, "no json": object, "endless": lambda: [math.inf], "": lambda: 1}[
            turn.text
        ]
        return await turn.step(turn.text, work)

    keep = await opened(bot, attempts=2)

    assert ["done"] == [reply.text for reply in (await keep.receive("ada", "ok", id="m0")).replies]
    for said, why in {
        "large": "70,002 bytes.*was done and could not",
        "no json": r"the result of step 'no json' is a object.*was done and could not",
        "endless": r"the result of step 'endless'\[0\] is the number inf.*was done and could not",
        "": "printable name",
    }.items():
        with pytest.raises(HandlerFailed, match=why):
            await keep.receive("ada", said, id=f"m-{said}")


class OwnText(str):
    """As frameworks have it that answer with an object for text."""


class OwnNumber(int):
    """The same of a number."""


class OwnFloat(float):
    """As numpy's."""


async def test_a_step_is_done_once_whatever_type_its_result_has(opened: Any) -> None:
    """Its result comes as JSON has it, the first time as each time after."""
    results = {
        "pair": (1, [(2,)]),
        "price": {"price": Decimal("9.90")},
        "day": date(2026, 1, 2),
        "count": {1: "one"},
        "own kind of text": OwnText("Rome"),
        "inside": [OwnText("a"), {"n": OwnNumber(2), "x": OwnFloat(0.5)}],
    }
    done: list[str] = []
    seen: list[Any] = []

    async def bot(turn: Turn[Any]) -> str:
        def work() -> Any:
            done.append(turn.text)
            return results[turn.text]

        seen.append(await turn.step("work", work))
        if seen.count(seen[-1]) == 1:
            raise OSError("once more")
        return "ok"

    keep = await opened(bot, attempts=3)
    for name in results:
        await keep.receive("ada", name)

    assert list(results) == done
    told = [[1, [[2]]], {"price": "9.90"}, "2026-01-02", {"1": "one"}, "Rome", ["a", {"n": 2, "x": 0.5}]]
    assert told == seen[::2] == seen[1::2]
    assert str is type(seen[8])


async def nagging(turn: Turn[Any]) -> str | None:
    """Reminds of the cart an hour after the user's last word."""
    if turn.reminder:
        return f"Still there? {turn.message.content[0]['data']}"  # type: ignore[index]
    if turn.text == "stop":
        turn.cancel("cart")
        turn.cancel("visit")
        return "ok"
    if turn.text == "thanks":
        return "welcome"
    turn.remind("1h", "cart", {"items": turn.text})
    if turn.text == "book":
        turn.remind("2h", "visit", "tomorrow", keep=True)
    return "noted"


def texts(conversation: Any) -> list[str]:
    """What was said, without the events."""
    return [message.text for message in conversation.messages if message.role == "assistant"]


async def test_a_reminder_comes_once_on_several_instances_and_after_a_restart(opened: Any) -> None:
    """Set by one that is gone; two others look at the same time."""
    clock = Clock()
    one = await opened(nagging, clock=clock)
    await one.receive("ada", "pizza", id="m1")
    await one.close()
    two, three = await opened(nagging, clock=clock), await opened(nagging, clock=clock)
    await nothing_happens_for(0.1)

    assert ["noted"] == texts(await two.conversation("ada"))
    clock.ahead = 3601.0
    expected = ["noted", "Still there? {'items': 'pizza'}"]

    async def reminded() -> bool:
        return texts(await two.conversation("ada")) == expected

    await until(reminded)
    await nothing_happens_for(0.2)

    assert expected == texts(await three.conversation("ada"))


async def test_a_user_who_writes_needs_no_reminding(opened: Any) -> None:
    """Each message sets it anew; one that is to be kept comes anyway; "stop" cancels both."""
    clock = Clock()
    keep = await opened(nagging, clock=clock)
    await keep.receive("ada", "pizza", id="m1")
    clock.ahead = 1800.0
    await keep.receive("ada", "book", id="m2")
    clock.ahead = 3700.0  # behind the first, before the second
    await nothing_happens_for(0.15)

    assert ["noted", "noted"] == texts(await keep.conversation("ada"))
    clock.ahead = 9100.0

    async def both() -> bool:
        return len(texts(await keep.conversation("ada"))) == 4

    await until(both)

    assert {"Still there? {'items': 'book'}", "Still there? tomorrow"} == set(texts(await keep.conversation("ada"))[2:])
    await keep.receive("bob", "book", id="m1")
    await keep.receive("bob", "stop", id="m2")
    await keep.receive("cyd", "book", id="m1")
    await keep.receive("cyd", "thanks", id="m2")
    clock.ahead = 99_000.0

    async def reminded() -> bool:
        return len(texts(await keep.conversation("cyd"))) > 2

    await until(reminded)
    await nothing_happens_for(0.15)

    assert ["noted", "ok"] == texts(await keep.conversation("bob"))
    assert ["noted", "welcome", "Still there? tomorrow"] == texts(await keep.conversation("cyd"))


async def test_reminders_wait_while_the_bot_is_off(opened: Any) -> None:
    """Nothing comes, and nothing is lost."""
    clock = Clock()
    keep = await opened(nagging, clock=clock)
    await keep.receive("ada", "pizza", id="m1")
    await keep.pause("ada")
    clock.ahead = 3700.0
    await nothing_happens_for(0.15)

    assert ["noted"] == texts(await keep.conversation("ada"))
    await keep.resume("ada")
    clock.ahead += 40.0

    async def reminded() -> bool:
        return len(texts(await keep.conversation("ada"))) == 2

    await until(reminded)


async def test_a_turn_that_fails_sets_nothing(opened: Any) -> None:
    """A reminder is recorded with the turn, or not at all; names and times are checked at once."""

    async def bot(turn: Turn[Any]) -> str:
        turn.remind(turn.text, "soon")
        raise RuntimeError("no")

    keep = await opened(bot, attempts=1)
    for said, why in (("1h", "no"), ("soonish", "not a duration")):
        with pytest.raises(HandlerFailed, match=why):
            await keep.receive("ada", said, id=said)
    snapshot = await keep._engine.store.load(keep._key("ada"))

    assert () == snapshot.record.reminders


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (it is refused before a store is asked)
@pytest.mark.parametrize("kept", [None, 1, "yes", []], ids=repr)
async def test_a_reminder_is_kept_by_true_or_false_alone(opened: Any, kept: Any) -> None:
    """A record with anything else in it could be read by nobody."""

    async def bot(turn: Turn[Any]) -> str:
        turn.remind("1h", "cart", keep=kept if turn.text == "wrong" else True)
        return "ok"

    keep = await opened(bot, attempts=1)
    with pytest.raises(HandlerFailed, match="keep is True or False"):
        await keep.receive("ada", "wrong")

    assert "ok" == (await keep.receive("ada", "right")).replies[0].text


async def test_steps_side_by_side_and_one_step_twice_at_once(opened: Any) -> None:
    """In a task group, from the first message on: each is done once."""
    done: list[str] = []

    async def do(name: str) -> str:
        done.append(name)
        await takes(0.01)
        return name

    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "hi":
            return "hi"
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(turn.step(name, do, name)) for name in ("a", "b", "a")]
        return "".join(task.result() for task in tasks)

    keep = await opened(bot)
    for n in range(3):
        await keep.receive("ada", "hi", id=f"h{n}")
    told = [(await keep.receive("ada", "go", id=f"m{n}")).replies[0].text for n in range(2)]

    assert ["aba", "aba"] == told
    assert ["a", "b", "a", "b"] == done


async def test_the_key_of_a_step_is_the_same_on_every_try(opened: Any) -> None:
    """Also where the first try is made before the message has its number, and another comes in between."""
    keys: list[str] = []

    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "pay":
            keys.append(turn.step_key("charge"))
            if len(keys) == 1:
                await keep.accept("ada", "me too", id="m2")
                raise RuntimeError("no line")
        return "ok"

    keep = await opened(bot)
    for n in range(3):
        await keep.receive("ada", "hi", id=f"h{n}")
    await keep.receive("ada", "pay", id="m1")

    assert 2 == len(keys)
    assert 1 == len(set(keys))


@pytest.mark.parametrize("kind", ["plain", "plain with a loop", "async"])
async def test_a_step_that_nobody_awaits_is_refused(opened: Any, kind: str) -> None:
    """The bot must not say that it was done. A plain function is told at once, another handler when it returns."""
    paid: list[int] = []
    ran: list[str] = []

    async def pay() -> None:
        paid.append(1)

    def plain(turn: Turn[Any]) -> str:
        ran.append("begun")
        if kind == "plain":
            turn.step("charge", pay)
        else:
            asyncio.run(turn.step("charge", pay))
        ran.append("went on")
        return "charged"

    async def bot(turn: Turn[Any]) -> str:
        ran.append("begun")
        turn.step("charge", pay)
        return "charged"

    keep = await opened(plain if kind.startswith("plain") else bot)
    with pytest.raises(HandlerFailed, match=r"ada.*await turn\.step"):
        await keep.receive("ada", "buy")

    assert [] == paid
    assert {"begun"} == set(ran)
    assert 1 == len(ran)
    assert ["buy"] == [message.text async for message in keep.history("ada") if message.role != "system"]


async def test_a_step_that_was_cancelled_before_it_began_is_no_mistake(opened: Any) -> None:
    """As those beside a task of a group that fails, where the handler answers all the same."""
    paid: list[int] = []

    async def pay() -> None:
        paid.append(1)

    async def bot(turn: Turn[Any]) -> str:
        asked = asyncio.create_task(turn.step("charge", pay))
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        return "not charged"

    keep = await opened(bot)
    receipt = await keep.receive("ada", "buy")

    assert ["not charged"] == [reply.text for reply in receipt.replies]
    assert [] == paid
