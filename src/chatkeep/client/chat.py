"""The words people use: `Client`, one `Chat` of it, and one `Slot` of a chat's state."""

from __future__ import annotations

import asyncio
import copy
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode

from msgspec import UNSET, Struct, structs

from ..conversation.keys import key_for
from ..durations import Duration
from ..errors import HandlerFailed, Unavailable, UsageError
from ..model import Answering, Content, Message, Stopped
from .account import Account, Claimed, note_merge
from .desk import Desk
from .events import Event, follow
from .link import Answer, Link, encode, pause
from .notices import EXPIRED, Notice
from .outbox import Outbox
from .refusals import NotFound, PreconditionFailed, Unauthorized
from .statistics import Statistics
from .values import Conversation, Created, Credential, Me, Pending, Queued, Receipt, Redeemed, Share, Token

MERGE_PATCH = {"content-type": "application/merge-patch+json"}
MERGE = {"content-type": "application/vnd.chatkeep.merge+json"}
ASYNC = {"prefer": "respond-async"}
MISSING: Any = object()

Unsent = Literal["keep", "send", "discard"]
"""What becomes of the messages in the queue when their user signs out."""


class Messages(Struct):
    """A page of a log, as it comes."""

    messages: list[Message]
    truncated: bool = False


class Conversations(Struct):
    """A listing, as it comes."""

    conversations: list[Conversation]


class Tokens(Struct):
    """A listing, as it comes."""

    tokens: list[Credential]


class Slot:
    """One member of a conversation's state; the handle remembers the version it has seen.

        cart = chat.slot("cart")
        items = await cart.get([])
        items.append("tea")
        await cart.put(items)          # PreconditionFailed if someone else wrote since get()

    etag: that version; "" when this handle has seen none, and then `put` only makes what is not there yet.
    """

    def __init__(self, link: Link, conversation: str, state: str, name: str) -> None:
        self._link, self._state, self._name = link, state, name
        self._conversation = conversation
        self._path, self._about = f"{state}/{quote(name, safe='')}", f"{conversation}: slot {name!r}"
        self.etag = ""

    async def get(self, default: Any = MISSING) -> Any:
        """Return the value. When there is none: *default*, or `NotFound` without one."""
        try:
            answer = await self._link.ask("GET", self._path, about=self._about)
        except NotFound:
            self.etag = ""
            if default is MISSING:
                raise
            return default
        self.etag = answer.etag
        return answer.value

    async def put(self, value: Any, *, overwrite: bool = False) -> Any:
        """Replace the value, if it is still the one that was seen; *overwrite*: whatever it is. Returns what is there.

        Raises `PreconditionFailed`, which carries what is there now.
        """
        condition = {"if-match": "*"} if overwrite else _as_seen(self.etag)
        answer = await _write_state(self._link, "PUT", self._path, value, condition, self._about)
        there = answer.value
        if not answer.repeated or there == value:  # else somebody has written after us, which this handle has not seen
            self.etag = answer.etag
        return there

    async def patch(self, patch: Any) -> Any:
        """Merge *patch* into the value, whatever it is (RFC 7396), and return what is there then; a later `put` wants a `get` before."""
        asked = {self._name: patch}
        answer = await _write_state(self._link, "PATCH", self._state, asked, MERGE_PATCH, self._about)
        self.etag = ""
        return (answer.value or {}).get(self._name)

    async def merge(
        self, value: Any, *, base: Any = MISSING, at: float | None = None, by: str = "", id: str | None = None
    ) -> Any:
        """
        Put what a device has made of the value together with what is there now, and return that; see `Chatkeep.merge`.

        *base* is what the value was when the change was begun; without it, there was none. *at* and *by*: when it was changed, and on which
        device. Where both have changed the same, the later one stands, and what gives way is in `client.account.losses`.
        """
        asked = {"value": value, "by": by} | ({} if base is MISSING else {"base": base}) | ({"at": at} if at else {})
        headers = {**MERGE, "idempotency-key": f'"{id or secrets.token_hex(12)}"'}
        answer = await self._link.ask("PATCH", self._path, asked, about=self._about, headers=headers)
        self.etag = ""
        merged = answer.value
        note_merge(self._link, self._conversation, self._name, merged.get("losses", ()))
        return merged.get("value")

    async def clear(self) -> None:
        """Take it out of the state, whatever it is."""
        await _write_state(self._link, "DELETE", self._path, UNSET, {}, self._about)
        self.etag = ""


