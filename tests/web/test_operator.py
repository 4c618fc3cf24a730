"""The operators' desk in a real browser against a real server: who is signed in, all talk of a tenant, live, and a person who takes over.

Screenshots are left in the temporary folder of the test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from msgspec import structs
from playwright.sync_api import BrowserContext, Dialog, Error, Page, Route, expect

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.auth.accounts import add_account, end_sessions
from chatkeep.auth.credentials import create_key, list_keys, revoke_key
from chatkeep.auth.rights import Role
from chatkeep.conversation.keys import key_for
from chatkeep.conversation.outbox import Sent
from chatkeep.drivers.base import Write
from chatkeep.model import Content
from chatkeep.server import samples
from chatkeep.server.assets import OPERATOR, SHOWN, packed, stored
from chatkeep.server.canned import LISTED, CannedReply

from ..support import axe
from ..support.browsing import Shop, page_of_a_proxy
from ..support.desk import PASSWORD
from ..support.openid import CLIENT as CLIENT_ID
from ..support.openid import SECRET, providing
from ..support.program import chatkeep
from ..support.serving import served
from ..support.shop import STORY

LINES = "#log li:not(.day)"
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

    def account(self, name: str, role: Role, tenant: str = "salon", **told: Any) -> None:
        """Somebody has an account from now on."""
        self.portal.call(lambda: add_account(self.keep, name, role=role, tenants=[tenant], password=PASSWORD, **told))

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


def opened(person: BrowserContext, service: Service, role: Role = "admin", **told: Any) -> Page:
    """The page of somebody with an account of the tenant "salon", called Kim, who has signed in."""
    page = person.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(service.address)
    service.account("kim", role, shown="Kim", **told)
    sign_in(page, "kim")
    return page


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    """Types a name and a password."""
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_label("Password").press("Enter")


def give(page: Page, key: str) -> None:
    """Types a key."""
    page.get_by_label("Service key").fill(key)
    page.get_by_role("button", name="Sign in", exact=True).click()


async def damage(service: Service, conversation: str) -> None:
    """The record of a conversation is one that nobody can read."""
    core, key = core_of(service.keep), key_for("salon", conversation)
    row = await core.read_row(key)
    assert row is not None
    await core.driver.write(Write(structs.replace(row, revision="damaged", body=row.body[:-3]), replaces=row.revision))


def choose(page: Page, conversation: str) -> None:
    """Opens a conversation of the list."""
    page.locator("#list a").filter(has_text=conversation).click()
    expect(page.locator("#log li.user").first).to_be_attached()


def said(page: Page) -> list[str]:
    """What the page shows, who said it first."""
    lines = page.locator(LINES).all()
    return [f"{line.locator('.who').text_content()}: {line.locator('.said').inner_text()}" for line in lines]


@pytest.mark.journey
def test_an_operator_sees_the_conversations_of_their_tenant_only(
    service: Service, person: BrowserContext, tmp_path: Path
) -> None:
    """Last changed first, found by words, owner and id; the session is in a cookie that no script reads, and nothing else is kept."""
    asked: list[str] = []
    person.on("request", lambda request: asked.append(request.url))
    service.portal.call(lambda: service.keep.tenant("salon").create("ada", owner="Ada L."))
    service.receive("ada", "hello")
    service.receive("bob", "good morning")
    service.receive("carl", "a funghi", tenant="pizza")
    page = opened(person, service)
    expect(page.locator("#list li")).to_have_count(2)

    assert ["bob", "Ada L."] == page.locator("#list .id").all_inner_texts()
    expect(page.locator("#list .last").first).to_have_text("Bot: 1: good morning")
    page.get_by_label("Search").fill("morning")
    expect(page.locator("#list li")).to_have_count(1)
    page.get_by_label("Search").fill("")
    page.get_by_text("More filters").click()
    page.get_by_label("Owner").fill("Ada L.")
    expect(page.locator("#list li")).to_have_count(1)
    page.get_by_label("Owner").fill("")
    expect(page.locator("#list li")).to_have_count(2)
    choose(page, "bob")
    expect(page.locator(LINES)).to_have_count(2)
    assert ["Customer: good morning", "Bot: 1: good morning"] == said(page)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=tmp_path / "dark.png")
    page.reload()
    expect(page.locator(LINES)).to_have_count(2)
    (cookie,) = person.cookies()
    assert (True, "Strict", False) == (cookie["httpOnly"], cookie["sameSite"], cookie["value"] in page.content())
    assert [] == [url for url in [page.url, *asked] if "ck_s_" in url]
    page.locator("#person summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0
    assert page.locator(f"{LINES}, #list li").count() == 0
    page.reload()
    expect(page.get_by_label("Name", exact=True)).to_be_visible()


@pytest.mark.journey
def test_a_talk_is_read_live(service: Service, person: BrowserContext) -> None:
    """Messages, state, numbers, and those set aside, as they come; earlier ones on demand."""
    for number in range(30):
        service.receive("ada", f"message {number}")
    page = opened(person, service)
    choose(page, "ada")
    expect(page.locator(LINES)).to_have_count(50)
    service.receive("ada", "one more")
    expect(page.locator(LINES)).to_have_count(52)
    expect(page.locator(LINES).last).to_contain_text("31: one more")
    page.locator("#state summary").click()
    expect(page.locator("#state")).to_contain_text("one more")
    expect(page.locator(LINES).last).to_be_in_viewport()
    page.get_by_role("button", name="Show earlier messages").click()
    expect(page.locator(LINES)).to_have_count(62)
    expect(page.get_by_role("button", name="Show earlier messages")).to_be_hidden()

    assert [f"Customer: message {n}" for n in range(30)] + ["Customer: one more"] == said(page)[::2]
    with pytest.raises(Exception, match="as asked"):
        service.receive("ada", "fail")
    expect(page.locator(LINES).last).to_contain_text("dead: the bot failed on it")
    expect(page.locator("#list a")).to_contain_text("1 failed")


@pytest.mark.journey
def test_a_person_takes_over_and_hands_back(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Writing pauses the bot in the same act; what was said then is passed over or answered when it is handed back."""
    service.receive("ada", "hello")
    page = opened(person, service, "agent")
    choose(page, "ada")
    expect(page.locator("#bot")).to_have_text("Bot answers")
    page.keyboard.press("r")
    page.keyboard.type("I am Kim.")
    page.keyboard.press("Enter")
    expect(page.locator(LINES).last).to_contain_text("I am Kim.")
    expect(page.get_by_label("Write as a person")).to_have_value("")
    expect(page.locator("#bot")).to_have_text("A person answers")
    service.receive("ada", "are you human?")
    expect(page.locator("#list a")).to_contain_text("1 waiting")
    expect(page.locator("#list a")).to_contain_text("bot off")
    page.screenshot(path=tmp_path / "taken-over.png")
    page.get_by_role("button", name="Hand back").click()
    expect(page.locator("#bot")).to_have_text("Bot answers")
    service.receive("ada", "thanks")
    expect(page.locator(LINES).last).to_contain_text("2: thanks")
    there = ["Customer: hello", "Bot: 1: hello", "Kim: I am Kim.", "Customer: are you human?", "Customer: thanks"]

    assert [*there, "Bot: 2: thanks"] == said(page)
    page.get_by_role("button", name="Take over").click()
    expect(page.locator("#bot")).to_have_text("A person answers")
    service.receive("ada", "later")
    page.get_by_role("button", name="Have the bot answer 1").click()
    expect(page.locator(LINES).last).to_contain_text("3: later")
    assert ("assistant", "3: later") == service.log("ada")[-1]


