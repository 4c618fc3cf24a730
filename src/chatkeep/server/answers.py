"""What the API answers with: the shapes on the wire, which are also those of /openapi.json."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType, structs

from .. import model
from ..auth.credentials import Holder, Listed
from ..auth.rights import RIGHTS
from ..conversation.keys import SAVED
from ..conversation.once import Call
from ..conversation.outbox import Delivery
from ..conversation.snapshots import is_answered
from ..model import AnsweringStatus, Content, Failing, OffBy, Status
from ..storage.audit import Act
from .principals import Principal
from .telemetry import TRACEPARENT


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One message of a conversation; *number* is its place in the log, *created_at* in seconds since 1970; *author*: which
    person, of an operator's message. *redacted*: what it said was removed. *saved*: it was not said here, and a client has put it here.
    Only where notes were asked for: those of chatkeep itself, whose role is "system", and the *channel* that a message came through."""

    id: str
    number: int
    role: model.Role
    content: Content
    created_at: float
    reply_to: int | None = None
    reply_from: int | None = None
    author: str = ""
    metadata: dict[str, Any] = {}
    redacted: bool = False
    saved: bool = False
    channel: str = ""


class Messages(Struct, frozen=True, omit_defaults=True):
    """A page of the log, oldest first. *truncated*: it ended before `limit`, because it is large; the rest is another page."""

    messages: list[Message]
    truncated: bool = False


class DeadLetter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message that was set aside, *reason* saying why."""

    conversation: str
    id: str
    number: int
    role: Literal["user", "event"]
    content: Content
    created_at: float
    reason: str
    metadata: dict[str, Any] = {}
    channel: str = ""


class DeadLetters(Struct, frozen=True, omit_defaults=True):
    """Messages that were set aside. *next*: there may be more, in the conversations behind this one."""

    dead_letters: list[DeadLetter]
    next: str | None = None


class Doubts(Struct, frozen=True):
    """Calls of tools that must not run twice that have begun and not ended."""

    doubts: list[Call]


class Answering(Struct, frozen=True, omit_defaults=True):
    """Whether somebody answers now. *number*: the first message that it is about; *reply*: the id that its reply will have, once
    something of a streamed one was said; *failing*: that its attempts so far have failed."""

    status: AnsweringStatus
    number: int = 0
    reply: str = ""
    failing: Failing | None = None


class Stopped(Struct, frozen=True):
    """Whether anything was stopped, and what was said of its reply by then; null where nothing was."""

    stopped: bool
    reply: Message | None = None


class Assigned(Struct, frozen=True):
    """The account that a conversation is assigned to; "": nobody's."""

    assignee: str


class BotStatus(Struct, frozen=True):
    """Whether the bot is silent there now."""

    paused: bool


class TenantBotStatus(Struct, kw_only=True):
    """Whether the bot is silent in a tenant, and because what is paused. *tenants*: all that are, for keys that may know it."""

    paused: bool
    off_by: list[Literal["tenant", "everywhere"]]
    tenants: list[str] | UnsetType = UNSET


class Paused(Struct, frozen=True, omit_defaults=True):
    """Conversations that are paused themselves. *next*: there may be more, behind this one."""

    conversations: list[str]
    next: str | None = None


class CacheStatus(Struct, frozen=True):
    """Whether the shared cache is in use."""

    on: bool


class Audit(Struct, frozen=True):
    """What was done, the newest first."""

    acts: list[Act]


class Deliveries(Struct, frozen=True):
    """How the sending of each reply stands, oldest first."""

    deliveries: list[Delivery]


class Receipt(Struct, frozen=True, kw_only=True):
    """What became of a message. *duplicate*: it was there already, and the replies are the ones recorded then."""

    conversation: str
    id: str
    number: int
    status: Status
    replies: list[Message]
    duplicate: bool


class Conversation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation at one instant. *stale*: the store is away, and this is what the server has seen last. *due_at*: when it is looked at
    next, told where notes are. *assignee*: the account of the operator who looks after it, for keys and operators."""

    id: str
    owner: str
    revision: str
    session: int
    head: int
    unread: int
    paused: bool
    off_by: list[OffBy]
    dead: list[int]
    updated_at: float
    messages: list[Message]
    state: Any | UnsetType = UNSET
    stale: bool = False
    title: str = ""
    version: int = 0
    checksum: str = ""
    due_at: float | None = None
    assignee: str = ""


class ListedConversation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A conversation in a list. *fault*: why it cannot be read; its numbers then say nothing. *last*: the last words, whose they are, and
    when. *answered*: a person has written behind what is unread."""

    id: str
    owner: str
    session: int
    head: int
    unread: int
    paused: bool
    off_by: list[OffBy] = []
    dead: list[int]
    updated_at: float
    fault: str = ""
    title: str = ""
    revision: str = ""
    due_at: float | None = None
    last: str = ""
    last_role: str = ""
    last_at: float = 0.0
    answered: bool = False


class Conversations(Struct, frozen=True, omit_defaults=True):
    """Conversations, last changed first. *next*: where to go on; there may be more."""

    conversations: list[ListedConversation]
    next: str = ""


