"""Clauses on `examine`, which looks at a store and changes nothing. The drivers that break them stand below."""

from __future__ import annotations

from msgspec import structs

from ...drivers.base import Driver, Finding
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, found, written


class Examining(Clauses):
    """`examine`, which looks at a store and changes nothing."""

    @clause
    async def test_an_examination_changes_nothing(self, driver: Driver) -> None:
        """On an open store and on a closed one it says what there is to say, and finds no failing."""
        await written(driver, ADA, body=b"state")
        before = await found(driver, ADA)
        open_now = await driver.examine()
        after = await found(driver, ADA)
        await driver.close()
        closed = await driver.examine()

        assert before == after
        for findings in (open_now, closed):
            assert findings
            assert [] == [finding for finding in findings if finding.level == "fail"]
            assert all(isinstance(finding, Finding) and finding.subject and finding.said for finding in findings)


# Drivers that break these clauses


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
