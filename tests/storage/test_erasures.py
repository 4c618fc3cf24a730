"""Which conversations of an owner were erased: for whoever keeps a copy of the list."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.drivers.base import Key, Row
from chatkeep.storage import erasures
from chatkeep.storage.erasures import KEPT_S, find_erasures, note_erasure
from chatkeep.storage.store import Store


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """An empty one."""
    async with Chatkeep[Any]("memory://") as keep:
        yield keep._engine.store


def row(id: str, *, owner: str = "ada", tenant: str = "salon", incarnation: str | None = None) -> Row:
    """The row of a conversation that is about to be erased."""
    return Row(
        key=Key(tenant, id), revision="r", incarnation=f"of {id}" if incarnation is None else incarnation, owner=owner
    )


async def note(store: Store, row: Row, at: float) -> None:
    """Note it at a time."""
    await note_erasure(store, row, clock=lambda: at)


async def found(store: Store, since: float, now: float, owner: str = "ada") -> dict[str, tuple[str, float]]:
    """What the owner's list is told."""
    return await find_erasures(store, "salon", owner, since=since, clock=lambda: now)


async def test_an_erasure_is_told_to_its_owner_from_its_time_on(store: Store) -> None:
    """By incarnation: a name may be erased twice. Of another owner, or tenant, nothing is told."""
    await note(store, row("trip"), 100.0)
    await note(store, row("trip", incarnation="the second"), 200.0)
    await note(store, row("bobs", owner="bob"), 200.0)
    await note(store, row("elsewhere", tenant="zoo"), 200.0)
    both = {"of trip": ("trip", 100.0), "the second": ("trip", 200.0)}

    assert both == await found(store, 100.0, 300.0)
    assert {"the second": ("trip", 200.0)} == await found(store, 100.1, 300.0)
    assert ["bobs"] == [id for id, _ in (await found(store, 0.0, 300.0, owner="bob")).values()]


async def test_what_is_nobodys_and_what_is_chatkeeps_own_leaves_no_note(store: Store) -> None:
    """Nobody keeps a list of it; one that cannot be read is noted all the same."""
    await note(store, row("nobodys", owner=""), 100.0)
    await note(store, row("record", tenant="~access"), 100.0)
    await note(store, row("damaged", incarnation=""), 100.0)
    rows = [one.owner async for one in store.walk("key", tenant=None)]

    assert ["ada"] == rows
    assert [("damaged", 100.0)] == [*(await found(store, 0.0, 100.0)).values()]


async def test_old_notes_are_forgotten_a_few_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A month after; the list need not wait for all of them."""
    monkeypatch.setattr(erasures, "REMOVED_AT_ONCE", 2)
    for number in range(3):
        await note(store, row(f"c{number}"), 100.0)

    assert 3 == len(await found(store, 0.0, 100.0 + KEPT_S))
    assert 1 == len(await found(store, 0.0, 100.1 + KEPT_S))
    assert {} == await found(store, 0.0, 100.1 + KEPT_S)
    assert [] == [one async for one in store.walk("key", tenant=None)]
