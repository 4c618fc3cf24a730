"""Saves: a title and messages that somebody has, put into the conversation that there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import structs

from ..conversation import saves
from ..conversation.keys import check_by, check_user
from ..conversation.saves import Save, Saved, SavedMessage
from ..conversation.snapshots import Commit, Snapshot
from ..conversation.versions import find_checksum, find_version
from ..drivers.base import ENTRIES_MOST, Key, Row
from ..engine.engine import Engine
from ..engine.run import refuse_own_turn
from ..errors import BadMessage, Duplicate
from ..model import Message
from ..storage.tokens import fresh_token
from .claims import Claims

ADDED_AT_ONCE = 200
"""Messages that one act of a save adds: with more, a save is several acts, and the same again goes on where one broke off."""


async def save(
    engine: Engine[Any],
    key: Key,
    messages: Sequence[SavedMessage | Mapping[str, Any]] = (),
    *,
    owner: str = "",
    at: float | None = None,
    by: str = "",
    look: Callable[[Snapshot], None] | None = None,
    claims: Claims | None = None,
    id: str | None = None,
    renews: bool = False,
    **told: Any,
) -> Saved:
    """Save from outside; see `Tenant.save`. *look* is given what is there, and refuses by raising; *claims* tell whether that is
    *owner*'s, where *look* does not. *id* names the save: what was done under it is done, whatever *look* says of it now; where it
    *renews*, what *look* lets in once more is done once more."""
    now = engine.shared.clock()
    if owner:
        check_user(owner)
    by = check_by(by)
    saves.check_told(key, told)
    if not isinstance(messages, Iterable):
        raise BadMessage(f"{key}: messages is a list of messages, not {type(messages).__name__}; nothing was touched.")
    if told.get("title") is not None:
        told["title"] = saves.check_title(key, told["title"])
    given = [saves.message_from(key, message) for message in messages]
    drafts = saves.drafts_from(key, given, at=now, limit=engine.shared.settings.message_limit)
    when = saves.written_at(key, at, now=now)
    added, conflicts, acts = list[str](), list[str](), 0
    for first in range(0, max(len(drafts), 1), ADDED_AT_ONCE):
        page = drafts[first : first + ADDED_AT_ONCE]
        token = fresh_token() if id is None else saves.token_from(id, acts)
        asked = Save(drafts=page, at=when, by=by, token=token, **(told if not first else {}))
        asks: dict[str, Any] = {"look": look if not acts else None, "claims": claims, "renews": renews}
        after, news, gave_way = await _commit(engine, key, asked, owner=owner, **asks)
        added, conflicts = added + news, conflicts + gave_way
        acts += token in after.record.changes
    return Saved(
        id=key.id,
        version=find_version(after.row.head, after.record),
        checksum=find_checksum(after),
        title=after.record.title,
        added=added,
        conflicts=conflicts,
    )


async def _commit(
    engine: Engine[Any],
    key: Key,
    asked: Save,
    *,
    owner: str,
    look: Callable[[Snapshot], None] | None,
    claims: Claims | None,
    renews: bool,
) -> tuple[Snapshot, list[str], list[str]]:
    """Write *asked*, creating the conversation for *owner* where there is none. Answers the snapshot it leaves, the ids that were added,
    and the conflicts."""
    store, shared = engine.store, engine.shared
    shared.refuse_closed(key)
    refuse_own_turn(key, "would throw its own turn away; save it when the turn is over")
    conflicts: list[str] = []
    while True:
        there = await store.reload(key, owner=owner)
        if renews and asked.token in there.record.changes and _is_let_in(there, look):
            asked = structs.replace(asked, token=fresh_token())
        renews = False  # what is found done later was done by this call, or by the same one that came at the same time
        row, incarnation, ids = there.row, there.row.incarnation, saves.ids_asked(asked)
        if claims is not None and row.owner:  # (what is nobody's is taken as it is)
            await claims.refuse_other(key, row.owner, owner)
        known: dict[str, Message] = {}
        for first in range(0, len(ids) if incarnation else 0, ENTRIES_MOST):
            page = await store.find(key, incarnation, ids[first : first + ENTRIES_MOST])
            known |= {message.id: message for message in page}

        def decide(
            there: Snapshot, asked: Save = asked, known: dict[str, Message] = known, row: Row = row
        ) -> Commit | None:
            if asked.token in there.record.changes:  # in an earlier run of this call, or by an earlier call of its name
                conflicts[:] = conflicts or saves.find_conflicts(asked, known)
                return None
            if look is not None:
                look(there)
            if (row.incarnation, row.owner) != (there.row.incarnation, there.row.owner):
                # What is known of its log is of another one, or it is another's.
                raise Duplicate(f"{key} was erased, created or given away meanwhile.", row=there.row, numbers={})
            act, conflicts[:] = saves.save_into(there, asked, known, shared.policy, at=shared.clock())
            return act

        try:
            after, said = await store.commit(there, decide, at=shared.clock(), begins=True)
        except Duplicate:  # an id has come into the log since it was looked for; or an earlier run was written
            continue
        added = [message.id for message in said or () if message.role != "system"]
        return after, added, conflicts


def _is_let_in(there: Snapshot, look: Callable[[Snapshot], None] | None) -> bool:
    try:
        if look is not None:
            look(there)
    except Exception:
        return False
    return look is not None
