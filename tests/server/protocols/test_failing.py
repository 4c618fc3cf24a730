"""A handler that fails and is tried again: what each protocol's client is told meanwhile, and when it is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.routing import BaseRoute

from chatkeep import Failing
from chatkeep.server.protocols import a2a, agui, aisdk, durable_streams, mcp, responses

from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client
from ...support.waiting import until

SAID = "The bot has failed once. The message is kept, and the bot tries again at "


@asynccontextmanager
async def failing(bot: Bot, routes: list[BaseRoute], *, faults: int) -> AsyncIterator[Client]:
    """An application whose bot fails so often, before it says anything."""
    bot.faults_at_once = faults
    async with mounted(bot, routes) as client:
        yield client


def slow() -> Bot:
    """A bot whose attempts can be looked at one after another; after three the message is set aside."""
    return Bot(retry_after="300ms", retry_longest="1s")


async def rest_of(client: Client, path: str, body: dict[str, Any]) -> list[Any]:
    """What is streamed as the answer to a request."""
    async with streamed(client, "POST", path, body) as answer:
        return await answer.rest()


async def until_failing(bot: Bot, conversation: str) -> Failing:
    """Waits until the first attempt in a conversation has failed."""
    found: list[Failing] = []

    async def has_failed() -> bool:
        there = (await bot.keep.answering(conversation)).failing
        found[:] = [there] if there is not None else []
        return bool(found)

    await until(has_failed)
    return found[0]


@pytest.mark.parametrize("faults", [1, 3])
async def test_ai_sdk(faults: int) -> None:
    """By transient parts, which a page is given by `onData`; at last the answer, or the error."""
    bot = slow()
    said = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "ada"}]}
    async with failing(bot, aisdk.routes(bot.keep), faults=faults) as client:
        chunks = await rest_of(client, "/api/chat", {"id": "c1", "messages": [said]})

    told = [chunk["data"] for chunk in chunks[:-1] if chunk["type"] == "data-chatkeep"]
    assert all(chunk["transient"] for chunk in chunks[:-1] if chunk["type"] == "data-chatkeep")
    assert ("failing", 1) == (told[0]["status"], told[0]["attempts"])
    assert told[0]["message"].startswith(SAID)
    assert told[0]["retryAt"].endswith("Z")
    kinds = [chunk["type"] for chunk in chunks[:-1] if chunk["type"] != "data-chatkeep"]
    if faults == 1:
        assert ["failing"] == [one["status"] for one in told]
        assert ["start", "text-start"] == kinds[:2]
        assert "finish" == kinds[-1]
    else:
        assert ["failing", "failing", "failed"] == [one["status"] for one in told]
        assert ["start", "error", "finish"] == kinds


@pytest.mark.parametrize("faults", [1, 3])
async def test_ag_ui(faults: int) -> None:
    """By custom events; the run ends with the answer, or fails."""
    bot = slow()
    body = {"threadId": "t1", "runId": "r1", "messages": [{"id": "m1", "role": "user", "content": "ada"}]}
    async with failing(bot, agui.routes(bot.keep), faults=faults) as client:
        events = await rest_of(client, "/agui", body)

    told = [event["value"] for event in events if event["type"] == "CUSTOM"]
    assert {"chatkeep"} == {event["name"] for event in events if event["type"] == "CUSTOM"}
    assert [("failing", n + 1) for n in range(min(faults, 2))] == [(one["status"], one["attempts"]) for one in told]
    assert told[0]["message"].startswith(SAID)
    assert ("RUN_FINISHED" if faults == 1 else "RUN_ERROR") == events[-1]["type"]


@pytest.mark.parametrize("faults", [1, 3])
async def test_responses(faults: int) -> None:
    """The official client: the response is in progress again, and says why; events keep their numbers, whoever saw which."""
    openai = pytest.importorskip("openai", reason="THE OFFICIAL CLIENT OF RESPONSES IS NOT INSTALLED")
    bot = slow()
    async with (
        failing(bot, responses.routes(bot.keep), faults=faults) as server,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client,
    ):
        async with client.responses.stream(model="bot", input="ada", conversation="c1") as stream:
            events = [event async for event in stream]
            if faults == 1:
                assert "Hello there, ada" == (await stream.get_final_response()).output_text
        again = [one async for one in await client.responses.retrieve(events[0].response.id, stream=True)]

    told = [event.response.chatkeep for event in events if hasattr(getattr(event, "response", None), "chatkeep")]
    assert [n + 1 for n in range(min(faults, 2))] == [one["attempts"] for one in told]
    assert told[0]["message"].startswith(SAID)
    assert ("response.completed" if faults == 1 else "response.failed") == events[-1].type
    numbers = [event.sequence_number for event in events]
    assert sorted(numbers) == numbers
    assert (again[-1].type, again[-1].sequence_number) == (events[-1].type, numbers[-1])


async def test_a_response_in_the_background_says_it() -> None:
    """Whoever reads it meanwhile; while the bot is paused nothing is tried, and nothing is promised."""
    bot = slow()
    async with failing(bot, responses.routes(bot.keep), faults=1) as client:
        body = {"input": "ada", "background": True, "conversation": "c1"}
        begun = (await client.ask("POST", "/v1/responses", json.dumps(body).encode())).json
        await until_failing(bot, "c1")
        early = (await client.ask("GET", f"/v1/responses/{begun['id']}")).json
        await bot.keep.pause("c1")
        paused = (await client.ask("GET", f"/v1/responses/{begun['id']}")).json
        silent = await bot.keep.answering("c1")
        await bot.keep.resume("c1")
        await bot.keep.receive("c1", "eve")
        late = (await client.ask("GET", f"/v1/responses/{begun['id']}")).json

    assert ("in_progress", "failing", 1) == (
        early["status"],
        early["chatkeep"]["status"],
        early["chatkeep"]["attempts"],
    )
    assert ("queued", False) == (paused["status"], "chatkeep" in paused)
    assert ("paused", None) == (silent.status, silent.failing)
    assert ("completed", False) == (late["status"], "chatkeep" in late)


@pytest.mark.parametrize("faults", [1, 3])
async def test_a2a(faults: int) -> None:
    """The official client: the task's status has a message of the agent, while it is streamed and for who asks."""
    pytest.importorskip("a2a.client", reason="THE OFFICIAL CLIENT OF A2A IS NOT INSTALLED")
    import httpx
    from a2a.client import ClientConfig, create_client
    from a2a.types import GetTaskRequest, Message, Part, Role, SendMessageRequest, TaskState

    bot = slow()
    asked = Message(message_id="m1", role=Role.ROLE_USER, parts=[Part(text="ada")], context_id="c1")
    async with (
        failing(bot, a2a.routes(bot.keep), faults=faults) as server,
        httpx.AsyncClient(timeout=20) as http,
    ):
        config = ClientConfig(streaming=True, httpx_client=http)
        client = await create_client(f"http://127.0.0.1:{server.port}", client_config=config)
        told = []
        async for one in client.send_message(SendMessageRequest(message=asked)):
            if one.HasField("task"):
                task = one.task.id
            if one.HasField("status_update"):
                status = one.status_update.status
                told.append((TaskState.Name(status.state)[11:], "".join(part.text for part in status.message.parts)))
                if len(told) == 1:
                    read = (await client.get_task(GetTaskRequest(id=task))).status
        await client.close()

    assert ("WORKING", told[0][1]) == (TaskState.Name(read.state)[11:], "".join(p.text for p in read.message.parts))
    assert told[0][1].startswith(SAID)
    assert ["WORKING"] * min(faults, 2) + ["COMPLETED" if faults == 1 else "FAILED"] == [state for state, _ in told]


