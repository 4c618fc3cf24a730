"""Messages that were set aside: shown, handed in again, dismissed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from chatkeep import Chatkeep, Turn

from ..support.program import chatkeep
from ..support.waiting import until


def test_a_message_that_was_set_aside_can_be_handed_in_again(store: Path) -> None:
    """dead shows it with the reason, replay puts it into the log once more, once."""
    dead = chatkeep("dead", "chat.db", "bob", folder=store.parent)
    as_json = chatkeep("dead", "chat.db", "bob", "--json", folder=store.parent)
    shown = chatkeep("show", "chat.db", "bob", folder=store.parent)
    first = chatkeep("replay", "chat.db", "bob", "1", folder=store.parent)
    again = chatkeep("replay", "chat.db", "bob", "1", folder=store.parent)
    other = chatkeep("replay", "chat.db", "bob", "2", folder=store.parent)
    after = chatkeep("show", "chat.db", "bob", "--json", folder=store.parent)

    assert "bomb" in dead[1]
    assert "ValueError: tick" in dead[1]
    assert [1] == [json.loads(line)["number"] for line in as_json[1].splitlines()]
    assert "set aside" in shown[1]
    assert (0, True) == (first[0], "is in the log again" in first[1])
    assert (0, True) == (again[0], "was replayed before" in again[1])
    assert (2, True) == (other[0], "was not set aside" in other[2])
    assert 1 == json.loads(after[1])["unread"]
    assert "Nothing was set aside" in chatkeep("dead", "chat.db", "eve", folder=store.parent)[1]


def test_a_replay_that_was_set_aside_in_its_turn_is_told(store: Path) -> None:
    """Message 1 is handed in again once; what can be replayed from then on is said, and `dead` lists it."""
    first = chatkeep("replay", "chat.db", "bob", "1", folder=store.parent)
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{store}", attempts=1)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        raise ValueError("tick")

    async def answer() -> None:
        async with keep:
            await until(lambda: keep.statistics.engine.dead == 1)

    asyncio.run(answer())
    again = chatkeep("replay", "chat.db", "bob", "1", folder=store.parent)
    dead = chatkeep("dead", "chat.db", "bob", "--json", folder=store.parent)
    number = json.loads(dead[1])["number"]
    other = chatkeep("replay", "chat.db", "bob", str(number), folder=store.parent)

    assert (0, 0) == (first[0], again[0])
    assert f"was replayed before: number {number}, failed." in again[1]
    assert f"number {number} has its place among what was set aside; replay that." in again[1]
    assert f"Message {number} is in the log again" in other[1]


def test_dead_letters_of_a_store_are_listed_and_dismissed(store: Path) -> None:
    """--all of a tenant, --everywhere with the names; a store alone is not enough to list everything."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        return chatkeep(*arguments, folder=store.parent)

    whole, everywhere = ran("dead", "chat.db", "--all"), ran("dead", "chat.db", "--everywhere", "--json")
    other, short = ran("dead", "chat.db", "--all", "--tenant", "salon"), ran("dead", "chat.db")
    wrong, dismissed = ran("dismiss", "chat.db", "bob", "2"), ran("dismiss", "chat.db", "bob", "1")
    after = ran("dead", "chat.db", "--everywhere")

    assert ["bob"] == whole[1].splitlines()[:1]
    assert "ValueError: tick" in whole[1]
    assert [("", "bob", 1)] == [
        (m["tenant"], m["conversation"], m["number"]) for m in map(json.loads, everywhere[1].splitlines())
    ]
    assert ("Nothing was set aside.\n", 2) == (other[1], short[0])
    assert (2, True) == (wrong[0], "was not set aside" in wrong[2])
    assert (0, "Nothing was set aside.\n") == (dismissed[0], after[1])
