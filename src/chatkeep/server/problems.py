"""Problem documents (RFC 9457): how every error is told to a client."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, NamedTuple, cast

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .. import errors
from .access import access_of
from .refusals import NOT_FOUND
from .wire import Refused

log = logging.getLogger("chatkeep.server")

RETRY_AFTER_S = "1"


class Problem(NamedTuple):
    """How an error is told to a client. *detail* stands for the error's own words where those are for operators only."""

    status: int
    detail: str = ""


LATER = "Nothing was lost. Send the message again under the same id."

PROBLEMS: dict[type[errors.ChatkeepError], Problem] = {
    errors.UsageError: Problem(400),
    errors.Misconfigured: Problem(
        500, "Something is set up wrongly on this server; its log says what. Nothing was changed."
    ),
    errors.BadKey: Problem(400),
    errors.BadMessage: Problem(422),
    errors.KeyReused: Problem(422),
    errors.TooLarge: Problem(413),
    errors.OtherOwner: Problem(409),  # (only a service key names an owner, and it may see all of its tenant)
    errors.OnHold: Problem(409, "It is on legal hold, and is not erased before that is lifted. Nothing was changed."),
    errors.NotWaiting: Problem(409),
    errors.ChangedSince: Problem(409),
    errors.NotOpen: Problem(
        500,
        "The Chatkeep behind this server is not open here, so nothing is answered; nothing was written. The application that "
        "mounts it has to open it in its own lifespan: `async with keep: yield`. The log has the lines.",
    ),
    errors.Conflict: Problem(409, "The conversation was erased meanwhile; your message went with it."),
    errors.Overloaded: Problem(503, f"Too many messages wait here; yours was not taken. {LATER}"),
    errors.Unavailable: Problem(503, f"The store cannot be reached now. {LATER}"),
    errors.Uncertain: Problem(503, f"The store did not say whether your message was taken. {LATER}"),
    errors.Unsupported: Problem(503, "The conversation needs a newer version of this server. Nothing was lost."),
    errors.Corrupt: Problem(
        500, "The conversation is there and cannot be read. Nothing was changed; its state can be cleared."
    ),
    errors.HandlerFailed: Problem(500, "The bot could not answer; your message is kept."),
    errors.ChatkeepError: Problem(500, "Something is wrong with this server. Nothing was changed."),
}
"""Error to HTTP status: an error is told as the nearest of its classes that is listed."""

WORDS = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "timeout",
    413: "too-large",
    415: "unsupported-media-type",
    429: "rate-limited",
}
"""Types of the refusals that have none of their own."""


def problem(
    request: Request, word: str, status: int, detail: str, headers: dict[str, str] | None = None, **told: Any
) -> Response:
    """Return a problem document."""
    document = {"type": f"urn:chatkeep:{word}", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if id := request.path_params.get("id"):
        document["conversation"] = id
    principal = getattr(request.state, "principal", None)
    if principal is not None and principal.masked:  # the words of an error may quote what it is about
        document |= {"detail": access_of(request).mask(principal, {"detail": detail})["detail"]}
        told = {}
    return Response(msgspec.json.encode(document | told), status, headers, "application/problem+json")


async def on_refused_request(request: Request, fault: Exception) -> Response:
    """Return a request that never came to the core: not found, not allowed, not understood."""
    refused = cast(HTTPException, fault)
    status, detail, headers = refused.status_code, refused.detail, dict(refused.headers or {})
    if isinstance(refused, Refused):
        return problem(request, refused.word, status, detail, headers, **refused.told)
    plain = {
        404: NOT_FOUND,
        405: f"{request.method} is not possible here; {headers.get('allow', 'another method')} is.",
    }
    return problem(request, WORDS.get(status, "refused"), status, plain.get(status, detail), headers)


class Told(NamedTuple):
    """How an error of chatkeep is told: *word* is the end of its type."""

    word: str
    status: int
    detail: str
    headers: dict[str, str]


def tell_error(fault: Exception) -> Told:
    """Return how an error of chatkeep is told, as PROBLEMS has it, and log what is for operators."""
    kind = next(kind for kind in type(fault).__mro__ if kind in PROBLEMS)
    status, detail = PROBLEMS[kind]
    if detail and not isinstance(fault, errors.NotOpen):
        log.error("%s: %s", type(fault).__name__, fault)
    headers = {"retry-after": RETRY_AFTER_S} if status == 503 else {}
    word = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__).lstrip("-")
    return Told(word, status, detail or str(fault), headers)


async def on_error(request: Request, fault: Exception) -> Response:
    """Return an error of chatkeep, as PROBLEMS has it."""
    told = tell_error(fault)
    if isinstance(fault, errors.NotOpen) and not request.app.state.told_not_open:
        request.app.state.told_not_open = True  # once: it stays so until somebody mends the program
        log.critical("%s: %s", type(fault).__name__, fault)
    return problem(request, *told)


async def on_crash(request: Request, fault: Exception) -> Response:
    """Return a bug; the server's log has the traceback."""
    return problem(request, "bug", 500, "Something went wrong here. Send the message again under the same id.")
