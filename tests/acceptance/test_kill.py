"""kill -9, for real: at random instants under load, and at every named point. The journal of the clients is the judge (I1 to I6)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .killing import ALL_POINTS, PLANTS

KILLS = int(os.environ.get("CHATKEEP_KILLS", "120"))


def killing(folder: Path, kills: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the supervisor in a process of its own."""
    command = [sys.executable, "-m", "tests.acceptance.killing", str(folder), str(kills), *options]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 + 3 * kills, cwd=root, check=False)


@pytest.mark.slow
def test_I1_to_I5_nothing_is_lost_doubled_or_reordered_under_kill_9(tmp_path: Path) -> None:
    """Two processes on one file, killed over a hundred times: every message acked is there once, in order, with its reply."""
    ended = killing(tmp_path, KILLS)
    print(ended.stdout)
    acked, unacked = map(int, re.findall(r"(\d+) acked, (\d+) unacked", ended.stdout)[0])

    assert 0 == ended.returncode, ended.stdout + ended.stderr
    assert acked > 20 * KILLS
    # None at all would mean that no kill has hit the moment between a commit and its answer.
    assert unacked > 0


@pytest.mark.parametrize("point", ALL_POINTS)
def test_death_at_a_named_point_breaks_nothing(tmp_path: Path, point: str) -> None:
    """The point is reached (or the test fails), the process dies there, and the next one puts everything right."""
    ended = killing(tmp_path, 1, "--at", point)

    assert 0 == ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("bug", PLANTS)
def test_the_checker_finds_a_planted_bug(tmp_path: Path, bug: str) -> None:
    """A kill test that has never failed is a decoration."""
    ended = killing(tmp_path, 20, "--plant", bug)
    named = {"early": "LOST", "forgetful": "DOUBLED"}[bug]

    assert 1 == ended.returncode, ended.stdout + ended.stderr
    assert named in ended.stdout
