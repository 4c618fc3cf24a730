"""What one process knows of a conversation it works on: the worker, and who waits in it."""

from __future__ import annotations

import asyncio
from contextvars import Context

from ..storage.store import fresh_token
from .outcomes import Waiter


class Worker:
    """One conversation's work in this process: who waits for it, and the task that does it, if one runs."""

    __slots__ = (
        "_claim",
        "_opening",
        "admitted",
        "alone",
        "context",
        "held",
        "reruns",
        "sending",
        "task",
        "waiters",
        "wake",
        "warm",
    )

    def __init__(self, opening: str) -> None:
        self._opening = opening
        self._claim = ""
        self.waiters: list[Waiter] = []
        self.task: asyncio.Task[None] | None = None
        self.context: Context | None = None  # that of its task; which turn waits for this worker stands in it
        self.wake = asyncio.Event()  # something new is in the log
        self.sending = 0  # the message that this worker has said it would send
        self.warm = False  # what the cache holds is as new as the act that started this worker
        self.reruns = 0  # turns in a row that were thrown away because their input had changed
        self.alone = False  # no other handler runs in this process while this worker works
        self.admitted = False  # it has a place already, or all of them
        self.held = False  # a call of `receive` does the work itself; no task may start

    def again(self) -> float:
        """The pause before what was thrown away is done again: none at first, then longer and longer."""
        self.reruns += 1
        self.warm = False
        return 0.0 if self.reruns <= 2 else min(0.002 * 2**self.reruns, 1.0)

    @property
    def lease(self) -> str:
        """The token under which this worker works."""
        if not self._claim:
            self._claim = f"{self._opening}:{fresh_token()}"
        return self._claim