class Chat:
    """
    One conversation on the server. Nothing is asked before you ask something.

        chat = client.conversation("trip")
        receipt = await chat.send("hello", id="m1")
        for message in await chat.history():
            print(message.role, message.text)
    """

    def __init__(self, client: Client, id: str) -> None:
        key_for("", id)
        self.id = id
        self._client, self._link = client, client._link
        self._path = f"/v1/conversations/{quote(id, safe='')}"

    async def send(
        self, content: Content, *, id: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Receipt:
        """
        Send a message and wait for the bot's answer.

        A lost answer, a restart of the server, a full one: it is sent again, under the same id, which has no second
        effect, until the client's timeout. Content, id and metadata are as in `Chatkeep.receive`.

        Raises:
            BadMessage, TooLarge, Unauthorized, Forbidden, NotFound, KeyReused: Nothing was touched.

            Overloaded, Unavailable: Certainly not sent.

            Uncertain: Perhaps it is there. Send it again under the id that the error names.

            HandlerFailed: It is in the log and has no answer.
        """
        return await self._send(content, id, metadata, {})

    async def accept(
        self, content: Content, *, id: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Receipt:
        """Send a message and return as soon as the server has it; the answer comes in `events` and `history`."""
        return await self._send(content, id, metadata, ASYNC)

    async def post(self, content: Content, *, id: str | None = None, metadata: Mapping[str, Any] | None = None) -> str:
        """
        Put a message into the queue on this host and return its id: it is durable when this returns, server or no server.

        It is sent in the order in which it was posted in this conversation, once, also by the next run of the program.
        `send` does not wait behind it.
        """
        id = id or secrets.token_hex(16)
        await self._client._queue.put(self.id, id, encode(_message(content, None, metadata), self.id))
        return id

    async def read(self, *, messages: int = 20) -> Conversation:
        """Return the conversation as it is now, with its last *messages*."""
        return (await self._link.ask("GET", f"{self._path}?messages={messages}", about=self.id)).to(Conversation)

    async def history(
        self, *, after: int | None = None, before: int | None = None, limit: int | None = None
    ) -> list[Message]:
        """Return a page of the log, oldest first: the last messages, or those numbered above *after* and below *before*."""
        found: list[Message] = []
        wanted = 100 if limit is None else limit
        while True:
            query = _query(after=after, before=before, limit=wanted - len(found) if found else limit)
            page = (await self._link.ask("GET", f"{self._path}/messages{query}", about=self.id)).to(Messages)
            found = found + page.messages if after is not None else page.messages + found
            if not page.truncated or len(found) >= wanted:
                return found
            # The server ends a page that is large; what was asked for goes on from there.
            if after is not None:
                after = page.messages[-1].number
            else:
                before = page.messages[0].number

    async def events(self, *, after: int | None = None) -> AsyncGenerator[Event, None]:
        """
        Return what happens here, as it happens: every message numbered above *after*, in order, none lost and none twice;
        without it, from now on.

        Goes on where it was when the connection breaks or the server restarts, for as long as you iterate; ends after
        `Ended`, or when the client is closed.
        """
        if after is None:
            newest = await self.history(limit=1)
            after = newest[-1].number if newest else 0
        async for event in follow(self._link, f"{self._path}/events", after, about=self.id):
            yield event

    async def state(self) -> Any:
        """Return the state, as JSON."""
        return (await self._link.ask("GET", f"{self._path}/state", about=self.id)).value

    async def change(self, edit: Callable[[Any], Any]) -> Any:
        """
        Apply *edit* to the state and return the state as it is then.

        *edit* changes it in place, or returns another. When others write meanwhile it is applied again to the newer
        state, so it must depend on nothing else. It counts once, also when answers are lost.
        Raises `PreconditionFailed` when others are quicker until the client's timeout.
        """
        # One key for all attempts: the server makes one change of them, whichever comes through.
        path, key, failures = f"{self._path}/state", secrets.token_hex(16), 0
        deadline = time.monotonic() + self._link.timeout_s
        found = await self._link.ask("GET", path, about=self.id)
        state, etag = found.value, found.etag
        while True:
            edited = copy.deepcopy(state)
            returned = edit(edited)
            edited = edited if returned is None else returned
            try:
                return (await _write_state(self._link, "PUT", path, edited, {"if-match": etag}, self.id, key=key)).value
            except PreconditionFailed as newer:
                if time.monotonic() > deadline:
                    raise
                state, etag = newer.state, newer.etag
                failures += 1
                await asyncio.sleep(pause(min(failures, 5), first=0.01))

    async def patch(self, patch: Mapping[str, Any]) -> Any:
        """Merge *patch* into the state, whatever it is now, and return the new state; None takes a member out (RFC 7396)."""
        answer = await _write_state(self._link, "PATCH", f"{self._path}/state", dict(patch), MERGE_PATCH, self.id)
        return answer.value

    async def clear(self, slot: str | None = None) -> None:
        """Clear the state, or one *slot* of it. The log stays; `erase` removes everything."""
        if slot is not None:
            await self.slot(slot).clear()
            return
        await _write_state(self._link, "DELETE", f"{self._path}/state", UNSET, {}, self.id)

    def slot(self, name: str) -> Slot:
        """Return a handle on one member of the state."""
        return Slot(self._link, self.id, f"{self._path}/state", name)

    async def waiting(self) -> list[Message]:
        """Return the messages that wait for an answer, oldest first; the first may be being answered."""
        return (await self._link.ask("GET", f"{self._path}/waiting", about=self.id)).to(Messages).messages

    async def withdraw(self, number: int) -> None:
        """Take back a message that waits: what it says is removed for good. Raises `NotWaiting` when it is being answered, or was."""
        await self._link.ask("DELETE", f"{self._path}/waiting/{number}", about=f"{self.id}: message {number}")

    async def amend(self, number: int, content: Content) -> Receipt:
        """Say a message that waits anew: the new one goes to the end of what waits. Raises `NotWaiting` as `withdraw` does."""
        path, about = f"{self._path}/waiting/{number}", f"{self.id}: message {number}"
        return (await self._link.ask("PUT", path, {"content": content}, about=about)).to(Receipt)

    async def stop(self) -> Stopped:
        """End the reply that is being made, and keep what was said of it; what it says is in the log when this returns."""
        return (await self._link.ask("POST", f"{self._path}/stop", about=self.id)).to(Stopped)

    async def answering(self) -> Answering:
        """Return whether somebody answers now, on whichever instance."""
        return (await self._link.ask("GET", f"{self._path}/answering", about=self.id)).to(Answering)

    async def erase(self) -> None:
        """Remove the conversation, its state, its tokens and shares. There is no way back."""
        await self._link.ask("DELETE", self._path, about=self.id)

    async def issue(
        self,
        *,
        scopes: Sequence[str] | None = None,
        expires_in: float | None = None,
        label: str | None = None,
        subject: str | None = None,
    ) -> Token:
        """Make a token for this conversation; the only time that it is shown. Wants a service key.

        *subject* names the user whom it is for, by any name that stays the same. Clients keep users apart by it.
        """
        asked = _given(scopes=scopes, expires_in=expires_in, label=label, subject=subject)
        return (await self._link.ask("POST", f"{self._path}/tokens", asked, about=self.id, repeatable=False)).to(Token)

    async def tokens(self) -> list[Credential]:
        """Return the tokens and shares of this conversation. Wants a service key."""
        return (await self._link.ask("GET", f"{self._path}/tokens", about=self.id)).to(Tokens).tokens

    async def revoke(self, token_id: str = "current") -> None:
        """End a token, or the client's own; within seconds everywhere."""
        await self._link.ask("DELETE", f"{self._path}/tokens/{quote(token_id, safe='')}", about=self.id)

    async def rotate(self, token_id: str = "current", *, grace: float | None = None) -> Token:
        """Change a token for a new one; the old one goes on for *grace* seconds. The client takes its own new one."""
        path = f"{self._path}/tokens/{quote(token_id, safe='')}/rotate"
        asked = _given(grace=grace)
        token = (await self._link.ask("POST", path, asked, about=self.id, repeatable=False)).to(Token)
        if token_id == "current":
            if self._client._outbox is not None and self._link.token is not None:
                await self._client._outbox.hand_over(self._link.token, token.token)
            self._client.token = token.token
        return token

    async def share(
        self, *, scopes: Sequence[str] | None = None, expires_in: float | None = None, uses: int | None = None
    ) -> Share:
        """Make an invitation that `Client.redeem` turns into a token."""
        asked = _given(scopes=scopes, expires_in=expires_in, uses=uses)
        return (await self._link.ask("POST", f"{self._path}/shares", asked, about=self.id, repeatable=False)).to(Share)

    async def _send(
        self, content: Content, id: str | None, metadata: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Receipt:
        id = id or secrets.token_hex(16)
        about = f"{self.id}: message {id!r}"
        # In the body, not as Idempotency-Key: it may be any text, and a second try then waits for the answer.
        asked = _message(content, id, metadata)
        answer = await self._link.ask("POST", f"{self._path}/messages", asked, about=about, headers=headers)
        return answer.to(Receipt)


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
        """From now on; of the queue, what the same subject has posted goes out."""
        self._link.token = token
        self._link.notices.dismiss(EXPIRED)
        if self._outbox is not None:
            self._outbox.use(token)

    async def open(self) -> None:
        """Make ready, and start to send what is in the queue. Asks the server nothing."""
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
        """End every connection. What is in the queue stays there."""
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
        return Chat(self, id)

    async def create(self, id: str | None = None, *, owner: str | None = None) -> Created:
        """Create a conversation, or find it. A visitor names neither *id* nor *owner*, and gets a token for it."""
        created = (
            await self._link.ask(
                "POST",
                "/v1/conversations",
                _given(id=id, owner=owner),
                about=id or "a new conversation",
                repeatable=id is not None,
            )
        ).to(Created)
        self._take(created.token)
        return created

    async def conversations(self, *, owner: str | None = None, limit: int | None = None) -> list[Conversation]:
        """List conversations, last changed first, or those of an *owner*. Wants a service key."""
        answer = await self._link.ask(
            "GET", f"/v1/conversations{_query(owner=owner, limit=limit)}", about="conversations"
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
        return self._queue.pending

    async def drained(self) -> None:
        """Wait until no message of this credential's subject waits in the queue."""
        await self._queue.drained()

    async def refused(self) -> list[Queued]:
        """Return the messages of the queue that the server did not take and will not take as they are, each with the reason."""
        return await self._queue.refused()

    async def retry(self, number: int) -> None:
        """Put a refused message back into the queue, at its old place."""
        await self._queue.retry(number)

    async def drop(self, number: int) -> None:
        """Forget a refused message."""
        await self._queue.drop(number)

    async def adopt(self) -> int:
        """Send, as this credential's own, what nobody known has put into the queue; answers how many messages that are.

        Those are posted without a credential, or with one that never reached the server, or by a release that did not
        note whose they are. What is known as another subject's stays.
        """
        return await self._queue.adopt()

    @property
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
        if not self._queue.pending.waiting:
            notices.tell("saved", "Everything is sent.", about=queued.conversation)

    def _take(self, token: str) -> None:
        if token and self._link.token is None:
            self.token = token

    async def _name_of(self, token: str, told: Callable[[str], None]) -> str:
        return (await self._link.ask("GET", "/v1/me", about="this credential", told=told, only=token)).to(Me).subject

    async def _deliver(self, queued: Queued, token: str | None, told: Callable[[str], None]) -> None:
        path = f"{self.conversation(queued.conversation)._path}/messages"
        asked = _message(queued.content, queued.id, queued.metadata)
        about = f"{queued.conversation}: message {queued.id!r}"
        with suppress(HandlerFailed):  # it is in the log, which is all that was promised
            await self._link.ask("POST", path, asked, about=about, headers=ASYNC, told=told, only=token)


async def _write_state(
    link: Link, method: str, path: str, value: Any, headers: Mapping[str, str], about: str, *, key: str = ""
) -> Answer:
    # By the key the server knows a write that it has done and whose answer was lost; by If-Match alone it could not be
    # told from somebody else's.
    keyed = {**headers, "idempotency-key": f'"{key or secrets.token_hex(16)}"'}
    return await link.ask(method, path, value, about=about, headers=keyed)


def _message(content: Content, id: str | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"content": content} | _given(id=id, metadata=None if metadata is None else dict(metadata))


def _as_seen(etag: str) -> dict[str, str]:
    return {"if-match": etag} if etag else {"if-none-match": "*"}


def _given(**asked: Any) -> dict[str, Any]:
    return {name: value for name, value in asked.items() if value is not None}


def _query(**asked: Any) -> str:
    return "?" + urlencode(given) if (given := _given(**asked)) else ""
