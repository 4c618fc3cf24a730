"""A2A 1.0, by its JSON-RPC binding: what agent platforms call another agent by.

    app = Starlette(routes=a2a.routes(keep), lifespan=...)        # or create_app(keep, protocols=["a2a"])

There it answers:

    GET  /.well-known/agent-card.json      who this agent is, for everybody
    POST /a2a                              SendMessage, SendStreamingMessage, GetTask, ListTasks, CancelTask, SubscribeToTask

A context is a conversation, a task the answer to one message. A task whose reply asks for something (a part `{"type": "interrupt"}`)
is in the state input-required; a message that names it goes on with it. A message's id is its idempotency key. There are
no push notifications.

A stream of a sent message ends where its task is over or asks for something (the specification, 11.7), and one that was
subscribed to where it is over (3.1.6).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...app import Chatkeep
from ...auth.credentials import Scope
from ...errors import ChatkeepError
from ...model import Content, Message, Part
from .. import wire
from ..state import is_in
from .a2a_tasks import ASKS, LISTED, OVER, STATES, TASK, Following, Task
from .answer_stream import Ended, content_from, find_named, write_time
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
from .sse import WhileItWorks, whole

PATH = "/a2a"
CARD = "/.well-known/agent-card.json"
CARD_S = 300
"""So long a client may keep the card."""

SHOWN_STATES = sorted(
    {f"TASK_STATE_{state}" for state in (*STATES.values(), "INPUT_REQUIRED", "REJECTED", "AUTH_REQUIRED")}
)
NO_STATE = "TASK_STATE_UNSPECIFIED"

NOT_FOUND, NOT_CANCELABLE, NO_PUSH = -32001, -32002, -32003
UNSUPPORTED, OTHER_MEDIA, OTHER_VERSION = -32004, -32005, -32009
REASONS = {
    NOT_FOUND: "TASK_NOT_FOUND",
    NOT_CANCELABLE: "TASK_NOT_CANCELABLE",
    NO_PUSH: "PUSH_NOTIFICATION_NOT_SUPPORTED",
    UNSUPPORTED: "UNSUPPORTED_OPERATION",
    OTHER_MEDIA: "CONTENT_TYPE_NOT_SUPPORTED",
    OTHER_VERSION: "VERSION_NOT_SUPPORTED",
}
"""The errors of the protocol itself by their codes (its section 5.4), as 9.5 has them named."""

CODES = {404: NOT_FOUND, 415: OTHER_MEDIA}
"""The codes of refusals by their HTTP status."""

VERSION = re.compile(r"1\.0(\.[0-9]+)?")
UNDERSCORE = re.compile(r"_([a-z])")
PLAIN = str.maketrans("-_", "+/")

PUSH = "TaskPushNotificationConfig"
NOT_HERE = {f"{verb}{PUSH}": NO_PUSH for verb in ("Create", "Get", "Delete")} | {
    f"List{PUSH}s": NO_PUSH,
    "GetExtendedAgentCard": UNSUPPORTED,
}
"""Methods of the protocol that the agent's card says are not there."""

CONTEXTS, PAGE, PAGE_MOST = 50, 50, 100
"""So many contexts are looked at for tasks, the last ones; so many tasks are on a page unless a client says otherwise, and at most."""


