"""The operators' desk on a store of a million conversations: what each page takes at the server.

    python -m benchmarks.desk [STORE_URL] [--conversations 1000000]

STORE_URL is a new SQLite file or an empty PostgreSQL schema; without one, a server of PostgreSQL is started for it. Rows and entries are
written by the codec of the library straight into the tables, since a million turns would take hours; what is found rarely stands where it is
found last, behind all that is newer. The time is that of the application for one request, without a network: the median, and the longest
of TIMES.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import urlencode

import apsw
import asyncpg

from chatkeep import Chatkeep
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.conversation.codec import body_of, entry_for
from chatkeep.conversation.record import OutboxState, Record
from chatkeep.drivers.base import Entry, Key, Row
from chatkeep.drivers.packing import pack
from chatkeep.server import create_app
from chatkeep.testing.servers import PostgresServer

TIMES = 15
MOST_MS = 150.0
TOGETHER = 5000
WORDS = [
    "please",
    "order",
    "table",
    "seven",
    "margherita",
    "tomorrow",
    "thanks",
    "delivery",
    "address",
    "where",
    "is",
    "my",
    "parcel",
    "blue",
    "size",
    "gel",
    "manicure",
    "hello",
]
SAID = 2
"""So many messages has each conversation."""

NEEDLE = "sapphire brooch"
RARE = 50_000
"""One conversation of so many is what a filter looks for."""


class Made(NamedTuple):
    """A conversation as it is stored."""

    row: Row
    entries: list[Entry]


def made(number: int, total: int, now: float, chance: random.Random) -> Made:
    """Return conversation *number* of *total*: the higher its number, the newer it is."""
    from_whatsapp = number % 3 == 0
    name = f"whatsapp:49170{number:07}" if from_whatsapp else f"c-{number:07}"
    key, at = Key("", name), now - (total - number) * 2.0
    rare = number % RARE == RARE // 2 and number < total // 2
    stuck = number % RARE == RARE // 3 and number < total // 2
    channel = "telegram" if rare else "whatsapp" if from_whatsapp else ""
    metadata = {"name": f"Person {number}"} if from_whatsapp else None
    entries: list[Entry] = []
    for place in range(1, SAID + 1):
        text = " ".join(chance.choices(WORDS, k=10)) + (f" {NEEDLE}" if rare and place == 1 else "")
        role: Any = "user" if place % 2 else "assistant"
        own = metadata if role == "user" else None
        entries.append(
            entry_for(
                key,
                text,
                number=place,
                id=f"m{place}" if role == "user" else "",
                role=role,
                created_at=at - SAID - 1 + place,
                limit=10_000,
                reply_to=place - 1 if role == "assistant" else 0,
                metadata=own,
                channel=channel if role == "user" else "",
            )
        )
    waits = rare or number % 1000 == 0
    record = Record(
        cursor=SAID - 2 if waits else SAID,
        active_at=at,
        paused=waits,
        dead=(1,) if rare else (),
        assignee="kim" if rare else "eve" if number % 100 == 0 else "",
        title="" if from_whatsapp else f"{'Heirloom' if rare else 'Parcel'} {number}",
        titled=(0.0, "", 0) if from_whatsapp else (at, "", 1),
        delivery=OutboxState(upto=SAID - 1, half=SAID, tries=2, at=at, reason="The number is unknown.")
        if stuck
        else OutboxState(upto=SAID)
        if from_whatsapp
        else None,
    )
    row = Row(
        key=key,
        revision=f"r{number}",
        incarnation=f"r{number}",
        head=SAID,
        body=body_of(key, record),
        owner="" if from_whatsapp else f"user-{number % (total // 4 or 1)}",
        updated_at=at,
    )
    return Made(row, entries)


def all_made(total: int) -> Iterator[Made]:
    """Yield every conversation, oldest first."""
    chance, now = random.Random(7), time.time()
    return (made(number, total, now, chance) for number in range(1, total + 1))


def batched(found: Iterator[Made]) -> Iterator[list[Made]]:
    """Yield *found*, TOGETHER at once."""
    while some := list(islice(found, TOGETHER)):
        yield some


def fill_sqlite(path: str, total: int) -> None:
    """Put *total* conversations into a file that a Chatkeep has made."""
    db = apsw.Connection(path)
    db.execute("pragma synchronous = off")
    for number, some in enumerate(batched(all_made(total))):
        first = number * TOGETHER + 1
        with db:
            db.executemany(
                "insert into conversation (number, tenant, id, revision, born, head, body, owner, updated_at, recent, claimed_until)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                [
                    (
                        place,
                        *row.key,
                        row.revision,
                        row.incarnation,
                        row.head,
                        pack(row.body),
                        row.owner,
                        row.updated_at,
                        row.recent,
                    )
                    for place, (row, _) in enumerate(some, first)
                ],
            )
            db.executemany(
                "insert into entry (conversation, number, id, role, body) values (?, ?, ?, ?, ?)",
                [
                    (place, entry.number, entry.id, entry.role, pack(entry.body))
                    for place, (_, entries) in enumerate(some, first)
                    for entry in entries
                ],
            )
    db.execute("pragma wal_checkpoint(truncate)")
    db.close()


async def fill_postgresql(url: str, total: int) -> None:
    """Put *total* conversations into a schema that a Chatkeep has made."""
    db = await asyncpg.connect(url.partition("?")[0])
    columns = [
        "number",
        "tenant",
        "id",
        "born",
        "owner",
        "created_at",
        "recent",
        "claimed_until",
        "updated_at",
        "head",
        "revision",
        "body",
    ]
    for number, some in enumerate(batched(all_made(total))):
        first = number * TOGETHER + 1
        await db.copy_records_to_table(
            "conversation",
            schema_name="chatkeep",
            columns=columns,
            records=[
                (
                    place,
                    *row.key,
                    row.incarnation,
                    row.owner,
                    row.updated_at,
                    row.recent,
                    0.0,
                    row.updated_at,
                    row.head,
                    row.revision,
                    row.body,
                )
                for place, (row, _) in enumerate(some, first)
            ],
        )
        await db.copy_records_to_table(
            "entry",
            schema_name="chatkeep",
            columns=["conversation", "number", "id", "role", "body"],
            records=[
                (place, entry.number, entry.id, entry.role, entry.body)
                for place, (_, entries) in enumerate(some, first)
                for entry in entries
            ],
        )
    await db.execute("select setval(pg_get_serial_sequence('chatkeep.conversation', 'number'), $1)", total + 1)
    await db.execute("analyze")
    await db.close()


async def ask(app: Any, path: str, key: str) -> tuple[float, Any, int]:
    """Return how long a request takes the application, in milliseconds, its answer, and of how many bytes that is."""
    target, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": target,
        "raw_path": target.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {key}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    status, body = 0, b""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    began = time.perf_counter()
    await app(scope, receive, send)
    took = (time.perf_counter() - began) * 1000
    if status != 200:
        raise SystemExit(f"{path} was answered {status}: {body[:300]!r}")
    return took, json.loads(body), len(body)


async def measure(url: str, total: int) -> bool:
    """Print what each page takes; whether each is quick enough."""
    keep = Chatkeep[Any](url)
    fine = True
    name = f"c-{total // 2 + 1:07}" if (total // 2 + 1) % 3 else f"c-{total // 2 + 2:07}"
    pages = {
        "the list": {},
        "waiting for a person": {"show": "waiting"},
        "failing": {"show": "failing"},
        "bot off": {"show": "off"},
        "undelivered": {"show": "undelivered"},
        "unread": {"show": "unread"},
        "channel": {"channel": "whatsapp"},
        "owner": {"owner": "user-7"},
        "assigned to one": {"assignee": "kim"},
        "nobody's": {"whose": "nobody"},
        "search: an id": {"text": name},
        "search: beginning of an id": {"text": "whatsapp:49170000"},
        "search: an owner": {"text": "user-7"},
        "search: a frequent word": {"text": "margherita"},
        "search: a rare word": {"text": NEEDLE},
        "search: nothing": {"text": "xyzzy"},
    }
    paths = {what: f"/v1/desk/conversations?{urlencode(query)}" for what, query in pages.items()} | {
        "one conversation": f"/v1/conversations/{name}",
        "its log": f"/v1/conversations/{name}/messages",
        "its story": f"/v1/conversations/{name}/story",
        "dead letters": "/v1/dead-letters",
        "health": "/v1/desk/health",
        "audit": "/v1/audit",
        "people": "/v1/desk/people",
        "replies": "/v1/desk/replies",
    }
    async with keep:
        key = (await create_key(keep, "", everywhere=True)).token
        app = create_app(keep, title="Desk")
        async with app.router.lifespan_context(app):
            print(f"{url.partition(':')[0]}: {total:,} conversations")
            print(f"{'page':<28} {'median, ms':>10} {'longest':>9} {'bytes':>9}")
            for what, path in paths.items():
                took = []
                for _ in range(TIMES):
                    spent, _answer, size = await ask(app, path, key)
                    took.append(spent)
                fine &= statistics.median(took) < MOST_MS
                print(f"{what:<28} {statistics.median(took):10.1f} {max(took):9.1f} {size:9,}", flush=True)
    return fine


async def main() -> None:
    """Fill the store, unless it is full, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", default="")
    parser.add_argument("--conversations", type=int, default=1_000_000)
    given = parser.parse_args()
    if not given.store:
        with PostgresServer() as server:
            await run(server.url, given.conversations)
        return
    await run(given.store, given.conversations)


async def run(url: str, total: int) -> None:
    """Fill the store that *url* names, where it is empty, and measure."""
    async with Chatkeep[Any](url) as keep:
        empty = not await core_of(keep).scan("recent", tenant="", after=None, limit=1)
    if empty:
        began = time.monotonic()
        if url.startswith("sqlite"):
            await asyncio.to_thread(fill_sqlite, url.partition("///")[2], total)
        else:
            await fill_postgresql(url, total)
        print(f"filled in {time.monotonic() - began:.0f} s")
    if not await measure(url, total):
        raise SystemExit(f"A page took more than {MOST_MS:g} ms.")


if __name__ == "__main__":
    asyncio.run(main())
