"""A2A, by the official client for Python, unchanged; and what that client cannot send."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.server.protocols import a2a, mcp
from chatkeep.server.protocols.answer_stream import name_answer

from ...support.protocols import Bot, mounted, streamed
from ...support.serving import Client, served
from ...support.waiting import until

SDK = pytest.importorskip("a2a.client", reason="THE OFFICIAL CLIENT OF A2A IS NOT INSTALLED")

V1 = {"A2A-Version": "1.0"}


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


async def rpc(
    client: Client, method: str, params: dict[str, Any], *, headers: dict[str, str] | None = None, path: str = "/a2a"
) -> Any:
    """What a call is answered, as the official client does not show it."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await client.ask("POST", path, json.dumps(body).encode(), headers=V1 if headers is None else headers)


def said(id: str, text: str = "x", **more: Any) -> dict[str, Any]:
    """What SendMessage takes."""
    return {"message": {"messageId": id, "role": "ROLE_USER", "parts": [{"text": text}], **more}}


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
            return (await rpc(server, "ListTasks", {"contextId": "c1", **asked})).json

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

    async def contexts(client: Client, headers: dict[str, str] | None = None) -> set[str]:
        found = (await rpc(client, "ListTasks", {}, headers=V1 | (headers or {}))).json["result"]["tasks"]
        return {task["contextId"] for task in found}

    async with served(bot.keep, protocols=["a2a"]) as server:
        for name in ("ada:1", "ada:2", "bob:1"):
            await bot.keep.receive(name, "hello", owner=name.partition(":")[0])
        token = (await server.ask("POST", "/v1/conversations/bob:1/tokens", b"{}")).json["token"]
        user = (await server.ask("POST", "/v1/users/ada/tokens", b"{}")).json["token"]
        stranger = await rpc(Client(server.port, ""), "ListTasks", {})
        seen = [await contexts(server), *[await contexts(Client(server.port, key)) for key in (token, user)]]

    assert [{"ada:1", "ada:2", "bob:1"}, {"bob:1"}, {"ada:1", "ada:2"}] == seen
    assert 401 == stranger.status

    def authorize(request: Any, conversation: str) -> str | None:
        return "" if (conversation or "ada").startswith(request.headers.get("x-user", "-")) else None

    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep, authorize=authorize)) as own:
        for name in ("ada:1", "bob:1"):
            await bot.keep.receive(name, "hello")
        mine, nobody = await contexts(own, {"x-user": "ada"}), await rpc(own, "ListTasks", {})

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
        found = await bot.keep.answering("c1")
        assert ("set aside", 1) == (found.status, found.number)  # as if the other had never been said

    assert ("FAILED", "SUBMITTED", "CANCELED") == (state_of(failed), state_of(waits), state_of(ended))
    assert "m2" not in bot.asked


async def test_the_servers_access_rules_hold() -> None:
    """The card is everybody's; a call takes a credential, and is refused in JSON-RPC without one."""
    bot = Bot()
    async with served(bot.keep, protocols=["a2a"]) as server:
        stranger = await rpc(Client(server.port, ""), "SendMessage", said("m"))
        card = await Client(server.port, "").ask("GET", "/.well-known/agent-card.json")
        unknown = [await rpc(Client(server.port, key), "GetTask", {"id": "of nobody"}) for key in ("", "wrong")]
        async with official(server.port, key=server.key) as client:
            task = await task_of(client, message("ada", "m1"))

    assert (401, "2.0", -32602) == (stranger.status, stranger.json["jsonrpc"], stranger.json["error"]["code"])
    assert [401, 401] == [found.status for found in unknown]
    assert (200, "1.0") == (card.status, card.json["supportedInterfaces"][0]["protocolVersion"])
    assert "Hello there, ada" == text_of(task)


