"""How many acts a message takes: what is not cached is read first and then answered in one act, a new conversation too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from chatkeep import Chatkeep, HandlerFailed, KeyReused, Turn, Unavailable
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Driver, Key, Read
from chatkeep.testing.crash import Wrapped, wrapped

from ..support.clock import Clock
from ..support.counting import count, texts
from ..support.waiting import until

T = TypeVar("T")

NEVER = "1h"
"""How often the sweep looks: its own acts would be counted too."""


class Counted(Wrapped):
    """Remembers the verbs that it was asked for, and can be told to fail or to do something before the next ones."""

    def __init__(self, inner: Driver) -> None:
        super().__init__(inner)
        self.verbs: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[Any]]] = {}
        self.tails: list[int] = []
        """How many entries each read has asked for."""

    def __getattr__(self, name: str) -> Any:
        verb = super().__getattr__(name)
        if name != "read":
            return verb

        async def read(act: Read) -> Any:
            self.tails.append(act.tail)
            return await verb(act)

        return read

    async def around(self, verb: str, act: Callable[[], Awaitable[T]]) -> T:
        self.verbs.append(verb)
        if (before := self.before.pop(verb, None)) is not None:
            await before()
        return await act()


Opened = Callable[..., Awaitable[tuple[Chatkeep[Any], Counted]]]


@pytest.fixture
def counted(opened: Any, url: str) -> Opened:
    """`await counted(handler, **options)` gives an open Chatkeep whose handlers are known to be quick, and its driver."""

    async def make(handler: Callable[..., Any] = count, **options: Any) -> tuple[Chatkeep[Any], Counted]:
        driver = Counted(driver_for(url))
        keep = await opened(handler, **{"url": wrapped(driver), "poll": NEVER} | options)
        await keep.receive("somebody else", "hi")
        await until(lambda: keep._engine.sweeper._backlog.is_done)  # the looks of the opening
        driver.verbs.clear()
        driver.tails.clear()
        return keep, driver

    return make


async def test_a_conversation_that_is_not_cached_is_read_and_answered_in_one_act(opened: Any, counted: Opened) -> None:
    """One trip that only reads and one that writes, with all of the state and the history; the next message takes one."""
    seen: list[list[str]] = []

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        seen.append([message.text for message in turn.history])
        return await count(turn)

    desk = await opened(count, history=4)
    for n in range(5):
        await desk.receive("ada", f"{n}")
    keep, driver = await counted(bot, history=4)
    receipt = await keep.receive("ada", "more")

    assert (["read", "write"], "6: more", 11) == (driver.verbs, receipt.replies[0].text, receipt.number)
    assert ["3", "4: 3", "4", "5: 4"] == seen[-1]

    await keep.receive("ada", "again")

    assert ["read", "write", "write"] == driver.verbs
    assert 12 + 2 == (await desk.conversation("ada")).head


async def test_a_new_conversation_is_created_by_the_act_that_answers(counted: Opened) -> None:
    """It is its owner's, is listed, and can go on, be erased and begin anew."""
    keep, driver = await counted()
    receipt = await keep.receive("ada", "hi", owner="her company")

    assert (["read", "write"], 1, "1: hi") == (driver.verbs, receipt.number, receipt.replies[0].text)

    found = await keep.conversation("ada")
    await keep.receive("ada", "more")
    await keep.erase("ada")
    await keep.receive("ada", "anew")

    assert found is not None
    assert ("her company", 2, 0) == (found.owner, found.head, found.unread)
    assert ["anew", "1: anew"] == await texts(keep, "ada")


async def test_accepting_into_a_conversation_that_is_not_cached_reads_it_in_the_same_act(
    opened: Any, counted: Opened
) -> None:
    """All that belongs into the window comes with the append, also when the log is longer than the window."""
    desk = await opened(count, history=4)
    for n in range(20):
        await desk.receive("ada", f"{n}")
    keep, driver = await counted(history=4)
    await keep.accept("ada", "more")

    assert ["append"] == [verb for verb in driver.verbs if verb != "write"]


@pytest.fixture
async def returning(opened: Any, counted: Opened) -> Any:
    """A Chatkeep that has answered people who came back after their sessions were over, its driver, and what its bot was shown; *late*
    and *soon* have said three things each, *soon* within the session that lives."""
    clock, shown = Clock(), list[list[str]]()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        shown.append([message.text for message in turn.history])
        return await count(turn)

    options = {"clock": clock, "session_ttl": "30m", "history": 8, "quick": "1m"}
    desk = await opened(count, **options)
    for name in ("late", *(f"returning {n}" for n in range(20))):
        for n in range(3):
            await desk.receive(name, f"{n}", id=f"{name} {n}")
    clock.now += 3600
    for n in range(3):
        await desk.receive("soon", f"{n}", id=f"soon {n}")
    await desk.close()
    keep, driver = await counted(bot, **options)
    for n in range(20):
        await keep.receive(f"returning {n}", "I am back")
    return keep, driver, shown


