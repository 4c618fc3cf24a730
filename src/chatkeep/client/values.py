"""What the server answers, typed. Messages are `chatkeep.Message`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from .. import model
from ..engine.parts import Stats
from ..model import Content, Message


class Receipt(model.Receipt, frozen=True, kw_only=True):
    """What became of a message; see `chatkeep.Receipt`. The tenant is the credential's and not told."""

    tenant: str = ""


class Conversation(model.Conversation[Any], frozen=True, kw_only=True):
    """A conversation at one instant; see `chatkeep.Conversation`.

    In a listing there are no messages, no revision and no state; without the scope `state:read` there is no state.
    """

    tenant: str = ""
    revision: str = ""
    state: Any = None
    messages: list[Message] = msgspec.field(default_factory=list)
    due_at: float | None = None


class Listed(Conversation, frozen=True, kw_only=True):
    """A conversation in a list, with its last words: *last*, whose they are and when they were said. *answered*: a person has written
    behind what is unread."""

    last: str = ""
    last_role: str = ""
    last_at: float = 0.0
    answered: bool = False


class DeadLetter(model.DeadLetter, frozen=True, kw_only=True):
    """A message that was set aside; see `chatkeep.DeadLetter`. The tenant is the key's and not told."""

    tenant: str = ""


class Exported(Struct, kw_only=True):
    """What an export held. left_out: ids of conversations that are not in it, because they cannot be read, and why."""

    conversations: int = 0
    entries: int = 0
    left_out: dict[str, str] = {}


class ServerStats(Struct, frozen=True, kw_only=True):
    """The server around a Chatkeep: how many answers are open (event streams), and how many acts wait to be noted in the audit log."""

    streams: int = 0
    acts_waiting: int = 0


class ProcessStats(Stats, frozen=True, kw_only=True):
    """What a server's process has done, part by part; see `chatkeep.Stats`."""

    server: ServerStats


class Created(Struct, frozen=True, kw_only=True):
    """A conversation that was created, or found (created=False).

    token, scopes, expires_at: what opens it, when nobody in particular created it; shown this once.
    """

    id: str
    revision: str = ""
    created: bool = True
    token: str = ""
    scopes: list[str] = []
    expires_at: float | None = None


class Token(Struct, frozen=True, kw_only=True):
    """A conversation token, shown this once. id: names it in `tokens` and `revoke`."""

    id: str
    token: str
    scopes: list[str]
    expires_at: float | None = None
    label: str = ""


class Me(Struct, frozen=True, kw_only=True):
    """Who the client's credential stands for.

    subject: opaque, and the same for all credentials of one holder. kind: "service", "user", "visitor" or "holder" (nobody
    has said whom the token is for). conversation: the one that it opens; "" for a service key, which opens all, and for a user's
    token, which opens the conversations of *user*.
    """

    subject: str
    tenant: str
    kind: str
    scopes: list[str]
    conversation: str = ""
    user: str = ""
    expires_at: float | None = None


class Share(Struct, frozen=True, kw_only=True):
    """An invitation: `redeem` turns *share* into a token. url: the same as a link, relative to the server."""

    id: str
    share: str
    url: str
    expires_at: float | None = None


class Redeemed(Struct, frozen=True, kw_only=True, rename={"conversation": "id"}):
    """What a share was turned into: a token of *conversation*."""

    conversation: str
    token: str
    scopes: list[str]
    expires_at: float | None = None


class Credential(Struct, frozen=True, kw_only=True):
    """A token or share as the server lists it; the secret itself is not kept anywhere. rotated: another has taken its place, and it only
    lives out its grace; current: it is the client's own, of servers that tell."""

    id: str
    kind: Literal["token", "share", "user"]
    scopes: list[str]
    label: str = ""
    created_at: float
    expires_at: float | None = None
    last_used_at: float | None = None
    revoked: bool = False
    rotated: bool = False
    current: bool = False


class Queued(Struct, frozen=True, kw_only=True):
    """A message in the queue on this host. number: its place; reason: why the server refused it, "" while it waits."""

    number: int
    conversation: str
    id: str
    content: Content
    metadata: dict[str, Any] | None
    posted_at: float
    reason: str


class Pending(Struct, frozen=True, kw_only=True):
    """How far the queue is. waiting, refused: how many messages; trouble: why they wait, "" while they go out; held: how
    many are another subject's, or nobody's known, and stay."""

    waiting: int
    refused: int
    trouble: str = ""
    held: int = 0
