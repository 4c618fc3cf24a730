"""What is sent so that a customer sees a reply: platform by platform, part by part."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.channels import Instagram, Messenger, Received, Unknown, Webhook, WhatsApp
from chatkeep.channels.graphemes import is_boundary
from chatkeep.channels.outlet import ChannelOutlet
from chatkeep.channels.parts import TextLimit, in_bytes, in_units, parts_of, plain
from chatkeep.channels.telegram import TEXT as TELEGRAM_TEXT
from chatkeep.channels.whatsapp import BODY, BUTTON, TEXT
from chatkeep.errors import Misconfigured, Unsupported
from chatkeep.model import Content
from chatkeep.server.protocols import a2a_tasks, mcp, responses

from ..support.samples import CHANNELS, META_SECRETS, NOW, WEBHOOK_SECRETS

TO = {"whatsapp": "4915550001", "messenger": "6001", "instagram": "6001", "telegram": "8001", "webhook": "ada"}
ACCOUNTS = {
    "whatsapp": "200100300400500",
    "messenger": "700800900",
    "instagram": "17841400000",
    "telegram": "123456",
    "webhook": "shop",
}
YES_NO = {"type": "buttons", "text": "Sure?", "buttons": [{"id": "y", "text": "Yes"}, {"id": "n", "text": "No"}]}
MENU = {
    "type": "list",
    "text": "What size?",
    "button": "Sizes",
    "sections": [
        {"title": "Cups", "rows": [{"id": "s", "text": "Small", "description": "0.2 l"}]},
        {"rows": [{"id": "l", "text": "Large"}]},
    ],
}
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


def whatsapp(kind: str, body: Any, key: str = "r1") -> dict[str, Any]:
    """A WhatsApp message."""
    told = {"messaging_product": "whatsapp", "recipient_type": "individual", "to": "4915550001"}
    return {**told, "type": kind, kind: body, "biz_opaque_callback_data": key}


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


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("Hello", [whatsapp("text", {"body": "Hello"})]),
        (PHOTO, [whatsapp("image", {"link": "https://cdn.example/1.jpg", "caption": "the menu"})]),
        (FILE, [whatsapp("document", {"id": "905", "filename": "bill.pdf"})]),
        (
            {"type": "voice", "media": "7", "text": "listen"},
            [whatsapp("audio", {"id": "7"}, "r1/0"), whatsapp("text", {"body": "listen"}, "r1/1")],
        ),
        (
            PLACE,
            [whatsapp("location", {"latitude": 52.5, "longitude": 13.4, "name": "Café Anna", "address": "Am Ufer 3"})],
        ),
        (
            REMINDER,
            [
                whatsapp(
                    "template",
                    {
                        "name": "reminder",
                        "language": {"code": "de"},
                        "components": [
                            {
                                "type": "body",
                                "parameters": [{"type": "text", "text": "Ada"}, {"type": "text", "text": "10:00"}],
                            }
                        ],
                    },
                )
            ],
        ),
        (
            YES_NO,
            [
                whatsapp(
                    "interactive",
                    {
                        "type": "button",
                        "body": {"text": "Sure?"},
                        "action": {
                            "buttons": [
                                {"type": "reply", "reply": {"id": "y", "title": "Yes"}},
                                {"type": "reply", "reply": {"id": "n", "title": "No"}},
                            ]
                        },
                    },
                )
            ],
        ),
        (
            MENU,
            [
                whatsapp(
                    "interactive",
                    {
                        "type": "list",
                        "body": {"text": "What size?"},
                        "action": {
                            "button": "Sizes",
                            "sections": [
                                {"title": "Cups", "rows": [{"id": "s", "title": "Small", "description": "0.2 l"}]},
                                {"title": "Sizes", "rows": [{"id": "l", "title": "Large"}]},
                            ],
                        },
                    },
                )
            ],
        ),
        ({"type": "hologram", "text": "as text"}, [whatsapp("text", {"body": "as text"})]),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else "",
)
def test_whatsapp(part: Any, expected: list[dict[str, Any]]) -> None:
    """Each part in the shape of the Cloud API."""
    assert expected == sent("whatsapp", [part] if isinstance(part, dict) else part)


def test_whatsapp_addresses_who_hides_their_number_by_user_id() -> None:
    """A number goes into `to`, an id into `recipient`, never both."""
    number, id = sent("whatsapp", "hi", to="+4915550001")[0], sent("whatsapp", "hi", to="US.99001")[0]

    assert ("+4915550001", None) == (number.get("to"), number.get("recipient"))
    assert (None, "US.99001") == (id.get("to"), id.get("recipient"))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("Hello", [{"text": "Hello"}]),
        (
            PHOTO,
            [{"attachment": {"type": "image", "payload": {"url": "https://cdn.example/1.jpg"}}}, {"text": "the menu"}],
        ),
        (FILE, [{"attachment": {"type": "file", "payload": {"attachment_id": "905"}}}]),
        (PLACE, [{"text": "Café Anna\nAm Ufer 3\nhttps://www.openstreetmap.org/?mlat=52.5&mlon=13.4"}]),
        (REMINDER, [{"text": "See you at 10:00"}]),
        (
            {
                "type": "template",
                "name": "",
                "components": [{"template_type": "generic", "elements": [{"title": "x"}]}],
            },
            [
                {
                    "attachment": {
                        "type": "template",
                        "payload": {"template_type": "generic", "elements": [{"title": "x"}]},
                    }
                }
            ],
        ),
        (
            YES_NO,
            [
                {
                    "text": "Sure?",
                    "quick_replies": [
                        {"content_type": "text", "title": "Yes", "payload": "y"},
                        {"content_type": "text", "title": "No", "payload": "n"},
                    ],
                }
            ],
        ),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else "",
)
def test_messenger_and_instagram(part: Any, expected: list[dict[str, Any]]) -> None:
    """Each part in the shape of the Send API; on Messenger marked, so that its echo is known."""
    content = [part] if isinstance(part, dict) else part
    messenger, instagram = sent("messenger", content), sent("instagram", content)

    assert expected == [body["message"] for body in instagram]
    assert expected == [
        {name: value for name, value in body["message"].items() if name != "metadata"} for body in messenger
    ]
    assert {("6001", "RESPONSE")} == {(body["recipient"]["id"], body["messaging_type"]) for body in messenger}
    assert [f"chatkeep:r1{f'/{at}' if len(messenger) > 1 else ''}" for at in range(len(messenger))] == [
        body["message"]["metadata"] for body in messenger
    ]


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


def test_webhook_posts_the_reply_as_it_is() -> None:
    """All parts in one body, under the reply's id."""
    assert [{"conversation": "ada", "id": "r1", "content": ["x", 1]}] == sent("webhook", ["x", 1])  # type: ignore[list-item]


