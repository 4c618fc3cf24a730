"""Running handlers without a store: their tasks and threads, and those that are given up."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from chatkeep.drivers.base import Key
from chatkeep.engine.hooks import call_plain
from chatkeep.engine.run import RUNNING, Fate, Run
from chatkeep.engine.runner import Runner
from chatkeep.engine.turn import Turn
from chatkeep.model import Message

from ..support.waiting import takes, until

KEY = Key("", "ada")


def a_turn(text: str = "hi") -> Turn[Any]:
    """A turn made by hand."""
    message = Message(id="1", number=1, role="user", content=text, created_at=0.0)
    return Turn(tenant="", conversation="ada", session=1, state={}, messages=[message], history=[])


@asynccontextmanager
async def running(count: int = 2, timeout_s: float = 0.2) -> AsyncIterator[Runner]:
    """A runner that is closed at the end."""
    runner = Runner(count, timeout_s, lambda _: None)
    runner.grace_s = 0.05
    runner.open()
    yield runner
    await runner.close()
    await asyncio.sleep(0)
    assert 0 == runner.places._taken
    assert [] == [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]


async def run(runner: Runner, handler: Any) -> Run:
    """Runs *handler* and keeps what it returned."""
    found = Run(KEY, "1", handler, a_turn())
    await runner.run(found)
    return found


async def test_a_handler_has_a_task_of_its_own_from_its_first_step_on() -> None:
    """So its own time limits, groups and cancellations are about itself."""
    tasks = set()

    async def bot(turn: Turn[Any]) -> str:
        first = asyncio.current_task()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        tasks.add((first, asyncio.current_task()))
        return "ok"

    async with running() as runner:
        for _ in range(3):
            assert "ok" == (await run(runner, bot)).value

        assert all(first is last for first, last in tasks)
        assert 3 == len(tasks)
        assert asyncio.current_task() not in {first for first, _ in tasks}


async def test_a_handler_that_waits_for_nothing_costs_no_task() -> None:
    """They share one, unless one of them has cancelled it."""
    tasks = []

    async def bot(turn: Turn[Any]) -> str:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        if len(tasks) == 3:
            task.cancel()
        if len(tasks) == 5:
            task.cancel()
            task.uncancel()
        return "ok"

    async with running() as runner:
        for _ in range(7):
            assert Fate.ANSWERED is (await run(runner, bot)).fate
            await asyncio.sleep(0)

    assert [0, 0, 0, 1, 1, 2, 2] == [list(dict.fromkeys(tasks)).index(task) for task in tasks]


async def test_a_handler_may_begin_others_in_its_first_step() -> None:
    """Each has its own task, whether it waits or not."""
    seen = []

    async def inner(turn: Turn[Any]) -> str:
        seen.append(asyncio.current_task())
        await takes(0.001)
        seen.append(asyncio.current_task())
        return "inner"

    async with running(1) as runner:

        async def outer(turn: Turn[Any]) -> Any:
            seen.append(asyncio.current_task())
            found = (await run(runner, inner)).value
            running = RUNNING.get()
            assert running is not None
            assert running.handler is outer
            seen.append(asyncio.current_task())
            return found

        for _ in range(3):
            seen.clear()
            assert "inner" == (await asyncio.wait_for(run(runner, outer), 1)).value
            assert (seen[0], seen[1]) == (seen[3], seen[2])
            assert seen[0] is not seen[1]


async def test_a_thread_is_used_again_and_a_lost_one_is_replaced() -> None:
    """There is one for each place; whoever hangs keeps its own."""
    release, names = threading.Event(), []

    def plain(turn: Turn[Any]) -> str:
        names.append(threading.current_thread())
        if len(names) == 3:
            release.wait()
        return "ok"

    async with running(1) as runner:

        async def bot(turn: Turn[Any]) -> Any:
            return await runner.call_in_thread(plain, turn)

        fates = [(await run(runner, bot)).fate for _ in range(5)]
        assert 1 == len(runner.abandoned)
        release.set()
        for _ in range(100):
            await asyncio.sleep(0.01)

        assert [Fate.ANSWERED, Fate.ANSWERED, Fate.ABANDONED, Fate.ANSWERED, Fate.ANSWERED] == fates
        assert (names[0], names[0], names[3]) == (names[1], names[2], names[4])
        assert names[3] is not names[0]
        assert not runner.abandoned
        assert all(thread.daemon for thread in names)


async def test_what_cancels_the_task_of_a_thread_leaves_it_among_the_abandoned() -> None:
    """The function goes on, so its message must not be tried meanwhile."""
    release = threading.Event()

    async with running() as runner:

        async def bot(turn: Turn[Any]) -> Any:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.02, task.cancel)
            return await runner.call_in_thread(lambda turn: release.wait(), turn)

        found = await run(runner, bot)

        assert (Fate.ABANDONED, True) == (found.fate, found in runner.abandoned)
        assert found is runner.find_abandoned(bot, KEY, "1")
        assert runner.find_abandoned(bot, KEY, "2") is None
        release.set()
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not runner.abandoned


async def test_a_run_keeps_none_of_the_earlier_ones() -> None:
    """Each begins the next one in a task that it leaves behind, and ends."""
    chains: list[int] = []
    all_began = asyncio.Event()

    async with running() as runner:
        tasks = []

        async def bot(turn: Turn[Any]) -> str:
            chain, found = 0, RUNNING.get()
            while found is not None:
                chain, found = chain + 1, found.outer
            chains.append(chain)
            await takes(0.01)
            if len(chains) < 20:
                tasks.append(asyncio.create_task(run(runner, bot)))
                await asyncio.sleep(0.001)
            else:
                all_began.set()
            return "ok"

        await run(runner, bot)
        await asyncio.wait_for(all_began.wait(), 5)
        await asyncio.gather(*tasks)

    assert max(chains) <= 3  # (one that has ended stays while the one that it began runs)


async def test_what_a_run_raises_after_it_was_given_up_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Once, whatever kind of handler it was."""
    release = threading.Event()

    def plain(turn: Turn[Any]) -> None:
        release.wait()
        raise ValueError("in a thread")

    async def stubborn(turn: Turn[Any]) -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await takes(0.01)
        raise ValueError("in a task")

    async with running() as runner:

        async def bot(turn: Turn[Any]) -> Any:
            return await runner.call_in_thread(plain, turn)

        for handler in (bot, stubborn):
            assert Fate.ABANDONED is (await run(runner, handler)).fate
        release.set()
        for _ in range(100):
            await asyncio.sleep(0.01 * bool(runner.abandoned))

    said = [record for record in caplog.records if "has raised" in record.message]
    assert {"WARNING"} == {record.levelname for record in said}
    assert ["ValueError: in a task", "ValueError: in a thread"] == sorted(
        record.message.split("raised ")[1] for record in said
    )


