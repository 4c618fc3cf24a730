"""Streamed replies that can be stopped, from anywhere, and what is known of them meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from chatkeep import Answering, Delta, Message, Turn

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
    assert stopped.reply.text.startswith(shown(events))
    assert Answering("idle") == await other.answering("ada")
    assert not (await other.stop("ada")).stopped
    again = await works.receive("ada", "a", id="m1")
    assert (True, [stopped.reply]) == (again.duplicate, again.replies)
    talker.words = 3
    assert "b0 b1 b2 " == (await works.receive("ada", "b", id="m2")).replies[0].text
    assert [""] * 2 == talker.runs
    watching.cancel()


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
    await keep.pause("ada")
    assert Answering("paused") == await keep.answering("ada")
    await keep.accept("ada", "good", id="m3")
    assert "paused" == (await keep.answering("ada")).status
    await keep.accept("bob", "good")
    await until(lambda: answered(keep, "bob", 1))
    assert Answering("idle") == await keep.answering("bob")
