"""Seals what a store holds: a driver around another one, of any engine, that encrypts bodies on their way in and opens them on the way
out. Everybody else goes on as with the driver alone.

    sealed body = SEALED | version | kind | id of the key, 6 bytes | id of the derived key, 6 bytes | nonce, 12 bytes | AES-256-GCM

The kind has the bit 1 where the number is bound, and 2 where the key is one that was derived for this act; else there is no id of it.

Each body is bound to its conversation (tenant and id), and a record to its incarnation, an entry to its role and id and, where the
number is known before it is written, as in every turn, to that. What was written before the store was sealed is read as it is, and
a record is sealed when it is next written. Sealed are the bodies of records and entries, chatkeep's own records among them. Not sealed
are what the driver must compare and find: keys, ids and numbers, roles, owners, times, leases; how long a body is; and what
`~chatkeep` holds (pauses, the note of a move). Nobody can search for words in what is sealed: a full-text index is removed at the opening.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from msgspec import msgpack, structs

from ..conversation.codec import SEALED
from ..conversation.keys import RESERVED
from ..drivers.base import (
    Ability,
    Append,
    Appended,
    Count,
    Counted,
    Driver,
    Entries,
    Entry,
    Erase,
    Fence,
    Finding,
    IndexText,
    Key,
    Pool,
    Read,
    Row,
    Scan,
    Write,
    searching,
)
from ..errors import Conflict, Corrupt, Duplicate, Unavailable, Uncertain
from .conversation_keys import ID_BYTES, ConversationKeys, HeldKeys, seal_store
from .key_ring import KeyRing, open_with, seal_with
from .relocation import FILLING, MOVED
from .seal_note import SPACE

A = TypeVar("A")
T = TypeVar("T")

VERSION = b"\1"
NUMBERED, DERIVED = 1, 2
KIND = len(SEALED) + 1
HEAD = KIND + 1 + ID_BYTES

OPEN = (RESERVED + "chatkeep", SPACE)
"""Tenants whose rows are not sealed: they must be read before, or without, any key."""

BEHIND_KEYS = Key(SPACE, "~")
"""Behind every row with a key, whose names are hexadecimal."""


TRIES = 6
PAUSE_S = 0.005  # doubled each time: while somebody else erases a conversation, its key is gone before its row


class KeyGone(Corrupt):
    """What is sealed is there, and its key is not."""


class Seal(NamedTuple):
    """What an act seals with: the first one of the keys *held* or, where the act may meet another incarnation than these are of, the key
    *derived* from that one for this act; run again with these keys, it is the same."""

    held: HeldKeys
    derived: bytes = b""


class SealedDriver:
    """*driver*, with what it holds sealed by *ring*."""

    def __init__(self, driver: Driver, ring: KeyRing, *, clock: Callable[[], float] = time.time) -> None:
        self.driver = driver
        self.ring = ring
        self.abilities = driver.abilities - {Ability.SEARCH}
        self._keys = ConversationKeys(driver, ring)
        self._clock = clock

    @property
    def epoch(self) -> str:
        """The epoch of the store."""
        return self.driver.epoch

    async def open(self) -> None:
        """Open the driver, and make sure that these are the keys of the store; one that was not sealed is from now on."""
        self._keys.clear()
        await self.driver.open()
        try:
            if (unsealed := searching(self.driver)) is not None:  # an index has the words as they are
                await unsealed.index_text(IndexText(0, keep=False))
            if not self.epoch.startswith((MOVED, FILLING)):
                await seal_store(self.driver, self.ring, at=self._clock())
        except BaseException:
            await self.driver.close()
            raise

    async def close(self) -> None:
        """Close the driver."""
        self._keys.clear()
        await self.driver.close()

    # -- the six verbs ----------------------------------------------------------------------------------------------------

    async def read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        """See `Read`."""
        return await self._settled(self._read, act)

    async def append(self, act: Append) -> Appended:
        """See `Append`."""
        return await (self.driver.append(act) if act.key.tenant in OPEN else self._settled(self._append, act))

    async def write(self, act: Write) -> Row:
        """See `Write`."""
        return await (self.driver.write(act) if act.key.tenant in OPEN else self._settled(self._write, act))

    async def entries(self, act: Entries) -> list[Entry]:
        """See `Entries`."""
        return await self._settled(self._entries, act)

    async def scan(self, act: Scan) -> list[Row]:
        """See `Scan`. Rows with keys are no part of the answer. A row that no key opens comes as it is stored, and holds up no other."""
        found: list[Row] = []
        most = act.limit
        while True:
            rows = await self.driver.scan(act)
            shown = [row for row in await asyncio.gather(*map(self._scanned, rows)) if row is not None]
            found += shown
            if len(shown) == len(rows) or len(found) >= most:
                return found
            # A page that is not full says to many that it is the last one, so what was left out is made up for.
            last = rows[-1]
            if act.index == "key" and last.key.tenant == SPACE:
                last = structs.replace(last, key=BEHIND_KEYS)
            act = structs.replace(act, after=last, limit=most - len(found))

    async def erase(self, act: Erase) -> None:
        """See `Erase`. The key is destroyed first; where a revision is asked for, right after the row is gone: it may have stayed. A
        key that was stored in between, for what is erased too, goes last."""
        if act.key.tenant in OPEN:
            await self.driver.erase(act)
        elif act.revision is None:
            await self._keys.destroy(act.key, at=act.at)
            await self.driver.erase(act)
            await self._after(self._keys.settle(act.key, at=act.at))
        else:
            await self._settled(self._erase_revision, act)

    async def _settled(self, verb: Callable[[A], Awaitable[T]], act: A) -> T:
        """Return what *verb* answers; run it again while it finds a conversation that somebody else is erasing."""
        for turn in range(TRIES - 1):
            try:
                return await verb(act)
            except KeyGone:
                await asyncio.sleep(PAUSE_S * 2**turn)
        return await verb(act)

    async def _read(self, act: Read) -> tuple[Row, list[Entry]] | None:
        found = await self.driver.read(act)
        return None if found is None else (await self._open_row(found[0]), await self._open_entries(act.key, found[1]))

    async def _append(self, act: Append) -> Appended:
        held = await self._keys.ensure(act.key, at=act.at, of=None)
        seal = _seal_of(act.revision, held)
        sealed = structs.replace(act, entries=[_seal_entry(act.key, entry, seal, 0) for entry in act.entries])
        try:
            answer = await self.driver.append(sealed)
        except Conflict as there:
            self._keys.drop(act.key)  # it was erased, perhaps
            await self._show(there, held)
            raise
        # It is done. Where somebody else's entry was sealed with a key that is not in the store yet, that one is waited for: done again, it
        # would take what it has written itself for known.
        return await self._after(self._settled(partial(self._appended, act, held), answer))

    async def _write(self, act: Write) -> Row:
        key, replaces = act.key, act.replaces
        held = await self._keys.ensure(key, at=act.row.updated_at, of="" if replaces is None else act.row.incarnation)
        certain = replaces is not None and held.stored.of == act.row.incarnation
        seal = Seal(held) if certain else _seal_of(act.row.revision, held)
        first = act.row.head + 1
        entries = [
            _seal_entry(key, entry, seal, first + place if replaces is None else entry.number)
            for place, entry in enumerate(act.entries)
        ]
        row = structs.replace(act.row, body=_seal_body(act.row.body, seal, _of_record(act.row)))
        try:
            stored = await self.driver.write(structs.replace(act, row=row, entries=entries))
        except (Conflict, Duplicate) as there:
            if there.row is None:
                self._keys.drop(key)
            await self._show(there, held)
            raise
        if not certain:
            confirming = self._keys.confirm(key, held, stored.incarnation, derived=seal.derived, at=act.row.updated_at)
            await self._after(confirming)
        self._keys.note_use(held)
        return (
            structs.replace(stored, body=act.row.body)
            if stored.body == row.body
            else await self._open_row(stored, held)
        )

    async def _entries(self, act: Entries) -> list[Entry]:
        return await self._open_entries(act.key, await self.driver.entries(act))

    async def _erase_revision(self, act: Erase) -> None:
        revision = await self._keys.revision(act.key)
        try:
            await self.driver.erase(act)
        except Conflict as there:
            await self._show(there)
            raise
        if revision is None:
            await self._after(self._keys.settle(act.key, at=act.at))
        else:
            await self._after(self._keys.destroy(act.key, at=act.at, revision=revision))

    async def _scanned(self, row: Row) -> Row | None:
        """Return a row that was found, opened; None where it is gone by now, or is one with a key."""
        if row.key.tenant == SPACE:
            return None
        for turn in range(TRIES):
            try:
                return await self._open_row(row)
            except KeyGone:
                await asyncio.sleep(PAUSE_S * 2**turn)
                found = await self.driver.read(Read(row.key, tail=0))
                if found is None:
                    return None
                row = found[0]
            except Corrupt:
                break
        return row  # and whoever reads the conversation is told why

    async def _show(self, there: Conflict | Duplicate, held: HeldKeys | None = None) -> None:
        """Open what a refusal shows."""
        if there.row is not None:
            there.entries = await self._open_entries(there.row.key, there.entries, held)
            there.row = await self._open_row(there.row, held)

    # -- what is passed on ------------------------------------------------------------------------------------------------

    async def examine(self) -> list[Finding]:
        """See `Driver.examine`."""
        return await self.driver.examine()

    async def announce(self, marks: Collection[str]) -> None:
        """See `Driver.announce`."""
        await self.driver.announce(marks)

    def watch(self, heard: Callable[[list[str]], None]) -> None:
        """See `Driver.watch`."""
        self.driver.watch(heard)

    def pool(self) -> Pool:
        """See `Driver.pool`."""
        return self.driver.pool()

    async def backup(self, path: str, *, replace: bool = False) -> None:
        """See `Driver.backup`. The copy is sealed as the store is."""
        await self.driver.backup(path, replace=replace)

    async def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """See `Driver.query`. Bodies come as they are stored, which is sealed."""
        return await self.driver.query(sql, *parameters)

    async def count(self, act: Count) -> Counted:
        """See `Count`."""
        return await self.driver.count(act)

    async def fence(self, act: Fence) -> None:
        """See `Fence`."""
        await self.driver.fence(act)

    # -- values beside the store ------------------------------------------------------------------------------------------

    async def seal_value(self, key: Key, plain: bytes) -> bytes:
        """Seal something of *key* that is kept elsewhere for a while; it opens as long as the conversation has its key."""
        held = await self._keys.ensure(key, at=self._clock(), of=None)
        return _seal_body(plain, Seal(held), _of_value(key))

    async def open_value(self, key: Key, sealed: bytes) -> bytes | None:
        """Return what `seal_value` was given; None for anything else."""
        try:
            return await self._open_body(key, sealed, _of_value(key), "value") if sealed.startswith(SEALED) else None
        except Corrupt:
            return None

    # -- sealing and opening ----------------------------------------------------------------------------------------------

    # (*held*: the keys that an act has used. What it is answered is opened with them, though somebody destroys them meanwhile: the act
    # was done before the erasure. Run again behind it, it would find the mark that it has itself moved.)

    async def _open_row(self, row: Row, held: HeldKeys | None = None) -> Row:
        if not row.body.startswith(SEALED):
            return row
        return structs.replace(row, body=await self._open_body(row.key, row.body, _of_record(row), "record", held))

    async def _open_entries(self, key: Key, entries: Sequence[Entry], held: HeldKeys | None = None) -> list[Entry]:
        return [
            Entry(
                entry.number,
                entry.id,
                entry.role,
                await self._open_body(
                    key,
                    entry.body,
                    _of_entry(key, entry, entry.number if _kind_of(entry.body) & NUMBERED else 0),
                    f"log entry {entry.number}",
                    held,
                ),
            )
            if entry.body.startswith(SEALED)
            else entry
            for entry in entries
        ]

    async def _open_body(self, key: Key, body: bytes, bound: bytes, what: str, held: HeldKeys | None = None) -> bytes:
        derived = _kind_of(body) & DERIVED
        size = HEAD + ID_BYTES if derived else HEAD
        head, id = body[:size], body[HEAD - ID_BYTES : HEAD]
        ids = (id, body[HEAD:size]) if derived else (id,)
        if len(body) < size:  # it was cut off, and names no key
            raise _altered(key, what)
        if held is None or not any(one in held.ciphers for one in ids):
            held = await self._keys.find(key, *ids)
        cipher = None if held is None else held.derive(*ids) if derived else held.ciphers.get(id)
        if cipher is None:
            raise KeyGone(
                f"{key}: the {what} is sealed, and its key was destroyed, which is how an erasure begins. Erase the conversation again."
            )
        found = open_with(cipher, body[size:], head + bound)
        if found is None:
            raise _altered(key, what)
        return found

    # -- after an act was done --------------------------------------------------------------------------------------------

    async def _after(self, work: Awaitable[T]) -> T:
        """Do what follows an act that is done: if it cannot be, the act is run again, and finds its traces."""
        try:
            return await work
        except Unavailable as fault:
            raise Uncertain(
                f"It is written, and the key of the conversation could not be looked at ({fault})."
            ) from fault

    async def _appended(self, act: Append, held: HeldKeys, answer: Appended) -> Appended:
        row = answer.row
        if held.stored.of != row.incarnation:
            seal = _seal_of(act.revision, held)
            await self._keys.confirm(act.key, held, row.incarnation, derived=seal.derived, at=act.at)
        self._keys.note_use(held)
        return Appended(
            await self._open_row(row, held), await self._open_entries(act.key, answer.tail, held), answer.known
        )


def sealed(driver: Driver, keys: Sequence[str]) -> Driver:
    """Return *driver*, sealed by *keys*; as it is where there are none."""
    return cast(Driver, SealedDriver(driver, KeyRing(keys))) if keys else driver


def _seal_entry(key: Key, entry: Entry, seal: Seal, number: int) -> Entry:
    body = _seal_body(entry.body, seal, _of_entry(key, entry, number), NUMBERED if number else 0)
    return Entry(entry.number, entry.id, entry.role, body)


def _seal_body(body: bytes, seal: Seal, bound: bytes, kind: int = 0) -> bytes:
    if not body:
        return body
    held, derived = seal
    cipher = held.derive(held.first, derived) if derived else held.ciphers[held.first]
    assert cipher is not None
    head = SEALED + VERSION + bytes((kind | (DERIVED if derived else 0),)) + held.first + derived
    return head + seal_with(cipher, body, head + bound)


def _kind_of(body: bytes) -> int:
    return body[KIND] if len(body) > KIND else 0


def _altered(key: Key, what: str) -> Corrupt:
    return Corrupt(f"{key}: the {what} was altered, or moved from elsewhere, after it was sealed. Nothing was changed.")


def _seal_of(revision: str, held: HeldKeys) -> Seal:
    """Return what the act with this *revision* seals with, derived from the keys *held*. (The id tells of which: the same act, run by two
    that hold different keys, has two.)"""
    return Seal(held, hashlib.sha256(held.first + revision.encode()).digest()[:ID_BYTES])


def _of_record(row: Row) -> bytes:
    return msgpack.encode([*row.key, "record", row.incarnation])


def _of_entry(key: Key, entry: Entry, number: int) -> bytes:
    return msgpack.encode([*key, "entry", entry.role, entry.id, number])


def _of_value(key: Key) -> bytes:
    return msgpack.encode([*key, "value"])
