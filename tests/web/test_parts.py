"""What a message says on the chat page, drawn from nodes alone: Markdown, files, places, pictures, choices; whoever wrote it, nothing of it
runs, leads or loads where it must not, and no text holds up the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from chatkeep.model import Content

from ..support import axe
from ..support.browsing import profile
from ..support.chat_page import opened, write
from ..support.repeating import Service, running_service

STARTERS = ["Where is my order?", "Opening <b>hours</b>"]

EVERYTHING = """# Trains
Two of them, **both** *quick*, ~~sold out~~ `free`:

2) Italo
   - with `WiFi`
4) Frecciarossa

> Seats can be
> changed.

| Class | Price |
|---|---|
| Standard | **19** |

```sh
curl <b>x</b> **not bold**
```
[the timetable](https://trains.example/t) and <https://trains.example/a_(b)>, or [write](mailto:ada@trains.example)"""

HOSTILE = [
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\nscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:alert(1)) [x](file:///etc/passwd) [x](//evil.example) [x](/v1/me) [x](#share=1)",
    "[x](https://bank.example@evil.example/)",
    "[x](mailto:a@b.example?bcc=evil@evil.example)",
    "![x](javascript:alert(1)) ![x](data:image/svg+xml,<svg onload=alert(1)>)",
    '<img src=x onerror="document.title=1">',
    "<svg onload=alert(1)></svg> <script>alert(1)</script> </script><script>alert(1)</script>",
    "<a href='javascript:alert(1)'>x</a> <iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
    "&lt;script&gt;alert(1)&lt;/script&gt; {{7*7}} ${7*7} \\u003cscript\\u003e",
    "[<img src=x onerror=alert(1)>](https://fine.example)",
    "`<img src=x onerror=alert(1)>` \n```html\n<script>alert(1)</script>\n```",
    "| <img src=x onerror=alert(1)> | b |\n|---|---|\n| <script>alert(1)</script> | c |",
    "\x1b[2J\x1b]0;title\x07 =cmd|' /C calc'!A0",
    "\u202egnp.exe \u2066hidden\u2069 a" + "\u0301" * 10_000,
]

HOSTILE_PARTS: list[dict[str, Any]] = [
    {"type": "image", "url": "javascript:alert(1)", "name": "x"},
    {
        "type": "image",
        "url": "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "name": "x",
    },
    {"type": "document", "url": "javascript:alert(1)", "name": "<b>bill</b>.pdf"},
    {"type": "document", "url": "https://evil.example/setup.exe", "name": "bill\u202efdp.exe", "size": -1},
    {"type": "document", "url": "https://evil.example/%E0%A4%A", "size": 1e300, "mime": "x" * 5000},
    {"type": "location", "latitude": 1e308, "longitude": "<b>"},
    {"type": "location", "latitude": 91, "longitude": 0, "name": "<img src=x onerror=alert(1)>"},
    {"type": "contact", "name": {"a": 1}, "phones": [None, {}, "<b>"]},
    {"type": "text", "text": "x", "url": "javascript:alert(1)"},
    {"type": "source", "url": "https://evil.example/", "title": "https://bank.example/"},
    {"type": "order", "items": [None, {"quantity": {}, "id": "<b>"}]},
    {"type": "form", "answers": {"<b>": {"<i>": None}}},
    {"type": "constructor", "__proto__": 1, "text": "**fine**"},
    {"type": "image", "url": "https://elsewhere.example/track.gif", "width": 1e9, "height": 1e-9},
]

BOMBS = {
    "stars": "*",
    "words behind stars": "*a ",
    "all kinds, open": "*a _b **c __d ~~e [f ![g ",
    "brackets": "[",
    "links that are none": "[a](",
    "ends of links": "](",
    "titles": '[a](http://x "',
    "backslashes": "\\",
    "backticks": "`a``b```c````d",
    "quotes": "> ",
    "deep lists": "- ",
    "items": "- a\n\n\n",
    "rules": "* * ",
    "tables": "a|b\n-|-\n",
    "heads of tables": "|-",
    "fences": "```\n",
    "hashes": "# #",
    "addresses": "http://a)",
    "ends of addresses": ".",
    "blanks": "a\n\n",
}

FRAMED = {
    "a table without its line": ("a|b\n", " ", "-x"),
    "a line that goes wrong": ("a|b\n-", " ", "x"),
    "a line of cells": ("a|b\n", "- |", "x"),
    "a rule that is none": ("-", " -", "x"),
    "a heading": ("# a", " #", "x"),
}
"""Texts that are slow only as a whole: a beginning, what is repeated, an end."""

DEPTH = "(said) => { let depth = 0, one = said; while ((one = one.lastElementChild)) depth++; return depth; }"


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """A running server."""
    with running_service(starters=STARTERS, pictures=["https://cdn.example"]) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    """The server, with nothing in it."""
    running.empty()
    return running


def told(service: Service, page: Page, content: Content) -> Locator:
    """What the page shows of what the bot says."""
    service.says = [content]
    before = page.locator("#log > li.assistant").count()
    write(page, "next")
    expect(page.locator("#log > li.assistant:not(.streaming)")).to_have_count(before + 1)
    return page.locator("#log > li.assistant").last.locator(".said")


@pytest.mark.journey
def test_markdown_is_shown_as_what_it_means(service: Service, person: BrowserContext) -> None:
    """What bots and people of the site write; what a visitor writes stays as it is, but for links."""
    chat = opened(person, service.address)
    said = told(service, chat, EVERYTHING)

    assert ["both", "19"] == said.locator("strong").all_inner_texts()
    assert ["quick", "sold out"] == said.locator("em, del").all_inner_texts()
    assert ["free", "WiFi", "curl <b>x</b> **not bold**"] == said.locator("code").all_inner_texts()
    assert [2, 4] == said.locator("ol > li").evaluate_all("(lines) => lines.map((line) => line.value)")
    assert ["Class", "Price", "Standard", "19"] == said.locator("th, td").all_inner_texts()
    assert "Seats can be\nchanged." == said.locator("blockquote").inner_text()
    links = {link.inner_text(): link.get_attribute("href") for link in said.get_by_role("link").all()}
    assert {
        "the timetable": "https://trains.example/t",
        "https://trains.example/a_(b)": "https://trains.example/a_(b)",
        "write": "mailto:ada@trains.example",
    } == links
    assert all("noopener" in (link.get_attribute("rel") or "") for link in said.get_by_role("link").all())
    write(chat, "2*3*4 **mine** https://mine.example/.")
    mine = chat.locator("#log > li.user .said").last
    expect(mine).to_have_text("2*3*4 **mine** https://mine.example/.")
    assert ["https://mine.example/"] == mine.get_by_role("link").all_inner_texts()


def test_words_that_are_no_markdown_stay_as_they_are(service: Service, person: BrowserContext) -> None:
    """Sums, names of files, prices, lines."""
    chat = opened(person, service.address)
    for words in (
        "2 * 3 * 4 = 24, 2*3*4, 2**3**4",
        "snake_case_name and C:\\temp",
        "a < b > c & d",
        "**open and *open",
    ):
        expect(told(service, chat, words)).to_have_text(words)
    assert "one\ntwo\n\n  three" == told(service, chat, "one\ntwo\n\n  three").inner_text()


@pytest.mark.journey
def test_what_is_hostile_does_nothing(service: Service, person: BrowserContext) -> None:
    """As a bot's reply, a person's, a visitor's own, and as parts; when it comes, and when it is loaded."""
    asked: list[str] = []
    person.on("request", lambda request: asked.append(request.url))
    chat = opened(person, service.address)
    told(service, chat, [{"type": "text", "text": text} for text in HOSTILE])
    for text in HOSTILE:
        told(service, chat, text)
    told(service, chat, HOSTILE_PARTS)
    write(chat, "\n".join(HOSTILE)[:3900])
    service.says_by_itself(service.conversation(), HOSTILE_PARTS)
    for _ in range(2):
        expect(chat.locator("#log > li.operator")).to_have_count(1)
        assert "Chat" == chat.title()
        assert [] == chat.locator("#log :is(script, svg *:not(path), iframe, object, embed, style, form, input)").all()
        links = chat.locator("#log a").evaluate_all("(all) => all.map((one) => one.getAttribute('href'))")
        hosts = {link.split("/")[2] for link in links}
        assert {"fine.example", "evil.example", "elsewhere.example"} == hosts
        expect(chat.locator("#log")).not_to_contain_text("cannot be shown here")
        wide = "[...document.querySelectorAll('#log *, #room')].filter((one) => one.scrollWidth > document.body.clientWidth).length"
        assert 0 == chat.evaluate(wide)
        chat.reload()
    assert {service.address.split("/")[2]} == {url.split("/")[2] for url in asked}


def test_a_link_or_file_that_is_not_what_it_says_is_told(service: Service, person: BrowserContext) -> None:
    """Where it leads, what its address says it is, and marks that turn letters around."""
    chat = opened(person, service.address)
    words = told(
        service, chat, "[https://bank.example/login](https://evil.example) [bank.example](https://bank.example/a)"
    )
    expect(words).to_have_text("https://bank.example/login (evil.example) bank.example")
    file = told(
        service, chat, [{"type": "document", "url": "https://evil.example/setup.exe", "name": "bill\u202efdp.exe"}]
    )
    expect(file).to_contain_text("billU+202Efdp.exe")
    expect(file).to_contain_text("EXE · evil.example")


@pytest.mark.journey
def test_files_places_and_people_are_shown(service: Service, person: BrowserContext) -> None:
    """With name, kind and size; a place leads to its map; what cannot be opened here says so; how a reply came about is not shown."""
    chat = opened(person, service.address)
    parts: list[dict[str, Any]] = [
        {"type": "document", "url": "https://files.example/i/42.pdf", "name": "Invoice 42.pdf", "size": 182_345},
        {"type": "document", "media": "17", "name": "kept.pdf", "text": "from *before*"},
        {"type": "image", "url": "https://elsewhere.example/menu.png", "name": "menu"},
        {"type": "location", "latitude": 40.85, "longitude": 14.27, "name": "Bella Napoli"},
        {"type": "contact", "name": "Ada", "phones": ["+39 1"]},
        {"type": "source", "url": "https://elsewhere.example/s", "title": "A source"},
        {"type": "reasoning", "text": "secret thoughts"},
        {"type": "tool_call", "name": "look_up"},
    ]
    said = told(service, chat, parts)
    links = {link.inner_text(): link.get_attribute("href") for link in said.get_by_role("link").all()}
    assert {
        "Invoice 42.pdf\nPDF · 178 KB · files.example": "https://files.example/i/42.pdf",
        "menu\nPNG · elsewhere.example": "https://elsewhere.example/menu.png",
        "Bella Napoli\n40.85000, 14.27000": "https://www.openstreetmap.org/?mlat=40.85&mlon=14.27#map=16/40.85/14.27",
        "A source": "https://elsewhere.example/s",
    } == links
    assert "Invoice 42.pdf" == said.get_by_role("link").first.get_attribute("download")
    for words in ("kept.pdf", "PDF · cannot be opened here", "from before", "Ada", "+39 1"):
        expect(said).to_contain_text(words)
    for words in ("secret", "look_up"):
        expect(said).not_to_contain_text(words)


def test_pictures_have_their_room_before_they_come(service: Service, person: BrowserContext) -> None:
    """Those of this server and of named origins are loaded; one that does not come becomes a file."""
    held: list[Route] = []
    person.route("https://cdn.example/**", lambda route: held.append(route))
    chat = opened(person, service.address)
    parts: list[dict[str, Any]] = [
        {"type": "image", "url": "https://cdn.example/wide.svg", "alt": "Our hall", "width": 400, "height": 200},
        {"type": "image", "url": f"{service.address}nothing.png", "name": "nothing.png"},
    ]
    said = told(service, chat, parts)
    image = said.get_by_role("img", name="Our hall")
    box = said.locator(".picture").first.bounding_box()
    assert box is not None
    assert box["width"] > 200
    assert abs(box["width"] / box["height"] - 2) < 0.01
    expect(said).to_contain_text("nothing.png")
    expect(said).to_contain_text("cannot be shown")
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="90"><script>parent.document.title = 1</script></svg>'
    held[0].fulfill(body=picture, content_type="image/svg+xml")
    expect(said.locator(".picture.loaded")).to_be_visible()
    assert box == said.locator(".picture").first.bounding_box()
    assert "Chat" == chat.title()
    assert image.get_attribute("src") == "https://cdn.example/wide.svg"


@pytest.mark.journey
def test_starters_and_choices_are_said_by_pressing(service: Service, person: BrowserContext) -> None:
    """A choice with an id of its own comes as from a channel; sections have their headings."""
    chat = opened(person, service.address)
    sections = [
        {
            "title": "Cups",
            "rows": [{"id": "s", "text": "Small", "description": "0.2 l"}, {"id": "Large", "text": "Large"}],
        },
        {"title": "Bottles", "rows": [{"id": "b", "text": "Bottle"}]},
    ]
    service.says = [[{"type": "list", "text": "What *size*?", "button": "Sizes", "sections": sections}], "a", "b"]
    expect(chat.get_by_role("group", name="What to begin with").get_by_role("button")).to_have_text(STARTERS)
    chat.get_by_role("button", name=STARTERS[1]).click()
    choices = chat.get_by_role("group", name="Suggested replies")
    expect(choices).to_contain_text("Bottles")
    chat.get_by_role("button", name="Small").click()
    expect(chat.locator("#log > li.user .said")).to_have_text([STARTERS[1], "Small"])
    expect(choices).to_be_hidden()
    service.says = [[{"type": "buttons", "text": "?", "buttons": [{"id": "Large", "text": "Large"}]}]]
    write(chat, "again")
    chat.get_by_role("button", name="Large").click()
    expect(chat.locator("#log > li.assistant")).to_have_count(4)

    assert [STARTERS[1], [{"type": "button", "id": "s", "text": "Small"}], "again", "Large"] == service.heard


@pytest.mark.parametrize(("words", "direction"), [("مرحبا 2 pizza", "rtl"), ("2 שלום", "rtl"), ("hello مرحبا", "ltr")])
def test_what_is_typed_runs_as_it_is_read(service: Service, person: BrowserContext, words: str, direction: str) -> None:
    """From right to left where its first letter is of such a script: in the field as in the log."""
    page = opened(person, service.address)
    field = page.get_by_label("Your message")
    field.fill(words)

    assert direction == field.evaluate("(field) => getComputedStyle(field).direction")


def test_days_and_hours_are_those_of_the_reader(service: Service, browser: Browser) -> None:
    """A line above each day but today's first; times in the browser's zone."""
    with profile(browser, timezone_id="Pacific/Auckland", locale="en-GB") as person:
        chat = opened(person, service.address)
        told(service, chat, "first")
        expect(chat.locator("#log > li.day")).to_have_count(0)
        shown = chat.locator("#log time").first
        at = shown.get_attribute("datetime")
        assert (
            chat.evaluate("(at) => new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })", at)
            == shown.inner_text()
        )
        chat.clock.set_fixed_time(chat.evaluate("new Date(Date.now() + 864e5).toISOString()"))
        chat.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(chat.locator("#log > li.day")).to_have_text(["Yesterday"])
        told(service, chat, "tomorrow's")
        expect(chat.locator("#log > li.day")).to_have_text(["Yesterday"])
        chat.reload()
        expect(chat.locator("#log > li.day")).to_have_text(["Yesterday"])


def test_a_reply_is_read_aloud_once_and_what_was_there_is_not(service: Service, person: BrowserContext) -> None:
    """Whole, and with who says it."""
    chat = opened(person, service.address)
    aloud = chat.locator("#heard")
    told(service, chat, "**Welcome**")
    expect(aloud).to_have_text("Bot: Welcome")
    service.says_by_itself(service.conversation(), "I am Kim.")
    expect(aloud).to_contain_text("Agent: I am Kim.")
    chat.reload()
    expect(chat.locator("#log > li.operator")).to_have_count(1)
    expect(aloud).to_have_text("")

    assert "off" == chat.get_by_role("log").get_attribute("aria-live")


def test_page_keys_scroll_the_log_from_where_one_writes(service: Service, person: BrowserContext) -> None:
    """The text field keeps the focus."""
    chat = opened(person, service.address)
    told(service, chat, "line\n" * 60)
    room = chat.locator("#room")
    before = room.evaluate("(room) => room.scrollTop")
    chat.get_by_label("Your message").press("PageUp")
    chat.wait_for_function("(before) => document.querySelector('#room').scrollTop < before", arg=before)
    expect(chat.get_by_label("Your message")).to_be_focused()


@pytest.mark.journey
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_everybody_can_use_it(service: Service, browser: Browser, width: int, scheme: Any) -> None:
    """axe finds nothing serious: empty, with all there is to show, and with a dialog."""
    with profile(
        browser, viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    ) as person:
        chat = opened(person, service.address)
        assert [] == axe.faults(chat)
        told(service, chat, EVERYTHING)
        told(service, chat, [*HOSTILE_PARTS, {"type": "document", "url": "https://files.example/a.pdf"}])
        told(
            service,
            chat,
            [{"type": "buttons", "text": "?", "buttons": [{"id": "s", "text": "Small", "description": "0.2 l"}]}],
        )
        assert [] == axe.faults(chat)
        moving = (
            "[...document.querySelectorAll('*')].filter((one) => getComputedStyle(one).animationName !== 'none').length"
        )
        assert 0 == chat.evaluate(moving)
        chat.get_by_role("button", name="Share").click()
        assert [] == axe.faults(chat)


def test_reading_takes_time_in_proportion_to_the_text(service: Service, person: BrowserContext) -> None:
    """Eight times as much text takes about eight times as long, whatever it is; a square would be 64 times."""
    page = person.new_page()
    page.goto(f"{service.address}markdown.js")
    script = """async (bombs) => {
      const { blocksOf, linksOf } = await import('/markdown.js');
      const took = (text) => Math.min(...[0, 0, 0].map(() => {
        const at = performance.now();
        blocksOf(text), linksOf(text);
        return performance.now() - at;
      }));
      const sizes = [5000, 40000];
      const made = ([head, piece, end], size) => head + piece.repeat(size / piece.length) + end;
      const tried = ([name, bomb]) => [name, sizes.map((size) => took(made(bomb, size)))];
      return Object.fromEntries(Object.entries(bombs).map(tried));
    }"""
    bombs = {name: ("", piece, "") for name, piece in BOMBS.items()} | FRAMED
    times = {name: [math.inf, math.inf] for name in bombs}
    for _ in range(5):  # a collection of garbage, or another process, may take a tenth of a second of one round
        slow = {name: took for name, took in times.items() if took[1] > 100 and not took[1] < 28 * took[0]}
        for name, took in page.evaluate(script, {name: bombs[name] for name in slow}).items():
            times[name] = [min(pair) for pair in zip(times[name], took, strict=True)]
    slow = {name: took for name, took in times.items() if took[1] > 100 and took[1] > 28 * took[0]}

    assert {} == slow, json.dumps(times)


def test_bombs_do_not_freeze_the_page(service: Service, person: BrowserContext) -> None:
    """A hundred thousand characters of each are cut, and the page answers meanwhile."""
    chat = opened(person, service.address)
    for piece in BOMBS.values():
        said = told(service, chat, (piece * (100_000 // len(piece)))[:100_000])
        assert said.evaluate("(said) => said.querySelectorAll('*').length") < 8000
        assert said.evaluate(DEPTH) < 40
    write(chat, "still here")
    expect(chat.locator("#log > li.assistant").last).to_contain_text("heard: still here")
