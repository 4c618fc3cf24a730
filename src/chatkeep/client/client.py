"""A server, as one credential sees it: `Client`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Literal, Self

from msgspec import Struct, structs

from ..durations import Duration
from ..errors import HandlerFailed, Unavailable, UsageError
from .account import Account, Claimed
from .addresses import conversation_at, given, with_query
from .chat import ASYNC, Chat, as_posted
from .desk import Desk
from .link import Link
from .notices import EXPIRED, Notice
from .outbox import Outbox, Postponed
from .refusals import NotFound, Unauthorized
from .statistics import Statistics
from .values import Conversation, Created, Me, Pending, Queued, Receipt, Redeemed

Unsent = Literal["keep", "send", "discard"]
"""What becomes of the messages in the queue when their user signs out."""


class Conversations(Struct):
    """A listing, as it comes."""

    conversations: list[Conversation]


class Client:
    """
    Conversations on a chatkeep server.

        async with Client("https://chat.example", token="ck_c_...") as client:
            receipt = await client.conversation("ada").send("hello")

    Args:
        url: The server, with the path it is mounted under.

        token: A conversation token or a service key. None: a visitor, who may create a conversation where the server
        lets everybody; the client then takes the token it is given. `client.token = ...` gives it another.

        queue: A local SQLite file for `Chat.post`; one for each process and server.

        timeout: A call ends within it, with an answer or an error, however often it was tried.

        attempt: A request that is not answered within it is made again.

    Raises:
        Misconfigured: Nothing was opened.
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
        self._link = Link(url, token, timeout=timeout, attempt=attempt)
        self._outbox = Outbox(queue, self._link.url) if queue else None
        self.token = token

    @property
    def token(self) -> str | None:
        """What the client shows to the server."""
        return self._link.token

    @token.setter
    def token(self, token: str | None) -> None:
        """Use another token from now on; of the queue, what the same subject has posted goes out."""
        self._link.token = token
        self._link.notices.dismiss(EXPIRED)
        if self._outbox is not None:
            self._outbox.use(token)

    async def open(self) -> None:
        """Make ready, and start to send what is in the queue. Asks the server nothing."""
        if self._link.is_open:
            self._link.confinement.refuse_second()
            await self.close()  # the loop of the opening before has ended
        await self._link.open()
        if self._outbox is not None:
            try:
                await self._outbox.open(self._deliver, self._name_of, self._note_settled)
                for queued in await self._outbox.refused():
                    self._note_settled(queued, queued.reason)
            except BaseException:
                await self._link.close()
                raise

    async def close(self) -> None:
        """End every connection. What is in the queue stays there. Raises `NotOpen` in another loop than that of the opening while that
        one lives, and in a fork."""
        if self._link.is_open:
            self._link.confinement.refuse_elsewhere("close")
        if self._outbox is not None:
            await self._outbox.close()
        await self._link.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def conversation(self, id: str) -> Chat:
        """Return a handle on one conversation; it need not be there yet."""
        return Chat(self._link, id, queue=self._queue, take=self._take_new)

    async def create(self, id: str | None = None, *, owner: str | None = None) -> Created:
        """Create a conversation, or find it. A visitor names neither *id* nor *owner*, and gets a token for it."""
        created = (
            await self._link.ask(
                "POST",
                "/v1/conversations",
                given(id=id, owner=owner),
                about=id or "a new conversation",
                repeatable=id is not None,
            )
        ).to(Created)
        self._take(created.token)
        return created

    async def conversations(self, *, owner: str | None = None, limit: int | None = None) -> list[Conversation]:
        """List conversations, last changed first, or those of an *owner*. Wants a service key."""
        answer = await self._link.ask(
            "GET", with_query("/v1/conversations", owner=owner, limit=limit), about="conversations"
        )
        return answer.to(Conversations).conversations

    @property
    def account(self) -> Account:
        """What the user of the client's token has: its conversations, what has changed, its devices."""
        return Account(self._link)

    @property
    def desk(self) -> Desk:
        """What operators do: pause the bot, write as a person, look after what failed, legal holds. Wants a service key."""
        return Desk(self._link)

    async def me(self) -> Me:
        """Return who the client's credential stands for, and what it allows. Raises `Unauthorized` without a valid one."""
        return (await self._link.ask("GET", "/v1/me", about="this credential")).to(Me)

    async def sign_in(self, token: str) -> Claimed | None:
        """
        Go on as the user of *token*. What the guest has whose token the client had until now becomes the user's, and so does what the
        guest has in the queue; answers what was claimed, None when the client's token was no guest's.

        All or nothing: when the claim is refused, the client has its token of before. Twice is fine.
        """
        before = self.token
        if before in (None, token):
            self.token = token
            return None
        self.token = token
        try:
            claimed: Claimed | None = await self.account.claim(before)
        except NotFound:  # another user's, or an ended one
            claimed = None
            self._link.notices.clear()
        except BaseException:
            self.token = before
            raise
        if claimed is not None and self._outbox is not None:
            await self._outbox.hand_on(before, token)
        return claimed

    async def sign_out(self, *, unsent: Unsent = "keep") -> None:
        """
        End the client's token, which must be a user's, and go on without one; notices of the user stand no more.

        *unsent*: what becomes of the user's messages in the queue. "keep": they stay, and go out when the same user signs in. "send":
        they go out first. "discard": they are deleted. Raises `Unavailable`, and the user is signed in as before, when "send" is not
        possible within the client's timeout.
        """
        if self._outbox is not None and unsent == "send":
            try:
                async with asyncio.timeout(self._link.timeout_s):
                    await self._outbox.drained()
            except TimeoutError:
                raise Unavailable(
                    f"The queue does not get empty ({self.pending.trouble}); nobody was signed out."
                ) from None
        with suppress(Unauthorized):  # it has ended already
            if self._outbox is not None and self.token is not None:  # what stays is known as this user's
                await self._outbox.name(self.token, (await self.me()).subject)
            await self.account.sign_out()
        if self._outbox is not None and unsent == "discard":
            await self._outbox.discard()
        self.token = None
        self._link.notices.clear()

    async def notices(self) -> AsyncGenerator[Notice, None]:
        """
        Return what a person should be told, as it happens, until the client is closed; first what still stands of before.

        Queue, saves, merges, claims, the connection and `account.events` make notices; see `Notice`.
        """
        async for notice in self._link.notices.listen():
            yield notice

    async def act(self, notice: Notice | str, action: str) -> None:
        """Do one of the actions of a notice, such as "retry". Raises `UsageError` when it does not stand any more."""
        await self._link.notices.act(notice if isinstance(notice, str) else notice.id, action)

    def dismiss(self, notice: Notice | str) -> bool:
        """Let a notice stand no more; False when it does not. What it is about stays as it is."""
        return self._link.notices.dismiss(notice if isinstance(notice, str) else notice.id)

    def statistics(self) -> Statistics:
        """Return what the client has done since it was made, in numbers. At the level DEBUG the logger "chatkeep.client" has each
        request, by address and without content."""
        told = {"online": self._link.notices.online, "notices": dict(self._link.notices.counts)}
        return structs.replace(self._link.statistics, **told, pending=None if self._outbox is None else self.pending)

    async def redeem(self, share: str) -> Redeemed:
        """Turn an invitation into a token of its conversation. A client without a token takes it."""
        asked = {"share": share}
        answer = await self._link.ask("POST", "/v1/shares/redeem", asked, about="this share", repeatable=False)
        redeemed = answer.to(Redeemed)
        self._take(redeemed.token)
        return redeemed

    @property
    def pending(self) -> Pending:
        """How many messages of this credential's subject wait in the queue, how many were refused, what is in the way, and
        how many are held for others."""
        return self._queue().pending

    async def drained(self) -> None:
        """Wait until no message of this credential's subject waits in the queue."""
        await self._queue().drained()

    async def refused(self) -> list[Queued]:
        """Return the messages of the queue that the server did not take and will not take as they are, each with the reason."""
        return await self._queue().refused()

    async def retry(self, number: int) -> None:
        """Put a refused message back into the queue, at its old place."""
        await self._queue().retry(number)

    async def drop(self, number: int) -> None:
        """Forget a refused message."""
        await self._queue().drop(number)

    async def adopt(self) -> int:
        """Send, as this credential's own, what nobody known has put into the queue; answers how many messages that are.

        Those are posted without a credential, or with one that never reached the server, or by a release that did not
        note whose they are. What is known as another subject's stays.
        """
        return await self._queue().adopt()

    def _queue(self) -> Outbox:
        if self._outbox is None:
            raise UsageError('This client has no queue; open it with queue="outbox.db". Nothing was done.')
        return self._outbox

    def _note_settled(self, queued: Queued, reason: str) -> None:
        """Tell what has become of a message of the queue."""
        notices, id = self._link.notices, f"queue:{queued.number}"
        if reason:
            runs = {"retry": partial(self.retry, queued.number), "discard": partial(self.drop, queued.number)}
            notices.tell("failed", reason, about=queued.conversation, id=id, actions=runs)
            return
        notices.dismiss(id)
        if not self._queue().pending.waiting:
            notices.tell("saved", "Everything is sent.", about=queued.conversation)

    async def _take_new(self, token: str) -> None:
        """Go on with *token*, which has taken the place of the client's own."""
        if self._outbox is not None and self._link.token is not None:
            await self._outbox.hand_over(self._link.token, token)
        self.token = token

    def _take(self, token: str) -> None:
        if token and self._link.token is None:
            self.token = token

    async def _name_of(self, token: str, told: Callable[[str], None]) -> str:
        return (await self._link.ask("GET", "/v1/me", about="this credential", told=told, only=token)).to(Me).subject

    async def _deliver(
        self, queued: Queued, there: bool, waited: bool, token: str | None, told: Callable[[str], None]
    ) -> bool:
        path = f"{conversation_at(queued.conversation)}/messages"
        asked = as_posted(queued.content, queued.id, queued.metadata)
        about = f"{queued.conversation}: message {queued.id!r}"
        only_there = (
            {"if-match": "*"} if there else {}
        )  # what has waited begins nothing anew: it may be erased meanwhile
        headers = {**ASYNC, **(only_there if waited else {})}

        def tell(trouble: str) -> None:
            headers.update(only_there)
            told(trouble)

        with suppress(HandlerFailed):  # it is in the log, which is all that was promised
            answer = await self._link.ask("POST", path, asked, about=about, headers=headers, told=tell, only=token)
            if not answer.to(Receipt).number:
                if "if-match" not in headers:
                    return False  # it is in the server's journal, and has begun nothing yet
                # Only when the server's store is back is it known whether the conversation is still there.
                told(f"{about} is in the server's journal, which waits for its store. Nothing has to be done.")
                raise Postponed
        return True
