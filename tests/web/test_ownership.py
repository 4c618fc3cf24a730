"""What a browser keeps belongs to a server, a subject and a conversation: nobody sees or sends what is another's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ..support.browsing import Shop, again, bare, said, send, wait

SITE = """{ conversation: 'support', ...given, token: async () => {
    const who = given.who ?? localStorage.who;
    return who === '' ? null : (await fetch('/token?' + who)).json(); } }"""
KEPT = """async () => { const open = indexedDB.open('chatkeep'); await new Promise((done) => (open.onsuccess = done));
    const all = open.result.transaction('queue').objectStore('queue').getAll(); await new Promise((done) => (all.onsuccess = done));
    open.result.close(); return all.result.map((item) => [item.chat, item.content]); }"""
OLD = """async ({ storage, items, seen }) => {
    for (const [key, value] of Object.entries(storage)) localStorage.setItem(key, value);
    const open = indexedDB.open('chatkeep', 1);
    open.onupgradeneeded = () => {
        open.result.createObjectStore('queue', { keyPath: 'n', autoIncrement: true }).createIndex('chat', 'chat');
        open.result.createObjectStore('seen'); };
    await new Promise((done) => (open.onsuccess = done));
    const change = open.result.transaction(['queue', 'seen'], 'readwrite');
    for (const item of items) change.objectStore('queue').add({ at: Date.now(), ...item });
    for (const [name, summary] of Object.entries(seen)) change.objectStore('seen').put(summary, name);
    await new Promise((done) => (change.oncomplete = done));
    open.result.close(); }"""
"""Writes what the client kept when it knew a chat by its name alone."""


def blank(person: BrowserContext, shop: Shop) -> Page:
    """A tab with the client's module and no chat."""
    page = person.new_page()
    page.goto(f"{shop.address}client.js")
    page.evaluate("async () => { window.client = await import('/client.js'); }")
    return page


def opened(page: Page, who: str | None = None, **options: Any) -> None:
    """Opens the site's conversation for *who* (the query of /token; None: whoever localStorage.who is), as `chat`."""
    given = options | ({} if who is None else {"who": who})
    page.evaluate(f"async (given) => {{ window.chat = await client.open({SITE}); }}", given)


def log(page: Page, who: str = "") -> list[str]:
    """What the server has in the site's conversation."""
    found: list[str] = page.evaluate("async (who) => (await fetch('/log?' + who)).json()", who)
    return found


def offline_note(person: BrowserContext, page: Page, text: str) -> None:
    """Writes something without a line, and closes the chat."""
    person.set_offline(True)
    wait(page, "chat.status === 'offline'")
    send(page, text)
    page.evaluate("chat.close()")
    person.set_offline(False)


def test_two_workspaces_with_a_conversation_of_one_name(shop: Shop, person: BrowserContext) -> None:
    """What is written offline in one stays there while the other is open, and goes out when the first is back."""
    page = blank(person, shop)
    opened(page, "tenant=acme")
    send(page, "hello acme")
    wait(page, "said.includes('1: hello acme') && chat.status === 'saved'")
    page.wait_for_timeout(700)
    offline_note(person, page, "secret of acme")
    opened(page, "tenant=globex")
    first = said(page)
    send(page, "hello globex")
    wait(page, "said.includes('1: hello globex')")

    assert [] == first
    assert ["hello globex"] == log(page, "tenant=globex")
    assert {"others": 1, "unknown": 0} == page.evaluate("chat.kept()")
    page.evaluate("chat.forget()")
    opened(page, "tenant=acme")
    wait(page, "said.includes('2: secret of acme')")
    assert ["hello acme", "secret of acme"] == log(page, "tenant=acme")
    assert [] == page.evaluate(KEPT)


@pytest.mark.journey
def test_two_people_one_after_another(shop: Shop, person: BrowserContext) -> None:
    """Also in a conversation that both may open: nothing goes out in the other's name."""
    page = blank(person, shop)
    opened(page, "user=ada")
    send(page, "from ada")
    wait(page, "said.includes('1: from ada')")
    offline_note(person, page, "unsent by ada")
    opened(page, "user=eve")
    wait(page, "said.includes('1: from ada')")
    send(page, "from eve")
    wait(page, "said.includes('2: from eve')")

    assert "unsent by ada" not in said(page)
    assert (0, {"others": 1, "unknown": 0}) == (page.evaluate("chat.unsent"), page.evaluate("chat.kept()"))
    page.evaluate("chat.close()")
    opened(page, "user=ada")
    wait(page, "said.includes('3: unsent by ada')")
    assert ["from ada", "from eve", "unsent by ada"] == log(page)


