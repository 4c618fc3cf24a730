"""Commands on a store, which a running server may have open too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import click

from ..app import core_of
from ..conversation.codec import record_from
from ..conversation.edits import StateAsOf
from ..conversation.keys import RESERVED
from ..conversation.once import Call
from ..conversation.outbox import Delivery
from ..conversation.snapshots import is_answered
from ..drivers.base import Ability, Key, Row
from ..engine.parts import Stats
from ..errors import Corrupt, StoreError, Unsupported, UsageError
from ..model import Content, Conversation, DeadLetter, Message, Receipt, Stopped, last_words
from ..people.erasing import ErasedUser
from ..secrecy import without_secret
from ..storage.archive import Exported, export_lines
from ..storage.audit import Act
from ..storage.holds import Hold
from ..tenant import Tenant, Unread
from .opening import acting, existing, note_act
from .target import Listed, Place

TAIL = 8
"""So many of its last entries are looked at for the last words of a conversation."""

PAGE = 200


def as_listed(found: Conversation[Any]) -> Listed:
    """Return *found* as lists have it."""
    return Listed(found, last_words(found.messages), is_answered(found))


class StoreVerbs:
    """What commands do in one tenant of a store; see `Verbs`."""

    def __init__(self, target: StoreTarget, tenant: str) -> None:
        self._keep, self._tenant = target.keep, target.keep.tenant(tenant)

    @property
    def name(self) -> str:
        """Which tenant this is."""
        return self._tenant.name

    async def conversations(self, *, owner: str | None = None) -> AsyncIterator[Listed]:
        """List the conversations, last changed first, or those of an owner."""
        async for found in self._tenant.conversations(owner=owner, messages=TAIL):
            yield as_listed(found)

    async def conversation(self, conversation: str, *, messages: int = 20) -> Conversation[Any] | None:
        """Return a conversation with its last messages."""
        return await self._tenant.conversation(conversation, messages=messages)

    def history(
        self, conversation: str, *, after: int | None = None, before: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Message]:
        """Return the log, oldest first."""
        return self._tenant.history(conversation, after=after, before=before, limit=limit)

    async def messages(self, conversation: str, *, after: int) -> AsyncIterator[Message]:
        """Return what is said above a number, and then as it is said."""
        async for event in self._tenant.events(conversation, after=after):
            if isinstance(event, Message):
                yield event

    async def dead_letters(self, conversation: str | None = None) -> AsyncIterator[DeadLetter]:
        """Return what was set aside: in one conversation, or in all."""
        if conversation is not None:
            for letter in await self._tenant.dead_letters(conversation):
                yield letter
            return
        last = ""
        while page := await self._tenant.dead_letters(after=last):
            for letter in page:
                yield letter
            last = page[-1].conversation

    async def replay(self, conversation: str, number: int) -> Receipt:
        """Hand in a message again that was set aside."""
        receipt = await self._tenant.replay(conversation, number)
        await self._note("replay", conversation)
        return receipt

    async def dismiss(self, conversation: str, number: int) -> None:
        """Close a dead letter."""
        await self._tenant.dismiss(conversation, number)
        await self._note("dismiss", conversation)

    async def deliveries(self, conversation: str) -> Sequence[Delivery]:
        """Return how the sending of each reply stands."""
        return await self._tenant.deliveries(conversation)

    async def resend(self, conversation: str, number: int) -> None:
        """Send a reply once more."""
        await self._tenant.resend(conversation, number)
        await self._note("resend", conversation)

    async def doubts(self, conversation: str) -> Sequence[Call]:
        """Return the calls of which nobody knows whether they were done."""
        return await self._tenant.doubts(conversation)

    async def settle(self, conversation: str, call: str, *, done: bool, result: Any) -> None:
        """Say how a call in doubt has ended."""
        await self._tenant.settle(conversation, call, done=done, result=result)
        await self._note("settle", conversation)

    async def pause(self, conversation: str | None) -> None:
        """Silence the bot in one conversation, or in the whole tenant."""
        await self._tenant.pause(conversation)
        await self._note("pause" if conversation else "pause:tenant", conversation or "")

    async def resume(self, conversation: str | None, *, unread: Unread) -> None:
        """Let the bot answer again."""
        await self._tenant.resume(conversation, unread=unread)
        await self._note("resume" if conversation else "resume:tenant", conversation or "")

    async def paused(self) -> tuple[list[str | None], list[str]]:
        """Return what is paused."""
        core, after, ids = core_of(self._keep), None, list[str]()
        scopes = await self.paused_as_a_whole()
        while True:
            found, after = await core.page_paused(self.name, after=after, limit=PAGE)
            ids += [key.id for key in found]
            if after is None:
                return scopes, ids

    async def paused_as_a_whole(self) -> list[str | None]:
        """Return what is paused but for single conversations."""
        return await core_of(self._keep).find_paused()

    async def stop(self, conversation: str) -> Stopped:
        """End the reply that is being made."""
        found = await self._tenant.stop(conversation)
        await self._note("stop", conversation)
        return found

    async def say(self, conversation: str, content: Content, *, author: str) -> Receipt:
        """Say something as a person."""
        metadata = {"author": author} if author else None
        receipt = await self._tenant.accept(conversation, content, role="operator", metadata=metadata)
        await self._note("say", conversation)
        return receipt

    async def clear(self, conversation: str, slot: str | None) -> None:
        """Clear the state, or a slot of it."""
        await self._tenant.clear(conversation, slot)
        await self._note("state", conversation)

    async def undo(self, conversation: str, number: int) -> None:
        """Put back what a person has changed of the state."""
        await self._tenant.undo(conversation, number, by=acting())
        await self._note("undo", conversation)

    async def as_of(self, conversation: str, number: int) -> StateAsOf | None:
        """Return what is known of the state as it was at a number."""
        return await self._tenant.as_of(conversation, number)

    async def redact(self, conversation: str, number: int) -> None:
        """Remove what one message says."""
        await self._tenant.redact(conversation, number)
        await self._note("redact", conversation)

    async def erase(self, conversation: str) -> None:
        """Remove a conversation, and the tokens for it."""
        from ..auth import credentials

        await self._tenant.erase(conversation)
        await credentials.forget(self._keep, self.name, conversation)
        await self._note("erase", conversation)

    async def erase_user(self, user: str) -> ErasedUser:
        """Erase all that is a user's, which is noted in the same breath."""
        return await self._tenant.user(user).erase(by=acting())

    async def holds(self) -> Sequence[Hold]:
        """Return the legal holds."""
        return [held async for held in core_of(self._keep).holds(self.name).all()]

    async def hold(self, conversation: str, owner: str, *, reason: str) -> Sequence[Hold]:
        """Put a conversation, or all that is an owner's, on legal hold."""
        made = await core_of(self._keep).hold(self.name, conversation, owner, reason=reason)
        await self._note("hold", conversation or f"owner {owner}")
        return made

    async def unhold(self, conversation: str, owner: str) -> Sequence[Hold]:
        """Lift a legal hold."""
        lifted = await core_of(self._keep).lift_hold(self.name, conversation, owner)
        if lifted:
            await self._note("unhold", conversation or f"owner {owner}")
        return lifted

    async def audit(self, *, limit: int) -> Sequence[Act]:
        """Return who did what."""
        return await core_of(self._keep).audit.read(self.name, limit=limit)

    async def _note(self, act: str, conversation: str) -> None:
        await note_act(self._keep, self.name, act, conversation)


