"""The chat page as somebody at a browser uses and reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from .program import chatkeep


def opened(context: BrowserContext, address: str) -> Page:
    """A tab on *address* that has loaded the chat."""
    page = context.new_page()
    page.goto(address)
    ready(page)
    return page


def ready(page: Page) -> None:
    """Waits until the page has loaded the chat."""
    expect(page.locator("body[data-ready]")).to_be_attached()


def write(page: Page, words: str) -> None:
    """Types a message and sends it with Enter."""
    page.get_by_label("Your message").fill(words)
    page.get_by_label("Your message").press("Enter")


def ask(page: Page, words: str, answer: str) -> None:
    """Sends a message and waits for its answer."""
    write(page, words)
    expect(page.locator("#log > li").last).to_contain_text(answer)


def log(page: Page) -> list[str]:
    """What a reader hears: each line of the log, who said it first."""
    return [
        " ".join("".join(line.locator("> span, > .said").all_text_contents()).split())
        for line in page.locator("#log > li:not(.day)").all()
    ]


def mine(page: Page) -> list[str]:
    """What the page shows as said by the user."""
    return [line.removeprefix("You: ") for line in log(page) if line.startswith("You: ")]


def settled(page: Page) -> None:
    """Waits until everything is sent and answered."""
    expect(page.locator("#log li.sending, #log li.sent, #log li.streaming")).to_have_count(0)


def me(page: Page) -> dict[str, Any]:
    """The conversation of the page and the token for it, as the browser keeps them."""
    name = page.url.partition("c=")[2]
    found: dict[str, Any] = json.loads(
        page.evaluate("(name) => Object.entries(localStorage).find(([key]) => key.endsWith(name))[1]", name)
    )
    return found


def kept(page: Page, folder: Path) -> list[dict[str, Any]]:
    """The log of the page's conversation as the store has it."""
    code, said, complaints = chatkeep("history", "chatkeep-demo.db", me(page)["id"], "--json", folder=folder)
    assert 0 == code, complaints
    return [json.loads(line) for line in said.splitlines()]


def from_user(page: Page, folder: Path) -> list[str]:
    """What the store has from the user, in its order."""
    return [message["content"] for message in kept(page, folder) if message["role"] == "user"]
