"""A store for the commands to look into."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, HandlerFailed, Turn


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a tenant's conversation, one whose text steers terminals, and a message that was set aside."""
    path = tmp_path / "chat.db"
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{path}", retry_after="1ms", retry_longest="1ms", attempts=3)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        if turn.text == "bomb":
            raise ValueError("tick \x1b[2J tock")
        return "fine"

    async def fill() -> None:
        async with keep:
            await keep.tenant("salon").receive("ada", "hello")
            await keep.receive("eve", "\x1b]0;owned\x07 red \u202e \x9b31m \u2028")
            with pytest.raises(HandlerFailed):
                await keep.receive("bob", "bomb")

    asyncio.run(fill())
    return path
