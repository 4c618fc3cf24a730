"""The browser client on a bare page, in a real browser against a real server: nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Route

from ..support.browsing import ROOT, Shop, again, bare, page_of_a_proxy, profile, said, send, wait
from ..support.shop import STORY

CLIENT = ROOT / "clients" / "js"
TEN = [f"message {number}" for number in range(10)]


def asked(person: BrowserContext) -> list[str]:
    """Collects what a person's pages ask for: "POST /v1/..."."""
    found: list[str] = []
    person.on("request", lambda request: found.append(f"{request.method} /{request.url.split('/', 3)[3]}"))
    return found


def log(page: Page) -> list[dict[str, Any]]:
    """The log as the server has it."""
    found: list[dict[str, Any]] = page.evaluate(
        """async () => {
          const me = JSON.parse(Object.entries(localStorage).find(([key]) => key.endsWith(chat.name))[1]);
          const answer = await fetch(`/v1/conversations/${me.id}/messages?limit=200`, { headers: { authorization: `Bearer ${me.token}` } });
          return (await answer.json()).messages;
        }"""
    )
    return found


def from_user(page: Page) -> list[str]:
    """What the server has from the user, in its order."""
    return [message["content"] for message in log(page) if message["role"] == "user"]


def refuse(route: Route) -> None:
    """A store that is away."""
    problem = {"type": "urn:chatkeep:unavailable", "status": 503, "detail": "The store cannot be reached now."}
    route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(problem))


def test_it_needs_nothing() -> None:
    """No dependency; and what is fetched later imports neither of the two whole modules, of which a wheel's page has one."""
    imports = {
        path.name: set(re.findall(r"""(?:from|import)[ (]["']([^"']+)""", path.read_text()))
        for path in CLIENT.glob("*.js")
    }
    later = set().union(*imports.values()) - {"./client.js"}

    assert imports["client.js"] > {"./visitors.js"}
    assert {f"./{name}" for name in imports} - {"./client.js", "./account.js", "./offline.js"} == later
    assert {"./client.js"} & set().union(*(imports[name.removeprefix("./")] for name in later)) == set()
    assert {} == json.loads((CLIENT / "package.json").read_text()).get("dependencies", {})


@pytest.mark.journey
def test_a_chat_begins_with_its_first_message_and_is_kept(shop: Shop, person: BrowserContext) -> None:
    """Looking creates nothing; after a refresh the same conversation is there, and a new name begins another."""
    requests = asked(person)
    page = bare(person, shop.address)
    page.wait_for_timeout(300)

    assert [] == [each for each in requests if "/v1/" in each]
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    conversation = page.evaluate("chat.conversation")
    again(page)

    assert ["hello", "1: hello"] == said(page)
    assert conversation == page.evaluate("chat.conversation")
    assert ["delivered", "received"] == page.evaluate("chat.messages.map((message) => message.status)")
    assert 1 == requests.count("POST /v1/conversations")
    again(page, "{ name: 'another' }")
    assert [] == said(page)


@pytest.mark.journey
def test_a_message_goes_from_sending_to_sent_to_delivered(shop: Shop, person: BrowserContext) -> None:
    """It is shown at once; each step is told once, under one id."""
    page = bare(person, shop.address)
    page.evaluate(
        "window.steps = []; chat.on('message', (m) => m.role === 'user' && steps.push(`${m.status} ${m.id}`)); 0"
    )
    page.evaluate("async () => { window.first = await chat.send('slow') }")
    wait(page, "chat.typing")
    wait(page, "said.includes('1: slow')")

    assert "sending" == page.evaluate("first.status")
    identity = page.evaluate("first.id")
    assert [f"{step} {identity}" for step in ("sending", "sent", "delivered")] == page.evaluate("steps")
    assert "saved" == page.evaluate("chat.status")
    wait(page, "!chat.typing")


