"""Who may post to a channel: every way in which a signature can be wrong is the same refusal."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook as Reference

from chatkeep.channels import Challenge, Instagram, Messenger, Refused, Telegram, Webhook, WhatsApp
from chatkeep.errors import Misconfigured

from ..support.samples import (
    CHANNELS,
    META_SECRETS,
    NOW,
    SIGNED,
    TELEGRAM_SECRETS,
    WEBHOOK_SECRETS,
    meta_signed,
    telegram_signed,
    webhook_signed,
)

BODY = b'{"object": "x", "entry": [{"id": 1}], "text": "caf\\u00e9"}'
META = ["whatsapp", "messenger", "instagram"]
SECRETS = dict.fromkeys(META, META_SECRETS) | {"telegram": TELEGRAM_SECRETS, "webhook": WEBHOOK_SECRETS}


def refused(
    name: str, headers: list[tuple[str, str]], body: bytes = BODY, *, method: str = "POST", at: float = NOW
) -> str:
    """What the channel says when it refuses; "" when it does not."""
    try:
        CHANNELS[name].verify(method, headers, [], body, at=at)
    except Refused as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("active", [0, 1], ids=["new secret", "old secret"])
def test_every_active_secret_is_accepted(name: str, active: int) -> None:
    """While a secret is being changed, both sign."""
    headers = SIGNED[name](BODY, SECRETS[name][active])

    assert "" == refused(name, headers)
    assert "" == refused(name, [(key.upper(), value) for key, value in headers])


@pytest.mark.parametrize("name", CHANNELS)
def test_every_wrong_form_is_the_same_refusal(name: str) -> None:
    """Missing, empty, doubled, cut, longer, in other letters, not ASCII, half a character: one constant answer."""
    good = SIGNED[name](BODY)
    key, value = good[-1]
    wrong = [
        "",
        " ",
        value[:-1],
        value + "0",
        " " + value + "x",
        "é" * 64,
        "\udcff",
        "sha256=" + "g" * 64,
        "sha256=",
        "v1,",
        "v1",
        "null",
    ]
    tried = [[*good[:-1], (key, one)] for one in wrong]
    tried += [good[:-1], [*good, good[-1]], [*good, (key, "x")], [(f"{key}-2", value), *good[:-1]]]

    assert {"This request is not signed by the platform; nothing was touched."} == {refused(name, one) for one in tried}


@pytest.mark.parametrize("name", [*META, "webhook"])
def test_a_signature_holds_for_these_bytes_only(name: str) -> None:
    """A body that was read and written again, or differs by a space, is refused; so is another's secret."""
    other = {"webhook": "whsec_" + "A" * 32}.get(name, "another-secret")
    changed = [
        json.dumps(json.loads(BODY), separators=(",", ":")).encode(),
        json.dumps(json.loads(BODY), ensure_ascii=False).encode(),
        BODY + b" ",
        b" " + BODY,
        b"\xef\xbb\xbf" + BODY,
        gzip.compress(BODY),
        b"",
    ]

    assert all([refused(name, SIGNED[name](BODY), body) for body in changed])
    assert refused(name, SIGNED[name](BODY, other))


@pytest.mark.parametrize("name", META)
def test_sha1_is_no_signature(name: str) -> None:
    """The older header, and the older hash under the newer one, are refused."""
    digest = hmac.new(META_SECRETS[0].encode(), BODY, hashlib.sha1).hexdigest()

    assert refused(name, [("X-Hub-Signature", f"sha1={digest}")])
    assert refused(name, [("X-Hub-Signature-256", f"sha1={digest}")])
    assert refused(name, [("X-Hub-Signature-256", f"sha256={digest}")])


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("method", ["PUT", "HEAD", "DELETE", "OPTIONS", "post", ""])
def test_other_methods_are_refused(name: str, method: str) -> None:
    """A good signature under another method says nothing."""
    assert refused(name, SIGNED[name](BODY), method=method)


