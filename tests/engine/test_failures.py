"""What becomes of messages whose handler fails: tried again for a time, what callers hear meanwhile, what users are told in the end."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from chatkeep import Chatkeep, HandlerFailed, Misconfigured, Turn

from ..support.waiting import nothing_happens_for, takes, until

FOR_A_TIME: dict[str, Any] = {"attempts": None, "retry_after": "10ms", "retry_longest": "50ms"}


class Model:
    """A model's API that can be away."""

    def __init__(self) -> None:
        self.away = True
        self.asked: list[str] = []

    async def bot(self, turn: Turn[Any]) -> str:
        """Answers while it is there."""
        self.asked.append(turn.text)
        if self.away:
            raise ConnectionError("the model's API says 503")
        return f"answer to {turn.text}"


async def replies(keep: Any, conversation: str = "ada") -> list[str]:
    """What the bot has said."""
    return [message.text async for message in keep.history(conversation) if message.role == "assistant"]


@pytest.mark.parametrize("plain", [False, True])
async def test_a_message_is_answered_when_an_outage_is_over(opened: Any, plain: bool) -> None:
    """Whatever number of attempts that takes; nothing is set aside, and what came meanwhile is answered behind it."""
    model = Model()

    def bot(turn: Turn[Any]) -> str:
        return asyncio.run(model.bot(turn))

    keep = await opened(bot if plain else model.bot, **FOR_A_TIME)
    await keep.accept("ada", "one")
    await keep.accept("ada", "two")
    await until(lambda: len(model.asked) >= 6)
    model.away = False
    await until(lambda: _answered(keep))

    assert ["answer to one", "answer to two"] == await replies(keep)
    assert [] == (await keep.conversation("ada")).dead
    assert "two" not in model.asked[:6]


class Aborted(BaseException):
    """Raised by a library as no Exception."""


@dataclass
class Order:
    """A state of which one default asks somebody else."""

    fault: ClassVar[BaseException | None] = None
    number: int = field(default_factory=lambda: next_number())


def next_number() -> int:
    """Asks a service that is away now and then."""
    if Order.fault is not None:
        raise Order.fault
    return 7


async def _ordered(keep: Any, conversation: str) -> bool:
    return await replies(keep, conversation) == ["order 7"]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("fault", [ConnectionError("away"), Aborted("away")])
async def test_a_state_that_cannot_be_made_for_a_while_is_a_failed_attempt(
    opened: Any, monkeypatch: pytest.MonkeyPatch, fault: BaseException, missing: bool
) -> None:
    """Its default raises what the outage gives: callers are told in words of ours, and what waits is answered when that is over."""

    async def bot(turn: Turn[Order]) -> str:
        return f"order {turn.state.number}"

    keep = await opened(bot, state=Order, on_missing=(lambda turn: None) if missing else None, **FOR_A_TIME)
    monkeypatch.setattr(Order, "fault", fault)
    await keep.accept("ada", "one")
    if not missing:
        await until(lambda: keep.statistics.engine.failures >= 3)
    with pytest.raises(Misconfigured, match=r"cannot be made now .*away"):
        await keep.conversation("ada")
    asked = asyncio.create_task(keep.receive("eve", "two"))
    await nothing_happens_for(0.05)
    monkeypatch.setattr(Order, "fault", None)
    with suppress(HandlerFailed):  # (a caller is told soon)
        await asked
    for name in ("ada", "eve"):
        await until(lambda name=name: _ordered(keep, name))


