"""Drivers that each break one clause, and the tests of the contract that must catch them.

A suite that nobody has seen fail proves nothing: `tests/contract/test_the_suite.py` runs every line of BROKEN. Each
is the memory driver with one thing done wrong, mostly a thing that a real driver got wrong once.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from msgspec import structs

from ..drivers.base import Ability, Appended, Entry, Finding, Index, Key, Row
from ..drivers.memory import SHELVES, MemoryDriver, Shelf
from ..errors import Conflict, Duplicate, StoreError, Unavailable

D = TypeVar("D", bound="type[Intact]")


class Intact(MemoryDriver):
    """The memory driver on a named shelf, which several drivers share and which is there when they open it again."""

    abilities = MemoryDriver.abilities | {Ability.SHARED, Ability.DURABLE}


def empty_shelf(url: str) -> None:
    """Takes everything out of a memory:// store, as FLUSHALL would; whoever watches goes on watching."""
    shelf = SHELVES[url.partition("://")[2]]
    watching = shelf.watching
    shelf.__init__()  # type: ignore[misc]
    shelf.watching = watching


BROKEN: dict[str, tuple[type[Intact], tuple[str, ...]]] = {}
"""Name: the driver, and the methods of `DriverContract` that must fail on it."""


def caught_by(*clauses: str) -> Callable[[D], D]:
    """Enters a driver into BROKEN with the *clauses* (without their `test_`) that must catch it."""

    def enter(driver: D) -> D:
        BROKEN[driver.__name__] = (driver, tuple(f"test_{clause}" for clause in clauses))
        return driver

    return enter


# Reading


@caught_by("what_was_never_written_reads_as_nothing")
class AbsentIsAnError(Intact):
    """Nothing there is reported as a failure."""

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        found = await super().read(key, tail=tail)
        if found is None:
            raise Unavailable(f"{key} was not found")
        return found


@caught_by("every_connection_sees_what_was_answered_before")
class StaleReads(Intact):
    """A connection goes on showing what it saw once, until it writes itself."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._seen: dict[Key, tuple[Row, list[Entry]] | None] = {}

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        if key not in self._seen:
            self._seen[key] = await super().read(key, tail=tail)
        return self._seen[key]

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        self._seen.pop(key, None)
        return await super().append(key, entries, **how)

    async def write(self, row: Row, **how: Any) -> Row:
        self._seen.pop(row.key, None)
        return await super().write(row, **how)


@caught_by("a_read_is_of_one_instant")
class TornReads(Intact):
    """The row is read first and the entries a moment later."""

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        row = self._shelf.rows.get(key)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return None if row is None else (row, self._after(key, row.head - tail))


@caught_by("the_tail_is_dense_up_to_the_head")
class TailShortByOne(Intact):
    """An off-by-one at the beginning of the tail."""

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        return await super().read(key, tail=max(tail - 1, 0))

    async def append(self, key: Key, entries: Sequence[Entry], *, tail: int = 0, **how: Any) -> Appended:
        return await super().append(key, entries, tail=max(tail - 1, 0), **how)


@caught_by("entries_go_forward_from_after")
class AfterIsIncluded(Intact):
    """`after` is taken for the first number of the page."""

    async def entries(self, key: Key, *, after: int | None = None, **how: Any) -> list[Entry]:
        return await super().entries(key, after=None if after is None else after - 1, **how)


@caught_by("entries_go_back_from_before")
class BeforeGivesTheFirst(Intact):
    """Going back begins at the beginning of the log."""

    async def entries(self, key: Key, *, after: int | None = None, **how: Any) -> list[Entry]:
        return await super().entries(key, after=after or 0, **how)


@caught_by("entries_between_two_numbers_go_forward")
class BetweenGivesTheLast(Intact):
    """With both bounds the page lies at the upper one."""

    async def entries(
        self, key: Key, *, after: int | None = None, before: int | None = None, limit: int
    ) -> list[Entry]:
        page = await super().entries(key, after=after, before=before, limit=1 << 30)
        return page[-limit:] if after and before else page[:limit] if after is not None else page[-limit:]


@caught_by("numbers_beyond_the_log_are_no_error")
class SmallNumbersOnly(Intact):
    """Numbers are put into 32 bits somewhere."""

    async def entries(self, key: Key, *, limit: int, **how: Any) -> list[Entry]:
        if limit >= 1 << 31:
            raise OverflowError("int too big to convert")
        return await super().entries(key, limit=limit, **how)


# Appending


@caught_by("an_append_creates_the_row_and_answers_what_it_left")
class CreatedUnowned(Intact):
    """Only a write can set the owner."""

    async def append(self, key: Key, entries: Sequence[Entry], *, owner: str = "", **how: Any) -> Appended:
        return await super().append(key, entries, **how)


@caught_by("a_bare_append_asks_for_no_more_than_its_entries")
class AlwaysDue(Intact):
    """A row without a due time is given one."""

    async def append(self, key: Key, entries: Sequence[Entry], *, due_at: float | None = None, **how: Any) -> Appended:
        return await super().append(key, entries, due_at=how["at"] if due_at is None else due_at, **how)


@caught_by("an_append_changes_only_what_it_says", "no_update_is_lost_among_racing_writers_and_appends")
class AppendEmptiesTheBody(Intact):
    """An append writes the whole row, as far as it knows it."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        self._shelf.rows[key] = row = structs.replace(answer.row, body=b"")
        return answer._replace(row=row)


