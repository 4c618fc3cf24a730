"""The Responses API, as Open Responses has it: what the clients of OpenAI and many gateways speak.

    app = Starlette(routes=responses.routes(keep), lifespan=...)        # or create_app(keep, protocols=["responses"])

There it answers:

    POST /v1/responses                      {"input", "conversation" | "previous_response_id", "stream", "background", ...}
    GET  /v1/responses/{id}                 with ?stream=true&starting_after=N its events from behind N on
    GET  /v1/responses/{id}/input_items     what it answers
    POST /v1/responses/{id}/cancel          ends it

A response is the answer to one message, and its id is made of the conversation and the message's number. Its events are numbered by
what they say: a delta by how many characters it ends behind. So any instance goes on with a stream behind any event, and
nothing is kept for it. The history is the server's: of `input` only the last item is looked at; the header Idempotency-Key, or the
`id` of that item, is its key. `instructions`, `tools` and the settings of a model are the bot's affair, and are ignored.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...app import Chatkeep, core_of
from ...errors import Unavailable
from ...model import Content, Failing, Message, Part, Receipt
from .. import wire
from ..refusals import forbidden, not_found
from ..streams import event
from .answer_stream import (
    BlockBegan,
    BlockEnded,
    BlockGrew,
    Ended,
    PartShown,
    Step,
    content_from,
    file_name,
    find_named,
    growing,
    in_order,
    is_text,
    name_answer,
    parts_of,
    tell_failing,
    tool_in,
    write_time,
)
from .entrance import Authorize, Caller, Entrance, Refusal
from .sse import SSE, WhileItWorks, whole

PATH = "/v1/responses"
WAIT_S = 540.0
"""So long a request waits for its answer: less than the official client does. It is told then that the answer is being made."""

STATUS = {
    "accepted": "in_progress",
    "journaled": "queued",
    "paused": "queued",
    "answered": "completed",
    "dropped": "cancelled",
    "failed": "failed",
    "erased": "cancelled",
    "unattended": "queued",
    "closing": "in_progress",
}
"""What became of a message, as the status of its response."""

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
FAILED = "The bot could not answer; the message is kept."


def routes(keep: Chatkeep[Any], *, path: str = PATH, authorize: Authorize | None = None) -> list[BaseRoute]:
    """
    Return the routes of the Responses API over *keep*, to mount.

    Args:
        path: Where they are: the `base_url` of a client, and "/responses".

        authorize: Says, in an application of your own, who may use a conversation: see `Authorize`. Without it, a client's API
            key is a credential of chatkeep's, and from this machine any.
    """
    entrance = Entrance(keep, refuse=refuse, authorize=authorize)

    @entrance.guards("send")
    async def create(request: Request) -> Response:
        """Take the last item of the input, and answer with its response, or stream that."""
        body = await entrance.body(request)
        previous = body.get("previous_response_id")
        caller = await entrance.admit(request, conversation_of(body), begins=previous is None)
        if previous is not None:
            await refuse_lost(caller, place_of(previous)[1])
        item = last_item(body.get("input"))
        told = {name: body[name] for name in ("model", "metadata", "previous_response_id") if body.get(name)}
        key = wire.idempotency_key(request) or (item["id"] if isinstance(item.get("id"), str) else None)
        role, content = content_of(item)
        receipt = await caller.accept(content, id=key, role=role, metadata={"response": told} if told else None)
        at = await time_of(caller, receipt)
        asked = Asked(caller.conversation, receipt.number, told, background=bool(body.get("background")), at=at)
        if body.get("stream"):
            return SSE(request, caller, caller.answer(receipt.number), Events(asked).write)
        if not asked.background:
            ended = Ended("accepted")
            try:
                async with asyncio.timeout(WAIT_S):
                    ended = await whole(WhileItWorks(caller, receipt.number))
            except TimeoutError:
                ended = await caller.find_end(receipt.number)
            return wire.as_json(asked.response(ended))
        stands = Ended(receipt.status, replies=receipt.replies) if receipt.duplicate else Ended("accepted")
        response = asked.response(stands)
        if response["status"] == "in_progress":
            response["status"] = "queued"
        return wire.as_json(response)

    async def asked_for(request: Request) -> tuple[Caller, Message]:
        """Let the caller in; the message that the response answers."""
        conversation, number = place_of(request.path_params["id"])
        caller = await entrance.admit(request, conversation)
        return caller, await caller.find_message(number, ("user", "event"))

    @entrance.guards("read")
    async def get(request: Request) -> Response:
        """Return a response as it is now, or its events."""
        caller, message = await asked_for(request)
        if request.query_params.get("stream") == "true":
            asked = asked_by(caller.conversation, message)
            after = wire.whole(request.query_params["starting_after"]) if starts_late(request) else -1
            return SSE(request, caller, caller.answer(message.number), Events(asked, after).write)
        return await show(caller, message)

    @entrance.guards("send")
    async def cancel(request: Request) -> Response:
        """End a response that is being made; what was said of it stays."""
        caller, message = await asked_for(request)
        if not caller.sees_log:
            raise forbidden("A response is shown to who has the scope 'read', which this takes beside 'send'.")
        await caller.stop(message.number)
        return await show(caller, message)

    async def show(caller: Caller, message: Message) -> Response:
        """Return a response as it is now."""
        asked = asked_by(caller.conversation, message)
        return wire.as_json(asked.response(await caller.find_end(message.number)))

    @entrance.guards("read")
    async def input_items(request: Request) -> Response:
        """Return what a response answers."""
        _, message = await asked_for(request)
        content = [input_part(part) for part in parts_of(message)]
        item = {"id": message.id, "type": "message", "role": "user", "status": "completed", "content": content}
        told = {"object": "list", "data": [item], "first_id": message.id, "last_id": message.id, "has_more": False}
        return wire.as_json(told)

    return [
        wire.RawRoute(path, create, slash=True, methods=["POST"]),
        wire.RawRoute(path + "/{id}/cancel", cancel, methods=["POST"]),
        wire.RawRoute(path + "/{id}/input_items", input_items, methods=["GET"]),
        wire.RawRoute(path + "/{id}", get, methods=["GET"]),
    ]


def refuse(refusal: Refusal) -> Response:
    """Tell a refusal, as the API's clients expect it."""
    kind = KINDS.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
    code = "invalid_api_key" if refusal.status == 401 else refusal.word.replace("-", "_")
    told = {"error": {"message": refusal.detail, "type": kind, "param": None, "code": code}}
    return wire.as_json(told, status=refusal.status, headers={**refusal.headers, "cache-control": "no-store"})


