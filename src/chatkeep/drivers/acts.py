"""What a verb is asked to do, and what it answers: one act each, a value of the class of its name.

The class says what is asked for and what is promised, `Driver` what is true of all of them. `full_text` has those of the full-text index.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from msgspec import Struct

from .rows import Entry, Index, Key, Row

ENTRIES_MOST = 500
"""No act carries more entries than this, or asks for more by their ids."""

TOMBSTONE_KEPT_S = 7 * 86_400.0
"""How long (by the callers' own times) an erasure must go on refusing acts that are older than itself."""

COUNTERS_KEPT_S = 3600.0
"""How long at least (by the callers' own times) a counter is kept after its window ended: clocks may differ."""


class Lease(NamedTuple):
    """Asks for the right to work on a conversation alone, so that work is not done twice."""

    token: str
    until: float


class Act(Struct, frozen=True, gc=False):
    """What a verb is asked to do: one call, which may wait with others and go with them."""

    @property
    def size(self) -> int:
        """About how many bytes it sends."""
        return 128

    def __str__(self) -> str:
        return str(getattr(self, "key", "The index"))


class Read(Act, frozen=True, gc=False):
    """Asks for the row and its last *tail* entries, oldest first, of one instant.

    Answer: both, or None when there is no row.
    """

    key: Key
    tail: int


class Append(Act, frozen=True, gc=False):
    """Adds the entries whose id is new, numbered on from head, whatever the revision; creates the row if there is none.

    There is at least one entry. Numbers in *entries* are ignored; their ids are distinct, or empty. Before all else it raises
    `Conflict`, with erased_at and the row that is there now, when *at* is not later than an erasure of this key: also where the
    ids are known. When every id is known nothing changes, not even the revision. Else the row gets *revision*,
    updated_at *at* and the earlier of the two due times; a row without a lease token gets the token and the time of *lease*, or
    None and 0.0 without one, whatever time stood there. *owner* is set on creation. Run again, it finds its own revision or its
    ids and answers the same.

    Answer: `Appended`, with the last *tail* entries.
    """

    key: Key
    entries: Sequence[Entry]
    revision: str
    at: float
    due_at: float | None = None
    lease: Lease | None = None
    tail: int = 0
    owner: str = ""

    @property
    def size(self) -> int:
        """About how many bytes it sends."""
        return sum([len(entry.body) + 64 for entry in self.entries])

    def make_row(self) -> Row:
        """Return the row that it makes where there is none, but for its head."""
        token, until = self.lease or (None, 0.0)
        return Row(
            key=self.key,
            revision=self.revision,
            incarnation=self.revision,
            owner=self.owner,
            updated_at=self.at,
            due_at=self.due_at,
            lease=token,
            leased_until=until,
        )


class Appended(NamedTuple):
    """What `append` leaves: the row, its last entries (dense up to row.head), and the numbers of ids that were there before."""

    row: Row
    tail: list[Entry]
    known: dict[str, int]


class Write(Act, frozen=True, gc=False):
    """Puts *row* (its head is ignored) and adds *entries*, if the stored revision is *replaces* and the incarnation is
    row.incarnation.

    replaces=None only creates: it keeps row.incarnation, be it row.revision or that of a conversation which is moved
    here, and numbering starts after row.head. In the same act entries numbered up to *drop* are removed, and those
    numbered in *blank* (at most ENTRIES_MOST; what is not there is passed over) lose their bodies, which become b"",
    and keep number, id and role. Tested in this order: row.revision is the stored one: done before, answers the stored
    row. One of the ids is known: `Duplicate`. Other revision or incarnation: `Conflict`; so too when it would create a
    row and the key was erased at or after row.updated_at. Both carry the stored row and up to 200 entries after *since*;
    a conflict with no row has erased_at if a mark of an erasure is there, of whatever time.

    Answer: the row as stored, with the new head.
    """

    row: Row
    replaces: str | None
    entries: Sequence[Entry] = ()
    since: int = 0
    drop: int = 0
    blank: Collection[int] = ()

    @property
    def key(self) -> Key:
        """The conversation that it writes to."""
        return self.row.key

    @property
    def size(self) -> int:
        """About how many bytes it sends."""
        return len(self.row.body) + sum([len(entry.body) + 64 for entry in self.entries])


class Entries(Act, frozen=True, gc=False):
    """Asks for log entries: the first *limit* numbered above *after*, or else the last *limit* numbered below *before*.

    With both, the first *limit* between the two. With *ids* (at most ENTRIES_MOST), which goes without bounds, the
    entries that have one of these ids, wherever they stand; "" is no id.

    Answer: the entries, oldest first.
    """

    key: Key
    after: int | None = None
    before: int | None = None
    ids: Collection[str] | None = None
    limit: int = ENTRIES_MOST


class Scan(Act, frozen=True, gc=False):
    """Asks for rows in index order, from behind *after* (the last row of the page before); none is invented.

    key: by (tenant, id). due: by wake, only those up to *until*. owner: those of *owner* in *tenant*, by (tenant, id); the owner ""
    is nobody, and has none. recent: last changed first, by updated_at, then by (tenant, id), only those of *since* or later. tenant=None:
    all tenants. A bound means nothing to the other indexes.

    Mostly nothing is as new as *since*: that should cost no look at the rows of before.

    Answer: up to *limit* rows, whole, with their bodies.
    """

    index: Index
    limit: int
    tenant: str | None = None
    owner: str = ""
    until: float | None = None
    after: Row | None = None
    since: float | None = None


class Erase(Act, frozen=True, gc=False):
    """Removes the row, its entries and every index entry, and leaves a mark at max(at, row.updated_at).

    For TOMBSTONE_KEPT_S an append that is not later than the mark is refused, also after the key was created
    anew, and so is a write that would create it. (A write on a row needs no such check: an older one cannot know
    that row's revision.) With *revision* the row is removed only while it has that revision: where another is
    stored, nothing is done and `Conflict` carries the row. Where that row was last changed longer than TOMBSTONE_KEPT_S before, it may
    leave no mark: no act of before can still be under way, and what is forgotten in great number leaves nothing.
    """

    key: Key
    at: float
    revision: str | None = None


class Count(Act, frozen=True, gc=False):
    """Counts *cost* hits on *name* in its window, which begins with the first hit and lasts *window_s*.

    A window that has ended at *at* is over, and the next one begins. Times are those of the callers: where their clocks
    differ, a window ends for nobody later than *window_s* after that caller's *at*. Hits of all who have the store open go
    into the same windows, none is lost to another one at the same time; run again, it counts again. What is over goes by
    itself. Counters are no part of any conversation and need not be durable. Needs COUNT, else `Unsupported`.

    Answer: `Counted`. *cost* 0 counts nothing, and tells.
    """

    name: str
    window_s: float
    at: float
    cost: int = 1

    @property
    def key(self) -> Key:
        """What it changes, as the other acts have it."""
        return Key("", self.name)

    def __str__(self) -> str:
        return "A rate limit"


class Counted(NamedTuple):
    """What `count` leaves: hits in the window, these included, and when it ends."""

    hits: int
    ends: float


class Fence(Act, frozen=True, gc=False):
    """Gives the store the epoch *epoch* in place of the one that this driver has it open with; the driver goes on under it.

    Once it is answered, no act of anybody else who has the store open is done any more (`Replaced`), nor one that was under
    way: what is read then is all there is. Run again, it finds its own epoch and answers the same. `Replaced` when the store
    has an epoch that is neither of the two. An Uncertain one may have fenced off this driver too, until it is run again.
    Needs FENCE, else `Unsupported`.

    *closes*: the store is left for good, so where older versions of chatkeep that have it open do not look at the epoch at each act,
    they are kept out by other means.
    """

    epoch: str
    closes: bool = False

    @property
    def key(self) -> Key:
        """What it changes, as the other acts have it."""
        return Key("", "")

    def __str__(self) -> str:
        return "The epoch"


def behind_erasure(at: float, erased_at: float | None) -> float:
    """Return the time for another try of an act of time *at* that was asked for after an erasure, and refused because the clock that
    noted the erasure is ahead: behind that. *erased_at*: as the refusal, a `Conflict`, has it."""
    return max(at, (erased_at or 0.0) + 0.001)
