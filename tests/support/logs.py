"""What a driver has in a log."""

from __future__ import annotations

from chatkeep.drivers.base import Driver, Entries, Key

ADA = Key("", "ada")
LOTS = 100_000


async def log_of(driver: Driver, key: Key = ADA) -> list[str]:
    """The ids of a conversation, which must be dense."""
    entries = await driver.entries(Entries(key, after=0, limit=LOTS))

    assert list(range(1, len(entries) + 1)) == [entry.number for entry in entries]
    return [entry.id for entry in entries]
