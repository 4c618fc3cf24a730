"""Any other system, over a webhook that is signed as Standard Webhooks says, in both directions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, convert

from ..errors import Misconfigured
from ..model import Content
from .base import (
    Challenge,
    Delivered,
    Failed,
    Inbound,
    Outcome,
    Pairs,
    Received,
    Refused,
    Request,
    Response,
    Retry,
    Unknown,
    conversation_of,
    header,
    same,
    secrets_of,
)
from .bodies import each, fingerprint, items, name

TOLERANCE_S = 300
SHORTEST_SECRET = 24


class Webhook:
    """
    A system of yours, or somebody's, that speaks JSON.

        Webhook("shop", secrets=[WEBHOOK_SECRET], url="https://shop.example/replies")

    It posts {"conversation": "ada", "content": "hello", "id": "42"}, or {"messages": [...]} with several, and gets replies
    posted to *url*. secrets: "whsec_" and base64 of 24 bytes or more; all of them are accepted, and replies are signed with each, so
    that either side can change them without a gap. account: names it in its conversations' ids.
    """

    name = "webhook"
    idempotent = True
    rate = 40.0

    def __init__(self, account: str, *, secrets: str | Sequence[str], url: str = "") -> None:
        if not re.fullmatch("[A-Za-z0-9_.-]{1,64}", account):
            raise Misconfigured(f"Webhook({account!r}): the name is 1 to 64 of A-Z, a-z, 0-9, _, . and -.")
        if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise Misconfigured(f"Webhook({account!r}): url is not an http(s) address.")
        self.account = account
        self.accounts = frozenset([account] if url else [])
        self.one_way = not url
        self._secrets = secrets_of(f"Webhook({account!r}, secrets=...)", secrets)
        self._keys = [_key(secret) for secret in self._secrets]
        self._url = url

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        """Check webhook-signature over id, timestamp and the raw body, and that it is not 5 minutes old, or early. Raises `Refused`."""
        told = list(headers)
        id, stamp, signatures = (header(told, f"webhook-{part}") for part in ("id", "timestamp", "signature"))
        if method != "POST" or not re.fullmatch("[0-9]{1,12}", stamp):
            raise Refused
        signed = _signed(id, stamp, body)
        mine = [_signature(key, signed) for key in self._keys]
        if not any([same(mine, given) for given in signatures.split(" ")]):
            raise Refused
        if abs(at - int(stamp)) > TOLERANCE_S:
            raise Refused("old")
        return None

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        """Return the messages in it; one without an id of its own gets the webhook's, which is the same for a redelivery."""
        given = next((value for key, value in headers if key.lower() == "webhook-id"), "")

        def whole(read: dict[str, Any]) -> Iterator[Inbound]:
            if "messages" not in read:
                yield from self._message(given, read)
            elif not isinstance(read["messages"], list):
                raise TypeError("messages is not a list")
            else:
                for number, item in enumerate(read["messages"]):
                    yield from each([item], partial(self._message, given and f"{given}/{number}"), account=self.account)

        return items(body, whole)

    def requests(self, content: Content, *, account: str, to: str, key: str, at: float) -> list[Request]:
        """Return one signed POST with the whole reply; sending it again with the same webhook-id is harmless."""
        if account != self.account or not self._url:
            raise Misconfigured(f"Webhook({self.account!r}) has no url for replies of {account!r}. Nothing was sent.")
        body = msgspec.json.encode({"conversation": to, "id": key, "content": content})
        stamp = str(int(at))
        signatures = " ".join(_signature(one, _signed(key, stamp, body)) for one in self._keys)
        told = {"webhook-id": key, "webhook-timestamp": stamp, "webhook-signature": signatures}
        return [Request(key=key, url=self._url, headers={"content-type": "application/json", **told}, body=body)]

    def may_move(self, to: str) -> bool:
        """Tell that none may: its ids are the other system's own."""
        return False

    def acknowledge(self, item: Received | Unknown) -> Request | None:
        """Return nothing to send: the answer to its POST is enough."""
        return None

    def notice(self, message: Received) -> Request | None:
        """Return nothing to send: the answer to its POST is enough."""
        return None

    def outcome(self, response: Response) -> Outcome:
        """Tell what an answer means: any 2xx has it. As the id says what was seen before, everything that may pass is tried again."""
        reason = f"HTTP {response.status}"
        if 200 <= response.status < 300:
            return Delivered("")
        if response.status in (400, 413, 415, 422):
            return Failed(reason, "content")
        if response.status in (401, 403, 404, 410) or 300 <= response.status < 400:
            return Failed(reason, "account")
        after = response.headers.get("retry-after", "")
        return Retry(reason, float(after) if after.isascii() and after.isdecimal() else None)

    def _message(self, fallback: str, item: dict[str, Any]) -> Iterator[Inbound]:
        told = convert(item, Envelope)
        yield Received(
            conversation=conversation_of("webhook", self.account, name(told.conversation)),
            account=self.account,
            to=told.conversation,
            id=name((fallback or fingerprint(item)) if told.id is None else told.id),
            content=told.content,
            at=told.at,
            metadata=told.metadata,
        )


class Envelope(Struct, kw_only=True):
    """A message as it is posted."""

    conversation: str
    content: Content
    id: str | None = None
    at: float | None = None
    metadata: dict[str, Any] = {}


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < SHORTEST_SECRET:
        raise Misconfigured(
            f'A webhook secret is "whsec_" and the base64 of {SHORTEST_SECRET} random bytes or more; this one is not.'
        )
    return key


def _signed(id: str, stamp: str, body: bytes) -> bytes:
    return f"{id}.{stamp}.".encode("utf-8", "surrogatepass") + body


def _signature(key: bytes, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
