"""What makes no sense with a cookie is refused when a `CookieChat` is made, by its name, all at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import wraps
from typing import Any

import pytest

from chatkeep import Chatkeep, Misconfigured, Settings, Turn
from chatkeep.cookie import CookieChat, CookieOptions
from chatkeep.cookie.options import REFUSED

KEY = "a key of at least sixteen bytes"


def bot(turn: Turn) -> str:
    return "yes"


def refusal(function: Any = bot, **options: Any) -> str:
    """What is said of them."""
    with pytest.raises(Misconfigured) as told:
        CookieChat(function, **{"keys": [KEY]} | options)
    return str(told.value)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_setting_that_makes_no_sense_is_refused_by_name(name: str) -> None:
    """With the reason."""
    assert f"{name} makes no sense with a cookie: {REFUSED[name]}" in refusal(**{name: "1s"})


def test_every_setting_is_taken_or_refused() -> None:
    """None that there is, or will be, is taken silently."""
    known = set(CookieOptions.__annotations__) | set(REFUSED)

    assert set() == set(Settings.__struct_fields__) - known


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"session_ttl": "8d"}, "session_ttl (8 days) is longer than max_age (7 days)"),
        ({"session_ttl": "31m", "max_age": "30m"}, "session_ttl (31 minutes) is longer than max_age (30 minutes)"),
        ({"session_ttl": "soon"}, "session_ttl: 'soon' is not a duration"),
        ({"max_age": "401d"}, "max_age is from 1 second to 400 days"),
        ({"max_age": 0}, "max_age is from 1 second"),
        ({"max_age": "for ever"}, "max_age: 'for ever' is not a duration"),
        ({"attempts": 0}, "attempts must be a whole number"),
        ({"colour": "red"}, "colour is not a setting of CookieChat"),
        ({"name": "my chat"}, "name is that of a cookie"),
        ({"name": "a;b"}, "name is that of a cookie"),
        ({"name": "__Host-order"}, "the name __Host-order wants secure=True"),
        ({"name": "__Host-order", "secure": True, "path": "/a"}, 'wants path="/"'),
        ({"path": "shop"}, 'path begins with "/"'),
        ({"path": "/; Domain=example.com"}, 'path begins with "/"'),
        ({"same_site": "maybe"}, "same_site is one of lax, strict, none"),
        ({"same_site": "none"}, 'same_site="none" wants secure=True'),
        ({"keys": KEY}, "keys is a list"),
        ({"keys": ["short"]}, "at least 16 bytes"),
        ({"keys": None}, "keys is a list"),
        ({"keys": [KEY, None]}, "a key is None"),
        ({"keys": [32]}, "at least 16 bytes"),
        ({"then": 3}, "then is a store's URL"),
        ({"secure": "no"}, "secure is True, False or None"),
        ({"then": "nowhere://"}, "no driver for 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], said: str) -> None:
    """In words that say what to do."""
    with pytest.raises(Exception, match=r".") as told:
        CookieChat(bot, **{"keys": [KEY]} | options)

    assert said in str(told.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Not one by one."""
    said = refusal(overlap="debounce", retention="1d", path="x")

    assert [True] * 3 == [name in said for name in ("overlap", "retention", "path")]


def test_a_bot_that_streams_is_refused() -> None:
    """Its first piece would go out before the cookie; and a Chatkeep is no bot."""

    async def streaming(turn: Turn) -> AsyncIterator[str]:
        yield "piece"

    class Streaming:
        async def __call__(self, turn: Turn) -> AsyncIterator[str]:
            yield "piece"

    @wraps(streaming)
    def decorated(turn: Turn) -> AsyncIterator[str]:
        return streaming(turn)

    for bot in (streaming, Streaming(), decorated):
        assert "bot streams" in refusal(bot)
    assert "bot is the handler" in refusal(Chatkeep("memory://"))
    assert "bot is the handler" in refusal(None)


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for the stores of the process is not for its cookies."""
    monkeypatch.setenv("CHATKEEP_OVERLAP", "debounce")
    monkeypatch.setenv("CHATKEEP_SESSION_TTL", "400d")
    chats = CookieChat(bot, keys=[KEY])

    assert "yes" == chats.answer("hello", host="localhost").receipt.replies[0].text
    chats.stop()
