"""Whether a store is fit, and copies of it."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, UsageError
from chatkeep.cli.moving import finished
from chatkeep.storage.moving import Walk
from chatkeep.testing.servers import RedisServer

from ..support.program import chatkeep


def test_check_says_whether_a_store_is_fit(tmp_path: Path, valkey: Any, postgres: Any) -> None:
    """In words and as JSON; nothing is made by asking, and no password is shown."""
    fit = [chatkeep("check", url, folder=tmp_path) for url in ("chat.db", valkey.url, postgres.url)]
    named = chatkeep("check", "--json", valkey.url, folder=tmp_path)

    assert [0, 0, 0] == [code for code, _, _ in fit]
    assert ["fit: sqlite:///chat.db", "fit: redis", "fit: postgresql"] == [
        said.splitlines()[-1][: len(start)]
        for (_, said, _), start in zip(fit, ("fit: sqlite:///chat.db", "fit: redis", "fit: postgresql"), strict=True)
    ]
    assert postgres.password not in fit[2][1]
    assert [] == list(tmp_path.iterdir())
    assert {"level", "subject", "said"} == set(json.loads(named[1].splitlines()[0]))


def test_check_reads_what_is_paused_and_the_like(tmp_path: Path) -> None:
    """A store whose pauses are damaged is not fit: its bot is silent. A sealed one is read with its keys; what is older is not touched."""
    key = f"k1:{base64.b64encode(bytes(32)).decode()}"

    async def use(name: str, **told: Any) -> None:
        async with Chatkeep(f"sqlite:///{tmp_path / name}", **told) as keep:
            await keep.pause_all()

    asyncio.run(use("chat.db"))
    asyncio.run(use("sealed.db", seal_keys=[key]))
    whole = chatkeep("check", "chat.db", folder=tmp_path)
    with closing(sqlite3.connect(tmp_path / "chat.db")) as database, database:
        database.execute("update conversation set body = x'6a756e6b' where tenant = '~chatkeep' and id = 'switches'")
    damaged = chatkeep("check", "chat.db", folder=tmp_path)
    keys: list[dict[str, str]] = [{}, {"CHATKEEP_SEAL_KEYS": "another key than that"}, {"CHATKEEP_SEAL_KEYS": key}]
    sealed = [chatkeep("check", "sealed.db", folder=tmp_path, **named) for named in keys]
    with closing(sqlite3.connect(tmp_path / "sealed.db")) as database, database:
        database.execute("pragma user_version = 1")
    older = chatkeep("check", "sealed.db", folder=tmp_path)[1]

    assert (0, True) == (whole[0], "can be read" in whole[1])
    assert 7 == damaged[0]
    assert "~chatkeep/switches: the record is damaged" in damaged[1]
    assert "`chatkeep resume STORE --everywhere`" in damaged[1]
    assert [(0, True), (0, True), (0, False)] == [
        (code, "they were not read: This store is sealed" in said) for code, said, _ in sealed
    ]
    assert ["own records" in said for said in (sealed[2][1], older)] == [True, False]


@pytest.mark.server
def test_check_finds_what_makes_a_store_unfit(tmp_path: Path) -> None:
    """A cache is only warned of, unless asked to be strict; what evicts, or is not there, is not fit."""
    folders = [tmp_path / name for name in ("loose", "evicting")]
    for folder in folders:
        folder.mkdir()
    evicting = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with (
        RedisServer("redis-6", folders[0], "--appendfsync", "everysec") as loose,
        RedisServer("valkey-9", folders[1], *evicting) as cache,
    ):
        codes = [
            chatkeep("check", *arguments, folder=tmp_path)[0]
            for arguments in ((loose.url,), ("--strict", loose.url), (cache.url,))
        ]
        warned = chatkeep("check", loose.url, folder=tmp_path)[1]
    code, said, _ = chatkeep("check", "postgresql://ann:pass-word@127.0.0.1:1/x", folder=tmp_path)

    assert [0, 7, 7] == codes
    assert "appendfsync everysec" in warned
    assert "fit, with 1 to look at" in warned
    assert (7, True, False) == (code, "not fit" in said, "pass-word" in said)


def test_a_backup_is_a_store_and_replaces_nothing_unasked(tmp_path: Path) -> None:
    """By another process than the bot's."""
    chatkeep("chat", "restaurant", "--store", "chat.db", typed="3 funghi\n", folder=tmp_path)
    first = chatkeep("backup", "chat.db", "copy.db", folder=tmp_path)
    again = chatkeep("backup", "chat.db", "copy.db", folder=tmp_path)
    replaced = chatkeep("backup", "chat.db", "copy.db", "--replace", folder=tmp_path)
    listed = [chatkeep("list", store, folder=tmp_path)[1] for store in ("chat.db", "copy.db")]

    assert (0, "chat.db is copied to copy.db.\n", "") == first
    assert (2, 0) == (again[0], replaced[0])
    assert "copy.db is there already; nothing was written" in again[2]
    assert "--replace" in again[2]
    assert listed[0]
    assert listed[0] == listed[1]
    assert {"copy.db"} == {file.name for file in tmp_path.iterdir() if not file.name.startswith("chat")}


async def test_a_backup_of_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """It says how."""
    async with Chatkeep[Any]("memory://") as keep:
        with pytest.raises(UsageError, match=r"was not written\. Use sqlite"):
            await keep.backup(tmp_path / "other.db")

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(("closed_s", "said"), [(14.2, "was closed 14.2 s ago, for good"), (None, "cannot be closed")])
def test_a_move_says_only_of_a_store_that_is_closed_that_it_is(
    closed_s: float | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that cannot be fenced off lets in whoever opens it, also after the move."""
    finished(Walk(), "folder:///chats", "sqlite:///chat.db", closed_s, as_json=False)
    told = capsys.readouterr().out
    finished(Walk(), "folder:///chats", "sqlite:///chat.db", closed_s, as_json=True)
    as_json = json.loads(capsys.readouterr().out)

    assert f"folder:///chats {said}" in told
    assert ("for good" in told) == (closed_s is not None)
    assert closed_s == as_json["closed_s"]
