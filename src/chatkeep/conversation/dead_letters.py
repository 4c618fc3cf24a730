"""Dead letters: messages that were set aside, from the note that says why to the act that closes them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from ..model import Message
from .commits import commit_note, make_note
from .keys import RESERVED
from .snapshots import Commit, Policy, Snapshot

REPLAY = f"{RESERVED}replay:"
"""Begins the id of a message that is a dead letter handed in again; nobody else can give such an id."""


AMENDMENT = f"{RESERVED}amend:"
"""Begins the id of a message that says anew what one said that waited; nobody else can give such an id either."""


def note_id(incarnation: str, number: int) -> str:
    """Return the id of the note that message *number* was set aside."""
    return f"{RESERVED}dead:{incarnation}.{number}"


def note_ids(incarnation: str, number: int) -> list[str]:
    """Return the ids that the note may have: the act that creates a conversation does not know its incarnation yet."""
    return [note_id(incarnation, number), note_id("", number)]


def replay_id(number: int) -> str:
    """Return the id under which message *number* is handed in again: only once, however often it is asked for."""
    return f"{REPLAY}{number}"


def is_replay(message: Message) -> bool:
    """Tell whether *message* is a dead letter that was handed in again, or says such a one anew."""
    return "replay_of" in message.metadata and message.id.startswith((REPLAY, AMENDMENT))


def close_replayed(dead: tuple[int, ...], ended: Sequence[Message]) -> tuple[int, ...]:
    """Return the dead letters that are left of *dead* when *ended* have been answered, or set aside in their turn."""
    closed = {message.metadata["replay_of"] for message in ended if is_replay(message)}
    return tuple(number for number in dead if number not in closed) if closed else dead


def dismiss_letter(snapshot: Snapshot, number: int, policy: Policy, *, at: float) -> Commit | None:
    """Close a dead letter that nobody has to do anything about any more; None where it is closed already."""
    record = snapshot.record
    if number not in record.dead:
        return None
    note = make_note("dismissed", f"{snapshot.row.incarnation}.{number}", first=number, last=number)
    left = tuple(other for other in record.dead if other != number)
    return commit_note(snapshot, structs.replace(record, dead=left), note, policy, at=at)
