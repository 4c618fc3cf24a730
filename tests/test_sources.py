"""Where settings come from: variables, files that these name, and the settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatkeep.errors import Misconfigured
from chatkeep.settings import Settings, settings_from
from chatkeep.sources import (
    GivenValue,
    environment_settings,
    file_settings,
    given,
    named_key,
    named_store,
    parsed,
    store_url,
    strangers,
    value_of,
)


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


def test_where_there_is_no_store_it_is_told_what_to_do(settings_file: Path) -> None:
    """The error names the three ways; the file is one of them."""
    with pytest.raises(Misconfigured, match="set CHATKEEP_STORE"):
        store_url()
    settings_file.write_text('store = "sqlite:///x.db"')

    assert "sqlite:///x.db" == store_url()


def test_environment_knows_only_what_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library takes no offence at variables of others; `serve` does."""
    monkeypatch.setenv("CHATKEEP_PROT", "1")

    assert ({}, []) == environment_settings({"port": int})
    assert "1s" == settings_from({}).poll


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        (" Yes ", bool, True),
        ("0", bool, False),
        (" 7 ", int, 7),
        ("7", int | None, 7),
        ("2.5", float, 2.5),
        ("a, b\nc,,", tuple[str, ...], ("a", "b", "c")),
        ("a", list[str], ["a"]),
        (" a,b ", str, " a,b "),
    ],
)
def test_a_variable_says_what_its_setting_can_be(text: str, kind: Any, value: Any) -> None:
    """Lists by commas or by lines; text as it is."""
    found = parsed(text, kind)

    assert (value, type(value)) == (found, type(found))


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        (bool, "maybe", "wide is true or false (or yes, no, on, off, 1, 0), not 'maybe' (CHATKEEP_WIDE)"),
        (int, "2.5", "wide is a whole number, not '2.5' (CHATKEEP_WIDE)"),
        (float, "wide", "wide is a number, not 'wide' (CHATKEEP_WIDE)"),
    ],
)
def test_a_variable_that_is_not_understood_is_named(
    kind: Any, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the others, which count."""
    monkeypatch.setenv("CHATKEEP_WIDE", text)
    monkeypatch.setenv("CHATKEEP_LONG", "3")

    assert ({"long": GivenValue(3, "CHATKEEP_LONG")}, [said]) == environment_settings({"wide": kind, "long": int})


def test_a_file_that_a_variable_names_wins_and_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said of it names the variable; one that is empty says nothing."""
    there, empty, other = tmp_path / "there", tmp_path / "empty", tmp_path / "other"
    there.write_text(" a\n")
    empty.write_text("\n")
    other.write_bytes(b"\xff")
    monkeypatch.setenv("CHATKEEP_STORE", "b")
    seen = []
    for path in (there, empty, other, tmp_path / "nothing"):
        monkeypatch.setenv("CHATKEEP_STORE_FILE", str(path))
        seen.append(environment_settings({"store": str}))

    said = "store is to be read from the file {}, which cannot be read: {} (CHATKEEP_STORE_FILE)"
    assert ({"store": GivenValue("a", "CHATKEEP_STORE_FILE")}, []) == seen[0]
    assert ({}, []) == seen[1]
    assert ({}, [said.format(other, "it is not UTF-8")]) == seen[2]
    assert ({}, [said.format(tmp_path / "nothing", "No such file or directory")]) == seen[3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a =", "are not TOML: "),
        (b'a = "\xff"', "are not TOML: it is not UTF-8. Nothing was opened."),
        (None, "cannot be read: No such file or directory. Nothing was opened."),
    ],
)
def test_a_settings_file_that_cannot_be_read_is_named(content: bytes | None, said: str, settings_file: Path) -> None:
    """With what is wrong with it; beside other faults without the end of a sentence."""
    settings_file.unlink() if content is None else settings_file.write_bytes(content)
    with pytest.raises(Misconfigured) as refused:
        file_settings()

    assert str(refused.value).startswith(f"The settings in {settings_file} ")
    assert said in str(refused.value)
    assert not given(Settings, {})[1][0].endswith("Nothing was opened.")
    assert [] == strangers(["poll"])


def test_a_setting_is_an_argument_a_variable_or_in_the_file(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flags have no variable; of other names nothing is taken."""
    settings_file.write_text("poll = '3s'\nstore = 'x'\n")
    monkeypatch.setenv("CHATKEEP_FLAGS", "a")
    monkeypatch.setenv("CHATKEEP_HISTORY", "7")
    found, faults = given(Settings, {"quick": "1s", "unknown": 1})

    assert ([], {"poll", "history", "quick"}) == (faults, found.keys())
    assert [(settings_file, "3s"), ("CHATKEEP_HISTORY", 7), ("", "1s")] == [
        (Path(source) if name == "poll" else source, value)
        for name, (value, source) in ((name, found[name]) for name in ("poll", "history", "quick"))
    ]
    assert ("3s", None) == (value_of(found, "poll"), value_of(found, "overlap"))


def test_a_store_is_text(settings_file: Path) -> None:
    """Of the file, which has other kinds."""
    settings_file.write_text("store = 7")
    with pytest.raises(Misconfigured, match=r"store is the text of a URL \(/.*\)\. Nothing was opened\."):
        named_store()
    settings_file.write_text("store = ''")
    assert None is named_store()


def test_a_key_is_named_by_a_variable_or_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a client; there need not be one."""
    assert None is named_key()
    monkeypatch.setenv("CHATKEEP_KEY", "ck_1")
    assert "ck_1" == named_key()
    monkeypatch.setenv("CHATKEEP_KEY_FILE", str(tmp_path / "nothing"))
    with pytest.raises(Misconfigured, match=r"CHATKEEP_KEY_FILE\)\. Nothing was asked\."):
        named_key()


def test_names_that_mean_nothing_are_told_with_what_was_perhaps_meant(
    settings_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of variables and of the file; those of a client, and of files with secrets, mean something."""
    settings_file.write_text("pool = '1s'\npoll = '1s'\n[flags]\na = 1\n")
    for name in ("KEY", "KEY_FILE", "POLL", "POLL_FILE", "PLOL", "FLAGS"):
        monkeypatch.setenv(f"CHATKEEP_{name}", "x")

    assert [
        "CHATKEEP_FLAGS is not a setting; there are: CHATKEEP_CONFIG, CHATKEEP_KEY, CHATKEEP_POLL",
        "CHATKEEP_PLOL is not a setting (did you mean CHATKEEP_POLL?)",
        f"pool is not a setting (did you mean poll?) ({settings_file})",
    ] == sorted(strangers(["poll", "flags"]))
