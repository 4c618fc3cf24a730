"""What WhatsApp, Messenger and Instagram share: the handshake, and what the Graph API's errors mean."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from chatkeep.channels import Challenge, Failed, Refused, Retry, Uncertain
from chatkeep.channels.base import Response
from chatkeep.channels.meta import accounts_of, post, undelivered
from chatkeep.channels.meta import outcome as outcome_of
from chatkeep.errors import Misconfigured

from ..support.outgoing import graph, outcome, verdict
from ..support.samples import (
    BODY,
    CHANNELS,
    META,
    META_SECRETS,
    NOW,
    handshake,
    refused,
)


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


@pytest.mark.parametrize("name", META)
def test_sha1_is_no_signature(name: str) -> None:
    """The older header, and the older hash under the newer one, are refused."""
    digest = hmac.new(META_SECRETS[0].encode(), BODY, hashlib.sha1).hexdigest()

    assert refused(name, [("X-Hub-Signature", f"sha1={digest}")])
    assert refused(name, [("X-Hub-Signature-256", f"sha1={digest}")])
    assert refused(name, [("X-Hub-Signature-256", f"sha256={digest}")])


@pytest.mark.parametrize("name", META)
def test_the_handshake_is_answered(name: str) -> None:
    """With the token that was agreed, the challenge comes back."""
    assert Challenge("1158201444") == handshake(name, mode="subscribe", verify_token="hello", challenge="1158201444")


@pytest.mark.parametrize(
    "asked",
    [
        {"verify_token": "wrong"},
        {"verify_token": "é"},
        {"verify_token": ""},
        {"mode": "unsubscribe"},
        {"challenge": ""},
        {"challenge": "1" * 21},
        {"challenge": "12\n"},
        {"challenge": "<script>alert(1)</script>"},
        {"challenge": "١٢"},
        {"challenge": "-1"},
    ],
    ids=str,
)
def test_a_wrong_handshake_is_refused(asked: dict[str, str]) -> None:
    """Only digits are ever written back, and only to who knows the token."""
    good = {"mode": "subscribe", "verify_token": "hello", "challenge": "12"}

    with pytest.raises(Refused):
        handshake("whatsapp", **(good | asked))


def test_an_incomplete_or_doubled_handshake_is_refused() -> None:
    """Each of the three is there once."""
    good = [("hub.mode", "subscribe"), ("hub.verify_token", "hello"), ("hub.challenge", "12")]
    for query in [*[good[:at] + good[at + 1 :] for at in range(3)], [*good, good[2]], []]:
        with pytest.raises(Refused):
            CHANNELS["whatsapp"].verify("GET", [], query, b"", at=NOW)


def test_a_request_goes_out_under_the_token_of_its_account() -> None:
    """And none without one."""
    request = post("b.1@ada", "https://graph", {"7": "t7", "8": "t8"}, "8", {"text": "hi"})

    assert ("b.1@ada", "https://graph", b'{"text":"hi"}') == (request.key, request.url, request.body)
    assert "Bearer t8" == request.headers["authorization"]
    for tokens, there in (({"7": "t7", "8": "t8"}, "there are 7, 8"), ({}, "there are none")):
        with pytest.raises(Misconfigured, match=there):
            post("b.1@ada", "https://graph", tokens, "9", {})


@pytest.mark.parametrize("wrong", [{"7": ""}, {"7": " "}, {"7": "a\nb"}, {"a b": "t"}, {"": "t"}])
def test_accounts_are_ids_with_tokens(wrong: dict[str, str]) -> None:
    """The error names those that are none."""
    fine = {"200100": "t"}

    assert fine == accounts_of("WhatsApp", fine)
    with pytest.raises(Misconfigured, match=r"^WhatsApp: accounts maps ids to access tokens; look at '"):
        accounts_of("WhatsApp", fine | wrong)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"m": [{"id": "wamid.1"}]}', "wamid.1"),
        (299, b'{"m": [{"id": 7}]}', "7"),
        (200, b'{"m": []}', None),
        (200, b"{", None),
        (200, b'{"m": [{"id": ""}]}', None),
    ],
)
def test_a_success_without_an_id_is_uncertain(status: int, body: bytes, expected: str | None) -> None:
    """The platform may have it all the same."""
    found = outcome_of(Response(status=status, headers={}, body=body), "m", 0, "id")

    assert expected == getattr(found, "id", None)
    assert isinstance(found, Uncertain) is (expected is None)


def test_a_failure_for_a_reason_that_is_not_published_is_the_customers() -> None:
    """A long reason is cut."""
    assert Failed("9: no reason given", "recipient") == undelivered({"code": 9})
    assert 500 == len(undelivered({"title": "x" * 900}).reason)
