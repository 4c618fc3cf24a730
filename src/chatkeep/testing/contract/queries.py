"""Clauses on `query`, which reads with SQL. The drivers that break them stand below."""

from __future__ import annotations

from typing import Any

from ...drivers.base import Driver
from ...errors import Unsupported, UsageError
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import ADA, found, refused, together, written


class Queries(Clauses):
    """`query`, which reads with SQL."""

    @clause
    async def test_sql_reads_or_is_refused(self, driver: Driver) -> None:
        """Where there is SQL, it sees what was answered, and changes nothing."""
        answered = (await together([driver.query("select 1 + ?", 1)]))[0]
        if isinstance(answered, Unsupported):
            assert str(answered)
            return
        await written(driver, ADA, body=b"state")

        assert [(2,)] == answered
        assert [("ada",)] == await driver.query("select id from conversation where tenant = ?", ADA.tenant)
        await refused(UsageError, driver.query("delete from conversation"))
        assert (await found(driver, ADA))[0].key == ADA


# Drivers that break these clauses


@caught_by("sql_reads_or_is_refused")
class SqlSeesNothing(Intact):
    """It answers that there is nothing, where it ought to say that it cannot."""

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return []
