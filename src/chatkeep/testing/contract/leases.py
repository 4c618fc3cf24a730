"""Clauses on who is granted a lease, and what a lease hides from the index `due`. The drivers that break them stand below."""

from __future__ import annotations

from msgspec import structs

from ...drivers.base import Ability, Append, Appended, Driver, Lease, Row, Scan, Write
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, BOB, changed, everyone, found, names, need, said


class Leases(Clauses):
    """Who is granted a lease, and what a lease hides from the index `due`."""

    @clause
    async def test_a_claim_is_granted_only_where_there_is_none(self, driver: Driver) -> None:
        """A held lease stays as it is, even one that ran out by any clock; a write gives it back."""
        await driver.append(Append(ADA, said("a"), revision="r1", at=1.0))
        second = await driver.append(Append(ADA, said("b"), revision="r2", at=2.0, lease=Lease("mine", 10.0)))
        third = await driver.append(Append(ADA, said("c"), revision="r3", at=999.0, lease=Lease("yours", 2000.0)))
        fourth = await driver.append(Append(ADA, said("d"), revision="r4", at=999.0))
        freed = await driver.write(Write(changed(fourth.row, "r5", lease=None, leased_until=0.0), replaces="r4"))
        fifth = await driver.append(Append(ADA, said("e"), revision="r6", at=999.0, lease=Lease("yours", 2000.0)))

        assert [("mine", 10.0)] * 3 == [
            (answer.row.lease, answer.row.leased_until) for answer in (second, third, fourth)
        ]
        assert (None, 0.0) == (freed.lease, freed.leased_until)
        assert ("yours", 2000.0) == (fifth.row.lease, fifth.row.leased_until)

    @clause
    async def test_one_of_many_racing_claims_is_granted(self, one: Driver, two: Driver, three: Driver) -> None:
        """On a row that is there and on one that is not yet."""
        await one.append(Append(BOB, said("first"), revision="r", at=1.0))
        for key in (ADA, BOB):
            acts = [
                (one, two, three)[n % 3].append(
                    Append(key, said(f"m{n}"), revision=f"r{n}", at=1.0, lease=Lease(f"c{n}", 5.0))
                )
                for n in range(15)
            ]
            answers = await everyone(acts)
            granted = [n for n, answer in enumerate(answers) if answer.row.lease == f"c{n}"]

            assert 1 == len(granted)
            assert {f"c{granted[0]}"} == {answer.row.lease for answer in answers}

    @clause
    async def test_a_claimed_row_is_not_due_until_its_claim_runs_out(self, driver: Driver) -> None:
        """It wakes at the later of due time and end of lease, whoever set them, and at once when the lease is given back."""
        need(driver, Ability.SCAN)
        await driver.append(Append(ADA, said("m"), revision="r1", at=1.0, due_at=10.0, lease=Lease("c", 50.0)))
        await driver.append(Append(BOB, said("m"), revision="r1", at=1.0, due_at=20.0))

        assert ["bob"] == await names(driver, "due", until=49.9)
        assert ["bob", "ada"] == await names(driver, "due", until=50.0)

        row = (await driver.append(Append(BOB, said("n"), revision="r2", at=1.0, lease=Lease("d", 60.0)))).row

        assert ["ada", "bob"] == await names(driver, "due", until=99.0)
        assert [] == await names(driver, "due", until=49.9)

        await driver.write(Write(changed(row, "r3", lease=None, leased_until=0.0), replaces="r2"))

        assert ["bob"] == await names(driver, "due", until=49.9)

        ada = await driver.write(Write(changed((await found(driver, ADA))[0], "r3", due_at=None), replaces="r1"))

        assert ["bob"] == await names(driver, "due", until=99.0)
        assert None is ada.wake

    @clause
    async def test_where_there_is_no_claim_its_time_says_nothing(self, driver: Driver) -> None:
        """A time without a token, as a write may leave it, is overwritten by the next append, with a lease or without."""
        for key, lease, until in ((ADA, None, 0.0), (BOB, Lease("mine", 30.0), 30.0)):
            row = (await driver.append(Append(key, said("a"), revision="r1", at=1.0, due_at=10.0))).row
            row = await driver.write(Write(changed(row, "r2", leased_until=70.0), replaces="r1"))

            assert (None, 70.0, 70.0) == (row.lease, row.leased_until, row.wake)

            row = (await driver.append(Append(key, said("b"), revision="r3", at=2.0, lease=lease))).row

            assert (lease and lease.token, until, until or 10.0) == (row.lease, row.leased_until, row.wake)
            assert row == (await found(driver, key))[0]
        if Ability.SCAN in driver.abilities:
            assert ["ada"] == await names(driver, "due", until=29.0)


# Drivers that break these clauses


@caught_by("a_claim_is_granted_only_where_there_is_none", "one_of_many_racing_claims_is_granted")
class ClaimAlwaysGranted(Intact):
    """The last one who asks works."""

    async def append(self, act: Append) -> Appended:
        if row := self._shelf.rows.get(act.key):
            self._shelf.rows[act.key] = structs.replace(row, lease=None if act.lease else row.lease)
        answer = await super().append(act)
        if act.lease:
            token, until = act.lease
            self._shelf.rows[act.key] = row = structs.replace(answer.row, lease=token, leased_until=until)
            return answer._replace(row=row)
        return answer


@caught_by("a_claim_is_granted_only_where_there_is_none")
class ExpiredClaimsGranted(Intact):
    """The driver looks at the time and gives away a lease that has run out: the lost attempt is never counted."""

    async def append(self, act: Append) -> Appended:
        row = self._shelf.rows.get(act.key)
        if row and row.leased_until <= act.at:
            self._shelf.rows[act.key] = structs.replace(row, lease=None, leased_until=0.0)
        return await super().append(act)


@caught_by("a_claimed_row_is_not_due_until_its_claim_runs_out", "pages_of_any_size_show_each_row_once_and_in_order")
class WakeIgnoresClaims(Intact):
    """The sweep finds what others are working on."""

    async def scan(self, act: Scan) -> list[Row]:
        if act.index != "due":
            return await super().scan(act)
        rows = [
            row
            for row in await super().scan(structs.replace(act, index="key", limit=1 << 30, until=None))
            if row.due_at is not None
        ]
        return [row for row in rows if act.until is None or (row.due_at or 0.0) <= act.until][: act.limit]


@caught_by("where_there_is_no_claim_its_time_says_nothing")
class TimeKeptWithoutAClaim(Intact):
    """An append without a lease leaves the time of one that nobody holds."""

    async def append(self, act: Append) -> Appended:
        before = self._shelf.rows.get(act.key)
        answer = await super().append(act)
        if before is None or answer.row.lease is not None:
            return answer
        self._shelf.rows[act.key] = row = structs.replace(answer.row, leased_until=before.leased_until)
        return answer._replace(row=row)
