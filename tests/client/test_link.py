"""The rules of the way to a server: its address, what it says, what is sent, and how long to wait for it."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import BadMessage, Misconfigured, Uncertain
from chatkeep.client.link import LONGEST_PAUSE_S, Answer, Link, _seconds, address_of, decoded, encode, pause

pytestmark = pytest.mark.rules


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


def test_an_answer_of_another_program_leaves_it_open_what_was_done() -> None:
    """The client cannot tell whether its message is in the log."""
    assert [1, 2] == decoded(b"[1,2]", list[int])
    for raw in (b"<html>", b'["one"]', b"", b"\xff\xff"):
        with pytest.raises(Uncertain, match=r"not what this client understands.*perhaps it was done"):
            decoded(raw, list[int])


def test_what_a_token_may_not_see_is_none() -> None:
    assert (None, "") == (Answer({}, b"", False).value, Answer({}, b"", False).etag)
    assert ({"cart": []}, '"v1"') == (
        Answer({"etag": '"v1"'}, b'{"cart":[]}', False).value,
        Answer({"etag": '"v1"'}, b"{}", False).etag,
    )


def nested(depth: int) -> list[Any]:
    """Lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_what_is_sent_is_json_for_every_reader() -> None:
    assert '{"text":"naïve","n":1}'.encode() == encode({"text": "naïve", "n": 1}, "ada")
    for value in (float("nan"), float("inf"), {1, 2}, b"x", "half \ud800", nested(200_000)):
        with pytest.raises(BadMessage, match=r"^ada: this is not JSON that every store keeps.*nothing was sent"):
            encode(value, "ada")


@pytest.mark.parametrize("token", ["", "  ", "ck_s\nx", "ck_ü", "ck_s\tx"])
def test_what_can_be_no_token_is_refused_and_not_told(token: str) -> None:
    link = Link("http://host", "ck_first", timeout=1, attempt=1)
    with pytest.raises(Misconfigured, match=r"This is not a token.*Nothing was changed\.$"):
        link.token = token

    assert "ck_first" == link.token


def test_a_client_may_have_no_token_and_gets_one_later() -> None:
    link = Link("http://host", None, timeout="5s", attempt=2)
    link.token = "ck_x"

    assert ("ck_x", 5.0, False) == (link.token, link.timeout_s, link.is_open)


def test_a_wait_that_is_no_duration_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"^timeout, attempt: "):
        Link("http://host", None, timeout="soon", attempt=1)
