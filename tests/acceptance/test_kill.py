"""kill -9, for real, on every engine: of instances at random and at every named point, and of the database server. What the
clients were told is the judge (I1 to I6)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.killing import ENGINES, PLANTS, points_of
from ..support.soaking import KILLS, few_or_many

FEW = 10


def killing(folder: Path, *options: str, kills: int = 12) -> subprocess.CompletedProcess[str]:
    """Runs the supervisor in a process of its own."""
    command = [sys.executable, "-m", "tests.support.killing", str(folder), *options, "--kills", str(kills)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=120 + 2 * kills, cwd=root, check=False)


@pytest.mark.slow
@pytest.mark.each
@few_or_many("kills", FEW, KILLS)
@pytest.mark.parametrize("engine", ENGINES)
def test_I1_to_I5_nothing_is_lost_doubled_or_reordered_under_kill_9(tmp_path: Path, engine: str, kills: int) -> None:
    """Two instances, and the server a fifth as often: all that was acked is there once, in order, with its reply."""
    if engine == "durable-object":  # (tests/faults/test_durable_object.py has more of its own)
        kills = max(kills // 4, FEW)
    ended = killing(tmp_path, engine, "--server-kills", str(kills // 5), kills=kills)
    print(engine, ended.stdout)

    assert 0 == ended.returncode, ended.stdout + ended.stderr[-5000:]
    acked, unacked = map(int, re.findall(r"(\d+) acked, (\d+) unacked", ended.stdout)[0])
    assert acked > kills
    assert "rolled back" not in ended.stderr
    # None at all among many would mean that no kill has hit the moment between a commit and its answer.
    assert unacked > 0 or kills <= 15


@pytest.mark.parametrize("engine", ENGINES)
def test_death_at_a_named_point_breaks_nothing(tmp_path: Path, engine: str) -> None:
    """Each point is reached (or the test fails), the instance dies there, and the next one puts everything right."""
    ended = killing(tmp_path, engine, "--points", *(("--nth", "2") if engine == "durable-object" else ()))

    assert 0 == ended.returncode, ended.stdout + ended.stderr[-5000:]
    assert [*points_of(engine)] == re.findall(r"^(\S+): \d+ acked", ended.stdout, re.M)


@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bug", PLANTS)
def test_the_checker_finds_a_planted_bug(tmp_path: Path, engine: str, bug: str) -> None:
    """A kill test that has never failed is a decoration."""
    named = {"early": "'LOST': ", "forgetful": "'DOUBLED': "}[bug]
    for go in range(3):  # on a machine that is busy a dozen kills may all miss the moment
        folder = tmp_path / f"{go}"
        folder.mkdir()
        ended = killing(folder, engine, "--plant", bug)
        if named in ended.stdout:
            break

    assert 1 == ended.returncode, ended.stdout + ended.stderr[-5000:]
    assert named in ended.stdout
