"""What users do with SQL, by three clients of PostgreSQL: asyncpg, psql, and pg of npm. A gateway asks as PostgREST does: its own role may
do nothing, and each call is a transaction under the users' role with the claims of a token."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.testing.programs import postgres_binary
from chatkeep.testing.servers import PostgresServer

from ...support import npm
from ...support.sql_people import SAVES, grants, shown

pytestmark = pytest.mark.server

REFUSED = {"refused": "42501"}
"""insufficient_privilege."""

SAVE = "save_conversation"
LOAD = "load_conversations"
SAY = "append_message"

Call = tuple[Mapping[str, Any], str, Sequence[Any]]
"""The claims, the function, its arguments."""


@dataclass
class Gate:
    """Where clients connect, and as whom their calls run."""

    url: str
    schema: str
    role: str

    def text(self, function: str) -> str:
        """The statement of *function*, with one value as its answer."""
        call = f"{self.schema}.{function}"
        match function:
            case "save_conversation":
                return f"select {call}($1, $2, $3, $4::jsonb, $5, $6, $7)"
            case "append_message":
                return f"select {call}($1, $2, $3::jsonb, $4)"
            case _:
                return f"select coalesce(jsonb_agg(to_jsonb(found)), '[]') from {call}($1) as found"


async def by_asyncpg(gate: Gate, folder: Path, calls: Sequence[Call]) -> list[Any]:
    """In Python."""
    connection = await asyncpg.connect(gate.url)
    answers: list[Any] = []
    for claims, function, arguments in calls:
        try:
            async with connection.transaction():
                await connection.execute(f"set local role {gate.role}")
                await connection.execute("select set_config('request.jwt.claims', $1, true)", json.dumps(claims))
                answers.append(json.loads(await connection.fetchval(gate.text(function), *arguments)))
        except asyncpg.PostgresError as fault:
            answers.append({"refused": fault.sqlstate})
    await connection.close()
    return answers


async def by_psql(gate: Gate, folder: Path, calls: Sequence[Call]) -> list[Any]:
    """In a shell: one script, whose values are dollar-quoted."""
    script = [r"\set VERBOSITY sqlstate"]
    for claims, function, arguments in calls:
        statement = gate.text(function)
        for place, value in reversed([*enumerate(arguments, 1)]):
            statement = statement.replace(f"${place}", quoted(value))
        script += ["begin;", f"set local role {gate.role};", r"\o /dev/null"]
        script += [f"select set_config('request.jwt.claims', {quoted(json.dumps(claims))}, true);", r"\o"]
        script += [f"{statement};", r"\echo state :SQLSTATE", "commit;"]
    psql = await asyncio.to_thread(
        subprocess.run,
        [postgres_binary("psql"), "-X", "-q", "-A", "-t", gate.url],
        input="\n".join(script),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answers: list[Any] = []
    lines: list[str] = []
    for line in psql.stdout.split("\n"):
        if line.startswith("state "):
            answers.append(json.loads(lines[0]) if lines else {"refused": line.removeprefix("state ")})
            lines = []
        else:
            lines.append(line)
    return answers


def quoted(value: Any) -> str:
    """A value as it stands in SQL."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool | int) else f"$text${value}$text$"


SCRIPT = """
import { readFileSync } from "node:fs";
import pg from "pg";

const { url, role, calls } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const client = new pg.Client({ connectionString: url });
await client.connect();
const answers = [];
for (const { claims, text, values } of calls) {
  await client.query("begin");
  try {
    await client.query(`set local role ${role}`);
    await client.query("select set_config('request.jwt.claims', $1, true)", [JSON.stringify(claims)]);
    const { rows } = await client.query({ text, values, rowMode: "array" });
    await client.query("commit");
    answers.push(rows[0][0]);
  } catch (fault) {
    await client.query("rollback");
    answers.push({ refused: fault.code });
  }
}
await client.end();
console.log(JSON.stringify(answers));
"""


async def by_npm_pg(gate: Gate, folder: Path, calls: Sequence[Call]) -> list[Any]:
    """In JavaScript."""
    npm.install(folder, "pg")
    asked = [
        {"claims": claims, "text": gate.text(function), "values": arguments} for claims, function, arguments in calls
    ]
    (folder / "calls.json").write_text(json.dumps({"url": gate.url, "role": gate.role, "calls": asked}))
    return list(json.loads(await npm.run(folder, SCRIPT, "calls.json")))


