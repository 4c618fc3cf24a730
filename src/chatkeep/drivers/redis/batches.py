"""Acts in batches: the calls of one event-loop tick leave in one write, and at most two such batches are under way on a link, so that
what waits meanwhile goes together.

Answers come in order. A call that never left is `Unavailable`; one that left and was not answered is `Uncertain` if it writes, and its
connection is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import takewhile
from operator import attrgetter
from typing import Any, ClassVar

from ...errors import Overloaded, Unavailable
from ..base import WAITING, Pool
from ..batching import BatchingQueue, never_sent
from ..openable import end
from .connection import Connection, pack_command, refused_by
from .opening import PAUSE_S, Opener
from .scripts import VERBS, ScriptRun
from .seam import Address, Waiting

FLYING = 2  # batches under way on one link


class Call(Waiting, eq=False):
    """A command as its connection carries it."""

    packed: bytes
    slot: int | None
    whole: bool = False
    ends_batch: bool = False
    redirects: int = 0
    size: ClassVar[int] = 0


class CallsUnderWay:
    """The calls of one connection that have left and are not answered yet, the oldest first.

    *silent* is called when the oldest one has not been answered until its deadline.
    """

    def __init__(self, silent: Callable[[], None]) -> None:
        self.calls: deque[Call] = deque()
        self.batches = 0
        self.last_of_old: Call | None = None  # after it nothing comes back for want of a script
        self._silent = silent
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None

    def begin(self, batch: list[Call]) -> None:
        """Note a batch that is about to leave."""
        for call in batch:
            call.ends_batch = call is batch[-1]
        self.calls.extend(batch)
        self.batches += 1
        self._watch(batch[0].deadline)

    def hold_back(self) -> None:
        """Let nothing else leave until what has left is answered, but for what is sent again."""
        self.last_of_old = self.calls[-1]

    def end_first(self) -> bool:
        """Forget the oldest call, which is answered; True when something that had to wait for it may leave now."""
        call = self.calls.popleft()
        frees = call.ends_batch
        if frees:
            self.batches -= 1
        if call is self.last_of_old:
            self.last_of_old = None
            return True
        return frees

    def clear(self) -> list[Call]:
        """Return what will not be answered any more."""
        left = list(self.calls)
        self.calls.clear()
        self.batches, self.last_of_old = 0, None
        return left

    def close(self) -> None:
        """Look at no deadline any more."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _watch(self, deadline: float) -> None:
        if self._alarm is None or deadline < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(deadline, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if not self.calls:
            return
        now = self._loop.time()
        if self.calls[0].deadline <= now:
            self._silent()
        self._watch(max(self.calls[0].deadline, now + 0.01))


class Link:
    """One server: a connection while there is one, what waits for it, and what it has not answered yet.

    *answer* is given each answer with the call that it is for, *lost* is awaited when a server of a cluster cannot be reached, and
    *idle* is called when nothing waits any more.
    """

    def __init__(
        self,
        opener: Opener,
        address: Address | None,
        *,
        answer: Callable[[Link, Call, Any], None],
        lost: Callable[[Link], Awaitable[None]],
        idle: Callable[[], None],
    ) -> None:
        self.address = address
        self.busy = False
        self._opener = opener
        self._answer = answer
        self._lost = lost
        self._idle = idle
        self._queue: BatchingQueue[Call] = BatchingQueue(self._expire)
        self._under_way = CallsUnderWay(self._drop_silent)
        self._retiring = False
        self._left = False  # nothing that this server still answers counts
        self._fault = ""
        self._connection: Connection | None = None
        name = f"chatkeep redis link {address or opener.site.name}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)

    def put(self, call: Call) -> None:
        """Queue *call*; everything put in one tick leaves in one write."""
        if self._queue.put(call):
            self.busy = True
        else:
            call.settle(Overloaded(f"{WAITING} calls wait for {self._name} already; {call.undone}. Try again later."))

    def put_again(self, call: Call, act: ScriptRun) -> None:
        """Queue *call*, whose *act* met a server without its script, before all that was put after it.

        What left behind it meets the same and comes back too; until that is here nothing else leaves, or it would overtake.
        """
        call.packed, call.whole = pack_command(act.whole), True
        self._queue.put_back([call], place=self._whole)
        self._under_way.hold_back()

    @property
    def _whole(self) -> int:
        return sum(1 for _ in takewhile(attrgetter("whole"), self._queue.calls))

    def pool(self) -> Pool:
        """Return the connection, if there is one, and what has not left yet."""
        return Pool(self._connection is not None, 1, len(self._queue.calls))

    def retire(self) -> None:
        """Let what is under way be answered, then connect anew: this server is no longer the one to talk to."""
        self._retiring = True
        self._queue.wake()

    def leave(self, fault: str) -> None:
        """Connect anew at once, and take no answer of this server any more: what is under way is uncertain."""
        self._fault, self._left = fault, self._connection is not None
        if self._connection is not None:
            self._connection.abort()

    def take(self) -> list[Call]:
        """Return what has not left yet, which is somebody else's from now on."""
        calls = self._queue.clear()
        self._note()
        return calls

    async def close(self) -> None:
        """Drop the connection and whatever still hangs on it."""
        await end(self._task)
        await self._queue.close()
        self._under_way.close()
        for call in self.take():
            call.settle(Unavailable(f"{self._name} was closed; {call.undone}."))

    @property
    def _name(self) -> str:
        host = "" if self.address is None else f" ({self.address[0]}:{self.address[1]})"
        return f"{self._opener.site.name}{host}"

    async def _run(self) -> None:
        while True:
            await self._queue.filled()
            with contextlib.suppress(OSError):
                self._connection = await self._connected()
                self._fault = ""
                await self._talk(self._connection)

    async def _connected(self) -> Connection:
        """Return a connection, as soon as there is one, for as long as anybody waits for it."""
        with contextlib.suppress(OSError):
            return await self._attempt()
        # Who connects at the first try, as a function mostly does that is started for one message, does not wait for this import.
        from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

        attempts = AsyncRetrying(
            wait=wait_random_exponential(multiplier=0.02, max=PAUSE_S),
            retry=retry_if_exception_type(OSError),
            stop=lambda _: not self._queue.calls,
            reraise=True,
        )
        return await attempts(self._attempt)

    async def _attempt(self) -> Connection:
        try:
            return await self._opener.connect(self.address, loads=VERBS)
        except OSError as fault:
            self._fault = f"{type(fault).__name__}: {fault}"
            if refused := refused_by(fault):
                for call in self.take():
                    error = Unavailable(f"{self._name}: {refused}; {call.undone}. Mend its URL or its user.")
                    error.__cause__ = fault
                    call.settle(error)
            elif self.address is not None and self._opener.site.cluster:
                await self._lost(self)
            raise

    async def _talk(self, connection: Connection) -> None:
        """Write batches until the connection is lost; the answers are read beside it."""
        reader = asyncio.get_running_loop().create_task(self._read(connection), name="chatkeep redis reader")
        reader.add_done_callback(lambda _: self._queue.wake())
        under_way = self._under_way
        try:
            while not reader.done() and not (self._retiring and not under_way.calls):
                ready = len(self._queue.calls) if under_way.last_of_old is None else self._whole
                if not ready or under_way.batches >= FLYING or self._retiring:
                    await self._queue.woken()
                    continue
                batch = self._queue.take(ready=ready)
                under_way.begin(batch)
                await connection.send(b"".join([call.packed for call in batch]))
            if not self._retiring:
                await reader
        except Exception as fault:
            self._fault = self._fault or f"{type(fault).__name__}: {fault}"
        finally:
            reader.cancel()
            self._drop()  # before anything is awaited: who is cancelled in the meantime would leave the connection open
            await asyncio.wait([reader])

    async def _read(self, connection: Connection) -> None:
        while True:
            answers = await connection.answers()
            if self._left:
                return
            for answer in answers:
                self._settle(answer)

    def _settle(self, answer: Any) -> None:
        """Give the oldest call its answer."""
        under_way = self._under_way
        self._answer(self, under_way.calls[0], answer)
        if under_way.end_first():
            self._queue.wake()
        if not under_way.calls:
            self._note()

    def _drop(self) -> None:
        """End the connection at once: nothing of what it still holds back may reach the server later."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        self._retiring = self._left = False
        for call in self._under_way.clear():
            call.settle(call.unanswered(self._name, self._fault))
        self._note()

    def _expire(self, late: list[Call]) -> None:
        for call in late:
            call.settle(never_sent(self._name, self._fault, call.undone))
        self._note()

    def _drop_silent(self) -> None:
        self._fault = f"silent for {self._opener.site.timeout:g} s"
        if self._connection is not None:
            self._connection.abort()

    def _note(self) -> None:
        self.busy = bool(self._queue.calls or self._under_way.calls)
        if not self.busy:
            self._idle()
