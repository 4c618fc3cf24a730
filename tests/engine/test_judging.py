"""How the run of a handler is judged: every kind of handler, every way to fail or to hang, every way in."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from chatkeep import Chatkeep, HandlerFailed, Turn, Uncertain, UsageError
from chatkeep.drivers.base import Key
from chatkeep.errors import describe_fault

from ..support.counting import answered
from ..support.shy import Abort, Shy
from ..support.stores import FAST
from ..support.waiting import nothing_happens_for, takes, until

TIME_S = 0.3
WAYS = ("one trip", "long way", "accept")


class Mute(Exception):
    """Cannot be put into words."""

    def __str__(self) -> str:
        raise Abort


class Odd(Exception):
    """Nor can this one."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]

    __repr__ = __str__


class Liar(Exception):
    """Says that it ends the process."""

    __class__ = SystemExit  # type: ignore[assignment]


class Rootless(Exception):
    """Raises where it is asked what it was raised beside."""

    @property
    def __context__(self) -> Any:  # type: ignore[override]
        raise Abort


class Undecided(Exception):
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise Abort


class Closed(Exception):
    """Raises whatever it is asked."""

    def __getattribute__(self, name: str) -> Any:
        raise Abort


class Nameless(type):
    """A kind that raises where it is asked for its name."""

    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise Abort


class Unnamed(Exception, metaclass=Nameless):
    """Is of such a kind."""


def caused_by(cause: BaseException) -> BaseException:
    """An exception in order, with a cause that is not."""
    fault = ValueError("boom")
    fault.__cause__ = cause
    return fault


RAISED: dict[str, tuple[Callable[[], BaseException], str]] = {
    "Exception": (lambda: ValueError("boom"), "ValueError: boom"),
    "BaseException": (lambda: Abort("boom"), "Abort: boom"),
    "group": (lambda: BaseExceptionGroup("two", [Abort(), ValueError()]), "BaseExceptionGroup: two"),
    "GeneratorExit": (GeneratorExit, "GeneratorExit"),
    "StopIteration": (lambda: StopIteration("x"), "RuntimeError"),
    "StopAsyncIteration": (lambda: StopAsyncIteration("x"), "StopAsyncIteration"),
    "CancelledError": (lambda: asyncio.CancelledError("mine"), "CancelledError: mine"),
    "TimeoutError": (lambda: TimeoutError("theirs"), "TimeoutError: theirs"),
    "mute": (Mute, "Mute"),
    "odd": (Odd, "Odd"),
    "huge": (lambda: ValueError("x" * 500_000), "ValueError: xxx"),
    "shy": (lambda: Shy("boom"), "Shy: boom, an exception that cannot be looked at"),
    "liar": (lambda: Liar("boom"), "Liar: boom, an exception that cannot be looked at"),
    "rootless": (lambda: Rootless("boom"), "Rootless: boom"),
    "undecided": (lambda: Undecided("boom"), "Undecided: boom"),
    "closed": (lambda: Closed("boom"), "Closed: boom"),
    "unnamed": (lambda: Unnamed("boom"), "Unnamed: boom"),
    "caused by one like that": (lambda: caused_by(Rootless()), "ValueError: boom"),
    "not UTF-8": (lambda: ValueError("a\udcff\0b"), "ValueError: a?\N{REPLACEMENT CHARACTER}b"),
}
"""What a handler may raise, and the reason that is noted."""


async def waits() -> None:
    """Is cancelled, and heeds it."""
    await takes(60)


async def cancels_itself() -> None:
    """A handler may do that, for itself or by the code it calls."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def is_cancelled_by_its_child() -> None:
    """The same by a task of its own, later."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))


async def times_itself_out() -> None:
    """Its own limit, begun before it waits for anything."""
    async with asyncio.timeout(0.01):
        await takes(60)


async def swallows() -> None:
    """Ends for nobody."""
    while True:
        try:
            await takes(60)
        except GeneratorExit:  # only so that Python does not complain when the coroutine is let go of
            raise
        except BaseException:
            pass


