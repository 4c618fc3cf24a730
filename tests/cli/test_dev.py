"""`chatkeep dev`: a bot whose file is edited while people talk to it, and how its errors are shown."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..support.program import PROGRAM, chatkeep, plain_environment

PATIENCE_S = 60.0

BOT = """
from chatkeep import Chatkeep, Turn

keep = Chatkeep("sqlite:///chat.db", retry_after="1ms", retry_longest="1ms", attempts=3)


@keep.on_message
async def bot(turn: Turn) -> str:
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"one: {turn.state['count']}"
"""


class Dev:
    """A running `chatkeep dev`: what it has said, and the bot that it serves."""

    def __init__(self, process: subprocess.Popen[bytes], logged: Path) -> None:
        self.process = process
        self._logged = logged

    @property
    def said(self) -> str:
        """Everything that it has printed so far."""
        return self._logged.read_text()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The last of *count* places in what it printed, as soon as it is there."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if len(found := list(re.finditer(pattern, self.said, re.MULTILINE))) >= count:
                return found[count - 1]
            assert self.process.poll() is None, self.said
            time.sleep(0.02)
        raise AssertionError(f"{pattern} was not said:\n{self.said}")

    def talk(self, text: str) -> Any:
        """What the bot replies to *text*, by the key and the address that were printed; a status where it is an error."""
        line = self.wait_for(r"curl -H 'Authorization: (.*?)' .* (http\S+)$")
        request = urllib.request.Request(
            line[2],
            data=json.dumps({"content": text}).encode(),
            headers={"content-type": "application/json", "authorization": line[1]},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return json.load(answer)["replies"][0]["content"]
        except urllib.error.HTTPError as refused:
            return refused.code

    def answer(self) -> tuple[int, str]:
        """What is said at the address that was printed first."""
        try:
            with urllib.request.urlopen(self.wait_for(r"is open: (\S+)")[1], timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()


@contextmanager
def dev(folder: Path, bot: str = BOT) -> Iterator[Dev]:
    """Runs `chatkeep dev app:keep` on *bot* until the end of the block."""
    folder.joinpath("app.py").write_text(bot)
    logged = folder / "out.txt"
    with logged.open("wb") as out:
        process = subprocess.Popen(
            [*PROGRAM, "dev", "app:keep", "--port", "0"],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=plain_environment(),
        )
    try:
        yield Dev(process, logged)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def test_a_conversation_goes_on_while_its_bot_is_edited(tmp_path: Path) -> None:
    """The page, the key and the API are printed once; after each save the new code answers, with the state of before."""
    with dev(tmp_path) as running:
        first = running.talk("hello")
        address = running.wait_for(r"is open: (\S+)")[1]
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as page:
            title = page.read()
        began = time.monotonic()
        tmp_path.joinpath("app.py").write_text(BOT.replace("one: ", "two: "))
        running.wait_for("app.py changed: app:keep runs again")
        took_s = time.monotonic() - began
        second = running.talk("hello")
        tmp_path.joinpath("helper.py").write_text("WORD = 'three'\n")
        running.wait_for("helper.py changed: app:keep runs again")
        third = running.talk("hello")
        running.process.send_signal(signal.SIGINT)
        code = running.process.wait(PATIENCE_S)

    assert ["one: 1", "two: 2", "two: 3"] == [first, second, third]
    assert b"<title>app</title>" in title
    assert "kept in sqlite:///chat.db" in running.said
    assert (1, 0) == (running.said.count("ck_k_") // 2, code)
    assert "Traceback" not in running.said
    assert took_s < PATIENCE_S / 4


def test_a_mistake_in_the_file_waits_for_the_next_save(tmp_path: Path) -> None:
    """At the start and after a save: the line is shown, the server is not given up, the conversation goes on."""
    with dev(tmp_path, BOT + "def broken(:\n") as running:
        running.wait_for(r"^app\.py:11: app:keep cannot be started")
        running.wait_for("Waiting for the next save")
        tmp_path.joinpath("app.py").write_text(BOT)
        first = running.talk("hello")
        tmp_path.joinpath("app.py").write_text(BOT + "nothing_of_that_name\n")
        running.wait_for(r"^app\.py:11 in <module>: app:keep cannot be started")
        running.wait_for("NameError: name 'nothing_of_that_name' is not defined")
        refused = running.answer()
        tmp_path.joinpath("app.py").write_text(BOT.replace("chat.db", "no/folder/chat.db"))
        running.wait_for("Waiting for the next save", 3)
        without_store = running.answer()
        tmp_path.joinpath("app.py").write_text(BOT)
        running.wait_for("changed: app:keep runs again", 2)
        second = running.talk("hello")

    assert ["one: 1", "one: 2"] == [first, second]
    assert (503, True) == (refused[0], "app.py:11 in <module>: app:keep cannot be started" in refused[1]), refused
    assert (503, True) == (without_store[0], "no/folder/chat.db" in without_store[1]), without_store
    assert "importlib" not in running.said
    assert "multiprocessing" not in running.said


def test_an_error_of_the_bot_is_shown_once_with_its_line_first(tmp_path: Path) -> None:
    """Three attempts are one way through the code; frames of chatkeep are folded."""
    bot = BOT.replace("    turn.state", "    helped(turn.text)\n    turn.state", 1) + (
        "\n\ndef helped(text: str) -> None:\n    if text == 'break':\n        int(text)\n"
    )
    with dev(tmp_path, bot) as running:
        refused = running.talk("break")
        running.wait_for("was set aside")
        answered = running.talk("hello")

    line = next(number for number, text in enumerate(bot.splitlines(), 1) if "int(text)" in text)
    assert (500, "one: 1") == (refused, answered)
    assert f"app.py:{line} in helped: warning: ada: the handler failed (ValueError: invalid literal" in running.said
    assert f"> app.py:{line} in helped\n    >     int(text)" in running.said
    assert 1 == running.said.count("> app.py:9 in bot")
    assert 1 == running.said.count("of chatkeep)")
    assert "engine.py" not in running.said


def test_a_bot_that_hangs_is_ended_by_a_save(tmp_path: Path) -> None:
    """A handler that blocks everything does not keep the next code from running."""
    bot = BOT.replace("    turn.state", "    __import__('time').sleep(1000)\n    turn.state", 1)
    with dev(tmp_path, bot) as running:
        line = running.wait_for(r"curl -H 'Authorization: (.*?)' .* (http\S+)$")
        stuck = subprocess.Popen(
            [
                *("curl", "-s", "-H", f"Authorization: {line[1]}", "-H", "Content-Type: application/json"),
                *("-d", '{"content": "hello", "id": "1"}', line[2]),
            ],
            stdout=subprocess.DEVNULL,
        )
        time.sleep(1)
        tmp_path.joinpath("app.py").write_text(BOT)
        running.wait_for("changed: app:keep runs again")
        stuck.kill()
        stuck.wait()
        reply = running.talk("hello")

    assert reply in ("one: 1", "one: 2")


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("app.py:keep", "app.py is the path of a file; name the module: app:keep."),
        ("./bots/salon.py", "name the module: bots.salon:keep."),
        ("app", 'app is not "module:attribute"'),
        ("app:bot", "app:bot is the function bot(turn: "),
        ("app:bot", "it has the Chatkeep keep: write app:keep"),
        ("app:kep", "app has no kep; it has the Chatkeep keep: write app:keep"),
        ("../bots/salon.py:keep", "/bots and name the module: salon:keep."),
        ("/nowhere/app.py:keep", "go to /nowhere and name the module: app:keep."),
        ("{here}/app.py:keep", "is the path of a file; name the module: app:keep."),
        ("nobody:keep", "There is no module nobody"),
        ("nobody:keep", "Go to the folder that nobody.py is in"),
    ],
)
@pytest.mark.parametrize("command", ["dev", "serve", "chat"])
def test_what_cannot_be_run_is_told_with_the_right_line(tmp_path: Path, command: str, app: str, said: str) -> None:
    """The three commands that take a bot, in the same words and with exit code 2."""
    tmp_path.joinpath("app.py").write_text(BOT)
    port = () if command == "chat" else ("--port", "0")  # the usual one may be somebody's just now
    code, _, errors = chatkeep(command, app.format(here=tmp_path), *port, folder=tmp_path, within=PATIENCE_S)

    assert (2, True) == (code, said in errors), errors
    assert "Traceback" not in errors


def test_a_store_that_every_start_empties_is_said(tmp_path: Path) -> None:
    """memory:// does not outlive a save, and the key goes with it: another one is printed."""
    with dev(tmp_path, BOT.replace("sqlite:///chat.db", "memory://x")) as running:
        running.wait_for("which every start empties")
        tmp_path.joinpath("app.py").write_text(BOT.replace("sqlite:///chat.db", "memory://y"))
        running.wait_for("A service key", 2)

    assert not os.path.exists(tmp_path / "chat.db")


def test_one_talks_to_a_bot_of_ones_own_in_the_terminal(tmp_path: Path) -> None:
    """On its own store, so that the next talk goes on; a store of another's is refused."""
    tmp_path.joinpath("app.py").write_text(BOT)
    first = chatkeep("chat", "app:keep", typed="hello\n", folder=tmp_path, within=PATIENCE_S)
    second = chatkeep("chat", "app:keep", typed="hello\n", folder=tmp_path, within=PATIENCE_S)
    refused = chatkeep("chat", "app:keep", "--store", "x.db", folder=tmp_path, within=PATIENCE_S)

    assert (0, "you: hello\nbot: one: 1\n", "") == first
    assert (0, first[1] + "you: hello\nbot: one: 2\n") == second[:2]
    assert (2, True) == (refused[0], "has a store of its own" in refused[2])
