"""What the outside does to conversations besides sending messages: begin, change once, ask without waiting, observe."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatkeep import Instrument, OtherOwner, Turn

from ..support.waiting import until


async def counting(turn: Turn[Any]) -> str:
    """Counts the messages."""
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"{turn.state['count']}"


async def test_a_conversation_can_begin_before_anything_is_said(opened: Any) -> None:
    """It is there, it is its owner's, and nothing is in it; for another owner it is refused; then it goes on as any."""
    keep = await opened(counting)
    first = await keep.create("ada", owner="u1")
    again = [await keep.create("ada", owner=owner) for owner in ("u1", "")]
    with pytest.raises(OtherOwner, match=r"belongs to 'u1'.*nothing was changed") as refused:
        await keep.create("ada", owner="u2")
    await keep.create("nobody's")
    with pytest.raises(OtherOwner, match="has no owner"):
        await keep.create("nobody's", owner="u2")

    assert [(first.revision, "u1")] * 2 == [(found.revision, found.owner) for found in again]
    assert "u1" == refused.value.owner
    assert ["ada"] == [found.id async for found in keep.conversations(owner="u1")]
    assert 0 == again[0].unread
    assert ["1"] == [reply.text for reply in (await keep.receive("ada", "hi", id="m1")).replies]


async def test_two_begin_at_once(opened: Any) -> None:
    """For one owner all see the same conversation; for several, one has it and the others are told whose it is."""
    keep = await opened(counting)
    found = await asyncio.gather(*(keep.create("ada", owner="u1") for _ in range(5)))
    raced = await asyncio.gather(*(keep.create("bob", owner=f"u{n}") for n in range(5)), return_exceptions=True)
    lost = [fault for fault in raced if isinstance(fault, OtherOwner)]
    [won] = [conversation for conversation in raced if not isinstance(conversation, BaseException)]

    assert 1 == len({conversation.head for conversation in found})
    assert [won.owner] * 4 == [fault.owner for fault in lost]


async def test_a_change_with_an_id_is_made_once(opened: Any) -> None:
    """As often as it is asked for, by whomever."""
    keep = await opened(counting)

    def more(state: dict[str, Any]) -> None:
        state["paid"] = state.get("paid", 0) + 1

    found = [await keep.change("ada", more, id="charge-1") for _ in range(3)]
    await asyncio.gather(*(keep.change("ada", more, id="charge-2") for _ in range(3)))

    assert [{"paid": 1}] * 3 == [conversation.state for conversation in found]
    assert {"paid": 2} == (await keep.conversation("ada")).state


async def test_what_an_edit_raises_is_raised_and_nothing_is_written(opened: Any) -> None:
    """The way to make a change depend on what is there."""
    keep = await opened(counting)
    before = await keep.change("ada", lambda state: {"a": 1})

    class Moved(Exception):
        pass

    def refuse(state: dict[str, Any]) -> None:
        state["a"] = 2
        raise Moved

    try:
        await keep.change("ada", refuse)
        raise AssertionError("it was not raised")
    except Moved:
        pass

    assert before == await keep.conversation("ada")


async def test_who_does_not_join_is_told_that_it_runs(opened: Any) -> None:
    """A known message that is still being answered: at once "accepted"; later the recorded answer."""
    going, begun = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn[Any]) -> str:
        begun.set()
        await going.wait()
        return "done"

    keep = await opened(slow, quick="0ms")
    first = asyncio.create_task(keep.receive("ada", "go", id="m1"))
    await begun.wait()
    second = await keep.receive("ada", "go", id="m1", wait_if_duplicate=False)
    going.set()
    answered = await first
    third = await keep.receive("ada", "go", id="m1", wait_if_duplicate=False)

    assert ("accepted", True, []) == (second.status, second.duplicate, second.replies)
    assert ("answered", False) == (answered.status, answered.duplicate)
    assert ("answered", True, ["done"]) == (third.status, third.duplicate, [reply.text for reply in third.replies])


async def test_turns_and_acts_are_observed(opened: Any) -> None:
    """Each with its name and how long it took."""
    keep = await opened(counting)
    seen: list[tuple[str, float]] = []

    class Seeing(Instrument):
        def measured(self, name: str, seconds: float) -> None:
            seen.append((name, seconds))

    keep.instruments.append(Seeing())
    await keep.receive("ada", "hi", id="m1")
    await keep.conversation("ada")
    await until(lambda: {"turn", "append", "write", "read"} <= {name for name, _ in seen})

    assert all(0 <= seconds < 5 for _, seconds in seen)
