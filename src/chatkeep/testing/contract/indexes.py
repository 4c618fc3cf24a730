"""Clauses on finding conversations with `scan`. The drivers that break them stand below."""

from __future__ import annotations

import random

from msgspec import structs

from ...drivers.base import (
    AT_ONCE,
    RECENT_GRAIN_S,
    Ability,
    Append,
    Appended,
    Driver,
    Erase,
    Index,
    Key,
    Row,
    Scan,
    Write,
)
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, INDEXES, LOTS, changed, found, names, need, paged, said, written


class Indexes(Clauses):
    """Finding conversations with `scan`."""

    @clause
    async def test_scan_by_key_goes_by_tenant_and_id(self, driver: Driver) -> None:
        """In the order of code points, over all tenants or within one."""
        need(driver, Ability.SCAN)
        keys = [Key(tenant, name) for tenant in ("", "b", "a") for name in ("z", "Z", "é", "a/b", "a", "😀", "\uffff")]
        for key in keys:
            await driver.append(Append(key, said("m"), revision="r", at=1.0))

        assert sorted(keys) == [row.key for row in await driver.scan(Scan("key", limit=LOTS))]
        assert sorted(key for key in keys if key.tenant == "b") == [
            row.key for row in await driver.scan(Scan("key", tenant="b", limit=LOTS))
        ]
        assert [] == await driver.scan(Scan("key", tenant="nobody", limit=LOTS))

    @clause
    async def test_scan_by_due_shows_what_has_to_be_looked_at(self, driver: Driver) -> None:
        """Earliest first, up to and including `until`, and nothing that has no due time."""
        need(driver, Ability.SCAN)
        for name, due_at in (("c", 30.0), ("a", 20.0), ("never", None), ("b", 10.0), ("d", 40.5)):
            await driver.append(Append(Key("t", name), said("m"), revision="r", at=1.0, due_at=due_at))
        await driver.append(Append(Key("u", "e"), said("m"), revision="r", at=1.0, due_at=15.0))

        assert ["b", "e", "a", "c", "d"] == await names(driver, "due")
        assert ["b", "e", "a", "c"] == await names(driver, "due", until=30.0)
        assert ["b", "e", "a"] == await names(driver, "due", until=29.999)
        assert ["b", "a", "c"] == await names(driver, "due", until=40.0, tenant="t")
        assert [] == await names(driver, "due", until=9.0)
        assert ["b", "e"] == await names(driver, "due", limit=2)
        assert [] == await names(driver, "due", limit=0)

    @clause
    async def test_what_is_due_at_once_comes_first(self, driver: Driver) -> None:
        """By any clock, and whatever was due before; only a lease hides it."""
        need(driver, Ability.SCAN)
        await driver.append(Append(Key("", "a"), said("m"), revision="r", at=1.0, due_at=0.5))
        await driver.append(Append(Key("", "b"), said("m"), revision="r", at=1e10, due_at=AT_ONCE))
        await driver.append(Append(Key("", "c"), said("m"), revision="r1", at=1.0, due_at=7.0))
        row = (await driver.append(Append(Key("", "c"), said("n"), revision="r2", at=2.0, due_at=AT_ONCE))).row
        leased = Row(
            key=Key("", "d"), revision="r", incarnation="r", due_at=AT_ONCE, lease="c", leased_until=5.0, updated_at=1.0
        )
        await driver.write(Write(leased, replaces=None))

        assert (0.0, 0.0) == (row.due_at, row.wake)
        assert ["b", "c"] == sorted(await names(driver, "due", until=AT_ONCE))
        assert ["b", "c"] == sorted((await names(driver, "due"))[:2])
        assert ["a", "d"] == (await names(driver, "due"))[2:]
        assert ["b", "c"] == sorted(row.key.id for row in await paged(driver, "due", 1, until=0.25))

        row = await driver.write(Write(changed(row, "r3", due_at=9.0), replaces="r2"))
        await driver.write(Write(changed(row, "r4", due_at=AT_ONCE), replaces="r3"))

        assert ["b", "c"] == sorted(await names(driver, "due", until=AT_ONCE))

    @clause
    async def test_scan_by_owner_shows_the_conversations_of_one(self, driver: Driver) -> None:
        """By id within a tenant; of another's, and of nobody's, none."""
        need(driver, Ability.SCAN)
        for tenant, name, owner in (
            ("", "b", "eve"),
            ("", "c", "bob"),
            ("", "a", "eve"),
            ("", "d", ""),
            ("t", "e", "eve"),
        ):
            await driver.append(Append(Key(tenant, name), said("m"), revision="r", at=1.0, owner=owner))

        assert ["a", "b"] == await names(driver, "owner", tenant="", owner="eve")
        assert ["e"] == await names(driver, "owner", tenant="t", owner="eve")
        assert ["a", "b", "e"] == await names(driver, "owner", owner="eve")
        assert ["a"] == await names(driver, "owner", tenant="", owner="eve", limit=1)
        assert [] == await names(driver, "owner", tenant="", owner="ev")
        assert [] == await names(driver, "owner", tenant="", owner="")
        assert [] == await names(driver, "owner", owner="")

    @clause
    async def test_a_new_owner_moves_the_row_in_the_index(self, driver: Driver) -> None:
        """Written to another, or to nobody, it is found there and no longer here."""
        need(driver, Ability.SCAN)
        row = (await driver.append(Append(ADA, said("m"), revision="r1", at=1.0, owner="eve"))).row
        row = await driver.write(Write(changed(row, "r2", owner="bob"), replaces="r1"))

        assert ([], ["ada"]) == (await names(driver, "owner", owner="eve"), await names(driver, "owner", owner="bob"))

        row = await driver.write(Write(changed(row, "r3", owner=""), replaces="r2"))

        assert [] == await names(driver, "owner", owner="bob")

        await driver.write(Write(changed(row, "r4", owner="eve"), replaces="r3"))

        assert ["ada"] == await names(driver, "owner", tenant="", owner="eve")

    @clause
    async def test_scan_by_recent_shows_the_last_changed_first(self, driver: Driver) -> None:
        """Exactly, however coarse the index is that they are found by; what changed at one moment by tenant and id."""
        need(driver, Ability.SCAN)
        step = RECENT_GRAIN_S
        for name, at in (("c", 5 * step), ("a", 7 * step + 9), ("b", 7 * step + 1), ("d", 9 * step)):
            await driver.append(Append(Key("", name), said("m"), revision="r1", at=at))
        await driver.append(Append(Key("t", "a"), said("m"), revision="r1", at=7 * step))

        assert ["d", "a", "b", "a", "c"] == await names(driver, "recent")
        assert ["d", "a", "b", "c"] == await names(driver, "recent", tenant="")
        assert ["d", "a"] == await names(driver, "recent", limit=2)

        await driver.append(Append(Key("", "b"), said("n"), revision="r2", at=8 * step - 1))
        row = (await found(driver, Key("", "c")))[0]
        await driver.write(Write(changed(row, "r2", updated_at=8 * step), replaces="r1"))

        assert ["d", "c", "b", "a"] == await names(driver, "recent", tenant="")
        assert ["d", "c"] == await names(driver, "recent", tenant="", limit=2)

        for n in (3, 1, 4, 0, 2):
            await driver.append(Append(Key("new", f"{n}"), said("m"), revision="r1", at=20 * step + n))
        await driver.append(Append(Key("new", "0"), said("n"), revision="r2", at=20 * step + 4))

        assert list("04321") == await names(driver, "recent", tenant="new")
        assert list("043") == await names(driver, "recent", limit=3)
        assert list("04321") == [row.key.id for row in await paged(driver, "recent", 2, tenant="new")]

    @clause
    async def test_scan_by_recent_ends_where_it_is_told_to(self, driver: Driver) -> None:
        """With what was changed at that moment, which may be in the middle of a step; the other indexes know no such bound."""
        need(driver, Ability.SCAN)
        step = RECENT_GRAIN_S
        times = (5 * step, 7 * step + 1, 7 * step + 9, 7 * step + 30, 9 * step)
        for n, at in enumerate(times):
            await driver.append(Append(Key("", f"{n}"), said("m"), revision="r", at=at, due_at=1.0, owner="eve"))
        await driver.append(Append(Key("t", "t"), said("m"), revision="r", at=7 * step + 9))

        for since in (9 * step + 1, 10 * step, 1e9):
            assert [] == await names(driver, "recent", since=since)
        assert ["4"] == await names(driver, "recent", since=9 * step)
        assert ["4"] == await names(driver, "recent", since=8 * step)
        assert ["4", "3"] == await names(driver, "recent", since=7 * step + 10)
        assert ["4", "3", "2"] == await names(driver, "recent", tenant="", since=7 * step + 9)
        assert ["4", "3", "2", "t", "1", "0"] == await names(driver, "recent", since=0.0)
        for size in (1, 2, LOTS):
            shown = await paged(driver, "recent", size, since=7 * step + 9)

            assert ["4", "3", "2", "t"] == [row.key.id for row in shown]

        for index in ("key", "due", "owner"):
            assert list("01234") == sorted(await names(driver, index, tenant="", owner="eve", since=8 * step))

    @clause
    async def test_pages_of_any_size_show_each_row_once_and_in_order(self, driver: Driver) -> None:
        """Also where many rows stand at the same place of the index."""
        need(driver, Ability.SCAN)
        chance = random.Random(3)
        for tenant in ("", "t", "t/"):
            for n in range(10):
                row = Row(
                    key=Key(tenant, f"{n}"),
                    revision="r",
                    incarnation="r",
                    body=b"%d" % n,
                    owner=chance.choice(["", "eve", "bob"]),
                    updated_at=chance.choice([0.0, 100.0, 130.0, 1e9]),
                    due_at=chance.choice([None, 0.0, 50.0, 50.0, 1e9]),
                    leased_until=chance.choice([0.0, 0.0, 70.0]),
                )
                await driver.write(Write(row, replaces=None))
        rows = [(await found(driver, Key(tenant, f"{n}")))[0] for tenant in ("", "t", "t/") for n in range(10)]
        for within in (None, "", "t", "t/"):
            near = [row for row in rows if within in (None, row.key.tenant)]
            expected: dict[Index, list[Row]] = {
                "key": sorted(near, key=lambda row: row.key),
                "due": [row for row in near if row.due_at is not None and (row.wake or 0.0) <= 70.0],
                "owner": sorted((row for row in near if row.owner == "eve"), key=lambda row: row.key),
                "recent": sorted(near, key=lambda row: (-row.updated_at, row.key)),
            }
            for index, wanted in expected.items():
                for size in (1, 2, 3, 7, LOTS):
                    shown = await paged(driver, index, size, tenant=within, owner="eve", until=70.0)
                    if index == "due":  # where it leaves the order of ties open
                        assert sorted(row.wake or 0.0 for row in wanted) == [row.wake for row in shown]
                        shown, wanted = (sorted(some, key=lambda row: row.key) for some in (shown, wanted))

                    assert wanted == shown

    @clause
    async def test_paging_goes_on_though_what_was_shown_has_moved(self, driver: Driver) -> None:
        """The place behind the last page is where that row stood when it was shown."""
        need(driver, Ability.SCAN)
        for n in range(4):
            await driver.append(
                Append(Key("", f"{n}"), said("m"), revision="r", at=1000.0 - 60 * n, due_at=float(n), owner="eve")
            )
        for index in ("due", "recent", "key", "owner"):
            last_row = (await driver.scan(Scan(index, owner="eve", limit=2)))[-1]
            row = (await found(driver, last_row.key))[0]
            moved = changed(row, f"{index}", due_at=99.0, updated_at=9000.0)
            await driver.write(Write(moved, replaces=row.revision))
            rest = [row.key.id for row in await driver.scan(Scan(index, owner="eve", after=last_row, limit=9))]

            assert ["2", "3"] == [name for name in rest if name in "23"]
            assert "0" not in rest
            await driver.write(Write(structs.replace(row, revision=f"{index} back"), replaces=f"{index}"))
        last_row = (await driver.scan(Scan("key", limit=2)))[-1]
        await driver.erase(Erase(last_row.key, at=9000.0))

        assert ["2", "3"] == [row.key.id for row in await driver.scan(Scan("key", after=last_row, limit=9))]

    @clause
    async def test_every_index_shows_the_row_as_it_is_stored(self, driver: Driver) -> None:
        """Whole, body and all, after each kind of act."""
        need(driver, Ability.SCAN)
        row = await written(driver, ADA, body=b"state", owner="eve", due_at=3.0, lease="c", leased_until=4.0)
        for _ in range(3):
            for index in INDEXES:
                assert [row] == await driver.scan(Scan(index, owner="eve", limit=9))
            act = Append(ADA, said(f"{row.head}"), revision=f"{row.head}", at=row.updated_at + 100)
            row = (await driver.append(act)).row


