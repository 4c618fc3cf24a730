"""Event streams over HTTP: resumable, in order, bounded, and ended in words."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import issue_token
from chatkeep.server import create_app, events, streams

from ..support.protocols import Bot
from ..support.serving import Client, narrow_connection, served, serving
from ..support.waiting import time_passes, until


async def echo(turn: Turn[Any]) -> str:
    """Says it again."""
    turn.state["last"] = turn.text
    return f"you said {turn.text}"


class Stream:
    """An open event stream, as a browser reads it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.status = 0
        self.headers = ""
        self.rest = b""

    async def begin(self) -> None:
        """Reads the head."""
        self.headers = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        self.status = int(self.headers.split()[1])

    async def block(self) -> dict[str, str]:
        """The next block of lines; comments under "". Nothing when the stream ends."""
        while b"\n\n" not in self.rest:
            size = int(await self.reader.readline() or b"0", 16)
            chunk = await self.reader.readexactly(size + 2)
            if size == 0:
                return {}
            self.rest += chunk[:-2]
        block, self.rest = self.rest.split(b"\n\n", 1)
        return {name: value.lstrip() for name, _, value in (line.partition(":") for line in block.decode().split("\n"))}

    async def read(self, count: int, *, within: float = 10.0) -> list[tuple[str, Any, str]]:
        """The next *count* events: name, data and id."""
        found: list[tuple[str, Any, str]] = []
        async with asyncio.timeout(within):
            while len(found) < count and (block := await self.block()):
                if "event" in block:
                    found.append((block["event"], json.loads(block["data"]), block.get("id", "")))
        return found

    async def only(self, kind: str, count: int = 1, *, within: float = 10.0) -> list[tuple[str, Any, str]]:
        """The next *count* events of this kind; others are passed over."""
        found: list[tuple[str, Any, str]] = []
        async with asyncio.timeout(within):
            while len(found) < count:
                found += [event for event in await self.read(1, within=within) if event[0] == kind]
        return found


async def test_every_blank_line_ends_an_event_with_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many readers make a "message" of any block, such as `retry:` or a heartbeat alone, and the obvious json.loads then fails."""
    monkeypatch.setattr(events, "BEAT_S", 0.05)
    keep: Chatkeep[Any] = Chatkeep("memory://")
    keep.on_message(echo)
    async with served(keep) as client, stream(client, "ada", "?after=0") as opened:
        seen = b""
        async with asyncio.timeout(10):
            while seen.count(b": beat\n") < 3:
                seen += await opened.reader.readline()
            await keep.receive("ada", "hello")
            while b"you said hello" not in seen or seen.count(b": beat\n") < 6:
                seen += await opened.reader.readline()
    blocks = re.sub(rb"(?m)^[0-9a-f]+\r\n|\r\n$", b"", seen).split(b"\n\n")

    assert b"retry: 1000" in blocks[0]
    assert [] == [block for block in blocks[:-1] if b"\ndata: " not in block]


@asynccontextmanager
async def stream(client: Client, id: str, query: str = "", token: str = "", **headers: str) -> AsyncIterator[Stream]:
    """Opens the events of a conversation."""
    reader, writer = await narrow_connection(client.port)
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    writer.write(
        f"GET /v1/conversations/{id}/events{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
        f"{token or client.key}\r\n{told}\r\n".encode()
    )
    found = Stream(reader, writer)
    await found.begin()
    try:
        yield found
    finally:
        writer.close()


def keep_with(handler: Any = echo, url: str = "memory://", **options: Any) -> Chatkeep[Any]:
    """A Chatkeep to serve."""
    keep: Chatkeep[Any] = Chatkeep(url, **({"poll": "50ms"} | options))
    keep.on_message(handler)
    return keep


async def test_a_stream_that_is_cut_in_a_reply_goes_on_behind_the_piece(tmp_path: Path) -> None:
    """By the id of any event, on any instance; while the reply is made, and when it is recorded."""
    url = f"sqlite:///{tmp_path}/chat.db"
    bot, other = Bot(url), Bot(url)
    other.goes.clear()
    bot.goes.clear()
    async with served(bot.keep) as client, served(other.keep) as second:
        async with stream(client, "ada", "?after=0") as opened:
            number = (await bot.keep.accept("ada", "ü and you", id="m1")).number
            (_, first, id), *_ = await opened.only("piece")
        async with stream(second, "ada", Last_Event_ID=id) as opened:
            [(_, on, _)] = await opened.only("typing")
            for one in (bot, other):
                one.goes.set()
            rest = await opened.only("piece")
            told = await opened.only("message")
        async with stream(second, "ada", Last_Event_ID=id) as opened:
            [(_, piece, _)] = await opened.only("piece")
            [(_, message, _)] = await opened.only("message")

    assert ("Hello ", "Hello there, ü and you") == (first["text"], told[0][1]["content"])
    assert {"on": True} == on
    assert (6, first["reply"], "m1") == (rest[0][1]["at"], rest[0][1]["reply"], rest[0][1]["turn"])
    assert "there, ü and you".startswith(rest[0][1]["text"])
    assert ("there, ü and you", number + 1) == (piece["text"], message["number"])


async def test_a_stream_goes_on_where_the_last_one_ended() -> None:
    """By Last-Event-ID, by `after`, or from now on; ids are the log's numbers."""
    keep = keep_with()
    async with served(keep) as client:
        await client.post("ada", {"content": "one"})
        async with stream(client, "ada") as now, stream(client, "ada", "?after=1") as later:
            assert (200, True) == (now.status, "text/event-stream" in now.headers and "no-store" in now.headers)
            await client.post("ada", {"content": "two"})
            first = await now.only("message", 2)
            second = await later.only("message", 3)
        async with stream(client, "ada", "?after=9", Last_Event_ID="3") as again:
            third = await again.only("message")

    assert [("message", "two", "3"), ("message", "you said two", "4")] == [
        (kind, data["content"], id) for kind, data, id in first if kind == "message"
    ]
    assert ["2", "3", "4"] == [id for kind, _, id in second if kind == "message"]
    assert [("message", "you said two", "4")] == [(kind, data["content"], id) for kind, data, id in third]


