"""The same words for code without an event loop: each call is made on a loop in a thread of the client's own."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from ..durations import Duration
from ..loop_thread import LoopThread, Words, blocking, iterating
from .account import Account
from .chat import Chat, Slot
from .client import Client
from .desk import Desk
from .link import HAPPENED
from .notices import Notice
from .statistics import Statistics
from .values import Pending

WORDS = Words("The client", "`with SyncClient(...)`", HAPPENED)


class SyncAccount:
    """`Account`, for code without an event loop."""

    def __init__(self, loop: LoopThread, account: Account) -> None:
        self._loop, self._inner = loop, account

    conversations = iterating(Account.conversations)
    changes = blocking(Account.changes)
    events = iterating(Account.events, until_closed=True)
    save = blocking(Account.save)
    create = blocking(Account.create)
    rename = blocking(Account.rename)
    archive = blocking(Account.archive)
    pin = blocking(Account.pin)
    seen = blocking(Account.seen)
    delete = blocking(Account.delete)
    losses = blocking(Account.losses)
    restore = blocking(Account.restore)
    restore_lost = blocking(Account.restore_lost)
    claim = blocking(Account.claim)
    undo_claim = blocking(Account.undo_claim)
    devices = blocking(Account.devices)
    sign_out = blocking(Account.sign_out)
    refresh = blocking(Account.refresh)


class SyncSlot:
    """`Slot`, for code without an event loop."""

    def __init__(self, loop: LoopThread, slot: Slot) -> None:
        self._loop, self._inner = loop, slot

    get = blocking(Slot.get)
    put = blocking(Slot.put)
    patch = blocking(Slot.patch)
    merge = blocking(Slot.merge)
    clear = blocking(Slot.clear)

    @property
    def etag(self) -> str:
        """The version that this handle has seen."""
        return self._inner.etag


class SyncChat:
    """`Chat`, for code without an event loop."""

    def __init__(self, loop: LoopThread, chat: Chat) -> None:
        self._loop, self._inner = loop, chat
        self.id = chat.id

    send = blocking(Chat.send)
    accept = blocking(Chat.accept)
    post = blocking(Chat.post)
    read = blocking(Chat.read)
    history = blocking(Chat.history)
    events = iterating(Chat.events, until_closed=True)
    state = blocking(Chat.state)
    change = blocking(Chat.change)
    patch = blocking(Chat.patch)
    clear = blocking(Chat.clear)
    waiting = blocking(Chat.waiting)
    withdraw = blocking(Chat.withdraw)
    amend = blocking(Chat.amend)
    stop = blocking(Chat.stop)
    answering = blocking(Chat.answering)
    erase = blocking(Chat.erase)
    issue = blocking(Chat.issue)
    tokens = blocking(Chat.tokens)
    revoke = blocking(Chat.revoke)
    rotate = blocking(Chat.rotate)
    share = blocking(Chat.share)

    def slot(self, name: str) -> SyncSlot:
        """Return a handle on one member of the state, as `Chat.slot` does."""
        return SyncSlot(self._loop, self._inner.slot(name))


class SyncDesk:
    """`Desk`, for code without an event loop."""

    def __init__(self, loop: LoopThread, desk: Desk) -> None:
        self._loop, self._inner = loop, desk

    conversations = iterating(Desk.conversations)
    read = blocking(Desk.read)
    history = iterating(Desk.history)
    pause = blocking(Desk.pause)
    resume = blocking(Desk.resume)
    say = blocking(Desk.say)
    redact = blocking(Desk.redact)
    paused = blocking(Desk.paused)
    undo = blocking(Desk.undo)
    as_of = blocking(Desk.as_of)
    dead_letters = iterating(Desk.dead_letters)
    replay = blocking(Desk.replay)
    dismiss = blocking(Desk.dismiss)
    deliveries = blocking(Desk.deliveries)
    resend = blocking(Desk.resend)
    doubts = blocking(Desk.doubts)
    settle = blocking(Desk.settle)
    erase_user = blocking(Desk.erase_user)
    holds = blocking(Desk.holds)
    hold = blocking(Desk.hold)
    unhold = blocking(Desk.unhold)
    stats = blocking(Desk.stats)
    audit = blocking(Desk.audit)
    export = iterating(Desk.export)


class SyncClient:
    """
    `Client`, for code without an event loop; any thread may use it.

        with SyncClient("https://chat.example", token="ck_c_...") as client:
            receipt = client.conversation("ada").send("hello")
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        queue: str | None = None,
        timeout: Duration = "60s",
        attempt: Duration = "20s",
    ) -> None:
        self._inner = Client(url, token, queue=queue, timeout=timeout, attempt=attempt)
        self._loop = LoopThread("chatkeep-client", WORDS)

    create = blocking(Client.create)
    conversations = blocking(Client.conversations)
    sign_in = blocking(Client.sign_in)
    sign_out = blocking(Client.sign_out)
    notices = iterating(Client.notices, until_closed=True)
    act = blocking(Client.act)
    redeem = blocking(Client.redeem)
    me = blocking(Client.me)
    drained = blocking(Client.drained)
    refused = blocking(Client.refused)
    retry = blocking(Client.retry)
    drop = blocking(Client.drop)
    adopt = blocking(Client.adopt)

    @property
    def token(self) -> str | None:
        """What the client shows to the server."""
        return self._inner.token

    @token.setter
    def token(self, token: str | None) -> None:
        """Use another token from now on; of the queue, what the same subject has posted goes out."""
        self._inner.token = token

    @property
    def pending(self) -> Pending:
        """How many messages wait in the queue, how many were refused, and what is in the way."""
        return self._inner.pending

    def dismiss(self, notice: Notice | str) -> bool:
        """Let a notice stand no more; False when it does not."""
        return self._inner.dismiss(notice)

    def statistics(self) -> Statistics:
        """Return what the client has done since it was made, in numbers."""
        return self._inner.statistics()

    @property
    def account(self) -> SyncAccount:
        """What the user of the client's token has."""
        return SyncAccount(self._loop, self._inner.account)

    @property
    def desk(self) -> SyncDesk:
        """What operators do, for a service key."""
        return SyncDesk(self._loop, self._inner.desk)

    def conversation(self, id: str) -> SyncChat:
        """Return a handle on one conversation; it need not be there yet."""
        return SyncChat(self._loop, self._inner.conversation(id))

    def open(self) -> None:
        """Make ready, and start to send what is in the queue. Asks the server nothing."""
        self._loop.start(self._inner.open, self._inner.close)

    def close(self) -> None:
        """End every connection. What is in the queue stays there."""
        self._loop.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
