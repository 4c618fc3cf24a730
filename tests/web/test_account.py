"""Somebody's account in a real browser against a real server: the list, signing in and out, notices, and what is kept."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import APIResponse, Browser, BrowserContext, Error, Page, Route

from ..support.browsing import ROOT, Shop, account_of, page_of_a_proxy, profile

DOCS = ROOT / "docs" / "how-to" / "browser.md"
USERS = (f"user{number}" for number in itertools.count())
JSON = {"content-type": "application/json"}
TITLES = "account.conversations.map((one) => one.title)"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One shop for all of these tests, each of which has users of its own."""
    with Shop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture
def user() -> str:
    """Somebody who was not here before."""
    return next(USERS)


def until(page: Page, condition: str, argument: object = None) -> None:
    """Waits until an expression over `account` and `notices` is true."""
    page.wait_for_function(f"(given) => {condition}", arg=argument)


@pytest.mark.journey
def test_a_list_is_changed_here_and_seen_elsewhere(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """Create, rename, pin, archive, delete: in another tab at once, on another device soon, and after a refresh without a line."""
    page = account_of(person, shop.address, user)
    tab = account_of(person, shop.address)
    with profile(browser) as telephone:
        there = account_of(telephone, shop.address, user)
        page.evaluate(
            """async () => { await account.create('Rome', ids.trip); await account.create('Milk', ids.shop);
               await account.create('Old', ids.old);
               await account.rename(ids.trip, 'Naples'); await account.pin(ids.shop); await account.delete(ids.old); }"""
        )
        for id in ("", ".", ".."):
            with pytest.raises(Error, match="a conversation cannot be called"):
                page.evaluate("id => account.create('Step', id)", id)
        assert ["Milk", "Naples"] == page.evaluate(TITLES)
        until(tab, "account.conversations.length === 2 && account.conversations[0].title === 'Milk'")
        until(there, "JSON.stringify(account.conversations.map((one) => one.title)) === given", '["Milk","Naples"]')
        until(page, "!account.conversations.some((one) => one.pending)")
        assert page.evaluate("notices.some((notice) => notice.kind === 'saved' && notice.duration > 0)")
        there.evaluate("account.rename(ids.trip, 'Florence')")
        until(page, "account.conversations.some((one) => one.title === 'Florence')")
    page.wait_for_timeout(600)
    shop.kill()
    page.evaluate("account.close()")
    tab.evaluate("account.close()")
    try:
        page.evaluate("async () => { window.account = new module.Account(); await account.loaded; }")
        assert ["Milk", "Florence"] == page.evaluate(TITLES)
        assert user == page.evaluate("account.user")
        page.evaluate("account.archive(ids.trip)")
        until(page, "account.notices.some((notice) => notice.kind === 'offline' && notice.persistent)")
    finally:
        shop.start()
    page.evaluate("dispatchEvent(new Event('online'))")
    until(
        page,
        "account.conversations.every((one) => !one.pending) && !account.notices.some((one) => one.kind === 'offline')",
    )
    assert page.evaluate("account.conversations.find((one) => one.id === ids.trip).archived")


@pytest.mark.journey
def test_sign_in_switch_and_sign_out(shop: Shop, person: BrowserContext) -> None:
    """A guest's chats go into the account; subscribers of every tab are told; nothing of the old user stays but what is not sent."""
    ada, eve = next(USERS), next(USERS)
    page = account_of(person, shop.address)
    page.evaluate(
        """async () => { window.client = await import('/client.js'); const visitor = await client.open({ name: 'before' });
           await visitor.send('said as a guest');
           await new Promise((done) => visitor.on('message', (m) => m.role === 'assistant' && done()));
           window.guest = visitor.conversation; window.visitor = visitor; window.told = [];
           account.on('auth', (said) => told.push([said.state, said.user])); }"""
    )
    page.wait_for_timeout(700)  # what was seen is kept by then
    page.route("**/messages", lambda route: route.abort())
    page.evaluate("async () => { await visitor.send('unsent as a guest'); visitor.close(); }")
    page.unroute("**/messages")
    tab = account_of(person, shop.address)
    claimed = page.evaluate("signIn", ada)

    assert 1 == len(claimed)
    assert ["signed-in", ada] == page.evaluate("told.at(-1)")
    assert [page.evaluate("guest")] == page.evaluate("account.conversations.map((one) => one.id)")
    assert page.evaluate("notices.some((notice) => notice.kind === 'claimed')")
    until(tab, "account.user === given && account.conversations.length === 1", ada)
    until(tab, "account.conversations[0].last === '2: unsent as a guest'")
    page.evaluate("async () => { window.chat = await account.chat(guest); await chat.send('as ada'); }")
    until(page, "chat.messages.some((m) => m.text === '3: as ada')")
    page.wait_for_timeout(700)
    page.evaluate("account.signOut()")
    until(tab, "account.state === 'signed-out' && account.conversations.length === 0")
    until(page, "chat.messages.length === 0")
    page.wait_for_timeout(700)

    assert ["signed-out", None] == page.evaluate("told.at(-1)")
    kept = """async () => { const open = indexedDB.open('chatkeep'); await new Promise((done) => (open.onsuccess = done));
        const keys = open.result.transaction('seen').objectStore('seen').getAllKeys(); await new Promise((done) => (keys.onsuccess = done));
        open.result.close(); return keys.result.filter((key) => key.length === 3 && key[1][0] !== '?').length; }"""
    page.wait_for_function(f"async () => 0 === await ({kept})()")
    assert "ck_" not in page.evaluate("JSON.stringify(localStorage)")
    page.evaluate("signIn", eve)
    assert [] == page.evaluate("account.conversations")
    page.evaluate("signIn", ada)
    until(page, "account.conversations.length === 1")
    page.evaluate("async () => { window.chat = await account.chat(guest); }")
    texts = ["said as a guest", "unsent as a guest", "as ada"]
    until(page, "chat.messages.filter((m) => m.role === 'user').map((m) => m.text).join() === given.join()", texts)


def say_as_a_guest(page: Page) -> str:
    """A guest says something on *page* and is answered; the guest's conversation."""
    conversation: str = page.evaluate(
        """async () => { const { open } = await import('/client.js'); const visitor = await open({ name: 'two tabs' });
           await visitor.send('said as a guest');
           await new Promise((done) => visitor.on('message', (m) => m.role === 'assistant' && done()));
           visitor.close(); return visitor.conversation; }"""
    )
    return conversation


def sign_in_behind(tab: Page, page: Page, user: str) -> None:
    """*page* signs in, and hears whose its token is only when *tab* has claimed and has told so; what it claims is `signing`."""
    held: list[Route] = []
    page.route("**/v1/me", lambda route: held.append(route))
    page.evaluate("(user) => { window.signing = signIn(user); }", user)
    until(tab, "account.conversations.length === 1 && notices.some((notice) => notice.kind === 'claimed')")
    for route in held:
        route.continue_()
    page.unroute("**/v1/me")


def test_the_tab_that_signs_in_is_told_what_another_one_has_claimed(
    shop: Shop, person: BrowserContext, user: str
) -> None:
    """All tabs learn of a sign-in at once, and any of them may be the one that claims."""
    page = account_of(person, shop.address)
    guest = say_as_a_guest(page)
    tab = account_of(person, shop.address)
    sign_in_behind(tab, page, user)

    assert 1 == len(page.evaluate("signing"))
    assert [guest] == page.evaluate("account.conversations.map((one) => one.id)")
    assert page.evaluate("notices.filter((notice) => notice.kind === 'claimed').length === 1")
    assert "ck_" not in page.evaluate("localStorage.getItem(account._key + ':claim')")


def test_the_tab_that_signs_in_sees_late_what_another_one_has_claimed(
    shop: Shop, person: BrowserContext, user: str
) -> None:
    """What the other tab writes into localStorage when it claims is not there yet when this one gets the lock."""
    page = account_of(person, shop.address)
    say_as_a_guest(page)
    page.evaluate(
        """() => { const read = Storage.prototype.getItem, kept = {};
           Storage.prototype.getItem = function (key) {
             return key.endsWith(':claim') ? (kept[key] ??= read.call(this, key)) : read.call(this, key); }; }"""
    )
    tab = account_of(person, shop.address)
    sign_in_behind(tab, page, user)

    assert 1 == len(page.evaluate("signing"))
    assert page.evaluate("notices.filter((notice) => notice.kind === 'claimed').length === 1")


def test_a_tab_that_reads_of_a_sign_in_later_than_it_is_told(shop: Shop, person: BrowserContext, user: str) -> None:
    """What one tab writes into localStorage, another one may not see yet when it is told of it: it looks again when it does."""
    page, tab = account_of(person, shop.address), account_of(person, shop.address)
    tab.evaluate(
        """() => { const read = Storage.prototype.getItem; window.late = true;
           Storage.prototype.getItem = function (key) { return late && key.startsWith('chatkeep-account') ? null : read.call(this, key); };
           addEventListener('storage', (event) => { if (event.isTrusted) { event.stopImmediatePropagation();
             setTimeout(() => { late = false; dispatchEvent(new StorageEvent('storage', event)); }, 500); } }, true); }"""
    )
    page.evaluate("signIn", user)
    until(tab, "account.user === given", user)


@pytest.mark.parametrize("later", ["account.signOut()", "signIn(given)"])
def test_who_is_here_changes_while_a_tab_notes_whose_a_token_is(
    shop: Shop, person: BrowserContext, user: str, later: str
) -> None:
    """What was asked of the earlier token is not kept beside the later one, and brings nobody back who has signed out."""
    page = account_of(person, shop.address)
    page.evaluate(
        """(user) => { const note = account._shelf.note;
           account._shelf.note = async function (...given) {
             account._shelf.note = note; await note.apply(this, given);
             window.isNoting = true; await new Promise((go) => { window.go = go; }); };
           window.signing = signIn(user); }""",
        user,
    )
    until(page, "window.isNoting")
    successor = next(USERS)
    page.evaluate(f"async (given) => {{ await {later}; }}", successor)
    page.evaluate("async () => { go(); await signing; }")

    expected = (None, "signed-out") if "signOut" in later else (successor, "signed-in")
    assert expected == tuple(page.evaluate("[account.user, account.state]"))
    assert expected[0] == page.evaluate("JSON.parse(localStorage.getItem(account._key) ?? '{}').user ?? null")


def test_who_signs_out_while_it_is_asked_whose_the_token_is_is_signed_out(
    shop: Shop, person: BrowserContext, user: str
) -> None:
    """The token has ended by then, and is refused: that is no sign-in that has expired."""
    page = account_of(person, shop.address)
    page.evaluate(
        """(user) => { const { fetch } = window;
           window.fetch = async (url, ...given) => {
             if (String(url).endsWith('/v1/me') && !window.isAsking) {
               window.isAsking = true; await new Promise((go) => { window.go = go; }); }
             return fetch(url, ...given); };
           window.signing = signIn(user); }""",
        user,
    )
    until(page, "window.isAsking")
    page.evaluate("account.signOut()")
    page.evaluate("async () => { go(); await signing; }")

    assert ["signed-out", []] == page.evaluate("[account.state, account.notices.map((notice) => notice.kind)]")


def test_two_tabs_that_sign_out_at_one_moment_end_both_tokens(shop: Shop, person: BrowserContext) -> None:
    """Without a line each notes a token that is to be ended; what the other one has just written it need not have read."""
    page, tab = account_of(person, shop.address, next(USERS)), account_of(person, shop.address)
    tab.evaluate(
        """() => { const read = Storage.prototype.getItem;
           Storage.prototype.getItem = function (key) { return key.endsWith(':end') ? null : read.call(this, key); }; }"""
    )
    person.route("**/me/tokens/current", lambda route: route.abort())
    tokens = []
    for each in (page, tab):
        each.evaluate("async (user) => { if (!account.user) await signIn(user); }", next(USERS))
        tokens.append(each.evaluate("account.token()"))
        each.evaluate("account.signOut()")
    person.unroute("**/me/tokens/current")

    def are_ended() -> bool:
        page.evaluate("dispatchEvent(new Event('online'))")
        answers = [
            person.request.get(f"{shop.address}v1/me", headers={"authorization": f"Bearer {token}"}) for token in tokens
        ]
        return [401, 401] == [answer.status for answer in answers]

    assert 2 == len(set(tokens))
    for _ in range(100):
        if are_ended():
            break
        page.wait_for_timeout(100)
    assert are_ended()
    assert not page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':end')).length")


