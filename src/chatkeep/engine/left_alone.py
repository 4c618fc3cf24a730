"""Conversations that the sweep leaves alone: nothing can be done about them here, until somebody has written to them, or for a while;
and among them those that this version cannot read: their records or states are newer, or damaged, or an upgrade is missing.

Who cannot read a conversation writes nothing to it, so that who can finds it at once.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ..bounded import Newest
from ..drivers.base import Key, Row

MOST = 20_000

UNREADABLE_MOST = 10_000
AGAIN_S = 30.0
"""After so long an unreadable conversation is looked at again: what keeps an application's own types from reading it may end."""


class LeftAlone:
    """What one engine need not look at, by the revision at which that was found out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: Newest[Key, tuple[str, float, float]] = Newest(MOST)  # the revision, since when and until when

    def add(self, key: Key, revision: str, for_s: float) -> None:
        """Leave *key* alone *for_s* seconds while it is at *revision*; "": at the one at which it is met next."""
        now = self._clock()
        self._found[key] = revision, now, now + for_s

    def discard(self, key: Key) -> None:
        """Look at *key* again."""
        self._found.pop(key, None)

    def skip(self, row: Row) -> bool:
        """Leave *row* alone if it is to be; tell whether it is. Where no revision was named, it is the one that it has now."""
        revision, since, until = self._found.get(row.key, ("", 0.0, 0.0))
        if not since <= self._clock() < until:  # the clock may have been set back meanwhile
            return False
        if not revision:
            self._found[row.key] = row.revision, since, until
        return revision in ("", row.revision)


class Met(Struct):
    """When a conversation could not be read, and why."""

    at: float
    fault: str


class Unreadable:
    """What one engine could not read lately."""

    def __init__(self, clock: Callable[[], float], left_alone: LeftAlone) -> None:
        self._clock = clock
        self._left_alone = left_alone
        self._met: Newest[Key, Met] = Newest(UNREADABLE_MOST)

    def __len__(self) -> int:
        """Tell how many there are."""
        return sum(map(self.__contains__, self._met))

    def __contains__(self, key: Key) -> bool:
        """Tell whether *key* could not be read when it was last looked at; one that nobody has met for a while is answered elsewhere,
        or erased."""
        met = self._met.get(key)
        return met is not None and 0.0 <= self._clock() - met.at <= 2 * AGAIN_S  # (the clock may have been set back)

    def add(self, key: Key, revision: str, fault: str) -> bool:
        """Note that *key* cannot be read at *revision* ("": not known); tell whether that is news."""
        news = key not in self
        self._met[key] = Met(self._clock(), fault)
        self._left_alone.add(key, revision, AGAIN_S)
        return news

    def discard(self, key: Key) -> None:
        """Note that *key* was read."""
        if self._met.pop(key, None) is not None:
            self._left_alone.discard(key)

    @property
    def trouble(self) -> str:
        """What is wrong with them; "" when there are none."""
        if not (count := len(self)):
            return ""
        last = next(reversed(self._met.values())).fault
        waits = "1 conversation waits" if count == 1 else f"{count:,} conversations wait"
        return f"{waits} that this version cannot read; the last: {last}"
