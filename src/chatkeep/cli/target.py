"""What a command works on: a store, or a running server. Two implementations of one small protocol; no command knows which it has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import click

from ..conversation.edits import StateAsOf
from ..conversation.once import Call
from ..conversation.outbox import Delivery
from ..engine.parts import Stats
from ..errors import UsageError
from ..model import Content, Conversation, DeadLetter, Message, Receipt, Stopped, Words
from ..people.erasing import ErasedUser
from ..storage.archive import Exported
from ..storage.audit import Act
from ..storage.holds import Hold
from ..tenant import Unread

SCHEMES = ("http", "https")

ON_THE_STORE = {
    "accounts": "who may make accounts over HTTP could let anybody in",
    "backup": "the file of a store is copied where it is",
    "cache": "it concerns all tenants, and a key is for one",
    "canary": "it concerns all tenants, and a key is for one",
    "check": "it examines the store itself; how a server is, /readyz and `chatkeep stats` tell",
    "fork": "a copy is written with the store's own rows, which no server hands out",
    "index": "it reads the logs of all tenants, and a key is for one",
    "import": "it writes rows as they are, past the rules that a server keeps",
    "key": "a key that makes keys would go on after its end",
    "move": "it closes the store that the server has open",
    "reseal": "it needs the keys that the store is sealed with, and these are sent to nobody",
    "retention": "it reads the settings and the rows of all tenants",
}
"""Commands that a server is not asked for, and why."""


class Listed(NamedTuple):
    """A conversation in a list, without its messages, its last words, and whether a person has answered what is unread."""

    conversation: Conversation[Any]
    last: Words | None
    answered: bool

    @property
    def waits(self) -> bool:
        """Whether somebody has written whom nobody has answered since: neither the bot nor a person."""
        return self.conversation.unread > 0 and not self.answered


class Place(NamedTuple):
    """A conversation that may have what is searched for. *fault*: why it cannot be read."""

    tenant: str
    id: str
    owner: str
    title: str
    fault: str


class Verbs(Protocol):
    """What commands do in one tenant. What changes something is in the audit log when it returns."""

    @property
    def name(self) -> str:
        """Which tenant this is."""

    def conversations(self, *, owner: str | None = None) -> AsyncIterator[Listed]:
        """List the conversations, last changed first, or those of an owner."""

    async def conversation(self, conversation: str, *, messages: int = 20) -> Conversation[Any] | None:
        """Return a conversation with its last messages, notes among them; None where there is none."""

    def history(
        self, conversation: str, *, after: int | None = None, before: int | None = None, limit: int | None = None
    ) -> AsyncIterator[Message]:
        """Return the log with its notes, oldest first."""

    def messages(self, conversation: str, *, after: int) -> AsyncIterator[Message]:
        """Return what is said above a number, and then as it is said, until the conversation is erased."""

    def dead_letters(self, conversation: str | None = None) -> AsyncIterator[DeadLetter]:
        """Return what was set aside: in one conversation, or in all."""

    async def replay(self, conversation: str, number: int) -> Receipt:
        """Hand in a message again that was set aside."""

    async def dismiss(self, conversation: str, number: int) -> None:
        """Close a dead letter."""

    async def deliveries(self, conversation: str) -> Sequence[Delivery]:
        """Return how the sending of each reply stands."""

    async def resend(self, conversation: str, number: int) -> None:
        """Send a reply once more."""

    async def doubts(self, conversation: str) -> Sequence[Call]:
        """Return the calls of which nobody knows whether they were done."""

    async def settle(self, conversation: str, call: str, *, done: bool, result: Any) -> None:
        """Say how a call in doubt has ended."""

    async def pause(self, conversation: str | None) -> None:
        """Silence the bot in one conversation, or in the whole tenant."""

    async def resume(self, conversation: str | None, *, unread: Unread) -> None:
        """Let the bot answer again."""

    async def paused(self) -> tuple[list[str | None], list[str]]:
        """Return what is paused as a whole, tenants or (None) everything, and the conversations that are paused themselves."""

    async def paused_as_a_whole(self) -> list[str | None] | None:
        """Return the first of these two alone; None where whoever asks may not know it."""

    async def stop(self, conversation: str) -> Stopped:
        """End the reply that is being made."""

    async def say(self, conversation: str, content: Content, *, author: str) -> Receipt:
        """Say something as a person."""

    async def clear(self, conversation: str, slot: str | None) -> None:
        """Clear the state, or a slot of it."""

    async def undo(self, conversation: str, number: int) -> None:
        """Put back what a person has changed of the state."""

    async def as_of(self, conversation: str, number: int) -> StateAsOf | None:
        """Return what is known of the state as it was at a number; None where there is no such conversation."""

    async def redact(self, conversation: str, number: int) -> None:
        """Remove what one message says."""

    async def erase(self, conversation: str) -> None:
        """Remove a conversation, and the tokens for it."""

    async def erase_user(self, user: str) -> ErasedUser:
        """Erase all that is a user's."""

    async def holds(self) -> Sequence[Hold]:
        """Return the legal holds."""

    async def hold(self, conversation: str, owner: str, *, reason: str) -> Sequence[Hold]:
        """Put a conversation, or all that is an owner's, on legal hold."""

    async def unhold(self, conversation: str, owner: str) -> Sequence[Hold]:
        """Lift a legal hold, and return what it was."""

    async def audit(self, *, limit: int) -> Sequence[Act]:
        """Return who did what, the newest first."""


class Target(AbstractAsyncContextManager["Target"], Protocol):
    """A store or a server, while it is open."""

    where: str
    """How it is called, without a secret."""

    def of(self, tenant: str) -> Verbs:
        """Return the verbs for one tenant; "": the default one, and over HTTP the key's."""

    def conversations(self, tenant: str | None) -> AsyncIterator[Listed]:
        """List the conversations of a tenant, or (None) of all that can be seen from here, last changed first."""

    def places(self, tenant: str | None, text: str) -> AsyncIterator[Place]:
        """Give the conversations in which *text* may be found, last changed first."""

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Return what was set aside in any tenant."""

    async def pause(self) -> None:
        """Silence the bot everywhere."""

    async def resume(self, *, unread: Unread) -> None:
        """Lift what `pause` did."""

    async def stats(self) -> Stats:
        """Return what each part of the process has done. Raises `UsageError` on a store, where there is no process to ask."""

    def export(self, tenant: str | None, conversation: str | None, said: Exported) -> AsyncIterator[bytes]:
        """Give the lines of an export; *said* is filled in."""


def is_server(store: str) -> bool:
    """Tell whether the address is a server's, and not a store's."""
    return store.partition("://")[0].lower() in SCHEMES


def refuse_server(store: str) -> None:
    """Raise `UsageError`, with the reason, where a command that wants a store was given a server."""
    if not is_server(store):
        return
    context = click.get_current_context(silent=True)
    words = context.command_path.split()[1:] if context is not None else []
    why = ON_THE_STORE.get(words[0] if words else "", "it works on a store alone")
    raise UsageError(
        f"`chatkeep {' '.join(words)}` is not possible over HTTP: {why}. Nothing was done. Name the store, on a machine that reaches it."
    )
