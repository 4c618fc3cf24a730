"""Corners that a reviewer found: each of these went wrong once."""

from __future__ import annotations

import asyncio
import secrets
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from chatkeep import (
    BadMessage,
    Chatkeep,
    HandlerFailed,
    Misconfigured,
    Turn,
    Unavailable,
    Uncertain,
    Unsupported,
    UsageError,
)
from chatkeep.conversation import commits
from chatkeep.conversation.snapshots import Commit, Snapshot
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Ability, Key, Read, Write
from chatkeep.drivers.memory import SHELVES, MemoryDriver
from chatkeep.testing.crash import Wrapped, wrapped

from ..support.clock import Clock
from ..support.counting import answered, count, texts
from ..support.stores import FAST
from ..support.waiting import takes, time_passes, until


async def test_what_waits_does_not_push_the_talk_out_of_the_history(opened: Any) -> None:
    """Ten messages queue behind a long talk: each turn still sees the last messages before it."""
    seen: list[list[str]] = []
    gate = asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.text == "wait":
            await gate.wait()
        seen.append([message.text for message in turn.history])
        return f"re {turn.text}"

    keep = await opened(bot, history=4)
    for text in ("a", "b", "c"):
        await keep.receive("ada", text)
    for text in ("wait", *(f"q{n}" for n in range(10))):
        await keep.accept("ada", text)
    gate.set()
    await until(lambda: answered(keep, "ada", 17))

    assert ["b", "re b", "c", "re c"] == seen[3]
    assert ["c", "re c", "wait", "re wait"] == seen[4]
    assert ["q7", "re q7", "q8", "re q8"] == seen[13]


async def test_a_redelivery_finds_its_reply_however_far_behind_it_stands(opened: Any) -> None:
    """300 messages were queued before the first reply was written: its redelivery, to either way in, gets it."""
    gate = asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        await gate.wait()
        return f"re {turn.text}"

    keep = await opened(bot, history=3)
    receipts = [await keep.accept("ada", str(n), id=str(n)) for n in range(300)]
    gate.set()
    await until(lambda: answered(keep, "ada", 300), within=20)
    for again in (keep.receive, keep.accept):
        for n in (0, 150, 299):
            found = await again("ada", str(n), id=str(n))
            assert ([f"re {n}"], receipts[n].number) == ([reply.text for reply in found.replies], found.number)


@pytest.mark.parametrize("history", [0, 3])
async def test_more_replies_than_history_and_no_history_at_all(opened: Any, history: int) -> None:
    """The receipt has them all; the window stays as small as it was asked to be; too many are a failed turn."""

    async def bot(turn: Turn[dict[str, Any]]) -> list[str]:
        return [f"{n}" for n in range(int(turn.text))]

    keep = await opened(bot, history=history, attempts=1)
    for _ in range(5):
        assert [f"{n}" for n in range(30)] == [reply.text for reply in (await keep.receive("ada", "30")).replies]
    held = keep._engine.store.cached(Key("", "ada"))

    assert held is None or history == len(held.messages)
    with pytest.raises(HandlerFailed, match="at most 400"):
        await keep.receive("ada", "7000")
    assert ["0"] == [reply.text for reply in (await keep.receive("ada", "1")).replies]


async def test_ids_of_chatkeeps_own_notes_cannot_be_taken(opened: Any) -> None:
    """Whoever could take them could stop a message from ever being set aside."""
    keep = await opened(count)
    for way in (keep.receive, keep.accept):
        with pytest.raises(BadMessage, match="chatkeep's own"):
            await way("ada", "hi", id="~dead:x.1")
    with pytest.raises(UsageError):
        await keep.receive("ada", "hi", owner="\ud800")
    with pytest.raises(BadMessage, match="metadata is a dict"):
        await keep.receive("ada", "hi", metadata=["x"])
    assert await keep.conversation("ada") is None


async def test_a_handler_that_would_undo_its_own_turn_is_told_so(opened: Any) -> None:
    """change, receive and pause in the conversation whose turn it is: a clear error, not an endless rerun."""
    faults: list[str] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        for act in (
            keep.change("ada", lambda state: state.update(x=1)),
            keep.receive("ada", "me"),
            keep.pause("ada"),
        ):
            try:
                await act
            except UsageError as fault:
                faults.append(str(fault))
        other = await keep.receive("bob", "hi") if turn.conversation == "ada" else None
        return "done" if other else "nested"

    keep = await opened(bot, concurrency=1)

    assert "done" == (await asyncio.wait_for(keep.receive("ada", "hi"), 3)).replies[0].text
    assert 6 == len([fault for fault in faults if "own conversation" in fault])  # also through bob
    assert {} == (await keep.conversation("ada")).state