def test_more_choices_than_fit_become_a_list_and_then_text() -> None:
    """Nothing that can be chosen is left out."""

    def buttons(number: int) -> Content:
        return [
            {
                "type": "buttons",
                "text": "Which?",
                "buttons": [{"id": str(at), "text": f"No. {at}"} for at in range(number)],
            }
        ]

    kinds = [sent("whatsapp", buttons(number))[0] for number in (3, 4, 10, 11)]

    assert ["button", "list", "list", "text"] == [body.get("interactive", body)["type"] for body in kinds]
    assert "Which?\n1. No. 0\n2. No. 1" == kinds[3]["text"]["body"][:24]
    assert kinds[3]["text"]["body"].endswith("11. No. 10")
    assert ["quick_replies", "text"] == [
        max(sent("messenger", buttons(number))[0]["message"].keys() - {"metadata"}, key=len) for number in (13, 14)
    ]


LONG = [{"id": "1", "text": "The first of the long ones"}, {"id": "2", "text": "The first of the long two"}]


@pytest.mark.parametrize(
    ("choices", "text", "tappable"),
    [
        ([], "Which?", ""),
        ([{"id": "1", "text": " "}], "Which?\n1. 1", ""),
        ([{"id": "", "text": "One"}], "Which?\n1. One", "telegram"),
        ([{"id": "i" * 1001, "text": "One"}], "Which?\n1. One", "telegram"),
        ([{"id": "i" * 201, "text": "One"}], "Which?\n1. One", "whatsapp messenger telegram"),
        ([{"id": " 1", "text": "One"}], "Which?\n1. One", "messenger telegram"),
        ([{"id": "1", "text": "Yes"}, {"id": "1", "text": "No"}], "Which?\n1. Yes\n2. No", "messenger telegram"),
        (LONG, f"Which?\n1. {LONG[0]['text']}\n2. {LONG[1]['text']}", "telegram"),
    ],
    ids=["none", "no title", "no id", "long id", "id too long for a list", "spaces", "same ids", "alike when cut"],
)
def test_choices_that_the_platform_would_refuse_are_text(
    choices: list[dict[str, Any]], text: str, tappable: str
) -> None:
    """And those that nobody could tell apart as they are shown, in every channel."""
    for name, taps in (("whatsapp", "interactive"), ("messenger", "quick_replies"), ("telegram", "reply_markup")):
        (body,) = sent(name, [{"type": "buttons", "text": "Which?", "buttons": choices}])
        message = body["message"] if name == "messenger" else body
        said = message.get("text")

        assert (name in tappable) == (taps in message)
        assert name in tappable or text == (said["body"] if name == "whatsapp" else said)


