"""Looking into a store while others use it, and changing what is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatkeep import Chatkeep, Corrupt

from ..support.counting import count
from ..support.program import Demo, chatkeep, post
from ..support.stores import store_url


def test_a_store_can_be_looked_into_while_a_server_has_it_open(tmp_path: Path) -> None:
    """list, show and history see what was answered a moment ago, and the server goes on."""
    with Demo(tmp_path) as demo:
        post(demo.address, "ada", "2 margherita", tmp_path / "chatkeep-demo.db")
        post(demo.address, "table%2F4", "menu", tmp_path / "chatkeep-demo.db")
        listed = chatkeep("list", "chatkeep-demo.db", folder=tmp_path)
        as_json = chatkeep("list", f"sqlite:///{tmp_path}/chatkeep-demo.db", "--json", folder=tmp_path)
        one = chatkeep("list", "chatkeep-demo.db", "--limit", "1", "--json", folder=tmp_path)
        shown = chatkeep("show", "chatkeep-demo.db", "ada", folder=tmp_path)
        shown_json = chatkeep("show", "chatkeep-demo.db", "ada", "--json", folder=tmp_path)
        history = chatkeep("history", "chatkeep-demo.db", "table/4", folder=tmp_path)
        pages = chatkeep(
            "history", "chatkeep-demo.db", "ada", "--after", "1", "--before", "3", "--json", folder=tmp_path
        )
        post(demo.address, "ada", "remove 1 margherita", tmp_path / "chatkeep-demo.db")
        later = chatkeep("show", "chatkeep-demo.db", "ada", "--json", folder=tmp_path)

        assert demo.process.poll() is None

    assert [0] * 8 == [found[0] for found in (listed, as_json, one, shown, shown_json, history, pages, later)]
    assert {"ada", "table/4"} == {json.loads(line)["conversation"] for line in as_json[1].splitlines()}
    assert 3 == len(listed[1].splitlines())
    assert 1 == len(one[1].splitlines())
    assert '"margherita": 2' in shown[1]
    assert "session:" in shown[1]
    assert {"margherita": 2} == json.loads(shown_json[1])["state"]["cart"]
    assert ["2 margherita", "Benvenuto at Bella Napoli!"] == [
        message["content"] for message in json.loads(shown_json[1])["messages"] if message["role"] != "system"
    ][:2]
    assert "assistant  Benvenuto at Bella Napoli!" in history[1]
    assert [2] == [json.loads(line)["number"] for line in pages[1].splitlines()]
    assert {"margherita": 1} == json.loads(later[1])["state"]["cart"]


def test_tenants_are_kept_apart(store: Path) -> None:
    """list shows all or one; the others need the tenant's name to find its conversation."""
    everything = chatkeep("list", "chat.db", "--json", folder=store.parent)
    salon = chatkeep("list", "chat.db", "--tenant", "salon", "--json", folder=store.parent)
    found = chatkeep("show", "chat.db", "ada", "--tenant", "salon", folder=store.parent)
    missing = chatkeep("show", "chat.db", "ada", folder=store.parent)

    assert 3 == len(everything[1].splitlines())
    assert ["salon"] == [json.loads(line)["tenant"] for line in salon[1].splitlines()]
    assert 0 == found[0]
    assert (1, "") == missing[:2]
    assert "no conversation 'ada'" in missing[2]


def test_redacting_asks_first_and_is_shown(store: Path) -> None:
    """In the history and in the export; what is not there is refused."""

    def ran(*arguments: str) -> tuple[int, str, str]:
        return chatkeep(*arguments, folder=store.parent)

    unasked, wrong = ran("redact", "chat.db", "bob", "1"), ran("redact", "chat.db", "bob", "99", "--yes")
    done = ran("redact", "chat.db", "bob", "1", "--yes")
    history, export = ran("history", "chat.db", "bob"), ran("history", "chat.db", "bob", "--json")

    assert (1, 2) == (unasked[0], wrong[0])
    assert "no message 99" in wrong[2]
    assert (0, "Message 1 is redacted.\n") == done[:2]
    assert "[redacted]" in history[1].splitlines()[0]
    assert "bomb" not in history[1] + export[1]
    assert [True] == [line["redacted"] for line in map(json.loads, export[1].splitlines()) if line["number"] == 1]


