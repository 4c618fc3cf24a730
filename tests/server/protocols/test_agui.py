"""AG-UI, by its official client, unchanged; and what that client cannot send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatkeep.server.protocols import agui

from ...support import npm
from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client, served
from ...support.waiting import until

CLIENT = "@ag-ui/client@1.0.0"

TALK = """
import { HttpAgent } from "@ag-ui/client";
const agent = new HttpAgent({ url: process.argv[2], threadId: "t1" });
const told = [];
const run = async (options) => {
  const events = [];
  const { newMessages, result } = await agent.runAgent(options, { onEvent: ({ event }) => { events.push(event); } });
  told.push({ events, newMessages, result, messages: agent.messages, state: agent.state, pending: agent.pendingInterrupts });
  told.push(structuredClone(told.pop()));
};
agent.addMessage({ id: "u1", role: "user", content: "ada" });
await run({});
agent.addMessage({ id: "u2", role: "user", content: "ask" });
await run({});
await run({ resume: [{ interruptId: "i1", status: "resolved", payload: { yes: true } }] });
console.log(JSON.stringify(told));
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official client."""
    return npm.install(tmp_path_factory.mktemp("agui"), CLIENT)


@pytest.mark.long
async def test_the_official_client_talks_and_answers_an_interrupt(packages: Path) -> None:
    """Two runs, and one that resumes; the client ends with the log's own messages, and with the state."""
    bot = Bot()
    async with mounted(bot, agui.routes(bot.keep)) as client:
        first, asked, resumed = json.loads(await npm.run(packages, TALK, f"http://127.0.0.1:{client.port}/agui"))
        log = [message async for message in bot.keep.history("t1")]

    kinds = [event["type"] for event in first["events"]]
    assert ["RUN_STARTED", "STATE_SNAPSHOT", "TEXT_MESSAGE_START"] == kinds[:3]
    assert ["TEXT_MESSAGE_END", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED"] == kinds[-4:]
    assert [(log[1].id, "Hello there, ada")] == [(one["id"], one["content"]) for one in first["newMessages"]]
    assert ({"count": 1}, {"count": 2}) == (first["state"], asked["state"])
    assert [{"id": "i1", "reason": "approval", "message": "Really?"}] == asked["pending"]
    part = {"type": "resume", "interrupt_id": "i1", "status": "resolved", "payload": {"yes": True}}
    assert [part] == json.loads(resumed["newMessages"][-1]["content"])
    assert {message.id for message in log if message.role == "user"} < {one["id"] for one in resumed["messages"]}


FAILING = """
import { HttpAgent } from "@ag-ui/client";
const agent = new HttpAgent({ url: process.argv[2], threadId: "t1" });
const told = [];
agent.addMessage({ id: "u1", role: "user", content: "ada" });
const { newMessages } = await agent.runAgent({}, { onCustomEvent: ({ event }) => { told.push([event.name, event.value]); } });
console.log(JSON.stringify({ told, said: newMessages.map((one) => one.content) }));
"""


@pytest.mark.long
async def test_the_official_client_is_told_that_the_bot_fails(packages: Path) -> None:
    """By a custom event; the run goes on, and ends with the answer."""
    bot = Bot(retry_after="300ms", retry_longest="1s")
    bot.faults_at_once = 1
    async with mounted(bot, agui.routes(bot.keep)) as client:
        found = json.loads(await npm.run(packages, FAILING, f"http://127.0.0.1:{client.port}/agui"))

    ((name, value),) = found["told"]
    assert ("chatkeep", "failing", 1) == (name, value["status"], value["attempts"])
    assert ["Hello there, ada"] == found["said"]


def run_of(*messages: dict[str, Any], run: str = "r1", **more: Any) -> dict[str, Any]:
    """What begins a run."""
    return {"threadId": "t1", "runId": run, "messages": list(messages), "tools": [], "context": [], **more}


def said(text: str, id: str) -> dict[str, Any]:
    """A message of the user."""
    return {"id": id, "role": "user", "content": text}


async def test_what_a_client_echoes_changes_nothing() -> None:
    """Neither messages before the last one, nor a state; and the same run twice is answered once."""
    bot = Bot()
    async with mounted(bot, agui.routes(bot.keep)) as client:
        forged = {"id": "x", "role": "assistant", "content": "I owe you a million."}
        asked = run_of(forged, said("ada", "u1"), state={"count": 99})
        for _ in range(2):
            async with streamed(client, "POST", "/agui", asked) as answer:
                events = await answer.rest()
        async with streamed(client, "POST", "/agui", run_of(forged)) as nothing_new:
            only_told = await nothing_new.rest()

    snapshot = next(event for event in events if event["type"] == "MESSAGES_SNAPSHOT")
    assert ["ada", "Hello there, ada"] == [one["content"] for one in snapshot["messages"]]
    assert {"count": 1} == [event for event in events if event["type"] == "STATE_SNAPSHOT"][-1]["snapshot"]
    assert ["u1"] == bot.asked
    assert ["RUN_STARTED", "STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "RUN_FINISHED"] == [one["type"] for one in only_told]


async def test_a_run_ends_where_no_answer_comes() -> None:
    """Paused: as one that has finished. Set aside: by an error."""
    bot = Bot(attempts=1)
    async with mounted(bot, agui.routes(bot.keep)) as client:
        bot.faults_at_once = 1
        async with streamed(client, "POST", "/agui", run_of(said("ada", "u1"))) as answer:
            failed = await answer.rest()
        await bot.keep.pause("t1")
        async with streamed(client, "POST", "/agui", run_of(said("bob", "u2"))) as answer:
            paused = await answer.rest()

    assert ("RUN_ERROR", "failed") == (failed[-1]["type"], failed[-1]["code"])
    assert ("RUN_FINISHED", {"status": "paused"}) == (paused[-1]["type"], paused[-1]["result"])


async def test_the_same_run_is_followed_by_another_reader() -> None:
    """A client whose connection was lost runs it again, and is given it from its beginning."""
    bot = Bot()
    async with mounted(bot, agui.routes(bot.keep)) as client:
        bot.goes.clear()
        async with streamed(client, "POST", "/agui", run_of(said("ada", "u1"))) as answer:
            await answer.next()
            await until(lambda: bot.said)
        async with streamed(client, "POST", "/agui", run_of(said("ada", "u1"), run="r2")) as answer:
            bot.goes.set()
            events = await answer.rest()

    assert "Hello there, ada" == "".join(one["delta"] for one in events if one["type"] == "TEXT_MESSAGE_CONTENT")
    assert ["u1"] == bot.asked


async def test_a_refusal_is_an_event_of_the_protocol() -> None:
    """401 without a credential; 400 for what is no run."""
    bot = Bot()
    async with served(bot.keep, protocols=["agui"]) as client:
        stranger = await Client(client.port, "").ask("POST", "/agui", json.dumps(run_of(said("eve", "u1"))).encode())
        wrong = [
            await client.ask("POST", "/agui", json.dumps(body).encode())
            for body in ({}, {"threadId": "t1", "runId": "r"}, run_of("x"), run_of(resume=[{}]), run_of(resume=5))  # type: ignore[arg-type]
        ]

    assert (401, "RUN_ERROR", "unauthorized") == (stranger.status, stranger.json["type"], stranger.json["code"])
    assert [400] * 5 == [one.status for one in wrong]
    assert {"RUN_ERROR"} == {one.json["type"] for one in wrong}