# Drivers that break these clauses


@caught_by("scan_by_key_goes_by_tenant_and_id")
class OrderedLikePeople(Intact):
    """Keys are compared without regard to case, as a collation does."""

    async def scan(self, act: Scan) -> list[Row]:
        rows = await super().scan(structs.replace(act, limit=1 << 30))
        return (
            sorted(rows, key=lambda row: [part.lower() for part in row.key])[: act.limit]
            if act.index == "key"
            else rows[: act.limit]
        )


@caught_by("scan_by_due_shows_what_has_to_be_looked_at")
class UntilIsExcluded(Intact):
    """What is due right now is shown a moment later."""

    async def scan(self, act: Scan) -> list[Row]:
        rows = await super().scan(act)
        return [row for row in rows if act.index != "due" or act.until is None or row.wake != act.until]


@caught_by("scan_by_owner_shows_the_conversations_of_one")
class OwnersByPrefix(Intact):
    """An owner index that is searched by the beginning of the name."""

    async def scan(self, act: Scan) -> list[Row]:
        if act.index != "owner":
            return await super().scan(act)
        rows = await super().scan(structs.replace(act, index="key", limit=1 << 30, owner=""))
        return [row for row in rows if row.owner.startswith(act.owner)][: act.limit]


@caught_by("a_new_owner_moves_the_row_in_the_index")
class OwnerIndexStuck(Intact):
    """The owner index keeps whom it was told first."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._first: dict[Key, str] = {}

    async def append(self, act: Append) -> Appended:
        self._first.setdefault(act.key, act.owner)
        return await super().append(act)

    async def scan(self, act: Scan) -> list[Row]:
        if act.index != "owner":
            return await super().scan(act)
        return [
            row
            for row in await super().scan(structs.replace(act, index="key", owner=""))
            if self._first.get(row.key) == act.owner
        ]


@caught_by("scan_by_recent_shows_the_last_changed_first")
class RecentToTheStep(Intact):
    """Rows of one step of the index are shown by name."""

    async def scan(self, act: Scan) -> list[Row]:
        rows = await super().scan(structs.replace(act, limit=1 << 30))
        return (sorted(rows, key=lambda row: (-row.recent, row.key)) if act.index == "recent" else rows)[: act.limit]


@caught_by("scan_by_recent_ends_where_it_is_told_to")
class SinceIsUnknown(Intact):
    """A driver of before that bound shows all that was ever changed."""

    async def scan(self, act: Scan) -> list[Row]:
        return await super().scan(structs.replace(act, since=None))


@caught_by("scan_by_recent_ends_where_it_is_told_to")
class SinceIsExcluded(Intact):
    """What was changed at the bound itself is not shown."""

    async def scan(self, act: Scan) -> list[Row]:
        return [row for row in await super().scan(act) if act.index != "recent" or row.updated_at != act.since]


@caught_by("scan_by_recent_ends_where_it_is_told_to")
class SinceToTheStep(Intact):
    """The bound is where its step begins."""

    async def scan(self, act: Scan) -> list[Row]:
        since = None if act.since is None else act.since // RECENT_GRAIN_S * RECENT_GRAIN_S
        return await super().scan(structs.replace(act, since=since))


@caught_by("scan_by_recent_ends_where_it_is_told_to")
class SinceOnEveryIndex(Intact):
    """What is due or somebody's is hidden where it was changed before a bound that is of another index."""

    async def scan(self, act: Scan) -> list[Row]:
        rows = await super().scan(act)
        return [row for row in rows if act.since is None or row.updated_at >= act.since]


