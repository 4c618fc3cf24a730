"""The circuit between chatkeep and its store: when it stops asking, when it asks again, how often it runs an act again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatkeep.errors import Conflict, Overloaded, Replaced, Unavailable, Uncertain
from chatkeep.storage import circuit_breaker as circuit
from chatkeep.storage.circuit_breaker import RetryBudget, StoreCircuitBreaker

from ..support.waiting import takes, time_passes, until


def answers(*found: Any) -> Callable[[], Awaitable[Any]]:
    """An act that answers these, one after another, and counts in `.asked`; the last one for ever."""
    left = list(found)

    async def act() -> Any:
        act.asked += 1  # type: ignore[attr-defined]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    act.asked = 0  # type: ignore[attr-defined]
    return act


async def test_a_store_that_fails_in_a_row_is_left_alone_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After FAILURES nobody waits for it any more, until the pause is over; one good answer and all is well."""
    monkeypatch.setattr(circuit, "PAUSE_S", 0.05)
    through, act = StoreCircuitBreaker(patience_s=0.1), answers(Unavailable("down"))
    for _ in range(circuit.FAILURES + 3):
        with pytest.raises(Unavailable):
            await through.settle(act, once=True)

    assert circuit.FAILURES == act.asked  # type: ignore[attr-defined]
    assert "down" == through.trouble

    await time_passes(0.06)

    assert "there" == await through.settle(answers("there"))
    assert "" == through.trouble


async def test_a_read_that_is_answered_does_not_say_that_writes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is read from: what it refused a write with stands until one is taken, or for as long as nobody has tried lately."""
    through = StoreCircuitBreaker(patience_s=0.1)
    with pytest.raises(Unavailable):
        await through.settle(answers(Unavailable("full")), writes=True)
    await through.settle(answers("read"))

    assert ("full", True) == (through.trouble, through.refuses_writes)

    with pytest.raises(Conflict):
        await through.settle(answers(Conflict("somebody else")), writes=True)

    assert "full" == through.trouble

    await through.settle(answers("written"), writes=True)

    assert ("", False) == (through.trouble, through.refuses_writes)

    monkeypatch.setattr(circuit, "REFUSED_S", 0.0)
    with pytest.raises(Unavailable):
        await through.settle(answers(Unavailable("full")), writes=True)
    await through.settle(answers("read"))

    assert ("", False) == (through.trouble, through.refuses_writes)


async def test_what_is_written_to_a_store_that_is_away_is_not_refused_by_it() -> None:
    """A store that comes back is well with the first act that it answers, whatever that is."""
    through = StoreCircuitBreaker(patience_s=0.1)
    with pytest.raises(Unavailable):
        await through.settle(answers(Unavailable("down")))
    with pytest.raises(Unavailable):
        await through.settle(answers(Unavailable("down")), writes=True)
    await through.settle(answers("read"))

    assert ("", False) == (through.trouble, through.refuses_writes)


async def test_a_refusal_stands_from_the_last_write_that_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody has read from the store between them; unless a read fails too, for then it is away."""
    through = StoreCircuitBreaker(patience_s=0.1)
    for stands_s in (0.0, 1000.0):
        monkeypatch.setattr(circuit, "REFUSED_S", stands_s)
        with pytest.raises(Unavailable):
            await through.settle(answers(Unavailable("full")), writes=True)
    with pytest.raises(Unavailable):
        await through.settle(answers(Unavailable("full for the index")), writes=None)
    await through.settle(answers("read"))

    assert ("full", True) == (through.trouble, through.refuses_writes)

    with pytest.raises(Unavailable):
        await through.settle(answers(Unavailable("down")))
    await through.settle(answers("read"))

    assert ("", False) == (through.trouble, through.refuses_writes)