@pytest.mark.parametrize("faults", [1, 3])
async def test_mcp(faults: int) -> None:
    """The official client: by the progress of the call, and in the status of a task."""
    sdk = pytest.importorskip("mcp", reason="THE OFFICIAL CLIENT OF MCP IS NOT INSTALLED")
    bot = slow()
    told: list[tuple[float, str]] = []

    async def progress(done: float, total: float | None, text: str | None) -> None:
        told.append((done, text or ""))

    async with (
        failing(bot, mcp.routes(bot.keep), faults=faults) as server,
        sdk.Client(f"http://127.0.0.1:{server.port}/mcp") as client,
    ):
        result = await client.call_tool("say", {"text": "ada", "conversation": "c1"}, progress_callback=progress)
        bot.faults_at_once = 1
        able = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
        }

        async def call(method: str, **params: Any) -> Any:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": able}}
            return (await server.ask("POST", "/mcp", json.dumps(body).encode())).json["result"]

        task = await call("tools/call", name="say", arguments={"text": "bye", "conversation": "c2"})
        await until_failing(bot, "c2")
        state = await call("tasks/get", taskId=task["taskId"])

    assert told[0][1].startswith(SAID)
    assert sorted({done for done, _ in told}) == [done for done, _ in told]
    assert (faults == 3) == result.is_error
    assert ("working", True) == (state["status"], state["statusMessage"].startswith(SAID))