def starts_late(request: Request) -> bool:
    """Tell whether a client names the event behind which it goes on. Raises 400 for what is no number."""
    given = request.query_params.get("starting_after")
    try:
        return given is not None and wire.whole(given) >= 0
    except ValueError as fault:
        raise HTTPException(400, f"`starting_after` is the number of an event: {fault}.") from None


# -- what comes in ------------------------------------------------------------------------------------------------------


def response_id(conversation: str, number: int) -> str:
    """Return the id of the response that answers message *number*."""
    return f"resp_{name_answer(conversation, number)}"


def place_of(id: str) -> tuple[str, int]:
    """Return the conversation and the number that a response's id is made of. Raises 404."""
    found = _find_place(id)
    if found is None:
        raise not_found()
    return found


def _find_place(id: str) -> tuple[str, int] | None:
    return find_named(id.removeprefix("resp_")) if id.startswith("resp_") else None


def conversation_of(body: dict[str, Any]) -> str:
    """Return the conversation that a request goes on with, or the id of a new one."""
    named, previous = body.get("conversation"), body.get("previous_response_id")
    if isinstance(named, dict):
        named = named.get("id")
    if named is not None and previous is not None:
        raise HTTPException(400, "Name `conversation` or `previous_response_id`, not both; nothing was touched.")
    for name, value in (("conversation", named), ("previous_response_id", previous)):
        if value is not None and (not isinstance(value, str) or not value):
            raise HTTPException(400, f"`{name}` is an id; nothing was touched.")
    if previous is not None:
        found = _find_place(previous)
        if found is None:
            raise lost("no server of this kind has given it out")
        return found[0]
    return named if named is not None else f"conv_{secrets.token_hex(16)}"


