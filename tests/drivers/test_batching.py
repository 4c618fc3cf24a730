"""The queue between a driver and its connections: order, shares, bounds, and nothing that waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from chatkeep.drivers import batching
from chatkeep.drivers.base import Key
from chatkeep.drivers.batching import BatchingQueue

from ..support.waiting import until


class Call(NamedTuple):
    """A call of a test."""

    name: str
    kind: Any = None
    key: Key | None = None
    size: int = 1
    deadline: float = 1e12


ADA, BOB = Key("", "ada"), Key("", "bob")


def queue_of(*calls: Call, **bounds: float) -> BatchingQueue[Call]:
    """Return a queue with *calls* in it."""
    made: BatchingQueue[Call] = BatchingQueue(lambda late: None, **bounds)  # type: ignore[arg-type]
    assert all(made.put(call) for call in calls)
    return made


def names(calls: Any) -> str:
    """Return their names."""
    return "".join(call.name for call in calls)


async def test_what_waits_goes_together_in_order() -> None:
    """As many as a batch may have, or as are ready."""
    queue = queue_of(*map(Call, "abcdefg"), most=5)

    assert ["abcde", "fg", ""] == [names(queue.take()) for _ in range(3)]

    queue = queue_of(*map(Call, "abc"))

    assert ["ab", "", "c"] == [names(queue.take(ready=ready)) for ready in (2, 0, 1)]


async def test_a_batch_has_room_for_so_many_bytes() -> None:
    """A call that is larger goes alone, and one that is as large as the room."""
    queue = queue_of(*(Call(name, size=40) for name in "abcd"), room=100)

    assert ["ab", "cd"] == [names(queue.take()) for _ in range(2)]

    queue = queue_of(Call("a"), Call("b", size=100), Call("c", size=100), Call("d"), Call("e", size=900), room=100)

    assert ["a", "b", "c", "d", "e"] == [names(queue.take()) for _ in range(5)]


async def test_a_batch_is_of_one_kind() -> None:
    """Kinds take turns as they came."""
    first, second = object(), object()
    queue = queue_of(Call("a", first), Call("b", first), Call("c", second), Call("d", first))

    assert ["ab", "c", "d"] == [names(queue.take()) for _ in range(3)]


async def test_a_share_is_of_what_waits_and_of_what_is_under_way() -> None:
    """So that two connections have half each, and few calls are not torn apart."""
    queue = queue_of(*(Call(f"{number}") for number in range(20)))
    batch = queue.take(shares=2)
    queue.begin(batch)

    assert (10, 10) == (len(batch), len(queue.take(shares=2)))

    queue = queue_of(*map(Call, "abcde"))

    assert ["abcd", "e"] == [names(queue.take(shares=2)) for _ in range(2)]


async def test_calls_on_one_conversation_are_not_in_two_batches_at_a_time() -> None:
    """They wait for the one that is under way, in their order, while others pass them, and take up no room."""
    queue = queue_of(Call("a", key=ADA), room=3)
    batch = queue.take()
    queue.begin(batch)
    for name, key in (("b", ADA), ("c", BOB), ("d", ADA), ("e", None), ("f", BOB)):
        queue.put(Call(name, key=key))

    assert ["cef", ""] == [names(queue.take()) for _ in range(2)]
    assert "bd" == names(queue.calls)

    queue.end(batch)

    assert "bd" == names(queue.take())


async def test_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except those that had their place before."""
    monkeypatch.setattr(batching, "WAITING", 2)
    queue = queue_of(Call("a"), Call("b"))

    assert not queue.put(Call("c"))

    queue.put_back([Call("d"), Call("e")], place=1)

    assert "adeb" == names(queue.clear())
    assert queue.put(Call("f"))


async def test_whoever_waits_too_long_is_told_once() -> None:
    """Also one that came after others that may wait longer; those that were taken are nobody's here."""
    told: list[str] = []
    queue: BatchingQueue[Call] = BatchingQueue(lambda late: told.append(names(late)))
    now = asyncio.get_running_loop().time()
    queue.put(Call("a", deadline=now + 0.01))
    queue.take()
    queue.put_back([Call("b", deadline=now + 0.02)])
    for name, after in (("c", 9), ("d", 0.02), ("e", 0.06)):
        queue.put(Call(name, deadline=now + after))
    await until(lambda: "e" in told)

    assert "bde" == "".join(sorted("".join(told)))
    assert "c" == names(queue.take())

    await queue.close()


async def test_a_put_wakes_one_that_still_waits() -> None:
    """And not one that was cancelled."""
    queue = queue_of()
    waits, gone = (asyncio.create_task(queue.woken()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    queue.put(Call("a"))
    await asyncio.wait_for(waits, 1)

    assert gone.cancelled()


async def test_closing_lets_the_consumers_take_what_waits() -> None:
    """They end when it is empty, and no timer is left in the event loop."""
    queue = queue_of(Call("a", deadline=asyncio.get_running_loop().time() + 9), most=1)
    taken: list[str] = []

    async def consume() -> None:
        while await queue.filled():
            taken.append(names(queue.take()))
            await asyncio.sleep(0)

    consumers = [asyncio.create_task(consume()) for _ in range(2)]
    queue.put(Call("b"))
    await asyncio.wait_for(queue.close(*consumers), 1)

    assert ["a", "b"] == sorted(taken)
    assert queue._alarm is not None
    assert queue._alarm.cancelled()
