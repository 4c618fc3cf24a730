"""What was known when the store was last reached: whoever was let in then is let in for a while yet, so that a journal is of use."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from cachetools import TTLCache

from ..app import Chatkeep
from ..errors import Overloaded, Replaced, Unavailable

K = TypeVar("K")
V = TypeVar("V")

OUTAGE_S = 600.0
"""So long after the store has last said it something counts that it cannot be asked for."""

HELD = 10_000


class LastKnown(Generic[K, V]):
    """
    Remembers what the store has said, for OUTAGE_S, where *keep* does something in an outage (`on_outage`).

    It is asked only when the store cannot be reached. What was looked for before a `clear` is not remembered any more.
    """

    def __init__(self, keep: Chatkeep[Any]) -> None:
        self._lasts = keep.settings.on_outage != "refuse"
        self._said: TTLCache[K, V] = TTLCache(HELD, OUTAGE_S)
        self.round = 0
        """Another number after each `clear`."""

    def note(self, key: K, said: V | None, *, round: int) -> None:
        """Remember what the store has said of *key*, when it was asked in that *round*; None: there is nothing."""
        if said is None:
            self._said.pop(key, None)
        elif self._lasts and round == self.round:
            self._said[key] = said

    def find(self, key: K, away: Unavailable) -> V:
        """Return what the store said last of *key*, which cannot be asked now. Raises *away* where that is not known, where another
        store is in its place, or where it has only too much to do: whoever keeps it busy must not keep what was ended alive."""
        said = None if isinstance(away, Replaced | Overloaded) else self._said.get(key)
        if said is None:
            raise away
        return said

    def clear(self) -> None:
        """Forget everything, since something of it was ended here."""
        self._said.clear()
        self.round += 1

    def forget(self, key: K) -> bool:
        """Forget what was said of *key*, which was changed here; tell whether there was anything."""
        return self._said.pop(key, None) is not None
