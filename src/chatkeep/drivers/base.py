"""The storage seam: what a driver is handed, what it answers, and the six verbs it must keep.

A driver compares, numbers, deduplicates, stores and finds. It knows no JSON, no clock, no role and no conversation
rule: bodies are bytes, times are arguments. A verb takes one act, a value of the class of its name: the class says what
is asked for and what is promised, and `Driver` what is true of all of them. `chatkeep.testing.DriverContract` checks every
clause below on any driver.
"""

from __future__ import annotations

import hashlib
from asyncio import Future
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

Index = Literal["key", "due", "owner", "recent"]

RECENT_GRAIN_S = 60.0
"""The `recent` index moves in steps this wide, so that an ordinary turn does not have to touch it; within a step rows are
put in order when they are asked for."""

ENTRIES_MOST = 500
"""No act carries more entries than this, or asks for more by their ids."""

AT_ONCE = 0.0
"""The due time of what has to be looked at now. It has come by every clock, also where the writer's is ahead."""

TOMBSTONE_KEPT_S = 7 * 86_400.0
"""How long (by the callers' own times) an erasure must go on refusing acts that are older than itself."""


class Ability(StrEnum):
    """What a driver can do beyond the six verbs; the contract tests what it declares, docs/reference/stores.md shows it."""

    SHARED = "several processes may open it at once"
    LOG = "the whole log is kept, not only its tail"
    SCAN = "conversations can be found by key, due time, owner and recency"
    WATCH = "a change made elsewhere is announced"
    DURABLE = "what was answered survives kill -9 and power loss"
    EPOCH = "a store that was emptied, replaced or fenced off is told from the one that was opened"
    COUNT = "hits of a rate limit are counted for all who have the store open"
    FENCE = "it can be given another epoch, so that nobody who had it open writes to it any more"
    SEARCH = "messages are found by their words, once somebody has asked for a full-text index"


class About(Struct, frozen=True, kw_only=True):
    """What a driver that ships says of itself beside its abilities; the tables of docs/reference/stores.md are made of it."""

    urls: tuple[str, ...]
    use: str
    """Where it is the one to take."""
    costs: str
    """What opening, a message and looking for work take."""
    lacks: str
    """What it does not promise."""
    depends: dict[Ability, str] = {}
    """What an ability depends on, where it does."""


class Key(NamedTuple):
    """Names one conversation. Any UTF-8 text without NUL must survive in both parts; only the tenant may be empty."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.id}" if self.tenant else self.id


class Entry(Struct, frozen=True, gc=False):
    """One line of the log. *id* may be empty: such an entry is never looked for by id."""

    number: int
    id: str
    role: str
    body: bytes


class Row(Struct, frozen=True, kw_only=True, gc=False):
    """One conversation's record as the store sees it.

    revision: random token of the act that wrote it, chosen by the caller; never a counter.
    incarnation: the revision it was first created with; tells this incarnation from one before an erasure.
    head: number of the last log entry.
    due_at: when somebody has to look at it (None: never; AT_ONCE: now). lease: token of whoever works on it, until leased_until.
    """

    key: Key
    revision: str
    incarnation: str
    head: int = 0
    body: bytes = b""
    owner: str = ""
    updated_at: float = 0.0
    due_at: float | None = None
    lease: str | None = None
    leased_until: float = 0.0

    @property
    def wake(self) -> float | None:
        """When the `due` index shows it: a leased row stays hidden until its lease runs out."""
        return None if self.due_at is None else max(self.due_at, self.leased_until)

    @property
    def recent(self) -> int:
        """Its place in the `recent` index, to the step."""
        return int(self.updated_at // RECENT_GRAIN_S)


def row_at(key: Key, *, owner: str = "", updated_at: float = 0.0, due_at: float | None = None) -> Row:
    """Return a row that only says where it stands in the indexes: a scan begins behind it, or it stands for one that cannot be read."""
    return Row(key=key, revision="", incarnation="", owner=owner, updated_at=updated_at, due_at=due_at)


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
    is nobody, and has none. recent: last changed first, by updated_at, then by (tenant, id). tenant=None: all tenants.

    Answer: up to *limit* rows, whole, with their bodies.
    """

    index: Index
    limit: int
    tenant: str | None = None
    owner: str = ""
    until: float | None = None
    after: Row | None = None


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


FAR = 1 << 62
"""Above every number, step and place; integers of 64 bits hold it."""

INDEX_COUNTED = 10_000
"""So many entries that wait for the full-text index are counted; there may be more."""


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


WAITING = 10_000
"""No more acts wait for one connection of a store, or its writer; who comes then is told at once (`Overloaded`)."""

COUNTERS_KEPT_S = 3600.0
"""How long at least (by the callers' own times) a counter is kept after its window ended: clocks may differ."""


@lru_cache(maxsize=8192)
def mark_of(key: Key) -> str:
    """Return a short name for a key where the name itself must not stay, or has no room: tombstones, announcements."""
    return hashlib.blake2b(f"{len(key.tenant)}:{key.tenant}{key.id}".encode(), digest_size=16).hexdigest()


def behind_erasure(at: float, erased_at: float | None) -> float:
    """Return the time for another try of an act of time *at* that was asked for after an erasure, and refused because the clock that
    noted the erasure is ahead: behind that. *erased_at*: as the refusal, a `Conflict`, has it."""
    return max(at, (erased_at or 0.0) + 0.001)


