"""What every driver must do, one test for each clause: `DriverContract`.

Each file of this package has the clauses of one subject and, below them, the drivers that break them.
"""

from __future__ import annotations

from .announcements import Announcements
from .appending import Appending
from .backups import Backups
from .batches import Batches
from .broken import BROKEN, Intact
from .conflicts import Conflicts
from .counting import Counting
from .durability import Durability
from .epochs import Epochs
from .erasing import Erasing
from .examining import Examining
from .ids import Ids
from .indexes import Indexes
from .leases import Leases
from .logs import Logs
from .numbering import Numbering
from .opening import Opening
from .pools import Pools
from .queries import Queries
from .reading import Reading
from .retention import Retention
from .retries import Retries
from .searching import FindingWords
from .values import Values
from .writing import Writing

__all__ = ["BROKEN", "DriverContract", "Intact"]


class DriverContract(
    Reading,
    Logs,
    Appending,
    Numbering,
    Ids,
    Writing,
    Conflicts,
    Retries,
    Retention,
    Leases,
    Indexes,
    Erasing,
    Values,
    Batches,
    Opening,
    Epochs,
    Durability,
    Announcements,
    Examining,
    Backups,
    Queries,
    Counting,
    FindingWords,
    Pools,
):
    """Test that a driver keeps its contract; each method that begins with test_ is one clause.

        class TestMine(DriverContract):
            @pytest.fixture(autouse=True)
            def fresh_store(self, tmp_path):
                self.url = f"mine://{tmp_path}/chat"  # a store of its own for each test

            async def open_driver(self):
                driver = MyDriver(self.url)
                await driver.open()
                return driver

            async def empty_store(self): ...  # takes everything out behind the drivers' backs

    It runs under pytest with pytest-asyncio in auto mode. Clauses on an ability that the driver does not declare are skipped.
    docs/how-to/own-store.md has a driver with its tests.
    """