@pytest.mark.journey
def test_two_tabs_agree_and_one_follows_the_other(shop: Shop, person: BrowserContext) -> None:
    """One event stream for both; what either sends both show, in one order; when the leader closes, the other goes on."""
    one = bare(person, shop.address)
    send(one, "from one")
    wait(one, "said.includes('1: from one')")
    requests = asked(person)
    two = bare(person, shop.address)
    send(two, "from two")
    send(one, "and again")
    for tab in (one, two):
        wait(tab, "said.includes('3: and again')")

    assert said(one) == said(two)
    assert [] == [each for each in requests if each.endswith("/events")]
    one.close()
    send(two, "alone")
    wait(two, "said.includes('4: alone')")
    assert 1 == len([each for each in requests if each.endswith("/events")])
    assert ["from one", "from two", "and again", "alone"] == from_user(two)


def test_a_leader_that_sleeps_is_replaced(shop: Shop, person: BrowserContext) -> None:
    """A frozen tab may keep its lock: the one that people look at takes it when nobody answers."""
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    key = "chatkeep:" + json.dumps([f"{shop.address}v1/", "", page.evaluate("chat.name")], separators=(",", ":"))
    page.close()
    frozen = person.new_page()
    frozen.goto(f"{shop.address}client.js")
    frozen.evaluate("(key) => { navigator.locks.request(key, () => new Promise(() => {})).catch(() => {}); }", key)
    awake = bare(person, shop.address)
    send(awake, "is anybody there")
    wait(awake, "said.includes('2: is anybody there')")

    assert ["hello", "is anybody there"] == from_user(awake)


def test_a_tab_that_follows_shows_the_reply_while_it_is_made(shop: Shop, person: BrowserContext) -> None:
    """Also one that is opened in the middle of it."""
    one = bare(person, shop.address)
    two = bare(person, shop.address)
    send(one, "tell")
    wait(two, "chat.typing && chat.messages.at(-1).status === 'streaming'")
    three = bare(person, shop.address)
    wait(three, "chat.messages.at(-1)?.status === 'streaming'")
    for tab in (one, two, three):
        wait(tab, "said.at(-1) === given && chat.messages.at(-1).status === 'received'", f"{STORY} ")
        assert 2 == len(said(tab))


@pytest.mark.journey
def test_ten_messages_written_offline_arrive_once_and_in_order(shop: Shop, person: BrowserContext) -> None:
    """They are shown, survive a closed tab, and go out when the line is back; the status says so."""
    page = bare(person, shop.address)
    send(page, "before")
    wait(page, "said.includes('1: before')")
    other = bare(person, shop.address)
    person.set_offline(True)
    wait(page, "chat.status === 'offline'")
    send(page, *TEN[:5])
    page.close()
    send(other, *TEN[5:])
    wait(other, "chat.messages.filter((message) => message.status === 'sending').length === 10")
    wait(other, "chat.status === 'offline'")

    assert ["before", "1: before", *TEN] == said(other)
    other.evaluate("window.statuses = []; chat.on('status', (status) => statuses.push(status)); 0")
    person.set_offline(False)
    wait(other, "said.includes('11: message 9')")
    wait(other, "chat.messages.every((message) => message.status !== 'sending' && message.status !== 'sent')")
    statuses = other.evaluate("statuses")

    assert ["before", *TEN] == from_user(other)
    assert ["sending", "restored"] == statuses[:2]
    wait(other, "chat.status === 'saved'")


def test_while_the_server_answers_503_it_goes_on_locally(shop: Shop, person: BrowserContext) -> None:
    """The log that was seen last, what is written, and a form: all there after a refresh, all caught up later."""
    page = bare(person, shop.address)
    send(page, "before")
    page.evaluate("chat.slot('form').patch({ name: 'Ada' })")
    wait(page, "said.includes('1: before') && chat.status === 'saved' && chat.state?.form")
    page.wait_for_timeout(700)
    person.route("**/v1/**", refuse)
    again(page)
    send(page, "meanwhile")
    page.evaluate("chat.slot('form').patch({ day: 'Friday' })")
    wait(page, "chat.status === 'offline'")
    again(page)

    assert ["before", "1: before", "meanwhile"] == said(page)
    assert {"name": "Ada", "day": "Friday"} == page.evaluate("chat.slot('form').get()")
    for name in ("", ".", ".."):
        with pytest.raises(Error, match="a slot cannot be called"):
            page.evaluate("name => chat.slot(name)", name)
    assert ("offline", "The store cannot be reached now.") == tuple(
        page.evaluate("[chat.status, chat.problem.message]")
    )
    person.unroute("**/v1/**")
    send(page, "form")
    wait(page, "said.includes(given)", "The form says {'name': 'Ada', 'day': 'Friday'}.")
    assert ["before", "meanwhile", "form"] == from_user(page)