@caught_by("numbers_run_from_1_without_gaps")
class NumbersFromTheCaller(Intact):
    """Entries keep the number they came with."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        after = super()._add(key, head, entries)
        self._shelf.logs[key].update(enumerate(entries, head + 1))
        return after


@caught_by("numbers_run_from_1_without_gaps", "a_stale_writer_is_refused_and_leaves_nothing")
class RefusalsCostNumbers(Intact):
    """Numbers are drawn before the check and not given back, as by a sequence."""

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except Conflict:
            if stored := self._shelf.rows.get(row.key):
                self._shelf.rows[row.key] = structs.replace(stored, head=stored.head + 1)
            raise


@caught_by("racing_appends_lose_nothing_and_leave_no_gap", "acts_on_one_key_at_once_each_happen")
class HeadReadTooSoon(Intact):
    """The next number is computed from a head that was read before others wrote."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        before = self._shelf.rows.get(key)
        answer = await super().append(key, entries, **how)
        head = (before.head if before else 0) + len(entries)
        self._shelf.rows[key] = structs.replace(answer.row, head=head)
        return answer


@caught_by(
    "an_append_skips_the_ids_it_knows", "an_append_of_known_ids_changes_nothing", "a_known_id_makes_a_write_a_duplicate"
)
class DuplicatesWritten(Intact):
    """Ids are not looked for."""

    def _known(self, key: Key, entries: Sequence[Entry]) -> dict[str, int]:
        return {}


@caught_by("an_append_skips_the_ids_it_knows")
class KnownNotReported(Intact):
    """Known ids are left out silently."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        return (await super().append(key, entries, **how))._replace(known={})


@caught_by("ids_that_a_write_brought_are_known_to_appends")
class IdsOfAppendsOnly(Intact):
    """A write does not enter its ids where appends look for them."""

    async def write(self, row: Row, **how: Any) -> Row:
        ids = dict(self._shelf.ids.get(row.key, {}))
        stored = await super().write(row, **how)
        self._shelf.ids[row.key] = ids
        return stored


@caught_by("an_append_of_known_ids_changes_nothing", "an_append_may_run_again_late")
class KnownIdsStillBump(Intact):
    """An append that adds nothing changes the revision all the same."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        self._shelf.rows[key] = row = structs.replace(answer.row, revision=how["revision"])
        return answer._replace(row=row)


@caught_by("entries_without_an_id_are_always_written")
class EmptyIdsDeduplicated(Intact):
    """The empty id is an id like any other."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        after = super()._add(key, head, entries)
        if not all(entry.id for entry in entries):
            self._shelf.ids[key][""] = after
        return after


@caught_by("the_earlier_of_two_due_times_stays")
class DueOverwritten(Intact):
    """The last due time wins."""

    async def append(self, key: Key, entries: Sequence[Entry], *, due_at: float | None = None, **how: Any) -> Appended:
        answer = await super().append(key, entries, due_at=due_at, **how)
        self._shelf.rows[key] = row = structs.replace(answer.row, due_at=due_at)
        return answer._replace(row=row)


@caught_by("a_claim_is_granted_only_where_there_is_none", "one_of_many_racing_claims_is_granted")
class ClaimAlwaysGranted(Intact):
    """The last one who asks works."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        if row := self._shelf.rows.get(key):
            self._shelf.rows[key] = structs.replace(row, lease=None if how.get("lease") else row.lease)
        answer = await super().append(key, entries, **how)
        if how.get("lease"):
            token, until = how["lease"]
            self._shelf.rows[key] = row = structs.replace(answer.row, lease=token, leased_until=until)
            return answer._replace(row=row)
        return answer