@caught_by("scan_by_key_goes_by_tenant_and_id", "scan_by_recent_shows_the_last_changed_first")
class AllTenants(Intact):
    """One tenant is shown the conversations of the others."""

    async def scan(self, act: Scan) -> list[Row]:
        return await super().scan(structs.replace(act, tenant=None))


@caught_by("pages_of_any_size_show_each_row_once_and_in_order")
class TiesLostOverPages(Intact):
    """The next page begins behind the whole place where the last one ended."""

    async def scan(self, act: Scan) -> list[Row]:
        rows = await super().scan(structs.replace(act, limit=1 << 30))
        if act.after and act.index == "due":
            rows = [row for row in rows if row.wake != act.after.wake]
        return rows[: act.limit]


@caught_by("paging_goes_on_though_what_was_shown_has_moved")
class PlaceLookedUpAgain(Intact):
    """The place of the last page is where its last row stands now."""

    async def scan(self, act: Scan) -> list[Row]:
        return await super().scan(structs.replace(act, after=act.after and self._shelf.rows.get(act.after.key)))


@caught_by("every_index_shows_the_row_as_it_is_stored")
class ScansWithoutBodies(Intact):
    """An index is thought to need no bodies."""

    async def scan(self, act: Scan) -> list[Row]:
        return [structs.replace(row, body=b"") for row in await super().scan(act)]


@caught_by("what_is_due_at_once_comes_first")
class ZeroIsNever(Intact):
    """A due time of 0 is taken for none."""

    async def scan(self, act: Scan) -> list[Row]:
        return [row for row in await super().scan(act) if act.index != "due" or row.due_at]


@caught_by("what_is_due_at_once_comes_first")
class NotBeforeItWasWritten(Intact):
    """What is due at once is due at the writer's time."""

    async def append(self, act: Append) -> Appended:
        if act.due_at is not None:
            act = structs.replace(act, due_at=max(act.due_at, act.at))
        return await super().append(act)
