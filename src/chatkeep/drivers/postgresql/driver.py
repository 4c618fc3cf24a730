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
from typing import Any, NamedTuple
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
    step_at,
)
from ..openable import Openable
from .check import examined, passing
from .opening import Opener, replaced
from .seam import Site, Statement, Transport
from .search import index_statement, search_statement
from .transport import Connections

log = logging.getLogger("chatkeep")

OPTIONS = ("schema", "timeout", "connections", "pooler")
ASYNCPG = (
    "host port user password passfile database dbname sslmode sslcert sslkey sslrootcert sslcrl sslpassword sslnegotiation "
    "ssl_min_protocol_version ssl_max_protocol_version target_session_attrs krbsrvname gsslib"
)
PASSED_ON = sorted(ASYNCPG.split())
TIDY_S = 60.0  # between two removals of counters whose windows ended long ago
PAYLOAD = 7_900  # NOTIFY takes less than 8000 bytes


class Announcement(NamedTuple):
    """What is sent to all who listen on a channel."""

    channel: str
    payloads: list[str]

    def __str__(self) -> str:
        return "An announcement"


class PostgresqlDriver(Openable):
    """One schema of a PostgreSQL database. See `Driver` for what each verb promises."""

    abilities = frozenset(Ability)
    about = About(
        urls=("postgresql://user:password@host/db", "postgres://user:password@host/db"),
        use="many instances, and SQL over the state",
        costs="a message: one round trip with one commit, which those that wait share; looking for work: one query",
        lacks="announcements through a transaction pooler",
        depends={Ability.WATCH: "yes, not through a transaction pooler"},
    )

    def __init__(self, url: str) -> None:
        self._site = site = site_of(url)
        super().__init__(site.store)
        if site.pooler:
            self.abilities -= {Ability.WATCH}  # LISTEN belongs to a session, and there is none
        self._connections: Transport | None = None
        self._acts = Statement(site.sql("commit_acts"), _act_arguments, _act_answers, writes=True)
        self._pages = Statement(site.sql("read_logs"), _page_arguments, _page_answers)
        self._picks = Statement(site.sql("pick_entries"), _pick_arguments, _pick_answers, alone=True)
        arguments = {
            "scan": _scan_arguments,
            "scan_recent": _recent_arguments,
            "scan_recent_all": _recent_arguments,
            "scan_recent_since": _since_arguments,
        }
        self._scans = {
            name: Statement(site.sql(name), arguments_of, _scan_answers, alone=True)
            for name, arguments_of in arguments.items()
        }
        self._counts = Statement(site.sql("count_hits"), _count_arguments, _count_answers, writes=True)
        self._forget = Statement(site.sql("forget_counters"), _forget_arguments, _no_answers, writes=True, alone=True)
        self._fence = Statement(site.sql("set_epoch"), _fence_arguments, _fence_answers, writes=True, alone=True)
        self._search = search_statement(site)
        self._index_text = {writes: index_statement(site, writes=writes) for writes in (False, True)}
        self._tidy_at = 0.0
        self._notify = Statement(site.sql("announce"), _announce_arguments, _no_answers, alone=True)

    async def _start(self) -> str:
        self._connections = connections = Connections(self._site)
        greeting = await connections.start()
        lost = passing(greeting)
        self.abilities = self.abilities - {Ability.DURABLE} if lost else self.abilities | {Ability.DURABLE}
        if lost:
            log.warning("%s is not durable: %s.", self.store, lost)
        return connections.epoch

    async def examine(self) -> list[Finding]:
        return await examined(Opener(self._site))

    async def announce(self, marks: Collection[str]) -> None:
        if Ability.WATCH in self.abilities:
            connections = self._opened("announced")
            with contextlib.suppress(Unavailable):
                await connections.announce(self._notify, Announcement(self._site.schema, list(_payloads(marks))))

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        connections = self._opened("watched")
        if Ability.WATCH in self.abilities:
            connections.listen(heard)

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

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        row, entries = await self._opened("read").read(self._pages, act)
        return None if row is None else (row, entries)

    async def append(self, act: Append) -> Appended:
        appended: Appended = await self._opened("written").write(self._acts, act)
        return appended

    async def write(self, act: Write) -> Row:
        stored: Row = await self._opened("written").write(self._acts, act)
        return stored

    async def entries(self, act: Entries) -> list[Entry]:
        if act.ids is not None:
            found: list[Entry] = await self._opened("read").read(self._picks, act)
            return found
        _, entries = await self._opened("read").read(self._pages, act)
        return list(entries)

    async def scan(self, act: Scan) -> list[Row]:
        everywhere = "scan_recent_all" if act.tenant is None else "scan_recent"
        recent = everywhere if act.since is None else "scan_recent_since"
        name = recent if act.index == "recent" else "scan"
        rows: list[Row] = await self._opened("read").read(self._scans[name], act)
        return rows

    async def erase(self, act: Erase) -> None:
        await self._opened("written").write(self._acts, act)

    async def count(self, act: Count) -> Counted:
        connections = self._opened("counted")
        counting = connections.count(self._counts, act)
        if act.at > self._tidy_at:
            self._tidy_at = act.at + TIDY_S
            connections.count(self._forget, act).add_done_callback(lambda done: done.cancelled() or done.exception())
        counted: Counted = await counting
        return counted

    async def fence(self, act: Fence) -> None:
        connections = self._opened("done")
        await connections.write(self._fence, act)
        connections.epoch = self.epoch = act.epoch

    async def search(self, act: Search) -> Hits:
        connections = self._opened("searched")
        found: Hits = await connections.read(self._search, act) if act.terms else Hits([], None)
        return found

    async def index_text(self, act: IndexText) -> Indexed:
        connections = self._opened("indexed")
        writes = act.keep is not None or bool(act.words)
        carried = (connections.write if writes else connections.read)(self._index_text[writes], act)
        indexed: Indexed = await carried
        return indexed

    def _opened(self, done: str) -> Transport:
        self.refuse_closed(done)
        assert self._connections is not None
        return self._connections


