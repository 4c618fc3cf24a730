"""The AI SDK's UI message stream, version 1: what `useChat` in React, Vue, Svelte and Angular speaks.

    app = Starlette(routes=aisdk.routes(keep), lifespan=...)        # or create_app(keep, protocols=["aisdk"])

There it answers:

    POST /api/chat                 {"id", "messages" or "message", "trigger"}: takes the last message, streams its answer
    GET  /api/chat/{id}/stream     the answer that is being made, from its first character; 204 when there is none
    GET  /api/chat/{id}            the history as UI messages
    POST /api/chat/{id}/stop       ends the answer that is being made

The history is the server's: of the messages that a page sends only the last one is looked at, and its id is the idempotency key. A
regenerated answer, and a message that was edited, are new messages in the log; `shown` has what of the log a page shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from ...app import Chatkeep
from ...conversation.snapshots import asks
from ...errors import KeyReused
from ...model import Content, Failing, Message, Part, Receipt
from ...storage.paging import FIRST_READ
from .. import wire
from ..streams import event
from .answer_stream import (
    BlockBegan,
    BlockEnded,
    BlockGrew,
    Ended,
    PartShown,
    Step,
    Tool,
    content_from,
    growing,
    parts_of,
    show_failing,
    tool_in,
    write_time,
)
from .entrance import Authorize, Caller, Entrance, Refusal, id_in
from .sse import SSE

PATH = "/api/chat"
HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}
DONE = b"data: [DONE]\n\n"

SAID = {
    "erased": "This conversation was erased.",
    "closing": "The server stops now. What is being said goes on: reload the page to see it.",
    "unattended": "Nobody answers here at the moment. The message is kept.",
    "journaled": "The message is kept, and is answered when the store is back.",
    "failed": "The bot could not answer; the message is kept.",
}
"""What a page is told where no answer comes."""


def routes(keep: Chatkeep[Any], *, path: str = PATH, authorize: Authorize | None = None) -> list[BaseRoute]:
    """
    Return the routes of the AI SDK's protocol over *keep*, to mount.

    Args:
        path: Where they are; a page's transport names it as `api`.

        authorize: Says, in an application of your own, who may use a chat: see `Authorize`. Without it, chatkeep's own
            credentials are asked for, and from this machine none.
    """
    entrance = Entrance(keep, refuse=refuse, authorize=authorize)

    @entrance.guards("send")
    async def post(request: Request) -> Response:
        """Take the last message, and stream its answer."""
        body = await entrance.body(request)
        conversation = id_in(body, "id")
        caller = await entrance.admit(request, conversation, begins=True)
        number = await take(caller, body)
        return stream(request, caller, number)

    @entrance.guards("read")
    async def resume(request: Request) -> Response:
        """Stream the answer that is being made, from its first character on."""
        caller = await entrance.admit(request, request.path_params["id"])
        number = None if caller.stranger else await find_unanswered(entrance, caller)
        return Response(status_code=204) if number is None else stream(request, caller, number)

    @entrance.guards("send")
    async def stop(request: Request) -> Response:
        """End the answer that is being made; what was said of it stays."""
        caller = await entrance.admit(request, request.path_params["id"])
        caller.refuse_stranger()
        await caller.tenant.stop(caller.conversation)
        return Response(status_code=204)

    @entrance.guards("read")
    async def history(request: Request) -> Response:
        """Return the last messages, as UI messages."""
        caller = await entrance.admit(request, request.path_params["id"])
        window = wire.query(request, wire.LogWindow)
        found = [] if caller.stranger else (await caller.read_log(window))[0]
        return wire.as_json(shown(found), headers={"cache-control": "no-store"})

    def stream(request: Request, caller: Caller, number: int) -> Response:
        return SSE(request, caller, caller.answer(number), Chunks(number).write, headers=HEADERS)

    return [
        wire.RawRoute(path, post, slash=True, methods=["POST"]),
        wire.RawRoute(path + "/{id}/stream", resume, methods=["GET"]),
        wire.RawRoute(path + "/{id}/stop", stop, methods=["POST"]),
        wire.RawRoute(path + "/{id}", history, methods=["GET"]),
    ]


def refuse(refusal: Refusal) -> Response:
    """Tell a refusal: `useChat` shows the text of the answer as its error."""
    return PlainTextResponse(refusal.detail, refusal.status, {**refusal.headers, "cache-control": "no-store"})


# -- what comes in ------------------------------------------------------------------------------------------------------


async def take(caller: Caller, body: dict[str, Any]) -> int:
    """Put the last message of *body* into the log, once; the number of the one whose answer is wanted."""
    messages = body.get("messages")
    # A page may send the last one alone.
    last = messages[-1] if isinstance(messages, list) and messages else body.get("message")
    if not isinstance(last, dict):
        raise HTTPException(400, "Neither `messages` nor `message` has a message; nothing was touched.")
    id = last.get("id")
    if id is not None and not isinstance(id, str):
        raise HTTPException(400, "The `id` of a message is text; nothing was touched.")
    if body.get("trigger") == "regenerate-message":
        return await ask_again(caller, last)
    content, role = content_of(last), last.get("role", "user")
    if role == "assistant":  # the page has run a tool: its result is an event of the conversation
        told = hashlib.blake2b(msgspec.json.encode(content), digest_size=12).hexdigest()
        return (await caller.accept(content, id=f"{id}:{told}", role="event")).number
    if role != "user":
        raise HTTPException(
            422, f"The last message is of role {str(role)[:20]!r}; nobody answers it. Nothing was touched."
        )
    edits = id is not None and body.get("messageId") == id
    if edits:
        said, _ = await caller.read_log(wire.LogWindow(limit=wire.PAGE_MOST))
        stands = find_shown(said, id)
        if stands is not None and stands.content == content and stands is find_shown(said, None):
            return stands.number  # it has come before
        if stands is not None:
            return (await edit(caller, content, str(id), stands.number)).number
    try:
        return (await caller.accept(content, id=id)).number
    except KeyReused:
        if not edits:
            raise
        return (await edit(caller, content, str(id), 0)).number  # (it is further back)


async def edit(caller: Caller, content: Content, id: str, number: int) -> Receipt:
    """Take a message that was edited on the page, where it keeps its id, as a new one in the place of message *number*."""
    # (Another key for each one that it may take the place of: who puts back what it said before asks anew.)
    told = hashlib.blake2b(msgspec.json.encode([number, content]), digest_size=12).hexdigest()
    return await caller.accept(content, id=f"{id}:{told}", metadata={"edits": id})


async def ask_again(caller: Caller, last: dict[str, Any]) -> int:
    """Have the last message answered once more: what the log has of it counts, not what the page says."""
    said, _ = await caller.read_log(wire.LogWindow(limit=wire.PAGE_MOST))
    found = await caller.tenant.conversation(caller.conversation, messages=0)
    ids, id = shown_ids(said), last.get("id")
    asked = find_shown(said, id)
    if found is None or asked is None:
        raise HTTPException(404, "There is no such message in this chat, so nothing is answered again.")
    answers = [m for m in said if m.role == "assistant" and m.reply_to is not None and m.reply_to >= asked.number]
    if asked.number in found.dead:
        return (await caller.tenant.replay(caller.conversation, asked.number)).number
    if not answers:
        return asked.number  # it waits for its answer
    # (One key for each answer that is to be another: who presses twice asks once.)
    again, told = f"again:{answers[0].id}", {"regenerates": ids[asked.number]}
    return (await caller.accept(asked.content, id=again, metadata=told)).number


def shown_ids(log: Sequence[Message]) -> dict[int, str]:
    """Return the ids under which a page has the users' messages of a log, by number: one that was edited, regenerated or
    replayed keeps that of the first."""
    found: dict[int, str] = {}
    for message in log:
        told = message.metadata
        first = told.get("edits") or told.get("regenerates") or found.get(told.get("replay_of", 0)) or message.id
        found[message.number] = str(first)
    return found


def find_shown(log: Sequence[Message], id: str | None) -> Message | None:
    """Return the message of a user that a page shows under *id* (None: the last one), as the log has it now."""
    ids = shown_ids(log)
    users = (m for m in reversed(log) if m.role == "user" and not m.redacted)
    return next((m for m in users if id in (None, m.id, ids[m.number])), None)


def content_of(said: dict[str, Any]) -> Content:
    """Return what a UI message says: text, or parts where there is more than text."""
    parts = said.get("parts")
    if not isinstance(parts, list):
        if isinstance(said.get("content"), str):  # older versions of the SDK
            return str(said["content"])
        raise HTTPException(400, "The last message has no `parts`; nothing was touched.")
    return content_from([taken for part in parts if isinstance(part, dict) and (taken := part_from(part)) is not None])


def part_from(part: Part) -> Part | None:
    """Return a part of a UI message as it is kept; None for what only a page needs."""
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "file":
        kept = {"type": "file", "url": part.get("url"), "media_type": part.get("mediaType")}
        return kept | ({"filename": part["filename"]} if part.get("filename") else {})
    if isinstance(kind, str) and (kind.startswith("tool-") or kind == "dynamic-tool"):
        name = part.get("toolName") or kind.removeprefix("tool-")
        kept = {"type": "tool_result", "id": part.get("toolCallId"), "name": name}
        if part.get("state") == "output-available":
            return kept | {"result": part.get("output")}
        if part.get("state") == "output-error":
            return kept | {"error": part.get("errorText")}
        if part.get("state") == "approval-responded":
            return kept | {"approval": part.get("approval")}
        return None
    if isinstance(kind, str) and kind.startswith("data-"):
        return {"type": kind, "data": part.get("data")}
    return None


async def find_unanswered(entrance: Entrance, caller: Caller) -> int | None:
    """Return the number of the last message that a bot is still to answer; None when there is none, or the bot is silent."""
    answering = await caller.tenant.answering(caller.conversation)
    if answering.status not in ("running", "waiting"):
        return None
    log = caller.tenant.history(caller.conversation, before=wire.NEWEST, limit=FIRST_READ)
    asking = [message.number async for message in log if asks(message)]
    return max([answering.number, *asking])


# -- what goes out ------------------------------------------------------------------------------------------------------


def answer_id(number: int) -> str:
    """Return the id of the UI message that answers message *number*: it is known before anything is said."""
    return f"answer-{number}"


class Chunks:
    """Writes the answer to message *number* as chunks; only such as every version of the SDK knows, which takes no others."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._begun = False

    async def write(self, step: Step) -> bytes:
        """Return the chunks of one step."""
        return b"".join(self._chunks(step))

    def _chunks(self, step: Step) -> Iterator[bytes]:
        if isinstance(step, Failing):
            yield write_beside(show_failing(step))
            return
        if not (self._begun or step is None):
            # A page makes an empty message of a `start` with an id, so there is one only where something follows.
            self._begun = True
            named = {} if isinstance(step, Ended) else {"messageId": answer_id(self._number)}
            yield event({"type": "start", **named})
        match step:
            case BlockBegan(block=block, kind=kind):
                yield event({"type": f"{kind}-start", "id": str(block)})
            case BlockGrew(block=block, kind=kind, text=text):
                yield event({"type": f"{kind}-delta", "id": str(block), "delta": text})
            case BlockEnded(block=block, kind=kind):
                yield event({"type": f"{kind}-end", "id": str(block)})
            case PartShown(block=block, part=part):
                yield event(chunk_of(part, block))
            case Ended():
                yield from end(step)


