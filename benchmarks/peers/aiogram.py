"""aiogram: the data of its finite state machine in RedisStorage, under RedisEventIsolation.

It has no log: the messages are a list in the data, which is read and written whole.
"""

from __future__ import annotations

from typing import Any

from aiogram.fsm.context import FSMContext
from aiogram.fsm.storage.base import StorageKey
from aiogram.fsm.storage.redis import RedisStorage

from .. import work

PACKAGES = ("aiogram", "redis")


class Aiogram:
    """The lock, the state, the data, and both again with what is new."""

    async def open(self, url: str) -> None:
        self.storage = RedisStorage.from_url(url)
        self.isolation = self.storage.create_isolation()

    def context(self, conversation: str) -> FSMContext:
        """What a handler is given."""
        key: Any = {"bot_id": 1, "chat_id": conversation, "user_id": conversation}
        return FSMContext(storage=self.storage, key=StorageKey(**key))

    async def fill(self, conversation: str, messages: int) -> None:
        said = [[role, text] for _, role, text in work.history(messages)]
        await self.context(conversation).set_data({"messages": said, "booking": work.state(0)})

    async def turn(self, conversation: str, step: int) -> int:
        context = self.context(conversation)
        async with self.isolation.lock(context.key):
            await context.get_state()
            data = await context.get_data()
            assert 0 < len(data["messages"][-work.WINDOW :])
            before: int = data["booking"]["revision"]
            said = [*data["messages"], ["user", work.question(step)], ["assistant", work.answer(step)]]
            await context.update_data(messages=said, booking=work.state(step))
            await context.set_state(work.state(step)["stage"])
        return before

    async def close(self) -> None:
        await self.storage.close()
