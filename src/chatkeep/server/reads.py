"""How many large answers are made at the same time: as many as leave the event loop on time for everybody else.

A page of a megabyte takes some ten milliseconds of the loop, in pieces. A loop that has begun hundreds of them answers nothing else,
health included, before all are made; and a store far away wants many at once. So the number follows how late the loop is: it halves when
the loop is late, and grows while it is not.
"""

from __future__ import annotations

import asyncio
from collections import deque

LEAST, MOST = 2, 256
BEGIN = 16
STEP = 4
"""By so many it grows at each look."""

LOOK_S = 0.02
LATE_S = 0.02
"""A loop that comes to a timer so late has too much to do."""


class Reads:
    """`async with reads:` holds a place while an answer is made, and not while it is sent. Who waits comes in its order."""

    def __init__(self) -> None:
        self.most = BEGIN
        self.running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        if self.running < self.most and not self._waiting:
            self._begin()
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given a place, and does not want it any more
                self._end()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._end()

    def _begin(self) -> None:
        self.running += 1
        self._look_later()

    def _end(self) -> None:
        self.running -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.running < self.most:
            place = self._waiting.popleft()
            if not place.done():
                self._begin()
                place.set_result(None)

    def _look_later(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(LOOK_S, self._look, loop.time() + LOOK_S)

    def _look(self, due: float) -> None:
        """Let fewer in where the loop is late, and more where it is not."""
        self._timer = None
        late_s = asyncio.get_running_loop().time() - due
        if late_s > LATE_S:
            self.most = max(LEAST, self.most // 2)
        elif self.running >= self.most:
            self.most = min(MOST, self.most + STEP)
        self._admit()
        if self.running:
            self._look_later()
