"""Places: how many handlers run at once in this process, and who may run alone."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from ..errors import Unavailable

SETTLE_S = 0.2
"""So long the first suspect waits before it may run alone: what is found in the same sweep comes before it."""

PATIENCE_S = 2.0
"""After so long newcomers wait, so that a suspect that waits for a quiet moment has its turn also where there is none."""


PlaceWaiter = tuple[object, asyncio.Future[bool]]
Suspect = tuple[int, int, object, asyncio.Future[bool]]


class TurnedAway(Unavailable):
    """Whoever waited for a place waits no longer, and has none: nothing is begun any more."""


class Places:
    """Gives out *most* places, in the order of asking, and all of them together to one who has to run alone.

    Whoever has to run alone lets the others go first: it waits for a moment in which nobody has a place or waits for one,
    and after `PATIENCE_S` for those only that have one already. Afterwards the others are let in before the next one.
    Whoever waits here must not be waited for by one who has a place: see `let_by`.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.blocked = False
        """No place is given out for now."""
        self._taken = 0
        self._waiting: deque[PlaceWaiter] = deque()
        self._suspects: list[Suspect] = []
        self._order = count()
        self._shut = False
        self._settled = True
        self._timers: list[asyncio.TimerHandle] = []

    @property
    def lonely(self) -> int:
        """How many wait to run alone."""
        return len(self._suspects)

    @property
    def free(self) -> bool:
        """Whether there is a place that nobody waits for."""
        return self._taken < self.most and not (self._shut or self.blocked or self._waiting)

    def take_at_once(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        free = self._taken < self.most and not (self._shut or self.blocked or self._waiting)
        self._taken += free
        return free

    async def take(self, who: object) -> bool:
        """Wait for a place; False: *who* goes without one (`let_by`). Raises `TurnedAway`."""
        if self.take_at_once():
            return True
        given: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((who, given))
        try:
            return await given
        except asyncio.CancelledError:
            self._waiting = deque(entry for entry in self._waiting if entry[1] is not given)
            if given.done() and not given.cancelled() and given.exception() is None and given.result():
                self.give_back()
            self._next()
            raise

    def give_back(self) -> None:
        """Give a place to whoever waits longest."""
        self._taken -= 1
        if self._waiting or self._suspects:
            self._next()

    def block(self, blocked: bool) -> None:
        """Say whether places are given out at all."""
        self.blocked = blocked
        self._next()

    def let_by(self, who: object) -> None:
        """Have *who* wait no longer: one who has a place waits for it, so it goes without."""
        for waiter, given in self._waiting:
            if waiter == who and not given.done():
                given.set_result(False)
        self._waiting = deque(entry for entry in self._waiting if not entry[1].done())
        for _, _, suspect, admitted in self._suspects:
            if suspect == who and not admitted.done():
                admitted.set_result(False)

    def turn_away(self) -> None:
        """Have all who wait here wait no longer."""
        for _, given in self._waiting:
            if not given.done():
                given.set_exception(
                    TurnedAway("This Chatkeep is closing; the handler was not begun, and nothing was written.")
                )
        self._waiting.clear()
        for *_, admitted in self._suspects:
            if not admitted.done():
                admitted.set_result(False)

    @asynccontextmanager
    async def take_all(self, who: object, rank: int) -> AsyncIterator[bool]:
        """Wait for all places; False: was turned away. The lowest *rank* comes first."""
        loop = asyncio.get_running_loop()
        admitted: asyncio.Future[bool] = loop.create_future()
        if not self._suspects:
            self._settled = False
            self._timers += [loop.call_later(SETTLE_S, self._settle), loop.call_later(PATIENCE_S, self._shut_out)]
        entry = (rank, next(self._order), who, admitted)
        heapq.heappush(self._suspects, entry)
        try:
            self._next()
            yield await admitted
        finally:
            self._leave(entry)

    def _leave(self, entry: Suspect) -> None:
        admitted = entry[3]
        if admitted.done() and not admitted.cancelled() and admitted.result():
            self._taken -= self.most
            self._open_again()
            return
        self._suspects = [other for other in self._suspects if other is not entry]
        heapq.heapify(self._suspects)
        if self._suspects:
            self._next()
        else:
            self._open_again()

    def _settle(self) -> None:
        self._settled = True
        self._next()

    def _shut_out(self) -> None:
        self._shut = True
        self._next()

    def _open_again(self) -> None:
        self._shut = False
        for timer in self._timers:
            timer.cancel()
        self._timers, self._settled = [], True
        if self._suspects:
            self._timers = [asyncio.get_running_loop().call_later(PATIENCE_S, self._shut_out)]
        self._next()

    def _next(self) -> None:
        if self.blocked:
            return
        while self._waiting and not self._shut and self._taken < self.most:
            _, given = self._waiting.popleft()
            if not given.done():
                self._taken += 1
                given.set_result(True)
        while self._suspects and self._settled and not self._taken:
            admitted = heapq.heappop(self._suspects)[3]
            if not admitted.done():  # (one that was cancelled goes)
                self._taken = self.most
                admitted.set_result(True)