def end(ended: Ended) -> Iterator[bytes]:
    """Return the chunks that end an answer."""
    if ended.replies:
        yield event({"type": "message-metadata", "messageMetadata": metadata_of(ended.replies[-1])})
    if ended.status != "answered":
        yield write_beside({"status": ended.status})
    if ended.status in SAID and not ended.replies:
        yield event({"type": "error", "errorText": SAID[ended.status]})
    ended_early = any("stopped" in reply.metadata for reply in ended.replies)
    yield event({"type": "abort" if ended_early else "finish"})
    yield DONE


def write_beside(data: dict[str, Any]) -> bytes:
    """Return what a page is told beside the answer: a transient part, which is given to `onData` alone."""
    return event({"type": "data-chatkeep", "data": data, "transient": True})


def chunk_of(part: Part, block: int) -> dict[str, Any]:
    """Return a part as a chunk."""
    tool = tool_in(part)
    if tool is None:
        return ui_part(part, block)
    call = {"toolCallId": tool.id or str(block), "dynamic": True}
    if tool.called:
        return {"type": "tool-input-available", **call, "toolName": tool.name, "input": tool.value}
    if tool.error:
        return {"type": "tool-output-error", **call, "errorText": tool.error}
    return {"type": "tool-output-available", **call, "output": tool.value}


