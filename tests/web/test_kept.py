"""What a browser has kept in each released format opens in this one; what a newer one has kept is left alone."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import BrowserContext

from ..support.browsing import Shop, send, wait

FORMATS = Path(__file__).parent / "kept"
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
