"""A process that dies between two acts on the store, or behind one that nobody is told of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from chatkeep.errors import Unavailable
from chatkeep.testing.crash import Wrapped

T = TypeVar("T")


class Dying(Wrapped):
    """From a moment on nothing of this process reaches the store: before an act, or after it, with nobody told."""

    left, after, dead = 0, False, False

    async def around(self, verb: str, act: Callable[[], Awaitable[T]]) -> T:
        """Count the acts down, once `left` is set."""
        if self.dead:
            raise Unavailable("This process is dead.")
        self.left -= 1
        if self.left != 0:
            return await act()
        self.dead = True
        if self.after:
            await act()
        raise Unavailable("This process has died.")