@pytest.mark.parametrize(
    "asked", ["?after=x", "?after=-1", "?before=3", "?after=1&after=2", "id:x", "id:-1", "id:1.5", "id:1.", "id:1.e30"]
)
async def test_nonsense_is_refused(asked: str) -> None:
    """With 400 and words, before a stream is opened."""
    async with served(keep_with()) as client:
        headers = {"Last-Event-ID": asked[3:]} if asked.startswith("id:") else {}
        query = "" if headers else asked
        answer = await client.ask("GET", f"/v1/conversations/ada/events{query}", headers=headers)

        assert 400 == answer.status
        assert 200 == (await client.ask("HEAD", "/v1/conversations/ada/events")).status if not query else True


async def test_the_state_is_told_only_to_who_may_read_it() -> None:
    """With the same ETag as GET /state has."""

    @dataclass
    class Order:
        items: list[str] = field(default_factory=list)
        seats: int = 2

    async def bot(turn: Turn[Order]) -> str:
        turn.state.items.append(turn.text)
        return "ok"

    keep: Chatkeep[Order] = Chatkeep("memory://", state=Order)
    keep.on_message(bot)
    async with served(keep) as client:
        token = (await issue_token(keep, "", "ada")).token
        async with stream(client, "ada") as all_of_it, stream(client, "ada", token=token) as talk_only:
            await client.post("ada", {"content": "pizza"})
            told, heard = await all_of_it.only("state"), await talk_only.read(2)
            state = await client.ask("GET", "/v1/conversations/ada/state")
            await client.post("ada", {"content": "pasta"})
            heard += await talk_only.read(2)

    changed = [data for _, data, _ in told]
    assert [{"etag": state.headers["etag"], "state": {"items": ["pizza"], "seats": 2}}] == changed
    assert "state" not in {kind for kind, _, _ in heard}