async def test_too_much_to_do_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has no room for says nothing of the store, which is left alone for what it has failed in, and asked again."""
    monkeypatch.setattr(circuit, "APART_S", 0.0)
    through, act = StoreCircuitBreaker(patience_s=0.1), answers(Overloaded("busy"))
    for _ in range(2 * circuit.FAILURES):
        with pytest.raises(Overloaded):
            await through.settle(act, once=True)

    assert (2 * circuit.FAILURES, "") == (act.asked, through.trouble)  # type: ignore[attr-defined]
    with pytest.raises(Unavailable):
        await through.settle(answers(Unavailable("down")), once=True)
    with pytest.raises(Overloaded):
        await through.settle(act, once=True)
    assert "down" == through.trouble


async def test_a_refusal_is_an_answer() -> None:
    """Conflicts say that the store is well, however many there are."""
    through, act = StoreCircuitBreaker(patience_s=0.1), answers(Conflict("somebody else"))
    for _ in range(2 * circuit.FAILURES):
        with pytest.raises(Conflict):
            await through.settle(act, once=True)

    assert 2 * circuit.FAILURES == act.asked  # type: ignore[attr-defined]


async def test_what_fails_together_is_one_failure() -> None:
    """A connection that breaks fails all that was on it; the store is asked on."""
    through, broken = StoreCircuitBreaker(patience_s=0.1), asyncio.Event()

    async def on_the_connection() -> None:
        await broken.wait()
        raise Uncertain("reset")

    acts = [asyncio.create_task(through.settle(on_the_connection, once=True)) for _ in range(50)]
    await asyncio.sleep(0)
    broken.set()
    await asyncio.gather(*acts, return_exceptions=True)

    assert "there" == await through.settle(answers("there"))


async def test_an_unknown_outcome_is_settled_by_the_same_act() -> None:
    """It runs again until somebody knows; that the store could not be asked in between makes nothing undone."""
    act = answers(Uncertain("lost"), Unavailable("away"), Uncertain("lost"), "there")

    assert "there" == await StoreCircuitBreaker(patience_s=5.0).settle(act)


async def test_an_outcome_that_stays_unknown_is_told_as_that() -> None:
    """Not as "certainly not written", although the last attempts could not even be made."""
    began = time.monotonic()
    with pytest.raises(Uncertain):
        await StoreCircuitBreaker(patience_s=0.2).settle(answers(Uncertain("lost"), Unavailable("away")))

    assert time.monotonic() - began < 3


async def test_a_replaced_store_is_refused_until_it_is_opened_anew() -> None:
    """No later act is even tried on it."""
    through, act = StoreCircuitBreaker(patience_s=0.1), answers("there")
    with pytest.raises(Replaced):
        await through.settle(answers(Replaced("another store")))
    with pytest.raises(Replaced):
        await through.settle(act)
    asked = act.asked  # type: ignore[attr-defined]
    through.reset()

    assert 0 == asked
    assert "there" == await through.settle(act)


async def test_acts_run_again_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred acts that were on a broken connection do not all come back at once."""
    monkeypatch.setattr(circuit, "AGAIN_A_S", 50)
    through, again = StoreCircuitBreaker(patience_s=10.0), []

    async def one() -> None:
        first = True

        async def act() -> None:
            nonlocal first
            if first:
                first = False
                await takes(0.01)
                raise Uncertain("lost")
            again.append(time.monotonic())

        await through.settle(act)

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(100)))

    assert 100 == len(again)
    assert len([at for at in again if at < began + 0.5]) <= 50 + 30


async def test_when_the_pause_is_over_one_asks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is still silent holds up one caller and not everybody; its answer lets all in."""
    monkeypatch.setattr(circuit, "PAUSE_S", 0.05)
    through = StoreCircuitBreaker(patience_s=0.1)
    for _ in range(circuit.FAILURES):
        with pytest.raises(Unavailable):
            await through.settle(answers(Unavailable("down")), once=True)
    await time_passes(0.06)
    speaks, asked = asyncio.Event(), []

    async def silent() -> str:
        asked.append(1)
        await speaks.wait()
        return "there"

    acts = [asyncio.create_task(through.settle(silent, once=True)) for _ in range(20)]
    await until(lambda: sum(act.done() for act in acts) == 19)
    speaks.set()
    found = await asyncio.gather(*acts, return_exceptions=True)

    assert (1, 1) == (len(asked), found.count("there"))
    assert "there" == await through.settle(answers("there"), once=True)


async def test_nobody_waits_for_the_budget_longer_than_their_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stand before them."""
    monkeypatch.setattr(circuit, "AGAIN_A_S", 1)
    through, began = StoreCircuitBreaker(patience_s=0.3), time.monotonic()

    async def act() -> None:
        await takes(0.01)
        raise Uncertain("lost")

    told = await asyncio.gather(*(through.settle(act) for _ in range(30)), return_exceptions=True)

    assert [Uncertain] * 30 == [type(answer) for answer in told]
    assert time.monotonic() - began < 1.5


