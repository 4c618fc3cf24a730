"""Signed webhooks of any other system, in both directions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook as Reference

from ..support.outgoing import outcome, sent, verdict
from ..support.samples import (
    BODY,
    CHANNELS,
    NOW,
    WEBHOOK_SECRETS,
    refused,
    webhook_signed,
)


def test_webhook_posts_the_reply_as_it_is() -> None:
    """All parts in one body, under the reply's id."""
    assert [{"conversation": "ada", "id": "r1", "content": ["x", 1]}] == sent("webhook", ["x", 1])  # type: ignore[list-item]


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


def test_the_reference_library_and_we_agree() -> None:
    """What it signs we accept, and what we sign it accepts."""
    webhook = CHANNELS["webhook"]
    now = datetime.now(UTC)
    reference = Reference(WEBHOOK_SECRETS[1])
    headers = [
        ("webhook-id", "msg_9"),
        ("webhook-timestamp", str(int(now.timestamp()))),
        ("webhook-signature", reference.sign("msg_9", now, BODY.decode())),
    ]
    request = webhook.requests("hello", account="shop", to="ada", key="r1", at=now.timestamp())[0]

    assert None is webhook.verify("POST", headers, [], BODY, at=now.timestamp())
    assert "hello" == reference.verify(request.body, request.headers)["content"]


@pytest.mark.parametrize(
    ("late", "taken"), [(0, True), (300, True), (-300, True), (301, False), (-301, False), (8 * 86400, False)]
)
def test_an_old_or_early_signature_is_refused(late: int, taken: bool) -> None:
    """Five minutes either way."""
    assert taken == ("" == refused("webhook", webhook_signed(BODY, at=NOW), at=NOW + late))


@pytest.mark.parametrize("stamp", ["", "x", "-1", "1e9", "1763700000.0", " 1763700000", "١٧٦٣٧٠٠٠٠٠", "9" * 400, "nan"])
def test_a_timestamp_is_digits(stamp: str) -> None:
    """Anything else is refused before it is a number."""
    id, _, signature = webhook_signed(BODY)

    assert refused("webhook", [id, ("webhook-timestamp", stamp), signature])


def test_one_good_signature_of_several_is_enough() -> None:
    """A sender that is changing its secret signs with both; other versions are passed over."""
    id, stamp, (name, value) = webhook_signed(BODY)

    assert "" == refused("webhook", [id, stamp, (name, f"v1a,xyz v1,AAAA {value}")])
    assert refused("webhook", [id, stamp, (name, value.replace("v1,", "v2,"))])
    assert refused("webhook", [("webhook-id", "msg_2"), stamp, (name, value)])