@pytest.mark.parametrize("status", [401, 404, 403, 410, 405, 200])
def test_what_a_proxy_says_is_not_taken_for_the_servers_word(shop: Shop, person: BrowserContext, status: int) -> None:
    """As in a deploy: for a while something without a server behind it answers all with a page of its own. The chat is not closed for
    that, nothing counts as refused, and all goes on by itself."""
    page = bare(person, shop.address)
    send(page, "before")
    page.evaluate("chat.slot('form').patch({ name: 'Ada' })")
    wait(page, "said.includes('1: before') && chat.status === 'saved' && chat.state?.form")
    person.set_offline(True)  # which ends the stream
    wait(page, "chat.status === 'offline'")
    person.route("**/v1/**", page_of_a_proxy(status))
    person.set_offline(False)
    send(page, "meanwhile")
    page.evaluate("chat.slot('form').patch({ day: 'Friday' })")
    wait(page, "chat.status === 'offline' && chat.problem.message.includes(given)", f"has answered ({status})")

    assert ["sent", "sending"] == page.evaluate(
        "[0, 2].map((n) => chat.messages[n].status.replace('delivered', 'sent'))"
    )
    person.unroute("**/v1/**")
    wait(page, "said.includes('2: meanwhile') && chat.unsent === 0 && ['restored', 'saved'].includes(chat.status)")
    assert {"name": "Ada", "day": "Friday"} == page.evaluate("chat.slot('form').get()")
    assert ["before", "meanwhile"] == from_user(page)


@pytest.mark.journey
def test_a_server_that_is_killed_while_people_type(shop: Shop, person: BrowserContext) -> None:
    """kill -9 in the middle of a reply: it is made again; what was written meanwhile arrives once."""
    page = bare(person, shop.address)
    send(page, "tell")
    wait(page, "chat.messages.at(-1).status === 'streaming'")
    shop.kill()
    send(page, "one", "two")
    wait(page, "chat.status === 'offline'")
    shop.start()
    wait(page, "said.includes('3: two')")
    wait(page, "!chat.messages.some((message) => message.status === 'streaming')")

    assert ["tell", f"{STORY} ", "one", "2: one", "two", "3: two"] == [message["content"] for message in by_turn(page)]


def by_turn(page: Page) -> list[dict[str, Any]]:
    """The log with each reply behind what it answers."""
    return sorted(log(page), key=lambda message: (message.get("reply_to") or message["number"], message["number"]))


@pytest.mark.journey
def test_a_streamed_reply_goes_on_after_a_refresh(shop: Shop, person: BrowserContext) -> None:
    """All that was said so far is there at once, then the rest, then the recorded reply in its place."""
    page = bare(person, shop.address)
    send(page, "tell")
    wait(page, "said.at(-1).includes('🍕')")
    again(page)
    wait(page, "said.at(-1).startsWith('Once upon') && chat.messages.at(-1).status === 'streaming'")
    page.evaluate("window.grown = []; chat.on('message', (message) => grown.push(message.text)); 0")
    wait(page, "chat.messages.at(-1).status === 'received'")

    assert ["tell", f"{STORY} "] == said(page)
    assert all(STORY.startswith(text.strip()) for text in page.evaluate("grown.filter((text) => text !== 'tell')"))


