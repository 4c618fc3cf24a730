"""The way from threads back to an event loop, on each kind of loop and where the system has no descriptors for it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from chatkeep.drivers.sqlite.handover import Handover

from ...support.waiting import nothing_happens_for, until


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Watches no descriptors, as that of Windows."""

    def add_reader(self, *_: Any) -> None:
        """Refuse it."""
        raise NotImplementedError


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
    LoopWithoutReaders,
]


def opened() -> int:
    """How many descriptors the process has."""
    return len(os.listdir("/proc/self/fd"))


def run_on(make: Callable[[], asyncio.AbstractEventLoop], work: Any) -> None:
    """Run *work* on a loop of that kind."""
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(work())


@pytest.fixture(params=["descriptors", "none in the system", "too many are open"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the system has of them."""
    if request.param == "none in the system":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif request.param == "too many are open":

        def refused(*_: Any) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "eventfd", refused, raising=False)
    return str(request.param)


@pytest.mark.parametrize("make", LOOPS)
def test_what_threads_put_is_taken_in_the_loop_once_and_in_their_order(
    make: Callable[[], asyncio.AbstractEventLoop], system: str
) -> None:
    """Whatever comes at the same time."""
    taken: list[tuple[int, int]] = []
    where = set()

    def take(item: tuple[int, int]) -> None:
        taken.append(item)
        where.add(threading.get_ident())

    async def work() -> None:
        handover = Handover(take)
        threads = [threading.Thread(target=put, args=(handover, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        await until(lambda: len(taken) == 2000)
        for thread in threads:
            thread.join()
        handover.close()

    def put(handover: Handover[tuple[int, int]], number: int) -> None:
        for n in range(500):
            handover.put((number, n))

    run_on(make, work)

    assert {threading.get_ident()} == where
    for number in range(4):
        assert [(number, n) for n in range(500)] == [item for item in taken if item[0] == number]


@pytest.mark.parametrize("make", LOOPS)
def test_closing_takes_what_is_left_and_gives_the_descriptor_back(
    make: Callable[[], asyncio.AbstractEventLoop], system: str
) -> None:
    """Before it returns: who waits for the answer must not wait for a loop that nobody calls any more."""
    taken: list[int] = []

    async def work() -> None:
        before = opened()
        for n in range(3):
            handover = Handover(taken.append)
            handover.put(n)
            handover.close()

            assert list(range(n + 1)) == taken
        await asyncio.sleep(0)

        assert before == opened()

    run_on(make, work)

    assert [0, 1, 2] == taken


@pytest.mark.parametrize("make", LOOPS)
def test_of_a_loop_that_is_closed_nothing_is_taken_and_nobody_is_hurt(
    make: Callable[[], asyncio.AbstractEventLoop], system: str
) -> None:
    """A thread that still works when the program has ended its loop goes on; what it gives is for nobody."""
    taken: list[int] = []
    made: list[Handover[int]] = []

    async def work() -> None:
        made.append(Handover(taken.append))

    before = opened()
    run_on(make, work)
    made[0].put(1)
    made[0].close()

    assert [] == taken
    assert before == opened()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.parametrize("make", LOOPS)
def test_a_child_that_goes_on_with_the_loop_takes_nothing_from_its_parent(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The descriptor is that of both; what was put while the parent did not look is still there when it does."""
    taken: list[str] = []
    loop = make()

    async def begin() -> Handover[str]:
        return Handover(taken.append)

    handover = loop.run_until_complete(begin())
    handover.put("said before the fork")
    child = os.fork()
    if not child:
        try:
            loop.run_until_complete(nothing_happens_for(0.05))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    loop.run_until_complete(until(lambda: taken))
    handover.close()
    loop.close()

    assert ["said before the fork"] == taken
