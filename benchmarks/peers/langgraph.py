"""LangGraph: a graph of one node with a checkpointer; the state is the messages and the booking."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages

from .. import work

PACKAGES = ("langgraph", "langgraph-checkpoint-sqlite", "langgraph-checkpoint-postgres", "langgraph-checkpoint-redis")
CONNECTIONS = 16


class Kept(TypedDict, total=False):
    """The state of a thread."""

    messages: Annotated[list[BaseMessage], add_messages]
    booking: dict[str, Any]


class LangGraph:
    """durability="exit" writes one checkpoint a turn, when it ends; the default writes three."""

    async def open(self, url: str) -> None:
        self.found: dict[str, int] = {}
        self.stack = AsyncExitStack()
        graph = StateGraph(Kept)
        graph.add_node("bot", self.bot)
        graph.add_edge(START, "bot")
        self.graph = graph.compile(checkpointer=await self.saver(url))

    async def saver(self, url: str) -> Any:
        """The checkpointer, ready."""
        raise NotImplementedError

    async def bot(self, kept: Kept, config: RunnableConfig) -> Kept:
        """The node: sees the last messages, changes the booking, answers."""
        chosen = config["configurable"]
        assert 0 < len(kept["messages"][-work.WINDOW :])
        self.found[chosen["thread_id"]] = kept["booking"]["revision"]
        return {"messages": [AIMessage(work.answer(chosen["step"]))], "booking": work.state(chosen["step"])}

    async def fill(self, conversation: str, messages: int) -> None:
        kinds = {"user": HumanMessage, "assistant": AIMessage}
        said = [kinds[role](text) for _, role, text in work.history(messages)]
        config: RunnableConfig = {"configurable": {"thread_id": conversation}}
        await self.graph.aupdate_state(config, {"messages": said, "booking": work.state(0)}, as_node="bot")

    async def turn(self, conversation: str, step: int) -> int:
        config: RunnableConfig = {"configurable": {"thread_id": conversation, "step": step}}
        asked: Kept = {"messages": [HumanMessage(work.question(step))]}
        await self.graph.ainvoke(asked, config, durability="exit")
        return self.found.pop(conversation)

    async def close(self) -> None:
        await self.stack.aclose()


class OnSqlite(LangGraph):
    """AsyncSqliteSaver."""

    async def saver(self, url: str) -> Any:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        path = url.removeprefix("sqlite:///")
        found = await self.stack.enter_async_context(AsyncSqliteSaver.from_conn_string(path))
        await found.setup()
        return found


class OnPostgresql(LangGraph):
    """AsyncPostgresSaver on a pool."""

    async def saver(self, url: str) -> Any:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool = AsyncConnectionPool(url, max_size=CONNECTIONS, timeout=120, kwargs=options, open=False)
        await self.stack.enter_async_context(pool)
        found = AsyncPostgresSaver(pool)  # type: ignore[arg-type,unused-ignore]
        await found.setup()
        return found


class OnRedis(LangGraph):
    """AsyncRedisSaver, which needs RedisJSON and RediSearch."""

    async def saver(self, url: str) -> Any:
        from langgraph.checkpoint.redis.aio import AsyncRedisSaver

        # With its pool of 100, 64 threads at once run out of connections.
        many = AsyncRedisSaver.from_conn_string(url, connection_args={"max_connections": 1000})
        found = await self.stack.enter_async_context(many)
        await found.asetup()
        return found
