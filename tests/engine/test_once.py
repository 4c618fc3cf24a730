"""`@keep.once`: a tool that must not run twice is called once for each call, or is in doubt and asked about, never guessed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chatkeep import BadMessage, Call, Chatkeep, HandlerFailed, InDoubt, Misconfigured, NotDone, Turn, UsageError

from ..support.stores import FAST, STORES, store_url
from ..support.waiting import until


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store of each kind."""
    return store_url(request.param, request, tmp_path)


class Till:
    """Charges, and can fail before and after."""

    def __init__(self) -> None:
        self.charged: list[int] = []
        self.asked: list[Call] = []
        self.fails: Callable[[], None] = lambda: None
        self.answers: Callable[[], Any] = lambda: None

    def bot(self, keep: Chatkeep[Any], **options: Any) -> None:
        """Has *keep* charge what a message says, as an agent would by its tools: "5 5 7"."""

        async def charge(amount: int, card: str = "visa") -> dict[str, Any]:
            self.charged.append(amount)
            self.fails()
            return {"receipt": f"{amount} on {card}"}

        guarded = keep.once(**options)(charge) if options else keep.once(charge)

        @keep.on_message
        async def bot(turn: Turn) -> str:
            found = [(await guarded(int(amount)))["receipt"] for amount in turn.text.split()]
            self.answers()
            return ", ".join(found)

    def ask(self, call: Call) -> Any:
        """The hook."""
        self.asked.append(call)
        return self.answers()


def failing(times: int, fault: BaseException) -> Callable[[], None]:
    """Raises *fault* so many times."""
    left = [times]

    def fail() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise fault

    return fail


async def test_a_turn_that_is_tried_again_gets_the_recorded_results(url: str) -> None:
    """Each call was made once: also two with the same arguments in one turn."""
    till = Till()
    till.answers = failing(2, ValueError("after the tools"))
    async with contextlib.AsyncExitStack() as stack:
        keep: Chatkeep[Any] = Chatkeep(url, **FAST)
        till.bot(keep)
        await stack.enter_async_context(keep)
        receipt = await keep.receive("ada", "5 5 7", id="m1")
        again = await keep.receive("ada", "5", id="m2")

        assert "5 on visa, 5 on visa, 7 on visa" == receipt.replies[0].text
        assert "5 on visa" == again.replies[0].text
        assert [5, 5, 7, 5] == till.charged
        assert [] == await keep.doubts("ada")


async def test_arguments_and_results_of_a_class_of_text_are_recorded_as_text() -> None:
    """As an agent framework hands them over."""

    class OwnText(str):
        """A class of text."""

    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    failing_once, seen = failing(1, ValueError("after the tool")), list[Any]()

    @keep.once
    async def look_up(city: str) -> str:
        return OwnText(city.upper())

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        seen.append(await look_up(OwnText(turn.text)))
        failing_once()
        return str(seen[-1])

    async with keep:
        await keep.receive("ada", "rome")

    assert [("ROME", str)] * 2 == [(one, type(one)) for one in seen]


async def test_what_began_and_did_not_end_is_in_doubt_until_somebody_settles_it(url: str) -> None:
    """It is not called again, the message is set aside at once, and after `settle` a replay is answered: by the recorded result, or by a
    call that is made again."""
    for settled, heard, charged in (
        ({"done": True, "result": {"receipt": "found"}}, "found", [5]),
        ({"done": False}, "5 on visa", [5, 5]),
    ):
        till = Till()
        till.fails = failing(1, TimeoutError("the line broke"))
        keep: Chatkeep[Any] = Chatkeep(url, **FAST | {"attempts": None})
        till.bot(keep)
        name = f"done {settled['done']}"
        async with keep:
            with pytest.raises(HandlerFailed, match=r"InDoubt: .*charge began for message 1 and did not end"):
                await keep.receive(name, "5", id="m1")
            (doubt,) = await keep.doubts(name)
            (letter,) = await keep.dead_letters(name)
            assert ("charge", '{"amount":5,"card":"visa"}', 1) == (doubt.tool, doubt.arguments, doubt.number)
            assert doubt.name in letter.metadata["reason"]
            with pytest.raises(UsageError, match="no call 'nothing' is in doubt"):
                await keep.settle(name, "nothing", done=True)

            await keep.settle(name, doubt.name, **settled)
            assert [] == await keep.doubts(name)
            replay = await keep.replay(name, 1)
            await until(lambda: answered(keep, name, replay.number))
            there = await keep.conversation(name)

        assert there is not None
        assert (heard, charged, []) == (there.messages[-1].text, till.charged, there.dead)


