"""Conversations in which nothing happens any more are erased, with what belongs to them, and never while somebody waits."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import Chatkeep, Conflict, Turn, Uncertain, Unsupported
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key, issue_token, issue_user_token, list_tokens
from chatkeep.drivers.base import Ability, Append, Key, Read
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.server import create_app
from chatkeep.storage import leftovers

from ..support.clock import Clock
from ..support.stores import FAST
from ..support.waiting import nothing_happens_for, until

DAY_S = 86_400.0


async def echo(turn: Turn[dict[str, Any]]) -> str:
    """Answers; a message "remind me" sets a reminder."""
    if turn.text == "remind me":
        turn.remind("100d", "later")
    return f"you said {turn.text}"


async def is_gone(keep: Any, id: str) -> bool:
    """Whether there is no such conversation."""
    return await keep.conversation(id) is None


async def test_what_nobody_touches_is_erased_with_its_credentials(opened: Any) -> None:
    """A message puts it off; ended sessions and old log do not."""
    clock = Clock()
    keep = await opened(echo, clock=clock, forget_after="60d", session_ttl="30m", retention="1d")
    for id in ("ada", "bob"):
        await keep.receive(id, "hello")
        await issue_token(keep, "", id, expires_in=400 * DAY_S)
    for _ in range(4):
        clock.now += 14 * DAY_S
        await nothing_happens_for(0.1)
    await keep.receive("bob", "still here")
    clock.now += 5 * DAY_S
    await until(lambda: is_gone(keep, "ada"))

    async def tokens_gone() -> bool:
        return not await list_tokens(keep, "", "ada")

    await until(tokens_gone)
    assert not await is_gone(keep, "bob")
    clock.now += 30 * DAY_S
    await nothing_happens_for(0.2)
    assert not await is_gone(keep, "bob")
    assert 1 == len(await list_tokens(keep, "", "bob"))
    clock.now += 30 * DAY_S
    await until(lambda: is_gone(keep, "bob"))


async def test_what_an_instance_with_other_settings_has_written_since_is_forgotten_too(opened: Any) -> None:
    """In a deploy those of before, or of 0.2.0, still write when the first that forgets has gone through the store."""
    clock = Clock()
    before = await opened(echo, clock=clock)
    keep = await opened(echo, clock=clock, forget_after="60d")
    await until(lambda: keep._engine.sweeper._housekeeper.unscheduled is False)
    await before.receive("ada", "hello")
    await before.close()

    async def gone() -> bool:
        clock.now += DAY_S
        return await is_gone(keep, "ada")

    await until(gone)


async def test_nothing_is_erased_while_somebody_waits(opened: Any) -> None:
    """An unread message while the bot is paused, a reminder; it goes when they are over."""
    clock = Clock()
    keep = await opened(echo, clock=clock, forget_after="30d")
    await keep.pause("paused")
    await keep.accept("paused", "hello?")
    await keep.receive("reminded", "remind me")
    for _ in range(6):
        clock.now += 15 * DAY_S
        await nothing_happens_for(0.1)

    assert [False, False] == [await is_gone(keep, id) for id in ("paused", "reminded")]
    await keep.resume("paused")

    async def both_gone() -> bool:
        clock.now += DAY_S
        return all([await is_gone(keep, name) for name in ("paused", "reminded")])

    await until(both_gone)


@pytest.mark.parametrize("scope", ["conversation", "tenant"])
async def test_what_a_person_has_answered_while_the_bot_is_paused_is_forgotten(opened: Any, scope: str) -> None:
    """When the time has come, and nothing is written there before; a message that nobody has answered keeps its conversation."""
    clock = Clock()
    keep = await opened(echo, clock=clock, forget_after="30d")
    for name in ("answered", "waits", "held"):
        await keep.receive(name, "hello")
        if scope == "conversation":
            await keep.pause(name)
    if scope == "tenant":
        await keep.pause()
    for name in ("answered", "waits", "held"):
        await keep.accept(name, "is anybody there?")
        await keep.accept(name, "Kim here.", role="operator")
    await keep.accept("waits", "and my order?")
    await core_of(keep).hold("", "held", "", reason="a lawsuit")
    driver, key = keep._engine.store.driver, Key("", "answered")

    async def rests() -> bool:
        row, _ = await driver.read(Read(key, tail=0))
        return row.due_at == row.updated_at + 30 * DAY_S

    await until(rests)
    before = (await driver.read(Read(key, tail=0)))[0].revision
    clock.now += 29 * DAY_S
    await nothing_happens_for(0.2)
    assert before == (await driver.read(Read(key, tail=0)))[0].revision
    clock.now += 2 * DAY_S
    await until(lambda: is_gone(keep, "answered"))
    assert [False, False] == [await is_gone(keep, name) for name in ("waits", "held")]
    await core_of(keep).lift_hold("", "held", "")

    async def held_gone() -> bool:
        clock.now += 3600
        return await is_gone(keep, "held")

    await until(held_gone)
    assert 2 == (await keep.conversation("waits")).unread


async def test_visitors_are_forgotten_after_a_month_and_others_are_not(opened: Any) -> None:
    """By default."""
    clock = Clock()
    keep = await opened(echo, clock=clock)
    await core_of(keep).create_for_visitor("", "visitor")
    await keep.receive("visitor", "hello")
    await keep.receive("ada", "hello")
    clock.now += 31 * DAY_S
    await until(lambda: is_gone(keep, "visitor"))

    assert not await is_gone(keep, "ada")


async def test_visitors_are_forgotten_where_nobody_answers(url: str) -> None:
    """A server that takes visitors has no handler: operators answer, or another process does."""
    clock = Clock()
    keep: Chatkeep[Any] = Chatkeep(url, clock=clock, **FAST)
    create_app(keep, anonymous=True)
    async with keep:
        await core_of(keep).create_for_visitor("", "visitor")

        async def gone() -> bool:
            clock.now += 11
            return await is_gone(keep, "visitor")

        clock.now += 31 * DAY_S
        await until(gone)


async def test_what_was_written_before_the_setting_was_made_ends_too(opened: Any) -> None:
    """Retention as well; also in a process that has no handler, and no unread message is touched by it."""
    clock = Clock()
    keep = await opened(echo, clock=clock)
    for n in range(3):
        await keep.receive(f"c{n}", "hello")
    await keep.pause("waits")
    await keep.accept("waits", "hello?")
    await keep.close()
    later = await opened(clock=clock, forget_after="60d", retention="30d")
    clock.now += 40 * DAY_S

    async def dropped() -> bool:
        clock.now += 11
        return [] == [m async for m in later.history("c1")]

    await until(dropped)
    assert not await is_gone(later, "c1")
    clock.now += 30 * DAY_S

    async def all_gone() -> bool:
        clock.now += 11
        return all([await is_gone(later, f"c{n}") for n in range(3)])

    await until(all_gone)
    assert 1 == (await later.conversation("waits")).unread


async def test_erasing_takes_the_credentials_along(opened: Any) -> None:
    """In the library as over HTTP."""
    keep = await opened(echo)
    await keep.receive("ada", "hello")
    await issue_token(keep, "", "ada")
    await issue_token(keep, "", "bob")
    await keep.erase("ada")

    assert [0, 1] == [len(await list_tokens(keep, "", id)) for id in ("ada", "bob")]


async def test_a_reply_that_nobody_sends_keeps_its_conversation_for_a_day(opened: Any) -> None:
    """As long as a reply is tried where somebody sends it. Meanwhile nothing of it is cut and next to nothing is written; then it ends
    like any other."""
    clock = Clock()
    keep = await opened(echo, clock=clock, forget_after="2h", retention="1h")
    await core_of(keep).inlet.accept("whatsapp", "", "ada", "hello", id="m1", role="user", metadata={})
    await until(lambda: said(keep, 2))
    clock.now += 3 * 3600
    revisions = set()
    for _ in range(40):
        clock.now += 2
        await nothing_happens_for(0.02)
        revisions.add((await keep.conversation("ada")).revision)
    log = [message.role async for message in keep.history("ada")]
    clock.now += DAY_S

    async def gone() -> bool:
        clock.now += 11
        return await is_gone(keep, "ada")

    await until(gone)
    assert ["user", "assistant"] == log
    assert len(revisions) < 5


async def said(keep: Any, count: int) -> bool:
    """Whether the log of ada has so many messages."""
    return count == len([message async for message in keep.history("ada")])


async def test_clearing_what_is_not_there_creates_nothing(opened: Any) -> None:
    """Neither a slot nor all of it."""
    keep = await opened(echo)
    cleared = await keep.clear("nobody")
    await keep.clear("nobody", "cart")

    assert ({}, 0) == (cleared.state, cleared.head)
    assert await is_gone(keep, "nobody")


async def test_changes_leave_nothing_in_the_log(opened: Any) -> None:
    """But for those that the caller has named, which are known for as long as the log is kept."""
    keep = await opened(echo)
    await keep.receive("ada", "hello")
    head = (await keep.conversation("ada")).head
    for n in range(30):
        await keep.change("ada", lambda state, n=n: state.update({f"slot{n % 3}": n}))
    await keep.clear("ada", "slot0")
    found = await keep.conversation("ada")
    for _ in range(2):
        await keep.change("ada", lambda state: state.update(count=state.get("count", 0) + 1), id="once")

    assert (head, {"slot1": 28, "slot2": 29}) == (found.head, found.state)
    assert (head + 1, 1) == ((last := await keep.conversation("ada")).head, last.state["count"])
    assert 2 == len((await keep.receive("ada", "and?")).replies) + 1


async def test_a_change_whose_answer_was_lost_is_made_once(opened: Any) -> None:
    """Another instance has written in between, so its own revision is not there any more when it is run again."""
    keep, other = await opened(echo), await opened(echo)
    await keep.receive("ada", "hello")
    driver = keep._engine.store.driver
    write, lost = driver.write, [True]

    async def losing(*args: Any, **options: Any) -> Any:
        stored = await write(*args, **options)
        if lost.pop() if lost else False:
            await other.change("ada", lambda state: state.update(other=1))
            raise Uncertain("the answer was lost")
        return stored

    driver.write = losing
    await keep.change("ada", lambda state: state.update(count=state.get("count", 0) + 1))
    driver.write = write

    assert {"count": 1, "other": 1} == (await keep.conversation("ada")).state


@pytest.mark.parametrize("begun_by", ["a note", "an echo"])
async def test_what_began_with_something_that_nobody_answers_is_erased_too(opened: Any, begun_by: str) -> None:
    """Also when it begins after the pass over the store that follows an opening."""
    clock = Clock()
    keep = await opened(echo, clock=clock, forget_after="60d", retention="90d")
    await keep.receive("ada", "hello")
    await nothing_happens_for(0.2)
    if begun_by == "a note":
        await core_of(keep).inlet.note_unknown("", "bob", "1", reason="not a message", raw={})
    else:
        await keep.accept("bob", "by hand", role="operator", metadata={"sent": True})
    assert not await is_gone(keep, "bob")
    clock.now += 61 * DAY_S
    await until(lambda: is_gone(keep, "bob"))


async def names_in(keep: Any, *spaces: str) -> list[str]:
    """The spaces of chatkeep's own, of these, in which there are records; each as often as it has some."""
    rows = [row async for row in core_of(keep)._engine.store.walk("key")]
    return [row.key.tenant for row in rows if row.key.tenant.startswith(spaces)]


