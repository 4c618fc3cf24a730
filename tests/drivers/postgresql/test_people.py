"""What users do with SQL alone: the rules are the library's, and nobody sees or writes what is somebody else's."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import zlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest
from asyncpg.exceptions import (
    DataCorruptedError,
    InsufficientPrivilegeError,
    InvalidParameterValueError,
    InvalidTransactionStateError,
    ObjectNotInPrerequisiteStateError,
)

from chatkeep import Chatkeep, Turn
from chatkeep.channels.base import PLATFORMS
from chatkeep.conversation.codec import body_of
from chatkeep.conversation.versions import checksum_before
from chatkeep.drivers.base import Key
from chatkeep.drivers.postgresql.opening import migrations
from chatkeep.drivers.postgresql.seam import in_schema
from chatkeep.engine import watch
from chatkeep.errors import ChatkeepError
from chatkeep.testing.servers import PostgresServer

from ...support.sql_people import DOCS, SAVES, grants, said, shown
from ...support.waiting import until

pytestmark = pytest.mark.server


class Page:
    """A user's connection, as a gateway would use it: under a role that has nothing but what the docs grant."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self.connection = connection
        self.schema = schema

    async def run(self, sql: str, *arguments: Any, claims: Mapping[str, Any] | None = None) -> list[Any]:
        """The rows of *sql*, where CK stands for the schema, in a transaction with these claims."""
        async with self.connection.transaction():
            if claims is not None:
                await self.connection.fetchval("select set_config('request.jwt.claims', $1, true)", json.dumps(claims))
            return list(await self.connection.fetch(sql.replace("CK", self.schema), *arguments))

    async def save(
        self,
        user: str,
        conversation: str,
        title: str | None = None,
        messages: Any = (),
        *,
        force: bool = False,
        version: int | None = None,
        checksum: str | None = None,
        claims: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        rows = await self.run(
            "select CK.save_conversation($1, $2, $3, $4::jsonb, $5, $6, $7)",
            *(user, conversation, title, json.dumps(messages), force, version, checksum),
            claims={"sub": user} if claims is None else claims,
        )
        return dict(json.loads(rows[0][0]))

    async def load(self, user: str, **claims: Any) -> dict[str, dict[str, Any]]:
        rows = await self.run("select * from CK.load_conversations($1)", user, claims={"sub": user, **claims})
        return {row["id"]: dict(row) | {"messages": json.loads(row["messages"])} for row in rows}


@pytest.fixture
def schema() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
async def keep(postgres: PostgresServer, schema: str) -> AsyncIterator[Chatkeep[dict[str, Any]]]:
    """The library on a schema of its own, which is gone afterwards."""
    keep = Chatkeep(f"{postgres.url}?schema={schema}", poll="60s", session_ttl="1h")

    @keep.on_message
    async def answer(turn: Turn[dict[str, Any]]) -> str:
        turn.state["said"] = turn.text
        return f"You said {turn.text}"

    async with keep:
        yield keep
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"set client_min_messages = warning; drop schema {schema} cascade")
    await connection.close()


@pytest.fixture
async def page(keep: Chatkeep[Any], postgres: PostgresServer, schema: str) -> AsyncIterator[Page]:
    """A role with the grants of the docs, and nothing else."""
    role = f"user{secrets.token_hex(4)}"
    owner = await asyncpg.connect(postgres.url)
    await owner.execute(f"create role {role} login password 'secret'")
    for block in grants(schema, role):
        await owner.execute(block)
    connection = await asyncpg.connect(postgres.url.replace("//postgres:", f"//{role}:"))
    yield Page(connection, schema)
    await connection.close()
    await owner.execute(f"drop owned by {role} cascade; drop role {role}")
    await owner.close()


@pytest.fixture
async def owner(keep: Chatkeep[Any], postgres: PostgresServer, schema: str) -> AsyncIterator[Page]:
    """The connection of a service."""
    connection = await asyncpg.connect(postgres.url)
    yield Page(connection, schema)
    await connection.close()


