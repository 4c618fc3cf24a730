"""DBOS: a durable workflow for each message, with the turn as one transactional step on tables like those of floor (a)."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
from dbos import DBOS, AsyncSQLAlchemyDatasource
from sqlalchemy import text

from .. import work

PACKAGES = ("dbos", "SQLAlchemy", "asyncpg", "psycopg")
CONNECTIONS = 16
TABLES = """
create table session (id text primary key, head integer not null, state text not null);
create table message (session text, number integer, role text not null, body text not null, primary key (session, number))
"""
LOAD = text("""
select state, array(select body from message where session = :id order by number desc limit 20)
from session where id = :id
""")
WRITE = text("""
with put as (update session set head = head + 2, state = :state where id = :id returning head)
insert into message select :id, put.head - 2 + said.place, said.role, said.body
from put, (values (1, 'user', cast(:question as text)), (2, 'assistant', cast(:answer as text))) said (place, role, body)
""")

source: Any = None


async def exchange(conversation: str, step: int) -> int:
    """The transaction: load, run the bot, write."""
    session = source.sql_session()
    raw, said = (await session.execute(LOAD, {"id": conversation})).one()
    assert 0 < len([json.loads(body) for body in said]) <= work.WINDOW
    put = {
        "id": conversation,
        "state": json.dumps(work.state(step)),
        "question": json.dumps({"text": work.question(step)}),
        "answer": json.dumps({"text": work.answer(step)}),
    }
    await session.execute(WRITE, put)
    before: int = json.loads(raw)["revision"]
    return before


@DBOS.workflow()  # type: ignore[untyped-decorator,unused-ignore]
async def answered(conversation: str, step: int) -> int:
    """One message, whatever crashes."""
    options = {"name": "exchange", "isolation_level": "READ COMMITTED"}
    found: int = await source.run_tx_step_async(options, exchange, conversation, step)
    return found


class Dbos:
    """The workflow called directly, which is its quickest way; on a queue it is several times slower."""

    async def open(self, url: str) -> None:
        global source
        self.pool = await asyncpg.create_pool(url, min_size=1, max_size=2)
        await self.pool.execute(TABLES)
        DBOS(
            config={
                "name": "bench",
                "system_database_url": url,
                "log_level": "ERROR",
                "sys_db_pool_size": CONNECTIONS,
            }
        )
        source = await AsyncSQLAlchemyDatasource.create(
            url.replace("postgresql://", "postgresql+asyncpg://"),
            engine_kwargs={"pool_size": CONNECTIONS, "max_overflow": 0, "pool_timeout": 120},
        )
        DBOS.launch()

    async def fill(self, conversation: str, messages: int) -> None:
        state = json.dumps(work.state(0))
        await self.pool.execute("insert into session values ($1, $2, $3)", conversation, messages, state)
        rows = [(conversation, n, role, json.dumps({"text": said})) for n, role, said in work.history(messages)]
        await self.pool.copy_records_to_table("message", records=rows)

    async def turn(self, conversation: str, step: int) -> int:
        found: int = await answered(conversation, step)
        return found

    async def close(self) -> None:
        DBOS.destroy()
        await source.engine.dispose()
        await self.pool.close()
