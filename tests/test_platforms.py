"""A system without forks, as Windows is: what only Unix has is taken from Python, and the bot is used as its user would. One whose
text is not UTF-8. Threads that are no event loop of asyncio's. Code in an archive."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

UNIX = """
import asyncio, getpass, os, runpy, signal, sys, sysconfig
import click.testing, filelock, multiprocessing, subprocess, tempfile

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "uvloop"):
            raise ImportError(f"there is no {name} here")

sysconfig.get_paths()
sys.platform = "win32"
sys.meta_path.insert(0, Nowhere())
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios"):
    sys.modules.pop(name, None)
for module, names in (
    (os, "fork register_at_fork getuid geteuid getgid fchmod fchown setsid killpg"),
    (signal, "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM pthread_sigmask"),
):
    for name in names.split():
        delattr(module, name)
sys.argv = sys.argv[1:]
runpy.run_module("chatkeep", run_name="__main__", alter_sys=True)
"""
"""Takes it away, and runs chatkeep."""

BOT = """
from chatkeep import Chatkeep

keep = Chatkeep("sqlite:///a.db")

@keep.on_message
async def bot(turn):
    turn.state["count"] = turn.state.get("count", 0) + 1
    return f"{turn.state['count']}: {turn.text}"
"""


SERVED = """
import codecs, locale
from app import keep
from chatkeep.server import create_app
from chatkeep.server.settings import server_settings_from

settings = server_settings_from({})
create_app(keep, title=settings.title)
print(codecs.lookup(locale.getencoding()).name, ascii((settings.title, settings.starters)))
"""


def test_a_bot_and_its_commands_where_nothing_forks(tmp_path: Path) -> None:
    """What was said is there for the next process; acts are noted, though nobody has a name there."""
    (tmp_path / "app.py").write_text(BOT)
    environment = {name: value for name, value in os.environ.items() if name not in ("LOGNAME", "USER", "USERNAME")}

    def run(*arguments: str, typed: str = "") -> str:
        command = [sys.executable, "-W", "ignore", "-c", UNIX, "chatkeep", *arguments]
        done = subprocess.run(
            command, input=typed, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
        )
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout

    assert "1: hello" in run("chat", "app:keep", "--conversation", "ada", typed="hello\n")
    assert "2: again" in run("chat", "app:keep", "--conversation", "ada", typed="again\n")
    assert "ada" in run("list", "a.db")
    run("pause", "a.db", "ada")
    assert "somebody@" in run("audit", "a.db")
    run("backup", "a.db", "b.db")
    assert "quick_check says ok" in run("check", "b.db")


def test_a_system_whose_text_is_not_utf_8(tmp_path: Path) -> None:
    """What chatkeep reads is UTF-8 all the same: its pages, settings, and settings in files of their own."""
    (tmp_path / "app.py").write_text(BOT, "utf-8")
    (tmp_path / "set.toml").write_text('title = "S\u00fc\u00df"\n', "utf-8")
    (tmp_path / "starters").write_text("Gr\u00fc\u00dfe", "utf-8")
    system = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    named = {"CHATKEEP_CONFIG": str(tmp_path / "set.toml"), "CHATKEEP_STARTERS_FILE": str(tmp_path / "starters")}
    done = subprocess.run(
        [sys.executable, "-c", SERVED],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **system, **named},
        timeout=60,
    )

    assert (r"ascii ('S\xfc\xdf', ('Gr\xfc\xdfe',))", "") == (done.stdout.strip(), done.stderr)