async def test_a_turn_is_answered_although_somebody_keeps_changing_the_state(opened: Any) -> None:
    """Every few milliseconds a change: turns are thrown away, ever more slowly, and one gets through when it pauses."""
    runs = 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal runs
        runs += 1
        await takes(0.02)
        return "ok"

    keep = await opened(bot)
    asking = asyncio.create_task(keep.receive("ada", "hi"))
    for n in range(60):
        await keep.change("ada", lambda state, n=n: state.update(n=n))
        await takes(0.01)

    assert "ok" == (await asyncio.wait_for(asking, 5)).replies[0].text
    assert runs < 20
    assert 59 == (await keep.conversation("ada")).state["n"]


async def test_unreadable_conversations_do_not_starve_the_others(opened: Any, url: str) -> None:
    """Two damaged ones with something due, room for two: the healthy one behind them is answered."""
    desk = await opened(None)
    for name in ("a", "b", "healthy"):
        await desk.accept(name, "hi")
    driver = driver_for(url)
    await driver.open()
    for name in ("a", "b"):
        found = await driver.read(Read(Key("", name), tail=0))
        assert found is not None
        damaged = structs.replace(found[0], revision=f"damaged {name}", body=b'{"crc":"00000000","x":1}')
        await driver.write(Write(damaged, replaces=found[0].revision))
    await driver.close()
    bot = await opened(count, concurrency=1)
    await until(lambda: answered(bot, "healthy", 1))

    assert ["hi", "1: hi"] == await texts(bot, "healthy")