# One table of cases (SAVES), which drives the library and SQL


@pytest.mark.parametrize("case", SAVES)
async def test_a_save_is_the_same_in_both(keep: Chatkeep[Any], page: Page, case: str) -> None:
    """Answers and logs are equal, and the library finds the version and the checksum that SQL has told."""
    ada = keep.user("ada")
    for asked in SAVES[case]:
        ours = await ada.save("ours", **asked)
        theirs = await page.save("ada", "theirs", **asked)
        there = await ada.conversation("theirs")

        assert there is not None
        assert (ours.version, ours.title, ours.added, ours.conflicts) == tuple(
            theirs[name] for name in ("version", "title", "added", "conflicts")
        )
        assert (there.version, there.checksum, there.title) == (theirs["version"], theirs["checksum"], theirs["title"])
    assert await shown(keep, "ours") == await shown(keep, "theirs")
    conversation = await keep.conversation("theirs")

    assert conversation is not None
    assert (conversation.owner, conversation.unread) == ("ada", 0)


async def test_a_checksum_from_before_is_accepted_and_notes_do_not_move_it(keep: Chatkeep[Any], page: Page) -> None:
    """As in the library: what is accepted is a title written for what a person has seen."""
    told = await page.save("ada", "trip", "A")
    await keep.pause("trip")
    await keep.resume("trip")
    mine = await page.save("ada", "trip", "B", checksum=told["checksum"])
    snapshot = await keep._engine.store.reload(Key("", "trip"))
    row = snapshot.row
    before = checksum_before(row.incarnation, row.head, body_of(row.key, snapshot.record))
    taken = await page.save("ada", "trip", "C", checksum=before)
    refused = await page.save("ada", "trip", "D", checksum=before)

    assert ([], [], ["title"]) == (mine["conflicts"], taken["conflicts"], refused["conflicts"])


@pytest.mark.parametrize("known", [True, False])
async def test_a_checksum_tells_whether_the_title_was_known(keep: Chatkeep[Any], page: Page, known: bool) -> None:
    """One that the library has told counts in SQL, and the other way round."""
    ada = keep.user("ada")
    mine = await page.save("ada", "trip", "A", said("m1", "a"))
    if not known:
        await ada.rename("trip", "B")
    theirs = await ada.save("trip", title="C", checksum=mine["checksum"])
    again = await page.save("ada", "trip", "D", checksum=theirs.checksum)

    assert [] == again["conflicts"]
    assert ([] if known else ["title"]) == theirs.conflicts


BAD: list[Any] = [
    {"id": "m1"},
    "text",
    [1],
    [{"content": "a"}],
    [{"id": 1, "content": "a"}],
    [{"id": "", "content": "a"}],
    [{"id": "é" * 257, "content": "a"}],
    [{"id": "~a", "content": "a"}],
    [{"id": "a"}],
    [{"id": "a", "content": None}],
    [{"id": "a", "content": 1}],
    [{"id": "a", "content": [1]}],
    [{"id": "a", "content": [{"n": 2**53}]}],
    [{"id": "a", "content": "a", "role": "system"}],
    [{"id": "a", "content": "a", "role": "event"}],
    [{"id": "a", "content": "a", "metadata": [1]}],
    [{"id": "a", "content": "a", "created_at": "yesterday"}],
    [{"id": "a", "content": "a", "extra": 1}],
    [{"id": "a", "content": "a" * 300_000}],
]


@pytest.mark.parametrize("messages", BAD, ids=lambda value: str(value)[:40])
async def test_what_cannot_be_saved_is_refused_by_both(keep: Chatkeep[Any], page: Page, messages: Any) -> None:
    """Before anything is touched."""
    with pytest.raises(InvalidParameterValueError, match="nothing was touched"):
        await page.save("ada", "theirs", "T", messages)
    with pytest.raises((ChatkeepError, TypeError)):
        await keep.user("ada").save("theirs", title="T", messages=messages)
    assert await keep.conversation("theirs") is None


