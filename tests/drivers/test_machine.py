"""Random histories: no driver that ships ever answers otherwise than the model."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from chatkeep.drivers.base import Driver
from chatkeep.drivers.sqlite.driver import SqliteDriver
from chatkeep.testing import BROKEN, Intact
from chatkeep.testing.machine import DriverMachine

from ..support.soaking import SOAK, few_or_many, long


def histories(made: Callable[[str], Driver], url: str) -> Callable[[], DriverMachine]:
    """What makes a machine on a store of its own for each history."""

    def fresh_store() -> DriverMachine:
        name = secrets.token_hex(8)

        async def open_driver() -> Driver:
            driver = made(f"{url}{name}")
            await driver.open()
            return driver

        return DriverMachine(open_driver)

    return fresh_store


@pytest.mark.slow
@few_or_many("examples", 10, 60 * SOAK)
def test_memory(examples: int) -> None:
    """The reference agrees with a model that does not know it."""
    how = settings(max_examples=examples, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(histories(Intact, "memory://"), settings=how)


@pytest.mark.slow
@few_or_many("examples", 8, 30 * SOAK)
def test_sqlite(tmp_path: Path, examples: int) -> None:
    """Three connections on one file, a new file for each history."""
    how = settings(max_examples=examples, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(histories(SqliteDriver, f"sqlite:///{tmp_path}/"), settings=how)


SOON = [
    "StaleReads",
    "HeadReadTooSoon",
    "ClaimAlwaysGranted",
    "EraseLeavesIds",
    "NoTombstone",
    "MarkGoesBack",
    "KeysJoined",
]
LATER = [
    "TornReads",
    "RefusalsCostNumbers",
    "DuplicatesWritten",
    "LastWriterWins",
    "EntriesBeforeTheCheck",
    "BornUnchecked",
    "DueOverwritten",
]
"""Those that take hundreds of histories; the clauses of the contract catch them too, at once (tests/testing/test_contract.py)."""


@pytest.mark.parametrize("name", [*SOON, *long(*LATER)])
def test_a_broken_driver_is_found_out(name: str) -> None:
    """A history that breaks it comes up soon."""
    driver, _ = BROKEN[name]
    how = settings(
        max_examples=2000,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(histories(driver, "memory://"), settings=how)
