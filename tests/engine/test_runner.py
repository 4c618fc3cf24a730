"""Running handlers without a store: the table of outcomes, places, threads, tasks."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.drivers.base import Key
from chatkeep.engine import places
from chatkeep.engine.hooks import call_plain
from chatkeep.engine.places import Places
from chatkeep.engine.run import RUNNING, CannotBegin, Fate, Run, judge
from chatkeep.engine.runner import Runner
from chatkeep.engine.turn import Turn
from chatkeep.errors import describe_fault
from chatkeep.model import Message

from ..support.waiting import takes, until

KEY = Key("", "ada")


class Abort(BaseException):
    """No Exception."""


FAULTS: list[BaseException | None] = [
    None,
    ValueError(),
    Abort(),
    GeneratorExit(),
    asyncio.CancelledError(),
    TimeoutError(),
]


@pytest.mark.parametrize(
    ("fault", "how", "fate"),
    [
        (None, {}, Fate.ANSWERED),
        *((fault, {}, Fate.FAILED) for fault in FAULTS if fault is not None),
        (BaseExceptionGroup("both", [SystemExit(), ValueError()]), {}, Fate.FAILED),
        *((fault, {"late": True}, Fate.FAILED) for fault in FAULTS),
        *((fault, {"late": True, "ended": False}, Fate.ABANDONED) for fault in FAULTS),
        *((fault, {"stopped": True}, Fate.STOPPED) for fault in FAULTS),
        (None, {"stopped": True, "ended": False}, Fate.STOPPED),
        (CannotBegin(), {}, Fate.NOT_BEGUN),
        *(
            (kind(), how, Fate.EXITS)
            for kind in (SystemExit, KeyboardInterrupt)
            for how in ({}, {"late": True}, {"stopped": True})
        ),
    ],
)
def test_the_table(fault: BaseException | None, how: dict[str, bool], fate: Fate) -> None:
    """Each way to end has one fate."""
    assert fate is judge(fault, **how)


@given(st.text())
def test_every_reason_can_be_stored(text: str) -> None:
    """Whatever an exception says."""
    said = describe_fault(ValueError(text))

    assert len(said) <= 500
    assert "\0" not in said.encode().decode()


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


# -- places -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that a test can wait for."""
    monkeypatch.setattr(places, "SETTLE_S", 0.02)
    monkeypatch.setattr(places, "PATIENCE_S", 0.1)


class Crowd:
    """People who take places, and a note of who was in at the same time."""

    def __init__(self, most: int) -> None:
        self.places = Places(most)
        self.inside: set[str] = set()
        self.order: list[str] = []

    async def takes(self, name: str, seconds: float = 0.01) -> None:
        """Holds a place for a while."""
        await self.places.take(name)
        try:
            await self._is_in(name, seconds)
        finally:
            self.places.give_back()

    async def alone(self, name: str, rank: int = 0, seconds: float = 0.01) -> None:
        """Holds all of them."""
        async with self.places.take_all(name, rank):
            assert not self.inside
            await self._is_in(name, seconds)

    async def _is_in(self, name: str, seconds: float) -> None:
        assert not [other for other in self.inside if other.startswith("alone")]
        self.inside.add(name)
        self.order.append(name)
        assert len(self.inside) <= self.places.most
        try:
            await takes(seconds)
        finally:
            self.inside.discard(name)


async def test_suspects_run_alone_when_the_others_have_gone_first_and_the_least_suspect_before_the_rest() -> None:
    """Neither beside each other nor beside anybody else."""
    crowd = Crowd(2)
    others = [crowd.takes(f"{n}") for n in range(6)]
    suspects = [crowd.alone(f"alone{rank}", rank) for rank in (3, 1, 2)]
    await asyncio.gather(*suspects, *others)

    assert ["alone1", "alone2", "alone3"] == crowd.order[6:]
    assert 0 == crowd.places.lonely


async def test_a_suspect_is_not_starved_and_does_not_starve() -> None:
    """In a crowd without a pause the gate is closed for newcomers after a while; between two suspects they are let in."""
    crowd, over = Crowd(2), asyncio.Event()

    async def comes_again(name: str) -> None:
        while not over.is_set():
            await crowd.takes(name, 0.015)

    crowds = [asyncio.create_task(comes_again(f"{n}")) for n in range(3)]
    await asyncio.wait_for(asyncio.gather(crowd.alone("alone1"), crowd.alone("alone2")), 2)
    over.set()
    await asyncio.gather(*crowds)
    first, second = crowd.order.index("alone1"), crowd.order.index("alone2")

    assert first > 3
    assert second > first + 3


async def test_who_is_let_by_waits_neither_for_a_place_nor_to_run_alone() -> None:
    """Nothing is taken for it, and the others wait on in their order."""
    places = Places(1)
    assert places.take_at_once()
    waiting = [asyncio.create_task(places.take(name)) for name in ("ada", "bob", "ada")]
    suspects = {name: asyncio.create_task(enters(places, name)) for name in ("ada", "bob")}
    await asyncio.sleep(0.05)
    places.let_by("ada")
    await asyncio.sleep(0)

    assert [True, False, True] == [task.done() for task in waiting]
    assert (False, False) == (waiting[0].result(), waiting[2].result())
    assert (False, 1) == (await suspects["ada"], places.lonely)
    places.give_back()
    assert await waiting[1]
    assert not suspects["bob"].done()
    places.give_back()
    assert await asyncio.wait_for(suspects["bob"], 1)
    assert (0, 0) == (places._taken, places.lonely)


async def enters(places: Places, name: str) -> bool:
    """Waits to run alone, and answers whether it may."""
    async with places.take_all(name, 0) as alone:
        return alone


async def test_a_suspect_that_goes_away_lets_the_next_one_in() -> None:
    """Also the first in the row, while the gate is closed for newcomers."""
    places = Places(2)
    assert places.take_at_once()
    first, second = asyncio.create_task(enters(places, "a")), asyncio.create_task(enters(places, "b"))
    await asyncio.sleep(0.2)
    newcomer = asyncio.create_task(places.take("c"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0.01)
    places.give_back()

    assert await asyncio.wait_for(second, 1)
    assert await asyncio.wait_for(newcomer, 1)


@given(
    st.lists(
        st.tuples(st.sampled_from(["takes", "alone"]), st.integers(0, 3), st.booleans(), st.integers(0, 30)),
        max_size=12,
    )
)
def test_whoever_goes_away_leaves_its_place_to_others(crowd: list[tuple[str, int, bool, int]]) -> None:
    """Cancelled at any moment; in the end every place is free."""

    async def play() -> None:
        there = Crowd(2)
        tasks = []
        for number, (how, rank, goes, after) in enumerate(crowd):
            if how == "takes":
                task = asyncio.create_task(there.takes(f"{number}", 0.002))
            else:
                task = asyncio.create_task(there.alone(f"alone{number}", rank, 0.002))
            tasks.append(task)
            if goes:
                asyncio.get_running_loop().call_later(after / 1000, task.cancel)
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert [] == [found for found in results if isinstance(found, Exception)]
        await asyncio.wait_for(there.takes("last"), 1)
        await asyncio.wait_for(there.alone("alone"), 1)
        assert (0, 0, False) == (there.places.lonely, there.places._taken, there.places._shut)

    with suppress(asyncio.CancelledError):
        asyncio.run(play())


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
