"""The whole of chatkeep, as its users run it."""

from __future__ import annotations

from typing import Any

from chatkeep import Chatkeep, Turn

from . import work


class Whole:
    """`keep.receive` with ids, session expiry, checksums, dedupe and everything else switched on."""

    name = "chatkeep"

    def __init__(self, **options: Any) -> None:
        self.options = options

    async def open(self, path: str) -> None:
        self.keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{path}", session_ttl="30m", history=work.WINDOW, **self.options)
        self.keep.on_message(bot)
        await self.keep.open()

    async def turn(self, conversation: str, step: int) -> None:
        receipt = await self.keep.receive(conversation, work.question(step), id=f"{conversation[-5:]}.{step:010}")
        assert receipt.status == "answered"

    async def close(self) -> None:
        await self.keep.close()


async def bot(turn: Turn[dict[str, Any]]) -> str:
    """Does what the floors do: reads the state and the history, puts a new state, answers."""
    assert len(turn.history) <= work.WINDOW
    step = int(turn.message.id.rpartition(".")[2])
    turn.state.update(work.state(step))
    return work.answer(step)
