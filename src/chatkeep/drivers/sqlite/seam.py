"""What the SQLite driver asks of whatever runs its acts: `transport` does it with threads that each own a connection."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import apsw

from ..base import Pool
from .file import OpenFile, Slot

T = TypeVar("T")
A = TypeVar("A")


class Transport(Protocol):
    """Runs acts on one file, from its making until `close`.

    Every call is answered or refused on its own, and not taken back when its caller is cancelled. A refusal is one of
    chatkeep's errors: `Unavailable` when certainly nothing was written, `Uncertain` when that is not known. Acts that write
    are done in the order in which they were asked for.
    """

    path: str
    file: OpenFile

    async def close(self) -> None:
        """Have what is under way answered, break off who looks for long, and give the file back."""

    def pool(self) -> Pool:
        """Return the connections that acts use."""

    def read(self, do: Callable[[apsw.Connection, A], T], act: A) -> Future[T]:
        """Have *do* called with *act* on one instant of the store, beside others."""

    def write(self, do: Callable[[apsw.Connection, A], T], act: A, *, durable: bool = True) -> Future[T]:
        """Have *do* called with *act* in a transaction, shared with what else waits; answered before it is on the disk where
        nothing in the transaction is *durable*."""

    async def look(self, act: Callable[[Slot], T]) -> T:
        """Run what may take long in a thread of its own. It ends when its caller is cancelled and when the store is closed."""

    def looking(self, slot: Slot) -> AbstractContextManager[apsw.Connection]:
        """Return the slot's connection, that can only read, on the files that are in place, until it is broken off."""
