"""From a problem document to the error that says what to do next: the classes of `chatkeep.errors`, and a few that only a client meets."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

from .. import errors
from ..errors import ChatkeepError


class Unauthorized(errors.UsageError):
    """The token is missing, unknown, expired or revoked; nothing was touched. Give the client another one."""


class Forbidden(errors.UsageError):
    """The token is good and lacks the scope for this; nothing was touched."""


class NotFound(errors.UsageError):
    """There is no such thing, or it is somebody else's: the server tells nobody which."""


class PreconditionFailed(errors.Conflict):
    """Someone else wrote first. *state* and *etag* are what is there now."""

    def __init__(self, message: str, *, etag: str, state: Any) -> None:
        super().__init__(message)
        self.etag = etag
        self.state = state


class Problem(Struct, kw_only=True):
    """A problem document (RFC 9457)."""

    type: str = "about:blank"
    detail: str = ""
    etag: str | None = None
    state: Any = None

    @property
    def word(self) -> str:
        """What chatkeep calls it; "" when something else than chatkeep has answered."""
        return self.type.removeprefix("urn:chatkeep:") if self.type.startswith("urn:chatkeep:") else ""


WORDS: dict[str, type[ChatkeepError]] = {
    "bad-key": errors.BadKey,
    "bad-message": errors.BadMessage,
    "too-large": errors.TooLarge,
    "other-owner": errors.OtherOwner,
    "unsupported": errors.Unsupported,
    "conflict": errors.Conflict,
    "overloaded": errors.Overloaded,
    "rate-limited": errors.Overloaded,
    "unavailable": errors.Unavailable,
    "uncertain": errors.Uncertain,
    "still-running": errors.Uncertain,
    "corrupt": errors.Corrupt,
    "handler-failed": errors.HandlerFailed,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "not-found": NotFound,
    "not-waiting": errors.NotWaiting,
    "on-hold": errors.OnHold,
    "changed-since": errors.ChangedSince,
    "usage-error": errors.UsageError,
    "key-reused": errors.KeyReused,
    "chatkeep-error": ChatkeepError,
}
STATUSES: dict[int, type[ChatkeepError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: errors.TooLarge,
    429: errors.Overloaded,
    **dict.fromkeys((408, 425, 500, 502, 503, 504), errors.Uncertain),
}
PASSING = (408, 425, 429, 502, 503, 504)
ABOUT_THE_REQUEST = (400, 408, 413, 414, 415, 417, 422, 425, 429, 431)
"""Refusals that are true whoever on the way to the server says them. Of all others below 500 the server's own word is needed."""

NEXT: dict[type[ChatkeepError], str] = {
    Unauthorized: "Give the client a token that is valid: client.token = ...",
    Forbidden: "Use a credential that may do this.",
    NotFound: "Check the id and whose token this is.",
    errors.KeyReused: "Send other content under an id of its own.",
}


def refusal(status: int, body: bytes, about: str) -> tuple[ChatkeepError, bool]:
    """Return the error that an answer stands for, and whether it passes by itself. *about* names what was asked.

    A "there is no such thing" of a proxy is `Unavailable`: it says nothing of what the server has.
    """
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        problem = Problem()  # a proxy's page, for example
    if not problem.word and status < 500 and status not in ABOUT_THE_REQUEST:
        return answered_by_another(status, about), False
    kind = WORDS.get(problem.word) or STATUSES.get(status, errors.UsageError if status < 500 else errors.Uncertain)
    detail = problem.detail or f"The server answered {status} {_phrase(status)}."
    detail = detail if detail.startswith(f"{about}: ") else f"{about}: {detail}"
    text = " ".join(part for part in (detail, NEXT.get(kind, "")) if part)
    if status == 412:
        return PreconditionFailed(text, etag=problem.etag or "", state=problem.state), False
    return kind(text), status in PASSING or problem.word == "still-running"


def answered_by_another(status: int, about: str) -> errors.Unavailable:
    """Return the error of an answer that no chatkeep server has given: what it says of a conversation or a token counts for nothing."""
    answer = f"{status} {_phrase(status)}".rstrip()
    return errors.Unavailable(
        f"{about}: something else than a chatkeep server has answered ({answer}), such as a proxy that has no server behind it now. "
        "Nothing was done. Try again later, or look whether the address is right."
    )


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
