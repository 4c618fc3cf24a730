"""The settings of a Chatkeep: by argument, environment and file, in this order; no secret shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatkeep.errors import Misconfigured
from chatkeep.secrecy import SHORTEST
from chatkeep.secrecy import shown as setting_shown
from chatkeep.settings import Flags, faults_of, is_ring, named_seal_keys, settings_from


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


@pytest.mark.parametrize(
    ("name", "wrong", "fine", "said"),
    [
        ("history", [-1, 1.5, "7", True, None], [0, 7], "history must be a whole number of at least 0, not "),
        ("concurrency", [0], [1], "concurrency must be a whole number of at least 1, not 0"),
        ("attempts", [0], [1, None], "attempts must be a whole number of at least 1, not 0"),
        (
            "version",
            [" a", "a\nb", "x" * 101, 7],
            ["", "a b", "x" * 100],
            "version is a short text without line breaks",
        ),
        ("background", ["yes", 1, None], [True, False], "background is true or false, not "),
        ("seal_keys", ["x" * 40, ["short"], [7]], [[], ["x" * 40]], "seal_keys is a list of secrets of at least "),
        ("overlap", ["never", None, 7], ["queue", "drop"], "overlap is one of "),
        ("journal", ["", 7], [None, "j.db"], "journal is text, not "),
        ("poll", ["0s", 0], ["1ms"], "poll must be more than 0"),
        ("quick", ["soon", None], ["0s"], "quick: "),
        ("session_ttl", ["soon"], [None, "0s", "1h"], "session_ttl: "),
        ("channel_rate", ["often", 7], ["off", "7/minute"], "channel_rate: "),
        ("flags", [7, {"a": []}], [{}, {"a": 1}, Flags()], "flags"),
    ],
)
def test_what_a_setting_cannot_be_is_told(name: str, wrong: list[object], fine: list[object], said: str) -> None:
    """One fault for each, which is no sentence; None is for those that may be off."""
    assert [] == [value for value in fine if faults_of(name, value)]
    for value in wrong:
        (fault,) = faults_of(name, value)
        assert fault.startswith(said)
        assert not fault.endswith(".")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_outage": "journal"}, 'on_outage="journal" needs journal="/path/to/journal.db"'),
        ({"pin": "turn"}, 'pin needs version="..."'),
        ({"pin": "session"}, 'pin needs version="..."'),
        ({"flags": {"salon": {"a": []}}}, "flags.salon: a must be true, false, a number or text"),
        ({"flags": {"a": []}}, "flags: a must be true, false, a number or text"),
        ({"flags": 7}, "flags is a table of flags and of tenants, not 7"),
    ],
)
def test_settings_that_need_another_say_which(options: dict[str, Any], said: str) -> None:
    """And so does a table of flags with what is none."""
    with pytest.raises(Misconfigured) as refused:
        settings_from(options)

    assert said in str(refused.value)
    settings_from({"on_outage": "journal", "journal": "j.db", "pin": "turn", "version": "v1"})
    settings_from({"pin": "none", "on_outage": "refuse"})


def test_the_rules_go_by_the_settings() -> None:
    """Times in seconds, and what follows from several."""
    told = {
        "session_ttl": "30m",
        "retention": "9d",
        "forget_after": "20d",
        "forget_visitors": "10d",
        "channel_rate": "7/minute",
    }
    policy = settings_from(told | {"turn_timeout": "2s", "retry_longest": "1m", "attempts": 9}).policy()
    plain = settings_from({}).policy()

    assert (1800.0, 9 * 86_400.0, 20 * 86_400.0, 10 * 86_400.0) == (
        policy.session_ttl_s,
        policy.retention_s,
        policy.forget_after_s,
        policy.forget_visitors_s,
    )
    assert (None, None) == (plain.retention_s, settings_from({"forget_visitors": None}).policy().forget_visitors_s)
    assert (7, 60.0) == (policy.channel_turns, policy.channel_within_s)
    assert (None, 0.0) == ((off := settings_from({"channel_rate": "off"}).policy()).channel_turns, off.channel_within_s)
    assert (7.0, 7.0, 10.0) == (policy.turn_s, policy.lease_s, plain.lease_s)
    assert (120.0, 14, 8) == (policy.pause_most_s, policy.max_begun, plain.max_begun)
    assert 8 == settings_from({"attempts": 3}).policy().max_begun


def test_keys_of_a_sealed_store_are_secrets_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest first; there may be none."""
    assert () == named_seal_keys()
    (tmp_path / "keys").write_text("x" * SHORTEST + "\n" + "y" * SHORTEST + "\n")
    monkeypatch.setenv("CHATKEEP_SEAL_KEYS_FILE", str(tmp_path / "keys"))

    assert ("x" * SHORTEST, "y" * SHORTEST) == named_seal_keys()
    assert [True, False, False] == [is_ring(["x" * long]) for long in (SHORTEST, SHORTEST - 1, 0)]