def routes(
    keep: Chatkeep[Any],
    *,
    path: str = PATH,
    authorize: Authorize | None = None,
    name: str = "chatkeep",
    description: str = "A chatbot.",
    direct: Callable[[Message], bool] | None = None,
) -> list[BaseRoute]:
    """
    Return the routes of A2A over *keep*, to mount.

    Args:
        path: Where it is called.

        authorize: Says, in an application of your own, who may use a context: see `Authorize`. Without it, chatkeep's own
            credentials are asked for, and from this machine none.

        name, description: What the agent's card says.

        direct: Says of a user's message whether it is answered by a message, with no task to follow; none without it. What has no
            such answer, because the bot asks, fails or is paused, is a task all the same.
    """
    entrance = Entrance(keep, refuse=lambda refusal: tell_error(None, *coded(refusal, CODES)), authorize=authorize)
    agent = Agent(entrance, direct or (lambda message: False))

    @entrance.open_to_all
    async def card(request: Request) -> Response:
        """Return who this agent is, and where it is called."""
        host, root = request.headers.get("host", "localhost"), request.scope.get("root_path", "")
        url = f"{request.scope.get('scheme', 'http')}://{host}{root}{path}"
        told = wire.as_json(card_of(name, description, url), headers={"cache-control": f"max-age={CARD_S}"})
        told.headers["etag"] = tag = f'"{hashlib.sha256(told.body).hexdigest()[:32]}"'
        if is_in(tag, wire.tags(request, "if-none-match") or set()):
            return Response(status_code=304, headers={"etag": tag, "cache-control": told.headers["cache-control"]})
        return told

    @entrance.guards("send")
    async def call(request: Request) -> Response:
        """Do what is called for."""
        id = None
        try:
            body = await read_request(entrance, request)
            id = body.get("id")
            version = request.headers.get("a2a-version") or request.query_params.get("A2A-Version") or "0.3"
            if VERSION.fullmatch(version) is None:
                told = f"A2A {version[:20]} is not spoken here; 1.0 is, and a request says so by the header A2A-Version: 1.0."
                raise RpcError(OTHER_VERSION, f"{told} Nothing was touched.")
            method, params = body.get("method"), body.get("params", {})
            if body.get("jsonrpc") != "2.0" or not isinstance(method, str) or not isinstance(params, dict):
                raise RpcError(BAD_REQUEST, "This is no JSON-RPC 2.0 request.")
            if method not in agent.methods:
                raise RpcError(NOT_HERE.get(method, NO_METHOD), f"There is no {method[:40]} here.")
            return await agent.methods[method](request, id, spelled(params))
        except RpcError as fault:
            return tell_error(id, fault.code, str(fault))
        except (HTTPException, ChatkeepError) as fault:
            return tell_error(id, *coded(entrance.refusal_of(fault), CODES))

    return [wire.RawRoute(CARD, card, methods=["GET"]), wire.RawRoute(path, call, slash=True, methods=["POST"])]


def tell_error(id: Any, code: int, message: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an error as an answer; one of the protocol's own has its name beside its code."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": REASONS.get(code),
        "domain": "a2a-protocol.org",
    }
    return rpc_error(id, code, message, status, headers, data=[info] if code in REASONS else None)


def spelled(params: dict[str, Any]) -> dict[str, Any]:
    """Return *params* with the names that JSON has in this protocol: `historyLength` for `history_length`, which is its name in the
    protocol's description, and which whoever reads ProtoJSON takes as well."""
    found = in_camels(params)
    found |= {
        name: in_camels(found[name]) for name in ("message", "configuration") if isinstance(found.get(name), dict)
    }
    if isinstance(found.get("message"), dict) and isinstance(parts := found["message"].get("parts"), list):
        found["message"]["parts"] = [in_camels(part) if isinstance(part, dict) else part for part in parts]
    return found