@caught_by("a_claim_is_granted_only_where_there_is_none")
class ExpiredClaimsGranted(Intact):
    """The driver looks at the time and gives away a lease that has run out: the lost attempt is never counted."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        row = self._shelf.rows.get(key)
        if row and row.leased_until <= how["at"]:
            self._shelf.rows[key] = structs.replace(row, lease=None, leased_until=0.0)
        return await super().append(key, entries, **how)


@caught_by("an_append_sets_the_owner_only_on_creation")
class AppendTakesOver(Intact):
    """Whoever speaks last owns the conversation."""

    async def append(self, key: Key, entries: Sequence[Entry], *, owner: str = "", **how: Any) -> Appended:
        answer = await super().append(key, entries, owner=owner, **how)
        self._shelf.rows[key] = row = structs.replace(answer.row, owner=owner or answer.row.owner)
        return answer._replace(row=row)


@caught_by("an_append_may_run_again_when_its_answer_was_lost", "one_act_at_once_with_itself_happens_once")
class OwnAppendsForgotten(Intact):
    """Only ids tell an append that it was there before: what has none is written again."""

    _done: ClassVar[set[str]] = set()

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        act = f"{self.epoch} {key} {how['revision']}"
        if act in self._done:
            again = [entry for entry in entries if not entry.id]
            self._shelf.rows[key] = structs.replace(answer.row, head=self._add(key, answer.row.head, again))
        self._done.add(act)
        return answer


@caught_by("an_act_of_hundreds_of_entries_is_one_act")
class LongActsCut(Intact):
    """A statement takes 256 rows and the rest is lost."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        return super()._add(key, head, entries[:256])


# Writing


@caught_by("a_write_puts_the_row_as_it_is_given")
class ClaimsNeverGivenBack(Intact):
    """What is empty in the row that is written does not overwrite what is stored."""

    async def write(self, row: Row, **how: Any) -> Row:
        stored = self._shelf.rows.get(row.key)
        if stored and row.lease is None:
            row = structs.replace(row, lease=stored.lease, leased_until=stored.leased_until)
        return await super().write(row, **how)


@caught_by("a_write_puts_the_row_as_it_is_given", "numbers_run_from_1_without_gaps")
class HeadFromTheCaller(Intact):
    """A write numbers on from the head that its caller believes in."""

    async def write(self, row: Row, **how: Any) -> Row:
        stored = self._shelf.rows.get(row.key)
        if stored and stored.revision == how["replaces"]:
            self._shelf.rows[row.key] = structs.replace(stored, head=row.head)
        return await super().write(row, **how)


@caught_by("a_write_may_be_of_the_row_alone")
class NothingSaidNothingWritten(Intact):
    """A write without entries is taken for one that has nothing to do."""

    async def write(self, row: Row, *, entries: Sequence[Entry] = (), **how: Any) -> Row:
        return await super().write(row, entries=entries, **how) if entries else row


@caught_by("a_stale_writer_is_refused_and_leaves_nothing", "a_conflict_shows_what_is_there_now")
class RevisionUnchecked(Intact):
    """Whatever is stored is replaced."""

    async def write(self, row: Row, **how: Any) -> Row:
        if stored := self._shelf.rows.get(row.key):
            how["replaces"] = stored.revision
        return await super().write(row, **how)


@caught_by(
    "one_of_many_racing_writers_wins",
    "one_of_many_racing_creators_wins",
    "no_update_is_lost_among_racing_writers_and_appends",
)
class LastWriterWins(Intact):
    """A writer that lost a race is put on top of the winner, unasked."""

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except Conflict as conflict:
            if conflict.row is None:
                raise
            again = structs.replace(row, incarnation=conflict.row.incarnation)
            return await self.write(again, **how | {"replaces": conflict.row.revision})


@caught_by("a_write_cannot_change_what_is_not_there")
class WritesCreate(Intact):
    """A write on a row that is gone brings it back."""

    async def write(self, row: Row, **how: Any) -> Row:
        if row.key not in self._shelf.rows:
            how["replaces"] = None
        return await super().write(row, **how)


@caught_by("a_stale_writer_is_refused_and_leaves_nothing", "a_known_id_makes_a_write_a_duplicate")
class EntriesBeforeTheCheck(Intact):
    """Entries are written first; a refusal comes too late for them."""

    async def write(self, row: Row, *, entries: Sequence[Entry] = (), **how: Any) -> Row:
        stored = self._shelf.rows.get(row.key)
        if stored:
            head = self._add(row.key, stored.head, [entry for entry in entries if not self._known(row.key, [entry])])
            self._shelf.rows[row.key] = structs.replace(stored, head=head)
        return await super().write(row, entries=() if stored else entries, **how)


@caught_by(
    "a_write_may_run_again_when_its_answer_was_lost",
    "done_before_comes_before_duplicate_and_duplicate_before_conflict",
    "one_act_at_once_with_itself_happens_once",
)
class OwnWritesConflict(Intact):
    """A writer does not recognise what it wrote itself."""

    _done: ClassVar[set[str]] = set()

    async def write(self, row: Row, **how: Any) -> Row:
        stored = await super().write(row, **how)
        act = f"{self.epoch} {row.key} {row.revision}"
        if act in self._done:
            raise Conflict(f"{row.key}: revision moved on", row=stored)
        self._done.add(act)
        return stored


@caught_by("done_before_comes_before_duplicate_and_duplicate_before_conflict")
class DuplicateBeforeDone(Intact):
    """A write that runs again is told that its own ids are there already."""

    async def write(self, row: Row, **how: Any) -> Row:
        stored = self._shelf.rows.get(row.key)
        if stored and (known := self._known(row.key, how.get("entries", ()))):
            raise Duplicate(f"{row.key}: known ids", row=stored, numbers=known, entries=self._after(row.key, 0))
        return await super().write(row, **how)


