"""Commands on a running server, over HTTP, with a service key: CHATKEEP_KEY, or the file that CHATKEEP_KEY_FILE names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import click

from ..client import Client, Forbidden, MessageEvent, NotFound, Unauthorized
from ..client import Exported as ExportedOver
from ..client.desk import found as found_over
from ..conversation.edits import StateAsOf
from ..conversation.once import Call
from ..conversation.outbox import Delivery
from ..drivers.base import Key
from ..drivers.url import is_loopback
from ..engine.parts import Stats
from ..errors import ChatkeepError, Unavailable, UsageError
from ..model import Content, Conversation, DeadLetter, Message, Receipt, Stopped, Words
from ..people.erasing import ErasedUser
from ..sources import named_key
from ..storage.archive import Exported
from ..storage.audit import Act
from ..storage.holds import Hold
from ..tenant import Unread
from .printing import plain
from .target import Listed, Place

REACH_S = 3.0
"""A server that is not reached within this long is said not to be."""

ACT_S = 300.0
"""An act may take so long, such as resuming a tenant with many conversations."""

MAKE_ONE = "`chatkeep key create STORE`, on a machine that reaches the store, makes one"


class ServerVerbs:
    """What commands do in the tenant of a key; see `Verbs`."""

    def __init__(self, target: ServerTarget) -> None:
        self._target, self._client, self._desk = target, target.client, target.client.desk

    @property
    def name(self) -> str:
        """Which tenant this is."""
        return self._target.tenant

    async def conversations(self, *, owner: str | None = None) -> AsyncIterator[Listed]:
        """List the conversations, last changed first, or those of an owner."""
        async for found in self._desk.conversations(owner=owner):
            last = Words(found.last, found.last_role, found.last_at) if found.last_role else None  # type: ignore[arg-type]
            yield Listed(self._target.known(found), last, found.answered)

    async def conversation(self, conversation: str, *, messages: int = 20) -> Conversation[Any] | None:
        """Return a conversation with its last messages."""
        found = await found_over(self._desk, conversation, messages=messages)
        return None if found is None else self._target.known(found)

    def history(
        self, conversation: str, *, after: int | None = None, before: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Message]:
        """Return the log, oldest first."""
        return self._desk.history(conversation, after=after, before=before, limit=limit)

    async def messages(self, conversation: str, *, after: int) -> AsyncIterator[Message]:
        """Return what is said above a number, and then as it is said."""
        async for event in self._client.conversation(conversation).events(after=after):
            if isinstance(event, MessageEvent):
                yield event.message

    async def dead_letters(self, conversation: str | None = None) -> AsyncIterator[DeadLetter]:
        """Return what was set aside: in one conversation, or in all."""
        async for letter in self._desk.dead_letters(conversation):
            told = {name: getattr(letter, name) for name in DeadLetter.__struct_fields__}
            yield DeadLetter(**told | {"tenant": self.name})

    async def replay(self, conversation: str, number: int) -> Receipt:
        """Hand in a message again that was set aside."""
        return await self._desk.replay(conversation, number)

    async def dismiss(self, conversation: str, number: int) -> None:
        """Close a dead letter."""
        await self._desk.dismiss(conversation, number)

    async def deliveries(self, conversation: str) -> Sequence[Delivery]:
        """Return how the sending of each reply stands."""
        return await self._desk.deliveries(conversation)

    async def resend(self, conversation: str, number: int) -> None:
        """Send a reply once more."""
        await self._desk.resend(conversation, number)

    async def doubts(self, conversation: str) -> Sequence[Call]:
        """Return the calls of which nobody knows whether they were done."""
        return await self._desk.doubts(conversation)

    async def settle(self, conversation: str, call: str, *, done: bool, result: Any) -> None:
        """Say how a call in doubt has ended."""
        await self._desk.settle(conversation, call, done=done, result=result)

    async def pause(self, conversation: str | None) -> None:
        """Silence the bot in one conversation, or in the whole tenant."""
        await self._desk.pause(conversation)

    async def resume(self, conversation: str | None, *, unread: Unread) -> None:
        """Let the bot answer again."""
        await self._desk.resume(conversation, unread=unread)

    async def paused(self) -> tuple[list[str | None], list[str]]:
        """Return what is paused."""
        return await self._desk.paused()

    async def paused_as_a_whole(self) -> list[str | None] | None:
        """Return what is paused but for single conversations; None where the key may resume, and not look."""
        try:
            return await self._desk.paused_as_a_whole()
        except Forbidden:
            return None

    async def stop(self, conversation: str) -> Stopped:
        """End the reply that is being made."""
        return await self._client.conversation(conversation).stop()

    async def say(self, conversation: str, content: Content, *, author: str) -> Receipt:
        """Say something as a person."""
        return await self._desk.say(conversation, content, author=author)

    async def clear(self, conversation: str, slot: str | None) -> None:
        """Clear the state, or a slot of it."""
        await self._client.conversation(conversation).clear(slot)

    async def undo(self, conversation: str, number: int) -> None:
        """Put back what a person has changed of the state."""
        await self._desk.undo(conversation, number)

    async def as_of(self, conversation: str, number: int) -> StateAsOf | None:
        """Return what is known of the state as it was at a number."""
        try:
            return await self._desk.as_of(conversation, number)
        except NotFound:
            return None

    async def redact(self, conversation: str, number: int) -> None:
        """Remove what one message says."""
        await self._desk.redact(conversation, number)

    async def erase(self, conversation: str) -> None:
        """Remove a conversation, and the tokens for it."""
        await self._client.conversation(conversation).erase()

    async def erase_user(self, user: str) -> ErasedUser:
        """Erase all that is a user's."""
        return await self._desk.erase_user(user)

    async def holds(self) -> Sequence[Hold]:
        """Return the legal holds."""
        return await self._desk.holds()

    async def hold(self, conversation: str, owner: str, *, reason: str) -> Sequence[Hold]:
        """Put a conversation, or all that is an owner's, on legal hold."""
        return await self._desk.hold(conversation or None, owner=owner or None, reason=reason)

    async def unhold(self, conversation: str, owner: str) -> Sequence[Hold]:
        """Lift a legal hold."""
        try:
            return await self._desk.unhold(conversation or None, owner=owner or None)
        except NotFound:
            return []

    async def audit(self, *, limit: int) -> Sequence[Act]:
        """Return who did what."""
        return await self._desk.audit(limit=limit)


