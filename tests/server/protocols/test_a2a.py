"""A2A, by the official client for Python, unchanged; and what that client cannot send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatkeep.server.protocols import a2a, mcp
from chatkeep.server.protocols.answer_stream import name_answer

from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client, served
from ...support.waiting import until

SDK = pytest.importorskip("a2a.client", reason="THE OFFICIAL CLIENT OF A2A IS NOT INSTALLED")


@asynccontextmanager
async def official(port: int, *, streaming: bool = False, key: str = "") -> AsyncIterator[Any]:
    """The official client, which finds the agent by its card."""
    import httpx
    from a2a.client import ClientConfig, create_client

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(headers=headers, timeout=20) as http:
        config = ClientConfig(streaming=streaming, httpx_client=http)
        client = await create_client(f"http://127.0.0.1:{port}", client_config=config)
        yield client
        await client.close()


def message(text: str, id: str, **more: Any) -> Any:
    """A message as the SDK sends it."""
    from a2a.types import Message, Part, Role, SendMessageRequest

    said = Message(message_id=id, role=Role.ROLE_USER, parts=[Part(text=text)], **more)
    return SendMessageRequest(message=said)


async def task_of(client: Any, request: Any) -> Any:
    """The task that a message is answered with."""
    return [one async for one in client.send_message(request)][-1].task


def state_of(task: Any) -> str:
    """The name of a task's state."""
    from a2a.types import TaskState

    return str(TaskState.Name(task.status.state)).removeprefix("TASK_STATE_")


def text_of(task: Any) -> str:
    """What a task has given."""
    return "".join(part.text for artifact in task.artifacts for part in artifact.parts)


async def test_the_official_client_gives_a_task() -> None:
    """In one piece, twice under one id, read again; and the history is the server's."""
    from a2a.types import GetTaskRequest, ListTasksRequest

    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server, official(server.port) as client:
        first, again = [await task_of(client, message("ada", "m1", context_id="c1")) for _ in range(2)]
        read = await client.get_task(GetTaskRequest(id=first.id))
        listed = await client.list_tasks(ListTasksRequest(context_id="c1"))
        bare = await client.get_task(GetTaskRequest(id=first.id, history_length=0))

    assert ("COMPLETED", "Hello there, ada", "c1") == (state_of(first), text_of(first), first.context_id)
    assert first.id == again.id == read.id == listed.tasks[0].id
    assert ("Hello there, ada", ["m1"]) == (text_of(read), bot.asked)
    assert "ada" == read.history[0].parts[0].text
    assert ([], []) == (list(bare.history), list(listed.tasks[0].artifacts))


async def test_tasks_of_a_context_are_listed_by_pages() -> None:
    """The last ones first; by their state, with what they have given only for who asks for it."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        for n in range(3):
            await bot.keep.receive("c1", f"m{n}", id=f"m{n}")

        async def listed(**asked: Any) -> Any:
            body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"contextId": "c1", **asked}}
            return (await server.ask("POST", "/a2a", json.dumps(body).encode())).json

        first = (await listed(pageSize=2, includeArtifacts=True))["result"]
        second = (await listed(pageSize=2, pageToken=first["nextPageToken"]))["result"]
        working = (await listed(status="TASK_STATE_WORKING"))["result"]
        bad = [
            {"pageSize": 0},
            {"pageSize": 101},
            {"pageToken": "x"},
            {"status": "DONE"},
            {"statusTimestampAfter": "x"},
        ]
        wrong = [(await listed(**asked))["error"]["code"] for asked in bad]
        at = first["tasks"][0]["status"]["timestamp"]
        later = [
            (await listed(statusTimestampAfter=since))["result"]["totalSize"] for since in (at, "2999-01-01T00:00:00Z")
        ]

    assert ["m2", "m1"] == [task["history"][0]["messageId"] for task in first["tasks"]]
    assert "Hello there, m2" == first["tasks"][0]["artifacts"][0]["parts"][0]["text"]
    assert (2, 1) == (first["pageSize"], second["pageSize"])
    assert "artifacts" not in second["tasks"][0]
    assert later[0] >= 1
    assert 0 == later[1]
    assert (["m0"], "", 3) == (
        [task["history"][0]["messageId"] for task in second["tasks"]],
        second["nextPageToken"],
        second["totalSize"],
    )
    assert ([], 0) == (working["tasks"], working["totalSize"])
    assert [-32602] * 5 == wrong


async def test_tasks_of_all_contexts_that_a_caller_may_use_are_listed() -> None:
    """A service key sees its tenant's, a token its own context's, an application's user what the application lets the user see."""
    bot = Bot()
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}).encode()

    async def contexts(client: Client, headers: dict[str, str] | None = None) -> set[str]:
        found = (await client.ask("POST", "/a2a", body, headers=headers)).json["result"]["tasks"]
        return {task["contextId"] for task in found}

    async with served(bot.keep, protocols=["a2a"]) as server:
        for name in ("ada:1", "ada:2", "bob:1"):
            await bot.keep.receive(name, "hello", owner=name.partition(":")[0])
        token = (await server.ask("POST", "/v1/conversations/bob:1/tokens", b"{}")).json["token"]
        user = (await server.ask("POST", "/v1/users/ada/tokens", b"{}")).json["token"]
        stranger = await Client(server.port, "").ask("POST", "/a2a", body)
        seen = [await contexts(server), *[await contexts(Client(server.port, key)) for key in (token, user)]]

    assert [{"ada:1", "ada:2", "bob:1"}, {"bob:1"}, {"ada:1", "ada:2"}] == seen
    assert 401 == stranger.status

    def authorize(request: Any, conversation: str) -> str | None:
        return "" if (conversation or "ada").startswith(request.headers.get("x-user", "-")) else None

    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep, authorize=authorize)) as own:
        for name in ("ada:1", "bob:1"):
            await bot.keep.receive(name, "hello")
        mine, nobody = await contexts(own, {"x-user": "ada"}), await own.ask("POST", "/a2a", body)

    assert ({"ada:1"}, 401) == (mine, nobody.status)


