"""What stands between chatkeep and a store that is in trouble: a circuit breaker, a retry budget, and the word on how
it is.

After FAILURES in a row the store is left alone for PAUSE_S, then asked once more; callers are told at once instead of
waiting for another deadline. Acts whose outcome is unknown are run again, at most AGAIN_A_S a second over all callers:
a store that comes back is not met by everything that has piled up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from aiolimiter import AsyncLimiter
from circuitbreaker import STATE_HALF_OPEN, CircuitBreaker
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_random_exponential

from .errors import Replaced, StoreError, Unavailable, Uncertain

T = TypeVar("T")

FAILURES = 5
PAUSE_S = 1.0
AGAIN_A_S = 1000
APART_S = 0.2  # failures that are closer than this, of acts that began before, are one


class Circuit:
    """Runs acts on a store. *patience_s*: how long an act whose outcome is unknown is run again. *replaced* is called
    when another store answers in its place."""

    def __init__(self, *, patience_s: float, replaced: Callable[[Replaced], None] = lambda _: None) -> None:
        self.trouble = ""
        self._tell_replaced = replaced
        self._patience_s = patience_s
        self._breaker = CircuitBreaker(FAILURES, PAUSE_S, StoreError)
        self._budget = AsyncLimiter(AGAIN_A_S, 1.0)
        self._failed_at = 0.0
        self._probing = False
        self._replaced: Replaced | None = None

    def reset(self) -> None:
        """Forgets what was: the store has been opened anew."""
        self._breaker.reset()
        self._replaced, self.trouble = None, ""

    async def settle(self, act: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        """The answer of *act*; while nobody can say whether it happened, runs the same act again, unless told *once*.

        Raises `Unavailable` without trying while the store is left alone.
        """
        if self._replaced is not None:
            raise Replaced(str(self._replaced))
        probes = self.trouble and self._breaker.state == STATE_HALF_OPEN and not self._probing
        if self.trouble and not probes and not self._breaker.closed:
            raise Unavailable(
                f"The store does not answer ({self.trouble}); nothing was done. It is asked again within {PAUSE_S:g} s."
            )
        began = time.monotonic()
        try:
            if probes:
                answer = await self._probe(act)
            else:
                answer = await act()
        except Replaced as replaced:
            if self._replaced is None:
                self._replaced, self.trouble = replaced, str(replaced)
                self._tell_replaced(replaced)
            raise
        except (Unavailable, Uncertain) as fault:
            self.trouble = str(fault)
            # A connection that breaks fails all that was on it: that is one failure, and not fifty.
            if (now := time.monotonic()) > self._failed_at + APART_S or began > self._failed_at:
                self._failed_at = now
                with suppress(StoreError), self._breaker:
                    raise
            if once or not isinstance(fault, Uncertain):
                raise
            return await self._again(act, fault)
        except StoreError:
            self._answered()
            raise
        if self.trouble:
            self._answered()
        return answer

    async def _probe(self, act: Callable[[], Awaitable[T]]) -> T:
        """The pause is over: one asks for all."""
        self._probing = True
        try:
            return await act()
        finally:
            self._probing = False

    def _answered(self) -> None:
        self.trouble = ""
        self._breaker.reset()

    async def _again(self, act: Callable[[], Awaitable[T]], unknown: Uncertain) -> T:
        deadline = time.monotonic() + self._patience_s

        async def again() -> T:
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._budget.acquire()
            except TimeoutError:
                raise unknown from None
            return await self.settle(act, once=True)

        def still_unknown(state: RetryCallState) -> T:
            # (That the store was not even asked this time does not make the first time undone.)
            raise unknown

        patient = AsyncRetrying(
            retry=retry_if_exception_type((Uncertain, Unavailable)),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            stop=stop_after_delay(self._patience_s),
            retry_error_callback=still_unknown,
        )
        return await patient(again)