def settle(answered: Future[Any], answer: Any) -> None:
    """Give whoever waits, if anybody still does, the answer, or raise it there when it is an error."""
    if answered.done():
        return
    if isinstance(answer, BaseException):
        answered.set_exception(answer)
    else:
        answered.set_result(answer)


class Finding(Struct, frozen=True):
    """One thing that was found out about a store. *level* "fail": chatkeep must not be used on it like this."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    said: str


class Pool(NamedTuple):
    """The connections of a driver at one moment: how many are *open*, how many there may be at *most*, and how many acts are *waiting*
    for one."""

    open: int = 0
    most: int = 0
    waiting: int = 0


class Driver(Protocol):
    """Six verbs over one store. Each is one atomic act that may be run again; each sees all that was answered before
    it.

    Used from one event loop, and only between an `open` that went well and `close`: before and after, every verb
    raises `Unavailable`. Raises only chatkeep's errors: `Conflict` and `Duplicate` as `Append`, `Write` and `Erase`
    say, `TooLarge` from `append` and `write` where the store takes nothing of that size, and `Unavailable` when
    certainly nothing was written, `Uncertain` when that is not known: no call waits for a silent store longer than
    its deadline. `Replaced` when the store's epoch is not the one it was opened with: from `append`, `write`, `erase`
    and `scan` always, so that whoever gives the store another epoch has fenced off all that have it open; from `read`
    and `entries` where they find no row: an emptied store never answers "there is none". Cancelling the caller does
    not cancel the act.

    Where what is stored of one conversation cannot be read, the verbs that need it raise `Corrupt`. It holds up no other one:
    `scan` shows it as a row of revision "" that only says where it stands or, where even that cannot be read, leaves it out;
    `examine` may name it.
    """

    abilities: frozenset[Ability]
    epoch: str
    """Random, written once when the store is made: tells a store that was flushed or replaced from an empty one. ""
    until `open` has learnt all there is to learn, and when closed."""

    async def open(self) -> None:
        """Make or upgrade the schema and check that the store is as durable as it says.

        Raises `Misconfigured` when somebody has to mend something first, `Unavailable` when the store may come by itself.
        An `open` that failed, was cancelled or was broken off by `close` leaves the driver closed and holds nothing;
        it may be tried again. Raises `UsageError` when the driver is open or is being opened.
        """

    async def examine(self) -> list[Finding]:
        """Return what somebody should know who means to run on this store; needs no `open` and changes nothing.

        Versions, durability, schema, permissions, clock, round-trip time; a store that cannot be reached is one
        finding of level "fail", and one that is not there yet, and that `open` would make, is "ok".
        """

    async def announce(self, marks: Collection[str]) -> None:
        """Tell every driver on the store that is watching, this one too, that something changed. Best effort.

        *marks* are short texts (see `mark_of`), at most 100 a call. Without WATCH it does nothing.
        """

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        """Have *heard* called in the event loop with what anybody announces from now on, until `close`.

        Announcements may be lost (a connection broke, a server failed over) and are never made up; a store that sees by itself
        that something is due may announce that there is work. Called once, when open. Without WATCH it does nothing.
        """

    async def close(self) -> None:
        """Have the acts under way answered and give everything back. Twice is fine. Breaks off an `open` under way, which
        raises `Unavailable` then."""

    def pool(self) -> Pool:
        """Return the connections that acts use, as they are now; none where the store needs none, and none when closed. Asks nobody."""

    async def backup(self, path: str, *, replace: bool = False) -> None:
        """Leave a copy of the whole store, of one instant, in a new file at *path*: complete, or not there.

        Acts go on meanwhile. Raises `UsageError` when something is at *path*, unless told to *replace* it, and
        `Unsupported`, with what to use instead, where the engine has its own way.
        """

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Return the rows of one SQL statement that only reads. Raises `Unsupported`, with what to use instead, where people have
        the engine's own clients for that."""

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        """See `Read`."""

    async def append(self, act: Append) -> Appended:
        """See `Append`."""

    async def write(self, act: Write) -> Row:
        """See `Write`."""

    async def entries(self, act: Entries) -> list[Entry]:
        """See `Entries`."""

    async def scan(self, act: Scan) -> list[Row]:
        """See `Scan`."""

    async def erase(self, act: Erase) -> None:
        """See `Erase`."""

    async def count(self, act: Count) -> Counted:
        """See `Count`. Not one of the six verbs: a driver without COUNT raises `Unsupported`."""

    async def fence(self, act: Fence) -> None:
        """See `Fence`. Not one of the six verbs: a driver without FENCE raises `Unsupported`."""


@runtime_checkable
class Searching(Protocol):
    """What a driver with SEARCH has beside the verbs of all drivers; the others need none of it."""

    async def search(self, act: Search) -> Hits:
        """See `Search`."""

    async def index_text(self, act: IndexText) -> Indexed:
        """See `IndexText`."""


def searching(driver: Driver) -> Searching | None:
    """Return *driver* as what has a full-text index, or may have one; None where it cannot."""
    return driver if Ability.SEARCH in driver.abilities and isinstance(driver, Searching) else None


SLOTS = 1024
"""So many places in the order of hits each second has; what is said in one second beyond that goes into the next."""


def first_place(at: float) -> int:
    """Return the first place of the second *at* in the order of hits."""
    return int(at) * SLOTS
