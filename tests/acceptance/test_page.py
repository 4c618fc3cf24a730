"""The chat page in a real browser: an order that survives refreshes, second tabs, lost networks and a server that is killed.

Screenshots are left in the temporary folder of the test.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from ..support.browsing import profile
from ..support.chat_page import ask, from_user, kept, log, me, mine, opened, ready, settled, write
from ..support.program import Demo


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    """A running restaurant."""
    with Demo(tmp_path) as demo:
        yield demo


@pytest.mark.journey
def test_an_order_over_the_page(demo: Demo, person: BrowserContext, tmp_path: Path) -> None:
    """From hello to the oven, refreshed in the middle; the address names the chat, without any secret in it."""
    page = opened(person, demo.address)
    expect(page).to_have_title("Bella Napoli")
    expect(page.get_by_label("Your message")).to_be_focused()
    expect(page.get_by_text("How can we help?")).to_be_visible()
    page.screenshot(path=tmp_path / "empty.png")
    ask(page, "hello", "Tell me what you would like")
    ask(page, "2 margherita and a tiramisu", "Total: €20.50")
    ask(page, "checkout", "Where shall we bring it?")
    ask(page, "12 Via Roma, Napoli", "Say “confirm” to order")
    settled(page)
    page.screenshot(path=tmp_path / "order.png")
    before = log(page)
    page.reload()
    ready(page)
    expect(page.locator("#log > li")).to_have_count(len(before))

    assert before == log(page)
    ask(page, "confirm", "is in the oven")
    settled(page)
    assert ["hello", "2 margherita and a tiramisu", "checkout", "12 Via Roma, Napoli", "confirm"] == mine(page)
    assert mine(page) == from_user(page, tmp_path)
    assert page.locator("#log li.user.delivered").count() == 5
    assert "?c=" in page.url
    assert "ck_" not in page.url


def test_a_suggestion_is_one_press_away(demo: Demo, person: BrowserContext) -> None:
    """The buttons of the last message; they go when somebody has answered, and the focus is where one writes."""
    page = opened(person, demo.address)
    ask(page, "a margherita", "Total: €7.50")
    page.get_by_role("button", name="Checkout").press("Enter")
    expect(page.locator("#log > li").last).to_contain_text("Where shall we bring it?")

    assert ["a margherita", "Checkout"] == mine(page)
    expect(page.get_by_role("button", name="Checkout")).to_have_count(0)
    expect(page.get_by_role("group", name="Suggested replies")).to_be_visible()


def test_two_tabs_agree(demo: Demo, person: BrowserContext) -> None:
    """What one tab sends the other shows, in the same order; a tab without an address finds the same conversation."""
    one = opened(person, demo.address)
    two = opened(person, demo.address)
    write(one, "2 funghi")
    expect(two.locator("#log > li").last).to_contain_text("€18.00")
    write(two, "a water")
    expect(one.locator("#log > li").last).to_contain_text("€20.00")
    write(one, "cart")
    write(two, "menu")
    for tab in (one, two):
        expect(tab.locator("#log > li")).to_have_count(9)
        settled(tab)

    assert one.url == two.url
    assert log(one) == log(two)
    one.get_by_role("button", name="New chat").click()
    expect(one.locator("#empty")).to_be_visible()
    ready(one)
    assert one.url != two.url
    one.go_back()
    expect(one.locator("#log > li")).to_have_count(9)


@pytest.mark.journey
def test_what_is_written_while_the_server_is_dead_arrives_once(
    demo: Demo, person: BrowserContext, tmp_path: Path
) -> None:
    """kill -9 in the middle of an order: what is typed meanwhile is kept, shown as such, and answered once when the
    server is back on the same file."""
    page = opened(person, demo.address)
    ask(page, "2 margherita", "Total: €15.00")
    settled(page)
    demo.stop(signal.SIGKILL)
    write(page, "a lemonade")
    write(page, "checkout")
    expect(page.get_by_role("status").first).to_contain_text("Offline. What you write is kept")
    expect(page.locator("#log li.sending")).to_have_count(2)
    page.screenshot(path=tmp_path / "offline.png")
    demo.start()
    expect(page.locator("#log > li").last).to_contain_text("Where shall we bring it?")
    expect(page.get_by_role("status").first).to_contain_text("Back online")
    settled(page)

    assert ["2 margherita", "a lemonade", "checkout"] == mine(page) == from_user(page, tmp_path)
    assert 1 == sum("Added 1 lemonade" in json.dumps(message) for message in kept(page, tmp_path))
    expect(page.get_by_role("status").first).to_be_empty()


def test_a_server_that_keeps_dying_costs_no_message_and_doubles_none(
    demo: Demo, person: BrowserContext, tmp_path: Path
) -> None:
    """Twelve messages one after the other, the server killed under way again and again: each arrives once, in order,
    and is answered once."""
    page = opened(person, demo.address)
    words = [f"remove {number}" for number in range(12)]
    for number, each in enumerate(words):
        write(page, each)
        if number % 3 == 1:
            demo.stop(signal.SIGKILL)
            demo.start()
    expect(page.locator("#log li.delivered")).to_have_count(12)

    assert words == from_user(page, tmp_path)
    replies = [message for message in kept(page, tmp_path) if message["role"] == "assistant"]
    assert 13 == len(replies)
    assert sorted(mine(page)) == sorted(words)


def test_words_that_can_be_kept_nowhere_stay_where_they_were_typed(demo: Demo, person: BrowserContext) -> None:
    """The disk is full, and the module that would hold them does not come: the field has them still, and the page says so."""
    person.route("**/unkept.js", lambda route: route.abort())
    page = opened(person, demo.address)
    ask(page, "menu", "margherita")
    page.evaluate(
        "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('no room', 'QuotaExceededError'); }; }"
    )
    write(page, "two margherita")
    expect(page.get_by_role("alert")).to_contain_text("Something on this page does not work")

    expect(page.get_by_label("Your message")).to_have_value("two margherita")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()


def test_ten_messages_without_a_network(demo: Demo, person: BrowserContext, tmp_path: Path) -> None:
    """They wait in the page, over a closed tab, and go out in order, once each, when the line is back."""
    page = opened(person, demo.address)
    ask(page, "menu", "margherita")
    second = opened(person, page.url)
    person.set_offline(True)
    words = [f"remove {number}" for number in range(10)]
    for each in words:
        write(page, each)
    expect(page.locator("#log li.sending")).to_have_count(10)
    page.close()
    expect(second.locator("#log li.sending")).to_have_count(10)
    person.set_offline(False)
    settled(second)
    expect(second.locator("#log li.delivered")).to_have_count(11)

    assert ["menu", *words] == from_user(second, tmp_path)


def test_a_share_opens_the_order_on_a_telephone(
    demo: Demo, person: BrowserContext, browser: Browser, tmp_path: Path
) -> None:
    """The link of the dialog, opened in another browser: the same order, and what is added there is seen here."""
    page = opened(person, demo.address)
    ask(page, "2 funghi", "€18.00")
    page.get_by_role("button", name="Share").click()
    link = page.get_by_role("textbox", name="Link")
    expect(link).to_have_value(re.compile(f"^{demo.address}#share=ck_h_"))
    page.screenshot(path=tmp_path / "share.png")
    address = link.input_value()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    with profile(browser, viewport={"width": 390, "height": 844}) as telephone:
        there = telephone.new_page()
        there.goto(address)
        expect(there.get_by_role("dialog", name="Open a shared chat?")).to_be_visible()
        assert "share" not in there.url
        there.get_by_role("button", name="Open the shared chat").click()
        expect(there.locator("#log > li").last).to_contain_text("€18.00")
        expect(there.get_by_role("note")).to_contain_text("shared with you")
        assert "share" not in there.url
        write(there, "a water")
        expect(page.locator("#log > li").last).to_contain_text("€20.00")
        there.reload()
        expect(there.locator("#log > li").last).to_contain_text("€20.00")
        expect(there.get_by_role("note")).to_contain_text("shared with you")
    with profile(browser) as stranger:
        late = stranger.new_page()
        late.goto(address)
        late.get_by_role("button", name="Open the shared chat").click()
        expect(late.get_by_role("alert")).to_contain_text("used already")
        late.get_by_role("button", name="New chat").last.click()
        ready(late)
        ask(late, "cart", "empty")


def test_a_share_is_opened_only_by_who_says_so(demo: Demo, person: BrowserContext, browser: Browser) -> None:
    """Not now leaves the link unused and one's own chat where it is; so does Escape, and the link in an open chat."""
    page = opened(person, demo.address)
    ask(page, "2 funghi", "€18.00")
    page.get_by_role("button", name="Share").click()
    link = page.get_by_role("textbox", name="Link")
    expect(link).to_have_value(re.compile("#share=ck_h_"))
    address = link.input_value()
    with profile(browser) as another:
        own = opened(another, demo.address)
        ask(own, "a water", "€2.00")
        own.evaluate("(address) => { location.href = address; }", address)
        for refuse in ("Not now", "Escape"):
            dialog = own.get_by_role("dialog", name="Open a shared chat?")
            expect(dialog).to_be_visible()
            if refuse == "Escape":
                own.keyboard.press("Escape")
            else:
                dialog.get_by_role("button", name=refuse).click()
            ready(own)
            expect(own.locator("#log > li").last).to_contain_text("€2.00")
            expect(own.get_by_role("note")).to_be_hidden()
            own.goto(address)
        own.get_by_role("button", name="Open the shared chat").click()
        expect(own.locator("#log > li").last).to_contain_text("€18.00")
        bare = opened(another, demo.address)
        expect(bare.locator("#log > li").last).to_contain_text("€2.00")
        expect(bare.get_by_role("note")).to_be_hidden()


