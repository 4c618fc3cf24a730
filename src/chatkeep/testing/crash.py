"""Death at a named point, and answers that are lost: drivers that put a fault around every act of another driver."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from ..drivers.base import Act, Driver
from ..errors import Uncertain

T = TypeVar("T")

VERBS = ("read", "append", "write", "entries", "scan", "erase")
POINTS = tuple(f"{verb}:{moment}" for verb in VERBS for moment in ("before", "after"))


class CrashPoint:
    """Kills this process, as kill -9 does, when *point* is reached for the *nth* time."""

    def __init__(self, point: str, nth: int = 1) -> None:
        self.point = point
        self.left = nth

    def __call__(self, point: str) -> None:
        """Say that *point* is reached."""
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Wrapped:
    """A driver whose verbs go through `around`; all else is the inner driver's."""

    def __init__(self, inner: Driver) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in VERBS:
            return found

        async def verb(act: Act) -> Any:
            return await self.around(name, lambda: found(act))

        return verb

    async def around(self, verb: str, act: Callable[[], Awaitable[T]]) -> T:
        """Run one act; subclasses put their fault here."""
        return await act()


class CrashDriver(Wrapped):
    """Dies before or after an act: `write:after` is a commit that nobody hears of."""

    def __init__(self, inner: Driver, crash: CrashPoint) -> None:
        super().__init__(inner)
        self.crash = crash

    async def around(self, verb: str, act: Callable[[], Awaitable[T]]) -> T:
        """Die before it, or after it and before anybody is told."""
        self.crash(f"{verb}:before")
        found = await act()
        self.crash(f"{verb}:after")
        return found


class UncertainDriver(Wrapped):
    """Loses answers: for each act, *chance* says "before" (not executed), "after" (executed), or None; both raise Uncertain."""

    def __init__(self, inner: Driver, chance: Callable[[str], str | None]) -> None:
        super().__init__(inner)
        self.chance = chance

    async def around(self, verb: str, act: Callable[[], Awaitable[T]]) -> T:
        """Run it, or not, and say that nobody knows."""
        lost = self.chance(verb)
        if lost == "before":
            raise Uncertain(f"{verb}: no answer (and it was not executed)")
        found = await act()
        if lost == "after":
            raise Uncertain(f"{verb}: no answer (but it was executed)")
        return found


def wrapped(driver: Wrapped) -> Driver:
    """Return *driver* as what it behaves like."""
    return cast(Driver, driver)
