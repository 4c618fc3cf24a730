"""What goes to Telegram, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatkeep.channels import (
    Failed,
    Received,
    Retry,
    Unknown,
)
from chatkeep.errors import Unsupported

from ..support.outgoing import FILE, PHOTO, PLACE, REMINDER, YES_NO, outcome, sent, verdict
from ..support.samples import (
    BODY,
    CHANNELS,
    NOW,
    TELEGRAM_SECRETS,
    refused,
    telegram_signed,
)


@pytest.mark.parametrize(
    ("part", "method", "body"),
    [
        ("Hello", "sendMessage", {"text": "Hello"}),
        (PHOTO, "sendPhoto", {"photo": "https://cdn.example/1.jpg", "caption": "the menu"}),
        (FILE, "sendDocument", {"document": "905"}),
        (PLACE, "sendVenue", {"latitude": 52.5, "longitude": 13.4, "title": "Café Anna", "address": "Am Ufer 3"}),
        ({"type": "location", "latitude": 1.0, "longitude": 2.0}, "sendLocation", {"latitude": 1.0, "longitude": 2.0}),
        (REMINDER, "sendMessage", {"text": "See you at 10:00"}),
        (
            YES_NO,
            "sendMessage",
            {
                "text": "Sure?",
                "reply_markup": {
                    "inline_keyboard": [[{"text": "Yes", "callback_data": "y"}], [{"text": "No", "callback_data": "n"}]]
                },
            },
        ),
        (
            {"type": "buttons", "text": "Go?", "buttons": [{"id": "é" * 33, "text": "Yes"}]},
            "sendMessage",
            {
                "text": "Go?",
                "reply_markup": {"keyboard": [[{"text": "Yes"}]], "one_time_keyboard": True, "resize_keyboard": True},
            },
        ),
    ],
)
def test_telegram(part: Any, method: str, body: dict[str, Any]) -> None:
    """Each part is a method of the Bot API; ids that are too long to come back make buttons that send their text."""
    content = [part] if isinstance(part, dict) else part
    found = CHANNELS["telegram"].requests(content, account="123456", to="-100123/77", key="r1", at=NOW)

    assert [method] == [request.url.rpartition("/")[2] for request in found]
    assert [{"chat_id": "-100123", "message_thread_id": 77, **body}] == [json.loads(request.body) for request in found]


def test_a_template_without_text_is_refused_where_there_are_none() -> None:
    """The part can say what to show instead."""
    with pytest.raises(Unsupported, match="no template 'reminder'"):
        sent("telegram", [{"type": "template", "name": "reminder"}])


def test_only_a_tapped_button_of_telegram_waits_to_be_acknowledged() -> None:
    """Whether the tap is understood or not."""
    place = {"conversation": "c", "account": "a", "to": "t", "id": "m1", "content": "hi"}
    tapped: list[Any] = [
        Received(**place, metadata={"callback": "cb1"}),
        Unknown(reason="odd", raw={"callback_query": {"id": "cb1"}}, id="7"),
    ]
    others: list[Any] = [
        Received(**place),
        *(Unknown(reason="odd", raw=raw, id="7") for raw in ({}, "x", {"message": 1})),
    ]
    found = [CHANNELS["telegram"].acknowledge(one) for one in tapped]

    for request in found:
        assert request is not None
        assert request.url.endswith("/answerCallbackQuery")
        assert {"callback_query_id": "cb1"} == json.loads(request.body)
    assert {None} == {CHANNELS["telegram"].acknowledge(one) for one in others}
    assert {None} == {CHANNELS[name].acknowledge(one) for name in CHANNELS if name != "telegram" for one in tapped}


@pytest.mark.parametrize(
    ("code", "description", "expected"),
    [
        (401, "Unauthorized", "account"),
        (404, "Not Found", "account"),
        (403, "Forbidden: bot was blocked by the user", "recipient"),
        (403, "Forbidden: bot was kicked from the supergroup chat", "recipient"),
        (400, "Bad Request: chat not found", "recipient"),
        (400, "Bad Request: PEER_ID_INVALID", "recipient"),
        (400, "Bad Request: not enough rights to send text messages to the chat", "recipient"),
        (400, "Bad Request: message is too long", "content"),
        (400, "Bad Request: wrong file identifier/HTTP URL specified", "content"),
        (413, "Request Entity Too Large", "content"),
        (408, "Request Timeout", "Uncertain"),
        (429, "Too Many Requests: retry after 5", "Retry"),
        (500, "Internal Server Error", "Uncertain"),
        (502, "Bad Gateway", "Uncertain"),
    ],
)
def test_telegram_errors(code: int, description: str, expected: str) -> None:
    """By status, and by the words where a status means several things."""
    found = outcome("telegram", code, {"ok": False, "error_code": code, "description": description})

    assert (expected, f"{code}: {description}") == (verdict(found), found.reason)  # type: ignore[union-attr]


def test_telegram_says_how_long_to_wait_and_where_a_group_went() -> None:
    """Its parameters."""
    body = {"ok": False, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": 5}}
    moved = {
        "ok": False,
        "error_code": 400,
        "description": "Bad Request: x",
        "parameters": {"migrate_to_chat_id": -1001},
    }

    assert Retry("429: Too Many Requests", 5.0) == outcome("telegram", 429, body)
    assert Failed("400: Bad Request: x (the chat is now -1001)", "recipient", "-1001") == outcome(
        "telegram", 400, moved
    )


def test_telegram_compares_its_token_whole() -> None:
    """A prefix, or other letters, is not the token."""
    secret = TELEGRAM_SECRETS[0]

    assert ["", True, True] == [
        refused("telegram", telegram_signed(BODY)),
        bool(refused("telegram", telegram_signed(BODY, secret[:-1]))),
        bool(refused("telegram", telegram_signed(BODY, secret.upper()))),
    ]