def test_a_failed_message_can_be_tried_again(demo: Demo, person: BrowserContext, tmp_path: Path) -> None:
    """It is marked, says why, and goes out under the same id when asked."""
    page = opened(person, demo.address)
    ask(page, "menu", "margherita")
    page.route("**/messages", lambda route: route.fulfill(status=422, json={"detail": "The kitchen cannot read this."}))
    write(page, "a margherita")
    failed = page.locator("#log li.failed")
    expect(failed).to_contain_text("Not sent: The kitchen cannot read this.")
    page.screenshot(path=tmp_path / "failed.png")
    page.unroute("**/messages")
    failed.get_by_role("button", name="Try again").click()
    expect(page.locator("#log > li").last).to_contain_text("Total: €7.50")

    expect(failed).to_have_count(0)
    assert ["menu", "a margherita"] == from_user(page, tmp_path)


def test_a_chat_that_is_erased_says_so(demo: Demo, person: BrowserContext) -> None:
    """What was said stays readable, and a new chat is one press away."""
    page = opened(person, demo.address)
    ask(page, "menu", "margherita")
    page.evaluate(
        """({ id, token }) => fetch(`/v1/conversations/${id}/tokens/current`, {
          method: "DELETE",
          headers: { authorization: `Bearer ${token}` },
        })""",
        me(page),
    )
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("#log > li").last).to_contain_text("margherita")
    page.get_by_role("alert").get_by_role("button", name="New chat").click()
    expect(page.locator("#empty")).to_be_visible()


