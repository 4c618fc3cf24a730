"""A2A 1.0, by its JSON-RPC binding: what agent platforms call another agent by.

    app = Starlette(routes=a2a.routes(keep), lifespan=...)        # or create_app(keep, protocols=["a2a"])

    GET  /.well-known/agent-card.json      who this agent is, for everybody
    POST /a2a                              SendMessage, SendStreamingMessage, GetTask, ListTasks, CancelTask, SubscribeToTask

A context is a conversation, a task the answer to one message. A task whose reply asks for something (a part `{"type": "interrupt"}`)
is in the state input-required; a message that names it goes on with it. A message's id is its idempotency key. There are
no push notifications.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...app import Chatkeep
from ...errors import ChatkeepError
from ...model import Content, Message, Part
from .. import wire
from ..access import not_found
from ..streams import event
from .answer_stream import (
    AnswerStream,
    BlockEnded,
    BlockGrew,
    Ended,
    PartShown,
    Step,
    content_from,
    find_named,
    growing,
    in_order,
    name_answer,
    parts_of,
)
from .entrance import Authorize, Caller, Entrance, id_in
from .json_rpc import BAD_PARAMS, BAD_REQUEST, NO_METHOD, RpcError, coded, rpc_error, rpc_result
from .sse import SSE, whole

PATH = "/a2a"
CARD = "/.well-known/agent-card.json"
TASK = "a2a_task"
"""The member of a message's metadata that says with which task it goes on: the number of the task's first message."""

STATES = {
    "accepted": "WORKING",
    "journaled": "SUBMITTED",
    "paused": "SUBMITTED",
    "unattended": "SUBMITTED",
    "closing": "WORKING",
    "answered": "COMPLETED",
    "dropped": "CANCELED",
    "erased": "CANCELED",
    "failed": "FAILED",
}
"""What became of a message, as the state of its task."""

OVER = ("TASK_STATE_COMPLETED", "TASK_STATE_CANCELED", "TASK_STATE_FAILED")
NOT_FOUND, NOT_CANCELABLE, NO_PUSH, UNSUPPORTED, OTHER_VERSION = -32001, -32002, -32003, -32004, -32009
LISTED = 100


def routes(
    keep: Chatkeep[Any],
    *,
    path: str = PATH,
    authorize: Authorize | None = None,
    name: str = "chatkeep",
    description: str = "A chatbot.",
) -> list[BaseRoute]:
    """
    Return the routes of A2A over *keep*, to mount.

    Args:
        path: Where it is called.

        authorize: Says, in an application of your own, who may use a context: see `Authorize`. Without it, chatkeep's own
            credentials are asked for, and from this machine none.

        name, description: What the agent's card says.
    """
    entrance = Entrance(
        keep, refuse=lambda refusal: rpc_error(None, *coded(refusal, not_found=NOT_FOUND)), authorize=authorize
    )
    agent = Agent(entrance)

    @entrance.open_to_all
    async def card(request: Request) -> Response:
        """Return who this agent is, and where it is called."""
        host, root = request.headers.get("host", "localhost"), request.scope.get("root_path", "")
        url = f"{request.scope.get('scheme', 'http')}://{host}{root}{path}"
        return wire.as_json(card_of(name, description, url), headers={"cache-control": "no-store"})

    @entrance.guards("send", begins=True)
    async def call(request: Request) -> Response:
        """Do what is called for."""
        body = await entrance.body(request)
        id = body.get("id")
        try:
            version = request.headers.get("a2a-version", "1.0")
            if not version.startswith("1."):
                raise RpcError(OTHER_VERSION, f"A2A {version[:20]} is not spoken here; 1.0 is.")
            method, params = body.get("method"), body.get("params", {})
            if body.get("jsonrpc") != "2.0" or not isinstance(method, str) or not isinstance(params, dict):
                raise RpcError(BAD_REQUEST, "This is no JSON-RPC 2.0 request.")
            if method not in agent.methods:
                push = "PushNotification" in method
                raise RpcError(NO_PUSH if push else NO_METHOD, f"There is no {method[:40]} here.")
            return await agent.methods[method](request, id, params)
        except RpcError as fault:
            return rpc_error(id, fault.code, str(fault))
        except (HTTPException, ChatkeepError) as fault:
            return rpc_error(id, *coded(entrance.refusal_of(fault), not_found=NOT_FOUND))

    return [wire.RawRoute(CARD, card, methods=["GET"]), wire.RawRoute(path, call, methods=["POST"])]


def card_of(name: str, description: str, url: str) -> dict[str, Any]:
    """Return an agent's card."""
    skill = {"id": "chat", "name": "Chat", "description": description, "tags": ["chat"]}
    return {
        "name": name,
        "description": description,
        "version": "1.0",
        "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {"streaming": True, "pushNotifications": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [skill],
        "securitySchemes": {"bearer": {"httpAuthSecurityScheme": {"scheme": "Bearer"}}},
    }


Method = Callable[[Request, Any, dict[str, Any]], Awaitable[Response]]