async def answered(keep: Chatkeep[Any], name: str, number: int) -> bool:
    """Whether a message has a reply."""
    there = await keep.conversation(name)
    return there is not None and any(
        message.reply_to == number and message.role == "assistant" for message in there.messages
    )


@pytest.mark.parametrize(
    ("answer", "heard", "charged"),
    [(lambda: {"receipt": "asked"}, "asked", [5]), (failing(9, NotDone("no")), "5 on visa", [5, 5])],
)
async def test_a_hook_settles_it_by_asking_the_other_side(
    url: str, answer: Any, heard: str, charged: list[int]
) -> None:
    """Its result is given to the turn, or the call is made again under the name that it was asked for."""
    till = Till()
    till.fails = failing(1, TimeoutError("the line broke"))
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    asked: list[Call] = []

    def ask(call: Call) -> Any:
        asked.append(call)
        return answer()

    till.bot(keep, done=ask)
    async with keep:
        receipt = await keep.receive("ada", "5", id="m1")
        assert [] == await keep.doubts("ada")

    assert (heard, charged, 1) == (receipt.replies[0].text, till.charged, len(asked))
    assert ("charge", 1) == (asked[0].tool, asked[0].number)


async def test_a_hook_that_fails_is_asked_again() -> None:
    """The message waits for it, as for anything that fails for the moment."""
    till = Till()
    till.fails = failing(1, TimeoutError("the line broke"))
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST | {"attempts": 9})
    answers = iter([OSError("away"), OSError("away"), {"receipt": "asked"}])

    async def ask(call: Call) -> Any:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    till.bot(keep, done=ask)
    async with keep:
        with contextlib.suppress(HandlerFailed):
            await keep.receive("ada", "5", id="m1")
        receipt = await keep.receive("ada", "5", id="m1")

    assert (["asked"], [5]) == ([reply.text for reply in receipt.replies], till.charged)


@pytest.mark.parametrize("fault", [NotDone("declined"), KeyError("declined")])
async def test_a_tool_may_say_that_it_has_certainly_done_nothing(fault: Exception) -> None:
    """By `NotDone`, or by an exception that the decorator names: then it is called again."""
    till = Till()
    till.fails = failing(2, fault)
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    till.bot(keep, failed=(KeyError,))
    async with keep:
        receipt = await keep.receive("ada", "5", id="m1")

    assert ("5 on visa", [5, 5, 5]) == (receipt.replies[0].text, till.charged)


async def test_a_handler_may_live_with_a_doubt() -> None:
    """It says so to the user; the doubt stays listed."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)

    @keep.once
    async def charge() -> None:
        await asyncio.Event().wait()

    @keep.on_message
    async def bot(turn: Turn) -> str:
        try:
            await asyncio.wait_for(charge(), 0.01)
        except TimeoutError:
            raise ValueError from None
        except InDoubt:
            return "Kim looks after it."
        return "never"

    async with keep:
        receipt = await keep.receive("ada", "hello")
        assert (["Kim looks after it."], 1) == ([one.text for one in receipt.replies], len(await keep.doubts("ada")))
        assert [] == await keep.dead_letters("ada")


async def test_what_cannot_be_guarded_is_refused() -> None:
    """Outside of a turn nothing is recorded; a plain function cannot wait; arguments have to be told apart."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    ran = []

    @keep.once
    async def tool(what: Any) -> None:
        ran.append(what)

    @keep.on_message
    async def bot(turn: Turn) -> str:
        await tool(object())
        return "never"

    async with keep:
        with pytest.raises(UsageError, match="outside of a turn"):
            await tool(1)
        with pytest.raises(HandlerFailed, match="an argument of tool cannot be recorded") as told:
            await keep.receive("ada", "hello")
    with pytest.raises(Misconfigured, match="async def"):
        keep.once(lambda: None)  # type: ignore[type-var]
    with pytest.raises(Misconfigured, match="async def"):
        keep.once(partial(tool, 1))  # two of them, with other arguments, would be one tool

    assert [] == ran
    assert "BadMessage" in str(told.value) or isinstance(told.value.__cause__, BadMessage)


