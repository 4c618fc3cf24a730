"""Every driver that ships keeps the contract."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import apsw
import pytest

from chatkeep.drivers.base import Driver
from chatkeep.drivers.sqlite.driver import SqliteDriver
from chatkeep.testing import DriverContract, Intact
from chatkeep.testing.contract.broken import empty_shelf


class TestMemory(DriverContract):
    """memory://, several drivers on one shelf."""

    @pytest.fixture(autouse=True)
    def fresh_store(self) -> None:
        """A shelf of the test's own."""
        self.url = f"memory://{secrets.token_hex(8)}"

    async def open_driver(self) -> Driver:
        """Another driver on the shelf."""
        driver = Intact(self.url)
        await driver.open()
        return driver

    async def empty_store(self) -> None:
        """Clears the shelf."""
        empty_shelf(self.url)


class TestSqlite(DriverContract):
    """sqlite:///, several drivers on one file."""

    @pytest.fixture(autouse=True)
    def fresh_store(self, tmp_path: Path) -> None:
        """A file of the test's own."""
        self.url = f"sqlite:///{tmp_path}/chat.db"

    async def open_driver(self) -> Driver:
        """Another driver on the file."""
        driver = SqliteDriver(self.url)
        await driver.open()
        return driver

    async def empty_store(self) -> None:
        """Deletes every row, as somebody with an SQL shell might."""
        with contextlib.closing(apsw.Connection(self.url.removeprefix("sqlite:///"))) as db:
            for table in ("conversation", "entry", "tombstone", "meta"):
                db.execute(f"delete from {table}")
