"""Server-sent events: parsed however they are cut, and followed across everything that ends a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from chatkeep import Chatkeep, Message, Turn
from chatkeep.auth.credentials import create_key
from chatkeep.client import (
    Chat,
    Client,
    Delta,
    Ended,
    Event,
    Failing,
    MessageEvent,
    NotFound,
    SetAside,
    StateEvent,
    Typing,
)
from chatkeep.client.events import Frame, frames
from chatkeep.server import create_app
from chatkeep.testing.proxy import Proxy

from ..support.client_server import Place, Running
from ..support.protocols import Bot
from ..support.serving import served, serving
from ..support.waiting import takes, until

STREAM = (
    "\ufeffretry: 1000\n\n: beat\n\nevent: piece\r\nid: 7\r\ndata: tea\r\n\r\nevent: typing\rdata: one\rdata:two\r\r"
    "data\ndata: ö\n\nevent: nothing\n\nunknown: x\ndata: last\n\ndata: cut off"
).encode()
FRAMES = [
    Frame("", "", 1000),
    Frame("piece", "tea", id="7"),
    Frame("typing", "one\ntwo"),
    Frame("message", "\nö"),
    Frame("message", "last"),
]


async def chunks(cuts: list[int]) -> AsyncIterator[bytes]:
    """STREAM, cut at these places."""
    for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        yield STREAM[start:end]


@given(st.lists(st.integers(0, len(STREAM))).map(sorted))
@example(list(range(len(STREAM))))
@example([])
def test_a_stream_means_the_same_however_it_is_cut(cuts: list[int]) -> None:
    """Also between \\r and \\n, and inside a character."""

    async def found() -> list[Frame]:
        return [frame async for frame in frames(chunks(cuts))]

    assert FRAMES == asyncio.run(found())


async def collected(chat: Chat, count: int, *, after: int | None = 0, into: list[Event]) -> None:
    """The events up to so many messages."""
    async with aclosing(chat.events(after=after)) as events:
        async for event in events:
            into.append(event)
            if len(messages(into)) == count:
                return


def messages(events: list[Event]) -> list[Message]:
    """The messages that they tell of."""
    return [event.message for event in events if isinstance(event, MessageEvent)]


def texts(events: list[Event]) -> list[str]:
    """What these say."""
    return [message.text for message in messages(events)]


def talk(count: int) -> list[str]:
    """So many messages and their answers."""
    return [text for n in range(count) for text in (f"m{n}", f"m{n} is number {n + 1}")]


async def test_what_happens_is_told_in_order(place: Place) -> None:
    """Messages, the bot's typing and the state, while they happen; a long message, and many, too."""
    events: list[Event] = []
    async with place.client() as client:
        chat = client.conversation("ada")
        await chat.send("before")
        following = asyncio.create_task(collected(chat, 244, after=None, into=events))
        await until(lambda: place.keep._engine.watches.watching)
        await chat.send("slow")
        await chat.send("long " * 40_000)
        for _ in range(120):
            await chat.send("tea")
        await asyncio.wait_for(following, 20)
        log = await chat.history(after=2, limit=500)

    assert list(range(3, 247)) == [message.number for message in messages(events)]
    assert log == messages(events)
    # (The state is told before the reply that it was recorded with.)
    assert {"count": 123} == [event.state for event in events if isinstance(event, StateEvent)][-1]
    assert {True, False} == {event.on for event in events if isinstance(event, Typing)}


async def test_a_client_is_told_that_the_bot_fails() -> None:
    """While it is tried again, and when the message is set aside; and whoever asks is told too."""
    bot = Bot(retry_after="300ms", retry_longest="1s", attempts=2)
    bot.faults_at_once = 2
    async with (
        served(bot.keep) as server,
        Client(f"http://127.0.0.1:{server.port}", server.key) as client,
    ):
        await client.create("ada")
        chat, told = client.conversation("ada"), list[Event]()
        async with aclosing(chat.events(after=0)) as events:
            number = (await bot.keep.accept("ada", "hello", id="m1")).number
            async for event in events:
                if isinstance(event, Failing) and event.attempts:
                    asked = (await chat.answering()).failing
                told += [event] if isinstance(event, Failing | SetAside) else []
                if isinstance(event, SetAside):
                    break

    assert isinstance(told[0], Failing)
    assert (number, 1) == (told[0].number, told[0].attempts)
    assert told[0] == asked
    assert SetAside(number) == told[-1]


async def test_no_piece_comes_twice_when_the_connection_is_cut() -> None:
    """In the middle of a reply, again and again: each goes on behind the last one."""
    events: list[Event] = []
    bot = Bot()
    bot.goes.clear()
    app = create_app(bot.keep)
    async with (
        serving(app) as port,
        Client(f"http://127.0.0.1:{port}", (await create_key(bot.keep, "")).token) as client,
    ):
        await client.create("ada")
        following = asyncio.create_task(collected(client.conversation("ada"), 2, into=events))
        await bot.keep.accept("ada", "you")
        await until(lambda: [event for event in events if isinstance(event, Delta)])
        for _ in range(2):
            await until(lambda: len(app.state.streams) == 1)
            for stream in app.state.streams._open:
                stream.end("closing")
            await until(lambda: len(app.state.streams) == 0)
        await until(lambda: len(app.state.streams) == 1)
        bot.goes.set()
        await asyncio.wait_for(following, 10)

    said = [event for event in events if isinstance(event, Delta)]
    assert "Hello there, you" == "".join(event.text for event in said)
    assert [0, 6] == [event.at for event in said][:2]