def in_camels(value: dict[str, Any]) -> dict[str, Any]:
    """Return *value* with its names in camel case; where one is there in both ways, that one holds."""
    return {UNDERSCORE.sub(lambda found: found[1].upper(), name): one for name, one in value.items()} | {
        name: one for name, one in value.items() if "_" not in name
    }


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

    def __init__(self, entrance: Entrance, direct: Callable[[Message], bool]) -> None:
        self._entrance, self._core, self._direct = entrance, entrance.core, direct
        self.methods: dict[str, Method] = {
            "SendMessage": self.send_message,
            "SendStreamingMessage": self.send_streaming_message,
            "GetTask": self.get_task,
            "ListTasks": self.list_tasks,
            "CancelTask": self.cancel_task,
            "SubscribeToTask": self.subscribe_to_task,
        }

    async def send_message(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Take a message, and answer with its task when that has ended, or at once; or with a message, where one is wanted."""
        settings = settings_of(params)
        history = history_in(settings)
        task, ended = await self._take(request, params), Ended("accepted")
        direct = self._direct(task.messages[-1])
        if direct or not settings.get("returnImmediately"):
            ended = await whole(WhileItWorks(task.caller, task.number))
        return wire.as_json(rpc_result(id, await task.give(ended, direct=direct, history=history)))

    async def send_streaming_message(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Take a message, and stream what becomes of its task; or the message that it is answered with."""
        task = await self._take(request, params)
        if self._direct(task.messages[-1]):
            return task.stream_whole(request, id)
        return task.stream(request, id, Following(task), await task.show(Ended("accepted")))

    async def get_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Return a task as it is now."""
        task = await self._find(request, params, scope="read")
        return wire.as_json(rpc_result(id, await task.show(await task.now(), history=history_in(params))))

    async def subscribe_to_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Stream a task that is being done, from the beginning of the answer to its last message; or what comes of it, while it asks."""
        task = await self._find(request, params, scope="read")
        now = await task.now()
        if (state := task.state_of(now)) in OVER:
            raise RpcError(UNSUPPORTED, f"The task is over ({state}), so nothing more comes of it; GetTask has it.")
        following = Following(task, until_over=True, asked=now if state == ASKS else None)
        return task.stream(request, id, following, await task.show(now))

    async def cancel_task(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """End a task; what was said of its answer stays."""
        task = await self._find(request, params)
        if (state := task.state_of(await task.now())) in OVER:
            raise RpcError(NOT_CANCELABLE, f"The task is over ({state}); nothing was cancelled.")
        if state == ASKS:
            await task.cancel()
        for message in reversed(task.messages):
            await task.caller.stop(message.number)
        task = await task.read()
        return wire.as_json(rpc_result(id, await task.show(await task.now())))

    async def list_tasks(self, request: Request, id: Any, params: dict[str, Any]) -> Response:
        """Return the tasks of a context, or of those that the caller may use and that were changed last; last first."""
        wanted = read_wanted(params)
        if params.get("contextId") not in (None, ""):
            callers = [await self._entrance.admit(request, id_in(params, "contextId"), scope="read")]
            callers[0].refuse_stranger()
        else:
            callers = await self._entrance.find_callers(request, most=CONTEXTS, scope="read")
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
            task = Task(caller, [first]).joined(log)
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

    async def _find(self, request: Request, params: dict[str, Any], *, scope: Scope | None = None) -> Task:
        """Find the task that a request names. Raises 404, and first of all what the caller is told who may use nothing."""
        named = id_in(params, "id").removeprefix("task_")
        conversation, number = find_named(named) or (named, 0)
        caller = await self._entrance.admit(request, conversation, scope=scope)
        return await Task(caller, [await caller.find_message(number, ("user",))]).read()


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
    if message.get("role") != "ROLE_USER":
        raise RpcError(BAD_PARAMS, "The `role` of a message that is sent is ROLE_USER; nothing was touched.")
    return content_from([kept_part(part) for part in parts])


def kept_part(part: Part) -> Part:
    """Return a part of a message as it is kept. Raises `RpcError` for what is none."""
    media, name = part.get("mediaType"), part.get("filename")
    told = ({"media_type": media} if media else {}) | ({"filename": name} if name else {})
    match part:
        case {"text": str(text)}:
            return {"type": "text", "text": text}
        case {"url": str(url)}:
            return {"type": "file", "url": url, **told}
        case {"raw": str(raw)} if (plain := plain_base64(raw)) is not None:
            return {"type": "file", "url": f"data:{media or 'application/octet-stream'};base64,{plain}", **told}
        case {"data": data}:
            return {"type": "data", "data": data}
    raise RpcError(BAD_PARAMS, "A part has `text`, `url`, `raw` (in Base64) or `data`; nothing was touched.")


def plain_base64(text: str) -> str | None:
    """Return bytes in Base64, of any kind that ProtoJSON takes, in the plain one; None for what is none."""
    plain = text.rstrip("=").translate(PLAIN)
    plain += "=" * (-len(plain) % 4)
    try:
        base64.b64decode(plain, validate=True)
    except (ValueError, binascii.Error):
        return None
    return plain