async def comes_late() -> None:
    """Returns after all, when its time is over."""
    try:
        await takes(60)
    except asyncio.CancelledError:
        await takes(0.01)


ASYNC: dict[str, tuple[Any, str]] = {
    "waits": (waits, f"TimeoutError: it took longer than {TIME_S} s"),
    "cancels itself": (cancels_itself, "CancelledError"),
    "cancelled by its child": (is_cancelled_by_its_child, "CancelledError"),
    "times itself out": (times_itself_out, "TimeoutError"),
    "comes late": (comes_late, f"TimeoutError: it took longer than {TIME_S} s"),
    "swallows": (swallows, "still runs"),
}
HANG = "still runs"


class Bot:
    """One handler of each kind; what "poison" does is chosen."""

    def __init__(self, act: Any = None, fault: Callable[[], BaseException] | None = None) -> None:
        self.act = act
        self.fault = fault
        self.runs: Counter[str] = Counter()
        self.release = threading.Event()

    def _counts(self, turn: Turn[Any]) -> bool:
        self.runs[turn.text] += 1
        if turn.text == "poison" and self.fault is not None:
            raise self.fault()
        return turn.text == "poison"

    async def async_(self, turn: Turn[Any]) -> str:
        """An async function."""
        if self._counts(turn):
            await self.act()
        return "ok"

    def sync(self, turn: Turn[Any]) -> str:
        """A plain function."""
        if self._counts(turn):
            self.act()
        return "ok"

    async def stream(self, turn: Turn[Any]) -> AsyncIterator[str]:
        """An async generator, which knows of what was said."""
        if not turn.said:
            yield "o"
        if self._counts(turn):
            await self.act()
        yield "k"


@asynccontextmanager
async def kept(handler: Any, **options: Any) -> AsyncIterator[Chatkeep[Any]]:
    """A Chatkeep in memory with a short grace; nothing of it may be left."""
    settings = FAST | {"turn_timeout": TIME_S, "attempts": 2, "concurrency": 2}
    keep: Chatkeep[Any] = Chatkeep(f"memory://{secrets.token_hex(8)}", **(settings | options))
    keep.on_message(handler)
    keep._engine.runner.grace_s = 0.1
    async with keep:
        yield keep
    await asyncio.sleep(0.01)

    assert [] == [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep")]
    assert 0 == keep._engine.runner.places._taken


async def sent(keep: Chatkeep[Any], way: str) -> str:
    """Sends the poison one way; answers the reason for which it was set aside."""
    await keep.receive("ada", "first")
    if way == "accept":
        await keep.accept("ada", "poison")
        await until(lambda: keep.statistics.engine.dead)
    else:
        with pytest.raises(HandlerFailed) as told:
            await keep.receive("ada", "poison")
        assert len(str(told.value)) < 2000
    letters = await keep.dead_letters("ada")
    assert ["poison"] == [letter.text for letter in letters]
    return str(letters[0].metadata["reason"])


async def check(bot: Bot, kind: str, way: str, reason: str, runs: int) -> None:
    """The poison fails with that *reason* after so many *runs*; the next message and other conversations are answered."""
    async with kept(getattr(bot, kind), quick="0s" if way == "long way" else "50ms") as keep:
        try:
            found = await sent(keep, way)

            assert reason in found
            assert len(found) <= 500
            assert runs == bot.runs["poison"]
            assert "answered" == (await keep.receive("ada", "next")).status
            assert ["answered"] * 8 == [
                receipt.status for receipt in await asyncio.gather(*(keep.receive(f"c{n}", "hi") for n in range(8)))
            ]
            assert (1, 8) == (bot.runs["next"], bot.runs["hi"])
        finally:
            bot.release.set()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["async_", "sync", "stream"])
@pytest.mark.parametrize("raised", list(RAISED))
async def test_whatever_a_handler_raises_is_a_failed_attempt(raised: str, kind: str, way: str) -> None:
    """Counted, with its reason, however odd the exception."""
    fault, reason = RAISED[raised]
    if kind == "stream" and raised == "StopAsyncIteration":
        reason = "RuntimeError"  # as generators have it
    await check(Bot(fault=fault), kind, way, reason, 2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["async_", "stream"])
