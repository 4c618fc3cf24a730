"""What releases have written opens today: stores, queues, exports with the records of people. What a browser keeps is tried in
tests/web/test_kept.py, cookies in tests/cookie/test_sealing.py, what Python and the worker of Durable Objects share in
tests/drivers/test_golden.py."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key, list_user_tokens
from chatkeep.client import Client
from chatkeep.drivers.postgresql.opening import migrations
from chatkeep.storage.archive import import_lines

from .support.program import chatkeep
from .support.serving import served
from .support.stores import FAST, store_url

GOLDEN = Path(__file__).parent / "golden"

FORMATS = {
    "sqlite_0.2.0.sql": "a store on SQLite, schema 1: two conversations, one with a message that is not answered",
    "postgresql_0.2.0.sql": "the same on PostgreSQL, schema 3",
    "redis_0.2.0.json": "the same on Redis 6.2: keys as DUMP gives them",
    "outbox_0.2.0.sql": "the queue of the Python client, two messages",
    "export_1.jsonl": "an export with a user's conversations, a claim, what gave way, an erasure and a user's token",
    "local_data_1.json": "what a browser has kept with release 0.2.0",
    "local_data_2.json": "what a browser keeps, with an account's list",
}
"""Each file stays as it was written; a format that is new gets a file of its own."""


def test_every_golden_file_is_in_the_table() -> None:
    """And the other way round."""
    assert FORMATS.keys() == {path.name for path in GOLDEN.iterdir()}


def golden(name: str) -> str:
    """The text of a file."""
    return (GOLDEN / name).read_text()


async def bot(turn: Turn[Any]) -> str:
    """That of the golden stores."""
    cart = turn.state.setdefault("cart", [])
    cart.append(turn.text)
    return f"{len(cart)} in your cart"


async def on_sqlite(request: pytest.FixtureRequest, folder: Path) -> str:
    """The golden store in a file."""
    db = sqlite3.connect(folder / "chat.db")
    db.executescript(golden("sqlite_0.2.0.sql"))
    db.execute("pragma application_id = 1667787632")
    db.execute("pragma user_version = 1")
    db.execute("pragma journal_mode = wal")
    db.close()
    return f"sqlite:///{folder}/chat.db"


async def on_postgresql(request: pytest.FixtureRequest, folder: Path) -> str:
    """The golden rows in the schema of that release."""
    url = store_url("postgresql", request, folder)
    server, _, schema = url.partition("?schema=")
    connection = await asyncpg.connect(server)
    await connection.execute(f"create schema {schema}")
    for text in [*migrations()[:3], "delete from chatkeep.meta", golden("postgresql_0.2.0.sql")]:
        await connection.execute(text.replace("chatkeep.", f"{schema}."))
    await connection.close()
    return url


async def on_redis(request: pytest.FixtureRequest, folder: Path) -> str:
    """The golden keys, under another prefix."""
    import redis.asyncio

    url = store_url("redis", request, folder)
    server, _, prefix = url.partition("?prefix=")
    async with redis.asyncio.from_url(server) as client:
        for key, value in json.loads(golden("redis_0.2.0.json")).items():
            await client.restore(key.replace("chatkeep:", f"{prefix}:", 1), 0, base64.b64decode(value))
    return url


Opener = Callable[..., Any]


@pytest.mark.server
@pytest.mark.parametrize("write", [on_sqlite, on_postgresql, on_redis])
async def test_a_store_of_a_release_goes_on(request: pytest.FixtureRequest, tmp_path: Path, write: Opener) -> None:
    """State, log, ids and numbers are there; what waited is answered once, and the store finds nothing wrong with itself."""
    keep: Chatkeep[Any] = Chatkeep(await write(request, tmp_path), **FAST)
    keep.on_message(bot)
    async with keep:
        waited = await keep.receive("ada", "a polish", id="m2")
        again = await keep.receive("ada", "basic manicure", id="m0")
        further = await keep.receive("ada", "that is all")
        log = [(m.number, m.id if m.role == "user" else "", m.text) async for m in keep.history("ada")]
        salon = await keep.tenant("salon").conversation("eve")
        findings = await core_of(keep).driver.examine()

    assert ("3 in your cart", True, "1 in your cart", "4 in your cart") == (
        waited.replies[0].text,
        again.duplicate,
        again.replies[0].text,
        further.replies[0].text,
    )
    assert [
        (1, "m0", "basic manicure"),
        (2, "", "1 in your cart"),
        (3, "m1", "and a pedicure ä"),
        (4, "", "2 in your cart"),
        (5, "m2", "a polish"),
        (6, "", "3 in your cart"),
    ] == log[:6]
    assert salon is not None
    assert {"cart": ["hello"]} == salon.state
    assert [] == [finding for finding in findings if finding.level == "fail"]


async def test_a_queue_of_a_release_is_sent(tmp_path: Path) -> None:
    """Once, when it is known whose it is."""
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    keep.on_message(bot)
    async with keep, served(keep) as server:
        url = f"http://127.0.0.1:{server.port}"
        db = sqlite3.connect(tmp_path / "outbox.db")
        db.executescript(golden("outbox_0.2.0.sql").replace("http://127.0.0.1:9", url))
        db.close()
        async with Client(url, (await create_key(keep, "")).token, queue=str(tmp_path / "outbox.db")) as client:
            held = client.pending.held
            await client.adopt()
            await client.drained()
        said = [(m.id, m.text) async for m in keep.history("ada") if m.role == "user"]

    assert (2, [("p1", "and a pedicure"), ("p2", "a polish ä")]) == (held, said)


async def test_an_export_with_people_is_read(url: str) -> None:
    """On every store: the user's list, what was claimed, what gave way, what was erased, and the token."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST, clock=lambda: 1_796_000_000.0)  # the token has not expired
    keep.on_message(bot)
    async with keep:
        lines = (GOLDEN / "export_1.jsonl").read_bytes().splitlines(keepends=True)
        await import_lines(core_of(keep).driver, lines)
        ada = keep.user("ada")
        trip = await ada.conversation("trip")
        changed = await ada.changes()
        losses = [(lost.about, lost.value) for lost in await keep.losses("trip")]
        waited = await keep.receive("shop", "and a pedicure", id="m1")
        tokens = await list_user_tokens(keep, "", "ada")

    assert trip is not None
    assert ("To Naples", True) == (trip.title, trip.pinned)
    assert {"trip", "shop"} == {one.id for one in changed.conversations}
    assert [("state", "Grace"), ("title", "Florence")] == losses
    assert "2 in your cart" == waited.replies[0].text
    assert ["phone"] == [one.label for one in tokens]


