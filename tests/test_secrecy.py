"""Which secrets are taken for ones that can be guessed."""

from __future__ import annotations

import secrets
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.secrecy import DIFFERENT, SHORTEST, shown, split_entry, weakness_of, without_secret

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


def test_it_is_said_what_is_weak() -> None:
    """By length, by characters, by what it repeats, and by words."""
    assert [
        "of 15 bytes",
        "",
        "of 3 different characters",
        "",
        "that repeats what is shorter",
        "made of words that stand for one",
    ] == [
        weakness_of(secret)
        for secret in (
            "q7-" * (SHORTEST // 3),
            "kT9.wQx2Lr!b8Vn5",
            "aabbccaabccabcacbbac"[: 4 * (DIFFERENT + 1)],
            "abcdaacbdbbdcadcabdd",
            "kT9.wQx2Lr!" * 2,
            "supersecretpassword",
        )
    ]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://bot:hunter2@host/0", ("redis", "bot:hunter2", "host/0")),
        ("redis://:a@b/c#d@host/0", ("redis", ":a@b/c#d", "host/0")),
        ("redis://host/0", ("redis", "", "host/0")),
        ("sqlite:///a@b.db", ("sqlite", "", "/a@b.db")),
        ("host", ("host", "", "")),
    ],
)
def test_a_url_is_taken_apart_at_its_last_at(url: str, expected: tuple[str, str, str]) -> None:
    """A password may hold anything; a path has no user."""
    assert expected == split_entry(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://bot:hunter2@host/0", "redis://bot:***@host/0"),
        ("redis://:hunter2@host/0", "redis://:***@host/0"),
        ("redis://bot@host/0", "redis://bot@host/0"),
        ("upstash://hunter2@host", "upstash://***@host"),
        ("durable-object://hunter2@host", "durable-object://***@host"),
        (
            "postgresql://host/chat?password=hunter2&sslpassword=hunter2&a=b",
            "postgresql://host/chat?password=***&sslpassword=***&a=b",
        ),
        ("sqlite:///chat.db", "sqlite:///chat.db"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    """The rest of it says which store is meant."""
    assert expected == without_secret(url)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("store", "redis://bot:hunter2@host/0?password=hunter2", "'redis://host/0'"),
        ("store", "hunter2", "'***'"),
        ("seal_keys", ("hunter2",), "'***'"),
        ("metrics_token", "", "''"),
        ("cache", None, "None"),
        ("poll", "1s", "'1s'"),
    ],
)
def test_a_setting_is_printed_without_its_secret(name: str, value: object, expected: str) -> None:
    """One that is not set says so."""
    assert expected == shown(name, value)
