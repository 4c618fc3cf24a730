"""`background=False` and `tend`: where a process lives for one message, nothing is done unless it is asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from chatkeep import Chatkeep, Tended, Turn, Unavailable, UsageError
from tests.support.waiting import nothing_happens_for, takes, until

Open = Callable[..., Any]


async def echo(turn: Turn[dict[str, Any]]) -> str:
    """Answers."""
    turn.state["n"] = turn.state.get("n", 0) + 1
    return f"{turn.state['n']}: {turn.text}"


def names() -> set[str]:
    """What runs of ours in this loop."""
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep ")}


async def test_nothing_runs_between_messages(opened: Open) -> None:
    """No sweep, no ear, no news; and `receive` answers as ever, in one trip."""
    keep = await opened(echo, background=False)
    receipt = await keep.receive("ada", "hello", id="1")
    again = await keep.receive("ada", "hello", id="1")

    assert ("1: hello", "1: hello", True) == (receipt.replies[0].text, again.replies[0].text, again.duplicate)
    await keep.receive("ada", "how are you?", id="2")
    assert 1 == keep.statistics.engine.one_trip
    assert {name for name in names() if "sweep" in name or "news" in name or "watch" in name} == set()


async def test_what_is_accepted_waits_for_tend(opened: Open) -> None:
    """Nobody begins on it, and nobody holds it; then it is answered, and the next call finds nothing."""
    keep = await opened(echo, background=False)
    for name in ("ada", "bob"):
        for n in range(2):
            await keep.accept(name, f"{n}", id=f"{n}")
    await nothing_happens_for(0.1)

    assert 0 == keep.statistics.engine.turns
    assert Tended(conversations=2, turns=4) == await keep.tend()
    assert Tended() == await keep.tend()
    assert ["0", "1", "1: 0", "2: 1"] == [message.text for message in (await keep.conversation("ada")).messages]


async def test_tend_answers_what_other_processes_have_left(opened: Open) -> None:
    """Another one's accepted message, and one that was sent by a handler while this goes on."""
    one, two = await opened(echo, background=False), await opened(None, background=False)

    async def passes_on(turn: Turn[dict[str, Any]]) -> str:
        if turn.conversation == "ada":
            await three.accept("bob", "from ada", id=turn.id)
        return "done"

    three = await opened(passes_on, background=False)
    await two.accept("ada", "hello", id="1")

    assert Tended(conversations=2, turns=2) == await three.tend()
    assert Tended() == await one.tend()


@pytest.mark.slow
async def test_without_a_handler_nothing_is_waited_for(opened: Open) -> None:
    """What waits for an answer is left to those who have a handler, and stays due."""
    keep = await opened(None, background=False)
    await keep.accept("ada", "hello", id="1")

    assert Tended() == await keep.tend(within="1s")
    assert [1] == [message.number for message in (await keep.conversation("ada")).waiting]


@pytest.mark.slow
async def test_what_fails_is_tried_again_by_the_next_call(opened: Open) -> None:
    """Its pause is not waited for, and nobody holds it meanwhile."""
    broken = True

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if broken:
            raise ValueError("not today")
        return "fine"

    keep = await opened(bot, background=False, retry_after="2s", retry_longest="2s", attempts=None)
    await keep.accept("ada", "hello", id="1")
    begun = time.monotonic()
    first = await keep.tend()

    assert (1, True) == (first.failures, first.done)
    assert time.monotonic() - begun < 1.5
    broken = False

    async def answered() -> bool:
        return bool((await keep.tend()).turns)

    await until(answered, within=10.0, every=0.1)


async def test_reminders_and_ended_sessions_are_tended(opened: Open) -> None:
    """What is due by the clock."""
    now = [time.time()]

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["seen"] = True
        if turn.message.role == "user":
            turn.remind("30m", "later")
        return turn.message.role

    keep = await opened(bot, background=False, session_ttl="2h", clock=lambda: now[0])
    await keep.receive("ada", "hello", id="1")

    assert 0 == (await keep.tend()).turns
    now[0] += 1801
    assert 1 == (await keep.tend()).turns
    now[0] += 3 * 3600
    assert 1 == (await keep.tend()).conversations
    assert {} == (await keep.conversation("ada")).state


