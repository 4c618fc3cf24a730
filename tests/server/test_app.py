"""The application: mounted into another one, open exactly while it is served, and over nothing but a Chatkeep."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from chatkeep import Misconfigured, NotOpen
from chatkeep.auth.credentials import create_key
from chatkeep.server import create_app

from ..support.bots import counting
from ..support.serving import Client, served, serving


async def test_the_store_is_open_exactly_while_the_server_runs() -> None:
    """Health while it runs; closed behind it."""
    keep = counting()
    async with served(keep) as client:
        health = await client.ask("GET", "/healthz")

    assert (200, {"status": "ok"}) == (health.status, health.json)
    with pytest.raises(NotOpen):
        await keep.receive("ada", "x")


@pytest.mark.parametrize("parent", [FastAPI, Starlette])
@pytest.mark.parametrize("opens", ["app", "keep"])
async def test_it_can_be_mounted(parent: type[Starlette], opens: str) -> None:
    """Under a prefix with a space; the parent's lifespan runs the application's, or opens the Chatkeep itself."""
    keep = counting()
    chat = create_app(keep, title="A bot")

    @asynccontextmanager
    async def life(app: Any) -> AsyncIterator[None]:
        async with chat.router.lifespan_context(chat) if opens == "app" else keep:
            yield

    outer = parent(lifespan=life)
    outer.mount("/my bot", chat)
    async with serving(outer) as port:
        client = Client(port, (await create_key(keep, "")).token)
        at = "/my%20bot/v1/conversations"
        made = await client.ask("POST", at, b'{"id":"a/b"}')
        said = await client.ask("POST", f"{made.headers['location']}/messages", b'{"content":"tea"}')
        page = await client.ask("GET", "/my%20bot/")
        told = await client.ask("GET", "/my%20bot/openapi.json")
        nothing = [await client.ask("GET", path) for path in ("/my%20bot/v1/x", "/v1/conversations")]

    assert (201, f"{at}/a%2Fb") == (made.status, made.headers["location"])
    assert (200, "a/b", "tea is number 1") == (
        said.status,
        said.json["conversation"],
        said.json["replies"][0]["content"],
    )
    assert 200 == page.status
    assert [{"url": "/my%20bot"}] == told.json["servers"]
    assert [404, 404] == [answer.status for answer in nothing]
    with pytest.raises(NotOpen):
        await keep.receive("ada", "x")


@pytest.mark.parametrize("parent", [FastAPI, Starlette])
async def test_mounted_and_never_opened_says_so(parent: type[Starlette], caplog: pytest.LogCaptureFixture) -> None:
    """Every route and the probe of readiness; the log has the lines to write, once."""
    keep, outer = counting(), parent()
    async with counting() as other:
        token = (await create_key(other, "")).token
    outer.mount("/chat", create_app(keep, title="A bot", anonymous=True))
    async with serving(outer) as port:
        client, at = Client(port, ""), "/chat/v1/conversations"
        key = Client(port, token)
        told = [
            await client.ask("POST", at, b"{}"),
            await key.ask("POST", at, b"{}"),
            await key.ask("GET", f"{at}/ada/messages"),
            await key.ask("POST", f"{at}/ada/messages", b'{"content":"tea"}'),
            await key.ask("GET", f"{at}/ada/events"),
        ]
        ready = await client.ask("GET", "/chat/readyz")

    assert {(500, "urn:chatkeep:not-open")} == {(answer.status, answer.json["type"]) for answer in told}
    assert all("lifespan" in answer.json["detail"] for answer in told)
    assert (503, True) == (ready.status, "not open" in ready.json["trouble"])
    assert 1 == len([one for one in caplog.records if "async with keep" in one.getMessage()])


async def test_mounted_and_opened_in_another_loop_is_not_ready() -> None:
    """Where each request is refused, no load balancer is told to send some; and no server that was forked after the opening."""
    keep, open_, done = counting(), threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with keep:
            open_.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    try:
        await asyncio.to_thread(open_.wait)
        outer = Starlette()
        outer.mount("/chat", create_app(keep, title="A bot", anonymous=True))
        async with serving(outer) as port:
            client = Client(port, "")
            refused = await client.ask("POST", "/chat/v1/conversations", b"{}")
            ready = await client.ask("GET", "/chat/readyz")
    finally:
        done.set()
        await asyncio.to_thread(thread.join)

    assert (500, "urn:chatkeep:not-open") == (refused.status, refused.json["type"])
    assert (503, True) == (ready.status, "another event loop" in ready.json["trouble"])


async def test_a_chatkeep_that_is_open_stays_open() -> None:
    """Whoever has opened it closes it."""
    async with counting() as keep:
        async with served(keep) as client:
            over_http = await client.post("ada", {"content": "x"})
        after = await keep.receive("ada", "y")

    assert ("x is number 1", "y is number 2") == (over_http.json["replies"][0]["content"], after.replies[0].text)


def test_what_is_no_chatkeep_is_refused() -> None:
    """With how one is made, and before anything is served."""
    with pytest.raises(Misconfigured, match=r"A Chatkeep is wanted here, not 'sqlite:///chat.db'"):
        create_app("sqlite:///chat.db")  # type: ignore[arg-type]
