"""What a platform's answer means for the reply: tables of their published codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.channels import Delivered, Failed, Outcome, Response, Retry, Uncertain

from ..support.samples import CHANNELS

META = ["whatsapp", "messenger", "instagram"]


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


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("whatsapp", {"messages": [{"id": "wamid.OUT1"}], "contacts": []}, Delivered("wamid.OUT1")),
        ("messenger", {"recipient_id": "6001", "message_id": "m_out1"}, Delivered("m_out1")),
        ("instagram", {"recipient_id": "6001", "message_id": "i_out1"}, Delivered("i_out1")),
        ("telegram", {"ok": True, "result": {"message_id": 31, "chat": {"id": 8001}, "date": 1}}, Delivered("31")),
        ("telegram", {"ok": True, "result": True}, Delivered("")),
        ("webhook", b"", Delivered("")),
    ],
)
def test_success(name: str, body: Any, expected: Outcome) -> None:
    """With the platform's id, by which its statuses will speak of it."""
    assert expected == outcome(name, 200, body)


@pytest.mark.parametrize("name", [*META, "telegram"])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", {}, {"messages": []}, {"ok": 1}, [], {"message_id": 7.5}, b"[" * 9999], ids=range(8)
)
def test_a_success_without_an_id_is_uncertain(name: str, body: Any) -> None:
    """A proxy's page is not the platform's word."""
    assert "Uncertain" == verdict(outcome(name, 200, body))


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize(
    ("status", "code", "subcode", "expected"),
    [
        (400, 131047, None, "window"),
        (400, 10, 2018278, "window"),
        (400, 10, 2534022, "window"),
        (400, 131026, None, "recipient"),
        (400, 131030, None, "recipient"),
        (400, 131050, None, "recipient"),
        (400, 551, 1545041, "recipient"),
        (400, 100, 2018001, "recipient"),
        (401, 190, 463, "account"),
        (401, 0, None, "account"),
        (403, 10, None, "account"),
        (403, 200, None, "account"),
        (400, 230, None, "account"),
        (403, 368, None, "account"),
        (403, 131031, None, "account"),
        (400, 131042, None, "account"),
        (400, 133010, None, "account"),
        (400, 100, 33, "account"),
        (400, 100, None, "content"),
        (400, 131009, None, "content"),
        (400, 131051, None, "content"),
        (400, 132001, None, "content"),
        (400, 132069, None, "content"),
        (400, 4, None, "Retry"),
        (400, 613, None, "Retry"),
        (400, 80007, None, "Retry"),
        (400, 130429, None, "Retry"),
        (400, 131056, None, "Retry"),
        (500, 131000, None, "Retry"),
        (503, 131016, None, "Retry"),
        (503, 2, None, "Retry"),
        (500, 1200, None, "Retry"),
        (500, 1, None, "Uncertain"),
        (500, 987654, None, "Uncertain"),
        (400, 987654, None, "content"),
        (404, 987654, None, "account"),
        (429, 987654, None, "Retry"),
        (502, None, None, "Uncertain"),
        (408, None, None, "Uncertain"),
        (302, None, None, "account"),
    ],
)
def test_graph_errors(name: str, status: int, code: int | None, subcode: int | None, expected: str) -> None:
    """By code and subcode; by status only where the code is not published."""
    found = outcome(name, status, graph(code, subcode) if code is not None else b"<html>")

    assert expected == verdict(found)


def test_the_reason_says_what_the_platform_said() -> None:
    """With its code, its subcode, and its details if it gives them."""
    detailed = graph(131047, error_data={"messaging_product": "whatsapp", "details": "Too late."})

    assert Failed("131047: Too late.", "window") == outcome("whatsapp", 400, detailed)
    assert Failed("10/2018278: (#1) said", "window") == outcome("messenger", 400, graph(10, 2018278))
    assert Failed("HTTP 400: no reason given", "content") == outcome("whatsapp", 400, b"")


def test_only_the_account_can_be_repaired() -> None:
    """Everything else stays as it is, whoever looks after it."""
    assert [True, True, True, False] == [
        Failed("", cause).permanent for cause in ("recipient", "window", "content", "account")
    ]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after": "17"}, 17.0),
        ({"retry_after": "soon"}, 1.0),
        ({"retry_after": "²"}, 1.0),
        ({"x_business_use_case_usage": '{"1": [{"type": "x", "estimated_time_to_regain_access": 3}]}'}, 180.0),
        ({"x_business_use_case_usage": '{"1": [{"estimated_time_to_regain_access": 0}]}'}, 1.0),
        ({"x_business_use_case_usage": "[[["}, 1.0),
        ({"x_business_use_case_usage": "[1]"}, 1.0),
        ({}, 1.0),
    ],
)
def test_the_platform_says_how_long_to_wait(headers: dict[str, str], expected: float) -> None:
    """In one of two headers; otherwise what is published for the code."""
    assert Retry("130429: (#1) said", expected) == outcome("whatsapp", 429, graph(130429), **headers)


def test_what_is_marked_transient_is_tried_again() -> None:
    """Also under a code that is not published."""
    assert Retry("987654: (#1) said") == outcome("messenger", 500, graph(987654, is_transient=True))


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


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((200, 202, 204), "Delivered"),
        ((400, 413, 415, 422), "content"),
        ((301, 307, 401, 403, 404, 410), "account"),
        ((408, 409, 425, 429, 500, 502, 504), "Retry"),
    ],
)
def test_webhook_answers(statuses: tuple[int, ...], expected: str) -> None:
    """As the same id may come twice, what may pass is tried again, after as long as the answer says."""
    found = [outcome("webhook", status, b"whatever", retry_after="9") for status in statuses]

    assert {expected} == set(map(verdict, found))
    assert {9.0} == {getattr(one, "after", 9.0) for one in found}


@given(
    name=st.sampled_from(list(CHANNELS)),
    status=st.integers(100, 599),
    body=st.one_of(
        st.binary(),
        st.builds(
            lambda code, sub: json.dumps(graph(code, sub)).encode(),
            st.integers() | st.text(),
            st.none() | st.lists(st.none()),
        ),
    ),
)
def test_every_answer_has_an_outcome(name: str, status: int, body: bytes) -> None:
    """Nothing that a server can answer raises."""
    assert isinstance(outcome(name, status, body), Delivered | Retry | Failed | Uncertain)
