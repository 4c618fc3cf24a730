"""One conversation on the server, `Chat`, and one `Slot` of its state."""

from __future__ import annotations

import asyncio
import copy
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from msgspec import UNSET, Struct

from ..conversation.keys import key_for
from ..errors import UsageError
from ..model import Answering, Content, Message, Stopped
from .account import note_merge
from .addresses import conversation_at, given, with_query
from .events import Event, follow
from .link import Answer, Link, encode, pause
from .outbox import Outbox
from .refusals import NotFound, PreconditionFailed
from .values import Conversation, Credential, Receipt, Share, Token

MERGE_PATCH = {"content-type": "application/merge-patch+json"}
MERGE = {"content-type": "application/vnd.chatkeep.merge+json"}
ASYNC = {"prefer": "respond-async"}
MISSING: Any = object()


class Messages(Struct):
    """A page of a log, as it comes."""

    messages: list[Message]
    truncated: bool = False


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
        self,
        value: Any,
        *,
        base: Any = MISSING,
        at: float | None = None,
        by: str = "",
        id: str | None = None,
        there: bool = False,
    ) -> Any:
        """
        Put what a device has made of the value together with what is there now, and return that; see `Chatkeep.merge`.

        *base* is what the value was when the change was begun; without it, there was none. *at* and *by*: when it was changed, and on which
        device. Where both have changed the same, the later one stands, and what gives way is in `client.account.losses`. *there*: the
        conversation was there then; where it was erased meanwhile it is not begun anew, and this raises `PreconditionFailed`.
        """
        asked = {"value": value, "by": by} | ({} if base is MISSING else {"base": base}) | ({"at": at} if at else {})
        headers = {**MERGE, "idempotency-key": f'"{id or secrets.token_hex(12)}"'} | (
            {"if-match": "*"} if there else {}
        )
        answer = await self._link.ask("PATCH", self._path, asked, about=self._about, headers=headers)
        self.etag = ""
        merged = answer.value
        note_merge(self._link, self._conversation, self._name, merged.get("losses", ()))
        return merged.get("value")

    async def clear(self) -> None:
        """Take the slot out of the state, whatever is in it."""
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

    def __init__(
        self, link: Link, id: str, *, queue: Callable[[], Outbox], take: Callable[[str], Coroutine[Any, Any, None]]
    ) -> None:
        key_for("", id)
        self.id = id
        self._link = link
        self._path = conversation_at(id)
        self._queue = queue  # refuses where the client has none
        self._take = take

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
        `send` does not wait behind it. Where it waits, as while the server is away, and the conversation is erased meanwhile, it is
        refused, and begins none anew unless you `retry` it.
        """
        id = id or secrets.token_hex(16)
        await self._queue().put(self.id, id, encode(as_posted(content, None, metadata), self.id))
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
            rest = wanted - len(found) if found else limit
            path = with_query(f"{self._path}/messages", after=after, before=before, limit=rest)
            page = (await self._link.ask("GET", path, about=self.id)).to(Messages)
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
        """Return a handle on one member of the state. Raises `UsageError` for the name "", which no address has."""
        if not name:
            raise UsageError(
                f"{self.id}: a slot has a name of one character or more; this one is ''. Nothing was asked."
            )
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
        """Remove the conversation, its state, its tokens and shares. There is no way back. What is posted later begins a new one."""
        await self._link.ask("DELETE", self._path, about=self.id, removes=True)
        with suppress(UsageError):  # there is no queue
            await self._queue().forget(self.id)

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
        asked = given(scopes=scopes, expires_in=expires_in, label=label, subject=subject)
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
        asked = given(grace=grace)
        token = (await self._link.ask("POST", path, asked, about=self.id, repeatable=False)).to(Token)
        if token_id == "current":
            await self._take(token.token)
        return token

    async def share(
        self, *, scopes: Sequence[str] | None = None, expires_in: float | None = None, uses: int | None = None
    ) -> Share:
        """Make an invitation that `Client.redeem` turns into a token."""
        asked = given(scopes=scopes, expires_in=expires_in, uses=uses)
        return (await self._link.ask("POST", f"{self._path}/shares", asked, about=self.id, repeatable=False)).to(Share)

    async def _send(
        self, content: Content, id: str | None, metadata: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> Receipt:
        id = id or secrets.token_hex(16)
        about = f"{self.id}: message {id!r}"
        # In the body, not as Idempotency-Key: it may be any text, and a second try then waits for the answer.
        asked = as_posted(content, id, metadata)
        answer = await self._link.ask("POST", f"{self._path}/messages", asked, about=about, headers=headers)
        return answer.to(Receipt)


async def _write_state(
    link: Link, method: str, path: str, value: Any, headers: Mapping[str, str], about: str, *, key: str = ""
) -> Answer:
    # By the key the server knows a write that it has done and whose answer was lost; by If-Match alone it could not be
    # told from somebody else's.
    keyed = {**headers, "idempotency-key": f'"{key or secrets.token_hex(16)}"'}
    return await link.ask(method, path, value, about=about, headers=keyed)


def as_posted(content: Content, id: str | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a message as the server takes it."""
    return {"content": content} | given(id=id, metadata=None if metadata is None else dict(metadata))


def _as_seen(etag: str) -> dict[str, str]:
    return {"if-match": etag} if etag else {"if-none-match": "*"}