def ui_part(part: Part, block: int) -> dict[str, Any]:
    """Return a part as a UI message, or a chunk, has it; what the SDK has no name for is a data part."""
    kind, url = str(part.get("type", "text")), part.get("url")
    if kind in ("file", "image", "audio", "video") and isinstance(url, str):
        media = part.get("media_type") or f"{kind if kind != 'file' else 'application'}/*"
        return {"type": "file", "url": url, "mediaType": str(media)}
    if kind == "source" and isinstance(url, str):
        title = {"title": str(part["title"])} if part.get("title") else {}
        return {"type": "source-url", "sourceId": str(part.get("id", block)), "url": url, **title}
    return {"type": kind if kind.startswith("data-") else f"data-{kind}", "data": part.get("data", part)}


# -- the history ---------------------------------------------------------------------------------------------------------


def shown(log: Sequence[Message]) -> list[dict[str, Any]]:
    """Return what of a log a page shows, as UI messages: what was edited or regenerated is there once, as it is now."""
    found: list[dict[str, Any]] = []
    ids = shown_ids(log)
    for message in log:
        if message.redacted or message.role == "event":
            continue
        if message.role == "user":
            id = ids[message.number]
            place = next((place for place, other in enumerate(found) if other["id"] == id), len(found))
            found[place:] = [ui_message(id, "user", message)]
            continue
        id = answer_id(message.reply_to) if message.reply_to and message.role == "assistant" else message.id
        one = ui_message(id, "assistant", message)
        if found and found[-1]["id"] == id:
            found[-1]["parts"] += one["parts"]
        else:
            found.append(one)
    return found


