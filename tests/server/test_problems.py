"""What an error is told as: a status, a problem document without secrets, and when to try again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import apsw
import pytest

from chatkeep import Chatkeep, Turn, Unavailable, Uncertain
from chatkeep.drivers.base import Append
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.server import wire

from ..support.bots import counting
from ..support.serving import PROBLEM, Client, path_of, served
from ..support.waiting import until


async def logged(client: Client, conversation: str, count: int) -> bool:
    """Whether so many messages are in the log."""
    return len(await client.log(conversation)) >= count


async def test_a_message_that_the_bot_fails_at_is_kept_and_its_secrets_too() -> None:
    """500, without the exception's words; the message is in the log, and a redelivery is told that it failed."""
    keep: Chatkeep[Any] = Chatkeep("memory://", retry_after="1ms", retry_longest="1ms", attempts=3)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        raise RuntimeError("password=hunter2")

    async with served(keep) as client:
        first = await client.post("ada", {"content": "x", "id": "m1"})
        again = await client.post("ada", {"content": "x", "id": "m1"})
        log = await client.log("ada")

    assert (500, PROBLEM, "urn:chatkeep:handler-failed") == (
        first.status,
        first.headers["content-type"],
        first.json["type"],
    )
    assert "kept" in first.json["detail"]
    assert (200, "failed", True) == (again.status, again.json["status"], again.json["duplicate"])
    assert ["x"] == [message["content"] for message in log]
    assert b"hunter2" not in first.body + again.body + json.dumps(log).encode()


async def test_what_is_set_up_wrongly_is_the_servers_fault_and_told_in_its_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """500, so that a client sends it again later, and none of the words: they are for operators."""
    keep = counting()
    async with served(keep, users=lambda request: "") as client:
        answer = await client.ask("GET", "/v1/me/conversations", headers={"Authorization": ""})

    assert (500, "urn:chatkeep:misconfigured") == (answer.status, answer.json["type"])
    assert b"users=" not in answer.body
    assert "users= gave" in caplog.text


class Failing(MemoryDriver):
    """A store that refuses to append."""

    error: Exception = Unavailable("the disk at /secret is full")

    async def append(self, act: Append) -> Any:
        """Fails."""
        raise self.error


async def test_trouble_with_the_store_says_when_to_try_again() -> None:
    """Unavailable and Uncertain are 503 with Retry-After, and say nothing of the machine."""
    for error, kind in ((Unavailable("at /secret"), "unavailable"), (Uncertain("at /secret"), "uncertain")):
        driver = Failing("memory://")
        driver.error = error
        keep: Chatkeep[Any] = Chatkeep(driver, store_timeout="100ms")
        keep.on_message(counting)
        async with served(keep) as client:
            answer = await client.post("ada", {"content": "x"})

        assert (503, PROBLEM, "1") == (answer.status, answer.headers["content-type"], answer.headers["retry-after"])
        assert f"urn:chatkeep:{kind}" == answer.json["type"]
        assert b"secret" not in answer.body


async def test_too_much_at_once_is_refused_with_a_time_to_come_back() -> None:
    """With a backlog of one, the second of two messages at once is not taken."""
    keep: Chatkeep[Any] = Chatkeep("memory://", backlog=1)
    thinking = asyncio.Event()

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        await thinking.wait()
        return "done"

    async with served(keep) as client:
        first = asyncio.create_task(client.post("ada", {"content": "x"}))
        await until(lambda: logged(client, "ada", 1))
        second = await client.post("bob", {"content": "x"})
        thinking.set()
        answered = await first

    assert (503, "1", "urn:chatkeep:overloaded") == (second.status, second.headers["retry-after"], second.json["type"])
    assert 200 == answered.status


async def test_a_damaged_conversation_is_a_problem_of_its_own(tmp_path: Path) -> None:
    """500 for the one whose bytes were changed; the others are answered."""
    keep = counting(f"sqlite:///{tmp_path}/chat.db", cache_entries=0)
    async with served(keep) as client:
        for name in ("ada", "bob"):
            await client.post(name, {"content": "x"})
        db = apsw.Connection(f"{tmp_path}/chat.db")
        db.execute("update conversation set body = substr(body, 1, 10) where id = 'ada'")
        db.close()
        ada, bob = [await client.ask("GET", path_of(name)) for name in ("ada", "bob")]
        posted = await client.post("ada", {"content": "y"})

    assert (500, "urn:chatkeep:corrupt", "ada") == (ada.status, ada.json["type"], ada.json["conversation"])
    assert (500, PROBLEM) == (posted.status, posted.headers["content-type"])
    assert 200 == bob.status


async def test_a_bug_is_told_without_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 with every header that other answers have, and nothing of the exception."""
    keep = counting()
    async with served(keep) as client:
        monkeypatch.setattr(wire, "message", None)
        answer = await client.post("ada", {"content": "x"})

    assert (500, PROBLEM, "no-store", "nosniff") == (
        answer.status,
        answer.headers["content-type"],
        answer.headers["cache-control"],
        answer.headers["x-content-type-options"],
    )
    assert b"NoneType" not in answer.body