@caught_by(
    "done_before_comes_before_duplicate_and_duplicate_before_conflict",
    "a_write_may_run_again_late",
)
class ConflictBeforeDuplicate(Intact):
    """The revision is compared before the ids."""

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except Duplicate as known:
            if known.row.revision != how["replaces"]:
                raise Conflict(f"{row.key}: revision moved on", row=known.row, entries=known.entries) from known
            raise


@caught_by("a_conflict_shows_what_is_there_now", "a_write_may_run_again_late")
class ConflictWithoutNews(Intact):
    """The loser is shown the row and has to fetch the entries."""

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except Conflict as conflict:
            conflict.entries = ()
            raise


@caught_by("a_refusal_shows_the_first_200_entries")
class NewsWithoutEnd(Intact):
    """A refusal drags the whole log along."""

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except (Conflict, Duplicate) as refusal:
            refusal.entries = self._after(row.key, how.get("since", 0))
            raise


@caught_by("born_is_set_once_and_given_back_by_every_act")
class BornAgainAndAgain(Intact):
    """Born follows the revision."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        self._shelf.rows[key] = row = structs.replace(answer.row, incarnation=answer.row.revision)
        return answer._replace(row=row)


@caught_by("a_writer_of_an_erased_conversation_loses_against_the_next_one")
class BornUnchecked(Intact):
    """Only the revision is compared."""

    async def write(self, row: Row, **how: Any) -> Row:
        if stored := self._shelf.rows.get(row.key):
            row = structs.replace(row, incarnation=stored.incarnation)
        return await super().write(row, **how)


@caught_by("creation_numbers_on_from_the_given_head")
class CreationFromOne(Intact):
    """Every new log begins at 1, also one that is moved in without its beginning."""

    async def write(self, row: Row, **how: Any) -> Row:
        return await super().write(structs.replace(row, head=0), **how)


@caught_by("a_write_drops_the_beginning_of_the_log")
class WithoutTheDrop(Intact):
    """Retention is forgotten."""

    async def write(self, row: Row, *, drop: int = 0, **how: Any) -> Row:
        return await super().write(row, **how)


@caught_by("a_write_drops_the_beginning_of_the_log")
class DropCountsBack(Intact):
    """The head is taken from how many entries there are."""

    async def write(self, row: Row, **how: Any) -> Row:
        stored = await super().write(row, **how)
        if how.get("drop"):
            stored = structs.replace(stored, head=len(self._shelf.logs[row.key]))
            self._shelf.rows[row.key] = stored
        return stored


@caught_by("the_ids_of_dropped_entries_are_free_again")
class DropKeepsIds(Intact):
    """Dropped entries are still known."""

    async def write(self, row: Row, **how: Any) -> Row:
        before = dict(self._shelf.ids.get(row.key, {}))
        stored = await super().write(row, **how)
        self._shelf.ids[row.key] = before | self._shelf.ids.get(row.key, {})
        return stored


# Finding


@caught_by("scan_by_key_goes_by_tenant_and_id")
class OrderedLikePeople(Intact):
    """Keys are compared without regard to case, as a collation does."""

    async def scan(self, index: Index, *, limit: int, **how: Any) -> list[Row]:
        rows = await super().scan(index, limit=1 << 30, **how)
        return (
            sorted(rows, key=lambda row: [part.lower() for part in row.key])[:limit] if index == "key" else rows[:limit]
        )


@caught_by("scan_by_due_shows_what_has_to_be_looked_at")
class UntilIsExcluded(Intact):
    """What is due right now is shown a moment later."""

    async def scan(self, index: Index, **how: Any) -> list[Row]:
        rows = await super().scan(index, **how)
        return [row for row in rows if index != "due" or how.get("until") is None or row.wake != how["until"]]


@caught_by("a_claimed_row_is_not_due_until_its_claim_runs_out", "pages_of_any_size_show_each_row_once_and_in_order")
class WakeIgnoresClaims(Intact):
    """The sweep finds what others are working on."""

    async def scan(self, index: Index, *, until: float | None = None, limit: int, **how: Any) -> list[Row]:
        if index != "due":
            return await super().scan(index, until=until, limit=limit, **how)
        rows = [row for row in await super().scan("key", limit=1 << 30, **how) if row.due_at is not None]
        return [row for row in rows if until is None or (row.due_at or 0.0) <= until][:limit]


@caught_by("scan_by_owner_shows_the_conversations_of_one")
class OwnersByPrefix(Intact):
    """An owner index that is searched by the beginning of the name."""

    async def scan(self, index: Index, *, owner: str = "", limit: int, **how: Any) -> list[Row]:
        if index != "owner":
            return await super().scan(index, owner=owner, limit=limit, **how)
        rows = await super().scan("key", limit=1 << 30, **how)
        return [row for row in rows if row.owner.startswith(owner)][:limit]


@caught_by("a_new_owner_moves_the_row_in_the_index")
class OwnerIndexStuck(Intact):
    """The owner index keeps whom it was told first."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._first: dict[Key, str] = {}

    async def append(self, key: Key, entries: Sequence[Entry], *, owner: str = "", **how: Any) -> Appended:
        self._first.setdefault(key, owner)
        return await super().append(key, entries, owner=owner, **how)

    async def scan(self, index: Index, *, owner: str = "", **how: Any) -> list[Row]:
        if index != "owner":
            return await super().scan(index, owner=owner, **how)
        return [row for row in await super().scan("key", **how) if self._first.get(row.key) == owner]


