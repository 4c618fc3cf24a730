"""AG-UI 1.0: what CopilotKit, assistant-ui and the clients of many agent frameworks speak.

    app = Starlette(routes=agui.routes(keep), lifespan=...)        # or create_app(keep, protocols=["agui"])

There it answers:

    POST /agui          RunAgentInput: takes the last message, or what resumes an interrupt, and streams the run as events

A thread is a conversation, a run the answer to one message. The history is the server's: each run ends with a snapshot of it, which
takes the place of what the client has; a `state` that the client sends is not looked at. A run without anything new
only gives the snapshots. A bot asks by an interrupt: a part `{"type": "interrupt", "reason": ..., "message": ...}` of its reply;
the answer comes to it as an event with a part `{"type": "resume", "interrupt_id": ..., "status": ..., "payload": ...}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...app import Chatkeep
from ...core import Core
from ...model import Content, Failing, Message, Part
from .. import wire
from ..streams import event
from .answer_stream import (
    BlockBegan,
    BlockEnded,
    BlockGrew,
    Ended,
    PartShown,
    Step,
    content_from,
    is_text,
    parts_of,
    show_failing,
    tool_in,
)
from .entrance import Authorize, Caller, Entrance, Refusal, id_in
from .sse import SSE

PATH = "/agui"
NAMES = {"text": "TEXT_MESSAGE", "reasoning": "REASONING_MESSAGE"}
MEDIA = {"image": "image", "audio": "audio", "video": "video", "document": "file"}

SAID = {
    "erased": "The conversation was erased.",
    "closing": "The server stops now. What is being said goes on: run the agent again to see it.",
    "unattended": "Nobody answers here at the moment. The message is kept.",
    "journaled": "The message is kept, and is answered when the store is back.",
    "failed": "The bot could not answer; the message is kept.",
}
"""What a client is told where no answer comes."""


def routes(keep: Chatkeep[Any], *, path: str = PATH, authorize: Authorize | None = None) -> list[BaseRoute]:
    """
    Return the route of AG-UI over *keep*, to mount.

    Args:
        path: Where it is; the URL of an `HttpAgent`.

        authorize: Says, in an application of your own, who may use a thread: see `Authorize`. Without it, chatkeep's own
            credentials are asked for, and from this machine none.
    """
    entrance = Entrance(keep, refuse=refuse, authorize=authorize)

    @entrance.guards("send")
    async def post(request: Request) -> Response:
        """Begin a run, and stream its events."""
        body = await entrance.body(request)
        thread, run = id_in(body, "threadId"), id_in(body, "runId")
        caller = await entrance.admit(request, thread, begins=True)
        number = await take(caller, body)
        events = Events(entrance.core, caller, run, number)
        if number is None:
            return Response(await events.nothing_new(), media_type="text/event-stream")
        return SSE(request, caller, caller.answer(number), events.write, first=await events.begin())

    return [wire.RawRoute(path, post, slash=True, methods=["POST"])]


def refuse(refusal: Refusal) -> Response:
    """Tell a refusal, as the event by which a run fails."""
    told = {"type": "RUN_ERROR", "message": refusal.detail, "code": refusal.word}
    return wire.as_json(told, status=refusal.status, headers={**refusal.headers, "cache-control": "no-store"})


# -- what comes in ------------------------------------------------------------------------------------------------------


async def take(caller: Caller, body: dict[str, Any]) -> int | None:
    """Put what is new in *body* into the log, once; its number. None when nothing is new."""
    if resumed := body.get("resume"):
        parts, ids = resume_parts(resumed)
        key = "resume:" + ":".join(ids)
        return (await caller.accept(parts, id=key, role="event")).number
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise HTTPException(400, "`messages` is a list, and is not here; nothing was touched.")
    last = messages[-1] if messages else {}
    if not isinstance(last, dict):
        raise HTTPException(400, "The last message is no object; nothing was touched.")
    role, id = last.get("role"), last.get("id")
    if role == "user":
        return (await caller.accept(content_of(last), id=id_in(last, "id"))).number
    if role == "tool":  # the page has run a tool: its result is an event of the conversation
        part = {"type": "tool_result", "id": last.get("toolCallId")}
        part |= {"error": last["error"]} if last.get("error") else {"result": last.get("content")}
        return (await caller.accept([part], id=str(id), role="event")).number
    return None


def resume_parts(resumed: Any) -> tuple[list[Part], list[str]]:
    """Return the answers to interrupts as parts, and the ids of the interrupts."""
    entries = resumed if isinstance(resumed, list) else []
    if not all(isinstance(entry, dict) for entry in entries):
        raise HTTPException(400, "`resume` is a list of objects; nothing was touched.")
    ids = [id_in(entry, "interruptId") for entry in entries]
    if not ids:
        raise HTTPException(400, "`resume` is a list of answers to interrupts; nothing was touched.")
    parts: list[Part] = [
        {"type": "resume", "interrupt_id": id, "status": entry.get("status"), "payload": entry.get("payload")}
        for id, entry in zip(ids, entries, strict=True)
    ]
    return parts, ids


def content_of(said: dict[str, Any]) -> Content:
    """Return what a message of a user says: text, or parts where there is more than text."""
    content = said.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise HTTPException(400, "The `content` of the last message is text or a list of parts; nothing was touched.")
    found: list[Part] = []
    for part in content:
        if not isinstance(part, dict):
            raise HTTPException(400, "A part of the last message is no object; nothing was touched.")
        source = part.get("source")
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            found.append({"type": "text", "text": part["text"]})
        elif str(part.get("type")) in MEDIA and isinstance(source, dict):
            mime, value = source.get("mimeType"), source.get("value")
            url = f"data:{mime};base64,{value}" if source.get("type") == "data" else value
            found.append({"type": MEDIA[part["type"]], "url": url, "media_type": mime})
    return content_from(found)


# -- what goes out ------------------------------------------------------------------------------------------------------


class Events:
    """Writes the run that answers message *number* as events."""

    def __init__(self, core: Core[Any], caller: Caller, run: str, number: int | None) -> None:
        self._core, self._caller, self._run, self._number = core, caller, run, number

    async def begin(self) -> bytes:
        """Return what a run begins with: its name, and the state."""
        return event({"type": "RUN_STARTED", **self._names, "protocolVersion": "1.0"}) + await self._state()

    async def nothing_new(self) -> bytes:
        """Return a run that only tells what there is."""
        return await self.begin() + await self._messages() + self._finished("success")

    async def write(self, step: Step) -> bytes:
        """Return the events of one step."""
        match step:
            case BlockBegan(block=block, kind=kind):
                named = {"messageId": self._id(block)}
                opens = b"" if kind == "text" else event({"type": "REASONING_START", **named})
                role = "assistant" if kind == "text" else kind
                return opens + event({"type": f"{NAMES[kind]}_START", **named, "role": role})
            case BlockGrew(block=block, kind=kind, text=text):
                return event({"type": f"{NAMES[kind]}_CONTENT", "messageId": self._id(block), "delta": text})
            case BlockEnded(block=block, kind=kind):
                named = {"messageId": self._id(block)}
                closes = b"" if kind == "text" else event({"type": "REASONING_END", **named})
                return event({"type": f"{NAMES[kind]}_END", **named}) + closes
            case PartShown(block=block, part=part):
                return b"".join(event(told) for told in self._part(part, block))
            case Failing():
                return event({"type": "CUSTOM", "name": "chatkeep", "value": show_failing(step)})
            case Ended():
                return await self._end(step)
        return b""

    @property
    def _names(self) -> dict[str, Any]:
        return {"threadId": self._caller.conversation, "runId": self._run}

    def _id(self, block: int) -> str:
        """Name what is shown of an answer until the snapshot of the messages has the ids of the log."""
        return f"answer-{self._number}.{block}"

    def _part(self, part: Part, block: int) -> Iterator[dict[str, Any]]:
        id, tool = self._id(block), tool_in(part)
        if tool is not None and tool.called:
            call = tool.id or id
            yield {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": tool.name}
            yield {"type": "TOOL_CALL_ARGS", "toolCallId": call, "delta": tool.text}
            yield {"type": "TOOL_CALL_END", "toolCallId": call}
        elif tool is not None:
            yield {"type": "TOOL_CALL_RESULT", "messageId": id, "toolCallId": tool.id, "content": tool.text}
        elif part.get("type") != "interrupt":
            yield {"type": "CUSTOM", "name": str(part.get("type")), "value": part}

    async def _end(self, ended: Ended) -> bytes:
        if ended.status in SAID and not ended.replies:
            return event({"type": "RUN_ERROR", "message": SAID[ended.status], "code": ended.status})
        told = await self._state() + await self._messages()
        interrupts = list(interrupts_of(ended.replies))
        if interrupts:
            return told + self._finished("interrupt", interrupts=interrupts)
        if ended.status == "dropped" or any("stopped" in reply.metadata for reply in ended.replies):
            return told + self._finished("cancelled")
        return told + self._finished("success", result={"status": ended.status})

    def _finished(self, outcome: str, result: Any = None, **more: Any) -> bytes:
        told = {"type": "RUN_FINISHED", **self._names, "outcome": {"type": outcome, **more}}
        return event(told if result is None else {**told, "result": result})

    async def _state(self) -> bytes:
        """Return the state, for who may see it."""
        if not self._caller.sees_state:
            return b""
        caller = self._caller
        found = None if caller.absent else await caller.tenant.conversation(caller.conversation, messages=0)
        state = found.state if found is not None else self._core.states.kind()
        return event({"type": "STATE_SNAPSHOT", "snapshot": self._core.states.shape.json_of(state)})

    async def _messages(self) -> bytes:
        """Return the last messages of the log, for who may see it."""
        if not self._caller.sees_log:
            return b""
        window = wire.LogWindow(limit=wire.PAGE_MOST)
        log, _ = await self._caller.read_log(window)
        told = [shown for message in log if not message.redacted for shown in messages_of(message)]
        return event({"type": "MESSAGES_SNAPSHOT", "messages": told})


def interrupts_of(replies: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Return what *replies* ask."""
    for reply in replies:
        for place, part in enumerate(parts_of(reply)):
            if part.get("type") == "interrupt":
                told = {"id": str(part.get("id", f"{reply.id}.{place}")), "reason": str(part.get("reason", "question"))}
                yield told | {
                    name: part[member]
                    for member, name in (
                        ("message", "message"),
                        ("response_schema", "responseSchema"),
                        ("metadata", "metadata"),
                        ("expires_at", "expiresAt"),
                    )
                    if member in part
                }


