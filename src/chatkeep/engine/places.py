"""Places: how many handlers run at once in this process, and who may run alone."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

SETTLE_S = 0.2
"""So long the first suspect waits before it may run alone: what is found in the same sweep comes before it."""

PATIENCE_S = 2.0
"""After so long newcomers wait, so that a suspect that waits for a quiet moment has its turn also where there is none."""


Suspect = tuple[int, int, int, asyncio.Future[bool]]


class Places:
    """Gives out *most* places, in the order of asking, and all of them together to one who has to run alone.

    Whoever has to run alone lets the others go first: it waits for a moment in which nobody has a place or waits for one,
    and after `PATIENCE_S` for those only that have one already. Afterwards the others are let in before the next one.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.blocked = False
        """No place is given out for now."""
        self.lonely = 0
        """So many wait to run alone."""
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._suspects: list[Suspect] = []
        self._order = count()
        self._alone = False
        self._shut = False
        self._settled = True
        self._timers: list[asyncio.TimerHandle] = []

    def take_at_once(self) -> bool:
        """Takes a place if one is free and nobody waits for it."""
        free = not (self._alone or self._shut or self.blocked or self._waiting) and self._taken < self.most
        self._taken += free
        return free

    async def take(self) -> None:
        """Waits for a place."""
        if self.take_at_once():
            return
        given = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self.give_back()
            elif given in self._waiting:
                self._waiting.remove(given)
            raise

    def give_back(self) -> None:
        """Gives a place to whoever waits longest."""
        self._taken -= 1
        if self._waiting or self._suspects:
            self._next()

    def block(self, blocked: bool) -> None:
        """Says whether places are given out at all."""
        self.blocked = blocked
        self._next()

    def turn_away(self) -> None:
        """Has those who wait to run alone wait no longer."""
        for *_, admitted in self._suspects:
            if not admitted.done():
                admitted.set_result(False)

    @asynccontextmanager
    async def alone(self, rank: int, *, held: int = 0) -> AsyncIterator[bool]:
        """Has all places for itself, or, with False, was turned away. The lowest *rank* comes first; *held*: so many places
        belong to who waits for this."""
        loop = asyncio.get_running_loop()
        admitted: asyncio.Future[bool] = loop.create_future()
        entry = (rank, next(self._order), held, admitted)
        if not self._suspects and not self._alone:
            self._settled = False
            self._timers = [loop.call_later(SETTLE_S, self._settle), loop.call_later(PATIENCE_S, self._shut_out)]
        heapq.heappush(self._suspects, entry)
        self.lonely += 1
        try:
            self._next()
            mine = await admitted
        except asyncio.CancelledError:
            self._leave(entry)
            raise
        finally:
            self.lonely -= 1
        try:
            yield mine
        finally:
            self._leave(entry)

    def _leave(self, entry: Suspect) -> None:
        admitted = entry[3]
        if admitted.done() and not admitted.cancelled() and admitted.result():
            self._open_again()
            return
        self._suspects = [other for other in self._suspects if other is not entry]
        heapq.heapify(self._suspects)
        if not self._suspects and not self._alone:
            self._open_again()

    def _settle(self) -> None:
        self._settled = True
        self._next()

    def _shut_out(self) -> None:
        self._shut = True
        self._next()

    def _open_again(self) -> None:
        self._alone = self._shut = False
        for timer in self._timers:
            timer.cancel()
        self._timers, self._settled = [], True
        if self._suspects:
            self._timers = [asyncio.get_running_loop().call_later(PATIENCE_S, self._shut_out)]
        self._next()

    def _next(self) -> None:
        if self._alone or self.blocked:
            return
        while self._waiting and not self._shut and self._taken < self.most:
            given = self._waiting.popleft()
            if not given.done():
                self._taken += 1
                given.set_result(None)
        while self._suspects and self._settled and self._taken <= self._suspects[0][2] and not self._alone:
            admitted = heapq.heappop(self._suspects)[3]
            if not admitted.done():  # (one that was cancelled goes)
                self._alone = True
                admitted.set_result(True)
