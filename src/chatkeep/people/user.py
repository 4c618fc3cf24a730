"""A user, and what it can do with its own conversations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Generic

from msgspec import Struct, structs

from ..conversation.keys import GUEST, check_by, check_limits, check_numbers, check_user, key_for
from ..conversation.saves import Saved, SavedMessage
from ..conversation.snapshots import Snapshot
from ..drivers.base import Row
from ..engine.engine import Engine, describe
from ..errors import Corrupt, OtherOwner, Unsupported, UsageError
from ..model import State
from ..storage.erasures import KEPT_S, find_erasures
from ..storage.reader import PAGE
from ..storage.selection import find_row
from ..storage.tokens import fresh_token
from .claims import Claim, Claims
from .erasing import ErasedUser, erase_user
from .lists import (
    LOOKED_AT,
    SLACK_S,
    Changed,
    Cursor,
    Listed,
    Summary,
    find_changes,
    listed_from,
    order,
    read_cursor,
    summarize,
    write_cursor,
)
from .saving import save

CHANGED_MOST = 200
"""Conversations in one answer of what has changed."""


class Page(Struct, frozen=True, kw_only=True):
    """A page of a user's list. next: the conversation behind which the next page begins; None at the end. total: how many there are."""

    conversations: list[Summary]
    total: int
    cursor: str
    next: str | None = None