def test_colleagues_are_told_why(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Notes that customers do not see, switches with who threw them, turns, and a state that is changed only where it is as it was read."""
    service.receive("ada", "hello")
    page = opened(person, service)
    choose(page, "ada")
    page.get_by_role("button", name="Take over").click()
    page.keyboard.press("n")
    page.keyboard.type("She is a friend of the owner.")
    page.keyboard.press("Enter")
    expect(page.locator("#story .note")).to_contain_text("She is a friend of the owner.")
    expect(page.locator("#story")).to_contain_text("Kim pause")
    expect(page.locator("#turns li")).to_have_count(1)
    expect(page.locator("#log li.note")).to_contain_text("She is a friend of the owner.")
    service.receive("ada", "and now?")
    expect(page.locator(f"{LINES} .body")).to_have_text(
        ["hello", "1: hello", "She is a friend of the owner.", "and now?"]
    )
    page.reload()
    expect(page.locator(f"{LINES} .who")).to_have_text(["Customer", "Bot", "Kim", "Customer"])
    page.locator("#state").get_by_role("button", name="Edit").click()
    field = page.get_by_label("Value of said, as JSON")
    field.fill("[")
    page.locator("#state").get_by_role("button", name="Save").click()
    expect(page.locator("#state")).to_contain_text("This is not JSON")
    service.portal.call(service.keep.tenant("salon").change, "ada", lambda state: state.update(said=["meanwhile"]))
    field.fill('["mine"]')
    page.locator("#state").get_by_role("button", name="Save").click()
    expect(page.locator("#state")).to_contain_text("It has changed meanwhile")
    page.screenshot(path=tmp_path / "why.png")
    page.locator("#state").get_by_role("button", name="Cancel").click()
    expect(page.locator("#state")).to_contain_text("meanwhile")
    page.locator("#state").get_by_role("button", name="Edit").click()
    page.get_by_label("Value of said, as JSON").fill('["mine"]')
    page.locator("#state").get_by_role("button", name="Save").click()
    expect(page.locator("#state")).to_contain_text("mine")

    found = service.portal.call(service.keep.tenant("salon").conversation, "ada")
    assert found is not None
    assert {"said": ["mine"]} == found.state


def test_what_is_meant_for_one_conversation_is_never_done_to_all(service: Service, person: BrowserContext) -> None:
    """A browser takes ".." in an address for a step: "the bot of that conversation" would be the tenant's. The desk does not ask then."""
    tenant = service.keep.tenant("salon")
    service.receive("..", "hello")
    page = opened(person, service)
    for id in (".", ".."):
        for path in ("/bot", "?messages=0", "/state/.."):
            with pytest.raises(Error, match="out of reach of a browser"):
                page.evaluate(
                    """async ([id, path]) => {
                      const { ask, at } = await import("./operator-ask.js");
                      await ask(at(id) + path, { method: "PUT", body: { paused: true } });
                    }""",
                    [id, path],
                )

    assert not service.portal.call(tenant.conversation, "..").paused
    service.receive("ada", "hello")
    assert [("user", "hello"), ("assistant", "1: hello")] == service.log("ada")


def test_a_change_whose_answer_was_lost_is_not_called_somebody_elses(service: Service, person: BrowserContext) -> None:
    """It was made; saved once more it is the same change, and nobody has changed the state meanwhile."""
    tenant = service.keep.tenant("salon")
    service.receive("ada", "hello")
    page = opened(person, service)
    choose(page, "ada")

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route(
        "**/state/said", lambda route: lose(route) if route.request.method == "PUT" else route.fallback(), times=2
    )
    page.locator("#state").get_by_role("button", name="Edit").click()
    page.get_by_label("Value of said, as JSON").fill('["mine"]')
    save = page.locator("#state").get_by_role("button", name="Save")
    save.click()
    expect(page.locator("#state").get_by_role("alert")).not_to_be_empty()
    save.click()
    expect(page.locator("#state")).to_contain_text("mine")
    expect(page.get_by_label("Value of said, as JSON")).to_have_count(0)
    found = service.portal.call(tenant.conversation, "ada")

    assert found is not None
    assert {"said": ["mine"]} == found.state


def test_a_change_is_undone_behind_a_turn_of_the_bot(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """With the bot on: what its turn has made of another member stays; what it has made of this one is not overwritten, as is said."""
    tenant = service.keep.tenant("salon")
    service.receive("ada", "hello")
    service.portal.call(tenant.change, "ada", lambda state: state.update(plan="small"))
    page = opened(person, service)
    choose(page, "ada")

    def change(slot: str, value: str) -> None:
        line = page.locator("#state > .branch").filter(has_text=slot)
        line.get_by_role("button", name="Edit").click()
        page.get_by_label(f"Value of {slot}, as JSON").fill(value)
        page.locator("#state").get_by_role("button", name="Save").click()
        expect(page.locator("#story")).to_contain_text(f"Kim changed {slot}")

    change("plan", '"large"')
    service.receive("ada", "and now?")
    expect(page.locator("#bot")).to_have_text("Bot answers")
    page.get_by_role("button", name="Undo the change of plan").click()
    expect(page.locator("#state")).to_contain_text("small")
    found = service.portal.call(tenant.conversation, "ada")
    assert found is not None
    assert {"said": ["hello", "and now?"], "plan": "small"} == found.state
    change("said", "[]")
    service.receive("ada", "once more")
    expect(page.locator("#state")).to_contain_text("once more")
    page.get_by_role("button", name="Undo the change of said").click()
    expect(page.locator("#story").get_by_role("alert")).to_contain_text("nothing was undone")
    page.screenshot(path=tmp_path / "undone.png")
    found = service.portal.call(tenant.conversation, "ada")
    assert found is not None
    assert {"said": ["once more"], "plan": "small"} == found.state


@pytest.mark.journey
def test_what_waits_for_people_is_done_in_bulk(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Messages that failed, replies that did not go out, and customers without an answer, each for many at once."""
    for name in ("ada", "bob"):
        with pytest.raises(Exception, match="as asked"):
            service.receive(name, "fail")
    service.receive("phone:1", "hello")
    service.portal.call(service.keep.tenant("salon").pause, "eve")
    service.receive("eve", "anybody?")
    page = opened(person, service, "agent")
    page.get_by_role("link", name="Queues").click()
    expect(page.locator(".queue")).to_have_count(3)
    waiting, failed, undelivered = page.locator(".queue").all()
    expect(failed.locator("li")).to_have_count(2)
    page.screenshot(path=tmp_path / "queues.png")
    failed.get_by_label("Choose all").check()
    failed.get_by_role("button", name="Dismiss").click()
    expect(failed.get_by_role("status")).to_contain_text("Dismiss: 2 conversations done")
    service.post.refuses = False
    undelivered.get_by_label("Choose phone:1").check()
    undelivered.get_by_role("button", name="Send again").click()
    expect(undelivered.get_by_role("status")).to_contain_text("1 conversation done")
    waiting.get_by_label("Choose eve").check()
    waiting.get_by_role("button", name="Have the bot answer").click()
    expect(waiting.get_by_role("status")).to_contain_text("1 conversation done")
    page.get_by_role("link", name="Health").click()
    expect(page.locator("#page")).to_contain_text("ready")
    page.get_by_role("link", name="Conversations").click()
    expect(page.locator("#list")).to_contain_text("1: anybody?")

    assert ["1: hello"] == service.post.taken


@pytest.mark.journey
def test_all_that_fit_are_counted_and_done(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """However many they are: the count first, then what was confirmed, until somebody stops it; what failed says why."""
    tenant = service.keep.tenant("salon")
    for number in range(130):
        service.portal.call(lambda number=number: tenant.accept(f"c{number:03}", "hello", role="operator"))
    service.account("lee", "agent", shown="Lee")
    page = opened(person, service, "agent")
    expect(page.locator("#list li").nth(49)).to_be_visible()
    page.get_by_label("Nobody's", exact=True).check(force=True)
    page.keyboard.press("b")
    dialog = page.locator("#bulk")
    expect(dialog.get_by_role("status")).to_have_text("130 conversations fit.")
    assert [] == axe.faults(page)
    page.screenshot(path=tmp_path / "counted.png")
    dialog.get_by_label("To").select_option("lee")
    held: list[Route] = []

    def hold_third(route: Route) -> None:
        held.append(route)
        if len(held) != 3:
            route.continue_()

    page.route("**/desk/bulk", hold_third)
    dialog.get_by_role("button", name="Assign to Lee: 130 conversations").click()
    expect(dialog.get_by_role("status")).to_have_text("Assign to Lee: 50 of 130 conversations…")
    page.screenshot(path=tmp_path / "running.png")
    dialog.get_by_role("button", name="Stop").click()
    held[2].continue_()
    expect(dialog.get_by_role("status")).to_have_text("Assign to Lee: 75 conversations done; 55 not begun.")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="For all of these…").click()
    expect(dialog.get_by_role("status")).to_have_text("55 conversations fit.")
    page.keyboard.press("Escape")
    for name in ("ada", "bob"):
        with pytest.raises(Exception, match="as asked"):
            service.receive(name, "fail")
    service.portal.call(damage, service, "bob")
    page.get_by_role("link", name="Queues").click()
    failed = page.locator(".queue").nth(1)
    failed.get_by_role("button", name="All that are here…").click()
    expect(dialog.get_by_role("status")).to_have_text("2 conversations fit.")
    dialog.get_by_role("button", name="Try again what failed: 2 conversations").click()
    expect(dialog.get_by_role("status")).to_have_text("Try again what failed: 1 conversation done; 1 failed.")
    expect(dialog.get_by_role("listitem")).to_contain_text("bob")
    expect(dialog.get_by_role("listitem")).to_contain_text("damaged")
    page.screenshot(path=tmp_path / "failed.png")
    dialog.get_by_role("link", name="bob").click()
    expect(page.locator("#name")).to_have_text("bob")
    expect(dialog).to_be_hidden()


@pytest.mark.journey
def test_views_are_saved_and_come_back(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Filters under a name, in the head of the list and in the palette, after signing in anew too; renamed and deleted."""
    for name in ("ada", "bob"):
        service.receive(name, f"I am {name}")
    asked: list[str] = []
    page = opened(person, service, "agent")
    answers = iter(["<b>Ada</b>&amp;", "All of Ada's", "", ""])

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept(next(answers))

    page.on("dialog", answer)
    expect(page.locator("#list li")).to_have_count(2)
    saved = page.get_by_role("group", name="Saved views")
    expect(saved.get_by_role("button")).to_have_count(0)
    page.get_by_label("Nobody's", exact=True).check(force=True)
    page.get_by_label("Search", exact=True).fill("ada")
    expect(page.locator("#list li")).to_have_count(1)
    saved.get_by_role("button", name="Save as a view…").click()
    expect(saved.locator(".view")).to_have_text(["<b>Ada</b>&amp;"])
    expect(saved.locator(".view")).to_have_attribute("aria-pressed", "true")
    page.screenshot(path=tmp_path / "view.png")
    assert [] == axe.faults(page)
    page.reload()
    expect(page.locator("#list li")).to_have_count(2)
    saved.locator(".view").click()
    expect(page.get_by_label("Search", exact=True)).to_have_value("ada")
    expect(page.get_by_label("Nobody's", exact=True)).to_be_checked()
    expect(page.locator("#list .id")).to_have_text(["ada"])
    expect(saved.locator(".view")).to_be_focused()
    saved.get_by_role("button", name="Rename the view <b>Ada").click()
    expect(saved.locator(".view")).to_have_text(["All of Ada's"])
    expect(saved.get_by_role("button", name="Rename the view All of Ada's")).to_be_focused()
    page.get_by_label("Everybody's", exact=True).check(force=True)
    page.get_by_label("Search", exact=True).fill("")
    expect(page.locator("#list li")).to_have_count(2)
    expect(saved.get_by_role("button")).to_have_count(1)
    page.keyboard.press("Control+k")
    page.keyboard.type("view ada")
    page.keyboard.press("Enter")
    expect(page.locator("#list .id")).to_have_text(["ada"])
    page.keyboard.press("Control+k")
    page.keyboard.type("delete view")
    page.keyboard.press("Enter")
    expect(saved.locator(".view")).to_have_count(0)

    assert "Delete the view All of Ada's?" == asked[-1]
    assert "Desk" == page.title()


@pytest.mark.journey
def test_colleagues_see_each_other(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Who has a conversation open, or writes in it, stands in the list and its head, and is gone with them; one request for many keys."""
    for name in ("ada", "bob"):
        service.receive(name, "hello")
    service.account("lee", "agent", shown=f"Lee <b>{HOSTILE[-20:]}")
    page = opened(person, service, "agent")
    choose(page, "ada")
    browser = person.browser
    assert browser is not None
    told: list[str] = []
    with browser.new_context() as theirs:
        other = theirs.new_page()
        other.on("request", lambda request: told.append(request.url) if request.url.endswith("/writing") else None)
        other.goto(service.address)
        sign_in(other, "lee")
        choose(other, "ada")
        expect(page.locator("#others")).to_contain_text("is here")
        expect(page.locator("#others")).to_contain_text("Lee <b>")
        expect(other.locator("#others")).to_have_text("Kim is here")
        expect(page.locator("#list li").filter(has_text="ada")).to_contain_text("is here")
        page.evaluate("new MutationObserver((all) => (window.spoken = all.length)).observe(others, {childList: true})")
        page.get_by_label("Write as a person").press_sequentially("I look after it")
        expect(other.locator("#others")).to_have_text("Kim is writing")
        for _ in range(2):  # this page hears of it too, and has done with the first
            page.wait_for_event("response", lambda answer: answer.url.endswith("/present"))
        spoken_again = page.evaluate("window.spoken")
        other.get_by_label("Write as a person").press_sequentially("I will look after it", delay=20)
        expect(page.locator("#others")).to_contain_text("is writing")
        expect(page.locator("#list li").filter(has_text="ada")).to_contain_text("is writing")
        page.screenshot(path=tmp_path / "others.png")
        assert [] == axe.faults(page)
        choose(other, "bob")
        expect(page.locator("#others")).to_be_empty()
        expect(page.locator("#list li").filter(has_text="bob")).to_contain_text("is here")
        for name in ("ada", "bob"):
            choose(other, name)
            other.get_by_label("Write as a person").press_sequentially("And", delay=20)
        expect(page.locator("#list li").filter(has_text="bob")).to_contain_text("is writing")
    expect(page.locator("#list")).not_to_contain_text("is here")

    # (In one conversation it is told again after six seconds, which may be over or not.)
    assert len(told) in (2, 3), told
    assert spoken_again is None
    assert "Desk" == page.title()


def test_a_viewer_sees_no_number_and_can_do_nothing(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """What is personal is masked in the list, the talk, the state and the address; there is no button that does anything."""
    service.receive("phone:4915112345678", "call me at +49 151 12345678")
    page = opened(person, service, "viewer")
    page.locator("#list a").click()
    expect(page.locator(LINES)).to_have_count(2)
    expect(page.locator("#log")).to_contain_text("call me at •••")
    expect(page.locator("#state")).to_contain_text("•••")
    page.screenshot(path=tmp_path / "viewer.png")

    assert "12345678" not in page.content() + page.url
    expect(page.get_by_label("Write as a person")).to_be_hidden()
    assert 0 == page.get_by_role("button", name=re.compile("Take over|Send again|Edit")).count()
    expect(page.get_by_label("Search")).to_be_disabled()


def test_a_search_marks_each_word(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """By the full-text index: in any order, without accents; what was said stays text, and the page says that all was searched."""
    service.receive("ada", f"{MARKUP} ein gr\u00fcner Nagellack, und das Blue Parcel ist da")
    for number in range(15):
        service.receive("ada", f"hay {number}")
        service.receive(f"c{number}", f"hay {number}")

    async def index() -> None:
        text = core_of(service.keep).text_index
        answer = await text.step(keep=True)
        while answer.entries:
            answer = await text.step()

    service.portal.call(index)
    page = opened(person, service)
    page.get_by_label("Search").fill("PARCEL gruner blu")
    row = page.locator("#list li")
    expect(row).to_have_count(1)
    expect(row.locator("mark")).to_have_text(["gr\u00fcner", "Blu", "Parcel"])
    expect(page.get_by_role("button", name="Look for it in ids, owners and titles")).to_be_visible()
    for width in (375, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        page.screenshot(path=tmp_path / f"search-{width}.png")
    page.get_by_role("button", name="Look for it in ids, owners and titles").click()
    expect(page.locator("#more")).to_be_hidden()
    expect(row).to_have_count(1)

    assert "run" != page.title()


def test_the_keyboard_goes_everywhere(service: Service, person: BrowserContext) -> None:
    """j and k through the list, / to the search, r to write, ? to the page of keys, Escape back."""
    for name in ("ada", "bob", "eve"):
        service.receive(name, f"I am {name}")
    page = opened(person, service)
    expect(page.locator("#list li")).to_have_count(3)
    for key, chosen in (("j", "eve"), ("j", "bob"), ("j", "ada"), ("j", "ada"), ("k", "bob")):
        page.keyboard.press(key)
        expect(page.locator("#name")).to_have_text(chosen)
    expect(page.locator(LINES)).to_have_count(2)
    page.keyboard.press("r")
    expect(page.get_by_label("Write as a person")).to_be_focused()
    page.keyboard.type("jk/?")
    expect(page.get_by_label("Write as a person")).to_have_value("jk/?")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Next conversation")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator("main")).to_be_hidden()


def test_parts_are_drawn_as_the_customer_sees_them(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Files, places and choices; no picture is loaded, and what has no look stands as it was sent."""
    asked: list[str] = []
    person.on("request", lambda request: asked.append(request.url))
    sent: Content = [
        {"type": "text", "text": "*look*", "buttons": [{"id": "1", "title": "Small"}]},
        {"type": "image", "url": "https://example.com/cat.png", "name": "cat.png"},
        {"type": "location", "latitude": 52.5, "longitude": 13.4, "name": "Cafe"},
        {"type": "script", "url": "javascript:alert(1)", "odd": True},
    ]
    service.portal.call(service.keep.tenant("salon").receive, "ada", sent)
    words = "**Fine**, [see](https://example.com/menu)"
    service.portal.call(lambda: service.keep.tenant("salon").accept("ada", words, role="operator"))
    page = opened(person, service)
    choose(page, "ada")
    theirs, ours = page.locator("#log li.user .said"), page.locator("#log li.operator .said")
    expect(theirs).to_contain_text("*look*")
    expect(theirs.locator(".choice")).to_have_text("Small")
    expect(theirs.get_by_role("link", name="cat.png")).to_have_attribute("href", "https://example.com/cat.png")
    expect(theirs.get_by_role("link", name="Cafe")).to_be_visible()
    expect(theirs.locator("pre")).to_contain_text('"odd": true')
    expect(ours.locator("strong")).to_have_text("Fine")
    expect(ours.get_by_role("link", name="see")).to_have_attribute("rel", "noopener noreferrer nofollow")
    page.screenshot(path=tmp_path / "parts.png")

    assert not any("example.com" in url for url in asked)
    assert 0 == page.locator("img, a[href^=javascript]").count()


def test_the_page_is_light() -> None:
    """All that a browser fetches for the desk, as it is served from a checkout, is less than 62 KB; in a wheel the scripts are shorter."""
    fetched = {name for name, _ in [*OPERATOR.values(), *SHOWN.values()] if name != "offline.js"}
    weight = {name: len(packed(stored(name).encode())) for name in fetched}

    assert sum(weight.values()) < 62_000, weight
    named = re.compile(
        r"https?://(?!example|www\.w3\.org/2000/svg|www\.openstreetmap\.org/\?)[a-z]"
    )  # links, which load nothing
    assert [] == [name for name in fetched if named.search(stored(name))]


def test_a_browser_finds_nothing_missing(service: Service, person: BrowserContext) -> None:
    """Its console is empty, also of the picture that it asks for by itself where a page names none."""
    said = list[str]()
    person.on("console", lambda line: said.append(line.text))
    page = opened(person, service)
    expect(page.locator("#lists")).to_be_visible()
    picture = page.locator("link[rel=icon]").evaluate("(link) => fetch(link.href).then((answer) => answer.status)")

    assert 200 == picture
    assert [] == said


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
    expect(reply.get_by_role("img", name="delivered")).to_be_visible()

    assert ["1: hello"] == service.post.taken
    expect(reply.get_by_role("button", name="Send again")).to_have_count(0)


@pytest.mark.journey
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
    page.get_by_role("button", name="Details").click()
    expect(page.locator("#state")).to_contain_text(MARKUP)
    page.screenshot(path=tmp_path / "hostile.png")

    assert "Desk" == page.title()
    assert 0 == page.locator("img, #desk script").count()
    assert "\u202e" not in page.locator("body").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Close details").click()
    page.get_by_role("link", name="Back").click()
    expect(page.locator("#list")).to_be_visible()
    expect(page.locator("#log")).to_be_hidden()


RUNS = [
    MARKUP,
    "</script><script>document.title='run'</script>",
    "{{7*7}} ${7*7} &lt;b&gt; <svg onload=document.title='run'>",
    "\u202e\u2066txt.exe\u2069 \x1b[31mred",
    "e" + "\u0301" * 3000,
    "\u200b" * 70_000,
    "=cmd|' /C calc'!A0 ![x](https://evil.example/x.png)",
    "W" * 20_000,
]
"""What people write who mean harm: as a text, a name, a title, an owner, a member of the state, the reason of a failure."""


async def write_evil(service: Service, conversation: str, evil: str) -> None:
    """Puts *evil* wherever somebody can put a text, and then something that an operator should read."""
    salon = service.keep.tenant("salon")
    await salon.create(conversation, owner=evil[:100])
    await salon.save(conversation, title=evil[:100])
    parts = [
        {"type": "text", "text": evil, "buttons": [{"title": evil[:500]}, None, 7]},
        {"type": "image", "url": "javascript:document.title='run'", "name": evil[:500]},
        {"type": "document", "url": "https://evil.example/x", "caption": evil[:500]},
        {"type": evil[:200], "x": [None, {"y": evil[:200]}]},
    ]
    await salon.accept(conversation, parts, metadata={"name": evil[:300]})
    await salon.accept(conversation, evil, role="operator", metadata={"author": evil[:100]})
    await salon.change(conversation, lambda state: state.update({evil[:300]: {evil[:50]: [evil]}}))
    await core_of(service.keep).note("salon", conversation, evil[:3000], author=evil[:50], id="n")
    await salon.accept(conversation, "This is urgent.", role="operator")


def test_what_a_customer_has_saved_is_marked(service: Service, person: BrowserContext) -> None:
    """As a colleague of ours, and under a name: it is said to be saved, and names neither."""
    salon = service.keep.tenant("salon")
    forged = [
        {"id": "s1", "content": "Your refund is granted.", "role": "operator", "metadata": {"author": "Kim"}},
        {"id": "s2", "content": "Thank you!", "metadata": {"name": "Grace H."}},
    ]
    service.portal.call(lambda: salon.save("ada", messages=forged))
    page = opened(person, service)
    choose(page, "ada")

    expect(page.locator("#log .mark", has_text="saved, not said here")).to_have_count(2)
    expect(page.locator("#log")).not_to_contain_text("Kim")
    expect(page.locator("h2 #name")).to_have_text("ada")


def test_nothing_that_is_written_runs_anywhere(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """On a telephone: nothing runs, leaves the page, is fetched from elsewhere, widens the page or keeps other messages from being read."""
    asked: list[str] = []
    person.on("request", lambda request: asked.append(request.url))
    for number, evil in enumerate(RUNS):
        service.portal.call(write_evil, service, f"talk {number}", evil)
    page = opened(person, service)
    page.set_viewport_size({"width": 375, "height": 760})
    expect(page.locator("#list li")).to_have_count(len(RUNS))
    page.screenshot(path=tmp_path / "evil-list.png")
    for age in page.locator("#list time").all():
        box = age.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 375, box
    for number in range(len(RUNS)):
        page.evaluate("(id) => { location.hash = encodeURIComponent(id) }", f"talk {number}")
        expect(page.locator("#log")).to_contain_text("This is urgent.")
        page.get_by_role("button", name="Details").click()
        expect(page.locator("#story .note")).to_have_count(1)
        page.screenshot(path=tmp_path / f"evil-{number}.png")
        links = page.locator("main a, aside a").evaluate_all("(found) => found.map((a) => a.href)")

        assert ["https://evil.example/x"] == [href for href in links if "evil.example/x.png" not in href], number
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, number
        assert not set("\u202e\u200b\x1b") & set(page.locator("body").inner_text()), number
        page.get_by_role("button", name="Close details").click()
    assert "Desk" == page.title()
    assert [] == [url for url in asked if not url.startswith(service.address.removesuffix("operator"))]
    assert 0 == page.locator("img, #desk script, :not(.icon) > svg").count()


KEYS: dict[str, str] = {}
"""The service key that was made for the shop at an address."""


def opened_shop(person: BrowserContext, shop: Shop) -> Page:
    """The page on the shop, with a key made on the command line."""
    _, key, _ = chatkeep("key", "create", "shop.db", "--tenant", "", folder=shop.folder)
    page = person.new_page()
    page.goto(f"{shop.address}operator")
    KEYS[page.url] = key.split()[0]
    give(page, key.split()[0])
    return page


def write(page: Page, words: str) -> None:
    """Ada writes to the shop."""
    page.evaluate(
        """async ([content, key]) => {
          const authorization = `Bearer ${key}`;
          const headers = { authorization, "content-type": "application/json", prefer: "respond-async" };
          await fetch("/v1/conversations/ada/messages", { method: "POST", headers, body: JSON.stringify({ content }) });
        }""",
        [words, KEYS[page.url.partition("#")[0]]],
    )


def test_a_reply_is_seen_as_it_is_made(shop: Shop, person: BrowserContext) -> None:
    """A streamed reply grows in a line of its own, and the recorded one takes its place."""
    page = opened_shop(person, shop)
    write(page, "hello")
    choose(page, "ada")
    expect(page.locator(LINES)).to_have_count(2)
    write(page, "tell")
    expect(page.locator("#making")).to_contain_text(STORY[:30])
    expect(page.locator(LINES)).to_have_count(4)

    assert f"Bot: {STORY}" == said(page)[-1].strip()
    expect(page.locator("#making")).to_be_hidden()


def test_it_outlives_the_server(shop: Shop, person: BrowserContext) -> None:
    """kill -9 under an open talk: the page says so, and goes on by itself; what was written meanwhile is said once."""
    page = opened_shop(person, shop)
    write(page, "hello")
    choose(page, "ada")
    expect(page.locator(LINES)).to_have_count(2)
    shop.kill()
    page.get_by_label("Write as a person").fill("I am Kim.")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    expect(page.get_by_label("Write as a person")).to_have_value("I am Kim.")
    shop.start()
    expect(page.get_by_role("alert")).to_be_hidden()
    page.get_by_role("button", name="Send").click()
    expect(page.locator(LINES).last).to_contain_text("I am Kim.")

    assert ["Customer: hello", "Bot: 1: hello", "Person: I am Kim."] == said(page)


def test_what_a_proxy_says_is_not_taken_for_the_servers_word(service: Service, person: BrowserContext) -> None:
    """While a proxy has no server behind it nobody is signed out, and no conversation is said to be gone."""
    for name in ("ada", "bob"):
        service.receive(name, "hello")
    page = opened(person, service)
    choose(page, "ada")
    for status in (401, 404):
        page.route("**/v1/**", page_of_a_proxy(status))
        page.evaluate("name => { location.hash = name }", "bob" if status == 401 else "ada")
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
        expect(page.get_by_label("Password")).to_be_hidden()
        page.unroute("**/v1/**")
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator(LINES)).to_have_count(2)


def test_what_was_written_is_not_lost(service: Service, person: BrowserContext) -> None:
    """A draft stays with its conversation, a note as a note, also when the session has ended and the page was loaded anew; it is the
    author's alone."""
    for name in ("ada", "bob"):
        service.receive(name, "hello")
    page = opened(person, service)
    choose(page, "ada")
    field = page.get_by_label("Write as a person")
    page.get_by_label("Note for colleagues").check()
    field.fill("She is angry.")
    choose(page, "bob")
    expect(field).to_have_value("")
    expect(page.get_by_label("Reply to the customer")).to_be_checked()
    field.fill("Hello Bob")

    def end(account: str) -> None:
        service.portal.call(end_sessions, service.keep, account)
        expect(page.get_by_label("Password")).to_be_visible(timeout=20_000)
        page.reload()

    end("kim")
    sign_in(page, "kim")
    expect(field).to_have_value("Hello Bob")
    choose(page, "ada")
    expect(field).to_have_value("She is angry.")
    expect(page.get_by_label("Note for colleagues")).to_be_checked()
    page.get_by_role("button", name="Send").click()
    expect(field).to_have_value("")
    choose(page, "bob")
    end("kim")
    service.account("lee", "agent")
    sign_in(page, "lee")
    expect(page.locator(LINES)).to_have_count(2)
    expect(field).to_have_value("")

    assert ["hello", "1: hello"] == [said for _, said in service.log("ada")]


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


def test_what_is_erased_while_it_is_opened_is_said_to_be(service: Service, person: BrowserContext) -> None:
    """Between the answer with its log and the look at its deliveries."""
    service.receive("ada", "hello")
    page = opened(person, service)

    def erase_first(route: Route) -> None:
        service.portal.call(service.keep.tenant("salon").erase, "ada")
        route.continue_()

    page.route("**/deliveries*", erase_first, times=1)
    choose(page, "ada")

    expect(page.get_by_role("alert")).to_contain_text("erased")
    expect(page.get_by_label("Write as a person")).to_be_hidden()


def test_a_wrong_key_says_so(service: Service, person: BrowserContext) -> None:
    """One of another kind, an unknown one, and one that is revoked while the page is open; a wrong password too."""
    page = person.new_page()
    page.goto(service.address)
    sign_in(page, "kim", "not the password")
    expect(page.get_by_role("alert").first).to_contain_text("do not belong together")
    page.get_by_label("Name", exact=True).fill("")
    give(page, "ck_c_something")
    expect(page.get_by_role("alert").first).to_contain_text("This key is unknown")
    give(page, "ck_k_" + "x" * 49)
    expect(page.get_by_role("alert").first).to_contain_text("This key is unknown")
    expect(page.locator("#desk")).to_be_hidden()
    service.receive("ada", "hello")
    give(page, service.key("salon"))
    choose(page, "ada")
    expect(page.locator(LINES)).to_have_count(2)
    for listed in service.portal.call(list_keys, service.keep):
        service.portal.call(revoke_key, service.keep, listed.id)
    expect(page.get_by_role("alert").first).to_contain_text("the session has ended")

    assert page.locator(LINES).count() == 0
    assert re.fullmatch(r".*/operator#ada", page.url)


@pytest.mark.journey
def test_the_palette_does_everything(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Every act, by Control and K: found by the beginnings of words, told to screen readers, and nothing runs of what names hold."""
    service.receive("ada", "hello")
    service.receive(f"bob {HOSTILE}", "hello")
    page = opened(person, service)
    choose(page, "ada")
    page.get_by_label("Write as a person").fill("a draft")
    page.keyboard.press("Control+k")
    box = page.get_by_role("combobox", name="What do you want to do?")
    expect(box).to_be_focused()
    expect(page.get_by_role("listbox", name="Acts")).to_be_visible()

    def active() -> str:
        return str(page.locator(f"#{box.get_attribute('aria-activedescendant')}").inner_text())

    first = active()
    page.keyboard.press("ArrowDown")
    assert first != active()
    expect(page.locator('#options [aria-selected="true"]')).to_have_count(1)
    page.keyboard.press("ArrowUp")
    assert first == active()
    page.keyboard.press("ArrowUp")
    assert page.locator("#options li").last.inner_text() == active()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Write as a person")).to_be_focused()
    expect(page.get_by_label("Write as a person")).to_have_value("a draft")
    page.keyboard.press("Control+k")
    page.keyboard.type("tak ov")
    expect(page.locator("#options li")).to_have_count(1)
    expect(page.locator("#palette").get_by_role("status")).to_have_text("1 found")
    page.screenshot(path=tmp_path / "palette.png")
    page.keyboard.press("Enter")
    expect(page.locator("#bot")).to_have_text("A person answers")
    page.keyboard.press("Control+k")
    page.keyboard.type("open bob")
    expect(page.locator("#options li")).to_contain_text(f"{MARKUP} U+202Egnp.exeU+200B")
    page.keyboard.press("Enter")
    expect(page.locator("#name")).to_contain_text("gnp.exe")
    page.keyboard.press("Control+k")
    page.keyboard.type("[.*+(xyz")
    expect(page.locator("#palette").get_by_role("status")).to_have_text("Nothing is called like that.")
    page.keyboard.press("Enter")
    expect(box).to_be_visible()
    for words, what in (("bot off", "Everything"), ("go queues", "Waiting for a person"), ("sign out", "Service key")):
        box.fill(words)
        page.keyboard.press("Enter")
        expect(page.locator("#palette")).to_be_hidden()
        if what != "Everything":
            expect(page.locator("body")).to_contain_text(what)
        page.keyboard.press("Control+k")
    expect(page.locator("#palette")).to_be_hidden()

    assert "Desk" == page.title()
    assert 0 == page.locator("img, #desk script").count()


def test_the_focus_stays_in_the_list_as_it_changes(service: Service, person: BrowserContext) -> None:
    """On its conversation wherever that moves; where that is gone, on the one in its place; and on what "Show more" brings."""
    tenant = service.keep.tenant("salon")
    service.portal.call(tenant.pause)
    for number in range(60):
        service.portal.call(tenant.accept, f"c{number:02}", "hello")
    page = opened(person, service)
    page.locator("#shows .chip").filter(has_text="Waiting").click()
    expect(page.locator("#list li")).to_have_count(50)
    page.locator("#list a").filter(has_text="c55").focus()
    service.portal.call(tenant.accept, "c55", "hello?")
    expect(page.locator("#list li").first).to_contain_text("c55", timeout=15_000)
    expect(page.locator("#list a").first).to_be_focused()
    service.portal.call(lambda: tenant.accept("c55", "here I am", role="operator"))
    expect(page.locator("#list li").first).not_to_contain_text("c55", timeout=15_000)
    expect(page.locator("#list a").first).to_be_focused()
    page.get_by_role("button", name="Show more").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#list li")).to_have_count(59)
    expect(page.locator("#list a").nth(50)).to_be_focused()


def test_a_click_is_not_lost_where_the_desk_is_drawn_anew(service: Service, person: BrowserContext) -> None:
    """A message that comes while something is pressed changes and moves its line, and a change its slot: the click counts all the same."""
    for name in ("ada", "bob"):
        service.receive(name, "hello")
    page = opened(person, service)
    row = page.locator("#list li", has_text="ada")
    row.hover()
    page.mouse.down()
    service.receive("ada", "moves it")
    service.receive("bob", "and this is the newest")
    for _ in range(2):  # the first one may have been on its way before
        with page.expect_response("**/desk/conversations?*", timeout=60_000):
            pass
    page.wait_for_timeout(500)  # what is answered is drawn
    page.mouse.up()

    expect(page.locator("#name")).to_have_text("ada")
    expect(page.locator("#list li").first).to_contain_text("newest")
    page.locator("#state .branch", has_text="said").get_by_role("button", name="Edit").hover()
    page.mouse.down()
    service.receive("ada", "changes it")
    expect(page.locator("#log")).to_contain_text("3: changes it")
    page.mouse.up()
    expect(page.get_by_label("Value of said, as JSON")).to_have_value(re.compile("changes it"))


def test_a_slot_that_cannot_be_read_to_be_edited_is_shown_as_it_is(service: Service, person: BrowserContext) -> None:
    """What has changed while it was asked for is drawn when that has failed, with the reason beneath."""
    service.receive("ada", "hello")
    page = opened(person, service)
    page.locator("#list li", has_text="ada").click()
    asked: list[Route] = []
    page.route("**/state/said", lambda route: asked.append(route))
    page.locator("#state .branch", has_text="said").get_by_role("button", name="Edit").click()
    service.receive("ada", "changes it")
    expect(page.locator("#log")).to_contain_text("2: changes it")
    asked[0].fulfill(status=503, json={"title": "Away", "status": 503, "detail": "The store is away."})

    expect(page.locator("#state")).to_contain_text("changes it")
    expect(page.locator("#state [role=alert]")).to_contain_text("The store is away.")


def test_a_late_answer_of_one_conversation_ends_no_editing_in_another(service: Service, person: BrowserContext) -> None:
    """What is being typed there stays when its state changes."""
    for name in ("ada", "bob"):
        service.receive(name, "hello")
    page = opened(person, service)
    page.locator("#list li", has_text="ada").click()
    asked: list[Route] = []
    page.route(
        "**/ada/state/said", lambda route: asked.append(route) if route.request.method == "PUT" else route.continue_()
    )
    page.locator("#state .branch", has_text="said").get_by_role("button", name="Edit").click()
    page.get_by_label("Value of said, as JSON").fill("[]")
    page.get_by_role("button", name="Save").click()
    page.locator("#list li", has_text="bob").click()
    expect(page.locator("#name")).to_have_text("bob")
    page.locator("#state .branch", has_text="said").get_by_role("button", name="Edit").click()
    field = page.get_by_label("Value of said, as JSON")
    field.fill('["typed"]')
    with page.expect_response("**/ada/state/said"):
        asked[0].continue_()
    page.wait_for_timeout(300)  # what has to be done with that is done
    service.receive("bob", "changes it")
    expect(page.locator("#log")).to_contain_text("2: changes it")

    expect(field).to_have_value('["typed"]')


def test_nothing_of_one_person_is_left_for_the_next(service: Service, person: BrowserContext) -> None:
    """A session that ends takes the palette with it; and filters, which the next one might not even see, are everything again."""
    service.receive("ada", "hello")
    service.account("eve", "viewer")
    page = opened(person, service)
    expect(page.locator("#list li")).to_have_count(1)
    page.get_by_label("Mine", exact=True).check(force=True)
    page.get_by_label("Search", exact=True).fill("xyzzy")
    expect(page.locator("#none")).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.locator("#palette")).to_be_visible()
    service.portal.call(end_sessions, service.keep, "kim")
    expect(page.get_by_label("Service key")).to_be_visible(timeout=15_000)
    expect(page.locator("#palette")).to_be_hidden()
    assert 0 == page.locator("#options li").count()
    sign_in(page, "eve")
    expect(page.locator("#list li")).to_have_count(1)
    expect(page.get_by_label("Search", exact=True)).to_have_value("")


def test_the_palette_is_of_what_is_shown(service: Service, person: BrowserContext) -> None:
    """It goes with the conversation that it was opened over; canned replies that are long in coming lose no letter that was typed."""
    for name in ("ada", "bob"):
        service.receive(name, "hello")
    replies = core_of(service.keep).records("replies:salon", CannedReply)
    service.portal.call(lambda: replies.change("hours", lambda held: CannedReply("9 to 5"), owner=LISTED))
    page = opened(person, service, "agent")
    choose(page, "ada")
    choose(page, "bob")
    page.keyboard.press("Control+k")
    page.keyboard.type("take over")
    page.go_back()
    expect(page.locator("#name")).to_have_text("ada")
    expect(page.locator("#palette")).to_be_hidden()

    def late(route: Route) -> None:
        page.wait_for_timeout(500)
        route.continue_()

    page.route("**/desk/replies", late)
    page.get_by_label("Write as a person").focus()
    page.keyboard.type("/hou")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Write as a person")).to_have_value("9 to 5")


def test_every_act_is_in_the_one_table(service: Service, person: BrowserContext) -> None:
    """Each button of the page, but for fields, dialogs and what is made of data, names its act; no key stands for two."""
    page = opened(person, service)
    expect(page.locator("#desk")).to_be_visible()
    named = page.locator("#desk header button, #desk main > .bar button, #earlier, .menu button").evaluate_all(
        "(found) => found.map((made) => made.dataset.act)"
    )

    assert set(named) == {"palette", "keys", "leave", "details", "earlier"}
    page.keyboard.press("?")
    expect(page.locator("#keylist dt").first).to_be_visible()
    keys = page.locator("#keylist dt").all_inner_texts()

    assert len(keys) == len(set(keys)) > 6
    assert "" not in page.locator("#keylist dd").all_inner_texts()


@pytest.mark.journey
def test_a_conversation_is_assigned(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Taking over assigns; the list tells and is filtered by it; a colleague is given it; two who take one at once are told."""
    for name in ("ada", "bob"):
        service.receive(name, f"I am {name}")
    service.account("lee", "agent", shown=f"Lee {MARKUP}")
    page = opened(person, service)
    choose(page, "ada")
    expect(page.get_by_label("Assigned to")).to_have_value("")
    page.get_by_role("button", name="Take over").click()
    expect(page.get_by_label("Assigned to")).to_have_value("kim")
    expect(page.locator("#list li").filter(has_text="ada")).to_contain_text("You")
    page.get_by_label("Mine", exact=True).check(force=True)
    expect(page.locator("#list li")).to_have_count(1)
    page.get_by_label("Nobody's", exact=True).check(force=True)
    expect(page.locator("#list .id")).to_have_text(["bob"])
    streams: list[Route] = []
    page.route("**/bob/events*", lambda route: route.fallback() if streams else streams.append(route))
    choose(page, "bob")

    def late(route: Route) -> None:  # once the page has asked, it cannot have heard of the other one before
        service.portal.call(lambda: core_of(service.keep).assign("salon", "bob", "lee", by="Lee"))
        route.continue_()

    page.route("**/assignee*", late, times=1)
    page.get_by_label("Assigned to").select_option("kim")
    expect(page.locator("#trouble")).to_contain_text("It is assigned to lee meanwhile")
    while not streams:
        page.wait_for_timeout(20)
    streams[0].continue_()
    service.receive("bob", "again")
    expect(page.locator("#log")).to_contain_text("again")
    expect(page.locator("#trouble")).to_contain_text("It is assigned to lee meanwhile")
    expect(page.get_by_label("Assigned to")).to_have_value("lee")
    page.get_by_label("Everybody's", exact=True).check(force=True)
    expect(page.locator("#list li").filter(has_text="bob")).to_contain_text(f"Lee {MARKUP}")
    page.screenshot(path=tmp_path / "assigned.png")
    page.locator("#name").click()
    page.keyboard.press("m")
    expect(page.get_by_label("Assigned to")).to_have_value("kim")
    page.get_by_role("button", name="Details").click()
    expect(page.locator("#story")).to_contain_text("Kim assigned to You")

    assert "Desk" == page.title()


@pytest.mark.journey
def test_canned_replies_are_kept_and_chosen(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Kept on a page of their own, chosen by / or a button; a name that means harm is filled in as one line of plain text, once."""
    name = "\u202eEve\n{agent} <b>\u2066\u200b"
    service.portal.call(
        lambda: service.keep.tenant("salon").accept("ada", "hello", metadata={"name": name + "x" * 200})
    )
    service.receive("bob", "hello")
    page = opened(person, service, "agent")
    page.get_by_role("link", name="Replies").click()
    expect(page.get_by_role("button", name="Add")).to_be_visible()  # (the sign-in has a hidden field of that name)
    for called, text in (("hello", "Hello {name|there}, I am {agent}."), ("number", f"{MARKUP} {{name}}: 4711")):
        page.get_by_label("Name", exact=True).last.fill(called)
        page.get_by_label("Text").fill(text)
        page.get_by_role("button", name="Add").click()
        expect(page.locator(".canned")).to_contain_text(text)
    page.screenshot(path=tmp_path / "canned.png")
    page.get_by_role("link", name="Conversations").click()
    choose(page, "ada")
    text = page.get_by_label("Write as a person")
    text.focus()
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Choose a canned reply")).to_be_focused()
    page.keyboard.type("hel")
    expect(page.locator("#options li")).to_have_count(1)
    page.screenshot(path=tmp_path / "picker.png")
    page.keyboard.press("Enter")
    shown = f"Eve {{agent}} <b>{'x' * 65}"
    expect(text).to_have_value(f"Hello {shown}, I am Kim.")
    expect(text).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(LINES).last).to_contain_text("I am Kim.")
    choose(page, "bob")
    text.focus()
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Choose a canned reply")).to_be_focused()
    page.keyboard.press("Escape")
    expect(text).to_be_focused()
    expect(text).to_have_value("/")
    text.fill("Well: ")
    page.get_by_role("button", name="Canned replies").click()
    page.keyboard.type("number")
    page.keyboard.press("Enter")
    expect(text).to_have_value(f"Well: {MARKUP} {{name}}: 4711")
    page.keyboard.press("Enter")
    expect(page.locator("#trouble")).to_contain_text("Nothing was sent")
    page.keyboard.type("Bob")
    page.keyboard.press("Enter")
    expect(page.locator(LINES).last).to_contain_text(f"Well: {MARKUP} Bob: 4711")
    page.get_by_role("link", name="Replies").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove number").click()
    expect(page.locator(".canned > li")).to_have_count(1)
    page.get_by_role("button", name="Change hello").click()
    service.portal.call(
        lambda: (
            core_of(service.keep)
            .records("replies:salon", CannedReply)
            .change("hello", lambda held: CannedReply("Somebody else's."))
        )
    )
    page.locator(".canned").get_by_label("Text").fill("Mine.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".canned").get_by_role("alert")).to_contain_text("Somebody has changed this reply meanwhile")

    assert [("operator", f"Hello {shown}, I am Kim.")] == service.log("ada")[-1:]
    assert "Desk" == page.title()


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are taken five times a second, by servers that are started from here on."""
    monkeypatch.setattr(samples, "SAMPLE_S", 0.2)


@pytest.mark.journey
@pytest.mark.usefixtures("sampled")
def test_health_is_drawn(service: Service, person: BrowserContext, tmp_path: Path) -> None:
    """Charts of what was sampled, told to screen readers in words; the servers, and the settings for who may switch."""
    page = opened(person, service, everywhere=True)
    for number in range(20):
        service.receive(f"c{number}", "hello")
    page.get_by_role("link", name="Health").click()
    page.get_by_role("link", name="Queues").click()
    page.get_by_role("link", name="Health").click()
    chart = page.get_by_role("img", name=re.compile(r"Turns a second, at most [1-9][0-9.]*; now turns"))
    expect(chart).to_be_visible()
    expect(page.locator("figure.chart")).to_have_count(7)
    chart.hover()
    expect(page.locator("figure.chart").first.locator(".legend time")).to_be_visible()
    expect(page.locator("#page")).to_contain_text("One server on this store")
    page.get_by_text("settings; those that").click()
    expect(page.locator("#page")).to_contain_text("session_ttl")
    for width in (375, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.screenshot(path=tmp_path / f"health-{width}.png", full_page=True)

        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_people_come_back_from_an_openid_provider(person: BrowserContext, tmp_path: Path) -> None:
    """By a button, to the provider and back, at the desk as who they are; refused, the page says why in words of its own."""
    pytest.importorskip("authlib", reason="NO AUTHLIB, SO OPENID CONNECT IS NOT TRIED: install the extra `oidc`")
    from chatkeep.server.oidc import OpenIDProvider

    keep: Chatkeep[Any] = Chatkeep("memory://")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(providing()) as there:
        there.claims |= {"groups": "support", "name": MARKUP}
        provider = OpenIDProvider(
            there.issuer, CLIENT_ID, SECRET, role_claim="groups", roles={"support": "agent"}, label="Sign in with Acme"
        )
        with portal.wrap_async_context_manager(served(keep, provider=provider)) as client:
            page = person.new_page()
            page.goto(f"http://127.0.0.1:{client.port}/operator")
            page.screenshot(path=tmp_path / "button.png")
            page.get_by_role("button", name="Sign in with Acme").click()
            expect(page.locator("#shown")).to_have_text(MARKUP)
            expect(page.locator("#role")).to_have_text("agent")
            assert page.url == f"http://127.0.0.1:{client.port}/operator"
            page.locator("#person summary").click()
            page.get_by_role("button", name="Sign out").click()
            there.denies = True
            page.get_by_role("button", name="Sign in with Acme").click()
            expect(page.locator("#refusal")).to_have_text("The provider did not let you in.")
            page.goto(f"http://127.0.0.1:{client.port}/operator#/refused/call+this+number")
            page.reload()
            expect(page.locator("#refusal")).to_be_empty()

            assert "Desk" == page.title()


@pytest.mark.slow
@pytest.mark.usefixtures("sampled")
def test_nothing_keeps_people_from_using_it(service: Service, person: BrowserContext) -> None:
    """axe finds nothing serious: signing in, the list, conversations, dialogs, and each other page; light and dark."""
    service.receive("ada", "hello")
    with pytest.raises(Exception, match="as asked"):
        service.receive("ada", "fail")
    service.receive("phone:1", "hello")
    service.portal.call(service.keep.tenant("salon").pause, "eve")
    service.receive("eve", "anybody?")
    service.portal.call(lambda: write_evil(service, "evil", RUNS[0]))
    found: dict[str, list[str]] = {}
    page = person.new_page()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(service.address)
    expect(page.get_by_label("Name", exact=True)).to_be_visible()

    def look(what: str) -> None:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            if faults := axe.faults(page):
                found[f"{what}, {scheme}"] = faults

    look("sign-in")
    service.account("kim", "admin", shown="Kim")
    sign_in(page, "kim")
    expect(page.locator("#list li")).to_have_count(4)
    look("list")
    for name in ("ada", "evil"):
        choose(page, name)
        expect(page.locator("#inside h3").first).to_be_visible()
        expect(page.get_by_role("button", name="Take over")).to_be_visible()
        look(f"the conversation {name}")
    page.keyboard.press("Control+k")
    look("palette")
    page.keyboard.press("Escape")
    page.locator("#name").click()
    page.keyboard.press("?")
    look("keys")
    page.keyboard.press("Escape")
    for view in ("Queues", "Replies", "Health", "Audit"):
        page.get_by_role("link", name=view).click()
        expect(page.locator("#page .queue").first).to_be_visible()
        look(view)

    assert {} == found