async def test_a_reply_is_streamed_as_it_is_made() -> None:
    """Typing, pieces with their place, the message; a stream that is opened in the middle catches up."""
    words: asyncio.Queue[str | None] = asyncio.Queue()

    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        while (word := await words.get()) is not None:
            yield word

    async with served(keep_with(bot)) as client, stream(client, "ada") as early:
        posted = asyncio.create_task(client.post("ada", {"content": "tell me", "id": "m1"}))
        words.put_nowait("Once\r\n\r\nevent: end\n\n ")
        events_seen = await early.read(3)
        async with stream(client, "ada", "?after=1") as late:
            caught_up = await late.read(2)
            words.put_nowait("upon a time")
            words.put_nowait(None)
            rest = await late.only("message")
        receipt = (await posted).json
    text = "Once\r\n\r\nevent: end\n\n upon a time"

    assert ["message", "typing", "piece"] == [kind for kind, _, _ in events_seen]
    begun = {
        "turn": "m1",
        "at": 0,
        "text": "Once\r\n\r\nevent: end\n\n ",
        "reply": receipt["replies"][0]["id"],
        "part": 0,
    }
    assert [("typing", {"on": True}), ("piece", begun)] == [(kind, data) for kind, data, _ in caught_up]
    assert text in [data["content"] for kind, data, _ in rest if kind == "message"]
    assert [text] == [reply["content"] for reply in receipt["replies"]]


async def test_an_erased_conversation_ends_its_streams_and_says_so() -> None:
    """Also for who comes back with a number that is not there any more."""
    async with served(keep_with()) as client:
        await client.post("ada", {"content": "one"})
        async with stream(client, "ada") as watched:
            assert 204 == (await client.ask("DELETE", "/v1/conversations/ada")).status
            assert [("end", {"reason": "erased"}, "")] == await watched.read(2)
        await client.post("ada", {"content": "new"})
        async with stream(client, "ada", Last_Event_ID="7") as back:
            assert [("end", {"reason": "erased"}, "")] == await back.read(2)


async def test_a_revoked_token_ends_its_stream() -> None:
    """Within five seconds."""
    keep = keep_with()
    async with served(keep) as client:
        issued = await issue_token(keep, "", "ada")
        async with stream(client, "ada", token=issued.token) as watched:
            assert 204 == (await client.ask("DELETE", f"/v1/conversations/ada/tokens/{issued.id}")).status
            assert [("end", {"reason": "revoked"}, "")] == await watched.read(1, within=5.0)


async def test_a_server_that_stops_ends_its_streams() -> None:
    """So that clients go elsewhere, and the stop is not held up."""
    keep = keep_with()
    app = create_app(keep, anonymous=True)
    async with serving(app) as port:
        client = Client(port, (await issue_token(keep, "", "ada")).token)
        async with stream(client, "ada") as watched:
            await until(lambda: len(app.state.streams) == 1)
            app.state.streams.end()

            assert [("end", {"reason": "closing"}, "")] == await watched.read(2)
        await until(lambda: len(app.state.streams) == 0)

        assert 0 == keep._engine.watches.watching


async def test_a_client_that_takes_nothing_is_cut_off_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on later from the last id that it has."""
    monkeypatch.setattr(streams, "SLOW_S", 0.3)
    keep = keep_with(message_limit=2_000_000)
    app = create_app(keep, anonymous=True)
    async with serving(app) as port:
        client = Client(port, (await issue_token(keep, "", "ada")).token)
        async with stream(client, "ada") as watched:
            for n in range(12):
                await keep.accept("ada", f"{n}" + "x" * 1_000_000, role="operator")
            await until(lambda: len(app.state.streams) == 0, within=15.0)
            assert 0 == keep._engine.watches.watching
            watched.reader._transport.abort()  # type: ignore[attr-defined]
        async with stream(client, "ada", Last_Event_ID="2") as again:
            assert ["3", "4"] == [id for _, _, id in await again.read(2)]


async def test_streams_survive_a_store_that_is_away(postgres: Any) -> None:
    """They wait, and leave nothing out."""
    from chatkeep.testing.proxy import Proxy

    async with Proxy(postgres.port) as proxy:
        url = postgres.url.replace(f":{postgres.port}", f":{proxy.port}") + "?schema=tstream&timeout=1"
        keep = keep_with(url=url)
        async with served(keep) as client:
            await client.post("ada", {"content": "one"})
            async with stream(client, "ada") as watched:
                proxy.refusing = True
                proxy.cut()
                await time_passes(0.5)
                keep._engine.watches.note_change(keep._key("ada"), here=False)
                await time_passes(1.5)
                proxy.refusing = False

                async def posted() -> bool:
                    return (await client.post("ada", {"content": "two", "id": "m2"})).status == 200

                await until(posted, within=30.0, every=0.3)
                found = await watched.only("message", 2, within=15.0)

    assert ["two", "you said two"] == [data["content"] for _, data, _ in found]
