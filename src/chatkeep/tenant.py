"""The conversations of one tenant: `Tenant`, and what `Chatkeep` has in common with it. Thin; the engine does the work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Literal, get_args

from msgspec import structs

from .conversation.edits import StateAsOf
from .conversation.keys import (
    check_by,
    check_limits,
    check_numbers,
    check_slot,
    check_user,
    key_for,
    refuse_reserved,
)
from .conversation.once import Call
from .conversation.outbox import Delivery, list_deliveries
from .conversation.snapshots import Condition, is_outbound
from .drivers.base import Index, Key
from .engine.engine import Engine, describe
from .engine.once import Ledger
from .engine.outcomes import page_dead_letters, read_answering, read_dead_letters, read_replays, read_state_as_of
from .engine.watch import Watch
from .errors import BadMessage, Corrupt, Replaced, Unavailable, Unsupported, UsageError
from .model import (
    Answering,
    Content,
    Conversation,
    DeadLetter,
    Event,
    Message,
    Receipt,
    Role,
    State,
    Stopped,
)
from .people.surface import PeopleSurface
from .settings import Flag
from .showing import list_conversations, show, show_held, show_unreadable, show_written

PAGE = 100
WAIT_S = 60.0

LETTERS = 1000
"""So many dead letters are listed at a time."""

Unread = Literal["answer", "skip"]
"""What becomes of the messages that came in while the bot was paused."""


class Surface(PeopleSurface[State]):
    """The conversations of one tenant: what `Chatkeep` and `Tenant` have in common."""

    def __init__(self, engine: Engine[State], tenant: str, *, owner: str = "", begins: bool = False) -> None:
        self._engine = engine
        self._tenant = tenant
        self._owner = owner
        self._begins = begins

    async def receive(
        self,
        conversation: str,
        content: Content,
        *,
        id: str | None = None,
        role: Role = "user",
        metadata: dict[str, Any] | None = None,
        owner: str = "",
        wait_if_duplicate: bool = True,
    ) -> Receipt:
        """
        Record a message and answer it in this call.

            receipt = await keep.receive("ada", "basic manicure", id="wamid.1")
            for reply in receipt.replies:
                print(reply.text)

        Promised: when this returns, message, new state and replies are durable, and recorded together. A message
        whose *id* is in the log already has no second effect; the receipt then carries the replies recorded for it
        and `duplicate` is True. While the handler raises, it is tried again, with growing pauses; `HandlerFailed`
        comes when the message was set aside, or has failed three times: its text says until when it is tried again.
        Cancelling the call does not take back a message that is in the log: it is answered anyway.

        Not promised: that the handler runs once. What it does to the outside world should carry `turn.id`.

        Args:
            conversation: Names the conversation; any text, 1 to 512 bytes of UTF-8.

            content: Text, or a list of JSON parts; attachments by reference.

            id: The sender's id of this message, such as a webhook's. Without one, a redelivery cannot be told from a
                new message.

            role: "user" or "event".

            metadata: JSON kept with the message.

            owner: Whose conversation it is, if this message creates it. One that is there already may be somebody else's: where
                others choose ids, call `create(..., owner=)` first, which refuses that.

            wait_if_duplicate: Waits for the answer also when the message is known and somebody works on it already; False
                gives a receipt with status "accepted" and `duplicate` at once.

        Raises:
            BadKey, BadMessage, TooLarge: Nothing was touched.

            NotOpen: Not inside `async with keep:`, or in another event loop, thread or process. Nothing was touched.

            Overloaded, Unavailable: Certainly not written. Send it again later, under the same id.

            Uncertain: Perhaps written. Send it again under the same id.

            HandlerFailed: It is in the log and has no answer. If it is tried again, the answer can be had under the same id.
        """
        if role not in ("user", "event"):
            _check_role(conversation, role)
            raise BadMessage(
                f"{conversation}: nobody answers a message of role {role!r}; use accept. Nothing was touched."
            )
        key, engine = key_for(self._tenant, conversation), self._engine
        refuse_reserved(key, id)
        if owner:
            check_user(owner)  # an owner is text that every store can keep
        engine.store.confinement.check()
        return await engine.intake.receive(
            key,
            content,
            id=id,
            role=role,
            metadata=metadata,
            owner=owner or self._owner,
            wait_if_duplicate=wait_if_duplicate,
        )

    async def accept(
        self,
        conversation: str,
        content: Content,
        *,
        id: str | None = None,
        role: Role = "user",
        metadata: dict[str, Any] | None = None,
        owner: str = "",
    ) -> Receipt:
        """
        Record a message and return; a worker answers it, here or, after a crash, wherever the store is opened next.

            await keep.accept("ada", "and a pedicure", id="wamid.2")

        When this returns, the message is durable. Roles other than "user" and "event" are kept and shown, and not
        answered. For a message whose *id* is known, the receipt has what became of it. Arguments and errors as for
        `receive`.
        """
        _check_role(conversation, role)
        key = self._key(conversation)
        _check_names(key, id, owner)
        return await self._opened.intake.accept(
            key, content, id=id, role=role, metadata=metadata, owner=owner or self._owner
        )

    async def create(self, conversation: str, *, owner: str = "") -> Conversation[State]:
        """
        Create a conversation before anything is said in it, and return it; one that is there already is returned as it is.

            await keep.create("trip", owner="ada")

        *owner* is whose it is. Raises `OtherOwner` when the conversation exists and is not that owner's, who is never changed.
        """
        key, owner = self._key(conversation), owner or self._owner
        _check_names(key, None, owner)
        snapshot, _ = await self._opened.changes.create(key, owner=owner)
        if owner:
            await self._claims.refuse_other(key, snapshot.row.owner, owner)
        return await show_written(self._engine, snapshot)

    @property
    def flags(self) -> Mapping[str, Flag]:
        """The feature flags of this tenant, as the settings have them now: a handler asks keep.tenant(turn.tenant).flags."""
        return self._engine.shared.settings.flags.of(self._tenant)

    async def conversation(self, conversation: str, *, messages: int | None = None) -> Conversation[State] | None:
        """
        Return the conversation as it is now, with its last messages; None when there is none.

            conversation = await keep.conversation("ada")
            if conversation is not None:
                print(conversation.state, len(conversation.messages))

        Always read from the store, never from a cache, so it shows every act that was answered before, on any
        instance; only with on_outage="read", while the store is away, what this process has seen last, marked
        `stale`. Raises `Corrupt` when it is there and cannot be read, `Unsupported` when its state is newer than
        this code.
        """
        key = self._key(conversation)
        check_limits(key, messages=messages)
        try:
            snapshot = await self._opened.store.load(key)
        except Unavailable as away:
            snapshot = self._engine.store.cached(key)
            if snapshot is None or self._engine.shared.settings.on_outage != "read" or isinstance(away, Replaced):
                raise
            return structs.replace(show_held(self._engine, snapshot, messages), stale=True)
        return None if snapshot is None else await show(self._engine, snapshot, messages)

    async def history(
        self,
        conversation: str,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Message]:
        """
        Return the log, oldest first, of all sessions: what is numbered above *after* and below *before*.

            async for message in keep.history("ada"):
                print(message.number, message.role, message.text)

        With *before* and *limit* and no *after*, the last *limit* of them. Read page by page while you iterate;
        entries that are added meanwhile are seen, entries that retention removes are not.
        """
        key = self._key(conversation, *(number for number in (after, before) if number is not None))
        check_limits(key, limit=limit)
        snapshot = await self._opened.store.load(key)
        if snapshot is None:
            return
        page, incarnation = self._engine.store.page, snapshot.row.incarnation
        if after is None and before is not None and limit is not None:
            newest: list[Message] = []
            while limit > 0 and (found := await page(key, incarnation, before=before, limit=min(limit, PAGE))):
                newest[:0] = found
                before, limit = found[0].number, limit - len(found)
            for message in newest:
                yield message
            return
        seen, left = after or 0, limit if limit is not None else snapshot.row.head + (1 << 40)
        while left > 0 and (found := await page(key, incarnation, after=seen, before=before, limit=min(left, PAGE))):
            for message in found:
                yield message
            self._engine.store.confinement.check()  # the next page may be asked for from elsewhere
            seen, left = found[-1].number, left - len(found)

    async def events(self, conversation: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """
        Return what happens in a conversation, as it happens, on whichever instance.

            async for event in keep.events("ada", after=0):
                if isinstance(event, Message):
                    print(event.text)
                    break

        Promised: every `Message` of the log but chatkeep's own notes, in order, each once, from number *after* on (None:
        what comes from now on), also after outages of the store. `StateChanged` when the state is another, before the reply
        that it was recorded with. `Typing` shows that a turn runs; `Delta` and `PartSaid` are pieces of a streamed reply, from its
        beginning on, each once: they are shown when they are durable, and the reply that is recorded, under the id that they name,
        begins with them, whoever dies meanwhile. `Failing` tells that attempts fail, and when the next one is made, `SetAside` that none
        is. Ends with `Erased`, or when this Chatkeep is closed.
        """
        async with Watch(
            self._engine.watches, self._key(conversation, *() if after is None else (after,)), after
        ) as watch:
            while (events := await watch.next(WAIT_S)) is not None:
                for event in events:
                    yield event

    async def conversations(
        self,
        *,
        owner: str | None = None,
        by: Index = "recent",
        limit: int | None = None,
        messages: int = 0,
        after: Conversation[State] | None = None,
    ) -> AsyncIterator[Conversation[State]]:
        """
        List this tenant's conversations, each with so many of its last *messages*: last changed first, or by="key"; or those
        of an *owner*, by key (`user(owner).conversations()` has them last changed first). *after*: only those behind this one, the last
        of a list before.

            async for conversation in keep.conversations(limit=20, messages=1):
                print(conversation.id, [message.text for message in conversation.messages])

        One that cannot be read does not end the list: it is shown with the reason in its `fault`. Raises `UsageError` for another *by*.
        """
        told: dict[str, Any] = {"by": by, "limit": limit, "messages": messages, "after": after}
        async for conversation in list_conversations(self._opened, self._tenant, owner=owner, **told):
            yield conversation

    async def change(
        self, conversation: str, edit: Callable[[State], State | None], *, id: str | None = None, by: str = ""
    ) -> Conversation[State]:
        """
        Apply *edit* to the state outside a turn, and return the conversation as it is then.

            await keep.change("ada", lambda state: state.update(vip=True))

        *edit*, a plain function, changes the state in place, or returns another. When others write meanwhile it is applied
        again to the newer state, so it must depend on nothing else and must not wait; what it raises is raised here, and
        nothing is written. A conversation that does not exist, or whose session is over, gets a new session. A turn that
        runs meanwhile is run again only if both have changed the same member, or with `outside="rerun"`. With an *id*, the
        change is made once, however often it is asked for. *by* names a person who makes it: the log then has a note with
        the slots as they were, and `undo` puts them back.
        """
        changes, key, by = self._opened.changes, self._key(conversation), check_by(by)
        after = await changes.change(key, edit, id=id, by=by, owner=self._owner, look=self._refuse_other)
        return await show_written(self._engine, after)

    async def undo(self, conversation: str, number: int, *, by: str) -> Conversation[State]:
        """
        Put back the slots that a person has changed, as the note *number* of the log says that they were; return the conversation as it is
        then.

        Only what `change(by=)` has noted, over HTTP what somebody at the desk has changed, can be undone; clearing leaves no copy, and so
        has no way back. It is noted who undid it (*by*), and an undo can be undone. Twice is fine. Raises `ChangedSince` where a
        slot is not what the change has left, and `UsageError` where that entry is no such note.
        """
        if not by:
            raise UsageError(f"{conversation}: name who undoes it; nothing was undone.")
        return await show_written(
            self._engine, await self._opened.changes.undo(self._key(conversation, number), number, by=check_by(by))
        )

    async def as_of(self, conversation: str, number: int) -> StateAsOf | None:
        """
        Return what is known of the state as it was when entry *number* was the last one; None where there is no such conversation.

        It is told from the state of now and the notes of people's changes. What turns have changed is not known of before, and changes
        that the application made outside of turns leave no trace.
        """
        return await read_state_as_of(self._opened.store, self._key(conversation, number), number)

    async def clear(self, conversation: str, slot: str | None = None, *, id: str | None = None) -> Conversation[State]:
        """
        Clear one *slot* of the state, or all of it: it is then as in a fresh one. The log stays; `erase` removes everything.

        The state need not be readable for that. If it still is not, because of another slot, the conversation is answered
        without a state and with the reason in its `fault`. With an *id*, it is cleared once, however often it is asked for.
        """
        key = self._key(conversation)
        if slot is not None:
            check_slot(key, slot)
        snapshot = await self._opened.changes.clear(key, slot, id=id)
        try:
            return await show_written(self._engine, snapshot)
        except (Corrupt, Unsupported) as fault:
            return show_unreadable(snapshot.row, str(fault))

    async def erase(self, conversation: str) -> None:
        """
        Remove state, log, ids and every trace in the indexes. There is no way back.

        When this returns no read on any instance shows it. (Of one that had an owner, its id is kept for 30 days, for devices that keep a
        copy of the owner's list.) A message that was on its way, or comes later, begins a new
        conversation; a turn that was running writes nothing.

        Raises `OnHold` when the conversation, or its owner, is on legal hold. Twice is fine.
        """
        await self._opened.erase(self._key(conversation))

    async def redact(self, conversation: str, number: int) -> None:
        """
        Remove what one message says, such as a card number. There is no way back.

        Its number, id and role stay, so nothing is renumbered and a redelivery is still known; it is shown as `redacted`, and is
        in no turn's history any more. (A turn that has begun before is thrown away and runs again.) What quotes it goes too: its
        replays, other versions of it that gave way in a save, the reasons why it was set aside or not delivered, and, in results of
        steps and in reminders, its whole text. A note with words of people (a colleague's, what gave way in a title or a slot, a
        change that was made by hand) is redacted by its own number.
        One that waits for an answer is passed over, and a reply that was not sent yet is not sent. Other messages, and the
        state, stay as they are: replies may repeat it.

        Raises `UsageError` when there is no such message, and `OnHold` when the conversation is on legal hold. Twice is fine.
        """
        if not await self._opened.changes.redact(self._key(conversation, number), number):
            raise UsageError(
                f"{conversation}: there is no message {number} in its log; nothing was redacted. The history has the numbers."
            )

    async def dead_letters(
        self, conversation: str | None = None, *, after: str = "", limit: int = LETTERS
    ) -> list[DeadLetter]:
        """
        Return the messages that were set aside, are still in the log and not closed, each with its `metadata["reason"]`.

        Of one conversation, oldest first; or without one of all of this tenant, conversation by conversation in the order of
        their ids, from behind conversation *after* on, up to the one that makes *limit* letters: an empty list is the end. A
        dead letter is closed when its `replay` was answered, or by `dismiss`.
        """
        if conversation is not None:
            return await read_dead_letters(self._opened.store, self._key(conversation))
        return await self._letters(self._tenant, self._key(after) if after else None, limit)

    async def _letters(self, tenant: str | None, after: Key | None, limit: int) -> list[DeadLetter]:
        check_limits(limit=limit, needed=True)
        found, _ = await page_dead_letters(self._opened.store, tenant, after=after, limit=limit, rows_most=1 << 40)
        return found

    async def replay(self, conversation: str, number: int) -> Receipt:
        """
        Accept the content of a message that was set aside once more, as a new message at the end of the log.

            for letter in await keep.dead_letters():
                await keep.replay(letter.conversation, letter.number)

        When it is answered the dead letter is closed; when it fails too it takes the place of the letter. Replaying the same
        one twice has no second effect, unless the first replay was passed over unanswered. Raises `UsageError` when
        *number* was not set aside, or has left the log.
        """
        key, store = self._key(conversation, number), self._opened.store
        snapshot = await store.reload(key)
        id = await read_replays(store, snapshot, number)
        there = [] if id is None else await store.page(key, snapshot.row.incarnation, after=number - 1, limit=1)
        if id is None or not there or there[0].number != number or there[0].redacted:
            raise UsageError(
                f"{conversation}: message {number} was not set aside, or was redacted, or has left the log; nothing was done. "
                "Only what was set aside can be replayed."
            )
        metadata = there[0].metadata | {"replay_of": number}
        return await self._opened.intake.accept(
            key, there[0].content, id=id, role=there[0].role, metadata=metadata, owner="", only=Condition(snapshot)
        )

    async def dismiss(self, conversation: str, number: int) -> None:
        """
        Close a dead letter without a replay: nobody has to do anything about it any more.

        Message and reason stay in the log, and the act is noted there. Twice is fine. Raises `UsageError` when *number* was not
        set aside.
        """
        if not await self._opened.changes.dismiss(self._key(conversation, number), number):
            raise UsageError(
                f"{conversation}: message {number} was not set aside; nothing was done. The list of dead letters has the numbers."
            )

    async def doubts(self, conversation: str) -> list[Call]:
        """Return the calls of tools that must not run twice (`Chatkeep.once`) that have begun and not ended, oldest first.

        One that runs just now is among them.
        """
        return await Ledger(self._opened.shared).read(self._key(conversation))

    async def settle(self, conversation: str, call: str, *, done: bool, result: Any = None) -> None:
        """
        Say how a call in doubt has ended: it was *done*, with this *result* (as JSON has it), or not, and may be made again.

        It is noted in the log. The turn that asks for it next goes by that; a message that was set aside wants a `replay`. Raises
        `UsageError` where no call of that name is in doubt.
        """
        key, ledger = self._key(conversation), Ledger(self._opened.shared)
        if not await ledger.settle(key, call, done=done, result=result, by="operator"):
            raise UsageError(
                f"{key}: no call {call!r:.80} is in doubt; nothing was settled. `doubts` lists those that are."
            )

    async def deliveries(self, conversation: str, *, limit: int = 200) -> list[Delivery]:
        """
        Return how the sending of each reply stands, among the last *limit* entries of the log, oldest first.

        Only for conversations whose replies go out through a channel. See `Delivery` for the statuses.
        """
        key = self._key(conversation)
        check_limits(key, limit=limit, needed=True)
        snapshot = await self._opened.store.load(key)
        if snapshot is None or not (snapshot.record.delivery or self._engine.sender.takes(key)):
            return []
        last = [m async for m in self.history(conversation, before=snapshot.row.head + 1, limit=limit)]
        return list_deliveries(last, snapshot.record.delivery)

    async def resend(self, conversation: str, number: int) -> None:
        """
        Send a reply once more: one that failed, or of which nobody knows whether it was shown. One that waits and may be out already
        goes first.

        Raises `UsageError` when message *number* is none that goes out through a channel.
        """
        key = self._key(conversation, number)
        snapshot = await self._opened.store.load(key)
        channel = snapshot is not None and (snapshot.record.delivery is not None or self._engine.sender.takes(key))
        there = [m async for m in self.history(conversation, after=number - 1, limit=1) if m.number == number]
        if not channel:
            raise UsageError(
                f"{conversation}: its replies go out through no channel, as far as this store and this process know; nothing was sent."
            )
        if not there or not is_outbound(there[0]):
            raise UsageError(
                f"{conversation}: message {number} is no reply in its log; nothing was sent. The list of its deliveries has the numbers."
            )
        await self._opened.changes.resend(key, number)

    async def withdraw(self, conversation: str, number: int) -> None:
        """
        Take back a message that waits for its turn: what it says is removed for good, as by `redact`, and nobody answers it.

        `conversation.waiting` has the numbers. Raises `NotWaiting` when it is being answered, or was; use `stop` to end the reply to
        the one that is being answered; `OnHold` when the conversation is on legal hold. Twice is fine.
        """
        await self._opened.changes.withdraw(self._key(conversation, number), number)

    async def amend(self, conversation: str, number: int, content: Content) -> Receipt:
        """
        Say a message that waits for its turn anew: the old one is withdrawn, and a new one with *content* goes to the end of what
        waits, in the same act; its `metadata["amends"]` is the number of the old one.

        Twice with the same content is once. Raises `NotWaiting` and `OnHold` as `withdraw` does, `BadMessage` and `TooLarge` as
        `accept` does.
        """
        return await self._opened.changes.amend(self._key(conversation, number), number, content)

    async def stop(self, conversation: str) -> Stopped:
        """
        End the reply that is being made, whichever instance makes it.

        What was said of a streamed reply by then is recorded as the reply, with `metadata["stopped"]`; nobody has seen more of it.
        Where nothing was said yet, the message is passed over (status "dropped"). Durable when this returns: the handler is cancelled
        right after, wherever it runs, and nothing that it does has an effect any more; a plain function in a thread runs to its end
        in vain. A message that waits for its turn, or for another try, is stopped like one that is answered; messages behind it are
        answered. Nothing is changed where nothing waits, or while the bot is paused and nothing was said (see `withdraw`); a call of
        `receive` that answers before the message is in the log (`quick`) is over before anybody could stop it.
        """
        return await self._opened.changes.stop(self._key(conversation))

    async def answering(self, conversation: str) -> Answering:
        """Return whether somebody answers in a conversation now, on whichever instance: see `Answering`. Asks the store."""
        engine, key = self._opened, self._key(conversation)
        here = key in engine.workers.by_key
        return await read_answering(engine.store, key, pauses=engine.pauses, leases=engine.leases, here=here)

    async def pause(self, conversation: str | None = None) -> None:
        """
        Silence the bot: for one conversation, or without one for all of this tenant.

        While it is paused, messages are kept and shown, and not answered; a turn that runs just then says nothing. Durable.
        Other instances on the store notice within `poll`.
        """
        if conversation is None:
            await self._opened.changes.pause(self._tenant)
        else:
            await self._opened.changes.pause_one(self._key(conversation))

    async def resume(self, conversation: str | None = None, *, unread: Unread = "answer") -> None:
        """
        Let the bot answer again: in one conversation, or without one in all of this tenant.

        What is *unread* is answered as `overlap` says, and reminders that fell due meanwhile come; with unread="skip" both are
        passed over (but for what comes in that very moment). A conversation answers when neither it, nor its tenant, nor
        everything is paused. The resume of a tenant goes through its conversations; should this process die meanwhile, another
        one that has the store open goes on. Raises `UsageError` for another *unread*.
        """
        skips = skips_unread(unread)
        if conversation is None:
            await self._opened.changes.resume(self._tenant, skips=skips)
        else:
            await self._opened.changes.resume_one(self._key(conversation), skips=skips)

    def _key(self, conversation: str, *numbers: int) -> Key:
        key = key_for(self._tenant, conversation)
        if numbers:
            check_numbers(key, *numbers)
        return key


class Tenant(Surface[State]):
    """All conversations of one tenant; no other tenant's can be seen or touched through it."""

    def __repr__(self) -> str:
        return describe(self._engine, f"Tenant {self._tenant!r}")

    @property
    def name(self) -> str:
        """Which tenant this is."""
        return self._tenant

    def for_owner(self, owner: str, *, begins: bool = False) -> Tenant[State]:
        """Return the same tenant, for what *owner* does: what is created there is *owner*'s, also what a message begins anew that was on
        its way when its conversation was erased. *begins*: a change there is to begin the conversation, and raises `OtherOwner` where
        somebody else was faster. It is no check of rights: conversations of others are reached as before; `user(owner).owns(id)` tells
        whose one is."""
        return Tenant(self._engine, self._tenant, owner=owner, begins=begins)


def _check_names(key: Key, id: str | None, owner: str) -> None:
    refuse_reserved(key, id)
    if owner:
        check_user(owner)  # an owner is text that every store can keep


def _check_role(conversation: str, role: str) -> None:
    if role not in get_args(Role):
        raise BadMessage(
            f"{conversation}: a role is one of {', '.join(get_args(Role))}, not {role!r}. Nothing was touched."
        )


def skips_unread(unread: str) -> bool:
    """Tell whether *unread* messages are passed over. Raises `UsageError` for any other word."""
    if unread not in get_args(Unread):
        raise UsageError(f'unread is "answer" or "skip", not {unread!r}; nothing was resumed.')
    return unread == "skip"