def site_of(url: str) -> Site:
    """Return what *url* says. Raises `Misconfigured`."""
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


def _act_arguments(acts: list[Append | Write | Erase]) -> tuple[Any, ...]:
    texts: list[str | None] = []
    numbers: list[float | None] = []
    bodies: list[bytes] = []
    blanks: list[str | None] = []
    entries: list[Entry] = []
    for act in acts:
        if isinstance(act, Erase):
            texts += ("erase", *act.key, "", "", act.revision, "", None)
            numbers += (act.at, 0, None, 0.0, 0, act.at - TOMBSTONE_KEPT_S, 0, 0, False)
            bodies.append(b"")
            blanks.append(None)
            continue
        kind, row, replaces, since, drop, blank = (
            ("write", act.row, act.replaces, act.since, act.drop, act.blank)
            if isinstance(act, Write)
            else ("append", act.make_row(), None, act.tail, 0, ())
        )
        added = act.entries
        texts += (kind, *row.key, row.revision, row.incarnation, replaces, row.owner, row.lease)
        asked = any([entry.id for entry in added])
        numbers += (row.updated_at, row.recent, row.due_at, row.leased_until, row.head, since, drop, len(added), asked)
        bodies.append(row.body)
        blanks.append(f"{{{','.join(map(str, blank))}}}" if blank else None)
        entries += added
    return (
        texts,
        numbers,
        bodies,
        [entry.id for entry in entries],
        [entry.role for entry in entries],
        [entry.body for entry in entries],
        blanks,
    )


def _act_answers(acts: list[Append | Write | Erase], found: list[Any]) -> list[Any]:
    return [_act_answer(act, answer) for act, answer in zip(acts, found, strict=True)]


