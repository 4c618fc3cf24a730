"""What the PostgreSQL driver asks of whatever carries its acts: `transport` does it with asyncpg."""

from __future__ import annotations

import re
from asyncio import Future
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from ..base import Pool
from ..statements import named


class Site(Struct, frozen=True, kw_only=True):
    """Where the store is, and the credentials for it."""

    store: str
    """The URL without what is secret in it, and the schema."""
    dsn: str
    schema: str
    pooler: bool = False
    """Whether connections belong to a pooler, which hands them out by transaction."""
    target: str = "read-write"
    timeout: float = 5.0
    connections: int = 4

    def sql(self, name: str) -> str:
        """Return the named statement of sql/queries.sql, for this schema."""
        return in_schema(named("postgresql")[name], self.schema)


class Statement(Struct, frozen=True):
    """One function, run over as many acts as are waiting for it.

    arguments: what the acts are as its parameters, after the epoch. answers: what each of them is told; a refusal is
    an exception among them. writes: when the answer is lost, nobody knows whether it was done. alone: it takes one act at
    a time.
    """

    sql: str
    arguments: Callable[[list[Any]], tuple[Any, ...]]
    answers: Callable[[list[Any], list[Any]], list[Any]]
    writes: bool = False
    alone: bool = False


class Transport(Protocol):
    """Carries acts to one schema of a database, from `start` until `close`.

    Every call is answered or refused on its own, within the site's timeout, and not taken back when its caller is cancelled.
    A refusal is one of chatkeep's errors: `Unavailable` when the act certainly was not done, `Uncertain` when one that
    writes may have been. Acts that write to one conversation are done in the order in which they were asked for.
    """

    site: Site
    epoch: str
    """The store's, once started."""

    async def start(self) -> Any:
        """Make or upgrade the schema; answers what the server says of itself."""

    async def close(self) -> None:
        """Have what is under way answered, then give everything back."""

    def pool(self) -> Pool:
        """Return the connections that acts use."""

    def read(self, statement: Statement, act: Any) -> Future[Any]:
        """Run *statement* on *act*, and on what else waits for it."""

    def write(self, statement: Statement, act: Any) -> Future[Any]:
        """Run *statement* on *act*, and on what else waits for it."""

    def announce(self, statement: Statement, act: Any) -> Future[Any]:
        """Run *statement* on *act*, beside all else."""

    def count(self, statement: Statement, act: Any) -> Future[Any]:
        """Run *statement* on *act*, and on what else waits for it, beside all else."""

    def listen(self, heard: Callable[[list[str]], None]) -> None:
        """Have *heard* called with what is announced, on a connection of its own that comes back by itself."""


def in_schema(sql: str, schema: str) -> str:
    """Return *sql* for another schema than `chatkeep`."""
    return re.sub(r"\bchatkeep\.(?=\w)", f'"{schema}".', sql)