class CreatedConversation(Struct, frozen=True):
    """A conversation that a service key has asked for; *created* when it was not there before."""

    id: str
    revision: str
    created: bool


class Visit(Struct, frozen=True, kw_only=True):
    """A visitor's new conversation, and the token for it; without it when it is in the cookie."""

    id: str
    scopes: list[str]
    expires_at: float
    token: str | UnsetType = UNSET


class Credential(Struct, frozen=True, kw_only=True):
    """A new token, shown this once; without it when it is in the cookie. *id*: of the token, or of the conversation if a
    share was redeemed."""

    id: str
    scopes: list[str]
    expires_at: float | None
    token: str | UnsetType = UNSET
    label: str | UnsetType = UNSET


class Me(Struct, frozen=True, kw_only=True):
    """Who a credential stands for. *subject* is opaque and the same for all credentials of one holder; *conversation* is
    left out for a service key, which has all of its tenant, and for a user, whose name is *user*. *rights*: what else a service key
    may do."""

    subject: str
    tenant: str
    kind: Holder
    scopes: list[str]
    expires_at: float | None
    conversation: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    rights: list[str] | UnsetType = UNSET


class Share(Struct, frozen=True):
    """A new share, shown this once; *url* opens the chat page with it."""

    id: str
    share: str
    url: str
    expires_at: float


class Tokens(Struct, frozen=True):
    """A conversation's tokens and shares."""

    tokens: list[Listed]


class Health(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the server runs, or takes messages; *trouble*: why not, or what is wrong beside that."""

    status: str
    trouble: str = ""


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong (RFC 9457); *etag* and *state* say how things are when a precondition failed."""

    type: str
    title: str
    status: int
    detail: str
    conversation: str = ""
    etag: str | UnsetType | None = UNSET
    state: Any | UnsetType = UNSET


def me(found: Principal) -> Me:
    """Return *found* as it is shown to itself."""
    return Me(
        subject=found.subject,
        tenant=found.tenant,
        kind=found.holder,
        scopes=sorted(found.scopes - RIGHTS),
        rights=sorted(found.scopes & RIGHTS) if found.kind == "service" else UNSET,
        expires_at=found.expires_at,
        conversation=found.conversation if found.kind == "token" else UNSET,
        user=found.user if found.kind == "user" else UNSET,
    )


def message(found: model.Message, *, whole: bool = False) -> Message:
    """Return *found* as it is shown; *whole*: with what only service keys and people see."""
    saved = found.channel == SAVED
    author = found.metadata.get("author", "") if found.role == "operator" and not saved else ""
    return Message(
        id=found.id,
        number=found.number,
        role=found.role,
        content=found.content,
        created_at=found.created_at,
        reply_to=found.reply_to,
        reply_from=found.reply_from,
        author=author if isinstance(author, str) else "",
        metadata=public(found.metadata),
        redacted=found.redacted,
        saved=saved,
        channel=found.channel if whole else "",
    )


def dead_letter(found: model.DeadLetter) -> DeadLetter:
    """Return *found* as it is shown."""
    return DeadLetter(
        conversation=found.conversation,
        id=found.id,
        number=found.number,
        role=found.role,  # type: ignore[arg-type]  # only what asks for an answer is set aside
        content=found.content,
        created_at=found.created_at,
        reason=found.metadata["reason"],
        metadata=public({name: value for name, value in found.metadata.items() if name != "reason"}),
        channel=found.channel,
    )


def receipt(found: model.Receipt) -> Receipt:
    """Return *found* as it is shown."""
    return Receipt(
        conversation=found.conversation,
        id=found.id,
        number=found.number,
        status=found.status,
        replies=[message(reply) for reply in found.replies],
        duplicate=found.duplicate,
    )


def conversation(
    found: model.Conversation[Any], messages: list[model.Message], state: Any, *, whole: bool = False
) -> Conversation:
    """Return *found* with *messages*, and with *state* unless that is UNSET; *whole*: with what only service keys and people see."""
    return Conversation(
        id=found.id,
        owner=found.owner,
        revision=found.revision,
        session=found.session,
        head=found.head,
        unread=found.unread,
        paused=found.paused,
        off_by=found.off_by,
        dead=found.dead,
        updated_at=found.updated_at,
        messages=[message(shown, whole=whole) for shown in messages],
        due_at=found.due_at if whole else None,
        state=state,
        stale=found.stale,
        title=found.title,
        version=found.version,
        checksum=found.checksum,
        assignee=found.assignee,
    )


def summary(found: model.Conversation[Any]) -> ListedConversation:
    """Return *found* in a list."""
    told = msgspec.convert(found, ListedConversation, from_attributes=True)
    words = model.last_words(found.messages)
    if words is None:
        return told
    answered = is_answered(found)
    return structs.replace(told, last=words.text, last_role=words.role, last_at=words.at, answered=answered)


def public(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return *metadata* without what the server has put there for itself."""
    if TRACEPARENT not in metadata:
        return metadata
    return {name: value for name, value in metadata.items() if name != TRACEPARENT}