@pytest.mark.parametrize("act", list(ASYNC))
async def test_whatever_an_async_handler_does_instead_of_returning_is_a_failed_attempt(
    act: str, kind: str, way: str
) -> None:
    """It waits, is cancelled by itself, returns late, or never ends; and what never ends is not run a second time."""
    does, reason = ASYNC[act]
    await check(Bot(does), kind, way, reason, 1 if act == "swallows" else 2)


@pytest.mark.parametrize("way", WAYS)
async def test_a_plain_function_that_hangs_is_a_failed_attempt(way: str) -> None:
    """It is not run a second time while it hangs."""
    bot = Bot()
    bot.act = bot.release.wait
    await check(bot, "sync", way, HANG, 1)


@pytest.mark.parametrize("way", WAYS)
async def test_a_plain_function_that_comes_late_is_a_failed_attempt(way: str) -> None:
    """What it returns after its time is thrown away."""
    await check(Bot(lambda: time.sleep(TIME_S + 0.05)), "sync", way, f"longer than {TIME_S} s", 2)


async def test_as_many_that_hang_as_there_are_places_stop_nobody() -> None:
    """Their places are free again; `trouble` and the statistics tell of them, until they end."""
    bot = Bot()
    bot.act = bot.release.wait
    async with kept(bot.sync) as keep:
        hung = [asyncio.create_task(keep.receive(f"hung{n}", "poison")) for n in range(3)]
        await asyncio.gather(*hung, return_exceptions=True)

        assert "answered" == (await keep.receive("ada", "hi")).status
        assert "3 handlers still run" in keep.trouble
        assert "" == keep._engine.outage
        assert 3 == keep.statistics.engine.abandoned
        bot.release.set()
        await until(lambda: not keep.statistics.engine.abandoned)
        assert "" == keep.trouble


@pytest.mark.parametrize("kind", ["async_", "sync"])
async def test_only_so_many_may_hang(kind: str) -> None:
    """Then none is begun any more, what comes waits and is not counted, and `trouble` says so."""
    bot = Bot()
    bot.act = bot.release.wait if kind == "sync" else swallows
    async with kept(getattr(bot, kind)) as keep:
        keep._engine.runner.most = 4
        hung = [asyncio.create_task(keep.receive(f"hung{n}", "poison")) for n in range(4)]
        await asyncio.gather(*hung, return_exceptions=True)
        waiting = asyncio.create_task(keep.receive("ada", "hi"))
        await until(lambda: "no handler is begun" in keep.trouble)

        assert "no handler is begun" in keep.trouble
        assert "no handler is begun" in keep._engine.outage
        assert (False, 0) == (waiting.done(), bot.runs["hi"])
        bot.release.set()
        for run in list(keep._engine.runner.abandoned):
            run.drop()
        assert "answered" == (await waiting).status


async def test_a_turn_that_another_comes_to_wait_for_does_not_wait_for_its_place() -> None:
    """Also when it waited for one before."""
    keep: Chatkeep[Any]
    begun, waits = asyncio.Event(), asyncio.Event()

    async def bot(turn: Turn[Any]) -> str:
        if turn.text != "asks":
            return "inner"
        begun.set()
        await waits.wait()
        receipt = await keep.receive("inner", "hi", id="1")
        return receipt.replies[0].text

    async with kept(bot, concurrency=1, attempts=1) as keep:
        asking = asyncio.create_task(keep.receive("outer", "asks"))
        await begun.wait()
        await keep.accept("inner", "hi", id="1")
        await until(lambda: keep._engine.runner.places._waiting)
        waits.set()

        assert "inner" == (await asking).replies[0].text


async def test_a_handler_that_accepts_for_others_begins_no_more_of_them_than_there_are_places() -> None:
    """It does not wait for them."""
    keep: Chatkeep[Any]
    now = most = 0

    async def bot(turn: Turn[Any]) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if turn.text == "asks":
            for n in range(6):
                await keep.accept(f"c{n}", "hi")
        await takes(0.05)
        now -= 1
        return "ok"

    async with kept(bot, turn_timeout="5s") as keep:
        await keep.receive("outer", "asks")
        await until(lambda: keep.statistics.engine.turns == 7)
        assert 2 == most


