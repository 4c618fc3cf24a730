"""Whoever watches a conversation sees all of its log, in order, and what a turn says while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatkeep import Turn
from chatkeep.app import core_of
from chatkeep.engine.watch import Watch
from chatkeep.model import Delta, Erased, Event, Failing, Message, SetAside, StateChanged, Typing

from ..support.waiting import nothing_happens_for

ANNOUNCING = ("memory", "redis", "postgresql")


async def echo(turn: Turn[Any]) -> str:
    """Says it again."""
    turn.state["last"] = turn.text
    return f"you said {turn.text}"


class Teller:
    """A bot that streams what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str | None] = asyncio.Queue()
        self.failures = 0

    async def bot(self, turn: Turn[Any]) -> AsyncIterator[str]:
        """Streams until None; "!" is a failure."""
        while (word := await self.words.get()) is not None:
            if word == "!":
                raise RuntimeError("lost the thread")
            yield word

    def say(self, *words: str | None) -> None:
        """Lets the bot say *words*."""
        for word in words:
            self.words.put_nowait(word)


async def seen(watch: Watch, wanted: int, *, within: float = 10.0) -> list[Event]:
    """The next *wanted* events, at least."""
    events: list[Event] = []
    async with asyncio.timeout(within):
        while len(events) < wanted:
            events += await watch.next(within) or []
    return events


def said(events: list[Event]) -> list[str]:
    """The texts of the messages among *events*."""
    return [event.text for event in events if isinstance(event, Message)]


async def test_a_watcher_sees_the_log_the_state_and_nothing_twice(opened: Any) -> None:
    """From now on, from a number on, and with `follow` as a plain loop."""
    keep = await opened(echo)
    await keep.receive("ada", "one", id="m1")
    async with core_of(keep).watch("", "ada") as now, core_of(keep).watch("", "ada", after=1) as later:
        await keep.receive("ada", "two", id="m2")
        await keep.receive("ada", "three", id="m3")
        first, second = await seen(now, 5), await seen(later, 6)

        assert ["two", "you said two", "three", "you said three"] == said(first)
        assert ["you said one", *said(first)] == said(second)
        assert [b'{"last":"three"}'] == [bytes(event.state) for event in first if isinstance(event, StateChanged)][-1:]
        assert [] == await now.next(0.05)
        for found in (first, second):
            kinds = [
                type(event).__name__ for event in found if not (isinstance(event, Message) and event.role == "user")
            ]
            assert "StateChanged" == kinds[0], "the state is told before the reply that it was recorded with"
    followed = []
    async for event in keep.events("ada", after=0):
        followed += said([event])
        if len(followed) == 6:
            break

    assert ["one", "you said one", "two", "you said two", "three", "you said three"] == followed


async def test_a_long_log_is_given_page_by_page_and_whole(opened: Any) -> None:
    """More than any window or page."""
    keep = await opened()
    for n in range(1, 451):
        await keep.accept("ada", f"{n}", role="operator")
    async with core_of(keep).watch("", "ada", after=0) as watch:
        events = await seen(watch, 450)

    assert [f"{n}" for n in range(1, 451)] == said(events)


async def test_a_conversation_that_is_not_there_yet_can_be_watched(opened: Any) -> None:
    """And its end is told."""
    keep = await opened(echo)
    async with core_of(keep).watch("", "ada") as watch:
        assert [] == await watch.next(0.02)
        await keep.receive("ada", "hi", id="m1")

        assert ["hi", "you said hi"] == said(await seen(watch, 2))
        await keep.erase("ada")

        assert [Erased()] == await seen(watch, 1)
        assert None is await watch.next(1.0)


async def test_closing_ends_every_watch(opened: Any) -> None:
    """So that a server can stop."""
    keep = await opened(echo)
    async with core_of(keep).watch("", "ada") as watch:
        waiting = asyncio.create_task(watch.next(30.0))
        await nothing_happens_for(0.02)
        await keep.close()

        assert None is await asyncio.wait_for(waiting, 5.0)
    assert 0 == keep._engine.watches.watching


async def test_a_reply_is_streamed_and_recorded_whole(opened: Any) -> None:
    """Pieces as they are made; who comes in the middle gets all so far; the message replaces them."""
    teller = Teller()
    keep = await opened(teller.bot)
    async with core_of(keep).watch("", "ada") as watch:
        await keep.accept("ada", "tell me", id="m1")
        teller.say("Once ", "upon ")
        events: list[Event] = []
        while not any(isinstance(event, Delta) and event.text.endswith("upon ") for event in events):
            events += await seen(watch, 1)
        async with core_of(keep).watch("", "ada") as joined:
            caught_up = await seen(joined, 2)
            teller.say("a time.", None)
            rest, joined_rest = await seen(watch, 2), await seen(joined, 2)

    assert ["tell me"] == said(events)
    assert "Once upon " == "".join(event.text for event in events if isinstance(event, Delta))
    (reply,) = {event.reply for event in events if isinstance(event, Delta)}
    assert [Typing(True), Delta("m1", 0, "Once upon ", reply)] == caught_up
    for found in (rest, joined_rest):
        assert ["Once upon a time."] == said(found)
        assert [Typing(False)] == [event for event in found if isinstance(event, Typing)]
        assert {10} >= {event.at for event in found if isinstance(event, Delta)}
    assert ["tell me", "Once upon a time."] == [m.text for m in (await keep.conversation("ada")).messages]


