"""The journal of an engine: what is told of a hand-over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from chatkeep import Chatkeep
from chatkeep.conversation.codec import entry_for
from chatkeep.drivers.base import Entry, Key


async def test_what_was_let_go_of_is_told_where_the_store_goes_away_behind_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next hand-over begins behind it, and knows nothing of it."""
    keep = Chatkeep("memory://", on_outage="journal", journal=f"{tmp_path}/journal.db", background=False)
    async with keep:
        journal, gateway = keep._engine.journal, keep._engine.store.gateway
        assert journal is not None
        for name, there in (("gone", True), ("new", False)):
            key = Key("", name)
            entry = entry_for(key, "hi", id="m", role="user", created_at=1.0, limit=1000)
            await journal.spool.keep(key, entry, at=1.0, owner="", there=there)
        take = journal._take

        async def take_one(key: Key, entries: list[Entry], owner: str, there: bool) -> bool:
            taken = await take(key, entries, owner, there)
            gateway.is_open = False
            return taken

        journal._take = take_one  # type: ignore[method-assign]
        with caplog.at_level(logging.WARNING, "chatkeep"):
            await journal.hand_over()
            away = journal.trouble
            gateway.is_open = True
            await journal.hand_over()
        gateway.is_open = True

    told = [record.getMessage() for record in caplog.records if "not handed over" in record.getMessage()]
    assert "the journal waits to be handed over" in away
    assert 1 == len(told)
    assert told[0].startswith("1 messages")
