"""What operators do, over HTTP: `client.desk`, for a service key. Each act is in the server's audit log."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct, structs

from ..conversation.edits import StateAsOf
from ..conversation.keys import SAVED
from ..conversation.once import Call
from ..conversation.outbox import Delivery
from ..errors import Unavailable, UsageError
from ..model import Content, Message, Role
from ..people.erasing import ErasedUser
from ..storage.audit import Act
from ..storage.holds import Hold
from .addresses import conversation_at, with_query
from .link import Link
from .refusals import NotFound
from .values import Conversation, DeadLetter, Exported, Listed, Me, ProcessStats, Receipt

T = TypeVar("T")

PAGE = 100


class Entry(Message, frozen=True, kw_only=True):
    """An entry of a log, as it comes."""

    role: Role
    saved: bool = False


class Entries(Struct):
    """A page of a log, as it comes."""

    messages: list[Entry]
    truncated: bool = False


class Page(Struct):
    """A page of conversations, as it comes."""

    conversations: list[Listed]
    next: str = ""


class FoundConversation(Struct, frozen=True, kw_only=True):
    """A conversation that was searched for. *found*: the words with some around them, and *found_in* the number of the message, where they
    are not in its id, owner, title, name or last words. *fault*: why it cannot be read."""

    id: str
    owner: str = ""
    title: str = ""
    name: str = ""
    last: str = ""
    found: str = ""
    found_in: int = 0
    fault: str = ""


class FoundPage(Struct):
    """A page of a search, as it comes."""

    conversations: list[FoundConversation]
    next: str = ""


ListPage = TypeVar("ListPage", Page, FoundPage)


class Letter(Struct, kw_only=True):
    """A dead letter, as it comes."""

    conversation: str
    id: str
    number: int
    role: Role
    content: Content
    created_at: float
    reason: str
    metadata: dict[str, Any] = {}
    channel: str = ""


class Letters(Struct):
    """A page of dead letters, as it comes."""

    dead_letters: list[Letter]
    next: str | None = None


class BotStatus(Struct):
    """What is paused, as it comes."""

    off_by: list[str]
    tenants: list[str] | None = None


class Paused(Struct):
    """A page of paused conversations, as it comes."""

    conversations: list[str]
    next: str | None = None


class Desk:
    """
    What a person does who looks after a bot: lists, the whole log, pauses, dead letters, deliveries, holds.

        async with Client("https://chat.example", token="ck_k_...") as client:
            async for conversation in client.desk.conversations():
                ...
            await client.desk.pause("ada")
            await client.desk.say("ada", "Kim here. How can I help?", author="Kim")

    It takes a service key with the rights for it (`chatkeep key create --scope`), and is about the key's tenant. Raises `Forbidden` without
    them; nothing was done then.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def conversations(self, *, owner: str | None = None) -> AsyncGenerator[Listed, None]:
        """List the tenant's conversations with their last words, last changed first; or those of an *owner*. Read page by page."""
        asked = {} if owner is None else {"owner": owner}
        async for page in self._pages("/v1/conversations", Page, **asked):
            for found in page.conversations:
                yield found

    async def search(self, text: str) -> AsyncGenerator[FoundConversation, None]:
        """
        Find conversations by an id, an owner, a title, a name or what was said, whatever the case; each once.

        Where the store has a full-text index, those in which all words were said come first, last said first. Else the server reads
        the last 2,000 entries of each log, last changed first. It looks for a part of a second at a time; this asks on until all were
        looked at.
        """
        given = set[str]()  # what was found by its words may be found by its id once more
        async for page in self._pages("/v1/desk/conversations", FoundPage, text=text, order="recent"):
            for found in page.conversations:
                if found.id not in given:
                    given.add(found.id)
                    yield found

    async def read(self, conversation: str, *, messages: int = 20) -> Conversation:
        """Return a conversation as it is now, with its last *messages*, chatkeep's own notes among them."""
        answer = await self._link.ask(
            "GET", f"{conversation_at(conversation)}?messages={messages}&notes=1", about=conversation
        )
        entries = answer.to(Entries).messages
        return structs.replace(answer.to(Conversation), messages=[_entry(one) for one in entries])

    async def history(
        self, conversation: str, *, after: int | None = None, before: int | None = None, limit: int | None = None
    ) -> AsyncGenerator[Message, None]:
        """
        Return the log, oldest first, with chatkeep's own notes: what is numbered above *after* and below *before*.

        With *before* and *limit* and no *after*, the last *limit* of them. Read page by page while you iterate.
        """
        path = f"{conversation_at(conversation)}/messages"
        asked: dict[str, Any] = {"notes": 1}
        if before is not None:
            asked["before"] = min(before, 2**53)
        if after is None and before is not None and limit is not None:
            newest: list[Entry] = []
            while limit > 0:
                page = await self._get(path, Entries, about=conversation, **asked, limit=min(limit, PAGE))
                newest[:0] = page.messages
                limit -= len(page.messages)
                if not page.messages or (len(page.messages) < PAGE and not page.truncated):
                    break
                asked["before"] = page.messages[0].number
            for one in newest:
                yield _entry(one)
            return
        seen, left = after or 0, 1 << 40 if limit is None else limit
        while left > 0:
            wanted = min(left, PAGE)
            page = await self._get(path, Entries, about=conversation, **asked, after=seen, limit=wanted)
            for one in page.messages:
                yield _entry(one)
            if not page.messages or (len(page.messages) < wanted and not page.truncated):
                return
            seen, left = page.messages[-1].number, left - len(page.messages)

    async def pause(self, conversation: str | None = None, *, everywhere: bool = False) -> None:
        """Silence the bot: for one conversation, for all of the tenant, or *everywhere*, which takes a key that may."""
        await self._switch(conversation, {"paused": True}, everywhere)

    async def resume(
        self, conversation: str | None = None, *, everywhere: bool = False, unread: Literal["answer", "skip"] = "answer"
    ) -> None:
        """Let the bot answer again, as it was paused; what is *unread*, or fell due, is answered, or passed over."""
        await self._switch(conversation, {"paused": False, "unread": unread}, everywhere)

    async def paused(self) -> tuple[list[str | None], list[str]]:
        """Return what `paused_as_a_whole` does; and the conversations of the tenant that are paused themselves."""
        scopes, ids, asked = await self.paused_as_a_whole(), list[str](), dict[str, Any]()
        while True:
            page = await self._get("/v1/paused", Paused, about="the bot", **asked)
            ids += page.conversations
            if page.next is None:
                return scopes, ids
            asked["behind"] = page.next

    async def paused_as_a_whole(self) -> list[str | None]:
        """Return the tenants that are paused, and None where everything is, as far as the key may know it."""
        status = await self._get("/v1/bot", BotStatus, about="the bot")
        tenants = status.tenants
        if tenants is None:
            tenants = [(await self._get("/v1/me", Me, about="this credential")).tenant] * ("tenant" in status.off_by)
        return [*([None] * ("everywhere" in status.off_by)), *tenants]

    async def say(self, conversation: str, content: Content, *, author: str = "", id: str | None = None) -> Receipt:
        """Say something in a conversation as a person, whose name readers are shown as *author*."""
        asked = {"content": content, "author": author, "id": id or secrets.token_hex(16)}
        return (
            await self._link.ask("POST", f"{conversation_at(conversation)}/operator", asked, about=conversation)
        ).to(Receipt)

    async def redact(self, conversation: str, number: int) -> None:
        """Remove what one message says, for good; its number and id stay."""
        await self._act("DELETE", f"{conversation_at(conversation)}/messages/{number}", conversation)

    async def undo(self, conversation: str, number: int) -> None:
        """Undo what a person has changed of the state, which entry *number* of the log tells of; see `Chatkeep.undo`."""
        await self._act("POST", f"{conversation_at(conversation)}/changes/{number}", conversation)

    async def as_of(self, conversation: str, number: int) -> StateAsOf:
        """Return what is known of the state as it was when entry *number* was the last one; see `Chatkeep.as_of`."""
        return await self._get(f"{conversation_at(conversation)}/as-of/{number}", StateAsOf, about=conversation)

    async def dead_letters(self, conversation: str | None = None) -> AsyncGenerator[DeadLetter, None]:
        """Return the messages that were set aside: of one conversation, or of all of the tenant."""
        if conversation is not None:
            page = await self._get(f"{conversation_at(conversation)}/dead-letters", Letters, about=conversation)
            for one in page.dead_letters:
                yield _letter(one)
            return
        asked: dict[str, Any] = {}
        while True:
            page = await self._get("/v1/dead-letters", Letters, about="dead letters", **asked)
            for one in page.dead_letters:
                yield _letter(one)
            if page.next is None:
                return
            asked["behind"] = page.next

    async def replay(self, conversation: str, number: int) -> Receipt:
        """Hand in a message again that was set aside."""
        path, about = f"{conversation_at(conversation)}/dead-letters/{number}", f"{conversation}: message {number}"
        return (await self._link.ask("POST", path, about=about)).to(Receipt)

    async def dismiss(self, conversation: str, number: int) -> None:
        """Close a dead letter without a replay."""
        await self._act("DELETE", f"{conversation_at(conversation)}/dead-letters/{number}", conversation)

    async def deliveries(self, conversation: str) -> list[Delivery]:
        """Return how the sending of each reply through its channel stands, oldest first."""
        path = f"{conversation_at(conversation)}/deliveries"
        answer = await self._link.ask("GET", path, about=conversation)
        return answer.to(dict[str, list[Delivery]])["deliveries"]

    async def resend(self, conversation: str, number: int) -> None:
        """Send a reply once more. It is asked for once: where the answer is lost, `Uncertain` says that it may be sent."""
        path = f"{conversation_at(conversation)}/deliveries/{number}"
        await self._link.ask("POST", path, about=conversation, repeatable=False)

    async def doubts(self, conversation: str) -> list[Call]:
        """Return the calls of tools that must not run twice that have begun and not ended."""
        answer = await self._link.ask("GET", f"{conversation_at(conversation)}/doubts", about=conversation)
        return answer.to(dict[str, list[Call]])["doubts"]

    async def settle(self, conversation: str, call: str, *, done: bool, result: Any = None) -> None:
        """Say how a call in doubt has ended."""
        path = f"{conversation_at(conversation)}/doubts/{quote(call, safe='')}"
        await self._link.ask("POST", path, {"done": done, "result": result}, about=f"{conversation}: call {call}")

    async def erase_user(self, user: str) -> ErasedUser:
        """Erase all that is a user's, in each of the user's names, and answer a receipt. There is no way back."""
        return (await self._link.ask("DELETE", f"/v1/users/{quote(user, safe='')}", about=user)).to(ErasedUser)

    async def holds(self) -> list[Hold]:
        """Return the legal holds of the tenant."""
        return (await self._link.ask("GET", "/v1/holds", about="holds")).to(dict[str, list[Hold]])["holds"]

    async def hold(self, conversation: str | None = None, *, owner: str | None = None, reason: str) -> list[Hold]:
        """Put a conversation, or all that is an *owner*'s, on legal hold: nobody erases or redacts it until it is lifted."""
        asked = _subject(conversation, owner) | {"reason": reason}
        return (await self._link.ask("POST", "/v1/holds", asked, about=conversation or owner or "")).to(
            dict[str, list[Hold]]
        )["holds"]

    async def unhold(self, conversation: str | None = None, *, owner: str | None = None) -> list[Hold]:
        """Lift a legal hold, and answer what it was. Raises `NotFound` where there is none."""
        path = with_query("/v1/holds", **_subject(conversation, owner))
        answer = await self._link.ask("DELETE", path, about=conversation or owner or "")
        return answer.to(dict[str, list[Hold]])["holds"]

    async def stats(self) -> ProcessStats:
        """Return what each part of the server's process has done; see `Chatkeep.stats`. Behind a load balancer: of one of them."""
        return await self._get("/v1/stats", ProcessStats, about="the server")

    async def audit(self, *, limit: int = 100) -> list[Act]:
        """Return what keys and people did in the tenant, the newest first."""
        return (await self._link.ask("GET", f"/v1/audit?limit={limit}", about="audit")).to(dict[str, list[Act]])["acts"]

    async def export(
        self, conversation: str | None = None, *, said: Exported | None = None
    ) -> AsyncGenerator[bytes, None]:
        """
        Give the lines of an export, of one conversation or of the tenant, as `chatkeep export` writes them.

        *said* is told how many there were, and what could not be read. A connection that breaks raises; the lines are complete when the
        last one, which says how many there should be, has come.
        """
        said, ended = Exported() if said is None else said, False
        path = with_query("/v1/export", conversation=conversation)
        async for line in self._link.lines(path, about=conversation or "export"):
            if line.startswith(b'{"left_out":'):
                said.left_out = msgspec.json.decode(line, type=dict[str, dict[str, str]])["left_out"]
                continue
            if line.startswith(b'{"end":'):
                told = msgspec.json.decode(line)
                said.conversations, said.entries, ended = told["conversations"], told["entries"], True
            yield line
        if not ended:
            raise Unavailable(
                f"{conversation or 'export'}: the last line did not come, so something is missing. Try again."
            )

    async def _switch(self, conversation: str | None, asked: dict[str, Any], everywhere: bool) -> None:
        if conversation is None:
            await self._link.ask("PUT", "/v1/bot", asked | {"everywhere": everywhere}, about="the bot")
            return
        if everywhere:
            raise UsageError("`everywhere` cannot be combined with a conversation; nothing was changed.")
        await self._link.ask("PUT", f"{conversation_at(conversation)}/bot", asked, about=conversation)

    async def _act(self, method: str, path: str, about: str) -> None:
        await self._link.ask(method, path, about=about)

    async def _pages(self, path: str, kind: type[ListPage], **asked: Any) -> AsyncGenerator[ListPage, None]:
        """Give the pages of a list of conversations, each when it is wanted."""
        asked["limit"] = PAGE
        while True:
            page = await self._get(path, kind, about="conversations", **asked)
            yield page
            if not page.next:
                return
            asked["next"] = page.next

    async def _get(self, path: str, kind: type[T], *, about: str, **asked: Any) -> T:
        return (await self._link.ask("GET", with_query(path, **asked), about=about)).to(kind)


async def found(client_desk: Desk, conversation: str, *, messages: int) -> Conversation | None:
    """Return a conversation; None where there is none."""
    try:
        return await client_desk.read(conversation, messages=messages)
    except NotFound:
        return None


def _subject(conversation: str | None, owner: str | None) -> dict[str, str]:
    if bool(conversation) == bool(owner):
        raise UsageError("Name either a conversation or an owner; nothing was changed.")
    return {"conversation": conversation} if conversation else {"owner": owner or ""}


def _entry(one: Entry) -> Message:
    told = {name: getattr(one, name) for name in Message.__struct_fields__}
    return Message(**told | ({"channel": SAVED} if one.saved and not one.channel else {}))


def _letter(one: Letter) -> DeadLetter:
    told = structs.asdict(one)
    reason = told.pop("reason")
    return DeadLetter(**told | {"metadata": one.metadata | {"reason": reason}})
