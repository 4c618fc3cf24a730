"""Changes conversations from outside a turn: creates them, changes and clears their state, erases them, pauses and resumes the
bot, and has a reply sent once more.

Knows nothing of how messages come in, or of what a worker does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from msgspec import Raw, structs

from ..conversation import commits, dead_letters, sessions, snapshots
from ..conversation.keys import message_id
from ..conversation.record import NONE
from ..conversation.snapshots import Commit, Snapshot
from ..drivers.base import Key
from ..model import Message, State
from ..storage.store import fresh_token
from .journal import Journal
from .notifier import Notifier
from .pauses import Pauses
from .runner import refuse_own_turn
from .sender import Sender
from .shared import Shared
from .sweeper import Sweeper
from .turn_processor import TurnProcessor
from .workers import Workers


class Changes(Generic[State]):
    """What one engine does to conversations when it is told to."""

    def __init__(
        self,
        shared: Shared[State],
        *,
        workers: Workers,
        turns: TurnProcessor[State],
        sender: Sender,
        pauses: Pauses,
        notifier: Notifier,
        sweeper: Sweeper,
        journal: Journal | None,
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._workers = workers
        self._turns = turns
        self._sender = sender
        self._pauses = pauses
        self._notifier = notifier
        self._sweeper = sweeper
        self._journal = journal

    async def create(self, key: Key, *, owner: str) -> Snapshot:
        """Create the conversation before anything is said in it; the one there is, if there is one."""
        self._shared.refuse_closed(key)
        note = commits.make_note("begun", fresh_token())

        def decide(there: Snapshot) -> Commit | None:
            return (
                None
                if there.row.revision
                else commits.commit_note(there, there.record, note, self._shared.policy, at=self._shared.clock())
            )

        snapshot = await self._store.reload(key)
        if not snapshot.row.revision:
            snapshot = structs.replace(snapshot, row=structs.replace(snapshot.row, owner=owner))
        after, _ = await self._shared.commit(snapshot, decide)
        return after

    async def change(self, key: Key, edit: Callable[[State], State | None], *, id: str | None = None) -> Snapshot:
        """Apply *edit* to the state, on top of whatever others write meanwhile; it may run more than once."""
        states = self._shared.states

        def changed(raw: Raw, schema: int) -> tuple[Raw, int]:
            state, carried = states.take_apart(key, raw, schema)
            given = edit(state)
            return states.encode(key, state if given is None else given, carried), states.schema

        return await self._rewrite(key, changed, id)

    async def clear(
        self, key: Key, slot: str | None, *, look: Callable[[State], None] | None = None, id: str | None = None
    ) -> Snapshot:
        """Clear one *slot* of the state, or all of it, which need not be readable for that, unless somebody has to *look* at it
        before, and refuses by raising."""
        states = self._shared.states

        def cleared(raw: Raw, schema: int) -> tuple[Raw, int]:
            if look is not None:
                look(states.decode(key, raw, schema))
            return states.cleared(key, raw, schema, slot)

        return await self._rewrite(key, cleared, id)

    async def erase(self, key: Key) -> None:
        """Remove everything of *key*, here and in the store."""
        if self._journal is not None and self._shared.open:
            await self._journal.spool.erase(key)
        await self._store.erase(key, at=self._shared.clock())

    async def pause(self, tenant: str | None) -> None:
        """Silence the bot for a tenant, or for all."""
        await self._pauses.pause(tenant)

    async def resume(self, tenant: str | None, *, skips: bool) -> None:
        """Let the bot answer again; if it *skips*, what came meanwhile is passed over first."""
        if skips:
            await self._pauses.skip(tenant)
        await self._pauses.finish(await self._pauses.resume(tenant), self._sweeper.start_on)
        self._notifier.tell_of_work()

    async def pause_one(self, key: Key) -> None:
        """Silence the bot in one conversation."""
        refuse_own_turn(key, "would throw its own turn away; pause it when the turn is over")
        await self._pauses.pause_one(key)

    async def resume_one(self, key: Key, *, skips: bool) -> None:
        """Let the bot answer in one conversation again."""
        refuse_own_turn(key, "would throw its own turn away; resume it when the turn is over")
        if skips:
            await self._pauses.skip_one(key)
        snapshot = await self._pauses.resume_one(key)
        if snapshots.unread_messages(snapshot) and not self._pauses.is_paused(snapshot):
            self._sweeper.start_on(key)
            self._notifier.tell_of_work()

    async def dismiss(self, key: Key, number: int) -> bool:
        """Close a dead letter; tell whether the message was set aside at all."""
        snapshot = await self._store.reload(key)
        if number not in snapshot.record.dead:
            note = dead_letters.note_id(snapshot.row.incarnation, number)
            return bool(await self._store.find(key, snapshot.row.incarnation, [note]))
        await self._shared.commit(
            snapshot,
            lambda there: dead_letters.dismiss_letter(there, number, self._shared.policy, at=self._shared.clock()),
        )
        return True

    async def resend(self, key: Key, number: int) -> None:
        """Have a reply sent once more."""
        await self._sender.resend(key, number)
        if self._sender.takes(key):
            worker = self._workers.register(key)
            worker.warm = False
            worker.wake.set()
            self._workers.start(worker)
        else:
            self._notifier.tell_of_work()

    async def _rewrite(self, key: Key, rewritten: Callable[[Raw, int], tuple[Raw, int]], id: str | None) -> Snapshot:
        """Put what *rewritten* makes of the stored state and its schema in its place."""
        self._shared.refuse_closed(key)
        refuse_own_turn(key, "would throw its own turn away; change turn.state")
        note = commits.make_note("change", fresh_token() if id is None else message_id(key, id))
        snapshot, now = self._store.cached(key) or await self._store.reload(key), self._shared.clock()
        while self._turns.on_missing and (number := self._session_start(snapshot, now)):
            stand_in = Message(id=note.id, number=number, role="system", content="", created_at=now)
            rebuilt = await self._turns.rebuild(snapshot, [stand_in])
            if rebuilt is not None:
                snapshot = rebuilt
                break
            snapshot = await self._store.reload(key)

        def decide(there: Snapshot) -> Commit:
            record, states = there.record, self._shared.states
            number = self._session_start(there, now)
            raw, schema = rewritten(*((states.fresh(), states.schema) if number else (record.state, record.schema)))
            if number and raw != NONE:
                record = sessions.open_session(record, raw, schema, number=number, at=now)
            record = structs.replace(record, state=raw, schema=schema)
            return commits.commit_note(there, record, note, self._shared.policy, at=now)

        after, _ = await self._shared.commit(snapshot, decide)
        return after

    def _session_start(self, there: Snapshot, now: float) -> int:
        """Tell with which entry the session of a change begins that finds none; 0 where a session is live.

        Judged as for the first unread message, if there is one: it is to be answered in the same session, and begins it.
        """
        waiting = snapshots.unread_messages(there)
        number, at = (waiting[0].number, waiting[0].created_at) if waiting else (there.row.head + 1, now)
        return number if sessions.is_session_over(there.record, self._shared.policy, at, number) else 0
