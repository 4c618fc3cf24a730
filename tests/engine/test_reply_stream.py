"""Streamed replies that can be stopped, from anywhere, and what is known of them meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatkeep import Answering, BadMessage, Delta, HandlerFailed, Message, NotWaiting, PartSaid, Turn

from ..support.counting import answered
from ..support.waiting import takes, until


class Talker:
    """A bot that says word after word until it is stopped; *runs* has what each run was told of earlier ones."""

    def __init__(self, words: int = 500, pause_s: float = 0.02) -> None:
        self.words, self.pause_s = words, pause_s
        self.runs: list[str] = []
        self.ended = 0

    async def bot(self, turn: Turn[Any]) -> AsyncIterator[str]:
        """Counts on from what was said."""
        self.runs.append(turn.said)
        try:
            for n in range(len(turn.said.split()), self.words):
                yield f"{turn.text}{n} "
                await takes(self.pause_s)
        finally:
            self.ended += 1


async def told(keep: Any, conversation: str, events: list[Any]) -> None:
    """Put what happens in *conversation* into *events*."""
    async for event in keep.events(conversation, after=0):
        events += [event]


async def has(keep: Any, conversation: str, messages: int) -> bool:
    """Whether so many messages are in the log."""
    found = await keep.conversation(conversation)
    return found is not None and found.head >= messages


def shown(events: list[Any]) -> str:
    """The text that *events* have shown piece by piece; no piece comes twice."""
    text = ""
    for event in events:
        if isinstance(event, Delta):
            assert len(text) == event.at, "a piece was shown again, or left out"
            text += event.text
    return text


async def test_a_reply_is_stopped_from_another_instance_and_kept(opened: Any) -> None:
    """What was shown is the beginning of what is kept; the handler ends; the next message is answered."""
    talker = Talker()
    works, other = await opened(talker.bot), await opened(None)
    events: list[Any] = []
    watching = asyncio.create_task(told(other, "ada", events))
    await works.accept("ada", "a", id="m1")
    await until(lambda: len(shown(events)) > 20, within=15.0)
    running = await other.answering("ada")
    stopped = await other.stop("ada")
    await until(lambda: talker.ended == 1)
    await until(lambda: any(isinstance(event, Message) and event.role == "assistant" for event in events), within=15.0)

    (reply_id,) = {event.reply for event in events if isinstance(event, Delta)}
    assert Answering("running", 1, reply_id) == running
    assert stopped.stopped
    assert (reply_id, {"stopped": True}, 1) == (stopped.reply.id, stopped.reply.metadata, stopped.reply.reply_to)
    assert stopped.reply.text == shown(events), "the last pieces come before the message"
    assert Answering("idle") == await other.answering("ada")
    assert not (await other.stop("ada")).stopped
    again = await works.receive("ada", "a", id="m1")
    assert (True, [stopped.reply]) == (again.duplicate, again.replies)
    talker.words = 3
    assert "b0 b1 b2 " == (await works.receive("ada", "b", id="m2")).replies[0].text
    assert [""] * 2 == talker.runs
    watching.cancel()


async def test_a_handler_that_never_waits_holds_up_nobody(opened: Any) -> None:
    """It takes its pieces from a client that is not asynchronous: they are shown as they come, and others are answered."""
    go_on = threading.Event()

    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        yield turn.text
        for _ in range(100 if turn.text == "long" else 0):
            yield "."
            go_on.wait(0.05)

    keep, events = await opened(bot, background=True), list[Any]()
    watching = asyncio.create_task(told(keep, "ada", events))
    asked = asyncio.create_task(keep.receive("ada", "long"))
    await until(lambda: any(isinstance(event, Delta) for event in events))
    assert not asked.done()
    receipt = await keep.receive("bob", "short")
    assert not asked.done()
    go_on.set()
    await asked
    watching.cancel()

    assert "short" == receipt.replies[0].text


async def test_a_stop_before_anything_is_said_passes_the_message_over(opened: Any) -> None:
    """Also for a handler that does not stream: it is cancelled, its caller is told, what waits behind it is answered."""
    ended: list[str] = []

    async def bot(turn: Turn[Any]) -> str:
        try:
            if turn.text == "slow":
                await asyncio.Event().wait()
        finally:
            ended.append(turn.text)
        return turn.text

    keep = await opened(bot, quick="0s")
    slow = asyncio.create_task(keep.receive("ada", "slow", id="m1"))
    await until(lambda: keep.statistics.engine.workers == 1)
    quick = asyncio.create_task(keep.receive("ada", "quick", id="m2"))
    await until(lambda: has(keep, "ada", 2))
    stopped = await keep.stop("ada")

    assert (True, None) == (stopped.stopped, stopped.reply)
    assert "dropped" == (await slow).status
    assert "quick" == (await quick).replies[0].text
    assert ["slow", "quick"] == ended


async def test_another_message_interrupts(opened: Any) -> None:
    """overlap="interrupt": what was said stays, the handler ends, the newer message is answered and has it in its history."""
    talker, histories = Talker(), []

    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        histories.append([message.text for message in turn.history])
        async for piece in talker.bot(turn):
            yield piece

    keep = await opened(bot, overlap="interrupt")
    events: list[Any] = []
    watching = asyncio.create_task(told(keep, "ada", events))
    await keep.accept("ada", "a", id="m1")
    await until(lambda: len(shown(events)) > 5)
    talker.words = 2
    receipt = await keep.receive("ada", "b", id="m2")
    log = (await keep.conversation("ada")).messages

    assert "b0 b1 " == receipt.replies[0].text
    assert ["a", "b", log[2].text, "b0 b1 "] == [message.text for message in log]
    assert ({"stopped": True}, 1) == (log[2].metadata, log[2].reply_to)
    assert log[2].text.startswith("a0 a1 ")
    assert [[], ["a", log[2].text]] == histories
    watching.cancel()


async def test_who_answers_is_one_call(opened: Any) -> None:
    """Idle, running, waiting, set aside and paused, each as it is."""
    go = asyncio.Event()

    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "bad":
            raise ValueError("no")
        await go.wait()
        return "ok"

    keep = await opened(bot, attempts=1, quick="0s")

    assert Answering("idle") == await keep.answering("ada")
    await keep.accept("ada", "good", id="m1")
    await until(lambda: keep.statistics.engine.workers == 1)
    assert Answering("running", 1) == await keep.answering("ada")
    go.set()
    await keep.receive("ada", "good", id="m1")
    assert Answering("idle") == await keep.answering("ada")
    await keep.accept("ada", "bad", id="m2")
    await until(lambda: keep.statistics.engine.dead == 1)
    found = await keep.answering("ada")
    assert Answering("set aside", found.number) == found
    await keep.save("ada", messages=[{"id": "s1", "content": "said elsewhere"}])
    assert found == await keep.answering("ada")
    await keep.pause("ada")
    assert Answering("paused") == await keep.answering("ada")
    await keep.accept("ada", "good", id="m3")
    assert "paused" == (await keep.answering("ada")).status
    await keep.accept("bob", "good")
    await until(lambda: answered(keep, "bob", 1))
    assert Answering("idle") == await keep.answering("bob")


async def test_a_handler_that_fails_in_the_middle_goes_on_from_what_was_said(opened: Any) -> None:
    """It is told in `turn.said`; nobody is shown a piece again, and nothing says that it was interrupted."""
    runs: list[str] = []
    events: list[Any] = []

    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        runs.append(turn.said)
        for n in range(len(turn.said.split()), 6):
            yield f"{n} "
            await until(lambda n=n: f"{n} " in shown(events), within=15.0)
            if n in (2, 4):
                raise ConnectionError("the model has gone")

    keep = await opened(bot, attempts=5)
    watching = asyncio.create_task(told(keep, "ada", events))
    receipt = await keep.receive("ada", "hi", id="m1")

    assert ["", "0 1 2 ", "0 1 2 3 4 "] == runs
    assert [("0 1 2 3 4 5 ", {})] == [(reply.text, reply.metadata) for reply in receipt.replies]
    assert "0 1 2 3 4 5 ".startswith(shown(events))
    watching.cancel()


async def test_a_handler_that_does_not_look_at_what_was_said_says_no_more(opened: Any) -> None:
    """Its reply ends where it failed, and the next message is answered; a failure before anything was shown is tried again."""
    runs: list[str] = []
    events: list[Any] = []

    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        runs.append(turn.text)
        if len(runs) == 1:
            raise ConnectionError("too early")
        yield "Once "
        if turn.text == "a":
            await until(lambda: shown(events), within=15.0)
            raise ConnectionError("the model has gone")
        yield "more"

    keep = await opened(bot, attempts=5)
    watching = asyncio.create_task(told(keep, "ada", events))
    first = await keep.receive("ada", "a", id="m1")
    watching.cancel()
    second = await keep.receive("ada", "b", id="m2")

    assert ["a", "a", "b"] == runs
    assert [("Once ", {"interrupted": True})] == [(reply.text, reply.metadata) for reply in first.replies]
    assert [("Once more", {})] == [(reply.text, reply.metadata) for reply in second.replies]
    assert not (await keep.conversation("ada")).dead


async def half_said(opened: Any, **options: Any) -> Any:
    """A Chatkeep that has closed in the middle of a reply: "0 1 2 " was said of it."""
    events: list[Any] = []

    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        if not turn.said:
            yield "0 1 2 "
        await asyncio.Event().wait()

    keep = await opened(bot, **options)
    watching = asyncio.create_task(told(keep, "ada", events))
    await keep.accept("ada", "hi", id="m1")
    await until(lambda: shown(events) == "0 1 2 ", within=15.0)
    watching.cancel()
    return keep


async def test_closing_waits_for_a_reply_that_is_being_made(opened: Any) -> None:
    """As long as its handler may take; what came behind it is left to others."""
    talker, events = Talker(words=20), list[Any]()
    keep = await opened(talker.bot)
    watching = asyncio.create_task(told(keep, "ada", events))
    await keep.accept("ada", "", id="m1")
    await keep.accept("ada", "", id="m2")
    await until(lambda: shown(events), within=15.0)
    watching.cancel()
    await keep.close()
    other = await opened(Talker(words=20).bot)
    first, second = [await other.receive("ada", "", id=id) for id in ("m1", "m2")]
    whole = "".join(f"{n} " for n in range(20))

    assert [""] == talker.runs
    assert [(whole, {})] == [(reply.text, reply.metadata) for reply in first.replies]
    assert [whole] == [reply.text for reply in second.replies]


@pytest.mark.parametrize("way", ["unaware", "close", "plain", "aware"])
async def test_another_instance_ends_the_reply_or_goes_on(opened: Any, way: str) -> None:
    """As the setting says, and as the handler can; a handler that does not stream any more cannot go on."""
    before = await half_said(opened, turn_timeout="300ms", attempts=9, retry_after="1s")
    await before.close()
    runs = []

    async def streams(turn: Turn[Any]) -> AsyncIterator[str]:
        runs.append(turn.said if way in ("aware", "close") else "")
        yield "3 4 "

    async def plain(turn: Turn[Any]) -> str:
        runs.append("")
        return "3 4 "

    keep = await opened(
        plain if way == "plain" else streams, interrupted="close" if way == "close" else "continue", attempts=9
    )
    receipt = await keep.receive("ada", "hi", id="m1")

    whole = ("0 1 2 3 4 ", {}) if way == "aware" else ("0 1 2 ", {"interrupted": True})
    assert [whole] == [(reply.text, reply.metadata) for reply in receipt.replies]
    assert {"aware": ["0 1 2 "], "unaware": [""]}.get(way, []) == runs


async def test_what_was_said_stays_when_a_message_is_set_aside(opened: Any) -> None:
    """It was shown; the reason and what the user is told instead come with it."""
    events: list[Any] = []

    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        if not turn.said:
            yield "Well, "
        await until(lambda: shown(events), within=15.0)
        raise ConnectionError("the model has gone")

    keep = await opened(bot, attempts=2, failure_reply="Sorry.")
    watching = asyncio.create_task(told(keep, "ada", events))
    await keep.accept("ada", "hi", id="m1")
    await until(lambda: keep.statistics.engine.dead == 1, within=15.0)
    watching.cancel()
    replies = [message async for message in keep.history("ada") if message.role == "assistant"]

    assert [("Well, ", {"interrupted": True}), ("Sorry.", {})] == [(reply.text, reply.metadata) for reply in replies]
    assert [1] == (await keep.conversation("ada")).dead


async def test_parts_are_shown_and_recorded_in_their_order(opened: Any) -> None:
    """Text and reasoning grow, the others come whole; all are the parts of one reply."""
    events: list[Any] = []
    call = {"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"city": "Graz"}}
    result = {"type": "tool_result", "id": "c1", "name": "weather", "result": {"celsius": 21}}
    source = {"type": "source", "url": "https://example.com", "title": "Weather"}
    file = {"type": "file", "url": "https://example.com/a.png", "media_type": "image/png"}

    async def bot(turn: Turn[Any]) -> AsyncIterator[Any]:
        yield {"type": "reasoning", "reasoning": "The weather "}
        await until(lambda: parts_shown(events), within=15.0)
        yield {"type": "reasoning", "reasoning": "in Graz."}
        yield call
        yield result
        yield "21 "
        yield "degrees."
        yield source
        yield file
        await until(lambda: len(parts_shown(events)) == 6, within=15.0)
        assert "21 degrees." == turn.said
        assert 6 == len(turn.said_parts)

    keep = await opened(bot)
    watching = asyncio.create_task(told(keep, "ada", events))
    receipt = await keep.receive("ada", "hi", id="m1")
    watching.cancel()
    reasoning = {"type": "reasoning", "reasoning": "The weather in Graz."}
    whole = [reasoning, call, result, {"type": "text", "text": "21 degrees."}, source, file]

    assert [whole] == [reply.content for reply in receipt.replies]
    assert whole == parts_shown(events)
    assert "21 degrees." == receipt.replies[0].text


def parts_shown(events: list[Any]) -> list[Any]:
    """The parts of a reply as *events* have shown them."""
    parts: list[Any] = []
    for event in events:
        if not isinstance(event, Delta | PartSaid):
            continue
        content = {"type": "text", "text": event.text} if isinstance(event, Delta) else event.content
        if event.part == len(parts):
            parts.append(dict(content))
        else:
            kind = content["type"]
            assert parts[event.part]["type"] == kind
            if isinstance(event, PartSaid):
                assert event.at == len(parts[event.part][kind])
            parts[event.part][kind] += content[kind]
    return parts


@pytest.mark.parametrize(
    "piece", [7, {"no": "type"}, {"type": "text"}, {"type": "reasoning", "reasoning": 1}, {"type": 1}]
)
async def test_a_piece_that_is_none_is_refused(opened: Any, piece: Any) -> None:
    """At once, and for good: another run would yield the same."""

    async def bot(turn: Turn[Any]) -> AsyncIterator[Any]:
        yield piece

    keep = await opened(bot)
    with pytest.raises(HandlerFailed, match="BadMessage"):
        await keep.receive("ada", "hi")

    assert 1 == keep.statistics.engine.failures


async def test_a_framework_s_own_kind_of_text_is_text(opened: Any) -> None:
    """Pieces of a class that is made of text, and parts that hold such: what is said of them is the same."""

    class OwnText(str):
        """As frameworks have it that answer with an object for text."""

    async def bot(turn: Turn[Any]) -> AsyncIterator[Any]:
        for piece in ("To ", "Ro\ud83d", "\ude00", "me"):
            yield OwnText(piece)
        if turn.text == "parts":
            yield {"type": OwnText("reasoning"), "reasoning": OwnText("why")}

    keep = await opened(bot)

    assert ["To Ro😀me"] == [reply.content for reply in (await keep.receive("ada", "text")).replies]
    said = [{"type": "text", "text": "To Ro😀me"}, {"type": "reasoning", "reasoning": "why"}]
    assert [said] == [reply.content for reply in (await keep.receive("ada", "parts")).replies]


async def test_a_message_that_is_amended_twice_at_once_is_amended_once(opened: Any) -> None:
    """From two instances: the same content is the same amendment, of two different ones the second is refused."""
    go = asyncio.Event()

    async def bot(turn: Turn[Any]) -> str:
        await go.wait()
        return f"heard {turn.text}"

    works, other = await opened(bot, quick="0s"), await opened(None)
    for n, text in enumerate(("one", "two", "three"), 1):
        await works.accept("ada", text, id=f"m{n}")
    same = await asyncio.gather(works.amend("ada", 2, "zwei"), other.amend("ada", 2, "zwei"))
    differ = await asyncio.gather(works.amend("ada", 3, "drei"), other.amend("ada", 3, "trois"), return_exceptions=True)
    waiting = (await other.conversation("ada")).waiting
    go.set()

    assert 1 == len({receipt.number for receipt in same})
    assert [False, True] == sorted(receipt.duplicate for receipt in same)
    assert [NotWaiting] == [type(one) for one in differ if isinstance(one, BaseException)]
    assert 3 == len(waiting)


async def test_what_waits_while_the_bot_is_paused_can_be_taken_back(opened: Any) -> None:
    """Though somebody still has the conversation: what its turn says now is not said."""
    go, runs = asyncio.Event(), []

    async def bot(turn: Turn[Any]) -> str:
        runs.append(turn.text)
        await go.wait()
        return f"heard {turn.text}"

    keep = await opened(bot, quick="0s")
    await keep.accept("ada", "one", id="m1")
    await until(lambda: runs)
    await keep.pause("ada")
    await keep.withdraw("ada", 1)
    go.set()
    await keep.resume("ada")

    assert ["heard two"] == [reply.text for reply in (await keep.receive("ada", "two", id="m2")).replies]
    assert ["heard two"] == [m.text async for m in keep.history("ada") if m.role == "assistant"]


async def test_messages_that_wait_are_seen_withdrawn_and_amended(opened: Any) -> None:
    """From any instance; the turn that runs goes on, what it answers cannot be taken back, and nothing of the old text is left."""
    go, runs = asyncio.Event(), []

    async def bot(turn: Turn[Any]) -> str:
        runs.append([turn.text, *(message.text for message in turn.history if message.role == "user")])
        await go.wait()
        return f"heard {turn.text}"

    works, other = await opened(bot, quick="0s"), await opened(None)
    await works.accept("ada", "one", id="m1")
    await until(lambda: runs)
    for n, text in enumerate(("two", "three", "four"), 2):
        await works.accept("ada", text, id=f"m{n}", metadata={"from": text})
    waiting = (await other.conversation("ada")).waiting
    await other.withdraw("ada", 2)
    await other.withdraw("ada", 2)
    known = [
        await keep.accept("ada", "two", id="m2") for keep in (works, other)
    ]  # while the first one is answered still
    said = await other.amend("ada", 3, "drei")
    again = await other.amend("ada", 3, "drei")
    for id, number in (("ada", 1), ("ada", 99), ("nobody", 1)):
        with pytest.raises(NotWaiting):
            await other.withdraw(id, number)
    for id in ("ada", "nobody"):
        with pytest.raises(NotWaiting):
            await other.amend(id, 3, "trois")
    with pytest.raises(BadMessage):
        await other.amend("ada", 4, [1])
    go.set()
    await until(lambda: answered(works, "ada", said.number), within=15.0)
    log = [message async for message in works.history("ada")]

    assert ["one", "two", "three", "four"] == [message.text for message in waiting]
    assert (said.number, True) == (again.number, again.duplicate)
    assert [["one"], ["four", "one"], ["drei", "one", "four"]] == runs
    assert ["heard one", "heard four", "heard drei"] == [message.text for message in log if message.role == "assistant"]
    assert {2, 3} == {message.number for message in log if message.redacted and message.role == "user"}
    assert {"from": "three", "amends": 3} == next(message.metadata for message in log if message.number == said.number)
    assert 0 == works.statistics.engine.reruns
    assert [(True, "dropped")] * 2 == [(one.duplicate, one.status) for one in known]
    dropped = await works.accept("ada", "two", id="m2")
    assert (True, "dropped") == (dropped.duplicate, dropped.status)