def test_a_list_of_tokens_to_end_that_another_tab_has_seen_to_is_none(
    shop: Shop, person: BrowserContext, user: str
) -> None:
    """An older release keeps one list; between the look at what there is and the look into it another tab may have taken it away."""
    page = account_of(person, shop.address, user)
    page.evaluate(
        """async () => { const read = Storage.prototype.getItem;
           Storage.prototype.getItem = function (key) { return key.endsWith(':end') ? null : read.call(this, key); };
           localStorage.setItem(`${account._key}:end`, '["gone"]');
           await account.signOut(); }"""
    )

    assert [] == page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':end'))")


def test_a_page_may_give_another_token_each_time(shop: Shop, person: BrowserContext, user: str) -> None:
    """Its function need not keep any: whose they are is asked once, and again when the page's user is another one."""
    page = account_of(person, shop.address)
    page.evaluate(
        """async (user) => {
          const { fetch } = window;
          window.asked = 0;
          window.user = user;
          window.fetch = (url, ...given) => { asked += String(url).endsWith('/v1/me'); return fetch(url, ...given); };
          const token = async () => (await (await fetch(`/sample-users/${window.user}`, { method: 'POST' })).json()).token;
          window.account = new module.Account({ token });
        }""",
        user,
    )
    until(page, "account.user === given", user)
    page.evaluate("account.create('Trip', ids.trip)")
    until(page, "account.conversations.length === 1 && !account.conversations[0].pending")

    assert 10 > page.evaluate("asked")

    successor = next(USERS)
    page.evaluate("(user) => { window.user = user; account._pull().catch(() => {}); }", successor)
    until(page, "account.user === given", successor)


