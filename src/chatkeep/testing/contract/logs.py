"""Clauses on paging through a log with `entries`. The drivers that break them stand below."""

from __future__ import annotations

from msgspec import structs

from ...drivers.base import ENTRIES_MOST, Append, Driver, Entries, Entry, Key, Write
from ...errors import Conflict
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, changed, numbers, refused, said


class Logs(Clauses):
    """Paging through a log with `entries`."""

    @clause
    async def test_entries_go_forward_from_after(self, driver: Driver) -> None:
        """The first *limit* numbered above it, oldest first."""
        await driver.append(Append(ADA, said(*"abcdefg"), revision="r1", at=1.0))
        for after, limit, expected in (
            (0, 3, "abc"),
            (3, 3, "def"),
            (6, 3, "g"),
            (7, 3, ""),
            (99, 3, ""),
            (2, 0, ""),
            (0, 99, "abcdefg"),
        ):
            assert expected == "".join(
                entry.id for entry in await driver.entries(Entries(ADA, after=after, limit=limit))
            )

    @clause
    async def test_entries_go_back_from_before(self, driver: Driver) -> None:
        """The last *limit* numbered below it, oldest first; without any bound, from the beginning."""
        await driver.append(Append(ADA, said(*"abcdefg"), revision="r1", at=1.0))
        for before, limit, expected in (
            (8, 3, "efg"),
            (5, 3, "bcd"),
            (2, 3, "a"),
            (1, 3, ""),
            (99, 1, "g"),
            (5, 0, ""),
            (99, 99, "abcdefg"),
        ):
            assert expected == "".join(
                entry.id for entry in await driver.entries(Entries(ADA, before=before, limit=limit))
            )

    @clause
    async def test_entries_between_two_numbers_go_forward(self, driver: Driver) -> None:
        """With both bounds, the first *limit* between them, neither included."""
        await driver.append(Append(ADA, said(*"abcdefg"), revision="r1", at=1.0))
        for after, before, limit, expected in (
            (2, 6, 9, "cde"),
            (2, 6, 2, "cd"),
            (2, 3, 9, ""),
            (6, 2, 9, ""),
            (0, 99, 1, "a"),
            (2, 6, 0, ""),
        ):
            page = await driver.entries(Entries(ADA, after=after, before=before, limit=limit))

            assert expected == "".join(entry.id for entry in page)

    @clause
    async def test_numbers_beyond_the_log_are_no_error(self, driver: Driver) -> None:
        """Bounds that lie far outside are answered like any others."""
        row = (await driver.append(Append(ADA, said("a", "b"), revision="r1", at=1.0))).row
        far = 10**15

        assert [1, 2] == numbers(await driver.entries(Entries(ADA, before=far, limit=far)))
        assert [] == await driver.entries(Entries(ADA, after=far, limit=far))
        assert [] == list(
            (await refused(Conflict, driver.write(Write(changed(row, "w"), replaces="x", since=far)))).entries
        )
        assert [1, 2] == numbers((await driver.append(Append(ADA, said("a"), revision="r2", at=1.0, tail=far))).tail)

    @clause
    async def test_entries_are_found_by_their_ids(self, driver: Driver) -> None:
        """In the order of the log, whatever the order asked in; what is not there, or has no id, is not found."""
        row = (await driver.append(Append(ADA, said("a", "b", "", "c", "", "d"), revision="r1", at=1.0))).row
        await driver.append(Append(BOB, said("x", "a"), revision="r1", at=1.0))

        assert [Entry(2, "b", "user", b"b"), Entry(6, "d", "user", b"d")] == await driver.entries(
            Entries(ADA, ids=["d", "b"])
        )
        for ids, expected in (
            (["c", "a", "nobody", "x", ""], [1, 4]),
            (["a", "a"], [1]),
            ([""], []),
            ([], []),
            ([f"{n}" for n in range(ENTRIES_MOST - 1)] + ["d"], [6]),
        ):
            assert expected == numbers(await driver.entries(Entries(ADA, ids=ids)))
        assert [1, 2] == numbers(await driver.entries(Entries(ADA, ids=list("dcba"), limit=2)))
        assert [] == await driver.entries(Entries(Key("t", "ada"), ids=["a"]))

        await driver.write(Write(changed(row, "r2"), replaces="r1", drop=2))

        assert [4] == numbers(await driver.entries(Entries(ADA, ids=["a", "b", "c"])))


# Drivers that break these clauses


@caught_by("entries_go_forward_from_after")
class AfterIsIncluded(Intact):
    """`after` is taken for the first number of the page."""

    async def entries(self, act: Entries) -> list[Entry]:
        return await super().entries(structs.replace(act, after=None if act.after is None else act.after - 1))


@caught_by("entries_go_back_from_before")
class BeforeGivesTheFirst(Intact):
    """Going back begins at the beginning of the log."""

    async def entries(self, act: Entries) -> list[Entry]:
        return await super().entries(structs.replace(act, after=act.after or 0))


@caught_by("entries_between_two_numbers_go_forward")
class BetweenGivesTheLast(Intact):
    """With both bounds the page lies at the upper one."""

    async def entries(self, act: Entries) -> list[Entry]:
        page = await super().entries(structs.replace(act, limit=1 << 30))
        return (
            page[-act.limit :]
            if act.after and act.before
            else page[: act.limit]
            if act.after is not None
            else page[-act.limit :]
        )


@caught_by("numbers_beyond_the_log_are_no_error", raises=OverflowError)
class SmallNumbersOnly(Intact):
    """Numbers are put into 32 bits somewhere."""

    async def entries(self, act: Entries) -> list[Entry]:
        if act.limit >= 1 << 31:
            raise OverflowError("int too big to convert")
        return await super().entries(act)


@caught_by("entries_are_found_by_their_ids")
class AsTheyAreAskedFor(Intact):
    """Each id is looked up in turn."""

    async def entries(self, act: Entries) -> list[Entry]:
        page: list[Entry] = []
        for asked in [None] if act.ids is None else [[id] for id in act.ids]:
            page += await super().entries(structs.replace(act, ids=asked))
        return page


@caught_by("entries_are_found_by_their_ids")
class NoIdIsAnId(Intact):
    """What has no id is found under the empty one."""

    async def entries(self, act: Entries) -> list[Entry]:
        page = await super().entries(structs.replace(act, ids=None))
        return page if act.ids is None else [entry for entry in page if entry.id in act.ids]