@pytest.fixture
def schema() -> str:
    """A schema of this test."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
async def keep(postgres: PostgresServer, schema: str) -> AsyncIterator[Chatkeep[dict[str, Any]]]:
    """The library on a schema of its own, which is gone afterwards."""
    keep = Chatkeep(f"{postgres.url}?schema={schema}", poll="60s")

    @keep.on_message
    async def answer(turn: Turn[dict[str, Any]]) -> str:
        return f"You said {turn.text}"

    async with keep:
        yield keep
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(f"set client_min_messages = warning; drop schema {schema} cascade")
    await connection.close()


@pytest.fixture
async def gate(keep: Chatkeep[Any], postgres: PostgresServer, schema: str) -> AsyncIterator[Gate]:
    """A role that may become the users' role and do nothing else; that one has what the docs grant."""
    name = secrets.token_hex(4)
    owner = await asyncpg.connect(postgres.url)
    await owner.execute(f"create role users{name}; create role gate{name} login noinherit password 'secret'")
    await owner.execute(f"grant users{name} to gate{name}")
    for block in grants(schema, f"users{name}"):
        await owner.execute(block)
    yield Gate(postgres.url.replace("//postgres:", f"//gate{name}:"), schema, f"users{name}")
    await owner.execute(f"drop owned by users{name}, gate{name} cascade; drop role users{name}, gate{name}")
    await owner.close()


@pytest.mark.parametrize("client", [by_asyncpg, by_psql, by_npm_pg])
async def test_every_client_saves_as_the_library_does(
    keep: Chatkeep[Any], gate: Gate, tmp_path: Path, client: Callable[..., Awaitable[list[Any]]]
) -> None:
    """Each case of the table, and what is another's is refused; all is in the library's lists and logs, and what is said is answered."""
    ada, eve = {"sub": "ada", "role": "authenticated"}, {"sub": "eve", "app_metadata": {"tenant": "salon"}}
    saves = [
        (case, [asked.get(name) for name in ("title", "version", "checksum")], asked)
        for case, steps in SAVES.items()
        for asked in steps
    ]
    calls: list[Call] = [
        (ada, SAVE, ["ada", case, title, json.dumps(asked.get("messages", [])), bool(asked.get("force")), *known])
        for case, (title, *known), asked in saves
    ]
    calls += [
        (ada, SAY, ["ada", "talk", '"hello"', "m1"]),
        (ada, SAY, ["ada", "talk", '"hello"', "m1"]),
        (eve, SAVE, ["ada", "trip", "Mine now", "[]", True, None, None]),
        (eve, SAY, ["ada", "talk", '"x"', "m2"]),
        (eve, LOAD, ["ada"]),
        ({}, LOAD, ["ada"]),
        (eve, SAVE, ["eve", "a new one", "Of the salon", "[]", False, None, None]),
        (eve, LOAD, ["eve"]),
        (ada, LOAD, ["ada"]),
    ]
    answers = await client(gate, tmp_path, calls)
    *said, theirs, loaded = answers[len(saves) :]
    ours = [await keep.user("bob").save(f"our {case}", **asked) for case, _, asked in saves]

    assert [(one.version, one.title, one.added, one.conflicts) for one in ours] == [
        tuple(one[name] for name in ("version", "title", "added", "conflicts")) for one in answers[: len(saves)]
    ]
    assert [False, True] == [one["duplicate"] for one in said[:2]]
    assert [REFUSED] * 4 == said[2:6]
    assert (["a new one"], ["Of the salon"]) == ([one["id"] for one in theirs], [one["title"] for one in theirs])
    listed = [one async for one in keep.user("ada").conversations() if one.id != "talk"]

    assert [(one.id, one.title, one.checksum) for one in listed] == [
        (one["id"], one["title"], one["checksum"]) for one in loaded if one["id"] != "talk"
    ]
    assert ["Of the salon"] == [one.title async for one in keep.tenant("salon").user("eve").conversations()]
    for case in SAVES:
        assert await shown(keep, f"our {case}") == await shown(keep, case)
    assert "You said hello" == (await keep.receive("talk", "hello", id="m1")).replies[0].text