async def test_what_waits_for_a_place_has_not_begun_its_time() -> None:
    """Six, one after the other, each takes nearly all of its time: none is late, and none is counted."""

    def slow(turn: Turn[Any]) -> str:
        time.sleep(TIME_S * 0.6)
        return "ok"

    async with kept(slow, concurrency=1) as keep:
        receipts = await asyncio.gather(*(keep.receive(f"c{n}", "hi") for n in range(6)))

        assert {"answered"} == {receipt.status for receipt in receipts}
        assert 0 == keep.statistics.engine.failures


async def test_a_process_without_threads_left_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler has not begun: the message waits until there are some."""
    begun = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if thread.name == "chatkeep handler":
            raise RuntimeError("can't start new thread")
        begun(thread)

    monkeypatch.setattr("chatkeep.engine.work_loop.HOOK_PAUSE_S", 0.05)
    bot = Bot()
    async with kept(bot.sync, attempts=1) as keep:
        monkeypatch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(HandlerFailed, match="no thread"):
            await keep.receive("ada", "hi")
        await nothing_happens_for(0.2)
        assert (0, 0) == (keep.statistics.engine.failures, keep.statistics.engine.dead)
        monkeypatch.undo()

        async def answered() -> bool:
            found = await keep.conversation("ada")
            return found is not None and not found.unread

        await until(answered)
        assert 1 == bot.runs["hi"]


@pytest.mark.parametrize("kind", ["async_", "sync"])
async def test_two_instances_do_not_run_a_message_whose_run_hangs(
    kind: str, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is kept while the message is to be tried; then it is set aside, and the other instance may go on."""
    monkeypatch.setattr("chatkeep.settings.LEASE_S", 0.6)
    bot = Bot()
    bot.act = bot.release.wait if kind == "sync" else swallows
    options = {"turn_timeout": TIME_S, "attempts": 2, "retry_after": "1.2s", "retry_longest": "2s"}
    one, two = [await opened(getattr(bot, kind), **options) for _ in range(2)]
    for keep in (one, two):
        keep._engine.runner.grace_s = 0.1
    try:
        hung = asyncio.create_task(one.receive("ada", "poison"))
        await until(lambda: bot.runs["poison"])
        waiting = asyncio.create_task(two.receive("ada", "next"))
        with pytest.raises(HandlerFailed, match="still runs"):
            await hung

        assert "answered" == (await waiting).status
        assert (1, 1) == (bot.runs["poison"], bot.runs["next"])
        assert 0 == two.statistics.engine.taken_over
        assert 1 == one.statistics.engine.abandoned
    finally:
        bot.release.set()


async def test_when_the_hanging_run_ends_the_message_is_tried_again() -> None:
    """On the same instance, when its pause is over; the first run's result is thrown away."""
    release, runs = threading.Event(), 0

    def bot(turn: Turn[Any]) -> str:
        nonlocal runs
        runs += 1
        if runs == 1:
            release.wait()
            turn.state["late"] = True
            turn.reply("late")
            return "late"
        return "ok"

    async with kept(bot, attempts=3, retry_after="200ms", retry_longest="400ms") as keep:
        asking = asyncio.create_task(keep.receive("ada", "hi"))
        await until(lambda: keep.statistics.engine.abandoned)
        release.set()
        receipt = await asking

        assert ["ok"] == [reply.text for reply in receipt.replies]
        assert {} == (await keep.conversation("ada")).state
        assert 2 == runs


