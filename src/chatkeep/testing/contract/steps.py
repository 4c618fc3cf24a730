"""Steps that the clauses of several subjects take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar
from unittest import SkipTest

from msgspec import structs

from ...drivers.base import Ability, Append, Appended, Driver, Entry, Index, Key, Read, Row, Scan, Write
from ...errors import ChatkeepError

E = TypeVar("E", bound=ChatkeepError)

ADA = Key("", "ada")
BOB = Key("", "bob")
LOTS = 10_000
INDEXES: tuple[Index, ...] = ("key", "due", "owner", "recent")


def said(*ids: str) -> list[Entry]:
    """Return entries as a caller hands them over: unnumbered."""
    return [Entry(0, id, "user", id.encode()) for id in ids]


def changed(row: Row, revision: str, **fields: Any) -> Row:
    """Return the row that a writer who saw *row* hands over."""
    return structs.replace(row, revision=revision, **fields)


def numbers(entries: Sequence[Entry]) -> list[int]:
    """Return where *entries* stand."""
    return [entry.number for entry in entries]


def need(driver: Driver, ability: Ability) -> None:
    """Skips the test for a driver that does not have *ability*."""
    if ability not in driver.abilities:
        raise SkipTest(f"it does not say that {ability}")


async def found(driver: Driver, key: Key, *, tail: int = LOTS) -> tuple[Row, list[Entry]]:
    """Return what `read` shows of a conversation that must be there."""
    there = await driver.read(Read(key, tail=tail))
    assert there is not None, f"{key} is gone"
    return there


async def written(driver: Driver, key: Key, **fields: Any) -> Row:
    """Return a conversation that was appended to and then written with *fields*."""
    row = (await driver.append(Append(key, said("first"), revision="first", at=1.0))).row
    return await driver.write(Write(changed(row, "second", **fields), replaces="first"))


async def grown(driver: Driver, key: Key, id: str) -> Appended:
    """Return the answer of one more append."""
    return await driver.append(Append(key, said(id), revision=f"grown by {id}", at=1.0, tail=1))


async def refused(kind: type[E], act: Awaitable[object]) -> E:
    """Return the refusal of *act*, which must be of this kind."""
    try:
        answer = await act
    except kind as refusal:
        return refusal
    raise AssertionError(f"expected {kind.__name__}, got {answer!r}")


async def together(acts: Sequence[Awaitable[Any]]) -> list[Any]:
    """Return the answers of *acts* run at once, refusals among them; an error that is not chatkeep's is a failure."""
    answers = await asyncio.gather(*acts, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, ChatkeepError):
            raise AssertionError(f"not one of chatkeep's errors: {answer!r}") from answer  # noqa: TRY004
    return answers


async def everyone(acts: Sequence[Awaitable[Any]]) -> list[Any]:
    """Return the answers of *acts* run at once, none of which may be refused."""
    answers = await together(acts)
    for answer in answers:
        if isinstance(answer, ChatkeepError):
            raise answer
    return answers


async def names(driver: Driver, index: Index, *, limit: int = LOTS, **where: Any) -> list[str]:
    """Return the ids that a scan shows."""
    return [row.key.id for row in await driver.scan(Scan(index, limit=limit, **where))]


async def paged(driver: Driver, index: Index, size: int, **where: Any) -> list[Row]:
    """Return all rows of an index, page by page."""
    rows: list[Row] = []
    while page := await driver.scan(Scan(index, after=rows[-1] if rows else None, limit=size, **where)):
        assert len(page) <= size, "a page is longer than its limit"
        rows += page
        assert len(rows) < LOTS, "the pages never end"
    return rows