@pytest.mark.parametrize("tends", [False, True])
async def test_records_that_count_no_more_go_though_nobody_comes_back(
    opened: Any, monkeypatch: pytest.MonkeyPatch, tends: bool
) -> None:
    """Tokens of conversations that never began, and notes of what was erased: a month after, page by page; a service key stays."""
    monkeypatch.setattr(leftovers, "PAGE", 2)
    clock = Clock()
    keep = await opened(echo, clock=clock, forget_after="60d", **({"background": False} if tends else {}))
    for number in range(3):
        await issue_token(keep, "", f"never{number}", expires_in=DAY_S)
        await keep.tenant("salon").receive(f"c{number}", "hello", owner=f"guest:{number}")
    await issue_token(keep, "", "later", expires_in=200 * DAY_S)
    await create_key(keep, "", expires_in=DAY_S)
    spaces = ("~access", "~erased:")

    async def are(*names: str) -> bool:
        if tends:
            await keep.tend(thorough=True)
        else:  # (who looks while the clock is turned has seen the first of them by the time before)
            await until(lambda: keep._engine.sweeper._leftovers.is_done)
        return list(names) == await names_in(keep, *spaces)

    access, erased = ["~access"] * 5, ["~erased:salon"] * 3
    clock.now += 29 * DAY_S
    assert await are(*access)
    clock.now += 32 * DAY_S
    await until(lambda: are(*access[:2], *erased))
    clock.now += 29 * DAY_S
    assert await are(*access[:2], *erased)
    clock.now += 2 * DAY_S
    await until(lambda: are(*access[:2]))


