"""What the sweep does to a conversation in which no turn runs: ends what is over, has it rest while the bot is paused, and makes
it due again."""

from __future__ import annotations

from msgspec import structs

from ..drivers.base import AT_ONCE, Row
from ..model import Message
from .commits import SEND_PAUSE_MOST_S, forget_after, next_commit, next_due, not_before
from .leases import count_death
from .outbox import GIVE_UP_S
from .record import NONE, OutboxState, Record
from .reminders import ring_reminder
from .sessions import is_session_over
from .snapshots import Commit, Policy, Snapshot, has_outbound, is_outbound, keep_outbound, unanswered, unread_messages

PARKED_S = 30.0
"""What cannot be read, or sent, here is looked at again after this long."""

HELD_S = 3600.0
"""What is on legal hold, and would be erased or cut otherwise, is looked at again after this long."""

LOOK_AGAIN_S = 1.0
"""The sweep never sets a due time nearer than this, so that it cannot spin."""

PAGE_DROPPED = 500
"""Retention removes so many entries of one conversation at a time."""


def do_housekeeping(
    snapshot: Snapshot,
    policy: Policy,
    *,
    at: float,
    ends: float | None = None,
    oldest: list[Message],
    paused: bool = False,
    sends: bool = False,
    held: bool = False,
) -> Commit:
    """Return what the sweep writes when nothing is unread: reminders that are due, as events to be answered; an ended session
    closed, old log dropped, the next due time. Where the bot is *paused*, reminders rest until `wake`; *sends*: its replies go
    out from here.

    *ends*: what was over then is ended; None: what is now. *oldest* are the first messages still in the log, one page. The state
    of an ended session is gone with this; its log stays. *held*: it is on legal hold: nothing is dropped, and it is looked at again.
    """
    ends = at if ends is None else ends
    if held:
        policy = structs.replace(policy, retention_s=None, forget_after_s=None, forget_visitors_s=None)
    record = keep_outbound(snapshot, structs.replace(snapshot.record, cursor=snapshot.row.head))
    if is_session_over(record, policy, ends):
        record = structs.replace(record, state=NONE)
    drop, waits = 0, has_outbound(snapshot, record)
    if policy.retention_s is not None:
        # What has not gone out yet stays; where nobody sends it, for as long as it would be tried.
        out = _find_sent(record.delivery) if waits and record.delivery else snapshot.row.head
        kept = [
            message
            for message in oldest
            if message.created_at + policy.retention_s > ends
            or (message.number > out and (sends or message.created_at + GIVE_UP_S > ends))
        ]
        drop = kept[0].number - 1 if kept else oldest[-1].number if oldest else 0
        record = structs.replace(_without_entries(record, drop), oldest_at=kept[0].created_at if kept else 0.0)
    ringing = [reminder for reminder in record.reminders if reminder.at <= at]
    later = tuple(reminder for reminder in record.reminders if reminder.at > at)
    if ringing and not paused:
        return Commit(
            record=structs.replace(record, reminders=later),
            drafts=tuple(ring_reminder(reminder, snapshot.row.head) for reminder in ringing),
            due_at=AT_ONCE,
            drop=drop,
        )
    due_at = next_due(
        structs.replace(record, reminders=later), policy, head=snapshot.row.head, touched=snapshot.row.updated_at
    )
    if held:
        due_at = min(at + HELD_S, due_at or at + HELD_S)
    if due_at is not None:
        # What is over, and stays for the sake of a reply, is looked at with the reply.
        stays = waits and record.delivery is not None and not drop
        due_at = None if stays and due_at <= ends else max(due_at, ends + LOOK_AGAIN_S)
    if waits and record.delivery is not None:
        # Where nobody here can send it, somebody else is to find it; looking ever less often.
        waited = at - min((message.created_at for message in snapshot.messages if is_outbound(message)), default=at)
        send_at = not_before(record.delivery.at, SEND_PAUSE_MOST_S, at=at) if sends else at + max(PARKED_S, waited)
        due_at = send_at if due_at is None else min(due_at, send_at)
    return Commit(record=record, due_at=due_at, drop=drop, untouched=True)


def _find_sent(delivery: OutboxState) -> int:
    """Return up to which number every reply has gone out."""
    return min([delivery.upto, *(number - 1 for number in delivery.again)])


def _without_entries(record: Record, upto: int) -> Record:
    """Return *record* when the log up to entry *upto* is dropped."""
    dropped = max(upto, record.dropped)
    return structs.replace(record, dropped=dropped, dead=tuple(number for number in record.dead if number > dropped))


def cut_log(snapshot: Snapshot, upto: int, policy: Policy, *, at: float) -> Commit:
    """Drop the log up to entry *upto*, as retention does, because there is no room for it; nothing else changes."""
    act = next_commit(snapshot, _without_entries(snapshot.record, upto), policy, at=at)
    return structs.replace(act, drop=upto, untouched=True)