class Agent:
    """The methods of the protocol."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance, self._core = entrance, entrance.core
        self.methods: dict[str, Method] = {
            "SendMessage": self.send_message,
            "SendStreamingMessage": self.send_streaming_message,
            "GetTask": self.get_task,
            "ListTasks": self.list_tasks,
            "CancelTask": self.cancel_task,
            "SubscribeToTask": self.subscribe_to_task,
        }

    async def send_message(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Take a message, and answer with its task when that has ended, or at once."""
        task = await self._take(request, params)
        ended = Ended("accepted")
        if not settings_of(params).get("returnImmediately"):
            ended = await whole(task.answer())
        return wire.as_json(rpc_result(id, {"task": task.shown(ended)}))

    async def send_streaming_message(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Take a message, and stream what becomes of its task."""
        return (await self._take(request, params)).stream(request, id)

    async def get_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Return a task as it is now."""
        task = await self._find(request, params)
        return wire.as_json(rpc_result(id, task.shown(await task.now())))

    async def subscribe_to_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Stream a task that is being done, from the beginning of its answer."""
        task = await self._find(request, params)
        if (state := task.state_of(await task.now())) in OVER:
            raise RpcError(UNSUPPORTED, f"The task is over ({state}), so nothing more comes of it; GetTask has it.")
        return task.stream(request, id)

    async def cancel_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """End a task; what was said of its answer stays."""
        task = await self._find(request, params)
        if (state := task.state_of(await task.now())) in OVER:
            raise RpcError(NOT_CANCELABLE, f"The task is over ({state}); nothing was cancelled.")
        await task.caller.stop(task.number)
        return wire.as_json(rpc_result(id, task.shown(await task.now())))

    async def list_tasks(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Return the last tasks of a context, last first."""
        caller = await self._entrance.admit(request, id_in(params, "contextId"))
        caller.refuse_stranger()
        log = [m async for m in caller.tenant.history(caller.conversation, before=wire.NEWEST, limit=LISTED)]
        first = [message for message in reversed(log) if message.role == "user" and TASK not in message.metadata]
        found = [task_from(caller, message, log) for message in first]
        tasks = [task.shown(await task.now()) for task in found]
        told = {"tasks": tasks, "totalSize": len(tasks), "pageSize": LISTED, "nextPageToken": ""}
        return wire.as_json(rpc_result(id, told))

    async def _take(self, request: Request, params: dict[str, Any]) -> Task:
        """Put the message of a request into the log, once."""
        message = params.get("message")
        if not isinstance(message, dict):
            raise RpcError(BAD_PARAMS, "`message` is not here; nothing was touched.")
        key, content = id_in(message, "messageId"), content_of(message)
        if named := message.get("taskId"):
            task = await self._find(request, {"id": named})
            if message.get("contextId", task.caller.conversation) != task.caller.conversation:
                raise RpcError(BAD_PARAMS, "The task is one of another context; nothing was touched.")
            known = [m async for m in self._going_on(task.caller, task.first) if m.id == key]
            if not known and (state := task.state_of(await task.now())) != "TASK_STATE_INPUT_REQUIRED":
                raise RpcError(UNSUPPORTED, f"The task waits for no message ({state}); nothing was touched.")
            told = {TASK: task.first.number}
            receipt = await task.caller.accept(content, id=key, metadata=told)
            return Task(task.caller, task.first, receipt.number)
        context = message.get("contextId") or f"ctx_{secrets.token_hex(16)}"
        if not isinstance(context, str):
            raise RpcError(BAD_PARAMS, "`contextId` is text; nothing was touched.")
        caller = await self._entrance.admit(request, context)
        receipt = await caller.accept(content, id=key)
        first = Message(id=key, number=receipt.number, role="user", content=content, created_at=self._core.clock())
        return Task(caller, first, receipt.number)

    async def _find(self, request: Request, params: dict[str, Any]) -> Task:
        """Find the task that a request names. Raises 404."""
        named = id_in(params, "id").removeprefix("task_")
        if (place := find_named(named)) is None:
            raise not_found()
        conversation, number = place
        caller = await self._entrance.admit(request, conversation)
        first = await caller.find_message(number, ("user",))
        return task_from(caller, first, [m async for m in self._going_on(caller, first)])

    async def _going_on(self, caller: Caller, first: Message) -> Any:
        """Give the messages that went on with the task whose first message is *first*."""
        async for message in caller.tenant.history(caller.conversation, after=first.number, limit=LISTED):
            if goes_on(message, first):
                yield message


class Task:
    """One task: its first message, and the *number* of the one that is answered now."""

    def __init__(self, caller: Caller, first: Message, number: int) -> None:
        self.caller, self.first, self.number = caller, first, number

    def answer(self) -> AnswerStream:
        """Follow its answer."""
        return self.caller.answer(self.number)

    async def now(self) -> Ended:
        """Return how it stands."""
        return await self.caller.find_end(self.number)

    def state_of(self, ended: Ended) -> str:
        """Return its state."""
        state = STATES[ended.status]
        marks = {name for reply in ended.replies for name in reply.metadata}
        if "stopped" in marks:
            state = "CANCELED"
        elif "interrupted" in marks:
            state = "FAILED"
        elif any(part.get("type") == "interrupt" for reply in ended.replies for part in parts_of(reply)):
            state = "INPUT_REQUIRED"
        return f"TASK_STATE_{state}"

    def shown(self, ended: Ended) -> dict[str, Any]:
        """Return it as the protocol has it."""
        parts = [part for reply in in_order(ended.replies) for part in parts_of(reply)]
        artifacts = [self._artifact(block, part) for block, part in enumerate(parts) if part.get("type") != "interrupt"]
        parts_said = [wire_part(part) for part in parts_of(self.first)]
        said = {"messageId": self.first.id, "role": "ROLE_USER", "parts": parts_said, **self._names}
        return {**self._names_of_task, "status": self._status(ended), "artifacts": artifacts, "history": [said]}

    def stream(self, request: Request, id: Any) -> SSE:
        """Stream it."""
        begun: set[int] = set()

        def told(result: dict[str, Any]) -> bytes:
            return event(rpc_result(id, result))

        async def write(step: Step) -> bytes:
            match step:
                case BlockGrew(block=block, kind="text", text=text):
                    artifact = self._artifact(block, {"type": "text", "text": text})
                    appends = block in begun
                    begun.add(block)
                    return told({"artifactUpdate": {**self._names, "artifact": artifact, "append": appends}})
                case BlockEnded(block=block, kind="text") if block in begun:
                    artifact = self._artifact(block, {"type": "text", "text": ""})
                    return told(
                        {"artifactUpdate": {**self._names, "artifact": artifact, "append": True, "lastChunk": True}}
                    )
                case PartShown(block=block, part=part) if part.get("type") != "interrupt":
                    artifact = self._artifact(block, part)
                    return told({"artifactUpdate": {**self._names, "artifact": artifact, "lastChunk": True}})
                case Ended():
                    return told({"statusUpdate": {**self._names, "status": self._status(step)}})
            return b""

        first = told({"task": self.shown(Ended("accepted"))})
        return SSE(request, self.caller, self.answer(), write, first=first)

    @property
    def _names(self) -> dict[str, Any]:
        return {"taskId": self._id, "contextId": self.caller.conversation}

    @property
    def _names_of_task(self) -> dict[str, Any]:
        return {"id": self._id, "contextId": self.caller.conversation}

    @property
    def _id(self) -> str:
        return f"task_{name_answer(self.caller.conversation, self.first.number)}"

    def _artifact(self, block: int, part: Part) -> dict[str, Any]:
        return {"artifactId": f"answer-{self.number}.{block}", "parts": [wire_part(part)]}

    def _status(self, ended: Ended) -> dict[str, Any]:
        at = ended.replies[-1].created_at if ended.replies else self.first.created_at
        status: dict[str, Any] = {
            "state": self.state_of(ended),
            "timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if asked := questions_in(ended.replies):
            parts = [{"text": text} for text in asked]
            message = {"messageId": ended.replies[-1].id, "role": "ROLE_AGENT", "parts": parts, **self._names}
            status["message"] = message
        return status


def goes_on(message: Message, first: Message) -> bool:
    """Tell whether a message goes on with the task whose first message is *first*."""
    return bool(message.metadata.get(TASK) == first.number)


def task_from(caller: Caller, first: Message, later: Sequence[Message]) -> Task:
    """Return the task whose first message is *first*, given what of the log came *later*."""
    return Task(caller, first, max([first.number, *(one.number for one in later if goes_on(one, first))]))


def questions_in(replies: Sequence[Message]) -> list[str]:
    """Return what *replies* ask."""
    return [
        str(part.get("message", part.get("reason", "")))
        for reply in replies
        for part in parts_of(reply)
        if part.get("type") == "interrupt"
    ]


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    """Return how a request wants to be answered."""
    found = params.get("configuration")
    return found if isinstance(found, dict) else {}


def content_of(message: dict[str, Any]) -> Content:
    """Return what a message says: text, or parts where there is more than text."""
    parts = message.get("parts")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise RpcError(BAD_PARAMS, "The message has no `parts`; nothing was touched.")
    return content_from([kept_part(part) for part in parts])


def kept_part(part: dict[str, Any]) -> Part:
    """Return a part of a message as it is kept."""
    media, name = part.get("mediaType"), part.get("filename")
    told = ({"media_type": media} if media else {}) | ({"filename": name} if name else {})
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if "url" in part:
        return {"type": "file", "url": part["url"], **told}
    if "raw" in part:
        return {"type": "file", "url": f"data:{media or 'application/octet-stream'};base64,{part['raw']}", **told}
    return {"type": "data", "data": part.get("data")}


def wire_part(part: Part) -> dict[str, Any]:
    """Return a kept part as the protocol has it."""
    grown, url = growing(part), part.get("url")
    if grown is not None:
        return {"text": grown[1]} | ({} if grown[0] == "text" else {"metadata": {"type": grown[0]}})
    if isinstance(url, str):
        return {"url": url} | ({"mediaType": str(part["media_type"])} if part.get("media_type") else {})
    return {"data": part["data"] if part.get("type") == "data" else msgspec.to_builtins(part)}
