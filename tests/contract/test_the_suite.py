"""The contract has been seen to fail: every clause catches a driver that breaks it."""

from __future__ import annotations

import secrets

import pytest

from chatkeep.drivers.base import Driver
from chatkeep.errors import ChatkeepError
from chatkeep.testing import BROKEN, DriverContract, Intact
from chatkeep.testing.broken import empty_shelf

CLAUSES = [name for name in dir(DriverContract) if name.startswith("test_")]
BREACHES = [(name, clause) for name, (_, clauses) in BROKEN.items() for clause in clauses]


async def run(clause: str, driver: type[Intact]) -> None:
    """Runs one test of the contract on a fresh store of *driver*."""
    url = f"memory://{secrets.token_hex(8)}"

    class Contract(DriverContract):
        async def open_driver(self) -> Driver:
            opened = driver(url)
            await opened.open()
            return opened

        async def empty_store(self) -> None:
            empty_shelf(url)

    await getattr(Contract(), clause)()


@pytest.mark.parametrize(("name", "clause"), BREACHES)
async def test_a_broken_driver_is_caught(name: str, clause: str) -> None:
    """By the clause it breaks."""
    driver, _ = BROKEN[name]
    with pytest.raises((AssertionError, ChatkeepError, KeyError, OverflowError, RuntimeError)):
        await run(clause, driver)


@pytest.mark.parametrize("clause", CLAUSES)
async def test_an_intact_driver_passes(clause: str) -> None:
    """Or the breaches above would prove nothing."""
    await run(clause, Intact)


def test_every_clause_has_a_driver_that_breaks_it() -> None:
    """A clause that nobody breaks is a clause that nobody has seen fail."""
    assert set(CLAUSES) == {clause for _, clauses in BROKEN.values() for clause in clauses}
