"""Retries, timeouts, limits, cancelling, stopping, typed state: what the engine does when things go wrong."""

from __future__ import annotations

import asyncio
import gc
import random
import secrets
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import Struct
from pydantic import BaseModel

from chatkeep import (
    Chatkeep,
    HandlerFailed,
    Misconfigured,
    Overloaded,
    TooLarge,
    Turn,
    Uncertain,
    Unsupported,
    UsageError,
)
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Read, Write
from chatkeep.testing.crash import UncertainDriver, wrapped

from ..support.counting import answered, count, texts
from ..support.waiting import nothing_happens_for, takes, until


async def test_a_handler_that_fails_twice_and_then_works_answers_the_same_call(opened: Any) -> None:
    """The caller waits through the retries and gets the answer; state from the failed attempts is gone."""
    tries = 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal tries
        tries += 1
        turn.state["tries"] = turn.state.get("tries", 0) + 1
        if tries < 3:
            raise OSError("the model is overloaded")
        return f"state {turn.state['tries']}, run {tries}"

    keep = await opened(bot)

    assert "state 1, run 3" == (await keep.receive("ada", "hi")).replies[0].text


@pytest.mark.parametrize("warm", [False, True])
async def test_a_handler_that_hangs_is_stopped_and_the_conversation_goes_on(opened: Any, warm: bool) -> None:
    """After turn_timeout the attempt has failed, by both ways in; others are not held up meanwhile."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.text == "hang":
            await takes(60)
        return "ok"

    keep = await opened(bot, turn_timeout="100ms", attempts=2)
    for _ in range(5 * warm):
        await keep.receive("ada", "hi")
    hanging = asyncio.create_task(keep.receive("ada", "hang"))
    assert "ok" == (await keep.receive("bob", "hi")).replies[0].text
    with pytest.raises(HandlerFailed, match="longer than"):
        await hanging

    assert "ok" == (await keep.receive("ada", "hi")).replies[0].text


@pytest.mark.parametrize("how", ["at once", "waits", "fails", "in a hook"])
async def test_a_task_that_a_handler_leaves_behind_keeps_nothing_of_its_turn(how: str) -> None:
    """It may go on for hours, and there may be one for each turn: neither the state nor what was said stays with it (I10)."""
    over, left = asyncio.Event(), list[asyncio.Task[Any]]()
    failed = set[str]()

    async def leaves(turn: Turn[dict[str, Any]]) -> str:
        turn.state["long"] = turn.id * 20_000
        left.append(asyncio.create_task(over.wait()))
        return "ok"

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if how == "in a hook":
            raise UsageError("at once the last time")
        await leaves(turn)
        if how == "waits":
            await asyncio.sleep(0)
        if how == "fails" and turn.id not in failed:
            failed.add(turn.id)
            raise ValueError("the first time")
        return "ok"

    async def talk(keep: Chatkeep[Any], ids: list[str]) -> None:
        for id in ids:
            with suppress(HandlerFailed):
                await keep.receive("ada", "hi", id=id)

    keep = Chatkeep(f"memory://{secrets.token_hex(8)}", retry_after="1ms", turn_timeout="60s")
    keep.on_message(bot)
    keep.on_failure(leaves)
    async with keep:
        await talk(keep, [f"before{n:04}" for n in range(3)])
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await talk(keep, [f"behind{n:04}" for n in range(30)])
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
            over.set()
        await asyncio.gather(*left)

    assert len(left) >= 33
    assert grown < 30 * 100_000


@pytest.mark.parametrize("rubbish", [42, object(), {1, 2}, ["ok", 3.5], b"bytes"])
async def test_a_handler_that_returns_rubbish_has_failed(opened: Any, rubbish: Any) -> None:
    """The error names the key and the type; the next message is fine."""

    async def bot(turn: Turn[dict[str, Any]]) -> Any:
        return rubbish if turn.text == "bad" else "fine"

    keep = await opened(bot, attempts=1)
    with pytest.raises(HandlerFailed, match="ada"):
        await keep.receive("ada", "bad")

    assert "fine" == (await keep.receive("ada", "good")).replies[0].text


DEEP: list[Any] = []
for _ in range(100):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", "a\0b", 10**300, object(), DEEP, "x" * 2_000_000],
    ids=lambda v: str(v)[:12],
)
@pytest.mark.parametrize("warm", [False, True])
async def test_a_state_that_cannot_be_stored_is_a_failed_turn(opened: Any, value: Any, warm: bool) -> None:
    """Nothing of it is stored, the key is named, and the next message finds the state as it was."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        if turn.text == "bad":
            turn.state["value"] = value
        return str(turn.state["n"])

    keep = await opened(bot, attempts=1)
    for _ in range(4 * warm + 1):
        before = (await keep.receive("ada", "good")).replies[0].text
    with pytest.raises(HandlerFailed, match="ada"):
        await keep.receive("ada", "bad")

    assert str(int(before) + 1) == (await keep.receive("ada", "good")).replies[0].text