async def test_time_that_is_over_leaves_the_rest_due(opened: Open) -> None:
    """It says so, and the next call goes on."""

    async def slow(turn: Turn[dict[str, Any]]) -> str:
        await takes(0.15)
        return "done"

    keep = await opened(slow, background=False, concurrency=1)
    for n in range(6):
        await keep.accept(f"c{n}", "hello", id="1")
    begun = time.monotonic()
    first = await keep.tend(within="200ms")

    assert not first.done
    assert first.turns < 6
    assert time.monotonic() - begun < 2.0
    second = await keep.tend()

    assert second.done
    assert 6 == keep.statistics.engine.turns


async def test_two_at_once_answer_everything_once(opened: Open) -> None:
    """In one process and in several."""
    keeps = [await opened(echo, background=False) for _ in range(2)]
    for n in range(20):
        await keeps[0].accept(f"c{n}", "hello", id="1")
    done = await asyncio.gather(*(keep.tend() for keep in (*keeps, keeps[0])))
    done += [await keep.tend() for keep in keeps]
    states = [(await keeps[0].conversation(f"c{n}")).state for n in range(20)]

    assert [{"n": 1}] * 20 == states
    assert 20 <= sum(one.turns for one in done)


async def test_a_pause_is_seen_by_a_process_that_was_there_before(opened: Open) -> None:
    """Nobody tells it, so it looks, once a `poll`; and what was resumed is answered by the next `tend`."""
    keep, operator = await opened(echo, background=False), await opened(None, background=False)
    await keep.receive("ada", "hello", id="1")
    await operator.pause_all()
    await nothing_happens_for(0.1)
    receipt = await keep.receive("ada", "are you there?", id="2")

    assert "paused" == receipt.status
    await operator.resume_all()

    assert 1 == (await keep.tend()).turns


async def test_a_setting_that_is_new_is_put_in_force_once(opened: Open) -> None:
    """`thorough` goes through what was written before there was an end to anything."""
    now = [time.time()]
    keep = await opened(echo, background=False, clock=lambda: now[0])
    await keep.receive("ada", "hello", id="1")
    await keep.close()
    keep = await opened(echo, background=False, session_ttl="1h", clock=lambda: now[0])
    now[0] += 7200

    assert 0 == (await keep.tend()).conversations
    assert 1 == (await keep.tend(thorough=True)).conversations


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (a store does not see the clock)
async def test_it_ends_though_the_clock_stands_still(opened: Open) -> None:
    """As in an application's tests; at this time, to which a day cannot be added exactly."""
    keep = await opened(echo, clock=lambda: 91696.22814867219, background=False)

    assert (await asyncio.wait_for(keep.tend(thorough=True), 10)).done


async def test_closing_ends_it(opened: Open) -> None:
    """Whoever waits is told; what is left stays due."""

    async def slow(turn: Turn[dict[str, Any]]) -> str:
        await takes(0.3)
        return "done"

    keep = await opened(slow, background=False, concurrency=1)
    for n in range(5):
        await keep.accept(f"c{n}", "hello", id="1")
    tending = asyncio.ensure_future(keep.tend())
    await until(lambda: keep.statistics.engine.workers)
    await keep.close()

    with pytest.raises(Unavailable, match="stays due"):
        await tending


async def test_in_the_background_there_is_nothing_to_tend(opened: Open) -> None:
    """It is said, and so is a wrong duration."""
    keep = await opened(echo)
    with pytest.raises(UsageError, match="by itself"):
        await keep.tend()
    other = await opened(echo, background=False)
    with pytest.raises(UsageError, match="within"):
        await other.tend(within="soon")


async def test_the_environment_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every setting."""
    monkeypatch.setenv("CHATKEEP_BACKGROUND", "false")

    assert not Chatkeep("memory://").settings.background