def test_what_people_write_is_only_text(demo: Demo, person: BrowserContext) -> None:
    """Markup is shown, not run, in one's own words and in the bot's."""
    page = opened(person, f"{demo.address}?c=a%2Fb%3A%7Bx%7D%25%20%F0%9F%8D%95%3Cb%3E")
    ask(page, "<img src=x onerror=alert(1)><b>pizza</b>", "<img src=x onerror=alert(1)>")

    assert "You: <img src=x onerror=alert(1)><b>pizza</b>" == log(page)[0]
    assert 0 == page.locator("#log img, #log b").count()


def test_a_long_talk_comes_in_pieces(demo: Demo, person: BrowserContext, tmp_path: Path) -> None:
    """The last lines at first, what was before on demand, without a jump under the reader's eyes; what is new is announced
    to who reads further up."""
    page = opened(person, demo.address)
    ask(page, "menu", "margherita")
    page.evaluate(
        """async ({ id, token }) => {
          for (let n = 1; n <= 70; n++)
            await fetch(`/v1/conversations/${id}/messages`, {
              method: "POST",
              headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
              body: JSON.stringify({ content: `remove ${n}` }),
            });
        }""",
        me(page),
    )
    fresh = opened(person, page.url)
    expect(fresh.locator("#log > li").last).to_be_in_viewport()
    while fresh.get_by_role("button", name="Show earlier messages").is_visible():
        before = fresh.locator("#log > li").count()
        fresh.get_by_role("button", name="Show earlier messages").click()
        expect(fresh.locator("#log > li")).not_to_have_count(before)
    fresh.screenshot(path=tmp_path / "long.png")

    assert ["menu", *[f"remove {n}" for n in range(1, 71)]] == mine(fresh)
    fresh.locator("#room").evaluate("(room) => (room.scrollTop = 0)")
    write(page, "cart")
    fresh.get_by_role("button", name="New messages").click()
    expect(fresh.locator("#log > li").last).to_be_in_viewport()
    expect(fresh.get_by_role("button", name="New messages")).to_be_hidden()


@pytest.mark.journey
def test_it_is_usable_by_keyboard_and_by_ear(demo: Demo, person: BrowserContext) -> None:
    """Enter sends, Shift+Enter does not, Escape clears; everything has a role and a name; half-typed words come back."""
    page = opened(person, demo.address)
    text = page.get_by_label("Your message")
    page.keyboard.type("one line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")

    assert "one line\nand another" == text.input_value()
    page.reload()
    ready(page)
    expect(text).to_have_value("one line\nand another")
    page.keyboard.press("Escape")
    expect(text).to_have_value("")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    page.keyboard.type("menu")
    page.keyboard.press("Enter")
    expect(page.get_by_role("log", name="Conversation").locator("> ol > li").last).to_contain_text("Bot: ")
    expect(page.locator("#log li.user .unseen").last).to_have_text("Delivered")
    expect(page.locator("#heard[aria-live=polite]")).to_contain_text("Bot: ")
    expect(text).to_be_focused()


def test_it_fits_a_small_dark_screen(demo: Demo, browser: Browser, tmp_path: Path) -> None:
    """No sideways scrolling on a telephone, readable in the dark, and still where motion is not wanted."""
    options = {"viewport": {"width": 320, "height": 568}, "color_scheme": "dark", "reduced_motion": "reduce"}
    with profile(browser, **options) as context:
        page = opened(context, demo.address)
        write(page, "2 quattro formaggi, " + "x" * 120)
        expect(page.locator("#log > li").last).to_contain_text("€21.00")
        page.screenshot(path=tmp_path / "small.png")
        room, page_width, background, animation = page.evaluate(
            "[document.getElementById('room').scrollWidth, document.documentElement.scrollWidth,"
            " getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('#typing i')).animationName]"
        )

        assert (320, 320, "none") == (room, page_width, animation)
        assert all(int(part) < 64 for part in background[4:-1].split(","))
        expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