def test_a_connection_that_is_cut_in_a_reply_goes_on_behind_the_piece(shop: Shop, person: BrowserContext) -> None:
    """The server is told how much of the reply this page has; what it shows only grows."""
    page = bare(person, shop.address)
    ids: list[str] = []
    page.on("request", lambda request: ids.append(request.headers.get("last-event-id", "")))
    page.evaluate("window.grown = []; chat.on('message', (message) => grown.push(message.text)); 0")
    send(page, "tell")
    wait(page, "said.at(-1).includes('time')")
    person.set_offline(True)
    page.wait_for_timeout(100)
    person.set_offline(False)
    wait(page, "chat.messages.at(-1).status === 'received'")
    grown = page.evaluate("grown.filter((text) => text !== 'tell')")

    assert [id for id in ids if re.fullmatch(r"\d+\.[\w-]+", id)]
    assert ["tell", f"{STORY} "] == said(page)
    assert len(grown) > 5
    assert grown == sorted(grown, key=len)


@pytest.mark.journey
def test_an_answer_that_got_lost_is_not_given_twice(shop: Shop, person: BrowserContext) -> None:
    """The server has taken the message and the page never hears of it: sent again under the same id."""
    page = bare(person, shop.address)
    lost: list[int] = []

    def lose_the_first(route: Route) -> None:
        if route.request.method == "POST" and not lost:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    person.route("**/messages", lose_the_first)
    send(page, "once")
    wait(page, "said.includes('1: once') && chat.status !== 'sending' && chat.status !== 'offline'")

    assert [202] == lost
    assert ["once", "1: once"] == [message["content"] for message in log(page)]


@pytest.mark.parametrize("swallow", [lambda route: route.abort(), lambda route: None], ids=["refused", "held back"])
def test_where_no_stream_gets_through_it_asks(
    shop: Shop, person: BrowserContext, swallow: Callable[[Route], None]
) -> None:
    """A proxy that refuses event streams, or keeps them to itself, makes it slower, not silent."""
    person.route("**/events", swallow)
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello')")

    assert "offline" != page.evaluate("chat.status")


@pytest.mark.journey
def test_a_share_opens_the_chat_in_another_browser_once(shop: Shop, person: BrowserContext, browser: Browser) -> None:
    """The link leaves the address bar at once; both go on with one conversation; used again, it says so."""
    page = bare(person, shop.address)
    assert "nothing to share" in page.evaluate("chat.share().catch((fault) => fault.message)")
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    link = page.evaluate("chat.share()")

    assert link.startswith(f"{shop.address}client.js#share=ck_h_")
    with profile(browser) as friend, profile(browser) as stranger:
        theirs = bare(friend, link, at="")
        wait(theirs, "said.includes('1: hello')")
        assert f"{shop.address}client.js" == theirs.url
        send(theirs, "from my telephone")
        wait(page, "said.includes('2: from my telephone')")
        again(theirs)
        assert page.evaluate("chat.conversation") == theirs.evaluate("chat.conversation")
        late = bare(stranger, link, at="")
        wait(late, "chat.status === 'failed'")
        assert ([], 404) == (said(late), late.evaluate("chat.problem.status"))


@pytest.mark.journey
def test_a_half_filled_form_comes_back(shop: Shop, person: BrowserContext) -> None:
    """Saved while it is typed, with few requests; there after a refresh, in every tab, and the bot reads it."""
    requests = asked(person)
    page = bare(person, shop.address)
    other = bare(person, shop.address)
    other.evaluate("window.heard = []; chat.slot('form').subscribe((form) => heard.push(form)); 0")
    page.evaluate(
        "async () => { for (const part of 'Ada Lovelace') await form(part); async function form(part) {"
        " const slot = chat.slot('form'); await slot.patch({ name: (slot.get()?.name ?? '') + part }); } }"
    )

    assert {"name": "Ada Lovelace"} == page.evaluate("chat.slot('form').get()")
    wait(page, "chat.status === 'saved'")
    again(page)
    assert {"name": "Ada Lovelace"} == page.evaluate("chat.slot('form').get()")
    wait(other, "heard.at(-1)?.name === 'Ada Lovelace'")
    assert 3 >= len([each for each in requests if each.startswith("PUT")])
    send(page, "form")
    wait(page, "said.includes(given)", "The form says {'name': 'Ada Lovelace'}.")
    page.evaluate("chat.slot('form').clear()")
    wait(page, "chat.status === 'saved'")
    send(page, "form")
    wait(page, "said.includes('The form says None.')")


