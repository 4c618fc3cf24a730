"""OpenAI Agents SDK sessions: a list of items. There is no place for state, so it is an item too."""

from __future__ import annotations

import json
from typing import Any

from agents import SQLiteSession
from agents.extensions.memory import RedisSession, SQLAlchemySession
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .. import work

PACKAGES = ("openai-agents", "SQLAlchemy", "asyncpg", "aiosqlite", "redis")
A_CALL = 1000


class Sessions:
    """get_items(limit=20), then add_items of question, answer and state."""

    async def open(self, url: str) -> None:
        raise NotImplementedError

    def session(self, conversation: str) -> Any:
        """The session object of a conversation."""
        raise NotImplementedError

    async def fill(self, conversation: str, messages: int) -> None:
        items = [{"role": role, "content": text} for _, role, text in work.history(messages)]
        items.append(kept(0))
        for first in range(0, len(items), A_CALL):
            await self.session(conversation).add_items(items[first : first + A_CALL])

    async def turn(self, conversation: str, step: int) -> int:
        session = self.session(conversation)
        items = await session.get_items(limit=work.WINDOW)
        assert 0 < len(items) <= work.WINDOW
        before: int = json.loads(items[-1]["content"])["revision"]
        question = {"role": "user", "content": work.question(step)}
        await session.add_items([question, {"role": "assistant", "content": work.answer(step)}, kept(step)])
        return before

    async def close(self) -> None:
        raise NotImplementedError


def kept(step: int) -> dict[str, str]:
    """The state as an item."""
    return {"role": "system", "content": json.dumps(work.state(step))}


class OnSqlite(Sessions):
    """SQLiteSession, one object for each conversation, kept open."""

    async def open(self, url: str) -> None:
        self.path = url.removeprefix("sqlite:///")
        self.sessions: dict[str, SQLiteSession] = {}

    def session(self, conversation: str) -> Any:
        if conversation not in self.sessions:
            self.sessions[conversation] = SQLiteSession(conversation, self.path)
        return self.sessions[conversation]

    async def close(self) -> None:
        for session in self.sessions.values():
            session.close()


class OnSqlalchemy(Sessions):
    """SQLAlchemySession on a shared engine."""

    engine: AsyncEngine

    async def open(self, url: str) -> None:
        if url.startswith("postgresql"):
            asynchronous = url.replace("postgresql://", "postgresql+asyncpg://")
            self.engine = create_async_engine(asynchronous, pool_size=16, max_overflow=0, pool_timeout=120)
        else:
            self.engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"))
        await SQLAlchemySession("first", engine=self.engine, create_tables=True).get_items(1)

    def session(self, conversation: str) -> Any:
        return SQLAlchemySession(conversation, engine=self.engine)

    async def close(self) -> None:
        await self.engine.dispose()


class OnRedis(Sessions):
    """RedisSession on a shared client."""

    async def open(self, url: str) -> None:
        self.redis = Redis.from_url(url, max_connections=100)

    def session(self, conversation: str) -> Any:
        return RedisSession(conversation, redis_client=self.redis)

    async def close(self) -> None:
        await self.redis.aclose()
