"""Whose a conversation is, and which user somebody is by now: as the store had it a second ago at most, or when it was last reached."""

from __future__ import annotations

from typing import Any

from cachetools import TTLCache

from ..app import Chatkeep, core_of
from ..auth.credentials import StoredCredential
from ..channels.accounts import Accounts
from ..channels.base import is_of_platform
from ..conversation.keys import GUEST
from ..errors import Unavailable
from .known_credentials import FRESH_S
from .last_known import HELD, LastKnown
from .principals import Principal


class Ownership:
    """Remembers owners of conversations and claims of guests, for FRESH_S."""

    def __init__(self, keep: Chatkeep[Any]) -> None:
        self._core = core_of(keep)
        self._last_owners: LastKnown[tuple[str, str], str] = LastKnown(keep)
        self._last_standing: LastKnown[tuple[str, str], str] = LastKnown(keep)
        self._owners: TTLCache[tuple[str, str], str | None] = TTLCache(HELD, FRESH_S)
        self._standing: TTLCache[tuple[str, str], str] = TTLCache(HELD, FRESH_S)

    async def owns(self, principal: Principal, conversation: str) -> bool | None:
        """Tell whether a conversation is the user's; None where nobody has it and the user may begin it. At most FRESH_S old."""
        place = principal.tenant, conversation
        if place not in self._owners:
            self._owners[place] = await self._find_owner(*place, principal.user)
        owner = self._owners.get(place)
        if not owner:  # created in the next moment, perhaps; or it cannot be read, and is somebody else's
            self._owners.pop(place, None)
            return None if owner is None and not self.is_customers(*place) else False
        if owner == principal.user:
            return await self.stands_for(principal)
        return await self.find_user(principal.tenant, owner) == await self.find_user(principal.tenant, principal.user)

    def note_begun(self, tenant: str, conversation: str, owner: str) -> None:
        """Remember for an outage whose a conversation is, which has just been begun here."""
        self._last_owners.note((tenant, conversation), owner, round=self._last_owners.round)

    def is_customers(self, tenant: str, conversation: str) -> bool:
        """Tell whether a conversation is that of a channel's customer, also before the customer has written: whoever began it would read
        what the customer says, and have the bot write to the customer's address.

        A platform's names count also where this process has no outlet: another one on the store may.
        """
        outlet = self._core.outlet
        sends = isinstance(outlet, Accounts) and outlet.takes(tenant, conversation)
        return sends or is_of_platform(conversation)

    async def stands_for(self, principal: Principal) -> bool:
        """Tell whether the token of a user, or what the application has said of it, still counts."""
        stored = principal.stored
        return stored is None or (not stored.over(self._core.clock()) and await self.stands(stored))

    async def stands(self, stored: StoredCredential) -> bool:
        """Tell whether the user of a token is still one: a guest that has signed in is not."""
        return (
            not stored.subject.startswith(GUEST)
            or await self.find_user(stored.tenant, stored.subject) == stored.subject
        )

    async def find_user(self, tenant: str, name: str) -> str:
        """Return the user that has what is *name*'s, as it was at most FRESH_S ago."""
        if (tenant, name) not in self._standing:
            round = self._last_standing.round
            try:
                found = await self._core.find_user(tenant, name)
                self._last_standing.note((tenant, name), found, round=round)
            except Unavailable as away:
                found = self._last_standing.find((tenant, name), away)
            self._standing[tenant, name] = found
        return self._standing.get((tenant, name), name)

    async def _find_owner(self, tenant: str, conversation: str, user: str) -> str | None:
        round = self._last_owners.round
        try:
            owner = await self._core.find_owner(tenant, conversation, user=user)
            self._last_owners.note((tenant, conversation), owner, round=round)
        except Unavailable as away:
            owner = self._last_owners.find((tenant, conversation), away)
        return owner

    def look_again(self) -> None:
        """Let go of what is known, after something was changed here."""
        self._owners.clear()
        self._standing.clear()
        self._last_owners.clear()
        self._last_standing.clear()