def test_another_person_signs_in_in_another_tab(shop: Shop, person: BrowserContext) -> None:
    """The tab that runs lets go of what was hers, and goes on as the one who is signed in now."""
    one = blank(person, shop)
    one.evaluate("localStorage.who = 'tenant=acme'; 0")
    opened(one)
    send(one, "from ada")
    wait(one, "said.includes('1: from ada')")
    one.route("**/messages", lambda route: route.abort())
    send(one, "unsent by ada")
    wait(one, "chat.unsent === 1 && chat.status === 'offline'")
    two = blank(person, shop)
    two.evaluate("localStorage.who = 'tenant=globex'; 0")
    opened(two)
    wait(one, "chat.messages.length === 0 && chat.unsent === 0")
    one.unroute("**/messages")
    send(two, "from eve")
    for tab in (one, two):
        wait(tab, "said.includes('1: from eve') && chat.status === 'saved'")

    assert ["from eve"] == log(two, "tenant=globex")
    two.evaluate("localStorage.who = 'tenant=acme'; chat.close()")
    opened(two)
    for tab in (one, two):
        wait(tab, "said.includes('2: unsent by ada')")


def test_nobody_is_signed_in_any_more(shop: Shop, person: BrowserContext) -> None:
    """A token function that answers null: what was hers is let go of; what is written then is in nobody's name."""
    page = blank(person, shop)
    page.evaluate("localStorage.who = 'user=ada'; 0")
    opened(page)
    send(page, "from ada")
    wait(page, "said.includes('1: from ada')")
    page.evaluate(
        """async () => { localStorage.who = '';
           await fetch('/v1/conversations/support/tokens/current', { method: 'DELETE',
             headers: { authorization: `Bearer ${window.token}` } }).catch(() => {}); }"""
    )
    two = blank(person, shop)
    opened(two, "user=eve")
    wait(page, "chat.status === 'failed' && chat.messages.length === 0")

    assert "Nobody is signed in." == page.evaluate("chat.problem.message")
    send(page, "written by nobody")
    page.evaluate("localStorage.who = 'user=eve'; dispatchEvent(new Event('online')); 0")
    wait(page, "said.includes('1: from ada') && !said.includes('written by nobody')")
    assert {"others": 0, "unknown": 1} == page.evaluate("chat.kept()")
    assert ["from ada"] == log(page)


@pytest.mark.journey
@pytest.mark.parametrize("hint", [{"token": "fixed"}, {"user": "ada"}, {}], ids=["token", "user", "nothing"])
def test_a_start_without_a_line(shop: Shop, person: BrowserContext, hint: dict[str, str]) -> None:
    """What was seen last is shown to whoever held this credential, to nobody else; what is written goes out later."""
    page = blank(person, shop)
    token = page.evaluate("async () => (await fetch('/token?user=ada')).json()")
    fixed = f"{{ conversation: 'support', token: {json.dumps(token)} }}"
    begin = fixed if hint.get("token") else SITE
    given = {"who": "user=ada"} | {name: value for name, value in hint.items() if name == "user"}
    opens = f"async (given) => {{ window.chat = await client.open({begin}); }}"
    page.evaluate(opens, given)
    send(page, "before")
    wait(page, "said.includes('1: before') && chat.status === 'saved'")
    page.wait_for_timeout(700)
    page.evaluate("chat.close()")
    person.set_offline(True)
    page.evaluate(opens, given)
    shown = said(page)
    other = given | ({"user": "eve"} if "user" in given else {})
    page.evaluate(f"async (given) => {{ window.eve = await client.open({SITE}); }}", other | {"who": "user=eve"})
    send(page, "meanwhile")

    assert (["before", "1: before"] if hint else []) == shown
    assert [] == page.evaluate("eve.messages.map((message) => message.text)")
    assert [] == [content for chat, content in page.evaluate(KEPT) if chat[1] == "" or isinstance(chat, str)]
    page.evaluate("eve.close()")
    person.set_offline(False)
    wait(page, "said.includes('2: meanwhile')")
    assert ["before", "meanwhile"] == log(page)


