"""The full-text index of a store: kept up to date a few entries at a time, and searched.

The driver keeps which words are in which entry, and which entries lack; what a word is, `conversation.words` says.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..drivers.base import Ability, Hits, Indexed, IndexText, Search, Searching, Term, Unindexed, searching
from ..errors import Unsupported
from .store import Store

AT_ONCE = 100
"""So many entries are put in by one act: whoever writes beside it waits for no longer than a few of those."""


class TextIndex:
    """The index of the store *store*, in whichever process; there may be none. Raises `Unsupported` where the store can have
    none."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lacking: Sequence[Unindexed] = ()

    @property
    def able(self) -> bool:
        """Whether the store can have an index at all."""
        return searching(self._store.driver) is not None

    async def step(self, *, limit: int = AT_ONCE, keep: bool | None = None) -> Indexed:
        """Put in what the step before was handed out, and tell what lacks; *keep*: see `IndexText`."""
        # (The first imports unicodedata. Where there is no index nobody needs either.)
        from ..conversation.words import entry_words
        from ..offload import offload

        lacking, self._lacking = self._lacking, ()
        # (In a thread: a hundred long texts are work for seconds.)
        words = await offload(lambda: [entry_words(one) for one in lacking]) if lacking else []
        answer = await self._store.gateway.act(self._driver.index_text, IndexText(limit, words, keep))
        self._lacking = answer.entries
        return answer

    async def catch_up(self) -> Indexed:
        """Put in what was said last, AT_ONCE entries at most: who searches finds what was just said."""
        answer = await self.step()
        if answer.entries:
            answer = await self.step(limit=0)
        return answer

    async def find(self, tenant: str | None, text: str, *, before: int | None, limit: int) -> Hits:
        """Return a page of the entries of *tenant* (None: of all) that have the words of *text*, the newest first; number 0 is the title
        and the id."""
        from ..conversation.words import terms_in

        return await self._search(Search(terms_in(text), limit, tenant, before))

    async def find_marked(self, tenant: str | None, mark: str, *, rows: bool, before: int | None, limit: int) -> Hits:
        """Return a page of the entries, or of the *rows* alone, that have a mark, the newest first."""
        return await self._search(Search([Term(mark)], limit, tenant, before, rows))

    async def _search(self, act: Search) -> Hits:
        return await self._store.gateway.act(self._driver.search, act)

    @property
    def _driver(self) -> Searching:
        found = searching(self._store.driver)
        if found is None:
            raise Unsupported(f"The store lacks {Ability.SEARCH.name} ({Ability.SEARCH}); nothing was done.")
        return found
