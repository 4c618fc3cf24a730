"""The widget: the chat page on another site, by one script, under that site's strict policy."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, expect

from chatkeep.server.assets import stored

from ..support import axe
from ..support.browsing import profile
from ..support.other_site import Site, other_site
from ..support.repeating import Service, running_service

BOTH = '<meta name="color-scheme" content="light dark">'
PAGE = '<meta name="viewport" content="width=device-width"><main><h1>A shop</h1><p>Wares <a href="#more">and more</a></p></main>'


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The other site."""
    with other_site() as site:
        yield site


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Service]:
    """A chat that the site may show, under two of its names."""
    named = [site.origin(), f"http://*.shop.localhost:{site.port}"]
    with running_service(title="Help", starters=["Opening hours"], frame_ancestors=named) as service:
        yield service


@pytest.fixture
def service(running: Service, site: Site) -> Service:
    """The same with nothing in it; the site has the widget on its page."""
    running.empty()
    chat = running.address
    site.body = f'{PAGE}<script src="{chat}widget.js" data-label="Ask us" defer></script>'
    site.policy = f"default-src 'none'; script-src {chat}widget.js; frame-src {chat}widget; style-src 'self'"
    return running


def at(site: Site, person: BrowserContext, name: str = "127.0.0.1") -> Page:
    """The site's page, with the button on it."""
    page = person.new_page()
    page.goto(f"{site.origin(name)}/")
    expect(page.locator("chatkeep-widget .launch")).to_be_visible()
    return page


def opened(page: Page) -> FrameLocator:
    """The chat, opened by its button."""
    page.locator("chatkeep-widget .launch").click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_label("Your message")).to_be_focused()
    return frame


def held(page: Page) -> str:
    """What has the focus: an element of the site, of the widget, or the frame."""
    found: str = page.evaluate(
        "(document.activeElement.shadowRoot?.activeElement ?? document.activeElement).tagName.toLowerCase()"
    )
    return found


@pytest.mark.journey
def test_one_script_brings_a_button_and_behind_it_the_chat(
    service: Service, site: Site, person: BrowserContext
) -> None:
    """Before it is opened nothing else is loaded; Escape closes it, and the button has the focus again."""
    asked: list[str] = []
    person.on("request", lambda request: asked.append(request.url))
    page = at(site, person)

    assert [f"{site.origin()}/", f"{service.address}widget.js"] == [url for url in asked if "favicon" not in url]
    chat = opened(page)
    chat.get_by_role("button", name="Opening hours").click()
    expect(chat.locator("#log > li.assistant .said")).to_have_text("heard: Opening hours")
    expect(chat.get_by_role("button", name="Share")).to_be_hidden()
    expect(page.get_by_role("button", name="Close Ask us")).to_have_attribute("aria-expanded", "true")
    chat.get_by_label("Your message").press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Ask us")).to_be_focused()
    page.evaluate("chatkeepWidget.open()")
    expect(chat.get_by_label("Your message")).to_be_focused()
    chat.get_by_role("button", name="New chat").click()
    expect(chat.locator("#log > li")).to_have_count(0)
    expect(chat.get_by_label("Your message")).to_be_focused()
    chat.get_by_role("button", name="Close").click()
    expect(page.get_by_role("button", name="Ask us")).to_be_focused()


def test_what_comes_while_it_is_closed_is_counted(service: Service, site: Site, person: BrowserContext) -> None:
    """Also after the next page of the site; never what it says. Opening it takes the mark away."""
    page = at(site, person)
    chat = opened(page)
    write_in(chat, "hello")
    chat.get_by_label("Your message").press("Escape")
    for _ in range(2):
        service.says_by_itself(service.conversation(), "a secret")
    expect(page.get_by_role("button", name="Ask us, 2 new messages")).to_be_visible()
    expect(page.locator("chatkeep-widget [role=status]").last).to_contain_text("new message")
    page.reload()
    expect(page.get_by_role("button", name="Ask us, 2 new messages")).to_have_text("2")

    assert "secret" not in page.evaluate("document.querySelector('chatkeep-widget').shadowRoot.textContent")
    opened(page)
    expect(page.locator("chatkeep-widget .badge")).to_be_hidden()
    page.reload()
    expect(page.frame_locator("iframe").locator("body[data-ready]")).to_be_attached()
    expect(page.get_by_role("button", name="Ask us", exact=True)).to_be_visible()


def write_in(chat: FrameLocator, words: str) -> None:
    """Says something and waits for the answer."""
    chat.get_by_label("Your message").fill(words)
    chat.get_by_label("Your message").press("Enter")
    expect(chat.locator("#log > li.assistant").last).to_contain_text(f"heard: {words}")


def test_the_focus_stays_in_it_until_it_is_closed(service: Service, site: Site, person: BrowserContext) -> None:
    """Round and round, in both directions; a dialog or words that are half typed take Escape first."""
    page = at(site, person)
    chat = opened(page)
    for key in ("Tab", "Shift+Tab"):
        for _ in range(8):
            page.keyboard.press(key)
            page.wait_for_function("document.activeElement.shadowRoot?.activeElement.tagName === 'IFRAME'")
        assert "iframe" == held(page)
    chat.get_by_label("Your message").fill("half")
    chat.get_by_label("Your message").press("Escape")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(chat.get_by_label("Your message")).to_have_value("")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.journey
