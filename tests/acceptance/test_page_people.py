"""The chat page with accounts: the list, signing in, notices as toasts, devices, and a refresh while the server is away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from chatkeep.server.assets import CLIENT

from ..support.browsing import Shop, profile
from ..support.chat_page import ask, mine, opened, ready


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop whose page opens without it; every test has a user of its own."""
    with Shop(tmp_path_factory.mktemp("shop"), "", "offline") as shop:
        yield shop


def sign_in(page: Page, user: str) -> None:
    """Signs in over the page."""
    page.get_by_role("button", name=re.compile("^Chats")).click()
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("dialog", name="Sign in").get_by_role("button", name=user, exact=True).click()
    expect(page.locator("#user")).to_contain_text(user)
    ready(page)


def test_a_guests_chat_goes_into_the_account(
    shop: Shop, person: BrowserContext, browser: Browser, tmp_path: Path
) -> None:
    """What was said before signing in is in the list, and on the other device; it can be renamed, and signed out of."""
    page = opened(person, shop.address)
    ask(page, "before", "1: before")
    sign_in(page, "user1")
    expect(page.locator("#log > li").last).to_contain_text("1: before")
    ask(page, "after", "2: after")
    page.get_by_role("button", name=re.compile("^Chats")).click()
    row = page.locator("#list li")
    expect(row).to_have_count(1)
    row.get_by_text("More").click()
    row.get_by_role("button", name="Rename").click()
    page.get_by_role("textbox", name="Title").fill("My order <b>")
    page.get_by_role("button", name="Rename").last.click()
    expect(row.get_by_role("link")).to_contain_text("My order <b>")
    expect(page.locator(".toast[data-kind=saved]")).to_have_role("status")
    with profile(browser, viewport={"width": 375, "height": 667}, color_scheme="dark") as telephone:
        there = opened(telephone, shop.address)
        sign_in(there, "user1")
        expect(there.locator("#log > li").last).to_contain_text("2: after")
        there.get_by_role("button", name=re.compile("^Chats")).click()
        expect(there.get_by_role("link", name="My order <b>")).to_have_attribute("aria-current", "page")
        there.screenshot(path=tmp_path / "list.png")
        assert 375 == there.evaluate("document.documentElement.scrollWidth")
        there.get_by_role("button", name="Your devices").click()
        devices = there.get_by_role("dialog", name="Your devices").get_by_role("listitem")
        expect(devices).to_have_count(2)
        there.screenshot(path=tmp_path / "devices.png")
        devices.filter(has=there.get_by_role("button", name="Sign out")).get_by_role("button").click()
        expect(devices).to_have_count(1)
    page.get_by_label("Your message").fill("kept")
    page.wait_for_timeout(1500)
    page.get_by_label("Your message").press("Enter")
    expired = page.locator(".toast[data-kind=expired]")
    expect(expired).to_have_role("alert")
    expired.get_by_role("button", name="Sign in").press("Enter")
    page.get_by_role("dialog", name="Sign in").get_by_role("button", name="user1", exact=True).click()
    expect(page.locator("#log > li").last).to_contain_text("3: kept")
    page.get_by_role("button", name=re.compile("^Chats")).click()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.locator("#empty")).to_be_visible()
    assert [] == mine(page)


def test_a_click_is_not_lost_where_the_list_is_drawn_anew(shop: Shop, person: BrowserContext) -> None:
    """A message that comes while a button is pressed changes the line that the button is in."""
    page = opened(person, shop.address)
    sign_in(page, "user1")
    ask(page, "hello", ": hello")
    page.get_by_role("button", name=re.compile("^Chats")).click()
    row = page.locator("#list li", has_text="hello")
    row.get_by_text("More").click()
    row.get_by_role("button", name="Rename").hover()
    page.mouse.down()
    tab = opened(person, shop.address)
    ask(tab, "meanwhile", ": meanwhile")
    expect(page.locator("#log > li").last).to_contain_text(": meanwhile")
    page.wait_for_timeout(500)  # the list hears of it in another way
    page.mouse.up()

    expect(page.get_by_role("textbox", name="Title")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#list li", has_text="meanwhile")).to_have_count(1)


def test_notices_are_toasts_that_wait_for_who_reads(shop: Shop, person: BrowserContext, tmp_path: Path) -> None:
    """A failed message can be tried again from its toast by keyboard; what goes by itself stays while it is pointed at or focused."""
    page = opened(person, shop.address)
    ask(page, "hello", "1: hello")
    page.route("**/messages", lambda route: route.fulfill(status=422, json={"detail": "The kitchen cannot read this."}))
    page.get_by_label("Your message").fill("a margherita")
    page.get_by_label("Your message").press("Enter")
    failed = page.locator(".toast[data-kind=failed]")
    expect(failed).to_have_role("alert")
    expect(failed).to_contain_text("The kitchen cannot read this.")
    page.screenshot(path=tmp_path / "failed.png")
    page.unroute("**/messages")
    failed.get_by_role("button", name="Try again").focus()
    page.keyboard.press("Enter")
    expect(failed).to_have_count(0)
    expect(page.locator("#log > li").last).to_contain_text("2: a margherita")
    expect(page.get_by_label("Your message")).to_be_focused()
    person.set_offline(True)
    expect(page.locator(".toast[data-kind=offline]")).to_be_visible()
    person.set_offline(False)
    back = page.locator(".toast[data-kind=restored]")
    expect(back).to_be_visible()
    expect(page.locator(".toast[data-kind=offline]")).to_have_count(0)
    back.hover()
    page.wait_for_timeout(6000)
    expect(back).to_be_visible()
    back.get_by_role("button", name="Dismiss").press("Escape")
    expect(back).to_have_count(0)


@pytest.mark.journey
def test_a_refresh_while_the_server_is_away(shop: Shop, person: BrowserContext) -> None:
    """The page opens with what was said; what is written is sent later. Nothing of /v1 is kept, and switched off, it goes."""
    page = opened(person, shop.address)
    ask(page, "hello", "1: hello")
    page.evaluate("navigator.serviceWorker.ready.then(() => 0)")
    page.wait_for_timeout(600)
    shop.kill()
    page.reload()
    ready(page)
    expect(page.locator("#log > li").last).to_contain_text("1: hello")
    page.get_by_label("Your message").fill("written meanwhile")
    page.get_by_label("Your message").press("Enter")
    kept = page.evaluate(
        """async () => { const all = await caches.keys();
           const of = async (name) => (await (await caches.open(name)).keys()).map((one) => one.url);
           return (await Promise.all(all.map(of))).flat(); }"""
    )

    assert {f"{shop.address}{name}" for name in ("", "chat.js", "people.js")} <= set(kept)
    assert {f"{shop.address}{path[1:]}" for path in CLIENT} <= set(kept)
    assert [] == [url for url in kept if "/v1/" in url]
    shop.options = ()
    shop.start()
    expect(page.locator("#log > li").last).to_contain_text("2: written meanwhile")
    page.reload()
    page.wait_for_function("() => caches.keys().then((all) => all.length === 0)")
    page.wait_for_function("() => navigator.serviceWorker.getRegistrations().then((all) => all.length === 0)")