@caught_by("scan_by_recent_shows_the_last_changed_first")
class RecentToTheSecond(Intact):
    """Every turn moves its row in the recent index."""

    async def scan(self, index: Index, *, limit: int, **how: Any) -> list[Row]:
        rows = await super().scan(index, limit=1 << 30, **how)
        return (sorted(rows, key=lambda row: (-row.updated_at, row.key)) if index == "recent" else rows)[:limit]


@caught_by("scan_by_key_goes_by_tenant_and_id", "scan_by_recent_shows_the_last_changed_first")
class AllTenants(Intact):
    """One tenant is shown the conversations of the others."""

    async def scan(self, index: Index, *, tenant: str | None = None, **how: Any) -> list[Row]:
        return await super().scan(index, **how)


@caught_by("pages_of_any_size_show_each_row_once_and_in_order")
class TiesLostOverPages(Intact):
    """The next page begins behind the whole place where the last one ended."""

    async def scan(self, index: Index, *, after: Row | None = None, limit: int, **how: Any) -> list[Row]:
        rows = await super().scan(index, after=after, limit=1 << 30, **how)
        if after and index == "due":
            rows = [row for row in rows if row.wake != after.wake]
        return rows[:limit]


@caught_by("paging_goes_on_though_what_was_shown_has_moved")
class PlaceLookedUpAgain(Intact):
    """The place of the last page is where its last row stands now."""

    async def scan(self, index: Index, *, after: Row | None = None, **how: Any) -> list[Row]:
        return await super().scan(index, after=after and self._shelf.rows.get(after.key), **how)


@caught_by("every_index_shows_the_row_as_it_is_stored")
class ScansWithoutBodies(Intact):
    """An index is thought to need no bodies."""

    async def scan(self, index: Index, **how: Any) -> list[Row]:
        return [structs.replace(row, body=b"") for row in await super().scan(index, **how)]


@caught_by("an_erasure_leaves_nothing", "every_index_shows_the_row_as_it_is_stored")
class ScansShowGhosts(Intact):
    """The recent index is not told of changes and erasures."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._first: dict[Key, Row] = {}

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        self._first.setdefault(key, answer.row)
        return answer

    async def scan(self, index: Index, *, limit: int, **how: Any) -> list[Row]:
        return list(self._first.values()) if index == "recent" else await super().scan(index, limit=limit, **how)


# Erasing


@caught_by("an_erasure_leaves_nothing", "an_erasure_among_racing_appends_leaves_no_orphan")
class EraseLeavesIds(Intact):
    """The next conversation of that key is told that its messages are known."""

    async def erase(self, key: Key, *, at: float) -> None:
        ids = self._shelf.ids.get(key, {})
        await super().erase(key, at=at)
        self._shelf.ids[key] = ids


@caught_by("an_erasure_leaves_nothing", "an_erasure_among_racing_appends_leaves_no_orphan")
class EraseLeavesEntries(Intact):
    """Entries hang on the key, and stay when the row goes."""

    async def erase(self, key: Key, *, at: float) -> None:
        log = self._shelf.logs.get(key, {})
        await super().erase(key, at=at)
        self._shelf.logs[key] = log

    def _after(self, key: Key, number: int) -> list[Entry]:
        return [entry for found, entry in sorted(self._shelf.logs.get(key, {}).items()) if found > number]


@caught_by("erasing_twice_or_nothing_is_fine")
class ErasingNothingFails(Intact):
    """Nothing to erase is an error."""

    async def erase(self, key: Key, *, at: float) -> None:
        if key not in self._shelf.rows:
            raise KeyError(key)
        await super().erase(key, at=at)


@caught_by(
    "an_append_from_before_an_erasure_is_refused",
    "a_creation_from_before_an_erasure_is_refused",
    "the_mark_outlives_a_new_conversation_of_that_key",
    "the_mark_is_not_earlier_than_the_row_it_erased",
)
class NoTombstone(Intact):
    """A delayed act brings back what was erased."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        pass


