"""The next row of a conversation: who holds the lease, what is noted, and when somebody has to look again."""

from __future__ import annotations

from collections.abc import Container, Sequence

from msgspec import structs

from ..drivers.base import AT_ONCE
from .backoff import believed
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

CHANGES_KEPT = 32
"""So many acts may come between one whose outcome is unknown and its second run."""


def note_passed_over(first: int, last: int) -> Draft:
    """Return the note that the messages from *first* to *last* are kept but will not be answered."""
    return make_note("dropped", first=first, last=last)


def count_notes(there: Snapshot, act: Commit) -> Commit:
    """Return *act* with a record that counts the notes which it adds to the log: people do not see them."""
    made = 0
    for draft in act.drafts:
        made += draft.role == "system"
    if not made or there.row.key.tenant.startswith(RESERVED):
        return act
    return structs.replace(act, record=structs.replace(act.record, notes=there.record.notes + made))


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
    head = snapshot.row.head + len(drafts)
    record = keep_outbound(snapshot, record)
    if record.cursor < head:
        longest_s = max(policy.pause_most_s, policy.channel_within_s if record.paced else 0.0)
        due_at: float | None = not_before(record.retry_at, longest_s, at=at)
    else:
        if policy.retention_s is not None and not record.oldest_at:
            record = structs.replace(record, oldest_at=find_oldest(snapshot, record, drafts, at=at))
        due_at = next_due(record, policy, head=head, touched=max(at, snapshot.row.updated_at))
        old = snapshot.row.due_at
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
    """After how many seconds in which nothing happens a conversation is erased; None: never."""
    if not record.visitor or policy.forget_visitors_s is None:
        return policy.forget_after_s
    return min(policy.forget_visitors_s, policy.forget_after_s or policy.forget_visitors_s)


def next_due(record: Record, policy: Policy, *, head: int, touched: float) -> float | None:
    """When an idle conversation has to be looked at: its session ends, its oldest entries grow too old, or nothing has happened
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
    """When a conversation has to be looked at that begins *at* this time with what nobody answers: it has to end like any other."""
    return next_due(Record(oldest_at=at), policy, head=1, touched=at)