@pytest.mark.parametrize("faults", [1, 3])
async def test_durable_streams(faults: int) -> None:
    """By a header, and by comments among events; the stream of an answer that never comes is closed, and says why."""
    bot = slow()
    async with failing(bot, durable_streams.routes(bot.keep), faults=faults) as client:
        await bot.keep.accept("c1", "ada", id="m1")
        path = "/streams/c1/answers/1?offset=-1"
        failed = await until_failing(bot, "c1")
        early = await client.ask("GET", path)
        async with streamed(client, "GET", f"{path}&live=sse") as events:
            lines = await events.lines()
        late = await client.ask("GET", path)

    assert early.headers["chatkeep-status"].startswith(f"failing; attempts={failed.attempts}; retry-at=20")
    assert "stream-closed" not in early.headers
    assert f": {early.headers['chatkeep-status']}" in lines
    assert ("answered" if faults == 1 else "failed", "true") == (
        late.headers["chatkeep-status"],
        late.headers["stream-closed"],
    )
    assert f": {late.headers['chatkeep-status']}" in lines
    assert '"streamClosed":true' in lines[-2]


async def test_what_waits_behind_a_message_that_fails_is_told_too() -> None:
    """The answer to the second message is held up by the first."""
    bot = slow()
    bot.faults_at_once = 1
    async with mounted(bot, aisdk.routes(bot.keep)) as client:
        await bot.keep.accept("c1", "ada", id="m1")
        await until_failing(bot, "c1")
        said = {"id": "m2", "role": "user", "parts": [{"type": "text", "text": "eve"}]}
        chunks = await rest_of(client, "/api/chat", {"id": "c1", "messages": [said]})

    assert "failing" == chunks[0]["data"]["status"]
    assert "finish" == chunks[-2]["type"]


async def test_a_caller_without_a_stream_is_told_at_once() -> None:
    """Where the next attempt is far off: that the answer is still to come, and when it is tried again."""
    bot = Bot(retry_after="10m", retry_longest="10m")
    message = {"messageId": "m1", "role": "ROLE_USER", "contextId": "c1", "parts": [{"text": "ada"}]}

    def call(method: str, **params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}

    def tool(id: str, conversation: str) -> dict[str, Any]:
        return call("tools/call", name="say", arguments={"text": "ada", "id": id, "conversation": conversation})

    async def post(server: Client, path: str, body: dict[str, Any]) -> Any:
        headers = {"A2A-Version": "1.0"}
        return (await server.ask("POST", path, json.dumps(body).encode(), headers=headers)).json

    routes = [route for protocol in (a2a, responses, mcp) for route in protocol.routes(bot.keep)]
    async with failing(bot, routes, faults=4) as server, asyncio.timeout(15):
        task, again = [
            (await post(server, "/a2a", call("SendMessage", message=message)))["result"]["task"] for _ in range(2)
        ]
        body = {"input": [{"role": "user", "content": "ada", "id": "m2"}], "conversation": "c2"}
        response = await post(server, "/v1/responses", body)
        result = (await post(server, "/mcp", tool("m3", "c3")))["result"]
        events = {"Accept": "application/json, text/event-stream"}
        async with streamed(server, "POST", "/mcp", tool("m4", "c4"), events) as answer:
            [told] = await answer.rest()

    status = task["status"]
    assert ("TASK_STATE_WORKING", True) == (status["state"], status["message"]["parts"][0]["text"].startswith(SAID))
    assert (task["id"], status["message"]) == (again["id"], again["status"]["message"])
    assert ("in_progress", 1) == (response["status"], response["chatkeep"]["attempts"])
    for found in (result, told["result"]):
        assert (True, True) == (found["isError"], found["content"][0]["text"].startswith(SAID))
    assert ["m1", "m2", "m3", "m4"] == bot.asked


async def test_a_caller_without_a_stream_waits_for_a_bot_that_recovers() -> None:
    """Where the next attempt is near."""
    bot = slow()
    message = {"messageId": "m1", "role": "ROLE_USER", "contextId": "c1", "parts": [{"text": "ada"}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    async with failing(bot, a2a.routes(bot.keep), faults=2) as server:
        answer = await server.ask("POST", "/a2a", json.dumps(body).encode(), headers={"A2A-Version": "1.0"})

    assert "TASK_STATE_COMPLETED" == answer.json["result"]["task"]["status"]["state"]
