"""Which error an answer stands for, and who has said it."""

from __future__ import annotations

import json
import re

import pytest

from chatkeep import ChatkeepError, HandlerFailed, Overloaded, TooLarge, Unavailable, Uncertain, UsageError
from chatkeep.client import Forbidden, NotFound, PreconditionFailed, Unauthorized
from chatkeep.client.refusals import WORDS, refusal
from chatkeep.server.problems import PROBLEMS


def said(word: str, **members: object) -> bytes:
    """A problem document of chatkeep's."""
    return json.dumps({"type": f"urn:chatkeep:{word}", "detail": "It is so."} | members).encode()


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_server_is_its_error(word: str) -> None:
    """Whatever the status is; the detail says what was asked for, once."""
    error, _ = refusal(400, said(word), "GET ada")
    again, _ = refusal(400, said(word, detail="GET ada: It is so."), "GET ada")

    assert WORDS[word] is type(error) is type(again)
    assert str(error).startswith("GET ada: It is so.")
    assert str(error) == str(again)


@pytest.mark.parametrize(
    ("status", "expected", "passes"),
    [
        (400, UsageError, False),
        (408, Uncertain, True),
        (413, TooLarge, False),
        (429, Overloaded, True),
        (500, Uncertain, False),
        (502, Uncertain, True),
        (503, Uncertain, True),
        (504, Uncertain, True),
        (507, Uncertain, False),
        (401, Unavailable, False),
        (403, Unavailable, False),
        (404, Unavailable, False),
        (409, Unavailable, False),
        (302, Unavailable, False),
    ],
)
@pytest.mark.parametrize("body", [b"<html>", b"", b"{}", b"\xff", b'{"type":"about:blank"}', b'{"type":7}'])
def test_what_a_proxy_says_counts_where_it_is_true_of_any_request(
    status: int, expected: type[ChatkeepError], passes: bool, body: bytes
) -> None:
    """That there is no such conversation, or no right, is the server's to say."""
    error, again = refusal(status, body, "GET ada")

    assert (expected, passes) == (type(error), again)
    assert ("something else than a chatkeep server" in str(error)) is (expected is Unavailable)


@pytest.mark.parametrize(
    ("word", "status", "expected", "passes"),
    [
        ("unauthorized", 401, Unauthorized, False),
        ("forbidden", 403, Forbidden, False),
        ("not-found", 404, NotFound, False),
        ("still-running", 409, Uncertain, True),
        ("handler-failed", 500, HandlerFailed, False),
        ("unavailable", 503, Unavailable, True),
        ("something-new", 404, NotFound, False),
        ("something-new", 409, UsageError, False),
    ],
)
def test_the_server_says_whether_a_refusal_passes(
    word: str, status: int, expected: type[ChatkeepError], passes: bool
) -> None:
    """A word that this client does not know is told by its status."""
    error, again = refusal(status, said(word), "GET ada")

    assert (expected, passes) == (type(error), again)


def test_a_refused_condition_has_what_is_there() -> None:
    """So that nobody has to ask again."""
    error, passes = refusal(412, said("conflict", etag='"7"', state={"n": 1}), "PUT ada")
    assert isinstance(error, PreconditionFailed)

    assert ('"7"', {"n": 1}, False) == (error.etag, error.state, passes)
    bare, _ = refusal(412, said("conflict"), "PUT ada")
    assert isinstance(bare, PreconditionFailed)
    assert ("", None) == (bare.etag, bare.state)


def test_it_is_said_what_to_do_next() -> None:
    """And which status an answer without words had."""
    assert "client.token = ..." in str(refusal(401, said("unauthorized"), "GET ada")[0])
    assert "The server answered 500 Internal Server Error." in str(refusal(500, b"", "GET ada")[0])
    assert "The server answered 599 ." in str(refusal(599, b"", "GET ada")[0])


def test_each_error_that_a_server_tells_is_known_here() -> None:
    """Under the name of its class. What is wrong with the server itself has a status alone: nobody can do anything about it here."""
    told = {re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(): kind for kind in PROBLEMS}
    own = {"misconfigured", "not-open"}

    assert {word: kind for word, kind in told.items() if word not in own} == {
        word: WORDS.get(word) for word in told if word not in own
    }
