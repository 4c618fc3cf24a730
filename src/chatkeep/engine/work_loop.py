"""The work on one conversation: what a worker does until nothing is left to do.

It takes the lease, runs what is unread through the `TurnProcessor`, sends replies out through the `Sender`, and does what is
due. Knows nothing of how messages come in, of other conversations' workers, or of the sweep.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import structs

from ..conversation import housekeeping, leases, releases, sessions, snapshots, turns
from ..conversation.snapshots import Commit, Outcome, Snapshot
from ..conversation.streams import Ending
from ..errors import BadMessage, Corrupt, TooLarge, Unavailable, Unsupported, log_fault
from ..model import Message
from .housekeeper import Housekeeper
from .lease_keeper import LeaseKeeper
from .notifier import Notifier
from .pauses import Pauses
from .places import TurnedAway
from .reply_stream import Ended, Unaware
from .run import Run
from .runner import Runner
from .running_turn import RunningTurn
from .sender import Sender
from .shared import Shared
from .turn_processor import HOOK_PAUSE_S, HookFailed, NotBegun, TurnFailed, TurnProcessor
from .worker import ADMITTED, ALONE, WORKING, Worker

log = logging.getLogger("chatkeep")

LOOK_S = 0.02
LOOK_LONGEST_S = 0.5
LOOKS_SKIPPED = 4  # so much longer are the pauses where news is heard: asking is then only for when it gets lost
LEFT_ALONE_S = 600.0
OTHERS_S = 2.0  # so soon it is looked again at what another version is to answer
LONG_S = 60.0  # a worker that would wait longer goes; the sweep finds the conversation again
SHORT_S = 1.0  # the same where there is no work in the background


class WorkLoop:
    """What the workers of one engine do."""

    def __init__(
        self,
        shared: Shared[Any],
        *,
        turns: TurnProcessor[Any],
        runner: Runner,
        leases: LeaseKeeper,
        sender: Sender,
        pauses: Pauses,
        notifier: Notifier,
        housekeeper: Housekeeper,
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._policy, self._clock = shared.policy, shared.clock
        self._turns = turns
        self._runner = runner
        self._leases = leases
        self._sender = sender
        self._pauses = pauses
        self._notifier = notifier
        self._housekeeper = housekeeper
        self._stays_s = LONG_S if shared.settings.background else SHORT_S

    async def run(self, worker: Worker) -> None:
        """Handle what is unread in one conversation, in order, until nothing is; raises what ends that before."""
        looks = 0
        while True:
            worker.wake.clear()
            try:
                pause = await (self._step(worker) if self._shared.open else self._hand_back(worker))
            except TurnedAway:
                pause = 0.0  # this Chatkeep closes
            except (Corrupt, Unsupported):
                if not worker.wake.is_set():
                    raise
                worker.warm, pause = (
                    False,
                    0.0,
                )  # somebody has come since this was read, perhaps after an erasure or a repair
            if not self._shared.open:
                if pause is None:
                    return
                continue
            if pause == 0.0:
                looks = 0
                continue
            if (pause is None or pause > self._stays_s) and not worker.waiters:
                if not worker.wake.is_set():
                    return
                continue
            if pause is None:
                # Somebody else works on it, or has just finished: look again, ever less often.
                skipped = LOOKS_SKIPPED if self._notifier.live else 0
                pause = min(LOOK_S * 2 ** (looks + skipped), LOOK_LONGEST_S * 2 ** (skipped // 2))
                looks = min(looks + 1, 8)
                self._notifier.expect(worker.key)
                worker.warm = False
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):  # (asyncio.wait_for may swallow a cancellation on 3.11)
                    await worker.wake.wait()

    async def _step(self, worker: Worker) -> float | None:
        """Do one step: 0 when there may be more to do, a pause to make first, None when there is nothing to do here."""
        key = worker.key
        snapshot = (self._store.cached(key) if worker.warm else None) or await self._store.reload(key)
        worker.warm = True
        now = self._clock()
        send_at = self._sender.due(snapshot, at=now)
        if send_at is not None and send_at <= now:
            await worker.resolve(self._store, snapshot)  # whoever waits for an answer need not wait for the platform
            return await self._sender.deliver(snapshot, worker)
        if not snapshots.unread_messages(snapshot):
            # Nothing waits, so even what nobody answers (an operator's message) is as good as handled.
            read = structs.replace(snapshot.record, cursor=max(snapshot.record.cursor, snapshot.row.head))
            await worker.resolve(self._store, structs.replace(snapshot, record=read))
            return 0.0 if await self._housekeeper.tend(snapshot, now) else None
        if self._turns.handler is None:
            return None  # others answer
        await worker.resolve(self._store, snapshot)
        if self._pauses.is_paused(snapshot):
            return await self._rest(snapshot, worker, now)
        row = snapshot.row
        if row.lease != worker.lease and self._leases.observe_holder(row):
            return None
        if not releases.may_answer(snapshot, self._policy, self._shared.plan):
            await self.give_back(worker)
            self._shared.left_alone.add(key, (self._store.cached(key) or snapshot).row.revision, OTHERS_S)
            return None
        if self._runner.abandoned:
            first = snapshots.unread_messages(snapshot)[0]
            if (earlier := self._runner.find_abandoned(self._turns.handler, key, first.id)) is not None:
                return await self._outlast(snapshot, worker, earlier, first)
        ready = turns.ready_at(snapshot, self._policy, at=now)
        if ready > now:
            worker.tell_failing(snapshot, self._policy)
            if row.lease == worker.lease and ready - now > self._policy.lease_s / 2:
                await self.give_back(worker, ready)
            ready = ready if send_at is None else min(ready, send_at)
            return min(max(ready - now, LOOK_S), self._policy.pause_most_s)
        # (One that another turn waits for would wait for the end of that turn: it runs beside it, and is not marked alone.)
        alone, beside = worker.state is ALONE, self._runner.awaited
        if not (alone or beside) and leases.is_suspect(snapshot, died=self._leases.may_have_died(row.lease)):
            if worker.has_place:
                return 0.0  # the place is given back first: while somebody has one, nobody is alone
            return await self._step_alone(worker, snapshot.record.begun)
        if row.lease != worker.lease or snapshot.record.alone != alone:
            if not (worker.has_place or beside):
                return await self._step_admitted(worker)
            if (unreadable := self._find_unreadable(snapshot)) is not None:
                raise unreadable
            taken = await self._take(snapshot, worker, now)
            if taken is None:
                return 0.0
            snapshot = taken
        return await self._handle(snapshot, worker)

    def _find_unreadable(self, snapshot: Snapshot) -> Corrupt | Unsupported | None:
        """Tell why the state cannot be read here, as far as that can be told at once, before anything is written for it."""
        key, record, states = snapshot.row.key, snapshot.record, self._shared.states
        if record.schema <= states.newest and key not in self._shared.unreadable:
            return None
        first = snapshots.unread_messages(snapshot)[0]
        if not sessions.is_session_over(record, self._policy, first.created_at, first.number):
            try:
                states.decode(key, record.state, record.schema)
            except (Corrupt, Unsupported) as fault:
                return fault
        self._shared.unreadable.discard(key)
        return None

    async def _rest(self, snapshot: Snapshot, worker: Worker, now: float) -> float | None:
        """Tell those who wait that the bot is paused, and take the conversation out of what is due until it is resumed."""
        worker.tell_all(Outcome("paused"))
        row = snapshot.row
        if row.due_at is None or row.due_at > now:
            return None
        if not await self._pauses.is_still_paused(snapshot):
            return 0.0
        held = False
        if housekeeping.is_forgotten(snapshot, self._policy, at=now):
            ended = await self._housekeeper.end_rest(snapshot, now)
            if ended is not None:
                return 0.0 if ended else None
            held = True
        gone = not self._leases.observe_holder(row)
        died, sends = self._leases.may_have_died(row.lease), self._sender.takes(worker.key)

        def rest(there: Snapshot) -> Commit | None:
            # Only on top of what was there before the pause was looked at: a resume that came since has changed it.
            if there.row.revision != row.revision or not gone:
                return None
            return housekeeping.rest(there, self._policy, at=now, sends=sends, died=died, held=held)

        after, said = await self._shared.commit(snapshot, rest)
        if said is None and after.row.revision != row.revision:
            worker.warm = False
            return 0.0
        if said is None and gone:
            self._shared.left_alone.add(worker.key, row.revision, LEFT_ALONE_S)
        return None

    async def _step_alone(self, worker: Worker, rank: int) -> float | None:
        """Do a step while no other handler runs in this process: what dies then, dies of this message.

        Waiting for that counts for nothing, for the lease is taken afterwards. The message that was least often the only
        one comes first, so that the innocent ones are answered before the guilty one is tried again.
        """
        async with self._runner.places.take_all(worker.key, rank) as alone:
            if not alone:
                return 0.0
            worker.move(ALONE)
            worker.warm = False
            try:
                return await self._step(worker)
            finally:
                worker.move(WORKING)

    async def _step_admitted(self, worker: Worker) -> float | None:
        """Do a step with a place: the lease is taken afterwards, so that what only waits here is in nobody's hands, and the
        death of this process is none of its deaths."""
        places = self._runner.places
        if not places.take_at_once():
            worker.warm = False
            if not await places.take(worker.key):
                return 0.0
        worker.move(ADMITTED)
        try:
            return await self._step(worker)
        finally:
            worker.move(WORKING)
            places.give_back()

    async def _take(self, snapshot: Snapshot, worker: Worker, now: float) -> Snapshot | None:
        """Take the lease: the snapshot to work on, or None when there is something else to do first."""
        first = snapshots.unread_messages(snapshot)[0].number

        def decide(there: Snapshot) -> Commit | None:
            waiting = snapshots.unread_messages(there)
            held = (there.row.lease, there.row.leased_until) != (snapshot.row.lease, snapshot.row.leased_until)
            if held or not waiting or waiting[0].number != first:
                return None
            # (A lease that one of our own workers has lost, because the store failed it, say, is nobody's death.)
            died, alone = self._leases.may_have_died(there.row.lease), worker.state is ALONE
            # (What is said instead of an answer is a text: the hook might be what its processes die of.)
            replies, out = self._turns.excuses(waiting[0]), self._turns.goes_out(there)
            return leases.take_lease(
                there, self._policy, token=worker.lease, at=now, died=died, alone=alone, replies=replies, out=out
            )

        if snapshot.row.lease not in (None, worker.lease):
            self._shared.statistics.taken_over += 1
        after, said = await self._shared.commit(snapshot, decide)
        self._shared.statistics.dead += after.record.dead != snapshot.record.dead
        return after if said is not None and after.row.lease == worker.lease else None

    async def _handle(self, snapshot: Snapshot, worker: Worker) -> float | None:
        """Run one turn under the lease."""
        key = snapshot.row.key
        tried = turns.choose_batch(snapshot, self._policy)
        if not tried:
            return 0.0
        now = self._clock()
        try:
            if self._turns.on_missing and sessions.is_session_over(
                snapshot.record, self._policy, tried[0].created_at, tried[0].number
            ):
                async with self._leases.keep_alive(key, worker.lease):
                    rebuilt = await self._turns.rebuild(snapshot, tried, admitted=worker.has_place)
                if rebuilt is None:
                    return self._again(worker)
                snapshot = rebuilt
            stream = self._turns.open_stream(snapshot, tried, worker.lease)
            turn = worker.turn = RunningTurn(
                self._store,
                self._policy,
                snapshot,
                tried,
                worker.lease,
                stream=stream,
                end=partial(self._runner.end, key),
            )
            if stream is not None and stream.before and not self._turns.goes_on:
                raise Unaware
            async with turn, self._leases.keep_alive(key, worker.lease, look=turn.look):
                record_step = partial(self._turns.record_step, snapshot)
                answer = await self._turns.run(snapshot, tried, record_step, stream=stream, admitted=worker.has_place)
            started = snapshot

            def decide(there: Snapshot) -> Commit | None:
                # (Whoever has lost the lease was taken for dead: somebody else runs this turn, and will say what it does.)
                if there.row.lease != worker.lease:
                    return None
                return self._turns.finish(started, there, tried, answer, lease=worker.lease, again=turn.knows)

            try:
                # (The lease may have been renewed meanwhile.)
                after, said = await self._shared.commit(self._store.cached(key) or snapshot, decide)
            except (BadMessage, TooLarge) as refused:
                raise await self._turns.fail_attempt(snapshot, tried, refused, admitted=worker.has_place) from refused
            if said is None:
                return await self._end_reply(worker, snapshot, tried, turn)
            worker.reruns = 0
            worker.tell_answered(after, said)
            before, now_sends = snapshot.record.delivery, after.record.delivery
            # (A reply that waits to be sent again is in doubt, by a try of somebody else, and not begun here.)
            if now_sends is not None and not now_sends.at and (before is None or before.sending != now_sends.sending):
                worker.sending = now_sends.sending
            return 0.0
        except Ended:
            return await self._end_reply(worker, snapshot, tried, turn, "stopped")
        except Unaware:
            return await self._end_reply(worker, snapshot, tried, turn)
        except (HookFailed, NotBegun) as failure:
            if isinstance(failure, HookFailed):
                self._shared.statistics.failures += 1
            log_fault(log, logging.WARNING, failure.__cause__, "%s", failure)
            worker.fail(failure)
            await self.give_back(worker, now + HOOK_PAUSE_S)
            return HOOK_PAUSE_S
        except TurnFailed as failed:
            log_fault(log, logging.WARNING, failed.__cause__, "%s", failed)
            if not (turn.knows or failed.final):
                return await self._end_reply(worker, snapshot, tried, turn)
            return await self._note_failure(worker, snapshot, tried, failed)
        finally:
            worker.turn = None

    async def _note_failure(
        self, worker: Worker, started: Snapshot, tried: list[Message], failed: TurnFailed
    ) -> float | None:
        """Record that the turn on *started* has failed, if it is still the next one."""

        def decide(there: Snapshot) -> Commit | None:
            # (Also if the state has changed meanwhile: who changes it all the time must not have the handler fail without a pause.)
            if not turns.is_same_turn(started, there, tried[0], opens=True):
                return None
            if identify_attempt(started) != identify_attempt(there):
                return None
            return self._turns.fail(there, tried, failed, lease=worker.lease)

        after, noted = await self._shared.commit(started, decide)
        if noted is None:
            return self._again(worker)
        self._shared.statistics.dead += after.record.dead != started.record.dead
        worker.tell_failing(after, self._policy, failed)
        return self._pause(after)

    async def _end_reply(
        self,
        worker: Worker,
        snapshot: Snapshot,
        tried: list[Message],
        turn: RunningTurn,
        ending: Ending = "interrupted",
    ) -> float:
        """End a turn whose handler does not go on: with what it has said, if it has said anything that it must not say again."""
        content = turn.content if ending == "stopped" or not turn.knows else ""
        if content and await self._turns.end_reply(snapshot, tried, content, ending, lease=worker.lease):
            worker.reruns = 0
            return 0.0
        return self._again(worker)

    async def _outlast(self, snapshot: Snapshot, worker: Worker, earlier: Run, first: Message) -> float | None:
        """Wait while an abandoned run of the *first* unread message still runs: it must not run twice at once, here or
        elsewhere, so the lease is kept. Once the time of that run is over, each time that the message's next try is due counts
        as a failed one; when it has had them all it is set aside, and the lease goes."""
        key = snapshot.row.key
        if snapshot.row.lease != worker.lease:
            taken = await self._take(snapshot, worker, self._clock())
            if taken is None:
                return 0.0
            snapshot = taken
        changed = False

        def same(there: Snapshot) -> bool:
            return there.row.lease == worker.lease and identify_attempt(there) == identify_attempt(snapshot)

        if worker.wake.set not in earlier.gone:
            earlier.gone += (worker.wake.set,)
        async with self._leases.keep_alive(key, worker.lease, at_once=True):
            left = max(self._pause(snapshot), self._runner.time_left(earlier))
            ready = time.monotonic() + left
            while self._shared.open and earlier.still_runs and not changed and (left := ready - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await worker.wake.wait()
                except TimeoutError:
                    continue
                changed = True  # by whoever set the wake: what is there now is looked at first
        if not self._shared.open or (changed and earlier.still_runs):
            return 0.0
        if not earlier.still_runs:
            after, _ = await self._shared.commit(
                self._store.cached(key) or snapshot,
                lambda there: leases.release_lease(there, self._policy, at=self._clock()) if same(there) else None,
            )
            return self._pause(after)
        self._shared.statistics.failures += 1
        ran = time.monotonic() - earlier.began
        cause = TimeoutError(f"the handler still runs after {ran:.1f} s")
        failed = await self._turns.fail_attempt(snapshot, [first], cause, still_runs=True, admitted=worker.has_place)
        log.warning("%s", failed)
        after, _ = await self._shared.commit(
            self._store.cached(key) or snapshot,
            lambda there: self._turns.fail(there, [first], failed, lease=worker.lease) if same(there) else None,
        )
        self._shared.statistics.dead += after.record.dead != snapshot.record.dead
        worker.tell_failing(after, self._policy, failed)
        return 0.0

    async def _hand_back(self, worker: Worker) -> None:
        """Give the lease back on the way out, so that another instance, or the next start, goes on at once."""
        await self.give_back(worker)
        worker.fail(Unavailable(f"{worker.key}: this instance is stopping"))

    async def give_back(self, worker: Worker, retry_at: float | None = None) -> None:
        """Give the lease back, if it is this worker's; others may go on at once, or from *retry_at*."""
        key = worker.key
        snapshot = self._store.cached(key) or await self._store.load(key)
        if snapshot is None or snapshot.row.lease not in (worker.lease, None):
            return
        if snapshot.row.lease is not None:
            await self._shared.commit(
                snapshot,
                lambda there: (
                    leases.release_lease(there, self._policy, at=self._clock(), retry_at=retry_at)
                    if there.row.lease == worker.lease
                    else None
                ),
            )
        if retry_at is None and snapshots.unread_messages(snapshot):
            self._notifier.tell_of_work()

    def _again(self, worker: Worker) -> float:
        self._shared.statistics.reruns += 1
        return worker.back_off()

    def _pause(self, snapshot: Snapshot) -> float:
        now = self._clock()
        return max(0.0, min(turns.ready_at(snapshot, self._policy, at=now) - now, self._policy.pause_most_s))


def identify_attempt(snapshot: Snapshot) -> tuple[int, int, int, int]:
    """Name the attempt, and the message, that a snapshot shows."""
    record = snapshot.record
    return record.cursor, record.begun, record.raised, record.deaths
