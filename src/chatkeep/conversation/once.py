"""Calls that must not be made twice, as notes in the log: one when a call begins, one when it has ended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ..model import Message
from .keys import RESERVED
from .snapshots import Draft

ONCE = f"{RESERVED}once:"
ENDED = ".ended"
TRIES_MOST = 50
"""So often one call may begin, each time after one that was certainly not done."""


class Call(Struct, frozen=True, kw_only=True):
    """One call of a tool that must not run twice.

    name: names the call, the same each time its turn is tried: an idempotency key for the other side. number: of the message that it
    was made for. arguments: as JSON text. began_at: seconds since 1970.
    """

    name: str
    tool: str
    arguments: str
    number: int
    began_at: float = 0.0


def mark_of_call(turn: str, tool: str, arguments: bytes, occurrence: int) -> str:
    """Return what stands for the call of a tool, with these arguments, the first, second, ... time that it comes in one turn."""
    told = msgspec.json.encode([turn, tool, arguments.decode(), occurrence])
    return hashlib.blake2b(told, digest_size=8).hexdigest()


def note_ids(mark: str) -> list[str]:
    """Return all ids that the notes of a call may have."""
    return [f"{ONCE}{mark}.{n}{end}" for n in range(TRIES_MOST) for end in ("", ENDED)]


def note_begun(call: Call) -> Draft:
    """Return the note that a call begins: it can be written only once."""
    return _note(call.name, "once", call.arguments, call.number, {"tool": call.tool})


def note_ended(call: Call, result: str | None, by: str) -> Draft:
    """Return the note that a call has ended: with its *result*, as JSON text, or, with None, that it was not done."""
    outcome = "not done" if result is None else "done"
    return _note(
        call.name + ENDED, "once_ended", result or "", call.number, {"tool": call.tool, "outcome": outcome, "by": by}
    )


def _note(name: str, kind: str, content: str, number: int, told: dict[str, Any]) -> Draft:
    metadata = {"kind": kind, "call": name.removesuffix(ENDED)} | told
    return Draft(id=ONCE + name, role="system", content=content, reply_to=number, reply_from=number, metadata=metadata)


def find_last(notes: Sequence[Message]) -> tuple[int, Call | None, Message | None]:
    """Return of the *notes* of one call how often it has begun, the last time, and how that has ended, if it has."""
    by_id = {note.id: note for note in notes}
    tries = sum(not note.id.endswith(ENDED) for note in notes)
    if not tries:
        return 0, None, None
    begun = max((note for note in notes if not note.id.endswith(ENDED)), key=lambda note: note.number)
    return tries, call_from(begun), by_id.get(begun.id + ENDED)


def call_from(note: Message) -> Call:
    """Return the call whose beginning *note* tells."""
    return Call(
        name=note.id.removeprefix(ONCE),
        tool=str(note.metadata.get("tool", "")),
        arguments=note.text,
        number=note.reply_to or 0,
        began_at=note.created_at,
    )


def find_doubts(notes: Sequence[Message]) -> list[Call]:
    """Return the calls among *notes* that have begun and not ended, oldest first."""
    ended = {note.id.removesuffix(ENDED) for note in notes if note.id.endswith(ENDED)}
    begun = [note for note in notes if note.id.startswith(ONCE) and not note.id.endswith(ENDED)]
    return [call_from(note) for note in begun if note.id not in ended and not note.redacted]
