"""A real browser keeps the cookie of a `CookieChat`, up to its last byte, and sends it; its pages cannot see it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from chatkeep.cookie import CookieChat
from chatkeep.testing.servers import free_port

from ..support.browsing import profile
from ..support.visitor import KEY, counting

SAY = "async (text) => { const r = await fetch('/say', {method: 'POST', body: text}); return [r.status, await r.text()]; }"


async def say(request: Any) -> Response:
    """Answers the body."""
    receipt = await request.state.chat.receive((await request.body()).decode())
    return JSONResponse(receipt.replies[0].text)


def application(**options: Any) -> Any:
    """A page, and where it sends messages."""
    routes = [
        Route("/", lambda request: HTMLResponse("<!doctype html><title>chat</title>")),
        Route("/say", say, methods=["POST"]),
    ]
    return CookieChat(counting, keys=[KEY], **options)(Starlette(routes=routes))


class Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, app: Any, port: int) -> None:
        super().__init__(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
        self.listens = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@contextmanager
def served(app: Any, port: int) -> Iterator[None]:
    """Serves *app* until the end of the block."""
    server = Server(app, port)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        assert server.listens.wait(15)
        yield
    finally:
        server.should_exit = True
        thread.join()


def said(page: Page, text: str) -> list[Any]:
    """What the server answers to a message of the page."""
    found: list[Any] = page.evaluate(SAY, text)
    return found


@pytest.mark.journey
@pytest.mark.parametrize("secure", [None, True])
def test_a_browser_keeps_the_chat(browser: Browser, secure: bool | None) -> None:
    """Through restarts of the server and of the page; another person has another chat; scripts see nothing; it ends with the order."""
    port = free_port()
    options: dict[str, Any] = {"secure": secure, "max_age": "1h"}
    address = f"http://localhost:{port}/"
    with profile(browser) as ada, profile(browser) as bob:
        with served(application(**options), port):
            page = ada.new_page()
            page.goto(address)
            assert [200, '"1 of 1"'] == said(page, "hello")
        with served(application(**options), port):
            page.reload()
            assert [200, '"2 of 2"'] == said(page, "again")
            other = ada.new_page()
            other.goto(address)
            assert [200, '"3 of 3"'] == said(other, "another tab")
            stranger = bob.new_page()
            stranger.goto(address)
            assert [200, '"1 of 1"'] == said(stranger, "hello")
            (cookie,) = ada.cookies()
            seen = page.evaluate("document.cookie")
            assert [200, '"4 of 4"'] == said(page, "complete")
            left = ada.cookies()

    assert ("__Host-chat" if secure else "chat", "/", "localhost") == (cookie["name"], cookie["path"], cookie["domain"])
    assert (True, bool(secure), "Lax") == (cookie["httpOnly"], cookie["secure"], cookie["sameSite"])
    assert 3500 < cookie["expires"] - time.time() <= 3601
    assert ("", []) == (seen, left)


def test_a_browser_keeps_4096_bytes(browser: Browser) -> None:
    """The largest cookie that we send is kept whole; what would be larger is 413, and the last one is sent again."""
    port = free_port()
    with profile(browser) as ada, served(application(), port):
        page = ada.new_page()
        page.goto(f"http://localhost:{port}/")
        least, most = 1, 4096
        while most - least > 1:
            size = (least + most) // 2
            if said(page, f"fill {size:04}")[0] == 200:
                least = size
            else:
                most = size
        # (Times and counts in it have a digit more or less.)
        assert 200 in (said(page, f"fill {size:04}")[0] for size in range(least, least - 4, -1))
        (cookie,) = ada.cookies()
        assert 413 == said(page, "fill 4096")[0]
        (after,) = ada.cookies()
        count = int(said(page, "empty")[1].split()[0].strip('"'))

    assert 4085 <= len(f"chat={cookie['value']}") <= 4096
    assert cookie["value"] == after["value"]
    assert count > 3