def test_erasing_asks_first(store: Path) -> None:
    """No answer or no: nothing is gone. --yes: everything is."""
    asked = chatkeep("erase", "chat.db", "eve", folder=store.parent)
    refused = chatkeep("erase", "chat.db", "eve", typed="n\n", folder=store.parent)
    there = chatkeep("show", "chat.db", "eve", folder=store.parent)
    done = chatkeep("erase", "chat.db", "eve", "--yes", folder=store.parent)
    gone = chatkeep("show", "chat.db", "eve", folder=store.parent)

    assert [1, 1, 0, 0, 1] == [found[0] for found in (asked, refused, there, done, gone)]
    assert 1 == chatkeep("erase", "chat.db", "eve", "--yes", folder=store.parent)[0]


def test_a_user_is_erased_with_a_receipt(tmp_path: Path) -> None:
    """As a person reads it and as JSON; a conversation and a user are not named together."""
    keep = Chatkeep(f"sqlite:///{tmp_path}/chat.db")
    keep.on_message(count)

    async def fill() -> None:
        async with keep:
            for name in ("trip", "shop"):
                await keep.receive(name, "hello", owner="ada")

    asyncio.run(fill())
    both = chatkeep("erase", "chat.db", "trip", "--user", "ada", folder=tmp_path)
    neither = chatkeep("erase", "chat.db", folder=tmp_path)
    refused = chatkeep("erase", "chat.db", "--user", "ada", typed="n\n", folder=tmp_path)
    done = chatkeep("erase", "chat.db", "--user", "ada", "--yes", folder=tmp_path)
    receipt = json.loads(chatkeep("erase", "chat.db", "--user", "ada", "--yes", "--json", folder=tmp_path)[1])
    audit = chatkeep("audit", "chat.db", folder=tmp_path)[1]

    assert [2, 2, 1, 0] == [found[0] for found in (both, neither, refused, done)]
    assert "with 2 conversations" in refused[1]
    assert "2 conversations with 4 log entries" in done[1]
    assert ("ada", []) == (receipt["user"], receipt["conversations"])
    assert "user:erase" in audit


def test_a_state_that_cannot_be_read_is_cleared(store: Path) -> None:
    """`forget` asks first, and needs no type: the slot that is wrong, or all of it; the bot then reads it again."""

    class Loose(msgspec.Struct):
        seats: Any = 1
        name: str = ""

    class Order(msgspec.Struct):
        seats: int = 1
        name: str = ""

    url = f"sqlite:///{store}"

    async def spoil() -> None:
        async with Chatkeep(url, state=Loose) as keep:
            for name in ("kim", "lee"):
                await keep.change(name, lambda state, name=name: Loose("two", name))

    async def states() -> list[Order]:
        async with Chatkeep(url, state=Order) as keep:
            found = [await keep.conversation(name) for name in ("kim", "lee")]
            return [conversation.state for conversation in found if conversation is not None]

    asyncio.run(spoil())
    with pytest.raises(Corrupt):
        asyncio.run(states())
    refused = chatkeep("clear", "chat.db", "kim", "--slot", "seats", typed="n\n", folder=store.parent)
    shown = chatkeep("show", "chat.db", "kim", folder=store.parent)
    slot = chatkeep("clear", "chat.db", "kim", "--slot", "seats", "--yes", folder=store.parent)
    whole = chatkeep("clear", "chat.db", "lee", "--yes", folder=store.parent)

    assert (1, True) == (refused[0], '"two"' in shown[1])
    assert (0, "Slot 'seats' of kim is cleared.\n") == slot[:2]
    assert (0, "The state of lee is cleared.\n") == whole[:2]
    assert [Order(1, "kim"), Order()] == asyncio.run(states())
    assert 1 == chatkeep("clear", "chat.db", "nobody", "--yes", folder=store.parent)[0]


