"""What a person at a terminal likes: columns that fit, colours, ages, times of this machine, completion by the shell."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatkeep import Chatkeep
from chatkeep.cli.printing import age, shortened, width
from chatkeep.model import Message, last_words

from ..support.fork_server import Program
from ..support.program import PATIENCE_S, chatkeep, plain_environment

WORDS = "Would a gel manicure on Saturday at three be possible, with the lady from the last time? "


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One conversation with a long last word; the bot is paused in it."""

    async def fill() -> None:
        async with Chatkeep(f"sqlite:///{tmp_path}/chat.db") as keep:
            await keep.pause()
            await keep.accept("ada", "x")
            await keep.accept("a-conversation-with-a-rather-long-name", WORDS + "\x1b[31m日本語")

    asyncio.run(fill())
    return tmp_path / "chat.db"


def in_terminal(store: Path, *arguments: str, columns: int, **variables: str) -> str:
    """What a command prints on a terminal so many columns wide."""
    leader, follower = pty.openpty()
    environment = plain_environment() | {"COLUMNS": str(columns), "TERM": "xterm"} | variables
    process = Program(*arguments, folder=store.parent, environment=environment, streams=[follower] * 3)
    os.close(follower)
    said = b""
    while True:
        try:
            read = os.read(leader, 65536)
        except OSError:  # Linux says so at the end of a terminal
            break
        if not read:
            break
        said += read
    os.close(leader)
    assert 0 == process.wait(PATIENCE_S), said
    return said.decode().replace("\r\n", "\n")


def test_a_list_fits_its_terminal_and_a_pipe_has_all(store: Path) -> None:
    """No line is longer than the terminal is wide; what is cut says so; in a pipe nothing is cut, and nothing steers a terminal."""
    narrow = in_terminal(store, "list", "chat.db", columns=80)
    wide = in_terminal(store, "list", "chat.db", columns=400)
    piped = chatkeep("list", "chat.db", folder=store.parent)[1]

    assert max(map(width, narrow.splitlines())) <= 80
    assert "…" in narrow
    assert "a-conversation-with-a-rather-long-name" in wide
    assert WORDS.strip() in piped
    assert "日本語" in piped
    for said in (narrow, wide, piped):
        assert "\x1b[31m" not in said
        assert "just now" in said
        assert "paused (tenant)" in said


def test_colours_are_for_terminals_and_for_who_wants_them(store: Path) -> None:
    """On a terminal; not with NO_COLOR, nor in a pipe."""
    coloured = in_terminal(store, "list", "chat.db", columns=200, NO_COLOR="")
    plain = in_terminal(store, "list", "chat.db", columns=200, NO_COLOR="1")
    piped = chatkeep("list", "chat.db", folder=store.parent, NO_COLOR="")[1]

    assert "\x1b[33mpaused" in coloured
    assert "\x1b[" not in plain
    assert "\x1b[" not in piped


def test_times_are_those_of_this_machine_or_utc(store: Path) -> None:
    """--utc has them with a Z; JSON always has them in UTC."""
    shown = {
        words: chatkeep(*words, folder=store.parent, TZ="Asia/Tokyo")[1]
        for words in (
            ("history", "chat.db", "ada"),
            ("history", "chat.db", "ada", "--utc"),
            ("show", "chat.db", "ada", "--json"),
        )
    }
    here, utc, as_json = shown.values()
    updated = json.loads(as_json)["updated"]

    assert (
        f"{updated[:10]} {(int(updated[11:13]) + 9) % 24:02}:" in here
        or f"{(int(updated[11:13]) + 9) % 24:02}:" in here
    )
    assert "Z" not in here.splitlines()[0]
    assert updated in utc


@pytest.mark.each
@pytest.mark.parametrize(
    ("passed", "said"),
    [(1, "just now"), (-30, "just now"), (61, "1 min ago"), (7300, "2 h ago"), (86_400 * 3.5, "3 d ago")],
)
def test_an_age_is_in_the_largest_unit_that_fits(passed: float, said: str) -> None:
    assert said == age(time.time() - passed)


def test_what_is_long_ago_or_to_come_is_told_as_a_time() -> None:
    for passed in (86_400 * 40, -3600):
        assert age(time.time() - passed)[:2] == "20"


def test_wide_characters_take_two_places() -> None:
    """And combining ones none; what is cut is never wider than it may be."""
    assert 6 == width("日本語")
    assert 1 == width("e\u0301")
    for text in ("日本語日本語", "abcdefgh", "e\u0301" * 9):
        for most in range(1, 9):
            assert width(shortened(text, most)) <= most


def test_last_words_are_those_of_people_and_bots() -> None:
    """Not notes, not events; a part without text is named; a redacted one says so."""
    told = {"id": "x", "created_at": 1.0}
    user = Message(number=1, role="user", content="hello", **told)
    note = Message(number=2, role="system", content="", **told)
    event = Message(number=3, role="event", content="due", **told)
    image = Message(number=4, role="user", content=[{"type": "image"}], **told)
    gone = Message(number=5, role="user", content="", redacted=True, **told)

    assert None is last_words([note, event])
    assert "hello" == last_words([user, note, event]).text  # type: ignore[union-attr]
    assert "(image)" == last_words([user, image]).text  # type: ignore[union-attr]
    assert "(redacted)" == last_words([user, gone]).text  # type: ignore[union-attr]


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
