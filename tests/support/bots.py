"""Bots whose answers say what they were asked."""

from __future__ import annotations

from typing import Any

from chatkeep import Chatkeep, Turn

from .waiting import takes


def counting(url: str = "memory://", **options: Any) -> Chatkeep[Any]:
    """A Chatkeep whose bot counts the messages of a conversation."""
    keep: Chatkeep[Any] = Chatkeep(url, **options)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        turn.state["count"] = turn.state.get("count", 0) + 1
        return f"{turn.text} is number {turn.state['count']}"

    return keep


def echoing(url: str = "memory://", **options: Any) -> Chatkeep[Any]:
    """A Chatkeep whose bot says the conversation's name and the message."""
    keep: Chatkeep[Any] = Chatkeep(url, **options)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        await takes(0.001)
        return f"{turn.conversation}: {turn.text}"

    return keep
