"""What is printed, and what a terminal makes of it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import time
from pathlib import Path

import pytest

from chatkeep import Chatkeep
from chatkeep.cli.printing import age, amount, in_all, shortened, told_of, width
from chatkeep.model import Message, last_words

from ..support.fork_server import Program
from ..support.program import PATIENCE_S, chatkeep, plain_environment

STEERS = set("\x1b\x07\u202e\x9b\u2028")
"""Characters of what was said that must not be printed."""


def test_what_people_wrote_cannot_steer_the_terminal(store: Path) -> None:
    """Escape sequences and direction marks are shown as text, in logs and in reasons."""
    for command in (("show", "eve"), ("history", "eve"), ("dead", "bob"), ("show", "bob"), ("history", "bob")):
        code, said, _ = chatkeep(command[0], "chat.db", command[1], folder=store.parent)

        assert 0 == code
        assert not STEERS & set(said)
        assert "\\x1b" in said


def test_a_name_writes_no_line_of_the_audit(tmp_path: Path) -> None:
    """Users are called as the application, or a token of somebody else's, calls them."""
    name = "eve\x1b[2J\u202e\x07\x9b31m\n2026-01-01 00:00:00  erase  by kim: done"

    async def claim() -> None:
        async with Chatkeep(f"sqlite:///{tmp_path}/chat.db") as keep:
            await keep.user(name).claim("guest:1")

    asyncio.run(claim())
    code, said, _ = chatkeep("audit", "chat.db", folder=tmp_path)

    assert 0 == code
    assert not STEERS & set(said)
    assert 1 == len(said.splitlines())
    assert "eve\\x1b[2J" in said


def test_one_of_a_thing_is_told_as_one() -> None:
    """And none, and many, as many."""
    assert ["0 entries", "1 entry", "1,200 entries"] == [amount(n, "entry", "entries") for n in (0, 1, 1200)]
    assert ["1 token", "2 tokens"] == [amount(n, "token") for n in (1, 2)]
    assert ["1 conversation or record is copied", "2 conversations and records are copied"] == [
        in_all(n, "copied") for n in (1, 2)
    ]


def test_json_cannot_steer_the_terminal_either(store: Path) -> None:
    """What programs read is what was written, in another spelling."""
    code, said, _ = chatkeep("history", "chat.db", "eve", "--json", folder=store.parent)

    assert 0 == code
    assert not STEERS & set(said)
    assert "\x1b]0;owned\x07 red \u202e \x9b31m \u2028" == json.loads(said.splitlines()[0])["content"]


WORDS = "Would a gel manicure on Saturday at three be possible, with the lady from the last time? "


@pytest.fixture
def wordy(tmp_path: Path) -> Path:
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


def test_a_list_fits_its_terminal_and_a_pipe_has_all(wordy: Path) -> None:
    """No line is longer than the terminal is wide; what is cut says so; in a pipe nothing is cut, and nothing steers a terminal."""
    narrow = in_terminal(wordy, "list", "chat.db", columns=80)
    wide = in_terminal(wordy, "list", "chat.db", columns=400)
    piped = chatkeep("list", "chat.db", folder=wordy.parent)[1]

    assert max(map(width, narrow.splitlines())) <= 80
    assert "…" in narrow
    assert "a-conversation-with-a-rather-long-name" in wide
    assert WORDS.strip() in piped
    assert "日本語" in piped
    for said in (narrow, wide, piped):
        assert "\x1b[31m" not in said
        assert "just now" in said
        assert "paused (tenant)" in said


def test_colours_are_for_terminals_and_for_who_wants_them(wordy: Path) -> None:
    """On a terminal; not with NO_COLOR, nor in a pipe."""
    coloured = in_terminal(wordy, "list", "chat.db", columns=200, NO_COLOR="")
    plain = in_terminal(wordy, "list", "chat.db", columns=200, NO_COLOR="1")
    piped = chatkeep("list", "chat.db", folder=wordy.parent, NO_COLOR="")[1]

    assert "\x1b[33mpaused" in coloured
    assert "\x1b[" not in plain
    assert "\x1b[" not in piped


def test_times_are_those_of_this_machine_or_utc(wordy: Path) -> None:
    """--utc has them with a Z; JSON always has them in UTC."""
    shown = {
        words: chatkeep(*words, folder=wordy.parent, TZ="Asia/Tokyo")[1]
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


def test_a_note_without_words_is_shown_as_json() -> None:
    """As `--json` shows it, and as jq can read it."""
    note = Message(
        id="~r", number=5, role="system", content="", created_at=1.0, metadata={"kind": "redacted", "by": None}
    )

    assert {"kind": "redacted", "by": None} == json.loads(told_of(note))
