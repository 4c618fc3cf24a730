"""What stands between chatkeep and a store that is in trouble: a circuit breaker and a retry budget.

After FAILURES in a row the store is left alone for PAUSE_S, then one caller asks for all; the others are told at once
instead of waiting for another deadline. Acts whose outcome is unknown are run again, at most AGAIN_A_S a second over all
callers: a store that comes back is not met by everything that has piled up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..errors import Moved, Overloaded, Replaced, StoreError, Unavailable, Uncertain

T = TypeVar("T")

FAILURES = 5
PAUSE_S = 1.0
AGAIN_A_S = 1000
APART_S = 0.2  # failures that are closer than this, of acts that began before, are one
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 1.0
REFUSED_S = 5.0  # so long what a write was refused with stands, where reads are answered


class RetryBudget:
    """A token bucket: *rate* attempts a second, and up to *rate* at once after a quiet second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._empty_at = 0.0  # until when every token is taken that will have come by then

    async def take(self, deadline: float) -> bool:
        """Wait for a token; take none, and return False at once, if it would come after *deadline*."""
        now = time.monotonic()
        at = max(self._empty_at, now - 1.0) + 1.0 / self._rate
        if at > deadline:
            return False
        self._empty_at = at
        if at > now:
            await asyncio.sleep(at - now)
        return True


class StoreCircuitBreaker:
    """Runs acts on a store. *patience_s*: how long an act whose outcome is unknown is run again. *replaced* is called
    when another store answers in its place, with what *explain* makes of that; from then on every act is refused, until *look*,
    asked once a pause, finds the right one there again."""

    def __init__(
        self,
        *,
        patience_s: float,
        replaced: Callable[[Replaced], None] = lambda _: None,
        look: Callable[[], Awaitable[object]] | None = None,
        explain: Callable[[Replaced], Awaitable[Replaced]] | None = None,
    ) -> None:
        self._trouble = ""
        self._refused = ""  # what a write was refused with while the store answered: a full disk is read from as before
        self._refused_until = 0.0
        self._tell_replaced = replaced
        self._look = look
        self._explain = explain or _as_it_is
        self._explaining = asyncio.Lock()
        self._looked_at = 0.0
        self._opening = 0  # an act says nothing of a store that was opened after the act began
        self._patience_s = patience_s
        self._budget = RetryBudget(AGAIN_A_S)
        self._failures = 0  # in a row; at FAILURES the circuit is open
        self._failed_at = 0.0
        self._probing = False
        self._replaced: Replaced | None = None

    @property
    def trouble(self) -> str:
        """What is wrong with the store, as far as the last act has shown, or the last write; "" when it answers."""
        if self._replaced is not None:
            return str(self._replaced)
        return self._trouble or (self._refused if self.refuses_writes else "")

    @property
    def refuses_writes(self) -> bool:
        """Whether the store answers, and has not taken the last write, a moment ago."""
        return self._refused != "" and self._trouble == "" and time.monotonic() < self._refused_until

    @property
    def replaced(self) -> bool:
        """Whether another store answers in its place."""
        return self._replaced is not None

    @property
    def moved(self) -> bool:
        """Whether what the store held is in another one now."""
        return isinstance(self._replaced, Moved)

    def reset(self) -> None:
        """Forget what was: the store has been opened anew."""
        self._opening += 1
        self._explaining = asyncio.Lock()  # a lock belongs to the loop that waited for it
        self._replaced, self._trouble, self._failures, self._failed_at = None, "", 0, 0.0
        self._refused = ""

    async def settle(self, act: Callable[[], Awaitable[T]], *, writes: bool | None = False, once: bool = False) -> T:
        """Return the answer of *act*; while nobody can say whether it happened, run the same act again, unless told *once*.
        *writes*: whether it shows if the store takes writes; None where it may write, or not.

        Raises `Unavailable` without trying while the store is left alone.
        """
        opening = self._opening
        if self._replaced is not None and not await self._is_back(opening):
            raise type(self._replaced)(self.trouble)
        probes = self._failures >= FAILURES
        if probes and (self._probing or time.monotonic() < self._failed_at + PAUSE_S):
            raise Unavailable(
                f"The store does not answer ({self.trouble}); nothing was done. It is asked again within {PAUSE_S:g} s."
            )
        failed_at = self._failed_at
        try:
            answer = await self._probe(act) if probes else await act()
        except Replaced as replaced:
            async with self._explaining:  # one asks for all
                if self._replaced is None and opening == self._opening:
                    self._replaced = await self._explain(replaced)
                    self._tell_replaced(self._replaced)
            if self._replaced is None or opening != self._opening:
                raise
            raise type(self._replaced)(self.trouble) from replaced
        except Overloaded:  # said here, where too much waits, and not by the store: those who wait tell how it is
            raise
        except (Unavailable, Uncertain) as fault:
            if opening != self._opening:
                raise
            if writes is False:
                self._refused = ""  # it is away
            elif writes and (self._refused or not self._trouble):
                self._refused, self._refused_until = str(fault), time.monotonic() + REFUSED_S
            self._trouble = str(fault)
            # A connection that breaks fails all that was on it: that is one failure, and not fifty.
            if (now := time.monotonic()) > self._failed_at + APART_S or self._failed_at == failed_at:
                self._failed_at = now
                self._failures += 1
            if once or not isinstance(fault, Uncertain):
                raise
            return await self._again(act, fault, writes)
        except StoreError:
            self._answered(opening)
            raise
        if self._trouble:
            self._answered(opening)
        if writes and self._refused and opening == self._opening:
            self._refused = ""
        return answer

    async def _is_back(self, opening: int) -> bool:
        """Tell whether the store that was opened answers again where another one did."""
        now = time.monotonic()
        if self._look is None or now < self._looked_at + PAUSE_S:
            return False
        self._looked_at = now  # one looks for all
        try:
            await self._look()
        except StoreError:
            return False
        if opening == self._opening:
            self._replaced = None
        return opening == self._opening

    async def _probe(self, act: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of *act*, the first one after the pause: it asks for all."""
        self._probing = True
        try:
            return await act()
        finally:
            self._probing = False

    def _answered(self, opening: int) -> None:
        if opening == self._opening:
            self._trouble, self._failures = "", 0

    async def _again(self, act: Callable[[], Awaitable[T]], unknown: Uncertain, writes: bool | None) -> T:
        """Run *act* again, with growing pauses, until its outcome is known; raises *unknown* if it stays so."""
        deadline, opening, longest = time.monotonic() + self._patience_s, self._opening, FIRST_WAIT_S
        while await self._budget.take(deadline) and opening == self._opening:
            try:
                return await self.settle(act, writes=writes, once=True)
            except (Uncertain, Unavailable):
                # (That the store was not even asked this time does not make the first time undone.)
                pause = min(random.uniform(0.0, longest), deadline - time.monotonic())
            if pause <= 0.0:
                break
            await asyncio.sleep(pause)
            longest = min(2 * longest, LONGEST_WAIT_S)
        raise unknown


async def _as_it_is(replaced: Replaced) -> Replaced:
    return replaced