def test_a_change_between_the_load_and_the_stream_is_shown(
    shop: Shop, person: BrowserContext, browser: Browser
) -> None:
    """What another device changes while this one is opening its line, or is without one, leaves nothing in the log."""
    page = bare(person, shop.address)
    page.evaluate("chat.slot('form').set({ name: 'Ada' })")
    wait(page, "chat.status === 'saved' && chat.conversation")
    link = page.evaluate("chat.share()")
    held: list[Route] | None = []
    with profile(browser) as friend:
        friend.route("**/events", lambda route: route.continue_() if held is None else held.append(route))
        theirs = bare(friend, link, at="")
        wait(theirs, "chat.state?.form?.name === 'Ada'")
        theirs.wait_for_timeout(100)
        assert held, "it has loaded, and its stream has not begun"
        page.evaluate("chat.slot('form').set({ name: 'Grace' })")
        wait(page, "chat.status === 'saved'")
        held, begun = None, held
        for route in begun:
            route.continue_()
        wait(theirs, "chat.state?.form?.name === 'Grace'")


def test_two_people_fill_in_one_form(shop: Shop, person: BrowserContext, browser: Browser) -> None:
    """What each has made of it is put together by the server, and no field is lost: an edit stands against a removal."""
    page = bare(person, shop.address)
    page.evaluate("chat.slot('form').set({ name: 'Ada' })")
    wait(page, "chat.status === 'saved' && chat.conversation")
    link = page.evaluate("chat.share()")
    with profile(browser) as friend:
        theirs = bare(friend, link, at="")
        wait(theirs, "chat.state?.form")
        theirs.evaluate("chat.slot('form').patch({ day: 'Monday' })")
        wait(theirs, "chat.status === 'saved'")
        friend.set_offline(True)
        theirs.evaluate("chat.slot('form').patch({ day: 'Friday', name: null })")
        page.evaluate("chat.slot('form').patch({ time: '10:00', name: 'Grace' })")
        wait(page, "chat.status === 'saved'")
        friend.set_offline(False)
        for tab in (page, theirs):
            wait(
                tab,
                "JSON.stringify(Object.entries(chat.slot('form').get()).sort()) === given",
                '[["day","Friday"],["name","Grace"],["time","10:00"]]',
            )


@pytest.mark.journey
def test_what_is_refused_fails_and_can_be_tried_again(shop: Shop, person: BrowserContext) -> None:
    """A message the server will never take lets the next ones pass; one that the bot gives up is kept, and asked anew."""
    page = bare(person, shop.address)
    person.route("**/messages", lambda route: route.fulfill(status=413, json={"detail": "It is too long."}))
    send(page, "too long")
    wait(page, "chat.messages[0].status === 'failed'")

    assert ["failed", "It is too long."] == page.evaluate("[chat.status, chat.messages[0].error]")
    person.unroute("**/messages")
    send(page, "next")
    wait(page, "said.includes('1: next')")
    page.evaluate("chat.retry(chat.messages.at(-1).id)")
    wait(page, "said.includes('2: too long')")
    send(page, "fail")
    wait(page, "chat.messages.at(-1).status === 'failed'")
    assert "could not answer" in page.evaluate("chat.messages.at(-1).error")
    page.evaluate("chat.retry(chat.messages.at(-1).id)")
    wait(page, "chat.messages.filter((m) => m.text === 'fail').length === 2")
    wait(page, "chat.messages.at(-1).status === 'failed'")


def test_a_chat_that_is_not_ours_any_more_says_so(shop: Shop, person: BrowserContext) -> None:
    """Its token is revoked: the status is failed, what was seen stays visible, and nothing is asked in a loop."""
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    page.wait_for_timeout(700)
    page.evaluate(
        """async () => {
          const me = JSON.parse(Object.entries(localStorage).find(([key]) => key.endsWith(chat.name))[1]);
          await fetch(`/v1/conversations/${me.id}/tokens/current`, { method: "DELETE", headers: { authorization: `Bearer ${me.token}` } });
        }"""
    )
    wait(page, "chat.status === 'failed'")
    again(page)
    wait(page, "chat.status === 'failed'")
    page.wait_for_timeout(500)
    requests = asked(person)
    page.wait_for_timeout(2500)

    assert ["hello", "1: hello"] == said(page)
    assert [] == requests


