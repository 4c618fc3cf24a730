"""Legal holds: conversations, and all conversations of an owner, that nobody may erase, forget or retain away until they are lifted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from msgspec import Struct

from ..conversation.keys import RESERVED
from ..drivers.base import Key, Row, mark_of, row_at
from ..errors import BadKey, Corrupt, OnHold, Unsupported
from .records import Records
from .store import Store

SPACE = "holds:"
"""Begins the space of a tenant's holds."""

LISTED = "hold"
"""The owner of all these records, by which they are listed."""


class Hold(Struct, frozen=True, omit_defaults=True):
    """What is on hold, a *conversation* or all that is an *owner*'s, why, and since when."""

    conversation: str = ""
    owner: str = ""
    reason: str = ""
    at: float = 0.0

    @property
    def subject(self) -> str:
        """What is on hold, in words."""
        if self.conversation:
            return f"conversation {self.conversation!r:.80}"
        return f"all that {self.owner!r:.80} owns" if self.owner else "something that nobody can tell"


UNREADABLE = Hold(reason="the record of this hold cannot be read; restore it, or put the hold again")
"""Stands for a hold of which nobody knows what it is about, nor since when."""


class Holds:
    """The holds of one tenant, in one store."""

    def __init__(self, store: Store, tenant: str, *, clock: Callable[[], float] = time.time) -> None:
        self._records = Records(store, SPACE + tenant, Hold, clock=clock)
        self._clock = clock

    async def put(self, *, conversation: str = "", owner: str = "", reason: str) -> Hold:
        """Put a conversation, or all that is an owner's, on hold; where it is on hold already, that stands."""
        made = Hold(conversation, owner, reason, self._clock())
        return await self._records.change(_name(made), lambda held: held or made, owner=LISTED, anew=made) or made

    async def lift(self, *, conversation: str = "", owner: str = "") -> Hold | None:
        """Lift a hold, and return what it was, as far as that can be read; None where there was none."""
        asked = Hold(conversation, owner, UNREADABLE.reason)
        return await self._records.remove(_name(asked), unreadable=lambda: asked)

    async def all(self) -> AsyncIterator[Hold]:
        """Yield the holds there are, with UNREADABLE for each that cannot be read."""
        async for _, held in self._records.owned_records(LISTED, unreadable=lambda: UNREADABLE):
            yield held

    async def find_of_owner(self, owner: str) -> Hold | None:
        """Return the hold that all that is *owner*'s is under; UNREADABLE where nobody can tell."""
        try:
            return await self._records.get(_name(Hold(owner=owner)))
        except (Corrupt, Unsupported):
            return UNREADABLE

    async def find(self, row: Row) -> Hold | None:
        """Return a hold that the conversation in *row* is under: its own, or its owner's."""
        held = await self._records.get(_name(Hold(conversation=row.key.id)))
        if held is None and row.owner:
            held = await self._records.get(_name(Hold(owner=row.owner)))
        return held


async def find_hold(store: Store, row: Row) -> Hold | None:
    """Return a hold that the conversation in *row* is under; chatkeep's own records are under none."""
    return None if row.key.tenant.startswith(RESERVED) else await Holds(store, row.key.tenant).find(row)


async def refuse_held(store: Store, row: Row) -> None:
    """Raise `OnHold` where the conversation in *row* is on hold."""
    held = await find_hold(store, row)
    if held is not None:
        raise on_hold(row.key, held)


async def refuse_unknown(store: Store, key: Key) -> None:
    """Raise `OnHold` where the conversation *key*, whose owner is not known, is on hold or may be: all that is somebody's is."""
    holds = Holds(store, key.tenant)
    if held := await holds.find(row_at(key)):
        raise on_hold(key, held)
    async for held in holds.all():
        if not held.conversation:
            raise OnHold(
                f"{key}: it cannot be read, so nobody knows whose it is, and {held.subject} is on legal hold; nothing was changed. "
                "See `chatkeep holds`; somebody who may has to lift it first."
            )


def on_hold(key: Key, held: Hold) -> OnHold:
    """Return what is told to whoever would remove something that is on hold."""
    since = time.strftime("%Y-%m-%d", time.gmtime(held.at))
    why = f" ({held.reason})" if held.reason else ""
    return OnHold(
        f"{key}: {held.subject} is on legal hold since {since}{why}; nothing was changed. See `chatkeep holds`; somebody who may has to "
        "lift it first."
    )


def _name(held: Hold) -> str:
    if not held.conversation and not held.owner:
        raise BadKey("A legal hold is of a conversation or an owner, and the name is empty; nothing was changed.")
    return mark_of(Key("conversation", held.conversation) if held.conversation else Key("owner", held.owner))