async def test_nothing_that_an_abandoned_run_does_has_an_effect() -> None:
    """Its steps are refused, its replies, reminders and pieces go nowhere."""
    seen: list[Any] = []
    done = asyncio.Event()

    async def bot(turn: Turn[Any]) -> str:
        if turn.text != "poison":
            return "ok"
        await turn.step("before", lambda: 1)
        with suppress(asyncio.CancelledError):
            await takes(60)
        await takes(0.5)
        turn.reply("late")
        for act in (lambda: turn.step("late", lambda: seen.append("called")), lambda: turn.step_key("late")):
            try:
                found = act()
                if asyncio.iscoroutine(found):
                    await found
            except UsageError as refused:
                seen.append(str(refused))
        try:
            turn.remind("1h", "late")
        except UsageError as refused:
            seen.append(str(refused))
        done.set()
        return "late"

    async with kept(bot, attempts=1) as keep:
        with pytest.raises(HandlerFailed):
            await keep.receive("ada", "poison")
        await keep.receive("ada", "next")
        await done.wait()
        await nothing_happens_for(0.01)

        assert 3 == len(seen)
        assert all("is over" in refused for refused in seen)
        assert ["poison", "ok", "next"] == sorted(
            [message.text async for message in keep.history("ada") if message.role != "system"],
            key=["poison", "ok", "next"].index,
        )


async def test_a_caller_that_goes_away_is_no_failure(opened: Any) -> None:
    """Not counted, whatever the handler makes of being cancelled; the same message is answered when it comes again."""
    hold, begun, stubborn = asyncio.Event(), asyncio.Event(), True

    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "slow" and not hold.is_set():
            begun.set()
            try:
                await takes(60)
            except asyncio.CancelledError:
                if stubborn:
                    return "in vain"
                raise
        return "ok"

    keep = await opened(bot, attempts=1)
    while (
        not keep.statistics.engine.one_trip
    ):  # (the first turn of a process may be a worker's, which is busy for a moment more)
        await keep.receive("bob", "first")
    for stubborn in (True, False):
        name = f"ada{stubborn}"
        await keep.receive(name, "first")
        hold.clear()
        begun.clear()
        going = asyncio.create_task(keep.receive(name, "slow", id="1"))
        await begun.wait()
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        hold.set()
        receipt = await keep.receive(name, "slow", id="1")

        assert ["ok"] == [reply.text for reply in receipt.replies]
    assert (0, 0) == (keep.statistics.engine.failures, keep.statistics.engine.dead)


async def test_a_run_that_goes_on_without_its_caller_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """It has all of its time, as any other: its message is not blamed, and is answered by a run of its own afterwards."""
    runs = 0

    def bot(turn: Turn[Any]) -> str:
        nonlocal runs
        if turn.text == "slow":
            runs += 1
            time.sleep(TIME_S * 0.5 if runs == 1 else 0)
        return "ok"

    async with kept(bot) as keep:
        await keep.receive("ada", "first")
        going = asyncio.create_task(keep.receive("ada", "slow", id="1"))
        await until(lambda: runs)
        going.cancel()
        receipt = await keep.receive("ada", "slow", id="1")

        assert ["ok"] == [reply.text for reply in receipt.replies]
        assert (2, 0, 0) == (runs, keep.statistics.engine.failures, keep.statistics.engine.dead)
    assert "nobody waits for it" in caplog.text
    assert "time was over" not in caplog.text


async def test_a_run_that_goes_on_without_its_caller_is_late_when_its_time_is_over() -> None:
    """Then each try that comes due is a failed one."""
    bot = Bot()
    bot.act = bot.release.wait
    async with kept(bot.sync) as keep:
        await keep.receive("ada", "first")
        began = time.monotonic()
        going = asyncio.create_task(keep.receive("ada", "poison", id="1"))
        await until(lambda: bot.runs["poison"])
        going.cancel()
        with pytest.raises(HandlerFailed, match="still runs"):
            await keep.receive("ada", "poison", id="1")

        assert TIME_S + 0.1 <= time.monotonic() - began < 3
        assert (1, 2) == (bot.runs["poison"], keep.statistics.engine.failures)
        bot.release.set()


