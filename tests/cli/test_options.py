"""Completion by the shell: commands, options and stores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.program import chatkeep, plain_environment

SHELLS = {
    "bash": 'eval "$(_CHATKEEP_COMPLETE=bash_source chatkeep)"; '
    "complete -p chatkeep >&2; COMP_WORDS=(chatkeep {words}); COMP_CWORD={count}; "
    '_chatkeep_completion chatkeep; printf "%s\\n" "${{COMPREPLY[@]}}"',
    "zsh": "autoload -U compinit; compinit -u -D; "
    'eval "$(_CHATKEEP_COMPLETE=zsh_source chatkeep)"; whence -w _chatkeep_completion >&2; '
    'COMP_WORDS="chatkeep {words}" COMP_CWORD={count} _CHATKEEP_COMPLETE=zsh_complete chatkeep',
    "fish": "_CHATKEEP_COMPLETE=fish_source chatkeep | source; complete -C 'chatkeep {words}'",
}
"""What a shell is told: the lines of the documentation, and then as if TAB was typed."""


@pytest.mark.long
@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_and_options(shell: str, tmp_path: Path) -> None:
    """As documented, in the real shell; a file is completed by the shell itself."""
    program = os.environ.get(f"CHATKEEP_{shell.upper()}") or shutil.which(shell)
    if program is None:
        pytest.skip(f"There is no {shell}: apt-get install {shell}, or CHATKEEP_{shell.upper()}=/path/to/it")
    places = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = plain_environment() | {"PATH": places, "HOME": str(tmp_path)}

    def completed(words: str) -> str:
        script = SHELLS[shell].format(words=words, count=len(words.split()))
        ended = subprocess.run(
            [program, "-c", script],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert 0 == ended.returncode, ended.stderr
        return ended.stdout

    assert {"history", "hold", "holds"} <= set(completed("h").replace("\t", " ").split())
    assert "--as-of" in completed("show --as")
    assert "waiting" in completed("list --show w")


def test_what_is_missing_is_told_and_nothing_beside_it(tmp_path: Path) -> None:
    """That STORE may be left out is said where it is STORE that is missing; with a named store, an option is told as what it is."""
    unnamed = chatkeep("hold", "chat.db", "ada", folder=tmp_path)
    named = chatkeep("hold", "chat.db", "ada", folder=tmp_path, CHATKEEP_STORE="chat.db")
    left_out = chatkeep("hold", "ada", folder=tmp_path, CHATKEEP_STORE="chat.db")
    nothing = chatkeep("show", folder=tmp_path)

    assert ["Error: Missing option '--reason'."] * 3 == [
        said.splitlines()[-1] for _, _, said in (unnamed, named, left_out)
    ]
    assert "Missing argument '[STORE]'. STORE may be left out where CHATKEEP_STORE" in nothing[2]


@pytest.mark.parametrize("command", ["", "key", "accounts"])
def test_a_command_that_needs_another_word_shows_its_help(command: str, tmp_path: Path) -> None:
    """As it is with --help, with all commands that there are, and not as an error."""
    asked = [command] if command else []

    assert (2, "", chatkeep(*asked, "--help", folder=tmp_path)[1]) == chatkeep(*asked, folder=tmp_path)
