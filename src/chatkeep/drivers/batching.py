"""What waits for a store: one bounded queue between the callers of a driver and the connections that carry their calls.

A call that meets a free connection leaves in the tick in which it came, with what else came in that tick; while batches are under
way, what comes goes together into the next one. No call waits for others to come.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from ..errors import Unavailable
from .base import WAITING, Key

BATCH = 256
SHARE_LEAST = 4  # calls that are not worth a second batch
WAITS = 0.75
"""A call over HTTP may wait for so much of its time; the rest is for its answer. When calls come faster than the server does
them, what is sent is answered, and what is not was never sent."""

ANSWERS = 1 - WAITS
"""The rest."""


def never_sent(store: str, fault: str, undone: str) -> Unavailable:
    """Return what a call is told that has waited too long to be sent: because of *fault*, or, without one, of the calls before it."""
    why = f"cannot be reached ({fault})" if fault else "has more to do than it does in time"
    return Unavailable(f"{store} {why}; {undone}. Try again later.")


class Waiting(Protocol):
    """What the queue looks at in a call."""

    @property
    def deadline(self) -> float:
        """When, by the event loop's clock, it has waited too long to be sent."""

    @property
    def kind(self) -> Any:
        """Only calls of one kind share a batch."""

    @property
    def key(self) -> Key | None:
        """The conversation that no two batches may change at a time, if there is one."""

    @property
    def size(self) -> int:
        """About how many bytes it sends; one that is as large as a batch goes alone."""


C = TypeVar("C", bound=Waiting)


class BatchingQueue(Generic[C]):
    """Calls in the order in which they came, at most `WAITING`.

    *late* is given those that have waited too long. A batch has at most *most* calls and *room* bytes, but for one call that
    is larger.
    """

    __slots__ = (
        "_alarm",
        "_changing",
        "_flying",
        "_idle",
        "_late",
        "_loop",
        "_most",
        "_rings_at",
        "_room",
        "calls",
        "closing",
    )

    def __init__(self, late: Callable[[list[C]], None], *, most: int = BATCH, room: float = math.inf) -> None:
        self.calls: deque[C] = deque()
        self._late = late
        self._most = most
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._idle: list[asyncio.Future[None]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._flying = 0
        self._changing: set[Key] = set()
        self.closing = False

    def put(self, call: C) -> bool:
        """Queue *call*; False, and nothing is done, when too many wait already."""
        calls = self.calls
        if len(calls) >= WAITING:
            return False
        calls.append(call)
        if self._idle:
            self.wake()
        if call.deadline < self._rings_at:
            self._ring_at(call.deadline)
        return True

    def put_back(self, calls: Iterable[C], place: int = 0) -> None:
        """Queue calls that have been taken once before all that came later, behind the first *place*."""
        for number, call in enumerate(calls, place):
            self.calls.insert(number, call)
        self.wake()
        if self.calls and self.calls[0].deadline < self._rings_at:
            self._ring_at(self.calls[0].deadline)

    def take(self, *, ready: int | None = None, shares: int = 1) -> list[C]:
        """Return the next batch: one of so many *shares* of what waits and is under way, of the first *ready* calls.

        Not all at once: while the server works on one share, the callers of the other go on. Calls on a conversation that a
        batch under way changes stay, so that they are done in the order in which they came.
        """
        calls = self.calls
        left = len(calls) if ready is None else ready
        most = self._most
        if shares > 1:
            most = min(max(-(-(left + self._flying) // shares), SHARE_LEAST), most)
        batch: list[C] = []
        later: list[C] = []
        room, changing = self._room, self._changing
        kind = calls[0].kind if left else None
        taken = 0
        for call in islice(calls, left):
            if len(batch) >= most or call.kind is not kind:
                break
            room -= call.size
            if room < 0 and batch:
                break
            taken += 1
            if changing and call.key in changing:
                room += call.size
                later.append(call)
            else:
                batch.append(call)
        for _ in range(taken):
            calls.popleft()
        if later:
            calls.extendleft(reversed(later))
        return batch

    def begin(self, batch: list[C]) -> None:
        """Put no call on a conversation that *batch* changes into another batch, until `end`."""
        self._flying += len(batch)
        self._changing.update([call.key for call in batch if call.key is not None])

    def end(self, batch: list[C]) -> None:
        """Forget *batch*, which has been answered."""
        self._flying -= len(batch)
        self._changing.difference_update([call.key for call in batch])

    def clear(self) -> list[C]:
        """Return all that waits, which is the caller's from now on."""
        calls = list(self.calls)
        self.calls.clear()
        return calls

    async def filled(self, *, last: bool = False) -> bool:
        """Wait for a call, *last* as for `woken`; False when the queue is being closed and none is left."""
        while not self.calls and not self.closing:
            await self.woken(last=last)
        return bool(self.calls)

    async def woken(self, *, last: bool = False) -> None:
        """Wait until something is put, or `wake` is called; *last*: while another one waits, that one is woken."""
        idle: asyncio.Future[None] = self._loop.create_future()
        self._idle.insert(0 if last else len(self._idle), idle)
        await idle

    def wake(self) -> None:
        """Wake one of those that wait for something to do."""
        while self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
                return

    async def close(self, *consumers: asyncio.Task[None]) -> None:
        """Have *consumers* take what still waits, and return when they have ended."""
        self.closing = True
        while self._idle:
            self.wake()
        await asyncio.gather(*consumers)
        if self._alarm is not None:
            self._alarm.cancel()

    def _ring_at(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = when
        self._alarm = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        # It is not moved with each call: it rings once in a while, mostly for nobody, and looks when to ring next.
        self._alarm, self._rings_at = None, math.inf
        now = self._loop.time()
        late = [call for call in self.calls if call.deadline <= now]
        if late:
            left = [call for call in self.calls if call.deadline > now]
            self.calls.clear()
            self.calls.extend(left)
        if self.calls:
            self._ring_at(max(min([call.deadline for call in self.calls]), now + 0.01))
        if late:
            self._late(late)