@pytest.mark.parametrize(("conversation", "title"), [("", "T"), ("é" * 257, "T"), ("c", "T" * 1001)])
async def test_a_name_that_cannot_be_is_refused(page: Page, conversation: str, title: str) -> None:
    with pytest.raises(InvalidParameterValueError, match="nothing was touched"):
        await page.save("ada", conversation, title)


# Beside the library


async def test_turns_and_saves_at_once_lose_nothing(keep: Chatkeep[Any], page: Page) -> None:
    """Each message is in the log once, what was received is answered once, and what was saved never."""

    async def save() -> None:
        for n in range(10):
            await page.save("ada", "trip", f"Title {n}", said(f"s{n}", f"saved {n}"))

    async def talk() -> None:
        for n in range(10):
            await keep.receive("trip", f"heard {n}", id=f"r{n}", owner="ada")

    await asyncio.gather(save(), talk())
    log = [message async for message in keep.history("trip")]

    assert sorted(f"{kind}{n}" for kind in "rs" for n in range(10)) == sorted(
        message.id for message in log if message.role == "user"
    )
    assert [f"You said heard {n}" for n in range(10)] == [m.text for m in log if m.role == "assistant"]
    conversation = await keep.conversation("trip")

    assert conversation is not None
    assert conversation.unread == 0
    assert {"said": "heard 9"} == conversation.state


async def test_what_the_state_holds_stays_as_it_was_written(keep: Chatkeep[Any], page: Page) -> None:
    """Numbers keep their form, and members that this version does not know stay."""
    await keep.receive("trip", "hello", owner="ada")
    state = {"float": 1.0, "big": 1e300, "small": -0.0, "text": 'é"\\\n', "none": None, "deep": {"b": [1, {}], "a": []}}
    await keep.change("trip", lambda there: there.update(state))
    await page.save("ada", "trip", "T", said("m1", "a"))
    there = await keep.conversation("trip")

    assert there is not None
    assert str({"said": "hello", **state}) == str(there.state)


