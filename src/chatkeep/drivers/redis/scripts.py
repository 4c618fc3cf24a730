"""What the verbs say to a Redis: key names, scripts, arguments. No connection is in here, so that whoever can carry an EVALSHA may
use it; `replies` says what comes back.

A conversation is a hash (its row), a list (its log) and a hash of ids; buckets hold them, each in one hash slot with
the sorted sets that find its conversations, the marks of its erasures and a copy of the store's epoch:

    PREFIX:{12}:row:TENANT\\0ID   :log:..   :ids:..   PREFIX:{12}:due   :key   :owner   :recent   :erased   :epoch
    PREFIX:meta                  epoch, format, number of buckets: 64, unless the store was made by a driver that takes fewer
    PREFIX:count:NAME            hits of a rate limit, until its window has ended

The scripts are the files in lua/; common.lua begins each of those that look at a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from math import ceil, isfinite
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from ...errors import Unsupported
from ..base import (
    COUNTERS_KEPT_S,
    RECENT_GRAIN_S,
    TOMBSTONE_KEPT_S,
    Append,
    Count,
    Entries,
    Entry,
    Erase,
    Index,
    Key,
    Read,
    Row,
    Scan,
    Write,
    mark_of,
    row_at,
)
from ..packing import MARKS, pack, pack_text
from ..scanning import due_of, last_score
from ..shipped import read_file

BUCKETS = 64
"""How many a store is made with. The store says how many it has, which never changes: a key's bucket follows from it."""

BUCKETS_MOST = 1024

FORMAT = 1

PACKED_FROM = 2048  # a shorter body gains too little for the time it takes, and can be read in the server as it is

Argument = bytes | str | int
Place = tuple[float, bytes]  # where a row stands in an index: its score there (0 where names order) and its member


class Script(NamedTuple):
    """A script by its text and its name on the server."""

    text: bytes
    sha: bytes


class Home(Struct, eq=False, gc=False):
    """Where scripts work: their KEYS, and the ARGV that come first and say the same whenever they work there."""

    keys: tuple[bytes, ...]
    names: tuple[Argument, ...] = ()
    packed: bytes = b""
    """Both as a transport has packed them, for the next script that works there."""


class ScriptRun(NamedTuple):
    """One run of a script. *writes*: unanswered, nobody knows whether it happened."""

    script: Script
    home: Home
    arguments: Sequence[Argument]
    writes: bool = False

    @property
    def whole(self) -> tuple[Argument, ...]:
        """The command with the whole script in it, for a server that does not have it yet."""
        keys = self.home.keys
        return b"EVAL", self.script.text, len(keys), *keys, *self.home.names, *self.arguments


META = (b"epoch", b"format", b"buckets", b"copied")


class Meta(NamedTuple):
    """What is said about the whole store; '' for what is not."""

    epoch: str
    format: str
    buckets: str
    copied: str


def _script(*names: str) -> Script:
    text = b"".join(read_file("redis", "lua", f"{name}.lua") for name in names)
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


READ = _script("common", "read")
ENTRIES = _script("common", "entries")
PICKED = _script("common", "picked")
APPEND = _script("common", "append")
WRITE = _script("common", "write")
ERASE = _script("common", "erase")
SCAN = _script("scan")
ROWS = _script("common", "rows")
COUNT = _script("count")
VERBS = (READ, ENTRIES, PICKED, APPEND, WRITE, ERASE, SCAN, ROWS, COUNT)
MAKE = _script("make")
PROBE = _script("probe")


class Bucket:
    """The names of one bucket's keys."""

    def __init__(self, prefix: str, number: int) -> None:
        self.start = f"{prefix}:{{{number}}}:".encode()
        self.epoch = self.start + b"epoch"
        self.places = {index: self.start + index.encode() for index in PLACES}
        self._row, self._log, self._ids = (self.start + part for part in (b"row:", b"log:", b"ids:"))
        self._shared = (self.start + b"erased", *self.places.values())

    def row_of(self, member: bytes) -> bytes:
        """Return the name of a conversation's row."""
        return self._row + member

    def keys_of(self, member: bytes) -> tuple[bytes, ...]:
        """Return a conversation's KEYS, in the order of the scripts."""
        return (self.epoch, self._row + member, self._log + member, self._ids + member, *self._shared)


