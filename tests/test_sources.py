"""Where settings come from: variables, files that these name, and the settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatkeep.errors import Misconfigured
from chatkeep.settings import settings_from
from chatkeep.sources import environment_settings, store_url


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
