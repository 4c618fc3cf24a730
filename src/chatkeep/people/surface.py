"""What every Chatkeep and tenant has for users, saves and merges; thin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic

import msgspec
from msgspec import Struct

from ..conversation import saves
from ..conversation.keys import check_by, check_limits, check_numbers, check_slot, key_for, refuse_reserved
from ..conversation.merge import MISSING, Loss, Version
from ..conversation.saves import Saved, SavedMessage
from ..conversation.snapshots import Snapshot
from ..conversation.versions import find_checksum, find_version
from ..drivers.base import Key
from ..engine.changes import Look
from ..engine.engine import Engine
from ..errors import OtherOwner, UsageError
from ..model import Message, State
from ..storage.paging import walk_back
from .claims import Claims
from .saving import save
from .user import User

LOSSES_AMONG = 2000
"""So many of the last entries of a log are looked through for what gave way."""


class MergedSlot(Struct, frozen=True, kw_only=True):
    """What a merge has left: the slot's value (`MISSING`: there is none), what gave way, and the conversation's version and checksum."""

    value: Any
    losses: tuple[Loss, ...]
    version: int
    checksum: str


class Lost(Struct, frozen=True, kw_only=True):
    """
    Something that gave way to a later change, as the log keeps it under *number*.

    about: "title", "message" (under the id in *path*) or "state" (at *path* in *slot*). value: what it was; at, by: when, and on which
    device, it was written. noted_at: when it gave way.
    """

    number: int
    about: str
    value: Any
    slot: str = ""
    path: list[str] = []
    at: float = 0.0
    by: str = ""
    noted_at: float = 0.0


class PeopleSurface(Generic[State]):
    """The verbs for users of one tenant, and for what devices bring that were away."""

    _engine: Engine[State]
    _tenant: str
    _owner: str = ""
    """Whose conversations are that are created here, where that is not said."""
    _begins: bool = False
    """A change is to begin the conversation, for that owner."""

    @property
    def _opened(self) -> Engine[State]:
        """The engine, for a call that acts on the store: it must come from where this Chatkeep was opened."""
        self._engine.store.confinement.check()
        return self._engine

    @property
    def _claims(self) -> Claims:
        return Claims(self._opened.store, self._tenant, clock=self._engine.shared.clock)

    def user(self, id: str) -> User[State]:
        """
        Return a user of this tenant, under the name that the application knows the user by; a guest's begins with "guest:".

            async for summary in keep.user("ada").conversations():
                print(summary.title, summary.unseen)

        Raises `BadKey` for a name that cannot be stored everywhere.
        """
        return User(self._engine, self._tenant, id)

    async def save(
        self,
        conversation: str,
        *,
        owner: str = "",
        title: str | None = None,
        messages: Sequence[SavedMessage | Mapping[str, Any]] = (),
        base: str | None = None,
        version: int | None = None,
        checksum: str | None = None,
        force: bool = False,
        at: float | None = None,
        by: str = "",
    ) -> Saved:
        """
        Put a title and messages that somebody has into the conversation, and tell what they were in conflict with.

        Messages are told apart by their ids: those that the log has not are added, in this order and with their times, and nobody
        answers them; what the log has stands. The title is taken if it was written for the *version* or *checksum* that is there, or for
        the title *base*; without these, if it is not older, by *at* and *by*, than the one that is there; with *force* in any case. What
        is not taken is a conflict: it is told, and kept as a note of the log, see `losses`. Up to 200 messages are one act. Raises
        `OtherOwner` when an *owner* is given and the conversation is somebody else's.

        Args:
            conversation: Names the conversation; any text, such as one that a client has chosen.

            owner: Whose it is, if this creates it.

            title: Text of at most 1,000 characters; "" takes it away.

            messages: Each with `id` and `content`, and perhaps `role`, `created_at` (seconds since 1970) and `metadata`.

            base: The title that was there when the new one was written.

            version: That of the conversation then, from a list or an earlier save.

            checksum: The same, stricter: any change since of title, messages or state is a conflict.

            force: Takes the title whatever is there. The log is never rewritten.

            at: When the title was written, for a change that comes late; a time to come counts as now.

            by: On which device, so that two of the same time are told apart.
        """
        key = key_for(self._tenant, conversation)
        owner = owner or self._owner
        told: dict[str, Any] = {"title": title, "base": base, "version": version, "checksum": checksum}
        told |= {"owner": owner, "claims": self._claims if owner else None}
        return await save(self._opened, key, messages, at=at, by=by, force=force, **told)

    async def merge(
        self,
        conversation: str,
        slot: str,
        *,
        base: Any = MISSING,
        value: Any = MISSING,
        at: float | None = None,
        by: str = "",
        id: str | None = None,
    ) -> MergedSlot:
        """
        Put what somebody has made of a slot of the state together with what is there now.

            merged = await keep.merge("ada", "cart", base=["tea"], value=["tea", "cake"], by="phone")
            print(merged.value)

        What only one side has changed since *base* is taken from that side, member by member and item by item. Where both have changed
        the same, the later one stands, by *at* and *by*, and what gives way is told and kept as a note of the log, see `losses`. What a
        turn or an operator has written counts as new. How a slot is merged can be set by `merge_rules`.

        Args:
            conversation: Names the conversation.

            slot: A member of the state.

            base: What the slot held when the change was begun; `MISSING` (the default): nothing.

            value: What it holds on that device now; `MISSING`: it was removed.

            at: When it was changed there, in seconds since 1970; a time to come counts as now.

            by: On which device.

            id: Names the change: the same again has no second effect.
        """
        return await self._merge_if(None, conversation, slot, base=base, value=value, at=at, by=by, id=id)

    async def _merge_if(
        self,
        look: Look | None,
        conversation: str,
        slot: str,
        *,
        base: Any,
        value: Any,
        at: float | None,
        by: str,
        id: str | None,
    ) -> MergedSlot:
        """Merge as `merge` does, when *look*, given what is there, raises nothing."""
        key = key_for(self._tenant, conversation)
        refuse_reserved(key, id)
        check_slot(key, slot)
        mine = Version(value, saves.written_at(key, at, now=self._opened.shared.clock()), check_by(by))

        def looks(there: Snapshot) -> None:
            self._refuse_other(there)
            if look is not None:
                look(there)

        return await self._merge(key, slot, base, mine, id=id, look=looks)

    async def _merge(self, key: Key, slot: str, base: Any, mine: Version, **told: Any) -> MergedSlot:
        after, losses = await self._opened.changes.merge(key, slot, base, mine, owner=self._owner, **told)
        return MergedSlot(
            value=self._slot(after, slot),
            losses=losses,
            version=find_version(after.row.head, after.record),
            checksum=find_checksum(after),
        )

    async def losses(self, conversation: str, *, limit: int = 100) -> list[Lost]:
        """Return what gave way in merges and saves, as far as it is among the last 2,000 entries of the log, the newest first."""
        key, store = key_for(self._tenant, conversation), self._opened.store
        check_limits(key, limit=limit, needed=True)
        row = await store.row(key)
        found = list[Lost]()
        if row is not None:
            async for page in walk_back(store, key, row.incarnation, before=row.head + 1, limit=LOSSES_AMONG):
                found += [_lost(message) for message in reversed(page) if saves.is_loss(message)]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def restore(self, conversation: str, number: int, *, by: str = "") -> Saved | MergedSlot:
        """
        Put back what gave way, as a change of now: the title, or the place in a slot. What stands there gives way, and is kept.

        Raises `UsageError` when there is no such loss, and for a message: the log is not rewritten, so send the text again.
        """
        key, store = key_for(self._tenant, conversation), self._opened.store
        check_numbers(key, number)
        by = check_by(by)
        there = await store.reload(key)
        page = await store.page(key, there.row.incarnation, after=number - 1, limit=1) if there.row.revision else []
        if not page or page[0].number != number or not saves.is_loss(page[0]):
            raise UsageError(f"{key}: entry {number} is no loss; nothing was changed. `losses` has the numbers.")
        lost = _lost(page[0])

        def look(now: Snapshot) -> None:
            if now.row.incarnation != there.row.incarnation:
                raise UsageError(f"{key}: it was erased meanwhile, and the loss with it; nothing was changed.")

        if lost.about == saves.TITLE:
            return await save(self._opened, key, look=look, title=lost.value, base=there.record.title, by=by)
        if lost.about != saves.SLOT:
            raise UsageError(
                f"{key}: a message in the log stands; nothing was changed. Send the other text as a new message."
            )
        base = self._slot(there, lost.slot)
        mine = Version(put_at(base, lost.path, lost.value), self._opened.shared.clock(), by)
        return await self._merge(key, lost.slot, base, mine, look=look)

    def _refuse_other(self, there: Snapshot) -> None:
        """Refuse a conversation that somebody else has begun, where a change is to begin it. Raises `OtherOwner`."""
        row = there.row
        if self._begins and row.revision and row.owner != self._owner:
            raise OtherOwner(f"{row.key}: somebody else has begun it; nothing was changed.", owner=row.owner)

    def _slot(self, snapshot: Snapshot, slot: str) -> Any:
        """Return what *slot* holds, as people see it; `MISSING` where there is none."""
        shared = self._engine.shared
        state = shared.states.decode(snapshot.row.key, shared.show_state(snapshot), shared.states.schema)
        return shared.states.shape.json_of(state).get(slot, MISSING)


def _lost(note: Message) -> Lost:
    told = {name: note.metadata[name] for name in ("about", "slot", "path", "at", "by") if name in note.metadata}
    return Lost(number=note.number, value=msgspec.json.decode(note.text), noted_at=note.created_at, **told)


def put_at(value: Any, path: Sequence[str], lost: Any) -> Any:
    """Return *value* with *lost* at *path*: names of members, and of list items their id, as a loss has them."""
    if not path:
        return lost
    step, rest = path[0], path[1:]
    if isinstance(value, list):
        places = [n for n, item in enumerate(value) if isinstance(item, dict) and str(item.get("id")) == step]
        if not places:
            return [*value, put_at(MISSING, rest, lost)]
        return [put_at(item, rest, lost) if n == places[0] else item for n, item in enumerate(value)]
    members = value if isinstance(value, dict) else {}
    return members | {step: put_at(members.get(step, MISSING), rest, lost)}


async def merge_if(surface: PeopleSurface[Any], look: Look, conversation: str, slot: str, **told: Any) -> MergedSlot:
    """Merge a slot as `merge` does, when *look*, given what is there, raises nothing: for a server."""
    return await surface._merge_if(look, conversation, slot, **told)
