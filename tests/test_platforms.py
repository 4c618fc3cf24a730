"""A system without forks, as Windows is: what only Unix has is taken from Python, and the bot is used as its user would. One whose
text is not UTF-8. Another event loop than asyncio's. Code in an archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

import chatkeep
from chatkeep import Chatkeep
from chatkeep.client import Client
from chatkeep.drivers.postgresql.transport import migrations
from chatkeep.errors import Misconfigured, UsageError
from chatkeep.server.settings import server_settings_from

SRC = Path(chatkeep.__file__).parent

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


class Elsewhere:
    """Runs a coroutine as another kind of event loop does: asyncio knows of none."""

    @staticmethod
    def run(coroutine: Coroutine[Any, Any, object]) -> None:
        try:
            coroutine.send(None)
        finally:
            coroutine.close()


def test_an_event_loop_that_is_not_asyncios_is_told(tmp_path: Path) -> None:
    """As under Trio: what is needed is said, and nothing is opened."""
    keep, client = Chatkeep(f"sqlite:///{tmp_path}/chat.db"), Client("http://127.0.0.1:9", "ck_k_key")
    queued = Client("http://127.0.0.1:9", "ck_k_key", queue=str(tmp_path / "queue.db"))
    for opened in (keep.open, client.open, queued.open):
        with pytest.raises(UsageError, match="needs an event loop of asyncio"):
            Elsewhere.run(opened())

    assert [] == [path.name for path in tmp_path.iterdir() if path.suffix == ".db"]


ARCHIVED = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import chatkeep
from chatkeep import Chatkeep
from chatkeep.drivers.postgresql.transport import migrations
from chatkeep.drivers.redis import RedisDriver
from chatkeep.server import create_app

keep = Chatkeep("sqlite:///a.db")

@keep.on_message
async def bot(turn):
    return "hello " * 100

async def main():
    create_app(keep, title="a")
    async with keep:
        print(chatkeep.__file__, len((await keep.receive("ada", "x")).replies), len(migrations()))

asyncio.run(main())
"""


def test_code_in_an_archive(tmp_path: Path) -> None:
    """A wheel on the path, or an application packed with zipapp: files beside the code are found in it too."""
    archive = shutil.make_archive(str(tmp_path / "code"), "zip", SRC.parent, "chatkeep")
    done = subprocess.run(
        [sys.executable, "-I", "-c", ARCHIVED, archive], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )

    assert (f"{archive}/chatkeep/__init__.py 1 {len(migrations())}", "") == (done.stdout.strip(), done.stderr)


async def test_a_name_that_is_no_text_to_the_system_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are not UTF-8 in a path or a variable, as Python shows them; a secret among them is not shown."""
    strange = os.fsdecode(b"S\xfc\xdf")
    for name in (f"sqlite:///{tmp_path}/{strange}.db", f"sqlite:///{strange}"):
        with pytest.raises(Misconfigured, match="is not UTF-8"):
            Chatkeep(name)
    with pytest.raises(Misconfigured, match="is not UTF-8"):
        Client("http://127.0.0.1:9", "ck_k_key", queue=f"{tmp_path}/{strange}.db")
    async with Chatkeep(f"sqlite:///{tmp_path}/chat.db") as keep:
        with pytest.raises(UsageError, match="can be no backup"):
            await keep.backup(f"{tmp_path}/{strange}.db")
    monkeypatch.setenv("CHATKEEP_METRICS_TOKEN", f"hush{strange}")
    with pytest.raises(
        Misconfigured, match=r"metrics_token has bytes that are no text .*CHATKEEP_METRICS_TOKEN"
    ) as told:
        server_settings_from({})

    assert "hush" not in str(told.value)