def messages_of(message: Message) -> Iterator[dict[str, Any]]:
    """Return one message of the log as messages of the protocol, which has no events."""
    parts = parts_of(message)
    if message.role == "event":
        return
    if message.role == "user":
        content = message.content if isinstance(message.content, str) else [user_part(part) for part in parts]
        yield {"id": message.id, "role": "user", "content": content}
        return
    tools = [tool for part in parts if (tool := tool_in(part)) is not None]
    told: dict[str, Any] = {"id": message.id, "role": "assistant", "content": message.text}
    if calls := [tool for tool in tools if tool.called]:
        told["toolCalls"] = [
            {"id": tool.id, "type": "function", "function": {"name": tool.name, "arguments": tool.text}}
            for tool in calls
        ]
    if told["content"] or calls:  # else it only asked, or has parts that the protocol has no name for
        yield told
    for tool in tools:
        if not tool.called:
            yield {"id": f"{message.id}.{tool.id}", "role": "tool", "toolCallId": tool.id, "content": tool.text}


def user_part(part: Part) -> Part:
    """Return a part of what a user said as the protocol has it."""
    url, kind = part.get("url"), str(part.get("type"))
    if isinstance(url, str):
        source = {"type": "url", "value": url}
        source |= {"mimeType": str(part["media_type"])} if part.get("media_type") else {}
        return {"type": kind if kind in ("image", "audio", "video") else "document", "source": source}
    return {"type": "text", "text": part["text"] if is_text(part) else json.dumps(part)}