@pytest.mark.journey
def test_what_is_written_before_a_visitor_is_known(shop: Shop, person: BrowserContext) -> None:
    """It waits under the chat's name, survives a refresh, and goes into the conversation that then begins, once."""
    page = bare(person, shop.address)
    person.set_offline(True)
    send(page, "first")
    page.close()
    person.set_offline(False)
    person.route("**/v1/me", lambda route: route.abort())
    page = bare(person, shop.address)
    wait(page, "chat.conversation && chat.status === 'offline'")
    send(page, "second")
    again(page)
    assert ["first", "second"] == said(page)
    person.unroute("**/v1/me")
    other = bare(person, shop.address)
    for tab in (page, other):
        wait(tab, "said.includes('2: second') && chat.status === 'saved'")
    assert [] == page.evaluate(KEPT)
    assert ["first", "second"] == page.evaluate("async () => (await fetch('/log?id=' + chat.conversation)).json()")


def test_two_servers_on_one_origin(shop: Shop, person: BrowserContext) -> None:
    """One name on both: neither sees, or gets, what was written for the other, however its address is written."""
    page = bare(person, shop.address, "{ name: 'desk' }")
    send(page, "for one")
    wait(page, "said.includes('1: for one')")
    offline_note(person, page, "unsent for one")
    page.evaluate("async () => { window.chat = await client.open({ name: 'desk', url: '/other' }); }")
    first = said(page)
    send(page, "for the other")
    wait(page, "said.includes('1: for the other') && chat.status === 'saved'")
    conversation = page.evaluate("chat.conversation")
    page.evaluate("chat.close()")
    page.evaluate(
        "async () => { window.chat = await client.open({ name: 'desk', url: location.origin + '/other//' }); }"
    )

    assert [] == first
    assert (conversation, ["for the other", "1: for the other"]) == (page.evaluate("chat.conversation"), said(page))
    page.evaluate("chat.close()")
    page.evaluate("async () => { window.chat = await client.open({ name: 'desk' }); }")
    wait(page, "said.includes('2: unsent for one')")


def test_forgetting_with_unsent_work_is_never_silent(shop: Shop, person: BrowserContext) -> None:
    """It is refused with the number, until somebody says so; then other tabs let go too, and another's work stays."""
    page = blank(person, shop)
    opened(page, "user=eve")
    send(page, "from eve")
    wait(page, "said.includes('1: from eve') && chat.status === 'saved'")
    offline_note(person, page, "unsent by eve")
    opened(page, "user=ada")
    other = blank(person, shop)
    opened(other, "user=ada")
    wait(other, "said.includes('1: from eve')")
    person.route("**/messages", lambda route: route.abort())
    send(page, "unsent")
    page.evaluate("chat.slot('form').patch({ name: 'Ada' })")
    wait(other, "chat.unsent === 2")
    refused = page.evaluate("chat.forget().catch((fault) => [fault.name, fault.count])")

    assert ["Unsent", 2] == refused
    assert 2 == page.evaluate("chat.unsent")
    assert ["from eve", "1: from eve", "unsent"] == said(other)
    page.evaluate("chat.forget({ unsent: 'keep' })")
    wait(other, "chat.messages.length === 0 && chat.state === undefined && chat.status === 'failed'")
    assert "removed from this browser" in other.evaluate("chat.send('late').catch((fault) => fault.message)")
    opened(page, "user=ada")
    wait(page, "said.includes('unsent') && chat.slot('form').get().name === 'Ada'")
    page.evaluate("chat.forget({ unsent: 'discard' })")
    assert [] == said(page)
    person.unroute("**/messages")
    opened(page, "user=ada")
    wait(page, "chat.status === 'saved'")
    assert ([[[f"{shop.address}v1/", "support"], "unsent by eve"]]) == [
        [[chat[0], chat[2]], content] for chat, content in page.evaluate(KEPT)
    ]
    assert ["from eve"] == log(page)


def test_a_visitor_forgets(shop: Shop, person: BrowserContext) -> None:
    """Her right to the conversation goes too, so unsent work cannot be kept; nothing of it is left in the browser."""
    page, other = bare(person, shop.address), bare(person, shop.address)
    send(page, "hello")
    wait(other, "said.includes('1: hello')")
    person.route("**/messages", lambda route: route.abort())
    send(other, "unsent")
    wait(page, "chat.unsent === 1")

    assert "Unsent" == page.evaluate("chat.forget().catch((fault) => fault.name)")
    assert "TypeError" == page.evaluate("chat.forget({ unsent: 'keep' }).catch((fault) => fault.name)")
    page.evaluate("chat.forget({ unsent: 'discard' })")
    wait(other, "chat.messages.length === 0")
    other.wait_for_timeout(700)
    assert ({}, []) == (page.evaluate("({ ...localStorage })"), page.evaluate(KEPT))
    person.unroute("**/messages")
    again(page)
    assert [] == said(page)


