"""The values people meet: messages, receipts, conversations, and the turn that a handler is given. Nothing here
waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from msgspec import Raw, Struct

if TYPE_CHECKING:
    from .work import Work

State = TypeVar("State")

Role = Literal["user", "assistant", "operator", "system", "event"]
Part = dict[str, Any]
Content = str | list[Part]

ASKING: frozenset[str] = frozenset({"user", "event"})
"""Roles that a turn answers. The others are only kept and shown."""

TALK: frozenset[str] = frozenset({"user", "assistant", "operator", "event"})
"""Roles that are part of the talk; `system` entries are notes of chatkeep itself."""


class Message(Struct, frozen=True, kw_only=True, gc=False):
    """One entry of a conversation's log.

    number: its place, from 1, without gaps. id: the caller's, or chatkeep's own; a reply's never changes once it is
    recorded. content: text, or a list of JSON parts such as {"type": "image", "url": "..."}; attachments are referred
    to, not held. created_at: seconds since 1970, UTC. reply_to: number of the last message it answers; reply_from: of
    the first.
    """

    id: str
    number: int
    role: Role
    content: Content
    created_at: float
    reply_to: int | None = None
    reply_from: int | None = None
    metadata: dict[str, Any] = {}

    @property
    def text(self) -> str:
        """The text alone: the content, or its text parts, one a line."""
        return text_of(self.content)


def text_of(content: Content) -> str:
    """The text in *content*."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if "text" in part)


Status = Literal["answered", "accepted", "off", "dropped", "failed", "journaled"]


class Receipt(Struct, frozen=True, kw_only=True):
    """What became of a message that is in the log.

    status: answered (handled; *replies* may still be empty if the bot had nothing to say), accepted (durable, to be
    answered by a worker), off (kept and shown; the bot is switched off), dropped (kept, passed over: overlap="drop",
    or skipped by an operator), failed (set aside after its last attempt; only a redelivery is told so, the first call
    raises `HandlerFailed`), journaled (the store was away: durable in this host's journal, without a number yet, to be
    handed over and answered). duplicate: its id was in the log already; replies are the ones recorded then, and the
    content recorded first stands.
    """

    tenant: str
    conversation: str
    id: str
    number: int
    status: Status
    replies: list[Message] = []
    duplicate: bool = False


class Conversation(Struct, Generic[State], frozen=True, kw_only=True):
    """A conversation at one instant.

    state: of the live session; fresh when the session is over. session: its number, from 1; 0 before the first turn.
    messages: the last ones of the log, oldest first. unread: how many wait for an answer. on: the bot answers here.
    dead: numbers of messages that were set aside. due_at: when it will be looked at next. fault: in a listing, why this one
    cannot be read; its state is then None and its counts say nothing. stale: the store is away, and this is what this process
    has seen last (on_outage="read").
    """

    tenant: str
    id: str
    owner: str
    revision: str
    state: State
    session: int
    messages: list[Message]
    head: int
    unread: int
    on: bool
    dead: list[int]
    updated_at: float
    due_at: float | None
    fault: str = ""
    stale: bool = False


class Typing(Struct, frozen=True):
    """A turn has begun, or is over."""

    on: bool


class Piece(Struct, frozen=True):
    """A part of a reply that is being made in turn *turn*: what comes *at* that many characters; at 0 it begins anew."""

    turn: str
    at: int
    text: str


class StateChanged(Struct, frozen=True):
    """The state is another now: as JSON."""

    state: Raw


class Erased(Struct, frozen=True):
    """The conversation was erased; nothing comes after this."""


Event = Message | StateChanged | Typing | Piece | Erased


class Turn(Generic[State]):
    """What a handler is given: the state to change, what the user wrote, and what was said before.

    Change `state` in place or put another value there; it is recorded, together with the replies, when the handler
    returns, and forgotten when it raises. A handler may run more than once for the same messages: what it does to the
    outside world should carry `turn.id`, which is the same each time.
    """

    __slots__ = (
        "begin_work",
        "conversation",
        "history",
        "messages",
        "on_piece",
        "replies",
        "session",
        "state",
        "tenant",
        "work",
    )

    def __init__(
        self,
        *,
        tenant: str,
        conversation: str,
        session: int,
        state: State,
        messages: list[Message],
        history: list[Message],
    ) -> None:
        self.tenant = tenant
        self.conversation = conversation
        self.session = session
        self.state = state
        self.messages = messages
        self.history = history
        self.replies: list[Content] = []
        # What chatkeep puts here: it shows a streamed reply as it is made, and keeps steps and reminders.
        self.on_piece: Callable[[str], None] | None = None
        self.begin_work: Callable[[], Work] | None = None
        self.work: Work | None = None

    @property
    def id(self) -> str:
        """Names what is being answered, the same each time it is tried: the id of the last message."""
        return self.messages[-1].id

    @property
    def message(self) -> Message:
        """The message to answer; the last one, if several are answered together."""
        return self.messages[-1]

    @property
    def text(self) -> str:
        """What the user wrote; several messages answered together are one a line."""
        return "\n".join(message.text for message in self.messages)

    def reply(self, content: Content | Part) -> None:
        """Adds a reply, in order, before whatever the handler returns: text, a JSON part, or a list of parts."""
        self.replies.append([content] if isinstance(content, dict) else content)

    async def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Does something that must not be done twice, and answers its result: `await turn.step("charge", pay, 42)`.

        Promised: the result is recorded before it is answered, so a turn that is tried again, here or elsewhere, gets
        the recorded one and *function* is not called. Not promised: that it is never called twice. A process that dies
        after the effect and before the record leaves nothing to know it by, so hand `turn.step_key(name)` to the other
        side. A step that raises is not recorded. *function* may be async; its result is plain JSON of at most 64 KB.
        """
        return await self._working().step(name, function, args, kwargs)

    def step_key(self, name: str) -> str:
        """An idempotency key for step *name*: the same however often and wherever this turn is tried."""
        return self._working().step_key(name)

    def remind(self, after: str | float, name: str, data: Any = None, *, keep: bool = False) -> None:
        """
        Has the bot called again *after* a while ("2h", or seconds), unless the user writes before: `turn.remind("2h", "cart")`.

        The turn that comes then has one message of role "event" whose content is `[{"type": "reminder", "name": ..., "data":
        ...}]`. It comes once, survives restarts, and is set only if this turn is recorded. A reminder of the same name is
        replaced; with *keep* it comes also when the user has written.
        """
        self._working().remind(after, name, data, keep=keep)

    def cancel(self, name: str) -> None:
        """Cancels a reminder; it is fine if there is none."""
        self._working().cancel(name)

    @property
    def reminder(self) -> str:
        """The name of the reminder that this turn is about; "" if it is about something else."""
        part = (
            self.message.content[0] if self.message.role == "event" and isinstance(self.message.content, list) else {}
        )
        return str(part["name"]) if part.get("type") == "reminder" else ""

    def _working(self) -> Work:
        if self.work is None:
            if self.begin_work is None:
                raise RuntimeError(
                    "Steps and reminders belong to a turn that chatkeep runs; this one is over, or was made by hand."
                )
            self.work = self.begin_work()
        return self.work
