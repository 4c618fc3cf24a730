"""How commands end: what they say of an error, and with which exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from chatkeep.auth.format import make_credential

from ..support.program import PATIENCE_S, PROGRAM, chatkeep, killed_when_late, plain_environment


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NOT RUN: this system has no disk that is always full")
@pytest.mark.parametrize("command", ["list", "export", "--help", "--version", "list --help", "completion"])
@pytest.mark.each
def test_output_that_has_no_room_is_told_in_one_line(store: Path, command: str) -> None:
    """And the next one may say so too: "try again". Also what asks no store: the help, and what shells complete."""
    shell = {"_CHATKEEP_COMPLETE": "zsh_source"} if command == "completion" else {}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*PROGRAM, *command.split(), *[store.name] * (command in ("list", "export"))],
            cwd=store.parent,
            env=plain_environment() | shell,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
        )

    assert 3 == ended.returncode
    assert "is not complete: No space left on device" in ended.stderr
    assert 1 == len(ended.stderr.splitlines()), ended.stderr


def test_errors_say_what_to_do_and_how_the_program_ends(tmp_path: Path) -> None:
    """One line, no traceback, no file made, and the exit code of its kind."""
    (tmp_path / "junk.db").write_bytes(b"this is not a database, it is a text" * 100)
    (tmp_path / "folder.db").mkdir()
    table: dict[tuple[str, ...], tuple[int, str]] = {
        ("list", "missing.db"): (2, "nothing was created"),
        ("show", "sqlite:///missing.db", "ada"): (2, "nothing was created"),
        ("history", "missing.db", "ada"): (2, "nothing was created"),
        ("erase", "missing.db", "ada", "--yes"): (2, "nothing was created"),
        ("list", "folder.db"): (2, "There is no file"),
        ("list", ":hunter2@here:6379/0"): (2, "There is no file …@here:6379/0;"),
        ("move", "bot:hunter2@here/0", "new.db"): (2, "There is no file …@here/0;"),
        ("move", "junk.db", "bot:hunter2@here/0"): (2, "There is no file …@here/0;"),
        ("check", "bot:hunter2@here/0"): (2, "There is no file …@here/0;"),
        ("import", "bot:hun@hunter2@here/0", "junk.db"): (2, "There is no file …@here/0;"),
        ("list", "chat.db?password=hunter2"): (2, "There is no file chat.db?…;"),
        ("check", "sqlite:///chat.db?password=hunter2"): (2, "has an option"),
        ("check", "sqlite://bot:hunter2@here/0"): (2, "names no file"),
        ("list", "mongodb://here"): (2, "no driver"),
        ("list", "junk.db"): (2, "not a database"),
        ("demo", "--store", "junk.db"): (2, "not a database"),
        ("chat", "restaurant", "--store", "junk.db"): (2, "not a database"),
        ("chat", "waiter"): (2, "restaurant"),
        ("chat", "restaurant", "--conversation", ""): (2, "empty"),
        ("demo", "waiter"): (2, "restaurant"),
        ("nonsense",): (2, "No such command"),
    }
    before = sorted(tmp_path.iterdir())
    found = {arguments: chatkeep(*arguments, typed="x\n", folder=tmp_path) for arguments in table}

    for arguments, (code, words) in table.items():
        assert (code, True) == (found[arguments][0], words in found[arguments][2]), (arguments, found[arguments])
        assert "Traceback" not in found[arguments][2]
        assert "hunter2" not in found[arguments][2]
    assert before == [path for path in sorted(tmp_path.iterdir()) if not path.name.startswith("chatkeep-demo")]


@pytest.mark.parametrize(
    "command", [["list"], ["export"], ["history", "chat.db", "nobody"], ["--help"], ["list", "--help"]], ids=" ".join
)
def test_who_reads_the_output_may_go(store: Path, command: list[str]) -> None:
    """`chatkeep list | head` ends as other tools do, by the code of SIGPIPE, and says nothing; so does what is told of an error."""
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "wb") as nobody:
        ended = subprocess.run(
            [*PROGRAM, *command, *([store.name] if len(command) == 1 and command[0] != "--help" else [])],
            cwd=store.parent,
            env=plain_environment(),
            stdout=nobody,
            stderr=nobody if "nobody" in command else subprocess.PIPE,
            timeout=PATIENCE_S,
        )

    assert 141 == ended.returncode
    assert not ended.stderr


@pytest.mark.parametrize("command", [["list"], ["export"], ["serve", "--help"]], ids=" ".join)
@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_without_a_stream_does_its_work(store: Path, command: list[str], closed: str) -> None:
    """A supervisor may start programs with closed streams: what they print goes nowhere, and they end as otherwise."""
    words = [*command, store.name] if len(command) == 1 else command
    ended = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *PROGRAM, *words],
        cwd=store.parent,
        env=plain_environment(),
        capture_output=True,
        timeout=PATIENCE_S,
    )

    assert (0, b"") == (ended.returncode, ended.stdout if ">" in closed else b"")
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [["list"], ["export", "-o", "made.jsonl"]], ids=" ".join)
def test_a_command_that_is_interrupted_says_how_it_stands(tmp_path: Path, command: list[str]) -> None:
    """Ctrl-C ends it with the code that shells know and in words, without a traceback, while it waits for a server."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_S)
        running = subprocess.Popen(
            [*PROGRAM, command[0], f"http://127.0.0.1:{silent.getsockname()[1]}", *command[1:]],
            cwd=tmp_path,
            env=plain_environment() | {"CHATKEEP_KEY": make_credential("service")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with killed_when_late(running):
            asked, _ = silent.accept()
            with asked:
                running.send_signal(signal.SIGINT)
                said, errors = running.communicate()

    assert (130, b"") == (running.returncode, said)
    assert errors.strip().startswith(b"Interrupted. What was done by now stays done")
    assert 1 == len(errors.strip().splitlines()), errors
    assert [] == list(tmp_path.iterdir())
