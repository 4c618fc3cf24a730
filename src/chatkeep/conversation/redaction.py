"""Redaction: what one message says goes for good, and with it what notes, steps and reminders quote of it; its number and id stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, structs

from ..model import Message
from .commits import awaits_channel, make_note, next_commit, note_passed_over
from .dead_letters import AMENDMENT
from .edits import NOTE
from .record import OutboxState, Record, untried
from .saves import CONFLICT, MESSAGE, is_loss
from .snapshots import Commit, Draft, Policy, Snapshot, asks, is_cut, unread_messages
from .streams import draft_said

GONE = "[redacted]"

SHORTEST = 5
"""A text that is shorter is found in steps and reminders by accident, and is left there."""

WITH_WORDS = frozenset({"unknown", "blank", "note", NOTE, CONFLICT})
"""Kinds of notes that hold what people have said or changed, and can be redacted like a message."""

NOTES_MOST = 400
"""So many notes lose their reasons in one act."""


def versions_of(messages: Sequence[Message], redacted: Sequence[Message]) -> list[Message]:
    """Return the notes among *messages* that keep another version of one of the *redacted*, which gave way in a save."""
    ids = {message.id for message in redacted}
    notes = [note for note in messages if is_loss(note) and note.metadata["about"] == MESSAGE]
    return [note for note in notes if not ids.isdisjoint(note.metadata["path"])]


def notes_about(messages: Sequence[Message], redacted: Sequence[Message]) -> list[Message]:
    """Return the notes among *messages* that may quote one of the *redacted*: why it was set aside, and what a platform said of it."""
    numbers = {message.number for message in redacted}
    notes = [note for note in messages if note.role == "system" and not note.redacted]
    about = [note for note in notes if not numbers.isdisjoint(range(note.reply_from or 0, (note.reply_to or -1) + 1))]
    ids = {id for note in about for id in note.metadata.get("ids", ())}
    statuses = [note for note in notes if note.metadata.get("kind") == "status"]
    # (One that has a key with its id says whose reply the others with this id are of.)
    ids |= {
        note.metadata["id"] for note in statuses if note.metadata.get("number") in numbers and "id" in note.metadata
    }
    about += [note for note in statuses if note.metadata.get("id") in ids or note.metadata.get("number") in numbers]
    return [note for note in about if note.content or note.metadata.get("reason")][-NOTES_MOST:]


def amendment_id(incarnation: str, number: int) -> str:
    """Return the id of the message that says message *number* anew."""
    return f"{AMENDMENT}{incarnation}.{number}"


def redact_found(
    snapshot: Snapshot, found: Sequence[Message], notes: Sequence[Message], policy: Policy, *, at: float
) -> Commit:
    """Remove what *found* say, with what there is of it in *notes*: other versions, and reasons that may quote it."""
    gone = [*found, *versions_of(notes, found)]
    return redact_messages(snapshot, gone, notes_about(notes, found), policy, at=at)


def redact_messages(
    snapshot: Snapshot,
    redacted: Sequence[Message],
    notes: Sequence[Message],
    policy: Policy,
    *,
    at: float,
    amendment: Draft | None = None,
) -> Commit:
    """Remove what the *redacted* messages say, and the reasons in *notes*, which are about them.

    One that waits for an answer is passed over, a reply that was not sent yet is not sent, a dead letter is closed. *amendment*: is
    added to the log, and waits.
    """
    row, numbers = snapshot.row, {message.number for message in redacted}
    unread = unread_messages(snapshot)
    waiting = [message for message in unread if message.number not in numbers]
    drafts = [
        make_note("redacted", f"{row.incarnation}.{number}", first=number, last=number) for number in sorted(numbers)
    ]
    drafts += [
        note_passed_over(message.number, message.number)
        for message in redacted
        if message.number > snapshot.record.cursor and asks(message)
    ]
    drafts += [_without_reason(row.incarnation, note) for note in notes if note.metadata.get("kind") != "dead"]
    record = snapshot.record
    if unread and unread[0].number in numbers:
        drafts += draft_said(snapshot, unread[0].number, "stopped")
        record = untried(record)
    end = snapshot.messages[-1].number if is_cut(snapshot) else row.head + len(drafts)
    if awaits_channel(snapshot, without=numbers):
        end = record.cursor
    record = structs.replace(
        _without_quotes(record, redacted),
        cursor=waiting[0].number - 1 if waiting else end,
        dead=tuple(number for number in record.dead if number not in numbers),
        delivery=None if record.delivery is None else _without_replies(record.delivery, numbers),
        redactions=record.redactions + 1,
    )
    drafts += [amendment] if amendment is not None else []
    act = next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until, drafts=drafts)
    return structs.replace(act, blank=tuple(sorted(numbers | {note.number for note in notes})))


def _without_reason(incarnation: str, note: Message) -> Draft:
    """Return what takes the place of a note that a platform's reason is taken out of."""
    return Draft(
        id=make_note("noted", f"{incarnation}.{note.number}").id,
        role="system",
        content="",
        reply_to=note.reply_to or 0,
        reply_from=note.reply_from or 0,
        created_at=note.created_at,
        metadata={name: value for name, value in note.metadata.items() if name != "reason"},
    )


def _without_replies(delivery: OutboxState, numbers: set[int]) -> OutboxState:
    again = tuple(number for number in delivery.again if number not in numbers)
    if delivery.half in numbers:
        delivery = structs.replace(delivery, half=0, parts=0, done=(), tries=0, at=0.0)
    return structs.replace(delivery, again=again)


def _without_quotes(record: Record, redacted: Sequence[Message]) -> Record:
    texts = [message.text for message in redacted if len(message.text) >= SHORTEST]
    if not texts or not (record.steps or record.reminders):
        return record

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            for text in texts:
                value = value.replace(text, GONE)
        elif isinstance(value, dict):
            value = {name: clean(inner) for name, inner in value.items()}
        elif isinstance(value, list):
            value = [clean(inner) for inner in value]
        return value

    def cleaned(raw: Raw) -> Raw:
        return Raw(msgspec.json.encode(clean(msgspec.json.decode(raw))))

    return structs.replace(
        record,
        steps={name: cleaned(raw) for name, raw in record.steps.items()},
        reminders=tuple(structs.replace(reminder, data=cleaned(reminder.data)) for reminder in record.reminders),
    )
