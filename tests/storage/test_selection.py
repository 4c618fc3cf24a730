"""Going through the conversations of a tenant for what their records say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.conversation.record import Record
from chatkeep.drivers.base import Key
from chatkeep.storage.reader import PAGE
from chatkeep.storage.selection import find_listed, find_row, select_page

from ..support.damaged import Damaged

MANY = PAGE + 50


@pytest.fixture
async def keep() -> AsyncIterator[Chatkeep[Any]]:
    """More conversations than a page of rows has, of which each third one is paused; and one of another tenant."""
    async with Chatkeep[Any]("memory://") as keep:
        for number in range(MANY):
            await keep.accept(f"c{number:03}", "hello", role="operator")
            if number % 3 == 0:
                await keep.pause(f"c{number:03}")
        await keep.tenant("salon").pause("c000")
        await keep.pause()
        yield keep


async def selected(keep: Chatkeep[Any], tenant: str | None = "", **asked: Any) -> tuple[list[str], str | None]:
    """The paused ones, and where to go on."""

    async def read(key: Key) -> list[str]:
        return [key.id]

    def is_paused(record: Record) -> bool:
        return record.paused

    told = {"after": None, "limit": 1000, "rows_most": 1000} | asked
    found, last = await select_page(keep._engine.store, tenant, is_paused, read, **told)
    return found, last and last.id


PAUSED = [f"c{number:03}" for number in range(0, MANY, 3)]


async def test_all_that_are_wanted_are_found(keep: Chatkeep[Any]) -> None:
    """Over the pages of rows; of one tenant, or of all, and never a record of chatkeep's own."""
    assert (PAUSED, None) == await selected(keep)
    assert (["c000"], None) == await selected(keep, "salon")
    assert ([*PAUSED, "c000"], None) == await selected(keep, None)


async def test_a_page_ends_with_the_one_that_makes_it_full(keep: Chatkeep[Any]) -> None:
    """And the next one goes on behind it."""
    assert (["c000", "c003"], "c003") == await selected(keep, limit=2)
    assert (["c006", "c009"], "c009") == await selected(keep, limit=2, after=Key("", "c003"))
    assert (PAUSED[2:], None) == await selected(keep, after=Key("", "c003"))


@pytest.mark.parametrize("rows", [1, 4, PAGE, PAGE + 1, MANY])
async def test_no_more_rows_are_looked_at_than_may(keep: Chatkeep[Any], rows: int) -> None:
    """What is found among them is answered, with the last one that was looked at."""
    assert ([name for name in PAUSED if name < f"c{rows:03}"], f"c{rows - 1:03}") == await selected(
        keep, rows_most=rows
    )


async def test_where_no_row_may_be_looked_at_the_place_stays(keep: Chatkeep[Any]) -> None:
    """Who asks again goes on from there."""
    assert ([], "c003") == await selected(keep, rows_most=0, after=Key("", "c003"))
    assert ([], None) == await selected(keep, after=Key("", f"c{MANY:03}"))


async def test_a_row_that_cannot_be_read_is_passed_over_by_who_looks_into_rows(keep: Chatkeep[Any]) -> None:
    """The list of conversations shows it, with the fault."""
    store = keep._engine.store
    store.gateway.driver = Damaged(store.driver, Key("", "c003"))

    assert (["c000", "c006"], "c006") == await selected(keep, limit=2)


async def test_a_row_that_cannot_be_read_is_whose_list_shows_it() -> None:
    """Of those that are asked; else it is nobody's. One that can be read is as it is."""
    async with Chatkeep[Any]("memory://") as keep:
        for name in ("other", "trip"):
            await keep.accept(name, "hello", role="operator", owner="bob")
        store, key = keep._engine.store, Key("", "trip")
        whole = await find_row(store, key, ["ada", "bob"])
        store.gateway.driver = Damaged(store.driver, key)
        found = await find_row(store, key, ["ada", "bob"])
        nobodys = await find_listed(store, key, ["ada"])
        gone = await find_row(store, Key("", "nowhere"), ["bob"])

    assert whole is not None
    assert found is not None
    assert (("bob", True), ("bob", key), ("", key)) == (
        (whole.owner, bool(whole.revision)),
        (found.owner, found.key),
        (nobodys.owner, nobodys.key),
    )
    assert gone is None
