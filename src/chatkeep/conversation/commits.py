"""The next row of a conversation: who holds the lease, what is noted, when somebody has to look again, and how that is stored."""

from __future__ import annotations

from collections.abc import Container, Sequence

from msgspec import structs

from ..drivers.base import AT_ONCE, Entry, Row
from ..model import Message
from .backoff import believed
from .codec import body_of, entry_for, message_from
from .keys import RESERVED
from .record import NONE, Record
from .snapshots import (
    Commit,
    Draft,
    Policy,
    Snapshot,
    has_outbound,
    is_outbound,
    keep_outbound,
    messages_after,
    unread_messages,
)

SEND_PAUSE_MOST_S = 3600.0
"""Nobody makes us wait longer before we try again to send a reply."""

NOTE_LIMIT = 64 * 1024
"""Bytes of a note: chatkeep's own are short, whatever the limit for messages is."""

CHANGES_KEPT = 32
"""So many acts may come between one whose outcome is unknown and its second run."""


def note_passed_over(first: int, last: int) -> Draft:
    """Return the note that the messages from *first* to *last* are kept but will not be answered."""
    return make_note("dropped", first=first, last=last)


def count_notes(there: Snapshot, record: Record, made: int) -> Record:
    """Return *record*, the next one, which counts the notes *made* in the same act: people do not see them."""
    if there.row.key.tenant.startswith(RESERVED):
        return record
    return structs.replace(record, notes=there.record.notes + made)


def encode_act(
    snapshot: Snapshot, act: Commit, *, revision: str, at: float, limit: int
) -> tuple[Row, list[Entry], list[Message], Record]:
    """Return the row and the entries of *act* on *snapshot* as they are stored, under *revision*; the messages that these entries will be
    read as; and the record that is in the row. *limit*: bytes that a message may take. Raises `BadMessage` or `TooLarge`."""
    old = snapshot.row
    key, number, incarnation = old.key, old.head, old.incarnation or revision
    entries, said, notes = [], [], 0
    for draft in act.drafts:
        number += 1
        content, role, made, created_at, metadata = (
            draft.content,
            draft.role,
            draft.entry,
            draft.created_at,
            draft.metadata,
        )
        if made is not None:
            entry = Entry(number, made.id, made.role, made.body)
        else:
            created_at = created_at or at
            entry = entry_for(
                key,
                content,
                number=number,
                id=draft.id,
                role=role,
                created_at=created_at,
                limit=limit if role != "system" else NOTE_LIMIT,
                reply_to=draft.reply_to,
                reply_from=draft.reply_from,
                metadata=metadata,
                channel=draft.channel,
            )
        entries.append(entry)
        # The caller may change what is no text later; what is cached must stay what is stored. An entry that was made before says itself
        # of when it is, and 0 is a time there.
        if metadata or type(content) is not str or not created_at:
            message = message_from(key, incarnation, entry)
        else:
            message = Message(
                id=entry.id or f"{incarnation}.{number}",
                number=number,
                role=role,
                content=content,
                created_at=round(created_at * 1000) / 1000,  # as the codec does, to the bit
                reply_to=draft.reply_to or None,
                reply_from=draft.reply_from or None,
                metadata=metadata,
                channel=draft.channel,
            )
        said.append(message)
        if role == "system":
            notes += 1
    record = act.record if not notes else count_notes(snapshot, act.record, notes)
    row = Row(
        key=key,
        revision=revision,
        incarnation=incarnation,
        head=old.head,
        body=body_of(key, record),
        owner=old.owner if act.owner is None else act.owner,
        updated_at=old.updated_at if act.untouched and old.revision else max(at, old.updated_at),
        due_at=act.due_at,
        lease=act.lease,
        leased_until=act.leased_until,
    )
    return row, entries, said, record


def make_note(kind: str, name: str = "", *, content: str = "", first: int = 0, last: int = 0) -> Draft:
    """Return a note of chatkeep's own, about the messages from *first* to *last*. With a *name* it can be written only once."""
    return Draft(
        id=f"{RESERVED}{kind}:{name}" if name else "",
        role="system",
        content=content,
        reply_to=last,
        reply_from=first,
        metadata={"kind": kind},
    )


def commit_note(
    snapshot: Snapshot, record: Record, note: Draft, policy: Policy, *, at: float, more: Sequence[Draft] = ()
) -> Commit:
    """Change the record outside a turn. The note's id is what makes a second run of the same act harmless. *more*: notes beside it."""
    row, drafts = snapshot.row, [note, *more]
    if may_pass(snapshot):
        record = structs.replace(record, cursor=row.head + len(drafts))
    return next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until, drafts=drafts)