@caught_by("an_append_from_before_an_erasure_is_refused", "the_mark_never_goes_back")
class MarkNotNamed(Intact):
    """The refused caller cannot tell an erasure from a race."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        try:
            super()._refuse_erased(key, at)
        except Conflict as conflict:
            conflict.erased_at = None
            raise


@caught_by("an_append_from_before_an_erasure_is_refused", "a_creation_from_before_an_erasure_is_refused")
class SameTimeIsLater(Intact):
    """An act of the very time of the mark passes."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        if at != self._shelf.erased.get(key):
            super()._refuse_erased(key, at)


@caught_by("a_creation_from_before_an_erasure_is_refused")
class CreationsUnmarked(Intact):
    """Only appends look at the mark."""

    async def write(self, row: Row, **how: Any) -> Row:
        mark = self._shelf.erased.pop(row.key, None)
        try:
            return await super().write(row, **how)
        finally:
            if mark is not None:
                self._shelf.erased[row.key] = mark


@caught_by("the_mark_outlives_a_new_conversation_of_that_key")
class MarkGoneWithANewConversation(Intact):
    """The mark is looked at only where there is no row."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        if key not in self._shelf.rows:
            super()._refuse_erased(key, at)


@caught_by("the_mark_outlives_a_new_conversation_of_that_key")
class KnownBeforeTheMark(Intact):
    """A delayed append whose ids the new conversation has is answered from it."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        row, known = self._shelf.rows.get(key), self._known(key, entries)
        if row and all(entry.id in known for entry in entries):
            return Appended(row, self._after(key, row.head - how.get("tail", 0)), known)
        return await super().append(key, entries, **how)


@caught_by("the_mark_is_not_earlier_than_the_row_it_erased")
class MarkIgnoresTheRow(Intact):
    """The mark is the eraser's time, however far its clock is behind."""

    async def erase(self, key: Key, *, at: float) -> None:
        before = self._shelf.erased.get(key, at)
        await super().erase(key, at=at)
        self._shelf.erased[key] = max(at, before)


@caught_by("the_mark_never_goes_back")
class MarkGoesBack(Intact):
    """The last erasure sets the mark, whenever it was asked for."""

    async def erase(self, key: Key, *, at: float) -> None:
        self._shelf.erased.pop(key, None)
        await super().erase(key, at=at)


@caught_by("the_mark_stands_as_long_as_promised")
class MarksForgottenSoon(Intact):
    """A mark stands for an hour."""

    async def erase(self, key: Key, *, at: float) -> None:
        await super().erase(key, at=at)
        for other in [other for other, mark in self._shelf.erased.items() if mark < at - 3600]:
            del self._shelf.erased[other]


@caught_by("the_mark_stands_as_long_as_promised")
class MarksOfTooMany(Intact):
    """A mark is found by a key that is only similar."""

    def _refuse_erased(self, key: Key, at: float) -> None:
        for other in list(self._shelf.erased):
            if other.id.lower() == key.id.lower():
                super()._refuse_erased(other, at)


# What may stand in them


class Folded(Intact):
    """Takes two keys for one where `_fold` makes the same of them."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._first: dict[str, Key] = {}

    def _fold(self, key: Key) -> str:
        """What is left of the key."""
        raise NotImplementedError

    def _known_as(self, key: Key) -> Key:
        return self._first.setdefault(self._fold(key), key)

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        return await super().read(self._known_as(key), tail=tail)

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        return await super().append(self._known_as(key), entries, **how)


@caught_by("any_key_is_its_own")
class KeysJoined(Folded):
    """Tenant and id are put one behind the other."""

    def _fold(self, key: Key) -> str:
        return key.tenant + key.id


@caught_by("any_key_is_its_own", "the_mark_stands_as_long_as_promised")
class KeysWithoutCase(Folded):
    """Ada and ada are one."""

    def _fold(self, key: Key) -> str:
        return f"{len(key.tenant)}:{key.tenant}{key.id}".lower()


@caught_by("any_key_is_its_own")
class KeysCutShort(Folded):
    """A column holds 255 characters."""

    def _fold(self, key: Key) -> str:
        return f"{key.tenant[:255]}\0{key.id[:255]}"


@caught_by("any_text_survives_where_there_is_text")
class IdsTrimmed(Intact):
    """Blanks around an entry id do not count."""

    def _known(self, key: Key, entries: Sequence[Entry]) -> dict[str, int]:
        ids = {id.strip(): number for id, number in self._shelf.ids.get(key, {}).items()}
        return {entry.id: ids[entry.id.strip()] for entry in entries if entry.id.strip() in ids}

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        return super()._add(key, head, [structs.replace(entry, id=entry.id.strip()) for entry in entries])


@caught_by("any_bytes_survive_as_a_body")
class BodiesAsText(Intact):
    """A body is thought to be text."""

    async def write(self, row: Row, **how: Any) -> Row:
        return await super().write(structs.replace(row, body=row.body.decode(errors="replace").encode()), **how)


@caught_by("any_bytes_survive_as_a_body")
class BodiesTrimmed(Intact):
    """Trailing zeros are lost."""

    def _add(self, key: Key, head: int, entries: Sequence[Entry]) -> int:
        return super()._add(key, head, [structs.replace(entry, body=entry.body.rstrip(b"\0")) for entry in entries])


@caught_by("times_come_back_exactly")
class TimesInMilliseconds(Intact):
    """Times are kept as whole milliseconds."""

    async def write(self, row: Row, **how: Any) -> Row:
        return await super().write(structs.replace(row, updated_at=round(row.updated_at, 3)), **how)


# Many at once


@caught_by("a_refused_act_does_not_fail_its_neighbours")
class OneForAll(Intact):
    """A refusal undoes the batch, and the acts behind it are told that they failed."""

    _refusal: StoreError | None = None

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except StoreError as refusal:
            self._refusal = refusal
            asyncio.get_running_loop().call_soon(setattr, self, "_refusal", None)
            raise

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        answer = await super().append(key, entries, **how)
        if self._refusal:
            raise Unavailable("nothing of the batch was written") from self._refusal
        return answer


@caught_by("acts_on_one_key_at_once_each_happen")
class OnceInABatch(Intact):
    """A batch holds a key once: later acts on it replace earlier ones."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._batch: dict[Key, str] = {}

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        self._batch[key] = how["revision"]
        await asyncio.sleep(0)
        if self._batch[key] == how["revision"]:
            return await super().append(key, entries, **how)
        await asyncio.sleep(0)
        row = self._shelf.rows[key]
        return Appended(row, self._after(key, row.head - how.get("tail", 0)), {})