async def test_who_comes_back_after_the_session_is_read_no_further_than_the_turn_looks(returning: Any) -> None:
    """At first the whole window is read; a session that lives is shown whole, by a second read, and the next is read as far at once."""
    keep, driver, shown = returning

    assert [[]] * 20 == shown[-20:]
    assert ["read", "write"] * 20 == driver.verbs
    assert [8] * 3 == driver.tails[:3]
    assert [4] * 3 == driver.tails[-3:]

    driver.verbs.clear()
    driver.tails.clear()
    receipt = await keep.receive("soon", "more")

    assert ("4: more", 7) == (receipt.replies[0].text, receipt.number)
    assert ["0", "1: 0", "1", "2: 1", "2", "3: 2"] == shown[-1]
    assert (["read", "read", "write"], [4, 8]) == (driver.verbs, driver.tails)

    await keep.receive("late", "I am back")

    assert ([], [4, 8, 6]) == (shown[-1], driver.tails)


async def test_a_conversation_of_which_the_end_was_read_goes_on_as_any_other(returning: Any) -> None:
    """The history grows, people see the messages of before, and an old id is known, with the replies that were recorded and what it
    said."""
    keep, _, shown = returning
    await keep.receive("late", "back 0")
    with pytest.raises(KeyReused):
        await keep.receive("late", "something else", id="late 0")
    again = await keep.receive("late", "1", id="late 1")

    assert (True, 3, ["2: 1"]) == (again.duplicate, again.number, [reply.text for reply in again.replies])

    for n in (1, 2):
        await keep.receive("late", f"back {n}")

    assert ["back 0", "1: back 0", "back 1", "2: back 1"] == shown[-1]

    found = await keep.conversation("late")

    assert found is not None
    assert (12, ["2", "3: 2"]) == (found.head, [message.text for message in found.messages[:-6]])


async def test_who_changes_a_conversation_of_which_the_end_was_read_is_shown_its_last_messages(returning: Any) -> None:
    """As many as whoever reads it; it is no matter that a turn has looked at fewer."""
    keep, driver, _ = returning
    await keep.receive("late", "back 0")
    changed = await keep.change("late", lambda state: state.update(vip=True))
    verbs = list(driver.verbs[-2:])
    again = await keep.change("soon", lambda state: state.update(vip=True))
    found = await keep.conversation("late")

    assert (8, ["write", "entries"]) == (len(changed.messages), verbs)
    assert [message.text for message in found.messages] == [message.text for message in changed.messages]
    assert (6, "write") == (len(again.messages), driver.verbs[-2])


@pytest.mark.parametrize("after", [0, 40])
async def test_a_known_id_is_recognised_whatever_its_age(opened: Any, counted: Opened, after: int) -> None:
    """Also where the message lies far behind what is read: nothing is written, and the recorded replies are given."""
    desk = await opened(count, history=4)
    first = await desk.receive("ada", "book it", id="the one")
    for n in range(after):
        await desk.receive("ada", f"{n}")
    keep, _ = await counted(history=4)
    again = await keep.receive("ada", "book it", id="the one")

    assert (True, first.number, "answered") == (again.duplicate, again.number, again.status)
    assert [reply.id for reply in first.replies] == [reply.id for reply in again.replies]
    assert 2 + 2 * after == (await desk.conversation("ada")).head


async def test_a_step_is_not_done_again_for_an_old_message_that_is_sent_again(opened: Any, counted: Opened) -> None:
    """Its id is further back than what was read, so the handler runs once more, in vain; its step begins when the message is in the log."""
    done, runs = list[str](), list[str]()

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        runs.append(turn.id)

        async def work() -> str:
            done.append(turn.id)
            return turn.id

        return await turn.step("work", work) if turn.text == "work" else "ok"

    desk = await opened(bot, history=4)
    first = await desk.receive("ada", "work", id="m0")
    for n in range(9):
        await desk.receive("ada", "talk", id=f"talk{n}")
    keep, _ = await counted(bot, history=4)
    before = len(runs)
    again = await keep.receive("ada", "work", id="m0")

    assert (True, first.number, ["m0"]) == (again.duplicate, again.number, [one.text for one in again.replies])
    assert len(runs) - before <= 1
    assert 1 == len(done)


