"""Values that everybody has: what the last words of a conversation are."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.model import WORDS_MOST, last_words, text_of

from .support.snapshots import message, note


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("hello", "hello"),
        ([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}], "a\nb"),
        ([], ""),
    ],
)
def test_the_text_of_a_message_is_that_of_its_parts(content: Any, expected: str) -> None:
    """One a line."""
    assert expected == text_of(content)


def test_the_last_words_are_a_persons_or_the_bots() -> None:
    """Neither an event nor a note is one; they are cut."""
    log = [
        message(1),
        message(2, "assistant", "x" * (WORDS_MOST + 1)),
        message(3, "event", "tick"),
        note(4, "delivery"),
    ]
    words = last_words(log)
    assert words is not None

    assert ("x" * WORDS_MOST, "assistant", log[1].created_at) == (words.text, words.role, words.at)
    assert last_words([log[2], log[3]]) is None
    assert last_words([]) is None


@pytest.mark.parametrize(
    ("content", "redacted", "expected"),
    [
        ([{"type": "image", "url": "x"}], False, "(image)"),
        ([{"url": "x"}], False, "(part)"),
        ([{"type": "y" * 50}], False, f"({'y' * 40})"),
        ([], False, ""),
        ("", False, ""),
        ("", True, "(redacted)"),
    ],
)
def test_what_has_no_words_is_named(content: Any, redacted: bool, expected: str) -> None:
    """By what its first part is."""
    words = last_words([message(1, content=content, redacted=redacted)])
    assert words is not None

    assert expected == words.text