@given(value=st.text(), name=st.sampled_from(list(CHANNELS)))
def test_no_header_raises_anything_else(value: str, name: str) -> None:
    """Whatever stands in the header, it is refused."""
    headers = SIGNED[name](BODY)

    assert refused(name, [*headers[:-1], (headers[-1][0], value)])


# The handshake of Meta.


def handshake(name: str, **asked: str) -> Challenge | None:
    """What the channel answers to hub.*."""
    return CHANNELS[name].verify("GET", [], [(f"hub.{key}", value) for key, value in asked.items()], b"", at=NOW)


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


@pytest.mark.parametrize("name", ["telegram", "webhook"])
def test_who_has_no_handshake_refuses_it(name: str) -> None:
    """A GET is nobody's there."""
    with pytest.raises(Refused):
        handshake(name, mode="subscribe", verify_token="hello", challenge="12")


# Standard Webhooks.


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


# Secrets.


@pytest.mark.parametrize("secrets", ["", " ", [], [""], ["good", ""], ["good", "\t"], [None]], ids=repr)
def test_an_empty_secret_is_refused_when_the_channel_is_made(secrets: list[str]) -> None:
    """An empty key signs anything."""
    for make in (
        lambda: WhatsApp(accounts={}, secrets=secrets, verify_tokens="t"),
        lambda: WhatsApp(accounts={}, secrets="s", verify_tokens=secrets),
        lambda: Messenger(accounts={}, secrets=secrets, verify_tokens="t"),
        lambda: Instagram(accounts={}, secrets="s", verify_tokens=secrets),
        lambda: Telegram(token="1:a", secrets=secrets),
        lambda: Webhook("shop", secrets=secrets),
    ):
        with pytest.raises(Misconfigured):
            make()


def test_settings_that_cannot_work_are_refused_when_the_channel_is_made() -> None:
    """Each says what is wrong, and none shows a secret."""
    for make in (
        lambda: Telegram(token="s3cret", secrets="x"),
        lambda: Telegram(token="1:a", secrets="s3cret with spaces"),
        lambda: Webhook("shop", secrets="whsec_s3cret"),
        lambda: Webhook("shop", secrets="s3cret!"),
        lambda: Webhook("shop", secrets="whsec_" + "s3cret" * 5 + "s="),
        lambda: Webhook("a:b", secrets=WEBHOOK_SECRETS),
        lambda: Webhook("shop", secrets=WEBHOOK_SECRETS, url="ftp://s3cret"),
        lambda: WhatsApp(accounts={"a/b": "s3cret"}, secrets="s", verify_tokens="t"),
        lambda: WhatsApp(accounts={"1": ""}, secrets="s", verify_tokens="t"),
        lambda: WhatsApp(accounts={"1": "s3cret\r\nx: y"}, secrets="s", verify_tokens="t"),
    ):
        with pytest.raises(Misconfigured) as raised:
            make()
        assert "s3cret" not in str(raised.value)


def test_telegram_compares_its_token_whole() -> None:
    """A prefix, or other letters, is not the token."""
    secret = TELEGRAM_SECRETS[0]

    assert ["", True, True] == [
        refused("telegram", telegram_signed(BODY)),
        bool(refused("telegram", telegram_signed(BODY, secret[:-1]))),
        bool(refused("telegram", telegram_signed(BODY, secret.upper()))),
    ]


def test_one_channel_takes_no_other_platforms_signature() -> None:
    """The same app secret signs for the three of Meta; no one else's header counts."""
    assert refused("telegram", meta_signed(BODY))
    assert refused("webhook", meta_signed(BODY))
    assert refused("whatsapp", telegram_signed(BODY))


@pytest.mark.parametrize(
    ("secret", "warned"), [("x", True), ("9f8e7d6c5b4a392", True), ("a" * 16, True), ("9f8e7d6c5b4a3928", False)]
)
def test_a_secret_that_can_be_guessed_is_warned_of(secret: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The line names the channel and not the secret."""
    Telegram(token="1:abc", secrets=["5d41402abc4b2a76b9719d911017c592", secret])

    assert warned == ("Telegram" in caplog.text)
    assert not warned or f"{secret!r}" not in caplog.text
