"""Conversations that this version cannot read: their records or states are newer, or damaged, or an upgrade is missing.

Who cannot read a conversation writes nothing to it, so that who can finds it at once; and does not look at it again before
somebody else has written to it, or some time has passed.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ..bounded import Newest
from ..drivers.base import Key

UNREADABLE_MOST = 10_000
AGAIN_S = 30.0
"""After so long an unreadable conversation is looked at again: what keeps an application's own types from reading it may end."""


class Met(Struct):
    """When a conversation could not be read, at which revision ("": not known), and why."""

    at: float
    revision: str
    fault: str


class Unreadable:
    """What one engine could not read lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._met: Newest[Key, Met] = Newest(UNREADABLE_MOST)

    def __len__(self) -> int:
        """Tell how many there are; one that nobody has met for a while is answered elsewhere, or erased."""
        before = self._clock() - 2 * AGAIN_S
        for key in [key for key, met in self._met.items() if met.at < before]:
            del self._met[key]
        return len(self._met)

    def __contains__(self, key: Key) -> bool:
        """Tell whether *key* could not be read when it was last looked at."""
        return key in self._met

    def add(self, key: Key, revision: str, fault: str) -> bool:
        """Note that *key* cannot be read; tell whether that is news."""
        news = key not in self._met
        self._met[key] = Met(self._clock(), revision, fault)
        return news

    def discard(self, key: Key) -> None:
        """Note that *key* was read."""
        self._met.pop(key, None)

    def avoids(self, key: Key, revision: str) -> bool:
        """Tell whether *key*, now at *revision*, need not be looked at."""
        met = self._met.get(key)
        if met is None or met.at + AGAIN_S < self._clock():
            return False
        met.revision = met.revision or revision
        return met.revision == revision

    @property
    def trouble(self) -> str:
        """What is wrong with them; "" when there are none."""
        if not self._met or not (count := len(self)):
            return ""
        last = next(reversed(self._met.values())).fault
        waits = "1 conversation waits" if count == 1 else f"{count:,} conversations wait"
        return f"{waits} that this version cannot read; the last: {last}"
