"""The answer to one message, as every protocol shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.conversation.snapshots import Outcome
from chatkeep.errors import Unavailable
from chatkeep.server.protocols.answer_stream import AnswerStream, BlockGrew, Ended

from ...support.protocols import Bot
from ...support.stores import FAST
from ...support.waiting import until


async def collected(stream: AnswerStream) -> tuple[str, str]:
    """The whole text that a stream shows, and how it ends."""
    text = ""
    async for step in stream.steps():
        if isinstance(step, BlockGrew):
            text += step.text
        elif isinstance(step, Ended):
            return text, step.status
    raise AssertionError("it has not ended")


@pytest.mark.parametrize("away", [0, 1])
async def test_a_reader_who_was_late_is_not_shown_the_next_answer(away: int) -> None:
    """While it is asked what became of the message it is answered, and the next one begins to be: all of that is seen at once. Nor
    is it guessed where the store is away just then."""
    bot, told = Bot(), asyncio.Event()
    async with bot.keep as keep:
        core, asks = core_of(keep), 0
        ask = core.find_outcome

        async def late(tenant: str, conversation: str, number: int) -> Outcome | None:
            nonlocal asks
            asks += 1
            found = await ask(tenant, conversation, number)
            if asks == 1:
                await told.wait()
            elif asks - 1 <= away:
                raise Unavailable("The store is away for a moment.")
            return found

        core.find_outcome = late  # type: ignore[method-assign]
        bot.goes.clear()
        number = (await keep.accept("c1", "ada", id="m1")).number
        await until(lambda: asked(bot, 1))
        reading = asyncio.create_task(collected(AnswerStream(core, "", "c1", number)))
        await until(lambda: asks)
        bot.goes.set()
        await until(lambda: answered(keep))
        bot.goes.clear()
        await keep.accept("c1", "bob", id="m2")
        await until(lambda: is_shown(keep))
        told.set()
        found = await reading
        bot.goes.set()

    assert ("Hello there, ada", "answered") == found


def asked(bot: Bot, times: int) -> bool:
    """Whether the bot has begun so many answers."""
    return len(bot.asked) == times and bool(bot.said)


async def answered(keep: Any) -> bool:
    """Whether nothing waits."""
    return not (await keep.conversation("c1")).unread


async def is_shown(keep: Any) -> bool:
    """Whether something of the answer under way can be seen."""
    return bool((await keep.answering("c1")).reply)


async def test_a_burst_that_is_taken_apart_is_not_one_answer() -> None:
    """Both were in one turn, which failed in the middle, and each had one of its own then; the second goes by the id of the first one."""
    asked, goes, fails = list[str](), asyncio.Event(), asyncio.Event()
    keep: Chatkeep[Any] = Chatkeep("memory://", **(FAST | {"overlap": "debounce", "quiet": "100ms"}))

    @keep.on_message
    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        asked.append(turn.id)
        if not turn.said:
            yield "Hello "
        if len(asked) == 1:
            await fails.wait()
            raise RuntimeError("the model is away")
        if len(asked) == 3:
            await goes.wait()
        yield turn.text

    async with keep:
        await keep.accept("c1", "ada", id="m1")
        await keep.accept("c1", "bob", id="m2")
        text = ""
        async for step in AnswerStream(core_of(keep), "", "c1", 1).steps():
            if isinstance(step, BlockGrew):
                text += step.text
                fails.set()
                await until(lambda: is_second(keep, asked))
        goes.set()

    assert ["m2", "m1", "m2"] == asked
    assert "Hello ada" == text


async def is_second(keep: Any, asked: list[str]) -> bool:
    """Whether something of the answer to the second one can be seen."""
    return len(asked) == 3 and await is_shown(keep)
