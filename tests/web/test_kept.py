"""What a browser has kept in each released format opens in this one; what a newer one has kept is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext

from ..support.browsing import Shop, send, wait

FORMATS = Path(__file__).parents[1] / "golden"
WRITE = """async ({ storage, queue, seen, version }) => {
    for (const [key, value] of Object.entries(storage)) localStorage.setItem(key, value);
    const open = indexedDB.open('chatkeep', version);
    open.onupgradeneeded = () => {
        open.result.createObjectStore('queue', { keyPath: 'n', autoIncrement: true }).createIndex('chat', 'chat');
        open.result.createObjectStore('seen'); };
    await new Promise((done) => (open.onsuccess = done));
    const change = open.result.transaction(['queue', 'seen'], 'readwrite');
    for (const item of queue) change.objectStore('queue').add(item);
    for (const [key, summary] of seen) change.objectStore('seen').put(summary, key);
    await new Promise((done) => (change.oncomplete = done));
    open.result.close(); }"""
KEPT = """async () => { const open = indexedDB.open('chatkeep'); await new Promise((done) => (open.onsuccess = done));
    const all = open.result.transaction('queue').objectStore('queue').getAll(); await new Promise((done) => (all.onsuccess = done));
    open.result.close(); return all.result.map((item) => [item.v, item.content]); }"""


@pytest.mark.journey
def test_format_1_is_moved_on(shop: Shop, person: BrowserContext) -> None:
    """A message and two changes of slots that release 0.2.0 has kept: sent once, on top of what others have changed since."""
    page = person.new_page()
    page.goto(f"{shop.address}client.js")
    me = page.evaluate(
        """async () => {
          const made = await (await fetch('/v1/conversations', { method: 'POST' })).json();
          const headers = { authorization: `Bearer ${made.token}`, 'content-type': 'application/json' };
          const body = JSON.stringify({ name: 'Grace', size: 1 });
          await fetch(`/v1/conversations/${made.id}/state/form`, { method: 'PUT', headers: { ...headers, 'if-none-match': '*' }, body });
          return { ...made, ...(await (await fetch('/v1/me', { headers })).json()) };
        }"""
    )
    text = (FORMATS / "local_data_1.json").read_text().replace("{address}", shop.address)
    for name in ("id", "token", "subject"):
        text = text.replace(f"{{{name}}}", me[name])
    kept = json.loads(text)
    place = kept["queue"][0]["chat"]
    newer = {"v": 3, "n": 9, "id": "newer", "content": "of a newer release", "chat": place}
    page.evaluate(WRITE, kept | {"queue": [*kept["queue"], newer]})
    page.evaluate("async () => { window.client = await import('/client.js'); window.chat = await client.open(); }")
    wait(page, "said.includes('1: written offline') && chat.status === 'saved'")

    assert me["id"] == page.evaluate("chat.conversation")
    assert {"name": "Grace", "size": 2} == page.evaluate("chat.state.form")
    assert ["tea"] == page.evaluate("chat.state.cart")
    send(page, "and on")
    wait(page, "said.includes('2: and on')")
    assert [[3, "of a newer release"]] == page.evaluate(KEPT)


@pytest.mark.journey
def test_format_2_goes_on(shop: Shop, person: BrowserContext) -> None:
    """Of an account: its list is shown before the server has said anything, and what was done and written without a line is sent once."""
    page = person.new_page()
    page.goto(f"{shop.address}client.js")
    me = page.evaluate(
        """async () => {
          const made = await (await fetch('/sample-users/user7', { method: 'POST' })).json();
          const headers = { authorization: `Bearer ${made.token}`, 'content-type': 'application/json' };
          const put = (path, body, more) =>
            fetch(`/v1/conversations/trip${path}`, { method: 'PUT', headers: { ...headers, ...more }, body: JSON.stringify(body) });
          const messages = [{ id: 's1', role: 'user', content: 'from before', created_at: 1600000000 }];
          await put('', { title: 'To Rome', pinned: true, messages });
          await put('/state/form', { name: 'Grace', size: 1 }, { 'if-none-match': '*' });
          return { ...made, ...(await (await fetch('/v1/me', { headers })).json()), mark: made.token.slice(-16) };
        }"""
    )
    text = (FORMATS / "local_data_2.json").read_text().replace("{address}", shop.address)
    for name in ("id", "token", "subject", "user", "mark"):
        text = text.replace(f"{{{name}}}", me[name])
    page.evaluate(WRITE, json.loads(text))
    page.route("**/v1/**", lambda route: route.abort())
    page.evaluate("async () => { window.account = await (await import('/account.js')).openAccount(); }")

    assert [("To Naples", True), ("Another", None)] == [
        (one["title"], one.get("pinned") or None) for one in page.evaluate("account.conversations")
    ]
    page.unroute("**/v1/**")
    page.evaluate("async () => { window.chat = await account.chat('trip'); dispatchEvent(new Event('online')); }")
    wait(page, "said.includes('1: written offline') && chat.status === 'saved' && account.stats().outbox.waiting === 0")
    # (What was asked for before a change was sent may be answered after it, and is corrected at once.)
    wait(page, "chat.state.form.size === 2 && account.conversations.some((one) => one.title === 'To Naples')")

    assert ["from before", "written offline", "1: written offline"] == page.evaluate("chat.messages.map((m) => m.text)")
    assert {"name": "Grace", "size": 2} == page.evaluate("chat.state.form")
    assert {"To Naples", "Another"} == set(page.evaluate("account.conversations.map((one) => one.title)"))
    assert [] == page.evaluate(KEPT)
