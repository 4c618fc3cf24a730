"""What waits by a clock that was ahead is not waited for: a clock of another host, or the one here before it was set right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import structs

from chatkeep import Chatkeep, Message, Turn
from chatkeep.conversation import leases, turns
from chatkeep.conversation.backoff import believed
from chatkeep.conversation.outbox import Sent
from chatkeep.conversation.record import Record
from chatkeep.conversation.snapshots import Policy, Snapshot
from chatkeep.drivers.base import Append, Entry, Key, Row, Scan
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.engine import backlog
from chatkeep.engine.lease_keeper import this_process
from chatkeep.engine.left_alone import LeftAlone, Unreadable
from chatkeep.people.lists import SLACK_S
from chatkeep.storage.leftovers import Leftovers

from ..support.counting import answered
from ..support.waiting import until

HOURS_S = 5 * 3600.0
YEAR_S = 365 * 86_400.0


def ahead() -> float:
    """A clock that is a year ahead."""
    return time.time() + YEAR_S


class TurnedClock:
    """The clock of the host, which somebody sets."""

    offset_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset_s


async def fails(turn: Turn[dict[str, Any]]) -> str:
    """Has no answer."""
    raise OSError("away")


async def bot(turn: Turn[dict[str, Any]]) -> str:
    """Has one."""
    return f"re {turn.text}"


async def has_failed(keep: Chatkeep[Any], key: str) -> bool:
    """Whether a handler was tried in vain."""
    snapshot = await keep._engine.store.load(Key("", key))
    return snapshot is not None and snapshot.record.begun > 0 and snapshot.row.lease is None


@pytest.mark.parametrize("is_there", [False, True])
async def test_a_retry_that_a_clock_ahead_has_put_off_is_made(
    opened: Any, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """An instance whose clock is a year ahead has failed and is gone; the other one was there all the time, or comes then."""
    monkeypatch.setattr(backlog, "AHEAD_S", 0.1)
    wrong = await opened(fails, clock=ahead, retry_after="5s", retry_longest="5s")
    await wrong.accept("ada", "hi", id="1")
    await until(lambda: has_failed(wrong, "ada"))
    keep = await opened(bot) if is_there else None
    await wrong.close()
    keep = keep or await opened(bot)

    await until(lambda: answered(keep, "ada", 1), within=3)


async def test_a_message_beside_one_that_was_put_off_is_answered(opened: Any) -> None:
    """The call of `receive` finds the older message, which is to wait for a year, and both are answered."""
    wrong = await opened(fails, clock=ahead, retry_after="5s", retry_longest="5s")
    await wrong.accept("ada", "one", id="1")
    await until(lambda: has_failed(wrong, "ada"))
    await wrong.close()
    keep = await opened(bot)
    receipt = await asyncio.wait_for(keep.receive("ada", "two", id="2"), 3)

    assert ["re two"] == [reply.text for reply in receipt.replies]
    assert ["one", "two"] == [m.text async for m in keep.history("ada") if m.role == "user"]


@pytest.mark.parametrize("options", [{"retry_after": "300ms"}, {"overlap": "debounce", "quiet": "300ms"}])
async def test_a_clock_that_is_set_back_makes_nothing_wait_for_hours(opened: Any, options: dict[str, Any]) -> None:
    """A retry, or a burst that is to be answered together, waits for a time that is hours away now."""
    clock, tries = TurnedClock(), 0

    async def once(turn: Turn[dict[str, Any]]) -> str:
        nonlocal tries
        tries += 1
        if tries == 1 and "retry_after" in options:
            raise OSError("once")
        return "ok"

    keep = await opened(once, clock=clock, **options)
    await keep.accept("ada", "hi")
    await until(lambda: tries or "quiet" in options)
    clock.offset_s = -HOURS_S

    await until(lambda: answered(keep, "ada", 1), within=3)


async def test_a_lease_of_a_process_that_died_with_its_clock_ahead_is_taken_over(opened: Any) -> None:
    """Its lease hides the conversation from what is due for a year."""
    wrong = await opened(None, clock=ahead)
    await wrong.accept("ada", "hi", id="1")
    snapshot = await wrong._engine.store.load(Key("", "ada"))
    host = this_process().split(":")[0]

    def take(there: Snapshot) -> Any:
        return leases.take_lease(there, Policy(), token=f"{host}:{2**22 + 1}:0:0", at=ahead())

    await wrong._engine.store.commit(snapshot, take, at=ahead())
    keep = await opened(bot)

    await until(lambda: answered(keep, "ada", 1), within=3)


async def test_a_reply_that_a_clock_ahead_has_put_off_goes_out(url: str) -> None:
    """The platform was away when that instance sent it, which is gone."""
    out: list[str] = []

    class Outlet:
        """Sends where somebody is there."""

        def __init__(self, *, there: bool) -> None:
            self.there = there

        async def open(self) -> None:
            """Needs nothing."""

        async def close(self) -> None:
            """Has nothing."""

        def takes(self, tenant: str, conversation: str) -> bool:
            """Everything."""
            return True

        async def send(self, conversation: str, content: Any, **options: Any) -> Sent:
            """Send, or say that it has to be tried again."""
            if not self.there:
                return Sent(status="retry", reason="away")
            out.append(content)
            return Sent(status="delivered")

    async def instance(there: bool, clock: Callable[[], float]) -> Chatkeep[Any]:
        keep: Chatkeep[Any] = Chatkeep(url, poll="50ms", clock=clock)
        keep.on_message(bot)
        keep.deliver(Outlet(there=there))  # type: ignore[arg-type]
        return keep

    async with await instance(False, ahead) as wrong:
        await wrong.receive("ada", "hi")
        await until(lambda: is_waiting(wrong))
    async with await instance(True, time.time):
        await until(lambda: out, within=3)

    assert ["re hi"] == out


async def is_waiting(keep: Chatkeep[Any]) -> bool:
    """Whether a reply was tried in vain."""
    snapshot = await keep._engine.store.load(Key("", "ada"))
    delivery = snapshot.record.delivery if snapshot else None
    return delivery is not None and delivery.tries > 0


async def test_all_that_a_clock_ahead_has_put_off_is_found(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a page of it, with what was answered in between; and what was written since is no obstacle."""
    monkeypatch.setattr(backlog, "PAGE", 7)
    wrong = await opened(None, clock=ahead)
    for number in range(20):
        await wrong.accept(f"c{number}", "hi", id="1")
    failing = await opened(fails, clock=ahead, retry_after="5s", retry_longest="5s")
    for number in range(20):
        await until(lambda number=number: has_failed(failing, f"c{number}"))
    await failing.close()
    keep = await opened(bot)
    for number in range(20):
        await until(lambda number=number: answered(keep, f"c{number}", 1), within=5)