ODD = {**said("m"), "configuration": {"historyLength": "all"}}
"""A message that is right, to be answered in a way that there is not."""


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "Nothing"}, -32601),
        ({"jsonrpc": "2.0", "id": 1, "method": "CreateTaskPushNotificationConfig"}, -32003),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": []}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": {"messageId": "m"}}}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": ODD}, -32602),
        ({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "task_MS5h"}}, -32001),
        ({"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {"contextId": 5}}, -32602),
    ],
)
async def test_what_is_not_understood_is_refused_in_json_rpc(wrong: Any, code: int) -> None:
    """With the protocol's code."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        answer = await server.ask("POST", "/a2a", json.dumps(wrong).encode(), headers=V1)
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
            found = await visitor.ask("POST", path, json.dumps(body).encode(), headers=V1)
            assert (401, None) == (found.status, found.headers.get("chatkeep-token"))

        assert await bot.keep.conversation("made-up") is None


async def test_an_error_of_the_protocol_has_its_name() -> None:
    """Beside its code, whichever it is; an error of JSON-RPC has none."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        over = (await rpc(server, "SendMessage", said("m1"))).json["result"]["task"]["id"]
        named = {"id": over}
        told = [
            await rpc(server, "GetTask", {"id": "task_MS5h"}),
            await rpc(server, "CancelTask", named),
            await rpc(server, "ListTaskPushNotificationConfigs", named),
            await rpc(server, "GetExtendedAgentCard", {}),
            await rpc(server, "SubscribeToTask", named),
            await rpc(server, "SendMessage", said("m2", taskId=over)),
            await rpc(server, "SendMessage", said("m2"), headers=V1 | {"Content-Type": "text/plain"}),
            await rpc(server, "SendMessage", said("m2"), headers={"A2A-Version": "0.3"}),
            await rpc(server, "SendMessage", said("m2"), headers={"A2A-Version": "1.1"}),
            await rpc(server, "SendMessage", said("m2"), headers={}),
        ]
        params = await rpc(server, "SendMessage", {})

    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "a2a-protocol.org"}
    names = [
        (-32001, "TASK_NOT_FOUND"),
        (-32002, "TASK_NOT_CANCELABLE"),
        (-32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        *[(-32004, "UNSUPPORTED_OPERATION")] * 3,
        (-32005, "CONTENT_TYPE_NOT_SUPPORTED"),
        *[(-32009, "VERSION_NOT_SUPPORTED")] * 3,
    ]
    assert [(code, [info | {"reason": reason}]) for code, reason in names] == [
        (found.json["error"]["code"], found.json["error"]["data"]) for found in told
    ]
    assert (-32602, False) == (params.json["error"]["code"], "data" in params.json["error"])
    assert ["m1"] == bot.asked


async def test_a_request_may_use_the_names_of_the_description() -> None:
    """`history_length` is `historyLength` to whoever reads ProtoJSON; the version may be in the address."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        body = {"message": {"message_id": "m1", "role": "ROLE_USER", "context_id": "c1", "parts": [{"text": "ask"}]}}
        body["configuration"] = {"history_length": 0}
        asked = (await rpc(server, "SendMessage", body, headers={}, path="/a2a?A2A-Version=1.0")).json["result"]["task"]
        await rpc(server, "SendMessage", said("m2", task_id=asked["id"]))
        found = (await rpc(server, "GetTask", {"id": asked["id"], "history_length": 1})).json["result"]
        both = (await rpc(server, "GetTask", {"id": asked["id"], "history_length": 1, "historyLength": 9})).json[
            "result"
        ]

    assert ("c1", []) == (asked["contextId"], asked["history"])
    assert (["m2"], 3) == ([one["messageId"] for one in found["history"]], len(both["history"]))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"parts": [{"filename": "x"}]}, -32602),
        ({"parts": [{"text": 5}]}, -32602),
        ({"parts": [{"raw": "no base 64"}]}, -32602),
        ({"parts": [{"raw": "A"}]}, -32602),
        ({"role": "ROLE_AGENT"}, -32602),
        ({"role": None}, -32602),
    ],
)
async def test_a_message_that_is_none_is_refused(message: dict[str, Any], code: int) -> None:
    """A part without content, or what an agent has said, is not put into a user's mouth."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        found = await rpc(server, "SendMessage", said("m1", **message))

    assert (code, []) == (found.json["error"]["code"], bot.asked)


async def test_a_file_is_a_file_on_both_ways() -> None:
    """By reference, and inline; with its name and its media type, by whichever word a bot has for the name."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    kept: list[Any] = []

    @keep.on_message
    async def answer(turn: Turn[Any]) -> Any:
        kept.extend(turn.message.content)
        return [
            {"type": "file", "url": "https://example.com/a.txt", "media_type": "text/plain", "name": "a.txt"},
            {"type": "file", "url": "data:text/plain;charset=utf-8;base64,dGVzdA==", "filename": "b.txt"},
            {"type": "image", "url": "data:image/svg+xml,%3Csvg/%3E"},
            {"type": "data", "data": {"key": 1}},
        ]

    sent = [
        {"url": "https://example.com/a.txt", "mediaType": "text/plain", "filename": "a.txt"},
        {"raw": "_-8", "mediaType": "text/x", "filename": "b"},
        {"data": {"key": 1}},
    ]
    async with mounted(keep, a2a.routes(keep)) as server:
        task = (await rpc(server, "SendMessage", said("m1", parts=sent))).json["result"]["task"]

    plain = {"raw": "/+8=", "mediaType": "text/x", "filename": "b"}
    assert "data:text/x;base64,/+8=" == kept[1]["url"]
    assert [sent[0], plain, sent[2]] == task["history"][0]["parts"]
    assert [
        {"url": "https://example.com/a.txt", "mediaType": "text/plain", "filename": "a.txt"},
        {"raw": "dGVzdA==", "mediaType": "text/plain", "filename": "b.txt"},
        {"url": "data:image/svg+xml,%3Csvg/%3E"},
        {"data": {"key": 1}},
    ] == [artifact["parts"][0] for artifact in task["artifacts"]]


async def test_a_subscription_lasts_until_the_task_is_over() -> None:
    """Through its question, and the answer to that; a stream of a sent message ends with the question."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": said("m1", "ask")}
        async with streamed(server, "POST", "/a2a", body, V1) as answer:
            sent = [one["result"] for one in await answer.rest()]
        named = sent[0]["task"]["id"]
        body = {"jsonrpc": "2.0", "id": 2, "method": "SubscribeToTask", "params": {"id": named}}
        async with streamed(server, "POST", "/a2a", body, V1) as one, streamed(server, "POST", "/a2a", body, V1) as two:
            first = [(await one.next())["result"], (await two.next())["result"]]
            await rpc(server, "SendMessage", said("m2", "yes", taskId=named))
            seen, other = [[event["result"] for event in await stream.rest()] for stream in (one, two)]

    def states(events: list[Any]) -> list[str]:
        return [event["statusUpdate"]["status"]["state"][11:] for event in events if "statusUpdate" in event]

    def words(events: list[Any]) -> str:
        updates = [event["artifactUpdate"]["artifact"] for event in events if "artifactUpdate" in event]
        return "".join(part["text"] for artifact in updates for part in artifact["parts"])

    assert (["INPUT_REQUIRED"], "Hello there, ask") == (states(sent), words(sent))
    assert ["TASK_STATE_INPUT_REQUIRED"] * 2 == [event["task"]["status"]["state"] for event in first]
    assert "Hello there, ask" == first[0]["task"]["artifacts"][-1]["parts"][0]["text"]
    assert (["WORKING", "COMPLETED"], "Hello there, yes") == (states(seen), words(seen))
    assert seen == other


