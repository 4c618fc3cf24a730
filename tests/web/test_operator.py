"""The operators' page in a real browser against a real server: all talk of one tenant, live, and a person who takes over.

Screenshots are left in the temporary folder of the test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from playwright.sync_api import BrowserContext, Page, expect

from chatkeep import Chatkeep, Turn
from chatkeep.auth.credentials import create_key, list_keys, revoke_key
from chatkeep.conversation.outbox import Sent
from chatkeep.model import Content

from ..support.browsing import Shop
from ..support.program import chatkeep
from ..support.serving import served
from ..support.shop import STORY

MARKUP = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
HOSTILE = f"{MARKUP} \u202egnp.exe\u200b\x07 \U0001f469\u200d\U0001f373 "


class Post:
    """Sends the replies of "phone:..." out: refuses the first, takes the others."""

    def __init__(self) -> None:
        self.taken: list[Content] = []
        self.refuses = True

    def takes(self, tenant: str, conversation: str) -> bool:
        """Whether it goes out here."""
        return conversation.startswith("phone:")

    async def send(self, conversation: str, content: Content, *, key: str, skip: int, at: float) -> Sent:
        """Sends one reply."""
        if self.refuses:
            return Sent(status="failed", reason="The number is not known.")
        self.taken.append(content)
        return Sent(status="delivered", ids=("1",), parts=1)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""


class Service:
    """A running server with a bot that counts and echoes, for the tenants "salon" and "pizza"."""

    def __init__(self, portal: BlockingPortal, keep: Chatkeep[Any], port: int, post: Post) -> None:
        self.portal, self.keep, self.post = portal, keep, post
        self.address = f"http://127.0.0.1:{port}/operator"

    def key(self, tenant: str) -> str:
        """A new service key."""
        return self.portal.call(create_key, self.keep, tenant).token

    def receive(self, conversation: str, text: str, *, tenant: str = "salon") -> None:
        """Somebody writes."""
        self.portal.call(self.keep.tenant(tenant).receive, conversation, text)

    def log(self, conversation: str) -> list[tuple[str, Content]]:
        """Who said what, as the store has it."""

        async def read() -> list[tuple[str, Content]]:
            found = self.keep.tenant("salon").history(conversation)
            return [(message.role, message.content) async for message in found if message.role != "system"]

        return self.portal.call(read)


@pytest.fixture
def service() -> Iterator[Service]:
    """A running server."""
    post = Post()
    keep: Chatkeep[Any] = Chatkeep("memory://", poll="50ms", retry_after="1ms", retry_longest="5ms", attempts=1)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        turn.state["said"] = [*turn.state.get("said", []), turn.text]
        if turn.text == "fail":
            raise ValueError("as asked")
        return f"{len(turn.state['said'])}: {turn.text}"

    keep.deliver(post)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(served(keep)) as client:
        yield Service(portal, keep, client.port, post)


def opened(person: BrowserContext, service: Service, tenant: str = "salon") -> Page:
    """The page with a tenant's key typed in."""
    page = person.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(service.address)
    give(page, service.key(tenant))
    return page


def give(page: Page, key: str) -> None:
    """Types a key."""
    page.get_by_label("Service key").fill(key)
    page.get_by_role("button", name="Open").click()


def choose(page: Page, conversation: str) -> None:
    """Opens a conversation of the list."""
    page.locator("#list a").filter(has_text=conversation).click()
    expect(page.locator("#facts dd").first).to_be_attached()


def said(page: Page) -> list[str]:
    """What the page shows, who said it first."""
    lines = page.locator("#log li").all()
    return [f"{line.locator('b').inner_text()}: {line.locator('.said').inner_text()}" for line in lines]


def test_an_operator_sees_the_conversations_of_their_tenant_only(
    service: Service, person: BrowserContext, tmp_path: Path
) -> None:
    """Last changed first, filtered by owner; the key is in no address and goes with the tab's session."""
    asked: list[str] = []
    person.on("request", lambda request: asked.append(request.url))
    service.portal.call(lambda: service.keep.tenant("salon").create("ada", owner="Ada L."))
    service.receive("ada", "hello")
    service.receive("bob", "good morning")
    service.receive("carl", "a funghi", tenant="pizza")
    page = opened(person, service)
    expect(page.locator("#list li")).to_have_count(2)

    assert ["bob", "ada"] == page.locator("#list .id").all_inner_texts()
    page.get_by_label("Owner").fill("Ada L.")
    expect(page.locator("#list li")).to_have_count(1)
    assert ["ada"] == page.locator("#list .id").all_inner_texts()
    page.get_by_label("Owner").fill("")
    expect(page.locator("#list li")).to_have_count(2)
    choose(page, "bob")
    expect(page.locator("#log li")).to_have_count(2)
    assert ["User: good morning", "Bot: 1: good morning"] == said(page)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=tmp_path / "dark.png")
    page.reload()
    expect(page.locator("#log li")).to_have_count(2)
    assert [] == [url for url in [page.url, *asked] if "ck_k_" in url]
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_label("Service key")).to_be_focused()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    assert page.locator("#log li, #list li").count() == 0


