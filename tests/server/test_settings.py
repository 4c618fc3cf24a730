"""Settings: by argument, environment and file, in this order; all mistakes at once; no secret shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

import chatkeep.server
from chatkeep.errors import Misconfigured
from chatkeep.secrecy import shown as setting_shown
from chatkeep.server.settings import KNOWN, ServerSettings, server_settings_from
from chatkeep.settings import Flags, Settings, settings_from
from chatkeep.sources import environment_settings, store_url

DOCS = Path(chatkeep.server.__file__).parents[3] / "docs" / "reference" / "settings.md"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file that CHATKEEP_CONFIG names; empty at first."""
    path = tmp_path / "chatkeep.toml"
    path.write_text("")
    monkeypatch.setenv("CHATKEEP_CONFIG", str(path))
    return path


def test_an_argument_wins_over_the_environment_that_over_the_file_and_that_over_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One setting given in more and more places."""
    seen: list[object] = [settings_from({}).poll]
    file.write_text('poll = "3s"')
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


def test_server_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists by commas, booleans as true or 1."""
    for name, text in {
        "HOSTS": "a.example, b.example",
        "ANONYMOUS": "1",
        "RATE_TOKEN": "",
        "PROXIES": "10.0.0.0/8",
    }.items():
        monkeypatch.setenv(f"CHATKEEP_{name}", text)
    found = server_settings_from({"port": 1})

    assert (("a.example", "b.example"), True, ("10.0.0.0/8",), 1) == (
        found.hosts,
        found.anonymous,
        found.proxies,
        found.port,
    )
    assert ServerSettings().rate_token == found.rate_token


def test_a_secret_may_come_from_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers and systemd hand secrets out."""
    secret = tmp_path / "store"
    secret.write_text("postgresql://bot:hunter2@db/app\n")
    monkeypatch.setenv("CHATKEEP_STORE_FILE", str(secret))
    found = store_url()
    monkeypatch.setenv("CHATKEEP_STORE_FILE", str(tmp_path / "nothing"))
    with pytest.raises(Misconfigured) as refused:
        store_url()

    assert "postgresql://bot:hunter2@db/app" == found
    assert "CHATKEEP_STORE_FILE" in str(refused.value)


def test_where_there_is_no_store_it_is_told_what_to_do(file: Path) -> None:
    """The error names the three ways; the file is one of them."""
    with pytest.raises(Misconfigured, match="set CHATKEEP_STORE"):
        store_url()
    file.write_text('store = "sqlite:///x.db"')

    assert "sqlite:///x.db" == store_url()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown argument": ({"pol": "1s"}, "pol is not a setting (did you mean poll?)"),
    "unknown variable": ({"CHATKEEP_HOST_": "x"}, "CHATKEEP_HOST_ is not a setting (did you mean CHATKEEP_HOST"),
    "unknown in the file": ({"file": "hots = ['x']"}, "hots is not a setting (did you mean host"),
    "not a number": ({"CHATKEEP_WORKERS": "many"}, "workers is a whole number, not 'many' (CHATKEEP_WORKERS)"),
    "not a boolean": (
        {"CHATKEEP_ANONYMOUS": "maybe"},
        "anonymous is true or false (or yes, no, on, off, 1, 0), not 'maybe'",
    ),
    "a host that is an address": (
        {"CHATKEEP_HOSTS": "https://a.example,b.example"},
        "hosts has https://a.example; a host is",
    ),
    "a strange wildcard": ({"CHATKEEP_HOSTS": "*a.example"}, "hosts has *a.example; a host is"),
    "out of range": ({"CHATKEEP_PORT": "99999"}, "port is from 0 to 65535, not 99999 (CHATKEEP_PORT)"),
    "no place": (
        {"CHATKEEP_ADMIN_BIND": "9000"},
        "admin_bind is a host and a port like \"127.0.0.1:9000\", not '9000'",
    ),
    "no port": ({"CHATKEEP_ADMIN_BIND": "::1:99999"}, "admin_bind is a host and a port"),
    "one port for two": (
        {"CHATKEEP_ADMIN_BIND": "[::1]:8763", "CHATKEEP_WORKERS": "3"},
        "admin_bind takes port 8765, which is that of the API",
    ),
    "no rate": ({"CHATKEEP_RATE_PEER": "often"}, 'rate_peer is like "60/minute", or "off", not \'often\''),
    "a rate of nothing": ({"CHATKEEP_RATE_PEER": "0/minute"}, "rate_peer"),
    "no scope": ({"CHATKEEP_VISITOR_SCOPES": "read,fly"}, "visitor_scopes has no fly"),
    "any origin": ({"CHATKEEP_ORIGINS": "*"}, "origins has *"),
    "no network": ({"CHATKEEP_PROXIES": "10.0.0.0/99"}, "proxies has no address"),
    "no choice": ({"CHATKEEP_LOG_FORMAT": "xml"}, "log_format is one of text, json, not 'xml'"),
    "no duration": ({"CHATKEEP_DRAIN": "soon"}, "drain is no duration: 'soon' is not a duration"),
    "no unit in a variable": ({"CHATKEEP_TURN_TIMEOUT": "30000"}, "turn_timeout: '30000' has no unit; write \"30s\""),
    "no unit, with a point": ({"CHATKEEP_SESSION_TTL": "2.5"}, "session_ttl: '2.5' has no unit"),
    "a zero without a unit": ({"CHATKEEP_SESSION_TTL": "0"}, "session_ttl: '0' has no unit"),
    "no unit in a variable of the server": ({"CHATKEEP_DRAIN": "5"}, "drain is no duration: '5' has no unit"),
    "no unit in the file": ({"file": "poll = 5"}, "poll: '5' has no unit"),
    "no unit in the text of an argument": ({"poll": "5"}, "poll: '5' has no unit"),
    "no unit in the file for the server": ({"file": "drain = 5"}, "drain is no duration: '5' has no unit"),
    "no table": ({"file": "flags = 1"}, "flags is a table"),
    "a strange flag": ({"file": "[flags.salon]\nmenu = [1]"}, "flags.salon: menu must be true, false"),
    "text for a number": ({"file": "port = '1'"}, "port is a whole number, not '1'"),
    "no TOML": ({"file": "a ="}, "are not TOML"),
    "a journal that nothing is written to": (
        {"journal": "journal.db"},
        'journal names a file that is used with on_outage="journal" alone',
    ),
    "a journal whose messages would stay in it": (
        {"journal": "journal.db", "on_outage": "read"},
        "leave journal out when nothing waits in it",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_where_it_came_from(case: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of mistake, alone."""
    given, said = WRONG[case]
    for name, value in given.items():
        if name == "file":
            file.write_text(value)
        elif name.isupper():
            monkeypatch.setenv(name, value)
    arguments = {name: value for name, value in given.items() if name.islower() and name != "file"}
    with pytest.raises(Misconfigured) as refused:
        settings_from(arguments) if arguments else server_settings_from({})

    assert said in str(refused.value), refused.value
    assert str(refused.value).count("Nothing was") <= 1, refused.value
    assert ("file" not in given) or str(file) in str(refused.value), refused.value


