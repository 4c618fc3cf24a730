"""One conversation in which a lot waits, or whose log is long: read and held in pages, and answered as ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.conversation.snapshots import HELD, is_cut
from chatkeep.drivers.base import Key

from ..support.counting import answered, texts
from ..support.waiting import until

MANY = 3 * HELD + 50


async def fill(desk: Chatkeep[Any], **options: Any) -> None:
    """Accepts MANY messages, in order; fifty at once, which a store takes in a few acts."""
    for start in range(0, MANY, 50):
        page = range(start, min(start + 50, MANY))
        await asyncio.gather(*(desk.accept("ada", f"{number}", id=f"{number}", **options) for number in page))


async def test_a_long_backlog_is_answered_in_order_with_the_history_that_belongs_to_each(opened: Any) -> None:
    """Each message once, in order; the history of each is the talk before it, though its replies stand far behind in the log."""
    seen: list[tuple[str, list[str]]] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append((turn.text, [message.text for message in turn.history]))
        turn.state["n"] = turn.state.get("n", 0) + 1
        return f"r{turn.text}"

    desk = await opened(None)
    await fill(desk)
    waiting = await desk.conversation("ada")
    keep = await opened(bot)
    await until(lambda: len(seen) >= MANY, within=30)
    await until(lambda: answered(keep, "ada", MANY))
    said = [text for number in range(MANY) for text in (f"{number}", f"r{number}")]
    found = await keep.conversation("ada")

    assert (MANY, MANY) == (waiting.head, waiting.unread)
    assert [f"{number}" for number in range(MANY - 20, MANY)] == [message.text for message in waiting.messages]
    assert [f"{number}" for number in range(MANY)] == [text for text, _ in seen]
    assert [said[:number][-20:] for number in range(0, 2 * MANY, 2)] == [history for _, history in seen]
    assert (MANY, 2 * MANY, 0) == (found.state["n"], found.head, found.unread)


async def test_what_is_held_of_a_long_backlog_is_bounded(opened: Any) -> None:
    """While a bot works through it and more is accepted, memory does not grow with what waits."""
    most = 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal most
        snapshot = keep._engine.store.cached(Key("", "ada"))
        most = max(most, 0 if snapshot is None else len(snapshot.messages) + len(snapshot.beyond))
        return "ok"

    keep = await opened(bot)
    for start in range(0, 5 * HELD, 50):
        await asyncio.gather(*(keep.accept("ada", "hi", id=f"{number}") for number in range(start, start + 50)))
    await until(lambda: answered(keep, "ada", 5 * HELD), within=30)

    assert 0 < most <= 3 * HELD


async def test_a_log_that_nobody_answers_is_not_held(opened: Any) -> None:
    """Operators write and no customer does: the window is held, and the messages are shown all the same."""
    keep = await opened(None)
    await fill(keep, role="operator")
    snapshot = keep._engine.store.cached(Key("", "ada"))
    held = 0 if snapshot is None else len(snapshot.messages)
    keep._engine.store.forget(Key("", "ada"))
    found = await keep.conversation("ada")

    assert held <= 3 * HELD
    assert (MANY, 0) == (found.head, found.unread)
    assert [f"{number}" for number in range(MANY - 20, MANY)] == [message.text for message in found.messages[-20:]]
    assert MANY == len(await texts(keep, "ada"))


async def test_a_message_behind_much_that_nobody_answers_is_answered(opened: Any) -> None:
    """It is found however many entries stand before it, and so is the next one."""
    desk = await opened(None)
    await fill(desk, role="operator")
    await desk.accept("ada", "hello")
    keep = await opened(lambda turn: f"{turn.text}, {len(turn.history)} before")
    await until(lambda: answered(keep, "ada", MANY + 1))

    assert "hello, 0 before" == (await texts(keep, "ada"))[-1]
    assert "again, 2 before" == (await keep.receive("ada", "again")).replies[0].text


@pytest.mark.parametrize("overlap", ["burst", "debounce"])
async def test_a_long_backlog_is_answered_together_in_pages(opened: Any, overlap: str) -> None:
    """No message is left out, and none comes twice."""
    seen: list[str] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.extend(message.text for message in turn.messages)
        return "ok"

    desk = await opened(None)
    await fill(desk)
    keep = await opened(bot, overlap=overlap, quiet="1ms", max_wait="5ms")
    await until(lambda: answered(keep, "ada", MANY), within=20)

    assert [f"{number}" for number in range(MANY)] == seen


async def test_drop_passes_all_of_a_long_backlog_over(opened: Any) -> None:
    """The first is answered; what came meanwhile is not, however much it is."""
    seen: list[str] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append(turn.text)
        return "ok"

    desk = await opened(None)
    await fill(desk)
    keep = await opened(bot, overlap="drop")
    await until(lambda: answered(keep, "ada", MANY))

    assert ["0"] == seen
    assert "dropped" == (await keep.receive("ada", f"{MANY - 1}", id=f"{MANY - 1}")).status


async def test_skipping_passes_all_of_a_long_backlog_over(opened: Any) -> None:
    """resume(unread="skip") leaves nothing to be answered."""
    desk = await opened(None)
    await desk.pause("ada")
    await fill(desk)
    await desk.resume("ada", unread="skip")
    found = await desk.conversation("ada")
    keep = await opened(lambda turn: turn.text)

    assert 0 == found.unread
    assert "hello" == (await keep.receive("ada", "hello")).replies[0].text


async def test_one_that_always_fails_in_a_long_backlog_is_set_aside_and_the_rest_is_answered(opened: Any) -> None:
    """At the end of a page too."""
    seen: list[str] = []
    bad = {f"{HELD - 1}", f"{HELD}", f"{MANY - 1}"}

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.text in bad:
            raise ValueError(turn.text)
        seen.append(turn.text)
        return "ok"

    desk = await opened(None)
    await fill(desk)
    keep = await opened(bot, attempts=1)
    await until(lambda: answered(keep, "ada", MANY), within=30)

    assert [f"{number}" for number in range(MANY) if f"{number}" not in bad] == seen
    assert 3 == len((await keep.conversation("ada")).dead)


async def test_changes_from_outside_in_a_long_backlog_leave_what_waits_waiting(opened: Any) -> None:
    """A change of the state, a pause, an operator's message: nothing that waits counts as handled by that."""
    desk = await opened(None)
    await fill(desk)
    await desk.change("ada", lambda state: state.update(vip=True))
    await desk.pause("ada")
    await desk.accept("ada", "wait", role="operator")
    await desk.resume("ada")
    found = await desk.conversation("ada")

    assert (MANY, True) == (found.unread, found.state["vip"])
    assert is_cut(await desk._engine.store.load(Key("", "ada")))


async def test_whoever_waits_behind_hundreds_costs_no_look_at_the_log(opened: Any) -> None:
    """Each caller gets the answer to its own message, from the act that has answered it; the log is not read for each of them."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return f"r{turn.text}"

    keep = await opened(bot)
    acts, callers = keep._engine.store.gateway.acts, MANY
    before = acts["Entries"]
    receipts = await asyncio.gather(*(keep.receive("ada", f"{number}", id=f"{number}") for number in range(callers)))
    pages = acts["Entries"] - before

    assert [[f"r{number}"] for number in range(callers)] == [
        [reply.text for reply in receipt.replies] for receipt in receipts
    ]
    assert pages < callers / 4