class ServerTarget:
    """A running server, as a service key sees it: one tenant."""

    def __init__(self, url: str) -> None:
        self._key = named_key()
        self.client = Client(url, self._key, timeout=ACT_S, attempt=ACT_S)
        self.where = url  # which has no secret in it, or a client would have refused it
        if self._key is None:
            raise UsageError(
                f"There is no key for {url}; nothing was asked. Set CHATKEEP_KEY, or CHATKEEP_KEY_FILE to the path of a file that holds "
                f"it; {MAKE_ONE}. A key on the command line could be read by every user of the machine."
            )
        warn_in_clear(url)
        self.tenant = ""

    def of(self, tenant: str) -> ServerVerbs:
        """Return the verbs for the key's tenant. Raises `UsageError` for another one."""
        if tenant not in ("", self.tenant):
            raise UsageError(
                f"The key is for tenant {self.tenant!r}, and not for {plain(tenant, line=True)!r}; nothing was done. Use a key of that "
                "tenant: `chatkeep key create STORE --tenant NAME` makes one."
            )
        return ServerVerbs(self)

    def conversations(self, tenant: str | None) -> AsyncIterator[Listed]:
        """List the conversations of the key's tenant."""
        return self.of(tenant or "").conversations()

    async def places(self, tenant: str | None, text: str) -> AsyncIterator[Place]:
        """Give the conversations in which the server has found *text*: it reads the logs, and not this command over the network."""
        of = self.of(tenant or "")
        async for found in self.client.desk.search(text):
            yield Place(of.name, found.id, found.owner, found.title, found.fault)

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Refuse: a key is for one tenant."""
        raise UsageError(
            "--everywhere is not possible over HTTP here: a key sees one tenant. Use --all with a key of each, or name the store."
        )

    async def pause(self) -> None:
        """Silence the bot everywhere."""
        await self.client.desk.pause(everywhere=True)

    async def resume(self, *, unread: Unread) -> None:
        """Lift what `pause` did."""
        await self.client.desk.resume(everywhere=True, unread=unread)

    async def stats(self) -> Stats:
        """Return what each part of the server's process has done."""
        return await self.client.desk.stats()

    async def export(self, tenant: str | None, conversation: str | None, said: Exported) -> AsyncIterator[bytes]:
        """Give the lines of an export of the key's tenant."""
        self.of(tenant or "")
        over = ExportedOver()
        async for line in self.client.desk.export(conversation, said=over):
            yield line
        said.conversations, said.entries = over.conversations, over.entries
        said.damaged.update({Key(self.tenant, id): why for id, why in over.left_out.items()})

    def known(self, found: Conversation[Any]) -> Conversation[Any]:
        """Return *found* with its tenant, which a server does not tell."""
        told = {name: getattr(found, name) for name in Conversation.__struct_fields__}
        return Conversation(**told | {"tenant": self.tenant})

    async def __aenter__(self) -> Self:
        async with Client(self.where, self._key, timeout=REACH_S, attempt=REACH_S) as asking:
            try:
                me = await asking.me()
            except Unavailable as fault:
                await self._refuse_other_scheme()
                said = str(fault).partition(": ")[2]  # (without what was asked for, which nobody here knows of)
                raise type(fault)(
                    f"{self.where} is not reached: {said} `curl {self.where}/healthz` tells more."
                ) from None
            except NotFound:
                raise UsageError(
                    f"There is no chatkeep server at {self.where}, but perhaps at another path there; nothing was done. "
                    "Write the address at which /healthz answers."
                ) from None
            except Unauthorized:
                raise UsageError(
                    f"{self.where} does not know the key, or it has ended; nothing was done. {MAKE_ONE}."
                ) from None
        if me.kind != "service":
            raise UsageError(
                f"Commands take a service key, and this is the credential of a {me.kind}; nothing was done. {MAKE_ONE}."
            )
        self.tenant = me.tenant
        await self.client.open()
        return self

    async def _refuse_other_scheme(self) -> None:
        """Raise `UsageError` where the server answers by the other one of http and https; it is asked without the key."""
        at = urlsplit(self.where)
        spoken = "http" if at.scheme == "https" else "https"
        other = at._replace(scheme=spoken).geturl()
        async with Client(other, timeout=REACH_S, attempt=REACH_S) as asking:
            try:
                await asking.me()
            except Unauthorized:
                raise UsageError(
                    f"{self.where} is not reached: {spoken} is spoken there; nothing was done. Write {other}."
                ) from None
            except ChatkeepError:  # nobody is there, or somebody who sends others on, to where they came from
                return

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()


def warn_in_clear(url: str) -> None:
    """Say so where the key travels in the clear to another machine."""
    parts = urlsplit(url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        click.echo(f"The key goes to {parts.hostname} in the clear; use https.", err=True)