def test_sections_are_as_whatsapp_takes_them() -> None:
    """None is empty, each of several has a title, and so has the button that they are behind."""
    rows = [[], [{"id": "s", "text": "Small"}], [{"id": "l", "text": "Large"}]]
    menu = {**MENU, "button": "", "sections": [{"rows": row} for row in rows]}
    (message,) = sent("whatsapp", [menu])
    action = message["interactive"]["action"]

    assert "Choose" == action["button"]
    assert [("Choose", "Small"), ("Choose", "Large")] == [
        (section["title"], section["rows"][0]["title"]) for section in action["sections"]
    ]


def test_long_titles_are_cut_and_long_texts_go_before() -> None:
    """A title keeps its id; a text that does not go above buttons is sent first, whole."""
    text = "word " * 400
    found = sent(
        "whatsapp",
        [{"type": "buttons", "text": text, "buttons": [{"id": "y", "text": "A title that is too long for it"}]}],
    )

    assert ["text", "interactive"] == [body["type"] for body in found]
    assert text.split() == (found[0]["text"]["body"] + " " + found[1]["interactive"]["body"]["text"]).split()
    assert {"id": "y", "title": "A title that is…"} == found[1]["interactive"]["action"]["buttons"][0]["reply"]


@given(text=st.text(max_size=300), most=st.integers(4, 60), measure=st.sampled_from([in_units, in_bytes]))
def test_a_text_in_pieces_is_whole(text: str, most: int, measure: Any) -> None:
    """Each piece goes in, none is blank, and together they say the same."""
    room = TextLimit(most, measure)
    found = list(room.pieces(text))

    assert all([room.holds(piece) and piece.strip() for piece in found])
    assert "".join(text.split()) == "".join("".join(found).split())


SYMBOLS = {
    "family": "👨\u200d👩\u200d👧\u200d👦",
    "flag": "🇧🇷",
    "flag of a region": "🏴" + "".join(chr(0xE0000 + ord(one)) for one in "gbsct") + "\U000e007f",
    "skin": "👍🏽",
    "skin and job": "👩🏾\u200d🚀",
    "rainbow": "🏳\ufe0f\u200d🌈",
    "keycap": "1\ufe0f\u20e3",
    "heart": "❤\ufe0f",
    "accent": "e\u0301",
    "two accents": "a\u0323\u0302",
    "vowel sign": "का",
    "conjunct": "क्ष",
    "thai": "กำ",
    "syllable": "\u1112\u1161\u11ab",
    "half-width": "\uff76\uff9e",
    "line end": "\r\n.",
}
LIMITS = {
    "whatsapp": TEXT,
    "whatsapp body": BODY,
    "telegram": TELEGRAM_TEXT,
    "messenger": Messenger._room,
    "instagram": Instagram._room,
    "title": BUTTON,
}


