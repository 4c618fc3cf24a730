"""A script of the page that does not load: the page says so, and comes back with what was typed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Route, expect

from ..support.browsing import PATIENCE_MS, Shop
from ..support.chat_page import ready


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One shop for all of these tests."""
    with Shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


def answer(route: Route, how: str) -> None:
    """As a server of another release, a proxy with a page of its own, and no line."""
    if how == "network":
        route.abort()
    else:
        status = int(how)
        route.fulfill(status=status, content_type="text/html", body="<!doctype html><title>nothing here</title>")


@pytest.mark.parametrize("how", ["404", "200", "network"])
@pytest.mark.parametrize("name", ["chat.js", "markdown.js", "visitors.js"])
def test_a_part_that_does_not_load_is_named(shop: Shop, browser: Browser, name: str, how: str) -> None:
    """The first script, one that it needs, and one that is fetched later: what is typed meanwhile is there after a reload."""
    page = browser.new_page()  # (what a page may not have is an error on it)
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    page.route(f"**/{name}", lambda route: answer(route, how))
    page.goto(shop.address)
    told = page.locator("#unloaded")
    expect(told).to_contain_text("A part of this page did not load")
    expect(told).to_contain_text(name)
    page.get_by_label("Your message").fill("two tea, please")
    page.unroute_all()
    told.get_by_role("button", name="Reload").click()
    ready(page)
    expect(told).to_have_count(0)
    expect(page.get_by_label("Your message")).to_have_value("two tea, please")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator("#log > li").last).to_contain_text("two tea, please")
    page.close()


def test_the_desk_says_that_a_part_did_not_load(shop: Shop, person: BrowserContext) -> None:
    """It has no page without its scripts at all."""
    page = person.new_page()
    page.route("**/operator-ask.js", lambda route: answer(route, "404"))
    page.goto(f"{shop.address}operator")
    expect(page.locator("#unloaded")).to_contain_text("operator.js")
    page.unroute_all()
    page.get_by_role("button", name="Reload").click()
    expect(page.locator("#entry")).to_be_visible()
