"""The description of the API is true, held against the running server by schemathesis, and complete."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.server import create_app, openapi
from chatkeep.server.app import ROUTES
from chatkeep.server.assets import CLIENT, OPERATOR, SHOWN

from ..support.serving import served
from ..support.soaking import SOAK

CONFIG = Path(__file__).with_name("schemathesis.toml")


def test_every_route_is_described() -> None:
    """A route without an entry in OPERATIONS, or an entry without a route, is a mistake."""
    app = create_app(Chatkeep("memory://"))
    routed = {(path, method) for path, method, _ in openapi.endpoints(app.routes)} - {
        (path, "get") for path in (*CLIENT, *SHOWN, *OPERATOR, "/")
    }

    assert routed == openapi.OPERATIONS.keys() - {("/metrics", "get")}


def test_names_in_the_description_are_unique_and_references_lead_somewhere() -> None:
    """Generated clients need both."""
    told = json.loads(json.dumps(openapi.document(ROUTES)))
    operations = [operation for path in told["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return found.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    components = {f"#/components/{kind}/{name}" for kind, found in told["components"].items() for name in found}
    assert sorted(set(names)) == sorted(names)
    assert all(operation["summary"] for operation in operations)
    assert set() == references(told) - components
    assert [] == [name for name in told["components"]["schemas"] if "." in name], "two types of one name"


async def test_the_description_says_where_it_is_mounted() -> None:
    """servers is the root path; it is the same document for everybody, without credentials."""
    async with served(Chatkeep("memory://")) as client:
        answer = await client.ask("GET", "/openapi.json", headers={"Authorization": ""})

    assert (200, "application/json", "3.1.0", [{"url": "/"}]) == (
        answer.status,
        answer.headers["content-type"],
        answer.json["openapi"],
        answer.json["servers"],
    )


@pytest.mark.long
@pytest.mark.slow
async def test_the_server_does_what_the_description_says(tmp_path: Path) -> None:
    """Schemathesis' coverage, fuzzing and stateful phases with every check that it has."""
    keep: Chatkeep[Any] = Chatkeep("memory://")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        turn.state["count"] = turn.state.get("count", 0) + 1
        return turn.text

    async with served(keep) as client:
        program = ("--config-file", str(CONFIG), "run", f"http://127.0.0.1:{client.port}/openapi.json")
        options = ("--exclude-path-regex", "/events$", "--max-examples", f"{4 * SOAK}", "--seed", "7")
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")),
            *program,
            *("-H", f"Authorization: Bearer {client.key}", "--continue-on-failure", "--no-color", *options),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()

    assert 0 == process.returncode, said.decode()[-6000:]


def test_generated_clients_understand_what_is_meant() -> None:
    """No member has a default (generators take it for a promise), what is free is said to be so, and headers allow what is taken."""
    told = json.loads(json.dumps(openapi.document(ROUTES)))

    def schemas(value: Any) -> list[dict[str, Any]]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        own = [value] if isinstance(value, dict) and isinstance(value.get("type"), str) else []
        return own + [schema for part in parts for schema in schemas(part)]

    found = schemas(told["components"]["schemas"]) + schemas(told["paths"])
    members = [member for schema in found for member in schema.get("properties", {}).values()]
    closed = [
        schema
        for schema in found
        if schema["type"] == "object" and "properties" not in schema and "additionalProperties" not in schema
    ]
    patch = told["paths"]["/v1/conversations/{id}/state"]["patch"]
    [tags] = {openapi.HEADERS[name]["pattern"] for name in ("If-Match", "If-None-Match")}

    assert len(members) > 50
    assert [] == [member for member in members if "default" in member]
    assert [] == closed
    assert "object" == patch["requestBody"]["content"]["application/merge-patch+json"]["schema"]["type"]
    for good in ("*", '"1c29"', '"a", "b"', 'W/"a","b"'):
        assert re.fullmatch(tags, good), good
    for bad in ("", '"a" "b"', '*, "a"'):
        assert not re.fullmatch(tags, bad), bad
