"""The command line, as a process of its own: bots in the terminal, and looking into a store while others use it."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
