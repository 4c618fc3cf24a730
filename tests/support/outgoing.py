"""What channels send, and what the answers of platforms are to them."""

from __future__ import annotations

import json
from typing import Any

from chatkeep.channels import Failed, Outcome, Response
from chatkeep.model import Content

from .samples import CHANNELS, NOW

TO = {"whatsapp": "4915550001", "messenger": "6001", "instagram": "6001", "telegram": "8001", "webhook": "ada"}


ACCOUNTS = {
    "whatsapp": "200100300400500",
    "messenger": "700800900",
    "instagram": "17841400000",
    "telegram": "123456",
    "webhook": "shop",
}


YES_NO = {"type": "buttons", "text": "Sure?", "buttons": [{"id": "y", "text": "Yes"}, {"id": "n", "text": "No"}]}


PHOTO = {"type": "image", "url": "https://cdn.example/1.jpg", "text": "the menu"}


FILE = {"type": "document", "media": "905", "name": "bill.pdf"}


PLACE = {"type": "location", "latitude": 52.5, "longitude": 13.4, "name": "Café Anna", "address": "Am Ufer 3"}


REMINDER = {
    "type": "template",
    "name": "reminder",
    "language": "de",
    "parameters": ["Ada", "10:00"],
    "text": "See you at 10:00",
}


def sent(name: str, content: Content, *, to: str = "", key: str = "r1") -> list[dict[str, Any]]:
    """The bodies that go out."""
    requests = CHANNELS[name].requests(content, account=ACCOUNTS[name], to=to or TO[name], key=key, at=NOW)
    return [json.loads(request.body) for request in requests]


def outcome(name: str, status: int, body: Any, **headers: str) -> Outcome:
    """What the channel makes of an answer."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CHANNELS[name].outcome(
        Response(status, {key.replace("_", "-"): value for key, value in headers.items()}, raw)
    )


def verdict(found: Outcome) -> str:
    """In a word."""
    return found.cause if isinstance(found, Failed) else type(found).__name__


def graph(code: Any, subcode: Any = None, **more: Any) -> dict[str, Any]:
    """An error of the Graph API."""
    return {"error": {"message": "(#1) said", "type": "OAuthException", "code": code, "error_subcode": subcode, **more}}