def test_a_token_is_refreshed_under_way(shop: Shop, person: BrowserContext, user: str) -> None:
    """The chats of both tabs go on with the new token; the old one is not used again, which would end both."""
    page = account_of(person, shop.address, user)
    tab = account_of(person, shop.address)
    used: list[str] = []
    for each in (page, tab):
        each.evaluate("async () => { window.chat = await account.chat(ids.c); }")
    page.evaluate("chat.send('before')")
    until(tab, "chat.messages.some((m) => m.text === '1: before')")
    before = page.evaluate("account.token()")
    page.evaluate("account.refresh()")
    after = page.evaluate("account.token()")
    person.on("request", lambda request: used.append(request.headers.get("authorization", "")))
    tab.evaluate("chat.send('after')")
    page.evaluate("account.rename(ids.c, 'Renamed')")
    until(page, "chat.messages.some((m) => m.text === '2: after')")
    until(tab, "account.conversations.some((one) => one.title === 'Renamed')")

    assert before != after
    assert {f"Bearer {after}"} == set(used) - {""}
    assert 1 == page.evaluate("account.devices().then((found) => found.filter((one) => one.current).length)")


def test_a_token_without_its_answer_is_refreshed_too(shop: Shop, person: BrowserContext, user: str) -> None:
    """A site that hands its page the token alone: how long it is good is what the server says of it."""
    page = account_of(person, shop.address)
    page.evaluate(
        """async (user) => {
           const given = await (await fetch(`/sample-users/${user}`, { method: 'POST' })).json();
           window.given = given; await account.signIn({ token: given.token }); }""",
        user,
    )

    assert page.evaluate("JSON.parse(localStorage.getItem(account._key)).expires_at === given.expires_at")
    assert [True] == page.evaluate("account.devices().then((found) => found.map((one) => one.current))")


def test_a_token_without_an_end_is_not_refreshed(shop: Shop, person: BrowserContext, user: str) -> None:
    """A token of the site's own, of which the application has said no end: there is no half of its time, and no new one to be had."""
    page = account_of(person, shop.address)

    def endless(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"expires_at": None})

    page.route("**/v1/me", endless)
    page.evaluate(
        """async (user) => {
           const given = await (await fetch(`/sample-users/${user}`, { method: 'POST' })).json();
           await account.signIn({ token: given.token });
           await account.token(); }""",
        user,
    )

    assert page.evaluate("JSON.parse(localStorage.getItem(account._key)).expires_at === null")
    assert page.evaluate("account._refreshed === -Infinity")  # when it was begun last