PLACES: tuple[Index, ...] = ("due", "key", "owner", "recent")
"""The indexes, in the order of the scripts' KEYS."""


class Acts:
    """Says the verbs for the store under *prefix*, once its *epoch* is known, and its number of *buckets* where it has others than
    it would be made with. *small* is what bodies are stored as."""

    def __init__(self, prefix: str, *, buckets: int = BUCKETS, small: Callable[[bytes], bytes] | None = None) -> None:
        self.prefix = prefix
        self._epoch = ""
        self._homes: dict[Key, Home] = {}
        self.meta = f"{prefix}:meta".encode()
        self.channel = f"{prefix}:changed".encode()
        self.small = small or _small
        self.divide(buckets)

    @property
    def epoch(self) -> str:
        """The store's; a server that has another one refuses what is said."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch: str) -> None:
        """Say another one from now on."""
        self._epoch = epoch
        self._homes.clear()

    def divide(self, count: int) -> None:
        """Look for conversations in so many buckets from now on."""
        self.buckets = [Bucket(self.prefix, number) for number in range(count)]
        self._homes.clear()

    def make(self, seen: str, epoch: str) -> ScriptRun:
        """Make *epoch* the store's, if what was *seen* of it still holds; for `meta_of`."""
        return ScriptRun(MAKE, Home((self.meta,)), [seen, epoch, FORMAT, len(self.buckets)], writes=True)

    def probe(self) -> ScriptRun:
        """Answer what the user may not do to the store's keys."""
        return ScriptRun(PROBE, Home((self.buckets[0].start + b"probe",)), [])

    def read(self, act: Read) -> ScriptRun:
        """`Driver.read`."""
        return ScriptRun(READ, self._part(act.key, READS), [bounded(act.tail)])

    def entries(self, act: Entries) -> ScriptRun:
        """`Driver.entries`."""
        after, before, limit = act.after, act.before, bounded(act.limit)
        if act.ids is not None:
            asked = [id.encode() for id in act.ids if id]
            return ScriptRun(PICKED, self._part(act.key, LOOKS_UP), [limit, *asked])
        way = "back" if after is None and before is not None else "on"
        bounds = [bounded(after or 0), bounded(FAR if before is None else before), limit]
        return ScriptRun(ENTRIES, self._part(act.key, READS), [*bounds, way])

    def append(self, act: Append) -> ScriptRun:
        """`Driver.append`."""
        arguments = [bounded(act.tail), *_fields(act.make_row()), *_packed(act.entries, self.small)]
        return ScriptRun(APPEND, self._home(act.key), arguments, writes=True)

    def write(self, act: Write) -> ScriptRun:
        """`Driver.write`."""
        row, replaces = act.row, "" if act.replaces is None else "=" + act.replaces
        arguments = [
            bounded(act.since),
            *_fields(row),
            row.incarnation,
            row.head,
            self.small(row.body),
            bounded(act.drop),
        ]
        arguments += (replaces, " ".join(map(str, act.blank)), *_packed(act.entries, self.small))
        return ScriptRun(WRITE, self._home(row.key), arguments, writes=True)

    def erase(self, act: Erase) -> ScriptRun:
        """`Driver.erase`."""
        revision = "" if act.revision is None else "=" + act.revision
        arguments: list[Argument] = [_time(act.at), _time(act.at - TOMBSTONE_KEPT_S), revision]
        return ScriptRun(ERASE, self._home(act.key), arguments, writes=True)

    def share(self, limit: int) -> int:
        """Return how many places each bucket is asked for, so that together they have *limit* and seldom many more."""
        return min(limit, 2 * ceil(limit / len(self.buckets)) + 6)

    def scan(self, act: Scan, after: Place | None, limit: int, *, apart: bool) -> list[ScriptRun]:
        """Return the places of the next rows of each bucket, its `share` of *limit*, from behind the place *after*.

        *apart*: by a script for each bucket, as a cluster must have it, and not by one for all.
        """
        index, tenant = act.index, act.tenant
        lead = act.owner.encode() + b"\0" if index == "owner" else b""
        inside = lead if tenant is None else lead + tenant.encode() + b"\0"
        arguments: list[Argument] = [bounded(self.share(limit))]
        if index in ("key", "owner"):
            start: Argument = b"[" + inside if inside else "-"
            if after is not None:
                start = b"(" + lead + after[1]
            # Nothing that begins with a NUL is beyond one that begins with the byte after it.
            arguments += ["names", start, b"(" + inside[:-1] + b"\1" if inside else "+"]
        else:
            end = last_score(act)
            last = "+inf" if end is None else _time(end)
            arguments += ["scores", last, *(("", "") if after is None else (_time(after[0]), after[1])), inside]
        groups = [(bucket,) for bucket in self.buckets] if apart else [tuple(self.buckets)]
        return [ScriptRun(SCAN, _index(group, index, self.epoch), arguments) for group in groups]

    def rows(self, places: Sequence[Place], *, apart: bool) -> list[tuple[ScriptRun, list[Place]]]:
        """Read the rows alone, without their logs, many at once; *apart* as for `scan`. Each run has the *places* that it answers."""
        return self._of_rows(places, "", ROWS_AT_ONCE, apart=apart)

    def moments(self, places: Sequence[Place], *, apart: bool) -> list[tuple[ScriptRun, list[Place]]]:
        """Read of each row only when it was changed, as `rows` reads them."""
        return self._of_rows(places, "at", MOMENTS_AT_ONCE, apart=apart)

    def _of_rows(
        self, places: Sequence[Place], field: str, most: int, *, apart: bool
    ) -> list[tuple[ScriptRun, list[Place]]]:
        groups: dict[Bucket | None, list[Place]] = {}
        for place in places:
            groups.setdefault(self._bucket(place[1]) if apart else None, []).append(place)
        runs = [group[n : n + most] for group in groups.values() for n in range(0, len(group), most)]
        return [(self._of_run(run, field), run) for run in runs]

    def _of_run(self, places: list[Place], field: str) -> ScriptRun:
        found = [(self._bucket(member), member) for _, member in places]
        epochs = tuple(dict.fromkeys(bucket.epoch for bucket, _ in found))
        rows = [bucket.row_of(member) for bucket, member in found]
        return ScriptRun(ROWS, Home((*epochs, *rows), (self.epoch,)), [len(epochs), field])

    def _bucket(self, member: bytes) -> Bucket:
        return self.buckets[bucket_of(member, len(self.buckets))]

    def count(self, act: Count) -> ScriptRun:
        """`Driver.count`."""
        home = Home((f"{self.prefix}:count:{act.name}".encode(),))
        kept_ms = ceil((act.window_s + COUNTERS_KEPT_S) * 1000)
        return ScriptRun(COUNT, home, [_time(act.window_s), _time(act.at), act.cost, kept_ms], writes=True)

    def _home(self, key: Key) -> Home:
        """Return where a conversation is kept: of most that are read a turn is written, which works there too."""
        home = self._homes.get(key)
        if home is None:
            if len(self._homes) >= HOMES:
                self._homes.clear()
            member = member_of(key)
            names = (self._epoch, member, mark_of(key))
            home = self._homes[key] = Home(self._bucket(member).keys_of(member), names)
        return home

    def _part(self, key: Key, count: int) -> Home:
        """Return where a script works that only reads: at its first *count* keys."""
        return Home(self._home(key).keys[:count], (self._epoch,))


