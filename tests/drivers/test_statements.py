"""The SQL files of the drivers: their steps, and the statements by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chatkeep.drivers import shipped
from chatkeep.drivers.shipped import list_files, read_file
from chatkeep.drivers.statements import named, newest, numbered


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The SQL files of an engine of its own."""
    monkeypatch.setattr(shipped, "HOME", str(tmp_path))
    made = tmp_path / tmp_path.name / "sql"  # a name of its own for each test: what was read is kept
    made.mkdir(parents=True)
    return made


def test_the_steps_are_those_with_numbers_in_their_order(folder: Path) -> None:
    engine = folder.parent.name
    for name in ("010_ten.sql", "002_two.sql", "001_one.sql", "queries.sql"):
        (folder / name).write_text(name)

    assert ["001_one.sql", "002_two.sql", "010_ten.sql"] == numbered(engine)
    assert 3 == newest(engine)


def test_a_statement_is_found_by_its_name_without_what_people_read(folder: Path) -> None:
    """No comment, no semicolon and no empty lines around it; what stands above the first one is nobody's."""
    (folder / "queries.sql").write_text(
        "-- Of all: this.\n\n-- name: one\n-- What it is for.\nselect 1;\n\n-- name: two\nselect 2\n-- and\nfrom t;\n"
    )

    assert {"one": "select 1", "two": "select 2\nfrom t"} == named(folder.parent.name)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_no_statement_of_a_driver_is_empty(engine: str) -> None:
    statements = named(engine)

    assert [] == [name for name, text in statements.items() if not text or "-- name:" in text]
    assert newest(engine) == len(numbered(engine)) > 0


def test_files_beside_the_code_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = list_files("sqlite", "sql")

    assert sorted(names) == names
    assert b"-- name: " in read_file("sqlite", "sql", "queries.sql")
    assert os.path.isabs(shipped.HOME)