def test_earlier_messages_come_on_demand(shop: Shop, person: BrowserContext) -> None:
    """The last ones at first, what was before when asked for, all in order."""
    page = bare(person, shop.address)
    send(page, *[f"{number}" for number in range(40)])
    wait(page, "said.includes('40: 39')")
    everything = said(page)
    page.evaluate("indexedDB.deleteDatabase('chatkeep')")
    again(page)

    assert (50, True) == tuple(page.evaluate("[chat.messages.length, chat.more]"))
    assert page.evaluate("chat.earlier(20)")
    assert not page.evaluate("chat.earlier(20)")
    assert (80, False) == tuple(page.evaluate("[chat.messages.length, chat.more]"))
    assert sorted(everything) == sorted(said(page))
    assert [f"{number}" for number in range(40)] == page.evaluate(
        "chat.messages.filter((m) => m.role === 'user').map((m) => m.text)"
    )


def test_with_a_cookie_no_script_can_read_the_token(shop: Shop, person: BrowserContext) -> None:
    """cookie: true keeps the token HttpOnly; nothing of it is in localStorage."""
    page = bare(person, shop.address, "{ cookie: true }")
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    again(page, "{ cookie: true }")

    assert ["hello", "1: hello"] == said(page)
    assert "ck_c_" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    assert [(True, True, "Lax")] == [
        (each["httpOnly"], each["secure"], each["sameSite"])
        for each in person.cookies()
        if each["name"] == "__Host-chatkeep"
    ]


@pytest.mark.journey
def test_a_page_may_bring_its_own_token(shop: Shop, person: BrowserContext) -> None:
    """A site with sign-in mints tokens itself: asked for when needed, again when one is refused, and stored nowhere."""
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    own = page.evaluate("JSON.parse(Object.entries(localStorage).find(([key]) => key.endsWith(chat.name))[1])")
    page.evaluate("localStorage.clear()")
    page.evaluate("(given) => sessionStorage.setItem('own', JSON.stringify(given))", own)
    again(
        page,
        """{ conversation: JSON.parse(sessionStorage.own).id, token: async () => {
             window.minted = (window.minted ?? 0) + 1;
             return minted === 1 ? 'ck_c_stale' : JSON.parse(sessionStorage.own).token; } }""",
    )
    send(page, "mine")
    wait(page, "said.includes('2: mine')")

    assert 2 == page.evaluate("minted")
    assert "ck_c_" not in page.evaluate("JSON.stringify(localStorage)")


def test_a_clock_that_is_set_back_holds_no_change_up(shop: Shop, person: BrowserContext) -> None:
    """What is typed by a clock that is ahead is saved as soon as that is set right, and not when it has caught up."""
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello') && chat.status === 'saved'")
    page.evaluate(
        """async () => { const now = Date.now; Date.now = () => now() + 36e5;
           await chat.slot('form').set({ name: 'Ada' }); Date.now = now; }"""
    )
    wait(page, "chat.unsent === 0 && chat.status === 'saved'")
    assert {"name": "Ada"} == page.evaluate("chat._json('').then(({ state }) => state.form)")


LOST = {
    "removed": "",
    "full": """IDBObjectStore.prototype.put = function (...given) {
        const made = Reflect.apply(put, this, given); if (window.isFull) this.transaction.abort(); return made; };""",
    "refused": """IDBObjectStore.prototype.put = function (...given) {
        if (window.isFull) throw new DOMException('no room', 'QuotaExceededError'); return Reflect.apply(put, this, given); };""",
}
"""How a browser keeps nothing any more. A script that is run before the page's."""