@pytest.mark.parametrize("warm", [False, True])
async def test_a_reply_that_cannot_be_stored_is_a_failed_turn(opened: Any, warm: bool) -> None:
    """A reply of 10 MB; test_hooks has others."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return {"big": "x" * 10_000_000}.get(turn.text, "ok")

    keep = await opened(bot, attempts=1)
    for _ in range(5 * warm):
        await keep.receive("ada", "hi")
    with pytest.raises(HandlerFailed, match="ada"):
        await keep.receive("ada", "big")

    assert "ok" == (await keep.receive("ada", "good")).replies[0].text


async def test_plain_functions_run_in_a_thread_and_generators_make_one_reply(opened: Any, url: str) -> None:
    """A blocking handler does not stop the loop; the pieces of a generator are one recorded reply."""
    import time

    def blocking(turn: Turn[dict[str, Any]]) -> str:
        time.sleep(0.2)
        return "slept"

    keep = await opened(blocking, url="memory://")
    ticks = 0
    reply = asyncio.create_task(keep.receive("ada", "hi"))
    while not reply.done():
        await takes(0.01)
        ticks += 1
    assert ("slept", True) == (reply.result().replies[0].text, ticks > 5)

    async def pieces(turn: Turn[dict[str, Any]]) -> Any:
        for word in ("one ", "reply ", "only"):
            yield word

    keep = await opened(pieces)
    assert ["one reply only"] == [reply.text for reply in (await keep.receive("ada", "hi")).replies]


async def test_messages_that_are_handed_in_side_by_side_are_in_that_order(opened: Any) -> None:
    """Twenty conversations, ten messages each, all in one tick: each log has its own in the order of the calls."""
    keep = await opened(None)
    names = [f"c{n}" for n in range(20)]
    await asyncio.gather(*(keep.accept(name, f"{turn}") for turn in range(10) for name in names))

    assert [[f"{turn}" for turn in range(10)]] * 20 == [await texts(keep, name) for name in names]


async def test_replies_come_in_order_and_may_be_parts(opened: Any) -> None:
    """turn.reply, then what is returned: text, parts, several."""

    async def bot(turn: Turn[dict[str, Any]]) -> list[Any]:
        turn.reply([{"type": "image", "url": "https://example.org/a.png"}, {"type": "text", "text": "look"}])
        return ["first", {"type": "buttons", "items": ["yes", "no"]}]

    keep = await opened(bot)
    replies = (await keep.receive("ada", [{"type": "text", "text": "hi"}])).replies

    assert ["look", "first", ""] == [reply.text for reply in replies]
    assert [{"type": "buttons", "items": ["yes", "no"]}] == replies[2].content
    assert [(1, 1)] * 3 == [(reply.reply_from, reply.reply_to) for reply in replies]


async def test_too_much_at_once_is_refused_clearly(opened: Any) -> None:
    """Beyond the backlog nothing is written; what was taken is answered."""
    gate = asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        await gate.wait()
        return "ok"

    keep = await opened(bot, backlog=5, concurrency=2)
    taken = [asyncio.create_task(keep.receive(f"c{n}", "hi")) for n in range(5)]
    await until(lambda: keep.statistics.engine.waiting == 5)
    with pytest.raises(Overloaded, match="nothing was written"):
        await keep.receive("c9", "hi")
    with pytest.raises(Overloaded):
        await keep.accept("c9", "hi")
    gate.set()

    assert ["answered"] * 5 == [receipt.status for receipt in await asyncio.gather(*taken)]
    assert await keep.conversation("c9") is None


async def test_a_message_for_which_there_is_no_place_is_in_the_log_before_its_handler_runs(opened: Any) -> None:
    """Also where the handler has been quick: it waits in the log, and not in this process alone."""
    gate = asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.text == "slow":
            await gate.wait()
        return f"re {turn.text}"

    keep = await opened(bot, concurrency=1)
    for _ in range(5):
        await keep.receive("ada", "hi")
    slow = asyncio.create_task(keep.receive("bea", "slow"))
    await until(lambda: not keep._engine.runner.may_begin)
    quick = asyncio.create_task(keep.receive("ada", "last"))

    async def waits() -> bool:
        return "last" == [message.text async for message in keep.history("ada")][-1]

    await until(waits)
    gate.set()

    assert ["re last", "re slow"] == [receipt.replies[0].text for receipt in (await quick, await slow)]


@pytest.mark.parametrize("warm", [False, True])
async def test_a_cancelled_call_leaves_all_or_nothing(opened: Any, warm: bool) -> None:
    """Cancelled at random moments: each message is in the log with its answer, or not at all; nothing hangs."""
    keep = await opened(count)
    for _ in range(5 * warm):
        await keep.receive("ada", "hi")
    chosen = random.Random(1)
    for n in range(60):
        call = asyncio.create_task(keep.receive("ada", f"m{n}", id=f"m{n}"))
        for _ in range(chosen.randrange(6)):
            await asyncio.sleep(0)
        await asyncio.sleep(chosen.choice([0, 0.0005]))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await keep.receive("ada", "last")
    asked: list[str] = []

    async def settled() -> bool:
        # An append whose caller has gone may come behind "last", and is answered then.
        asked[:] = [message.text async for message in keep.history("ada") if message.role == "user"]
        found = await keep.conversation("ada")
        return asked == found.state["seen"] and found.unread == 0

    await until(settled)

    assert len(set(asked)) >= len(asked) - 4 * warm


async def test_closing_finishes_running_turns_and_hands_back_the_rest(opened: Any) -> None:
    """One turn runs, four messages wait: close returns when it is done, and the next instance goes on at once."""
    seen, goes_on = [], asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append(turn.text)
        await goes_on.wait()
        return await count(turn)

    keep = await opened(bot)
    for n in range(5):
        await keep.accept("ada", str(n))
    waiting = asyncio.create_task(keep.receive("ada", "5"))
    await until(lambda: seen)

    async def is_in_the_log() -> bool:
        return bool((await keep.conversation("ada")).unread == 6)

    await until(is_in_the_log)
    closing = asyncio.create_task(keep.close())
    await nothing_happens_for(0.01)
    goes_on.set()
    await closing
    with pytest.raises(Uncertain, match="will be answered"):
        await waiting
    assert 1 == len(seen)

    other = await opened(bot)
    await until(lambda: answered(other, "ada", 6), within=2.0)
    assert [str(n) for n in range(6)] == (await other.conversation("ada")).state["seen"]


async def test_a_message_that_kills_its_process_is_set_aside_after_ten_deaths(opened: Any, url: str) -> None:
    """The process dies in the handler, again and again: twice beside others, then eight times alone, and that ends it."""
    from msgspec import structs

    from chatkeep.drivers.base import Key

    desk = await opened(None)
    await desk.accept("ada", "killer")
    await desk.accept("ada", "innocent")
    starts = 0
    driver = driver_for(url)
    await driver.open()
    for _ in range(14):
        started = asyncio.Event()

        async def dies(turn: Turn[dict[str, Any]], started: asyncio.Event = started) -> str:
            nonlocal starts
            if turn.text == "killer":
                starts += 1
                started.set()
                await takes(60)
            return "ok"

        keep = Chatkeep[dict[str, Any]](url, poll="10ms", turn_timeout="50s")
        keep.on_message(dies)
        await keep.open()
        dead = asyncio.create_task(until(lambda: answered(desk, "ada", 2)))
        await asyncio.wait([dead, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED)
        # As a kill would: nothing is begun any more or handed back, and the lease looks like that of another host.
        keep._engine.shared.open = False
        for worker in keep._engine.workers.by_key.values():
            worker._lease = "gone"
            if worker.task:
                worker.task.cancel()
        await asyncio.sleep(0)
        dead.cancel()
        await asyncio.gather(dead, return_exceptions=True)
        await keep.close()
        found = await driver.read(Read(Key("", "ada"), tail=0))
        assert found is not None
        row = found[0]
        if row.lease is None:
            break
        expired = structs.replace(row, revision=f"r{starts}", lease="elsewhere:1:1:1", leased_until=0.0)
        await driver.write(Write(expired, replaces=row.revision))
    await driver.close()

    assert 10 == starts
    assert [1] == (await desk.conversation("ada")).dead
    assert "ok" == (await texts(desk, "ada"))[-1]


async def test_lost_answers_are_settled_by_running_the_same_act_again(url: str) -> None:
    """A fifth of all acts loses its answer, before or after it was done: every message and change still counts once."""
    chosen = random.Random(3)
    lost = {"before": 0, "after": 0}

    def chance(verb: str) -> str | None:
        found = chosen.choices([None, "before", "after"], [8, 1, 1])[0]
        if found:
            lost[found] += 1
        return found

    keep: Chatkeep[dict[str, Any]] = Chatkeep(
        wrapped(UncertainDriver(driver_for(url), chance)), poll="20ms", turn_timeout="5s"
    )
    keep.on_message(count)
    async with keep:

        async def client(name: str) -> None:
            for n in range(12):
                await keep.receive(name, f"{n}", id=f"{n}")
                await keep.change(name, lambda state: state.update(bumps=state.get("bumps", 0) + 1))

        await asyncio.gather(*(client(name) for name in "abcd"))
        for name in "abcd":
            found = await keep.conversation(name)
            assert found is not None
            assert ([f"{n}" for n in range(12)], 12) == (found.state["seen"], found.state["bumps"])
    assert min(lost.values()) > 10


@dataclass
class Order:
    """A state with a shape."""

    stage: str = "browse"
    cart: list[str] = field(default_factory=list)


class OrderStruct(Struct):
    """The same as a msgspec Struct."""

    stage: str = "browse"
    cart: list[str] = []


class OrderModel(BaseModel):
    """The same as a pydantic model."""

    stage: str = "browse"
    cart: list[str] = []


@pytest.mark.parametrize("kind", [Order, OrderStruct, OrderModel])
async def test_state_may_be_typed(opened: Any, kind: Any) -> None:
    """A dataclass, a Struct, a pydantic model: the handler gets one, and so does whoever reads."""

    async def bot(turn: Turn[Any]) -> str:
        assert isinstance(turn.state, kind)
        turn.state.cart.append(turn.text)
        turn.state.stage = "cart"
        return str(len(turn.state.cart))

    keep = await opened(bot, state=kind)
    said = [(await keep.receive("ada", text)).replies[0].text for text in "abc"]

    assert ["1", "2", "3"] == said
    assert kind(stage="cart", cart=["a", "b", "c"]) == (await keep.conversation("ada")).state
    assert kind(stage="cart") == (await keep.clear("ada", "cart")).state
    assert kind() == (await keep.clear("ada")).state


async def test_old_states_are_upgraded_when_they_are_loaded(opened: Any) -> None:
    """Schema 1 to 3 in two steps; stored anew with the next turn; code of schema 2 then refuses it and touches nothing."""

    async def old(turn: Turn[dict[str, Any]]) -> str:
        turn.state["items"] = "soup"
        return "ok"

    def to_list(state: dict[str, Any]) -> dict[str, Any]:
        return {"items": [state["items"]]}

    def to_cart(state: dict[str, Any]) -> dict[str, Any]:
        return {"cart": state["items"], "stage": "cart"}

    async def new(turn: Turn[Order]) -> str:
        turn.state.cart.append(turn.text)
        return ",".join(turn.state.cart)

    keep = await opened(old)
    await keep.receive("ada", "hi")
    await keep.close()
    keep = await opened(new, state=Order, schema=3, upgrades={1: to_list, 2: to_cart})

    assert Order("cart", ["soup"]) == (await keep.conversation("ada")).state
    assert "soup,bread" == (await keep.receive("ada", "bread")).replies[0].text

    await keep.close()
    keep = await opened(old, schema=2, upgrades={1: to_list})
    for n in range(4):
        await keep.receive("bob", "this one is of our time", id=f"{n}")
    for _ in range(3):
        with pytest.raises(Unsupported, match="schema 3, this code knows up to 2"):
            await keep.receive("ada", "from the future", id="m")
    await keep.close()
    keep = await opened(new, state=Order, schema=3, upgrades={1: to_list, 2: to_cart})
    waiting = await keep.receive("ada", "from the future", id="m")

    assert ("soup,bread,from the future", True) == (waiting.replies[0].text, waiting.duplicate)


def test_every_wrong_setting_is_named_at_once() -> None:
    """One error, all faults, nothing opened."""
    with pytest.raises(Misconfigured) as fault:
        Chatkeep(
            "memory://", session_ttl="half an hour", overlap="sometimes", concurrency=0, colour="red", turn_timeout=0
        )

    for named in ("session_ttl", "overlap", "concurrency", "colour", "turn_timeout"):
        assert named in str(fault.value)


@pytest.mark.parametrize("url", ["oracle://x", "sqlite://", "sqlite:///:memory:", "chat.db", ""], indirect=False)
def test_a_url_without_a_driver_says_what_there_is(url: str) -> None:
    """Wrong schemes and paths are refused when the Chatkeep is made."""
    from chatkeep import UsageError

    with pytest.raises(UsageError, match=r"sqlite:///|memory://"):
        Chatkeep(url)


def test_upgrades_must_have_no_gap_and_state_must_be_a_known_kind() -> None:
    """Both are found before anything is opened."""
    with pytest.raises(Misconfigured, match="no step from 2"):
        Chatkeep("memory://", schema=3, upgrades={1: lambda state: state})
    with pytest.raises(Misconfigured, match="not a dict, dataclass"):
        Chatkeep("memory://", state=int)


async def test_receive_without_a_handler_is_refused(opened: Any) -> None:
    """There would be nobody to answer."""
    keep = await opened(None)
    with pytest.raises(Misconfigured, match="on_message"):
        await keep.receive("ada", "hi")


async def test_a_message_over_the_limit_is_refused_and_nothing_touched(opened: Any) -> None:
    """2 MB: TooLarge, by key; the conversation does not exist afterwards."""
    keep = await opened(count)
    with pytest.raises(TooLarge, match=r"ada.*2,000,0"):
        await keep.receive("ada", "x" * 2_000_000)

    assert await keep.conversation("ada") is None


async def test_a_slow_turn_keeps_its_claim(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a lease lasts: it is renewed meanwhile, nobody takes over, and it is written as it was made."""
    monkeypatch.setattr("chatkeep.settings.LEASE_S", 0.5)  # (a busy machine renews it late)
    runs: list[str] = []

    async def slow(turn: Turn[dict[str, Any]]) -> str:
        runs.append(turn.text)
        await takes(1.2 if turn.text == "slow" else 0)
        return f"done: {turn.text}"

    keep, other = await opened(slow, quick="0s"), await opened(slow, quick="0s")
    await keep.receive("ada", "quick")
    first = asyncio.create_task(keep.receive("ada", "slow"))
    await until(lambda: "slow" in runs)
    second = await other.receive("ada", "next")

    assert "done: slow" == (await first).replies[0].text
    assert "done: next" == second.replies[0].text
    assert ["quick", "slow", "next"] == runs
    assert 0 == keep.statistics.engine.taken_over + other.statistics.engine.taken_over
