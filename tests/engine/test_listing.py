"""Listing conversations, and looking without the application's types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from chatkeep import Unsupported, UsageError

from ..support.clock import Clock
from ..support.counting import count


async def test_conversations_are_listed_last_changed_first_and_by_owner(opened: Any) -> None:
    """To the minute; pauses and other rows of chatkeep's own are neither shown nor counted."""
    clock = Clock()
    keep = await opened(count, clock=clock)
    for n in range(250):
        await keep.receive(f"c{n:03d}", "hi", owner=f"user-{n % 2}")
        clock.now += 70 if n > 240 else 0
    await keep.pause_all()
    await keep.resume_all()
    listed = [c.id async for c in keep.conversations()]

    assert [f"c{n}" for n in range(249, 241, -1)] == listed[:8]
    assert 250 == len(set(listed))
    assert ["c249"] == [c.id async for c in keep.conversations(limit=1)]
    assert [f"c{n:03d}" for n in range(1, 250, 2)] == [c.id async for c in keep.conversations(owner="user-1")]


async def test_a_list_in_an_order_that_there_is_not_is_refused(opened: Any) -> None:
    """In words, with those that there are; of all tenants as of one."""
    keep = await opened(count)
    await keep.receive("ada", "hi")
    for listed in (
        keep.conversations(by="name"),
        keep.all_conversations(by=""),
        keep.conversations(owner="u", by="name"),
    ):
        with pytest.raises(UsageError, match='by is "recent" or "key"'):
            await anext(listed)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_a_damaged_conversation_does_not_end_the_list(tmp_path: Path, opened: Any) -> None:
    """It is shown with its fault; the others are as they are."""
    keep = await opened(count)
    for name in "abc":
        await keep.receive(name, "hi")
    db = apsw.Connection(str(tmp_path / "chat.db"))
    db.execute("update conversation set body = 'no bytes at all' where id = 'b'")
    db.close()
    faults = {c.id: c.fault async for c in keep.conversations()}

    assert ["a", "b", "c"] == sorted(faults)
    assert ("", "") == (faults["a"], faults["c"])
    assert "damaged" in faults["b"]


async def test_with_schema_0_any_state_is_shown_and_none_written(opened: Any) -> None:
    """What a viewer needs: no types, no upgrades, no harm."""
    keep = await opened(count, schema=7)
    await keep.receive("ada", "hi")
    viewer = await opened(None, schema=0)

    assert {"seen": ["hi"]} == (await viewer.conversation("ada")).state
    assert ["ada"] == [c.id async for c in viewer.conversations()]
    with pytest.raises(Unsupported, match="look only"):
        await viewer.change("ada", lambda state: state.update(x=1))
