"""Files that stand under their own name only when they are complete, and what a process that was killed has left of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from chatkeep.drivers.whole_files import COPIED, lock_alone, make_part, put

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="There are no such locks")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the file is to stand."""
    return str(tmp_path / "chat.db")


def test_a_part_stands_beside_the_file_and_is_its_makers_alone(path: str, tmp_path: Path) -> None:
    made, file = make_part(path, 0o600)
    again = os.open(made, os.O_RDWR)
    try:
        assert (str(tmp_path), True) == (os.path.dirname(made), os.path.basename(made).startswith("chat.db."))
        assert 0o600 == os.stat(made).st_mode & 0o777
        assert lock_alone(again) is False
    finally:
        os.close(file)

    assert lock_alone(again)
    os.close(again)


def test_what_nobody_makes_any_more_goes_with_what_sqlite_left_of_it(path: str, tmp_path: Path) -> None:
    """What is being made stays, and so does what has another name."""
    left, file = make_part(path, 0o600)
    os.close(file)  # as when its process is killed
    held, kept = make_part(str(tmp_path / "other.db"), 0o600)
    for end in COPIED:
        Path(left + end).touch()
    others = ["chat.db", "chat.db.part", "chat.db.12345.part", "chat.db.1234567g.part", "chatxdb.12345678.part"]
    for name in others:
        (tmp_path / name).touch()
    busy, working = make_part(path, 0o600)
    last, done = make_part(path, 0o600)

    assert sorted([*others, *map(os.path.basename, (held, busy, last))]) == sorted(os.listdir(tmp_path))
    for one in (kept, working, done):
        os.close(one)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_takes_no_other_ones_place_unless_it_is_told_to(
    path: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file system knows no hard links."""
    made, file = make_part(path, 0o600)
    os.write(file, b"new")
    os.close(file)
    if not links:
        monkeypatch.setattr(os, "link", lambda one, other: (_ for _ in ()).throw(PermissionError(1, "no links")))
    Path(path).write_bytes(b"old")
    with pytest.raises(FileExistsError):
        put(made, path, replace=False)
    assert (b"old", b"new") == (Path(path).read_bytes(), Path(made).read_bytes())

    put(made, path, replace=True)

    assert (b"new", False) == (Path(path).read_bytes(), os.path.exists(made))


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_gets_its_name_where_nobody_has_it(path: str, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made, file = make_part(path, 0o600)
    os.write(file, b"new")
    os.close(file)
    if not links:
        monkeypatch.setattr(os, "link", lambda one, other: (_ for _ in ()).throw(PermissionError(1, "no links")))
    put(made, path, replace=False)

    assert (b"new", ["chat.db"]) == (Path(path).read_bytes(), os.listdir(os.path.dirname(path)))


def test_a_dangling_link_has_the_name_too(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, file = make_part(path, 0o600)
    os.close(file)
    os.symlink("nowhere", path)
    monkeypatch.setattr(os, "link", lambda one, other: (_ for _ in ()).throw(PermissionError(1, "no links")))

    with pytest.raises(FileExistsError):
        put(made, path, replace=False)
