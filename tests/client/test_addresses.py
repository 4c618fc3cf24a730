"""Addresses on a server, and of one."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import Misconfigured
from chatkeep.client.addresses import conversation_at, given, with_query
from chatkeep.client.link import LONGEST_PAUSE_S, _seconds, address_of, pause


@pytest.mark.parametrize(
    ("id", "expected"),
    [("ada", "ada"), ("a/b?c#d", "a%2Fb%3Fc%23d"), ("..", ".."), ("é %", "%C3%A9%20%25"), ("~", "~")],
)
def test_a_conversation_has_one_step_of_the_path(id: str, expected: str) -> None:
    """Whatever is in its name."""
    assert f"/v1/conversations/{expected}" == conversation_at(id)


def test_only_what_is_given_is_asked_for() -> None:
    """None is nothing; 0, "" and False are something."""
    asked: dict[str, Any] = {"a": 0, "b": None, "c": "", "d": False}

    assert {"a": 0, "c": "", "d": False} == given(**asked)
    assert "/x?a=0&c=&d=False" == with_query("/x", **asked)
    assert "/x?a=%26%3D" == with_query("/x", a="&=")
    assert "/x" == with_query("/x", b=None)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host", "http://host"),
        ("https://host:8443/chat/", "https://host:8443/chat"),
        ("http://[::1]:8765", "http://[::1]:8765"),
    ],
)
def test_a_server_has_an_address(url: str, expected: str) -> None:
    """A slash at its end is the same one."""
    assert expected == address_of(url)


@pytest.mark.parametrize(
    "url",
    [
        "host",
        "bot:hunter2@host/path?key=hunter2",
        "ftp://host",
        "http://",
        "http://bot@host",
        "http://:hunter2@host",
        "http://host?key=hunter2",
        "http://host:x",
    ],
)
def test_what_is_no_address_or_holds_a_secret_is_refused(url: str) -> None:
    """Without the secret, and with what is no secret: the host is told also where there is no scheme."""
    with pytest.raises(Misconfigured, match="is no server's address") as refused:
        address_of(url)

    assert "hunter2" not in str(refused.value)
    assert "http://" == url or "host" in str(refused.value).partition(" is no server")[0]


def test_pauses_grow_and_differ() -> None:
    """Twice as long each time, up to a bound, and never all clients together."""
    for failures, longest in ((0, 0.1), (1, 0.2), (2, 0.4), (3, 0.8), (50, LONGEST_PAUSE_S)):
        pauses = [pause(failures) for _ in range(50)]

        assert longest / 2 <= min(pauses)
        assert max(pauses) <= longest
        assert len({*pauses}) > 1


@pytest.mark.parametrize(
    ("told", "expected"),
    [("", 0.0), ("7", 7.0), ("soon", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("-7", 0.0), ("7.5", 0.0)],
)
def test_a_server_may_say_how_long_to_wait(told: str, expected: float) -> None:
    """In seconds, or until a time; what is over, or means nothing, is no wait."""
    assert expected == _seconds(told)


def test_a_time_to_come_is_waited_for() -> None:
    """In the form that HTTP has."""
    assert _seconds("Wed, 21 Oct 2199 07:28:00 GMT") > 1e9