@caught_by("hundreds_at_once_are_all_answered")
class FullQueue(Intact):
    """More than 256 acts at once are turned away."""

    _waiting = 0

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        self._waiting += 1
        try:
            if self._waiting > 256:
                raise Unavailable("the queue is full")
            return await super().append(key, entries, **how)
        finally:
            self._waiting -= 1


@caught_by("a_cancelled_caller_leaves_all_or_nothing", "a_read_is_of_one_instant")
class HalfWhenCancelled(Intact):
    """Row and entries are two steps, and the caller's cancellation gets between them."""

    async def write(self, row: Row, *, entries: Sequence[Entry] = (), **how: Any) -> Row:
        stored = await super().write(row, **how)
        await asyncio.sleep(0)
        stored = structs.replace(stored, head=self._add(row.key, stored.head, entries))
        self._shelf.rows[row.key] = stored
        return stored


# Opening and closing


@caught_by("a_store_has_one_epoch", "a_reopened_store_holds_everything")
class EpochOfTheDriver(Intact):
    """Each instance draws an epoch of its own."""

    async def open(self) -> None:
        await super().open()
        self.epoch = secrets.token_hex(8)


@caught_by("closing_twice_is_fine_and_a_closed_driver_says_so")
class ClosingTwiceFails(Intact):
    """What is closed cannot be closed."""

    _closed_before = False

    async def close(self) -> None:
        await super().close()
        if self._closed_before:
            raise RuntimeError("already closed")
        self._closed_before = True


@caught_by("closing_twice_is_fine_and_a_closed_driver_says_so")
class AnswersWhenClosed(Intact):
    """Closing changes nothing."""

    async def close(self) -> None:
        pass


@caught_by("a_driver_is_usable_only_when_its_epoch_is_known")
class AnswersWhileItIsOpened(Intact):
    """Its connections are there before it knows the epoch, and a healthy store looks like another one."""

    async def _come_in(self) -> None:
        await asyncio.sleep(0)
        if self._starting is None:
            self.refuse_closed("done")


@caught_by("a_driver_is_usable_only_when_its_epoch_is_known")
class EpochKnownTooEarly(Intact):
    """It says its epoch first, and is usable later."""

    async def _start(self) -> str:
        self.epoch = self._shelf.epoch
        await asyncio.sleep(0.02)
        return await super()._start()


@caught_by("an_open_that_was_cancelled_leaves_it_closed")
class UsableAfterAFailedOpen(Intact):
    """What was there of it when the open was broken off stays."""

    async def open(self) -> None:
        try:
            await super().open()
        except asyncio.CancelledError:
            self.epoch, self.is_open = self._shelf.epoch, True
            raise


@caught_by("an_open_that_was_cancelled_leaves_it_closed")
class OpenGoesOnWhenCancelled(Intact):
    """Whoever opened it is gone, and nobody closes it."""

    async def open(self) -> None:
        await asyncio.shield(asyncio.ensure_future(super().open()))


@caught_by("closing_breaks_off_an_open_under_way")
class OpensAfterItWasClosed(Intact):
    """What has not been opened yet has nothing to close."""

    async def close(self) -> None:
        if self.is_open:
            await super().close()