class KnowsNoBound(MemoryDriver):
    """A driver of another package, from before `Scan.since`."""

    async def scan(self, act: Scan) -> list[Row]:
        return await super().scan(structs.replace(act, since=None))


@pytest.mark.parametrize("store", [MemoryDriver, KnowsNoBound])
async def test_what_was_written_in_the_running_minute_is_not_taken_for_newer(store: type[MemoryDriver]) -> None:
    """Nor in the seconds after it by which clocks differ; what stands behind these is found."""
    async with Chatkeep(store(f"memory://{store.__name__}"), background=False, clock=lambda: 6020.0) as keep:
        driver = keep._engine.store.gateway.driver

        async def write(at: float) -> None:
            await driver.append(Append(Key("", f"{at}"), [Entry(0, "a", "u", b"hi")], revision="r", at=at))

        async def look(now: float) -> list[float]:
            found = await backlog.Ahead(keep._engine.store).step(now)
            return [row.updated_at for row in found]

        for at in (6000.0, 6020.0, 6059.0, 6061.0):
            await write(at)

        assert [6061.0] == await look(6020.0)
        assert [6061.0] == await look(6054.9)
        assert [] == await look(6055.0)


async def test_changes_of_a_list_are_told_though_somebody_wrote_with_a_clock_ahead(opened: Any) -> None:
    """A device asks what has changed since it last asked; what it was told then is of a time that is to come."""
    keep = await opened(bot)
    wrong = await opened(None, clock=lambda: time.time() + HOURS_S)
    await keep.receive("one", "hi", owner="ada")
    await wrong.accept("two", "hi", owner="ada")
    first = await keep.user("ada").changes()
    await keep.receive("one", "again")
    await keep.receive("three", "hi", owner="ada")
    then = await keep.user("ada").changes(first.cursor)

    assert {"one", "three"} <= {one.id for one in then.conversations}
    assert not then.reset


async def test_a_cursor_of_a_time_to_come_is_begun_anew(opened: Any) -> None:
    """The clock that gave it was set back since: nobody knows what was told, so everything is."""
    clock = TurnedClock()
    clock.offset_s = HOURS_S
    keep = await opened(bot, clock=clock)
    await keep.receive("one", "hi", owner="ada")
    first = await keep.user("ada").changes()
    clock.offset_s = 0.0
    await keep.receive("two", "hi", owner="ada")
    then = await keep.user("ada").changes(first.cursor)

    assert (True, {"one", "two"}) == (then.reset, {one.id for one in then.conversations})
    assert HOURS_S > SLACK_S


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_what_is_not_looked_at_for_a_while_is_looked_at_when_the_clock_is_set_back(opened: Any) -> None:
    """Conversations that another version has to answer, ones that cannot be read, and records that count no more: not for years."""
    clock = TurnedClock()
    keep = await opened(bot)
    row = Row(key=Key("", "ada"), revision="r", incarnation="i", head=1)
    left_alone, leftovers = LeftAlone(clock), Leftovers(keep._engine.store, clock)
    unreadable = Unreadable(clock, left_alone)
    unreadable.add(row.key, row.revision, "damaged")
    before = left_alone.skip(row), len(unreadable), leftovers.is_done
    clock.offset_s = -YEAR_S

    assert (True, 1, True) == before
    assert (False, 0, False) == (left_alone.skip(row), len(unreadable), leftovers.is_done)


def test_a_message_has_its_whole_time_though_it_first_failed_by_a_clock_ahead() -> None:
    """It would be tried for a year else, with all that came after it behind it."""
    message = Message(id="m", number=1, role="user", content="x", created_at=0.0)
    there = Snapshot(
        Row(key=Key("", "ada"), revision="r", incarnation="b", head=1),
        Record(begun=1, raised=1, failed_at=1000.0 + YEAR_S),
        (message,),
    )
    policy = Policy()
    failed = turns.fail_turn(there, [message], "why", policy, at=1000.0, retry_at=1001.0).record

    assert (1000.0, 1001.0) == (failed.failed_at, failed.retry_at)
    assert (1030.0, 1000.0) == (believed(1030.0, 60.0, at=1000.0), believed(1061.0, 60.0, at=1000.0))
