"""The session window, the recovery hook, forgetting, retention, erasing."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from chatkeep import BadKey, BadMessage, HandlerFailed, Turn, UsageError
from chatkeep.drivers.base import Read

from ..support.clock import Clock
from ..support.counting import answered, count, texts
from ..support.waiting import nothing_happens_for, takes, until


async def shows(turn: Turn[dict[str, Any]]) -> str:
    """Says which session it is, how many messages it has counted, and how much history it was given."""
    turn.state["n"] = turn.state.get("n", 0) + 1
    return f"session {turn.session}, message {turn.state['n']}, history {len(turn.history)}"


async def test_an_idle_session_ends_and_the_next_starts_fresh_while_the_log_stays(opened: Any) -> None:
    """Just before the TTL it goes on; after it, state and history are fresh and the number counts up."""
    clock = Clock()
    keep = await opened(shows, clock=clock, session_ttl="30m")
    said = []
    for pause in (0, 60, 1790, 1801):
        clock.now += pause
        said.append((await keep.receive("ada", "hi")).replies[0].text)

    assert [
        "session 1, message 1, history 0",
        "session 1, message 2, history 2",
        "session 1, message 3, history 4",
        "session 2, message 1, history 0",
    ] == said
    assert 8 == len(await texts(keep, "ada"))


async def test_a_clock_that_is_behind_for_a_moment_ends_no_session(opened: Any) -> None:
    """As that of a machine which was asleep: what it answers before it knows the time leaves the session as it is."""
    clock = Clock()
    keep = await opened(shows, clock=clock, session_ttl="30m")
    said = []
    for turned in (0, -5 * 3600, 10, 5 * 3600):
        clock.now += turned
        said.append((await keep.receive("ada", "hi")).replies[0].text)

    assert [f"session 1, message {n + 1}, history {2 * n}" for n in range(4)] == said


async def test_a_backlog_does_not_expire_a_live_session(opened: Any) -> None:
    """Accepted in time and handled an hour late: still the same session, judged by the message's time."""
    clock = Clock()
    desk = await opened(None, clock=clock, session_ttl="30m")
    bot = await opened(shows, clock=clock, session_ttl="30m")
    await bot.receive("ada", "one")
    await bot.close()
    clock.now += 600
    await desk.accept("ada", "two")
    clock.now += 3600
    bot = await opened(shows, clock=clock, session_ttl="30m")
    await until(lambda: answered(bot, "ada", 3))

    assert "session 1, message 2, history 2" == (await texts(bot, "ada"))[-1]


async def test_the_sweep_clears_the_state_of_ended_sessions(opened: Any, url: str) -> None:
    """Nobody writes again: the state is gone all the same, the log is not."""
    from chatkeep.drivers import driver_for
    from chatkeep.drivers.base import Key

    clock = Clock()
    keep = await opened(shows, clock=clock, session_ttl="30m")
    await keep.receive("ada", "hi")
    clock.now += 1900
    driver = driver_for(url)
    await driver.open()

    async def cleared() -> bool:
        found = await driver.read(Read(Key("", "ada"), tail=0))
        return found is not None and b'"n":1' not in found[0].body

    await until(cleared)
    await driver.close()

    assert 2 == len(await texts(keep, "ada"))
    assert "session 2, message 1, history 0" == (await keep.receive("ada", "hi")).replies[0].text


async def test_retention_drops_old_log_in_steps_and_numbers_go_on(opened: Any) -> None:
    """Entries older than the retention go, page by page; newer ones and the numbering stay."""
    clock = Clock()
    keep = await opened(count, clock=clock, retention="10d", history=3)
    for n in range(300):
        await keep.receive("ada", f"old {n}", id=f"old {n}")
    clock.now += 11 * 86_400
    await keep.receive("ada", "new")

    async def trimmed() -> bool:
        clock.now += 1
        return await first_is(keep, 601)

    await until(trimmed)

    assert ["new", "301: new"] == await texts(keep, "ada")
    assert 603 == (await keep.receive("ada", "next")).number


async def first_is(keep: Any, number: int) -> bool:
    """Whether the log begins with *number*."""
    async for message in keep.history("ada", limit=1):
        return bool(message.number == number)
    return False


