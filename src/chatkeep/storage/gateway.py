"""The one way to a driver: every act goes through here.

An act is counted and timed, kept from a store in trouble, and run again as it is where its outcome is unknown; drivers recognise their
own traces.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from ..drivers.base import Append, Driver, Entry, Erase, IndexText, Read, Row, Scan, Write
from ..errors import Corrupt, Replaced, Unavailable
from .circuit_breaker import StoreCircuitBreaker
from .relocation import explain, refuse_elsewhere
from .seal_note import refuse_sealed

T = TypeVar("T")
A = TypeVar("A")

log = logging.getLogger("chatkeep")

WRITES: dict[type, bool | None] = {Append: True, Write: True, Erase: True, IndexText: None}
"""Whether acts write, of which others only read; None: some do."""


class Measured(Protocol):
    """What is told how long each act took; see `Instrument`."""

    def measured(self, name: str, seconds: float) -> None:
        """Take an act's verb and how long it took."""


class Gateway:
    """Asks *driver*, once it is open. *lost* is called when the store was emptied, or another one answers in its place; *another*: as
    `Store` has it."""

    def __init__(
        self,
        driver: Driver,
        *,
        patience_s: float,
        lost: Callable[[], None],
        another: Callable[[], Driver] | None = None,
    ) -> None:
        self.driver = driver
        self.is_open = False
        """Whether acts get to the driver; while not, each of them is refused."""
        self.acts: Counter[str] = Counter()
        """How many acts were asked of the driver, by verb."""
        self.instruments: Sequence[Measured] = ()
        self._lost = lost
        self._circuit = StoreCircuitBreaker(
            patience_s=patience_s,
            replaced=self._replaced,
            look=lambda: driver.scan(Scan("due", limit=1)),
            explain=partial(explain, another=another),
        )

    @property
    def trouble(self) -> str:
        """What is wrong with the store, as far as the last act has shown, or the last write; "" when it answers."""
        return self._circuit.trouble

    @property
    def refuses_writes(self) -> bool:
        """Whether the store answers, and has not taken the last write, a moment ago."""
        return self._circuit.refuses_writes

    @property
    def replaced(self) -> bool:
        """Whether the store was emptied, or another one answers in its place."""
        return self._circuit.replaced

    @property
    def moved(self) -> bool:
        """Whether what it held is in another store now."""
        return self._circuit.moved

    async def open(
        self, first: Read, fits: Callable[[str], Awaitable[None]] | None = None
    ) -> tuple[Row, list[Entry]] | Corrupt | None:
        """Open the driver, and return what it answers to *first*, in the round trip that opening takes anyway; see `Store.open`."""
        await self.driver.open()
        await refuse_elsewhere(self.driver)
        _, found = await asyncio.gather(refuse_sealed(self.driver), self._read_first(first))
        if fits is not None:
            await fits(self.driver.epoch)
        self._circuit.reset()
        self.is_open = True
        return found

    async def _read_first(self, first: Read) -> tuple[Row, list[Entry]] | Corrupt | None:
        try:
            return await self.driver.read(first)
        except Corrupt as damage:
            return damage

    def act(self, verb: Callable[[A], Awaitable[T]], act: A) -> Awaitable[T]:
        """Have the driver do *act*, by *verb* of it. Raises `Unavailable` where the store is not open, or is left alone."""
        if not self.is_open:
            raise Unavailable("The store is not open; nothing was done. Try again when it is.")
        self.acts[type(act).__name__] += 1
        if self.instruments:
            return self._timed(verb, act)
        return self._circuit.settle(partial(verb, act), writes=WRITES.get(type(act), False))

    async def _timed(self, verb: Callable[[A], Awaitable[T]], act: A) -> T:
        began = time.perf_counter()
        try:
            return await self._circuit.settle(partial(verb, act), writes=WRITES.get(type(act), False))
        finally:
            took = time.perf_counter() - began
            for instrument in self.instruments:
                instrument.measured(type(act).__name__.lower(), took)

    def _replaced(self, replaced: Replaced) -> None:
        log.critical("%s", replaced)
        self._lost()
