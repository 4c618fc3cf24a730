"""No visible symbol is cut."""

from __future__ import annotations

import time

import pytest

from chatkeep.channels import Instagram, Messenger
from chatkeep.channels.graphemes import is_boundary
from chatkeep.channels.parts import TextLimit
from chatkeep.channels.telegram import TEXT as TELEGRAM_TEXT
from chatkeep.channels.whatsapp import BODY, BUTTON, TEXT

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
