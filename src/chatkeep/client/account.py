"""A user's own conversations on the server, from the user's token."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from ..conversation.saves import SLOT, TITLE, Saved
from ..errors import ChatkeepError, StoreError, UsageError
from ..people.lists import Changed, Summary
from ..people.surface import Lost
from .addresses import conversation_at, given, with_query
from .events import Ended, StreamEnd, frames
from .link import Link, TemporaryFailure, decoded, pause
from .notices import Run
from .refusals import NotFound, PreconditionFailed
from .values import Credential, Token

log = logging.getLogger("chatkeep.client")

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


class SignedIn(Struct, frozen=True, kw_only=True):
    """The user has signed in on another device."""

    device: Credential


class ErasedId(Struct):
    """What is erased, as it comes."""

    id: str


class CursorTold(Struct):
    """How far the stream is, as it comes."""

    total: int
    reset: bool = False


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
            page = (await self._link.ask("GET", with_query(LIST, **asked), about="conversations")).to(ListPage)
            for summary in page.conversations:
                yield summary
            if page.next is None:
                return
            asked["behind"] = page.next

    async def changes(self, since: str = "", *, limit: int = PAGE) -> Changed:
        """Return what has changed since a cursor; without one, everything, in pages. See `chatkeep.User.changes`."""
        path = with_query(LIST, since=since, limit=limit)
        return (await self._link.ask("GET", path, about="changes")).to(Changed)

    async def events(self, since: str = "") -> AsyncGenerator[Changed | SignedIn | Ended, None]:
        """
        Return what changes in the user's list, as it happens, from a *since* cursor on; without one, from now on.

        Each `Changed` has a cursor to go on from; with `reset`, what is held is to be forgotten. `SignedIn`: on another device, while this
        is iterated; it is a notice as well. Goes on where it was when the connection breaks; ends after `Ended`, or when the client
        is closed.
        """
        if not since:
            since = (await self._link.ask("GET", f"{LIST}?limit=1", about="conversations")).to(ListPage).cursor
        known, failures = {one.id for one in await self.devices()}, 0
        while self._link.is_open:
            after_s = 0.0
            try:
                for device in await self.devices() if failures else ():
                    if device.id not in known:
                        yield self._note_device(device)
                    known.add(device.id)
                async with self._link.stream("/v1/me/events", since, "changes") as chunks:
                    changed, erased = list[Summary](), list[str]()
                    async for frame in frames(chunks):
                        failures = 0
                        match frame.event:
                            case "changed":
                                changed.append(decoded(frame.data, Summary))
                            case "erased":
                                erased.append(decoded(frame.data, ErasedId).id)
                            case "cursor":
                                since, told = frame.id, decoded(frame.data, CursorTold)
                                yield Changed(
                                    conversations=changed,
                                    erased=erased,
                                    total=told.total,
                                    cursor=since,
                                    reset=told.reset,
                                )
                                changed, erased = [], []
                            case "device":
                                device = decoded(frame.data, Credential)
                                if device.id not in known:
                                    yield self._note_device(device)
                                known.add(device.id)
                            case "end":
                                if decoded(frame.data, StreamEnd).reason == "revoked":
                                    self._link.notices.note_refused()
                                    yield Ended(reason="revoked")
                                    return
                                break
            except (TemporaryFailure, StoreError) as fault:
                after_s = fault.after if isinstance(fault, TemporaryFailure) else 0.0
                log.info("stream of a list: %s", fault)
            if self._link.is_open:
                failures += 1
                await asyncio.sleep(pause(failures) + after_s)

    def _note_device(self, device: Credential) -> SignedIn:
        text = f"You have signed in on another device{f': {device.label}' if device.label else ''}."
        end = partial(self.sign_out, device.id)
        self._link.notices.tell("device", text, id=f"device:{device.id}", actions={"sign-out": end})
        return SignedIn(device=device)

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
        there: bool = False,
        notify: bool = True,
    ) -> Saved:
        """
        Save a title, messages and marks, creating the conversation where there is none; see `Chatkeep.save`.

        Raises `PreconditionFailed` when *checksum* is not the conversation's, and then nothing was saved. Made again until it is answered:
        the same save has no second effect. *there*: the conversation was there when this was made; where it was erased meanwhile it is not
        created, and this raises `NotFound`. *notify*: what becomes of it is a notice too, see `Client.notices`.
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
        return await self._save("PATCH" if there else "PUT", conversation, asked, checksum, notify)

    async def _save(
        self,
        method: str,
        conversation: str,
        asked: Mapping[str, Any],
        checksum: str | None,
        notify: bool,
        *,
        key: str = "",
    ) -> Saved:
        # By its key the server knows a save that it has done and whose answer was lost.
        headers = {"idempotency-key": f'"{(key := key or secrets.token_hex(16))}"'}
        if checksum is not None:
            headers["if-match"] = f'"{checksum}"'
        notices, id = self._link.notices, f"save:{conversation}"
        try:
            answer = await self._link.ask(
                method, conversation_at(conversation), asked, about=conversation, headers=headers
            )
        except PreconditionFailed:
            raise
        except ChatkeepError as fault:
            if notify:
                again = partial(self._save, method, conversation, asked, checksum, notify, key=key)
                runs: dict[str, Run] = {"retry": again} if isinstance(fault, StoreError) else {}
                notices.tell("failed", str(fault), about=conversation, id=id, actions=runs | {"discard": _nothing})
            raise
        saved = answer.to(Saved)
        notices.dismiss(id)
        if notify:
            notices.tell("saved", "Saved.", about=conversation)
        if notify and saved.conflicts:
            lost = partial(self.restore_lost, conversation, TITLE, value=asked.get("title"))
            text = f"The conversation was changed elsewhere: {', '.join(saved.conflicts)} stayed as it was there, and yours is kept."
            notices.tell(
                "conflict", text, about=conversation, actions={"restore": lost} if TITLE in saved.conflicts else {}
            )
        return saved

    async def create(self, conversation: str | None = None, *, title: str | None = None) -> Saved:
        """Create a conversation under an id of the client's own; one that is there stays, but takes the title."""
        return await self.save(secrets.token_hex(12) if conversation is None else conversation, title=title)

    async def rename(
        self, conversation: str, title: str, *, base: str | None = None, at: float | None = None, by: str = ""
    ) -> Saved:
        """Give a conversation a title; see `chatkeep.User.rename`."""
        return await self._change(conversation, title=title, base=base, at=at, by=by)

    async def archive(self, conversation: str, on: bool = True) -> Saved:
        """Put a conversation away, or back."""
        return await self._change(conversation, archived=on)

    async def pin(self, conversation: str, on: bool = True) -> Saved:
        """Have a conversation stand first in the list, or not any more."""
        return await self._change(conversation, pinned=on)

    async def seen(self, conversation: str, number: int) -> Saved:
        """Note that the user has read the log up to *number*; the greatest number that was noted stands."""
        return await self._change(conversation, notify=False, seen=number)

    async def delete(self, conversation: str) -> None:
        """Erase a conversation; the user's other devices are told. Twice is fine. There is no way back."""
        try:
            await self._link.ask("DELETE", conversation_at(conversation), about=conversation, removes=True)
        except NotFound:
            log.debug("%s was gone already, or is nobody's.", conversation)

    async def _change(self, conversation: str, *, notify: bool = True, **asked: Any) -> Saved:
        return await self._save("PATCH", conversation, given(**asked), None, notify)

    async def losses(self, conversation: str) -> list[Lost]:
        """Return what gave way in saves and merges, the newest first."""
        return (
            (await self._link.ask("GET", f"{conversation_at(conversation)}/losses", about=conversation))
            .to(Losses)
            .losses
        )

    async def restore(self, conversation: str, number: int) -> None:
        """Put back what gave way."""
        await self._link.ask(
            "POST", f"{conversation_at(conversation)}/losses/{number}", about=conversation, repeatable=False
        )

    async def restore_lost(
        self, conversation: str, about: str, *, slot: str = "", path: Sequence[str] = (), value: Any
    ) -> None:
        """Put back what gave way, by what it was: "title", or a place in a *slot* of the "state". Raises `UsageError` when there is no such
        loss among the last ones."""
        sought = about, slot, list(path), value
        for lost in await self.losses(conversation):
            if (lost.about, lost.slot, lost.path, lost.value) == sought:
                await self.restore(conversation, lost.number)
                return
        raise UsageError(f"{conversation}: no such loss is in the log any more; nothing was changed.")

    async def claim(self, guest: str) -> Claimed:
        """Make what a guest has, whose token *guest* is, the user's: the guest has signed in. Twice is fine."""
        claimed = (await self._link.ask("POST", "/v1/me/claim", {"guest": guest}, about="claim")).to(Claimed)
        undo = partial(self.undo_claim, claimed.guest)
        text = "What was written before the sign-in is in the account now."
        self._link.notices.tell("claimed", text, id=f"claimed:{claimed.guest}", actions={"undo": undo})
        return claimed

    async def undo_claim(self, guest: str) -> None:
        """Undo a claim, by the guest's name as `claim` told it, within a day. Raises `NotFound` when there is none."""
        await self._link.ask("DELETE", f"/v1/me/claim/{quote(guest, safe='')}", about="claim")

    async def devices(self) -> list[Credential]:
        """Return the user's tokens, which are its devices; one that was refreshed once, with its new token."""
        found = (await self._link.ask("GET", "/v1/me/tokens", about="devices")).to(Devices).tokens
        return [one for one in found if not one.rotated]

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


def note_merge(link: Link, conversation: str, slot: str, losses: Sequence[Mapping[str, Any]]) -> None:
    """Tell that something gave way in a merge of a slot."""
    if not losses:
        return
    account = Account(link)

    async def restore() -> None:
        for lost in losses:
            place = {"slot": slot, "path": lost.get("path", ()), "value": lost.get("value")}
            await account.restore_lost(conversation, SLOT, **place)

    text = f"{slot} was changed elsewhere as well; both changes are there, but for what gave way to the later one, which is kept."
    link.notices.tell("conflict", text, about=conversation, actions={"restore": restore})


async def _nothing() -> None:
    """Give up what was asked for: it was not done."""
