"""Settings of the server, and of the library beside them: all mistakes at once, each setting in the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

import chatkeep.server
from chatkeep.errors import Misconfigured
from chatkeep.server.settings import KNOWN, ServerSettings, server_settings_from
from chatkeep.settings import Settings, settings_from

DOCS = Path(chatkeep.server.__file__).parents[3] / "docs" / "reference" / "settings.md"


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
def test_what_is_wrong_is_told_with_where_it_came_from(
    case: str, settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of mistake, alone."""
    given, said = WRONG[case]
    for name, value in given.items():
        if name == "file":
            settings_file.write_text(value)
        elif name.isupper():
            monkeypatch.setenv(name, value)
    arguments = {name: value for name, value in given.items() if name.islower() and name != "file"}
    with pytest.raises(Misconfigured) as refused:
        settings_from(arguments) if arguments else server_settings_from({})

    assert said in str(refused.value), refused.value
    assert str(refused.value).count("Nothing was") <= 1, refused.value
    assert ("file" not in given) or str(settings_file) in str(refused.value), refused.value


def test_all_mistakes_come_in_one_message(settings_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the library and of the server, from variables and from the file."""
    settings_file.write_text("workers = 0\nattempts = 0\n")
    monkeypatch.setenv("CHATKEEP_OVERLAP", "never")
    monkeypatch.setenv("CHATKEEP_RATE_PEER", "x")
    with pytest.raises(Misconfigured) as refused:
        server_settings_from({})

    assert [] == [name for name in ("workers", "attempts", "overlap", "rate_peer") if name not in str(refused.value)]


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