def old_chat(page: Page, shop: Shop, name: str, *texts: str, url: str = "") -> dict[str, Any]:
    """What the client of before kept of a chat with one sent message, and *texts* not sent."""
    made: dict[str, Any] = page.evaluate(
        "async (url) => (await fetch(url + 'v1/conversations', { method: 'POST' })).json()", url or shop.address
    )
    prefix = f"chatkeep:{url or shop.address}v1/"
    seen = {"messages": [{"id": "old", "number": 1, "role": "user", "content": "seen"}], "handled": 1, "dead": []}
    return {
        "storage": {prefix: name, f"{prefix}:{name}": json.dumps(made)},
        "items": [{"chat": name, "id": f"id-{text}", "content": text} for text in texts],
        "seen": {name: seen},
    }


def test_what_an_older_client_kept_is_moved_on(shop: Shop, person: BrowserContext) -> None:
    """Its stored token says whose it is: shown at once, also offline, and sent once."""
    page = blank(person, shop)
    page.evaluate(OLD, old_chat(page, shop, "abc", "one", "two"))
    page.evaluate("import('/visitors.js').then(() => 0)")  # a page has it that is a while old
    person.set_offline(True)
    page.evaluate("async () => { window.chat = await client.open(); }")
    shown = said(page)
    page.evaluate("chat.close()")
    person.set_offline(False)
    again(page)
    wait(page, "said.includes('2: two') && chat.status === 'saved'")

    assert ["seen", "one", "two"] == shown
    assert ["one", "two"] == page.evaluate("async () => (await fetch('/log?id=' + chat.conversation)).json()")
    assert [] == page.evaluate(KEPT)


def test_old_work_of_nobody_known_stays(shop: Shop, person: BrowserContext) -> None:
    """A name that two servers use, and a conversation whose token a site brings: kept, counted, sent on a word only."""
    page = blank(person, shop)
    one, two = old_chat(page, shop, "desk", "whose"), old_chat(page, shop, "desk", url=f"{shop.address}other/")
    site = {"chat": "support", "id": "s", "content": "from a site"}
    page.evaluate(
        OLD,
        one
        | {
            "seen": one["seen"] | {"support": one["seen"]["desk"]},
            "storage": one["storage"] | two["storage"],
            "items": [*one["items"], site],
        },
    )
    page.evaluate("async () => { window.chat = await client.open({ name: 'desk' }); }")
    send(page, "new")
    wait(page, "said.includes('1: new')")

    assert ["new", "1: new"] == said(page)
    assert {"others": 0, "unknown": 1} == page.evaluate("chat.kept()")
    page.evaluate("chat.close()")
    opened(page, "user=ada")
    send(page, "from ada")
    wait(page, "said.includes('1: from ada')")
    assert {"others": 0, "unknown": 1} == page.evaluate("chat.kept()")
    assert [["desk", "whose"], ["support", "from a site"]] == page.evaluate(KEPT)
    page.evaluate("chat.adopt()")
    wait(page, "said.includes('2: from a site')")
    assert [["desk", "whose"]] == page.evaluate(KEPT)
    assert "seen" not in said(page)


def test_a_share_leaves_the_visitors_own_chat_alone(shop: Shop, person: BrowserContext) -> None:
    """The bare address opens her own, with what she has not sent; the shared one has what was written there."""
    stranger = bare(person, shop.address, "{ name: 'stranger', storage: sessionStorage }")
    send(stranger, "type your card number")
    wait(stranger, "said.includes('1: type your card number')")
    link = stranger.evaluate("chat.share()")
    page = bare(person, shop.address)
    send(page, "my own")
    wait(page, "said.includes('1: my own')")
    own = page.evaluate("chat.conversation")
    offline_note(person, page, "unsent of my own")
    page.goto("about:blank")
    theirs = bare(person, link, at="")
    wait(theirs, "said.includes('1: type your card number')")
    send(theirs, "to the stranger")
    wait(theirs, "said.includes('2: to the stranger')")
    theirs.close()
    page = bare(person, shop.address)
    wait(page, "said.includes('2: unsent of my own')")

    assert own == page.evaluate("chat.conversation")
    assert ["my own", "unsent of my own"] == page.evaluate(
        "async () => (await fetch('/log?id=' + chat.conversation)).json()"
    )


