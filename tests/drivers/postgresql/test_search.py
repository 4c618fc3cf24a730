"""The full-text index of a PostgreSQL schema, beyond the contract: its tables, locks and rights, and whoever writes beside it."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from chatkeep.drivers.base import EntryWords, Erase, IndexText, Key, Search, Term
from chatkeep.drivers.postgresql import PostgresqlDriver
from chatkeep.drivers.postgresql import search as searching
from chatkeep.errors import Unavailable
from chatkeep.testing.programs import postgres_binary
from chatkeep.testing.servers import PostgresServer

from ...support.indexing import act_at_random, body, check_found, hits, index, say, search_pages
from ...support.soaking import few_or_many
from ...support.waiting import nothing_happens_for, until

pytestmark = pytest.mark.server

PUT_IN = "select conversation, number from CK.search_entry order by 1, 2"
OURS = """
    select relname from pg_class where relnamespace = 'CK'::regnamespace
    union all select tgname from pg_trigger where tgrelid = 'CK.entry'::regclass
    order by 1
"""
TABLES = ("search_entry", "search_waiting", "search_progress")


class Store:
    """A schema of the test's own."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.schema = f"t{secrets.token_hex(6)}"
        self.url = f"{server.url}?schema={self.schema}"

    @asynccontextmanager
    async def connection(self, role: str | None = None) -> AsyncIterator[asyncpg.Connection]:
        """An administrator's, or another role's."""
        url = self.server.url if role is None else self.server.url.replace("//postgres:", f"//{role}:")
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close()

    async def run(self, sql: str, *arguments: Any, role: str | None = None) -> list[Any]:
        """The rows of *sql*, where CK stands for the schema."""
        async with self.connection(role) as connection:
            await connection.execute("set client_min_messages = warning")
            return [tuple(row) for row in await connection.fetch(sql.replace("CK", self.schema), *arguments)]

    async def counts(self) -> list[int]:
        """How many rows the tables of the index have."""
        return [(await self.run(f"select count(*) from CK.{table}"))[0][0] for table in TABLES]


@pytest.fixture
async def store(postgres: PostgresServer) -> AsyncIterator[Store]:
    """A schema that is not there yet, and is gone afterwards."""
    store = Store(postgres)
    yield store
    await store.run("drop schema if exists CK cascade")


@pytest.fixture
async def plain(store: Store) -> AsyncIterator[PostgresqlDriver]:
    """A driver on it, without an index."""
    driver = PostgresqlDriver(store.url)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
async def driver(plain: PostgresqlDriver) -> PostgresqlDriver:
    """A driver on it, with an index."""
    await plain.index_text(IndexText(0, keep=True))
    return plain


@pytest.fixture
async def role(store: Store) -> AsyncIterator[str]:
    """A role that owns nothing and may create nothing."""
    role = f"r{secrets.token_hex(4)}"
    await store.run(f"create role {role} login password 'secret'")
    yield role
    await store.run(f"drop owned by {role} cascade")
    await store.run(f"drop role {role}")


async def test_a_removed_index_leaves_the_schema_as_it_was(plain: PostgresqlDriver, store: Store) -> None:
    """No table, index or trigger."""
    await say(plain, Key("", "ada"), "sapphire brooch")
    before = await store.run(OURS)
    await plain.index_text(IndexText(0, keep=True))
    await index(plain)
    between = await store.run(OURS)
    await plain.index_text(IndexText(0, keep=False))

    assert before == await store.run(OURS)
    assert {"search_entry", "search_new", "conversation_number"} <= {name for (name,) in between}


async def test_whoever_writes_keeps_it_true(driver: PostgresqlDriver, store: Store) -> None:
    """An older chatkeep, a person with SQL, and users by their functions: what they write lacks, what they remove is gone."""
    for name in ("ada", "bob", "cy"):
        await say(driver, Key("", name), f"gel {name}", "gel again")
    await index(driver)
    of = {id: number for number, id in await store.run("select number, id from CK.conversation")}
    await store.run("insert into CK.entry values ($1, 3, '', 'user', $2)", of["ada"], body("new"))
    await store.run("delete from CK.entry where conversation = $1", of["bob"])
    await store.run("update CK.entry set body = '' where conversation = $1 and number = 1", of["cy"])
    said = json.dumps([{"id": "m1", "role": "user", "content": "saved"}])
    await store.run("select CK.save_conversation('dan', 'd1', null, $1::jsonb)", said)
    await store.run("select CK.append_message('dan', 'd1', '\"appended\"')")
    lacking = await driver.index_text(IndexText(100))

    assert [("d1", 2), ("d1", 1), ("d1", 0), ("ada", 3)] == [(one.key.id, one.entry.number) for one in lacking.entries]
    assert [["ada", "cy"], [], []] == [await hits(driver, word) for word in ("gel", "bob", "cy")]


