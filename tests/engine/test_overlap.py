"""What happens to messages that come while a turn runs, by each policy; every original stays in the log."""

from __future__ import annotations

import asyncio
from typing import Any

from chatkeep import Chatkeep, Turn

from ..support.counting import answered, count, texts
from ..support.waiting import takes, until


def slow(seen: list[list[str]], pause: float = 0, gate: asyncio.Event | None = None) -> Any:
    """A bot that notes what each turn was given, and takes a while, or waits until the gate is open."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append([message.text for message in turn.messages])
        await (takes(pause) if gate is None else gate.wait())
        return "+".join(seen[-1])

    return bot


async def in_log(keep: Chatkeep[Any], count: int) -> bool:
    """Whether so many messages stand in the log of ada."""
    return len(await texts(keep, "ada")) >= count


async def test_queue_gives_each_message_a_turn_of_its_own(opened: Any) -> None:
    """Three at once: three turns, in order."""
    seen: list[list[str]] = []
    keep = await opened(slow(seen, 0.01))
    receipts = await asyncio.gather(*(keep.receive("ada", text) for text in "abc"))

    assert [["a"], ["b"], ["c"]] == seen
    assert ["a", "b", "c"] == [receipt.replies[0].text for receipt in receipts]


async def test_burst_takes_what_came_meanwhile_together(opened: Any) -> None:
    """The first is answered at once, the other three in one turn; each receipt has the answer that covers it."""
    seen: list[list[str]] = []
    gate = asyncio.Event()
    keep = await opened(slow(seen, gate=gate), overlap="burst")
    first = asyncio.create_task(keep.receive("ada", "a"))
    await until(lambda: seen)
    receiving = asyncio.gather(first, *(keep.receive("ada", text) for text in "bcd"))
    await until(lambda: in_log(keep, 4))
    gate.set()
    receipts = await receiving

    assert [["a"], ["b", "c", "d"]] == seen
    assert ["a", "b+c+d", "b+c+d", "b+c+d"] == [receipt.replies[0].text for receipt in receipts]
    assert 1 == len({receipt.replies[0].id for receipt in receipts[1:]})
    assert ["a", "b", "c", "d", "a", "b+c+d"] == await texts(keep, "ada")


async def test_debounce_waits_until_the_user_is_quiet(opened: Any) -> None:
    """Three messages in quick succession, by accept: one turn, one answer, three originals."""
    seen: list[list[str]] = []
    keep = await opened(slow(seen), overlap="debounce", quiet="500ms", max_wait="5s")
    for text in "abc":
        await keep.accept("ada", text)
        await takes(0.03)
    assert [] == seen
    await until(lambda: answered(keep, "ada", 3))

    assert [["a", "b", "c"]] == seen
    assert ["a", "b", "c", "a+b+c"] == await texts(keep, "ada")


async def test_debounce_waits_no_longer_than_max_wait(opened: Any) -> None:
    """A user who never stops is answered anyway."""
    seen: list[list[str]] = []
    keep = await opened(slow(seen), overlap="debounce", quiet="10s", max_wait="200ms")
    receipt = await asyncio.wait_for(keep.receive("ada", "a"), 3)

    assert ["a"] == [reply.text for reply in receipt.replies]


async def test_debounce_survives_the_process_that_waited(opened: Any) -> None:
    """The instance that took the messages closes before the user is quiet; another one gives the one answer."""
    seen: list[list[str]] = []
    first = await opened(slow(seen), overlap="debounce", quiet="700ms")
    for text in "ab":
        await first.accept("ada", text)
    await first.close()
    second = await opened(slow(seen), overlap="debounce", quiet="700ms")
    await until(lambda: answered(second, "ada", 2))

    assert [["a", "b"]] == seen


async def test_drop_keeps_what_came_meanwhile_and_does_not_answer_it(opened: Any) -> None:
    """The receipts say so; the log has everything; the next message is answered again."""
    seen: list[list[str]] = []
    gate = asyncio.Event()
    keep = await opened(slow(seen, gate=gate), overlap="drop")
    first = asyncio.create_task(keep.receive("ada", "a", id="a"))
    await until(lambda: seen)
    receiving = asyncio.gather(first, keep.receive("ada", "b", id="b"), keep.receive("ada", "c", id="c"))
    await until(lambda: in_log(keep, 3))
    gate.set()
    receipts = await receiving
    later = await keep.receive("ada", "d")
    again = await keep.receive("ada", "b", id="b")

    assert [["a"], ["d"]] == seen
    assert ["answered", "dropped", "dropped"] == [receipt.status for receipt in receipts]
    assert (["d"], "dropped", True) == ([reply.text for reply in later.replies], again.status, again.duplicate)
    assert ["a", "b", "c", "a", "d", "d"] == await texts(keep, "ada")


async def test_a_burst_that_fails_is_taken_apart(opened: Any) -> None:
    """One poisoned message among good ones: the good ones are answered, only the bad one is set aside."""
    seen: list[list[str]] = []
    gate = asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append([message.text for message in turn.messages])
        if turn.text == "first":
            await gate.wait()
        if "bad" in turn.text:
            raise ValueError("bad")
        return await count(turn)

    keep = await opened(bot, overlap="burst", attempts=2)
    await keep.accept("ada", "first")
    for text in ("a", "bad", "b"):
        await keep.accept("ada", text)
    gate.set()
    await until(lambda: answered(keep, "ada", 4))
    found = await keep.conversation("ada")

    assert ["first", "a", "bad", "b"] == [text for text in await texts(keep, "ada") if ":" not in text]
    assert [3] == found.dead
    assert ["a"] in seen
    assert ["bad"] in seen


async def test_different_conversations_run_in_parallel(opened: Any) -> None:
    """Twenty conversations of 50 ms each take far less than a second, up to the concurrency limit."""
    running, most = 0, 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await takes(0.05)
        running -= 1
        return "ok"

    keep = await opened(bot, concurrency=8)
    await asyncio.gather(*(keep.receive(f"c{n}", "hi") for n in range(20)))

    assert 8 == most
