"""Hidden and piled-up characters, endless texts, malformed parts: both pages stay usable and show what comes before and after, at the
first load and as it comes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, expect

from chatkeep.model import Content

from ..support.chat_page import opened, write
from ..support.repeating import Service, running_service

LAST = "This is urgent."
HIDDEN = {
    "zero width spaces": ("\u200b" * 70_000, "U+200B \u00d7 70,000"),
    "joiners": ("\u200d" * 70_000, "U+200D \u00d7 70,000"),
    "line turned around": ("\u202e" * 1000, "U+202E \u00d7 1,000"),
    "tags": ("\U000e0041" * 50_000, "U+E0041 \u00d7 50,000"),
    "variation selectors": ("\ufe0f" * 70_000, "\u00d7 70,000"),
    "fillers": ("\u3164" * 70_000, "U+3164 \u00d7 70,000"),
    "of all kinds": ("\u200b\u2060\u00ad\u200e\u061c" * 10_000, "50,000 hidden characters"),
    "accents": ("a" + "\u0301\u0316" * 40_000, "79,992 more accents"),
    "line breaks": ("x" + "\n" * 100_000 + "y", "100,000 blanks"),
    "blank braille": ("x" + "\u2800" * 70_000 + "y", "70,000 blanks"),
    "one word": ("w" * 100_000, "Show more"),
    "many lines": ("line\n" * 40_000, "Show more"),
    "hidden between letters": ("a\u200b\u200b\u200b\u200b\u200b" * 10_000, "Show more"),
}
ODD_PARTS: list[dict[str, Any]] = [
    {"type": "buttons", "buttons": [None, 1, "", [], {}, {"text": None}, {"title": {}}, {"text": "Yes"}, "No"]},
    {"type": "buttons", "buttons": "abc"},
    {"type": "buttons", "buttons": {"text": "x"}},
    {"type": "list", "sections": [None, {"rows": None}, {"rows": [None, {"title": "Small"}]}, 7]},
    {"choices": 3},
    {},
    {"type": None},
    {"type": 7, "text": {"a": 1}},
    {"type": "text"},
    {"type": "text", "text": None},
    {"type": "text", "text": ["x"]},
    {"type": "image", "url": 5},
    {"type": "image", "url": "javascript:alert(1)", "name": [1]},
    {"type": "location", "latitude": "x", "longitude": None},
    {"type": "contact", "phones": "none"},
    {"type": "__proto__", "constructor": None},
]


LINES = "#log > li:not(.day)"
"""What was said, on the chat page and at the desk."""


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """A running server."""
    with running_service() as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    """The server, with nothing in it."""
    running.empty()
    return running


@pytest.mark.journey
@pytest.mark.parametrize("kind", HIDDEN)
def test_what_hides_or_floods_is_one_token_and_hides_nothing_else(
    service: Service, person: BrowserContext, kind: str
) -> None:
    """As it comes and when it is loaded, on the chat page and on the operators'."""
    words, shown = HIDDEN[kind]
    chat = opened(person, service.address)
    write(chat, "hello")
    expect(chat.locator("#log")).to_contain_text("heard: hello")
    who = service.conversation()
    desk = service.desk(person, who)
    expect(desk.locator("#log")).to_contain_text("heard: hello")
    service.says_by_itself(who, f"here: {words}")
    service.says_by_itself(who, LAST)
    for page, lines in ((chat, 4), (desk, 4)):
        for loaded in ("live", "first"):
            expect(page.locator("#log")).to_contain_text(LAST)
            expect(page.locator(LINES)).to_have_count(lines)
            expect(page.locator(LINES).nth(2)).to_contain_text("here: ")
            expect(page.locator(LINES).nth(2)).to_contain_text(shown)
            assert page.locator("#log .said").nth(2).evaluate("(said) => said.textContent.length") < 6000, loaded
            assert page.locator(".said .token").count() <= 200
            height = "(line) => line.getBoundingClientRect().height"
            assert page.locator(LINES).nth(2).evaluate(height) < 4000
            page.reload()
    if shown == "Show more":
        chat.get_by_role("button", name="Show more").click()
        assert chat.locator("#log .said").nth(2).evaluate("(said) => said.textContent.length") > 8000