async def test_a_task_takes_messages_until_it_is_over() -> None:
    """Those that come while it works go on with it; its history has all of them, and so many as are asked for; cancelled, none of
    them is answered."""
    from a2a.types import CancelTaskRequest, GetTaskRequest

    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server, official(server.port) as client:
        asked = await task_of(client, message("ask", "m1"))
        bot.goes.clear()
        requests = [
            message(text, id, task_id=asked.id) for text, id in [("yes", "m2"), ("and more", "m3"), ("and", "m4")]
        ]
        for request in requests:
            request.configuration.return_immediately = True
        begun = [await task_of(client, request) for request in requests[:2]]
        await until(lambda: bot.said)
        bot.goes.set()
        whole = await task_of(client, message("and more", "m3", task_id=asked.id))
        last = await client.get_task(GetTaskRequest(id=asked.id, history_length=1))
        bot.goes.clear()
        other = message("x", "n1", context_id=asked.context_id)
        queued = message("y", "n2", context_id=asked.context_id)
        for request in (other, queued):
            request.configuration.return_immediately = True
        await task_of(client, other)
        waits = await task_of(client, queued)
        ended = await client.cancel_task(CancelTaskRequest(id=waits.id))
        bot.goes.set()

    assert [asked.id] * 3 == [*(task.id for task in begun), whole.id]
    assert "COMPLETED" == state_of(whole)
    assert ["m1", "m2", "m3"] == [one.message_id for one in whole.history if one.role == 1]
    assert "Really?" in [one.parts[0].text for one in whole.history]
    assert ["m3"] == [one.message_id for one in last.history]
    assert "Hello there, " in text_of(whole)
    assert "CANCELED" == state_of(ended)
    assert "n2" not in bot.asked


@pytest.mark.parametrize(("body", "code"), [(b'{"jsonrpc": "2.0"', -32700), (b"[]", -32600), (b'{"id": {}}', -32600)])
@pytest.mark.parametrize(("protocol", "status"), [(a2a, 200), (mcp, 400)])
async def test_what_is_no_json_rpc_is_told_so(protocol: Any, status: int, body: bytes, code: int) -> None:
    """By the codes of JSON-RPC, whichever protocol is bound to it; A2A answers them with 200, as its kit of tests wants it."""
    bot = Bot()
    async with mounted(bot, protocol.routes(bot.keep)) as server:
        found = await server.ask("POST", protocol.PATH, body)

    assert (status, code, None) == (found.status, found.json["error"]["code"], found.json["id"])


async def test_a_task_is_streamed_and_subscribed_to() -> None:
    """From the beginning of its answer, also by who comes in the middle."""
    from a2a.types import SubscribeToTaskRequest

    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server, official(server.port, streaming=True) as client:
        bot.goes.clear()
        events, later = [], []
        async for one in client.send_message(message("ada", "m1")):
            events.append(one)
            if one.HasField("artifact_update") and not later:
                async for other in client.subscribe(SubscribeToTaskRequest(id=events[0].task.id)):
                    later.append(other)
                    bot.goes.set()

    for seen in (events, later):
        text = "".join(part.text for one in seen for part in one.artifact_update.artifact.parts)

        assert ("WORKING", "Hello there, ada") == (state_of(seen[0].task), text)
        assert "COMPLETED" == state_of(seen[-1].status_update)
    assert ["m1"] == bot.asked


