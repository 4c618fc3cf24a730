"""The calls of a link that have left and are not answered yet."""

from __future__ import annotations

import asyncio
from typing import Any

from chatkeep.drivers.redis.batches import Call, CallsUnderWay

from ...support.waiting import until


def call(*, deadline: float = 1e9) -> Call:
    """One that reads, with nobody who waits for it."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    return Call(None, deadline, answered, b"", None)


async def test_a_batch_is_answered_with_its_last_call() -> None:
    """Then another one may leave, and not before."""
    under_way = CallsUnderWay(lambda: None)
    under_way.begin([call(), call()])
    under_way.begin([call()])
    seen = []
    while under_way.calls:
        seen.append((under_way.batches, under_way.end_first()))
    under_way.close()

    assert [(2, False), (2, True), (1, True)] == seen
    assert 0 == under_way.batches


async def test_what_is_held_back_leaves_when_all_that_had_left_is_answered() -> None:
    """Though the batch goes on: what comes back for want of a script must not be overtaken."""
    under_way = CallsUnderWay(lambda: None)
    under_way.begin([call(), call()])
    under_way.hold_back()
    held = [under_way.last_of_old is not None]
    under_way.begin([call(), call()])
    seen = []
    while under_way.calls:
        seen.append(under_way.end_first())
        held.append(under_way.last_of_old is not None)
    under_way.close()

    assert [False, True, False, True] == seen
    assert [True, True, False, False, False] == held


async def test_what_is_lost_with_its_connection_holds_nothing_back() -> None:
    """The next connection begins with nothing under way."""
    under_way = CallsUnderWay(lambda: None)
    batch = [call(), call()]
    under_way.begin(batch)
    under_way.hold_back()
    lost = under_way.clear()
    under_way.close()

    assert batch == lost
    assert ([], 0, None) == ([*under_way.calls], under_way.batches, under_way.last_of_old)


async def test_silence_is_told_when_the_oldest_deadline_is_over() -> None:
    """Again and again while that call is there, and never for calls that are answered; a later deadline waits for its time."""
    now = asyncio.get_running_loop().time
    rung: list[float] = []
    under_way = CallsUnderWay(lambda: rung.append(now()))
    soon = now() + 0.05
    under_way.begin([call(deadline=soon + 1e6)])
    under_way.begin([call(deadline=soon)])  # answers come in order, so the first one's deadline counts
    under_way.end_first()
    await until(lambda: len(rung) > 1)
    under_way.end_first()
    under_way.begin([call()])
    before = len(rung)
    under_way.close()

    assert rung[0] >= soon
    assert before == len(rung)
