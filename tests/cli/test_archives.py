"""Exports: files that are whole or not there, and their owner's alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatkeep import UsageError
from chatkeep.cli.archives import whole_file

from ..support.program import chatkeep


def test_an_export_is_for_its_owner_alone(store: Path) -> None:
    """Also where somebody has put a link in its place."""
    made, victim = store.parent / "all.jsonl", store.parent / "victim"
    made.symlink_to(victim)
    victim.write_text("mine")
    code, _, said = chatkeep("export", "chat.db", "-o", "all.jsonl", "--replace", folder=store.parent)

    assert 0 == code, said
    assert ("mine", False, 0o600) == (victim.read_text(), made.is_symlink(), made.stat().st_mode & 0o777)


def test_an_export_to_where_no_file_can_be_is_refused_in_words(store: Path) -> None:
    """Of everything and of a person: a folder that is not there."""
    for which in ((), ("--owner", "ada")):
        code, out, said = chatkeep("export", "chat.db", *which, "-o", "gone/all.jsonl", folder=store.parent)

        assert (2, "") == (code, out)
        assert said.startswith("chatkeep: gone/all.jsonl cannot be made: No such file or directory")


def test_two_exports_to_one_file_are_each_whole_or_not_there(tmp_path: Path) -> None:
    """The last one that ends wins, if it may replace what is there; else it is refused, and leaves nothing."""
    made, late = tmp_path / "all.jsonl", contextlib.ExitStack()
    late.enter_context(whole_file(str(made), replace=False)).write(b"the first")
    with whole_file(str(made), replace=False) as second:
        second.write(b"the second")
    with pytest.raises(UsageError, match="was made by somebody else meanwhile"):
        late.close()
    kept = made.read_bytes()
    with whole_file(str(made), replace=True) as first:
        first.write(b"the first")
        with contextlib.suppress(KeyError), whole_file(str(made), replace=True) as second:
            second.write(b"half of the sec")
            raise KeyError

    assert (b"the second", b"the first", ["all.jsonl"]) == (kept, made.read_bytes(), os.listdir(tmp_path))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_an_export_that_is_ended_leaves_nothing(tmp_path: Path, name: str) -> None:
    """Also while it works in an event loop; the next one may have another name, as with a date in it."""
    script = (
        "import asyncio, signal, sys; from chatkeep.cli.archives import whole_file\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # (under nohup, which is heeded, it is ignored here too)
        "async def work(file):\n"
        "    file.write(b'half'); file.flush(); print('begun', flush=True); await asyncio.sleep(60)\n"
        "with whole_file(sys.argv[1], replace=False) as file:\n"
        "    asyncio.run(work(file))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "monday.jsonl")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "begun\n" == process.stdout.readline()
        there = len(os.listdir(tmp_path))
        process.send_signal(getattr(signal, name))
        ended = process.wait(60)

    assert (1, 128 + getattr(signal, name), []) == (there, ended, os.listdir(tmp_path))


def test_an_export_whose_end_of_the_terminal_is_ignored_goes_on(tmp_path: Path) -> None:
    """As under nohup, which a long one is begun with."""
    script = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from chatkeep.cli.archives import whole_file\n"
        "with whole_file(sys.argv[1], replace=False) as file:\n"
        "    os.kill(os.getpid(), signal.SIGHUP); file.write(b'whole')"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path / "monday.jsonl")], check=False)

    assert (0, ["monday.jsonl"]) == (ended.returncode, os.listdir(tmp_path))


def test_what_a_killed_export_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """But nothing that another process makes just now, and no file of another name."""
    script = (
        "import sys; from chatkeep.cli.archives import whole_file\n"
        "with whole_file(sys.argv[1], replace=False) as file:\n"
        "    file.write(b'half'); file.flush(); print('begun', flush=True); sys.stdin.read()"
    )
    made, others = tmp_path / "all.jsonl", tmp_path / "all.jsonl.bak.0a1b2c3d.part"
    others.write_bytes(b"somebody's")

    def begun() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(made)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        assert "begun\n" == process.stdout.readline()
        return process

    killed, working = begun(), begun()
    killed.kill()
    killed.communicate()
    with whole_file(str(made), replace=False) as file:
        file.write(b"whole")
        there = sorted(os.listdir(tmp_path))
    working.communicate("")

    assert 3 == len(there), there
    assert (b"whole", 2) == (made.read_bytes(), len(os.listdir(tmp_path)))