def _act_answer(act: Append | Write | Erase, found: Any) -> Any:
    verdict = found[0]
    if verdict == "done" and isinstance(act, Write):  # as nearly always
        return structs.replace(act.row, head=found[3])
    key = act.key
    if verdict == "done":
        return Appended(_row(key, found), _entries(found), _known(found)) if isinstance(act, Append) else None
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
            return Conflict(f"{key}: another revision is stored", row=row, entries=_entries(found))
        case "erased":
            return Conflict(f"{key} was erased later than this act", row=row, erased_at=found[10])
        case "absent":
            return Conflict(f"{key}: nothing is there", erased_at=found[10])
    return Replaced(f"{key}: {replaced('the store')}")


def _page_arguments(pages: list[Read | Entries]) -> tuple[Any, ...]:
    return (
        [page.key.tenant for page in pages],
        [page.key.id for page in pages],
        [bound for page in pages for bound in _bounds(page)],
    )


def _bounds(page: Read | Entries) -> tuple[int | None, int, int]:
    """Return bounds and a count: the first so many entries above the first number and below the second are asked for, or, without a
    first number, the last so many."""
    if isinstance(page, Read):
        return None, FAR, page.tail
    first = 0 if page.after is None and page.before is None else page.after
    return first, FAR if page.before is None else page.before, page.limit


def _page_answers(pages: list[Read | Entries], found: list[Any]) -> list[Any]:
    return [
        (_row(page.key, answer), _entries(answer))
        if answer[0] == "found"
        else (None, [])
        if answer[0] == "absent"
        else Replaced(f"{page.key}: {replaced('the store')}")
        for page, answer in zip(pages, found, strict=True)
    ]


def _pick_arguments(picks: list[Entries]) -> tuple[Any, ...]:
    (act,) = picks
    return *act.key, list(act.ids or ()), act.limit


def _pick_answers(picks: list[Entries], found: list[Any]) -> list[Any]:
    return [
        Replaced(f"{pick}: {replaced('the store')}") if answer[0] == "replaced" else _entries(answer)
        for pick, answer in zip(picks, found, strict=True)
    ]


def _scan_arguments(scans: list[Scan]) -> tuple[Any, ...]:
    (act,) = scans
    after, until = act.after, math.inf if act.until is None else act.until
    place = ("", "", -math.inf, FAR) if after is None else (*after.key, after.wake, after.recent)
    return act.index, act.tenant, act.owner, until, *place, act.limit


def _recent_arguments(scans: list[Scan]) -> tuple[Any, ...]:
    (act,) = scans
    after = act.after
    place = ("", "", FAR, 0.0) if after is None else (*after.key, after.recent, after.updated_at)
    return act.tenant, *place, act.limit


def _since_arguments(scans: list[Scan]) -> tuple[Any, ...]:
    (act,) = scans
    since = act.since or 0.0
    return *_recent_arguments(scans), step_at(since), since


def _scan_answers(_: list[Scan], found: list[Any]) -> list[Any]:
    if found and found[0]["id"] is None:
        return [Replaced(replaced("the store"))]
    return [[_row(Key(row["tenant"], row["id"]), (None, *[row[name] for name in COLUMNS])) for row in found]]


def _count_arguments(acts: list[Count]) -> tuple[Any, ...]:
    return (
        [act.name for act in acts],
        [float(act.window_s) for act in acts],
        [act.at for act in acts],
        [act.cost for act in acts],
    )


def _count_answers(_: list[Count], found: list[Any]) -> list[Any]:
    return [Counted(hits, ends) for hits, ends in found]


def _forget_arguments(acts: list[Count]) -> tuple[Any, ...]:
    return (acts[0].at - COUNTERS_KEPT_S,)


def _fence_arguments(acts: list[Fence]) -> tuple[Any, ...]:
    return (acts[0].epoch,)


def _fence_answers(_: list[Fence], found: list[Any]) -> list[Any]:
    return [None if found[0]["fenced"] else Replaced(replaced("the store"))]


def _announce_arguments(announcements: list[Announcement]) -> tuple[Any, ...]:
    return tuple(announcements[0])


def _no_answers(_: list[Any], found: list[Any]) -> list[Any]:
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
    """Return the marks, one a line, in pieces that a notification can carry."""
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
