"""The Model Context Protocol over streamable HTTP: an assistant has the bot as a tool, with tasks that outlive its connection.

    app = Starlette(routes=mcp.routes(keep, name="ask_the_salon"), lifespan=...)      # or create_app(keep, protocols=["mcp"])

There it answers:

    POST /mcp           initialize, server/discover, ping, tools/list, tools/call, tasks/get, tasks/result, tasks/cancel

One tool takes a message to a conversation, and gives its answer; what it asks is answered by calling it again. A task is the answer to
one message, as long as the message is kept: it is found again on any instance, whoever has died meanwhile. Versions 2025-03-26 to
2026-07-28, with tasks as 2025-11-25 has them and as the extension io.modelcontextprotocol/tasks does. No request needs a session.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ... import __version__
from ...app import Chatkeep
from ...auth.credentials import Scope
from ...errors import ChatkeepError
from ...model import Failing, Message, Part
from .. import wire
from ..refusals import not_found
from ..streams import event
from .answer_stream import (
    BlockGrew,
    Ended,
    Step,
    file_name,
    find_named,
    in_order,
    is_text,
    name_answer,
    parts_of,
    tell_failing,
    write_time,
)
from .entrance import Authorize, Caller, Entrance
from .json_rpc import (
    BAD_PARAMS,
    BAD_REQUEST,
    NO_METHOD,
    RpcError,
    coded,
    read_request,
    rpc_error,
    rpc_result,
)
from .sse import SSE, Steps, WhileItWorks, whole

PATH = "/mcp"
MODERN = ("2026-07-28",)
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Versions in which each request says what its client can do, and those that begin with `initialize`; the newest first."""

META = "io.modelcontextprotocol/"
TASKS = f"{META}tasks"
MISMATCH, NO_CAPABILITY, OTHER_VERSION = -32020, -32021, -32022
POLL_MS = 1000

WAITS = {
    "paused": "The bot is paused. The message is kept, and answered when the bot is resumed.",
    "journaled": "The message is kept, and is answered when the store is back.",
    "unattended": "Nobody answers here at the moment. The message is kept.",
    "closing": "The server stops now. The message is kept; ask again with the same id to be given its answer.",
}
"""What is told of a message that waits for its answer, and of which nothing is known yet."""


def routes(
    keep: Chatkeep[Any],
    *,
    path: str = PATH,
    authorize: Authorize | None = None,
    name: str = "say",
    description: str = "Says something to a chatbot and gives its answer.",
) -> list[BaseRoute]:
    """
    Return the route of MCP over *keep*, to mount.

    Args:
        path: Where it is; the URL that a client is given.

        authorize: Says, in an application of your own, who may use a conversation: see `Authorize`. Without it, chatkeep's own
            credentials are asked for, and from this machine none.

        name, description: Those of the tool, by which a model finds out what it is for.
    """
    entrance = Entrance(keep, refuse=lambda refusal: rpc_error(None, *coded(refusal, {})), authorize=authorize)
    server = Server(entrance, name, description)

    @entrance.guards("send")
    async def call(request: Request) -> Response:
        """Do what is called for."""
        id = None
        try:
            body = await read_request(entrance, request)
            id = body.get("id")
            method, params = body.get("method"), body.get("params", {})
            if body.get("jsonrpc") != "2.0" or not isinstance(params, dict):
                raise RpcError(BAD_REQUEST, "This is no JSON-RPC 2.0 message.", status=400)
            if not isinstance(method, str) or "id" not in body:
                return Response(status_code=202)  # a notification, or an answer to a request that nobody has made
            asked = read_call(request, id, params)
            if method not in server.methods:
                raise RpcError(NO_METHOD, f"There is no {method[:40]} here.", status=404 if asked.modern else 200)
            return await server.methods[method](asked)
        except RpcError as fault:
            return rpc_error(id, fault.code, str(fault), fault.status, data=fault.data)
        except (HTTPException, ChatkeepError) as fault:
            return rpc_error(id, *coded(entrance.refusal_of(fault), {}))

    return [wire.RawRoute(path, call, slash=True, methods=["POST"])]


