"""The key of each conversation, wrapped by the ring, as a row of its own in the store: one for all that is sealed of the conversation.

Erasing a conversation destroys its key, and a new ring is put around the keys without touching a log. What is written may meet an
erasure by another instance, and no key that was destroyed is stored again for it: an act that may begin an incarnation, or meet
another one than the key is of, seals with a key derived from it for this act alone. Where the key is gone afterwards, that one is
stored (`confirm`): it opens what this act has written, and nothing else. Whoever has erased, or confirmed beside an erasure, then
removes the keys of incarnations that are gone (`settle`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from ..bounded import Newest
from ..drivers.base import Driver, Erase, Key, Read, Row, Scan, Write, behind_erasure, mark_of
from ..errors import Conflict, Corrupt, Misconfigured
from .key_ring import KeyRing, cipher_of, derived_key, fresh_key
from .seal_note import NOTE, SPACE, SealNote, read_seal_note

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HELD = 10_000
TRUSTED_S = 10.0  # how long a key is appended with, unasked, after it was seen in the store
ID_BYTES = 6
CHECK = b"chatkeep"
PAGE = 200


class Wrapped(Struct, array_like=True, frozen=True):
    """One key: its *id*, the mark of the key of the *ring* that has wrapped it, what that made of it, and the incarnation that it is *of*,
    as far as that is known."""

    id: str
    ring: str
    wrapped: bytes
    of: str = ""


class StoredKeys(Struct, frozen=True, omit_defaults=True):
    """What the store has of one conversation's *keys*; the first one seals. *of*: the incarnation that is known to have them."""

    keys: tuple[Wrapped, ...] = ()
    of: str = ""


class HeldKeys(Struct):
    """The keys of one conversation, unwrapped; the one with the id *first* seals. *row*: as the store had them, at *seen_at*."""

    row: Row
    stored: StoredKeys
    secrets: dict[bytes, bytes]
    ciphers: dict[bytes, AESGCM]
    first: bytes
    seen_at: float = 0.0

    def derive(self, of: bytes, id: bytes) -> AESGCM | None:
        """Return what seals and opens with the key *id* that is derived from the one with the id *of*; None where neither is here."""
        if id in self.ciphers:
            return self.ciphers[id]
        return cipher_of(derived_key(self.secrets[of], id)) if of in self.secrets else None