@pytest.mark.parametrize("loop", ["goes on", "has ended"])
@pytest.mark.filterwarnings("always:coroutine")
def test_a_coroutine_that_comes_too_late_is_closed(loop: str, recwarn: pytest.WarningsRecorder) -> None:
    """Of a plain decorator around an async handler: nobody awaits it any more, and Python says so of one that is only let go of."""
    release, threads = threading.Event(), []

    async def answer(turn: Turn[Any]) -> str:
        return "ok"

    def plain(turn: Turn[Any]) -> Any:
        threads.append(threading.current_thread())
        release.wait()
        return answer(turn)

    async def give_up() -> None:
        async with running() as runner:
            assert Fate.ABANDONED is (await run(runner, partial(call_plain, runner.call_in_thread, plain))).fate
            if loop == "goes on":
                release.set()
                await until(lambda: not runner.abandoned)

    asyncio.run(give_up())
    release.set()
    threads[0].join(10)
    gc.collect()

    assert [] == [str(warning.message) for warning in recwarn]


def test_a_thread_whose_loop_has_ended_is_not_counted_in_the_next_one() -> None:
    """Nobody would hear of its end."""
    release, counts = threading.Event(), []
    runner = Runner(1, 0.05, counts.append)
    runner.grace_s = 0.01

    async def hang() -> None:
        async def bot(turn: Turn[Any]) -> Any:
            return await runner.call_in_thread(lambda turn: release.wait(), turn)

        runner.open()
        assert Fate.ABANDONED is (await run(runner, bot)).fate
        await runner.close()

    async def again() -> None:
        runner.open()
        assert (0, set()) == (counts[-1], runner.abandoned)
        await runner.close()

    asyncio.run(hang())
    assert 1 == counts[-1]
    release.set()
    asyncio.run(again())


async def waits_for_nothing(turn: Turn[Any]) -> str:
    """Ends within its first step, as most do."""
    return "ok"


async def waits_once(turn: Turn[Any]) -> str:
    """Has a task of its own, and a timer."""
    await asyncio.sleep(0)
    return "ok"


@pytest.mark.parametrize("bot", [waits_for_nothing, waits_once])
async def test_a_run_leaves_no_circle_of_garbage(bot: Any) -> None:
    """What it made goes when it ends, and not when garbage is collected, which would cost more than the run (I10)."""
    async with running(timeout_s=5.0) as runner:
        await run(runner, bot)
        gc.collect()
        gc.disable()
        before = {id(found) for found in gc.get_objects() if isinstance(found, Run)}  # of other tests, which hang
        try:
            for _ in range(20):
                await run(runner, bot)
            left = [found for found in gc.get_objects() if isinstance(found, Run) and id(found) not in before]
        finally:
            gc.enable()

    assert [] == left