@pytest.mark.parametrize("how", LOST)
def test_what_a_browser_does_not_keep_is_sent_all_the_same(shop: Shop, person: BrowserContext, how: str) -> None:
    """The site's data is removed while the page is open, or the disk is full: the page goes on, in order and in every tab."""
    person.add_init_script(f"window.put = IDBObjectStore.prototype.put; {LOST[how]}")
    page = bare(person, shop.address)
    send(page, "before")
    wait(page, "said.includes('1: before') && chat.status === 'saved'")
    tab = bare(person, shop.address)
    for one in (page, tab):
        one.evaluate("window.isFull = true")
    if how == "removed":
        origin = {"origin": shop.address.rstrip("/"), "storageTypes": "indexeddb"}
        person.new_cdp_session(page).send("Storage.clearDataForOrigin", origin)
    send(page, "one", "two")
    wait(page, "said.includes('3: two') && chat.unsent === 0")
    send(tab, "three")
    wait(tab, "said.includes('4: three') && chat.unsent === 0")
    person.set_offline(True)
    send(tab, "four", "five")
    tab.evaluate("chat.slot('form').set({ name: 'Ada' })")
    tab.evaluate("window.isFull = false")
    send(tab, "six")
    person.set_offline(False)
    wait(tab, "said.includes('7: six') && chat.unsent === 0 && chat.state.form?.name === 'Ada'")
    wait(page, "said.includes('7: six')")

    assert ["before", "one", "two", "three", "four", "five", "six"] == from_user(page)


def test_a_database_that_never_opens_keeps_no_page_from_opening(shop: Shop, person: BrowserContext) -> None:
    """As some browsers have it after they were asleep. That is waited for once, however many chats are opened."""
    person.add_init_script(
        """IDBFactory.prototype.open = () => new EventTarget(); window.pauses = []; window.later = window.setTimeout;
           window.setTimeout = (act, ms, ...given) => (pauses.push(ms), later(act, ms, ...given));"""
    )
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello') && chat.unsent === 0")
    page.evaluate("async () => { window.chat = await client.open({ name: 'another' }); }")
    send(page, "hello")
    wait(page, "said.includes('1: hello') && chat.unsent === 0")

    assert 1 == page.evaluate("pauses.filter((ms) => ms === 6000).length")


def test_tabs_that_keep_nothing_each_send_what_is_theirs(shop: Shop, person: BrowserContext) -> None:
    """Each has its own in memory, which no other could send: also what was written while there was no line."""
    person.add_init_script("IDBFactory.prototype.open = () => new EventTarget();")
    one = bare(person, shop.address)
    send(one, "from one")
    wait(one, "said.includes('1: from one') && chat.unsent === 0")
    two = bare(person, shop.address)
    send(two, "from two")
    wait(two, "chat.unsent === 0 && said.includes('2: from two')")
    send(one, "one again")
    wait(one, "chat.unsent === 0 && said.includes('3: one again')")
    person.set_offline(True)
    send(one, "late one")
    send(two, "late two")
    person.set_offline(False)
    for tab in (one, two):
        tab.evaluate("dispatchEvent(new Event('online'))")
        wait(tab, "chat.unsent === 0")

    assert ["from one", "from two", "late one", "late two", "one again"] == sorted(from_user(two))


def test_a_database_that_does_not_come_back_holds_no_message_up(shop: Shop, person: BrowserContext) -> None:
    """A page of an older release stands in the way of its removal, and whoever opens it anew waits behind that."""
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello') && chat.status === 'saved'")
    older = person.new_page()
    older.goto(f"{shop.address}client.js")
    older.evaluate(
        """new Promise((done) => {
          const asked = indexedDB.open('chatkeep', 1);
          asked.onsuccess = () => { window.db = asked.result; done(0); };
        })"""
    )
    page.evaluate("new Promise((done) => { indexedDB.deleteDatabase('chatkeep').onblocked = () => done(0); })")
    page.evaluate("void chat.send('again')")
    wait(page, "said.includes('2: again') && chat.unsent === 0")
    page.evaluate("void chat.send('and again')")
    wait(page, "said.includes('3: and again') && chat.unsent === 0")


