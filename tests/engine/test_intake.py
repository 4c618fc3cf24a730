"""Messages on their way in: an id that stands for something else, and a conversation that is erased meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatkeep import BadMessage, KeyReused, Turn

from ..support.counting import texts

PARTS = [{"type": "text", "text": "pizza"}]


async def echo(turn: Turn[Any]) -> str:
    """Says the same."""
    return f"you said {turn.text}"


@pytest.mark.parametrize("way", ["receive", "accept"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("first", "other"), [("pizza", "pasta"), ("pizza", PARTS), (PARTS, [*PARTS, *PARTS])])
async def test_an_id_stands_for_one_content(opened: Any, way: str, warm: bool, first: Any, other: Any) -> None:
    """Another content under it is refused by name, and nothing is touched; the same content gets the recorded replies, whatever
    its metadata."""
    keep = await opened(echo)
    for _ in range(5 * warm):
        await keep.receive("ada", "hi")
    await keep.receive("ada", first, id="m1")
    before = await texts(keep, "ada")
    with pytest.raises(
        KeyReused, match=r"ada: message \d+ is recorded under the id 'm1' and says something else"
    ) as refused:
        await getattr(keep, way)("ada", other, id="m1")
    again = await getattr(keep, way)("ada", first, id="m1", metadata={"attempt": 2})

    assert isinstance(refused.value, BadMessage)
    assert before == await texts(keep, "ada")
    assert ("answered", True, ["you said pizza"]) == (
        again.status,
        again.duplicate,
        [reply.text for reply in again.replies],
    )


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("warm", [False, True])
async def test_a_message_that_is_erased_while_it_waits_is_told_so(opened: Any, warm: bool, again: bool) -> None:
    """It went with its conversation: its receipt says that nobody answers it. Nobody hears of a conflict, and nothing of it comes back,
    also if somebody writes there anew at once."""
    running, go = asyncio.Event(), asyncio.Event()

    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "slow":
            running.set()
            await go.wait()
        return "ok"

    keep = await opened(bot, quick="0s")
    for _ in range(5 * warm):
        await keep.receive("ada", "hi")
    asked = asyncio.create_task(keep.receive("ada", "slow"))
    await running.wait()
    await keep.erase("ada")
    if again:
        await keep.accept("ada", "new", role="operator")
    go.set()
    receipt = await asked

    assert ("dropped", []) == (receipt.status, receipt.replies)
    assert (["new"] if again else []) == await texts(keep, "ada")


@pytest.mark.parametrize("way", ["receive", "accept"])
async def test_a_message_that_was_erased_before_its_answer_came_is_dropped(
    opened: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the log, behind more than the sender holds; before that is read the conversation is erased and begun anew."""
    keep, other = await opened(echo, quick="0s"), await opened(None)
    await keep.receive("ada", "hello")
    driver = keep._engine.store.driver
    append, raced = driver.append, False

    async def race(act: Any) -> Any:
        nonlocal raced
        if raced:
            return await append(act)
        raced = True
        for number in range(6):
            await other.accept("ada", f"{number}", role="operator")
        answer = await append(act)
        await other.erase("ada")
        await other.accept("ada", "anew", role="operator")
        return answer

    monkeypatch.setattr(driver, "append", race)
    receipt = await getattr(keep, way)("ada", "bye")

    assert ("dropped", []) == (receipt.status, receipt.replies)
    assert ["anew"] == await texts(keep, "ada")


async def test_erasing_beside_senders_raises_nothing(opened: Any) -> None:
    """Whatever comes first: each message is answered, accepted, or went with the conversation."""
    keep = await opened(echo)
    done = False

    async def erasing() -> None:
        while not done:
            await keep.erase("ada")
            await asyncio.sleep(0)

    async def sending(way: Any, number: int) -> list[str]:
        return [(await way("ada", f"{number}.{n}")).status for n in range(20)]

    eraser = asyncio.create_task(erasing())
    try:
        ways = [keep.receive, keep.accept, keep.receive, keep.accept]
        found = await asyncio.gather(*(sending(way, number) for number, way in enumerate(ways)))
    finally:
        done = True
        await eraser

    assert {"answered", "accepted", "dropped"} >= {status for statuses in found for status in statuses}
