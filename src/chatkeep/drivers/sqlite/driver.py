"""sqlite:///path  Conversations in one file, durable at each answer: WAL, synchronous=FULL, several processes on one
host.

One thread writes: whatever queued up while the last commit ran goes into the next BEGIN IMMEDIATE .. COMMIT, so that
under load many acts share one fsync. Where acts come one at a time, none waits for another. Reads have threads and connections of their
own (`transport`). The statements are in sql/queries.sql, the schema in the numbered files beside it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import apsw
from msgspec import structs

from ...errors import (
    Conflict,
    Duplicate,
    Misconfigured,
    is_utf8,
)
from ...offload import offload, offload_taking
from ..base import (
    COUNTERS_KEPT_S,
    FAR,
    TOMBSTONE_KEPT_S,
    Ability,
    About,
    Append,
    Appended,
    Count,
    Counted,
    Entries,
    Entry,
    Erase,
    Fence,
    Finding,
    Hits,
    Indexed,
    IndexText,
    Key,
    Pool,
    Read,
    Row,
    Scan,
    Search,
    Write,
    mark_of,
    step_at,
)
from ..openable import Openable
from ..packing import pack, unpack
from ..statements import named
from .backup import back_up
from .check import examined, fit
from .file import OpenFile
from .news import News
from .opening import replaced, take
from .query import run_query
from .seam import Transport
from .search import index_text, search
from .transport import Connections


class SqliteDriver(Openable):
    """One SQLite file. See `Driver` for what each verb promises."""

    abilities = frozenset(Ability)
    about = About(
        urls=("sqlite:///chat.db", "sqlite:////var/chat.db"),
        use="one machine; the default",
        costs="a message: one commit with one fsync, which those that come at the same time share; looking for work: one read",
        lacks="several hosts, or a file on a network",
        depends={Ability.SHARED: "yes, on one host"},
    )

    def __init__(self, url: str) -> None:
        path = url.partition("://")[2]
        if not path.startswith("/") or len(path) == 1 or path == "/:memory:":
            shown = "sqlite://…" if "@" in url else url  # (what was meant for a server may have a password in it)
            raise Misconfigured(
                f"{shown!r} names no file: write sqlite:///chat.db for a file here, sqlite:////var/chat.db for an absolute path, "
                "memory:// for no file at all."
            )
        if not is_utf8(path):
            raise Misconfigured(
                f"{url!a} is not UTF-8, in which SQLite names files; nothing was opened. Name another file."
            )
        if re.search(r"\?\w+=", path):  # it would be a part of the file's name
            raise Misconfigured(
                f"{url.partition('?')[0]!r} has an option, and sqlite:// takes none; nothing was opened. Write the path alone."
            )
        self.path = path[1:]
        self._absolute = os.path.abspath(self.path)  # a later chdir leaves the store where it is
        super().__init__(f"sqlite:///{self.path}")
        self._connections: Transport | None = None
        self._news: News | None = None

    async def _start(self) -> str:
        if not fit():
            raise Misconfigured(f"SQLite {apsw.sqlite_lib_version()} can corrupt a shared WAL file; upgrade apsw.")
        file = await offload_taking(lambda: take(self.path, self._absolute), OpenFile.leave)
        self._news = News(file.real)
        try:
            self._connections = connections = Connections(self.path, file)
        except BaseException:
            file.leave()
            raise
        return await connections.write(_epoch, None)

    async def examine(self) -> list[Finding]:
        return await offload(examined, self._absolute)

    async def announce(self, marks: Collection[str]) -> None:
        self._opened("announced")
        assert self._news is not None
        if not self._news.hold(marks):
            await offload(self._news.tell, marks)

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        self._opened("watched")
        assert self._news is not None
        self._news.listen(heard)

    async def _stop(self) -> None:
        if self._news is not None:
            self._news.close()
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    def pool(self) -> Pool:
        return self._connections.pool() if self._connections is not None else Pool()

    async def backup(self, path: str, *, replace: bool = False) -> None:
        connections = self._opened("done")
        await connections.look(lambda slot: back_up(connections, slot, path, replace))

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        connections = self._opened("done")
        return await connections.look(lambda slot: run_query(connections, slot, sql, parameters))

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        return await self._opened("read").read(self._read, act)

    async def append(self, act: Append) -> Appended:
        return await self._opened("written").write(self._append, act)

    async def write(self, act: Write) -> Row:
        return await self._opened("written").write(self._write, act)

    async def entries(self, act: Entries) -> list[Entry]:
        return await self._opened("read").read(self._entries, act)

    async def scan(self, act: Scan) -> list[Row]:
        return await self._opened("read").read(self._scan, act)

    async def erase(self, act: Erase) -> None:
        await self._opened("written").write(self._erase, act)

    async def count(self, act: Count) -> Counted:
        return await self._opened("counted").write(self._count, act, durable=False)

    async def fence(self, act: Fence) -> None:
        await self._opened("done").write(self._fence, act)
        self.epoch = act.epoch

    async def search(self, act: Search) -> Hits:
        return await self._opened("searched").read(self._search, act)

    async def index_text(self, act: IndexText) -> Indexed:
        connections = self._opened("indexed")
        if not act.words and act.keep is None:
            return await connections.read(self._index_text, act)
        # A machine that stops may take with it what was put in last: it lacks again then, for that is noted in the same transaction.
        return await connections.write(self._index_text, act, durable=act.keep is not None)

    def _read(self, db: apsw.Connection, act: Read) -> tuple[Row, list[Entry]] | None:
        found = self._find(db, act.key)
        return None if found is None else (found[1], _tail(db, found[0], found[1].head, act.tail))

    def _append(self, db: apsw.Connection, act: Append) -> Appended:
        return self._added(db, act.make_row(), act.entries, act.tail)

    def _added(self, db: apsw.Connection, row: Row, entries: Sequence[Entry], tail: int) -> Appended:
        key = row.key
        ids = [entry.id for entry in entries]
        values = _values(row, b"") | {"added": len(entries), "mark": _mark(key), "epoch": self.epoch}
        found = db.execute(sql("append", ids=len(ids)), values | _numbered(ids)).fetchone()
        if found is not None:
            number, stored = found[0], _row(key, found[1:])
            _add(db, number, stored.head, entries)
            return Appended(stored, _tail(db, number, stored.head, tail), {})
        self._refuse_replaced(db)
        there = self._find(db, key)
        erased = db.execute(sql("mark"), values).fetchone()
        if erased is not None:
            raise Conflict(
                f"{key} was erased later than this act", row=there[1] if there else None, erased_at=erased[0]
            )
        known = _known(db, there[0], ids) if there else {}
        if there and (there[1].revision == row.revision or (ids and len(known) == len(ids))):
            return Appended(there[1], _tail(db, there[0], there[1].head, tail), known)
        if there:
            news = [entry for entry in entries if entry.id not in known]
            rest = self._added(db, row, news, tail)
            return Appended(rest.row, rest.tail, known)
        number, head = db.execute(sql("create"), values | {"head": 0}).get
        _add(db, number, head, entries)
        return Appended(structs.replace(row, head=head), _tail(db, number, head, tail), {})

    def _write(self, db: apsw.Connection, act: Write) -> Row:
        row, key, replaces, entries = act.row, act.row.key, act.replaces, act.entries
        ids = [entry.id for entry in entries if entry.id]
        if replaces is None:
            self._refuse_replaced(db)
            values = _values(row, pack(row.body)) | {"added": len(entries), "head": row.head, "mark": _mark(key)}
            found = db.execute(sql("create"), values).fetchone()
        else:
            places = (
                row.revision,
                len(entries),
                pack(row.body),
                row.updated_at,
                key.tenant,
                key.id,
                replaces,
                row.incarnation,
                row.recent,
                row.due_at,
                row.lease,
                row.leased_until,
                row.owner,
                self.epoch,
                *ids,
            )
            found = db.execute(sql("rewrite", ids=len(ids)), places).fetchone()
            found = found or db.execute(sql("write", ids=len(ids)), places).fetchone()
        if found is not None:
            number, head = found
            _add(db, number, head, entries)
            if act.drop:
                db.execute(sql("drop"), {"conversation": number, "drop": act.drop})
            for blanked in act.blank:
                db.execute(sql("blank"), {"conversation": number, "number": blanked})
            return structs.replace(row, head=head)
        self._refuse_replaced(db)
        there = self._find(db, key)
        if there is None:
            erased = db.execute(sql("mark"), {"mark": _mark(key), "at": -1e300}).fetchone()
            raise Conflict(f"{key}: nothing is there", erased_at=erased[0] if erased else None)
        number, stored = there
        if stored.revision == row.revision:
            return stored
        news = _entries(db.execute(sql("after"), {"conversation": number, "after": act.since, "limit": 200}))
        if known := _known(db, number, ids):
            raise Duplicate(f"{key}: {', '.join(known)} is in the log", row=stored, numbers=known, entries=news)
        raise Conflict(f"{key}: revision {replaces} is not the stored one", row=stored, entries=news)

    def _entries(self, db: apsw.Connection, act: Entries) -> list[Entry]:
        above = {
            "tenant": act.key.tenant,
            "id": act.key.id,
            "limit": act.limit,
            "before": FAR if act.before is None else min(act.before, FAR),
        }
        self._find(db, act.key)
        if act.ids is not None:
            asked = list(act.ids)
            return _entries(db.execute(sql("with_ids", ids=len(asked)), above | _numbered(asked)))
        if act.after is None and act.before is not None:
            return _entries(db.execute(sql("before"), above))[::-1]
        return _entries(db.execute(sql("between"), {**above, "after": min(act.after or 0, FAR)}))

    def _scan(self, db: apsw.Connection, act: Scan) -> list[Row]:
        name, after = f"scan_{act.index}", act.after
        if act.tenant is None and act.index != "due":
            name += "_all" if act.index != "recent" or act.since is None else "_since"
        place = {
            "within": act.tenant,
            "owner": act.owner,
            "until": act.until if act.until is not None else 1e300,
            "limit": act.limit,
            "tenant": after.key.tenant if after else "",
            "id": after.key.id if after else "",
            "wake": -1e300 if after is None else after.wake,
            "recent": after.recent if after else FAR,
            "updated_at": after.updated_at if after else 0.0,
            "first": -FAR if act.since is None else step_at(act.since),
            "since": -1e300 if act.since is None else act.since,
        }
        self._refuse_replaced(db)
        return [_row(Key(*found[:2]), found[2:]) for found in db.execute(sql(name), place)]

    def _erase(self, db: apsw.Connection, act: Erase) -> None:
        self._refuse_replaced(db)
        key, at = act.key, act.at
        found = self._find(db, key)
        if found and act.revision not in (None, found[1].revision):
            raise Conflict(f"{key}: revision {act.revision} is not the stored one", row=found[1])
        mark = max(at, found[1].updated_at) if found else at
        if act.revision is None or not found or found[1].updated_at >= at - TOMBSTONE_KEPT_S:
            db.execute(sql("bury"), {"mark": _mark(key), "at": mark})
        db.execute(sql("forget_marks"), {"before": at - TOMBSTONE_KEPT_S})
        if found:
            db.execute(sql("erase_entries"), {"conversation": found[0]})
            db.execute(sql("erase"), {"conversation": found[0]})

    def _count(self, db: apsw.Connection, act: Count) -> Counted:
        db.execute(sql("forget_counters"), {"before": act.at - COUNTERS_KEPT_S})
        values = {"name": act.name, "at": act.at, "window": act.window_s, "cost": act.cost}
        return Counted(*db.execute(sql("count"), values).get)

    def _fence(self, db: apsw.Connection, act: Fence) -> None:
        if db.execute(sql("epoch")).fetchone() != (act.epoch,):
            self._refuse_replaced(db)
            db.execute(sql("fence"), {"epoch": act.epoch})
        db.execute(named("sqlite", "closing.sql")["close" if act.closes else "reopen"])

    def _search(self, db: apsw.Connection, act: Search) -> Hits:
        self._refuse_replaced(db)
        return search(db, act)

    def _index_text(self, db: apsw.Connection, act: IndexText) -> Indexed:
        self._refuse_replaced(db)
        return index_text(db, act)

    def _find(self, db: apsw.Connection, key: Key) -> tuple[int, Row] | None:
        found = db.execute(sql("find"), {"tenant": key.tenant, "id": key.id}).fetchone()
        if found is None:
            self._refuse_replaced(db)
            return None
        return found[0], _row(key, found[1:])

    def _refuse_replaced(self, db: apsw.Connection) -> None:
        """Raise `Replaced` when the file does not hold what it held when it was opened."""
        found = db.execute(sql("epoch")).fetchone()
        if found is None or found[0] != self.epoch:
            raise replaced(self.path, "was emptied, or fenced off")

    def _opened(self, done: str) -> Transport:
        self.refuse_closed(done)
        assert self._connections is not None
        return self._connections


def _values(row: Row, body: bytes) -> dict[str, Any]:
    return {
        "tenant": row.key.tenant,
        "id": row.key.id,
        "revision": row.revision,
        "born": row.incarnation,
        "body": body,
        "owner": row.owner,
        "at": row.updated_at,
        "recent": row.recent,
        "due_at": row.due_at,
        "claim": row.lease,
        "claimed_until": row.leased_until,
    }


def _numbered(ids: Sequence[str]) -> dict[str, str]:
    return {f"id{place}": entry_id for place, entry_id in enumerate(ids)}


def _row(key: Key, found: tuple[Any, ...]) -> Row:
    revision, incarnation, head, body, owner, updated_at, due_at, lease, leased_until = found
    return Row(
        key=key,
        revision=revision,
        incarnation=incarnation,
        head=head,
        body=unpack(body),
        owner=owner,
        updated_at=updated_at,
        due_at=due_at,
        lease=lease,
        leased_until=leased_until,
    )


def _add(db: apsw.Connection, conversation: int, head: int, entries: Sequence[Entry]) -> None:
    if not entries:
        return
    values: list[Any] = []
    for number, entry in enumerate(entries, head - len(entries) + 1):
        values += (conversation, number, entry.id, entry.role, pack(entry.body))
    db.execute(sql("add", rows=len(entries)), values)


def _known(db: apsw.Connection, conversation: int, ids: Sequence[str]) -> dict[str, int]:
    found: list[Any] = db.execute(
        sql("known", ids=len(ids)), {"conversation": conversation, **_numbered(ids)}
    ).fetchall()
    return dict(found)


def _tail(db: apsw.Connection, conversation: int, head: int, tail: int) -> list[Entry]:
    if not tail:
        return []
    return _entries(db.execute(sql("after"), {"conversation": conversation, "after": head - tail, "limit": tail}))


def _entries(found: apsw.Cursor) -> list[Entry]:
    return [Entry(number, entry_id, role, unpack(body)) for number, entry_id, role, body in found]


def _mark(key: Key) -> bytes:
    # A tombstone must not keep the name it erased.
    return bytes.fromhex(mark_of(key))


def _epoch(db: apsw.Connection, _: None) -> str:
    db.execute("insert into meta values ('epoch', ?) on conflict do nothing", (secrets.token_hex(8),))
    return str(db.execute("select value from meta where name = 'epoch'").get)


@cache
def sql(name: str, *, ids: int = 0, rows: int = 0) -> str:
    """Return the named statement of queries.sql, made for that many ids or rows."""
    return (
        named("sqlite")[name]
        .replace("{places}", ", ".join(f"?{n}" for n in range(15, 15 + ids)) or "null")
        .replace("{ids}", ", ".join(f":id{n}" for n in range(ids)) or "null")
        .replace("{rows}", ", ".join(["(?, ?, ?, ?, ?)"] * rows))
    )