def test_all_mistakes_come_in_one_message(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the library and of the server, from variables and from the file."""
    file.write_text("workers = 0\nattempts = 0\n")
    monkeypatch.setenv("CHATKEEP_OVERLAP", "never")
    monkeypatch.setenv("CHATKEEP_RATE_PEER", "x")
    with pytest.raises(Misconfigured) as refused:
        server_settings_from({})

    assert [] == [name for name in ("workers", "attempts", "overlap", "rate_peer") if name not in str(refused.value)]


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


def test_flags_are_reloaded_whole_or_not_at_all(file: Path) -> None:
    """A broken file leaves what there was."""
    flags = Flags({"a": 1})
    file.write_text("[flags]\na = 2\n[flags.x]\na = 3\n")
    flags.reload()
    file.write_text("[flags]\na = 4\n[flags.x]\na = []\n")
    with pytest.raises(Misconfigured):
        flags.reload()

    assert ({"a": 2}, {"a": 3}) == (dict(flags.of("")), dict(flags.of("x")))


def test_every_setting_is_in_the_docs_with_its_default() -> None:
    """docs/reference/settings.md has one row for each, and none that does not exist."""
    kinds: tuple[type[Struct], ...] = (Settings, ServerSettings)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", DOCS.read_text(), re.MULTILINE))
    wanted = {name: getattr(kind(), name) for kind in kinds for name in kind.__struct_fields__ if name != "flags"}

    assert set(KNOWN) - {"flags"} == set(rows)
    assert {} == {name: rows[name] for name, value in wanted.items() if told(value) != rows[name].strip("`")}


def told(value: object) -> str:
    """A default as the docs write it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_environment_knows_only_what_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library takes no offence at variables of others; `serve` does."""
    monkeypatch.setenv("CHATKEEP_PROT", "1")

    assert ({}, []) == environment_settings({"port": int})
    assert "1s" == settings_from({}).poll


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
