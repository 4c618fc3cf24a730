"""The whole of chatkeep, as its users run it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from chatkeep import Chatkeep, Turn
from chatkeep.conversation.codec import entry_for
from chatkeep.conversation.keys import key_for
from chatkeep.drivers.base import Append

from . import work

PACKAGES = ("chatkeep", "apsw", "asyncpg", "hiredis", "msgspec", "redis", "uvloop")
A_CALL = 500  # entries of one append, when a log is filled


class Whole:
    """`keep.receive` with ids, session expiry, checksums, dedupe and everything else switched on."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.found: dict[str, int] = {}

    async def open(self, url: str) -> None:
        self.keep: Chatkeep[Any] = Chatkeep(url, session_ttl="30m", history=work.WINDOW, **self.options)
        self.keep.on_message(self.bot)
        await self.keep.open()

    async def fill(self, conversation: str, messages: int) -> None:
        key, now = key_for("", conversation), time.time()
        entries = [
            entry_for(key, text, id=f"old.{n}", role="operator", created_at=now, limit=1 << 20)
            for n, _, text in work.history(messages)
        ]
        for first in range(0, messages, A_CALL):
            page: Sequence[Any] = entries[first : first + A_CALL]
            await self.keep._engine.store.driver.append(Append(key, page, revision=secrets.token_hex(6), at=now))
        await self.keep.change(conversation, lambda state: state.update(work.state(0)))

    async def turn(self, conversation: str, step: int) -> int:
        receipt = await self.keep.receive(conversation, work.question(step), id=f"{conversation[-5:]}.{step:010}")
        assert receipt.status == "answered"
        return self.found.pop(conversation)

    async def bot(self, turn: Turn[dict[str, Any]]) -> str:
        """Does what the floors do: reads the state and the history, puts a new state, answers."""
        assert len(turn.history) <= work.WINDOW
        step = int(turn.message.id.rpartition(".")[2])
        self.found[turn.conversation] = turn.state.get("revision", 0)
        turn.state.update(work.state(step))
        return work.answer(step)

    def acts(self) -> tuple[int, int]:
        """Turns so far, and the acts on the store that they took."""
        engine = self.keep.statistics.engine
        return engine.turns, 2 * engine.turns - engine.one_trip

    async def close(self) -> None:
        await self.keep.close()
