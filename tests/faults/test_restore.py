"""A backup is put back by the steps of docs/how-to/backup.md, on each engine, and what the page says of it then is so."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import create_key, list_keys, revoke_key
from chatkeep.testing.programs import postgres_binary
from chatkeep.testing.servers import PostgresServer, RedisServer

from ..support.program import chatkeep
from ..support.stores import FAST
from ..support.waiting import until


def bot(url: str) -> Chatkeep[Any]:
    """Counts what it is told."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST)

    @keep.on_message
    async def answer(turn: Turn[Any]) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        return f"{turn.state['n']}"

    return keep


class File:
    """One file of SQLite."""

    def __init__(self, folder: Path) -> None:
        self.file, self.copy = folder / "chat.db", folder / "copy.db"
        self.url = f"sqlite:///{self.file}"

    async def back_up(self) -> None:
        """From outside, while it is used."""
        assert 0 == chatkeep("backup", str(self.file), str(self.copy), folder=self.file.parent)[0]

    async def put_back(self) -> None:
        """With nobody there."""
        for end in ("-wal", "-shm"):
            self.file.with_name(self.file.name + end).unlink(missing_ok=True)
        os.replace(self.copy, self.file)

    def end(self) -> None:
        """Nothing runs."""


class Valkey:
    """A server with an append-only file."""

    def __init__(self, folder: Path) -> None:
        self.server = RedisServer("valkey-9", folder)
        self.server.start()
        self.url = self.server.url

    async def back_up(self) -> None:
        """A snapshot beside the append-only file."""
        self.server.ask("BGSAVE")
        await until(lambda: b"rdb_bgsave_in_progress:0" in self.server.ask("INFO", "persistence"))
        self.copy = (self.server.folder / "dump.rdb").read_bytes()

    async def put_back(self) -> None:
        """Without the append-only file, which is made anew before the server starts with it."""
        self.server.kill()
        shutil.rmtree(self.server.folder)
        self.server.folder.mkdir()
        (self.server.folder / "dump.rdb").write_bytes(self.copy)
        self.server.args = ("--appendonly", "no")
        self.server.start()
        self.server.ask("CONFIG", "SET", "appendonly", "yes")
        await until(lambda: b"aof_rewrite_in_progress:0" in self.server.ask("INFO", "persistence"))
        self.server.kill()
        self.server.args = ()
        self.server.start()

    def end(self) -> None:
        """Stops the server."""
        self.server.kill()


class Postgres:
    """A schema."""

    def __init__(self, folder: Path) -> None:
        self.server, self.copy = PostgresServer(folder), str(folder / "chatkeep.dump")
        self.server.start()
        self.url = self.server.url

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([postgres_binary(program), *arguments], check=True, capture_output=True)

    async def back_up(self) -> None:
        """The schema alone."""
        self._run("pg_dump", "--format=custom", "--schema=chatkeep", f"--file={self.copy}", self.url)

    async def put_back(self) -> None:
        """In the place of the one that is there."""
        self._run("psql", "--command=drop schema if exists chatkeep cascade", self.url)
        self._run("pg_restore", f"--dbname={self.url}", self.copy)

    def end(self) -> None:
        """Stops the server."""
        self.server.kill()


@pytest.mark.long
@pytest.mark.server
@pytest.mark.parametrize("engine", [File, Valkey, Postgres])
async def test_what_is_put_back_is_at_the_time_of_the_backup(tmp_path: Path, engine: Any) -> None:
    """What was said before is known, what was said since is new; what was erased or revoked since is there, and it is the same store."""
    (folder := tmp_path / "store").mkdir()
    store = engine(folder)
    try:
        async with bot(store.url) as keep:
            await keep.receive("ada", "one", id="m1")
            await keep.receive("bob", "hello", id="m1")
            key = (await create_key(keep, "")).id
            await store.back_up()
            epoch = keep._engine.store.driver.epoch
            await keep.receive("ada", "two", id="m2")
            await keep.erase("bob")
            assert await revoke_key(keep, key)
        await store.put_back()
        async with bot(store.url) as keep:
            first, second = [await keep.receive("ada", text, id=id) for text, id in (("one", "m1"), ("two", "m2"))]
            found = [one.revoked for one in await list_keys(keep) if one.id == key]
            there, same = await keep.conversation("bob"), keep._engine.store.driver.epoch == epoch
    finally:
        store.end()

    assert (True, ["1"]) == (first.duplicate, [reply.text for reply in first.replies])
    assert (False, ["2"]) == (second.duplicate, [reply.text for reply in second.replies])
    assert ([False], True, True) == (found, there is not None, same)
