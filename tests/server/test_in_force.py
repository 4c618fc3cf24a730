"""What is in force, in words: each setting, who gave it, and which are hardly what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.drivers.base import Finding
from chatkeep.server.in_force import findings, implausible, origin, words
from chatkeep.server.settings import ServerSettings
from chatkeep.settings import Settings
from chatkeep.sources import GivenValue

pytestmark = pytest.mark.rules


@pytest.mark.parametrize(
    ("expected", "source"),
    [
        ("argument", ""),
        ("environment", "CHATKEEP_POLL"),
        ("file of CHATKEEP_ADMIN_TOKEN_FILE", "CHATKEEP_ADMIN_TOKEN_FILE"),
        ("chatkeep.toml", "chatkeep.toml"),
    ],
)
def test_where_a_value_came_from(expected: str, source: str) -> None:
    assert expected == origin(source)


@pytest.mark.parametrize(
    ("expected", "name", "value"),
    [
        ("none", "session_ttl", None),
        ("none", "hosts", ()),
        ("none", "version", ""),
        ("30 minutes", "session_ttl", "30m"),
        ("10 seconds", "drain", 10.0),
        ("yes", "background", True),
        ("no", "background", False),
        ("1 secret", "seal_keys", ("k" * 32,)),
        ("2 secrets", "seal_keys", ("k" * 32, "l" * 32)),
        ("a, b", "hosts", ("a", "b")),
        ("1,000,000", "cache_bytes", 1_000_000),
        ("8000", "port", 8000),
        ("v2", "version", "v2"),
        ("0.5", "share", 0.5),
    ],
)
def test_a_value_is_told_as_people_say_it(expected: str, name: str, value: Any) -> None:
    """Without secrets: of those it is told how many there are."""
    assert expected == words(name, value)


@pytest.mark.parametrize(
    ("odd", "name", "value"),
    [
        (False, "session_ttl", None),
        (False, "session_ttl", "1m"),
        (True, "session_ttl", "59s"),
        (False, "session_ttl", "400d"),
        (True, "session_ttl", "401d"),
        (False, "session_ttl", 0),
        (False, "no_such", 1e12),
    ],
)
def test_a_duration_of_another_unit_is_odd(odd: bool, name: str, value: Any) -> None:
    """A zero is meant."""
    said = implausible(name, value)

    assert odd == bool(said)
    assert not odd or said.endswith("usual is 1 minute to 400 days")


def test_each_setting_is_told_with_who_gave_it() -> None:
    """What the program has set in place of what the environment says came from the program."""
    settings = Settings(session_ttl="30s", poll="2s", attempts=5, overlap="interrupt")
    told = {
        "session_ttl": GivenValue("30s", "CHATKEEP_SESSION_TTL"),
        "attempts": GivenValue(9, "CHATKEEP_ATTEMPTS"),
        "poll": GivenValue("2s", ""),
    }
    found = {finding.said.split(" ")[0]: finding for finding in findings(settings, told)}
    odd = "unusual, look whether its unit is meant; usual is 1 minute to 400 days"

    assert Finding("warn", "setting", f"session_ttl 30 seconds (environment): {odd}") == found["session_ttl"]
    assert "poll 2 seconds (argument)" == found["poll"].said
    assert "attempts 5 (program)" == found["attempts"].said
    assert "overlap interrupt (program)" == found["overlap"].said
    assert found["max_wait"].said.endswith("(default)")
    assert "flags" not in found


def test_a_list_that_was_given_is_the_one_that_is_held() -> None:
    """Files have lists, and settings tuples."""
    settings = ServerSettings(hosts=("a.example",))
    found = findings(settings, {"hosts": GivenValue(["a.example"], "chatkeep.toml")})

    assert "hosts a.example (chatkeep.toml)" in [finding.said for finding in found]