@pytest.mark.parametrize("at_once", [True, False])
def test_malformed_parts_stop_nothing(service: Service, person: BrowserContext, at_once: bool) -> None:
    """Each for itself, and all in one message; what is well formed in them is offered."""
    chat = opened(person, service.address)
    replies: list[Content] = [ODD_PARTS] if at_once else [[part] for part in ODD_PARTS]
    replies += [[], [{"type": "text", "text": "part"}] * 500]
    service.says = list(replies)
    for _ in replies:
        write(chat, "next")
    expect(chat.locator("#log li.assistant")).to_have_count(len(replies))
    write(chat, LAST)
    desk = service.desk(person, service.conversation())
    for page in (chat, desk):
        expect(page.locator(LINES).last).to_contain_text(f"heard: {LAST}")
        expect(page.locator("#log")).not_to_contain_text("cannot be shown")
        page.reload()
        expect(page.locator(LINES).last).to_contain_text(f"heard: {LAST}")
    service.says = [ODD_PARTS]
    write(chat, "once more")
    choices = chat.get_by_role("group", name="Suggested replies")
    expect(choices).to_be_visible()

    assert ["1", "Yes", "No", "Small"] == choices.get_by_role("button").all_inner_texts()
    assert 0 == chat.locator("#log a, #log img").count()
    assert chat.locator("#notice").is_hidden()


def test_a_message_that_cannot_be_drawn_is_told_and_the_others_are_shown(
    service: Service, person: BrowserContext
) -> None:
    """Whatever the reason is: here a browser whose clock cannot be written."""
    chat = opened(person, service.address)
    write(chat, "hello")
    expect(chat.locator("#log")).to_contain_text("heard: hello")
    desk = service.desk(person, service.conversation())
    for page in (chat, desk):
        page.add_init_script(
            """const write = Date.prototype.toISOString;
            let first = true;
            Date.prototype.toISOString = function () {
              if (!first || !document.body) return write.call(this);
              first = false;
              throw new Error("no time");
            };"""
        )
        page.reload()
        expect(page.locator(LINES)).to_have_count(2)
        expect(page.locator("#log")).to_contain_text("heard: hello")
    expect(chat.locator("#log")).to_contain_text("This message cannot be shown here.")


@pytest.mark.journey
def test_an_error_of_the_page_is_told(service: Service, person: BrowserContext) -> None:
    """In words, on both pages."""
    chat = opened(person, service.address)
    write(chat, "hello")
    expect(chat.locator("#log")).to_contain_text("heard: hello")
    desk = service.desk(person, service.conversation())
    expect(desk.locator("#log")).to_contain_text("heard: hello")
    for page in (chat, desk):
        page.evaluate("dispatchEvent(new ErrorEvent('error', { error: new Error('as asked') }))")
        expect(page.get_by_role("alert").filter(has_text="as asked")).to_be_visible()


def test_what_scripts_need_is_left_alone(service: Service, person: BrowserContext) -> None:
    """Persian, Hebrew with points, Thai, Hindi, a family, a flag of flags, keycaps: as they were written, for those who talk."""
    words = " ".join(
        [
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
            "\u200eabc\u200f",
            "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48",
            "\u0915\u094d\u200d\u0937",
            "\U0001f469\u200d\U0001f469\u200d\U0001f467",
            "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
            "1\ufe0f\u20e3",
            "\u2764\ufe0f",
            "Z\u0351\u036b",
        ]
    )
    chat = opened(person, service.address)
    write(chat, words)
    expect(chat.locator("#log li.assistant .said")).to_have_text(f"heard: {words}")

    assert 0 == chat.locator(".token").count()


