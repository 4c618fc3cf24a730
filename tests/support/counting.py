"""A bot that counts, and what has become of what it was sent."""

from __future__ import annotations

from typing import Any

from chatkeep import Turn


async def count(turn: Turn[dict[str, Any]]) -> str:
    """Counts, and says so."""
    turn.state.setdefault("seen", []).append(turn.text)
    return f"{len(turn.state['seen'])}: {turn.text}"


async def texts(keep: Any, name: str) -> list[str]:
    """The log as texts, without chatkeep's notes."""
    return [message.text async for message in keep.history(name) if message.role != "system"]


async def answered(keep: Any, name: str, number: int) -> bool:
    """Whether message *number* is behind the cursor."""
    found = await keep.conversation(name)
    return found is not None and found.head > number and found.unread == 0
