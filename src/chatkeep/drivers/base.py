"""The storage seam: the driver of a store, as everybody above it knows it.

A driver compares, numbers, deduplicates, stores and finds. It knows no JSON, no clock, no role and no conversation rule: bodies are
bytes, times are arguments. `rows` is what it holds, `acts` what it is asked to do, with each clause of what that promises, `full_text` what
some can do beside it; all of it is imported from here. `chatkeep.testing.DriverContract` checks every clause on any driver.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from .acts import (
    COUNTERS_KEPT_S,
    ENTRIES_MOST,
    TOMBSTONE_KEPT_S,
    Act,
    Append,
    Appended,
    Count,
    Counted,
    Entries,
    Erase,
    Fence,
    Lease,
    Read,
    Scan,
    Write,
    behind_erasure,
)
from .full_text import (
    FAR,
    INDEX_COUNTED,
    SLOTS,
    EntryWords,
    Hit,
    Hits,
    Indexed,
    IndexText,
    Search,
    Searching,
    Term,
    Unindexed,
    first_place,
)
from .rows import AT_ONCE, RECENT_GRAIN_S, Entry, Index, Key, Row, mark_of, row_at, step_at

__all__ = [
    "AT_ONCE",
    "COUNTERS_KEPT_S",
    "ENTRIES_MOST",
    "FAR",
    "INDEX_COUNTED",
    "RECENT_GRAIN_S",
    "SLOTS",
    "TOMBSTONE_KEPT_S",
    "WAITING",
    "Ability",
    "About",
    "Act",
    "Append",
    "Appended",
    "Count",
    "Counted",
    "Driver",
    "Entries",
    "Entry",
    "EntryWords",
    "Erase",
    "Fence",
    "Finding",
    "Hit",
    "Hits",
    "Index",
    "IndexText",
    "Indexed",
    "Key",
    "Lease",
    "Pool",
    "Read",
    "Row",
    "Scan",
    "Search",
    "Searching",
    "Term",
    "Unindexed",
    "Write",
    "behind_erasure",
    "first_place",
    "mark_of",
    "row_at",
    "searching",
    "settle",
    "step_at",
]

WAITING = 10_000
"""No more acts wait for one connection of a store, or its writer; who comes then is told at once (`Overloaded`)."""


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


def searching(driver: Driver) -> Searching | None:
    """Return *driver* as what has a full-text index, or may have one; None where it cannot."""
    return driver if Ability.SEARCH in driver.abilities and isinstance(driver, Searching) else None


def settle(answered: Future[Any], answer: Any) -> None:
    """Give whoever waits, if anybody still does, the answer, or raise it there when it is an error."""
    if answered.done():
        return
    if isinstance(answer, BaseException):
        answered.set_exception(answer)
    else:
        answered.set_result(answer)