async def refuse_lost(caller: Caller, number: int) -> None:
    """Refuse to go on with the response to message *number* where its conversation has no such message: it was erased, or rolled back, and
    would begin anew without a word. (The message itself may have gone by retention.) Raises 401 for a visitor without a right to it."""
    is_lost = caller.stranger
    if caller.principal.kind == "visitor":
        caller.refuse_stranger()  # whatever is there
    elif not is_lost:
        with suppress(Unavailable):  # nobody knows; the message may go into the journal
            found = await caller.tenant.conversation(caller.conversation, messages=0)
            is_lost = found is None or (found.head < number and not found.stale)
    if is_lost:
        raise lost("its conversation is not there any more")


def lost(why: str) -> wire.Refused:
    """Return the refusal of a response that cannot be gone on with."""
    return wire.Refused(
        400,
        "previous-response-not-found",
        f"There is no response of this id: {why}; nothing was touched. Begin a new conversation, without `previous_response_id`.",
    )


async def time_of(caller: Caller, receipt: Receipt) -> float:
    """Return when a message was accepted, of which the receipt tells nothing: now, but for one that came again."""
    if receipt.duplicate and receipt.number:
        log = caller.tenant.history(caller.conversation, after=receipt.number - 1, before=receipt.number + 1)
        if found := [message async for message in log]:
            return found[0].created_at
    return core_of(caller.access.keep).clock()


def last_item(given: Any) -> dict[str, Any]:
    """Return the last item of an input."""
    if isinstance(given, str):
        return {"role": "user", "content": given}
    last = given[-1] if isinstance(given, list) and given else None
    if not isinstance(last, dict):
        raise HTTPException(400, "`input` is text or a list of items; nothing was touched.")
    return last


def content_of(item: dict[str, Any]) -> tuple[Any, Content]:
    """Return the role and the content by which an item is kept."""
    kind, role, content = item.get("type", "message"), item.get("role", "user"), item.get("content")
    if kind == "function_call_output":
        part = {"type": "tool_result", "id": item.get("call_id"), "result": item.get("output")}
        return "event", [part]
    if kind != "message" or role != "user":
        raise HTTPException(
            400,
            f"The last item of `input` is a message of the user, not {str(kind)[:30]} of {str(role)[:20]!r}; nothing was touched.",
        )
    if isinstance(content, str):
        return "user", content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise HTTPException(400, "The `content` of the last item is text or a list of parts; nothing was touched.")
    return "user", content_from([kept_part(part) for part in content])


