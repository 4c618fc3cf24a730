"""The full-text index, of drivers that can have one: its two acts, what they hand out and take, and the order of what is found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from .acts import Act
from .rows import Entry, Key

FAR = 1 << 62
"""Above every number, step and place; integers of 64 bits hold it."""

INDEX_COUNTED = 10_000
"""So many entries that wait for the full-text index are counted; there may be more."""

SLOTS = 1024
"""So many places in the order of hits each second has; what is said in one second beyond that goes into the next."""


class Term(Struct, frozen=True):
    """A word that is searched for, or, where it *begins* words, the beginning of one."""

    text: str
    begins: bool = False


class Search(Act, frozen=True, gc=False):
    """Asks which conversations have an entry with all of *terms* among its words, as `IndexText` has put them into the full-text index; of
    each, the last such entry in its log. The newest come first. A row has words too, as an entry of number 0; *rows*: nothing else is
    looked at.

    tenant: whose conversations; None: those of all tenants. before: only entries below this place; places rise with `EntryWords.at`, to the
    second. Words are compared as they are: who makes them has brought them into one form. Nothing is found
    where there is no index. Needs SEARCH.

    Answer: `Hits`.
    """

    terms: Sequence[Term]
    limit: int
    tenant: str | None = None
    before: int | None = None
    rows: bool = False

    def __str__(self) -> str:
        return "The full-text index"


class Hit(Struct, frozen=True):
    """The last entry of a conversation that was found, by its key and its number, and its *place* among all hits."""

    key: Key
    number: int
    place: int


class Hits(Struct, frozen=True):
    """What `search` finds. *place*: where to go on, *before* of the next act, though there may be no hits yet; None: that was all."""

    hits: list[Hit]
    place: int | None


class EntryWords(Struct, frozen=True):
    """The *words*, each once, of an entry that `IndexText` has handed out, which was written *at* a time; none where it has none. Of a
    row, number 0, those that it had at this *revision*; its time is that of its last change."""

    of: int
    number: int
    at: float
    words: Collection[str]
    revision: str = ""


class Unindexed(Struct, frozen=True):
    """An entry that is not in the full-text index yet. *of*: names its conversation, and this incarnation of it, to the driver. The
    entry of number 0 is the row: its id is the revision, its body the row's."""

    key: Key
    of: int
    entry: Entry


class Indexed(Struct, frozen=True):
    """What `index_text` leaves. *on*: there is an index. *entries*: what it lacks next. Of the conversations that were there when it was
    made, *total*, *left* at most have not been gone through; *waiting* entries, counted up to INDEX_COUNTED, are newer, and lack too."""

    on: bool
    entries: list[Unindexed]
    left: int = 0
    total: int = 0
    waiting: int = 0


class IndexText(Act, frozen=True, gc=False):
    """Puts the *words* of entries that were handed out into the full-text index, and asks for the next *limit* that are not in it.

    *keep* True makes the index where there is none, False removes it with every word in it; None leaves that as it is. From the act that
    makes it, in whatever process, every new entry is lacking until its words are put in, which goes into no other act; so are all that
    were there. They are handed out newest conversation first, after those that came since, and again until their words, or that
    they have none, are handed in: those of one answer in one act. What was erased, cut or blanked meanwhile is passed over. An
    entry that is erased, cut or blanked takes its words with it in that act. Run again, it answers the same. It need not be durable.

    The row of each conversation is handed out as an entry of number 0, once more whenever its body was changed, and erased with the
    conversation. Until new words are handed in, it is found by those that it had; words of a revision that it has no more are passed over.
    Needs SEARCH.

    Answer: `Indexed`.
    """

    limit: int
    words: Sequence[EntryWords] = ()
    keep: bool | None = None

    @property
    def size(self) -> int:
        """About how many bytes it sends."""
        return sum([len(word) + 8 for one in self.words for word in one.words])

    @property
    def key(self) -> Key:
        """What it changes, as the other acts have it."""
        return Key("", "")

    def __str__(self) -> str:
        return "The full-text index"


@runtime_checkable
class Searching(Protocol):
    """What a driver with SEARCH has beside the verbs of all drivers; the others need none of it."""

    async def search(self, act: Search) -> Hits:
        """See `Search`."""

    async def index_text(self, act: IndexText) -> Indexed:
        """See `IndexText`."""


def first_place(at: float) -> int:
    """Return the first place of the second *at* in the order of hits."""
    return int(at) * SLOTS
