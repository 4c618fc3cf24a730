"""Who is measured on which engine."""

from __future__ import annotations

from typing import NamedTuple

from .engines import Engine, RedisStack


class Subject(NamedTuple):
    """One line of the comparison. *python*: a peer in Python, which chatkeep wants to beat by more than the others."""

    name: str
    title: str
    module: str
    kind: str = ""
    peer: bool = True
    python: bool = True
    server: type[Engine] | None = None  # when it cannot run on the engine's own


CHATKEEP = Subject("chatkeep", "chatkeep", "benchmarks.whole", "Whole", peer=False)


def floors(engine: str) -> list[Subject]:
    """The two floors of an engine."""
    module = f"benchmarks.floors.{engine}"
    return [
        Subject("raw", "(a) raw loop", module, "RawLoop", peer=False),
        Subject("bare", "(b) bare combiner", module, "BareCombiner", peer=False),
    ]


def peer(title: str, module: str, kind: str, **more: object) -> Subject:
    """A peer's line."""
    return Subject(f"{module}.{kind}", title, f"benchmarks.peers.{module}", kind, **more)  # type: ignore[arg-type]


CHAT_SDK = Subject("chat_sdk", "Chat SDK (Node)", "chat_sdk.mjs", python=False)

PEERS: dict[str, list[Subject]] = {
    "sqlite": [
        peer("LangGraph AsyncSqliteSaver", "langgraph", "OnSqlite"),
        peer("Agents SDK SQLiteSession", "openai_agents", "OnSqlite"),
        peer("Agents SDK SQLAlchemySession", "openai_agents", "OnSqlalchemy"),
        peer("ADK DatabaseSessionService", "adk", "Adk"),
        peer("Durable Object (workerd, HTTP)", "durable_object", "DurableObject", python=False),
    ],
    "redis": [
        peer("LangGraph AsyncRedisSaver", "langgraph", "OnRedis", server=RedisStack),
        peer("Agents SDK RedisSession", "openai_agents", "OnRedis"),
        peer("aiogram RedisStorage + isolation", "aiogram", "Aiogram"),
        CHAT_SDK,
    ],
    "postgresql": [
        peer("LangGraph AsyncPostgresSaver", "langgraph", "OnPostgresql"),
        peer("Agents SDK SQLAlchemySession", "openai_agents", "OnSqlalchemy"),
        peer("ADK DatabaseSessionService", "adk", "Adk"),
        peer("DBOS workflow, one step", "dbos", "Dbos"),
        CHAT_SDK,
    ],
}