async def test_many_at_once_into_a_conversation_that_is_not_cached(opened: Any, counted: Opened) -> None:
    """It is not read for each of them, and each message is answered once, in the order in which they came."""
    desk = await opened(count)
    await desk.receive("ada", "hi")
    keep, driver = await counted()
    await desk.close()  # or it would answer some of them
    receipts = await asyncio.gather(*(keep.receive("ada", f"{n}") for n in range(10)))
    verbs = list(driver.verbs)
    found = await keep.conversation("ada")

    assert found is not None
    assert [[f"{found.state['seen'].index(str(n)) + 1}: {n}"] for n in range(10)] == [
        [reply.text for reply in receipt.replies] for receipt in receipts
    ]
    assert (12, "hi") == (len(found.state["seen"]) + 1, found.state["seen"][0])
    assert 2 >= len([verb for verb in verbs if verb in ("read", "entries")])


async def test_what_waits_unread_is_answered_first(opened: Any, counted: Opened) -> None:
    """A message that stands in the log already has its turn before, as it is."""
    keep, driver = await counted()
    desk = await opened()  # (without a bot)
    await desk.accept("ada", "first")
    receipt = await keep.receive("ada", "second")

    assert "2: second" == receipt.replies[0].text
    assert ["read", "append"] == driver.verbs[:2]


@pytest.mark.parametrize("silent", ["the conversation", "the tenant", "everything"])
async def test_where_the_bot_is_paused_the_message_waits(opened: Any, counted: Opened, silent: str) -> None:
    """No handler runs, and what was sent is in the log."""
    keep, _ = await counted()
    desk = await opened()
    await desk.create("ada")
    if silent == "the conversation":
        await desk.pause("ada")
    elif silent == "the tenant":
        await keep.pause()
    else:
        await keep.pause_all()
    turns = keep.statistics.engine.turns

    assert "paused" == (await keep.receive("ada", "hi")).status
    assert turns == keep.statistics.engine.turns
    assert ["hi"] == await texts(keep, "ada")


@pytest.mark.parametrize("there", [True, False], ids=["known", "new"])
@pytest.mark.parametrize("meanwhile", ["receive", "accept", "erase", "create"])
async def test_what_others_do_between_the_read_and_the_write(
    opened: Any, counted: Opened, there: bool, meanwhile: str
) -> None:
    """The act that was decided on what was read is refused, and the message is answered on what is there now."""
    keep, driver = await counted()
    desk = await opened(count)
    if there:
        await desk.receive("ada", "before", id="before")

    async def other() -> None:
        await {
            "receive": lambda: desk.receive("ada", "between", id="between"),
            "accept": lambda: desk.accept("ada", "between", id="between"),
            "erase": lambda: desk.erase("ada"),
            "create": lambda: desk.create("ada"),
        }[meanwhile]()

    driver.before["write"] = other
    receipt = await keep.receive("ada", "hi", id="hi")
    found = await keep.conversation("ada")

    before = there * (meanwhile != "erase") + (meanwhile in ("receive", "accept"))
    assert found is not None
    assert (before + 1, 0) == (len(found.state["seen"]), found.unread)
    assert f"{before + 1}: hi" == receipt.replies[0].text
    assert 1 == (await texts(keep, "ada")).count("hi")


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_handler_that_fails_in_a_new_conversation_is_counted(counted: Opened, attempts: int) -> None:
    """The message is in the log all the same; it is tried again, and set aside when it has had its attempts."""
    runs = 0

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        nonlocal runs
        if turn.text == "break":
            runs += 1
            raise OSError("no")
        return await count(turn)

    keep, _ = await counted(bot, attempts=attempts)
    with pytest.raises(HandlerFailed, match="set aside"):
        await keep.receive("ada", "break")
    found = await keep.conversation("ada")

    assert found is not None
    assert ([1], attempts, 0) == (found.dead, runs, found.unread)
    assert "1: on" == (await keep.receive("ada", "on")).replies[0].text


async def test_a_store_that_fails_the_read_is_written_to_all_the_same(opened: Any, counted: Opened) -> None:
    """A connection that was lost while nobody used it costs no message: the append finds out whether the store is there."""
    desk = await opened(count)
    await desk.receive("ada", "hi")
    keep, driver = await counted()

    async def fails() -> None:
        raise Unavailable("the connection was lost")

    driver.before["read"] = fails

    assert "2: more" == (await keep.receive("ada", "more")).replies[0].text
    assert ["read", "append", "write"] == driver.verbs


async def test_the_oldest_entry_of_a_new_conversation_is_known(counted: Opened, url: str) -> None:
    """So the sweep looks at it when its first entry is too old, and not at once."""
    clock = Clock()
    keep, _ = await counted(clock=clock, retention="10d")
    await keep.receive("ada", "hi")
    driver = driver_for(url)
    await driver.open()
    found = await driver.read(Read(Key("", "ada"), tail=1))
    await driver.close()

    assert found is not None
    assert 10 * 86_400 - 10 < (found[0].due_at or 0.0) - clock.now < 10 * 86_400
