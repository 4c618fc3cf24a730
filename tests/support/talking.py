"""Talks with the demo bots as tables: what a user says, what the reply must say, what the state must be after it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from chatkeep import Chatkeep, Message, Receipt
from chatkeep.demos import demo_for

from .stores import FAST

SATURDAY = 1_795_255_200.0
"""2026-11-21, 10:00 UTC: what the bots take for today."""


class Line(NamedTuple):
    """One message, some of what its last reply says, and slots of the state after it."""

    said: str
    reply: tuple[str, ...]
    state: Mapping[str, Any] = MappingProxyType({})


class Clock:
    """A clock that starts on Saturday, and can be put forward by hand."""

    def __init__(self) -> None:
        self.now = SATURDAY - time.monotonic()

    def __call__(self) -> float:
        return self.now + time.monotonic()


def bot_on(bot: str, url: str, folder: Path, **options: Any) -> Chatkeep[Any]:
    """Bot *bot* on a store; what it keeps elsewhere goes into *folder*."""
    own = {"restaurant": {"orders": folder / "orders-of-the-house.db"}, "tutoring": {"pace_s": 0.0}}
    return demo_for(bot, url, **(FAST | {"clock": Clock()} | own.get(bot, {}) | options))


def told(replies: list[Message]) -> str:
    """All that a bot replied."""
    return "\n".join(reply.text for reply in replies)


def labels(replies: list[Message]) -> list[dict[str, str]]:
    """The buttons of all replies."""
    return [
        button
        for reply in replies
        if not isinstance(reply.content, str)
        for part in reply.content
        if part["type"] == "buttons"
        for button in part["buttons"]
    ]


def as_json(state: Any) -> dict[str, Any]:
    """A state as it is at rest."""
    found: dict[str, Any] = msgspec.to_builtins(state)
    return found


async def check(keep: Any, line: Line, *, id: str, conversation: str = "ada") -> Receipt:
    """Says one line of a table and looks whether the bot does as the table has it."""
    receipt: Receipt = await keep.receive(conversation, line.said, id=id)
    after = as_json((await keep.conversation(conversation)).state)

    assert [] == [words for words in line.reply if words not in told(receipt.replies)], (
        line.said,
        told(receipt.replies),
    )
    assert line.state == {slot: after[slot] for slot in line.state}, line.said
    return receipt
