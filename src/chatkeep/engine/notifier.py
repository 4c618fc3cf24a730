"""What instances tell each other: this conversation has changed, and there is work for whoever is free.

Told off the write path, a few times a second at most, and only so that nobody has to ask so often: news may get lost,
and whoever waits for something goes on looking for it now and then.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable

from ..bounded import Newest
from ..drivers.base import Ability, Driver, Key, mark_of
from ..errors import ChatkeepError

log = logging.getLogger("chatkeep")

PAUSE_S = 0.02
MARKS_MOST = 100
KNOWN_MOST = 10_000
WORK = "!"


class Notifier:
    """Announces what changes here, and says what changed elsewhere: `changed` gets the keys, `work` is called when some waits."""

    def __init__(self, driver: Driver, *, changed: Callable[[Key], None], work: Callable[[], None]) -> None:
        self._driver = driver
        self._changed = changed
        self._work = work
        self._name = secrets.token_hex(4)  # ends every mark of ours: nobody has to hear their own news
        self._untold: dict[Key, None] = {}
        self._untold_work = False
        self._known: Newest[str, Key] = Newest(KNOWN_MOST)  # who may be meant by a mark
        self._teller: asyncio.Task[None] | None = None
        self.live = False

    def open(self) -> None:
        """Begin to listen, if the store can announce anything."""
        self.live = Ability.WATCH in self._driver.abilities
        if self.live:
            self._driver.watch(self._heard)

    async def close(self) -> None:
        """Announce what is left to be announced."""
        self.live = False
        while self._teller is not None:
            await self._teller

    def tell(self, key: Key) -> None:
        """Announce that something has changed in *key*."""
        if self.live:
            self._untold[key] = None
            if self._teller is None:
                self._start()

    def tell_of_work(self) -> None:
        """Announce that something is due that nobody here works on."""
        if self.live:
            self._untold_work = True
            if self._teller is None:
                self._start()

    def expect(self, key: Key) -> None:
        """Remember *key*, so that news of it is understood: somebody here waits for it."""
        if self.live:
            self._know(key)

    def _start(self) -> None:
        self._teller = asyncio.create_task(self._tell(), name="chatkeep news")

    async def _tell(self) -> None:
        try:
            await asyncio.sleep(PAUSE_S)
            untold, self._untold = list(self._untold), {}
            marks = [self._know(key) + self._name for key in untold]
            if self._untold_work:
                marks.append(WORK + self._name)
                self._untold_work = False
            for first in range(0, len(marks), MARKS_MOST):
                await self._driver.announce(marks[first : first + MARKS_MOST])
        except ChatkeepError as fault:
            log.debug("Not announced: %s", fault)
        finally:
            self._teller = None
        if self._untold or self._untold_work:  # (not where it was cancelled: its loop ends)
            self._start()

    def _know(self, key: Key) -> str:
        mark = mark_of(key)[:16]
        self._known[mark] = key
        return mark

    def _heard(self, marks: list[str]) -> None:
        for heard in marks:
            mark, name = heard[:-8], heard[-8:]
            if name == self._name:
                continue
            if mark == WORK:
                self._work()
            elif (key := self._known.get(mark)) is not None:
                self._changed(key)