async def test_on_missing_rebuilds_once_per_session_and_before_the_handler(opened: Any) -> None:
    """Ten messages at once on two instances find no session: one rebuilt state, under all of them."""
    rebuilt = []
    clock = Clock()

    async def hook(turn: Turn[dict[str, Any]]) -> dict[str, Any]:
        rebuilt.append(turn.conversation)
        await takes(0.01)
        return {"cart": ["from the database"]}

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["cart"].append(turn.text)
        return f"{len(turn.state['cart'])}"

    keeps = [await opened(bot, on_missing=hook, clock=clock, session_ttl="30m") for _ in range(2)]
    await asyncio.gather(*(keeps[n % 2].receive("ada", str(n)) for n in range(10)))
    found = await keeps[0].conversation("ada")

    assert (["ada"], "from the database", 11) == (rebuilt, found.state["cart"][0], len(found.state["cart"]))

    clock.now += 1801
    await keeps[1].receive("ada", "later")

    assert 2 == len(rebuilt)
    assert ["from the database", "later"] == (await keeps[0].conversation("ada")).state["cart"]


async def test_a_failing_hook_is_an_error_and_an_unread_message_never_an_empty_state(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call says so at once; the message is answered when the hook works again, on the rebuilt state."""
    monkeypatch.setattr("chatkeep.engine.work_loop.HOOK_PAUSE_S", 0.05)
    down = True

    async def hook(turn: Turn[dict[str, Any]]) -> dict[str, Any]:
        if down:
            raise ConnectionError("the business database is away")
        return {"cart": [1]}

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return f"cart of {len(turn.state['cart'])}"

    keep = await opened(bot, on_missing=hook, attempts=1)
    for _ in range(4):
        with pytest.raises(HandlerFailed, match="on_missing could not rebuild"):
            await keep.receive("ada", "hello", id="m1")
    assert 1 == (await keep.conversation("ada")).unread
    with pytest.raises(HandlerFailed, match="on_missing"):
        await keep.change("ada", lambda state: state.update(vip=True))

    down = False
    await until(lambda: answered(keep, "ada", 1))

    assert ["hello", "cart of 1"] == await texts(keep, "ada")


async def test_a_change_that_is_refused_leaves_no_session_that_was_rebuilt_for_it(opened: Any) -> None:
    """Nor a conversation; one that is not is made on the rebuilt state."""
    clock = Clock()

    def refuse(state: dict[str, Any]) -> None:
        raise PermissionError(f"not with {state['cart']}")

    keep = await opened(count, on_missing=lambda turn: {"cart": [1]}, clock=clock, session_ttl="30m", background=False)
    with pytest.raises(PermissionError, match=r"not with \[1\]"):
        await keep.change("ada", refuse)
    with pytest.raises(BadMessage):
        await keep.change("ada", lambda state: state.update(what=object()))

    assert await keep.conversation("ada") is None

    await keep.change("ada", lambda state: state["cart"].append(2))
    clock.now += 1801
    before = await keep.conversation("ada")
    with pytest.raises(PermissionError):
        await keep.change("ada", refuse)

    assert [1, 2] == (await keep.change("bob", lambda state: state["cart"].append(2))).state["cart"]
    assert before == await keep.conversation("ada")


async def test_a_stateless_bot_gets_its_state_from_the_hook_on_every_message(opened: Any) -> None:
    """session_ttl=0: each message is a session of its own."""
    calls = []

    async def hook(turn: Turn[dict[str, Any]]) -> dict[str, Any]:
        calls.append(turn.text)
        return {"orders": len(calls)}

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        return f"{turn.session}: {turn.state['orders']}"

    keep = await opened(bot, on_missing=hook, session_ttl=0)
    said = [(await keep.receive("ada", text)).replies[0].text for text in "abc"]

    assert (["1: 1", "2: 2", "3: 3"], ["a", "b", "c"]) == (said, calls)


async def test_forget_clears_a_slot_or_the_state_and_keeps_the_log(opened: Any) -> None:
    """One slot, then all."""
    keep = await opened(count)
    await keep.receive("ada", "hi")
    await keep.change("ada", lambda state: state.update(vip=True))

    assert {"seen": ["hi"]} == (await keep.clear("ada", "vip")).state
    assert {} == (await keep.clear("ada")).state
    assert ["hi", "1: hi"] == await texts(keep, "ada")


async def test_erase_removes_everything_and_a_new_message_begins_anew(opened: Any) -> None:
    """No state, no log, no known ids; not even for an instance with a warm cache."""
    one, two = await opened(count), await opened(count)
    for keep in (one, two):
        await keep.receive("ada", "hi", id="m1")
    await one.erase("ada")

    assert [] == [*one._engine.shared.states._read]
    assert (None, []) == (await two.conversation("ada"), await texts(two, "ada"))
    receipt = await two.receive("ada", "hi", id="m1")
    assert (False, 1, "1: hi") == (receipt.duplicate, receipt.number, receipt.replies[0].text)


async def test_tenants_never_see_each_other(opened: Any) -> None:
    """Same conversation, same message id, three tenants: three conversations, each alone."""
    keep = await opened(count)
    tenants = [keep, keep.tenant("salon-7"), keep.tenant("salon")]
    for tenant in tenants:
        receipt = await tenant.receive("7/ada", "hi", id="m1")
        assert not receipt.duplicate
    await tenants[1].erase("7/ada")

    assert [1, 0, 1] == [len([c async for c in keep.tenant(t).conversations()]) for t in ("", "salon-7", "salon")]
    with pytest.raises(BadKey, match="chatkeep's own"):
        keep.tenant("~chatkeep")


@pytest.mark.parametrize("scope", ["all", "tenant", "conversation"])
async def test_a_pause_keeps_messages_and_a_resume_answers_them(opened: Any, scope: str) -> None:
    """Paused: kept and shown, not answered, on every instance. Resumed: answered in order."""
    keep = await opened(count)
    salon = keep.tenant("salon")
    await salon.receive("ada", "before")
    pause, resume = {
        "all": (keep.pause_all, keep.resume_all),
        "tenant": (salon.pause, salon.resume),
        "conversation": (partial(salon.pause, "ada"), partial(salon.resume, "ada")),
    }[scope]
    await pause()
    other = await opened(count)
    receipts = [await instance.tenant("salon").receive("ada", "while paused") for instance in (keep, other)]
    await salon.accept("ada", "me too")
    elsewhere = await keep.tenant("barber").receive("ada", "hi")
    await nothing_happens_for(0.1)

    assert ["paused", "paused"] == [receipt.status for receipt in receipts]
    assert ("paused" if scope == "all" else "answered") == elsewhere.status
    assert ["before", "1: before", "while paused", "while paused", "me too"] == await texts(salon, "ada")

    await resume()
    await until(lambda: answered(salon, "ada", 5))

    assert ["2: while paused", "3: while paused", "4: me too"] == (await texts(salon, "ada"))[-3:]


async def test_a_resume_can_skip_what_came_meanwhile(opened: Any) -> None:
    """unread="skip": shown, never answered; the next message is."""
    keep = await opened(count)
    await keep.pause_all()
    await keep.receive("ada", "nobody hears me")
    await keep.resume_all(unread="skip")

    assert "1: hi" == (await keep.receive("ada", "hi")).replies[0].text
    assert 0 == (await keep.conversation("ada")).unread


async def test_replay_refuses_what_was_not_set_aside(opened: Any) -> None:
    """A wrong number is a clear error."""
    keep = await opened(count)
    await keep.receive("ada", "hi")
    with pytest.raises(UsageError, match="was not set aside"):
        await keep.replay("ada", 1)


async def test_a_session_that_another_instance_rebuilt_and_answered_is_not_answered_again(opened: Any) -> None:
    """Slow here, fast there: while one hook runs, its lease is lost to an instance that rebuilds, answers and is done."""
    runs: list[str] = []
    held, overtaken = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn[dict[str, Any]]) -> dict[str, Any]:
        held.set()
        await overtaken.wait()
        return {"by": "slow"}

    async def fast(turn: Turn[dict[str, Any]]) -> dict[str, Any]:
        return {"by": "fast"}

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        runs.append(turn.state["by"])
        return turn.state["by"]

    clock = Clock()
    one = await opened(bot, on_missing=slow, clock=clock, turn_timeout="20s")
    asking = asyncio.create_task(one.receive("ada", "hi", id="m"))
    await held.wait()
    clock.now += 400  # the lease is over by any clock, as if the first instance had been paused
    two = await opened(bot, on_missing=fast, clock=clock, turn_timeout="20s")
    await until(lambda: answered(two, "ada", 1))
    overtaken.set()
    receipt = await asking

    assert (["fast"], ["fast"]) == (runs, [reply.text for reply in receipt.replies])
    assert ["hi", "fast"] == await texts(two, "ada")
