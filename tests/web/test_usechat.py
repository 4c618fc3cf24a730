"""A page with the AI SDK's own `useChat`, unchanged from npm, in a real browser; it is given one URL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from chatkeep.server import create_app
from chatkeep.server.protocols import aisdk

from ..support import npm
from ..support.browsing import FLAGS, PATIENCE_MS, PLACES
from ..support.protocols import Bot, mounted
from ..support.serving import serving
from ..support.waiting import until

pytestmark = pytest.mark.long

RELEASES = {
    "7": ("ai@7.0.173", "@ai-sdk/react@4.0.177", "react@19", "react-dom@19", "esbuild@0.28"),
    "5": ("ai@5", "@ai-sdk/react@2", "react@19", "react-dom@19", "esbuild@0.28"),
}

PAGE = """
import React from "react";
import { createRoot } from "react-dom/client";
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";

const id = new URLSearchParams(location.search).get("id");
const history = await fetch(`/api/chat/${id}`);
const messages = history.ok ? await history.json() : [];

const textOf = (one) => one.parts.filter((part) => part.type === "text").map((part) => part.text).join("|");

function Chat() {
  const [told, tell] = React.useState("");
  const transport = new DefaultChatTransport({ api: "/api/chat" });
  const chat = useChat({ id, resume: true, messages, transport, onData: ({ data }) => tell(data.message) });
  window.chat = chat;
  return (
    <div>
      <p id="status">{chat.status}</p>
      <p id="error">{chat.error?.message}</p>
      <p id="told">{told}</p>
      <ul>{chat.messages.map((one) => <li key={one.id}>{textOf(one)}</li>)}</ul>
    </div>
  );
}
createRoot(document.getElementById("root")).render(<Chat />);
"""


@pytest.fixture(scope="module", params=["7", "5"])
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page's script, with that release of the SDK in it."""
    folder: Path = npm.install(tmp_path_factory.mktemp("usechat"), *RELEASES[request.param])
    return npm.bundle(folder, PAGE)


def page_of(script: str) -> list[BaseRoute]:
    """The page: it knows nothing of chatkeep but the address of the chat."""

    async def page(request: Any) -> Response:
        return HTMLResponse('<!doctype html><div id="root"></div><script type="module" src="/page.js"></script>')

    async def code(request: Any) -> Response:
        return Response(script, media_type="text/javascript")

    return [Route("/page", page), Route("/page.js", code)]


@asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """A person's browser."""
    path = os.environ.get("CHATKEEP_CHROMIUM") or next(filter(None, map(shutil.which, PLACES)), None)
    if path is None:
        pytest.skip("NO BROWSER, `useChat` IS NOT TESTED: run `apt-get install chromium`, or set CHATKEEP_CHROMIUM")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        context = await started.new_context()
        context.set_default_timeout(PATIENCE_MS)
        yield context
        await started.close()


async def shows(page: Page, *texts: str, status: str = "ready") -> None:
    """Waits until the page shows these texts, and that its chat is in this status."""
    await page.wait_for_function(
        "([texts, status]) => document.querySelector('#status')?.textContent === status && "
        "JSON.stringify([...document.querySelectorAll('li')].map((one) => one.textContent)) === texts",
        arg=[json.dumps(texts, separators=(",", ":")), status],
    )


async def send(page: Page, text: str) -> None:
    """Sends a message, and does not wait for the answer."""
    await page.evaluate("(text) => { chat.sendMessage({ text }); }", text)