@pytest.mark.parametrize(
    ("gave", "reason"),
    [
        (float("nan"), "is the number nan"),
        (object(), "cannot be recorded as JSON"),
        ("中" * 30_000, "takes 90,002 bytes as JSON, 65,536 are allowed"),
    ],
    ids=["no number", "no JSON", "too large"],
)
async def test_what_a_tool_gave_and_nobody_can_record_is_in_doubt(gave: Any, reason: str) -> None:
    """It was called: that is said, with how to go on, and it is not called again."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    ran = []

    @keep.once
    async def tool() -> Any:
        ran.append(1)
        return gave

    @keep.on_message
    async def bot(turn: Turn) -> str:
        return f"{await tool()}"

    async with keep:
        with pytest.raises(HandlerFailed, match=f"the result of tool {reason}") as told:
            await keep.receive("ada", "hello")
        (call,) = await keep.doubts("ada")
        await keep.settle("ada", call.name, done=True, result="receipt 42")
        await keep.replay("ada", 1)
        said: list[str] = []

        async def answered() -> bool:
            said[:] = [one.text async for one in keep.history("ada") if one.role == "assistant"]
            return bool(said)

        await until(answered)

    assert f"It was called, and what it gave is recorded nowhere: settle call {call.name} (`chatkeep settle`" in str(
        told.value
    )
    assert "Nothing was touched" not in str(told.value)
    assert (["receipt 42"], [1]) == (said, ran)


KILLED = """
import asyncio, os, sys
from chatkeep import Chatkeep

keep = Chatkeep(sys.argv[1], poll="50ms")

@keep.once
async def charge(amount):
    with open(sys.argv[2], "a") as file:
        print(amount, file=file)
    if amount == 7:
        os.kill(os.getpid(), 9)
    return amount

@keep.on_message
async def bot(turn):
    await charge(5)
    await charge(7)
    return "charged"

async def main():
    async with keep:
        await keep.receive("ada", "hello", id="m1")

asyncio.run(main())
"""


async def test_a_process_that_dies_inside_leaves_a_doubt(url: str, tmp_path: Path) -> None:
    """kill -9: the call before it is known, the one that had begun is not made again by whoever takes over."""
    if url.startswith("memory"):
        pytest.skip("nothing outlives the process")
    charges = tmp_path / "charges"
    died = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, url, str(charges))
    assert -9 == await asyncio.wait_for(died.wait(), 30)

    keep: Chatkeep[Any] = Chatkeep(url, **FAST)
    till = Till()

    @keep.once
    async def charge(amount: int) -> int:
        till.charged.append(amount)
        return amount

    @keep.on_message
    async def bot(turn: Turn) -> str:
        return f"charged {await charge(5) + await charge(7)}"

    async with keep:

        async def set_aside() -> bool:
            return bool(await keep.dead_letters("ada"))

        await until(set_aside, within=20)
        (doubt,) = await keep.doubts("ada")
        await keep.settle("ada", doubt.name, done=True, result=7)
        replay = await keep.replay("ada", 1)
        await until(lambda: answered(keep, "ada", replay.number))
        there = await keep.conversation("ada")

    assert there is not None
    assert ("charged 12", []) == (there.messages[-1].text, till.charged)
    assert ["5", "7"] == charges.read_text().split()


async def test_a_call_that_nobody_awaits_fails_its_turn(url: str) -> None:
    """The bot must not say that it was done; and a tool is a coroutine function for whoever asks, as it was before."""
    charged: list[int] = []
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)

    @keep.once
    async def charge(amount: int) -> int:
        charged.append(amount)
        return amount

    @keep.on_message
    async def bot(turn: Turn) -> str:
        charge(int(turn.text))  # type: ignore[unused-coroutine]
        return "charged"

    async with keep:
        if sys.version_info >= (3, 12):
            with pytest.raises(HandlerFailed, match=r"charge\(\.\.\.\) without awaiting it.*await charge"):
                await keep.receive("ada", "5")
        else:
            with pytest.warns(RuntimeWarning, match="charge' was never awaited"):
                await keep.receive("ada", "5")

    assert [] == charged
    assert inspect.iscoroutinefunction(charge)
    assert asyncio.iscoroutinefunction(charge)