def test_a_talk_is_read_live(service: Service, person: BrowserContext) -> None:
    """Messages, state, numbers, and those set aside, as they come; earlier ones on demand."""
    for number in range(30):
        service.receive("ada", f"message {number}")
    page = opened(person, service)
    choose(page, "ada")
    expect(page.locator("#log li")).to_have_count(50)
    service.receive("ada", "one more")
    expect(page.locator("#log li")).to_have_count(52)
    expect(page.locator("#log li").last).to_contain_text("31: one more")
    expect(page.locator("#state")).to_contain_text('"one more"')
    expect(page.locator("#log li").last).to_be_in_viewport()
    page.get_by_role("button", name="Show earlier messages").click()
    expect(page.locator("#log li")).to_have_count(62)
    expect(page.get_by_role("button", name="Show earlier messages")).to_be_hidden()

    assert [f"User: message {n}" for n in range(30)] + ["User: one more"] == said(page)[::2]
    with pytest.raises(Exception, match="as asked"):
        service.receive("ada", "fail")
    expect(page.locator("#log li").last).to_contain_text("dead: the bot failed on it")
    expect(page.locator("#list a")).to_contain_text("1 dead")


def test_a_person_takes_over_and_hands_back(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """The bot is silent while it is off, what was said then is passed over or answered, and it goes on."""
    service.receive("ada", "hello")
    page = opened(person, service)
    choose(page, "ada")
    switch = page.get_by_role("switch")
    expect(switch).to_be_checked()
    switch.click()
    expect(switch).not_to_be_checked()
    service.receive("ada", "are you human?")
    expect(page.locator("#list a")).to_contain_text("bot paused")
    page.get_by_label("Write as a person").fill("I am Kim.")
    page.get_by_label("Write as a person").press("Enter")
    expect(page.locator("#log li").last).to_contain_text("I am Kim.")
    expect(page.get_by_label("Write as a person")).to_have_value("")
    page.screenshot(path=tmp_path / "taken-over.png")
    switch.click()
    expect(switch).to_be_checked()
    service.receive("ada", "thanks")
    expect(page.locator("#log li").last).to_contain_text("2: thanks")
    there = [
        "User: hello",
        "Bot: 1: hello",
        "User: are you human?",
        "Person: I am Kim.",
        "User: thanks",
        "Bot: 2: thanks",
    ]

    assert there == said(page)
    switch.click()
    expect(switch).not_to_be_checked()
    service.receive("ada", "later")
    page.get_by_label("pass over what is unread").uncheck()
    switch.click()
    expect(page.locator("#log li").last).to_contain_text("3: later")
    assert ("assistant", "3: later") == service.log("ada")[-1]


def test_a_reply_that_was_not_delivered_is_sent_again(service: Service, person: BrowserContext) -> None:
    """The status and the reason stand beside it; pressing the button sends it."""
    service.receive("phone:1", "hello")
    page = opened(person, service)
    choose(page, "phone:1")
    reply = page.locator("#log li.assistant")
    expect(reply).to_contain_text("failed")
    expect(reply).to_contain_text("The number is not known.")
    service.post.refuses = False
    reply.get_by_role("button", name="Send again").click()
    expect(reply).to_contain_text("delivered")

    assert ["1: hello"] == service.post.taken
    expect(reply.get_by_role("button", name="Send again")).to_have_count(0)


def test_hostile_words_are_shown_and_nothing_runs(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Markup is text, what is invisible or turns a line around is a token, and long lines stay within a telephone."""
    name = HOSTILE + "x" * 200
    service.receive(name, HOSTILE + "long" * 500)
    page = opened(person, service)
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=tmp_path / "list.png")
    choose(page, "gnp.exe")
    for place in (page.locator("#name"), page.locator("#log li.user .said"), page.locator("#log li.assistant .said")):
        expect(place).to_contain_text(MARKUP)
        expect(place).to_contain_text("U+202Egnp.exeU+200BU+0007 \U0001f469\u200d\U0001f373")
    page.get_by_text("State and numbers").click()
    page.screenshot(path=tmp_path / "hostile.png")

    assert "Conversations" == page.title()
    assert 0 == page.locator("img, #desk script").count()
    assert "\u202e" not in page.locator("body").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("link", name="All conversations").click()
    expect(page.locator("#list")).to_be_visible()
    expect(page.locator("#log")).to_be_hidden()


def opened_shop(person: BrowserContext, shop: Shop) -> Page:
    """The page on the shop, with a key made on the command line."""
    _, key, _ = chatkeep("key", "create", "shop.db", "--tenant", "", folder=shop.folder)
    page = person.new_page()
    page.goto(f"{shop.address}operator")
    give(page, key.split()[0])
    return page


def write(page: Page, words: str) -> None:
    """Ada writes to the shop."""
    page.evaluate(
        """async (content) => {
          const authorization = `Bearer ${sessionStorage["chatkeep:operator"]}`;
          const headers = { authorization, "content-type": "application/json", prefer: "respond-async" };
          await fetch("/v1/conversations/ada/messages", { method: "POST", headers, body: JSON.stringify({ content }) });
        }""",
        words,
    )


def test_a_reply_is_seen_as_it_is_made(shop: Shop, person: BrowserContext) -> None:
    """A streamed reply grows in a line of its own, and the recorded one takes its place."""
    page = opened_shop(person, shop)
    write(page, "hello")
    choose(page, "ada")
    expect(page.locator("#log li")).to_have_count(2)
    write(page, "tell")
    expect(page.locator("#making")).to_contain_text(STORY[:30])
    expect(page.locator("#log li")).to_have_count(4)

    assert f"Bot: {STORY}" == said(page)[-1].strip()
    expect(page.locator("#making")).to_be_hidden()


def test_it_outlives_the_server(shop: Shop, person: BrowserContext) -> None:
    """kill -9 under an open talk: the page says so, and goes on by itself; what was written meanwhile is said once."""
    page = opened_shop(person, shop)
    write(page, "hello")
    choose(page, "ada")
    expect(page.locator("#log li")).to_have_count(2)
    shop.kill()
    page.get_by_label("Write as a person").fill("I am Kim.")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    expect(page.get_by_label("Write as a person")).to_have_value("I am Kim.")
    shop.start()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#log li").last).to_contain_text("I am Kim.")

    assert ["User: hello", "Bot: 1: hello", "Person: I am Kim."] == said(page)


def test_what_is_not_there_cannot_be_written_in(service: Service, person: BrowserContext) -> None:
    """A conversation that never was, and one that is erased while it is open."""
    service.receive("ada", "hello")
    page = opened(person, service)
    page.evaluate("location.hash = 'nobody'")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_label("Write as a person")).to_be_hidden()
    choose(page, "ada")
    expect(page.get_by_label("Write as a person")).to_be_visible()
    service.portal.call(service.keep.tenant("salon").erase, "ada")
    expect(page.get_by_role("alert")).to_contain_text("erased")

    expect(page.get_by_label("Write as a person")).to_be_hidden()
    expect(page.locator("#list li")).to_have_count(0)


def test_a_wrong_key_says_so(service: Service, person: BrowserContext) -> None:
    """One of another kind, an unknown one, and one that is revoked while the page is open."""
    page = person.new_page()
    page.goto(service.address)
    give(page, "ck_c_something")
    expect(page.get_by_role("alert")).to_contain_text("they begin with ck_k_")
    give(page, "ck_k_" + "x" * 49)
    expect(page.get_by_role("alert")).to_contain_text("The server does not take this key.")
    expect(page.locator("#desk")).to_be_hidden()
    service.receive("ada", "hello")
    give(page, service.key("salon"))
    choose(page, "ada")
    expect(page.locator("#log li")).to_have_count(2)
    for listed in service.portal.call(list_keys, service.keep):
        service.portal.call(revoke_key, service.keep, listed.id)
    expect(page.get_by_role("alert")).to_contain_text("The server does not take this key.")

    assert page.locator("#log li").count() == 0
    assert re.fullmatch(r".*/operator#ada", page.url)