ROWS_AT_ONCE = 50
"""How many rows one script reads: a server holds that answer whole."""

MOMENTS_AT_ONCE = 500
"""As ROWS_AT_ONCE, where only the time of each is asked for."""

READS = 3
"""How many of a conversation's KEYS a script needs that only reads."""

LOOKS_UP = 4
"""As READS, of a script that looks for ids too."""

HOMES = 4096
"""How many are remembered."""


def _index(buckets: tuple[Bucket, ...], index: Index, epoch: str) -> Home:
    """Return the home of an index in some buckets: their copies of the epoch, and its places."""
    return Home((*(bucket.epoch for bucket in buckets), *(bucket.places[index] for bucket in buckets)), (epoch,))


def bucket_of(member: bytes, buckets: int = BUCKETS) -> int:
    """Return the number of the bucket, of so many, in which a conversation is kept."""
    return crc32(member) % buckets


def member_of(key: Key) -> bytes:
    """Return a key as it stands in names and indexes: sorted as bytes, these are sorted as keys, for no key holds a NUL."""
    return f"{key.tenant}\0{key.id}".encode()


def key_of(member: bytes) -> Key:
    """Return the key that `member_of` was given."""
    return Key(*member.decode().split("\0"))


def place_of(index: Index, row: Row) -> Place:
    """Return where *row* stands in an index."""
    if index == "due":
        return due_of(row), member_of(row.key)
    return float(-row.recent if index == "recent" else 0), member_of(row.key)


