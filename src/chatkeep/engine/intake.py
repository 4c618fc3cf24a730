"""Takes messages in: into the log, where a worker answers them, or, where nothing else is going on and the handler is quick,
answered in the same write (one trip).

Knows that there are workers, and has one started; nothing of what a worker does, or of the sweep.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar

from msgspec import structs

from ..bounded import Newest
from ..conversation import releases, sessions, snapshots, turns
from ..conversation.codec import entry_for
from ..conversation.commits import first_due
from ..conversation.keys import RESERVED, message_id
from ..conversation.snapshots import Commit, Condition, Draft, Outcome, Snapshot
from ..drivers.base import AT_ONCE, Key, Lease
from ..durations import seconds
from ..errors import (
    BadMessage,
    Conflict,
    Corrupt,
    Duplicate,
    HandlerFailed,
    KeyReused,
    Misconfigured,
    Overloaded,
    StoreError,
    TooLarge,
    Unavailable,
    Uncertain,
    Unsupported,
)
from ..model import ASKING, Content, Message, Receipt, Role
from ..storage.snapshots import blank
from ..storage.store import InLog
from ..storage.tokens import fresh_token
from .instruments import Instrument, surround_arrival
from .journal import Journal
from .lease_keeper import LeaseKeeper
from .notifier import Notifier
from .outcomes import Waiter, read_outcome
from .pauses import Pauses
from .releases import Releases
from .run import RUNNING, refuse_own_turn
from .runner import Runner
from .sender import Sender
from .shared import Shared
from .turn_processor import Answer, NoPlace, NotBegun, TurnFailed, TurnProcessor
from .work import NotInLog
from .worker import IDLE, Worker
from .workers import Workers

T = TypeVar("T")

ERASED = Outcome("dropped")
"""What became of a message whose conversation was erased while the message was on its way, or waited: it went with it."""

CONTENDED_S = 60.0  # a conversation that others have written to is not answered in one trip for so long
CONTENDED_MOST = 10_000


class OneTrip:
    """Tells which messages may be answered in the act that writes them: their handler runs before they are in the log."""

    def __init__(
        self,
        shared: Shared[Any],
        *,
        workers: Workers,
        turns: TurnProcessor[Any],
        runner: Runner,
        sender: Sender,
        pauses: Pauses,
        journal: Journal | None,
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._workers = workers
        self._turns = turns
        self._runner = runner
        self._sender = sender
        self._pauses = pauses
        self._journal = journal
        # (With "debounce" a message waits for what comes behind it, however quick the handler is.)
        self._quick_s = 0.0 if shared.policy.overlap == "debounce" else seconds(shared.settings.quick)
        self._contended: Newest[Key, float] = Newest(CONTENDED_MOST)  # others write there too, lately

    def find_cached(self, key: Key, draft: Draft, only: Condition | None) -> Snapshot | None:
        """Find the cached conversation in which *draft* may be answered so; None where it may not, or nothing is cached."""
        if not self.may_run_first(key):
            return None
        snapshot = self._store.cached(key)
        return snapshot if snapshot is not None and self.fits(snapshot, draft, only) else None

    def may_run_first(self, key: Key) -> bool:
        """Tell whether the handler may run before a message of *key* is in the log, as far as can be told without the
        conversation: nobody works on it, nobody else was there lately, and it will not take long."""
        turns, runner = self._turns, self._runner
        return (
            key not in self._workers.by_key
            and turns.pace_s < self._quick_s
            and not self._shared.unopened
            and not turns.log_first
            and (self._sender.outlet is None or not self._sender.takes(key))
            and not (runner.abandoned and runner.has_abandoned(key))
            and not (self._contended and self._is_contended(key))
            and not (self._journal and self._journal.holds(key))
        )

    def fits(self, snapshot: Snapshot, draft: Draft, only: Condition | None) -> bool:
        """Tell whether *draft* finds the conversation so that the handler may run before it is in the log: nothing waits there,
        nobody works on it, and what the message asks for (*only*) holds."""
        record, row = snapshot.record, snapshot.row
        turns, policy = self._turns, self._shared.policy
        return (
            row.lease is None
            and record.cursor == row.head
            and not self._pauses.is_paused(snapshot)
            and (not policy.version or releases.may_answer(snapshot, policy, self._shared.plan, at=draft.created_at))
            and not (turns.on_missing and sessions.is_session_over(record, policy, draft.created_at))
            and not self._store.holds_id(snapshot, draft.id)
            and (only is None or only.holds(snapshot))
        )

    def note_others(self, key: Key) -> None:
        """Note that others have written to *key* while the handler ran."""
        self._contended[key] = time.monotonic() + CONTENDED_S

    def _is_contended(self, key: Key) -> bool:
        """Tell whether other instances write here too: then what is cached is likely old, and a handler run on it wasted."""
        return self._contended.get(key, 0.0) > time.monotonic()


class Intake:
    """The way in to one engine."""

    def __init__(
        self,
        shared: Shared[Any],
        *,
        workers: Workers,
        turns: TurnProcessor[Any],
        runner: Runner,
        leases: LeaseKeeper,
        sender: Sender,
        pauses: Pauses,
        versions: Releases,
        notifier: Notifier,
        journal: Journal | None,
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._workers = workers
        self._turns = turns
        self._runner = runner
        self._leases = leases
        self._sender = sender
        self._pauses = pauses
        self._versions = versions
        self._notifier = notifier
        self._journal = journal
        self._one_trip = OneTrip(
            shared, workers=workers, turns=turns, runner=runner, sender=sender, pauses=pauses, journal=journal
        )
        self._fresh_s = None if shared.settings.background else seconds(shared.settings.poll)
        self._appending: set[asyncio.Task[Any]] = set()

    def receive(
        self,
        key: Key,
        content: Content,
        *,
        id: str | None,
        role: Role,
        metadata: dict[str, Any] | None,
        owner: str,
        wait_if_duplicate: bool = True,
        only: Condition | None = None,
    ) -> Awaitable[Receipt]:
        """Accept a message and wait for its answer; for that of a known one only if *wait_if_duplicate*. *only*: as `accept` has it."""
        if self._shared.instruments:
            draft = partial(self._draft, key, content, id, role)
            take = partial(self._take, key, owner=owner, wait_if_duplicate=wait_if_duplicate, only=only)
            return _observe(self._shared.instruments, "receive", metadata, draft, take)
        return self._take(key, self._draft(key, content, id, role, metadata), owner, wait_if_duplicate, only)

    async def accept(
        self,
        key: Key,
        content: Content,
        *,
        id: str | None,
        role: Role,
        metadata: dict[str, Any] | None,
        owner: str,
        channel: str = "",
        only: Condition | None = None,
    ) -> Receipt:
        """Make a message durable; a worker answers it. *channel*: the one that it came in through; *only*: "dropped", without a number,
        where this does not hold when it is written."""
        if self._shared.instruments:
            draft = partial(self._draft, key, content, id, role, channel=channel)
            take = partial(self._accept, key, owner=owner, only=only)
            return await _observe(self._shared.instruments, "accept", metadata, draft, take)
        return await self._accept(key, self._draft(key, content, id, role, metadata, channel), owner, only)

    def check(
        self, key: Key, content: Content, *, id: str | None, role: Role, metadata: dict[str, Any] | None, waits: bool
    ) -> None:
        """Refuse a message as `accept` would, or, if its sender *waits*, `receive`, before anything is done for it."""
        if waits:
            _refuse_unanswered(self._turns)
        self._draft(key, content, id, role, metadata)

    async def finish(self) -> None:
        """Wait for the messages that are on their way into the log."""
        await asyncio.gather(*self._appending, return_exceptions=True)

    async def note(self, key: Key, id: str, metadata: dict[str, Any], *, into: Snapshot | None = None) -> bool:
        """Put a note of chatkeep's own into the log, once for each *id*. *into*: only in the conversation that this shows; False where that
        was erased."""
        draft = self._draft(key, "", RESERVED + id, "system", metadata)
        only = None if into is None else Condition(into)
        try:
            with suppress(InLog):
                await self._append_to_the_end(key, draft, "", only=only)
        except Conflict:
            return False
        return True

    def _take(
        self, key: Key, draft: Draft, owner: str, wait_if_duplicate: bool, only: Condition | None
    ) -> Awaitable[Receipt]:
        """Take *draft* the shortest way there is for it, as far as that is known without waiting for anything."""
        if RUNNING.get() is not None:
            refuse_own_turn(key, "would wait for itself; use accept")
        if self._turns.handler is None:
            _refuse_unanswered(self._turns)
        if self._fresh_s is None:
            snapshot = self._one_trip.find_cached(key, draft, only)
            if snapshot is not None:
                return self._receive_in_one_trip(key, snapshot, draft, owner, wait_if_duplicate, only)
        return self._receive(key, draft, owner, wait_if_duplicate, only)

    async def _receive(
        self, key: Key, draft: Draft, owner: str, wait_if_duplicate: bool, only: Condition | None
    ) -> Receipt:
        if self._fresh_s is not None:
            await self._pauses.refresh()
            await self._versions.refresh(after_s=self._fresh_s)
        statistics = self._shared.statistics
        statistics.waiting += 1
        try:
            snapshot = None
            if self._one_trip.may_run_first(key):
                worker = self._workers.hold(key)
                try:
                    snapshot = self._store.cached(key)
                    if snapshot is None and self._runner.may_begin and not self._pauses.covers(key):
                        snapshot = await self._find(key, owner, draft.created_at)
                finally:
                    self._workers.release(worker)
            fits = (
                snapshot is not None
                and self._one_trip.may_run_first(key)
                and self._one_trip.fits(snapshot, draft, only)
            )
            if snapshot is None or not fits:
                return await self._receive_in_two_trips(key, draft, owner, wait_if_duplicate, only)
        finally:
            statistics.waiting -= 1
        return await self._receive_in_one_trip(key, snapshot, draft, owner, wait_if_duplicate, only)

    async def _accept(self, key: Key, draft: Draft, owner: str, only: Condition | None) -> Receipt:
        if self._fresh_s is not None:
            await self._pauses.refresh()
            await self._versions.refresh(after_s=self._fresh_s)
        try:
            snapshot, number, known, _ = await self._append_to_the_end(key, draft, owner, only=only)
        except InLog as unread:
            return _make_receipt(key, draft.id, unread.number, Outcome("accepted"), duplicate=unread.known)
        except (Unavailable, Uncertain) as fault:
            return await self._journaled(key, draft, owner, fault, only)
        except Conflict:
            return _make_receipt(key, draft.id, 0, ERASED, duplicate=False)
        if known:
            _refuse_other_content(key, draft, snapshot, number)
        found = await read_outcome(self._store, snapshot, number) if known else None
        return _make_receipt(key, draft.id, number, found or Outcome("accepted"), duplicate=known)

    def _draft(
        self,
        key: Key,
        content: Content,
        id: str | None,
        role: Role,
        metadata: dict[str, Any] | None,
        channel: str = "",
    ) -> Draft:
        shared = self._shared
        if not shared.open:
            shared.refuse_closed(key)
        backlog, limit = shared.settings.backlog, shared.settings.message_limit
        if shared.statistics.waiting >= backlog or len(self._workers.by_key) >= backlog:
            raise Overloaded(
                f"{key}: {backlog:,} messages wait in this process already; nothing was written. Try again later."
            )
        now = round(shared.clock() * 1000) / 1000  # as it is stored
        name = message_id(key, id) if id is not None else fresh_token()
        entry = entry_for(
            key, content, id=name, role=role, created_at=now, limit=limit, metadata=metadata, channel=channel
        )
        return Draft(role=role, content=content, id=name, created_at=now, metadata=metadata or {}, entry=entry)

    async def _find(self, key: Key, owner: str, at: float) -> Snapshot | None:
        """Find a conversation that is not cached, for one trip that only reads: where nothing else is going on, the turn takes
        one act more, and not two that write. *at*: the time of its message. A blank one where there is none; None: it can't be read,
        and goes the long way."""

        def needed(found: Snapshot) -> int:
            return turns.count_needed(found, self._shared.policy, at=at)

        try:
            found = await self._store.fetched(key) if self._store.shared is not None else None
            return found or await self._store.load_to_answer(key, needed) or blank(key, owner)
        except (StoreError, Unsupported):
            return None  # an append waits for a store that comes back, and what can't be read waits in the log

    async def _receive_in_one_trip(
        self, key: Key, snapshot: Snapshot, draft: Draft, owner: str, wait_if_duplicate: bool, only: Condition | None
    ) -> Receipt:
        """Run the handler on a snapshot and write message, replies and state at once; go the long way where that cannot be."""
        shared, processor, worker = self._shared, self._turns, self._workers.hold(key)
        shared.statistics.waiting += 1
        arriving = Message(
            id=draft.id,
            number=snapshot.row.head + 1,
            role=draft.role,
            content=draft.content,
            created_at=draft.created_at,
            metadata=draft.metadata,
        )
        failure: TurnFailed | None = None

        def decide(now: Snapshot) -> Commit | None:
            if snapshots.unread_messages(now) or now.row.lease or (only is not None and not only.holds(now)):
                return None
            if failure is None:
                return processor.finish(snapshot, now, [arriving], answer, arriving=draft)
            if not turns.has_same_input(snapshot, now):
                return None
            tried = structs.replace(arriving, number=now.row.head + 1)
            return processor.fail(now, [tried], failure, arriving=draft, lease=worker.lease)

        try:
            try:
                try:
                    seen = snapshot
                    if turns.lacks_history(snapshot, shared.policy, arriving):
                        seen = await self._store.reach_back(snapshot)
                    begun = processor.begin(seen, [arriving])
                    answer = begun if isinstance(begun, Answer) else await processor.wait(begun)
                except TurnFailed as raised:
                    failure = raised
                try:
                    after, said = await self._store.commit(snapshot, decide, at=shared.clock(), begins=True)
                except (BadMessage, TooLarge) as refused:
                    if failure is not None:
                        raise
                    # The handler's own output cannot be stored: that is a failure of the handler, and is counted as one.
                    failure = await processor.fail_attempt(snapshot, [arriving], refused)
                    after, said = await self._store.commit(snapshot, decide, at=shared.clock(), begins=True)
                if said is None:
                    shared.statistics.reruns += 1
                    self._one_trip.note_others(key)
                elif failure is None:
                    shared.statistics.one_trip += 1
                    return Receipt(
                        tenant=key.tenant,
                        conversation=key.id,
                        id=draft.id,
                        number=said[0].number,
                        status="answered",
                        replies=snapshots.copy_messages(said[1:]),
                    )
                else:
                    shared.statistics.dead += after.record.dead != snapshot.record.dead
                    worker.warm = True
                    worker.move(IDLE)  # from here on its task does the work
                    number = said[0].number
                    return await self._wait_for(key, worker, draft.id, after, number, duplicate=False, cause=failure)
            except (Duplicate, NoPlace, NotBegun, NotInLog):
                pass  # it is in the log, or has to be there before it is answered
            except (Unsupported, Corrupt):
                # Nobody can answer it here, or others have written meanwhile what cannot be read here: the message waits in the log for
                # who can.
                self._store.forget(key)
            except (Unavailable, Uncertain) as fault:
                return await self._journaled(key, draft, owner, fault, only)
            finally:
                self._workers.release(worker)
            return await self._receive_in_two_trips(key, draft, owner, wait_if_duplicate, only)
        finally:
            shared.statistics.waiting -= 1

    async def _receive_in_two_trips(
        self, key: Key, draft: Draft, owner: str, wait_if_duplicate: bool, only: Condition | None
    ) -> Receipt:
        try:
            snapshot, number, known, worker = await self._append_to_the_end(key, draft, owner, waits=True, only=only)
        except InLog as unread:
            raise unread.newer from None
        except (Unavailable, Uncertain) as fault:
            return await self._journaled(key, draft, owner, fault, only)
        except Conflict:
            return _make_receipt(key, draft.id, 0, ERASED, duplicate=False)
        if known:
            _refuse_other_content(key, draft, snapshot, number)
            self._shared.statistics.duplicates += 1
            found = await read_outcome(self._store, snapshot, number)
            if found is not None:
                return _make_receipt(key, draft.id, number, found, duplicate=True)
            if not wait_if_duplicate:
                return _make_receipt(key, draft.id, number, Outcome("accepted"), duplicate=True)
        if self._pauses.is_paused(snapshot):
            return _make_receipt(key, draft.id, number, Outcome("paused"), duplicate=known)
        return await self._wait_for(key, worker, draft.id, snapshot, number, duplicate=known)

    async def _append_to_the_end(
        self, key: Key, draft: Draft, owner: str, *, waits: bool = False, only: Condition | None = None
    ) -> tuple[Snapshot, int, bool, Worker]:
        if self._shared.unopened:
            raise Unavailable(f"{key}: {self._shared.unopened}; nothing was written to the store.")
        if self._journal is not None and self._journal.holds(key):
            raise Unavailable(f"{key}: earlier messages still wait in the journal; nothing was written to the store.")
        return await self._to_the_end(self._append(key, draft, owner, waits=waits, only=only), key)

    async def _append(
        self, key: Key, draft: Draft, owner: str, *, waits: bool, only: Condition | None
    ) -> tuple[Snapshot, int, bool, Worker]:
        """Write the message to the log, with the lease if this process is idle here, and see to it that a worker
        works on it. *waits*: the caller waits for the answer."""
        assert draft.entry is not None
        worker = self._workers.by_key.get(key)
        idle = worker is None
        if worker is None:
            worker = self._workers.register(key)
        now = self._shared.clock()
        asking = draft.role in ASKING
        sends = draft.role in snapshots.OUTWARD and not draft.metadata.get("sent")
        answers = asking and self._turns.handler is not None and not self._pauses.covers(key)
        works = answers or (sends and self._sender.takes(key))
        works = works and (waits or self._fresh_s is None)  # nothing is done in the background: it is due, for `tend`
        lease = None
        readable = key not in self._shared.unreadable  # else who can read it is to find it at once
        if idle and works and asking and readable and self._shared.policy.overlap != "debounce":
            lease = Lease(worker.lease, now + self._shared.policy.lease_s)
        try:
            due_at = AT_ONCE if asking or sends else first_due(self._shared.policy, at=now)
            if only is None:
                act = self._store.append(key, draft.entry, at=now, due_at=due_at, lease=lease, owner=owner)
            elif only.seen is None:
                act = self._store.append(key, draft.entry, at=now, due_at=due_at, there=True)
            else:
                act = self._store.append_into(only, draft, at=now, due_at=due_at)
            snapshot, number, known = await act
        except BaseException as fault:
            if idle:
                self._workers.leave(worker)
            if isinstance(fault, Uncertain):  # a lease of ours may stand there
                self._leases.lost = True
            if isinstance(fault, InLog):
                await self._workers.leave_unread(key, worker.lease, fault.newer)
            raise
        if idle:
            worker.warm = True
        worker = self._workers.by_key.setdefault(key, worker)  # the one found before the write may have ended since
        if works:
            worker.wake.set()
            if waits:
                self._workers.join(worker)
            self._workers.start(worker)
        else:
            self._workers.leave(worker)
            if sends or (asking and not self._pauses.covers(key)):
                self._notifier.tell_of_work()
        return snapshot, number, known, worker

    async def _to_the_end(self, act: Coroutine[Any, Any, T], key: Key) -> T:
        """Run *act* to its end: a caller that goes away in the middle leaves neither half an act nor a lease."""
        task = asyncio.create_task(act, name=f"chatkeep append {key}")
        self._appending.add(task)
        task.add_done_callback(self._appending.discard)
        task.add_done_callback(_look_at_end)
        return await asyncio.shield(task)

    async def _journaled(
        self, key: Key, draft: Draft, owner: str, fault: StoreError, only: Condition | None
    ) -> Receipt:
        """Have the journal keep a message that the store has refused with *fault*, if there is a journal; else raise *fault*. So too if
        the message is for what was seen of its conversation: the journal knows only whether there is one when it hands over."""
        if self._journal is None or (only is not None and only.seen is not None):
            raise fault
        await self._to_the_end(self._journal.keep(key, draft, owner, fault, there=only is not None), key)
        return _make_receipt(key, draft.id, 0, Outcome("journaled"), duplicate=False)

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
        worker = self._workers.by_key.setdefault(key, worker)
        worker.waiters[waiter] = None
        worker.wake.set()
        self._workers.join(worker)
        self._workers.start(worker)
        newest = self._store.cached(key) if self._sender.takes(key) else None
        if newest is not None and newest.row.incarnation == waiter.incarnation:
            # The worker may have answered already, and be sending.
            await worker.resolve(self._store, newest)
        try:
            found = await answered
        finally:
            worker.waiters.pop(waiter, None)
        if found.dead:
            raise HandlerFailed(describe_dead(key, id, number, found.dead)) from cause
        return _make_receipt(key, id, number, found, duplicate=duplicate)


async def _observe(
    instruments: Sequence[Instrument],
    verb: Literal["receive", "accept"],
    metadata: dict[str, Any] | None,
    draft: Callable[[dict[str, Any] | None], Draft],
    take: Callable[[Draft], Awaitable[Receipt]],
) -> Receipt:
    """Take a message in while *instruments* look on, which may add to its metadata."""
    stack, arrival = surround_arrival(instruments, verb, metadata)
    with stack:
        arrival.receipt = await take(draft(arrival.metadata or None))
        return arrival.receipt


def _refuse_unanswered(processor: TurnProcessor[Any]) -> None:
    if processor.handler is None:
        raise Misconfigured("There is no handler: decorate one with @keep.on_message. Nothing was written.")


def _refuse_other_content(key: Key, draft: Draft, snapshot: Snapshot, number: int) -> None:
    """Refuse a message that says something else than the one that is in the log under its id, as far as that one is at hand.
    Raises `KeyReused`."""
    there = next((message for message in reversed(snapshot.messages) if message.number == number), None)
    if there is not None and not there.redacted and there.content != draft.content:
        raise KeyReused(
            f"{key}: message {number} is recorded under the id {draft.id!r} and says something else; nothing was touched. Give each "
            "message an id of its own, and send one again with the content that it had."
        )


def _make_receipt(key: Key, id: str, number: int, found: Outcome, *, duplicate: bool) -> Receipt:
    """Say what became of message *id*, with replies that the caller may keep and change."""
    return Receipt(
        tenant=key.tenant,
        conversation=key.id,
        id=id,
        number=number,
        status=found.status,
        replies=snapshots.copy_messages(found.replies),
        duplicate=duplicate,
    )


def _look_at_end(task: asyncio.Task[Any]) -> None:
    """Look at how *task* ended, so that asyncio does not warn of it: its caller may have gone."""
    if not task.cancelled():
        task.exception()


def describe_dead(key: Key, id: str, number: int, reason: str) -> str:
    """Put into words that a message was set aside, for who waits for its answer."""
    why = reason.rstrip(".")
    return f"{key}: message {id} (number {number}) was set aside: {why}. It stays in the log; replay it when that is mended."
