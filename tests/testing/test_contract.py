"""The contract has been seen to fail: every clause catches a driver that breaks it."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from chatkeep.drivers.base import Driver, Entry, Read, Row
from chatkeep.testing import BROKEN, DriverContract, Intact
from chatkeep.testing.contract import announcements
from chatkeep.testing.contract.broken import empty_shelf

CLAUSES = [name for name in dir(DriverContract) if name.startswith("test_")]
FILES = {name: part.__module__ for part in DriverContract.__mro__ for name in vars(part) if name in CLAUSES}
BREACHES = [(name, clause) for name, (_, clauses) in BROKEN.items() for clause in clauses]


async def run(clause: str, driver: type[Intact], *, longest_s: float = 60.0) -> None:
    """Runs one test of the contract on a fresh store of *driver*."""
    url = f"memory://{secrets.token_hex(8)}"

    class Contract(DriverContract):
        async def open_driver(self) -> Driver:
            opened = driver(url)
            await opened.open()
            return opened

        async def empty_store(self) -> None:
            empty_shelf(url)

    contract = Contract()
    contract.longest_s = longest_s
    await getattr(contract, clause)()


@pytest.mark.parametrize(("name", "clause"), BREACHES)
async def test_a_broken_driver_is_caught(name: str, clause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clause it breaks, and with the very exception that it is entered with."""
    monkeypatch.setattr(announcements, "AGAIN_S", 0.001)  # what a broken driver never hears is soon not heard
    driver, clauses = BROKEN[name]
    with pytest.raises(clauses[clause]) as caught:
        await run(clause, driver)

    assert clauses[clause] is caught.type


@pytest.mark.parametrize("clause", CLAUSES)
async def test_an_intact_driver_passes(clause: str) -> None:
    """Or the breaches above would prove nothing."""
    await run(clause, Intact)


async def test_an_act_that_is_never_answered_is_a_failure_in_words() -> None:
    """And not a test run that hangs."""

    class NeverAnswers(Intact):
        async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
            await asyncio.Event().wait()
            return None

    with pytest.raises(AssertionError, match=r"not over after 0.05 s: an act is not answered"):
        await run("test_what_was_never_written_reads_as_nothing", NeverAnswers, longest_s=0.05)


def test_every_clause_has_a_driver_that_breaks_it() -> None:
    """A clause that nobody breaks is a clause that nobody has seen fail; the driver stands below it in its file."""
    breaches = [(driver, clause) for driver, clauses in BROKEN.values() for clause in clauses]

    assert set(CLAUSES) == {clause for _, clause in breaches}
    assert set(CLAUSES) == {clause for driver, clause in breaches if driver.__module__ == FILES[clause]}


def test_no_clause_hides_another() -> None:
    """Two subjects with a clause of the same name would be one clause less, and nobody would notice."""
    assert sorted(CLAUSES) == sorted(name for part in DriverContract.__mro__ for name in vars(part) if name in CLAUSES)