def is_forgotten(snapshot: Snapshot, policy: Policy, *, at: float) -> bool:
    """Tell whether nothing has happened for so long that the conversation is to be erased: nobody waits for anything in it, and a
    reply that has not gone out would not be tried any more."""
    forgets_at = find_forgetting(snapshot, policy)
    return forgets_at is not None and at >= forgets_at


def find_forgetting(snapshot: Snapshot, policy: Policy) -> float | None:
    """Return when the conversation is to be erased if nothing happens in it until then; None: not as it is now."""
    record, forgets = snapshot.record, forget_after(snapshot.record, policy)
    if forgets is None or record.reminders or (unread_messages(snapshot) and not is_answered_by_person(snapshot)):
        return None
    return snapshot.row.updated_at + (max(forgets, GIVE_UP_S) if has_outbound(snapshot, record) else forgets)


def is_answered_by_person(snapshot: Snapshot) -> bool:
    """Tell whether a person has said something after the last message that waits for the bot, as where that is paused: nobody waits for
    anything then. Not where more waits than is held."""
    return not snapshot.beyond and not unanswered(snapshot.messages, snapshot.record.cursor)


def schedule(snapshot: Snapshot, policy: Policy, *, at: float) -> Commit | None:
    """Make due what was last written when the settings did not ask for it; None where it is due some time, or never."""
    row = snapshot.row
    if row.due_at is not None or row.lease is not None:
        return None
    if unread_messages(snapshot):  # it rests, while the bot is paused
        forgets_at = find_forgetting(snapshot, policy)
        if forgets_at is None:
            return None
        act = next_commit(snapshot, snapshot.record, policy, at=at)
        return structs.replace(act, due_at=max(forgets_at, at), untouched=True)
    act = next_commit(snapshot, snapshot.record, policy, at=at)
    forgets = forget_after(snapshot.record, policy)
    if act.due_at is not None and forgets is not None:
        act = structs.replace(act, due_at=min(act.due_at, max(row.updated_at + forgets, at)))
    return None if act.due_at is None else structs.replace(act, untouched=True)


def may_schedule(row: Row, record: Record, policy: Policy, *, at: float) -> bool:
    """Tell whether *row*, as it was found, may be one that `schedule` has to do with; where the log has no say in that, it is told from
    the row alone."""
    oldest_unknown = policy.retention_s is not None and not record.oldest_at
    if row.head > record.cursor or record.delivery is not None or oldest_unknown:
        return True
    return schedule(Snapshot(row, record, ()), policy, at=at) is not None


def rest(
    snapshot: Snapshot, policy: Policy, *, at: float, sends: bool, died: bool = False, held: bool = False
) -> Commit | None:
    """Take unread messages out of what is due while the bot is paused; `wake`, or the act that resumes the conversation, brings
    them back. Only replies that wait to be sent stay due, and a conversation that is to be forgotten is due then; *held*: which it would
    be now, were it not on legal hold.

    None where others have to find these, because they do not go out from here (*sends*). *died*: as `count_death`.
    """
    act = next_commit(snapshot, count_death(snapshot, died=died), policy, at=at)
    due_at = find_forgetting(snapshot, policy)
    if due_at is not None:
        due_at = max(due_at, at + (HELD_S if held else LOOK_AGAIN_S))
    if act.record.delivery is not None and has_outbound(snapshot, act.record):
        if not sends:
            return None
        send_at = not_before(act.record.delivery.at, SEND_PAUSE_MOST_S, at=at)
        due_at = send_at if due_at is None else min(due_at, send_at)
    return structs.replace(act, due_at=due_at, untouched=True)


def wake(snapshot: Snapshot, policy: Policy, *, at: float, rewrites: bool) -> Commit | None:
    """Make due again what rested, because the bot is paused no more; None where there is nothing to do.

    *rewrites*: also what is due already. Whoever has not heard yet, and is about to have it rest, is refused then, because the
    revision is another one.
    """
    row, record = snapshot.row, snapshot.record
    rests = row.due_at is None and bool(record.reminders)  # perhaps by a clock that was ahead of this one
    waits = unread_messages(snapshot) or rests or any(reminder.at <= at for reminder in record.reminders)
    if not waits or not (rewrites or row.due_at is None or row.due_at > at):
        return None
    act = next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until)
    return structs.replace(act, untouched=True)


def may_rest(row: Row, record: Record) -> bool:
    """Tell whether *row*, as it was found, may be one that `wake` has to do with."""
    return row.head > record.cursor or bool(record.reminders)


def may_wait(row: Row, record: Record, *, soon: float) -> bool:
    """Tell whether nobody waits for what is due, and nobody will until *soon*: at most a session has ended, or entries are old
    enough to be dropped."""
    sent = record.delivery is None or (record.delivery.upto >= row.head and not record.delivery.again)
    return record.cursor >= row.head and sent and not any(reminder.at <= soon for reminder in record.reminders)
