"""The operators' desk on a store of a million conversations: what each page takes at the server.

    python -m benchmarks.desk [STORE_URL] [--conversations 1000000] [--without-index]

STORE_URL is a new SQLite file or an empty PostgreSQL schema; without one, a server of PostgreSQL is started for it. Rows and entries are
written by the codec of the library straight into the tables, since a million turns would take hours, and the full-text index is then made
as `chatkeep index` makes it; a store that is filled is used as it is. What is found rarely stands where it is found last, behind all that is
newer. The time is that of the application for one request, without a network. Beside it, since others may use the machine: the time of a
processor, of this process, and of a PostgreSQL on this machine (the mean, for the system counts it in hundredths of a second).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, get_args
from urllib.parse import quote, urlencode

import apsw
import asyncpg
import psutil

from chatkeep import Chatkeep
from chatkeep.app import core_of
from chatkeep.auth.credentials import create_key
from chatkeep.conversation.codec import body_of, entry_for
from chatkeep.conversation.record import OutboxState, Record
from chatkeep.drivers.base import Entry, Key, Row
from chatkeep.drivers.packing import pack
from chatkeep.server import create_app
from chatkeep.server.items import Show
from chatkeep.testing.servers import PostgresServer

TIMES = 7
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
        if channel
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


def pages_of_the_desk(name: str) -> dict[str, str]:
    """Return the address of each page, where *name* is a conversation: those that read, with each filter that can be pressed."""
    channels = {"": {}, " by WhatsApp": {"channel": "whatsapp"}, " by Telegram": {"channel": "telegram"}}
    whose = {
        "": {},
        " of one with few": {"assignee": "kim"},
        " of one with many": {"assignee": "eve"},
        " of nobody": {"whose": "nobody"},
    }
    lists: dict[str, dict[str, str]] = {
        f"{show}{whom}{channel}": {"show": show} | whose[whom] | channels[channel]
        for show in get_args(Show)
        for whom in whose
        for channel in channels
    }
    lists |= {
        "owner": {"owner": "user-7"},
        "owner, failing": {"owner": "user-7", "show": "failing"},
        "search: an id": {"text": name},
        "search: beginning of an id": {"text": "whatsapp:49170000"},
        "search: end of an id": {"text": name[-5:]},
        "search: an owner": {"text": "user-7"},
        "search: a name": {"text": "Person 123456"},
        "search: a title": {"text": "Parcel 123457"},
        "search: a rare title": {"text": "heirloom"},
        "search: a frequent word": {"text": "margherita"},
        "search: a rare word": {"text": "sapphire"},
        "search: several words": {"text": NEEDLE},
        "search: frequent words": {"text": "margherita tomorrow parcel"},
        "search: a frequent word, failing": {"text": "margherita", "show": "failing"},
        "search: nothing": {"text": "xyzzy"},
    }
    return {what: f"/v1/desk/conversations?{urlencode(query)}" for what, query in lists.items()} | {
        "one conversation": f"/v1/conversations/{name}",
        "its log": f"/v1/conversations/{name}/messages",
        "its story": f"/v1/conversations/{name}/story",
        "its dead letters": f"/v1/conversations/{name}/dead-letters",
        "its deliveries": f"/v1/conversations/{name}/deliveries",
        "dead letters": "/v1/dead-letters",
        "health": "/v1/desk/health",
        "audit": "/v1/audit",
        "people": "/v1/desk/people",
        "replies": "/v1/desk/replies",
    }


DEEP = ("all", "all by WhatsApp", "off", "all of one with many", "search: a frequent word")
"""Of these the page behind ten others is measured too."""


class Processors:
    """The time that processors have spent: of this process, and of the sessions of a server on this machine."""

    def __init__(self, sessions: Sequence[int]) -> None:
        self.sessions = [psutil.Process(pid) for pid in sessions]

    def server_s(self) -> float:
        """Return what the server's sessions have spent."""
        return sum(sum(one.cpu_times()[:2]) for one in self.sessions)


async def sessions_of(url: str) -> list[int]:
    """Return the processes that a PostgreSQL on this machine has for us."""
    if not url.startswith("postgresql://"):
        return []
    db = await asyncpg.connect(url.partition("?")[0])
    found = await db.fetch(
        "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    await db.close()
    return [pid for (pid,) in found if psutil.pid_exists(pid)]


async def measure(url: str, total: int) -> bool:
    """Print what each page takes; whether each is quick enough."""
    keep = Chatkeep[Any](url)
    slow: list[str] = []
    name = f"c-{total // 2 + 1:07}" if (total // 2 + 1) % 3 else f"c-{total // 2 + 2:07}"
    async with keep:
        key = (await create_key(keep, "", everywhere=True)).token
        app = create_app(keep, title="Desk")
        async with app.router.lifespan_context(app):
            paths = pages_of_the_desk(name)
            for what in DEEP:
                path = following = paths[what]
                for _ in range(10):
                    answer = (await ask(app, following, key))[1]
                    if "next" in answer:
                        following = f"{path}&next={quote(answer['next'])}"
                paths[f"{what}, page 11"] = following
            print(f"{url.partition(':')[0]}: {total:,} conversations")
            print(f"{'':<44} {'time, ms':^14} {'processor, ms':^22}")
            print(
                f"{'page':<44} {'median':>7}{'most':>7} {'median':>7}{'most':>7}{'server':>8} {'shown':>6} {'bytes':>7}"
            )
            for what, path in paths.items():
                await ask(app, path, key)
                processors = Processors(await sessions_of(url))
                took, spent = list[float](), list[float]()
                before = processors.server_s()
                for _ in range(TIMES):
                    own = time.process_time()
                    lasted, answer, size = await ask(app, path, key)
                    spent.append((time.process_time() - own) * 1000)
                    took.append(lasted)
                server = (processors.server_s() - before) * 1000 / TIMES
                shown = len(answer.get("conversations", "-"))
                more = "+" if answer.get("next") else ""
                print(
                    f"{what:<44} {statistics.median(took):7.1f}{max(took):7.1f} {statistics.median(spent):7.1f}{max(spent):7.1f}"
                    f"{server:8.1f} {shown:>5}{more:1} {size:7,}",
                    flush=True,
                )
                slow += [what] if statistics.median(spent) + server >= MOST_MS else []
    if slow:
        print(f"More than {MOST_MS:g} ms of processors: {', '.join(slow)}.")
    return not slow


async def main() -> None:
    """Fill the store, unless it is full, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", default="")
    parser.add_argument("--conversations", type=int, default=1_000_000)
    parser.add_argument("--without-index", action="store_true")
    given = parser.parse_args()
    if not given.store:
        with PostgresServer() as server:
            await run(server.url, given.conversations, index=not given.without_index)
        return
    await run(given.store, given.conversations, index=not given.without_index)


async def run(url: str, total: int, *, index: bool) -> None:
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
    began = time.monotonic()
    async with Chatkeep[Any](url) as keep:
        text = core_of(keep).text_index
        answer = await text.step(limit=200 if index else 0, keep=index)
        while answer.entries:
            answer = await text.step(limit=200)
    print(f"indexed in {time.monotonic() - began:.0f} s" if index else "without an index")
    if not await measure(url, total):
        raise SystemExit(1)


if __name__ == "__main__":
    asyncio.run(main())