@caught_by("it_is_opened_once_at_a_time")
class OpenedTwice(Intact):
    """The second open takes the place of the first, which nobody closes any more."""

    async def open(self) -> None:
        self._starting = None
        await super().open()


@caught_by("an_act_is_settled_in_the_opening_it_began_in")
class ActsWaitForTheNextOpening(Intact):
    """What was not done when it was closed is done when it is open again."""

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        while True:
            try:
                return await super().append(key, entries, **how)
            except Unavailable:
                await asyncio.sleep(0.001)


@caught_by("acts_under_way_are_answered_before_it_closes", "a_reopened_store_holds_everything")
class LastActLost(Intact):
    """What was answered last was not on disk yet."""

    _undo: tuple[Key, Row | None] | None = None

    async def append(self, key: Key, entries: Sequence[Entry], **how: Any) -> Appended:
        before = self._shelf.rows.get(key)
        answer = await super().append(key, entries, **how)
        self._undo = (key, before)
        return answer

    async def close(self) -> None:
        await super().close()
        if self._undo:
            key, row = self._undo
            self._shelf.rows.pop(key)
            if row:
                self._shelf.rows[key] = row


@caught_by("a_reopened_store_holds_everything")
class MarksGoneWhenClosed(Intact):
    """Marks live in the process."""

    async def close(self) -> None:
        await super().close()
        self._shelf.erased.clear()


@caught_by("a_reopened_store_holds_everything")
class FlushedWhenClosed(Intact):
    """Everything lives in the process."""

    def __init__(self, url: str) -> None:
        self._name = url.partition("://")[2]
        super().__init__(url)

    async def close(self) -> None:
        await super().close()
        SHELVES[self._name] = Shelf()


# The store itself


@caught_by("an_emptied_store_is_not_taken_for_an_empty_one", "a_store_that_was_replaced_is_another")
class EpochNotCompared(Intact):
    """A flushed store looks like one where nothing was ever written."""

    def _refuse_replaced(self) -> None:
        pass


@caught_by("an_emptied_store_is_not_taken_for_an_empty_one")
class EpochComparedByScansOnly(Intact):
    """It is noticed sooner or later, and until then conversations begin afresh."""

    def _row(self, key: Key) -> Row | None:
        return self._shelf.rows.get(key)


@caught_by("a_conflict_with_nothing_there_says_whether_it_was_erased")
class ErasureNotMentioned(Intact):
    """An erased conversation looks like one that the store has lost."""

    async def write(self, row: Row, **how: Any) -> Row:
        try:
            return await super().write(row, **how)
        except Conflict as there:
            if there.row is None:
                there.erased_at = None
            raise


@caught_by("an_announcement_is_heard_by_all_who_watch", "a_hundred_marks_go_in_one_announcement")
class AnnouncesToItself(Intact):
    """Other instances hear nothing."""

    async def announce(self, marks: Collection[str]) -> None:
        if self._heard is not None:
            self._heard(list(marks))


@caught_by("an_announcement_is_heard_by_all_who_watch")
class HearsWhenClosed(Intact):
    """A closed driver goes on calling back."""

    async def close(self) -> None:
        self._heard = None
        await super().close()


@caught_by("a_hundred_marks_go_in_one_announcement")
class AnnouncementsCutShort(Intact):
    """What does not fit into a payload is left out."""

    async def announce(self, marks: Collection[str]) -> None:
        await super().announce(list(marks)[:60])


@caught_by("an_examination_changes_nothing")
class ExaminedByWriting(Intact):
    """It finds out whether it may write by writing."""

    async def examine(self) -> list[Finding]:
        for row in self._shelf.rows.values():
            self._shelf.rows[row.key] = structs.replace(row, revision="examined")
        return await super().examine()


@caught_by("an_examination_changes_nothing")
class ExaminedOnlyWhenOpen(Intact):
    """It says nothing to somebody who has not opened it."""

    async def examine(self) -> list[Finding]:
        return await super().examine() if self.is_open else []


@caught_by("a_backup_is_a_new_file_or_refused")
class BackupPretended(Intact):
    """It says that it is done, and has written nothing."""

    async def backup(self, path: str, *, replace: bool = False) -> None:
        pass


@caught_by("a_backup_is_a_new_file_or_refused")
class BackupReplaces(Intact):
    """The last backup is gone when the next one begins."""

    async def backup(self, path: str, *, replace: bool = False) -> None:
        Path(path).write_text(secrets.token_hex(8))  # noqa: ASYNC240


@caught_by("a_backup_is_a_new_file_or_refused")
class BackupLeavesParts(Intact):
    """It refuses, and leaves what it had begun."""

    async def backup(self, path: str, *, replace: bool = False) -> None:
        Path(f"{path}.part").write_text("half")  # noqa: ASYNC240
        await super().backup(path, replace=replace)


@caught_by("sql_reads_or_is_refused")
class SqlSeesNothing(Intact):
    """It answers that there is nothing, where it ought to say that it cannot."""

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return []
