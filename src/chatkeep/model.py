"""The values that people meet: messages, receipts, conversations and events. Nothing here waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal

from msgspec import Raw, Struct

if TYPE_CHECKING:
    # A default is Python 3.13's; type checkers know it from typing_extensions, which nobody needs to have installed.
    from typing_extensions import TypeVar

    State = TypeVar("State", default=dict[str, Any])
else:
    from typing import TypeVar

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
    the first. channel: the name of the channel that it came in through and that its replies go out through, such as "whatsapp".
    redacted: what it said was removed for good; number, id and role are left, and the time of the message before it.
    """

    id: str
    number: int
    role: Role
    content: Content
    created_at: float
    reply_to: int | None = None
    reply_from: int | None = None
    metadata: dict[str, Any] = {}
    channel: str = ""
    redacted: bool = False

    @property
    def text(self) -> str:
        """The text alone: the content, or its text parts, one a line."""
        return text_of(self.content)


class DeadLetter(Message, frozen=True, kw_only=True, gc=False):
    """A message that was set aside and is not closed yet, with the conversation that it is in; `metadata["reason"]` says why."""

    tenant: str
    conversation: str


def text_of(content: Content) -> str:
    """Return the text in *content*."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if "text" in part)


IDENTITY = ("name", "username", "phone", "user_id")
"""Members of a message's metadata that say who a customer is; people and bots trust them, so a customer does not say them of themselves."""

WORDS_MOST = 160


class Words(Struct, frozen=True):
    """The beginning of the last words of a conversation, whose they are, and when they were said."""

    text: str
    role: Role
    at: float


def last_words(messages: Sequence[Message]) -> Words | None:
    """Return the last words among *messages*; of a message without text, what its first part is. None where nobody said anything."""
    last = next((one for one in reversed(messages) if one.role in TALK and one.role != "event"), None)
    if last is None:
        return None
    text = "(redacted)" if last.redacted else last.text
    if not text and isinstance(last.content, list) and last.content:
        text = f"({str(last.content[0].get('type', 'part'))[:40]})"
    return Words(text[:WORDS_MOST], last.role, last.created_at)


Status = Literal["answered", "accepted", "paused", "dropped", "failed", "journaled"]


class Receipt(Struct, frozen=True, kw_only=True):
    """What became of a message that is in the log.

    status: answered (handled; *replies* may still be empty if the bot had nothing to say), accepted (durable, to be
    answered by a worker), paused (kept and shown; the bot is silent here), dropped (passed over: overlap="drop", or skipped by
    an operator; or its conversation was erased meanwhile, and the message with it), failed (set aside after its last attempt;
    *replies* are what the user was told instead of an answer; only a redelivery is told so, the first call raises
    `HandlerFailed`), journaled (the store was away: durable in this host's journal, without a number yet, to be handed over
    and answered). duplicate: its id was in the log already; replies are the ones recorded then, and the content recorded
    first stands.
    """

    tenant: str
    conversation: str
    id: str
    number: int
    status: Status
    replies: list[Message] = []
    duplicate: bool = False


OffBy = Literal["conversation", "tenant", "everywhere"]
"""What was paused, where the bot is silent."""


class Conversation(Struct, Generic[State], frozen=True, kw_only=True):
    """A conversation at one instant.

    state: of the live session; fresh when the session is over. session: its number, from 1; 0 before the first turn.
    messages: the last ones of the log, oldest first. unread: how many wait for an answer. paused: the bot is silent here;
    off_by: because of what. dead: numbers of messages that were set aside, until each is dismissed or its replay is answered.
    due_at: when it will be looked at next. fault: in a listing, why this one cannot be read; its state is then None and its
    counts say nothing. stale: the store is away, and this is what this process has seen last (on_outage="read").
    title, version, checksum: as in its owner's list, see `Summary`.
    waiting: the messages that wait for an answer, oldest first, as far as they are held (200, or somewhat more); the first may be
    being answered. assignee: the account of the operator who looks after it; "": nobody does.
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
    paused: bool
    dead: list[int]
    updated_at: float
    due_at: float | None
    off_by: list[OffBy] = []
    fault: str = ""
    stale: bool = False
    title: str = ""
    version: int = 0
    checksum: str = ""
    waiting: list[Message] = []
    assignee: str = ""


class Typing(Struct, frozen=True):
    """A turn has begun, or is over."""

    on: bool


class Delta(Struct, frozen=True):
    """A piece of the text of a reply that is being made in turn *turn*: what comes *at* that many characters of it.

    reply: the id that the reply has when it is recorded; it begins with what was told of it. part: which of the reply's parts the
    text is in, from 0, where the reply has parts.
    """

    turn: str
    at: int
    text: str
    reply: str = ""
    part: int = 0


class PartSaid(Struct, frozen=True):
    """A part of a reply that is being made, and is not text: *content*, such as {"type": "tool_call", ...}; its place is *part*.

    Of reasoning it is the piece that comes *at* that many characters. turn, reply: as `Delta` has them.
    """

    turn: str
    reply: str
    part: int
    content: Part
    at: int = 0


class Failing(Struct, frozen=True):
    """The handler fails on message *number*, which is tried again.

    attempts: so many have failed; 0: it fails no more: it was answered, or is tried no more. retry_at: when the next one may begin, in
    seconds since 1970, UTC.
    """

    number: int
    attempts: int = 0
    retry_at: float = 0.0


class SetAside(Struct, frozen=True):
    """Message *number* was set aside after its last attempt: nobody answers it, unless it is replayed."""

    number: int


AnsweringStatus = Literal["running", "waiting", "paused", "set aside", "idle"]


class Answering(Struct, frozen=True):
    """Whether somebody answers in a conversation now.

    status: running (a handler is at work), waiting (a message waits for one: for a place, after a failure, or for an instance that
    answers), paused (the bot is silent here), set aside (the last message was, after its last attempt), idle (nothing waits).
    number: the first message that this is about, 0 where there is none. reply: the id that its reply will have, as soon as
    something of a streamed one was said; else "". failing: its attempts so far have failed; None: none has.
    """

    status: AnsweringStatus
    number: int = 0
    reply: str = ""
    failing: Failing | None = None


class AppVersion(Struct, frozen=True):
    """A version of the application. said_at: when an instance of it has last said that it is there; None: none has. share: which part
    of the conversations an operator has given it; None: none of its own."""

    name: str
    said_at: float | None = None
    share: float | None = None


class Stopped(Struct, frozen=True):
    """What a stop has done. stopped: something waited for its answer, and gets no more of it; reply: what was said of it by then, as
    recorded, with `metadata["stopped"]`; None where nothing was."""

    stopped: bool
    reply: Message | None = None


class StateChanged(Struct, frozen=True):
    """The state is another now: as JSON."""

    state: Raw


class Redacted(Struct, frozen=True):
    """What message *number* said was removed for good."""

    number: int


class Erased(Struct, frozen=True):
    """The conversation was erased; nothing comes after this."""


Event = Message | StateChanged | Typing | Delta | PartSaid | Failing | SetAside | Redacted | Erased
