"""What WhatsApp, Messenger and Instagram share: the signature, the handshake, the Graph API's errors."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from ..errors import Misconfigured
from .base import (
    Cause,
    Challenge,
    Delivered,
    Failed,
    Outcome,
    Pairs,
    Refused,
    Request,
    Response,
    Retry,
    Uncertain,
    header,
    same,
)
from .bodies import name

GRAPH = "https://graph.facebook.com"
VERSION = "v24.0"

_CHALLENGE = re.compile("[0-9]{1,20}")
_ACCOUNT = re.compile("[A-Za-z0-9_.-]{1,64}")

Code = int | tuple[int, int]
VERDICTS: dict[Cause | Literal["later"], tuple[Code, ...]] = {
    "later": (
        2,
        4,
        17,
        32,
        341,
        613,
        1200,
        80001,
        80002,
        80006,
        80007,
        130429,
        131000,
        131016,
        131048,
        131056,
        131057,
        133004,
    ),
    "recipient": (
        *(551, 130472, 131021, 131026, 131030, 131049, 131050, 137000),
        *((10, 2018108), (10, 2018300), (100, 2018001), (100, 2534014), (200, 1545041)),
    ),
    "window": (131047, (10, 2018065), (10, 2018278), (10, 2534022)),
    "account": (
        *(0, 3, (100, 33), 10, 33, 102, 190, 368, 463, 467, *range(200, 300)),
        *(130497, 131005, 131031, 131037, 131042, 131045, 131064, 133010, 134011),
    ),
    "content": (100, 131008, 131009, 131051, 131052, 131053, 131062, 131063, *range(132000, 132070), 135000),
}
"""The published error codes (with a subcode, where that decides) by what follows from them."""

_VERDICT: dict[Any, Any] = {code: verdict for verdict, codes in VERDICTS.items() for code in codes}

PAUSES: dict[Any, float] = {4: 60.0, 80007: 60.0, 130429: 1.0, 131048: 3600.0, 131056: 6.0}
"""Seconds to wait where the platform publishes a rate and its answer names none."""


def verify(
    method: str, headers: Pairs, query: Pairs, body: bytes, *, secrets: Sequence[str], verify_tokens: Sequence[str]
) -> Challenge | None:
    """Check a POST's X-Hub-Signature-256, or answer the GET handshake. Raises `Refused`."""
    if method == "POST":
        given = header(headers, "x-hub-signature-256")  # and never X-Hub-Signature: that is SHA-1
        mine = ["sha256=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex() for secret in secrets]
        if not same(mine, given):
            raise Refused
        return None
    asked = list(query)
    token, challenge, mode = (header(asked, f"hub.{part}") for part in ("verify_token", "challenge", "mode"))
    # Anything but digits would let whoever makes somebody follow a link write into the page that we answer with.
    if method != "GET" or mode != "subscribe" or not same(verify_tokens, token) or not _CHALLENGE.fullmatch(challenge):
        raise Refused
    return Challenge(challenge)


def accounts_of(what: str, given: Mapping[str, str]) -> dict[str, str]:
    """Access tokens by account. Raises `Misconfigured`."""
    wrong = [
        id for id, token in given.items() if not _ACCOUNT.fullmatch(id) or not token.strip() or not token.isprintable()
    ]
    if wrong:
        raise Misconfigured(f"{what}: accounts maps ids to access tokens; look at {', '.join(map(repr, wrong))}.")
    return dict(given)


def post(key: str, url: str, tokens: Mapping[str, str], account: str, body: Any) -> Request:
    """Return a request of the Graph API. Raises `Misconfigured` for an account without a token."""
    if account not in tokens:
        raise Misconfigured(
            f"There is no access token for the account {account!r}; there are {', '.join(tokens) or 'none'}. Nothing was sent."
        )
    headers = {"authorization": f"Bearer {tokens[account]}", "content-type": "application/json"}
    return Request(key=key, url=url, headers=headers, body=msgspec.json.encode(body))


def outcome(response: Response, *path: str | int) -> Outcome:
    """Return what an answer means; *path* is where a success has the message's id."""
    if response.status >= 300:
        return refusal(response)
    try:
        found = json.loads(response.body)
        for step in path:
            found = found[step]
        return Delivered(name(found))
    except (ValueError, LookupError, TypeError, RecursionError):
        return Uncertain(f"HTTP {response.status} without a message id")


def refusal(response: Response) -> Outcome:
    """Return what an answer that is not a success means."""
    error = error_of(response.body)
    said = judged(error)
    if isinstance(said, Failed):
        return said
    if isinstance(said, Retry) or response.status == 429:
        found = said or Retry(reason_of(error, response.status))
        return Retry(found.reason, patience(response.headers) or found.after)
    reason = reason_of(error, response.status)
    if response.status >= 500 or response.status == 408:
        return Uncertain(reason)
    return Failed(reason, "account" if response.status in (401, 403, 404) or response.status < 400 else "content")


def error_of(body: bytes) -> dict[str, Any]:
    """Return the error object in an answer; an empty one when there is none."""
    try:
        found = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def judged(error: dict[str, Any]) -> Retry | Failed | None:
    """Return what follows from an error object, of an answer or of a status; None when its code is not a published one."""
    code, subcode = (one if type(one) is int else None for one in (error.get("code"), error.get("error_subcode")))
    verdict = _VERDICT.get((code, subcode)) or _VERDICT.get(code)
    if verdict == "later" or (verdict is None and error.get("is_transient") is True):
        return Retry(reason_of(error), PAUSES.get(code))
    return Failed(reason_of(error), verdict) if verdict else None


def undelivered(error: dict[str, Any]) -> Failed:
    """Return the verdict on a message that has failed for a reason that is not published."""
    return Failed(reason_of(error), "recipient")


def reason_of(error: dict[str, Any], status: int = 0) -> str:
    """Return what the platform says about it, with its code."""
    data = error.get("error_data")
    details = data.get("details") if isinstance(data, dict) else None
    subcode = f"/{error['error_subcode']}" if error.get("error_subcode") else ""
    said = details or error.get("message") or error.get("title") or "no reason given"
    return f"{error.get('code', f'HTTP {status}')}{subcode}: {said}"[:500]


def patience(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the platform asks us to wait, if it does."""
    if (after := headers.get("retry-after", "")).isascii() and after.isdecimal():
        return float(after)
    try:
        usage = json.loads(headers["x-business-use-case-usage"])
        minutes = [one.get("estimated_time_to_regain_access", 0) for found in usage.values() for one in found]
        return max(map(float, minutes)) * 60 or None
    except (LookupError, ValueError, TypeError, AttributeError):
        return None