async def test_who_watches_sees_a_save_at_once(
    keep: Chatkeep[Any], page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instances hear of it, though they would look only once a minute."""
    for pause in ("LOOK_S", "SELDOM_S", "SURE_S"):
        monkeypatch.setattr(watch, pause, 60.0)
    await keep.receive("trip", "hello", owner="ada")
    seen: set[str] = set()

    async def follow() -> None:
        async for event in keep.events("trip", after=0):
            seen.add(getattr(event, "id", ""))

    watching = asyncio.create_task(follow())
    await until(lambda: len(seen) >= 2)
    await page.save("ada", "trip", None, said("s1", "saved"))
    await until(lambda: "s1" in seen)
    watching.cancel()


async def test_a_message_that_sql_appends_is_answered_once(keep: Chatkeep[Any], page: Page) -> None:
    """At once, though the store is polled once a minute; under a known id nothing happens again."""
    say = "select CK.append_message('ada', 'trip', $1::jsonb, 'm1')"
    first = json.loads((await page.run(say, '"hello"', claims={"sub": "ada"}))[0][0])

    async def answered() -> bool:
        return [message.text async for message in keep.history("trip")] == ["hello", "You said hello"]

    await until(answered)
    again = json.loads((await page.run(say, '"hello"', claims={"sub": "ada"}))[0][0])

    assert ("m1", 1, False) == (first["id"], first["number"], first["duplicate"])
    assert ("m1", 1, True) == (again["id"], again["number"], again["duplicate"])
    assert await answered()


async def test_a_list_is_the_librarys(keep: Chatkeep[Any], page: Page) -> None:
    """In its order, with what was claimed, and with the words that were said."""
    ada = keep.user("ada")
    await keep.receive("first", "hello", owner="guest:7")
    await page.save("ada", "second", "Two", said("m1", "a"))
    await page.save("ada", "third", "Three")
    await ada.pin("second")
    await ada.archive("third")
    await ada.claim("guest:7")
    await keep.receive("other", "hello", owner="eve")
    listed = [summary async for summary in ada.conversations()]
    loaded = await page.load("ada")

    assert ["second", "third", "first"] == [summary.id for summary in listed] == list(loaded)
    for summary in listed:
        row = loaded[summary.id]

        assert (summary.title, summary.version, summary.checksum, summary.head, summary.pinned, summary.archived) == (
            *(row[name] for name in ("title", "version", "checksum", "head", "pinned", "archived")),
        )
        assert abs(summary.updated_at - row["updated_at"].timestamp()) < 0.001
    assert ["hello", "You said hello"] == [message["content"] for message in loaded["first"]["messages"]]


async def test_a_claimed_guest_has_nothing_of_its_own_any_more(keep: Chatkeep[Any], page: Page) -> None:
    """Its user writes what was the guest's; the guest is told why it may not."""
    await page.save("guest:7", "trip", "T")
    await keep.user("ada").claim("guest:7")
    saved = await page.save("ada", "trip", "Mine")

    assert ("Mine", []) == (saved["title"], saved["conflicts"])
    with pytest.raises(InsufficientPrivilegeError, match="was claimed by a user"):
        await page.save("guest:7", "trip", "T")


# Who may


@pytest.mark.parametrize(
    ("user", "claims"),
    [("ada", {"sub": "eve"}), ("eve", {"sub": "eve"}), ("ada", {}), ("ada", {"sub": ""}), ("", {"sub": ""})],
)
async def test_nobody_writes_what_is_anothers(
    keep: Chatkeep[Any], page: Page, user: str, claims: Mapping[str, Any]
) -> None:
    """Neither under the other's name nor under one's own; and nothing of it is told."""
    await page.save("ada", "trip", "T", said("m1", "a"))
    before = await keep.user("ada").conversation("trip")

    for call in ("save_conversation($1, 'trip', 'X')", "append_message($1, 'trip', '\"x\"')"):
        with pytest.raises((InsufficientPrivilegeError, InvalidParameterValueError)):
            await page.run(f"select CK.{call}", user, claims=claims)
    assert before == await keep.user("ada").conversation("trip")
    for view in ("my_conversations", "my_messages"):
        assert [] == await page.run(f"select * from CK.{view}", claims=claims)


CALLS = ("save_conversation($1, $2, 'X')", "append_message($1, $2, '\"x\"')")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("channel", sorted(PLATFORMS))
async def test_a_user_does_not_begin_the_conversation_of_a_channels_customer(
    keep: Chatkeep[Any], page: Page, owner: Page, channel: str, call: str
) -> None:
    """In the words of what is somebody else's, also when the customer has written; who acts for nobody in particular may begin it."""
    theirs = f"{channel}:1550:4917"

    async def refused() -> str:
        with pytest.raises(InsufficientPrivilegeError) as told:
            await page.run(f"select CK.{call}", "ada", theirs, claims={"sub": "ada"})
        return str(told.value)

    before = await refused()
    assert None is await keep.conversation(theirs)
    await keep.accept(theirs, "hi")
    assert before == await refused() == f"The conversation '{theirs}' is somebody else's. Nothing was touched."

    await page.run(f"select CK.{call}", "ada", f"{channel}:1550", claims={"sub": "ada"})  # is no customer's
    await owner.run(f"select CK.{call}", "ada", f"{channel}:1550:begun by a service")
    await page.run(f"select CK.{call}", "ada", f"{channel}:1550:begun by a service", claims={"sub": "ada"})


async def test_the_step_that_refuses_customers_is_taken_beside_instances_that_run(
    keep: Chatkeep[Any], page: Page, owner: Page
) -> None:
    """The function of before is put back and used; then the step is taken while the library, and the same connection, go on."""
    step = next(n for n, text in enumerate(migrations()) if "function chatkeep.is_customers" in text)
    before = re.search(
        r"create (function chatkeep\.hold_conversation.*?end\n\$\$;)", "".join(migrations()[:step]), re.S
    )
    assert before is not None
    await owner.run(in_schema(f"create or replace {before[1]}", owner.schema))
    await owner.run("drop function CK.is_customers(text)")
    await page.save("ada", "whatsapp:1550:1", "T", said("m1", "a"))
    async with owner.connection.transaction():
        await owner.connection.execute(in_schema(migrations()[step], owner.schema))
    with pytest.raises(InsufficientPrivilegeError, match="somebody else's"):
        await page.save("ada", "whatsapp:1550:2", "T", said("m1", "a"))
    await page.save("ada", "whatsapp:1550:1", "T2", said("m2", "b"))  # what a user has begun stays that user's

    assert "T2" == (await keep.conversation("whatsapp:1550:1")).title  # type: ignore[union-attr]
    assert "You said hi" == (await keep.receive("bob", "hi")).replies[0].text


async def test_the_tenant_comes_from_the_claims(keep: Chatkeep[Any], page: Page) -> None:
    """Users of the same name in two tenants share nothing, and none names chatkeep's own."""
    salon = {"sub": "ada", "app_metadata": {"tenant": "salon"}}
    await page.save("ada", "trip", "Default")
    await page.save("ada", "trip", "Salon", claims=salon)

    assert ["Salon"] == [s.title async for s in keep.tenant("salon").user("ada").conversations()]
    assert ["Default"] == [s.title async for s in keep.user("ada").conversations()]
    assert ["Salon"] == [row["title"] for row in await page.run("select title from CK.my_conversations", claims=salon)]
    assert {"Salon"} == {row["title"] for row in (await page.load("ada", tenant="salon")).values()}
    with pytest.raises(InsufficientPrivilegeError, match="chatkeep's own"):
        await page.save("ada", "trip", "X", claims={"sub": "ada", "tenant": "~access"})


async def test_what_users_may_change_themselves_names_no_tenant(page: Page, keep: Chatkeep[Any]) -> None:
    await page.save("ada", "trip", "T", claims={"sub": "ada", "user_metadata": {"tenant": "salon"}})

    assert ["T"] == [s.title async for s in keep.user("ada").conversations()]


async def test_claims_come_before_settings(page: Page) -> None:
    """What a pool has left in a connection lends nobody another name."""
    await page.connection.execute("select set_config('chatkeep.user', 'ada', false)")
    with pytest.raises(InsufficientPrivilegeError):
        await page.save("ada", "trip", "T", claims={"sub": "eve"})
    saved = await page.run("select CK.save_conversation('ada', 'trip', 'T')")

    assert 1 == len(saved)


async def test_the_tables_show_a_reader_what_is_its_own(keep: Chatkeep[Any], page: Page, owner: Page) -> None:
    """Row-level security is the second line; writing is refused by the first."""
    await page.save("ada", "trip", "T", said("m1", "a"))
    await page.save("eve", "hers", "T", said("m1", "b", "m2", "c"))
    with pytest.raises(InsufficientPrivilegeError):
        await page.run("select * from CK.conversation")
    role = (await page.run("select current_user as role"))[0]["role"]
    await owner.run(f"grant select on CK.conversation, CK.entry to {role}")

    for user, id, count in (("ada", "trip", 1), ("eve", "hers", 2), ("bob", None, 0)):
        rows = await page.run("select id from CK.conversation", claims={"sub": user})
        entries = await page.run("select 1 from CK.entry", claims={"sub": user})

        assert ([id] if id else [], count) == ([row["id"] for row in rows], len(entries))
    assert [] == await page.run("select id from CK.conversation")
    for act in ("update CK.conversation set owner = 'ada'", "delete from CK.entry"):
        with pytest.raises(InsufficientPrivilegeError):
            await page.run(act, claims={"sub": "ada"})


async def test_a_role_without_the_grants_may_call_nothing(keep: Chatkeep[Any], page: Page, owner: Page) -> None:
    """Nobody has the right to call by default, though functions are everybody's in PostgreSQL."""
    role = (await page.run("select current_user as role"))[0]["role"]
    await owner.run(
        f"revoke execute on function CK.save_conversation, CK.load_conversations, CK.append_message from {role}"
    )
    for call in ("save_conversation('ada', 'c')", "load_conversations('ada')", "append_message('ada', 'c', '\"x\"')"):
        with pytest.raises(InsufficientPrivilegeError):
            await page.run(f"select CK.{call}", claims={"sub": "ada"})


async def test_a_service_acts_for_every_user(keep: Chatkeep[Any], owner: Page) -> None:
    """Who may write the tables needs no claims; with claims it is held to them."""
    await owner.run("select CK.save_conversation('ada', 'trip', 'T')")

    assert ["trip"] == [row["id"] for row in await owner.run("select id from CK.load_conversations('ada')")]
    with pytest.raises(InsufficientPrivilegeError):
        await owner.run("select CK.save_conversation('ada', 'trip', 'X')", claims={"sub": "eve"})


# What is not as it should be


async def test_a_damaged_record_is_not_written_over(keep: Chatkeep[Any], page: Page, owner: Page) -> None:
    """A flipped bit is told, not sealed anew. (The library, which notes when the conversation is due next, is closed first.)"""
    await page.save("ada", "trip", "T")
    await keep.close()
    await owner.run("update CK.conversation set body = set_byte(body, 30, get_byte(body, 30) # 1) where id = 'trip'")

    with pytest.raises(DataCorruptedError):
        await page.save("ada", "trip", "X")


@pytest.mark.parametrize("epoch", ["moved:", "filling:"])
async def test_a_store_that_is_elsewhere_is_neither_written_nor_shown(page: Page, owner: Page, epoch: str) -> None:
    """Whoever still asks here is told so."""
    await page.save("ada", "trip", "T")
    await owner.run("update CK.meta set value = $1 || value where name = 'epoch'", epoch)

    for call in ("save_conversation('ada', 'c')", "load_conversations('ada')", "append_message('ada', 'c', '\"x\"')"):
        with pytest.raises(ObjectNotInPrerequisiteStateError, match="Nothing was touched"):
            await page.run(f"select CK.{call}", claims={"sub": "ada"})


async def test_another_isolation_is_refused(page: Page) -> None:
    async with page.connection.transaction(isolation="repeatable_read"):
        await page.connection.execute("select set_config('request.jwt.claims', '{\"sub\": \"ada\"}', true)")
        with pytest.raises(InvalidTransactionStateError):
            await page.connection.fetch(f"select {page.schema}.save_conversation('ada', 'trip', 'T')")


async def test_a_save_after_an_erasure_begins_anew(keep: Chatkeep[Any], page: Page) -> None:
    await page.save("ada", "trip", "T", said("m1", "a"))
    await keep.user("ada").delete("trip")
    saved = await page.save("ada", "trip", "New", said("m2", "b"))

    assert (1, "New", ["m2"]) == (saved["version"], saved["title"], saved["added"])


@pytest.mark.parametrize("text", [b"", b"hello world", bytes(range(256)) * 40])
async def test_the_checksum_is_zlibs(owner: Page, text: bytes) -> None:
    """With the server's own, where there is one, and without."""
    assert [zlib.crc32(text)] * 2 == list((await owner.run("select CK.crc($1), CK.crc_in_steps($1)", text))[0])


async def test_the_statements_of_the_docs_run(page: Page) -> None:
    """Each as it stands there, in order, for a user with the grants of the page."""
    await page.connection.execute("select set_config('chatkeep.user', 'ada', false)")
    blocks = [b for b in re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.S) if not b.startswith("grant")]
    found = [await page.run(re.sub(r"\bchatkeep\.(?=\w+[ (])", "CK.", block)) for block in blocks]

    assert [1] * 6 == [len(rows) for rows in found]