class User(Generic[State]):
    """
    A user of one tenant: `keep.user("ada")`. Its conversations are those whose owner it is, or was claimed for it.

        ada = keep.user("ada")
        await ada.create("trip", title="To Rome")
        async for summary in ada.conversations():
            print(summary.title, summary.last, summary.unseen)
        await ada.claim("guest:7f3a")
    """

    def __init__(self, engine: Engine[State], tenant: str, id: str) -> None:
        self._engine = engine
        self._tenant = tenant
        self.id = check_user(id)
        """The user's name."""

    def __repr__(self) -> str:
        return describe(self._engine, f"User {self.id!r} of tenant {self._tenant!r}")

    @property
    def _opened(self) -> Engine[State]:
        self._engine.store.confinement.check()
        return self._engine

    @property
    def _claims(self) -> Claims:
        return Claims(self._opened.store, self._tenant, clock=self._engine.shared.clock)

    async def conversations(self, *, limit: int | None = None, archived: bool | None = None) -> AsyncIterator[Summary]:
        """
        List the user's conversations: pinned ones first, then the last changed first.

        *archived*: only those that are, or are not, archived. One that cannot be read is shown with its `fault`.
        """
        check_limits(limit=limit)
        found = order(await self._find())
        if archived is not None:
            found = [one for one in found if one.record.archived == archived]
        found = found if limit is None else found[:limit]
        for first in range(0, len(found), PAGE):
            for summary in await self._summarize(found[first : first + PAGE]):
                yield summary

    async def page(self, *, behind: str | None = None, limit: int = 100) -> Page:
        """Return a page of the list as `conversations` has it, from *behind* a conversation on, with a cursor for `changes`."""
        check_limits(limit=limit, needed=True)
        user, owners = await self._owners()
        found = await self._find(owners)
        _, _, cursor, _ = find_changes(
            found, (), Cursor(self._mark(user), 0.0), limit=len(found), now=self._engine.shared.clock()
        )
        listed = order(found)
        place = next((place + 1 for place, one in enumerate(listed) if one.key.id == behind), 0)
        shown = listed[place : place + limit]
        return Page(
            conversations=await self._summarize(shown),
            total=len(found),
            cursor=write_cursor(cursor),
            next=shown[-1].key.id if place + limit < len(listed) and shown else None,
        )

    async def changes(self, since: str | None = None, *, limit: int = CHANGED_MOST) -> Changed:
        """
        Return what has changed in the user's list since a *cursor* was given out; without one, everything.

        Its size depends on how much has changed, and not on how many conversations there are. A conversation may be told twice, in the same
        version, where the clocks of hosts differ. Raises `UsageError` when *since* is no cursor.
        """
        check_limits(limit=limit, needed=True)
        user, owners = await self._owners()
        of = self._mark(user)
        cursor = Cursor(of, 0.0) if since is None else read_cursor(since)
        now = self._engine.shared.clock()
        # (Where the clock that gave the cursor was ahead, nobody knows what has changed since.)
        stale = cursor.of != of or (cursor.at and not now - KEPT_S <= cursor.at <= now + SLACK_S)
        if stale:
            cursor = Cursor(of, 0.0)
        found = await self._find(owners)
        here = {one.incarnation for one in found}
        gone = [
            erasure
            for owner in (owners if cursor.at else ())
            for incarnation, erasure in (await self._erased(owner, cursor.at)).items()
            if incarnation not in here
        ]
        ids = {one.key.id for one in found}
        page, erased, after, more = find_changes(found, gone, cursor, limit=max(1, min(limit, CHANGED_MOST)), now=now)
        return Changed(
            conversations=await self._summarize(page),
            erased=[id for id in erased if id not in ids],
            total=len(found),
            cursor=write_cursor(after),
            more=more,
            reset=bool(stale),
        )

    async def conversation(self, id: str) -> Summary | None:
        """Return one of the user's conversations as the list shows it; None when the user has none of that id."""
        row = await self._find_row(id)
        return None if row is None else (await self._summarize([listed_from(row)]))[0]

    async def owns(self, id: str) -> bool:
        """Tell whether the conversation is this user's."""
        return await self._find_row(id) is not None

    async def create(self, id: str | None = None, *, title: str = "") -> Saved:
        """
        Create a conversation; one that is there already stays as it is, but for its title, if there was none.

        *id* may be chosen by the client, so that it can be used before the store was reached. Raises `OtherOwner` when it is
        somebody else's.
        """
        there = None if id is None else await self.conversation(id)
        named = there is not None and bool(there.title)
        return await self.save(fresh_token() if id is None else id, title=None if named else title or None)

    async def rename(
        self, id: str, title: str, *, base: str | None = None, at: float | None = None, by: str = ""
    ) -> Saved:
        """
        Give one of the user's conversations a title.

        *at* and *by*: when, and on which device, for a change that was made before; the later one stands, and what gives way is kept
        as a note where *base*, the title that was there then, is not the one that is there now. Raises as `archive`.
        """
        return await self._change(id, title=title, base=base, at=at, by=by)

    async def archive(self, id: str, on: bool = True) -> Saved:
        """Put a conversation away, or back. Raises `OtherOwner` where the user has none of that id."""
        return await self._change(id, archived=on)

    async def pin(self, id: str, on: bool = True) -> Saved:
        """Have a conversation stand first in the list, or not any more. Raises as `archive`."""
        return await self._change(id, pinned=on)

    async def seen(self, id: str, number: int) -> Saved:
        """Note that the user has read the log up to *number*; the greatest number that was noted stands. Raises as `archive`."""
        check_numbers(key_for(self._tenant, id), number)
        return await self._change(id, seen=number)

    async def delete(self, id: str) -> None:
        """Erase one of the user's conversations; who keeps a copy of the list is told by `changes`. Twice is fine. There is no way back.

        Raises `OtherOwner` for somebody else's, and `OnHold` when it, or its owner, is on legal hold.
        """
        _, owners = await self._owners()
        await self._opened.erase(key_for(self._tenant, id), owners=owners)

    async def save(
        self,
        id: str,
        *,
        title: str | None = None,
        messages: Sequence[SavedMessage | Mapping[str, Any]] = (),
        base: str | None = None,
        version: int | None = None,
        checksum: str | None = None,
        force: bool = False,
        at: float | None = None,
        by: str = "",
    ) -> Saved:
        """Save one of the user's conversations, or a new one, as `Tenant.save` does. Raises `OtherOwner` for somebody else's."""
        told: dict[str, Any] = {"title": title, "base": base, "version": version, "checksum": checksum}
        return await self._change(id, creates=True, messages=messages, force=force, at=at, by=by, **told)

    async def claim(self, guest: str, *, by: str = "") -> str:
        """
        Make all that is *guest*'s the user's, in one act, and return the user that both are from now on.

        *guest* is a guest that has signed in, or another account of the same person. Lists and rights follow at once, on other instances
        within two seconds. The application must know that *guest* is the same person. *by*: who has claimed it, for the audit log. Twice
        is fine, also by another account of the same person. Raises `OtherOwner` when *guest* was claimed for somebody else, `UsageError`
        when the user was merged into it before.
        """
        return await self._claims.claim(self.id, guest, by=by)

    async def undo_claim(self, guest: str, *, by: str = "") -> bool:
        """Give back what was claimed for the user, or for an account that the user has claimed, within a day, in one act. Conversations
        that the user has created since stay the user's. False when nothing was claimed."""
        return await self._claims.undo(self.id, guest, by=by)

    async def erase(self, *, by: str = "") -> ErasedUser:
        """
        Erase all that this store has of the user, under each of the user's names, and return a receipt: conversations, tokens, claims,
        and notes of what was erased before. There is no way back.

        What it has done until a crash is done, and the same again does the rest; a write that is under way on another instance may create
        a conversation within the two seconds after it, which the same again erases. The audit log has that it was done, for whom and by
        *by* whom. Backups, and what was sent to others, are not in the store.
        """
        user, owners = await self._owners()
        if not owners:
            raise UsageError(
                f"{self.id!r:.60} was claimed by a user, who has its conversations now; nothing was erased."
            )
        return await erase_user(self._opened, self._tenant, user, owners, by=check_by(by))

    async def claimed(self) -> list[str]:
        """Return what was claimed for this user, such as guests."""
        return [name for name in (await self._owners())[1] if name != self.id]

    async def _owners(self) -> tuple[str, dict[str, Claim | None]]:
        """Return the user that this one is now, and the names under which it owns conversations. A guest that was claimed has none."""
        user = await self._claims.find_user(self.id)
        if user != self.id and self.id.startswith(GUEST):
            return user, {}
        return user, await self._claims.find_owners(user)

    async def _find_row(self, id: str) -> Row | None:
        """Return the row of one of the user's conversations; None when the user has none of that id."""
        _, owners = await self._owners()
        row = await find_row(self._opened.store, key_for(self._tenant, id), owners)
        return row if row is not None and row.owner in owners else None

    def _mark(self, user: str) -> str:
        """Name the list of *user* in this store, for cursors."""
        place = f"{self._engine.store.driver.epoch}:{len(self._tenant)}:{self._tenant}{user}"
        return sha256(place.encode()).hexdigest()[:12]

    async def _find(self, owners: dict[str, Claim | None] | None = None) -> list[Listed]:
        if owners is None:
            _, owners = await self._owners()
        found: dict[str, Listed] = {}
        for owner in owners:
            async for row in self._opened.store.walk("owner", tenant=self._tenant, owner=owner):
                found[row.key.id] = listed_from(row)
        await self._claims.settle(owners)
        return list(found.values())

    async def _erased(self, owner: str, since: float) -> dict[str, tuple[str, float]]:
        return await find_erasures(
            self._engine.store, self._tenant, owner, since=since - SLACK_S, clock=self._engine.shared.clock
        )

    async def _summarize(self, found: Sequence[Listed]) -> list[Summary]:
        async def summary(one: Listed) -> Summary:
            if not one.head or one.fault:
                return summarize(one, ())
            count = min(max(one.head - one.record.seen, 1), LOOKED_AT)
            try:
                log = await self._opened.store.page(one.key, one.incarnation, before=one.head + 1, limit=count)
            except (Corrupt, Unsupported) as unreadable:
                return summarize(structs.replace(one, fault=str(unreadable)), ())
            return summarize(one, log)

        return await asyncio.gather(*map(summary, found))

    async def _change(
        self,
        id: str,
        *,
        creates: bool = False,
        messages: Sequence[SavedMessage | Mapping[str, Any]] = (),
        at: float | None = None,
        **told: Any,
    ) -> Saved:
        user, owners = await self._owners()
        key = key_for(self._tenant, id)
        if not owners:
            raise UsageError(
                f"{self.id!r:.60} was claimed by a user, who has its conversations now; nothing was changed."
            )

        def not_theirs(owner: str) -> OtherOwner:
            taken, next_step = (", and the id is taken", " Use another id.") if creates else ("", "")
            said = f"{key}: the user has no such conversation{taken}; nothing was changed.{next_step}"
            return OtherOwner(said, owner=owner)

        def check(there: Snapshot) -> None:
            owner = there.row.owner if there.row.revision else None
            if owner not in owners and not (owner is None and creates):
                raise not_theirs(owner or "")

        try:
            return await save(self._opened, key, messages, at=at, owner=user, look=check, **told)
        except Corrupt:
            if await self._find_row(id) is None:  # it is a stranger's
                raise not_theirs("") from None
            raise
