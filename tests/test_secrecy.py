"""Which secrets are taken for ones that can be guessed."""

from __future__ import annotations

import secrets
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.secrecy import weakness_of

from .support.soaking import examples


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "tg",
        "a" * 15,
        "a" * 40,
        "abababababababababab",
        "hunter2hunter2hunter2",
        "changemechangeme",
        "Change-Me-In-Production",
        "your_secret_key_here",
        "supersecretpassword123",
        "telegram-webhook-secret",
        "0123456789abcdef0123456789abcdef",
        "12345678901234567890",
        b"\0" * 32,
    ],
)
def test_what_is_short_or_stands_for_a_secret_is_weak(secret: str | bytes) -> None:
    """Too short, one thing over and over, or the words that somebody was to replace."""
    assert "" != weakness_of(secret)


@examples(100)
@given(st.sampled_from([string.digits, string.hexdigits, string.ascii_letters]), st.integers(16, 64))
def test_what_is_random_is_not(letters: str, length: int) -> None:
    """Whatever the letters are that somebody has made it of."""
    made = "".join(secrets.choice(letters) for _ in range(length))

    assert ["", "", ""] == [weakness_of(one) for one in (made, uuid.uuid4().hex, secrets.token_urlsafe(32))]
