"""Where things wait: the parts of one engine, how they are wired, and how they open and close together.

A message comes in through `intake`, answered in the call (`receive`) or later (`accept`). Where more is to do than one write, a
worker (`workers`, `worker`, `work_loop`) works on its conversation: one task per conversation and process, which takes the lease, has
`turns` run the handler on what is unread, commits, and has `sender` send the replies out, until nothing is left. `sweeper` looks
now and then for whatever a crash, a failure or time has left, and its `backlog` works that off.
`changes` is what is done from outside a turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic

from ..conversation.merge import Rule
from ..conversation.state import StateCodec
from ..drivers.base import Key
from ..durations import seconds
from ..errors import Misconfigured, Moved, Unavailable
from ..kinds import refuse_other
from ..model import State
from ..settings import Settings
from ..storage.confinement import running_loop
from ..storage.store import Store
from .backlog import Backlog
from .changes import Changes
from .erasing import erase_conversation
from .high_water import HighWater
from .housekeeper import Housekeeper
from .indexer import Indexer
from .instruments import Instrument
from .intake import Intake
from .journal import Journal
from .lease_keeper import LeaseKeeper
from .needs import refuse_lacking
from .notifier import Notifier
from .pauses import PAUSES, Pauses
from .releases import Releases
from .runner import Runner
from .sender import Sender
from .shared import Shared
from .statistics import EngineStatistics
from .sweeper import Sweeper
from .turn_processor import TurnProcessor
from .watch import WatchHub
from .work_loop import WorkLoop
from .workers import Workers

if TYPE_CHECKING:
    from ..storage.spool import Spool

log = logging.getLogger("chatkeep")


def describe(engine: Engine[Any], what: str) -> str:
    """Return what is printed of an object over *engine*: *what* it is, where its store is, and whether that is open."""
    return f"<{what}, {engine.store.place}, {'open' if engine.is_open else 'not open'}>"


class Engine(Generic[State]):
    """Runs the bot's handler over conversations; see `app.Chatkeep` for the words that people use."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        states: StateCodec[State],
        *,
        merge_rules: Mapping[str, Rule] = MappingProxyType({}),
        journal: Spool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        shared = Shared(store, settings, states, clock)
        self.shared = shared
        self.store = store
        self.notifier = notifier = Notifier(store.driver, changed=self._changed_elsewhere, work=self._hear_of_work)
        self.watches = WatchHub(store, notifier, show_state=shared.show_state)
        self.leases = leases = LeaseKeeper(store, shared.policy, clock)
        first_s = seconds(settings.retry_after)
        self.sender = sender = Sender(
            store,
            shared.policy,
            leases,
            clock=clock,
            first=first_s,
            timeout_s=seconds(settings.send_timeout),
            instruments=shared.instruments,
        )
        high_water = HighWater(store, clock, lasting=settings.background)
        fresh_s = None if settings.background else seconds(settings.poll)
        self.pauses = pauses = Pauses(store, shared.policy, clock, fresh_s=fresh_s)
        self.runner = runner = Runner(settings.concurrency, seconds(settings.turn_timeout), self._count_abandoned)
        self.turns = turns = TurnProcessor(shared, runner, takes=sender.takes)

        def answers() -> bool:
            return turns.handler is not None

        versions = Releases(store, settings, clock, tell=shared.take_plan, answers=answers)
        housekeeper = Housekeeper(shared, leases=leases, sender=sender, pauses=pauses, high_water=high_water)
        loop = WorkLoop(
            shared,
            turns=turns,
            runner=runner,
            leases=leases,
            sender=sender,
            pauses=pauses,
            notifier=notifier,
            housekeeper=housekeeper,
        )
        self.workers = workers = Workers(
            shared, runner=runner, leases=leases, notifier=notifier, loop=loop, answers=answers
        )
        self.journal = None if journal is None else Journal(shared, journal, notifier)
        self.intake = Intake(
            shared,
            workers=workers,
            turns=turns,
            runner=runner,
            leases=leases,
            sender=sender,
            pauses=pauses,
            versions=versions,
            notifier=notifier,
            journal=self.journal,
        )
        backlog = Backlog(shared, workers=workers, leases=leases, high_water=high_water, housekeeper=housekeeper)
        self.sweeper = Sweeper(
            shared,
            workers=workers,
            pauses=pauses,
            versions=versions,
            backlog=backlog,
            housekeeper=housekeeper,
            indexer=Indexer(store),
            journal=self.journal,
            open_store=self._open_store,
            reopen_store=self._reopen_store,
        )
        self.changes = Changes(
            shared,
            workers=workers,
            turns=turns,
            sender=sender,
            pauses=pauses,
            notifier=notifier,
            rules=merge_rules,
        )
        self._life: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        store.observe(shared.instruments, changed=self._changed_here, seen=notifier.expect)

    @property
    def statistics(self) -> EngineStatistics:
        """What was counted since the start."""
        self.shared.statistics.rolled_back = self.store.rolled_back
        self.shared.statistics.unreadable = len(self.shared.unreadable)
        return self.shared.statistics

    @property
    def is_open(self) -> bool:
        """Whether messages are taken."""
        return self.shared.open

    @property
    def reached(self) -> bool:
        """Whether the store is open, and has answered the last act."""
        return not (self.shared.unopened or self.store.gateway.trouble)

    @property
    def trouble(self) -> str:
        """What keeps messages from being answered now, or soon may, as far as is known; "" when nothing does."""
        return self.outage or self.runner.trouble or self.shared.unreadable.trouble or self.pauses.trouble

    @property
    def outage(self) -> str:
        """Why no message is answered now; "" when they are."""
        if not self.is_open:
            return "this Chatkeep is not open"
        stuck = self.runner.trouble if self.runner.full else ""
        full, waits = (self.journal.full, self.journal.trouble) if self.journal is not None else ("", "")
        away = self.shared.unopened or self.store.gateway.trouble
        return (f"{away}; {full}" if away and full else away) or waits or stuck

    async def open(self) -> None:
        """Open the store and start the sweep, which answers at once what a crash has left unread; without `background`, `tend` does."""
        self.store.confinement.refuse_elsewhere()
        async with self._one_at_a_time():
            if self.is_open:
                raise Misconfigured("This Chatkeep is open already; nothing was done.")
            for instrument in self.shared.instruments:
                refuse_other(instrument, Instrument, "instrument", "Make it a subclass of chatkeep.Instrument.")
            abilities, settings = self.store.driver.abilities, self.shared.settings
            refuse_lacking(abilities, settings, answers=self.turns.handler is not None)
            self.store.confinement.begin()
            self.runner.open()
            try:
                if self.journal is not None:
                    await self.journal.spool.open()
                try:
                    await self._open_store()
                except Unavailable as fault:
                    if self.journal is None or isinstance(fault, Moved):
                        raise
                    log.error("%s; messages are taken into the journal until it can be used.", fault)
                if self.sender.outlet is not None:
                    await self.sender.outlet.open()
            except BaseException as fault:
                try:
                    await self._close_stores()
                finally:
                    self.store.confinement.end(fault)
                raise
            self.shared.open, self.watches.ended = True, False
            self.turns.open()
            self.leases.open()
            self.sender.open()
            self.sweeper.start()

    async def close(self) -> None:
        """Take nothing new, let running turns finish, hand the rest back, close the store."""
        self.store.confinement.refuse_elsewhere()
        async with self._one_at_a_time():
            await self._end()

    async def erase(self, key: Key, *, owners: Collection[str] | None = None) -> None:
        """Remove everything of *key*, here and in the store: see `erase_conversation`."""
        await erase_conversation(self.shared, self.journal, key, owners=owners)

    def _one_at_a_time(self) -> asyncio.Lock:
        """Give what one who opens or closes holds; each loop has its own, because a lock belongs to the loop that waited for it."""
        loop = running_loop()
        if self._life is None or self._life[0] is not loop:
            self._life = loop, asyncio.Lock()
        return self._life[1]

    async def _open_store(self) -> None:
        """Open the store, or leave it closed: messages go to it when it is known to be the right one, and for whom the bot is paused."""
        shared = self.shared
        try:
            paused = await self.store.open(None if self.journal is None else self.journal.spool.belong, first=PAUSES)
            self.sweeper.versions.restart()
            await self.sweeper.look_at_versions()
            await self.sweeper.note_pauses(paused)
            if shared.settings.background:
                self.notifier.open()
        except BaseException as fault:
            shared.unopened = f"the store has not been opened since the start ({fault})"
            await self.store.close()
            raise
        shared.unopened = ""

    async def _reopen_store(self) -> None:
        """Begin with what is there now, in the place of the store that was opened (`on_replaced="reopen"`)."""
        log.critical(
            "%s The store is opened anew and what it holds now is begun with, as on_replaced='reopen' says.",
            self.store.gateway.trouble,
        )
        self.shared.unopened = (
            f"the store is being opened anew, because another one is in its place ({self.store.gateway.trouble})"
        )
        await self.notifier.close()
        await self.store.close()
        await self._open_store()

    async def _close_stores(self) -> None:
        self.shared.unopened = self.shared.unopened or "the store was closed"
        try:
            await self.notifier.close()
            await self.store.close()
        finally:
            if self.journal is not None:
                await self.journal.spool.close()

    async def _end(self) -> None:
        self.shared.open = False
        try:
            await self.sweeper.stop()
            await self.intake.finish()
            await self.workers.stop()
        finally:
            await self.runner.close()
            self.leases.close()
            self.watches.close()
            try:
                await self.sender.close()
            finally:
                try:
                    await self._close_stores()
                finally:
                    self.store.confinement.end()

    def _changed_here(self, key: Key) -> None:
        # (Most acts are on a conversation that nobody here watches.)
        self.notifier.tell(key)
        if key in self.watches.by_key or self.watches.listening:
            self.watches.note_change(key, here=True)
        worker = self.workers.by_key.get(key)
        if worker is not None and worker.turn is not None:
            worker.turn.look(self.store.cached(key))

    def _changed_elsewhere(self, key: Key) -> None:
        """Take in that another instance has written to *key*: what is cached is old, and what somebody here waits for may be there."""
        worker = self.workers.by_key.get(key)
        if worker is None:
            self.store.forget(key)
        else:
            worker.warm = False
            worker.wake.set()
            if worker.turn is not None:
                worker.turn.look_again()
        self.watches.note_change(key, here=False)

    def _hear_of_work(self) -> None:
        self.sweeper.hear_of_work()

    def _count_abandoned(self, count: int) -> None:
        self.statistics.abandoned = count
