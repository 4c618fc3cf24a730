"""What a channel is: it reads what a platform posts to us, and writes what we post to the platform. Nothing here waits.

    verify    who sent this? judged on the raw bytes, before anything is parsed
    parse     what does it say? messages, statuses of our replies, and what is not understood; nothing is left out
    requests  the HTTP requests that send a reply
    outcome   what became of one, by the platform's own error codes

Channels have no clock and no connection: times come as arguments (`at`, seconds since 1970), and `sender.send` is the one
place that talks to the network.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from ..errors import ChatkeepError, Misconfigured
from ..model import Content
from ..secrecy import MAKE_ONE, weakness_of

log = logging.getLogger("chatkeep")

Pairs = Iterable[tuple[str, str]]
"""Headers or a query as they came, repeated ones included; what Starlette's `.items()` and `.multi_items()` give."""


class Refused(ChatkeepError):
    """The request is not from the platform; answer 401. It always says the same, so that it teaches a forger nothing.

    reason: for the log: missing (there is no signature, or no token), old (it was right, but not now), or wrong.
    """

    def __init__(self, reason: Literal["missing", "wrong", "old"] = "wrong") -> None:
        super().__init__("This request is not signed by the platform; nothing was touched.")
        self.reason = reason


class Challenge(Struct, frozen=True):
    """The answer to a platform that asks whether this address is ours: send *body* as text/plain."""

    body: str


class Received(Struct, frozen=True, kw_only=True):
    """Something a customer did, ready for `Tenant.accept`.

    conversation: one per customer and account, "channel:account:customer". account: our number, page or bot. to: where
    an answer goes. id: the platform's, the same whenever this is delivered again. role: "user"; "event" for what is not
    said (a reaction, an edit, a referral); "operator" for what a person of ours wrote in the platform's own inbox: it has
    `sent` in its metadata, and is not sent again. at: when it was sent, in seconds since 1970. metadata: the sender's name and the like;
    what it replies to. names: the conversations that it can belong to where a customer has several names, the surest first;
    former: those under names that these have just taken the place of.
    """

    conversation: str
    account: str
    to: str
    id: str
    content: Content
    role: Literal["user", "event", "operator"] = "user"
    at: float | None = None
    metadata: dict[str, Any] = {}
    names: tuple[str, ...] = ()
    former: tuple[str, ...] = ()


Cause = Literal["recipient", "window", "content", "account"]


class Delivered(Struct, frozen=True):
    """The platform has it, under *id*."""

    id: str


class Retry(Struct, frozen=True):
    """Certainly not sent; try again, after so many seconds if the platform says how many."""

    reason: str
    after: float | None = None


class Failed(Struct, frozen=True):
    """Certainly not sent, and the same again would fail again; moved_to: unless it goes to this address.

    cause: recipient (this customer cannot be reached), window (the time in which the platform lets us answer is over; a
    template may go), content (the platform does not take this message), account (our own credentials, permissions or
    payment: nothing goes out until somebody repairs them).
    """

    reason: str
    cause: Cause
    moved_to: str = ""

    @property
    def permanent(self) -> bool:
        """Whether it stays so without anybody's doing; an account can be repaired."""
        return self.cause != "account"


class Uncertain(Struct, frozen=True):
    """Perhaps sent: the platform did not say, or not clearly."""

    reason: str


Outcome = Delivered | Retry | Failed | Uncertain


class Status(Struct, frozen=True, kw_only=True):
    """What the platform tells of a message we sent.

    Which one: id, its id there; or, where the platform tells none, key, the key it was sent under; or until: everything that was
    sent up to then. Where the platform repeats the key, give it with the id too: it says the conversation, and which reply it was
    when the platform's answer with the id was lost. to: the customer's address. error: why, when it failed. at: when, in seconds
    since 1970; under a key alone, what tells two failures of a reply that was sent twice from each other. metadata: price and the
    like.
    """

    account: str
    to: str
    status: Literal["sent", "delivered", "read", "failed"]
    id: str = ""
    key: str = ""
    at: float | None = None
    until: float | None = None
    error: Retry | Failed | None = None
    metadata: dict[str, Any] = {}


class Unknown(Struct, frozen=True, kw_only=True):
    """Something in a signed request that is not understood, or not for us to answer: to be kept and shown.

    reason: why it is here. raw: all of it. id: the platform's or a fingerprint, the same whenever it is delivered again.
    conversation, account: when they can be told. to, names, former: as of `Received`, where it shows them.
    """

    reason: str
    raw: Any
    id: str
    conversation: str = ""
    account: str = ""
    to: str = ""
    names: tuple[str, ...] = ()
    former: tuple[str, ...] = ()


Inbound = Received | Status | Unknown


class Request(Struct, frozen=True, kw_only=True):
    """An HTTP request to send. key: names it, the same each time; a reply that takes several has key/0, key/1, ..."""

    key: str
    url: str
    body: bytes
    headers: dict[str, str]
    method: str = "POST"

    def __repr__(self) -> str:
        return f"Request(key={self.key!r})"  # the rest holds secrets, and what people say to each other


