"""A user's own conversations on the server, from the user's token."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from msgspec import Struct

from ..conversation.saves import Saved
from ..people.lists import Changed, Summary
from ..people.surface import Lost
from .link import Link
from .values import Credential, Token

LIST = "/v1/me/conversations"
PAGE = 100


class ListPage(Struct):
    """A page of a list, as it comes."""

    conversations: list[Summary]
    total: int
    cursor: str
    next: str | None = None


class Devices(Struct):
    """A listing, as it comes."""

    tokens: list[Credential]


class Losses(Struct):
    """A listing, as it comes."""

    losses: list[Lost]


class Claimed(Struct, frozen=True, kw_only=True):
    """What was claimed, whose it is now, and until when that can be undone, in seconds since 1970."""

    guest: str
    user: str
    undo_until: float


class Account:
    """
    What a user has: `client.account`. The client's token is a user's.

        account = client.account
        async for summary in account.conversations():
            print(summary.title, summary.unseen)
        changed = await account.changes(cursor)
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    async def conversations(self) -> AsyncGenerator[Summary, None]:
        """List the user's conversations: pinned ones first, then the last changed first."""
        asked: dict[str, Any] = {"limit": PAGE}
        while True:
            page = (await self._link.ask("GET", f"{LIST}?{urlencode(asked)}", about="conversations")).to(ListPage)
            for summary in page.conversations:
                yield summary
            if page.next is None:
                return
            asked["behind"] = page.next

    async def changes(self, since: str = "", *, limit: int = PAGE) -> Changed:
        """Return what has changed since a cursor; without one, everything, in pages. See `chatkeep.User.changes`."""
        query = urlencode({"since": since, "limit": limit})
        return (await self._link.ask("GET", f"{LIST}?{query}", about="changes")).to(Changed)

    async def save(
        self,
        conversation: str,
        *,
        title: str | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        base: str | None = None,
        version: int | None = None,
        checksum: str | None = None,
        force: bool = False,
        at: float | None = None,
        by: str = "",
        seen: int | None = None,
        archived: bool | None = None,
        pinned: bool | None = None,
    ) -> Saved:
        """
        Save a title, messages and marks, creating the conversation where there is none; see `Chatkeep.save`.

        Raises `PreconditionFailed` when *checksum* is not the conversation's, and then nothing was saved. Made again until it is answered:
        the same save has no second effect.
        """
        asked: dict[str, Any] = {
            "title": title,
            "messages": [dict(message) for message in messages],
            "base": base,
            "version": version,
            "force": force,
            "at": at,
            "by": by,
            "seen": seen,
            "archived": archived,
            "pinned": pinned,
        }
        headers = {} if checksum is None else {"if-match": f'"{checksum}"'}
        answer = await self._link.ask(
            "PUT", _path(conversation), asked, about=conversation, headers=headers, repeatable=checksum is None
        )
        return answer.to(Saved)

    async def create(self, conversation: str | None = None, *, title: str | None = None) -> Saved:
        """Create a conversation under an id of the client's own; one that is there stays, but takes the title."""
        return await self.save(secrets.token_hex(12) if conversation is None else conversation, title=title)

    async def losses(self, conversation: str) -> list[Lost]:
        """Return what gave way in saves and merges, the newest first."""
        return (await self._link.ask("GET", f"{_path(conversation)}/losses", about=conversation)).to(Losses).losses

    async def restore(self, conversation: str, number: int) -> None:
        """Put back what gave way."""
        await self._link.ask("POST", f"{_path(conversation)}/losses/{number}", about=conversation, repeatable=False)

    async def claim(self, guest: str) -> Claimed:
        """Make what a guest has, whose token *guest* is, the user's: the guest has signed in. Twice is fine."""
        return (await self._link.ask("POST", "/v1/me/claim", {"guest": guest}, about="claim")).to(Claimed)

    async def undo_claim(self, guest: str) -> None:
        """Undo a claim, by the guest's name as `claim` told it, within a day. Raises `NotFound` when there is none."""
        await self._link.ask("DELETE", f"/v1/me/claim/{quote(guest, safe='')}", about="claim")

    async def devices(self) -> list[Credential]:
        """Return the user's tokens, which are its devices."""
        return (await self._link.ask("GET", "/v1/me/tokens", about="devices")).to(Devices).tokens

    async def sign_out(self, device: str = "current") -> None:
        """End the token of a device, by its id in `devices`; without one, the client's own."""
        await self._link.ask("DELETE", f"/v1/me/tokens/{quote(device, safe='')}", about="devices")

    async def refresh(self, *, grace: float = 60.0) -> Token:
        """Put a new token in the place of the client's, which uses it from now on; the old one goes on for *grace* seconds."""
        old = self._link.token
        path, asked = "/v1/me/tokens/current/rotate", {"grace": grace}
        token = (await self._link.ask("POST", path, asked, about="token", repeatable=False, only=old)).to(Token)
        if self._link.token == old:
            self._link.token = token.token
        return token


def _path(conversation: str) -> str:
    return f"/v1/conversations/{quote(conversation, safe='')}"
