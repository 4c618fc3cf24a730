"""Keeps messages on this host while the store is away, and gives the store what was kept (`on_outage="journal"`).

Knows the spool and the store; nothing of callers, workers or handlers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..conversation.snapshots import Draft
from ..drivers.base import Entry, Key
from ..errors import Overloaded, Replaced, StoreError, Unavailable, Uncertain
from .notifier import Notifier
from .shared import Shared

if TYPE_CHECKING:
    from ..storage.spool import Spool

log = logging.getLogger("chatkeep")


class Journal:
    """The spool of one engine, and what is wrong with it."""

    def __init__(self, shared: Shared[Any], spool: Spool, notifier: Notifier) -> None:
        self.spool = spool
        self.full = ""
        """Why the last message could not be kept, as when the disk is full; "" when it was."""
        self._waiting = ""
        self._shared = shared
        self._notifier = notifier

    @property
    def trouble(self) -> str:
        """Why messages cannot be kept, or what was kept cannot be handed over; "" when nothing is wrong."""
        return self.full or self._waiting

    def holds(self, key: Key) -> bool:
        """Tell whether messages of *key* wait here."""
        return self.spool.holds(key)

    async def keep(self, key: Key, draft: Draft, owner: str, fault: StoreError, *, there: bool) -> None:
        """Keep a message that the store has refused with *fault*: under the same id, so it does no harm if the store has it
        after all. *there*: it is to begin no conversation. If the message cannot be kept, raises *fault* with the reason for that beside
        its own."""
        if isinstance(fault, Overloaded | Replaced) or draft.entry is None:
            raise fault
        try:
            await self.spool.keep(key, draft.entry, at=draft.created_at, owner=owner, there=there)
        except StoreError as full:
            self.full = f"the journal cannot be written ({full})"
            # What is said of the store stays true: perhaps the message is in it.
            kind = Uncertain if isinstance(fault, Uncertain) else Unavailable
            raise kind(f"{fault} It is not in the journal either: {full}") from full
        self.full = ""
        self._count()

    async def hand_over(self) -> None:
        """Give the store what was kept."""
        if not (len(self.spool) or self.trouble):
            return
        before, trouble = self._waiting, ""
        try:
            count = await self.spool.hand_over(self._take)
            if refused := self.spool.refused:
                keys, fault = ", ".join(map(str, list(refused)[:5])), next(iter(refused.values()))
                trouble = f"the journal holds messages of {len(refused)} conversations that cannot be given to the store: {keys} ({fault})"
            if count:
                log.warning("%d messages of the journal were handed over to the store.", count)
                self._notifier.tell_of_work()
        except StoreError as fault:  # what it keeps must not keep the sweep from the rest
            trouble = f"the journal waits to be handed over ({fault})"
        if dropped := self.spool.dropped:
            log.warning(
                "%d messages of the journal were not handed over: each was for a conversation that was there, and is not any more. "
                "Who sends one again is told so.",
                dropped,
            )
        self._waiting = trouble
        if not len(self.spool):
            self.full = ""
        if trouble and trouble != before:  # once, and not at every beat until it is over
            log.warning("%s", trouble)
        self._count()

    async def _take(self, key: Key, entries: list[Entry], owner: str, there: bool) -> bool:
        return await self._shared.store.hand_in(key, entries, at=self._shared.clock(), owner=owner, there=there)

    def _count(self) -> None:
        self._shared.statistics.journaled = len(self.spool)
