"""Conversations that the sweep leaves alone: nothing can be done about them here, until somebody has written to them, or for a while."""

from __future__ import annotations

from collections.abc import Callable

from ..bounded import Newest
from ..drivers.base import Key, Row

MOST = 20_000


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

    def __contains__(self, row: Row) -> bool:
        """Tell whether *row*, as it is now, need not be looked at."""
        revision, since, until = self._found.get(row.key, ("", 0.0, 0.0))
        if not since <= self._clock() < until:  # the clock may have been set back meanwhile
            return False
        if not revision:
            self._found[row.key] = row.revision, since, until
        return revision in ("", row.revision)