def ui_message(id: str, role: str, message: Message) -> dict[str, Any]:
    """Return a message as a UI message; a tool's call and its result are one part of it."""
    parts = parts_of(message)
    results = {tool.id: tool for part in parts if (tool := tool_in(part)) is not None and not tool.called}
    told: list[dict[str, Any]] = []
    for block, part in enumerate(parts):
        grown, tool = growing(part), tool_in(part)
        if grown is not None:
            told.append({"type": grown[0], "text": grown[1]})
        elif tool is None:
            told.append(ui_part(part, block))
        elif tool.called:
            told.append(tool_part(tool, results.get(tool.id)))
    return {"id": id, "role": role, "parts": told, "metadata": metadata_of(message)}


def tool_part(call: Tool, result: Tool | None) -> dict[str, Any]:
    """Return a tool's call, with its result if it is there, as a part of a UI message."""
    found = {"type": "dynamic-tool", "toolCallId": call.id, "toolName": call.name, "input": call.value}
    if result is None:
        return {**found, "state": "input-available"}
    if result.error:
        return {**found, "state": "output-error", "errorText": result.error}
    return {**found, "state": "output-available", "output": result.value}


def metadata_of(message: Message) -> dict[str, Any]:
    """Return what a page is told of a message beside its parts."""
    told: dict[str, Any] = {"number": message.number, "createdAt": write_time(message.created_at)}
    told |= {"role": message.role} if message.role == "operator" else {}
    return told | {name: True for name in ("stopped", "interrupted") if message.metadata.get(name)}
