"""What goes to Messenger and Instagram, and what comes from them."""

from __future__ import annotations

from typing import Any

import pytest

from ..support.outgoing import FILE, PHOTO, PLACE, REMINDER, YES_NO, sent


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
