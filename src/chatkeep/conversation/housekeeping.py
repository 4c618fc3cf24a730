"""What the sweep does to a conversation without unread messages."""

from __future__ import annotations

from msgspec import structs

from ..drivers.base import AT_ONCE
from ..model import Message
from .commits import next_commit, next_due, not_before
from .record import NONE
from .reminders import ring_reminder
from .sessions import is_session_over
from .snapshots import Commit, Policy, Snapshot, has_outbound, is_outbound, keep_outbound

PARKED_S = 30.0
"""A paused conversation is looked at again after this long, in case it was resumed and nobody told us."""

LOOK_AGAIN_S = 1.0
"""The sweep never sets a due time nearer than this, so that it cannot spin."""

PAGE_DROPPED = 500
"""Retention removes so many entries of one conversation at a time."""


def do_housekeeping(
    snapshot: Snapshot,
    policy: Policy,
    *,
    at: float,
    oldest: list[Message],
    paused: bool = False,
    sends: bool = False,
) -> Commit:
    """What the sweep writes when nothing is unread: reminders that are due, as events to be answered; an ended session
    closed, old log dropped, the next due time. Where the bot is *paused*, reminders wait; *sends*: its replies go out from
    here.

    *oldest* are the first messages still in the log, one page. The state of an ended session is gone with this; its
    log stays.
    """
    record = structs.replace(keep_outbound(snapshot, snapshot.record), cursor=snapshot.row.head)
    if is_session_over(record, policy, at):
        record = structs.replace(record, state=NONE)
    drop, waits = 0, has_outbound(snapshot, record)
    if policy.retention_s is not None:
        # What has not gone out yet stays.
        last = (
            min([record.delivery.upto, *(number - 1 for number in record.delivery.again)])
            if (sends and waits and record.delivery)
            else snapshot.row.head
        )
        kept = [message for message in oldest if message.created_at + policy.retention_s > at or message.number > last]
        drop = kept[0].number - 1 if kept else oldest[-1].number if oldest else 0
        oldest_at = kept[0].created_at if kept else 0.0
        record = structs.replace(record, dropped=max(drop, record.dropped), oldest_at=oldest_at)
    ringing = [reminder for reminder in record.reminders if reminder.at <= at]
    if ringing and not paused:
        later = tuple(reminder for reminder in record.reminders if reminder.at > at)
        return Commit(
            record=structs.replace(record, reminders=later),
            drafts=tuple(ring_reminder(reminder, snapshot.row.head) for reminder in ringing),
            due_at=AT_ONCE,
            drop=drop,
        )
    due_at = next_due(record, policy, head=snapshot.row.head)
    if due_at is not None:
        due_at = max(due_at, at + (PARKED_S if ringing else LOOK_AGAIN_S))
    if waits and record.delivery is not None:
        # Where nobody here can send it, somebody else is to find it; looking ever less often.
        waited = at - min((message.created_at for message in snapshot.messages if is_outbound(message)), default=at)
        send_at = not_before(record.delivery.at, at=at) if sends else at + max(PARKED_S, waited)
        due_at = send_at if due_at is None else min(due_at, send_at)
    return Commit(record=record, due_at=due_at, drop=drop)


def park(snapshot: Snapshot, policy: Policy, *, at: float) -> Commit:
    """Leaves unread messages alone for a while: the bot is paused here."""
    act = next_commit(snapshot, snapshot.record, policy, at=at)
    due_at = at + PARKED_S
    if act.record.delivery is not None and has_outbound(snapshot, act.record):
        due_at = min(due_at, not_before(act.record.delivery.at, at=at))
    return structs.replace(act, due_at=due_at)