async def test_a_page_is_reloaded_in_the_middle_and_opened_in_a_second_tab(script: str) -> None:
    """Both go on with the answer that is being made; the bot is asked once."""
    bot = Bot()
    async with mounted(bot, [*aisdk.routes(bot.keep), *page_of(script)]) as client, browser() as person:
        address = f"http://127.0.0.1:{client.port}/page?id=c1"
        page = await person.new_page()
        await page.goto(address)
        await shows(page)
        bot.goes.clear()
        await send(page, "ada")
        await shows(page, "ada", "Hello ", status="streaming")
        await page.reload()
        await shows(page, "ada", "Hello ", status="streaming")
        second = await person.new_page()
        await second.goto(address)
        await shows(second, "ada", "Hello ", status="streaming")
        bot.goes.set()
        for tab in (page, second):
            await shows(tab, "ada", "Hello there, ada")
        await send(second, "bob")
        await shows(second, "ada", "Hello there, ada", "bob", "Hello there, bob")
        await page.reload()
        await shows(page, "ada", "Hello there, ada", "bob", "Hello there, bob")

    assert 2 == len(bot.asked)


async def test_what_a_page_can_press(script: str) -> None:
    """Stop reading, regenerate, edit; a bot that is paused leaves no page waiting, one that fails is told."""
    bot = Bot(attempts=1)
    async with mounted(bot, [*aisdk.routes(bot.keep), *page_of(script)]) as client, browser() as person:
        page = await person.new_page()
        await page.goto(f"http://127.0.0.1:{client.port}/page?id=c1")
        await shows(page)
        await send(page, "ada")
        await shows(page, "ada", "Hello there, ada")
        await page.evaluate("() => { chat.regenerate(); }")
        await until(lambda: len(bot.asked) == 2)
        await shows(page, "ada", "Hello there, ada")
        await page.evaluate("() => { chat.sendMessage({ text: 'bob', messageId: chat.messages[0].id }); }")
        await shows(page, "bob", "Hello there, bob")
        bot.faults_at_once = 1
        await send(page, "eve")
        await page.wait_for_function("() => document.querySelector('#error').textContent.includes('could not answer')")
        await page.evaluate("() => { chat.regenerate(); }")
        await shows(page, "bob", "Hello there, bob", "eve", "Hello there, eve")
        await bot.keep.pause("c1")
        await send(page, "are you there?")
        await shows(page, "bob", "Hello there, bob", "eve", "Hello there, eve", "are you there?")
        await page.reload()
        await shows(page, "bob", "Hello there, bob", "eve", "Hello there, eve", "are you there?")


async def test_a_page_is_told_that_the_bot_fails(script: str) -> None:
    """By `onData`, while it waits for the answer, which comes all the same; a page that is reloaded meanwhile too."""
    bot = Bot(retry_after="1s", retry_longest="1s", attempts=1000)
    async with mounted(bot, [*aisdk.routes(bot.keep), *page_of(script)]) as client, browser() as person:
        page = await person.new_page()
        await page.goto(f"http://127.0.0.1:{client.port}/page?id=c1")
        await shows(page)
        bot.faults_at_once = 1000
        await send(page, "ada")
        await page.wait_for_function("() => document.querySelector('#told').textContent.includes('failed')")
        await shows(page, "ada", status="submitted")
        await page.reload()
        await page.wait_for_function("() => document.querySelector('#told')?.textContent.includes('tries again')")
        bot.faults_at_once = 0
        await shows(page, "ada", "Hello there, ada")


async def test_a_visitors_page_on_the_server_itself(script: str) -> None:
    """Without any credential: each chat that the browser begins is its own, and nobody else's."""
    bot = Bot()
    app = create_app(bot.keep, anonymous=True, protocols=["aisdk"], routes=page_of(script))
    async with serving(app) as port, browser() as person, browser() as other:
        page = await person.new_page()
        for chat in ("first", "second"):
            await page.goto(f"http://localhost:{port}/page?id={chat}")
            await shows(page)
            await send(page, chat)
            await shows(page, chat, f"Hello there, {chat}")
        await page.goto(f"http://localhost:{port}/page?id=first")
        await shows(page, "first", "Hello there, first")
        elsewhere = await other.new_page()
        await elsewhere.goto(f"http://localhost:{port}/page?id=first")
        await shows(elsewhere)
        await send(elsewhere, "mine?")
        await elsewhere.wait_for_function("() => document.querySelector('#error').textContent.includes('credential')")