async def test_a_claim_of_a_guest_goes_when_nothing_rests_on_it(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of an account stays, and one of a guest who has a conversation or a token."""
    monkeypatch.setattr(leftovers, "PAGE", 2)
    clock = Clock()
    keep = await opened(echo, clock=clock, background=False)
    salon = keep.tenant("salon")
    for name in ("eve", "guest:1", "guest:2", "guest:3"):
        await salon.user("ada").claim(name)
    await salon.receive("c1", "hello", owner="guest:1")
    await issue_user_token(keep, "salon", "guest:2", expires_in=100 * DAY_S)

    async def claimed_after(days: int) -> list[str]:
        clock.now += days * DAY_S
        await keep.tend(thorough=True)
        return sorted(await salon.user("ada").claimed())

    assert ["eve", "guest:1", "guest:2", "guest:3"] == await claimed_after(29)
    assert ["eve", "guest:1", "guest:2"] == await claimed_after(2)
    [summary] = [one async for one in salon.user("ada").conversations()]  # which gives the conversation its new owner
    assert "c1" == summary.id
    assert ["eve", "guest:2"] == await claimed_after(2)
    assert ["eve"] == await claimed_after(200)
    assert await salon.user("ada").owns("c1")


async def test_a_clock_that_is_ahead_leaves_the_marks_of_erasures(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its sweep removes is over by the others' clocks, and is removed at their time: acts of before an erasure stay refused."""
    monkeypatch.setattr(leftovers, "FIRST_S", 0.0)
    clock, ahead = Clock(), Clock()
    keep = await opened(echo, clock=clock, background=False, forget_after="60d")
    await issue_token(keep, "", "never", expires_in=DAY_S)
    await keep.receive("bob", "hello")
    clock.now += 61 * DAY_S
    await keep.receive("ada", "hello")
    await keep.receive("gone", "hello")
    await keep.erase("gone")
    ahead.now = clock.now + 31 * 365 * DAY_S
    other = await opened(echo, clock=ahead, forget_after="60d")

    async def are_removed() -> bool:
        return await is_gone(other, "bob") and not await names_in(other, "~access")

    await until(are_removed)
    with pytest.raises(Conflict):
        await other._engine.store.driver.append(Append(Key("", "gone"), [], "r1", clock.now - 1.0))


async def test_a_store_without_an_index_has_no_leftovers_looked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody answers, SCAN is not asked for; the sweep goes on, and says nothing."""
    monkeypatch.setattr(MemoryDriver, "abilities", MemoryDriver.abilities - {Ability.SCAN})
    monkeypatch.setattr(leftovers, "FIRST_S", 0.0)
    asked = list[Any]()

    async def scan(self: Any, act: Any) -> Any:
        asked.append(act)
        raise Unsupported("It has no SCAN.")

    monkeypatch.setattr(MemoryDriver, "scan", scan)
    async with Chatkeep[Any]("memory://", **(FAST | {"on_replaced": "reopen"})) as keep:
        await keep.accept("ada", "hello")
        await nothing_happens_for(0.2)

    assert [] == asked
    assert [] == [said for said in caplog.records if said.levelname in ("WARNING", "ERROR")]
