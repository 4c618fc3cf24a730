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
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...app import Chatkeep
from ...errors import ChatkeepError
from ...model import Content, Failing, Message, Part
from .. import wire
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
    tell_failing,
    write_time,
)
from .entrance import Authorize, Caller, Entrance, id_in
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

SHOWN_STATES = sorted(
    {f"TASK_STATE_{state}" for state in (*STATES.values(), "INPUT_REQUIRED", "REJECTED", "AUTH_REQUIRED")}
)
NO_STATE = "TASK_STATE_UNSPECIFIED"

OVER = ("TASK_STATE_COMPLETED", "TASK_STATE_CANCELED", "TASK_STATE_FAILED")
NOT_FOUND, NOT_CANCELABLE, NO_PUSH, UNSUPPORTED, OTHER_VERSION = -32001, -32002, -32003, -32004, -32009
LISTED, CONTEXTS, PAGE, PAGE_MOST = 100, 50, 50, 100
"""So many messages of a context are looked at for its tasks, and so many contexts, the last ones; so many tasks are on a page unless
a client says otherwise, and at most."""


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

    @entrance.guards("send")
    async def call(request: Request) -> Response:
        """Do what is called for."""
        id = None
        try:
            body = await read_request(entrance, request)
            id = body.get("id")
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
        settings = settings_of(params)
        history = history_in(settings)
        task, ended = await self._take(request, params), Ended("accepted")
        if not settings.get("returnImmediately"):
            ended = await whole(task.answer())
        return wire.as_json(rpc_result(id, {"task": await task.show(ended, history=history)}))

    async def send_streaming_message(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Take a message, and stream what becomes of its task."""
        return await (await self._take(request, params)).stream(request, id)

    async def get_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Return a task as it is now."""
        task = await self._find(request, params)
        return wire.as_json(rpc_result(id, await task.show(await task.now(), history=history_in(params))))

    async def subscribe_to_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Stream a task that is being done, from the beginning of its answer."""
        task = await self._find(request, params)
        if (state := task.state_of(await task.now())) in OVER:
            raise RpcError(UNSUPPORTED, f"The task is over ({state}), so nothing more comes of it; GetTask has it.")
        return await task.stream(request, id)

    async def cancel_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """End a task; what was said of its answer stays."""
        task = await self._find(request, params)
        if (state := task.state_of(await task.now())) in OVER:
            raise RpcError(NOT_CANCELABLE, f"The task is over ({state}); nothing was cancelled.")
        for message in reversed(task.messages):
            await task.caller.stop(message.number)
        return wire.as_json(rpc_result(id, await task.show(await task.now())))

    async def list_tasks(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Return the tasks of a context, or of those that the caller may use and that were changed last; last first."""
        wanted = read_wanted(params)
        if params.get("contextId") not in (None, ""):
            callers = [await self._entrance.admit(request, id_in(params, "contextId"))]
            callers[0].refuse_stranger()
        else:
            callers = await self._entrance.find_callers(request, most=CONTEXTS)
        found = [task for caller in callers for task in await self._find_tasks(caller, wanted)]
        found.sort(key=lambda task: task["status"]["timestamp"], reverse=True)
        page, end = found[wanted.at : wanted.at + wanted.size], wanted.at + wanted.size
        rest = str(end) if end < len(found) else ""
        told = {"tasks": page, "totalSize": len(found), "pageSize": len(page), "nextPageToken": rest}
        return wire.as_json(rpc_result(id, told))

    async def _find_tasks(self, caller: Caller, wanted: Wanted) -> list[dict[str, Any]]:
        """Find the tasks of one context that are *wanted*, among its last messages; last first."""
        log = [m async for m in caller.tenant.history(caller.conversation, before=wire.NEWEST, limit=LISTED)]
        found = []
        for first in reversed(log):
            if first.role != "user" or TASK in first.metadata:
                continue
            task = Task(caller, [first, *(message for message in log if goes_on(message, first))])
            shown = await task.show(await task.now(), history=wanted.history, artifacts=wanted.artifacts)
            status = shown["status"]
            if wanted.state in ("", status["state"]) and status["timestamp"] >= wanted.since:
                found.append(shown)
        return found

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
            known = any(one.id == key for one in task.messages)
            if not known and (state := task.state_of(await task.now())) in OVER:
                raise RpcError(UNSUPPORTED, f"The task is over ({state}) and takes no message; nothing was touched.")
            return await self._say(task.caller, task.messages, key, content)
        context = message.get("contextId") or f"ctx_{secrets.token_hex(16)}"
        if not isinstance(context, str):
            raise RpcError(BAD_PARAMS, "`contextId` is text; nothing was touched.")
        return await self._say(await self._entrance.admit(request, context, begins=True), [], key, content)

    async def _say(self, caller: Caller, before: Sequence[Message], id: str, content: Content) -> Task:
        """Put a message into the log, which goes on with those *before* it; the task up to there."""
        told = {TASK: before[0].number} if before and before[0].id != id else None
        number = (await caller.accept(content, id=id, metadata=told)).number
        said = Message(id=id, number=number, role="user", content=content, created_at=self._core.clock())
        return Task(caller, [*(message for message in before if message.number < number), said])

    async def _find(self, request: Request, params: dict[str, Any]) -> Task:
        """Find the task that a request names. Raises 404, and first of all what the caller is told who may use nothing."""
        named = id_in(params, "id").removeprefix("task_")
        conversation, number = find_named(named) or (named, 0)
        caller = await self._entrance.admit(request, conversation)
        first = await caller.find_message(number, ("user",))
        return Task(caller, [first, *[message async for message in self._going_on(caller, first)]])

    async def _going_on(self, caller: Caller, first: Message) -> Any:
        """Give the messages that went on with the task whose first message is *first*."""
        async for message in caller.tenant.history(caller.conversation, after=first.number, limit=LISTED):
            if goes_on(message, first):
                yield message


class Task:
    """One task: the messages that have gone on with it, of which the last one is answered now."""

    def __init__(self, caller: Caller, messages: Sequence[Message]) -> None:
        self.caller, self.messages, self.number = caller, messages, messages[-1].number

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

    async def show(self, ended: Ended, *, history: int | None = None, artifacts: bool = True) -> dict[str, Any]:
        """Return it as the protocol has it, with the last *history* messages (None: all), and with what it has given."""
        said: list[dict[str, Any]] = []
        given: list[dict[str, Any]] = []
        once = {reply.id for reply in ended.replies}  # (one reply may answer several messages)
        for message in self.messages:
            said.append(self._message(message.id, "ROLE_USER", [wire_part(part) for part in parts_of(message)]))
            if message.number == self.number:
                given += self._artifacts(message.number, ended.replies)
                continue
            replies = [one for one in (await self.caller.find_end(message.number)).replies if one.id not in once]
            once |= {reply.id for reply in replies}
            given += self._artifacts(message.number, replies)
            if asked := questions_in(replies):
                said.append(self._message(replies[-1].id, "ROLE_AGENT", [{"text": text} for text in asked]))
        told: dict[str, Any] = {"id": self._id, "contextId": self.caller.conversation, "status": self._status(ended)}
        told |= {"artifacts": given} if artifacts else {}
        return told | {"history": said if history is None else said[max(len(said) - history, 0) :]}

    async def stream(self, request: Request, id: Any) -> SSE:
        """Stream it."""
        begun: set[int] = set()

        def told(result: dict[str, Any]) -> bytes:
            return event(rpc_result(id, result))

        async def write(step: Step) -> bytes:
            match step:
                case BlockGrew(block=block, kind="text", text=text):
                    artifact = self._artifact(self.number, block, {"type": "text", "text": text})
                    appends = block in begun
                    begun.add(block)
                    return told({"artifactUpdate": {**self._names, "artifact": artifact, "append": appends}})
                case BlockEnded(block=block, kind="text") if block in begun:
                    artifact = self._artifact(self.number, block, {"type": "text", "text": ""})
                    return told(
                        {"artifactUpdate": {**self._names, "artifact": artifact, "append": True, "lastChunk": True}}
                    )
                case PartShown(block=block, part=part) if part.get("type") != "interrupt":
                    artifact = self._artifact(self.number, block, part)
                    return told({"artifactUpdate": {**self._names, "artifact": artifact, "lastChunk": True}})
                case Failing():
                    status = self._status(Ended("accepted", failing=step))
                    return told({"statusUpdate": {**self._names, "status": status}})
                case Ended():
                    return told({"statusUpdate": {**self._names, "status": self._status(step)}})
            return b""

        first = told({"task": await self.show(Ended("accepted"))})
        return SSE(request, self.caller, self.answer(), write, first=first)

    @property
    def _names(self) -> dict[str, Any]:
        return {"taskId": self._id, "contextId": self.caller.conversation}

    @property
    def _id(self) -> str:
        return f"task_{name_answer(self.caller.conversation, self.messages[0].number)}"

    def _message(self, id: str, role: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
        return {"messageId": id, "role": role, "parts": parts, **self._names}

    def _artifact(self, number: int, block: int, part: Part) -> dict[str, Any]:
        return {"artifactId": f"answer-{number}.{block}", "parts": [wire_part(part)]}

    def _artifacts(self, number: int, replies: Sequence[Message]) -> list[dict[str, Any]]:
        parts = [part for reply in in_order(replies) for part in parts_of(reply)]
        return [self._artifact(number, n, part) for n, part in enumerate(parts) if part.get("type") != "interrupt"]

    def _status(self, ended: Ended) -> dict[str, Any]:
        at = ended.replies[-1].created_at if ended.replies else self.messages[-1].created_at
        status: dict[str, Any] = {
            "state": self.state_of(ended),
            "timestamp": write_time(at),
        }
        if asked := questions_in(ended.replies):
            parts = [{"text": text} for text in asked]
            status["message"] = self._message(ended.replies[-1].id, "ROLE_AGENT", parts)
        elif (failing := ended.failing) is not None:
            id = f"failing-{failing.number}.{failing.attempts}"
            status["message"] = self._message(id, "ROLE_AGENT", [{"text": tell_failing(failing)}])
        return status


def goes_on(message: Message, first: Message) -> bool:
    """Tell whether a message goes on with the task whose first message is *first*."""
    return bool(message.metadata.get(TASK) == first.number)


def questions_in(replies: Sequence[Message]) -> list[str]:
    """Return what *replies* ask."""
    return [
        str(part.get("message", part.get("reason", "")))
        for reply in replies
        for part in parts_of(reply)
        if part.get("type") == "interrupt"
    ]


class Wanted(Struct, frozen=True):
    """Which tasks are listed, and what of each. *since*: the earliest timestamp; *history*: so many messages, None for all."""

    state: str
    since: str
    history: int | None
    artifacts: bool
    size: int
    at: int


def read_wanted(params: dict[str, Any]) -> Wanted:
    """Read which tasks a request wants listed. Raises `RpcError`."""
    state = params.get("status") or ""
    if state not in ("", NO_STATE) and state not in SHOWN_STATES:
        raise RpcError(BAD_PARAMS, f"`status` is one of {', '.join(SHOWN_STATES)}; nothing was touched.")
    return Wanted(
        state="" if state == NO_STATE else state,
        since=time_in(params, "statusTimestampAfter"),
        history=history_in(params),
        artifacts=params.get("includeArtifacts") is True,
        size=whole_in(params, "pageSize", PAGE, least=1, most=PAGE_MOST),
        at=whole_in({"pageToken": params.get("pageToken") or 0}, "pageToken", 0),
    )


def whole_in(params: dict[str, Any], name: str, otherwise: int, *, least: int = 0, most: int = 10**9) -> int:
    """Return the whole number under *name*. Raises `RpcError`."""
    found = params.get(name, otherwise)
    if isinstance(found, str) and found.isascii() and found.isdecimal() and len(found) < 10:
        found = int(found)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
        raise RpcError(BAD_PARAMS, f"`{name}` is a whole number from {least} to {most}; nothing was touched.")
    return found


def history_in(params: dict[str, Any]) -> int | None:
    """Return how many messages of a task's history are wanted, None for all. Raises `RpcError`."""
    return None if params.get("historyLength") is None else whole_in(params, "historyLength", 0)


def time_in(params: dict[str, Any], name: str) -> str:
    """Return the time under *name*, written as ours are, so that they can be compared; "" where there is none. Raises `RpcError`."""
    found = params.get(name)
    if found is None:
        return ""
    try:
        at = datetime.fromisoformat(found)
        return write_time((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    except (TypeError, ValueError, OverflowError):
        raise RpcError(BAD_PARAMS, f"`{name}` is a time such as 2026-11-28T20:45:58Z; nothing was touched.") from None


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
