"""Keeps the full-text index of the store up to date, where somebody has asked for one: a little at each beat of the sweep."""

from __future__ import annotations

import asyncio

from ..storage.store import Store
from ..storage.text_index import TextIndex

SPENT_S = 0.2
"""So long is indexed at one beat, half of it in pauses: turns come first."""

LOOK_S = 30.0
"""So often it is looked whether somebody has asked for an index."""


class Indexer:
    """The index of one store, as one process keeps it."""

    def __init__(self, store: Store) -> None:
        self.index = TextIndex(store)
        """The index, for whoever searches."""
        self._look_at = 0.0

    async def look(self) -> None:
        """Put in some of what lacks."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not self.index.able or began < self._look_at:
            return
        answer = await self.index.step()
        if not answer.on:
            self._look_at = began + LOOK_S
        while answer.entries and loop.time() < began + SPENT_S:
            stepped = loop.time()
            answer = await self.index.step()
            await asyncio.sleep(loop.time() - stepped)