@few_or_many("times", 100, 2000)
async def test_nothing_is_left_over(driver: PostgresqlDriver, store: Store, times: int) -> None:
    """By random acts: what is found is what is there, and nothing stays of what is gone."""
    said = await act_at_random(driver, times)
    await check_found(driver, said)
    for name in {name for name, _ in said}:
        await driver.erase(Erase(Key("", name), at=1e9))

    assert [0, 0, 1] == await store.counts()


async def test_places_are_where_the_time_is(driver: PostgresqlDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one second has more than it has room for; each place is given once."""
    monkeypatch.setattr(searching, "SLOTS", 2)
    monkeypatch.setattr(searching, "first_place", lambda at: int(at) * 2)
    for number in range(7):
        await say(driver, Key("", f"c{number}"), "word")
    await index(driver)
    page = await driver.search(Search([Term("word")], 100))

    assert [8, 7, 6, 5, 4, 3, 2] == [hit.place for hit in page.hits]


@pytest.mark.parametrize("enough", [0, 2, 100])
async def test_a_search_goes_on_where_it_was_broken_off(
    driver: PostgresqlDriver, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    """It looks at so many entries in one act, one by one or by the index of words, and answers the same."""
    monkeypatch.setattr(searching, "LOOKED_AT", 3)
    monkeypatch.setattr(searching, "ENOUGH", enough)
    for number in range(10):
        await say(driver, Key("", f"c{number}"), f"word w{number} {'needle' if number == 2 else 'hay'}")
    await index(driver)
    found = {text: await search_pages(driver, text) for text in ("word needle", "word w", "needle w")}

    assert [["c2"], sorted(f"c{number}" for number in range(10)), ["c2"]] == [sorted(ids) for ids, _ in found.values()]
    assert max(pages for _, pages in found.values()) <= 5


async def test_no_plan_walks_a_table_that_has_grown(driver: PostgresqlDriver, store: Store) -> None:
    """Plans made on empty tables, without any statistics, look at what they need and no more: to put in, search and take out."""
    tables = ("conversation", "entry", *TABLES)
    for table in tables:
        await store.run(f"alter table CK.{table} set (autovacuum_enabled = false)")
    for number in range(400):
        await say(driver, Key("", f"c{number}"), *(f"word w{number} {'hay' * (place + 1)}" for place in range(5)))
    await index(driver)
    for word in ("word", "w7", "nothing"):
        await hits(driver, word)
    for number in range(0, 400, 2):
        await driver.erase(Erase(Key("", f"c{number}"), at=2.0))
    await driver.close()
    sql = (
        "select sum(seq_tup_read)::int, sum(idx_tup_fetch)::int, sum(n_tup_del)::int from pg_stat_user_tables "
        "where schemaname = 'CK' and relname = any ($1)"
    )

    async def read() -> tuple[int, int, int]:
        return tuple((await store.run(sql, [*tables[:-1]]))[0])

    async def all_told() -> bool:
        return (await read())[2] == 200 + 1000 + 2400 + 1000  # conversations, entries, those that waited, their words

    await until(all_told)
    walked, fetched, _ = await read()

    assert 0 == walked
    assert fetched < 100_000


async def test_a_backup_has_it(driver: PostgresqlDriver, store: Store) -> None:
    """Restored, it goes on where it was."""
    await say(driver, Key("", "ada"), "gel")
    await index(driver)
    await say(driver, Key("", "bob"), "late gel")
    await driver.close()
    made = subprocess.run(
        [postgres_binary("pg_dump"), "-n", store.schema, store.server.url], check=True, capture_output=True
    )
    await store.run("drop schema CK cascade")
    restore = [postgres_binary("psql"), "-q", "-v", "ON_ERROR_STOP=1", store.server.url]
    subprocess.run(restore, input=made.stdout, check=True, capture_output=True)
    await driver.open()
    at_once = await hits(driver, "gel")
    await index(driver)
    later = await hits(driver, "gel")
    await driver.erase(Erase(Key("", "ada"), at=2.0))

    assert (["ada"], ["ada", "bob"], ["bob"]) == (at_once, later, await hits(driver, "gel"))


async def test_what_goes_while_words_are_put_in_is_passed_over(driver: PostgresqlDriver, store: Store) -> None:
    """Words wait for an act that erases, cuts or blanks, and an act for words; in either order they are gone."""
    for name in ("ada", "bob"):
        await say(driver, Key("", name), f"gel {name}")
    answer = await driver.index_text(IndexText(9))
    words = [EntryWords(one.of, 1, 1.0, ["gel"]) for one in answer.entries if one.entry.number]
    async with store.connection() as other, other.transaction():  # as a slow commit has it
        await other.execute(f"update {store.schema}.conversation set revision = 'blanked' where id = 'ada'")
        await other.execute(f"update {store.schema}.entry set body = '' where conversation = {words[1].of}")
        putting = asyncio.create_task(driver.index_text(IndexText(9, words)))
        await nothing_happens_for(0.1)
        waits = not putting.done()
    await putting

    assert waits
    assert ["bob"] == await hits(driver, "gel")

    await say(driver, Key("", "cy"), "gel cy")
    answer = await driver.index_text(IndexText(1))
    async with store.connection() as other, other.transaction():
        (one,) = answer.entries
        put = f"select {store.schema}.put_words(array[$1::bigint], array[1::bigint], array[5::bigint], array['[\"gel\"]'], array[''], 9, 9)"
        await other.fetch(put, one.of)
        erasing = asyncio.create_task(driver.erase(Erase(Key("", "cy"), at=2.0)))
        await nothing_happens_for(0.1)
        waits = not erasing.done()
    await erasing

    assert waits
    assert ["bob"] == await hits(driver, "gel")


async def test_many_put_in_and_write_at_once(plain: PostgresqlDriver, store: Store) -> None:
    """The index is made under way, by two; every entry is in it once, and has a place of its own."""
    other = PostgresqlDriver(f"{store.url}&pooler=transaction")
    await other.open()
    for number in range(40):
        await say(plain, Key("", f"c{number}"), "old gel")

    async def talk() -> None:
        for number in range(60):
            await say(other, Key("", f"c{number}"), "new gel")

    talking = asyncio.create_task(talk())
    await asyncio.gather(*(one.index_text(IndexText(0, keep=True)) for one in (plain, other)))
    await asyncio.gather(talking, index(plain), index(other))
    await index(plain)
    await other.close()

    assert [100, 0, 1] == await store.counts()
    assert 60 == len(await hits(plain, "gel"))


async def test_a_service_that_owns_nothing_may_have_it_and_users_may_not(store: Store, role: str) -> None:
    """With the grants of the docs alone. Users see none of its rows, also when they may read all tables."""
    owner = PostgresqlDriver(store.url)
    await owner.open()
    await owner.close()
    await store.run(f"grant usage on schema CK to {role}")
    await store.run(f"grant select, insert, update, delete on all tables in schema CK to {role}")
    service = PostgresqlDriver(store.url.replace("//postgres:", f"//{role}:"))
    await service.open()
    await service.index_text(IndexText(0, keep=True))
    await say(service, Key("", "ada"), "sapphire brooch")
    await index(service)
    found = await hits(service, "sapphire")
    findings = await service.examine()
    await service.close()
    await store.run(f"revoke insert, update, delete on all tables in schema CK from {role}")
    await store.run(f"grant select on all tables in schema CK to {role}")

    assert ["ada"] == found
    assert [] == [finding for finding in findings if finding.level == "fail"]
    assert [1, 0, 1] == await store.counts()
    for table in TABLES:
        assert [(0,)] == await store.run(f"select count(*) from CK.{table}", role=role)
    epoch = (await store.run("select value from CK.meta where name = 'epoch'"))[0][0]
    for call in (
        "select CK.search($1, '''wsapphire''', 9, false, 9, 9, 9)",
        "select CK.index_text($1, null, '{}', '{}', '{}', '{}', '{}', 1, 1, 1, 1)",
        "select CK.index_text($1, false, '{}', '{}', '{}', '{}', '{}', 1, 1, 1, 1)",
        "select CK.keep_search_index($1, false)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store.run(call, epoch, role=role)
    assert [1, 0, 1] == await store.counts()


async def test_a_reader_that_is_in_the_way_of_a_removal_is_told_of(driver: PostgresqlDriver, store: Store) -> None:
    """A backup holds the tables for long: nothing is done then, and turns go on."""
    async with store.connection() as other, other.transaction():
        await other.fetch(f"select from {store.schema}.entry")
        with pytest.raises(Unavailable, match="nothing was written"):
            await driver.index_text(IndexText(0, keep=False))
        await say(driver, Key("", "ada"), "still here")

    assert not (await driver.index_text(IndexText(0, keep=False))).on


async def test_searching_while_it_is_made_and_removed_is_no_fault(plain: PostgresqlDriver, store: Store) -> None:
    """Nobody takes the store for another one."""
    await say(plain, Key("", "ada"), "gel")
    other = PostgresqlDriver(store.url)
    await other.open()
    going = True

    async def look() -> int:
        looked = 0
        while going:
            await other.search(Search([Term("gel")], 5))
            await other.index_text(IndexText(5))
            await say(other, Key("", "bob"), "gel")
            looked += 1
        return looked

    looking = asyncio.create_task(look())
    for _ in range(8):
        await plain.index_text(IndexText(0, keep=True))
        await index(plain)
        await plain.index_text(IndexText(0, keep=False))
    going = False

    assert await looking > 3
    await other.close()