async def test_a_reply_is_told_as_it_is_made() -> None:
    """Its pieces, and then the message, which is the truth."""
    events: list[Event] = []
    keep: Chatkeep[Any] = Chatkeep("memory://")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        for word in ("one ", "two ", "three"):
            yield word
            await takes(0.1)

    async with (
        keep,
        served(keep) as server,
        Client(f"http://127.0.0.1:{server.port}", (await create_key(keep, "")).token) as client,
    ):
        await client.create("ada")
        following = asyncio.create_task(collected(client.conversation("ada"), 2, into=events))
        await until(lambda: keep._engine.watches.watching)
        await client.conversation("ada").send("count")
        await asyncio.wait_for(following, 10)

    said = ""
    for event in events:
        if isinstance(event, Delta):
            said = said[: event.at] + event.text
    assert "one two three" == said
    assert isinstance(events[-1], MessageEvent)
    assert "one two three" == events[-1].message.text


async def test_no_message_is_lost_or_doubled_when_connections_break(place: Place) -> None:
    """The stream goes on after the last number it has seen."""
    events: list[Event] = []
    seen = 0
    async with Proxy(place.port) as proxy, place.client(port=proxy.port) as client, place.client() as other:
        chat = other.conversation("ada")
        await other.create("ada")
        following = asyncio.create_task(collected(client.conversation("ada"), 40, into=events))
        for n in range(20):
            await chat.send(f"m{n}")
            if n in (5, 10):
                seen = proxy.connections
                proxy.cut()
            if n in (8, 13):
                await until(lambda: proxy.connections > seen, within=10)
                await asyncio.sleep(0.05)
        await asyncio.wait_for(following, 30)

    assert talk(20) == texts(events)
    assert seen > 1


async def test_it_says_what_it_has_and_takes_nothing_twice() -> None:
    """A server that ends a slow stream and then says too much, and things that this client does not know."""
    asked: list[str] = []
    streams = [((1, 2), "slow"), ((2, 1, 3), "closing"), ((3, 4), "erased")]

    async def answer(request: Request) -> StreamingResponse:
        asked.append(request.headers["last-event-id"])
        numbers, reason = streams[len(asked) - 1]
        said = ["retry: 10\n\n: beat\n\n", "event: confetti\ndata: 1\n\n"]
        for number in numbers:
            message = Message(id=f"m{number}", number=number, role="user", content="tea", created_at=0.0)
            said.append(f"event: message\nid: {number}\ndata: {msgspec.json.encode(message).decode()}\n\n")
        said.append(f'event: end\ndata: {{"reason":"{reason}"}}\n\n')
        return StreamingResponse(said, media_type="text/event-stream")

    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[Route("/v1/conversations/ada/events", answer)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        events = [event async for event in client.conversation("ada").events(after=0)]
    server.should_exit = True
    await serving

    assert [1, 2, 3, 4] == [message.number for message in messages(events)]
    assert Ended(reason="erased") == events[-1]
    assert ["0", "2", "3"] == asked


async def test_a_stream_that_begins_now_misses_nothing_while_it_is_away(place: Place) -> None:
    """Even when it had seen no message before its connection broke."""
    events: list[Event] = []
    async with Proxy(place.port) as proxy, place.client(port=proxy.port) as client, place.client() as other:
        await other.conversation("ada").send("before")
        following = asyncio.create_task(collected(client.conversation("ada"), 2, after=None, into=events))
        await until(lambda: proxy.reply_bytes > 1000)
        proxy.refusing = True
        proxy.cut()
        await other.conversation("ada").send("meanwhile")
        proxy.refusing = False
        await asyncio.wait_for(following, 20)

    assert ["meanwhile", "meanwhile is number 2"] == texts(events)


async def test_it_goes_on_across_a_restart_of_the_server(running: Running) -> None:
    """kill -9, and again: every message once."""
    events: list[Event] = []
    async with Client(running.url, running.key) as client:
        chat = client.conversation("ada")
        await client.create("ada")
        following = asyncio.create_task(collected(chat, 12, into=events))
        for n in range(6):
            await chat.send(f"m{n}")
            if n in (1, 3):
                running.kill()
                await asyncio.to_thread(running.start)
        await asyncio.wait_for(following, 30)

    assert talk(6) == texts(events)


async def test_it_ends_when_there_is_nothing_more_to_come(place: Place) -> None:
    """An erased conversation, a revoked token, a closed client; what is not there is refused."""
    async with place.client() as client, place.client() as other:
        chat = client.conversation("ada")
        with pytest.raises(NotFound):
            await anext(chat.events())
        token = await chat.issue()
        await chat.send("tea")
        async with place.client(token.token) as visitor:
            mine = visitor.conversation("ada")
            erased, revoked, closed = [], [], []  # type: ignore[var-annotated]
            tasks = [
                asyncio.create_task(all_of(chat, erased)),
                asyncio.create_task(all_of(mine, revoked)),
                asyncio.create_task(all_of(other.conversation("ada"), closed)),
            ]
            await until(lambda: erased and revoked and closed)
            await chat.revoke(token.id)
            await other.close()
            await asyncio.wait_for(asyncio.gather(*tasks[1:]), 15)
            await chat.erase()
            await asyncio.wait_for(tasks[0], 15)

    assert (Ended(reason="erased"), Ended(reason="revoked")) == (erased[-1], revoked[-1])
    assert ["tea", "tea is number 1"] == texts(closed)


async def all_of(chat: Chat, into: list[Event]) -> None:
    """Every event to the end."""
    async for event in chat.events(after=0):
        into.append(event)  # noqa: PERF401  # seen while it grows
