"""The chat page in a real browser: an order that survives refreshes, second tabs and a server that is killed.

Needs Chromium: set CHATKEEP_CHROMIUM to its path, or install it where it is looked for. Screenshots are left in the
temporary folder of the test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from .running import Demo, chatkeep

PLACES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 15_000

Tab = Callable[[BrowserContext, str], Page]


def chromium() -> str | None:
    """Where the browser is, if there is one."""
    return os.environ.get("CHATKEEP_CHROMIUM") or next(filter(None, map(shutil.which, PLACES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here."""
    path = chromium()
    if path is None:
        pytest.skip(
            "NO BROWSER, THE CHAT PAGE IS NOT TESTED: run `apt-get install chromium`, or set CHATKEEP_CHROMIUM to the path of one"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def person(browser: Browser) -> Iterator[BrowserContext]:
    """One person's browser: an own localStorage, and no error on any of its pages."""
    context = browser.new_context(viewport={"width": 900, "height": 760})
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    errors: list[str] = []
    context.on("weberror", lambda error: errors.append(str(error.error)))
    context.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
    yield context
    context.close()

    assert [] == errors


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A running restaurant."""
    with Demo(tmp_path) as demo:
        yield demo


def opened(context: BrowserContext, address: str) -> Page:
    """A tab on *address* that has loaded the log."""
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#log")).to_be_attached()
    return page


def write(page: Page, words: str) -> None:
    """Types a message and sends it with Enter."""
    page.get_by_label("Your message").fill(words)
    page.get_by_label("Your message").press("Enter")


def log(page: Page) -> list[str]:
    """What a reader hears: each line of the log, who said it first."""
    return [" ".join(text.split()) for text in page.locator("#log li").all_text_contents()]


def test_an_order_over_the_page(demo: Demo, person: BrowserContext, tmp_path: Path) -> None:
    """From hello to the oven; the address names the conversation, and a refresh shows it all again."""
    page = opened(person, demo.address)
    expect(page).to_have_title("Bella Napoli")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.screenshot(path=tmp_path / "empty.png")
    for words, answer in [
        ("hello", "Tell me what you would like"),
        ("2 margherita and a tiramisu", "Total: €20.50"),
        ("checkout", "Where shall we bring it?"),
        ("12 Via Roma, Napoli", "Say “confirm” to order"),
    ]:
        write(page, words)
        expect(page.locator("#log li").last).to_contain_text(answer)
    page.screenshot(path=tmp_path / "order.png")
    before = log(page)
    page.reload()
    expect(page.locator("#log li")).to_have_count(len(before))

    assert before == log(page)
    write(page, "confirm")
    expect(page.locator("#log li").last).to_contain_text("is in the oven")
    assert "You: confirm" == log(page)[-2]
    assert "c=" in page.url
    assert 5 == sum(line.startswith("You: ") for line in log(page))
    expect(page.locator("#log li.waiting")).to_have_count(0)


def test_two_tabs_agree(demo: Demo, person: BrowserContext) -> None:
    """What one tab sends the other shows, in the same order; a tab without an address finds the same conversation."""
    one = opened(person, demo.address)
    two = opened(person, demo.address)
    write(one, "2 funghi")
    expect(two.locator("#log li").last).to_contain_text("€18.00")
    write(two, "a water")
    expect(one.locator("#log li").last).to_contain_text("€20.00")
    write(one, "cart")
    write(two, "menu")
    for tab in (one, two):
        expect(tab.locator("#log li")).to_have_count(9)

    assert one.url == two.url
    assert log(one) == log(two)
    one.get_by_role("button", name="New chat").click()
    expect(one.locator("#empty")).to_be_visible()
    assert one.url != two.url


def test_what_is_written_while_the_server_is_dead_arrives_once(
    demo: Demo, person: BrowserContext, tmp_path: Path
) -> None:
    """kill -9 in the middle of an order; what is typed meanwhile is kept over a refresh of the page, also by a second
    tab, and is answered once when the server is back on the same file."""
    page = opened(person, demo.address)
    write(page, "2 margherita")
    expect(page.locator("#log li").last).to_contain_text("Total: €15.00")
    conversation = page.url.partition("c=")[2]

    demo.stop(signal.SIGKILL)
    write(page, "a lemonade")
    write(page, "checkout")
    expect(page.locator("#status")).to_contain_text("Waiting for the server")
    expect(page.locator("#log li.waiting")).to_have_count(2)
    page.screenshot(path=tmp_path / "waiting.png")
    demo.start()
    expect(page.locator("#log li").last).to_contain_text("Where shall we bring it?")
    expect(page.locator("#status")).to_be_empty()
    expect(page.locator("#log li.waiting")).to_have_count(0)

    assert ["You: 2 margherita", "You: a lemonade", "You: checkout"] == [
        line for line in log(page) if line.startswith("You: ")
    ]
    kept = chatkeep("history", "chatkeep-demo.db", conversation, folder=tmp_path)[1]
    assert 1 == kept.count("user       a lemonade")
    assert 1 == kept.count("user       checkout")
    assert 1 == kept.count("Added 1 lemonade")
    assert "Total: €18.50" in kept


def test_a_server_that_keeps_dying_costs_no_message_and_doubles_none(
    demo: Demo, person: BrowserContext, tmp_path: Path
) -> None:
    """Twelve messages one after the other, the server killed under way again and again: each arrives once, in order,
    and is answered once."""
    page = opened(person, f"{demo.address}?c=ada")
    words = [f"remove {number}" for number in range(12)]
    for number, each in enumerate(words):
        write(page, each)
        if number % 3 == 1:
            demo.stop(signal.SIGKILL)
            demo.start()
    expect(page.locator("#log li.waiting")).to_have_count(0)
    expect(page.locator("#log li")).to_have_count(25)

    kept = [
        json.loads(line)
        for line in chatkeep("history", "chatkeep-demo.db", "ada", "--json", folder=tmp_path)[1].splitlines()
    ]
    assert words == [message["content"] for message in kept if message["role"] == "user"]
    assert 13 == sum(message["role"] == "assistant" for message in kept)
    assert [f"You: {each}" for each in words] == [line for line in log(page) if line.startswith("You: ")]


def test_pending_messages_survive_a_closed_page(demo: Demo, person: BrowserContext, tmp_path: Path) -> None:
    """Written while no server is there, the page closed at once: the next page sends it, in order and once."""
    page = opened(person, demo.address)
    write(page, "2 margherita")
    expect(page.locator("#log li").last).to_contain_text("Total: €15.00")
    conversation = page.url.partition("c=")[2]
    page.route("**/v1/**", lambda route: route.abort())
    for words in ("a water", "an espresso", "remove water"):
        write(page, words)
    expect(page.locator("#log li.waiting")).to_have_count(3)
    page.close()

    tabs = [opened(person, f"{demo.address}?c={conversation}") for _ in range(2)]
    for tab in tabs:
        expect(tab.locator("#log li").last).to_contain_text("Total: €17.20")
        expect(tab.locator("#log li.waiting")).to_have_count(0)

    kept = chatkeep("history", "chatkeep-demo.db", conversation, folder=tmp_path)[1]
    assert ["2 margherita", "a water", "an espresso", "remove water"] == [
        line.partition("user       ")[2] for line in kept.splitlines() if "  user  " in line
    ]
    assert 0 == tabs[0].evaluate("Object.keys(localStorage).filter((name) => name.includes('pending')).length")


def test_an_answer_that_was_lost_on_the_way_is_not_given_twice(
    demo: Demo, person: BrowserContext, tmp_path: Path
) -> None:
    """The server has taken the message and the page never hears of it: sent again, it has no second effect."""
    page = opened(person, demo.address)
    lost: list[int] = []

    def lose_the_first(route: object) -> None:
        if route.request.method == "POST" and not lost:  # type: ignore[attr-defined]
            lost.append(route.fetch().status)  # type: ignore[attr-defined]
            route.abort()  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.route("**/v1/**", lose_the_first)
    write(page, "3 tiramisu")
    expect(page.locator("#log li").last).to_contain_text("Total: €16.50")
    expect(page.locator("#log li.waiting")).to_have_count(0)
    write(page, "cart")
    expect(page.locator("#log li")).to_have_count(5)

    assert [200] == lost
    assert "Total: €16.50" in log(page)[-1]
    assert 1 == chatkeep("history", "chatkeep-demo.db", page.url.partition("c=")[2], folder=tmp_path)[1].count(
        "user       3 tiramisu"
    )


def test_what_people_write_is_only_text(demo: Demo, person: BrowserContext) -> None:
    """Markup is shown, not run, in one's own words and in the bot's; a conversation's name may hold anything."""
    page = opened(person, f"{demo.address}?c=a%2Fb%3A%7Bx%7D%25%20%F0%9F%8D%95%3Cb%3E")
    write(page, "<img src=x onerror=alert(1)><b>pizza</b>")
    expect(page.locator("#log li").last).to_contain_text("I do not know")

    assert "You: <img src=x onerror=alert(1)><b>pizza</b>" == log(page)[0]
    assert "<img src=x onerror=alert(1)>" in log(page)[2]
    assert 0 == page.locator("#log img, #log b").count()


def test_a_long_log_comes_in_pieces(demo: Demo, person: BrowserContext) -> None:
    """The last hundred lines at first, what was before on demand, all in order."""
    page = opened(person, f"{demo.address}?c=long")
    page.evaluate(
        """async () => {
          for (let n = 1; n <= 70; n++)
            await fetch("/v1/conversations/long/messages", {
              method: "POST",
              headers: { "content-type": "application/json" },
              body: JSON.stringify({ content: `remove ${n}` }),
            });
        }"""
    )
    page.reload()
    expect(page.locator("#log li")).to_have_count(100)
    expect(page.locator("#log li").last).to_be_in_viewport()
    page.get_by_role("button", name="Show earlier messages").click()
    expect(page.locator("#log li")).to_have_count(141)
    expect(page.get_by_role("button", name="Show earlier messages")).to_be_hidden()

    assert [f"You: remove {n}" for n in range(1, 71)] == [line for line in log(page) if line.startswith("You: ")]


def test_a_conversation_that_is_erased_begins_again(demo: Demo, person: BrowserContext, tmp_path: Path) -> None:
    """The page that showed it shows the new one once somebody writes."""
    page = opened(person, f"{demo.address}?c=gone")
    for _ in range(3):
        write(page, "menu")
    expect(page.locator("#log li")).to_have_count(7)
    assert 0 == chatkeep("erase", "chatkeep-demo.db", "gone", "--yes", folder=tmp_path)[0]
    write(page, "cart")
    expect(page.locator("#log li")).to_have_count(3)

    assert "Your cart is empty" in log(page)[-1]


def test_it_fits_a_small_dark_screen(demo: Demo, browser: Browser, tmp_path: Path) -> None:
    """No sideways scrolling on a telephone, readable in the dark, and usable with the keyboard alone."""
    context = browser.new_context(viewport={"width": 320, "height": 568}, color_scheme="dark")
    page = opened(context, f"{demo.address}?c=small")
    write(page, "2 quattro formaggi, " + "x" * 120)
    expect(page.locator("#log li").last).to_contain_text("€21.00")
    page.keyboard.type("one line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    page.screenshot(path=tmp_path / "small.png")
    width, background = page.evaluate(
        "[document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
    )

    assert 320 == width
    assert all(int(part) < 64 for part in background[4:-1].split(","))
    assert "one line\nand another" == page.get_by_label("Your message").input_value()
    expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
    context.close()
