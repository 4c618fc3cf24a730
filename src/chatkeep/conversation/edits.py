"""Changes that a person made to slots of a state, as notes of the log that can be taken back; and a state as it was at a number.

Only what a note holds is known of before: turns and changes of the application leave no trace of the values that they found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ..drivers.base import Key
from ..errors import ChangedSince, UsageError
from ..model import Message
from .keys import RESERVED
from .merge import MISSING, changed_members, plain

NOTE = "change"
VALUES_MOST = 64 * 1024
"""So many bytes of values a note holds; a change of larger ones is noted without them, and cannot be taken back."""

MOVING = frozenset({"user", "event", "assistant"})
"""Roles of entries about which a turn may have changed the state."""


class SlotEdit(Struct, frozen=True):
    """What a person made of a slot; UNSET: it was not there, or is not there any more."""

    was: Any | UnsetType = UNSET
    now: Any | UnsetType = UNSET


class StateAsOf(Struct, frozen=True, kw_only=True):
    """
    What is known of the state as it was when *number* was the last entry of the log.

    slots: those whose value is known. complete: they are all that there were. why: what cannot be known, in words.
    """

    number: int
    slots: dict[str, Any]
    complete: bool
    why: str = ""


def describe(before: Raw, after: Raw, schema: int, by: str, undoes: int = 0) -> dict[str, Any]:
    """Return what the note of a person's change holds: who made it, and each slot as it was and as it is."""
    old, new = _slots(before), _slots(after)
    told: dict[str, Any] = {"by": by, "schema": schema} | ({"undoes": undoes} if undoes else {})
    if old is None or new is None:
        return told
    differs = changed_members(old, new) or ()
    changed: dict[str, dict[str, Any]] = {
        name: {part: held[name] for part, held in (("was", old), ("now", new)) if name in held}
        for name in {**old, **new}
        if name in differs
    }
    if len(msgspec.json.encode(changed)) > VALUES_MOST:
        return told | {"large": sorted(changed)}
    return told | {"slots": changed}


def edits_in(note: Message) -> dict[str, SlotEdit]:
    """Return what the note of a person's change says of slots; nothing for any other entry."""
    held = note.metadata.get("slots")
    if note.role != "system" or note.metadata.get("kind") != NOTE or not isinstance(held, dict):
        return {}
    return {name: msgspec.convert(told, SlotEdit) for name, told in held.items() if isinstance(told, dict)}


def find_note(key: Key, entries: Sequence[Message], number: int) -> Message:
    """Return entry *number* of *entries*. Raises `UsageError` where it is none that tells of a person's change."""
    note = next((entry for entry in entries if entry.number == number), None)
    if note is None or note.redacted or not edits_in(note):
        why = (
            "is not in the log" if note is None else "was redacted" if note.redacted else "holds no slots as they were"
        )
        raise UsageError(
            f"{key}: entry {number} {why}; nothing was undone. The history shows which changes people have made."
        )
    return note


def undo(key: Key, note: Message, raw: Raw, schema: int) -> Raw | None:
    """
    Return *raw* with the slots as they were before the change that *note* tells of; None where they are so already.

    Raises `ChangedSince` where one of them is not what that change has left.
    """
    edits, there = edits_in(note), _slots(raw)
    if there is None or schema != note.metadata.get("schema"):
        raise ChangedSince(
            f"{key}: the state has another form since the change of entry {note.number}; nothing was undone. Set the slot anew."
        )
    if all(_holds(there, name, edit.was) for name, edit in edits.items()):
        return None
    for name, edit in edits.items():
        if not _holds(there, name, edit.now):
            raise ChangedSince(
                f"{key}: slot {name!r:.60} is not what the change of entry {note.number} has left; nothing was undone. Set it anew."
            )
    for name, edit in edits.items():
        _put(there, name, edit.was)
    return Raw(msgspec.json.encode(there))


def find_state(state: Any, entries: Sequence[Message], number: int, *, begun: bool) -> StateAsOf:
    """
    Return what the log tells of the state at *number*: from the *state* of now, and *entries*, in order, that are around that number up
    to the end of the log.

    *begun*: the session of now began behind that number, so its state says nothing.
    """
    later = [entry for entry in entries if entry.number > number]
    quiet = _until_moved(later)
    if not begun and len(quiet) == len(later) and isinstance(state, Mapping):
        slots = dict(state)
        for entry in reversed(later):
            for name, edit in edits_in(entry).items():
                _put(slots, name, edit.was)
        return StateAsOf(number=number, slots=slots, complete=True)
    known: dict[str, Any] = {}
    for entry in _since_moved([entry for entry in entries if entry.number <= number]):
        known |= {name: edit.now for name, edit in edits_in(entry).items()}
    for entry in reversed(quiet):
        known |= {name: edit.was for name, edit in edits_in(entry).items()}
    if begun:
        why = "a new session has begun since, and the state of the one before is not kept"
    elif len(quiet) < len(later):
        why = _why_unknown(later[len(quiet)])
    else:
        why = "the session is over, and its state is not kept" if state is None else "the state has no slots"
    held = {name: value for name, value in known.items() if value is not UNSET}
    return StateAsOf(number=number, slots=held, complete=False, why=why)


def may_move(entry: Message) -> bool:
    """Tell whether the state may have changed with an entry without the log saying how: a turn is about it, or wrote it, or it is the
    note of a change that does not hold the slots."""
    return entry.role in MOVING or (_is_change(entry) and not isinstance(entry.metadata.get("slots"), dict))


def _is_change(entry: Message) -> bool:
    # (Of a redacted note only the id is left.)
    return entry.role == "system" and (entry.metadata.get("kind") == NOTE or entry.id.startswith(f"{RESERVED}{NOTE}:"))


def _why_unknown(moved: Message) -> str:
    """Say why nothing is known of before entry *moved*, with which the state may have changed."""
    if moved.role in MOVING:
        return "a turn came later, and turns do not leave in the log what the state was before"
    what = "holds no slots"
    if moved.redacted:
        what = "was redacted"
    elif moved.metadata.get("large"):
        what = "does not hold the values, which were too large"
    return f"the note of a later change, entry {moved.number}, {what}"


def _until_moved(entries: Iterable[Message]) -> list[Message]:
    return list(takewhile(lambda entry: not may_move(entry), entries))


def _since_moved(entries: Sequence[Message]) -> list[Message]:
    return list(reversed(_until_moved(reversed(entries))))


def _holds(slots: dict[str, Any], name: str, value: Any) -> bool:
    """Tell whether a slot has this very value: True is not 1."""
    return plain(slots.get(name, MISSING)) == plain(MISSING if value is UNSET else value)


def _put(slots: dict[str, Any], name: str, value: Any) -> None:
    if value is UNSET:
        slots.pop(name, None)
    else:
        slots[name] = value


def _slots(raw: Raw) -> dict[str, Any] | None:
    plain = msgspec.json.decode(raw)
    return plain if isinstance(plain, dict) else None
