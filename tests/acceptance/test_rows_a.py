"""The checklist of the bulk-order chat: state that was lost between messages, with every reload, restart and deploy."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from playwright.sync_api import BrowserContext, expect

from ..support.chat_page import ask, opened, ready, settled
from ..support.program import Demo
from ..support.rows import Visitor, durable, instance, put_forward

ORDER = (
    ("200 mugs", "200 mugs: €756.00"),
    ("hoodies", "How many hoodies?"),
    ("100", "100 hoodies: €1,665.00"),
    ("that is all", "Where shall we deliver?"),
    ("12 Via Roma, Napoli", "How can we reach you?"),
    ("ada@example.com", "Total: €2,421.00"),
    ("confirm", "is placed"),
)
"""What is said, and what the answer to it says."""

FORM = {
    "lines": {"Mug": 200, "Hoodie": 100},
    "delivery": "12 Via Roma, Napoli",
    "contact": "ada@example.com",
}


@durable
async def test_a7_a_bulk_order_is_completed_over_restarts_days_apart(url: str, tmp_path: Path) -> None:
    """Each answer from another process, killed before or while it is asked, three days later; a week of silence ends the session."""
    async with instance(tmp_path, "bulk", url) as it:
        visitor = await Visitor.of(it)
        for step, (words, answer) in enumerate(ORDER):
            put_forward(tmp_path, f"{3 * step}d")
            asking = asyncio.create_task(visitor.ask(words))
            await asyncio.sleep(0.004 * step)
            await it.restart()
            assert answer in await asking
        again = await visitor.say("confirm", id=f"m{len(ORDER)}")
        ordered = await visitor.state()
        put_forward(tmp_path, "27d")
        later = await visitor.ask("hello")
        fresh = await visitor.state()
        log = await visitor.client.log(visitor.conversation, "?limit=100")

    assert (True, FORM) == (again["duplicate"], {slot: ordered[slot] for slot in FORM})
    assert ordered["reference"] in str(again["replies"])
    assert [*(words for words, _ in ORDER), "hello"] == [entry["content"] for entry in log if entry["role"] == "user"]
    assert 2 * (len(ORDER) + 1) == len(log)
    assert (True, {}) == ("What shall we print for you?" in later, fresh["lines"])


def test_a7_a_bulk_order_over_the_page(tmp_path: Path, person: BrowserContext) -> None:
    """Refreshed, killed and started again between its steps, in a real browser: the next question is the right one each time."""
    with Demo(tmp_path, "bulk", "--store", "bulk.db") as demo:
        page = opened(person, demo.address)
        for step, (words, answer) in enumerate(ORDER):
            ask(page, words, answer)
            settled(page)
            if step % 2:
                demo.stop(signal.SIGKILL)
                demo.start()
            page.reload()
            ready(page)
            expect(page.locator("#log > li")).to_have_count(2 * (step + 1))
            expect(page.locator("#log > li").last).to_contain_text(answer)

        assert len(ORDER) == page.locator("#log li.user.delivered").count()
