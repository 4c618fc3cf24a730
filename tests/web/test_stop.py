"""The chat page's button that ends a reply: what was said stays, in every tab, and says that it was stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import BrowserContext, expect

from chatkeep import Chatkeep, Turn

from ..support.chat_page import log, opened, settled, write
from ..support.serving import served
from ..support.waiting import takes


@pytest.mark.journey
def test_a_reply_is_stopped_with_a_button(person: BrowserContext) -> None:
    """In the other tab of the same chat; the first one sees it too, and goes on. What waits meanwhile can be taken back."""
    keep: Chatkeep[Any] = Chatkeep("memory://")

    @keep.on_message
    async def bot(turn: Turn[Any]) -> AsyncIterator[str]:
        for number in range(1000 if turn.text == "count" else 1):
            yield f"{number} "
            await takes(0.05)

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(keep, title="Chat", anonymous=True)) as client,
    ):
        page = opened(person, f"http://127.0.0.1:{client.port}/")
        stop = page.get_by_role("button", name="Stop")
        expect(stop).to_be_hidden()
        write(page, "count")
        expect(page.locator("#log > li").last).to_contain_text("5 6 7")
        other = opened(person, page.url)
        other.get_by_role("button", name="Stop").click()
        expect(other.locator("#log > li").last).to_contain_text("Stopped")
        expect(page.locator("#log > li").last).to_contain_text("Stopped")
        expect(stop).to_be_hidden()
        settled(page)
        stopped = log(page)[-1]
        write(page, "count")
        expect(stop).to_be_visible()
        write(page, "taken back")
        write(page, "said anew")
        behind = page.locator("#log li.user.sent").filter(has_text="taken back")
        behind.get_by_role("button", name="Withdraw").click()
        expect(page.locator("#log")).not_to_contain_text("taken back")
        page.locator("#log li.user.sent").filter(has_text="said anew").get_by_role("button", name="Edit").click()
        expect(page.get_by_label("Your message")).to_have_value("said anew")
        page.get_by_label("Your message").fill("")
        stop.click()
        expect(stop).to_be_hidden()
        before = page.locator("#log > li").count()
        write(page, "more")
        expect(page.locator("#log > li")).to_have_count(before + 2)
        settled(page)

        assert log(page)[1] == stopped
        assert "Bot: 0 " == log(page)[-1] + " "
        assert log(page) == log(other)
        page.close()
        other.close()