def test_the_log_is_scrolled_by_keyboard_and_its_lines_are_list_items(service: Service, person: BrowserContext) -> None:
    """The room takes the focus, and shows that it has it."""
    chat = opened(person, service.address)
    service.says = ["line\n" * 60]
    write(chat, "long")
    expect(chat.locator("#log li.assistant")).to_contain_text("line")
    room = chat.locator("#room")
    before = room.evaluate("(room) => room.scrollTop")
    chat.get_by_label("Your message").press("Shift+Tab")
    for _ in range(5):
        if room.evaluate("(room) => document.activeElement === room"):
            break
        chat.keyboard.press("Shift+Tab")
    expect(room).to_be_focused()
    chat.keyboard.press("Home")
    chat.wait_for_function("(before) => document.querySelector('#room').scrollTop < before", arg=before)

    assert "none" != room.evaluate("(room) => getComputedStyle(room).outlineStyle")
    assert 2 == chat.get_by_role("log").get_by_role("list").get_by_role("listitem").count()


def test_all_of_a_conversation_is_printed(service: Service, person: BrowserContext) -> None:
    """And not what was just to be seen of it, with the buttons around; paper is white, so no words are."""
    chat = opened(person, service.address)
    for number in range(8):
        write(chat, f"{number}: " + "many words " * 100)
        expect(chat.locator("#log")).to_contain_text(f"heard: {number}")
    desk = service.desk(person, service.conversation())
    expect(desk.locator(LINES)).to_have_count(16)
    for page in (chat, desk):
        page.emulate_media(media="print")
        cut = page.locator("#room").evaluate("(room) => room.scrollHeight - room.clientHeight")
        pages = re.findall(rb"/Type\s*/Page\b(?!s)", page.pdf())

        assert cut <= 1
        assert len(pages) >= 3
        expect(page.locator("#form")).to_be_hidden()
    expect(chat.locator("#log > li.user").first).to_have_css("color", "rgb(0, 0, 0)")


PRESSED = """async () => {
  const { create, unlessPressed } = await import("/shown.js");
  const place = document.body.appendChild(create("div"));
  const inPlace = unlessPressed(place);
  const put = (words) => {
    const button = create("button", "", words);
    button.addEventListener("click", () => (window.clicked = words));
    place.replaceChildren(button);
  };
  put("before");
  window.drawAnew = () => inPlace(() => put("after"));
  document.querySelectorAll("header, main, footer").forEach((other) => other.remove());
}"""
"""A place with a button, in whose place `drawAnew` puts another one."""


@pytest.mark.parametrize("way", ["mouse", "finger", "key"])
def test_a_click_reaches_what_was_pressed(service: Service, person: BrowserContext, way: str) -> None:
    """What is drawn meanwhile comes behind it. A browser may make a click of a lifted finger later than what waits is done."""
    page = opened(person, service.address)
    page.evaluate(PRESSED)
    button = page.get_by_role("button", name="before")
    finger = {"pointerType": "touch", "pointerId": 7, "bubbles": True}
    if way == "mouse":
        button.hover()
        page.mouse.down()
        page.evaluate("drawAnew()")
        page.mouse.up()
    elif way == "key":
        button.focus()
        page.keyboard.down("Space")
        page.evaluate("drawAnew()")
        page.keyboard.up("Space")
    else:
        button.dispatch_event("pointerdown", finger)
        page.evaluate("drawAnew()")
        late = "new Promise((go) => setTimeout(() => go(document.querySelector('body > div:last-child button').click()), 30))"
        page.evaluate(
            f"""(finger) => {{
              document.querySelector('body > div:last-child button').dispatchEvent(new PointerEvent('pointerup', finger));
              return {late}; }}""",
            finger,
        )

    page.wait_for_function("window.clicked")
    assert "before" == page.evaluate("window.clicked")
    expect(page.get_by_role("button", name="after")).to_be_visible()


def test_what_waits_for_a_release_is_drawn_though_nobody_tells_of_it(service: Service, person: BrowserContext) -> None:
    """A menu of the system may keep it; the next move shows that nothing is pressed any more."""
    page = opened(person, service.address)
    page.evaluate(PRESSED)
    page.get_by_role("button", name="before").hover()
    page.mouse.down()
    page.evaluate("drawAnew()")
    page.evaluate("addEventListener('pointerup', (event) => event.stopImmediatePropagation(), { capture: true })")
    page.evaluate("addEventListener('click', (event) => event.stopImmediatePropagation(), { capture: true })")
    page.mouse.up()
    page.mouse.move(5, 5)

    expect(page.get_by_role("button", name="after")).to_be_visible()
