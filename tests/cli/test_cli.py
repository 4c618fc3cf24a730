"""The command line, as a process of its own: bots in the terminal, and looking into a store while others use it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from chatkeep.cli import main

from ..support.program import PATIENCE_S, PROGRAM, chatkeep


def test_the_help_teaches(tmp_path: Path) -> None:
    """Each command says what it does, and the first page has examples and exit codes."""
    code, said, _ = chatkeep("--help", folder=tmp_path)
    commands = ["demo", "chat", "list", "show", "history", "erase", "clear", "pause", "resume", "dead", "replay"]

    assert 0 == code
    assert all(f"\n  {name} " in said for name in commands)
    assert "Exit codes" in said
    assert "chatkeep demo " in said
    for name in commands:
        code, said, _ = chatkeep(name, "--help", folder=tmp_path)
        assert (0, True) == (code, "Usage: chatkeep " + name in said)
    assert chatkeep("--version", folder=tmp_path)[1].startswith("chatkeep, version ")


def test_looking_needs_no_server_libraries(tmp_path: Path) -> None:
    """Only the demo imports them, and says what to install when they are missing."""
    code = (
        "import sys; sys.modules['uvicorn'] = None; from chatkeep.cli import main; print('starlette' in sys.modules);"
        "main(['demo'], prog_name='chatkeep')"
    )
    done = subprocess.run([PROGRAM[0], "-c", code], capture_output=True, cwd=tmp_path, timeout=PATIENCE_S, text=True)

    assert 2 == done.returncode
    assert "False" == done.stdout.strip()
    assert "chatkeep[server]" in done.stderr
    assert [] == list(tmp_path.iterdir())


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands(main))


def typed_in(line: str) -> list[str]:
    """What *line* has behind "chatkeep", up to a pipe or a file that it writes to."""
    words = shlex.split(line)
    words = words[words.index("chatkeep") + 1 :]
    ends = [place for place, word in enumerate(words) if word in ("|", ">")]
    return words[: min(ends)] if ends else words


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_how_it_is_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In lines that name it, or what is done beside it, and that its own parser takes: no option has another name by now."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATKEEP_KEY", "ck_k_x")
    Path("monday.jsonl").touch()
    _, _, shown = (COMMANDS[name].help or "").partition("Example")
    typed: list[str] = []
    for words in [typed_in(line) for line in shown.splitlines() if "chatkeep " in line]:
        size = 2 if " ".join(words[:2]) in COMMANDS else 1
        typed.append(" ".join(words[:size]))
        above = click.Context(main, **main.context_settings)  # (a command remembers the names that its help had first)
        with COMMANDS[typed[-1]].make_context(typed[-1], words[size:], parent=above) as context:
            assert context.params

    assert name in typed
