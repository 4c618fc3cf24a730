"""Who may post to a channel: every way in which a signature can be wrong is the same refusal."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.channels import Instagram, Messenger, Refused, Telegram, Webhook, WhatsApp
from chatkeep.errors import Misconfigured

from ..support.samples import (
    BODY,
    CHANNELS,
    META,
    META_SECRETS,
    SIGNED,
    TELEGRAM_SECRETS,
    WEBHOOK_SECRETS,
    handshake,
    meta_signed,
    refused,
    telegram_signed,
)

SECRETS = dict.fromkeys(META, META_SECRETS) | {"telegram": TELEGRAM_SECRETS, "webhook": WEBHOOK_SECRETS}


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


@pytest.mark.parametrize("name", ["telegram", "webhook"])
def test_who_has_no_handshake_refuses_it(name: str) -> None:
    """A GET is nobody's there."""
    with pytest.raises(Refused):
        handshake(name, mode="subscribe", verify_token="hello", challenge="12")


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
