"""The four scripts by which the multi-device team measures, in a real browser: ten at once, two devices, memory, sign in and out.

On SQLite, Redis, a cluster of it and PostgreSQL; `CHATKEEP_SOAK=334` has the third one last for the team's 100,000 operations, which
it prints: `CHATKEEP_SOAK=334 pytest tests/acceptance/test_scripts_c.py -k "memory and sqlite"`.
"""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from chatkeep.client import SyncClient

from ..support.browsing import Shop, account_of, profile
from ..support.soaking import SOAK
from ..support.stores import store_url

STORES = ("sqlite", "redis", "cluster", "postgresql")
OPERATIONS = 300 * SOAK
PATIENCE_S = 420 + OPERATIONS / 10
TEN = sorted(f"message {number}" for number in range(10))
ANSWERED = "chat.messages.filter((m) => m.role === 'assistant').length === given"


@pytest.fixture(scope="module", params=STORES)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop on each store; every script has a user of its own."""
    folder: Path = tmp_path_factory.mktemp("shop")
    with Shop(folder, store_url(request.param, request, folder)) as shop:
        yield shop


def opened(person: BrowserContext, shop: Shop, user: str | None) -> Page:
    """A device of *user*, with its conversation open as `chat`."""
    page = account_of(person, shop.address, user)
    page.evaluate("async () => { window.chat = await account.chat(ids.c); }")
    return page


def until(page: Page, condition: str, argument: object = None) -> None:
    """Waits until an expression over `chat` and `account` is true."""
    page.wait_for_function(f"(given) => {condition}", arg=argument)


def said(page: Page) -> list[str]:
    """What the user has said, as the page shows it."""
    found: list[str] = page.evaluate("chat.messages.filter((m) => m.role === 'user').map((m) => m.text)")
    return found


def tell(capsys: pytest.CaptureFixture[str], what: str, before: int, after: int, began: float) -> None:
    """Prints what was held before and after the operations, and how long they took."""
    with capsys.disabled():
        print(
            f"\n{what}: {before:,} bytes, after {OPERATIONS:,} operations {after:,}, in {time.monotonic() - began:.0f} s"
        )


def test_ten_messages_at_once(shop: Shop, person: BrowserContext) -> None:
    """From two tabs, in one moment: each is there once, and answered once."""
    page, tab = opened(person, shop, "user0"), opened(person, shop, None)
    for each, numbers in ((page, [0, 2, 4, 6, 8]), (tab, [1, 3, 5, 7, 9])):
        status = each.evaluate(
            "(numbers) => { for (const number of numbers) chat.send(`message ${number}`); return chat.status; }",
            numbers,
        )
        assert "sending" == status  # not one of them is kept yet
    for each in (page, tab):
        until(
            each,
            "chat.messages.filter((m) => m.role === 'user').length === 10 && chat.status === 'saved'"
            " && chat.messages.every((m) => !['sending', 'sent'].includes(m.status))",
        )

        assert TEN == sorted(said(each))
        answers = each.evaluate("chat.messages.filter((m) => m.role === 'assistant').map((m) => m.text)")
        assert TEN == sorted(line for text in answers for line in text.split(": ", 1)[1].split("\n"))
    assert said(page) == said(tab)


@pytest.mark.journey
def test_two_devices_online_and_offline(shop: Shop, browser: Browser) -> None:
    """Different messages, and one slot that both have changed: both show the merged conversation, in one order, with nothing lost."""
    with profile(browser) as desk, profile(browser) as telephone:
        here, there = opened(desk, shop, "user1"), opened(telephone, shop, "user1")
        here.evaluate("chat.send('from the desk')")
        there.evaluate("chat.send('from the telephone')")
        for each in (here, there):
            until(each, "chat.messages.filter((m) => m.role === 'user').length === 2")
        here.evaluate("chat.slot('cart').set({ items: ['tea'], note: 'none' })")
        until(there, "chat.state?.cart?.note === 'none'")
        telephone.set_offline(True)
        there.evaluate(
            """async () => { window.written = Date.now() / 1000; await chat.send('written offline');
               await chat.slot('cart').set({ items: ['tea', 'milk'], note: 'of the telephone' }); }"""
        )
        here.evaluate(
            """async () => { await chat.send('meanwhile');
               await chat.slot('cart').set({ items: ['tea', 'bread'], note: 'of the desk' }); }"""
        )
        until(
            here,
            "chat.messages.some((m) => m.text.endsWith('meanwhile') && m.role === 'assistant') && chat.status === 'saved'",
        )
        if takes_time := shop.url.startswith("sqlite"):
            here.wait_for_timeout(5000)  # the time of writing is told of what was late
        telephone.set_offline(False)
        there.evaluate("dispatchEvent(new Event('online'))")
        for each in (here, there):
            until(each, "chat.messages.some((m) => m.text.endsWith('written offline') && m.role === 'assistant')")
            until(each, "chat.state.cart.items.length === 3 && chat.state.cart.note === 'of the desk'")
        assert said(here) == said(there)
        assert {"from the desk", "from the telephone", "meanwhile", "written offline"} == set(said(here))
        if takes_time:
            late = here.evaluate("chat.messages.find((m) => m.text === 'written offline')")
            assert abs(late["metadata"]["written_at"] - there.evaluate("written")) < 2
            assert late["created_at"] - late["metadata"]["written_at"] > 3
        until(there, "account.notices.some((notice) => notice.kind === 'conflict')")
        there.evaluate("account.notices.find((notice) => notice.kind === 'conflict').actions[0].run()")
        for each in (here, there):
            until(each, "chat.state.cart.note === 'of the telephone' && chat.state.cart.items.length === 3")


@pytest.mark.timeout(PATIENCE_S)
def test_memory_does_not_grow(shop: Shop, person: BrowserContext, capsys: pytest.CaptureFixture[str]) -> None:
    """Over many changes of a slot, of the list and of which chat is open: the heap is as large at the end as it was."""
    page = opened(person, shop, "user2")
    session = person.new_cdp_session(page)
    page.evaluate("chat.send('hello')")
    until(page, ANSWERED, 1)
    work = """async (count) => {
        const form = chat.slot('form');
        for (let n = 0; n < count; n++) {
          await form.set({ name: `Ada ${n % 7}`, n });
          if (n % 20 === 0) await account.rename(ids.c, `Title ${n % 5}`);
          if (n % 50 === 0) { const other = await account.chat(ids.c); other.close(); }
          if (n % 10 === 0) account.notify({ kind: 'saved', text: `note ${n}` });
        }
      }"""

    def heap() -> int:
        until(page, "chat.unsent === 0 && !account.conversations.some((one) => one.pending)")
        page.evaluate(
            "notices.length = 0; performance.clearResourceTimings()"
        )  # what this tab and the browser note, not the client
        session.send("HeapProfiler.collectGarbage")
        used: int = session.send("Runtime.getHeapUsage")["usedSize"]
        return used

    page.evaluate(work, 200)
    before = heap()
    began = time.monotonic()
    page.evaluate(work, OPERATIONS)
    after = heap()
    stats = page.evaluate("account.stats()")
    tell(capsys, "the page's heap", before, after, began)

    assert after - before < 1_000_000, (before, after)
    assert [1, 0, 0] == [len(stats["chats"]), stats["outbox"]["waiting"], stats["notices"]]
    assert OPERATIONS - 1 == page.evaluate("chat.state.form.n")


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
def test_memory_of_the_python_client_does_not_grow(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    """Over as many changes of a slot and of the list, and messages: what Python holds is as much at the end as it was. (The store is in
    the server's process.)"""
    signing = urllib.request.Request(f"{shop.address}sample-users/user4", method="POST")
    signing.add_header("Sec-Fetch-Site", "same-origin")
    with urllib.request.urlopen(signing) as answer:
        token = json.load(answer)["token"]
    with SyncClient(shop.address, token) as client:
        client.account.create("python")
        chat = client.conversation("python")

        def work(first: int, last: int) -> None:
            for n in range(first, last):
                base = {"name": f"Ada {(n - 1) % 7}", "n": n - 1} if n else {}
                chat.slot("form").merge({"name": f"Ada {n % 7}", "n": n}, base=base, by="python")
                if n % 20 == 0:
                    client.account.rename("python", f"Title {n % 5}")
                if n % 50 == 0:
                    chat.send("hello", id=f"m{n}")

        def held() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        work(0, 100)
        tracemalloc.start()
        work(100, 200)
        before = held()
        began = time.monotonic()
        work(200, 200 + OPERATIONS)
        after = held()
        tracemalloc.stop()
        tell(capsys, "Python", before, after, began)

        assert after - before < 100_000, (before, after)
        assert 199 + OPERATIONS == chat.slot("form").get()["n"]


def test_sign_in_write_sign_out_sign_in(shop: Shop, person: BrowserContext) -> None:
    """Everything is there again: what was said, also what was not sent yet, the list with its titles, and the slots."""
    page = opened(person, shop, "user3")
    page.evaluate(
        """async () => { await chat.send('one'); await account.rename(ids.c, 'Mine'); await account.create('Another', ids.d);
           await chat.slot('cart').set(['tea']); }"""
    )
    until(page, "chat.status === 'saved' && chat.messages.length === 2 && account.stats().outbox.waiting === 0")
    page.route("**/messages", lambda route: route.abort())
    page.evaluate("chat.send('two')")
    until(page, "chat.status === 'offline'")
    page.evaluate("account.signOut()")
    until(page, "account.state === 'signed-out' && chat.messages.length === 0")
    page.unroute("**/messages")
    assert [] == page.evaluate("account.conversations")
    page.reload()
    page.close()
    again = opened(person, shop, "user3")
    until(again, ANSWERED, 2)

    assert ["one", "two"] == said(again)
    assert {"Mine", "Another"} == set(again.evaluate("account.conversations.map((one) => one.title)"))
    assert ["tea"] == again.evaluate("chat.state.cart")
