"""Records that count no more and belong to nobody who comes back: credentials that have ended, notes of what was erased, claims of
guests who have nothing any more.

Who makes a new one removes old ones of the same owner. What is left is of owners that nobody has asked for since, such as visitors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
from msgspec import Struct

from ..conversation.codec import record_from
from ..conversation.keys import GUEST, RESERVED
from ..drivers.base import Ability, Key, Row, row_at
from ..errors import Conflict, Corrupt, Unsupported
from .erasures import KEPT_S
from .erasures import SPACE as ERASURES
from .records import CLAIMS, owner_of_user
from .store import Store

FIRST_S = 3600.0
"""A process begins to look when it has been there for so long."""

LOOK_S = 86_400.0
"""So often it looks again, by the store's clock."""

PAGE = 100
"""So many records are looked at at one beat."""

SPACES = (RESERVED + "access", RESERVED + ERASURES, RESERVED + CLAIMS)
"""How the tenants of these records begin."""


class Told(Struct):
    """What a record says of its end: when that is, or when it began; one without either has none. kind: of a credential."""

    kind: str = ""
    expires_at: float | None = None
    at: float | None = None


class Leftovers:
    """Those of one store, as one process removes them."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self.open()

    def open(self) -> None:
        """Know nothing, as at an opening."""
        self._look_at = self._clock() + FIRST_S
        self._walk: tuple[Iterator[str], str, Row | None] | None = None

    def ask(self) -> None:
        """Have `step` look now."""
        self._look_at = 0.0

    @property
    def is_done(self) -> bool:
        """Whether it is not time to look, or the store has no SCAN to look with."""
        if Ability.SCAN not in self._store.driver.abilities:
            return True
        now = self._clock()  # (which may have been set back by years)
        return self._walk is None and now < self._look_at <= now + LOOK_S

    async def step(self, ends: float) -> None:
        """Look at the next page, and remove what has been over for KEPT_S by *ends*, if it is time to look."""
        if self.is_done:
            return
        if self._walk is None:
            spaces = iter(SPACES)
            self._walk = spaces, next(spaces), None
        spaces, space, after = self._walk
        rows = await self._store.rows("key", after=after or row_at(Key(space, "")), limit=PAGE)
        ours = [row for row in rows if row.key.tenant.startswith(space)]
        for row in ours:
            if _is_over(row, ends) and not (space == RESERVED + CLAIMS and await self._counts(row)):
                # (With the time of a clock that is far ahead all marks of erasures would be too old to be kept.)
                with suppress(Conflict):  # it was changed just now
                    await self._store.erase(row.key, at=ends, revision=row.revision)
        if len(ours) == PAGE:
            self._walk = spaces, space, ours[-1]
        elif following := next(spaces, ""):
            self._walk = spaces, following, None
        else:
            self._walk, self._look_at = None, self._clock() + LOOK_S

    async def _counts(self, claim: Row) -> bool:
        """Tell whether something rests on a claim: an account's does, by which people sign in, and a guest's while the guest has a
        conversation, which is the user's by the claim alone, or a token, which is refused by it."""
        guest, tenant = claim.key.id, claim.key.tenant.removeprefix(RESERVED + CLAIMS)
        if not guest.startswith(GUEST):
            return True
        places = ((tenant, guest), (RESERVED + "access", owner_of_user(tenant, guest)))
        return any([await self._store.rows("owner", tenant=of, owner=owner, limit=1) for of, owner in places])


def _is_over(row: Row, ends: float) -> bool:
    try:
        told = msgspec.json.decode(record_from(row.key, row.body).state, type=Told)
    except (Corrupt, Unsupported, msgspec.DecodeError):
        return False  # whoever asks for it is told
    end = told.expires_at if told.expires_at is not None else told.at
    # (A service key is listed also when it is over: somebody has made it by hand.)
    return end is not None and end + KEPT_S <= ends and told.kind != "service"
