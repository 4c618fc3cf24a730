"""What goes to WhatsApp."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.channels import WhatsApp

from ..support.outgoing import FILE, PHOTO, PLACE, REMINDER, YES_NO, sent
from ..support.samples import META_SECRETS, NOW

MENU = {
    "type": "list",
    "text": "What size?",
    "button": "Sizes",
    "sections": [
        {"title": "Cups", "rows": [{"id": "s", "text": "Small", "description": "0.2 l"}]},
        {"rows": [{"id": "l", "text": "Large"}]},
    ],
}


def whatsapp(kind: str, body: Any, key: str = "r1") -> dict[str, Any]:
    """A WhatsApp message."""
    told = {"messaging_product": "whatsapp", "recipient_type": "individual", "to": "4915550001"}
    return {**told, "type": kind, kind: body, "biz_opaque_callback_data": key}


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


def test_the_api_may_be_elsewhere() -> None:
    """A newer version, or a platform's partner."""
    channel = WhatsApp(
        accounts={"1": "t"}, secrets=META_SECRETS, verify_tokens="t", api="https://partner.example/v25.0/"
    )

    assert (
        "https://partner.example/v25.0/1/messages"
        == channel.requests("hi", account="1", to="2", key="r", at=NOW)[0].url
    )
