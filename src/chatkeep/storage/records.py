"""Small durable records beside the conversations: credentials of access, links of channels, and their like.

There is one record under each name, kept in the store and changed by the same acts as a conversation, under a tenant of
chatkeep's own ("~access"). Their rows are never due, so no session end or retention comes near them; what counts no more `leftovers`
removes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from functools import cache
from typing import Generic, TypeVar

from msgspec import Struct, structs

from ..bounded import Newest
from ..conversation import commits
from ..conversation.codec import record_of
from ..conversation.keys import RESERVED, key_for
from ..conversation.record import NONE, Record
from ..conversation.snapshots import Commit, Snapshot
from ..conversation.state import Before, StateCodec
from ..drivers.base import Key, mark_of, row_at
from ..errors import Corrupt, Duplicate, Unsupported
from .reader import PAGE
from .store import Store
from .tokens import fresh_token

Kind = TypeVar("Kind", bound=Struct)

log = logging.getLogger("chatkeep")

RECORD_LIMIT = 64 * 1024

TRACES = 16
"""So many notes of the last changes stay in a record's log: an act that is run again must find its own."""


_told: Newest[tuple[str, Key], bool] = Newest(1000)
"""The records, by the epoch of their store, of which the log says already that they cannot be read: lists are read often."""

CLAIMS = "people:"
"""Begins the space of a tenant's claims."""

BELONGING = ("access", "aliases")
"""The spaces with records that belong to a conversation: their owner is its mark, and they go when it is erased."""


def owner_of_user(tenant: str, user: str) -> str:
    """Return under which owner a user's tokens are found."""
    return "user:" + mark_of(key_for(tenant, user))


async def erase_belongings(store: Store, key: Key, *, at: float) -> None:
    """Remove the records that belong to the conversation *key*, after it was erased: credentials, names of its customer."""
    for space in BELONGING:
        await erase_owned(store, space, mark_of(key), at=at)


async def erase_owned(store: Store, space: str, owner: str, *, at: float) -> int:
    """Erase the records of *owner* in a space, also those that cannot be read; give how many there were."""
    erased = 0
    while rows := await store.rows("owner", tenant=RESERVED + space, owner=owner, limit=PAGE):
        for row in rows:
            await store.erase(row.key, at=at)
        erased += len(rows)
    return erased


@cache
def codec_for(kind: type[Kind]) -> StateCodec[Kind]:
    """Return what reads and writes records of a kind; to look into a type takes a millisecond, and kinds are few."""
    return StateCodec(kind, limit=RECORD_LIMIT)


class Records(Generic[Kind]):
    """
    Records of one *kind*, a msgspec Struct that can be made without arguments, in one *space* of the store.

    Nothing is kept here: `get` asks the store, and shows every change that was answered before, on any instance.
    """

    def __init__(self, store: Store, space: str, kind: type[Kind], *, clock: Callable[[], float]) -> None:
        self._unconfined = store
        self._tenant = RESERVED + space
        self._kind = kind
        self._clock = clock

    async def get(self, name: str) -> Kind | None:
        """Return the record under *name*; None when there is none."""
        snapshot = await self._store.load(self._key(name))
        return None if snapshot is None else self._held(snapshot.row.key, snapshot.record)

    async def change(
        self, name: str, edit: Callable[[Kind | None], Kind | None], *, owner: str = "", anew: Kind | None = None
    ) -> Kind | None:
        """
        Put what *edit* makes of the record in its place, atomically, and answer the record as it is then.

        *edit* is given None where there is no record, and answers None to leave everything as it is. When others
        write meanwhile it is called again with what they wrote, so it must depend on nothing else and must not wait;
        what it raises comes through, and nothing is written. It is applied once, also where the store's answer was
        lost. *owner* finds the record again by `owned`; without it a record that is there keeps the one it has.
        *anew*: what *edit* is given in the place of a record that is damaged, which is written anew; without it `Corrupt` is raised.
        """
        key, note = self._key(name), commits.make_note("change", fresh_token())
        damaged = False
        if anew is None:
            snapshot = await self._store.reload(key, owner=owner)
        else:
            snapshot, damaged = await self._store.reload_over(key, at=self._clock())

        def decide(there: Snapshot) -> Commit | None:
            try:
                held, before = self._take_apart(there)
            except Corrupt:
                if anew is None:
                    raise
                held, before = anew, None
            if damaged and held is None:
                held = anew
            changed = edit(held)
            if changed is None or (changed == held and held is not anew):
                return None
            head = there.row.head + 1
            drop = max(head - TRACES, there.record.dropped)
            state = self._states.encode(key, changed, before)
            record = structs.replace(there.record, state=state, cursor=head, dropped=drop)
            return Commit(record=record, drafts=(note,), drop=drop, owner=owner or None)

        try:
            after, _ = await self._store.commit(snapshot, decide, at=self._clock(), begins=True)
        except Duplicate:  # an earlier run of this very act was written after all
            after = await self._store.reload(key)
        return self._held(key, after.record)

    async def erase(self, name: str) -> None:
        """Remove the record under *name*; nothing remains but the mark that refuses acts of before."""
        await self._store.erase(self._key(name), at=self._clock())

    async def remove(self, name: str, *, unreadable: Callable[[], Kind]) -> Kind | None:
        """Remove the record under *name* and return it; None where there is none. One that is damaged is removed too, and *unreadable*
        makes what stands for it."""
        try:
            held = await self.get(name)
        except Corrupt:
            held = unreadable()
        if held is not None:
            await self.erase(name)
        return held

    async def owned(self, owner: str, *, after: str = "") -> AsyncGenerator[str, None]:
        """Return the names of the records of *owner*, in order, from behind *after*."""
        last = row_at(Key(self._tenant, after), owner=owner) if after else None
        async for row in self._store.walk("owner", tenant=self._tenant, owner=owner, after=last):
            yield row.key.id

    async def owned_records(
        self, owner: str, *, after: str = "", unreadable: Callable[[], Kind] | None = None
    ) -> AsyncGenerator[tuple[str, Kind], None]:
        """Return what `owned` does, with the records, which come in the same answers.

        One that cannot be read is in the way of no other: the log names it, and it is left out, or *unreadable* makes what stands for it.
        """
        last = row_at(Key(self._tenant, after), owner=owner) if after else None
        async for row in self._store.walk("owner", tenant=self._tenant, owner=owner, after=last):
            try:
                held = self._held(row.key, record_of(row))
            except (Corrupt, Unsupported) as fault:
                self._tell_unreadable(row.key, fault)
                held = None if unreadable is None else unreadable()
            if held is not None:
                yield row.key.id, held

    @property
    def _states(self) -> StateCodec[Kind]:
        # (Of most kinds there is nothing in a process that answers a message.)
        return codec_for(self._kind)

    @property
    def _store(self) -> Store:
        self._unconfined.confinement.check()
        return self._unconfined

    def _tell_unreadable(self, key: Key, fault: Exception) -> None:
        place = self._store.driver.epoch, key
        if place not in _told:
            _told[place] = True
            log.error("A record is passed over, and the others of its list are shown: %s", fault)

    def _key(self, name: str) -> Key:
        return Key(self._tenant, key_for("", name).id)

    def _held(self, key: Key, record: Record) -> Kind | None:
        return None if record.state == NONE else self._states.decode(key, record.state, record.schema)

    def _take_apart(self, there: Snapshot) -> tuple[Kind | None, Before | None]:
        if there.record.state == NONE:
            return None, None
        return self._states.take_apart(there.row.key, there.record.state, there.record.schema)
