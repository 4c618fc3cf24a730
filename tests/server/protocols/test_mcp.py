"""MCP and its tasks, by the official clients, unchanged; and what these do not send."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from chatkeep.auth.credentials import issue_token
from chatkeep.server.protocols import mcp

from ...support import npm
from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client, served
from ...support.waiting import until

CLIENTS = ("@modelcontextprotocol/client@2.4.0", "@modelcontextprotocol/ext-tasks@0.2.2")

CALLS = """
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { createTaskSessionFromClient, resultFromTaskOutcome } from "@modelcontextprotocol/ext-tasks/client";
const url = new URL(process.argv[2]);
const connect = async () => {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(new StreamableHTTPClientTransport(url));
  return [client, createTaskSessionFromClient(client, { endpointId: "bot" })];
};
const [client, session] = await connect();
const { tools } = await client.listTools();
const plain = await client.callTool({ name: "say", arguments: { text: "ada", conversation: "c1" } });
const execution = await session.callTool("say", { text: "wait", conversation: "c2", id: "m1" }, { task: { preference: "require" } });
const seen = await session.task(execution.handle.taskId).snapshot();
const reference = execution.serializeReference();
await execution.detach();
await fetch(process.argv[3], { method: "POST" });
const [other, later] = await connect();
const resumed = await later.resumeTask(reference);
const { outcome } = await resumed.settle();
const stopped = await later.callTool("say", { text: "wait", conversation: "c3" }, { task: { preference: "require" } });
await until();
await stopped.cancel();
const cancelled = (await stopped.settle()).outcome;
async function until() {
  const started = await fetch(process.argv[3] + "?said", { method: "POST" });
  if (await started.text() !== "true") { await new Promise((go) => setTimeout(go, 20)); return until(); }
}
console.log(JSON.stringify({ tools, plain, kind: execution.kind, seen, result: resultFromTaskOutcome(outcome), cancelled }));
process.exit(0);
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official clients for JavaScript."""
    return npm.install(tmp_path_factory.mktemp("mcp"), *CLIENTS)


@pytest.mark.long
async def test_the_official_client_starts_polls_resumes_and_cancels_tasks(packages: Path) -> None:
    """A call that waits, a task that another connection goes on with, and one that is cancelled in the middle."""
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    bot = Bot()

    async def go(request: Request) -> Response:
        if request.url.query:
            there = await bot.keep.answering("c3")
            return PlainTextResponse("true" if there.reply else "false")
        bot.goes.set()
        await until(lambda: idle(bot, "c2"))
        bot.goes.clear()
        return PlainTextResponse("")

    routes = [*mcp.routes(bot.keep), Route("/go", go, methods=["POST"])]
    async with mounted(bot, routes) as client:
        pausing = asyncio.create_task(hold(bot, "c2"))
        root = f"http://127.0.0.1:{client.port}"
        found = json.loads(await npm.run(packages, CALLS, f"{root}/mcp", f"{root}/go"))
        await pausing
        bot.goes.set()
        log = [message async for message in bot.keep.history("c3")]

    assert ["say"] == [tool["name"] for tool in found["tools"]]
    assert "Hello there, ada" == found["plain"]["content"][0]["text"]
    assert ("task", "working") == (found["kind"], found["seen"]["status"])
    assert "Hello there, wait" == found["result"]["content"][0]["text"]
    assert {"conversation": "c2", "status": "answered"}.items() <= found["result"]["structuredContent"].items()
    assert "cancelled" == found["cancelled"]["status"]
    assert {"stopped": True} == log[-1].metadata


async def hold(bot: Bot, conversation: str) -> None:
    """Has the bot wait in its answer from the moment that a conversation begins."""
    await until(lambda: answered(bot, "c1"), within=30)
    bot.goes.clear()


async def answered(bot: Bot, conversation: str) -> bool:
    """Whether a conversation has an answer."""
    return bool([m async for m in bot.keep.history(conversation) if m.role == "assistant"])


async def idle(bot: Bot, conversation: str) -> bool:
    """Whether nothing waits for an answer."""
    return (await bot.keep.answering(conversation)).status == "idle"


async def test_the_official_client_for_python_calls_the_tool() -> None:
    """In the newest version and in the one that begins with a handshake; what the bot says is told as it is said."""
    sdk = pytest.importorskip("mcp", reason="THE OFFICIAL CLIENT OF MCP IS NOT INSTALLED")
    bot = Bot()
    told: list[tuple[float, str | None]] = []

    async def progress(done: float, total: float | None, text: str | None) -> None:
        told.append((done, text))

    async with mounted(bot, mcp.routes(bot.keep, name="ask", description="Asks the bot.")) as client:
        results = []
        for mode in ("auto", "legacy"):
            async with sdk.Client(f"http://127.0.0.1:{client.port}/mcp", mode=mode) as asking:
                tools = (await asking.list_tools()).tools
                first = await asking.call_tool("ask", {"text": "ada", "id": f"{mode}1"}, progress_callback=progress)
                named = first.structured_content["conversation"]
                again = await asking.call_tool("ask", {"text": "bye", "id": f"{mode}2", "conversation": named})
                twice = await asking.call_tool("ask", {"text": "bye", "id": f"{mode}2", "conversation": named})
                wrong = await asking.call_tool("ask", {"conversation": named})
                results.append((first, again, twice, wrong))

    assert ["Asks the bot."] == [tool.description for tool in tools]
    for first, again, twice, wrong in results:
        assert (False, "Hello there, ada") == (first.is_error, first.content[0].text)
        assert "Hello there, bye" == again.content[0].text == twice.content[0].text
        assert wrong.is_error
    assert "Hello there, ada" * 2 == "".join(text or "" for _, text in told)
    assert 4 == len(bot.asked)


NEW = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
ABLE = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}


async def call(client: Client, method: str, params: dict[str, Any] | None = None, **meta: Any) -> Any:
    """The answer to one request, in the newest version unless *meta* says otherwise."""
    asked = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**(params or {}), "_meta": meta.get("meta", NEW)}}
    answer = await client.ask("POST", "/mcp", json.dumps(asked).encode(), meta.get("headers"))
    return answer.json


def said(text: str, **more: Any) -> dict[str, Any]:
    """The parameters of a call of the tool."""
    return {"name": "say", "arguments": {"text": text, **more}}


async def test_tasks_of_the_extension() -> None:
    """A client that has declared them is given a task, and its result by polling; another one the answer itself, and no task."""
    bot = Bot()
    able = NEW | ABLE
    async with mounted(bot, mcp.routes(bot.keep)) as client:
        found = (await call(client, "server/discover"))["result"]
        bot.goes.clear()
        task = (await call(client, "tools/call", said("ada", conversation="c1"), meta=able))["result"]
        named = {"taskId": task["taskId"]}
        early = (await call(client, "tasks/get", named, meta=able))["result"]
        bot.goes.set()
        await until(lambda: idle(bot, "c1"))
        late = (await call(client, "tasks/get", named, meta=able))["result"]
        unable = (await call(client, "tasks/get", named))["error"]
        gone = [
            (await call(client, "tasks/get", {"taskId": name}, meta=able))["error"]
            for name in ("task_", "x", "task_Mi5jMQ", "task_OS5jMQ")
        ]
        plain = (await call(client, "tools/call", said("bye", conversation="c1")))["result"]
        acknowledged = (await call(client, "tasks/cancel", named, meta=able))["result"]
        result_of = (await call(client, "tasks/result", named, meta=able))["error"]

    assert "io.modelcontextprotocol/tasks" in found["capabilities"]["extensions"]
    assert ("task", "working", None) == (task["resultType"], early["status"], task["ttlMs"])
    assert ("complete", "completed") == (late["resultType"], late["status"])
    assert "Hello there, ada" == late["result"]["content"][0]["text"]
    assert -32021 == unable["code"]
    assert [-32602] * 4 == [one["code"] for one in gone]
    assert "Hello there, bye" == plain["content"][0]["text"]
    assert ({"resultType": "complete"}, -32601) == (acknowledged, result_of["code"])


async def test_no_call_waits_for_a_bot_that_is_paused_and_its_task_ends_later() -> None:
    """The message is kept; the task of it works until the bot is resumed."""
    bot = Bot()
    able = NEW | ABLE
    async with mounted(bot, mcp.routes(bot.keep)) as client:
        await bot.keep.create("c1")
        await bot.keep.pause("c1")
        plain = (await call(client, "tools/call", said("ada", conversation="c1")))["result"]
        task = (await call(client, "tools/call", said("bye", conversation="c1"), meta=able))["result"]
        early = (await call(client, "tasks/get", {"taskId": task["taskId"]}, meta=able))["result"]
        await bot.keep.resume("c1")
        await until(lambda: idle(bot, "c1"))
        late = (await call(client, "tasks/get", {"taskId": task["taskId"]}, meta=able))["result"]

    assert (True, "paused") == (plain["isError"], plain["structuredContent"]["status"])
    assert ("working", True) == (early["status"], "paused" in early["statusMessage"])
    assert "completed" == late["status"]


async def test_what_the_bot_asks_is_answered_by_another_call() -> None:
    """The question is what the tool gives."""
    bot = Bot()
    async with mounted(bot, mcp.routes(bot.keep)) as client:
        asked = (await call(client, "tools/call", said("ask", conversation="c1")))["result"]

    assert ["Hello there, ask", "Really?", "(conversation: c1)"] == [one["text"] for one in asked["content"]]


async def test_a_message_that_is_set_aside_is_an_error_that_a_model_can_read() -> None:
    """Not one of the protocol: the tool was called, and could not do it."""
    bot = Bot()
    async with mounted(bot, mcp.routes(bot.keep)) as client:
        bot.faults_at_once = 99
        found = (await call(client, "tools/call", said("ada", conversation="c1")))["result"]
        old = {"name": "say", "arguments": {"text": "bye", "conversation": "c1"}, "task": {"ttl": 1000}}
        task = (await call(client, "tools/call", old, meta={}))["result"]["task"]
        await until(lambda: idle_or_aside(bot, "c1"))
        state = (await call(client, "tasks/get", {"taskId": task["taskId"]}, meta={}))["result"]
        result = (await call(client, "tasks/result", {"taskId": task["taskId"]}, meta={}))["result"]
        refused = (await call(client, "tasks/cancel", {"taskId": task["taskId"]}, meta={}))["error"]

    assert (True, "failed") == (found["isError"], found["structuredContent"]["status"])
    assert ("working", "failed", True) == (task["status"], state["status"], result["isError"])
    assert {"taskId": task["taskId"]} == result["_meta"]["io.modelcontextprotocol/related-task"]
    assert -32602 == refused["code"]


async def idle_or_aside(bot: Bot, conversation: str) -> bool:
    """Whether nothing waits for an answer any more."""
    return (await bot.keep.answering(conversation)).status in ("idle", "set aside")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"jsonrpc": "2.0", "method": "notifications/initialized"}, 202, None),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, 202, None),
        ({"id": 1, "method": "ping"}, 400, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping"}, 200, None),
        ({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}, 200, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}, 200, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {**NEW}}}, 200, None),
        (
            {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {next(iter(NEW)): "2099-01-01"}}},
            400,
            -32022,
        ),
    ],
)
async def test_what_is_no_request_is_told(body: dict[str, Any], status: int, code: int | None) -> None:
    """As JSON-RPC and the protocol have it."""
    bot = Bot()
    async with mounted(bot, mcp.routes(bot.keep)) as client:
        found = await client.ask("POST", "/mcp", json.dumps(body).encode())
        other = await client.ask("POST", "/mcp", json.dumps(body).encode(), {"MCP-Protocol-Version": "1.0"})
        methods = [(await client.ask(method, "/mcp")).status for method in ("GET", "DELETE")]

    assert status == found.status
    assert code == (found.json.get("error", {}).get("code") if found.body else None)
    assert other.status in (202, 400)
    assert [405, 405] == methods


async def test_a_task_is_for_who_may_use_its_conversation() -> None:
    """Its id alone is no right; and who holds no credential is told to bring one."""
    bot = Bot()
    able = NEW | ABLE
    async with served(bot.keep, protocols=["mcp"]) as server:
        task = (await call(server, "tools/call", said("ada", conversation="c1"), meta=able))["result"]
        mine = Client(server.port, (await issue_token(bot.keep, "", "c1")).token)
        other = Client(server.port, (await issue_token(bot.keep, "", "c2")).token)
        named = {"taskId": task["taskId"]}
        seen, hidden = [await call(client, "tasks/get", named, meta=able) for client in (mine, other)]
        nobody = await Client(server.port, "").ask("POST", "/mcp", b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}')

    assert task["taskId"] == seen["result"]["taskId"]
    assert -32602 == hidden["error"]["code"]
    assert 401 == nobody.status


async def test_a_call_is_kept_open_by_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """For proxies that end what is silent; the result is the last event."""
    from chatkeep.server.protocols import answer_stream

    monkeypatch.setattr(answer_stream, "LOOK_S", 0.05)
    bot = Bot()
    async with mounted(bot, mcp.routes(bot.keep)) as client:
        bot.goes.clear()
        asked = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": said("ada")}
        async with streamed(client, "POST", "/mcp", asked, {"Accept": "application/json, text/event-stream"}) as answer:
            beats = [await answer._lines() for _ in range(4)]
            bot.goes.set()
            events = await answer.rest()

    assert ": beat" in beats
    assert ["Hello there, ada"] == [event["result"]["content"][0]["text"] for event in events]