class ConversationKeys:
    """The keys of conversations on one store; the last ones that were used are held."""

    def __init__(self, driver: Driver, ring: KeyRing, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._driver = driver
        self._ring = ring
        self._timer = timer
        self._held: Newest[Key, HeldKeys] = Newest(HELD)

    def clear(self) -> None:
        """Let go of all keys that are held."""
        self._held.clear()

    def drop(self, key: Key) -> None:
        """Let go of what is held of *key*."""
        self._held.pop(key, None)

    async def find(self, key: Key, *ids: bytes) -> HeldKeys | None:
        """Return the keys of *key*, with one that has one of these *ids* among them if the store has it; None where there are none."""
        held = self._held.get(key)
        return held if held is not None and any(id in held.ciphers for id in ids) else await self._load(key)

    async def ensure(self, key: Key, *, at: float, of: str | None) -> HeldKeys:
        """Return the keys of *key*, which are made where there are none. *of*: the incarnation that is written to, None: not known, so the
        keys must have been seen in the store lately; "": there is none yet."""
        held = self._held.get(key)
        if held is not None and (held.stored.of == of if of is not None else held.seen_at + TRUSTED_S > self._timer()):
            return held
        try:
            found = await self._load(key) if of != "" else None
            return found or await self._make(key, at=at)
        except Corrupt:
            # Keys that cannot be used are in the way of what they have sealed, and of nothing else: none of it is there.
            if await self._driver.read(Read(key, tail=0)) is not None:
                raise
            return await self._make(key, at=at, anew=True)

    def note_use(self, held: HeldKeys) -> None:
        """Note that an act on the incarnation that has these keys was done just now."""
        held.seen_at = self._timer()

    async def confirm(self, key: Key, held: HeldKeys, incarnation: str, *, derived: bytes, at: float) -> None:
        """Make sure that what an act on *incarnation* has sealed with the key *derived* from those *held* can be opened, whatever was
        erased meanwhile. Run again, it finds that so."""
        name, own = self._row_key(key), held.stored.keys[0]
        id, secret = derived.hex(), derived_key(held.secrets[held.first], derived)
        alone = Wrapped(id, self._ring.first, self._ring.seal(secret, _bound(name, id)), incarnation)
        there: Row | None = held.row
        stored = known = _open_for(held.stored, own, alone, incarnation)
        while True:
            try:
                row = await put_keys(self._driver, name, there, stored, at=at)
                break
            except Conflict as other:
                there, at = other.row, behind_erasure(at, other.erased_at)
                stored = _open_for(StoredKeys() if there is None else _stored(there), own, alone, incarnation)
        self._held[key] = self._unwrapped(key, row, stored)
        if stored is not known or alone in stored.keys:
            await self.settle(key, at=at)

    async def settle(self, key: Key, *, at: float) -> None:
        """Remove the keys of incarnations that are gone. Who finds his own one gone makes sure of it again, by `confirm`."""
        name = self._row_key(key)
        while (found := await self._driver.read(Read(name, tail=0))) is not None:
            there, stored = found[0], _stored(found[0])
            # Read behind the keys: one of another incarnation than this is of none.
            living = await self._driver.read(Read(key, tail=0))
            of = None if living is None else living[0].incarnation
            keys = tuple(one for one in stored.keys if of is not None and (one.of or stored.of) in ("", of))
            if keys == stored.keys:
                return
            self.drop(key)
            at = max(at, there.updated_at)
            with suppress(Conflict):  # somebody else was there, and is looked at again
                if keys:
                    await put_keys(self._driver, name, there, StoredKeys(keys, of or ""), at=at)
                else:
                    await self._driver.erase(Erase(name, at, there.revision))

    async def destroy(self, key: Key, *, at: float, revision: str | None = None) -> None:
        """Destroy the keys of *key*; with *revision*, where their row has another one by now, those of what is gone."""
        self.drop(key)
        try:
            await self._driver.erase(Erase(self._row_key(key), at, revision))
        except Conflict:  # another incarnation has some by now
            await self.settle(key, at=at)
        finally:
            self.drop(key)

    async def revision(self, key: Key) -> str | None:
        """Return the revision of the row with the keys of *key*; None when there is none."""
        found = await self._driver.read(Read(self._row_key(key), tail=0))
        return None if found is None else found[0].revision

    async def _load(self, key: Key) -> HeldKeys | None:
        found = await self._driver.read(Read(self._row_key(key), tail=0))
        if found is None:
            self.drop(key)
            return None
        held = self._held[key] = self._unwrapped(key, found[0], _stored(found[0]))
        return held

    async def _make(self, key: Key, *, at: float, anew: bool = False) -> HeldKeys:
        """Make keys of *key* where there are none; *anew*: also in the place of those that are there, and cannot be
        used."""
        name, fresh, id = self._row_key(key), fresh_key(), secrets.token_hex(ID_BYTES)
        stored = StoredKeys((Wrapped(id, self._ring.first, self._ring.seal(fresh, _bound(name, id))),))
        found = await self._driver.read(Read(name, tail=0)) if anew else None
        before = None if found is None else found[0]
        if before is not None:
            with suppress(Corrupt):  # else somebody has put others there meanwhile, and may have sealed with them
                held = self._held[key] = self._unwrapped(key, before, _stored(before))
                return held
        while True:
            try:
                row = await put_keys(self._driver, name, before, stored, at=at)
                break
            except Conflict as there:
                if there.row is not None:
                    row, stored = there.row, _stored(there.row)
                    break
                before, at = None, behind_erasure(at, there.erased_at)
        held = self._held[key] = self._unwrapped(key, row, stored)
        return held

    def _unwrapped(self, key: Key, row: Row, stored: StoredKeys) -> HeldKeys:
        secrets = {bytes.fromhex(one.id): _unwrap(self._ring, row.key, one, str(key)) for one in stored.keys}
        ciphers = {id: cipher_of(secret) for id, secret in secrets.items()}
        return HeldKeys(row, stored, secrets, ciphers, bytes.fromhex(stored.keys[0].id), self._timer())

    @staticmethod
    def _row_key(key: Key) -> Key:
        return Key(SPACE, mark_of(key))


class Resealed(Struct, kw_only=True):
    """How far a resealing has come: conversations whose keys were looked at, and those that were *wrapped* anew."""

    conversations: int = 0
    wrapped: int = 0


async def reseal_store(
    driver: Driver, keys: Sequence[str], *, at: float, told: Callable[[Resealed], None] = lambda _: None
) -> Resealed:
    """
    Wrap the keys of all conversations with the first of *keys*, and no log is touched; then the others may go.

    *driver* is the store's own. Others may use the store meanwhile, with the same keys. Run again, it goes on. Raises `Misconfigured`
    where the store is not sealed, or by another key.
    """
    ring, said, after = KeyRing(keys), Resealed(), None
    if await read_seal_note(driver) is None:
        raise Misconfigured(
            "This store is not sealed; nothing was done. It is from the first time on that it is opened with seal_keys."
        )
    await seal_store(driver, ring, at=at)
    while rows := await driver.scan(Scan("key", limit=PAGE, tenant=SPACE, after=after)):
        for row in rows:
            if row.key != NOTE:
                said.wrapped += await _reseal(driver, ring, row, at=at)
                said.conversations += 1
        told(said)
        after = rows[-1]
    await seal_store(driver, ring, at=at, anew=True)
    return said


async def _reseal(driver: Driver, ring: KeyRing, row: Row, *, at: float) -> bool:
    """Wrap the keys in *row* anew, and tell whether that was needed; keys that cannot be read and are left of what was erased go."""
    try:
        return await _wrap_anew(driver, ring, row, at=at)
    except Corrupt:
        if await _has_conversation(driver, row):
            raise
        with suppress(Conflict):
            await driver.erase(Erase(row.key, max(at, row.updated_at), row.revision))
        return False


async def _has_conversation(driver: Driver, keys: Row) -> bool:
    """Tell whether what a row of *keys* is for is there: a look at each conversation, for its name is not known."""
    after: Row | None = None
    while rows := await driver.scan(Scan("key", limit=PAGE, after=after)):
        if any(mark_of(row.key) == keys.key.id for row in rows):
            return True
        after = rows[-1]
    return False


async def _wrap_anew(driver: Driver, ring: KeyRing, row: Row, *, at: float) -> bool:
    there: Row | None = row
    while there is not None:
        stored = _stored(there)
        if all(one.ring == ring.first for one in stored.keys):
            return False
        keys = tuple(
            structs.replace(
                one,
                ring=ring.first,
                wrapped=ring.seal(_unwrap(ring, row.key, one, str(row.key)), _bound(row.key, one.id)),
            )
            for one in stored.keys
        )
        try:
            await put_keys(driver, row.key, there, structs.replace(stored, keys=keys), at=at)
            return True
        except Conflict as other:
            there = other.row
    return False


async def seal_store(driver: Driver, ring: KeyRing, *, at: float, anew: bool = False) -> None:
    """Note in the store that it is sealed, unless it says so. *anew*: by the first key of the ring. Raises `Misconfigured` where the
    ring has no key that opens it."""
    while True:
        found = await read_seal_note(driver)
        if found is not None and ring.open(found[0].ring, found[0].check, CHECK) is None:
            raise Misconfigured(
                f"This store is sealed by the key {found[0].ring}, and seal_keys has {', '.join(ring.marks)} (these are marks, not keys); "
                "nothing was done. Add the key that it was sealed with, behind the newest."
            )
        if found is not None and not (anew and found[0].ring != ring.first):
            return
        body = msgspec.json.encode(SealNote(ring=ring.first, check=ring.seal(CHECK, CHECK)))
        with suppress(Conflict):
            await _put(driver, NOTE, None if found is None else found[1], body, at=at)
            return
        at += 0.001


async def put_keys(driver: Driver, name: Key, there: Row | None, stored: StoredKeys, *, at: float) -> Row:
    """Write the keys under *name* in place of those that are *there*. Raises `Conflict`."""
    return await _put(driver, name, there, msgspec.json.encode(stored), at=at)


async def _put(driver: Driver, name: Key, there: Row | None, body: bytes, *, at: float) -> Row:
    revision = secrets.token_hex(9)
    incarnation = revision if there is None else there.incarnation
    at = at if there is None else max(at, there.updated_at)
    row = Row(key=name, revision=revision, incarnation=incarnation, body=body, updated_at=at)
    await driver.write(Write(row, replaces=None if there is None else there.revision))
    return row


def _open_for(stored: StoredKeys, own: Wrapped, alone: Wrapped, incarnation: str) -> StoredKeys:
    """Return *stored* with a key that opens what was written to *incarnation* with the one *alone*: the *own* one, from which it was
    derived, where that is stored still and of no other incarnation."""
    keys, of = list(stored.keys), stored.of
    for place, one in enumerate(keys):
        if one.id in (own.id, alone.id) and (one.of or of) in ("", incarnation):
            keys[place] = structs.replace(one, of=incarnation)
            break
    else:
        keys.append(alone)
    # (Rows of before have no incarnation at their keys, only at all of them: it must not become another one's.)
    keys = [one if one.of else structs.replace(one, of=of) for one in keys]
    return StoredKeys(tuple(sorted(keys, key=lambda one: one.of != incarnation)), incarnation)


def _stored(row: Row) -> StoredKeys:
    try:
        found = msgspec.json.decode(row.body, type=StoredKeys)
        if not found.keys:
            raise msgspec.MsgspecError("there is none")
        return found
    except (msgspec.MsgspecError, UnicodeDecodeError) as fault:
        raise Corrupt(f"{row.key}: the key of a conversation cannot be read ({fault}). Nothing was changed.") from fault


def _unwrap(ring: KeyRing, name: Key, one: Wrapped, of: str) -> bytes:
    found = ring.open(one.ring, one.wrapped, _bound(name, one.id))
    if found is None:
        raise Corrupt(
            f"{of}: its key was wrapped by the key {one.ring}, which is not in seal_keys ({', '.join(ring.marks)}), or was altered. "
            "Nothing was changed; add that key, behind the newest."
        )
    return found


def _bound(name: Key, id: str) -> bytes:
    """Return what a wrapped key is bound to: its conversation, by its mark, and its own id."""
    return f"key {name.id} {id}".encode()
