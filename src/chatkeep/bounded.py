"""A dict that cannot grow beyond a number of keys."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Newest(OrderedDict[K, V]):
    """Holds the *most* keys that were set last: one more drops the one that was set longest ago. Reading a key does not keep it."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        """Set *key*, which is the newest then."""
        OrderedDict.__setitem__(self, key, value)  # (with super() it takes a quarter longer)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)