def commit_change(snapshot: Snapshot, record: Record, token: str, policy: Policy, *, at: float) -> Commit | None:
    """Change the record outside a turn, as `commit_note`, without an entry: the record keeps the last such tokens. None where
    an earlier run of the same act was written."""
    row, changes = snapshot.row, snapshot.record.changes
    if token in changes:
        return None
    record = structs.replace(record, changes=(*changes, token)[-CHANGES_KEPT:], edits=snapshot.record.edits + 1)
    if may_pass(snapshot):
        record = structs.replace(record, cursor=row.head)
    return next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until)


def may_pass(snapshot: Snapshot) -> bool:
    """Tell whether a change from outside may move the cursor to its end: nothing waits for an answer, or for the sweep of who may know a
    channel for what an operator wrote before any turn."""
    return not unread_messages(snapshot) and not awaits_channel(snapshot)


def awaits_channel(snapshot: Snapshot, *, without: Container[int] = ()) -> bool:
    """Tell whether an operator has written before any turn, and nobody has looked yet whether a channel sends that: the cursor must not
    pass it. *without*: messages that are just being removed."""
    record = snapshot.record
    return record.delivery is None and any(
        is_outbound(message) and message.number not in without for message in messages_after(snapshot, record.cursor)
    )


def next_commit(
    snapshot: Snapshot,
    record: Record,
    policy: Policy,
    *,
    at: float,
    lease: str | None = None,
    until: float | None = None,
    drafts: list[Draft] | tuple[Draft, ...] = (),
) -> Commit:
    """Return the whole next row, given the next record: who holds the lease and when somebody has to look again."""
    row = snapshot.row
    head = row.head + len(drafts)
    if row.head > snapshot.record.cursor:  # else nothing that is in the log is passed
        record = keep_outbound(snapshot, record)
    if record.cursor < head:
        longest_s = max(policy.pause_most_s, policy.channel_within_s if record.paced else 0.0)
        due_at: float | None = not_before(record.retry_at, longest_s, at=at)
    else:
        if policy.retention_s is not None and not record.oldest_at:
            record = structs.replace(record, oldest_at=find_oldest(snapshot, record, drafts, at=at))
        due_at = next_due(record, policy, head=head, touched=max(at, row.updated_at))
        old = row.due_at
        if old is not None and due_at is not None and at < old <= due_at:
            due_at = old  # early is allowed, late is not, and what stays the same costs no index write
    if record.delivery is not None:
        if has_outbound(snapshot, record, drafts):
            send_at = not_before(record.delivery.at, SEND_PAUSE_MOST_S, at=at)
            due_at = send_at if due_at is None else min(due_at, send_at)
        else:
            record = structs.replace(record, delivery=structs.replace(record.delivery, upto=head))
    if lease is None and record.alone:
        record = structs.replace(record, alone=False)
    if lease is not None and until is None:
        until = at + policy.lease_s
    return Commit(record=record, drafts=tuple(drafts), lease=lease, leased_until=until or 0.0, due_at=due_at)


def find_oldest(snapshot: Snapshot, record: Record, drafts: list[Draft] | tuple[Draft, ...], *, at: float) -> float:
    """Return the time of the first entry that is left in the log, *drafts* among them; 0 where the window does not show it."""
    if snapshot.row.head == record.dropped:
        return (drafts[0].created_at or at) if drafts else 0.0
    first = snapshot.messages[0] if snapshot.messages else None
    return first.created_at if first is not None and first.number == record.dropped + 1 else 0.0


def not_before(time: float, longest_s: float, *, at: float) -> float:
    """Return the due time of what may be done from *time* on: at once if that has come *at* this moment, or cannot be `believed`."""
    return AT_ONCE if believed(time, longest_s, at=at) <= at else time


def forget_after(record: Record, policy: Policy) -> float | None:
    """Return after how many seconds in which nothing happens a conversation is erased; None: never."""
    if not record.visitor or policy.forget_visitors_s is None:
        return policy.forget_after_s
    return min(policy.forget_visitors_s, policy.forget_after_s or policy.forget_visitors_s)


def next_due(record: Record, policy: Policy, *, head: int, touched: float) -> float | None:
    """Return when an idle conversation has to be looked at: its session ends, its oldest entries grow too old, or nothing has happened
    since it was *touched* for so long that it is erased."""
    dues = [reminder.at for reminder in record.reminders] if record.reminders else []
    if (record.visitor or policy.forget_after_s) and (forgets := forget_after(record, policy)) is not None:
        dues.append(touched + forgets)
    if policy.session_ttl_s is not None and record.state != NONE:
        dues.append(record.active_at + policy.session_ttl_s)
    if policy.retention_s is not None and head > record.dropped:
        # (An oldest_at of 0 is not known: the sweep finds out.)
        dues.append(record.oldest_at + policy.retention_s)
    return min(dues) if dues else None


def first_due(policy: Policy, *, at: float) -> float | None:
    """Return when a conversation has to be looked at that begins *at* this time with what nobody answers: it has to end like any other."""
    return next_due(Record(oldest_at=at), policy, head=1, touched=at)
