"""What a move must bring over, and everything that a store holds, for tests that compare."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import structs

from chatkeep import Chatkeep, Turn
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Append, Driver, Entries, Entry, Erase, Key, Lease, Row, Scan, Write
from chatkeep.storage.moving import Move, Walk
from chatkeep.storage.relocation import NOTE

LONG = Key("", "long")
Held = dict[Key, tuple[Row, list[Entry]]]


async def held(driver: Driver) -> Held:
    """Every row and its whole log, but for the note of a move."""
    found: Held = {}
    after: Row | None = None
    while rows := await driver.scan(Scan("key", limit=50, after=after)):
        for row in rows:
            log: list[Entry] = []
            while page := await driver.entries(Entries(row.key, after=log[-1].number if log else 0, limit=200)):
                log += page
            found[row.key] = row, log
        after = rows[-1]
    found.pop(NOTE, None)
    return found


async def opened_on(url: str) -> Driver:
    """An open driver on a store."""
    driver = driver_for(url)
    await driver.open()
    return driver


async def copied(source: Driver, target: Driver, address: str = "there", **options: Any) -> Move:
    """A move that was begun, and has copied once what there was."""
    move = Move(source, target, address=address, **options)
    assert await move.begin()
    await move.copy()
    return move


async def moved(source: Driver, target: Driver, address: str = "there", **options: Any) -> Walk:
    """Moves one store to the other, to the end."""
    return await (await copied(source, target, address, **options)).finish()


def said(first: int, last: int, size: int = 10) -> list[Entry]:
    """Entries as a caller hands them over; every third has no id."""
    return [Entry(0, f"m{n}" if n % 3 else "", "u", (f"line {n} " * size).encode()) for n in range(first, last + 1)]


async def filled(driver: Driver) -> None:
    """Puts one of each kind of conversation there is into an empty store."""
    row = (await driver.append(Append(LONG, said(1, 400), revision="r1", at=100.0, owner="ann"))).row
    row = await driver.write(
        Write(structs.replace(row, revision="r2", body=b"x" * 5000, updated_at=200.25), replaces="r1", drop=37)
    )
    await driver.append(
        Append(LONG, said(401, 460, 400), revision="r3", at=300.125, due_at=400.0, lease=Lease("l", 9e9))
    )
    for name in ("ada", "ünï/ codé", "a{b}c", "z" * 200):
        key = Key("salon" if len(name) == 3 else "", name)
        row = (await driver.append(Append(key, said(1, 3), revision="s1", at=50.0, due_at=0.0))).row
        await driver.write(
            Write(structs.replace(row, revision="s2", owner=f"of {name}", leased_until=7.5), replaces="s1", blank=[2])
        )
    emptied = Key("", "emptied")
    row = (await driver.append(Append(emptied, said(1, 9), revision="e1", at=60.0))).row
    await driver.write(Write(structs.replace(row, revision="e2"), replaces="e1", drop=9))
    await driver.write(
        Write(Row(key=Key("~access", "card"), revision="c1", incarnation="c1", body=b"card"), replaces=None)
    )
    await driver.append(Append(Key("", "gone"), said(1, 2), revision="g1", at=70.0))
    await driver.erase(Erase(Key("", "gone"), at=80.0))


def counting_bot(keep: Chatkeep[Any]) -> Chatkeep[Any]:
    """Gives *keep* the bot that the checker of histories wants: it notes what it has seen."""

    @keep.on_message
    async def bot(turn: Turn) -> str:
        turn.state.setdefault("seen", []).extend(message.id for message in turn.messages)
        await asyncio.sleep(0)
        return f"re {turn.text}"

    return keep
