"""A worker: one conversation's work in this process, who does it just now, and who waits for what becomes of it.

What a worker does is said in `work_loop`.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from enum import Enum

from msgspec import Struct

from ..conversation import snapshots
from ..conversation.snapshots import Outcome, Policy, Snapshot
from ..drivers.base import Key
from ..errors import HandlerFailed, Unavailable, Uncertain, describe_fault
from ..model import Message
from ..storage.store import Store
from ..storage.tokens import fresh_token
from .outcomes import Waiter, read_outcome
from .running_turn import RunningTurn
from .turn_processor import TurnFailed

TRIES_AWAITED = 3  # so many failures are waited for by a call of `receive`: what a moment mends is over by then


class WorkerState(Enum):
    """Who does the work on a conversation just now, and with what."""

    IDLE = "idle"
    """Nobody: the worker was just made, or its task has just ended."""
    HELD = "held"
    """A call of `receive`, in one trip; no task may start."""
    WORKING = "working"
    """Its task, which has no place for a handler: the runner waits for one."""
    ADMITTED = "admitted"
    """Its task, with one of the places."""
    ALONE = "alone"
    """Its task, with all places: no other handler runs in this process."""

    __hash__ = object.__hash__  # there is one of each, and Enum's own hash, in Python, would cost a turn 1 %


IDLE, HELD, WORKING, ADMITTED, ALONE = WorkerState

NEXT = {
    IDLE: (WORKING,),
    HELD: (IDLE,),
    WORKING: (IDLE, ADMITTED, ALONE),
    ADMITTED: (WORKING,),
    ALONE: (WORKING,),
}
"""The states that may follow each state; a worker begins IDLE or HELD. From ADMITTED none leads to ALONE: who waits for all places
must not have one."""


class Worker(Struct, eq=False):
    """One conversation's work in this process: its state, who waits for it, and the task that does it, if one runs.

    waiters: in the order in which they came. context: that of its task; which turn waits for this worker stands in it. turn: whose
    handler runs. sending: the message that it has said it would send. reruns: turns in a row that were thrown away because their input
    had changed. warm: what the cache holds is as new as the act that started it.
    """

    key: Key
    _opening: str
    state: WorkerState = IDLE
    waiters: dict[Waiter, None] = {}
    task: asyncio.Task[None] | None = None
    context: Context | None = None
    turn: RunningTurn | None = None
    sending: int = 0
    reruns: int = 0
    warm: bool = False
    _lease: str = ""
    _wake: asyncio.Event | None = None

    @property
    def wake(self) -> asyncio.Event:
        """Set when something new is in the log."""
        if self._wake is None:
            self._wake = asyncio.Event()
        return self._wake

    @property
    def is_woken(self) -> bool:
        """Whether something new is in the log."""
        return self._wake is not None and self._wake.is_set()

    def move(self, state: WorkerState) -> None:
        """Change to *state*. Raises RuntimeError where `NEXT` has no such change: then two would work at once."""
        if state not in NEXT[self.state]:
            raise RuntimeError(f"{self.key}: a worker that is {self.state.value} cannot become {state.value}.")
        self.state = state

    @property
    def has_place(self) -> bool:
        """Whether a handler may begin at once: this worker has a place, or all of them."""
        return self.state is ADMITTED or self.state is ALONE

    def back_off(self) -> float:
        """Tell the pause before what was thrown away is done again: none at first, then longer and longer."""
        self.reruns += 1
        self.warm = False
        return 0.0 if self.reruns <= 2 else min(0.002 * 2**self.reruns, 1.0)

    @property
    def lease(self) -> str:
        """The token under which this worker works."""
        if not self._lease:
            self._lease = f"{self._opening}:{fresh_token()}"
        return self._lease

    async def resolve(self, store: Store, snapshot: Snapshot) -> None:
        """Tell those who wait here what became of their messages, as far as *snapshot* shows."""
        incarnation, passed = snapshot.row.incarnation, snapshot.record.cursor
        if snapshot.record.redactions:  # one that still waits may have been withdrawn
            passed = snapshot.row.head
        # (Hundreds may wait for messages that it is not the turn of yet.)
        for waiter in [one for one in self.waiters if one.number <= passed or one.incarnation != incarnation]:
            if waiter.incarnation != incarnation:
                self.tell(waiter, Outcome("dropped"))  # it was erased with its conversation
            elif (found := await read_outcome(store, snapshot, waiter.number)) is not None:
                self.tell(waiter, found)

    def tell_answered(self, snapshot: Snapshot, said: list[Message]) -> None:
        """Tell those who wait here for what was answered in one act, which has left *snapshot* and added *said* to the log: nobody need
        read that, perhaps behind hundreds of messages that wait."""
        about = [message for message in said if message.reply_to]
        if not about:
            return
        first, last = min([one.reply_from or 0 for one in about]), max([one.reply_to or 0 for one in about])
        for waiter in [one for one in self.waiters if first <= one.number <= last]:
            told = any((one.reply_from or 0) <= waiter.number <= (one.reply_to or 0) for one in about)
            found = snapshots.find_outcome(snapshot.record, waiter.number, about) if told else None
            if found is not None and waiter.incarnation == snapshot.row.incarnation:
                self.tell(waiter, found)

    def tell(self, waiter: Waiter, found: Outcome | BaseException) -> None:
        """Tell *waiter*, who waits no more."""
        waiter.tell(found)
        self.waiters.pop(waiter, None)

    def tell_all(self, found: Outcome) -> None:
        """Tell all who wait here."""
        for waiter in list(self.waiters):
            self.tell(waiter, found)

    def fail(self, fault: BaseException) -> None:
        """Tell those who wait here that they wait in vain, because of *fault*."""
        for waiter in self.waiters:
            if isinstance(fault, Unavailable | asyncio.CancelledError):
                # "Certainly not written" would be a lie: it has been, only its answer has not.
                waiter.tell(
                    Uncertain(
                        f"Message number {waiter.number} is in the log and will be answered, but not now "
                        f"({str(fault) or 'this instance stops'}). Send it again under the same id to get the answer."
                    ),
                )
            else:
                waiter.tell(fault)
        self.waiters = {}

    def tell_failing(self, snapshot: Snapshot, policy: Policy, cause: TurnFailed | None = None) -> None:
        """Tell those who wait here that the answer may take long, once the first unread message has failed so often that no
        moment will mend it."""
        record = snapshot.record
        if record.failed_at and record.begun >= (policy.max_raised or TRIES_AWAITED):
            until = time.strftime("%H:%M:%S UTC", time.gmtime(record.failed_at + policy.retry_for_s))
            why = f" ({describe_fault(cause.__cause__ or cause)})" if cause else ""
            failing = HandlerFailed(
                f"{self.key}: message number {snapshots.unread_messages(snapshot)[0].number} has no answer yet: its handler has "
                f"failed {record.begun} times{why}. It is in the log and is tried again until {until}; what came after it waits. "
                "Send a message again under the same id to get its answer."
            )
            failing.__cause__ = cause
            self.fail(failing)
