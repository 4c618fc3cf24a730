"""A bot that fails and is tried again, as the chat page and a second tab of it show that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import BrowserContext, expect

from ..support.chat_page import ask, opened, write
from ..support.protocols import Bot
from ..support.serving import served


@pytest.fixture
def failing() -> Iterator[tuple[Bot, str]]:
    """A server, and its bot, which is tried twice, with a second between."""
    bot = Bot(retry_after="1s", retry_longest="1s", attempts=2)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(bot.keep, anonymous=True)) as client,
    ):
        yield bot, f"http://127.0.0.1:{client.port}/"


def test_the_page_says_that_it_is_tried_again(failing: tuple[Bot, str], person: BrowserContext) -> None:
    """In both tabs, until the answer is there; and at once that nobody will answer, when it was tried often enough."""
    bot, address = failing
    page = opened(person, address)
    ask(page, "ada", "Hello there, ada")
    second = opened(person, page.url)
    bot.faults_at_once = 1
    write(page, "eve")
    for tab in (page, second):
        expect(tab.locator("#status")).to_contain_text("No answer yet: the bot failed, and tries again at ")
    for tab in (page, second):
        expect(tab.locator("#log > li").last).to_contain_text("Hello there, eve")
        expect(tab.locator("#status")).to_be_empty()
    bot.faults_at_once = 2
    write(page, "bob")
    for tab in (page, second):
        expect(tab.locator("#log > li").last).to_contain_text("The bot could not answer this; your message is kept.")
        expect(tab.locator("#status")).to_be_empty()