async def test_a_task_that_asks_goes_on_with_the_answer() -> None:
    """Under the same name; and when it is over it takes no message any more."""
    from a2a.client.errors import A2AClientError
    from a2a.utils.errors import A2AError

    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server, official(server.port) as client:
        asked = await task_of(client, message("ask", "m1"))
        told = await task_of(client, message("yes", "m2", task_id=asked.id))
        with pytest.raises((A2AClientError, A2AError)):
            await task_of(client, message("more", "m3", task_id=asked.id))

    assert ("INPUT_REQUIRED", "Really?") == (state_of(asked), asked.status.message.parts[0].text)
    assert (asked.id, "COMPLETED", "Hello there, askHello there, yes") == (told.id, state_of(told), text_of(told))
    assert ["m1", "m2"] == bot.asked


async def test_a_task_is_cancelled() -> None:
    """What was said stays; twice is refused."""
    from a2a.types import CancelTaskRequest
    from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError

    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server, official(server.port) as client:
        bot.goes.clear()
        request = message("ada", "m1")
        request.configuration.return_immediately = True
        begun = await task_of(client, request)
        context = begun.context_id
        await until(lambda: bot.said)
        while not (await bot.keep.answering(context)).reply:
            await until(lambda: bot.said)
        ended = await client.cancel_task(CancelTaskRequest(id=begun.id))
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=begun.id))
        with pytest.raises(TaskNotFoundError):
            await client.cancel_task(CancelTaskRequest(id="task_none"))
        bot.goes.set()

    assert "WORKING" == state_of(begun)
    assert ("CANCELED", "Hello ") == (state_of(ended), text_of(ended))


async def test_no_caller_waits_for_a_bot_that_is_silent_or_fails() -> None:
    """Paused: submitted, and can be cancelled. Set aside: failed."""
    from a2a.types import CancelTaskRequest

    bot = Bot(attempts=1)
    async with mounted(bot, a2a.routes(bot.keep)) as server, official(server.port) as client:
        bot.faults_at_once = 1
        failed = await task_of(client, message("ada", "m1", context_id="c1"))
        await bot.keep.pause("c1")
        waits = await task_of(client, message("bob", "m2", context_id="c1"))
        ended = await client.cancel_task(CancelTaskRequest(id=waits.id))
        await bot.keep.resume("c1")
        assert "idle" == (await bot.keep.answering("c1")).status

    assert ("FAILED", "SUBMITTED", "CANCELED") == (state_of(failed), state_of(waits), state_of(ended))
    assert "m2" not in bot.asked


async def test_the_servers_access_rules_hold() -> None:
    """The card is everybody's; a call takes a credential, and is refused in JSON-RPC without one."""
    bot = Bot()
    params = {"message": {"messageId": "m", "parts": [{"text": "x"}]}}
    body = {"jsonrpc": "2.0", "id": 7, "method": "SendMessage", "params": params}
    async with served(bot.keep, protocols=["a2a"]) as server:
        stranger = await Client(server.port, "").ask("POST", "/a2a", json.dumps(body).encode())
        card = await Client(server.port, "").ask("GET", "/.well-known/agent-card.json")
        looks = {"jsonrpc": "2.0", "id": 7, "method": "GetTask", "params": {"id": "of nobody"}}
        unknown = [
            await Client(server.port, key).ask("POST", "/a2a", json.dumps(looks).encode()) for key in ("", "wrong")
        ]
        async with official(server.port, key=server.key) as client:
            task = await task_of(client, message("ada", "m1"))

    assert (401, "2.0", -32602) == (stranger.status, stranger.json["jsonrpc"], stranger.json["error"]["code"])
    assert [401, 401] == [found.status for found in unknown]
    assert (200, "1.0") == (card.status, card.json["supportedInterfaces"][0]["protocolVersion"])
    assert "Hello there, ada" == text_of(task)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "Nothing"}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "CreateTaskPushNotificationConfig"}, -32003),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": []}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {"messageId": "m"}}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "task_MS5h"}}, -32001),
        ({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"contextId": ""}}, -32602),
    ],
)
async def test_what_is_not_understood_is_refused_in_json_rpc(wrong: Any, code: int) -> None:
    """With the protocol's code."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        answer = await server.ask("POST", "/a2a", json.dumps(wrong).encode())
        async with streamed(server, "POST", "/a2a", wrong, {"A2A-Version": "0.3"}) as older:
            told = await older.next()

    assert (code, wrong.get("id")) == (answer.json["error"]["code"], answer.json["id"])
    assert told is None
    assert [] == bot.asked


async def test_a_visitor_who_looks_at_a_task_begins_no_conversation() -> None:
    """Only a message does, in A2A and in MCP."""
    bot = Bot()
    name = f"task_{name_answer('made-up', 1)}"
    async with served(bot.keep, protocols=["a2a", "mcp"], anonymous=True) as server:
        visitor = Client(server.port, "")
        for path, method, params in [("/a2a", "GetTask", {"id": name}), ("/mcp", "tasks/get", {"taskId": name})]:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            found = await visitor.ask("POST", path, json.dumps(body).encode())
            assert (401, None) == (found.status, found.headers.get("chatkeep-token"))

        assert await bot.keep.conversation("made-up") is None
