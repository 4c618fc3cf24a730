"""Changes conversations from outside a turn: creates them, changes and clears their state, pauses and resumes the
bot, and has a reply sent once more.

Knows nothing of how messages come in, or of what a worker does.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic

from msgspec import Raw, Struct, structs

from ..conversation import commits, dead_letters, edits, redaction, saves, sessions, slots, snapshots, streams, turns
from ..conversation.codec import entry_for
from ..conversation.keys import message_id
from ..conversation.merge import Loss, Rule, Version
from ..conversation.record import NONE
from ..conversation.snapshots import Commit, Draft, Snapshot
from ..drivers.base import Key
from ..errors import NotWaiting, StoreError, UsageError
from ..model import ASKING, Content, Message, Receipt, State, Stopped
from ..storage.holds import refuse_held
from ..storage.paging import walk_log
from ..storage.tokens import fresh_token
from .notifier import Notifier
from .outcomes import read_outcome
from .pauses import Pauses
from .run import refuse_own_turn
from .sender import Sender
from .shared import Shared
from .turn_processor import TurnProcessor
from .workers import Workers

Look = Callable[[Snapshot], None]


class Rewritten(Struct, frozen=True):
    """What a change makes of a state: its stored form and schema, the stamps of its slots (None: as they are), and notes for the log; and
    what the note of the change itself is to hold, where a person made it."""

    raw: Raw
    schema: int
    stamps: dict[str, tuple[float, str, int]] | None = None
    notes: Sequence[Draft] = ()
    told: Mapping[str, Any] = MappingProxyType({})


def run_edit(key: Key, edit: Callable[[State], State | None], state: State) -> State | None:
    """Return what *edit* gives for *state*. Raises `UsageError` where it is no plain function: it may run again, and nobody waits."""
    if not callable(edit):
        raise UsageError(
            f"{key}: a change is a function of the state, not a {type(edit).__name__}; nothing was changed."
        )
    given = edit(state)
    if isinstance(given, Coroutine):
        given.close()
        raise UsageError(
            f"{key}: a change is a plain function, and this is a coroutine function; nothing was changed. Await what it needs "
            "before, and change the state in a `def`, which runs again where others have written meanwhile."
        )
    return given


class Changes(Generic[State]):
    """What one engine does to conversations when it is told to. *rules*: how slots are merged, by name; the others by "later"."""

    def __init__(
        self,
        shared: Shared[State],
        *,
        workers: Workers,
        turns: TurnProcessor[State],
        sender: Sender,
        pauses: Pauses,
        notifier: Notifier,
        rules: Mapping[str, Rule],
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._workers = workers
        self._turns = turns
        self._sender = sender
        self._pauses = pauses
        self._notifier = notifier
        self._rules = rules

    async def create(self, key: Key, *, owner: str, visitor: bool = False) -> tuple[Snapshot, bool]:
        """Create the conversation before anything is said in it; the one there is, if there is one, and whether this has made it.
        *visitor*: nobody knows who it is for."""
        self._shared.refuse_closed(key)
        note = commits.make_note("begun", fresh_token())

        def decide(there: Snapshot) -> Commit | None:
            if there.row.revision:
                return None
            record = structs.replace(there.record, visitor=visitor)
            return commits.commit_note(there, record, note, self._shared.policy, at=self._shared.clock())

        after, said = await self._shared.commit(await self._store.reload(key, owner=owner), decide, begins=True)
        return after, said is not None

    async def change(
        self,
        key: Key,
        edit: Callable[[State], State | None],
        *,
        id: str | None = None,
        by: str = "",
        owner: str = "",
        look: Look | None = None,
    ) -> Snapshot:
        """Apply *edit* to the state, on top of what others write meanwhile; it may run more than once. *by*: see `edits.describe`;
        *owner*, *look*: see `_rewrite`."""
        states = self._shared.states

        def changed(there: Snapshot, raw: Raw, schema: int) -> Rewritten:
            state, before = states.take_apart(key, raw, schema)
            try:
                given = run_edit(key, edit, state)
            except ValueError as fault:
                if (translated := states.translate(key, fault)) is None:
                    raise
                raise translated from fault
            made = states.encode(key, state if given is None else given, before)
            told = edits.describe(raw, made, states.schema, by) if by and schema == states.schema else {"by": by}
            return Rewritten(made, states.schema, told=told if by else {})

        return await self._rewrite(key, changed, id, owner, look)

    async def undo(self, key: Key, number: int, *, by: str) -> Snapshot:
        """Put back the slots that a person has changed, as the note *number* of the log has them."""
        born = (await self._store.reload(key)).row.incarnation
        note = edits.find_note(key, await self._store.page(key, born, after=number - 1, limit=1), number)

        def undone(there: Snapshot, raw: Raw, schema: int) -> Rewritten | None:
            made = edits.undo(key, note, raw, schema) if there.row.incarnation == born else None
            return None if made is None else Rewritten(made, schema, told=edits.describe(raw, made, schema, by, number))

        return await self._rewrite(key, undone, None)

    async def clear(
        self, key: Key, slot: str | None, *, look: Callable[[State], None] | None = None, id: str | None = None
    ) -> Snapshot:
        """Clear one *slot* of the state, or all of it, which need not be readable for that, unless somebody has to *look* at it
        before, and refuses by raising."""
        there = await self._store.reload(key)
        if not there.row.revision:
            if look is not None:
                look(self._shared.states.decode(key, self._shared.states.fresh(), self._shared.states.schema))
            return there  # nothing to clear, and clearing creates nothing
        states, born = self._shared.states, there.row.incarnation

        def cleared(there: Snapshot, raw: Raw, schema: int) -> Rewritten | None:
            if there.row.incarnation != born:  # it was erased meanwhile
                return None
            if look is not None:
                look(states.decode(key, raw, schema))
            return Rewritten(*states.cleared(key, raw, schema, slot))

        return await self._rewrite(key, cleared, id)

    async def merge(
        self,
        key: Key,
        slot: str,
        base: Any,
        mine: Version,
        *,
        id: str | None = None,
        owner: str = "",
        look: Look | None = None,
    ) -> tuple[Snapshot, tuple[Loss, ...]]:
        """Put what somebody has made of a *slot*, which was *base* then, together with what is there; and tell what gave way, which the
        log keeps."""
        found: tuple[Loss, ...] = ()
        name, rule = fresh_token(), self._rules.get(slot, "later")

        def merged(there: Snapshot, raw: Raw, schema: int) -> Rewritten | None:
            nonlocal found
            now = self._shared.clock()
            made = slots.merge_slot(there, self._shared.states, (raw, schema), slot, base, mine, rule, now=now)
            found = made.losses
            if made.raw is None:
                return None
            notes = [
                saves.note_loss(key, saves.SLOT, loss, at=now, id=f"{saves.NOTE}{name}.{n}", slot=slot)
                for n, loss in enumerate(made.losses)
            ]
            return Rewritten(made.raw, self._shared.states.schema, made.stamps, notes)

        return await self._rewrite(key, merged, id, owner, look), found

    async def stop(self, key: Key) -> Stopped:
        """End the answer that the first unread message gets, or waits for, with what was said of it by now."""
        self._shared.refuse_closed(key)
        refuse_own_turn(key, "would end its own turn; have it return")
        await self._pauses.refresh()
        snapshot = await self._store.reload(key)
        waiting = snapshots.unread_messages(snapshot)
        if not waiting or (self._pauses.is_paused(snapshot) and streams.find_said(snapshot) is None):
            return Stopped(False)
        states = self._shared.states

        def decide(there: Snapshot) -> Commit | None:
            left = snapshots.unread_messages(there)
            if not turns.has_same_place(snapshot, there) or not left or left[0].number != waiting[0].number:
                return None
            said = streams.find_said(there)
            return streams.end_reply(
                there,
                turns.choose_batch(there, self._shared.policy),
                said.content if said is not None else "",
                "stopped",
                self._shared.policy,
                at=self._shared.clock(),
                fresh=None if self._turns.on_missing else (states.fresh(), states.schema),
                lease=there.row.lease,
                out=self._turns.goes_out(there),
            )

        after, said = await self._shared.commit(snapshot, decide)
        if not said:
            return Stopped(False)
        if after.row.lease is None and after.row.due_at is not None and after.row.due_at <= self._shared.clock():
            self._have_answered(key)
        return Stopped(True, said[0] if said[0].role == "assistant" else None)

    async def withdraw(self, key: Key, number: int) -> None:
        """Take back message *number*, which waits for its turn."""
        snapshot = await self._store.reload(key)
        there = await self._store.page(key, snapshot.row.incarnation, after=number - 1, limit=1)
        if there and there[0].number == number and there[0].role in ASKING and there[0].redacted:
            return
        await self._take_back(snapshot, number, None)

    async def amend(self, key: Key, number: int, content: Content) -> Receipt:
        """Take back message *number*, which waits for its turn, and say *content* in its place, at the end."""
        entry_for(key, content, id="-", role="user", created_at=1e10, limit=self._shared.settings.message_limit)
        said: list[Message] = []
        while not said:  # (nothing was said where somebody else has said it anew in the meantime)
            snapshot = await self._store.reload(key)
            id = redaction.amendment_id(snapshot.row.incarnation, number)
            known = await self._store.find(key, snapshot.row.incarnation, [id])
            if known and known[0].content != content:
                raise NotWaiting(
                    f"{key}: message {number} was said anew already, as message {known[0].number}; nothing was changed."
                )
            said = known or await self._take_back(snapshot, number, content)
        found = await read_outcome(self._store, await self._store.reload(key), said[-1].number) if known else None
        return Receipt(
            tenant=key.tenant,
            conversation=key.id,
            id=id,
            number=said[-1].number,
            status=found.status if found is not None else "accepted",
            replies=snapshots.copy_messages(found.replies) if found is not None else [],
            duplicate=bool(known),
        )

    async def _take_back(self, snapshot: Snapshot, number: int, content: Content | None) -> list[Message]:
        """Withdraw message *number*, and say *content* in its place where there is any; give what was added to the log."""
        shared, key, limit = self._shared, snapshot.row.key, self._shared.settings.message_limit
        shared.refuse_closed(key)
        await refuse_held(self._store, snapshot.row)
        await self._pauses.refresh()

        over = NotWaiting(f"{key}: message {number} does not wait for an answer (any more); nothing was changed.")

        def decide(there: Snapshot) -> Commit:
            waiting = snapshots.unread_messages(there)
            found = [message for message in waiting if message.number == number]
            if not found:
                raise over
            answers = there.row.lease is not None and not self._pauses.is_paused(there)
            if answers and number == waiting[0].number:
                raise NotWaiting(
                    f"{key}: message {number} is being answered; nothing was changed. Stop that, and what was said of its reply stays."
                )
            amendment, at = None, shared.clock()
            if content is not None:
                metadata = found[0].metadata | {"amends": number}
                if not dead_letters.is_replay(found[0]):
                    metadata.pop("replay_of", None)  # only chatkeep itself says what closes a letter
                told: dict[str, Any] = {
                    "role": found[0].role,
                    "created_at": round(at * 1000) / 1000,
                    "metadata": metadata,
                }
                id = redaction.amendment_id(there.row.incarnation, number)
                entry = entry_for(key, content, id=id, limit=limit, channel=found[0].channel, **told)
                amendment = Draft(content=content, id=id, entry=entry, **told)
            return redaction.redact_messages(there, found, [], shared.policy, at=at, amendment=amendment)

        after, said = await shared.commit(snapshot, decide)
        if said is None:  # there is no such conversation, or none any more
            raise over
        if after.row.lease is None and snapshots.unread_messages(after) and not self._pauses.is_paused(after):
            self._have_answered(key)
        return said

    def _have_answered(self, key: Key) -> None:
        """Have what waits in a conversation answered, here or elsewhere."""
        self._workers.begin_answer(key)
        self._notifier.tell_of_work()

    async def pause(self, tenant: str | None) -> None:
        """Silence the bot for a tenant, or for all."""
        await self._pauses.pause(tenant)

    async def resume(self, tenant: str | None, *, skips: bool) -> None:
        """Let the bot answer again; if it *skips*, what came meanwhile is passed over first."""
        if skips:
            await self._pauses.learn()
            await self._pauses.skip(tenant)
        await self._pauses.finish(await self._pauses.resume(tenant), self._workers.begin_answer)
        self._notifier.tell_of_work()

    async def pause_one(self, key: Key, by: str = "", *, into: Snapshot | None = None) -> None:
        """Silence the bot in one conversation, which *by* takes over, if anybody does; *into*: only in the one that this shows."""
        refuse_own_turn(key, "would throw its own turn away; pause it when the turn is over")
        await self._pauses.pause_one(key, by, into=into)

    async def resume_one(self, key: Key, *, skips: bool) -> None:
        """Let the bot answer in one conversation again."""
        refuse_own_turn(key, "would throw its own turn away; resume it when the turn is over")
        if skips:
            await self._pauses.learn()
            await self._pauses.skip_one(key)
        snapshot = await self._pauses.resume_one(key)
        if snapshots.unread_messages(snapshot) and not self._pauses.is_paused(snapshot):
            self._have_answered(key)

    async def dismiss(self, key: Key, number: int) -> bool:
        """Close a dead letter; tell whether the message was set aside at all."""
        snapshot = await self._store.reload(key)
        if number not in snapshot.record.dead:
            incarnation = snapshot.row.incarnation
            return bool(await self._store.find(key, incarnation, dead_letters.note_ids(incarnation, number)))
        await self._shared.commit(
            snapshot,
            lambda there: dead_letters.dismiss_letter(there, number, self._shared.policy, at=self._shared.clock()),
        )
        return True

    async def redact(self, key: Key, number: int) -> bool:
        """Remove what a message says, wherever that is kept of it; tell whether there is such a message."""
        snapshot = await self._store.load(key)
        found = [] if snapshot is None else await self._find_copies(snapshot, number)
        if snapshot is None or not found:
            return False
        notes, seen = list[Message](), min(message.number for message in found)
        async for page in walk_log(self._store, key, snapshot.row.incarnation, after=seen):
            notes, seen = notes + [entry for entry in page if entry.role == "system"], page[-1].number
        if all(message.redacted for message in found):
            return True
        await refuse_held(self._store, snapshot.row)
        found = [message for message in found if not message.redacted]  # (the others' notes are in the log already)

        def decide(there: Snapshot) -> Commit | None:
            newer = [message for message in there.messages if message.number > seen]
            return redaction.redact_found(there, found, [*notes, *newer], self._shared.policy, at=self._shared.clock())

        await self._shared.commit(snapshot, decide)
        return True

    async def _find_copies(self, snapshot: Snapshot, number: int) -> list[Message]:
        """Find message *number* and, where it was handed in again, all that say the same."""
        key, incarnation = snapshot.row.key, snapshot.row.incarnation
        found: dict[int, Message] = {}
        asked = [number]
        while asked:
            at = asked.pop()
            page = await self._store.page(key, incarnation, after=at - 1, limit=1) if at not in found else []
            if not page or page[0].number != at:
                continue
            message = found[at] = page[0]
            if message.role == "system" and message.metadata.get("kind") not in redaction.WITH_WORDS:
                raise UsageError(f"{key}: entry {number} is a note of chatkeep's own; nothing was redacted.")
            asked += [entry.number for entry in await self._store.find(key, incarnation, [dead_letters.replay_id(at)])]
            if message.id.startswith(dead_letters.REPLAY):
                asked.append(int(message.id.removeprefix(dead_letters.REPLAY)))
        return list(found.values())

    async def resend(self, key: Key, number: int) -> None:
        """Have a reply sent once more."""
        await self._sender.resend(key, number)
        if self._sender.takes(key) and self._shared.settings.background:
            worker = self._workers.register(key)
            worker.warm = False
            worker.wake.set()
            self._workers.start(worker)
        else:
            self._notifier.tell_of_work()

    async def _rewrite(
        self,
        key: Key,
        rewritten: Callable[[Snapshot, Raw, int], Rewritten | None],
        id: str | None,
        owner: str = "",
        look: Look | None = None,
    ) -> Snapshot:
        """Put what *rewritten* makes of the stored state and its schema in its place; None: it stays as it is. What is new is *owner*'s.
        *look* is given what is there, and refuses by raising."""
        self._shared.refuse_closed(key)
        refuse_own_turn(key, "would throw its own turn away; change turn.state")
        token = fresh_token()
        note = commits.make_note("change", token if id is None else message_id(key, id))
        now, states = self._shared.clock(), self._shared.states

        def decide(there: Snapshot) -> Commit | None:
            record = there.record
            if token in record.changes:
                return None  # an earlier run of this very act was written
            if look is not None:
                look(there)
            number = self._session_start(there, now)
            made = rewritten(there, *((states.fresh(), states.schema) if number else (record.state, record.schema)))
            if made is None:
                return None
            raw, schema, notes = made.raw, made.schema, made.notes
            if number and raw != NONE:
                record = sessions.open_session(record, raw, schema, number=number, at=now)
            stamps = record.stamps if made.stamps is None else made.stamps
            record = structs.replace(record, state=raw, schema=schema, stamps=stamps)
            if id is None and there.row.head and not notes and not made.told:
                return commits.commit_change(there, record, token, self._shared.policy, at=now)
            own = structs.replace(note, metadata={**note.metadata, **made.told})
            return commits.commit_note(there, record, own, self._shared.policy, at=now, more=notes)

        async def write(snapshot: Snapshot) -> Snapshot:
            while self._turns.on_missing and (number := self._session_start(snapshot, now)):
                stand_in = Message(id=note.id, number=number, role="system", content="", created_at=now)

                def look_at(raw: Raw, there: Snapshot = snapshot) -> None:
                    # A change that is refused leaves no session, and no conversation, that was begun for it.
                    if look is not None:
                        look(there)
                    rewritten(there, raw, states.schema)

                rebuilt = await self._turns.rebuild(snapshot, [stand_in], look=look_at)
                if rebuilt is not None:
                    snapshot = rebuilt
                    break
                snapshot = await self._store.reload(key, owner=owner)
            after, _ = await self._shared.commit(snapshot, decide, begins=True)
            return after

        snapshot = self._store.cached(key) or await self._store.reload(key, owner=owner)
        try:
            return await write(snapshot)
        except StoreError:
            raise
        except Exception:
            # The application refuses, perhaps for a state that is cached here and is not the store's any more.
            newest = await self._store.reload(key, owner=owner)
            if newest.row.revision == snapshot.row.revision:
                raise
            return await write(newest)

    def _session_start(self, there: Snapshot, now: float) -> int:
        """Tell with which entry the session of a change begins that finds none; 0 where a session is live.

        Judged as for the first unread message, if there is one: it is to be answered in the same session, and begins it.
        """
        waiting = snapshots.unread_messages(there)
        number, at = (waiting[0].number, waiting[0].created_at) if waiting else (there.row.head + 1, now)
        return number if sessions.is_session_over(there.record, self._shared.policy, at, number) else 0
