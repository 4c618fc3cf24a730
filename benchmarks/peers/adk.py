"""Google ADK, DatabaseSessionService: the last events of a session, then one event for each message."""

from __future__ import annotations

from typing import Any

from google.adk.events import Event, EventActions
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.schemas.v1 import StorageEvent
from google.genai.types import Content, Part
from sqlalchemy import insert

from .. import work

PACKAGES = ("google-adk", "SQLAlchemy", "asyncpg", "aiosqlite")
WINDOW = GetSessionConfig(num_recent_events=work.WINDOW)
A_CALL = 500


class Adk:
    """get_session(num_recent_events=20), append_event twice; the state is a delta of the second."""

    async def open(self, url: str) -> None:
        if url.startswith("postgresql"):
            asynchronous = url.replace("postgresql://", "postgresql+asyncpg://")
            self.service = DatabaseSessionService(asynchronous, pool_size=16, max_overflow=0, pool_timeout=120)
        else:
            self.service = DatabaseSessionService(url.replace("sqlite://", "sqlite+aiosqlite://"))

    async def fill(self, conversation: str, messages: int) -> None:
        # Its own way is one append a time, minutes for a long log: the rows are put in directly.
        session = await self.service.create_session(
            app_name="bench", user_id=conversation, session_id=conversation, state=work.state(0)
        )
        events = []
        for n, role, text in work.history(messages):
            event = said(role, text)
            event.id, event.timestamp = f"{conversation}.{n}", session.last_update_time - (messages - n) * 1e-3
            row = StorageEvent.from_event(session, event)
            events.append({column.key: getattr(row, column.key) for column in StorageEvent.__table__.columns})
        async with self.service.db_engine.begin() as link:
            for first in range(0, messages, A_CALL):
                await link.execute(insert(StorageEvent.__table__), events[first : first + A_CALL])

    async def turn(self, conversation: str, step: int) -> int:
        session = await self.service.get_session(
            app_name="bench", user_id=conversation, session_id=conversation, config=WINDOW
        )
        assert session is not None
        assert 0 < len(session.events) <= work.WINDOW
        before: int = session.state["revision"]
        await self.service.append_event(session, said("user", work.question(step)))
        await self.service.append_event(session, said("assistant", work.answer(step), work.state(step)))
        return before

    async def close(self) -> None:
        await self.service.close()


def said(role: str, text: str, state: dict[str, Any] | None = None) -> Event:
    """A message as an event."""
    content = Content(role="user" if role == "user" else "model", parts=[Part(text=text)])
    return Event(author=role, invocation_id="i", content=content, actions=EventActions(state_delta=state or {}))