@pytest.mark.parametrize("way", ["cancelled", "erased"])
async def test_a_task_that_asks_can_be_ended(way: str) -> None:
    """It takes no message then, and its subscribers are told; the bot is asked nothing."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        task = (await rpc(server, "SendMessage", said("m1", "ask", contextId="c1"))).json["result"]["task"]
        named = {"id": task["id"]}
        body = {"jsonrpc": "2.0", "id": 2, "method": "SubscribeToTask", "params": named}
        async with streamed(server, "POST", "/a2a", body, V1) as subscribed:
            await subscribed.next()
            if way == "cancelled":
                ended = (await rpc(server, "CancelTask", named)).json["result"]
            else:
                await bot.keep.erase("c1")
            seen = [event["result"]["statusUpdate"]["status"]["state"] for event in await subscribed.rest()]
        later = await rpc(server, "SendMessage", said("m2", "yes", taskId=task["id"]))
        twice = await rpc(server, "CancelTask", named)
        listed = (await rpc(server, "ListTasks", {"contextId": "c1"})).json["result"]["tasks"]

    assert ["TASK_STATE_CANCELED"] == seen
    if way == "cancelled":
        assert "TASK_STATE_CANCELED" == ended["status"]["state"] == listed[0]["status"]["state"]
        assert (-32004, -32002) == (later.json["error"]["code"], twice.json["error"]["code"])
    assert ["m1"] == bot.asked


async def test_a_message_may_be_answered_by_a_message() -> None:
    """Where the application wants it and there is an answer to give; what asks or fails is a task."""
    bot = Bot(attempts=1)
    async with mounted(bot, a2a.routes(bot.keep, direct=lambda message: message.id.startswith("d"))) as server:

        async def streams(id: str, text: str = "ada") -> list[Any]:
            body = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "SendStreamingMessage",
                "params": said(id, text, contextId="c1"),
            }
            async with streamed(server, "POST", "/a2a", body, V1) as answer:
                return [one["result"] for one in await answer.rest()]

        at_once = {**said("d1", "ada", contextId="c1"), "configuration": {"returnImmediately": True}}
        first = (await rpc(server, "SendMessage", at_once)).json["result"]
        task = (await rpc(server, "SendMessage", said("m1", "ada", contextId="c1"))).json["result"]
        second, asked = await streams("d2"), await streams("d3", "ask")
        bot.faults_at_once = 1
        failed = await streams("d4")

    message = first["message"]
    assert ("ROLE_AGENT", "c1", [{"text": "Hello there, ada"}]) == (
        message["role"],
        message["contextId"],
        message["parts"],
    )
    assert "taskId" not in message
    assert ["task"] == list(task)
    assert [["message"]] == [list(one) for one in second]
    assert [["TASK_STATE_INPUT_REQUIRED"], ["TASK_STATE_FAILED"]] == [
        [one["task"]["status"]["state"] for one in events] for events in (asked, failed)
    ]


async def test_the_card_can_be_kept() -> None:
    """For a while, and then it is asked whether it is another one."""
    bot = Bot()
    async with mounted(bot, a2a.routes(bot.keep)) as server:
        first = await server.ask("GET", a2a.CARD)
        tag = first.headers["etag"]
        again, other = [
            await server.ask("GET", a2a.CARD, headers={"If-None-Match": known}) for known in (tag, '"other"')
        ]

    assert "max-age=300" == first.headers["cache-control"] == again.headers["cache-control"]
    assert (304, 200, tag) == (again.status, other.status, again.headers["etag"])
