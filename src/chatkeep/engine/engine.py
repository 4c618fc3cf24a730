"""Where things wait: receive -> work -> sweep. With what it alone uses (workers, leases, sender, pauses, live) the one
place with a clock, timers, tasks and retries.

A message comes in by `receive` (answered in the call) or `accept` (answered by a worker here, or elsewhere, or after
a restart). Both put it in the log. A *worker* then works on the conversation: one task per conversation and process,
which takes the lease, runs the handler on what is unread and commits, until nothing is. When the handler is quick and
nothing else is going on, `receive` does all of that in one write. `sweep` finds through the `due` index whatever a
crash, a failure or time has left.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from msgspec import Raw, Struct, structs
from tenacity import RetryCallState, wait_exponential, wait_random

from ..conversation import commits, housekeeping, leases, sessions, snapshots, turns
from ..conversation.codec import entry_for
from ..conversation.keys import RESERVED, message_id
from ..conversation.record import NONE, Reminder
from ..conversation.snapshots import Commit, Draft, Outcome, Snapshot
from ..conversation.state import StateCodec
from ..drivers.base import AT_ONCE, Entry, Key, Lease
from ..errors import (
    BadMessage,
    ChatkeepError,
    Conflict,
    Corrupt,
    Duplicate,
    HandlerFailed,
    Misconfigured,
    Overloaded,
    Replaced,
    StoreError,
    TooLarge,
    Unavailable,
    Uncertain,
    Unsupported,
    UsageError,
)
from ..model import ASKING, Content, Message, Receipt, Role, State
from ..settings import Settings, seconds
from ..storage.store import PAGE, Store, fresh_token
from .hooks import STREAMING, Handler, replies_of
from .instruments import Instrument, surround_intake
from .lease_keeper import LeaseKeeper
from .needs import refuse_lacking
from .notifier import Notifier
from .pauses import PAUSES, Pauses
from .places import TurnedAway
from .runner import RUNNING, Fate, Run, Runner, told
from .sender import Sender
from .turn import Turn
from .watch import WatchHub
from .work import NotInLog, Work
from .worker import Waiter, Worker

if TYPE_CHECKING:
    from ..storage.spool import Spool

T = TypeVar("T")

log = logging.getLogger("chatkeep")

HOOK_PAUSE_S = 5.0
LOOK_S = 0.02
LOOK_LONGEST_S = 0.5
LOOKS_SKIPPED = 4  # so much longer are the pauses where news is heard: asking is then only for when it gets lost
SWEEP_PAGE = 100
ORPHANS_S = 5.0
UNREADABLE_MOST = 10_000
SHARED_S = 60.0  # a conversation that others have written to is not answered in one trip for so long
SHARED_MOST = 10_000
LONG_S = 60.0  # a worker that would wait longer goes; the sweep finds the conversation again


class Answer(Struct, frozen=True):
    """What a handler made of a turn."""

    state: Raw
    opens: bool
    replies: list[Content]
    reminders: Mapping[str, Reminder | None] = snapshots.NOTHING


class EngineStatistics(Struct, kw_only=True):
    """Counts since the start; waiting, workers, journaled (conversations with messages in the journal) and abandoned (runs of
    handlers that were given up, because their time was over or their caller went away, and still run) are now.

    reruns: turns thrown away because their input had changed. rolled_back: how often the store was found to hold less
    than it had answered.
    """

    turns: int = 0
    one_trip: int = 0
    reruns: int = 0
    duplicates: int = 0
    failures: int = 0
    dead: int = 0
    taken_over: int = 0
    rolled_back: int = 0
    journaled: int = 0
    waiting: int = 0
    workers: int = 0
    abandoned: int = 0


class Engine(Generic[State]):
    """Runs the bot's handler over conversations; see `keep.Chatkeep` for the words that people use."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        states: StateCodec[State],
        *,
        journal: Spool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.states = states
        self.policy = settings.policy()
        self.statistics = EngineStatistics()
        self.clock = clock
        self.instruments: list[Instrument] = []
        store.instruments = self.instruments
        self.handler: Handler[State] | None = None
        self.on_missing: Handler[State] | None = None
        self.reads_on = settings.on_outage == "read"
        self.settings = settings
        self._timeout_s = seconds(settings.turn_timeout)
        self._quick_s = seconds(settings.quick)
        self._poll_s = seconds(settings.poll)
        first = seconds(settings.retry_after)
        longest = seconds(settings.retry_longest)
        self._longest_s = max(2 * longest, seconds(settings.max_wait), HOOK_PAUSE_S)
        self._backoff = wait_exponential(multiplier=first, max=longest) + wait_random(0, first)
        self._pace_s = self._quick_s  # how long handlers have taken lately; at first nobody knows
        self._workers: dict[Key, Worker] = {}
        self.leases = LeaseKeeper(store, self.policy, clock)
        self.sender = Sender(store, self.policy, self.leases, clock=clock, first=first)
        self.pauses = Pauses(store, self.policy, clock)
        self._takes = self.sender.takes
        self._appending: set[asyncio.Task[Any]] = set()
        self.runner = Runner(settings.concurrency, self._timeout_s, self._count_abandoned)
        self._spool = journal
        self._journal_trouble = ""
        self._shared: OrderedDict[Key, float] = OrderedDict()  # others write there too, lately
        self._notifier = Notifier(store.driver, changed=self._changed_elsewhere, work=self._hear_of_work)
        store.changed = self._changed_here
        store.seen = self._notifier.expect
        self.live = WatchHub(store, self._notifier, shown=self._shown)
        self._work_waits = asyncio.Event()
        self._store_open = False
        self._unopened = "the store has not been reached since the start"
        self._life: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._unreadable: dict[Key, float] = {}  # not looked at again before
        self._look_for_orphans_at = 0.0
        self._streams = False  # the handler's reply is shown while it is made
        self._long_way = False  # a message has to be in the log before the handler runs
        self._open = False

    # -- life ---------------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Opens the store and starts the sweep, which answers at once what a crash has left unread."""
        self.store.confinement.refuse_elsewhere()
        async with self._one_at_a_time():
            if self._open:
                raise Misconfigured("This Chatkeep is open already; nothing was done.")
            refuse_lacking(self.store.driver.abilities, self.settings, answers=self.handler is not None)
            self.store.confinement.begin()
            self._work_waits = asyncio.Event()  # the last one belongs to the loop of the last opening
            self.runner.open()
            try:
                if self._spool is not None:
                    await self._spool.open()
                try:
                    await self._open_store()
                except Unavailable as fault:
                    if self._spool is None:
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
            self._begin()

    def _one_at_a_time(self) -> asyncio.Lock:
        """What one who opens or closes holds; each loop has its own, because a lock belongs to the loop that waited for it."""
        loop = asyncio.get_running_loop()
        if self._life is None or self._life[0] is not loop:
            self._life = loop, asyncio.Lock()
        return self._life[1]

    def _begin(self) -> None:
        self._open, self.live.ended = True, False
        self._streams = self._long_way = self.handler in STREAMING
        self.leases.open()
        if self.handler is not None or self._spool is not None:
            self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="chatkeep sweep")

    async def _open_store(self) -> None:
        """Opens the store, or leaves it closed: messages go to it when it is known to be the right one, and for whom the
        bot is paused."""
        try:
            await self.store.open(None if self._spool is None else self._spool.belong)
            await self._look_at_pauses()
            self._notifier.open()
        except BaseException as fault:
            self._unopened = f"the store has not been opened since the start ({fault})"
            await self.store.close()
            raise
        self._store_open = True

    async def _close_stores(self) -> None:
        self._store_open = False
        try:
            await self._notifier.close()
            await self.store.close()
        finally:
            if self._spool is not None:
                await self._spool.close()

    async def close(self) -> None:
        """Takes nothing new, lets running turns finish, hands the rest back, closes the store."""
        self.store.confinement.refuse_elsewhere()
        async with self._one_at_a_time():
            await self._end()

    async def _end(self) -> None:
        self._open = False
        try:
            await self._stop()
        finally:
            await self.runner.close()
            self.leases.close()
            self.live.close()
            try:
                if self.sender.outlet is not None:
                    await self.sender.outlet.close()
            finally:
                try:
                    await self._close_stores()
                finally:
                    self.store.confinement.end()

    @property
    def trouble(self) -> str:
        """What keeps messages from being answered now, or soon may, as far as is known; "" when nothing does."""
        return self.outage or self.runner.trouble

    @property
    def outage(self) -> str:
        """Why no message is answered now; "" when they are."""
        if not self._open:
            return "this Chatkeep is not open"
        if not self._store_open:
            return self._unopened
        stuck = self.runner.trouble if self.runner.full else ""
        return self.store.trouble or self._journal_trouble or stuck

    async def _stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
            self._sweeper = None
        await asyncio.gather(*self._appending, return_exceptions=True)
        deadline = time.monotonic() + self._timeout_s + self.runner.grace_s + 1.0
        while self._workers and time.monotonic() < deadline:
            self.runner.places.turn_away()
            for worker in self._workers.values():
                worker.wake.set()
            tasks = [worker.task for worker in self._workers.values() if worker.task]
            # (A worker without a task is a call of `receive` that does the work itself.)
            await (asyncio.wait(tasks, timeout=1.0) if tasks else asyncio.sleep(LOOK_S))
        late = [(key, worker, worker.task) for key, worker in self._workers.items() if worker.task]
        for _, _, task in late:
            task.cancel()
        if late:
            await asyncio.wait([task for _, _, task in late], timeout=self.runner.grace_s + 1.0)
        for key, worker, _ in late:
            with suppress(ChatkeepError):
                await self._give_back(key, worker, None)

    @property
    def reached(self) -> bool:
        """Whether the store is open, and has answered the last act."""
        return self._store_open and not self.store.trouble

    @property
    def is_open(self) -> bool:
        """Whether messages are taken."""
        return self._open

    def _count_abandoned(self, count: int) -> None:
        self.statistics.abandoned = count

    # -- in -----------------------------------------------------------------------------------------------------------------

    async def receive(
        self,
        key: Key,
        content: Content,
        *,
        id: str | None,
        role: Role,
        metadata: dict[str, Any] | None,
        owner: str,
        wait_if_duplicate: bool = True,
    ) -> Receipt:
        """Accepts a message and waits for its answer; for that of a known one only if *wait_if_duplicate*."""
        if not self.instruments:
            return await self._receive(key, content, id, role, metadata, owner, wait_if_duplicate)
        stack, intake = surround_intake(self.instruments, "receive", metadata)
        with stack:
            asked = content, id, role, intake.metadata or None, owner
            intake.receipt = await self._receive(key, *asked, wait_if_duplicate)
            return intake.receipt

    async def _receive(
        self,
        key: Key,
        content: Content,
        id: str | None,
        role: Role,
        metadata: dict[str, Any] | None,
        owner: str,
        wait_if_duplicate: bool,
    ) -> Receipt:
        self._refuse_own(key, "would wait for itself; use accept")
        if self.handler is None:
            raise Misconfigured("There is no handler: decorate one with @keep.on_message. Nothing was written.")
        draft = self._draft(key, content, id, role, metadata)
        self.statistics.waiting += 1
        try:
            if key not in self._workers:
                snapshot = self.store.cached(key)
                if snapshot is None and self.store.shared is not None:
                    snapshot = await self.store.fetched(key)
                if key not in self._workers and snapshot is not None and self._in_one_trip(snapshot, draft):
                    worker = self._workers[key] = self._worker_for()
                    worker.held = True
                    try:
                        receipt = await self._receive_in_one_trip(key, worker, snapshot, draft)
                    except (Unavailable, Uncertain) as fault:
                        return await self._journaled(key, draft, owner, fault)
                    finally:
                        worker.held = False
                        self._leave(key, worker)
                    if receipt is not None:
                        return receipt
            return await self._receive_in_two(key, draft, owner, wait_if_duplicate)
        finally:
            self.statistics.waiting -= 1

    async def accept(
        self, key: Key, content: Content, *, id: str | None, role: Role, metadata: dict[str, Any] | None, owner: str
    ) -> Receipt:
        """Makes a message durable; a worker answers it."""
        if not self.instruments:
            return await self._accept(key, content, id, role, metadata, owner)
        stack, intake = surround_intake(self.instruments, "accept", metadata)
        with stack:
            intake.receipt = await self._accept(key, content, id, role, intake.metadata or None, owner)
            return intake.receipt

    async def _accept(
        self, key: Key, content: Content, id: str | None, role: Role, metadata: dict[str, Any] | None, owner: str
    ) -> Receipt:
        draft = self._draft(key, content, id, role, metadata)
        try:
            snapshot, number, known, _ = await self._appended(key, draft, owner)
        except (Unavailable, Uncertain) as fault:
            return await self._journaled(key, draft, owner, fault)
        found = await self.outcome(snapshot, number) if known else None
        return self._receipt(key, draft.id, number, found or Outcome("accepted"), duplicate=known)

    def _refuse_closed(self, key: Key) -> None:
        if not self._open:  # where it was never opened, or elsewhere, `Confinement.check` has refused the call
            raise Unavailable(f"{key}: this Chatkeep is being opened or closed; nothing was written. Try again later.")

    def _refuse_own(self, key: Key, why: str) -> None:
        """Refuses what a handler must not do to the conversation whose turn it runs."""
        running = RUNNING.get()
        while running is not None:
            if running.key == key and not running.over:
                raise UsageError(f"{key}: a handler that does this to its own conversation {why}. Nothing was done.")
            running = running.outer

    def _draft(self, key: Key, content: Content, id: str | None, role: Role, metadata: dict[str, Any] | None) -> Draft:
        self._refuse_closed(key)
        if self.statistics.waiting >= self.settings.backlog or len(self._workers) >= self.settings.backlog:
            raise Overloaded(
                f"{key}: {self.settings.backlog:,} messages wait in this process already; nothing was written. Try again later."
            )
        now = round(self.clock() * 1000) / 1000  # as it is stored
        name = message_id(key, id) if id is not None else fresh_token()
        limit = self.settings.message_limit
        entry = entry_for(key, content, id=name, role=role, created_at=now, limit=limit, metadata=metadata)
        return Draft(role=role, content=content, id=name, created_at=now, metadata=metadata or {}, entry=entry)

    def _in_one_trip(self, snapshot: Snapshot, draft: Draft) -> bool:
        """Whether the handler may run before the message is in the log: it may begin at once, nobody else is there, and it
        will not take long."""
        record = snapshot.record
        return (
            self._pace_s < self._quick_s
            and self._store_open
            and not self._long_way
            and not self._takes(snapshot.row.key)
            and snapshot.row.lease is None
            and record.cursor == snapshot.row.head
            and (self.runner.places.free or self.runner.awaited)
            and not (self.runner.abandoned and self.runner.holds(snapshot.row.key))
            and not self._is_shared(snapshot.row.key)
            and not (self._spool and self._spool.holds(snapshot.row.key))
            and self.policy.overlap != "debounce"
            and not self.pauses.is_paused(snapshot)
            and not (self.on_missing and sessions.is_session_over(record, self.policy, draft.created_at))
            and draft.id not in [message.id for message in snapshot.messages]
        )

    async def _receive_in_one_trip(self, key: Key, worker: Worker, snapshot: Snapshot, draft: Draft) -> Receipt | None:
        """Runs the handler on the cached snapshot and writes message, replies and state at once; None: it must go the
        long way."""
        number = snapshot.row.head + 1
        arriving = Message(
            id=draft.id,
            number=number,
            role=draft.role,
            content=draft.content,
            created_at=draft.created_at,
            metadata=draft.metadata,
        )
        failure: TurnFailed | None = None
        try:
            answer = await self._run(snapshot, [arriving])
        except TurnFailed as raised:
            failure = raised
        except (Unsupported, Corrupt, NotBegun):
            return None  # nobody can answer it now: it goes into the log and waits there
        except NotInLog:
            self._long_way = True  # this handler takes steps: from now on the message comes first
            return None

        def decide(now: Snapshot) -> Commit | None:
            if not turns.has_same_input(snapshot, now) or snapshots.unread_messages(now) or now.row.lease:
                return None
            if failure is not None:
                return self._failure(now, [arriving], failure, arriving=draft, lease=worker.lease)
            return self._success(now, [arriving], answer, arriving=draft)

        try:
            after, said = await self.store.commit(snapshot, decide, at=self.clock())
        except Duplicate:
            return None
        except (BadMessage, TooLarge) as refused:
            if failure is not None:
                raise
            # The handler's own output cannot be stored: that is a failure of the handler, and is counted as one.
            failure = self._handler_failed(key, refused)
            try:
                after, said = await self.store.commit(snapshot, decide, at=self.clock())
            except Duplicate:
                return None
        if failure is not None and said is not None:
            self.statistics.dead += after.record.dead != snapshot.record.dead
        if said is None:
            self.statistics.reruns += 1
            self._share(key)
            return None
        number = said[0].number
        if failure is None:
            self.statistics.one_trip += 1
            return self._receipt(key, draft.id, number, Outcome("answered", said[1:]), duplicate=False)
        worker.warm, worker.held = True, False
        return await self._wait_for(key, worker, draft.id, after, number, duplicate=False, cause=failure)

    def _is_shared(self, key: Key) -> bool:
        """Whether other instances write here too: then what is cached is likely old, and a handler run on it wasted."""
        return bool(self._shared) and self._shared.get(key, 0.0) > time.monotonic()

    def _share(self, key: Key) -> None:
        self._shared[key] = time.monotonic() + SHARED_S
        self._shared.move_to_end(key)
        if len(self._shared) > SHARED_MOST:
            self._shared.popitem(last=False)

    def _changed_here(self, key: Key) -> None:
        self._notifier.tell(key)
        self.live.changed(key, here=True)

    def _changed_elsewhere(self, key: Key) -> None:
        """Another instance has written to *key*: what is cached is old, and what somebody here waits for may be there."""
        worker = self._workers.get(key)
        if worker is None:
            self.store.forget(key)
        else:
            worker.warm = False
            worker.wake.set()
        self.live.changed(key, here=False)

    def _shown(self, snapshot: Snapshot) -> Raw:
        """The state as people see it: of a live session, in today's shape."""
        key, record = snapshot.row.key, snapshot.record
        if sessions.is_session_over(record, self.policy, self.clock()):
            return self.states.fresh()
        if record.schema == self.states.schema:
            return record.state
        return self.states.encode(key, self.states.decode(key, record.state, record.schema))

    def _hear_of_work(self) -> None:
        self._work_waits.set()

    async def _receive_in_two(self, key: Key, draft: Draft, owner: str, wait_if_duplicate: bool) -> Receipt:
        try:
            snapshot, number, known, worker = await self._appended(key, draft, owner, waits=True)
        except (Unavailable, Uncertain) as fault:
            return await self._journaled(key, draft, owner, fault)
        if known:
            self.statistics.duplicates += 1
            found = await self.outcome(snapshot, number)
            if found is not None:
                return self._receipt(key, draft.id, number, found, duplicate=True)
            if not wait_if_duplicate:
                return self._receipt(key, draft.id, number, Outcome("accepted"), duplicate=True)
        if self.pauses.is_paused(snapshot):
            return self._receipt(key, draft.id, number, Outcome("paused"), duplicate=known)
        return await self._wait_for(key, worker, draft.id, snapshot, number, duplicate=known)

    async def _appended(
        self, key: Key, draft: Draft, owner: str, *, waits: bool = False
    ) -> tuple[Snapshot, int, bool, Worker]:
        if not self._store_open:
            raise Unavailable(f"{key}: {self._unopened}; nothing was written to the store.")
        if self._spool is not None and self._spool.holds(key):
            raise Unavailable(f"{key}: earlier messages still wait in the journal; nothing was written to the store.")
        return await self._to_the_end(self._append(key, draft, owner, waits=waits), key)

    async def note(self, key: Key, id: str, metadata: dict[str, Any]) -> None:
        """Puts a note of chatkeep's own into the log, once for each *id*."""
        await self._appended(key, self._draft(key, "", RESERVED + id, "system", metadata), "")

    async def _to_the_end(self, act: Coroutine[Any, Any, T], key: Key) -> T:
        """Runs *act* to its end: a caller that goes away in the middle leaves neither half an act nor a lease."""
        task = asyncio.create_task(act, name=f"chatkeep append {key}")
        self._appending.add(task)
        task.add_done_callback(self._appending.discard)
        task.add_done_callback(_heeded)
        return await asyncio.shield(task)

    async def _journaled(self, key: Key, draft: Draft, owner: str, fault: StoreError) -> Receipt:
        """Takes the message into the journal, if there is one: under the same id, so it does no harm if the store has
        it after all."""
        if self._spool is None or isinstance(fault, Overloaded | Replaced) or draft.entry is None:
            raise fault
        try:
            await self._to_the_end(self._spool.keep(key, draft.entry, at=draft.created_at, owner=owner), key)
        except StoreError as full:
            self._journal_trouble = f"the journal cannot be written ({full})"
            raise fault from full  # what is said of the store: perhaps the message is in it
        self.statistics.journaled = len(self._spool)
        return self._receipt(key, draft.id, 0, Outcome("journaled"), duplicate=False)

    async def _hand_over(self) -> None:
        """Gives the store what the journal has kept."""

        async def take(key: Key, entries: list[Entry], owner: str) -> None:
            await self.store.hand_in(key, entries, at=self.clock(), owner=owner)

        if self._spool is None or not (len(self._spool) or self._journal_trouble):
            return
        before, trouble = self._journal_trouble, ""
        try:
            count = await self._spool.hand_over(take)
            if refused := self._spool.refused:
                keys, fault = ", ".join(map(str, list(refused)[:5])), next(iter(refused.values()))
                trouble = f"the journal holds messages of {len(refused)} conversations that cannot be given to the store: {keys} ({fault})"
            if count:
                log.warning("%d messages of the journal were handed over to the store.", count)
                self._notifier.tell_of_work()
        except StoreError as fault:  # what it keeps must not keep the sweep from the rest
            trouble = f"the journal waits to be handed over ({fault})"
        self._journal_trouble = trouble
        if trouble and trouble != before:  # once, and not at every beat until it is over
            log.warning("%s", trouble)
        self.statistics.journaled = len(self._spool)

    async def erase(self, key: Key) -> None:
        """Removes everything of *key*, here and in the store."""
        if self._spool is not None and self._open:
            await self._spool.erase(key)
        await self.store.erase(key, at=self.clock())

    async def _append(self, key: Key, draft: Draft, owner: str, *, waits: bool) -> tuple[Snapshot, int, bool, Worker]:
        """Writes the message to the log, with the lease if this process is idle here, and sees to it that a worker
        works on it. *waits*: the caller waits for the answer."""
        assert draft.entry is not None
        worker = self._workers.get(key)
        idle = worker is None
        if worker is None:
            worker = self._workers[key] = self._worker_for()
        now = self.clock()
        asking = draft.role in ASKING
        sends = draft.role in snapshots.OUTWARD and not draft.metadata.get("sent")
        works = (asking and self.handler is not None and not self.pauses.covers(key)) or (sends and self._takes(key))
        lease = None
        if idle and works and asking and self.policy.overlap != "debounce":
            lease = Lease(worker.lease, now + self.policy.lease_s)
        try:
            snapshot, number, known = await self.store.append(
                key, draft.entry, at=now, due_at=AT_ONCE if asking or sends else None, lease=lease, owner=owner
            )
        except BaseException as fault:
            if idle:
                self._leave(key, worker)
            if isinstance(fault, Uncertain):  # a lease of ours may stand there
                self._look_for_orphans_at = 0.0
            raise
        if idle:
            worker.warm = True
        worker = self._workers.setdefault(key, worker)  # the one found before the write may have ended since
        if works:
            worker.wake.set()
            if waits:
                self._join(key, worker)
            self._start(key, worker)
        else:
            self._leave(key, worker)
            if sends or (asking and not self.pauses.covers(key)):
                self._notifier.tell_of_work()
        return snapshot, number, known, worker

    async def _wait_for(
        self,
        key: Key,
        worker: Worker,
        id: str,
        snapshot: Snapshot,
        number: int,
        *,
        duplicate: bool,
        cause: HandlerFailed | None = None,
    ) -> Receipt:
        answered: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        waiter = Waiter(snapshot.row.incarnation, number, answered)
        worker = self._workers.setdefault(key, worker)
        worker.waiters.append(waiter)
        worker.wake.set()
        self._join(key, worker)
        self._start(key, worker)
        newest = self.store.cached(key) if self._takes(key) else None
        if (
            newest is not None and newest.row.incarnation == waiter.incarnation
        ):  # the worker may have answered already, and be sending
            await self._resolve(worker, newest)
        try:
            found = await answered
        finally:
            if waiter in worker.waiters:
                worker.waiters.remove(waiter)
        if found.dead:
            raise HandlerFailed(
                f"{key}: message {id} (number {number}) was set aside: {found.dead}. It stays in the log; replay it when that is mended."
            ) from cause
        return self._receipt(key, id, number, found, duplicate=duplicate)

    def _receipt(self, key: Key, id: str, number: int, found: Outcome, *, duplicate: bool) -> Receipt:
        return Receipt(
            tenant=key.tenant,
            conversation=key.id,
            id=id,
            number=number,
            status=found.status,
            replies=owned(found.replies),
            duplicate=duplicate,
        )

    async def outcome(self, snapshot: Snapshot, number: int) -> Outcome | None:
        """What became of a message, with as much of the log behind it as is needed to know."""
        if snapshot.record.cursor < number:
            return None
        found: list[Message] = []
        if snapshot.messages and snapshot.messages[0].number <= number + 1:
            found = snapshots.messages_after(snapshot, number)
        else:
            # Replies stand in the order of what they answer: the first to something later ends the search.
            seen = number
            while page := await self.store.page(snapshot.row.key, snapshot.row.incarnation, after=seen, limit=PAGE):
                found += page
                seen = page[-1].number
                if any((message.reply_from or 0) > number for message in page):
                    break
        return snapshots.find_outcome(snapshot.record, number, found)

    # -- work ---------------------------------------------------------------------------------------------------------------

    def _worker_for(self) -> Worker:
        return Worker(self.leases.name)

    def _start(self, key: Key, worker: Worker) -> None:
        # Only a worker that is registered may work: two at once would take each other for lost.
        assert self._workers.get(key) is worker
        if worker.task is None and not worker.held:
            # Not in the context of whoever sent the message: the worker answers others' messages too.
            work = self._work(key, worker)
            if worker.context is None:
                worker.context = self.runner.context()
            worker.task = asyncio.get_running_loop().create_task(work, name=f"chatkeep {key}", context=worker.context)
            self.statistics.workers = len(self._workers)

    def _join(self, key: Key, worker: Worker) -> None:
        """Says that the turn of now, if there is one, waits for the worker: so it waits for no place, and may not wait for that
        turn."""
        if worker.context is None:
            worker.context = self.runner.context()
        if self.runner.join(worker.context):
            self.runner.places.let_by(key)

    def _leave(self, key: Key, worker: Worker) -> None:
        """Ends a worker that no task works on, unless somebody has come to wait in it."""
        if worker.task is None and not worker.held and self._workers.get(key) is worker:
            if worker.waiters or (worker.wake.is_set() and self._open):
                self._start(key, worker)
            else:
                del self._workers[key]

    async def _work(self, key: Key, worker: Worker) -> None:
        """Handles what is unread in one conversation, in order, and goes when nothing is."""
        looks = 0
        try:
            while True:
                worker.wake.clear()
                try:
                    pause = await (self._step(key, worker) if self._open else self._hand_back(key, worker))
                except TurnedAway:
                    pause = 0.0  # this Chatkeep closes
                except ChatkeepError as fault:
                    log.warning("%s: %s", key, fault)
                    if isinstance(fault, Unavailable | Uncertain):  # our lease stands, and nobody works under it
                        self._look_for_orphans_at = 0.0
                    if isinstance(fault, Corrupt | Unsupported):
                        self._put_off(key)
                    self._fail(worker, fault)
                    return
                if not self._open:
                    if pause is None:
                        return
                    continue
                if pause == 0.0:
                    looks = 0
                    continue
                if (pause is None or pause > LONG_S) and not worker.waiters:
                    if not worker.wake.is_set():
                        return
                    continue
                if pause is None:
                    # Somebody else works on it, or has just finished: look again, ever less often.
                    skipped = LOOKS_SKIPPED if self._notifier.live else 0
                    pause = min(LOOK_S * 2 ** (looks + skipped), LOOK_LONGEST_S * 2 ** (skipped // 2))
                    looks = min(looks + 1, 8)
                    self._notifier.expect(key)
                    worker.warm = False
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):  # (asyncio.wait_for may swallow a cancellation on 3.11)
                        await worker.wake.wait()
        except BaseException as fault:
            self._fail(worker, fault)
            raise
        finally:
            worker.task = None
            self._leave(key, worker)
            self.statistics.workers = len(self._workers)

    async def _step(self, key: Key, worker: Worker) -> float | None:
        """One step: 0 when there may be more to do, a pause to make first, None when there is nothing to do here."""
        snapshot = (self.store.cached(key) if worker.warm else None) or await self.store.reload(key)
        worker.warm = True
        now = self.clock()
        send_at = self.sender.due(snapshot)
        if send_at is not None and send_at <= now:
            await self._resolve(worker, snapshot)  # whoever waits for an answer need not wait for the platform
            return await self.sender.deliver(snapshot, worker)
        if not snapshots.unread_messages(snapshot):
            # Nothing waits, so even what nobody answers (an operator's message) is as good as handled.
            read = structs.replace(snapshot.record, cursor=max(snapshot.record.cursor, snapshot.row.head))
            await self._resolve(worker, structs.replace(snapshot, record=read))
            return 0.0 if await self._tend(snapshot, now) else None
        await self._resolve(worker, snapshot)
        if self.pauses.is_paused(snapshot):
            for waiter in worker.waiters:
                waiter.tell(Outcome("paused"))
            if snapshot.row.due_at is None or snapshot.row.due_at <= now:
                await self._commit(
                    snapshot,
                    lambda there: (
                        housekeeping.park(there, self.policy, at=now)
                        if self.pauses.is_paused(there) and there.row.lease in (None, worker.lease)
                        else None
                    ),
                )
            return None
        row = snapshot.row
        if row.lease and row.lease != worker.lease and row.leased_until > now and not self.leases.orphaned(row.lease):
            return None
        if self.runner.abandoned:
            first = snapshots.unread_messages(snapshot)[0]
            if (earlier := self.runner.earlier(self.handler, key, first.id)) is not None:
                return await self._outlast(snapshot, worker, earlier, first)
        ready = turns.ready_at(snapshot, self.policy)
        if ready > now:
            ready = ready if send_at is None else min(ready, send_at)
            return min(max(ready - now, LOOK_S), self._longest_s)  # a clock that was set back must not make it an hour
        # (One that another turn waits for would wait for the end of that turn: it runs beside it, and is not marked alone.)
        if not (worker.alone or self.runner.awaited) and leases.is_suspect(snapshot, died=self.leases.died(row.lease)):
            return await self._step_alone(key, worker, snapshot.record.begun)
        if row.lease != worker.lease or snapshot.record.alone != worker.alone:
            if not (worker.admitted or self.runner.awaited):
                return await self._step_admitted(key, worker)
            taken = await self._take(snapshot, worker, now)
            if taken is None:
                return 0.0
            snapshot = taken
        return await self._handle(snapshot, worker)

    async def _step_alone(self, key: Key, worker: Worker, rank: int) -> float | None:
        """As `_step`, while no other handler runs in this process: what dies then, dies of this message.

        Waiting for that counts for nothing, for the lease is taken afterwards. The message that was least often the only
        one comes first, so that the innocent ones are answered before the guilty one is tried again.
        """
        async with self.runner.places.alone(key, rank) as alone:
            if not alone:
                return 0.0
            worker.alone, worker.admitted, worker.warm = True, True, False
            try:
                return await self._step(key, worker)
            finally:
                worker.alone = worker.admitted = False

    async def _step_admitted(self, key: Key, worker: Worker) -> float | None:
        """As `_step`, with a place: the lease is taken afterwards, so that what only waits here is in nobody's hands, and the
        death of this process is none of its deaths."""
        places = self.runner.places
        if not places.take_at_once():
            worker.warm = False
            if not await places.take(key):
                return 0.0
        worker.admitted = True
        try:
            return await self._step(key, worker)
        finally:
            worker.admitted = False
            places.give_back()

    async def _take(self, snapshot: Snapshot, worker: Worker, now: float) -> Snapshot | None:
        """Takes the lease: the snapshot to work on, or None when there is something else to do first."""
        first = snapshots.unread_messages(snapshot)[0].number

        def decide(there: Snapshot) -> Commit | None:
            waiting = snapshots.unread_messages(there)
            if there.row.lease != snapshot.row.lease or not waiting or waiting[0].number != first:
                return None
            # (A lease that one of our own workers has lost, because the store failed it, say, is nobody's death.)
            died = self.leases.died(there.row.lease)
            return leases.take_lease(there, self.policy, token=worker.lease, at=now, died=died, alone=worker.alone)

        if snapshot.row.lease not in (None, worker.lease):
            self.statistics.taken_over += 1
        after, said = await self._commit(snapshot, decide)
        self.statistics.dead += after.record.dead != snapshot.record.dead
        return after if said is not None and after.row.lease == worker.lease else None

    async def _handle(self, snapshot: Snapshot, worker: Worker) -> float | None:
        """Runs one turn under the lease."""
        key = snapshot.row.key
        tried = turns.choose_batch(snapshot, self.policy)
        if not tried:
            return 0.0
        now = self.clock()
        try:
            if self.on_missing and sessions.is_session_over(
                snapshot.record, self.policy, tried[0].created_at, tried[0].number
            ):
                async with self.leases.renewing(key, worker.lease):
                    rebuilt = await self._rebuilt(snapshot, tried, admitted=worker.admitted)
                if rebuilt is None:
                    return self._again(worker)
                snapshot = rebuilt
            with self.live.turn(key, tried[-1].id):
                async with self.leases.renewing(key, worker.lease):
                    record_step = partial(self._record_step, snapshot)
                    answer = await self._run(snapshot, tried, record_step, admitted=worker.admitted)
                started = snapshot

                def decide(there: Snapshot) -> Commit | None:
                    # (Whoever has lost the lease was taken for dead: somebody else runs this turn, and will say what it does.)
                    if there.row.lease != worker.lease or not turns.has_same_input(started, there):
                        return None
                    return self._success(there, tried, answer, lease=worker.lease)

                try:
                    # (The lease may have been renewed meanwhile.)
                    after, said = await self._commit(self.store.cached(key) or snapshot, decide)
                except (BadMessage, TooLarge) as refused:
                    raise self._handler_failed(key, refused) from refused
            if said is None:
                return self._again(worker)
            worker.reruns = 0
            before, now_sends = snapshot.record.delivery, after.record.delivery
            if now_sends is not None and (before is None or before.sending != now_sends.sending):
                worker.sending = now_sends.sending
            return 0.0
        except (HookFailed, NotBegun) as failure:
            if isinstance(failure, HookFailed):
                self.statistics.failures += 1
            log.warning("%s", failure, exc_info=failure.__cause__)
            self._fail(worker, failure)
            await self._give_back(key, worker, now + HOOK_PAUSE_S)
            return HOOK_PAUSE_S
        except TurnFailed as raised:
            failed = raised
            log.warning("%s", failed, exc_info=failed.__cause__)
            started = snapshot

            def note(there: Snapshot) -> Commit | None:
                if not turns.has_same_input(started, there) or attempts(started) != attempts(there):
                    return None
                return self._failure(there, tried, failed, lease=worker.lease)

            after, noted = await self._commit(snapshot, note)
            if noted is None:
                return self._again(worker)
            self.statistics.dead += after.record.dead != snapshot.record.dead
            return self._pause_until(turns.ready_at(after, self.policy))
        except (Unsupported, Corrupt) as unreadable:
            # Not the message's fault, and no retry will help until somebody acts: it stays unread, and is looked at now and then.
            log.error("%s", unreadable)
            self._fail(worker, unreadable)
            await self._commit(
                snapshot,
                lambda there: (
                    housekeeping.park(there, self.policy, at=now) if there.row.lease == worker.lease else None
                ),
            )
            return None

    async def _outlast(self, snapshot: Snapshot, worker: Worker, earlier: Run, first: Message) -> float | None:
        """Waits while an abandoned run of the *first* unread message still runs: it must not run twice at once, here or
        elsewhere, so the lease is kept. Once the time of that run is over, each time that the message's next try is due counts
        as a failed one; when it has had them all it is set aside, and the lease goes."""
        key = snapshot.row.key
        if snapshot.row.lease != worker.lease:
            taken = await self._take(snapshot, worker, self.clock())
            if taken is None:
                return 0.0
            snapshot = taken
        changed = False

        def same(there: Snapshot) -> bool:
            return there.row.lease == worker.lease and attempts(there) == attempts(snapshot)

        if worker.wake.set not in earlier.gone:
            earlier.gone.append(worker.wake.set)
        async with self.leases.renewing(key, worker.lease, at_once=True):
            ready = max(turns.ready_at(snapshot, self.policy), self.clock() + self.runner.time_left(earlier))
            while self._open and earlier.still_runs and not changed and (left := ready - self.clock()) > 0:
                try:
                    async with asyncio.timeout(min(left, self._longest_s)):
                        await worker.wake.wait()
                except TimeoutError:
                    continue
                changed = True  # by whoever set the wake: what is there now is looked at first
        if not self._open or (changed and earlier.still_runs):
            return 0.0
        if not earlier.still_runs:
            after, _ = await self._commit(
                self.store.cached(key) or snapshot,
                lambda there: leases.release_lease(there, self.policy, at=self.clock()) if same(there) else None,
            )
            return self._pause_until(turns.ready_at(after, self.policy))
        self.statistics.failures += 1
        ran = time.monotonic() - earlier.began
        cause = TimeoutError(f"the handler still runs after {ran:.1f} s")
        failed = self._handler_failed(key, cause, still_runs=True)
        log.warning("%s", failed)
        after, _ = await self._commit(
            self.store.cached(key) or snapshot,
            lambda there: self._failure(there, [first], failed, lease=worker.lease) if same(there) else None,
        )
        self.statistics.dead += after.record.dead != snapshot.record.dead
        return 0.0

    def _pause_until(self, ready: float) -> float:
        return max(0.0, min(ready - self.clock(), self._longest_s))

    async def resend(self, key: Key, number: int) -> None:
        """Has a reply sent once more."""
        await self.sender.resend(key, number)
        if self._takes(key):
            worker = self._workers.setdefault(key, self._worker_for())
            worker.warm = False
            worker.wake.set()
            self._start(key, worker)
        else:
            self._notifier.tell_of_work()

    def _pause_after(self, attempts: int) -> float:
        attempt = RetryCallState(retry_object=cast(Any, None), fn=None, args=(), kwargs={})
        attempt.attempt_number = attempts
        return self._backoff(attempt)

    def _again(self, worker: Worker) -> float:
        self.statistics.reruns += 1
        return worker.again()

    def _put_off(self, key: Key) -> None:
        """Keeps the sweep from a conversation that cannot be read, so that it does not stand in the way of others."""
        now = self.clock()
        if len(self._unreadable) >= UNREADABLE_MOST:
            self._unreadable = {other: until for other, until in self._unreadable.items() if until > now}
        self._unreadable[key] = now + housekeeping.PARKED_S

    async def _run(
        self,
        snapshot: Snapshot,
        messages: list[Message],
        record_step: Callable[[str, Raw], Coroutine[Any, Any, None]] | None = None,
        *,
        admitted: bool = False,
    ) -> Answer:
        """Runs the handler on a fresh copy of the state. Raises `HandlerFailed`."""
        key = snapshot.row.key
        turn, opens = self._turn(snapshot, messages)
        turn.begin_work = partial(self._work_of, snapshot, messages[0].number, record_step)
        if self._streams:
            turn.on_piece = partial(self.live.say, key)

        def answer(said: Any) -> Answer:
            replies = replies_of(turn, said)
            raw = self.states.encode(key, turn.state)
            return Answer(raw, opens, replies, turn.work.set if turn.work is not None else snapshots.NOTHING)

        try:
            handler = cast("Handler[State]", self.handler)
            run = await self._judged(key, messages, handler, turn, answer, admitted)
        finally:
            turn.on_piece = None
            turn.begin_work = None
            work = turn.work
            if work is not None:
                work.over = True
        self.statistics.turns += 1
        self._pace_s = 0.8 * self._pace_s + 0.2 * run.took
        for instrument in self.instruments:
            instrument.measured("turn", run.took)
        if work is not None and work.refused:  # whatever the handler made of being refused a step
            raise NotInLog
        if run.fault is not None:
            self.statistics.failures += 1
            fault, run.fault = run.fault, None
            raise self._handler_failed(key, fault, still_runs=run.fate is Fate.ABANDONED)
        value, run.value = run.value, None  # (a task that the handler has left behind keeps the run)
        return cast(Answer, value)

    async def _judged(
        self,
        key: Key,
        messages: list[Message],
        handler: Handler[State],
        turn: Turn[State],
        then: Callable[[Any], Any],
        admitted: bool,
    ) -> Run:
        """A run of the handler, or the hook, and how it ended. Raises `NotBegun`."""
        ids = [message.id for message in messages]
        run = await self.runner.run(
            key,
            ids,
            handler,
            turn,
            then,
            admitted=admitted,
            observed=bool(self.instruments),
            instruments=self.instruments if handler is self.handler else (),
        )
        if run.fate is Fate.NOT_BEGUN:
            raise NotBegun(
                f"{key}: {run.fault}. Nothing was counted; the message stays unread and is tried again in {HOOK_PAUSE_S:g} s."
            ) from run.fault
        return run

    def _work_of(
        self, snapshot: Snapshot, number: int, record: Callable[[str, Raw], Coroutine[Any, Any, None]] | None
    ) -> Work:
        row, record_now = snapshot.row, snapshot.record
        name = f"{row.incarnation}.{number}"
        return Work(
            row.key,
            name,
            steps=record_now.steps,
            record=record,
            reminders=record_now.reminders,
            limit=self.settings.message_limit,
            clock=self.clock,
        )

    async def _record_step(self, started: Snapshot, name: str, result: Raw) -> None:
        """Keeps what a step has given, whatever else has changed meanwhile: it has been done."""

        def decide(there: Snapshot) -> Commit | None:
            same = (there.row.incarnation, there.record.cursor) == (started.row.incarnation, started.record.cursor)
            if not same or name in there.record.steps:
                return None
            return turns.record_step(there, name, result, self.policy, at=self.clock())

        await self._commit(self.store.cached(started.row.key) or started, decide)

    def _turn(self, snapshot: Snapshot, messages: list[Message]) -> tuple[Turn[State], bool]:
        """What the handler is given, on a fresh copy of the state, and whether it opens a session."""
        key, record, first = snapshot.row.key, snapshot.record, messages[0]
        opens = sessions.is_session_over(record, self.policy, first.created_at, first.number)
        raw, schema = (self.states.fresh(), self.states.schema) if opens else (record.state, record.schema)
        turn = Turn(
            tenant=key.tenant,
            conversation=key.id,
            session=record.session + opens,
            state=self.states.decode(key, raw, schema),
            messages=owned(messages),
            history=[] if opens else self._history(snapshot, first),
        )
        return turn, opens

    def _history(self, snapshot: Snapshot, first: Message) -> list[Message]:
        found = turns.slice_plain_history(snapshot, first, self.policy)
        return found or owned(turns.collect_history(snapshot, first, self.policy))

    async def _rebuilt(self, snapshot: Snapshot, messages: list[Message], *, admitted: bool = False) -> Snapshot | None:
        """Opens a session with the state that the application's hook rebuilds, committed before the handler runs.

        None when another instance went ahead with this session: then what was rebuilt here is thrown away.
        """
        key, first = snapshot.row.key, messages[0]
        turn, _ = self._turn(snapshot, messages)

        def state_of(found: Any) -> Raw:
            return self.states.fresh() if found is None else self.states.encode(key, found)

        cause: BaseException | None = None
        if (earlier := self.runner.earlier(self.on_missing, key, first.id)) is not None:
            cause = TimeoutError(f"it still runs after {time.monotonic() - earlier.began:.1f} s")
        else:
            hook = cast("Handler[State]", self.on_missing)
            run = await self._judged(key, messages[:1], hook, turn, state_of, admitted)
            cause, raw = run.fault, run.value
        if cause is not None:
            raise HookFailed(
                f"{key}: on_missing could not rebuild the state ({told(cause)}). Nothing was changed; the message stays "
                f"unread and is tried again in {HOOK_PAUSE_S:g} s."
            ) from cause
        session = snapshot.record.session + 1
        note = commits.make_note("rebuilt", f"{snapshot.row.incarnation}.{session}")

        def decide(there: Snapshot) -> Commit | None:
            if not turns.has_same_input(snapshot, there):
                return None
            record = sessions.open_session(
                there.record, raw, self.states.schema, number=first.number, at=first.created_at
            )
            return commits.commit_note(there, record, note, self.policy, at=self.clock())

        try:
            after, said = await self.store.commit(snapshot, decide, at=self.clock())
        except Duplicate:  # somebody rebuilt this session before us, and may have gone on with it
            self.store.forget(key)
            return None
        return after if said is not None else None

    def _success(
        self,
        there: Snapshot,
        tried: list[Message],
        answer: Answer,
        *,
        lease: str | None = None,
        arriving: Draft | None = None,
    ) -> Commit:
        return turns.finish_turn(
            there,
            tried,
            answer.replies,
            self.policy,
            state=answer.state,
            schema=self.states.schema,
            opens=answer.opens,
            at=self.clock(),
            lease=lease if self._open else None,
            arriving=arriving,
            reminders=answer.reminders,
            out=there.record.delivery is not None or self._takes(there.row.key),
        )

    def _failure(
        self,
        there: Snapshot,
        tried: list[Message],
        failure: TurnFailed,
        *,
        lease: str,
        arriving: Draft | None = None,
    ) -> Commit:
        now = self.clock()
        retry_at = now + self._pause_after(there.record.raised + 1)
        return turns.fail_turn(
            there,
            tried,
            _reason(failure),
            self.policy,
            at=now,
            retry_at=retry_at,
            arriving=arriving,
            lease=lease if failure.still_runs else None,
        )

    def _handler_failed(self, key: Key, cause: BaseException, *, still_runs: bool = False) -> TurnFailed:
        failure = TurnFailed(f"{key}: the handler failed ({told(cause)}); the message stays in the log.")
        failure.__cause__ = cause
        failure.still_runs = still_runs
        return failure

    async def _commit(
        self, snapshot: Snapshot, decide: Callable[[Snapshot], Commit | None]
    ) -> tuple[Snapshot, list[Message] | None]:
        return await self.store.commit_once(snapshot, decide, at=self.clock())

    async def _resolve(self, worker: Worker, snapshot: Snapshot) -> None:
        for waiter in list(worker.waiters):
            if waiter.incarnation != snapshot.row.incarnation:
                erased = Conflict(
                    f"{snapshot.row.key} was erased while its message {waiter.number} waited for an answer."
                )
                waiter.tell(erased)
            elif (found := await self.outcome(snapshot, waiter.number)) is not None:
                waiter.tell(found)
        worker.waiters = [waiter for waiter in worker.waiters if not waiter.answered.done()]

    def _fail(self, worker: Worker, fault: BaseException) -> None:
        for waiter in worker.waiters:
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
        worker.waiters = []

    async def _hand_back(self, key: Key, worker: Worker) -> None:
        """On the way out: gives the lease back, so that another instance, or the next start, goes on at once."""
        await self._give_back(key, worker, None)
        self._fail(worker, Unavailable(f"{key}: this instance is stopping"))

    async def _give_back(self, key: Key, worker: Worker, retry_at: float | None) -> None:
        snapshot = self.store.cached(key) or await self.store.load(key)
        if snapshot is None or snapshot.row.lease not in (worker.lease, None):
            return
        if snapshot.row.lease is not None:
            await self._commit(
                snapshot,
                lambda there: (
                    leases.release_lease(there, self.policy, at=self.clock(), retry_at=retry_at)
                    if there.row.lease == worker.lease
                    else None
                ),
            )
        if snapshots.unread_messages(snapshot):
            self._notifier.tell_of_work()

    # -- sweep --------------------------------------------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        trouble = ""
        while True:
            self._work_waits.clear()
            try:
                if not self._store_open:
                    await self._open_store()
                await self._hand_over()
                if self.handler is not None:
                    await self.sweep()
                await self._look_at_pauses()
                self.statistics.rolled_back = self.store.rolled_back
                trouble = ""
            except (StoreError, Misconfigured) as fault:
                if not trouble:  # once, and not at every beat until it is over
                    log.warning("The sweep could not look for work, and tries on: %s", fault)
                trouble = str(fault)
            except Exception:  # it must go on, whatever it was: nobody else finds what a crash has left
                log.exception("The sweep failed, and will look again.")
            # With jitter, so that instances do not all ask at once, on the clock's beat or when they hear of work.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s * random.uniform(0.8, 1.2)):
                    await self._work_waits.wait()
                await asyncio.sleep(random.uniform(0.0, LOOK_S))

    async def sweep(self) -> int:
        """Starts work on conversations that are due, a bounded number at a time; answers how many it started."""
        started, after, now = 0, None, self.clock()
        until = now
        if now >= self._look_for_orphans_at:
            # A lease hides its conversation until it runs out; those of a process that died on this host need not wait.
            until += self.policy.lease_s
            self._look_for_orphans_at = now + ORPHANS_S
        room = self.settings.concurrency * 2
        while self._busy < room:
            rows = await self.store.rows("due", until=until, after=after, limit=SWEEP_PAGE)
            for row in rows:
                due = (row.wake or 0.0) <= now or (
                    row.lease and (row.due_at or 0.0) <= now and self.leases.orphaned(row.lease)
                )
                put_off = self._unreadable.get(row.key, 0.0) > now or row.key == PAUSES
                if due and not put_off and row.key not in self._workers and self._busy < room:
                    worker = self._workers[row.key] = self._worker_for()
                    self._start(row.key, worker)
                    started += 1
            if len(rows) < SWEEP_PAGE:
                break
            after = rows[-1]
        return started

    @property
    def _busy(self) -> int:
        """Lanes, but for those that wait to work alone: they must not keep the sweep from the others."""
        return len(self._workers) - self.runner.places.lonely

    async def _tend(self, snapshot: Snapshot, now: float) -> bool:
        """Does what is due in a conversation without unread messages: brings reminders, ends the session, drops old log.

        Answers whether there is something to answer now.
        """
        row, record = snapshot.row, snapshot.record
        if not row.revision or row.due_at is None or row.due_at > now:
            return False
        oldest: list[Message] = []
        if self.policy.retention_s is not None:
            oldest = await self.store.page(
                row.key, row.incarnation, after=record.dropped, limit=housekeeping.PAGE_DROPPED
            )

        def decide(there: Snapshot) -> Commit | None:
            if there.row.head != row.head or snapshots.unread_messages(there):
                return None
            if there.row.lease and there.row.leased_until > now and not self.leases.orphaned(there.row.lease):
                return None  # somebody is at work here
            sends = self._takes(there.row.key)
            return housekeeping.do_housekeeping(
                there, self.policy, at=now, oldest=oldest, paused=self.pauses.is_paused(there), sends=sends
            )

        after, said = await self._commit(snapshot, decide)
        return bool(said) and bool(snapshots.unread_messages(after))

    # -- pauses -----------------------------------------------------------------------------------------------------------

    async def _look_at_pauses(self, *lifted: str | None) -> None:
        for tenant in dict.fromkeys([*lifted, *await self.pauses.look()]):  # perhaps another instance has lifted some
            if self.handler is not None:
                await self.pauses.each(tenant, self._answer_unread)

    async def pause(self, tenant: str | None) -> None:
        """Silences the bot for a tenant, or for all."""
        await self.pauses.pause(tenant)
        await self._look_at_pauses()

    async def resume(self, tenant: str | None, *, skips: bool) -> None:
        """Lets it answer again; if it *skips*, what came meanwhile is passed over first."""
        if skips:
            await self.pauses.skip(tenant)
        await self.pauses.resume(tenant)
        await self._look_at_pauses(tenant)

    async def pause_one(self, key: Key) -> None:
        """Silences the bot in one conversation."""
        self._refuse_own(key, "would throw its own turn away; pause it when the turn is over")
        await self.pauses.pause_one(key)

    async def resume_one(self, key: Key, *, skips: bool) -> None:
        """Lets it answer in one conversation again."""
        self._refuse_own(key, "would throw its own turn away; resume it when the turn is over")
        if skips:
            await self.pauses.skip_one(key)
        await self.pauses.resume_one(key)
        await self._answer_unread(key)

    async def _answer_unread(self, key: Key) -> None:
        """Starts work on a conversation that is not paused any more."""
        snapshot = await self.store.load(key)
        if snapshot is None or not snapshots.unread_messages(snapshot) or self.pauses.is_paused(snapshot):
            return
        # (What finds no room here is found by the sweep, when it looks at parked conversations again.)
        if self.handler is not None and len(self._workers) < self.settings.backlog:
            self._start(key, self._workers.setdefault(key, self._worker_for()))

    # -- state outside a turn -----------------------------------------------------------------------------------------------

    async def create(self, key: Key, *, owner: str) -> Snapshot:
        """Creates the conversation before anything is said in it; the one there is, if there is one."""
        self._refuse_closed(key)
        note = commits.make_note("begun", fresh_token())

        def decide(there: Snapshot) -> Commit | None:
            return (
                None
                if there.row.revision
                else commits.commit_note(there, there.record, note, self.policy, at=self.clock())
            )

        snapshot = await self.store.reload(key)
        if not snapshot.row.revision:
            snapshot = structs.replace(snapshot, row=structs.replace(snapshot.row, owner=owner))
        after, _ = await self._commit(snapshot, decide)
        return after

    async def change(self, key: Key, edit: Callable[[State], State | None], *, id: str | None = None) -> Snapshot:
        """Applies *edit* to the state, on top of whatever others write meanwhile; it may run more than once."""
        states = self.states

        def changed(raw: Raw, schema: int) -> tuple[Raw, int]:
            state = states.decode(key, raw, schema)
            given = edit(state)
            return states.encode(key, state if given is None else given), states.schema

        return await self._rewrite(key, changed, id)

    async def clear(self, key: Key, slot: str | None, *, id: str | None = None) -> Snapshot:
        """Clears one *slot* of the state, or all of it, which need not be readable for that."""
        return await self._rewrite(key, lambda raw, schema: self.states.cleared(key, raw, schema, slot), id)

    async def _rewrite(self, key: Key, rewritten: Callable[[Raw, int], tuple[Raw, int]], id: str | None) -> Snapshot:
        """Puts what *rewritten* makes of the stored state and its schema in its place."""
        self._refuse_closed(key)
        self._refuse_own(key, "would throw its own turn away; change turn.state")
        note = commits.make_note("change", fresh_token() if id is None else message_id(key, id))
        snapshot, now = self.store.cached(key) or await self.store.reload(key), self.clock()
        while self.on_missing and sessions.is_session_over(snapshot.record, self.policy, now):
            stand_in = Message(id=note.id, number=snapshot.row.head + 1, role="system", content="", created_at=now)
            rebuilt = await self._rebuilt(snapshot, [stand_in])
            if rebuilt is not None:
                snapshot = rebuilt
                break
            snapshot = await self.store.reload(key)

        def decide(there: Snapshot) -> Commit:
            record, states = there.record, self.states
            opens = record.state == NONE or sessions.is_session_over(record, self.policy, now)
            raw, schema = rewritten(*((states.fresh(), states.schema) if opens else (record.state, record.schema)))
            if opens and raw != NONE:
                record = sessions.open_session(record, raw, schema, number=there.row.head + 1, at=now)
            record = structs.replace(record, state=raw, schema=schema)
            return commits.commit_note(there, record, note, self.policy, at=now)

        after, _ = await self._commit(snapshot, decide)
        return after


class TurnFailed(HandlerFailed):
    """A failed attempt, which is counted. *still_runs*: the handler did not end when its time was over."""

    still_runs = False


class HookFailed(HandlerFailed):
    """on_missing failed: the message waits, and is not blamed."""


class NotBegun(HandlerFailed):
    """There was no thread for the handler: the message waits, and is not blamed."""


def owned(messages: list[Message]) -> list[Message]:
    """*messages* for somebody to keep or change: what they share with the cache is copied."""
    for message in messages:
        if message.metadata or type(message.content) is not str:
            break
    else:
        return list(messages)
    return [
        message
        if isinstance(message.content, str) and not message.metadata
        else structs.replace(message, content=deepcopy(message.content), metadata=deepcopy(message.metadata))
        for message in messages
    ]


def attempts(snapshot: Snapshot) -> tuple[int, int, int, int]:
    """Which attempt at which message a snapshot shows."""
    record = snapshot.record
    return record.cursor, record.begun, record.raised, record.deaths


def _heeded(task: asyncio.Task[Any]) -> None:
    """Takes note of how *task* ended: its caller may have gone, and nobody need hear of it then."""
    if not task.cancelled():
        task.exception()


def _reason(failure: HandlerFailed) -> str:
    return told(failure.__cause__ or failure)
