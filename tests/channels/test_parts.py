"""What a message is made of, as each channel can show it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.channels.parts import TextLimit, in_bytes, in_units, parts_of, plain
from chatkeep.model import Content
from chatkeep.server.protocols import a2a_tasks, mcp, responses

from ..support.outgoing import sent


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
