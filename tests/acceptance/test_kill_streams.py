"""kill -9 while replies are streamed: what anybody was shown is the beginning of what is recorded (I2, I6)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.stores import store_url

KILLS = int(os.environ.get("CHATKEEP_STREAM_KILLS", "6"))
PATIENCE_S = 120 + 3 * KILLS


def killing(folder: Path, url: str, *options: str, kills: int) -> subprocess.CompletedProcess[str]:
    """Runs the supervisor in a process of its own."""
    command = [sys.executable, "-m", "tests.support.streaming", str(folder), url, "--kills", str(kills), *options]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=root, check=False)


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_S + 60)
@pytest.mark.parametrize("engine", ["sqlite", "redis", "postgresql", "upstash", "durable-object"])
def test_what_was_shown_is_the_beginning_of_what_is_recorded(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    """Two instances, killed at random instants; watchers on both and on a third one."""
    ended = killing(tmp_path, store_url(engine, request, tmp_path), kills=KILLS)
    print(engine, ended.stdout)

    assert 0 == ended.returncode, ended.stdout + ended.stderr[-5000:]


@pytest.mark.slow
def test_a_run_that_is_not_told_of_the_one_before_is_found(tmp_path: Path) -> None:
    """A check that has never failed is a decoration."""
    ended = killing(tmp_path, f"sqlite:///{tmp_path}/chat.db", "--plant", kills=6)

    assert 1 == ended.returncode, ended.stdout + ended.stderr[-5000:]
    assert "FAULT" in ended.stdout
