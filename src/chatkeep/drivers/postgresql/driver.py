"""postgresql://user:password@host/db  Conversations in a PostgreSQL schema of their own, shared by any number of
processes.

A verb is one round trip: one statement that calls one function, in a transaction of its own. What queues up while
statements are under way goes into the next one, so that under load many acts share one trip and one commit, and an
act alone waits for nobody. The functions and tables are in the numbered files of sql/.

Options behind the `?`: `schema=chatkeep`, `timeout=5` (seconds a call may take), `connections=4` (half of them
write), `pooler=transaction` (behind one that hands out connections by transaction). What else asyncpg knows, such as
sslmode or target_session_attrs, is passed on; several hosts may be named.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from msgspec import structs

from ...errors import (
    Conflict,
    Duplicate,
    Misconfigured,
    Replaced,
    Unavailable,
    Unsupported,
)
from ..base import (
    ENTRIES_MOST,
    TOMBSTONE_KEPT_S,
    Ability,
    Appended,
    Entry,
    Finding,
    Index,
    Key,
    Lease,
    Pool,
    Row,
    create_row,
)
from ..openable import Openable
from .check import examined, passing
from .transport import BATCH_BYTES, Connections, Site, Statement, replaced

log = logging.getLogger("chatkeep")

OPTIONS = ("schema", "timeout", "connections", "pooler")
ASYNCPG = (
    "host port user password passfile database dbname sslmode sslcert sslkey sslrootcert sslcrl sslpassword sslnegotiation "
    "ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib"
)
PASSED_ON = sorted(ASYNCPG.split())
FAR = 1 << 62
PAYLOAD = 7_900  # NOTIFY takes less than 8000 bytes


class Act(NamedTuple):
    """An append, a write or an erasure on its way.

    replaces: of an erasure too, the only revision that it may erase. since: of an append, its tail; of an erasure, the
    time from which on marks are kept.
    """

    kind: Literal["append", "write", "erase"]
    row: Row
    replaces: str | None = None
    entries: Sequence[Entry] = ()
    since: float = 0
    drop: int = 0
    blank: Collection[int] = ()

    def __str__(self) -> str:
        return str(self.row.key)

    @property
    def bytes(self) -> int:
        """About how much it sends."""
        return len(self.row.body) + sum([len(entry.body) + 64 for entry in self.entries])


class Page(NamedTuple):
    """A read: the first *most* entries above *first* and below *before*, or else the last *most* below *before*."""

    key: Key
    first: int | None
    before: int
    most: int

    def __str__(self) -> str:
        return str(self.key)

    @property
    def bytes(self) -> int:
        """About how much it sends."""
        return 128


class Other(NamedTuple):
    """Anything that goes alone: the parameters of its statement."""

    arguments: tuple[Any, ...]
    subject: str = "The index"

    def __str__(self) -> str:
        return self.subject

    @property
    def bytes(self) -> int:
        """No room for another."""
        return BATCH_BYTES


class PostgresqlDriver(Openable):
    """One schema of a PostgreSQL database. See `Driver` for what each verb promises."""

    abilities = frozenset({Ability.SHARED, Ability.LOG, Ability.SCAN, Ability.WATCH, Ability.DURABLE, Ability.EPOCH})

    def __init__(self, url: str) -> None:
        self._site = site = site_of(url)
        super().__init__(site.store)
        if site.pooler:
            self.abilities -= {Ability.WATCH}  # LISTEN belongs to a session, and there is none
        self._connections: Connections | None = None
        self._acts = Statement(site.sql("commit_acts"), _act_arguments, _act_answers, writes=True)
        self._pages = Statement(site.sql("read_logs"), _page_arguments, _page_answers)
        self._picks = Statement(site.sql("pick_entries"), _only_arguments, _pick_answers)
        self._scans = Statement(site.sql("scan"), _only_arguments, _scan_answers)
        self._recent = Statement(site.sql("scan_recent"), _only_arguments, _scan_answers)
        self._notify = Statement(site.sql("announce"), _only_arguments, _no_answers)

    @property
    def connections(self) -> Connections:
        """Those of the store that is open, for what else is kept in its database."""
        return self._opened("done")

    async def _start(self) -> str:
        self._connections = connections = Connections(self._site)
        greeting = await connections.start()
        lost = passing(greeting)
        self.abilities = self.abilities - {Ability.DURABLE} if lost else self.abilities | {Ability.DURABLE}
        if lost:
            log.warning("%s is not durable: %s.", self.store, lost)
        return connections.epoch

    async def _stop(self) -> None:
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close()

    def pool(self) -> Pool:
        return self._connections.pool() if self._connections is not None else Pool()

    async def backup(self, path: str, *, replace: bool = False) -> None:
        raise Unsupported(
            f"The server copies a postgresql:// store; {path} was not written. Use pg_dump (docs/how-to/postgresql.md)."
        )

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        raise Unsupported("Nothing was read: ask the server with a client of its own (docs/how-to/postgresql.md).")

    async def read(self, key: Key, *, tail: int) -> tuple[Row, list[Entry]] | None:
        row, entries = await self._opened("read").read(self._pages, Page(key, None, FAR, tail))
        return None if row is None else (row, entries)

    async def append(
        self,
        key: Key,
        entries: Sequence[Entry],
        *,
        revision: str,
        at: float,
        due_at: float | None = None,
        lease: Lease | None = None,
        tail: int = 0,
        owner: str = "",
    ) -> Appended:
        row = create_row(key, revision=revision, at=at, due_at=due_at, lease=lease, owner=owner)
        act = Act("append", row, None, entries, tail)
        appended: Appended = await self._opened("written").write(self._acts, act)
        return appended

    async def write(
        self,
        row: Row,
        *,
        replaces: str | None,
        entries: Sequence[Entry] = (),
        since: int = 0,
        drop: int = 0,
        blank: Collection[int] = (),
    ) -> Row:
        act = Act("write", row, replaces, entries, since, drop, blank)
        stored: Row = await self._opened("written").write(self._acts, act)
        return stored

    async def entries(
        self,
        key: Key,
        *,
        after: int | None = None,
        before: int | None = None,
        ids: Collection[str] | None = None,
        limit: int = ENTRIES_MOST,
    ) -> list[Entry]:
        if ids is not None:
            found: list[Entry] = await self._opened("read").read(self._picks, Other((*key, list(ids), limit), str(key)))
            return found
        first = 0 if after is None and before is None else after
        page = Page(key, first, FAR if before is None else before, limit)
        _, entries = await self._opened("read").read(self._pages, page)
        return list(entries)

    async def scan(
        self,
        index: Index,
        *,
        tenant: str | None = None,
        owner: str = "",
        until: float | None = None,
        after: Row | None = None,
        limit: int,
    ) -> list[Row]:
        if index == "recent":
            newest = ("", "", FAR, 0.0) if after is None else (*after.key, after.recent, after.updated_at)
            statement, scan = self._recent, Other((tenant, *newest, limit))
        else:
            place = ("", "", -math.inf, FAR) if after is None else (*after.key, after.wake, after.recent)
            statement = self._scans
            scan = Other((index, tenant, owner, math.inf if until is None else until, *place, limit))
        rows: list[Row] = await self._opened("read").read(statement, scan)
        return rows

    async def erase(self, key: Key, *, at: float, revision: str | None = None) -> None:
        row = Row(key=key, revision="", incarnation="", updated_at=at)
        await self._opened("written").write(self._acts, Act("erase", row, revision, since=at - TOMBSTONE_KEPT_S))

    async def announce(self, marks: Collection[str]) -> None:
        if Ability.WATCH in self.abilities:
            connections = self._opened("announced")
            with contextlib.suppress(Unavailable):
                await connections.announce(self._notify, Other((self._site.schema, list(_payloads(marks)))))

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        connections = self._opened("watched")
        if Ability.WATCH in self.abilities:
            connections.listen(heard)

    async def examine(self) -> list[Finding]:
        return await examined(self._connections or Connections(self._site))

    def _opened(self, done: str) -> Connections:
        self.refuse_closed(done)
        assert self._connections is not None
        return self._connections


def site_of(url: str) -> Site:
    """What *url* says. Raises `Misconfigured`."""
    where = urlsplit(url)
    options = dict(parse_qsl(where.query, keep_blank_values=True))
    own = {name: options.pop(name) for name in OPTIONS if name in options}
    wrong = [f"{name} is not an option" for name in options if name not in PASSED_ON]
    schema = own.get("schema", "chatkeep")
    if not re.fullmatch("[a-z_][a-z0-9_]{0,47}", schema):
        wrong.append(f"schema={schema} is not a name of up to 48 a-z, 0-9 and _")
    timeout = _number(own.get("timeout", "5"))
    if not timeout > 0:
        wrong.append(f"timeout={own['timeout']} is not a number of seconds")
    connections = _number(own.get("connections", "4"))
    if not (connections >= 2 and connections.is_integer()):
        wrong.append(f"connections={own['connections']} is not a number from 2: some write, some read")
    if own.get("pooler", "transaction") != "transaction":
        wrong.append(f"pooler={own['pooler']} is not transaction")
    place = f"{where.netloc.rpartition('@')[2]}{where.path}"
    if wrong:
        raise Misconfigured(
            f"postgresql://{place} was not opened: {'; '.join(wrong)}. chatkeep's options are {', '.join(OPTIONS)}; to asyncpg are "
            f"passed on {', '.join(PASSED_ON)}."
        )
    return Site(
        store=f"postgresql://{place}, schema {schema}",
        dsn=urlunsplit(where._replace(scheme="postgresql", query=urlencode(options))),
        schema=schema,
        pooler="pooler" in own,
        target=options.get("target_session_attrs", "read-write"),
        timeout=timeout,
        connections=int(connections),
    )


# What goes over the wire: a batch as a few flat arrays, so that a turn costs little to encode.


def _act_arguments(acts: list[Act]) -> tuple[Any, ...]:
    texts: list[str | None] = []
    numbers: list[float | None] = []
    entries: list[Entry] = []
    for kind, row, replaces, added, since, drop, _ in acts:
        texts += (kind, *row.key, row.revision, row.incarnation, replaces, row.owner, row.lease)
        asked = any([entry.id for entry in added])
        numbers += (row.updated_at, row.recent, row.due_at, row.leased_until, row.head, since, drop, len(added), asked)
        entries += added
    return (
        texts,
        numbers,
        [act.row.body for act in acts],
        [entry.id for entry in entries],
        [entry.role for entry in entries],
        [entry.body for entry in entries],
        [f"{{{','.join(map(str, act.blank))}}}" if act.blank else None for act in acts],
    )


def _act_answers(acts: list[Act], found: list[Any]) -> list[Any]:
    return [_act_answer(act, answer) for act, answer in zip(acts, found, strict=True)]


def _act_answer(act: Act, found: Any) -> Any:
    key, verdict = act.row.key, found[0]
    if verdict == "done" and act.kind == "write":
        return structs.replace(act.row, head=found[3])
    if verdict == "done" and act.kind == "append":
        return Appended(_row(key, found), _entries(found), _known(found))
    if verdict == "done":
        return None
    row = None if found[1] is None else _row(key, found)
    match verdict:
        case "found":
            return row
        case "known":
            known = _known(found)
            return Duplicate(
                f"{key}: {', '.join(known)} is in the log", row=_row(key, found), numbers=known, entries=_entries(found)
            )
        case "conflict":
            return Conflict(f"{key}: revision {act.replaces} is not the stored one", row=row, entries=_entries(found))
        case "erased":
            return Conflict(f"{key} was erased later than this act", row=row, erased_at=found[10])
        case "absent":
            return Conflict(f"{key}: nothing is there", erased_at=found[10])
    return Replaced(f"{key}: {replaced('the store')}")


def _page_arguments(pages: list[Page]) -> tuple[Any, ...]:
    return (
        [page.key.tenant for page in pages],
        [page.key.id for page in pages],
        [bound for page in pages for bound in page[1:]],
    )


def _page_answers(pages: list[Page], found: list[Any]) -> list[Any]:
    return [
        (_row(page.key, answer), _entries(answer))
        if answer[0] == "found"
        else (None, [])
        if answer[0] == "absent"
        else Replaced(f"{page.key}: {replaced('the store')}")
        for page, answer in zip(pages, found, strict=True)
    ]


def _only_arguments(items: list[Other]) -> tuple[Any, ...]:
    return items[0].arguments


def _pick_answers(picks: list[Other], found: list[Any]) -> list[Any]:
    return [
        Replaced(f"{pick}: {replaced('the store')}") if answer[0] == "replaced" else _entries(answer)
        for pick, answer in zip(picks, found, strict=True)
    ]


def _scan_answers(_: list[Other], found: list[Any]) -> list[Any]:
    if found and found[0]["id"] is None:
        return [Replaced(replaced("the store"))]
    return [[_row(Key(row["tenant"], row["id"]), (None, *[row[name] for name in COLUMNS])) for row in found]]


def _no_answers(_: list[Other], found: list[Any]) -> list[Any]:
    return [None]


COLUMNS = ("revision", "born", "head", "body", "owner", "updated_at", "due_at", "claim", "claimed_until")
"""A row's, as answers have them behind the verdict."""


def _row(key: Key, found: Sequence[Any]) -> Row:
    return Row(
        key=key,
        revision=found[1],
        incarnation=found[2],
        head=found[3],
        body=found[4],
        owner=found[5],
        updated_at=found[6],
        due_at=found[7],
        lease=found[8],
        leased_until=found[9],
    )


def _known(found: Any) -> dict[str, int]:
    return dict(zip(found[11], found[12], strict=True)) if found[11] else {}


def _entries(found: Any) -> list[Entry]:
    if found[13] is None:
        return []
    return [Entry(*parts) for parts in zip(*found[13:17], strict=True)]


def _payloads(marks: Collection[str]) -> Iterator[str]:
    """The marks, one a line, in pieces that a notification can carry."""
    piece = ""
    for mark in marks:
        if piece and len(f"{piece}\n{mark}".encode()) > PAYLOAD:
            yield piece
            piece = mark
        else:
            piece = f"{piece}\n{mark}" if piece else mark
    if piece:
        yield piece


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