def test_only_named_sites_may_show_it(service: Service, site: Site, browser: Browser) -> None:
    """The browser refuses it to others, also under a name that ends alike; the page itself is framed by nobody."""
    context = browser.new_context()
    refused: list[str] = []
    context.on("console", lambda said: refused.append(said.text))
    for name, path in (("wwwshop.localhost", "widget"), ("127.0.0.1", "")):
        page = context.new_page()
        site.policy = f"default-src 'none'; frame-src {service.address}"
        site.body = f'<iframe src="{service.address}{path}"></iframe>'
        page.goto(f"{site.origin(name)}/")
        page.wait_for_timeout(300)
        assert page.frames[1].url.startswith("chrome-error:"), page.frames[1].url
    assert 2 == len([text for text in refused if "frame-ancestors" in text])
    context.close()


def test_nobody_else_is_listened_to(service: Service, site: Site, person: BrowserContext) -> None:
    """Neither by the site's page, which hears only its frame, nor by the frame, which hears only the page around it."""
    page = at(site, person)
    chat = opened(page)
    write_in(chat, "hello")
    for said in ({"chatkeep": "unread", "count": 7}, {"chatkeep": "close"}):
        page.evaluate("(said) => window.postMessage(said, '*')", said)
    inner = page.frames[1]
    inner.evaluate("window.postMessage({ chatkeep: 'closed' }, '*')")
    inner.evaluate("parent.postMessage({ chatkeep: 'unread', count: '<b>' }, '*')")
    service.says_by_itself(service.conversation(), "more")
    expect(chat.locator("#log > li.operator")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Ask us", exact=True)).to_be_visible()


def test_neither_takes_the_style_of_the_other(service: Service, site: Site, person: BrowserContext) -> None:
    """Not even where the site's sheet is meant to."""
    look = "(heading) => JSON.stringify([...Object.entries(getComputedStyle(heading))])"
    bare = person.new_page()
    site.body, widget = PAGE, site.body
    bare.goto(f"{site.origin()}/")
    before = bare.locator("h1").evaluate(look)
    site.body = widget
    page = at(site, person)

    assert before == page.locator("h1").evaluate(look)
    page.evaluate(
        """() => {
          const sheet = new CSSStyleSheet();
          sheet.replaceSync(`body * { display: none !important; opacity: 0 !important; transform: scale(9) !important; }
            body * { font-size: 90px !important; color: lime !important; }
            button, div, iframe { position: static !important; width: 1px !important; }`);
          document.adoptedStyleSheets = [sheet];
        }"""
    )
    launch = page.locator("chatkeep-widget .launch")
    box = launch.bounding_box()

    assert box is not None
    assert (56, 56) == (box["width"], box["height"])
    assert "16px" == launch.evaluate("(button) => getComputedStyle(button).fontSize")
    assert "1" == page.locator("chatkeep-widget").evaluate("(host) => getComputedStyle(host).opacity")


def test_it_is_dark_where_the_page_around_it_may_be(service: Service, site: Site, browser: Browser) -> None:
    """A site that is light only has a light widget, also for who likes it dark; the site may choose, too."""
    tag = site.body
    with profile(browser, color_scheme="dark") as person:
        for head, choice, dark in (("", "", False), (BOTH, "", True), (BOTH, "light", False), ("", "both", True)):
            site.body = head + tag.replace(" defer", f' defer data-scheme="{choice}"')
            page = at(site, person)
            opened(page)
            told = page.locator("iframe").evaluate("(frame) => getComputedStyle(frame).colorScheme")
            assert ("dark" if dark else "light") == told, (head, choice)
            page.close()


def test_it_works_where_the_browser_lets_frames_keep_nothing(
    service: Service, site: Site, person: BrowserContext
) -> None:
    """Of another site than the chat's; the chat then lasts as long as the page."""
    page = at(site, person, "www.shop.localhost")
    chat = opened(page)

    assert page.frames[1].evaluate("(() => { try { return Boolean(localStorage) } catch { return false } })()") is False
    write_in(chat, "hello")
    write_in(chat, "again")
    expect(chat.locator("#notice")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_everybody_can_use_it(service: Service, site: Site, browser: Browser, width: int, scheme: Any) -> None:
    """axe finds nothing serious, outside and inside; on a phone the chat has the whole screen."""
    site.body = site.body.replace(" defer", ' defer data-scheme="both"')
    with profile(browser, viewport={"width": width, "height": 760}, color_scheme=scheme) as person:
        page = at(site, person)
        assert [] == axe.faults(page)
        chat = opened(page)
        write_in(chat, "hello")
        box = page.locator("chatkeep-widget .panel").bounding_box()
        assert box is not None
        assert ((0, 0, 375, 760) == tuple(box.values())) == (width == 375)
        page.wait_for_timeout(250)  # it comes in with a movement
        for each in page.frames:
            assert [] == axe.faults(each)


def test_the_script_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    """What every page of the site loads is under 4 KB, also with its comments; what comes when it is opened is printed."""
    own = "widget.js chat.html chat.js chat.css parts.js parts.css markdown.js shown.js people.js frame.js client.js account.js"
    packed = {name: len(gzip.compress(stored(name).encode(), 9)) for name in own.split()}
    with capsys.disabled():
        print(f"\n{packed}, together {sum(packed.values()):,}")

    assert packed["widget.js"] < 4096