async def test_a_state_that_can_never_be_made_is_set_aside(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a handler that raises; the conversation goes on when it is mended."""

    async def bot(turn: Turn[Order]) -> str:
        return f"order {turn.state.number}"

    keep = await opened(bot, state=Order, attempts=2, failure_reply="sorry")
    monkeypatch.setattr(Order, "fault", ConnectionError("away"))
    with pytest.raises(HandlerFailed, match=r"cannot be made now .*away"):
        await keep.receive("ada", "one")
    monkeypatch.setattr(Order, "fault", None)

    assert "order 7" == (await keep.receive("ada", "two")).replies[0].text
    assert ["sorry", "order 7"] == await replies(keep)
    assert 1 == len((await keep.conversation("ada")).dead)


async def test_pauses_grow_so_that_a_failing_message_takes_no_work(opened: Any) -> None:
    """Others are answered meanwhile, and the failing one is tried a handful of times."""
    tried: list[float] = []

    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "bad":
            tried.append(time.monotonic())
            raise RuntimeError("boom")
        return "ok"

    keep = await opened(bot, attempts=None, retry_after="20ms", retry_longest="10s")
    await keep.accept("ada", "bad")
    answered = 0
    async with asyncio.timeout(60):
        while len(tried) < 6:
            await keep.receive("bob", "hi")
            answered += 1
    pauses = [later - earlier for earlier, later in pairwise(tried)]

    assert [] == [pause for n, pause in enumerate(pauses[:5]) if pause < 0.019 * 2**n]
    assert answered > 2


async def test_a_message_is_set_aside_when_its_time_is_over(opened: Any) -> None:
    """At the end of it one last attempt is made, and the next message is answered."""
    model = Model()
    keep = await opened(model.bot, attempts=None, retry_after="10ms", retry_longest="5s", retry_for="400ms")
    began = time.monotonic()
    await keep.accept("ada", "one")
    await until(lambda: _dead(keep))
    took = time.monotonic() - began
    model.away = False

    assert 0.35 < took < 3.0
    assert "answer to two" == (await keep.receive("ada", "two")).replies[0].text
    [letter] = await keep.dead_letters("ada")
    assert "ConnectionError: the model's API says 503" in str(letter)


@pytest.mark.parametrize("why", ["no process", "paused"])
async def test_a_time_in_which_nobody_tries_does_not_count(opened: Any, why: str) -> None:
    """A message that failed once is tried for ten minutes also when the first tries of the next process fail, or those after a pause."""
    model, later = Model(), [0.0]
    options = FOR_A_TIME | {"clock": lambda: time.time() + later[0], "retry_for": "10m"}
    keep = await opened(model.bot, **options)
    await keep.accept("ada", "one")
    await until(lambda: model.asked)
    if why == "paused":
        await keep.pause("ada")
        later[0] = 3600.0
        await keep.resume("ada")
    else:
        await keep.close()
        later[0] = 3600.0
        keep = await opened(model.bot, **options)
    tried = len(model.asked)
    await until(lambda: len(model.asked) > tried + 2)
    model.away = False
    await until(lambda: replies(keep))

    assert ["answer to one"] == await replies(keep)
    assert [] == await keep.dead_letters("ada")


async def _dead(keep: Any) -> bool:
    found = await keep.conversation("ada")
    return bool(found and found.dead)


@pytest.mark.parametrize("warm", [False, True])
async def test_a_caller_is_told_soon_and_gets_the_answer_later(opened: Any, warm: bool) -> None:
    """`receive` does not hang for as long as a message is tried: it says until when that is, and under the same id the answer can be
    had afterwards. So for who waits behind it, and for who comes back while it is tried."""
    model = Model()
    model.away = False
    keep = await opened(model.bot, attempts=None, retry_after="20ms", retry_longest="300ms")
    for _ in range(5 * warm):
        await keep.receive("ada", "hi")
    model.away = True
    began = time.monotonic()
    calls = [asyncio.create_task(keep.receive("ada", text, id=text)) for text in ("one", "two")]
    found = await asyncio.gather(*calls, return_exceptions=True)
    again = await asyncio.gather(keep.receive("ada", "one", id="one"), return_exceptions=True)
    took = time.monotonic() - began

    assert took < 3.0
    for fault in (*found, *again):
        assert isinstance(fault, HandlerFailed)
        assert "ada: message number" in str(fault)
        assert "is tried again until" in str(fault)
    assert "503" in str(found[0])
    model.away = False
    await until(lambda: _answered(keep))
    first, second = [await keep.receive("ada", text, id=text) for text in ("one", "two")]
    assert [["answer to one"], ["answer to two"]] == [[r.text for r in x.replies] for x in (first, second)]
    assert first.duplicate


async def _answered(keep: Any) -> bool:
    return "answer to two" in await replies(keep)


async def test_a_glitch_is_not_told(opened: Any) -> None:
    """A caller waits through two failures, as it always did."""
    runs: list[str] = []

    async def bot(turn: Turn[Any]) -> str:
        runs.append(turn.text)
        if len(runs) < 3:
            raise ConnectionError("reset")
        return "ok"

    keep = await opened(bot, **FOR_A_TIME)

    assert "ok" == (await keep.receive("ada", "hi")).replies[0].text


async def test_a_failing_turn_counts_though_somebody_types_into_a_form(opened: Any) -> None:
    """Else each save would have the handler run again at once."""
    runs: list[str] = []

    async def bot(turn: Turn[Any]) -> str:
        runs.append(turn.text)
        await takes(0.03)
        raise ConnectionError("reset")

    keep = await opened(bot, attempts=None, retry_after="300ms", retry_longest="10s")
    await keep.accept("ada", "hi")
    for n in range(40):
        await keep.change("ada", lambda state, n=n: state.update(form=n))
        await nothing_happens_for(0.01)

    assert len(runs) <= 3


class Sorry:
    """A handler that fails, and a hook that says so."""

    def __init__(self, hook: Any = None, **options: Any) -> None:
        self.hook, self.options = hook, options

    async def open(self, url: str) -> Chatkeep[Any]:
        """A Chatkeep with both."""
        keep: Chatkeep[Any] = Chatkeep(url, **{"attempts": 2, "retry_after": "1ms", "poll": "20ms", **self.options})

        @keep.on_message
        async def bot(turn: Turn[Any]) -> str:
            turn.state["half"] = True
            if turn.text == "bad" or turn.reminder:
                raise ConnectionError("503")
            turn.remind("1ms", "later") if turn.text == "remind" else None
            return "ok"

        if self.hook is not None:
            keep.on_failure(self.hook)
        await keep.open()
        return keep


async def asks_hook(turn: Turn[Any]) -> str:
    """Says what went wrong."""
    turn.state["half"] = "of the hook"
    return f"Sorry, I could not answer {turn.text!r} ({turn.failure}); state {turn.state.get('n')}"


def plain_hook(turn: Turn[Any]) -> list[str]:
    """The same as a plain function, with two replies."""
    return ["Sorry.", "Please call us."]


async def broken_hook(turn: Turn[Any]) -> str:
    """Fails too."""
    raise RuntimeError("also down")


async def unfit_hook(turn: Turn[Any]) -> Any:
    """Says something that cannot be stored."""
    return 3


EXCUSES: dict[str, tuple[Any, dict[str, Any], list[str]]] = {
    "a hook": (asks_hook, {}, ["Sorry, I could not answer 'bad' (ConnectionError: 503); state 7"]),
    "a plain hook": (plain_hook, {"failure_reply": "not said"}, ["Sorry.", "Please call us."]),
    "a text": (None, {"failure_reply": "Sorry, ask again."}, ["Sorry, ask again."]),
    "a hook that fails": (broken_hook, {"failure_reply": "Sorry, ask again."}, ["Sorry, ask again."]),
    "a hook whose reply is unfit": (unfit_hook, {"failure_reply": "Sorry, ask again."}, ["Sorry, ask again."]),
    "a hook that fails, and no text": (broken_hook, {}, []),
    "nothing": (None, {}, []),
    "when its time is over": (None, {"failure_reply": "Sorry.", "attempts": None, "retry_for": "0s"}, ["Sorry."]),
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("case", EXCUSES)
async def test_a_user_is_told_what_could_not_be_answered(url: str, case: str, warm: bool) -> None:
    """As a reply to that message, recorded with the dead letter; nothing of the failed turn's state is kept."""
    hook, options, said = EXCUSES[case]
    keep = await Sorry(hook, **options).open(url)
    async with asyncio.timeout(20):
        await keep.change("ada", lambda state: {"n": 7})
        for _ in range(5 * warm):
            await keep.receive("bob", "good")
        with pytest.raises(HandlerFailed, match=r"set aside: ConnectionError: 503"):
            await keep.receive("ada", "bad", id="m1")
        again = await keep.receive("ada", "bad", id="m1")
        found = await keep.conversation("ada")
    await keep.close()

    assert ("failed", said) == (again.status, [reply.text for reply in again.replies])
    assert {"n": 7} == found.state
    assert 1 == len(found.dead)
    assert [found.dead[0]] * len(said) == [m.reply_to for m in found.messages if m.role == "assistant"]


async def test_a_reminder_that_fails_says_nothing(url: str) -> None:
    """Nobody has asked anything; the hook hears of it, and may."""
    keep = await Sorry(failure_reply="Sorry.").open(url)
    await keep.receive("ada", "remind")
    await until(lambda: _dead(keep))

    assert ["ok"] == await replies(keep)
    await keep.close()