@pytest.mark.parametrize("url", ANNOUNCING, indirect=True)
async def test_another_instance_sees_it_all(opened: Any) -> None:
    """The log at once, and a streamed reply while it is made, whoever comes when."""
    teller = Teller()
    works, shows = await opened(teller.bot, poll="10s"), await opened(None, poll="10s")
    async with core_of(shows).watch("", "ada") as early:
        await works.accept("ada", "tell me", id="m1")
        teller.say("Once ")
        events: list[Event] = []
        while not any(isinstance(event, Delta) for event in events):
            events += await seen(early, 1, within=5.0)
        teller.say("upon " * 500)
        async with core_of(shows).watch("", "ada") as late:
            text = ""
            while len(text) < 2505:
                for event in await seen(late, 1, within=5.0):
                    if isinstance(event, Delta):
                        text = text[: event.at] + event.text
            teller.say("a time.", None)
            rest = await seen(late, 2, within=5.0)
            while not said(rest):
                rest += await seen(late, 1, within=5.0)

    assert ["tell me"] == said(events)
    assert "Once " + "upon " * 500 == text
    assert ["Once " + "upon " * 500 + "a time."] == said(rest)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_without_announcements_the_log_is_asked_for(opened: Any) -> None:
    """Another Chatkeep on the same file writes: it is seen within seconds."""
    one, two = await opened(echo), await opened(None)
    async with core_of(two).watch("", "ada") as watch:
        await one.receive("ada", "hi", id="m1")

        assert ["hi", "you said hi"] == said(await seen(watch, 2, within=8.0))


@pytest.mark.parametrize("url", ANNOUNCING, indirect=True)
@pytest.mark.slow
async def test_a_watcher_is_told_that_the_handler_fails_and_how_that_ends(opened: Any) -> None:
    """On another instance: after each attempt, when the next one is made; and that it fails no more, or that the message was set aside."""
    faults = 2

    async def bot(turn: Turn[Any]) -> str:
        nonlocal faults
        if faults:
            faults -= 1
            raise RuntimeError("the model is away")
        return "at last"

    works, shows = (
        await opened(bot, retry_after="300ms", retry_longest="1s", attempts=3),
        await opened(None, poll="10s"),
    )
    async with core_of(shows).watch("", "ada") as watch:
        await works.accept("ada", "hello", id="m1")
        events: list[Event] = []
        while "at last" not in said(events):
            events += await seen(watch, 1)
        answered = await works.answering("ada")
        faults = 3
        await works.accept("ada", "again", id="m2")
        more: list[Event] = []
        while not any(isinstance(event, SetAside) for event in more):
            more += await seen(watch, 1)
        async with core_of(shows).watch("", "ada", after=3) as late:
            rest = await seen(late, 1)

    told = [event for event in events if isinstance(event, Failing)]
    assert {1} == {one.number for one in told}
    assert 0 == told[-1].attempts < told[-2].attempts <= 2
    assert told[0].retry_at > 1e9
    assert answered.failing is None
    assert [SetAside(3)] == [event for event in more if isinstance(event, SetAside)]
    assert 0 == [event for event in more if isinstance(event, Failing)][-1].attempts
    assert SetAside(3) in rest


async def test_who_comes_back_is_told_whether_the_handler_still_fails(opened: Any) -> None:
    """A change of that is in no log, so a watch that goes on begins with it."""
    watched = asyncio.Event()

    async def bot(turn: Turn[Any]) -> str:
        await watched.wait()
        raise RuntimeError("the model is away")

    keep = await opened(bot, retry_after="1m", attempts=3)
    await keep.accept("ada", "hello", id="m1")
    async with core_of(keep).watch("", "ada", after=1) as watch:
        watched.set()
        first = [event for event in await seen(watch, 1) if isinstance(event, Failing)]
        while not first:
            first = [event for event in await seen(watch, 1) if isinstance(event, Failing)]
        await keep.stop("ada")
    later = core_of(keep).watch("", "ada", after=1)
    await later.open(returns=True)
    back = await seen(later, 1)
    later.close()

    assert 1 == first[0].attempts
    assert [Failing(0)] == [event for event in back if isinstance(event, Failing)]


async def test_a_watcher_far_behind_is_given_a_page_at_a_time(opened: Any) -> None:
    """By the bytes of its messages and not by their number: what is not read yet is held for each watcher."""
    keep = await opened(echo)
    for number in range(40):
        await keep.accept("ada", f"{number}: {'x' * 200_000}")
    pages: list[list[Event]] = []
    async with core_of(keep).watch("", "ada", after=0) as watch:
        while sum(map(len, map(asked, pages))) < 40:
            pages.append(await watch.next(10.0) or [])

    texts = [text.partition(":")[0] for page in pages for text in asked(page)]
    assert [str(number) for number in range(40)] == texts
    assert max(sum(map(len, asked(page))) for page in pages) < 1_300_000


def asked(events: list[Event]) -> list[str]:
    """What users said in *events*."""
    return [event.text for event in events if isinstance(event, Message) and event.role == "user"]