class Response(Struct, frozen=True):
    """What came back. headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Channel(Protocol):
    """One platform, with the secrets and accounts that its constructor was given; `Misconfigured` says which are wrong.

    name: the first part of its conversations' ids. accounts: those that replies can go out from. idempotent: whether
    sending the same key twice shows it only once; where it does not, an `Uncertain` request is for a person, or for the
    platform's statuses, to decide. one_way: whether it only listens, and replies are not for it to send. rate: the
    requests a second that one account may send where nothing else is said, well within what the platform publishes.
    """

    name: str
    accounts: frozenset[str]
    idempotent: bool
    one_way: bool
    rate: float

    def verify(self, method: str, headers: Pairs, query: Pairs, body: bytes, *, at: float) -> Challenge | None:
        """Check that the platform has signed a request; return what to answer where it is a handshake. Raises `Refused` when it has not."""
        ...

    def parse(self, body: bytes, headers: Pairs = ()) -> list[Inbound]:
        """Return all that is in a verified request, in order. Raises nothing: what cannot be read is `Unknown`.

        The server calls it in a thread where the body is large.
        """
        ...

    def requests(self, content: Content, *, account: str, to: str, key: str, at: float) -> list[Request]:
        """Return what to send, in this order, so that *to* sees *content*; none when there is nothing to see.

        Raises `Unsupported` when the channel cannot show it, `Misconfigured` for an account without credentials.
        """
        ...

    def may_move(self, to: str) -> bool:
        """Tell whether a customer with this address may have another one by now, so that it is looked up before a reply goes out."""
        ...

    def acknowledge(self, item: Received | Unknown) -> Request | None:
        """Return what to send, if anything, so that the platform stops waiting for *item*: a button that was tapped, say."""
        ...

    def notice(self, message: Received) -> Request | None:
        """Return what to send, if anything, so that the customer sees that *message* has come and is being answered."""
        ...

    def outcome(self, response: Response) -> Outcome:
        """Return what the platform's answer to one of `requests` means."""
        ...


def conversation_of(name: str, account: str, customer: str) -> str:
    """Return the id of the conversation with *customer*."""
    return f"{name}:{account}:{customer}"


PLATFORMS = frozenset({"whatsapp", "messenger", "instagram", "telegram", "webhook"})
"""Names of the channels that come with chatkeep."""


def is_of_platform(conversation: str) -> bool:
    """Tell whether an id is one under which a channel of chatkeep's own knows a customer."""
    name, _, rest = conversation.partition(":")
    return name in PLATFORMS and ":" in rest


def address_of(conversation: str) -> tuple[str, str, str]:
    """Return channel, account and customer of a conversation: who a reply goes to. Raises ValueError for one of no channel."""
    name, account, customer = conversation.split(":", 2)
    return name, account, customer


def header(headers: Pairs, name: str) -> str:
    """Return the header of this name (in lower case). Raises `Refused` when it is missing, or there twice."""
    found = [value for key, value in headers if key.lower() == name]
    if len(found) != 1:
        raise Refused("wrong" if found else "missing")
    return found[0]


def same(expected: Iterable[str], given: str) -> bool:
    """Tell whether *given* is one of *expected*, in a time that tells nothing of them."""
    raw = given.encode("utf-8", "surrogatepass")  # as bytes: text that is not ASCII makes compare_digest raise
    return any([hmac.compare_digest(one.encode(), raw) for one in expected])


class Secrets(tuple[str, ...]):
    """The secrets of a channel. *weakness*: which can be guessed, and why; "" when none can."""

    weakness = ""


def secrets_of(what: str, given: str | Sequence[str]) -> Secrets:
    """Return the secrets, all of them active. Raises `Misconfigured` when there is none, or an empty one: it signs anything.

    One that can be guessed is warned of. Where other machines can reach it, `chatkeep serve` does not start with a channel that keeps
    such secrets.
    """
    found = Secrets(shared_with(what, given))
    for weakness in filter(None, [weakness_of(one.removeprefix("whsec_")) for one in found]):
        found.weakness = f"{what} has a secret {weakness}"
        log.warning(
            "%s, which can be guessed: whoever does writes to the bot in anybody's name. Make one: %s",
            found.weakness,
            MAKE_ONE,
        )
    return found


def shared_with(what: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """Return what is shared with a platform. Raises `Misconfigured` when there is nothing, or something empty."""
    found = (given,) if isinstance(given, str) else tuple(given)
    if not found or not all(isinstance(one, str) and one.strip() for one in found):
        raise Misconfigured(f"{what} needs at least one secret, and none may be empty. Nothing was opened.")
    return found


def weak_secrets(channel: Channel) -> list[str]:
    """Return which secrets of *channel* can be guessed, and why."""
    return [
        one.weakness for one in getattr(channel, "__dict__", {}).values() if isinstance(one, Secrets) and one.weakness
    ]
