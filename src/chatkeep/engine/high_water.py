"""Up to when what is over may be ended: a clock that is suddenly ahead must not end sessions, drop logs or erase conversations.

The store has a mark, the latest time on which its processes agree. A clock may be ahead of it by an hour, and by as long as this
process has seen the mark stand; one that is further ahead counts when it has been so for an hour, and nobody with an earlier
clock was there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from ..conversation.backoff import AHEAD_S
from ..durations import in_words
from ..errors import Corrupt, Unsupported
from ..storage.records import Records
from ..storage.store import Store
from ..storage.tokens import fresh_token

log = logging.getLogger("chatkeep")

NAME = "clock"
PROBATION_S = 3600.0
"""A clock that was further ahead for so long is believed: the store was not used for a while, and nobody says otherwise."""

LOOK_S = 60.0
"""So often the mark is read."""

STEP_S = 600.0
"""It is moved on when it is so old."""


class Mark(Struct, frozen=True):
    """What time it was, by whose clock."""

    at: float = 0.0
    by: str = ""


class HighWater:
    """The mark of one store, as one process sees it. *clock*: where a program has brought its own, it may turn that as it likes
    while it runs. *lasting*: the process stays; one that is there for moments, now and then, has no hour to wait, and goes by its
    clock."""

    def __init__(self, store: Store, clock: Callable[[], float], *, lasting: bool = True) -> None:
        self._lasting = lasting
        self._store = store
        self._clock = clock
        self._marks: Records[Any] = Records(store, "chatkeep", Mark, clock=clock)
        self._turned = clock is not time.time
        self.restart()

    def restart(self) -> None:
        """Know nothing, as at an opening."""
        self._me = fresh_token()
        self._mark: Mark | None = None
        self._looking = asyncio.Lock()
        self._seen_at = self._last_at = time.monotonic()
        self._look_at = self._last_at + LOOK_S
        self._last = self._clock()
        self._doubted_at = 0.0
        self._unread = False

    async def keep(self) -> None:
        """Look at the mark first of all, and move it on when it is time to."""
        if self._lasting and (self._mark is None or time.monotonic() >= self._look_at):
            await self.reach(self._clock())

    async def reach(self, now: float) -> float:
        """Return up to when what is over may be ended *now*: until now, unless that is doubtful."""
        if not self._lasting:
            return now
        at = time.monotonic()
        moved = (now - self._last) - (at - self._last_at)
        self._last, self._last_at = now, at
        if self._turned and moved > 0.0:
            self._seen_at -= moved
        if self._mark is None or at >= self._look_at:
            async with self._looking:  # at the beginning all workers ask at once, and one look is enough for them
                if self._mark is None or at >= self._look_at:
                    await self._look(now, at)
        assert self._mark is not None
        agreed = self._mark.at + (at - self._seen_at)
        return now if now <= agreed + AHEAD_S else agreed

    async def _look(self, now: float, at: float) -> None:
        self._look_at = at + LOOK_S
        mark = await self._read(now)
        alone = mark == self._mark or self._mark is None or mark.by == self._me
        if mark != self._mark:
            self._seen_at = at if self._mark is not None else self._seen_at
            self._mark = mark
        ahead_s = now - (mark.at + (at - self._seen_at))
        if ahead_s > AHEAD_S:
            if not (self._doubted_at and alone):
                self._doubt(ahead_s, at, alone=alone)
            if at < self._doubted_at + PROBATION_S:
                return
            log.warning("The clock of this host is believed: it has said for an hour what it says.")
        self._doubted_at = 0.0
        if now > mark.at + STEP_S or not mark.by:
            self._mark = await self._write(Mark(now, self._me))
            self._seen_at = at

    async def _read(self, now: float) -> Mark:
        """Return the mark; where it cannot be read, the one that is known, or one by which nothing is over."""
        try:
            found = await self._marks.get(NAME) or Mark(await self._last_use(now))
        except (Corrupt, Unsupported) as fault:
            if not self._unread:
                log.error(
                    "The time on which processes agree is not known, so nothing is ended for up to an hour: %s", fault
                )
            self._unread = True
            return self._mark or Mark()
        self._unread = False
        return found

    async def _write(self, mine: Mark) -> Mark | None:
        try:
            found = await self._marks.change(NAME, lambda held: mine if held is None or held.at < mine.at else None)
        except Unsupported:  # a newer version's, which moves it on
            return mine
        except Corrupt:
            await self._marks.erase(NAME)
            found = await self._marks.change(NAME, lambda held: held or mine)
            log.warning("The time on which processes agree is known again.")
        return found

    def _doubt(self, ahead_s: float, at: float, *, alone: bool) -> None:
        self._doubted_at = at
        if self._unread:  # which was told
            return
        log.log(
            logging.INFO if alone else logging.ERROR,
            "The clock of this host is %s ahead of %s. Until it has been so for an hour nothing is ended that would be over only by "
            "this clock: sessions, logs, conversations.",
            in_words(round(ahead_s)),
            "the last use of the store" if alone else "another process that uses the store: set one of them right",
        )

    async def _last_use(self, now: float) -> float:
        rows = await self._store.rows("recent", limit=1)
        return min(rows[0].updated_at, now) if rows else now