def step_of(row: Row) -> Place:
    """Return a place before all others of *row*'s step of the index `recent`: no member is so short."""
    return float(-row.recent), b"\0"


def moment_of(row: Row) -> Place:
    """Return where *row* stands among those changed lately, exactly."""
    return -row.updated_at, member_of(row.key)


def changed_at(at: Place) -> float:
    """Return when the step of a place in the index `recent` began."""
    return -at[0] * RECENT_GRAIN_S


def unreadable(index: Index, key: Key, at: Place, moment: Place | None) -> Row:
    """Return what stands for a row that cannot be read, at its place of an index; in `recent`, at its *moment* there."""
    return row_at(key, updated_at=0.0 if moment is None else -moment[0], due_at=at[0] if index == "due" else None)


_digits = msgspec.json.Encoder().encode

FAR = 1 << 53  # what a script's numbers hold exactly


def bounded(number: int) -> int:
    """Return *number*, or one as far out that a script can still count with."""
    return number if -FAR <= number <= FAR else max(-FAR, min(FAR, number))


def _time(at: float) -> bytes:
    if not isfinite(at):
        raise Unsupported(f"{at} is no time; nothing was done.")
    return _digits(float(at))  # reads back the same, as repr's do, in a sixth of the time


def _fields(row: Row) -> list[Argument]:
    """Return revision, time, place in `recent`, owner, due time, lease and its end; what is not there is ''."""
    due = "" if row.due_at is None else _time(row.due_at)
    until = _time(row.leased_until) if row.leased_until else ""
    return [row.revision, _time(row.updated_at), -row.recent, row.owner, due, row.lease or "", until]


def _packed(entries: Sequence[Entry], small: Callable[[bytes], bytes]) -> list[Argument]:
    arguments: list[Argument] = []
    for entry in entries:
        id, role = entry.id.encode(), entry.role.encode()
        arguments += (id, b"%d:%d:%b%b%b" % (len(id), len(role), id, role, small(entry.body)))
    return arguments


def _small(body: bytes) -> bytes:
    return pack(body) if len(body) >= PACKED_FROM or body[:1] in MARKS else body


def as_text(body: bytes) -> bytes:
    """Return the stored form of a body where commands are text: short ones that are text can be read as they are."""
    if len(body) < PACKED_FROM and body[:1] not in MARKS:
        try:
            body.decode()
        except UnicodeDecodeError:
            return pack_text(body)
        return body
    return pack_text(body)