def kept_part(part: Part) -> Part:
    """Return a part of an input as it is kept."""
    kind = part.get("type")
    if kind in ("input_text", "text", "output_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "input_image":
        return {"type": "image", "url": part.get("image_url") or part.get("file_id")}
    if kind == "input_file":
        return {"type": "file", "url": part.get("file_url") or part.get("file_data") or part.get("file_id")} | (
            {"filename": part["filename"]} if part.get("filename") else {}
        )
    return part


def input_part(part: Part) -> Part:
    """Return a kept part as a part of an input."""
    if is_text(part):
        return {"type": "input_text", "text": part["text"]}
    if part.get("type") == "image":
        return {"type": "input_image", "image_url": part.get("url"), "detail": "auto"}
    return {"type": "input_file", "file_url": part.get("url"), "filename": file_name(part) or None}


# -- what goes out ------------------------------------------------------------------------------------------------------


class Asked:
    """The response to message *number*: how it looks, as far as it is made."""

    def __init__(
        self, conversation: str, number: int, told: dict[str, Any], *, at: float, background: bool = False
    ) -> None:
        self.id = response_id(conversation, number)
        self.background = background
        self._conversation, self._told, self._at = conversation, told, at

    def response(self, ended: Ended) -> dict[str, Any]:
        """Return the response as it is."""
        status = STATUS[ended.status]
        if ended.replies and status == "failed":
            status = "completed"  # the user was told something instead of an answer
        if any("stopped" in reply.metadata for reply in ended.replies):
            status = "cancelled"
        broken = any("interrupted" in reply.metadata for reply in ended.replies)
        status = "incomplete" if broken else status
        output = [self.item(place, part) for place, part in enumerate(output_parts(ended.replies))]
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self._at),
            "completed_at": int(ended.replies[-1].created_at) if ended.replies else None,
            "status": status,
            "model": self._told.get("model", "chatkeep"),
            "output": output,
            "conversation": {"id": self._conversation},
            "previous_response_id": self._told.get("previous_response_id"),
            "metadata": self._told.get("metadata", {}),
            "error": {"code": "server_error", "message": FAILED} if status == "failed" else None,
            "background": self.background,
            **ALWAYS,
            **({"incomplete_details": {"reason": "interrupted"}} if broken else {}),
            **({} if ended.failing is None else {"chatkeep": failing_told(ended.failing)}),
        }

    def item(self, place: int, part: Part, status: str = "completed") -> dict[str, Any]:
        """Return the item of the output at *place*."""
        id, tool, grown = f"{self.id[5:]}_{place}", tool_in(part), growing(part)
        if tool is not None:
            told = {"name": tool.name, "arguments": tool.text} if tool.called else {"output": tool.text}
            kind = "function_call" if tool.called else "function_call_output"
            return {"id": f"fc_{id}", "type": kind, "call_id": tool.id or id, "status": status, **told}
        if grown is not None and grown[0] == "reasoning":
            summary = [{"type": "summary_text", "text": grown[1]}] if status == "completed" else []
            return {"id": f"rs_{id}", "type": "reasoning", "summary": summary}
        text = grown[1] if grown is not None else msgspec.json.encode(part).decode()
        content = [text_part(text)] if status == "completed" else []
        return {"id": f"msg_{id}", "type": "message", "role": "assistant", "status": status, "content": content}


def asked_by(conversation: str, message: Message) -> Asked:
    """Return the response to *message*, whoever has sent it in which way."""
    told = message.metadata.get("response")
    return Asked(conversation, message.number, told if isinstance(told, dict) else {}, at=message.created_at)


def failing_told(failing: Failing) -> dict[str, Any]:
    """Return what is told of attempts that have failed."""
    at = write_time(failing.retry_at)
    return {"status": "failing", "attempts": failing.attempts, "retry_at": at, "message": tell_failing(failing)}


ALWAYS: dict[str, Any] = {
    "incomplete_details": None,
    "instructions": None,
    "tools": [],
    "tool_choice": "auto",
    "truncation": "disabled",
    "parallel_tool_calls": False,
    "text": {"format": {"type": "text"}},
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "top_logprobs": 0,
    "reasoning": None,
    "usage": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "store": True,
    "service_tier": "default",
    "safety_identifier": None,
    "prompt_cache_key": None,
}
"""Members of a response that say nothing here: how a model is asked is the bot's affair."""


PARTS = {"text": "content_part", "reasoning": "reasoning_summary_part"}
DELTAS = {"text": "output_text", "reasoning": "reasoning_summary_text"}


def part_of(kind: str, text: str) -> dict[str, Any]:
    """Return a text, or what a model thinks, as a part of the item that it grows in."""
    return text_part(text) if kind == "text" else {"type": "summary_text", "text": text}