async def test_an_act_says_nothing_of_a_store_that_was_opened_after_it_began() -> None:
    """Whatever it is told late: the new opening is not refused, its trouble not cleared, and it is not run again there."""
    for late in (Replaced("emptied"), Unavailable("down"), Uncertain("lost"), "there"):
        through, answered = StoreCircuitBreaker(patience_s=5.0), asyncio.Event()
        asked = []

        async def act(late: Any = late, asked: list[int] = asked, answered: asyncio.Event = answered) -> Any:
            asked.append(1)
            await answered.wait()
            if isinstance(late, Exception):
                raise late
            return late

        begun = asyncio.create_task(through.settle(act))
        await asyncio.sleep(0)
        through.reset()
        with pytest.raises(Unavailable):
            await through.settle(answers(Unavailable("of the new one")))
        answered.set()
        (answer,) = await asyncio.gather(begun, return_exceptions=True)

        assert late == answer
        assert [1] == asked
        assert ("of the new one", False) == (through.trouble, through.replaced)
        assert "there" == await through.settle(answers("there"))


async def test_an_uncertain_act_is_not_run_again_on_a_store_opened_meanwhile() -> None:
    """Its outcome stays unknown."""
    through, act = StoreCircuitBreaker(patience_s=5.0), answers(Uncertain("lost"))
    begun = asyncio.create_task(through.settle(act))
    await asyncio.sleep(0)
    through.reset()
    asked = act.asked  # type: ignore[attr-defined]
    with pytest.raises(Uncertain, match="lost"):
        await begun

    assert asked == act.asked  # type: ignore[attr-defined]
    assert "" == through.trouble


async def test_a_replaced_store_is_looked_for_and_its_trouble_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of an act that began before hides it; one looks, once a pause, and all go on when the right one is back."""
    monkeypatch.setattr(circuit, "PAUSE_S", 0.05)
    look, slow = answers(Replaced("another"), Unavailable("down"), "there"), asyncio.Event()
    through = StoreCircuitBreaker(patience_s=0.1, look=look)
    begun = asyncio.create_task(through.settle(slow.wait))
    await asyncio.sleep(0)
    with pytest.raises(Replaced):
        await through.settle(answers(Replaced("emptied")))
    slow.set()
    await begun

    assert ("emptied", True) == (through.trouble, through.replaced)

    act = answers("there")
    for _ in range(2):
        for _ in range(5):
            with pytest.raises(Replaced, match="emptied"):
                await through.settle(act)
        await time_passes(0.06)

    assert (2, 0) == (look.asked, act.asked)  # type: ignore[attr-defined]
    assert "there" == await through.settle(act)
    assert ("", False) == (through.trouble, through.replaced)


class Passing:
    """A time that passes only while somebody sleeps; `slept`: for how long each time."""

    def __init__(self) -> None:
        self.now, self.slept = 1000.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, delay: float) -> None:
        self.slept.append(delay)
        self.now += delay


async def test_the_budget_is_a_rate_with_one_second_of_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a quiet second a second's worth goes at once, then the rate; a token that would come too late is not taken."""
    passing = Passing()
    monkeypatch.setattr(circuit, "time", passing)
    monkeypatch.setattr(circuit, "asyncio", passing)
    budget, began = RetryBudget(100), passing.now
    at_once = [await budget.take(began) for _ in range(101)]  # (the last ones may fall to rounding)

    assert [True] * 99 == at_once[:99]
    assert not at_once[100]
    assert [] == passing.slept

    assert not await budget.take(passing.now - 1.0)
    for _ in range(30):
        assert await budget.take(passing.now + 5.0)

    assert 0.28 < passing.now - began < 0.32
    assert max(passing.slept) < 0.021


async def test_an_unknown_outcome_stays_unknown_when_the_store_is_opened_anew_meanwhile() -> None:
    """Also when the attempt that was under way says that nothing was written: the first one may have been."""
    through, asked, answered = StoreCircuitBreaker(patience_s=5.0), asyncio.Event(), asyncio.Event()
    first = True

    async def act() -> None:
        nonlocal first
        if first:
            first = False
            raise Uncertain("lost")
        asked.set()
        await answered.wait()
        raise Unavailable("away")

    begun = asyncio.create_task(through.settle(act))
    await asyncio.wait_for(asked.wait(), 5)
    through.reset()
    answered.set()
    with pytest.raises(Uncertain, match="lost"):
        await begun