async def test_a_form_of_ones_own_is_imported(tmp_path: Path) -> None:
    """By the example of docs/how-to/export.md: a team's first keys become a user's list, once, and nothing of it is answered."""
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "export.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.S)
    log = [["m1", "me", "a train?", 1763697600000], ["m2", "bot", "at nine", 1763697603500]]
    old = {"v1:ada:trip": {"name": "To Rome", "log": log}, "v1:ada:a:b": {"name": "Other", "log": log[:1]}}
    (tmp_path / "v1.json").write_text(json.dumps(old))
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True)
    said = [chatkeep("import", "chat.db", "v1.jsonl", *more, folder=tmp_path) for more in (["--check"], [], [])]
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", **FAST)
    keep.on_message(bot)
    async with keep:
        listed = {one.id: (one.title, one.last) async for one in keep.user("ada").conversations()}
        again = await keep.receive("trip", "a train?", id="m1")
        times = [(m.role, m.created_at) async for m in keep.history("trip")]

    assert [0, 0, 0] == [code for code, _, _ in said]
    assert "2 were there already" in said[2][1]
    assert {"trip": ("To Rome", "at nine"), "a:b": ("Other", "a train?")} == listed
    assert again.duplicate
    assert [("user", 1763697600.0), ("assistant", 1763697603.5)] == times