async def test_the_sweep_goes_on_whatever_happens(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scan fails in a way that nobody thought of; what is accepted elsewhere afterwards is still answered."""
    keep = await opened(count)
    sound, failed = keep._engine.store.rows, asyncio.Event()

    async def broken(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(keep._engine.store, "rows", sound)
        failed.set()
        raise ValueError("out of nowhere")

    monkeypatch.setattr(keep._engine.store, "rows", broken)
    await asyncio.wait_for(failed.wait(), 3)
    await (await opened(None)).accept("ada", "hi")

    await until(lambda: answered(keep, "ada", 1))


async def test_a_message_under_an_operators_id_does_not_wait_for_ever(opened: Any) -> None:
    """The id is known, nobody will ever answer it: the call says so."""
    keep = await opened(count)
    await keep.accept("ada", "an operator writes", role="operator", id="x")
    receipt = await asyncio.wait_for(keep.receive("ada", "an operator writes", id="x"), 3)

    assert (True, []) == (receipt.duplicate, receipt.replies)


class NoWrites(Wrapped):
    """A disk that takes messages and then is full."""

    full = False

    async def around(self, verb: str, act: Any) -> Any:
        if self.full and verb == "write":
            raise Unavailable("the disk is full")
        return await act()


async def test_what_is_in_the_log_is_never_called_not_written(url: str) -> None:
    """The append worked, the answer cannot be written: Uncertain, not Unavailable; it is answered when there is room."""
    driver = NoWrites(driver_for(url))
    from chatkeep import Chatkeep

    keep: Chatkeep[dict[str, Any]] = Chatkeep(wrapped(driver), **FAST)
    keep.on_message(count)
    async with keep:
        driver.full = True
        for _ in range(12):
            with pytest.raises(Uncertain, match="in the log"):
                await keep.receive("ada", "hi", id="m")
        driver.full = False
        receipt = await keep.receive("ada", "hi", id="m")

        assert (["1: hi"], True) == ([reply.text for reply in receipt.replies], receipt.duplicate)
        assert [] == await keep.dead_letters("ada")


async def test_closing_waits_for_turns_that_run_in_one_act(opened: Any) -> None:
    """Twenty quick conversations are being answered when close is called: each gets its answer."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        await takes(0.02)
        return "ok"

    keep = await opened(bot)
    for n in range(20):
        await keep.receive(f"c{n}", "warm")
    running = [asyncio.create_task(keep.receive(f"c{n}", "hi")) for n in range(20)]
    await asyncio.sleep(0.005)
    await keep.close()

    assert ["ok"] * 20 == [receipt.replies[0].text for receipt in await asyncio.gather(*running)]


async def test_a_handler_may_do_what_it_likes_with_what_it_is_given(opened: Any) -> None:
    """Emptying the lists, changing the parts: the engine has its own."""

    async def bot(turn: Turn[dict[str, Any]]) -> Any:
        turn.messages[0].content[0]["text"] = "changed"  # type: ignore[index]
        turn.messages.clear()
        turn.history.clear()
        return {"type": "text", "text": "ok"}

    keep = await opened(bot)
    first = await keep.receive("ada", [{"type": "text", "text": "hi"}], id="m")
    first.replies[0].content[0]["text"] = "changed too"
    again = await keep.receive("ada", [{"type": "text", "text": "hi"}], id="m")

    assert ["hi", "ok"] == await texts(keep, "ada")
    assert "ok" == again.replies[0].text


async def test_a_caller_may_use_again_what_it_has_handed_in(opened: Any) -> None:
    """Metadata and parts that the caller changes afterwards: the next turn sees them as they were recorded."""
    seen: list[tuple[Any, Any]] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append(next(((was.content, was.metadata) for was in turn.history if was.id == "m"), ("", {})))
        return "ok"

    keep = await opened(bot)
    for content in ("text", [{"type": "text", "text": "hi"}]):
        await keep.erase("ada")
        await keep.receive("ada", "before")
        metadata = {"topic": {"name": "a"}}
        await keep.receive("ada", content, id="m", metadata=metadata)
        metadata["topic"]["name"] = "b"
        if isinstance(content, list):
            content[0]["text"] = "changed"
        await keep.receive("ada", "after")

    assert [("text", {"topic": {"name": "a"}}), ([{"type": "text", "text": "hi"}], {"topic": {"name": "a"}})] == seen[
        2::3
    ]


async def test_plain_functions_get_as_many_threads_as_may_run(opened: Any) -> None:
    """Forty at once, half a second each, a timeout of one: none has to wait for a thread."""
    import time

    def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.text == "stop":
            raise StopIteration
        time.sleep(0.3)
        return "ok"

    keep = await opened(bot, turn_timeout="1s", attempts=1)
    receipts = await asyncio.gather(*(keep.receive(f"c{n}", "hi") for n in range(40)))

    assert {"ok"} == {receipt.replies[0].text for receipt in receipts}
    with pytest.raises(HandlerFailed, match="StopIteration"):
        await keep.receive("ada", "stop")


async def test_dead_letters_that_have_left_the_log_are_not_shown(opened: Any) -> None:
    """Retention takes the message before the note; what is left can still be replayed."""
    clock = Clock()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        raise ValueError("x" * 10_000)

    keep = await opened(bot, clock=clock, retention="10d", attempts=1, message_limit=300)
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", "old")
    clock.now += 9 * 86_400
    with pytest.raises(HandlerFailed):
        await keep.receive("ada", "é" * 100, id="é" * 250)
    clock.now += 2 * 86_400

    async def trimmed() -> bool:
        clock.now += 1
        return len(await keep.dead_letters("ada")) == 1

    await until(trimmed)
    (letter,) = await keep.dead_letters("ada")

    assert ("é" * 100, "ValueError") == (letter.text, letter.metadata["reason"][:10])
    assert not (await keep.replay("ada", letter.number)).duplicate


async def test_a_state_with_a_key_that_is_no_text_is_a_failed_turn(opened: Any) -> None:
    """JSON would make 1 and "1" the same."""

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["counts"] = {1: 1} if turn.text == "bad" else {"1": 1}
        return "ok"

    keep = await opened(bot, attempts=1)
    with pytest.raises(HandlerFailed, match="no text"):
        await keep.receive("ada", "bad")
    await keep.receive("ada", "good")

    assert {"counts": {"1": 1}} == (await keep.conversation("ada")).state


async def test_opening_twice_and_decorating_late_are_refused(opened: Any) -> None:
    """Neither would do what one expects."""
    keep = await opened(count)
    with pytest.raises(Misconfigured, match="open already"):
        await keep.open()
    late = await opened(None)
    with pytest.raises(Misconfigured, match="open already"):
        late.on_message(count)


async def test_a_store_that_lacks_what_is_needed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At the start, with what is lacking and which setting asks for it; without these the store can be used."""
    monkeypatch.setattr(MemoryDriver, "abilities", MemoryDriver.abilities - {Ability.SCAN, Ability.EPOCH})
    keep: Chatkeep[Any] = Chatkeep("memory://", on_outage="journal", journal=f"{tmp_path}/journal.db", retention="9d")
    keep.on_message(lambda turn: "hello")
    with pytest.raises(Unsupported) as refused:
        await keep.open()

    for said in ("on_message", "SCAN", "retention", 'on_outage="journal" needs EPOCH', "was not opened"):
        assert said in str(refused.value)
    assert [] == list(tmp_path.iterdir())

    async with Chatkeep("memory://") as writes:
        await writes.accept("ada", "hello")

        assert 1 == (await writes.conversation("ada")).head


async def test_a_clock_that_is_ahead_hides_no_work_from_the_others(opened: Any) -> None:
    """What one instance accepts, or rings for, another answers at once, though its own clock is an hour behind."""
    ahead = Clock()
    ahead.now += 3600

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return "here"

    away = await opened(clock=ahead)
    await away.accept("ada", "hello", id="m1")
    shown = await away.conversation("ada")
    keep = await opened(bot)
    await until(lambda: answered(keep, "ada", 1))

    assert shown.due_at == shown.updated_at > time.time() + 3000


async def test_a_clock_that_is_set_back_makes_no_retry_wait_for_an_hour(opened: Any) -> None:
    """The pause after a failure is bounded, whatever the clock says."""
    clock = Clock()
    tries = 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            clock.now -= 3600
            raise OSError("once")
        return "ok"

    keep = await opened(bot, clock=clock, max_wait="50ms")

    assert "ok" == (await asyncio.wait_for(keep.receive("ada", "hi"), 3)).replies[0].text


@pytest.mark.parametrize("quick", ["0s", "1s"])
@pytest.mark.parametrize("tells", [False, True])
async def test_a_store_that_was_rolled_back_and_went_on_elsewhere_is_not_mixed_with_what_was_seen(
    opened: Any, tells: bool, quick: str
) -> None:
    """As long as before, and another log: what is known of it gives itself away, is dropped, and counted; also where whoever went on
    has told of that, so that only the place is known."""
    url = f"memory://{secrets.token_hex(8)}"
    seen: list[list[str]] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append([message.text for message in turn.history])
        return f"re {turn.text}"

    here = await opened(bot, url=url, quick=quick)
    await here.receive("ada", "one")
    shelf = SHELVES[url.partition("://")[2]]
    backup = deepcopy((shelf.rows, shelf.logs, shelf.ids))
    await here.receive("ada", "lost")
    shelf.rows, shelf.logs, shelf.ids = backup
    await time_passes(0.01)  # else both messages could be of one time
    there = await opened(bot, url=url)
    there._engine.notifier.live = tells
    await there.receive("ada", "two")
    if tells:
        await until(lambda: here._engine.store._cache.peek(Key("", "ada")) is None)
    receipt = await here.receive("ada", "three")

    assert ["one", "re one", "two", "re two"] == seen[-1]
    assert ["re three"] == [reply.text for reply in receipt.replies]
    assert 1 == here._engine.store.rolled_back


async def test_what_a_step_has_given_in_a_log_that_was_lost_is_no_other_messages(opened: Any) -> None:
    """The store is rolled back while the step runs, and the next message there has the same number: it gets a result of its own."""
    url = f"memory://{secrets.token_hex(8)}"
    paying, go = asyncio.Event(), asyncio.Event()

    async def pay(amount: str) -> str:
        if amount == "42":
            paying.set()
            await go.wait()
        return f"paid {amount}"

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return str(await turn.step("pay", pay, turn.text))

    here, there = await opened(bot, url=url), await opened(url=url)
    there._engine.notifier.live = False
    await there.create("ada")
    shelf = SHELVES[url.partition("://")[2]]
    backup = deepcopy((shelf.rows, shelf.logs, shelf.ids))
    await here.accept("ada", "42")
    await asyncio.wait_for(paying.wait(), 5)
    await time_passes(0.01)  # else both messages could be of one time
    shelf.rows, shelf.logs, shelf.ids = backup
    await there.accept("ada", "7")
    go.set()
    await until(lambda: answered(there, "ada", 1), within=15)

    assert ["7", "paid 7"] == await texts(there, "ada")


async def test_a_message_that_turns_suspect_while_it_waits_for_a_place_is_tried_alone(opened: Any) -> None:
    """Its second death is noted by another instance meanwhile: the place is given back before all of them are asked for."""
    release, running = asyncio.Event(), asyncio.Event()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        if turn.text == "hold":
            running.set()
            await release.wait()
        return f"re {turn.text}"

    desk, keep = await opened(), await opened(bot, concurrency=1)
    await keep.accept("eve", "hold")
    await running.wait()
    await desk.accept("ada", "hi")
    await until(lambda: keep._engine.runner.places._waiting)
    store, note = desk._engine.store, commits.make_note("change", "deaths")

    def die(there: Snapshot) -> Commit:
        record = structs.replace(there.record, deaths=2)
        return commits.commit_note(there, record, note, desk._engine.shared.policy, at=time.time())

    await store.commit(await store.reload(Key("", "ada")), die, at=time.time())
    release.set()
    await until(lambda: answered(desk, "ada", 1))

    assert ["hi", "re hi"] == await texts(desk, "ada")
    assert "re on" == (await asyncio.wait_for(keep.receive("eve", "on"), 5)).replies[-1].text