def test_a_token_that_the_server_has_no_other_of_is_refreshed_once(
    shop: Shop, person: BrowserContext, user: str
) -> None:
    """One of the site's own, with an end: there is none to be had in its place, and to ask each minute is in vain."""
    page = account_of(person, shop.address)
    tried: list[str] = []
    page.on("request", lambda request: tried.append(request.url) if request.url.endswith("/rotate") else None)
    page.evaluate(
        """async (user) => {
           await account.signIn({ token: `site.${user}.${Math.floor(Date.now() / 1000) + 3600}` });
           account._write("", { ...account._read(""), at: 1 });
           for (let minute = 0; minute < 3; minute++) { account._refreshed = -Infinity; await account.token(); } }""",
        user,
    )

    assert user == page.evaluate("account.user")
    assert 1 == len(tried)


@pytest.mark.parametrize("grace", [None, 600])
def test_a_device_that_has_refreshed_is_one_device(
    shop: Shop, person: BrowserContext, browser: Browser, user: str, grace: int | None
) -> None:
    """Its old token is good for a while yet, however long, and is not shown beside the new one, neither here nor on the other device."""
    page = account_of(person, shop.address, user)

    def longer(route: Route) -> None:
        route.continue_(post_data=json.dumps({"grace": grace}), headers=route.request.headers | JSON)

    with profile(browser) as telephone:
        there = account_of(telephone, shop.address, user)
        if grace is not None:
            page.route("**/rotate", longer)
        page.evaluate("account.refresh()")
        current = "account.devices().then((found) => found.map((one) => one.current).sort())"

        assert [False, True] == page.evaluate(current) == there.evaluate(current)


def test_a_tab_that_reads_late_of_a_refresh_takes_its_token(shop: Shop, person: BrowserContext, user: str) -> None:
    """It is told that the old one was refreshed already, and goes on with the new one when it can read of it."""
    page = account_of(person, shop.address, user)
    tab = account_of(person, shop.address)
    tab.evaluate(
        """() => { const kept = account._read(""); window.late = true;
           account._read = (rest) => rest === "" && late ? kept : account.constructor.prototype._read.call(account, rest); }"""
    )
    page.evaluate("account.refresh()")
    with tab.expect_response("**/rotate") as told:
        tab.evaluate("() => { window.refreshing = account.refresh(); refreshing.catch(() => {}); }")
    assert 409 == told.value.status
    tab.evaluate("async () => { late = false; await refreshing; }")

    assert page.evaluate("account.token()") == tab.evaluate("account.token()")
    assert "signed-in" == tab.evaluate("account.state")


def test_an_answer_that_is_read_late_refreshes_no_token(shop: Shop, person: BrowserContext, user: str) -> None:
    """A busy browser comes to an answer seconds after the server has dated it: by that the clocks seem to differ, which they do not."""
    page = account_of(person, shop.address, user)
    refreshed: list[str] = []
    person.on("request", lambda asked: refreshed.append(asked.url) if asked.url.endswith("/rotate") else None)
    page.evaluate(
        """async () => { const soon = window.fetch;
           window.fetch = async (...given) => {
             const found = await soon(...given); await new Promise((go) => setTimeout(go, 4500)); return found; };
           await account.devices();
           await account.token(); }"""
    )

    assert [] == refreshed


@pytest.mark.parametrize("days", [366, -366])
def test_a_clock_that_is_wrong_refreshes_a_token_once(shop: Shop, person: BrowserContext, user: str, days: int) -> None:
    """By whose clock a token is half over does not depend on the device's; a change that was made by a clock that is set back is saved."""
    person.add_init_script(
        f"window.now = Date.now; window.days = {days}; Date.now = () => now() + window.days * 864e5;"
    )
    page = account_of(person, shop.address, user)
    refreshed: list[str] = []
    person.on("request", lambda asked: refreshed.append(asked.url) if asked.url.endswith("/rotate") else None)
    for _ in range(4):
        page.evaluate("async () => { account._refreshed = -Infinity; await account.token(); }")
    page.evaluate("async () => { window.days += 1; await account.create('Rome', ids.trip); window.days -= 1; }")
    until(page, "account.conversations.length === 1 && !account.conversations[0].pending")

    assert len(refreshed) <= 1
    assert "signed-in" == page.evaluate("account.state")


