"""Makes a turn of a snapshot and its messages, has the runner run the handler on it, and says what to write of the result.

Knows handlers, states and rules; nothing of workers, leases, waiting callers or the sweep.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic, NoReturn, cast

from msgspec import Raw, Struct

from ..conversation import commits, releases, saves, sessions, snapshots, streams, turns
from ..conversation.backoff import backoff
from ..conversation.codec import make_storable
from ..conversation.record import Reminder, Said
from ..conversation.snapshots import Commit, Draft, Snapshot
from ..conversation.state import Before
from ..drivers.base import Key
from ..durations import seconds
from ..errors import (
    BadMessage,
    Corrupt,
    Duplicate,
    HandlerFailed,
    InDoubt,
    Misconfigured,
    TooLarge,
    Unsupported,
    UsageError,
    describe_fault,
    log_fault,
)
from ..model import Content, Message, State
from .hooks import Handler, Streamed, Streaming, collect_replies
from .reply_stream import Ended, ReplyStream, Unaware
from .run import ABANDONED, ANSWERED, NOT_BEGUN, STOPPED, Run
from .runner import Runner
from .shared import Shared
from .turn import Turn
from .work import NotInLog, Work

log = logging.getLogger("chatkeep")

HOOK_PAUSE_S = 5.0
"""The pause before a message is tried again that waits because of the hook, or of a thread that could not be started."""

RecordStep = Callable[[str, Raw], Coroutine[Any, Any, None]]


class Answer(Struct, frozen=True):
    """What a handler made of a turn. *streamed*: the last of the replies was shown while it was made."""

    state: Raw
    opens: bool
    replies: list[Content]
    streamed: bool = False
    reminders: Mapping[str, Reminder | None] = snapshots.NOTHING


class Attempt(Run):
    """A run of the handler for *messages*, which follow *snapshot*."""

    admitted = False

    def __init__(
        self,
        shared: Shared[Any],
        handler: Handler[Any] | None,
        snapshot: Snapshot,
        messages: list[Message],
        made: tuple[Turn[Any], bool, Before],
        record_step: RecordStep | None,
    ) -> None:
        assert handler is not None
        turn, self._opens, self._before = made
        self.key = snapshot.row.key
        self.id = messages[0].id
        self.handler = handler
        self.turn = turn
        self.instruments = shared.instruments
        self.snapshot = snapshot
        self.messages = messages
        self._shared = shared
        self._record_step = record_step
        turn.begin_work = self._make_work

    def keep(self, said: Any) -> Answer:
        """Make of what the handler has returned what can be recorded."""
        key, states, turn = self.key, self._shared.states, self.turn
        assert turn is not None
        limit, replies = self._shared.settings.message_limit, collect_replies(turn, said)
        for place, reply in enumerate(replies):
            replies[place] = make_storable(key, reply, limit=limit)
        work, reminders = turn.work, snapshots.NOTHING
        if work is not None:
            work.refuse_unawaited()
            reminders = work.set
        before = None if states.is_another(turn.state, self._before) else self._before
        raw = states.encode(key, turn.state, before)
        return Answer(raw, self._opens, replies, type(said) is Streamed, reminders)

    def let_go(self) -> None:
        """Let go of what the turn was made of: a task that the handler has left behind keeps the run, and must not keep that."""
        del self.snapshot, self.messages, self._before, self._record_step

    def _make_work(self) -> Work:
        row, record, shared = self.snapshot.row, self.snapshot.record, self._shared
        return Work(
            row.key,
            f"{row.incarnation}.{self.messages[0].number}",
            steps=record.steps,
            record=self._record_step,
            reminders=record.reminders,
            confinement=shared.store.confinement,
            limit=shared.settings.message_limit,
            clock=shared.clock,
        )


class HookRun(Run):
    """A run of a hook, which no instrument surrounds. *then* makes what is kept of what it returns."""

    def __init__(self, key: Key, id: str, hook: Handler[Any], turn: Turn[Any], then: Callable[[Any], Any]) -> None:
        super().__init__(key, id, hook, turn)
        self._then = then

    def keep(self, said: Any) -> Any:
        """Make of what the hook has returned what is to be kept."""
        return self._then(said)

    def leave(self) -> None:
        """Have what it does count for nothing, and let go of the turn, as `Attempt.let_go` does."""
        super().leave()
        del self._then


class TurnFailed(HandlerFailed):
    """
    A failed attempt, which is counted.

    at: when it failed. still_runs: the handler did not end when its time was over. final: another attempt would fail like
    this one. replies: what the user is told if the message is set aside.
    """

    at = 0.0
    still_runs = False
    final = False
    replies: Sequence[Content] = ()


class HookFailed(HandlerFailed):
    """on_missing failed: the message waits, and is not blamed."""


class NoPlace(Exception):
    """There is no place for the handler now: nothing was begun."""


class NotBegun(HandlerFailed):
    """There was no thread for the handler: the message waits, and is not blamed."""


class TurnProcessor(Generic[State]):
    """The bot of one engine, turn by turn. *takes*: whether the replies of a conversation go out through a channel here."""

    def __init__(
        self,
        shared: Shared[State],
        runner: Runner,
        *,
        takes: Callable[[Key], bool],
    ) -> None:
        self.handler: Handler[State] | None = None
        self.on_missing: Handler[State] | None = None
        self.on_failure: Handler[State] | None = None
        self.pace_s = seconds(shared.settings.quick)
        """How long handlers have taken lately; at first nobody knows, and none is taken for quick."""
        self.log_first = False
        """A message has to be in the log before this handler runs: its reply is streamed, or it takes steps."""
        self._shared = shared
        self._runner = runner
        self._takes = takes
        self.streams = False
        """The handler's reply is streamed."""
        self._retry_first_s = seconds(shared.settings.retry_after)
        self._retry_longest_s = seconds(shared.settings.retry_longest)

    def open(self) -> None:
        """Look at what kind of handler there is."""
        self.streams = self.log_first = isinstance(self.handler, Streaming)

    async def run(
        self,
        snapshot: Snapshot,
        messages: list[Message],
        record_step: RecordStep | None,
        *,
        stream: ReplyStream | None = None,
        admitted: bool = False,
    ) -> Answer:
        """Run the handler on a fresh copy of the state, when there is a place (who is *admitted* has one). *stream*: where its pieces go.

        Raises `TurnFailed` and `NotBegun`; `Ended` when the turn is not to go on, `Unaware` when it begins to say again what was said
        before.
        """
        if turns.lacks_history(snapshot, self._shared.policy, messages[0]):
            snapshot = await self._shared.store.reach_back(snapshot)
        try:
            made = self._make_turn(snapshot, messages, stream)
        except Misconfigured as fault:  # the application's own code, like the handler: its state cannot be made
            self._shared.statistics.failures += 1
            raise await self.fail_attempt(snapshot, messages, fault, admitted=admitted) from fault
        attempt = Attempt(self._shared, self.handler, snapshot, messages, made, record_step)
        attempt.admitted = admitted
        await self._runner.run(attempt, admitted=admitted)
        return self._take_answer(attempt) or await self._end_unanswered(attempt)

    def begin(self, snapshot: Snapshot, messages: list[Message]) -> Answer | Attempt:
        """Begin the same for messages that are not in the log, if there is a place. Most handlers wait for nothing, and the answer is
        there already; else `wait` for that of the attempt.

        Raises `NoPlace`, `NotBegun`, and `NotInLog` for a handler that takes steps: it may not on messages that are not in the log.
        """
        try:
            made = self._make_turn(snapshot, messages)
        except Misconfigured:
            raise NoPlace from None  # that is a failed attempt, which is counted where the message is in the log
        attempt = Attempt(self._shared, self.handler, snapshot, messages, made, None)
        if not self._runner.begin(attempt):
            raise NoPlace
        return (self._take_answer(attempt) if attempt.over else None) or attempt

    async def wait(self, attempt: Attempt) -> Answer:
        """Wait for the answer of what has begun. Raises what `run` and `begin` raise."""
        if attempt.over:  # and there was none
            return await self._end_unanswered(attempt)
        await self._runner.wait(attempt)
        return self._take_answer(attempt) or await self._end_unanswered(attempt)

    def _take_answer(self, attempt: Attempt) -> Answer | None:
        """Take what a run has given, and count it; None where it gave no answer."""
        if attempt.fate is NOT_BEGUN:
            raise _not_begun(attempt)
        self._shared.statistics.turns += 1
        took, work = attempt.took, attempt.work
        self.pace_s = 0.8 * self.pace_s + 0.2 * took
        for instrument in attempt.instruments:
            instrument.measured("turn", took)
        if work is not None and work.refused:  # whatever the handler made of being refused a step
            self.log_first = True
            raise NotInLog
        if attempt.fate is not ANSWERED:
            return None
        answer: Answer = attempt.value
        attempt.value = None
        attempt.let_go()
        return answer

    async def _end_unanswered(self, attempt: Attempt) -> NoReturn:
        """Raise what has become of a turn that gave no answer."""
        snapshot, messages, fault = attempt.snapshot, attempt.messages, attempt.fault
        attempt.fault = None
        attempt.let_go()
        if fault is None or attempt.fate is STOPPED or isinstance(fault, Ended):
            raise Ended
        if isinstance(fault, Unaware):
            raise fault
        self._shared.statistics.failures += 1
        hangs, admitted = attempt.fate is ABANDONED, attempt.admitted
        raise await self.fail_attempt(snapshot, messages, fault, still_runs=hangs, admitted=admitted)

    async def fail_attempt(
        self,
        snapshot: Snapshot,
        tried: list[Message],
        cause: BaseException,
        *,
        still_runs: bool = False,
        admitted: bool = False,
    ) -> TurnFailed:
        """Make the error for an attempt that failed because of *cause*; if it was the message's last one, with what the user is told."""
        shared, record = self._shared, snapshot.record
        failure = self.make_failure(snapshot.row.key, cause, still_runs=still_runs)
        at, final = failure.at, failure.final
        if turns.is_last_attempt(record, tried, shared.policy, at=at, hangs=still_runs, final=final):
            failure.replies = await self._excuse(snapshot, tried, failure, admitted)
        return failure

    def make_failure(self, key: Key, cause: BaseException, *, still_runs: bool = False) -> TurnFailed:
        """Make the error for an attempt that failed because of *cause*."""
        failure = TurnFailed(f"{key}: the handler failed ({describe_fault(cause)}); the message stays in the log.")
        failure.__cause__ = cause
        failure.at = self._shared.clock()
        failure.still_runs = still_runs
        # What cannot be recorded, or a wrong use of the turn, will be no better next time, and every run may cost money.
        failure.final = isinstance(cause, BadMessage | TooLarge) or type(cause) is UsageError
        failure.final = failure.final or (isinstance(cause, InDoubt) and not cause.again)
        return failure

    async def _excuse(
        self, snapshot: Snapshot, tried: list[Message], failure: TurnFailed, admitted: bool
    ) -> Sequence[Content]:
        """Make what the user is told instead of an answer, by the hook `on_failure` or by `failure_reply`."""
        key, limit = snapshot.row.key, self._shared.settings.message_limit
        otherwise = self.excuses(tried[0])
        if self.on_failure is None:
            return otherwise
        try:
            turn, _, _ = self._make_turn(snapshot, tried)
            turn.failure = describe_fault(failure.__cause__ or failure)

            def keep(said: Any) -> list[Content]:
                return [make_storable(key, reply, limit=limit) for reply in collect_replies(turn, said)]

            run = await self._run_hook(key, tried, self.on_failure, turn, keep, admitted)
        except (NotBegun, Corrupt, Unsupported, Misconfigured) as fault:
            log.warning("%s: on_failure could not be called: %s", key, fault)
            return otherwise
        if run.fault is not None:
            log_fault(log, logging.WARNING, run.fault, "%s: on_failure failed: %s", key, describe_fault(run.fault))
            return otherwise
        return cast("list[Content]", run.value)

    def excuses(self, message: Message) -> Sequence[Content]:
        """Give what a user is told whose *message* was set aside, where no hook says it."""
        text = self._shared.settings.failure_reply
        return [text] if text and message.role == "user" else ()

    def goes_out(self, snapshot: Snapshot) -> bool:
        """Tell whether replies of this conversation go out through a channel."""
        return snapshot.record.delivery is not None or self._takes(snapshot.row.key)

    def finish(
        self,
        started: Snapshot,
        there: Snapshot,
        tried: list[Message],
        answer: Answer,
        *,
        lease: str | None = None,
        arriving: Draft | None = None,
        again: bool = True,
    ) -> Commit | None:
        """Make the commit of a turn that began on *started* and was answered; *lease* and *arriving* as in `turns.finish_turn`.

        *again*: whether its handler may run again; one that would show all of its reply once more may not. Then what both have
        changed is settled for the turn, and a note keeps what gave way.

        None when the turn has to run again: what its handler saw was changed meanwhile, and `outside` or what was changed
        leaves no other way.
        """
        shared, state, opens = self._shared, answer.state, answer.opens
        notes: Sequence[Draft] = ()
        if there is not started and not turns.has_same_input(started, there, last=tried[-1].number):
            merged = merge_outside(shared, started, there, tried[0], answer, again=again)
            if merged is None:
                return None
            state, opens, notes = merged
        return turns.finish_turn(
            there,
            tried,
            answer.replies,
            shared.policy,
            state=state,
            schema=shared.states.schema,
            opens=opens,
            at=shared.clock(),
            lease=lease if shared.open else None,
            arriving=arriving,
            reminders=answer.reminders,
            out=self.goes_out(there),
            streamed=answer.streamed and bool(answer.replies),
            notes=notes,
        )

    def fail(
        self,
        there: Snapshot,
        tried: list[Message],
        failure: TurnFailed,
        *,
        lease: str,
        arriving: Draft | None = None,
    ) -> Commit:
        """Make the commit of an attempt that failed; *lease* is kept while the handler still runs."""
        now, first_s = failure.at, self._retry_first_s
        failures, jitter_s = there.record.begun + 1, random.uniform(0.0, first_s)
        retry_at = now + backoff(failures, first_s=first_s, longest_s=self._retry_longest_s, jitter_s=jitter_s)
        return turns.fail_turn(
            there,
            tried,
            describe_fault(failure.__cause__ or failure),
            self._shared.policy,
            at=now,
            retry_at=retry_at,
            arriving=arriving,
            lease=lease if failure.still_runs else None,
            final=failure.final,
            replies=failure.replies,
            out=self.goes_out(there),
        )

    async def record_step(self, started: Snapshot, name: str, result: Raw) -> None:
        """Record what a step of the turn on *started* has given, whatever else has changed meanwhile: the step has been done."""
        shared = self._shared

        def decide(there: Snapshot) -> Commit | None:
            if not turns.has_same_place(started, there) or name in there.record.steps:
                return None
            return turns.record_step(there, name, result, shared.policy, at=shared.clock())

        await shared.commit(shared.store.cached(started.row.key) or started, decide)

    @property
    def goes_on(self) -> bool:
        """Whether the handler may be run again for a reply of which something was shown already."""
        return self.streams and self._shared.settings.interrupted == "continue"

    def open_stream(self, started: Snapshot, tried: list[Message], lease: str) -> ReplyStream | None:
        """Make what takes the pieces of the turn on *started*, under *lease*; None where the handler does not stream."""
        if not self.streams and started.record.said is None:
            return None
        shared, key = self._shared, started.row.key
        before = streams.find_said(started)

        async def record(content: Content) -> bool:
            said = Said(tried[0].number, content, tried[-1].id)

            def decide(there: Snapshot) -> Commit | None:
                if not turns.is_wanted(started, there, tried, shared.policy, lease=lease):
                    return None
                return streams.record_said(there, said, shared.policy, at=shared.clock())

            _, written = await shared.commit(shared.store.cached(key) or started, decide)
            return written is not None

        said = before.content if before is not None else ""
        return ReplyStream(key, said, record, limit=shared.settings.message_limit)

    async def end_reply(
        self, started: Snapshot, tried: list[Message], content: Content, ending: streams.Ending, *, lease: str
    ) -> bool:
        """End the reply of the turn on *started* with what it has said; tell whether that was still to be done."""
        shared, states = self._shared, self._shared.states

        def decide(there: Snapshot) -> Commit | None:
            if there.row.lease != lease or not turns.has_same_place(started, there):
                return None
            return streams.end_reply(
                there,
                tried,
                content,
                ending,
                shared.policy,
                at=shared.clock(),
                fresh=(states.fresh(), states.schema),
                lease=lease if shared.open else None,
                out=self.goes_out(there),
            )

        _, said = await shared.commit(shared.store.cached(started.row.key) or started, decide)
        return said is not None

    async def rebuild(
        self,
        snapshot: Snapshot,
        messages: list[Message],
        *,
        admitted: bool = False,
        look: Callable[[Raw], None] | None = None,
    ) -> Snapshot | None:
        """Open a session with the state that the application's hook rebuilds, committed before the handler runs. *look* is given that
        state before, and refuses by raising.

        None when another instance went ahead with this session: then what was rebuilt here is thrown away. Raises `HookFailed`
        and `NotBegun`.
        """
        key, first, shared = snapshot.row.key, messages[0], self._shared
        states = shared.states

        def state_of(found: Any) -> Raw:
            return states.fresh() if found is None else states.encode(key, found)

        try:
            turn, _, _ = self._make_turn(snapshot, messages)
        except Misconfigured as fault:
            raise _hook_failed(key, fault) from fault
        cause: BaseException | None = None
        if (earlier := self._runner.find_abandoned(self.on_missing, key, first.id)) is not None:
            cause = TimeoutError(f"it still runs after {time.monotonic() - earlier.began:.1f} s")
        else:
            hook = cast("Handler[State]", self.on_missing)
            run = await self._run_hook(key, messages[:1], hook, turn, state_of, admitted)
            cause, raw = run.fault, run.value
        if cause is not None:
            raise _hook_failed(key, cause) from cause
        if look is not None:
            look(raw)
        session = snapshot.record.session + 1
        note = commits.make_note("rebuilt", f"{snapshot.row.incarnation}.{session}")

        def decide(there: Snapshot) -> Commit | None:
            if not turns.has_same_input(snapshot, there):
                return None
            record = sessions.open_session(there.record, raw, states.schema, number=first.number, at=first.created_at)
            return commits.commit_note(there, record, note, shared.policy, at=shared.clock())

        try:
            after, said = await shared.store.commit(snapshot, decide, at=shared.clock(), begins=True)
        except Duplicate:  # somebody rebuilt this session before us, and may have gone on with it
            shared.store.forget(key)
            return None
        return after if said is not None else None

    async def _run_hook(
        self,
        key: Key,
        messages: list[Message],
        hook: Handler[State],
        turn: Turn[State],
        then: Callable[[Any], Any],
        admitted: bool,
    ) -> Run:
        """Run a hook. Raises `NotBegun`."""
        run = HookRun(key, messages[0].id, hook, turn, then)
        run.observed = bool(self._shared.instruments)
        await self._runner.run(run, admitted=admitted)
        if run.fate is NOT_BEGUN:
            raise _not_begun(run)
        return run

    def _make_turn(
        self, snapshot: Snapshot, messages: list[Message], stream: ReplyStream | None = None
    ) -> tuple[Turn[State], bool, Before]:
        """Make what the handler is given, on a fresh copy of the state; also whether it opens a session, and what the state was
        read from."""
        key, record, first = snapshot.row.key, snapshot.record, messages[0]
        states, policy = self._shared.states, self._shared.policy
        opens = sessions.is_session_over(record, policy, first.created_at, first.number)
        raw, schema = (states.fresh(), states.schema) if opens else (record.state, record.schema)
        state, before = states.take_apart(key, raw, schema)
        history = [] if opens else turns.slice_plain_history(snapshot, first, policy)
        if not (opens or history):
            history = snapshots.copy_messages(turns.collect_history(snapshot, first, policy))
        turn = Turn(
            tenant=key.tenant,
            conversation=key.id,
            session=record.session + opens,
            state=state,
            messages=snapshots.copy_messages(messages),
            history=history,
            stream=stream,
        )
        if policy.version:
            begun = releases.find_version(record, policy, at=first.created_at, number=first.number)
            turn.version = begun or policy.version
        return turn, opens, before


