"""Durable Objects on workerd: the contract, and what only they have."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from chatkeep.drivers.base import Driver
from chatkeep.drivers.durable_object import DurableObjectDriver
from chatkeep.testing import DriverContract
from chatkeep.testing.machine import DriverMachine
from chatkeep.testing.servers import DurableObjectServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DurableObjectServer]:
    """A worker for all tests of this file; tests keep apart by their stores."""
    with DurableObjectServer(tmp_path_factory.mktemp("worker")) as server:
        yield server


def fresh(worker: DurableObjectServer) -> str:
    """The URL of a store that nobody else has."""
    return f"{worker.url}&store={secrets.token_hex(8)}"


async def opened_on(url: str) -> DurableObjectDriver:
    """Another driver on a store."""
    driver = DurableObjectDriver(url)
    await driver.open()
    return driver


class TestDurableObject(DriverContract):
    """The contract."""

    @pytest.fixture(autouse=True)
    def fresh_store(self, worker: DurableObjectServer) -> None:
        """A store of the test's own."""
        self.worker = worker
        self.url = fresh(worker)

    async def open_driver(self) -> Driver:
        """Another driver on it."""
        return await opened_on(self.url)

    async def empty_store(self) -> None:
        """Takes away what workerd keeps on the disk."""
        self.worker.empty()


def test_random_histories(worker: DurableObjectServer) -> None:
    """Three connections to one store, a new store for each history."""

    def fresh_store() -> DriverMachine:
        url = fresh(worker)
        return DriverMachine(lambda: opened_on(url))

    how = settings(max_examples=8, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(fresh_store, settings=how)
