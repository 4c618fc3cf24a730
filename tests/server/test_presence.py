"""Who has a conversation open at the desk, and who writes: told among all servers on a store, and gone when they leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep
from chatkeep.app import core_of
from chatkeep.server import create_app, presence
from chatkeep.server.presence import Told

from ..support.desk import PASSWORD, Person, person
from ..support.serving import served, serving
from ..support.stores import FAST
from ..support.waiting import until

ADA = "/v1/conversations/ada"


@asynccontextmanager
async def open_at_desk(who: Person, path: str = f"{ADA}/events") -> AsyncIterator[None]:
    """The page of *who* shows a conversation, as long as the block lasts."""
    reader, writer = await asyncio.open_connection("127.0.0.1", who.client.port)
    told = {"Host": "localhost", "Cookie": who.cookie, "Chatkeep-Desk": who.proof, "Sec-Fetch-Site": "same-origin"}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
    assert b" 200 " in await reader.readline()
    try:
        yield
    finally:
        writer.close()


async def present(who: Person) -> list[tuple[str, str, bool]]:
    """Who is where, and writes."""
    answer = await who.ask("GET", "/v1/desk/present")
    assert answer.status == 200, answer.body
    return [(one["conversation"], one["account"], one["writing"]) for one in answer.json["present"]]


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_all_servers_know_who_is_here(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open and writing, told by the other server on the store; gone when the page is left; many key presses are not a write each."""
    monkeypatch.setattr(presence, "SAYS_S", 0.1)
    monkeypatch.setattr(presence, "LOOKS_S", 0.05)
    monkeypatch.setattr(presence, "WRITES_S", 1.0)
    keep, other = Chatkeep[Any](url, **FAST), Chatkeep[Any](url, **FAST)
    async with serving(create_app(keep)) as port, serving(create_app(other)) as other_port:
        kim = await person(keep, port, "agent", shown="Kim")
        lee = await person(keep, other_port, "admin", shown="Lee")
        await keep.accept("ada", "hello")
        revision = (await keep.conversation("ada")).revision  # type: ignore[union-attr]
        async with open_at_desk(kim):
            await until(lambda: is_present(lee, [("ada", "agent", False)]), within=10)
            for _ in range(20):
                assert 204 == (await kim.ask("PUT", f"{ADA}/writing")).status
            await until(lambda: is_present(lee, [("ada", "agent", True)]), within=10)
            at_once = await present(kim)
            await until(lambda: is_present(lee, [("ada", "agent", False)]), within=10)
        await until(lambda: is_present(lee, []), within=10)
        names = [name async for name in core_of(keep).records("presence", Told).owned(presence.LISTED)]
        (row,) = [await core_of(keep).records("presence", Told).get(name) for name in names]
        after = (await keep.conversation("ada")).revision  # type: ignore[union-attr]
    assert [("ada", "agent", True)] == at_once
    assert row is not None
    assert [] == row.present
    assert revision == after


async def test_who_comes_back_within_a_moment_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is loaded anew, just after the other server has been told that nobody is there any more."""
    monkeypatch.setattr(presence, "SAYS_S", 0.5)
    monkeypatch.setattr(presence, "LOOKS_S", 0.0)
    keep, other = (Chatkeep[Any](f"sqlite:///{tmp_path}/chat.db", **FAST) for _ in "ab")
    async with serving(create_app(keep)) as port, serving(create_app(other)) as other_port:
        kim = await person(keep, port, "agent")
        lee = await person(keep, other_port, "admin")
        await keep.accept("ada", "hello")
        async with open_at_desk(kim):
            await until(lambda: is_present(lee, [("ada", "agent", False)]), within=10)
        await until(lambda: is_present(lee, []), within=10)
        async with open_at_desk(kim):
            await until(lambda: is_present(lee, [("ada", "agent", False)]), within=10)


async def test_a_desk_with_many_tells_of_those_whom_a_record_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes first: nobody is told of nobody because somebody has long names."""
    monkeypatch.setattr(presence, "LOOKS_S", 0.0)
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with keep:
        told, other = presence.Presence(keep), presence.Presence(keep)
        for n in range(700):
            told._open["", f"{n:03}" + "\x01" * 500, "agent", "Kim"] += 1
        told._writing["", "699" + "\x01" * 500, "agent", "Kim"] = time.monotonic() + 60
        told._tell()
        await until(other.find, within=10)
        heard = await other.find()
        await told.close()

    assert heard[-1].writing
    assert ["000", "699"] == [heard[0].conversation[:3], heard[-1].conversation[:3]]
    assert 10 < len(heard) < 700


async def is_present(who: Person, wanted: list[tuple[str, str, bool]]) -> bool:
    """Whether these are there."""
    return await present(who) == wanted


async def test_who_is_here_is_known_to_those_who_answer_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither viewers nor other tenants; a server that was killed is believed for a while, and then forgotten."""
    monkeypatch.setattr(presence, "LOOKS_S", 0.0)
    keep: Chatkeep[Any] = Chatkeep("memory://", **FAST)
    async with served(keep) as client:
        await keep.tenant("salon").accept("ada", "hello")
        kim = await person(keep, client.port, "agent", tenants=["salon"], shown="Kim")
        viewer = await person(keep, client.port, "viewer", tenants=["salon"])
        other = await person(keep, client.port, "admin", tenants=["pizza"])
        async with open_at_desk(kim):
            await until(lambda: is_present(kim, [("ada", "agent", False)]), within=10)
            seen = [await present(other), (await viewer.ask("GET", "/v1/desk/present")).status]
            again = Person(client.port)
            await again.sign_in({"name": "agent", "password": PASSWORD})
            both = await present(again)
        await until(lambda: is_present(kim, []), within=10)
        records = core_of(keep).records("presence", Told)
        now = core_of(keep).clock()
        for name, at in (("new", now - 30), ("old", now - 90), ("oldest", now - 700)):
            told = Told([presence.Present("salon", name, "lee", "Lee", False)], at)
            await records.change(name, lambda held, told=told: told, owner=presence.LISTED)
        killed = await present(kim)
        named = await kim.ask("PUT", f"/v1/conversations/{'x' * 1000}/writing")
        left = {name async for name in records.owned(presence.LISTED)} & {"new", "old", "oldest"}

    assert ([[], 403], [("ada", "agent", False)]) == (seen, both)
    assert 400 <= named.status < 500, named
    assert [("new", "lee", False)] == killed
    assert {"new", "old"} == left