def text_part(text: str) -> dict[str, Any]:
    """Return a text as a part of the output."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def output_parts(replies: Sequence[Message]) -> Iterator[Part]:
    """Return what *replies* say, part by part, in the order in which it is shown."""
    for reply in in_order(replies):
        yield from parts_of(reply)


class Events:
    """Writes a response as events, those behind *after*.

    An event's number is what was said before it: so many events, and so many characters. It is the same whoever counts.
    """

    def __init__(self, asked: Asked, after: int = -1) -> None:
        self._asked, self._after = asked, after
        self._next = 0
        self._created = False

    async def write(self, step: Step) -> bytes:
        """Return the events of one step."""
        return b"".join(self._events(step))

    def _events(self, step: Step) -> Iterator[bytes]:
        if not self._created and step is not None:
            self._created = True
            begun = self._asked.response(Ended("accepted"))
            yield self._event("response.created", response=begun)
            yield self._event("response.in_progress", response=begun)
        match step:
            case BlockBegan(block=block, kind=kind):
                item = self._asked.item(block, {"type": kind, kind: ""}, "in_progress")
                yield self._event("response.output_item.added", output_index=block, item=item)
                yield self._event(f"response.{PARTS[kind]}.added", part=part_of(kind, ""), **self._where(block, kind))
            case BlockGrew(block=block, kind=kind, text=text):
                unseen = text[max(self._after + 1 - self._next, 0) :]
                self._next += len(text) - 1
                more: dict[str, Any] = {"logprobs": []} if kind == "text" else {}
                yield self._event(f"response.{DELTAS[kind]}.delta", delta=unseen, **more, **self._where(block, kind))
            case BlockEnded(block=block, kind=kind, text=text, void=void):
                item, where = self._asked.item(block, {"type": kind, kind: text}), self._where(block, kind)
                if void and kind == "text":
                    item["status"] = "incomplete"
                more = {"logprobs": []} if kind == "text" else {}
                yield self._event(f"response.{DELTAS[kind]}.done", text=text, **more, **where)
                yield self._event(f"response.{PARTS[kind]}.done", part=part_of(kind, text), **where)
                yield self._event("response.output_item.done", output_index=block, item=item)
            case PartShown(block=block, part=part):
                item = self._asked.item(block, part)
                if item["type"] != "function_call":
                    yield self._event("response.output_item.added", output_index=block, item=item)
                else:
                    yield from self._call(block, item)
                yield self._event("response.output_item.done", output_index=block, item=item)
            case Failing():
                # (Not all who read a stream are told of it, so it takes no number: it has that of the event before it.)
                response = self._asked.response(Ended("accepted", failing=step))
                number = max(self._next - 1, self._after)
                told = {"type": "response.in_progress", "sequence_number": number, "response": response}
                yield event(told, name="response.in_progress")
            case Ended():
                yield from self._end(step)

    def _end(self, ended: Ended) -> Iterator[bytes]:
        response = self._asked.response(ended)
        if response["status"] in ("queued", "in_progress", "cancelled"):
            response |= {"status": "incomplete", "incomplete_details": {"reason": ended.status}}
        yield self._event(f"response.{response['status']}", response=response)
        yield b"data: [DONE]\n\n"

    def _call(self, block: int, item: dict[str, Any]) -> Iterator[bytes]:
        """Begin the call of a tool, and give its arguments: clients put them together from the deltas."""
        where, arguments = {"item_id": item["id"], "output_index": block}, item["arguments"]
        begun = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=block, item=begun)
        yield self._event("response.function_call_arguments.delta", delta=arguments, **where)
        yield self._event("response.function_call_arguments.done", name=item["name"], arguments=arguments, **where)

    def _where(self, block: int, kind: str) -> dict[str, Any]:
        item = self._asked.item(block, {"type": kind, kind: ""})
        index = "content_index" if kind == "text" else "summary_index"
        return {"item_id": item["id"], "output_index": block, index: 0}

    def _event(self, kind: str, **told: Any) -> bytes:
        number, self._next = self._next, self._next + 1
        if number <= self._after:
            return b""
        return event({"type": kind, "sequence_number": number, **told}, name=kind)