def _hook_failed(key: Key, cause: BaseException) -> HookFailed:
    return HookFailed(
        f"{key}: on_missing could not rebuild the state ({describe_fault(cause)}). Nothing was changed; the message stays "
        f"unread and is tried again in {HOOK_PAUSE_S:g} s."
    )


def _not_begun(run: Run) -> NotBegun:
    """Make the error for a run for which there was no thread."""
    fault = NotBegun(
        f"{run.key}: {run.fault}. Nothing was counted; the message stays unread and is tried again in {HOOK_PAUSE_S:g} s."
    )
    fault.__cause__ = run.fault
    return fault


def merge_outside(
    shared: Shared[Any], started: Snapshot, there: Snapshot, first: Message, answer: Answer, *, again: bool
) -> tuple[Raw, bool, list[Draft]] | None:
    """Put what the turn has made of its state together with what was changed from outside meanwhile, and tell whether the turn
    still opens its session, with notes of what gave way."""
    before, now = started.record, there.record
    if shared.settings.outside != "merge" or not turns.is_same_turn(started, there, first, opens=answer.opens):
        return None
    if answer.opens and now.session == before.session:
        return answer.state, True, []  # what was changed is the state of a session that is over
    states = shared.states
    base = (states.fresh(), states.schema) if answer.opens else (before.state, before.schema)
    key, theirs = started.row.key, (now.state, now.schema)
    state = states.merge(key, base, answer.state, theirs)
    if state is not None or again:
        return None if state is None else (state, False, [])
    settled = states.settle(key, base, answer.state, theirs, at=there.row.updated_at)
    if settled is None:
        return None
    state, losses = settled
    token = f"{there.row.incarnation}.{first.number}"  # the same in whichever try
    return state, False, saves.note_losses(key, losses, at=shared.clock(), token=token)
