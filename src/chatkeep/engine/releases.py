"""Which versions of the application answer on the store: this one says that it is there, and looks at which others are.

All that is known is in `Shared.plan`, by which the rules in `conversation/releases` decide.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec import Struct, structs

from ..conversation.keys import RESERVED
from ..conversation.releases import Plan
from ..drivers.base import Key
from ..errors import StoreError
from ..settings import Settings
from ..storage.records import Records
from ..storage.store import Store

NAME = "versions"
VERSIONS = Key(f"{RESERVED}chatkeep", NAME)
SAY_S = 3.0
"""So often a version says that it is there."""

GONE_S = 10.0
"""One that has said nothing for so long is gone, and what was pinned to it is anybody's."""

FORGOTTEN_S = 7 * 86_400.0
"""After so long a version that was given no share is not listed any more."""


class Versions(Struct, frozen=True):
    """When each version has said last that it is there, by its clock, and the shares that operators have given."""

    said: dict[str, float] = {}
    shares: dict[str, float] = {}


class Releases:
    """The versions of one store, as one process sees them. *tell* is called with each `Plan`; *answers* says whether this process
    answers messages."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Callable[[], float],
        *,
        tell: Callable[[Plan], None],
        answers: Callable[[], bool],
    ) -> None:
        self._records: Records[Any] = Records(store, "chatkeep", Versions, clock=clock)
        self._version = settings.version
        self._clock = clock
        self._tell = tell
        self._answers = answers
        self.restart()

    def restart(self) -> None:
        """Know nothing, as at an opening."""
        self._seen: dict[str, tuple[float, float]] = {}  # what each has said last, and since when this process knows
        self._looked_at = 0.0
        self._held = Versions()  # as it was read last
        self._begun = self._told = 0  # looks, counted: answers may arrive out of order

    async def look(self) -> None:
        """Look at which versions are there, and say that this one is. Where it has no name, nobody is asked."""
        if not (self._version and self._answers()):
            return
        self._begun += 1
        mine = self._begun
        held: Versions = await self._records.get(NAME) or Versions()
        self._held, now = held, time.monotonic()
        if now - self._looked_at > GONE_S / 2:  # this process, or its host, stood still: the others may have, too
            self._seen.clear()
        self._looked_at = now
        self._seen = {
            version: seen if (seen := self._seen.get(version, (0.0, 0.0)))[0] == said else (said, now)
            for version, said in held.said.items()
        }
        if now - self._seen.get(self._version, (0.0, 0.0))[1] > SAY_S or self._version not in held.said:
            held = await self._records.change(NAME, self._say) or held
            self._seen[self._version] = held.said[self._version], now
        present = {version for version, (_, since) in self._seen.items() if now - since < GONE_S}
        if mine < self._told:
            return  # one that began later has told what is newer
        self._told = mine
        self._tell(Plan(frozenset(present | {self._version}), held.shares))

    async def refresh(self, *, after_s: float) -> None:
        """Look if that was so long ago; where the store does not tell, what was known goes on."""
        if time.monotonic() - self._looked_at > after_s:
            with suppress(StoreError):
                await self.look()

    async def find(self) -> Versions:
        """Return what the store has of the versions."""
        return await self._records.get(NAME) or Versions()

    async def give_share(self, version: str, share: float | None) -> None:
        """Give a version its share; None: none of its own."""

        def edit(held: Versions | None) -> Versions:
            held = held or Versions()
            shares = {name: part for name, part in held.shares.items() if name != version}
            return structs.replace(held, shares=shares if share is None else shares | {version: share})

        await self._records.change(NAME, edit, anew=self._held)
        await self.look()

    def _say(self, held: Versions | None) -> Versions:
        held, now = held or Versions(), self._clock()
        lately = {name: at for name, at in held.said.items() if at > now - FORGOTTEN_S or name in held.shares}
        return structs.replace(held, said=lately | {self._version: now})