def test_a_site_may_remove_the_database(shop: Shop, person: BrowserContext) -> None:
    """As its own sign-out may do: no open page stands in the way, and the chat goes on in a new one."""
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello') && chat.status === 'saved'")
    removed = """new Promise((resolve, reject) => Object.assign(indexedDB.deleteDatabase("chatkeep"),
        { onsuccess: () => resolve("removed"), onblocked: () => resolve("blocked"), onerror: reject }))"""

    assert "removed" == page.evaluate(removed)
    send(page, "again")
    wait(page, "said.includes('2: again') && chat.unsent === 0")


def test_without_storage_it_still_talks(shop: Shop, person: BrowserContext) -> None:
    """Where a browser blocks storage, the chat lasts as long as the page."""
    person.add_init_script(
        "for (const name of ['localStorage', 'indexedDB'])"
        " Object.defineProperty(window, name, { get() { throw new DOMException('blocked', 'SecurityError'); } });"
    )
    page = bare(person, shop.address)
    send(page, "hello", "again")
    wait(page, "said.includes('2: again') && chat.status === 'saved'")

    assert sorted(["hello", "again", "1: hello", "2: again"]) == sorted(said(page))


@pytest.mark.parametrize(
    ("there", "patch", "after"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_merge_as_the_standard_says(
    shop: Shop, person: BrowserContext, there: object, patch: object, after: object
) -> None:
    """The examples of RFC 7396."""
    page = bare(person, shop.address)

    assert after == page.evaluate("([there, patch]) => client.merged(there, patch)", [there, patch])


def test_the_log_is_not_sorted_at_each_event(shop: Shop, person: BrowserContext) -> None:
    """Messages come in their order, and pieces of a reply leave the log alone; an earlier page is put in its place."""
    page = bare(person, shop.address)
    send(page, *[f"message {n}" for n in range(6)])
    wait(page, "said.includes('6: message 5')")
    page.evaluate(
        """() => {
          const sort = Array.prototype.sort;
          window.sorts = 0;
          Array.prototype.sort = function (...how) {
            if (this.length > 5 && this[0]?.number) sorts += 1;
            return sort.apply(this, how);
          };
        }"""
    )
    send(page, "tell", "one more")
    wait(page, "said.includes('8: one more')")
    assert 0 == page.evaluate("sorts")
    assert "message 0" == said(page)[0]
    assert "1: message 0" in said(page)
    assert page.evaluate("chat.messages.every((one, n, all) => !n || all[n - 1].number < one.number)")


def test_a_state_is_told_once(shop: Shop, person: BrowserContext) -> None:
    """By this page, by the server's answer and by its event stream it is the same."""
    page = bare(person, shop.address)
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    send(page, "the stream is open")
    wait(page, "said.includes('2: the stream is open') && chat.state?.said")
    page.evaluate("() => { window.told = []; chat.on('state', (state) => told.push(JSON.stringify(state?.form))); }")
    page.evaluate("chat.slot('form').set({ name: 'Ada' })")
    wait(page, "chat.unsent === 0")
    send(page, "more")
    wait(page, "said.includes('3: more') && chat.state.said.length === 3")
    page.evaluate("chat.slot('form').set({ name: 'Ada' })")
    wait(page, "chat.unsent === 0")
    told = page.evaluate("told")

    assert {'{"name":"Ada"}'} == set(told)
    assert len(told) <= 2  # and another one for what the bot has written


@pytest.mark.parametrize("how", ["throw new Error('no session')", "return Promise.reject(new Error('no session'))"])
def test_a_token_function_that_throws_is_told_and_asked_again(shop: Shop, person: BrowserContext, how: str) -> None:
    """It is no lost line: the status is failed, with its words; what is written waits, and goes when there is a token."""
    page = bare(
        person,
        shop.address,
        "{ conversation: 'support', token: async () => { window.asked = (window.asked ?? 0) + 1; if (!window.well) { "
        + how
        + " } return (await fetch('/token?')).json(); } }",
    )
    wait(page, "chat.status === 'failed' && chat.problem.message.includes('no session') && asked > 1")
    send(page, "hello")
    page.evaluate("window.well = true")
    wait(page, "said.includes('1: hello') && chat.status === 'saved'")

    assert page.evaluate("chat.problem") is None
