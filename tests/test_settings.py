"""The settings of a Chatkeep: by argument, environment and file, in this order; no secret shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatkeep.errors import Misconfigured
from chatkeep.secrecy import shown as setting_shown
from chatkeep.settings import Flags, settings_from


def test_an_argument_wins_over_the_environment_that_over_the_file_and_that_over_the_default(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One setting given in more and more places."""
    seen: list[object] = [settings_from({}).poll]
    settings_file.write_text('poll = "3s"')
    seen.append(settings_from({}).poll)
    monkeypatch.setenv("CHATKEEP_POLL", "2s")
    seen.append(settings_from({}).poll)
    seen.append(settings_from({"poll": "4s"}).poll)
    monkeypatch.setenv("CHATKEEP_POLL", "")
    seen.append(settings_from({}).poll)

    assert ["1s", "3s", "2s", "4s", "3s"] == seen


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("history", "7", 7),
        ("history_bytes", "2000", 2000),
        ("turn_timeout", "2.5s", "2.5s"),
        ("session_ttl", "30m", "30m"),
        ("overlap", "drop", "drop"),
        ("cache", "redis://h/1", "redis://h/1"),
    ],
)
def test_a_variable_is_read_as_its_setting_means_it(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers, durations and text."""
    monkeypatch.setenv(f"CHATKEEP_{name.upper()}", text)

    assert value == getattr(settings_from({}), name)


def test_no_secret_is_in_a_message_or_in_what_settings_look_like(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password in a URL is left out wherever a setting is shown."""
    urls = [f"redis://bot:{password}@h/1" for password in ("hunter2", "hunter2/x", "hunter2#x", "a@hunter2")]
    for url in [*urls, "redis://h/1?password=a@hunter2"]:
        monkeypatch.setenv("CHATKEEP_CACHE", url)
        shown = repr(settings_from({}))

        assert (True, False) == ("redis://h/1" in shown, "hunter2" in shown)

    monkeypatch.delenv("CHATKEEP_CACHE")

    assert "'sqlite:///a@b.db'" == setting_shown("store", "sqlite:///a@b.db")

    with pytest.raises(Misconfigured) as refused:
        settings_from({"cache": ["redis://bot:hunter2@h/1"]})

    assert "hunter2" not in str(refused.value)


def test_flags_hold_for_all_tenants_or_for_one_and_cannot_be_written() -> None:
    """A tenant's own flag wins; handlers only read."""
    flags = settings_from({"flags": {"new_menu": False, "limit": 3, "salon": {"new_menu": True}}}).flags

    assert ({"new_menu": True, "limit": 3}, {"new_menu": False, "limit": 3}) == (
        dict(flags.of("salon")),
        dict(flags.of("x")),
    )
    with pytest.raises(TypeError):
        flags.of("salon")["new_menu"] = False  # type: ignore[index]


def test_flags_are_reloaded_whole_or_not_at_all(settings_file: Path) -> None:
    """A broken file leaves what there was."""
    flags = Flags({"a": 1})
    settings_file.write_text("[flags]\na = 2\n[flags.x]\na = 3\n")
    flags.reload()
    settings_file.write_text("[flags]\na = 4\n[flags.x]\na = []\n")
    with pytest.raises(Misconfigured):
        flags.reload()

    assert ({"a": 2}, {"a": 3}) == (dict(flags.of("")), dict(flags.of("x")))


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({}, None),
        ({"retry_after": "100ms", "retry_longest": "1s"}, None),
        ({"retry_after": "10ms"}, 8),
        ({"retry_after": 0}, 8),
        ({"retry_after": "150ms", "retry_longest": "300ms"}, 8),
        ({"retry_after": "10ms", "retry_for": "10m"}, None),
        ({"retry_after": "10ms", "attempts": 20}, 20),
        ({"retry_after": "10ms", "attempts": None}, None),
    ],
)
def test_pauses_that_are_meant_for_tests_limit_the_tries(options: dict[str, Any], attempts: int | None) -> None:
    """Whoever shortens them a little, for people who wait, still outlasts an outage; and what was said counts as it was said."""
    assert attempts == settings_from(options).policy().max_raised
    assert 600.0 == settings_from(options).policy().retry_for_s


def test_pauses_from_the_environment_limit_the_tries_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As arguments do."""
    monkeypatch.setenv("CHATKEEP_RETRY_AFTER", "10ms")

    assert 8 == settings_from({}).attempts
