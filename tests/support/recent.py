"""Rows of many tenants, and what is shown of them by what was changed last."""

from __future__ import annotations

import asyncio
import random

from chatkeep.drivers.base import Append, Driver, Entry, Key, Row, Scan


async def pages_are_whole(driver: Driver, *, tenants: int) -> None:
    """Fails where a page over all tenants, up to so many, leaves a row out at the edge of a step, shows one twice, or is short."""
    chance = random.Random(7)
    for many, count in ((1, 60), (4, 120), (tenants, 2 * tenants)):
        acts = []
        for number in range(count):
            at = 1e9 + chance.choice((0.0, 1.0, 500.0, 90_000.0)) * chance.randrange(4)
            tenant = f"{many}-{number % many if number < many else int(chance.random() ** 3 * many)}"
            acts.append(Append(Key(tenant, f"c{number}"), [Entry(0, "", "u", b"x")], revision=f"r{number}", at=at))
        for start in range(0, count, 200):
            await asyncio.gather(*map(driver.append, acts[start : start + 200]))
        everything, after = list[Row](), None
        while page := await driver.scan(Scan("key", after=after, limit=1000)):
            everything, after = everything + page, page[-1]
        ordered = [row.key for row in sorted(everything, key=lambda row: (-row.updated_at, row.key))]
        for size in (7, 50, 1000):
            shown, last = list[Row](), None
            while len(shown) < 500 and (page := await driver.scan(Scan("recent", after=last, limit=size))):
                assert len(page) == min(size, len(ordered) - len(shown))
                shown, last = shown + page, page[-1]

            assert ordered[: len(shown)] == [row.key for row in shown]