async def test_of_a_burst_that_hangs_only_the_first_message_is_set_aside() -> None:
    """The others are answered beside it: they are blamed for nothing that they had not been the first of."""
    seen: list[list[str]] = []

    async def bot(turn: Turn[Any]) -> str:
        seen.append([message.text for message in turn.messages])
        if turn.text == "first":
            await takes(0.2)
        if "poison" in turn.text:
            await swallows()
        return "ok"

    async with kept(bot, overlap="burst") as keep:
        first = asyncio.create_task(keep.receive("ada", "first"))
        await until(lambda: seen)
        texts = ["poison", "one", "two"]
        found = await asyncio.gather(*(keep.receive("ada", text) for text in texts), return_exceptions=True)
        await first

        assert isinstance(found[0], HandlerFailed)
        assert ["answered", "answered"] == [getattr(receipt, "status", receipt) for receipt in found[1:]]
        assert [texts, ["one", "two"]] == seen[1:]
        assert 1 == keep.statistics.engine.dead


async def test_close_ends_in_time_whatever_hangs() -> None:
    """Tasks that swallow everything are let go of, threads are left to themselves, and the messages are handed back."""
    for kind in ("async_", "sync"):
        bot = Bot()
        bot.act = bot.release.wait if kind == "sync" else swallows
        url = f"memory://{secrets.token_hex(8)}"
        keep: Chatkeep[Any] = Chatkeep(
            url, **(FAST | {"turn_timeout": TIME_S, "retry_after": "1m", "retry_longest": "2m"})
        )
        keep.on_message(getattr(bot, kind))
        keep._engine.runner.grace_s = 0.1
        async with Chatkeep(url) as desk:
            await keep.open()
            for n in range(3):
                await keep.accept(f"c{n}", "poison")
            await until(lambda bot=bot: bot.runs["poison"] == 3)
            began = time.monotonic()
            await keep.close()

            assert time.monotonic() - began < 5
            assert [1, 1, 1] == [(await desk.conversation(f"c{n}")).unread for n in range(3)]
            assert [] == [task for task in asyncio.all_tasks() if task.get_name().startswith("chatkeep turn")]
        bot.release.set()
        await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "chatkeep handler"])


async def test_close_begins_nothing_that_waits_for_a_place(tmp_path: Any) -> None:
    """What waits is in the log by then; it is handed back, and answered by the next start."""
    bot, url = Bot(), f"sqlite:///{tmp_path}/c.db"
    bot.act = bot.release.wait
    options: dict[str, Any] = FAST | {"turn_timeout": TIME_S, "concurrency": 1, "attempts": 1}
    keep: Chatkeep[Any] = Chatkeep(url, **options)
    keep.on_message(bot.sync)
    keep._engine.runner.grace_s = 0.1
    keep._engine.runner.most = 1
    await keep.open()
    await keep.receive("ada", "first")
    with pytest.raises(HandlerFailed):
        await keep.receive("hung", "poison")
    keep._engine.turns.pace_s = (
        0.0  # as if handlers were quick, so that the handler may run before its message is in the log
    )
    waiting = asyncio.create_task(keep.receive("ada", "hi", id="1"))
    await until(lambda: keep._engine.runner.places._waiting)

    assert 1 == (await keep.conversation("ada")).unread
    await asyncio.wait_for(keep.close(), 5)
    with pytest.raises(Uncertain, match="in the log"):
        await asyncio.wait_for(waiting, 0.1)
    bot.release.set()
    await nothing_happens_for(0.1)
    assert 0 == bot.runs["hi"]
    async with Chatkeep(url, **options) as again:
        assert again._engine is not None
        row = await again._engine.store.load(Key("", "ada"))
        assert row is not None
        assert (None, 1) == (row.row.lease, (await again.conversation("ada")).unread)


async def test_a_handler_sees_the_context_of_open_and_of_no_caller() -> None:
    """Neither of whoever sent its message nor of whoever woke the worker; its own variables stay its own."""
    user = contextvars.ContextVar("user", default="nobody")
    seen = []

    async def bot(turn: Turn[Any]) -> str:
        seen.append(user.get())
        user.set("the handler's")
        await takes(0.01)
        seen.append(user.get())
        return "ok"

    def plain(turn: Turn[Any]) -> str:
        seen.append(user.get())
        user.set("the handler's")
        return "ok"

    user.set("whoever opens")
    for handler, found in ((bot, ["whoever opens", "the handler's"]), (plain, ["whoever opens"])):
        async with kept(handler) as keep:
            seen.clear()

            async def ask(name: str, keep: Any = keep) -> None:
                user.set(name)
                await keep.receive("ada", name)

            for names in (["a"], ["b", "c", "d"], ["e"]):
                await asyncio.gather(*(ask(name) for name in names))

            runs = len(seen) // len(found)  # one may have run again
            assert runs >= 5
            assert found * runs == seen


