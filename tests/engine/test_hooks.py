"""What a handler says becomes replies that can be stored, or is refused at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from functools import partial, wraps
from typing import Any

import pytest

from chatkeep import Chatkeep, Delta, HandlerFailed, Instrument, Message, Misconfigured, Turn
from chatkeep.blocking import BlockingChatkeep
from chatkeep.channels import Webhook
from chatkeep.engine.hooks import MOST, collect_replies
from chatkeep.errors import BadMessage

from ..support.waiting import until

HALVES = "\ud83d", "\ude00"


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ("a\0b", "a�b"),
        ("half \ud83d", "half �"),
        ("".join(HALVES), "😀"),
        (
            [{"text": "a\0b", "x\0": [float("inf"), 10**30, (1, 2)]}],
            [{"text": "a�b", "x�": ["inf", str(10**30), [1, 2]]}],
        ),
    ],
)
async def test_a_reply_is_repaired_as_text_that_comes_in_is(opened: Any, said: Any, stored: Any, warm: bool) -> None:
    """By both ways, and also what `turn.reply` adds: nobody is left without an answer for the sake of a character."""

    async def bot(turn: Turn[Any]) -> Any:
        turn.reply(said)
        return said

    keep = await opened(bot)
    for _ in range(5 * warm):
        await keep.receive("bob", "hi")

    assert [stored] * 2 == [reply.content for reply in (await keep.receive("bob", "hi")).replies]
    assert [stored] * 2 == [m.content async for m in keep.history("bob") if m.role == "assistant"][-2:]


UNFIT: dict[str, Any] = {
    "a number": 3,
    "a Decimal in a part": [{"price": Decimal("1.5")}],
    "a key that is no text": [{1: "x"}],
    "10 MB": "x" * 10_000_000,
    "10 MB beyond ASCII": "é" * 5_000_000,
    "too many": ["x"] * 1000,
}


def test_of_too_many_replies_no_more_are_looked_at_than_there_may_be() -> None:
    """A million of them would hold everybody else up."""
    looked_at: list[int] = []

    class Counted(list[str]):
        def __iter__(self) -> Iterator[str]:
            for number in range(1_000_000):
                looked_at.append(number)
                yield "x"

    turn = Turn(tenant="", conversation="ada", session=1, state={}, messages=[], history=[])
    with pytest.raises(BadMessage, match="at most 400"):
        collect_replies(turn, [Counted(), Counted()])

    assert MOST + 1 == len(looked_at)


@pytest.mark.parametrize("url", ["memory", "redis"], indirect=True)  # (no reply comes as far as to a store)
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("what", UNFIT)
async def test_what_cannot_be_stored_fails_once(opened: Any, what: str, warm: bool, plain: bool) -> None:
    """The handler, which was paid for, would give the same again."""
    runs: list[str] = []

    def answer(turn: Turn[Any]) -> Any:
        runs.append(turn.text)
        return UNFIT[what] if turn.text == "bad" else "ok"

    async def bot(turn: Turn[Any]) -> Any:
        return answer(turn)

    keep = await opened(answer if plain else bot)
    for _ in range(5 * warm):
        await keep.receive("ada", "hi")
    with pytest.raises(HandlerFailed, match=r"ada.*set aside"):
        await keep.receive("ada", "bad")

    assert 1 == runs.count("bad")
    assert "ok" == (await keep.receive("ada", "good")).replies[0].text


async def test_a_stream_passes_over_none_and_joins_torn_characters(opened: Any) -> None:
    """What is shown while it is made is what is recorded."""

    async def bot(turn: Turn[Any]) -> AsyncIterator[Any]:
        for piece in (None, "Hel", "", "lo ", HALVES[0], None, HALVES[1], "\0", "\ude00", "!", HALVES[0]):
            yield piece

    keep = await opened(bot)
    await keep.create("ada")
    shown: list[Any] = []

    async def watch() -> None:
        async for event in keep.events("ada", after=0):
            shown.append(event)
            if isinstance(event, Message) and event.role == "assistant":
                return

    watching = asyncio.create_task(watch())
    receipt = await keep.receive("ada", "hi")
    await watching
    pieces = "".join(event.text for event in shown if isinstance(event, Delta))

    assert "Hello 😀��!�" == receipt.replies[0].text
    assert pieces in ("", "Hello 😀��!")


async def test_a_stream_of_another_type_is_refused_at_that_piece(opened: Any) -> None:
    """And once; its generator is closed."""
    made: list[Any] = []

    async def bot(turn: Turn[Any]) -> AsyncIterator[Any]:
        try:
            for piece in ("a", 7, "b", "c"):
                made.append(piece)
                yield piece
        finally:
            made.append("closed")

    keep = await opened(bot)
    with pytest.raises(HandlerFailed, match=r"yields text or a JSON part .a dict., not int"):
        await keep.receive("ada", "hi")

    assert ["a", 7, "closed"] == made


def no_turn() -> str:
    return "hi"


def too_many(turn: Turn[Any], more: str) -> str:
    return more


def plain_pieces(turn: Turn[Any]) -> Any:
    yield "hi"


class Pieces:
    """Yields its reply as no handler may."""

    def __call__(self, turn: Turn[Any]) -> Any:
        yield "hi"


class Callable:
    def __call__(self, turn: Turn[Any], *, more: str = "") -> str:
        return f"hi{more}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "not None"),
        ("hello", "not 'hello'"),
        (Callable, "not <class"),
        (no_turn, r"no_turn\(\) -> 'str' is called with the turn alone: too many positional"),
        (too_many, "called with the turn alone: missing a required argument: 'more'"),
        (plain_pieces, "plain_pieces yields, and what yields its reply is an `async def`"),
        (Pieces(), "Pieces yields, and what yields its reply is an `async def`"),
        (partial(Pieces()), "partial yields, and what yields its reply is an `async def`"),
    ],
)
@pytest.mark.parametrize("hook", ["on_message", "on_missing", "on_failure"])
def test_what_cannot_be_called_with_a_turn_is_refused_at_once(given: Any, said: str, hook: str) -> None:
    """And not by the first message that comes; with what to write."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    with pytest.raises(Misconfigured, match=f"{said}.*Write `async def bot"):
        getattr(keep, hook)(given)
    getattr(keep, hook)(partial(too_many, more="hi"))

    with pytest.raises(Misconfigured, match="already, and can have only one"):
        getattr(keep, hook)(Callable())


@dataclass
class Greeter:
    """A handler with settings of its own, and so one that has no hash."""

    greeting: str = "Hello"

    async def __call__(self, turn: Turn[Any]) -> str:
        return f"{self.greeting}, {turn.text}"


@dataclass(slots=True)
class SlowGreeter:
    """The same, piece by piece; nothing can refer to it weakly."""

    greeting: str = "Hello"

    async def __call__(self, turn: Turn[Any]) -> AsyncIterator[str]:
        yield self.greeting
        yield f", {turn.text}"


@pytest.mark.parametrize("handler", [Greeter(), partial(Greeter()), SlowGreeter(), partial(SlowGreeter())])
async def test_an_object_may_be_a_handler(opened: Any, handler: Any) -> None:
    """What its `__call__` is, its handler is: also one that yields."""
    keep = await opened(handler)

    assert ["Hello, Ada"] == [reply.text for reply in (await keep.receive("ada", "Ada")).replies]


async def test_a_handler_may_be_given_more_by_what_it_is_wrapped_in(opened: Any) -> None:
    """It is called with the turn alone all the same, whatever the function inside takes."""

    def with_name(function: Any) -> Any:
        @wraps(function)
        async def named(turn: Turn[Any]) -> str:
            return str(await function(turn, "Ada"))

        return named

    @with_name
    async def bot(turn: Turn[Any], name: str) -> str:
        return f"{turn.text}, {name}"

    keep = await opened(bot)

    assert "hello, Ada" == (await keep.receive("ada", "hello")).replies[0].text


def passed_on(function: Any) -> Any:
    """A decorator as people write it: its own function is a plain one."""

    @wraps(function)
    def passing(turn: Turn[Any]) -> Any:
        return function(turn)

    return passing


class Answers:
    async def __call__(self, turn: Turn[Any]) -> str:
        return f"re {turn.text}, {await turn.step('one', asyncio.sleep, 0, 1)}"


class Pieces:
    """Yields the second piece when the first one was shown."""

    def __init__(self) -> None:
        self.shown = asyncio.Event()

    async def __call__(self, turn: Turn[Any]) -> AsyncIterator[str]:
        yield "re "
        await self.shown.wait()
        yield turn.text


WAYS: dict[str, Any] = {
    "an object": lambda given: given,
    "a partial": partial,
    "a decorator": lambda given: passed_on(given.__call__),
    "a lambda": lambda given: lambda turn: given(turn),
    "a decorated object": passed_on,
}


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (a store does not see how)
@pytest.mark.parametrize("way", WAYS)
async def test_an_async_handler_may_be_written_in_other_ways(opened: Any, way: str) -> None:
    """What runs in the end is a coroutine, and steps are there."""
    keep = await opened(WAYS[way](Answers()))

    assert "re hello, 1" == (await keep.receive("ada", "hello")).replies[0].text


@pytest.mark.parametrize("url", ["memory"], indirect=True)
@pytest.mark.parametrize("yields", [False, True])
async def test_an_async_handler_sees_what_a_plain_decorator_has_set(opened: Any, yields: bool) -> None:
    """As where one is called by the other in the same thread, which here is not so."""
    user = ContextVar("user", default="nobody")

    async def answer(turn: Turn[Any]) -> str:
        return user.get()

    async def pieces(turn: Turn[Any]) -> AsyncIterator[str]:
        yield user.get()

    def named(function: Any) -> Any:
        def naming(turn: Turn[Any]) -> Any:
            user.set(turn.conversation)
            return function(turn)

        return naming

    keep = await opened(named(pieces if yields else answer))

    assert ["ada"] == [reply.text for reply in (await keep.receive("ada", "hello")).replies]
    assert "nobody" == user.get()


@pytest.mark.parametrize("url", ["memory"], indirect=True)  # (a store does not see how)
@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("a lambda", "a decorated object")])
async def test_a_handler_that_yields_may_be_written_in_other_ways(opened: Any, way: str) -> None:
    """And its reply is shown while it is made."""
    pieces = Pieces()
    keep = await opened(WAYS[way](pieces))
    await keep.create("ada")

    async def watch() -> None:
        async for event in keep.events("ada", after=0):
            if isinstance(event, Delta):
                pieces.shown.set()

    watching = asyncio.create_task(watch())
    receipt = await keep.receive("ada", "hello")
    watching.cancel()

    assert ["re hello"] == [reply.text for reply in receipt.replies]


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_what_a_lambda_gives_to_be_yielded_is_one_reply(opened: Any) -> None:
    """Nobody can see beforehand that it streams; whole it is there all the same."""
    pieces = Pieces()
    pieces.shown.set()
    keep = await opened(lambda turn: pieces(turn))

    assert ["re hello"] == [reply.text for reply in (await keep.receive("ada", "hello")).replies]


async def test_a_reply_that_was_not_awaited_is_told_so(opened: Any) -> None:
    """A coroutine, or the like, is what a handler returns that forgot the word."""

    async def bot(turn: Turn[Any]) -> Any:
        return asyncio.get_running_loop().create_future()

    keep = await opened(bot)
    with pytest.raises(HandlerFailed, match=r"not _?Future; await what is returned"):
        await keep.receive("ada", "hello")


class Clicks(Instrument):
    pass


@pytest.mark.parametrize(
    ("given", "said"),
    [(object(), "object is no instrument: it lacks arrival"), (Clicks, "Clicks is a class; an instrument is")],
)
async def test_what_is_no_instrument_is_refused_when_the_chatkeep_is_opened(given: Any, said: str) -> None:
    """Nothing is opened; without it all is well."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.instruments.append(given)
    with pytest.raises(Misconfigured, match=said):
        await keep.open()
    keep.instruments[:] = [Clicks()]
    async with keep:
        assert await keep.conversation("ada") is None


@pytest.mark.parametrize("name", ["turn", "arrival"])
async def test_an_instrument_that_surrounds_nothing_is_named(name: str) -> None:
    """With what it has to return. No message is set aside for it: once it is mended they are answered."""
    keep: Chatkeep[Any] = Chatkeep("memory://")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return turn.text

    clicks = Clicks()
    setattr(clicks, name, lambda seen: None)
    keep.instruments.append(clicks)
    said = rf"Clicks\.{name} of an instrument returned None.*contextmanager"
    async with keep:
        with pytest.raises((TypeError, HandlerFailed), match=said):
            await keep.receive("ada", "hello", id="m1")
        assert [] == await keep.dead_letters("ada")
        delattr(clicks, name)

        if name == "arrival":  # (of the other one the message is in the log, and is tried again by itself)
            await keep.accept("ada", "hello", id="m1")

        async def is_answered() -> bool:
            return [2] == [message.number async for message in keep.history("ada", after=1)]

        await until(is_answered)


def test_a_channel_that_is_given_for_an_outlet_is_refused() -> None:
    """With how it is put into one."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    with pytest.raises(Misconfigured, match=r"Webhook is no outlet: it lacks close, .*ChannelOutlet\(channel\)"):
        keep.deliver(Webhook("shop", secrets="whsec_" + "A" * 43 + "="))  # type: ignore[arg-type]


def test_upgrades_that_would_never_run_are_refused() -> None:
    """Their author has forgotten to count `schema` up; one that only looks reads any schema."""
    with pytest.raises(Misconfigured, match="schema=1: upgrades end at 0, and that from 1 leads to schema=2"):
        Chatkeep("memory://", upgrades={1: dict})
    Chatkeep("memory://", schema=0, upgrades={1: dict})


@pytest.mark.parametrize("name", ["on_message", "on_missing", "on_failure"])
def test_a_decorator_with_parentheses_is_told_how_it_is_written(name: str) -> None:
    """It is the first mistake that many make; Python's own words name an argument that is missing."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    with pytest.raises(Misconfigured, match=r"without parentheses: @keep\.on_message.*Nothing was decorated"):
        getattr(keep, name)()


async def test_what_is_printed_says_what_it_is_where_and_whether_it_is_open() -> None:
    """In a debugger, or where somebody has printed the wrong thing; without the password."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    closed = repr(keep)
    async with keep:
        shown = [repr(one) for one in (keep, keep.tenant("salon"), keep.user("ada"))]
    blocking = BlockingChatkeep(keep)

    assert "<Chatkeep, memory://, not open>" == closed
    assert "<Chatkeep, memory://, open>" == shown[0]
    assert ["<Tenant 'salon', memory://, open>", "<User 'ada' of tenant '', memory://, open>"] == shown[1:]
    assert ("<BlockingChatkeep, memory://, not open>", "<BlockingUser 'ada'") == (
        repr(blocking),
        repr(blocking.user("ada"))[:19],
    )
    assert "kim:***@" in repr(Chatkeep("postgresql://kim:se@cret@127.0.0.1/db"))