class Call(Struct, frozen=True):
    """One request. *modern*: in a version in which each request says what its client can do; *tasks*: that it knows tasks."""

    request: Request
    id: Any
    params: dict[str, Any]
    modern: bool
    tasks: bool

    def answer(self, result: dict[str, Any]) -> Response:
        """Answer the call with *result*."""
        return wire.as_json(self.written(result), headers={"cache-control": "no-store"})

    def written(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return the message that answers it."""
        return rpc_result(self.id, ({"resultType": "complete"} | result) if self.modern else result)


def read_call(request: Request, id: Any, params: dict[str, Any]) -> Call:
    """Read what a request says of its version and its client. Raises `RpcError`."""
    meta = object_in(params, "_meta")
    version, header = meta.get(f"{META}protocolVersion"), request.headers.get("mcp-protocol-version")
    if version is not None and header is not None and header != version:
        raise RpcError(MISMATCH, "MCP-Protocol-Version and the request name different versions.", status=400)
    if (named := version or header) is not None and named not in (*MODERN, *HANDSHAKE):
        told = {"supported": [*MODERN, *HANDSHAKE], "requested": str(named)[:40]}
        raise RpcError(OTHER_VERSION, "This version of MCP is not spoken here.", status=400, data=told)
    modern = version in MODERN
    able = object_in(meta, f"{META}clientCapabilities")
    tasks = TASKS in object_in(able, "extensions") if modern else isinstance(params.get("task"), dict)
    return Call(request, id, params, modern, tasks)


def object_in(told: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the object under *name*; an empty one where there is none."""
    found = told.get(name)
    return found if isinstance(found, dict) else {}


class Server:
    """The methods of the protocol, with one tool."""

    def __init__(self, entrance: Entrance, name: str, description: str) -> None:
        self._entrance, self._name = entrance, name
        self._tool = tool_of(name, description)
        self.methods: dict[str, Callable[[Call], Awaitable[Response]]] = {
            "initialize": self.initialize,
            "server/discover": self.discover,
            "ping": self.ping,
            "tools/list": self.list_tools,
            "tools/call": self.call_tool,
            "tasks/get": self.get_task,
            "tasks/result": self.get_result,
            "tasks/cancel": self.cancel_task,
        }

    async def initialize(self, call: Call) -> Response:
        """Agree upon a version, for clients that begin with it."""
        wanted = call.params.get("protocolVersion")
        able: dict[str, Any] = {"tools": {}, "tasks": {"cancel": {}, "requests": {"tools": {"call": {}}}}}
        version = wanted if wanted in HANDSHAKE else HANDSHAKE[0]
        return call.answer({"protocolVersion": version, "capabilities": able, "serverInfo": ABOUT})

    async def discover(self, call: Call) -> Response:
        """Tell what is spoken here."""
        able: dict[str, Any] = {"tools": {}, "extensions": {TASKS: {}}}
        told = {"supportedVersions": [*MODERN, *HANDSHAKE], "capabilities": able, "_meta": {f"{META}serverInfo": ABOUT}}
        return call.answer({**told, "ttlMs": 0, "cacheScope": "private"})

    async def ping(self, call: Call) -> Response:
        """Answer."""
        return call.answer({})

    async def list_tools(self, call: Call) -> Response:
        """Return the tool."""
        return call.answer({"tools": [self._tool]} | ({"ttlMs": 0, "cacheScope": "private"} if call.modern else {}))

    async def call_tool(self, call: Call) -> Response:
        """Take a message, and answer with what the bot answers; or at once with a task, for who knows tasks."""
        if call.params.get("name") != self._name:
            raise RpcError(BAD_PARAMS, f"There is no such tool; there is {self._name}.")
        given = object_in(call.params, "arguments")
        text, key, named = given.get("text"), given.get("id"), given.get("conversation")
        if not isinstance(text, str) or not all(one is None or (isinstance(one, str) and one) for one in (key, named)):
            return call.answer(wrong_use("`text` is text, and so are `conversation` and `id` where they are given."))
        conversation = named or f"mcp_{secrets.token_hex(16)}"
        caller = await self._entrance.admit(call.request, conversation, begins=True)
        number = (await caller.accept(text, id=key)).number
        task = Task(caller, number, self._entrance.core.clock())
        if call.tasks and number:
            told = task.shown(Ended("accepted"), call)
            return call.answer({"resultType": "task", **told} if call.modern else {"task": told})
        return await task.give(call)

    async def get_task(self, call: Call) -> Response:
        """Return a task as it is now; with its result, in versions where nothing else gives it."""
        task = await self._find(call, scope="read")
        ended = await task.now()
        told = task.shown(ended, call)
        if call.modern and told["status"] == "completed":
            told["result"] = {"resultType": "complete", **task.result(ended)}
        return call.answer(told)

    async def get_result(self, call: Call) -> Response:
        """Wait for the end of a task, and return what the call would have been answered."""
        if call.modern:
            raise RpcError(NO_METHOD, "There is no tasks/result in this version; tasks/get has the result.", status=404)
        task = await self._find(call, scope="read")
        return await task.give(call, {"_meta": {f"{META}related-task": {"taskId": task.id}}}, to_the_end=True)

    async def cancel_task(self, call: Call) -> Response:
        """End a task; what was said of its answer stays in the conversation."""
        task = await self._find(call)
        over = task.status_of(await task.now(), call)
        if not call.modern and over != "working":
            raise RpcError(BAD_PARAMS, f"The task is over ({over}); nothing was cancelled.")
        await task.caller.stop(task.number)
        return call.answer({} if call.modern else task.shown(await task.now(), call))

    async def _find(self, call: Call, *, scope: Scope | None = None) -> Task:
        """Find the task that a request names. Raises `RpcError`, and what its conversation refuses."""
        if call.modern and not call.tasks:
            lacks: dict[str, Any] = {"requiredCapabilities": {"extensions": {TASKS: {}}}}
            raise RpcError(NO_CAPABILITY, f"This is for clients that have declared {TASKS}.", status=400, data=lacks)
        named = call.params.get("taskId")
        place = find_named(named.removeprefix("task_")) if isinstance(named, str) else None
        if place is None:
            raise not_found()
        caller = await self._entrance.admit(call.request, place[0], scope=scope)
        message = await caller.find_message(place[1], ("user",))
        return Task(caller, place[1], message.created_at)


ABOUT = {"name": "chatkeep", "version": __version__}


def tool_of(name: str, description: str) -> dict[str, Any]:
    """Return the tool as clients are shown it."""
    text = {"type": "string"}
    takes = {
        "text": text | {"description": "What is said."},
        "conversation": text | {"description": "Which conversation it goes on with, as an earlier call has named it; a new one without."},
        "id": text | {"description": "Names the message: said again under the same id it is answered once."},
    }  # fmt: skip
    gives = {"conversation": text, "number": {"type": "integer"}, "status": text}
    return {
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": takes, "required": ["text"]},
        "outputSchema": {"type": "object", "properties": gives, "required": ["conversation", "status"]},
        "execution": {"taskSupport": "optional"},
    }


class Task:
    """The answer to message *number*, which came *at* a time."""

    def __init__(self, caller: Caller, number: int, at: float) -> None:
        self.caller, self.number, self._at = caller, number, at

    @property
    def id(self) -> str:
        """By which it is found again."""
        return f"task_{name_answer(self.caller.conversation, self.number)}"

    async def now(self) -> Ended:
        """Return how the task stands."""
        return await self.caller.find_end(self.number)

    def status_of(self, ended: Ended, call: Call) -> str:
        """Return the status of the task."""
        if ended.status in ("dropped", "erased") or has_mark(ended.replies, "stopped"):
            return "cancelled"
        if ended.status not in ("answered", "failed"):
            return "working"
        return "failed" if is_fault(ended) and not call.modern else "completed"

    def shown(self, ended: Ended, call: Call) -> dict[str, Any]:
        """Return it as the version of the call has it."""
        at = ended.replies[-1].created_at if ended.replies else self._at
        told: dict[str, Any] = {
            "taskId": self.id,
            "status": self.status_of(ended, call),
            "createdAt": write_time(self._at),
            "lastUpdatedAt": write_time(at),
            "ttlMs" if call.modern else "ttl": None,
            "pollIntervalMs" if call.modern else "pollInterval": POLL_MS,
        }
        said = WAITS.get(ended.status) or (tell_failing(ended.failing) if ended.failing else "")
        return told | ({"statusMessage": said} if said else {})

    def result(self, ended: Ended) -> dict[str, Any]:
        """Return what a call is answered."""
        parts = [part for reply in in_order(ended.replies) for part in parts_of(reply)]
        content = [shown for part in parts if (shown := shown_part(part)) is not None]
        if not ended.replies and ended.status != "answered":
            content.append(text_part(tell_waiting(ended)))
        content.append(text_part(f"(conversation: {self.caller.conversation})"))  # (models are shown the content alone)
        told = {"conversation": self.caller.conversation, "number": self.number, "status": ended.status}
        return {"content": content, "structuredContent": told, "isError": is_fault(ended)}

    async def give(self, call: Call, more: dict[str, Any] | None = None, *, to_the_end: bool = False) -> Response:
        """Answer a call with the result, when it is there; who takes events is told meanwhile how far the answer has come. Who is
        told nothing waits no longer for a bot that fails, unless *to_the_end*."""
        token, said = object_in(call.params, "_meta").get("progressToken"), 0
        streams = "text/event-stream" in call.request.headers.get("accept", "")
        waits = to_the_end or (streams and token is not None)
        answer: Steps = self.caller.answer(self.number) if waits else WhileItWorks(self.caller, self.number)
        if not streams:
            return call.answer({**self.result(await whole(answer)), **(more or {})})

        async def write(step: Step) -> bytes:
            nonlocal said
            if isinstance(step, Ended):
                return event(call.written({**self.result(step), **(more or {})}), name="message")
            match step:
                case BlockGrew(kind="text", text=text):
                    said += len(text)
                case Failing():
                    text = tell_failing(step)
                    said += 1  # (of progress there is always more)
                case _:
                    return b""
            if token is None:
                return b""
            told = {"progressToken": token, "progress": said, "message": text}
            notice = {"jsonrpc": "2.0", "method": "notifications/progress", "params": told}
            return event(notice, name="message")

        return SSE(call.request, self.caller, answer, write)


def tell_waiting(ended: Ended) -> str:
    """Say in words why there is no answer."""
    if ended.failing is not None:
        return f"{tell_failing(ended.failing)} Ask again with the same id to be given the answer."
    return WAITS.get(ended.status, "The bot could not answer; the message is kept.")


def has_mark(replies: Sequence[Message], mark: str) -> bool:
    """Tell whether one of *replies* was ended early, and is marked so."""
    return any(mark in reply.metadata for reply in replies)


def is_fault(ended: Ended) -> bool:
    """Tell whether a message has no answer, or only a part of one."""
    return ended.status != "answered" or any(has_mark(ended.replies, mark) for mark in ("stopped", "interrupted"))


def wrong_use(text: str) -> dict[str, Any]:
    """Return the result of a call that a model has got wrong, and may mend."""
    told = {"conversation": "", "status": "refused"}
    return {"content": [text_part(f"{text} Nothing was said.")], "structuredContent": told, "isError": True}


def text_part(text: str) -> dict[str, Any]:
    """Return *text* as content."""
    return {"type": "text", "text": text}


def shown_part(part: Part) -> dict[str, Any] | None:
    """Return a part of a reply as content: text, a question, a link; None for what is not for the asking model."""
    if is_text(part):
        return text_part(part["text"])
    if part.get("type") == "interrupt":
        return text_part(str(part.get("message", part.get("reason", ""))))
    if not isinstance(url := part.get("url"), str) or url.startswith("data:"):
        return None
    told = {"type": "resource_link", "uri": url, "name": str(part.get("title") or file_name(part) or url)}
    return told | ({"mimeType": str(part["media_type"])} if part.get("media_type") else {})
