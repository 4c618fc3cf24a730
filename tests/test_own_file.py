"""A file that one process has at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chatkeep.errors import Misconfigured
from chatkeep.own_file import OwnFile

TAKE = "import sys; from chatkeep.own_file import OwnFile; OwnFile('journal', sys.argv[1]).take()"


def taken_elsewhere(path: Path) -> str:
    """What another process is told that takes it; "" if it has it."""
    run = subprocess.run([sys.executable, "-c", TAKE, str(path)], capture_output=True, text=True, check=False)
    return run.stderr


def test_one_process_has_the_file_until_it_leaves_it(tmp_path: Path) -> None:
    """The other one is told whose setting to change; a process that ends leaves it."""
    path = tmp_path / "journal.db"
    ours = OwnFile("journal", str(path))
    ours.take()
    refused = taken_elsewhere(path)
    ours.leave()
    ours.leave()

    assert (
        f"journal={path} is in use by another process; nothing was opened. Give each process a journal of its own."
        in refused
    )
    assert "" == taken_elsewhere(path)
    ours.take()
    ours.leave()


def test_the_lock_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """It lies beside the file."""
    ours = OwnFile("journal", str(tmp_path / "journal.db"))
    ours.take()
    ours.leave()

    assert [0o600] == [lock.stat().st_mode & 0o777 for lock in tmp_path.glob("*.lock")]


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Such as one in a folder that is none."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        Misconfigured, match=r"^journal=.*/file/journal\.db cannot be used \(.*\); nothing was opened\.$"
    ):
        OwnFile("journal", str(tmp_path / "file" / "journal.db")).take()