async def test_a_hook_that_hangs_is_not_blamed_and_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message waits for as long as it hangs; then it is answered."""
    monkeypatch.setattr("chatkeep.engine.work_loop.HOOK_PAUSE_S", 0.05)
    release, runs = threading.Event(), 0

    def hook(turn: Turn[Any]) -> dict[str, Any]:
        nonlocal runs
        runs += 1
        release.wait()
        return {"rebuilt": True}

    keep: Chatkeep[Any] = Chatkeep(
        f"memory://{secrets.token_hex(8)}", **(FAST | {"turn_timeout": TIME_S, "attempts": 1})
    )
    keep.on_message(lambda turn: str(turn.state))
    keep.on_missing(hook)
    keep._engine.runner.grace_s = 0.1
    async with keep:
        with pytest.raises(HandlerFailed, match="on_missing"):
            await keep.receive("ada", "hi", id="1")
        await nothing_happens_for(0.3)
        assert (1, 0) == (runs, keep.statistics.engine.dead)
        release.set()
        await until(lambda: answered(keep, "ada", 1))  # (a thread that ends is not heard of at once)
        receipt = await keep.receive("ada", "hi", id="1")

        assert ["{'rebuilt': True}"] == [reply.text for reply in receipt.replies]
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "chatkeep handler"])


EXITING = """
import asyncio, sys, time
from chatkeep import Chatkeep

async def later(turn):
    await asyncio.sleep(0.05)
    if turn.text == "go":
        raise SystemExit(7)
    return "ok"

async def at_once(turn):
    if turn.text == "go":
        raise SystemExit(7)
    return "ok"

def plain(turn):
    if turn.text == "go":
        sys.exit(7)
    return "ok"

def hangs(turn):
    if turn.text == "go":
        time.sleep(3600)
    return "ok"

async def swallows(turn):
    while turn.text == "go":
        try:
            await asyncio.sleep(3600)
        except BaseException:
            pass
    return "ok"

async def main():
    async with Chatkeep(sys.argv[1], turn_timeout="200ms", attempts=1) as keep:
        await keep.receive("ada", "warm")
        try:
            await keep.receive("ada", "go", id="1")
        except Exception as fault:
            print(fault, flush=True)
            sys.exit(9)

keep_class = Chatkeep
def Chatkeep(*args, **options):
    keep = keep_class(*args, **options)
    keep.on_message(globals()[sys.argv[2]])
    return keep

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["later", "at_once", "plain"])
async def test_system_exit_ends_the_process_and_is_not_counted(how: str, tmp_path: Any) -> None:
    """As Python has it; the next process answers the message, if it was in the log."""
    url = f"sqlite:///{tmp_path}/chat.db"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", EXITING, url, how], timeout=30, capture_output=True, text=True
    )

    assert 7 == done.returncode, done.stderr
    async with Chatkeep[Any](url, **FAST) as keep:
        assert [] == (await keep.conversation("ada")).dead


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hangs", "swallows"])
async def test_what_hangs_does_not_keep_the_process_from_ending(how: str, tmp_path: Any) -> None:
    """Neither a thread nor a task that takes no notice of being cancelled."""
    began = time.monotonic()
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", EXITING, f"sqlite:///{tmp_path}/chat.db", how],
        timeout=60,
        capture_output=True,
        text=True,
    )

    assert 9 == done.returncode, done.stderr
    assert "still runs" in done.stdout
    assert time.monotonic() - began < 20


def test_a_failure_without_words_is_its_kind() -> None:
    """Nothing stands behind a colon that is not there."""
    assert ["CancelledError", "ValueError: no"] == [
        describe_fault(fault) for fault in (asyncio.CancelledError(), ValueError("no"))
    ]