def test_a_share_leaves_the_visitors_own_cookie_alone(shop: Shop, person: BrowserContext, browser: Browser) -> None:
    """With cookie: true as well: both chats go on, each by its own cookie."""
    stranger = bare(browser.new_context(), shop.address)
    send(stranger, "theirs")
    wait(stranger, "said.includes('1: theirs')")
    link = stranger.evaluate("chat.share()")
    page = bare(person, shop.address, "{ cookie: true }")
    send(page, "my own")
    wait(page, "said.includes('1: my own')")
    mine, name = page.evaluate("chat.conversation"), page.evaluate("chat.name")
    page.evaluate("chat.close()")
    shared = bare(person, shop.address, "{ cookie: true }", at=link.removeprefix(shop.address))
    wait(shared, "chat.conversation")
    send(shared, "thanks")
    wait(shared, "said.includes('2: thanks')")
    other = shared.evaluate("chat.conversation")
    shared.evaluate("chat.close()")
    again(page, f"{{ cookie: true, name: {json.dumps(name)} }}")
    send(page, "still here")
    wait(page, "said.includes('2: still here')")

    assert mine == page.evaluate("chat.conversation") != other
    assert {"__Host-chatkeep"} < {cookie["name"] for cookie in person.cookies()}
    assert "ck_c_" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
    stranger.context.close()


def test_a_share_does_not_take_the_cookie_of_ones_own_chat(shop: Shop, person: BrowserContext) -> None:
    """Each goes on after a reload, and says whether it was shared; without a chat of one's own the share has the cookie."""
    stranger = bare(person, shop.address, "{ name: 'stranger', storage: sessionStorage }")
    send(stranger, "come in")
    wait(stranger, "said.includes('1: come in')")
    first, second = stranger.evaluate("chat.share()"), stranger.evaluate("chat.share()")
    page = bare(person, shop.address, "{ cookie: true }")
    send(page, "my own")
    wait(page, "said.includes('1: my own')")
    theirs = bare(person, first, "{ cookie: true }", at="")
    wait(theirs, "said.includes('1: come in')")
    name = theirs.evaluate("chat.name")
    assert theirs.evaluate("chat.shared")
    again(theirs, f"{{ cookie: true, name: {json.dumps(name)} }}")
    send(theirs, "here I am")
    wait(theirs, "said.includes('2: here I am') && chat.shared")
    again(page, "{ cookie: true }")
    send(page, "still mine")
    wait(page, "said.includes('2: still mine') && !chat.shared")
    person.clear_cookies()
    page.evaluate("localStorage.clear()")
    guest = bare(person, second, "{ cookie: true }", at="")
    wait(guest, "said.includes('2: here I am')")

    assert "ck_c_" not in guest.evaluate("localStorage[`chatkeep:${location.origin}/v1/:${chat.name}`]")


def test_a_cookie_that_was_replaced_sends_nothing(shop: Shop, person: BrowserContext) -> None:
    """The cookie is another visitor's now: what was written stays, and the status says that something is wrong."""
    page = bare(person, shop.address, "{ cookie: true }")
    send(page, "hello")
    wait(page, "said.includes('1: hello')")
    first, cookies = page.evaluate("chat.conversation"), person.cookies()
    offline_note(person, page, "unsent")
    person.clear_cookies()
    other = bare(person, shop.address, "{ cookie: true, name: 'another' }")
    send(other, "mine")
    wait(other, "said.includes('1: mine')")
    other.evaluate("chat.close()")
    again(page, f"{{ cookie: true, name: {json.dumps(page.evaluate('chat.name'))} }}")
    wait(page, "chat.status === 'failed'")

    assert 1 == page.evaluate("chat.unsent")
    assert ["hello"] == page.evaluate("async (id) => (await fetch('/log?id=' + id)).json()", first)
    person.add_cookies(cookies)
    again(page, f"{{ cookie: true, name: {json.dumps(page.evaluate('chat.name'))} }}")
    wait(page, "said.includes('2: unsent')")


def test_a_half_typed_line_belongs_to_one_server(shop: Shop, person: BrowserContext) -> None:
    """The chat page's draft is not offered in the chat of the same name on another server of this origin."""
    page = person.new_page()
    page.goto(f"{shop.address}?c=desk")
    page.fill("#text", "half typed")
    page.goto(f"{shop.address}other/?c=desk")
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#text")).to_have_value("")
    page.goto(f"{shop.address}?c=desk")
    expect(page.locator("#text")).to_have_value("half typed")