def title_of(row: Row) -> str:
    """Return the title of a conversation; "" where it cannot be read."""
    try:
        return record_from(row.key, row.body).title
    except (Corrupt, Unsupported):
        return ""


class StoreTarget:
    """A store that is there."""

    def __init__(self, store: str) -> None:
        self.where = without_secret(store)
        self.keep = existing(store)

    def of(self, tenant: str) -> StoreVerbs:
        """Return the verbs for one tenant."""
        return StoreVerbs(self, tenant)

    async def conversations(self, tenant: str | None) -> AsyncIterator[Listed]:
        """List the conversations of a tenant, or of all."""
        of: Tenant[Any] | None = None if tenant is None else self.keep.tenant(tenant)
        found = self.keep.all_conversations(messages=TAIL) if of is None else of.conversations(messages=TAIL)
        async for one in found:
            yield as_listed(one)

    async def places(self, tenant: str | None, text: str) -> AsyncIterator[Place]:
        """Give those that the full-text index has, and that are called like that; all, where there is no complete index: their logs are
        at hand."""
        core = core_of(self.keep)
        index = core.text_index
        state = await index.catch_up() if index.able else None
        if state is None or not state.on or state.left:
            async for one, *_ in self.conversations(tenant):
                yield Place(one.tenant, one.id, one.owner, one.title, one.fault)
            return
        seen, before = set[Key](), None
        while True:
            page = await index.find(tenant, text, before=before, limit=PAGE)
            for hit in page.hits:
                if (row := await core.read_row(hit.key)) is not None:
                    yield Place(*hit.key, row.owner, title_of(row), "")
            seen |= {hit.key for hit in page.hits}
            before = page.place
            if before is None:
                break
        after, wanted = None, text.casefold()
        while rows := await core.scan("recent", tenant=tenant, after=after, limit=PAGE):
            after = rows[-1]
            for row in rows:
                named = wanted in row.key.id.casefold() or wanted in row.owner.casefold()
                if named and row.key not in seen and not row.key.tenant.startswith(RESERVED):
                    yield Place(*row.key, row.owner, "", "")

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Return what was set aside in any tenant."""
        last: DeadLetter | None = None
        while page := await self.keep.all_dead_letters(after=last):
            for letter in page:
                yield letter
            last = page[-1]

    async def pause(self) -> None:
        """Silence the bot everywhere."""
        await self.keep.pause_all()
        await note_act(self.keep, "", "pause:everywhere")

    async def resume(self, *, unread: Unread) -> None:
        """Lift what `pause` did."""
        await self.keep.resume_all(unread=unread)
        await note_act(self.keep, "", "resume:everywhere")

    async def stats(self) -> Stats:
        """Refuse: the numbers are those of a process."""
        raise UsageError(
            "--parts tells what a running process has done, and a store is none; nothing was read. Name the server, such as https://host."
        )

    async def export(self, tenant: str | None, conversation: str | None, said: Exported) -> AsyncIterator[bytes]:
        """Give the lines of an export."""
        driver = core_of(self.keep).driver
        if Ability.SCAN not in driver.abilities:
            raise Unsupported(f"The store lacks {Ability.SCAN.name} ({Ability.SCAN}); nothing was exported.")
        act = "export:everywhere" if tenant is None and conversation is None else "export"
        try:
            async with aclosing(export_lines(driver, said, tenant=tenant, conversation=conversation)) as lines:  # type: ignore[type-var]
                async for line in lines:
                    yield line
        finally:  # who has read some of it and gone has it too
            try:
                await note_act(self.keep, tenant or "", act, conversation or "")
            except StoreError as fault:  # what is on a disk that is full is exported all the same
                click.echo(f"That this was exported could not be noted in the audit log: {fault}", err=True)

    async def __aenter__(self) -> Self:
        await self.keep.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.keep.close()
