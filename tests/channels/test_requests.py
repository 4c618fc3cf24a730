"""What is sent so that a customer sees a reply: platform by platform, part by part."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatkeep.channels import Received, Webhook
from chatkeep.errors import Misconfigured, Unsupported
from chatkeep.model import Content

from ..support.outgoing import ACCOUNTS, PHOTO, TO, sent
from ..support.samples import CHANNELS, NOW, WEBHOOK_SECRETS


def test_requests_go_to_the_account_with_its_token() -> None:
    """Method, address and credentials of each platform."""
    found = {
        name: CHANNELS[name].requests("hello", account=ACCOUNTS[name], to=TO[name], key="r1", at=NOW)[0]
        for name in CHANNELS
    }

    assert {
        "whatsapp": "https://graph.facebook.com/v24.0/200100300400500/messages",
        "messenger": "https://graph.facebook.com/v24.0/700800900/messages",
        "instagram": "https://graph.facebook.com/v24.0/17841400000/messages",
        "telegram": "https://api.telegram.org/bot123456:AAF-secret/sendMessage",
        "webhook": "https://shop.example/replies",
    } == {name: request.url for name, request in found.items()}
    assert ["Bearer wa-token", "Bearer page-token", "Bearer ig-token", None, None] == [
        request.headers.get("authorization") for request in found.values()
    ]
    assert {("POST", "r1", "application/json")} == {
        (request.method, request.key, request.headers["content-type"]) for request in found.values()
    }
    assert {"Request(key='r1')"} == {repr(request) for request in found.values()}


def test_long_replies_are_several_requests_in_order_under_keys_of_their_own() -> None:
    """So that each can be told of by the platform."""
    text = "\n\n".join(["x" * 3000] * 3)
    found = CHANNELS["telegram"].requests(
        [{"type": "text", "text": text}, PHOTO], account="123456", to="1", key="r1", at=NOW
    )

    assert ["r1/0", "r1/1", "r1/2", "r1/3"] == [request.key for request in found]
    assert {"instagram": 4, "messenger": 2, "whatsapp": 1} == {
        name: len(sent(name, "é" * 2000 if name != "whatsapp" else "é" * 4096)) - (name == "messenger") * -1
        for name in ("instagram", "messenger", "whatsapp")
    }


@pytest.mark.parametrize("name", ["whatsapp", "messenger", "instagram", "telegram"])
@pytest.mark.parametrize("content", ["", " \n", [], [{"type": "text", "text": ""}]], ids=repr)
def test_nothing_to_say_is_nothing_to_send(name: str, content: Content) -> None:
    """Platforms refuse empty messages."""
    assert [] == sent(name, content)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "hologram"},
        {"type": "hologram", "text": 7},
        {"type": "image", "url": 7},
        {"type": "image", "text": "the menu"},
        {"type": "file", "name": "bill.pdf"},
        {"type": "buttons", "text": "x"},
        {"type": []},
        {"type": "text"},
        {"text": 1},
    ],
    ids=str,
)
def test_what_cannot_be_shown_is_refused_before_anything_is_sent(part: dict[str, Any]) -> None:
    """Never silently left out."""
    with pytest.raises(Unsupported, match="Nothing was sent"):
        sent("whatsapp", [{"type": "text", "text": "hello"}, part])


def test_what_is_wrong_with_a_part_is_said() -> None:
    """In words that name the member."""
    told = {"hologram": "missing required field `text`", "image": "names no file; give it a `url`"}
    for kind, reason in told.items():
        with pytest.raises(Unsupported, match=f"A part of type '{kind}' cannot be sent: .*{reason}"):
            sent("whatsapp", [{"type": kind}])


def test_an_account_without_credentials_is_misconfigured() -> None:
    """The message names the account, and none of the tokens."""
    for name in CHANNELS:
        with pytest.raises(Misconfigured, match="other") as raised:
            CHANNELS[name].requests("hi", account="other", to="1", key="r1", at=NOW)
        assert "token" not in str(raised.value).replace("access token", "")


def test_the_customer_sees_that_a_message_has_come() -> None:
    """Read and typing on WhatsApp, typing elsewhere."""

    def notice(name: str, **more: Any) -> Any:
        place = {"conversation": "c", "account": ACCOUNTS[name], "to": TO[name], "id": "m1", "content": "hi"}
        request = CHANNELS[name].notice(Received(**{**place, **more}))
        return request and (request.url.rpartition("/")[2], json.loads(request.body))

    read = {"messaging_product": "whatsapp", "status": "read", "message_id": "m1", "typing_indicator": {"type": "text"}}
    assert ("messages", read) == notice("whatsapp")
    assert ("messages", {"recipient": {"id": "6001"}, "sender_action": "typing_on"}) == notice("messenger")
    assert ("sendChatAction", {"chat_id": "8001", "action": "typing"}) == notice("telegram")
    assert [None] * 4 == [
        notice("webhook"),
        notice("telegram", role="event"),
        notice("whatsapp", role="operator"),
        notice("messenger", role="operator"),
    ]


def test_a_channel_says_which_accounts_it_can_send_from() -> None:
    """So that each reply finds its channel; a webhook without an address for replies only listens."""
    assert {name: {account} for name, account in ACCOUNTS.items()} == {
        name: set(one.accounts) for name, one in CHANNELS.items()
    }
    assert frozenset() == Webhook("shop", secrets=WEBHOOK_SECRETS).accounts
