"""The invariants of ARCHITECTURE.md, each by name, on every engine. What needs a killed process is in acceptance/."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from chatkeep import Corrupt, HandlerFailed, NotOpen, Turn, Unavailable, Uncertain
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Key, Read, Write

from .support.counting import answered, count, texts
from .support.stores import EVERY_STORE, store_url
from .support.waiting import takes, until


@pytest.fixture(params=EVERY_STORE)
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """A store that several Chatkeeps of one test may open."""
    return store_url(request.param, request, tmp_path)


async def test_I1_an_accepted_message_is_answered_by_whoever_opens_the_store_next(opened: Any) -> None:
    """Accepted here without a handler, it is answered over there without anyone writing again."""
    desk = await opened(None)
    receipt = await desk.accept("ada", "hello", id="m1")
    bot = await opened(count)
    await until(lambda: answered(bot, "ada", receipt.number))

    assert ["hello", "1: hello"] == await texts(desk, "ada")


async def test_I2_state_replies_and_cursor_change_together_or_not_at_all(opened: Any) -> None:
    """A handler that raises after it changed the state and replied leaves no trace of either."""

    async def bot(turn: Turn[dict[str, Any]]) -> None:
        turn.state["touched"] = turn.state.get("touched", 0) + 1
        turn.reply("half")
        if turn.text == "bad":
            raise ValueError("no")

    keep = await opened(bot)
    await keep.receive("ada", "good", id="1")
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", "bad", id="2")
    found = await keep.conversation("ada")

    assert {"touched": 1} == found.state
    assert ["good", "half", "bad"] == await texts(keep, "ada")


@pytest.mark.parametrize("again", [1, 5])
async def test_I3_a_redelivery_has_no_effect_and_gets_the_recorded_replies(opened: Any, again: int) -> None:
    """At once, later, on another instance, after a hundred more messages: the same replies, once."""
    keep = await opened(count)
    first = await keep.receive("ada", "hello", id="wamid.1")
    for number in range(60):
        await keep.receive("ada", f"more {number}")
    other = await opened(count)
    for _ in range(again):
        for instance in (keep, other):
            receipt = await instance.receive("ada", "hello", id="wamid.1")

            assert (True, first.replies, first.number) == (receipt.duplicate, receipt.replies, receipt.number)
    assert 1 == (await texts(keep, "ada")).count("hello")


async def test_I3_duplicates_at_the_same_moment_are_answered_once(opened: Any) -> None:
    """Ten copies at once on two instances: one turn, ten equal answers."""
    one, two = await opened(count), await opened(count)
    receipts = await asyncio.gather(*(keep.receive("ada", "hi", id="w") for keep in (one, two) for _ in range(5)))

    assert ["hi", "1: hi"] == await texts(one, "ada")
    assert {"1: hi"} == {receipt.replies[0].text for receipt in receipts}
    assert 1 == len({receipt.replies[0].id for receipt in receipts})


async def test_I4_no_update_is_lost_and_nobody_sees_a_conflict(opened: Any) -> None:
    """Two instances count in one state, by turns and by change, all at once."""
    keeps = [await opened(count, attempts=99) for _ in range(2)]

    def bump(state: dict[str, Any]) -> None:
        state["bumped"] = state.get("bumped", 0) + 1

    await asyncio.gather(
        *(keep.change("ada", bump) for keep in keeps for _ in range(20)),
        *(
            keep.receive("ada", f"{place}.{n}", id=f"{place}.{n}")
            for place, keep in enumerate(keeps)
            for n in range(15)
        ),
    )
    found = await keeps[0].conversation("ada")

    assert (40, 30) == (found.state["bumped"], len(set(found.state["seen"])))
    assert 30 == len(found.state["seen"])


async def test_I5_messages_are_handled_in_log_order_one_at_a_time(opened: Any) -> None:
    """Three instances, forty messages at once: the state saw them in the order of the log, never two together."""
    running = 0
    most = 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await takes(0.001)
        running -= 1
        return await count(turn)

    keeps = [await opened(bot) for _ in range(3)]
    await asyncio.gather(*(keeps[n % 3].receive("ada", str(n), id=str(n)) for n in range(40)))
    found = await keeps[0].conversation("ada")
    asked = [message.text async for message in keeps[0].history("ada") if message.role == "user"]

    assert asked == found.state["seen"]
    assert 1 == most


async def test_I5_a_message_that_keeps_failing_is_set_aside_and_the_next_is_handled(opened: Any) -> None:
    """It is tried `attempts` times, noted with its reason, and can be replayed when the bug is mended."""
    broken = True
    runs = 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal runs
        if turn.text == "poison" and broken:
            runs += 1
            raise RuntimeError("cannot digest this")
        return await count(turn)

    keep = await opened(bot, attempts=4)
    numbers = [(await keep.accept("ada", text, id=text)).number for text in ("a", "poison", "b")]
    await until(lambda: answered(keep, "ada", numbers[2]))
    letters = await keep.dead_letters("ada")
    found = await keep.conversation("ada")

    assert (["a", "b"], numbers[1:2], 4) == (found.state["seen"], found.dead, runs)
    assert [("poison", "RuntimeError: cannot digest this")] == [(m.text, m.metadata["reason"]) for m in letters]

    broken = False
    await keep.replay("ada", numbers[1])
    await keep.replay("ada", numbers[1])
    await until(lambda: answered(keep, "ada", found.head + 1))

    assert ["a", "b", "poison"] == (await keep.conversation("ada")).state["seen"]


async def test_I7_after_an_answer_every_read_on_any_instance_sees_it(opened: Any) -> None:
    """Two instances write in turn; each reads what the other was just answered."""
    keeps = [await opened(count) for _ in range(2)]
    for step in range(20):
        await keeps[step % 2].receive("ada", str(step))
        for keep in keeps:
            found = await keep.conversation("ada")

            assert step + 1 == len(found.state["seen"])


async def test_I8_unreadable_is_never_empty(opened: Any, url: str) -> None:
    """A record with a flipped bit is Corrupt, for that conversation only, and its messages stay."""
    keep = await opened(count)
    for name in ("ada", "bob"):
        await keep.receive(name, "hello")
    await keep.close()
    await flip(url, "ada")
    keep = await opened(count)
    with pytest.raises(Corrupt, match="ada"):
        await keep.conversation("ada")
    with pytest.raises(Corrupt, match="ada"):
        await keep.receive("ada", "are you there?", id="m2")

    assert "2: again" == (await keep.receive("bob", "again")).replies[0].text
    with pytest.raises(Corrupt):
        await keep.receive("ada", "are you there?", id="m2")


async def flip(url: str, name: str) -> None:
    """Flips one bit in the middle of a stored record, behind everybody's back."""
    driver = driver_for(url)
    await driver.open()
    found = await driver.read(Read(Key("", name), tail=0))
    assert found is not None
    row, _ = found
    body = bytearray(row.body)
    body[len(body) // 2] ^= 1
    from msgspec import structs

    changed = structs.replace(row, revision="flipped", body=bytes(body))
    await driver.write(Write(changed, replaces=row.revision))
    await driver.close()


async def test_I8_unavailable_is_never_absent(opened: Any) -> None:
    """A closed store raises; it does not say that there is nothing."""
    keep = await opened(count)
    await keep.receive("ada", "hello")
    await keep.close()
    with pytest.raises(NotOpen):
        await keep.receive("ada", "hello?")
    with pytest.raises(NotOpen):
        await keep.change("ada", lambda state: None)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_I10_memory_tasks_and_lanes_come_back_to_zero(opened: Any) -> None:
    """Two thousand conversations with a cache of fifty: what is held afterwards is the cache, and little else."""
    keep = await opened(count, cache_entries=50)
    await asyncio.gather(*(keep.accept(f"c{n}", "hello") for n in range(100)))
    await until(lambda: keep.statistics.engine.workers == 0)
    for _ in range(2):
        for n in range(1000):
            await keep.receive(f"c{n}", "hello")
    held = keep.statistics

    assert (50, 0, 0) == (held.cache.entries, held.engine.waiting, held.engine.workers)
    tracemalloc.start()  # (not before: it makes everything several times as slow)
    for n in range(100):
        await keep.receive("c1", f"hello {n}")
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(1000):
        await keep.receive("c1", f"hello {n}")
    await keep.erase("c1")
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()

    assert grown < 200_000


def test_errors_that_mean_different_things_are_different() -> None:
    """Nothing catches Uncertain by catching Unavailable."""
    assert not issubclass(Uncertain, Unavailable)
    assert not issubclass(Corrupt, Unavailable)