def test_what_is_damaged_can_be_erased(store: Path) -> None:
    """It cannot be shown, and that is no reason to keep it."""
    with contextlib.closing(sqlite3.connect(store)) as db, db:
        db.execute("update conversation set body = x'01' where id = 'eve'")
    shown = chatkeep("show", "chat.db", "eve", folder=store.parent)
    done = chatkeep("erase", "chat.db", "eve", "--yes", folder=store.parent)

    assert (4, 0) == (shown[0], done[0])
    assert 1 == chatkeep("show", "chat.db", "eve", folder=store.parent)[0]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_store_whose_pauses_are_damaged_is_mended_by_a_command(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """The bot rests meanwhile, lists are shown, and the error names the command; on Redis also where bytes are nobody's."""
    url = f"sqlite:///{tmp_path}/chat.db" if kind == "sqlite" else store_url(kind, request, tmp_path)
    chatkeep("chat", "restaurant", "--store", url, typed="2 margherita\n", folder=tmp_path)
    assert 0 == chatkeep("pause", url, "--everywhere", folder=tmp_path)[0]
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db, db:
            db.execute("update conversation set body = x'01' where id = 'switches'")
    else:
        server = request.getfixturevalue("valkey")
        names = server.ask("KEYS", f"{url.rpartition('=')[2]}:*row:*").split(b"\r\n")
        (row,) = [name for name in names if name.endswith(b"chatkeep\0switches")]
        server.ask("SET", row.decode(), "garbage")
    listed = chatkeep("list", url, folder=tmp_path)
    asked = chatkeep("paused", url, folder=tmp_path)
    resumed = chatkeep("resume", url, "--everywhere", folder=tmp_path)
    after = chatkeep("list", url, folder=tmp_path)

    assert (0, 4, 0) == (listed[0], asked[0], resumed[0]), resumed
    assert "paused (everywhere)" in listed[1]
    assert "`chatkeep resume STORE --everywhere`" in listed[2]
    assert (0, False, "") == (after[0], "paused" in after[1], after[2])


def test_a_name_forges_no_line_of_an_error(store: Path) -> None:
    """A line break in an id is shown as one, in errors and in what is logged."""
    name = "a\nchatkeep: all is well"

    async def fill() -> None:
        async with Chatkeep(f"sqlite:///{store}") as keep:
            await keep.accept(name, "hi")

    asyncio.run(fill())
    with contextlib.closing(sqlite3.connect(store)) as db, db:
        db.execute("update conversation set body = x'01' where id = ?", [name])
    shown = chatkeep("show", "chat.db", name, folder=store.parent)
    resumed = chatkeep("resume", "chat.db", "--everywhere", folder=store.parent)

    assert (4, 0) == (shown[0], resumed[0])
    assert ["chatkeep: a\\nchatkeep"] == [line[:21] for line in shown[2].splitlines()]
    assert ["ERROR chatkeep: a\\nchatkeep"] == [line[:27] for line in resumed[2].splitlines()]


@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_a_shared_store_can_be_looked_into(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """The same commands, another URL."""
    url = store_url(kind, request, tmp_path)
    told = chatkeep("chat", "restaurant", "--store", url, typed="2 margherita\n", folder=tmp_path)
    listed = chatkeep("list", url, folder=tmp_path)
    shown = chatkeep("history", url, "terminal", folder=tmp_path)
    nobody = chatkeep("show", url, "nobody", folder=tmp_path)

    assert (0, 0, 0) == (told[0], listed[0], shown[0])
    assert "terminal" in listed[1]
    assert "2 margherita" in shown[1]
    assert (1, False) == (nobody[0], ":secret@" in nobody[2])
