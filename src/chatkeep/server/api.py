"""The addresses under /v1, and the problem documents (RFC 9457) that say what went wrong."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, NamedTuple, cast

import msgspec
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .. import errors
from ..keep import Chatkeep
from ..model import Message
from . import wire

log = logging.getLogger("chatkeep.server")

RETRY_AFTER_S = "1"
LATER_ON = ("accepted", "journaled")  # durable, and not answered yet


class Problem(NamedTuple):
    """How an error is told to a client. *detail* stands for the error's own words where those are for operators
    only."""

    status: int
    detail: str = ""


LATER = "Nothing was lost. Send the message again under the same id."

PROBLEMS: dict[type[errors.ChatkeepError], Problem] = {
    errors.BadKey: Problem(400),
    errors.BadMessage: Problem(422),
    errors.TooLarge: Problem(413),
    errors.Conflict: Problem(409, "The conversation was erased meanwhile; your message went with it."),
    errors.Overloaded: Problem(503, f"Too many messages wait here; yours was not taken. {LATER}"),
    errors.Unavailable: Problem(503, f"The store cannot be reached now. {LATER}"),
    errors.Uncertain: Problem(503, f"The store did not say whether your message was taken. {LATER}"),
    errors.Unsupported: Problem(503, "The conversation needs a newer version of this server. Nothing was lost."),
    errors.Corrupt: Problem(500, "The conversation is there and cannot be read. Nothing was changed."),
    errors.HandlerFailed: Problem(500, "The bot could not answer; your message is kept."),
    errors.ChatkeepError: Problem(500, "Something is wrong with this server. Nothing was changed."),
}
"""Error to HTTP status: an error is told as the nearest of its classes that is listed."""


class Messages(HTTPEndpoint):
    """/v1/conversations/{id}/messages"""

    async def post(self, request: Request) -> Response:
        """Takes a message and answers with its receipt; with `Prefer: respond-async` before the bot has answered."""
        keep, conversation = keep_of(request), name(request)
        incoming = await wire.message(request, limit=4 * keep.settings.message_limit)
        preferences = ",".join(request.headers.getlist("prefer")).replace(";", ",").split(",")
        if "respond-async" not in [preference.strip().lower() for preference in preferences]:
            receipt = await keep.receive(conversation, incoming.content, id=incoming.id)
            return as_json(receipt, status=202 if receipt.status in LATER_ON else 200)
        receipt = await keep.accept(conversation, incoming.content, id=incoming.id)
        answer = as_json(receipt, status=202 if receipt.status in LATER_ON else 200)
        answer.headers["preference-applied"] = "respond-async"
        return answer

    async def get(self, request: Request) -> Response:
        """A page of the log, oldest first: the last messages, or those around `after` and `before`."""
        conversation, asked = name(request), wire.window(request)
        return as_json({"messages": await talk(keep_of(request), conversation, asked)})


async def talk(keep: Chatkeep[Any], conversation: str, asked: wire.Window) -> list[Message]:
    """As many messages as were *asked* for, if there are as many; chatkeep's own notes are left out."""
    found: list[Message] = []
    after, before = asked.after, asked.before
    if after is None and before is None:
        before = wire.NEWEST
    while (missing := asked.limit - len(found)) > 0:
        page = [message async for message in keep.history(conversation, after=after, before=before, limit=100)]
        if not page:
            break
        shown = [message for message in page if message.role != "system"]
        if after is None:
            found, before = shown[-missing:] + found, page[0].number
        else:
            found, after = found + shown[:missing], page[-1].number
    return found


async def get_health(request: Request) -> Response:
    """Says that the server runs."""
    return as_json({"status": "ok"})


def keep_of(request: Request) -> Chatkeep[Any]:
    """The Chatkeep that this application serves."""
    return cast(Chatkeep[Any], request.app.state.keep)


def name(request: Request) -> str:
    """The conversation that is asked for; noted, so that a problem document can name it."""
    request.state.conversation = wire.conversation_id(request)
    return cast(str, request.state.conversation)


def as_json(value: Any, *, status: int = 200) -> Response:
    """An answer that nobody on the way may keep."""
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, "application/json")


def problem(request: Request, kind: str, status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A problem document."""
    told = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if conversation := getattr(request.state, "conversation", None):
        told["conversation"] = conversation
    raw = msgspec.json.encode(told)
    return Response(raw, status, {"cache-control": "no-store", **(headers or {})}, "application/problem+json")


async def on_refused_request(request: Request, fault: Exception) -> Response:
    """A request that never came to the core: not found, not allowed, not understood."""
    refused = cast(HTTPException, fault)
    plain = {404: "There is nothing at this address.", 405: f"{request.method} is not possible here."}
    detail = plain.get(refused.status_code, refused.detail)
    return problem(request, "about:blank", refused.status_code, detail, dict(refused.headers or {}))


async def on_error(request: Request, fault: Exception) -> Response:
    """An error of chatkeep, as PROBLEMS has it."""
    kind = next(kind for kind in type(fault).__mro__ if kind in PROBLEMS)
    status, detail = PROBLEMS[kind]
    if detail:
        log.error("%s: %s", type(fault).__name__, fault)
    headers = {"retry-after": RETRY_AFTER_S} if status == 503 else {}
    word = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("-")
    return problem(request, f"urn:chatkeep:{word}", status, detail or str(fault), headers)


async def on_crash(request: Request, fault: Exception) -> Response:
    """A bug; the server's log has the traceback."""
    return problem(request, "about:blank", 500, "Something went wrong here. Send the message again under the same id.")