@pytest.mark.parametrize("room", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("symbol", SYMBOLS.values(), ids=SYMBOLS)
def test_no_visible_symbol_is_cut(symbol: str, room: TextLimit) -> None:
    """Wherever it stands, alone, after a space, or in a row of its kind; nothing is lost, and each piece goes in."""
    whole = symbol.strip()
    row = symbol * (room.most // room.measure(symbol) * 2 + 1)
    ends = range(room.most - room.measure(symbol) - 2, room.most + 1)
    texts = [
        row,
        "x" + row,
        *("a" * end + symbol + "Z" for end in ends),
        *("a" * (end - 1) + " " + whole for end in ends),
    ]
    for text in texts:
        found = list(room.pieces(text))
        assert all(room.holds(piece) for piece in found)
        assert "".join(text.split()) == "".join("".join(found).split())
        assert text.count(whole) == sum(piece.count(whole) for piece in found)
        assert all(is_boundary(piece + "Z", len(piece)) for piece in found)
        short = room.short(text)
        assert room.holds(short)
        assert short == text or text.startswith(short[:-1])


def test_what_is_one_symbol_and_too_long_is_cut_all_the_same() -> None:
    """A letter under a thousand accents holds nothing up, and takes no time that grows with its square."""
    text = "e" + "\u0301" * 100_000
    begun = time.perf_counter()
    found = list(TELEGRAM_TEXT.pieces(text))

    assert text == "".join(found)
    assert 25 == len(found)
    assert time.perf_counter() - begun < 5.0


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
        {"type": "image", "url": 7},
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


def test_a_template_without_text_is_refused_where_there_are_none() -> None:
    """The part can say what to show instead."""
    with pytest.raises(Unsupported, match="no template 'reminder'"):
        sent("telegram", [{"type": "template", "name": "reminder"}])


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


def test_a_channel_says_which_accounts_it_can_send_from() -> None:
    """So that each reply finds its channel; a webhook without an address for replies only listens."""
    assert {name: {account} for name, account in ACCOUNTS.items()} == {
        name: set(one.accounts) for name, one in CHANNELS.items()
    }
    assert frozenset() == Webhook("shop", secrets=WEBHOOK_SECRETS).accounts


def test_the_api_may_be_elsewhere() -> None:
    """A newer version, or a platform's partner."""
    channel = WhatsApp(
        accounts={"1": "t"}, secrets=META_SECRETS, verify_tokens="t", api="https://partner.example/v25.0/"
    )

    assert (
        "https://partner.example/v25.0/1/messages"
        == channel.requests("hi", account="1", to="2", key="r", at=NOW)[0].url
    )


@pytest.mark.parametrize(("name", "published"), [("telegram", 30), ("whatsapp", 80)])
async def test_no_second_has_more_requests_than_the_platform_publishes(name: str, published: int) -> None:
    """Not even the first one, in which a burst goes out at once."""
    limiter, _ = ChannelOutlet(CHANNELS[name])._pace_of(f"{name}:{ACCOUNTS[name]}", CHANNELS[name].rate)
    at_once = 0
    while limiter.has_capacity():
        await limiter.acquire()
        at_once += 1

    assert 1 <= at_once <= limiter.max_rate
    assert limiter.max_rate + limiter.max_rate / limiter.time_period <= published


def test_how_a_reply_came_about_stays_here() -> None:
    """Reasoning and tools are not sent to customers; sources are text, files are documents."""
    parts = parts_of(
        [
            {"type": "reasoning", "reasoning": "hm"},
            {"type": "tool_call", "id": "1", "name": "weather", "arguments": {}},
            {"type": "tool_result", "id": "1", "result": 21},
            {"type": "text", "text": "21 degrees"},
            {"type": "source", "title": "Weather", "url": "https://example.com"},
            {"type": "file", "url": "https://example.com/a.pdf", "media_type": "application/pdf"},
        ]
    )

    text, source, file = map(plain, parts)
    assert ["21 degrees", "Weather\nhttps://example.com"] == [text["text"], source["text"]]
    assert ("document", "https://example.com/a.pdf") == (file["type"], file["url"])


@pytest.mark.parametrize("word", ["name", "filename"])
def test_a_file_keeps_its_name(word: str) -> None:
    """By whichever word a bot or a front end has for it, to a channel and to other people's clients."""
    part = {"type": "file", "url": "https://example.com/a.pdf", word: "bill.pdf"}
    [sent] = map(plain, parts_of([part]))

    assert ["bill.pdf"] * 4 == [
        sent["name"],
        a2a_tasks.wire_part(part)["filename"],
        responses.input_part(part)["filename"],
        (mcp.shown_part(part) or {})["name"],
    ]
