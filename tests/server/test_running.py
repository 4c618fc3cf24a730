"""What is being answered and what waits, over HTTP, with the Python client and from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, NotWaiting, Turn
from chatkeep.auth.credentials import create_key
from chatkeep.client import Client, Delta, PartSaid

from ..support.program import chatkeep
from ..support.serving import path_of, served
from ..support.waiting import takes, until

ADA = path_of("ada").removesuffix("/messages")


def counting(url: str = "memory://") -> Chatkeep[Any]:
    """A bot that counts for ever."""
    keep: Chatkeep[Any] = Chatkeep(url)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> AsyncIterator[Any]:
        yield {"type": "reasoning", "reasoning": "Counting."}
        for number in range(10_000):
            yield f"{number} "
            await takes(0.02)

    return keep


async def test_a_reply_is_followed_stopped_and_what_waits_taken_back() -> None:
    """By the client; over HTTP the answers are the same, and what cannot be taken back is a conflict of its own."""
    keep = counting()
    events: list[Any] = []
    async with served(keep) as server:
        key = (await create_key(keep, "")).token
        async with Client(f"http://127.0.0.1:{server.port}", key) as client:
            chat = client.conversation("ada")
            await chat.accept("count", id="m1")

            async def follow() -> None:
                async with aclosing(chat.events(after=0)) as happening:
                    async for event in happening:
                        events.append(event)  # noqa: PERF401  (read while it grows)

            following = asyncio.create_task(follow())
            await until(lambda: any(isinstance(event, Delta) for event in events), within=15.0)
            for number in (2, 3):
                await chat.accept(f"number {number}", id=f"m{number}")
            running = await chat.answering()
            waiting = await server.ask("GET", f"{ADA}/waiting")
            await chat.withdraw(2)
            amended = await chat.amend(3, "another")
            with pytest.raises(NotWaiting, match="being answered"):
                await chat.withdraw(1)
            conflict = await server.ask("DELETE", f"{ADA}/waiting/1")
            nothing = await server.ask("PUT", f"{ADA}/waiting/3", b'{"text": "?"}')
            left = await chat.waiting()
            stopped = await chat.stop()
            await until(lambda: another_runs(chat, amended.number), within=15.0)
            last = await server.ask("POST", f"{ADA}/stop")
            idle = await server.ask("GET", f"{ADA}/answering")
            none = await server.ask("POST", f"{ADA}/stop")
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    assert ("running", 1) == (running.status, running.number)
    assert ["count", "number 2", "number 3"] == [message["content"] for message in waiting.json["messages"]]
    assert ["count", "another"] == [message.text for message in left]
    assert (409, "urn:chatkeep:not-waiting") == (conflict.status, conflict.json["type"])
    assert 400 == nothing.status
    assert stopped.reply is not None
    assert (running.reply, True) == (stopped.reply.id, stopped.reply.metadata["stopped"])
    assert {"type": "reasoning", "reasoning": "Counting."} == stopped.reply.content[0]
    assert ["Counting."] == [
        e.content["reasoning"] for e in events if isinstance(e, PartSaid) and e.reply == running.reply
    ]
    assert (200, True) == (last.status, last.json["stopped"])
    assert {"status": "idle"} == idle.json
    assert {"stopped": False, "reply": None} == none.json


async def another_runs(chat: Any, number: int) -> bool:
    """Whether the reply to message *number* is being made."""
    found = await chat.answering()
    return found.status == "running" and found.number == number


async def test_the_command_stops_what_another_process_says(tmp_path: Path) -> None:
    """And says how much that was; twice is fine."""
    keep = counting(f"sqlite:///{tmp_path}/chat.db")
    async with keep:
        await keep.accept("ada", "count", id="m1")
        await until(lambda: said_something(keep), within=15.0)
        code, told, complaints = await asyncio.to_thread(chatkeep, "stop", "chat.db", "ada", folder=tmp_path)
        again = await asyncio.to_thread(chatkeep, "stop", "chat.db", "ada", folder=tmp_path)
        (reply,) = [message async for message in keep.history("ada") if message.role == "assistant"]

    assert (0, f"Stopped: {len(reply.text):,} characters were said, and are message 2.\n", "") == (
        code,
        told,
        complaints,
    )
    assert (0, "Nothing was stopped: no message waits for an answer.\n") == again[:2]
    assert reply.metadata["stopped"]


async def said_something(keep: Chatkeep[Any]) -> bool:
    """Whether a piece of the reply is recorded."""
    return bool((await keep.answering("ada")).reply)
