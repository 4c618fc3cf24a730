"""What the processes on a store tell each other of themselves, each in one record of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Generic

from ..errors import ChatkeepError
from .records import Kind, Records

GONE = 10
"""Who has said nothing for so many times as long as a record is believed was killed: others erase the record."""


class Heartbeats(Generic[Kind]):
    """
    The records of one *kind* of all processes, which are listed by their *owner*.

    What another process has said is believed for *gone_s* seconds from then on, by its clock, *said_at*; one that is ahead by GONE times as
    much is not.
    """

    def __init__(self, records: Records[Kind], owner: str, *, gone_s: float, said_at: Callable[[Kind], float]) -> None:
        self._records = records
        self._owner = owner
        self._gone_s = gone_s
        self._said_at = said_at
        self._name = secrets.token_hex(8)

    async def say(self, told: Kind) -> None:
        """Put what this process says of itself in the place of what it said before."""
        await self._records.change(self._name, lambda held: told, owner=self._owner)

    async def end(self) -> None:
        """Say that this process is gone; where that fails, nobody believes its record for long."""
        with suppress(ChatkeepError):
            await self._records.erase(self._name)

    async def others(self, now: float) -> list[Kind]:
        """Return what the other processes have said lately."""
        found, longest_s = list[Kind](), GONE * self._gone_s
        async for name, told in self._records.owned_records(self._owner):
            silent_s = now - self._said_at(told)
            if name != self._name and -longest_s < silent_s < self._gone_s:
                found.append(told)
            elif silent_s > longest_s:
                await self._records.erase(name)
        return found