def test_a_late_answer_takes_nothing_from_the_list(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """A tab that loads the list is told of a change meanwhile: it shows what was there before and the change, whichever comes first."""
    with profile(browser) as telephone:
        there = account_of(telephone, shop.address, user)
        there.evaluate("account.create('Old', ids.old)")
        until(there, "account.conversations.length === 1 && !account.conversations[0].pending")
    page, tab = account_of(person, shop.address), account_of(person, shop.address)
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        held.append((route, route.fetch()))

    tab.route("**/me/conversations*", hold, times=1)
    page.evaluate("signIn", user)
    while not held:
        tab.wait_for_timeout(50)
    page.evaluate("account.create('New', 'late-' + account.user)")
    until(page, "account.conversations.length === 2 && !account.conversations.some((one) => one.pending)")
    until(tab, "account.conversations.some((one) => one.title === 'New')")
    held[0][0].fulfill(response=held[0][1])
    tab.wait_for_timeout(500)

    assert ["New", "Old"] == sorted(tab.evaluate(TITLES))


def test_a_page_that_stands_open_has_what_it_needs_without_a_line(
    shop: Shop, person: BrowserContext, user: str
) -> None:
    """What is fetched later is there before it is wanted: to change the list, to open a visitor's chat and forget it, to sign out."""
    page = account_of(person, shop.address, user)
    fetched = "performance.getEntriesByType('resource').map(({ name }) => name.split('/').at(-1))"
    early = page.evaluate(fetched)
    until(page, f"['changes', 'keeping', 'visitors'].every((name) => {fetched}.includes(`${{name}}.js`))")
    page.wait_for_timeout(500)
    person.set_offline(True)
    page.evaluate(
        """async () => { await account.create('Rome', ids.trip); await account.rename(ids.trip, 'Naples');
           window.chat = await module.open(); await chat.send('hello'); }"""
    )

    assert not {"changes.js", "keeping.js", "visitors.js"} & set(early)
    assert ["Naples"] == page.evaluate(TITLES)
    assert "sending" == page.evaluate("chat.messages[0].status")
    page.evaluate("async () => { await chat.forget({ unsent: 'discard' }); await account.signOut(); }")
    assert "signed-out" == page.evaluate("account.state")
    person.set_offline(False)
    page.evaluate("signIn", user)
    until(page, "account.conversations[0]?.title === 'Naples' && !account.conversations[0].pending")


def test_what_a_proxy_says_is_not_taken_for_the_servers_word(shop: Shop, person: BrowserContext, user: str) -> None:
    """While a proxy has no server behind it no conversation is gone, no sign-in is over, and nothing is given up."""
    page = account_of(person, shop.address, user)
    page.evaluate("async () => { await account.create('Rome', ids.trip); await account.create('Old', ids.old); }")
    until(page, "account.conversations.length === 2 && !account.conversations.some((one) => one.pending)")
    for status in (404, 401, 403):
        person.route("**/v1/**", page_of_a_proxy(status))
        page.evaluate("account.delete(ids.old)" if status == 404 else f"account.rename(ids.trip, 'Rome {status}')")
        until(page, "account.notices.some((notice) => notice.kind === 'offline')")
        page.evaluate("dispatchEvent(new Event('online'))")
        page.wait_for_timeout(1000)

        assert [user, "signed-in"] == page.evaluate("[account.user, account.state]")
        assert [] == page.evaluate(
            "account.notices.filter((notice) => notice.kind !== 'offline').map(({ text }) => text)"
        )
        person.unroute("**/v1/**")
        page.evaluate("dispatchEvent(new Event('online'))")
        until(page, "!account.notices.some((one) => one.kind === 'offline') && !account.stats().outbox.waiting")
    with_server = page.evaluate(
        "account._json('me/conversations?since=').then((found) => found.conversations.map((one) => one.title))"
    )

    assert ["Rome 403"] == with_server


def test_what_cannot_be_fetched_is_fetched_again(shop: Shop, person: BrowserContext, user: str) -> None:
    """A module that does not come, as when the server is restarted just then, is told as a lost line, and asked for again."""
    page = account_of(person, shop.address, user)
    asked: list[Route] = []

    def refuse(route: Route) -> None:
        asked.append(route)
        route.abort() if len(asked) < 3 else route.continue_()

    page.route("**/slots.js", refuse)
    page.evaluate(
        """async () => { window.chat = await account.chat(ids.c); window.statuses = []; window.kept = [];
           chat.on('status', (status) => statuses.push(status)); chat.on('kept', (slot) => kept.push(slot));
           await chat.slot('cart').set(['tea']); await chat.send('hello'); }"""
    )
    until(page, "chat.messages.length === 2 && chat.status === 'saved'")

    assert 3 == len(asked)
    assert {"offline", "restored"} <= set(page.evaluate("statuses"))
    assert ["cart"] == page.evaluate("kept")


def test_a_device_can_be_ended_and_a_new_one_is_told(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """The one that is ended says that the sign-in is over, keeps what is written, and sends it when it is signed in again."""
    page = account_of(person, shop.address, user)
    until(page, "account.stats().list.pulls > 0")
    # Its first look at the devices comes ten seconds after the opening; the telephone is new to the next one.
    page.wait_for_function(
        "() => performance.getEntriesByType('resource').some((one) => one.name.endsWith('/v1/me/tokens') && one.responseEnd)",
        timeout=60_000,
    )
    with profile(browser) as telephone:
        there = account_of(telephone, shop.address, user)
        there.evaluate("async () => { window.chat = await account.chat(ids.c); await chat.send('hello'); }")
        until(there, "chat.messages.length === 2")
        page.evaluate("dispatchEvent(new Event('online'))")
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        until(page, "account.notices.some((notice) => notice.kind === 'device')")
        page.evaluate("account.notices.find((notice) => notice.kind === 'device').actions[0].run()")
        # The server looks at what it knows of a token after a second, or later where much is to do: until then it is good.
        there.evaluate(
            """async () => {
              while (account.state !== 'expired') {
                await account.devices().catch(() => {});
                await new Promise((done) => setTimeout(done, 100));
              }
              await account.rename(ids.c, 'Mine');
            }"""
        )
        until(there, "account.state === 'expired' && account.notices.some((notice) => notice.kind === 'expired')")
        there.evaluate("chat.send('kept')")
        until(there, "chat.problem?.status === 401")
        there.evaluate("signIn", user)
        until(there, "chat.messages.some((m) => m.text === '2: kept') && account.notices.length === 0")
        until(page, "account.conversations[0]?.title === 'Mine'")


@pytest.mark.journey
def test_what_gave_way_can_be_put_back(shop: Shop, person: BrowserContext, browser: Browser, user: str) -> None:
    """Two devices change one slot and one title, one of them without a line: both agree, and the one is offered what it has lost."""
    page = account_of(person, shop.address, user)
    page.evaluate(
        """async () => { await account.create('Order', ids.c); window.chat = await account.chat(ids.c);
           await chat.slot('cart').set({ size: 1, items: ['tea'] }); }"""
    )
    until(page, "chat.status === 'saved' && !account.conversations[0].pending")
    with profile(browser) as telephone:
        there = account_of(telephone, shop.address, user)
        there.evaluate("async () => { window.chat = await account.chat(ids.c); }")
        until(there, "chat.state?.cart?.size === 1 && account.conversations.length === 1")
        there.evaluate("import('/changes.js').then(() => 0)")  # a page has it that is a while old
        telephone.set_offline(True)
        there.evaluate(
            """async () => { await chat.slot('cart').patch({ size: 2, items: ['tea', 'milk'] });
               await account.rename(ids.c, 'Theirs'); await chat.send('written on the way'); }"""
        )
        there.wait_for_timeout(50)
        page.evaluate(
            """async () => { await chat.slot('cart').patch({ size: 3, items: ['tea', 'bread'], to: 'Rome' });
               await account.rename(ids.c, 'Ours'); }"""
        )
        until(page, "chat.status === 'saved' && !account.conversations[0].pending")
        telephone.set_offline(False)
        there.evaluate("dispatchEvent(new Event('online'))")
        until(there, "account.notices.filter((notice) => notice.kind === 'conflict').length === 2")
        for each in (page, there):
            until(
                each,
                "chat.state.cart.size === 3 && chat.state.cart.to === 'Rome' && account.conversations[0].title === 'Ours'",
            )
            assert ["bread", "milk", "tea"] == each.evaluate("[...chat.state.cart.items].sort()")
            until(each, "chat.messages.some((m) => m.text === '1: written on the way')")
        there.evaluate(
            "account.notices.find((notice) => notice.about === ids.c).actions.find((one) => one.name === 'restore').run()"
        )
        until(page, "chat.state.cart.size === 2 || account.conversations[0].title === 'Theirs'")


@pytest.mark.journey
def test_a_change_of_the_list_whose_answer_is_lost_is_not_made_twice(
    shop: Shop, person: BrowserContext, user: str
) -> None:
    """It is known by its key: a mark that another device has taken back meanwhile is not set once more."""
    page = account_of(person, shop.address, user)
    page.evaluate("account.create('Order', ids.c)")
    until(page, "account.conversations.length === 1 && !account.conversations[0].pending")
    page.route("**/v1/conversations/*", lambda route: route.abort())
    page.evaluate("account.pin(ids.c)")
    until(page, "account.stats().outbox.failures > 0")
    assert 1 == page.evaluate("account._unsent(account._subject).then((found) => found.length)")
    page.unroute("**/v1/conversations/*")
    page.evaluate("dispatchEvent(new Event('online'))")
    until(page, "!account.conversations[0].pending")
    asked: list[dict[str, str]] = []

    def lose(route: Route) -> None:
        if route.request.method != "PATCH":
            route.fallback()
            return
        asked.append(route.request.headers)
        made = route.fetch()
        if len(asked) == 1:
            assert made.json()
            told = {name: asked[0][name] for name in ("authorization", "content-type")}
            assert 200 == person.request.patch(route.request.url, headers=told, data='{"archived": false}').status
            route.abort()
        else:
            answers.append((route, made))

    answers: list[tuple[Route, APIResponse]] = []
    page.route("**/v1/conversations/*", lose)
    page.evaluate("account.archive(ids.c)")
    while not answers:
        page.wait_for_timeout(20)
    [(route, made)] = answers
    until(page, "account._list.get(ids.c).version === given", made.json()["version"])
    route.fulfill(response=made)  # behind what the page has heard of the other device
    until(page, "account.stats().outbox.saves > 2 && !account.conversations.some((one) => one.pending)")

    assert 2 == len(asked)
    assert 1 == len({headers.get("idempotency-key") for headers in asked})
    assert not page.evaluate("account.conversations[0].archived")


def ordering(person: BrowserContext, shop: Shop, user: str) -> Page:
    """A page whose user has said "tea" in a conversation, which is answered."""
    page = account_of(person, shop.address, user)
    page.evaluate(
        """async () => { await account.create('Order', ids.c); window.chat = await account.chat(ids.c); await chat.send('tea'); }"""
    )
    until(page, "chat.messages.some((m) => m.text === '1: tea')")
    return page


@contextmanager
def cut_off(browser: Browser, shop: Shop, user: str, *modules: str) -> Iterator[tuple[BrowserContext, Page]]:
    """A telephone of the user's that shows the order and has lost its network. *modules*: what a page has fetched that is a while old."""
    with profile(browser) as telephone:
        there = account_of(telephone, shop.address, user)
        there.evaluate("async () => { window.chat = await account.chat(ids.c); }")
        until(there, "chat.messages.some((m) => m.text === '1: tea')")
        there.evaluate("(modules) => Promise.all(modules.map((one) => import(`/${one}.js`))).then(() => 0)", modules)
        telephone.set_offline(True)
        until(there, "chat.status === 'offline'")
        yield telephone, there


def reconnect(telephone: BrowserContext, there: Page) -> None:
    """It has a network again, and its page learns of that."""
    telephone.set_offline(False)
    there.evaluate("dispatchEvent(new Event('online'))")


@pytest.mark.journey
def test_a_message_that_waited_does_not_bring_back_what_was_deleted(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """It is shown as not sent, also what is written behind it; whoever sends it again begins a new conversation."""
    page = ordering(person, shop, user)
    with cut_off(browser, shop, user, "keeping") as (telephone, there):
        there.evaluate("async () => { await chat.send('late'); await chat.send('later'); }")
        assert "sending" == there.evaluate("chat.messages.at(-1).status")
        page.evaluate("account.delete(ids.c)")
        with profile(browser) as elsewhere:
            until(account_of(elsewhere, shop.address, user), "!account.conversations.length")
        reconnect(telephone, there)
        until(
            there, "chat.messages.filter((m) => m.status === 'failed' && m.error.includes('was erased')).length === 2"
        )
        assert ["late", "later"] == there.evaluate("chat.messages.map((m) => m.text)")
        page.wait_for_timeout(500)
        assert [] == page.evaluate(TITLES)
        there.evaluate("chat.retry(chat.messages.at(-1).id)")
        until(there, "chat.messages.some((m) => m.text === '1: later') && !chat.problem")
        assert ["later", "1: later", "late"] == there.evaluate("chat.messages.map((m) => m.text)")


def test_what_a_server_keeps_in_its_journal_does_not_bring_back_what_was_deleted(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """The store is away when a message comes that has waited: what became of it is asked until it is known. Sent again it begins anew."""
    page = ordering(person, shop, user)
    with cut_off(browser, shop, user, "keeping", "slots") as (telephone, there):
        there.evaluate("chat.send('late')")
        asked: list[str | None] = []

        def answer(route: Route) -> None:
            """As a server that keeps it in its journal, at first."""
            if route.request.method == "POST":
                asked.append(route.request.headers.get("if-match"))
            if route.request.method != "POST" or len(asked) > 2:
                route.continue_()
            else:
                told = {"id": "x", "status": "journaled", "number": 0, "replies": [], "duplicate": False}
                route.fulfill(status=202, json=told)

        there.route("**/messages", answer)
        page.evaluate("account.delete(ids.c)")
        until(page, "!account.conversations.length && !account.stats().outbox.waiting")
        reconnect(telephone, there)
        until(
            there, "chat.messages.filter((m) => m.status === 'failed' && m.error.includes('was erased')).length === 1"
        )
        assert ["*"] * 3 == asked
        assert [] == page.evaluate(TITLES)
        there.evaluate("chat.retry(chat.messages.at(-1).id)")
        until(there, "chat.messages.some((m) => m.text === '1: late') && !chat.problem")
        assert ["*", "*", "*", None] == asked


@pytest.mark.journey
def test_a_change_of_a_slot_that_waited_does_not_bring_back_what_was_deleted(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """It is said to be refused; whoever changes the slot again begins a new conversation."""
    page = ordering(person, shop, user)
    with cut_off(browser, shop, user, "slots") as (telephone, there):
        there.evaluate("chat.slot('form').set({ name: 'Ada' })")
        page.evaluate("account.delete(ids.c)")
        until(page, "!account.conversations.length && !account.stats().outbox.waiting")
        reconnect(telephone, there)
        # (Its problem says so too, until what is there is asked for, which is nothing.)
        until(there, "chat.status === 'failed' && chat.stats().refused === 1")
        page.wait_for_timeout(500)
        assert [] == page.evaluate(TITLES)
        there.evaluate("chat.slot('form').set({ name: 'Eve' })")
        until(there, "chat.status === 'saved' && chat.state.form.name === 'Eve'")


@pytest.mark.journey
def test_all_tabs_learn_that_a_conversation_was_deleted(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """Where one finds it gone with a message that waited: none shows any more what was said, nor a mix of that and the new one."""
    page = ordering(person, shop, user)
    with profile(browser) as telephone:
        tabs = [account_of(telephone, shop.address, user), account_of(telephone, shop.address)]
        for tab in tabs:
            tab.evaluate("async () => { window.chat = await account.chat(ids.c); }")
            until(tab, "chat.messages.some((m) => m.text === '1: tea')")
            tab.evaluate("import('/keeping.js').then(() => 0)")
        telephone.set_offline(True)
        until(tabs[0], "chat.status === 'offline'")
        tabs[0].evaluate("chat.send('late')")
        page.evaluate("account.delete(ids.c)")
        until(page, "!account.conversations.length && !account.stats().outbox.waiting")
        telephone.set_offline(False)
        for tab in tabs:
            tab.evaluate("dispatchEvent(new Event('online'))")
        for tab in tabs:
            until(tab, "chat.messages.length === 1 && chat.messages[0].error?.includes('was erased')")
        tabs[1].evaluate("chat.retry(chat.messages[0].id)")
        for tab in tabs:
            until(tab, "chat.messages.map((m) => m.text).join() === 'late,1: late'")


def test_what_was_dealt_with_in_one_tab_is_offered_in_no_other(
    shop: Shop, person: BrowserContext, browser: Browser, user: str
) -> None:
    """What was refused and is discarded, and a title that was put back, which once more would put away what was put back."""
    page, tab = account_of(person, shop.address, user), account_of(person, shop.address)
    kinds = "account.notices.map((notice) => notice.kind).sort().join()"
    page.evaluate("account.rename(ids.nowhere, 'Rome')")
    for each in (page, tab):
        until(each, f"{kinds} === 'failed'")
    run = "(name) => account.notices.flatMap((notice) => notice.actions).find((one) => one.name === name).run()"
    tab.evaluate(run, "discard")
    for each in (page, tab):
        until(each, f"{kinds} === ''")

    with profile(browser) as telephone:
        there, beside = account_of(telephone, shop.address, user), account_of(telephone, shop.address)
        page.evaluate("account.create('Order', ids.c)")
        until(there, "account.conversations.length === 1")
        there.evaluate("import('/changes.js').then(() => 0)")  # a page has it that is a while old
        telephone.set_offline(True)
        there.evaluate("account.rename(ids.c, 'Theirs')")
        there.wait_for_timeout(50)
        page.evaluate("account.rename(ids.c, 'Ours')")
        until(page, "account.conversations[0]?.title === 'Ours' && !account.conversations[0].pending")
        telephone.set_offline(False)
        there.evaluate("dispatchEvent(new Event('online'))")
        for each in (there, beside):
            until(each, f"{kinds}.includes('conflict')")
        beside.evaluate(run, "restore")
        for each in (there, beside):
            until(each, f"!{kinds}.includes('conflict') && account.conversations[0].title === 'Theirs'")


def test_a_claim_is_of_who_asked_for_it(shop: Shop, person: BrowserContext) -> None:
    """Who signs in while the module for it is still under way, and wants no claim, gets none."""
    ada, eve = next(USERS), next(USERS)
    page = account_of(person, shop.address)
    page.evaluate("async () => { await (await (await import('/client.js')).open()).send('as a visitor'); }")
    held: list[Route] = []
    page.route("**/claims.js", lambda route: held.append(route))
    page.evaluate("(user) => { signIn(user); }", ada)
    page.wait_for_function("(user) => account.user === user", arg=ada)
    while not held:
        page.wait_for_timeout(20)
    page.evaluate(
        """async (user) => {
          const token = await (await fetch(`/sample-users/${user}`, { method: 'POST' })).json();
          window.signed = account.signIn({ claim: false, token });
        }""",
        eve,
    )
    page.wait_for_function("(user) => account.user === user", arg=eve)
    held[0].continue_()
    page.evaluate("signed")

    assert [] == page.evaluate("account.conversations")


@pytest.mark.journey
def test_an_applications_own_old_data_is_taken_over_once(shop: Shop, person: BrowserContext, user: str) -> None:
    """By the docs' example: what a page of its own kept is saved with times and roles; broken off, it goes on; then never again."""
    page = account_of(person, shop.address, user)
    example = re.search(r"```js\nawait (account\.importOld\(.*?\));\nlocalStorage\.removeItem", DOCS.read_text(), re.S)
    assert example is not None
    take = f"async () => {example[1]}"
    page.evaluate(
        """() => { localStorage['conversations_v1'] = JSON.stringify([
          { key: ids.one, name: 'Rome', log: [['m1', 'me', 'a train?', 1763697600000], ['m2', 'bot', 'at nine', 1763697603500]] },
          { key: ids.two, name: 'Naples',
            log: Array.from({ length: 250 }, (_, n) => [`n${n}`, 'me', `line ${n}`, 1763697600000 + n]) }]); }"""
    )
    page.route("**/*-two", lambda route: route.abort())
    assert "broken" == page.evaluate(f"({take})().catch(() => 'broken')")
    page.unroute("**/*-two")

    assert 2 == page.evaluate(take)
    assert 0 == page.evaluate(take)
    assert {"Rome", "Naples"} == set(page.evaluate(TITLES))
    page.evaluate("async () => { window.chat = await account.chat(ids.one); }")
    assert [["user", "a train?", 1763697600], ["assistant", "at nine", 1763697603.5]] == page.evaluate(
        "chat.messages.map((m) => [m.role, m.text, m.created_at])"
    )
    page.evaluate(
        "async () => { window.chat = await account.chat(ids.two); await chat.earlier(200); await chat.earlier(200); }"
    )
    assert 250 == page.evaluate("chat.messages.filter((m) => m.text.startsWith('line ')).length")


def test_a_session_of_the_sites_own(shop: Shop, person: BrowserContext, user: str) -> None:
    """No token is needed where the application knows who has sent a request; another person's session is not written to by mistake."""
    other = next(USERS)
    page = account_of(person, shop.address)
    page.evaluate("account.close()")
    page.evaluate(
        """async (user) => { document.cookie = `who=${user}`; localStorage.prefix = user;
           window.account = new module.Account({ token: true });
           await account.loaded; await account.create('By session', ids.c); window.chat = await account.chat(ids.c);
           await chat.send('hello'); }""",
        user,
    )
    until(page, "account.user === given && chat.messages.length === 2 && !account.conversations[0].pending", user)
    page.evaluate("(other) => { document.cookie = `who=${other}`; return chat.send('by mistake?'); }", other)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    until(page, "account.user === given && account.conversations.length === 0", other)
    until(page, "!chat.messages.some((m) => m.text === 'hello')")  # (the chat is told after the account)


def test_tabs_without_channels_agree(shop: Shop, browser: Browser, user: str) -> None:
    """Where there is neither BroadcastChannel nor a lock, the tabs hear of each other by localStorage."""
    with profile(browser) as person:
        person.add_init_script(
            "delete window.BroadcastChannel; Object.defineProperty(navigator, 'locks', { value: undefined })"
        )
        page = account_of(person, shop.address, user)
        tab = account_of(person, shop.address)
        page.evaluate("account.create('Rome', ids.trip)")
        tab.wait_for_function("() => account.conversations.some((one) => one.title === 'Rome')")
        page.evaluate("account.signOut()")
        tab.wait_for_function("() => account.state === 'signed-out'")


def test_statistics_and_the_debug_switch(shop: Shop, person: BrowserContext, user: str) -> None:
    """Each part counts; with `debug` the last 500 lines are there, with names and sizes and no word of what was said."""
    page = account_of(person, shop.address, user)
    page.evaluate("account.debug = true")
    page.evaluate(
        "async () => { window.chat = await account.chat(ids.c); await chat.send('a secret word'); await account.rename(ids.c, 'private'); }"
    )
    until(
        page, "chat.messages.length === 2 && account.stats().outbox.waiting === 0 && account.stats().outbox.saves > 0"
    )
    stats = page.evaluate("account.stats()")

    assert [1, f"{user}-c"] == [len(stats["chats"]), stats["chats"][0]["conversation"]]
    assert stats["link"]["requests"] > 3
    assert not stats["link"]["offline"]
    lines = page.evaluate("JSON.stringify(account.lines)")
    assert "/messages" in lines
    assert [] == [word for word in ("secret", "private", "ck_") if word in lines]
    page.evaluate("() => { account.debug = false; }")
    assert page.evaluate("localStorage['chatkeep-debug'] === undefined")
    page.evaluate("chat.close()")
    assert [] == page.evaluate("account.stats().chats")
