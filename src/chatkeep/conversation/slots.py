"""Changes of one slot that were made elsewhere, perhaps offline, put together with what the slot holds now."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgspec
from msgspec import Raw, Struct

from ..drivers.base import Key
from ..errors import BadMessage, UsageError
from .backoff import is_ahead
from .merge import MISSING, Loss, Rule, Version, merge, plain
from .shapes import Unfit, encoded, told
from .snapshots import Snapshot
from .state import StateCodec

ANY_INTEGER = range(-(1 << 63), 1 << 64)
"""Which integers can be kept depends on what is stored already, and is found out when the state is written."""

Stamps = dict[str, tuple[float, str, int]]


class MergedSlot(Struct, frozen=True):
    """A state with a slot merged into it: its stored form (None: nothing of it changes), the stamps of its slots, and what gave way."""

    raw: Raw | None
    stamps: Stamps
    losses: tuple[Loss, ...]


def merge_slot(
    there: Snapshot,
    states: StateCodec[Any],
    stored: tuple[Raw, int],
    slot: str,
    base: Any,
    mine: Version,
    rule: Rule,
    *,
    now: float,
) -> MergedSlot:
    """
    Return the state with what *mine* has made of *base* in *slot*.

    What the slot holds is as old as its stamp says, if nobody else has written it since; else as new as the conversation: what a turn
    or an operator has written is never taken for older than a change that was made before it. What was merged by a
    clock that was ahead of *now* gives way: nobody knows when that was. Raises `UsageError` where there can be
    no such slot, and `BadMessage` when the result does not fit the state.
    """
    key, record = there.row.key, there.record
    for value in (base, mine.value):
        _check(key, slot, value)
    state, before = states.take_apart(key, *stored)
    members = states.shape.json_of(state)
    if not isinstance(members, dict):
        raise UsageError(f"{key}: the state is no object, so it has no slots; nothing was changed.")
    if not states.shape.plain and slot not in members:
        raise UsageError(f"{key}: {states.shape.name} has no slot {slot!r:.60}; nothing was changed.")
    holds = members.get(slot, MISSING)
    at, by = _age_of(there, slot, holds, now=now)
    one, other = Version(_of(slot, mine.value), mine.at, mine.by), Version(_of(slot, holds), at, by)
    merged = merge(_of(slot, base), one, other, {slot: rule})
    value = merged.value.get(slot, MISSING)
    losses = tuple(Loss(loss.path[1:], loss.value, loss.at, loss.by) for loss in merged.losses)
    if plain(value) == plain(holds) and not losses:
        return MergedSlot(None, record.stamps, ())
    kept = {name: stamp for name, stamp in record.stamps.items() if name in members and name != slot}
    stamps = kept | {slot: (*max((at, by), (mine.at, mine.by)), mark_of(value))}
    changed = {name: member for name, member in members.items() if name != slot} | _of(slot, value)
    try:
        new = changed if states.shape.plain else states.shape.decode(msgspec.json.encode(changed))
    except Exception as unfit:  # the application's own types may raise anything
        raise BadMessage(f"{key}: the slot {slot!r:.60} does not fit ({told(unfit)}); nothing was changed.") from unfit
    return MergedSlot(states.encode(key, new, before), stamps, losses)


def _age_of(there: Snapshot, slot: str, holds: Any, *, now: float) -> tuple[float, str]:
    """Return when what *slot* *holds* was written, and by which device: by its stamp, or by the row; 0 where any change is newer."""
    at, by, mark = there.record.stamps.get(slot, (0.0, "", -1))
    if mark == mark_of(holds):
        return (0.0, "") if is_ahead(at, at=now) else (at, by)
    was_there = holds is not MISSING or slot in there.record.stamps
    return (min(there.row.updated_at, now) if was_there else 0.0), ""


def mark_of(value: Any) -> int:
    """Return a checksum of a slot's value, by which it is known whether somebody has written it since."""
    return crc32(plain(value))


def _check(key: Key, slot: str, value: Any) -> None:
    """Refuse what is no JSON."""
    try:
        if value is not MISSING:
            encoded(value, f"state.{slot:.60}", ANY_INTEGER)
    except Unfit as unfit:
        raise BadMessage(f"{key}: {unfit}. Nothing was changed.") from unfit


def _of(slot: str, value: Any) -> dict[str, Any]:
    return {} if value is MISSING else {slot: value}
