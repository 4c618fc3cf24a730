"""The rules of conversations, as pure functions: no await, no clock, no chance. Times, tokens and ids are arguments.

A `Snapshot` is a conversation at one revision; each rule looks at one and answers what to do or what to write. The
store writes, the engine waits; everything that can be right or wrong about a turn is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from .codec import NONE, RESERVED, Delivery, Record, Reminder
from .drivers.base import Entry, Key, Row
from .model import ASKING, TALK, Content, Message, Role, Status

PARKED_S = 30.0
"""A conversation whose bot is off is looked at again after this long, in case it was switched on and nobody told us."""

LOOK_AGAIN_S = 1.0
"""The sweep never sets a due time nearer than this, so that it cannot spin."""

OUTWARD: frozenset[Role] = frozenset({"assistant", "operator"})
"""Roles that a channel sends to the user."""

PAGE_DROPPED = 500
"""Retention removes so many entries of one conversation at a time."""

NOTHING: Mapping[str, Any] = MappingProxyType({})

SUSPECT = 2
"""From so many deaths on, a message is tried alone. One alone says nothing: a deploy that kills is no reason to go slowly."""

DEAD_SHOWN = 100
"""So many numbers of messages set aside are kept in a record."""


class Policy(Struct, frozen=True, kw_only=True):
    """The settings that rules depend on. Durations in seconds."""

    overlap: str = "queue"
    quiet_s: float = 1.5
    max_wait_s: float = 10.0
    session_ttl_s: float | None = None
    retention_s: float | None = None
    history: int = 20
    max_raised: int = 3
    max_begun: int = 8
    claim_s: float = 35.0


class Snapshot(Struct, frozen=True, gc=False):
    """A conversation at one revision: its row, the record in it, and its last messages, dense up to row.head.

    plain: from this number on all messages are `plain`, as far as is known.
    """

    row: Row
    record: Record
    messages: tuple[Message, ...]
    plain: int = 1 << 62


class Draft(Struct, frozen=True, kw_only=True, gc=False):
    """A message without a number; created_at=0: of the act's time. *entry* is its stored form, if that was made
    before."""

    role: Role
    content: Content
    id: str = ""
    reply_to: int = 0
    reply_from: int = 0
    created_at: float = 0.0
    metadata: dict[str, Any] = {}
    entry: Entry | None = None


class Act(Struct, frozen=True, kw_only=True, gc=False):
    """What to write: the next record, new entries, the claim to hold afterwards, when to look again, how much log to
    drop."""

    record: Record
    drafts: tuple[Draft, ...] = ()
    claim: str | None = None
    claimed_until: float = 0.0
    due_at: float | None = None
    drop: int = 0


class Outcome(Struct, frozen=True, gc=False):
    """What became of one message: its status and replies, or the reason why it was set aside."""

    status: Status
    replies: list[Message] = []
    dead: str = ""


def unread(snapshot: Snapshot) -> list[Message]:
    """What waits for an answer, oldest first."""
    cursor = snapshot.record.cursor
    if snapshot.row.head == cursor:
        return []
    return [message for message in snapshot.messages if message.number > cursor and message.role in ASKING]


def session_over(record: Record, policy: Policy, at: float, number: int = 0) -> bool:
    """Whether message *number*, of time *at*, finds no live session. Judged by its time: a backlog expires nothing."""
    ttl = policy.session_ttl_s
    if record.state == NONE:
        return True
    return ttl is not None and (ttl == 0 or at - record.active_at >= ttl) and record.since != number


def opened(record: Record, state: Raw, schema: int, *, number: int, at: float) -> Record:
    """The record with a new session in it that begins with entry *number*."""
    return structs.replace(record, state=state, schema=schema, session=record.session + 1, since=number, active_at=at)


def batch(snapshot: Snapshot, policy: Policy) -> list[Message]:
    """The unread messages that the next turn answers together.

    After a first failure, or death, they are tried one by one, so that an innocent message does not share the fate of a
    guilty one.
    """
    waiting = unread(snapshot)
    if policy.overlap in ("debounce", "burst") and not (snapshot.record.begun or snapshot.record.deaths):
        return waiting
    return waiting[:1]


def ready_at(snapshot: Snapshot, policy: Policy) -> float:
    """When the next turn may begin: after the pause that follows a failure, and for debounce once the user is quiet."""
    waiting = unread(snapshot)
    ready = snapshot.record.retry_at
    if policy.overlap == "debounce" and waiting:
        quiet = min(waiting[-1].created_at + policy.quiet_s, waiting[0].created_at + policy.max_wait_s)
        ready = max(ready, quiet)
    return ready


def plain(message: Message) -> bool:
    """Whether a message is text that stands in its place, as nearly all are: a history needs neither sort nor copy it."""
    return (
        type(message.content) is str
        and not message.metadata
        and message.role in TALK
        and (message.reply_to or message.number - 1) == message.number - 1
    )


def plain_from(messages: Sequence[Message], otherwise: int) -> int:
    """The number from which on *messages* are plain; *otherwise* if all are."""
    odd = [message.number for message in messages if not plain(message)]
    return odd[-1] + 1 if odd else otherwise


def plain_history(snapshot: Snapshot, first: Message, policy: Policy) -> list[Message]:
    """As `history`, where that is a piece of the window as it is and nobody can change anything in it; else nothing."""
    messages = snapshot.messages
    if not messages or first.number < snapshot.row.head:
        return []
    start = max(snapshot.record.since, messages[0].number, first.number - policy.history)
    if snapshot.plain > start:
        return []
    return list(messages[start - messages[0].number : first.number - messages[0].number])


def history(snapshot: Snapshot, first: Message, policy: Policy) -> list[Message]:
    """The talk of the current session before message *first*, the last ones, each reply behind what it answers.

    In the log a reply may stand behind messages that came while it was made; those that are still unread do not
    belong to it.
    """
    since, messages = snapshot.record.since, snapshot.messages
    if first.number <= snapshot.row.head:
        messages = tuple([m for m in messages if m.number < first.number or m.role not in ASKING])
    said = [message for message in messages if message.role in TALK and message.number >= since]
    if any([message.reply_to and message.reply_to != message.number - 1 for message in said]):
        said.sort(key=lambda message: (message.reply_to or message.number, message.number))
    return said[-policy.history :] if policy.history else []


def same_input(before: Snapshot, now: Snapshot) -> bool:
    """Whether a handler that saw *before* would see the same in *now*, so that its result may be written on top of
    it."""
    a, b = before.record, now.record
    return before is now or (
        before.row.born == now.row.born
        and before.row.head <= now.row.head
        and (a.cursor, a.session, a.schema, a.since, a.off) == (b.cursor, b.session, b.schema, b.since, b.off)
        and a.state == b.state
    )


def bereaved(snapshot: Snapshot, *, died: bool) -> Record:
    """The record when the claim changes hands; *died*: because the process that held it did.

    A death is none of the message's attempts, since whatever else ran there may have caused it; only one that ran alone has
    nobody else to blame.
    """
    record = snapshot.record
    if not died or not unread(snapshot):
        return record
    return structs.replace(record, deaths=record.deaths + 1, begun=record.begun + record.alone, alone=False)


def is_suspect(snapshot: Snapshot, *, died: bool) -> bool:
    """Whether the first unread message may be what its processes die of, so that it has to be tried alone."""
    return bereaved(snapshot, died=died).deaths >= SUSPECT


def taken(snapshot: Snapshot, policy: Policy, *, token: str, at: float, died: bool = False, alone: bool = False) -> Act:
    """Takes the claim: a free one, or one whose holder is gone; *died*: as `bereaved`. *alone*: nothing else runs meanwhile.

    A message that was the end of too many processes that tried nothing else is set aside instead.
    """
    record = bereaved(snapshot, died=died)
    if died and record.begun >= policy.max_begun:
        reason = f"its process died {record.deaths} times while it was tried, {record.begun} times with no other handler beside it"
        return set_aside(snapshot, unread(snapshot)[0].number, reason, policy, at=at)
    if record.alone != alone:
        record = structs.replace(record, alone=alone)
    return next_act(snapshot, record, policy, at=at, claim=token)


def renewed(snapshot: Snapshot, policy: Policy, *, at: float) -> Act:
    """Keeps the claim that is held for as long again."""
    return next_act(snapshot, snapshot.record, policy, at=at, claim=snapshot.row.claim)


def finished(
    snapshot: Snapshot,
    answered: list[Message],
    replies: list[Content],
    policy: Policy,
    *,
    state: Raw,
    schema: int,
    opens: bool,
    at: float,
    claim: str | None = None,
    arriving: Draft | None = None,
    reminders: Mapping[str, Reminder | None] = NOTHING,
    out: bool = False,
) -> Act:
    """Records a turn: the new *state* (of a new session, if it *opens* one), the *replies*, and that *answered* are
    answered. *reminders* are those that it set, or, with None, cancelled; *out*: the replies go out through a channel.

    *claim* is kept while work remains. *arriving*: the one message itself, when it is accepted and answered in this
    act.
    """
    head = snapshot.row.head
    first, last = (head + 1, head + 1) if arriving else (answered[0].number, answered[-1].number)
    drafts = [arriving] if arriving else []
    drafts += [Draft(role="assistant", content=reply, reply_to=last, reply_from=first) for reply in replies]
    waiting = [message for message in unread(snapshot) if message.number > last]
    if waiting and policy.overlap == "drop":
        drafts.append(passed_over(waiting))
        waiting = []
    old = snapshot.record
    record = structs.replace(
        old,
        state=state,
        schema=schema,
        session=old.session + opens,
        since=first if opens else old.since,
        cursor=waiting[0].number - 1 if waiting else head + len(drafts),
        active_at=max(old.active_at, answered[-1].created_at),
        begun=0,
        raised=0,
        deaths=0,
        alone=False,
        retry_at=0.0,
        steps={},
        reminders=reminded(old.reminders, answered, reminders) if old.reminders or reminders else (),
    )
    if out:
        delivery = delivery_of(snapshot)
        if replies and claim and not delivery.sending and not waits_to_go(snapshot, old):
            # Whoever holds the claim sends the first reply at once, and says so in this same act.
            delivery = structs.replace(delivery, sending=head + (2 if arriving else 1))
        record = structs.replace(record, delivery=delivery)
    keeps = bool(waiting) or (out and bool(replies))
    return next_act(snapshot, record, policy, at=at, claim=claim if keeps else None, drafts=drafts)


def reminded(
    old: tuple[Reminder, ...], answered: list[Message], set_now: Mapping[str, Reminder | None] = NOTHING
) -> tuple[Reminder, ...]:
    """The reminders that stand after *answered*: a user who writes needs no reminding, but for those to be kept."""
    wrote = any(message.role == "user" for message in answered)
    kept = {reminder.name: reminder for reminder in old if reminder.keep or not wrote}
    return tuple(reminder for reminder in {**kept, **set_now}.values() if reminder is not None)


def stepped(snapshot: Snapshot, name: str, result: Raw, policy: Policy, *, at: float) -> Act:
    """Records what a step of the turn that runs has given."""
    row, record = snapshot.row, snapshot.record
    record = structs.replace(record, steps={**record.steps, name: result})
    return next_act(snapshot, record, policy, at=at, claim=row.claim, until=row.claimed_until)


def passed_over(messages: list[Message]) -> Draft:
    """The note that *messages* are kept but will not be answered."""
    return note("dropped", first=messages[0].number, last=messages[-1].number)


def note(kind: str, name: str = "", *, content: str = "", first: int = 0, last: int = 0) -> Draft:
    """A note of chatkeep's own, about the messages from *first* to *last*. With a *name* it can be written only once."""
    return Draft(
        id=f"{RESERVED}{kind}:{name}" if name else "",
        role="system",
        content=content,
        reply_to=last,
        reply_from=first,
        metadata={"kind": kind},
    )


def failed(
    snapshot: Snapshot,
    tried: list[Message],
    reason: str,
    policy: Policy,
    *,
    at: float,
    retry_at: float,
    arriving: Draft | None = None,
    claim: str | None = None,
) -> Act:
    """Counts an attempt that failed; a message that was tried alone is set aside when it has had its chances.

    *claim*: kept until then, because the attempt still runs.
    """
    record = snapshot.record
    raised, tries = record.raised + 1, record.begun + 1
    if len(tried) == 1 and (raised >= policy.max_raised or tries >= policy.max_begun):
        return set_aside(snapshot, tried[0].number, reason, policy, at=at, arriving=arriving)
    record = structs.replace(record, begun=tries, raised=raised, retry_at=retry_at, deaths=0, alone=False)
    return next_act(snapshot, record, policy, at=at, claim=claim, drafts=[arriving] if arriving else [])


def set_aside(
    snapshot: Snapshot, number: int, reason: str, policy: Policy, *, at: float, arriving: Draft | None = None
) -> Act:
    """Passes over a message that keeps failing and notes why; the next one is handled."""
    record = snapshot.record
    waiting = [later for later in unread(snapshot) if later.number > number]
    why = note("dead", f"{snapshot.row.born}.{number}", content=reason, first=number, last=number)
    drafts = [arriving, why] if arriving else [why]
    record = structs.replace(
        record,
        cursor=waiting[0].number - 1 if waiting else snapshot.row.head + len(drafts),
        dead=(*record.dead, number)[-DEAD_SHOWN:],
        begun=0,
        raised=0,
        deaths=0,
        alone=False,
        retry_at=0.0,
        steps={},
    )
    return next_act(snapshot, record, policy, at=at, drafts=drafts)


def skipped(snapshot: Snapshot, policy: Policy, *, at: float) -> Act | None:
    """Passes over everything unread without an answer; None when nothing is."""
    waiting = unread(snapshot)
    if not waiting:
        return None
    old = snapshot.record
    record = structs.replace(
        old,
        cursor=snapshot.row.head + 1,
        begun=0,
        raised=0,
        deaths=0,
        alone=False,
        retry_at=0.0,
        steps={},
        reminders=reminded(old.reminders, waiting),
    )
    row = snapshot.row
    # (Whoever holds the claim may be sending; a turn of theirs sees that the cursor has moved.)
    record = not_passed_over(snapshot, record)
    drafts = [passed_over(waiting)]
    return next_act(snapshot, record, policy, at=at, claim=row.claim, until=row.claimed_until, drafts=drafts)


def released(snapshot: Snapshot, policy: Policy, *, at: float, retry_at: float | None = None) -> Act:
    """Gives the claim back without counting an attempt; others may go on at once, or from *retry_at*."""
    record = snapshot.record if retry_at is None else structs.replace(snapshot.record, retry_at=retry_at)
    return next_act(snapshot, record, policy, at=at)


def noted(snapshot: Snapshot, record: Record, note: Draft, policy: Policy, *, at: float) -> Act:
    """Changes the record outside a turn. The note's id is what makes a second run of the same act harmless."""
    row = snapshot.row
    if not unread(snapshot):
        record = structs.replace(not_passed_over(snapshot, record), cursor=row.head + 1)
    return next_act(snapshot, record, policy, at=at, claim=row.claim, until=row.claimed_until, drafts=[note])


def tended(
    snapshot: Snapshot,
    policy: Policy,
    *,
    at: float,
    oldest: list[Message],
    off: bool = False,
    sends: bool = False,
) -> Act:
    """What the sweep writes when nothing is unread: reminders that are due, as events to be answered; an ended session
    closed, old log dropped, the next due time. Where the bot is *off*, reminders wait; *sends*: its replies go out from
    here.

    *oldest* are the first messages still in the log, one page. The state of an ended session is gone with this; its
    log stays.
    """
    record = structs.replace(not_passed_over(snapshot, snapshot.record), cursor=snapshot.row.head)
    if session_over(record, policy, at):
        record = structs.replace(record, state=NONE)
    drop, waits = 0, waits_to_go(snapshot, record)
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
    if ringing and not off:
        later = tuple(reminder for reminder in record.reminders if reminder.at > at)
        return Act(
            record=structs.replace(record, reminders=later),
            drafts=tuple(rung(reminder, snapshot.row.head) for reminder in ringing),
            due_at=at,
            drop=drop,
        )
    due_at = next_due(record, policy, head=snapshot.row.head)
    if due_at is not None:
        due_at = max(due_at, at + (PARKED_S if ringing else LOOK_AGAIN_S))
    if waits and record.delivery is not None:
        # Where nobody here can send it, somebody else is to find it; looking ever less often.
        waited = at - min((message.created_at for message in snapshot.messages if goes_out(message)), default=at)
        send_at = max(at, record.delivery.at) if sends else at + max(PARKED_S, waited)
        due_at = send_at if due_at is None else min(due_at, send_at)
    return Act(record=record, due_at=due_at, drop=drop)


def rung(reminder: Reminder, head: int) -> Draft:
    """The event that a reminder brings to a log of so many entries. Its id lets it come only once, whoever brings it."""
    part = {"type": "reminder", "name": reminder.name, "data": msgspec.json.decode(reminder.data)}
    name = f"{RESERVED}reminder:{round(reminder.at * 1000)}.{head}:{reminder.name}"
    return Draft(role="event", content=[part], id=name)


def parked(snapshot: Snapshot, policy: Policy, *, at: float) -> Act:
    """Leaves unread messages alone for a while: the bot is off here, or the state is newer than this code."""
    act = next_act(snapshot, snapshot.record, policy, at=at)
    due_at = at + PARKED_S
    if act.record.delivery is not None and waits_to_go(snapshot, act.record):
        due_at = min(due_at, max(at, act.record.delivery.at))
    return structs.replace(act, due_at=due_at)


def delivery_of(snapshot: Snapshot) -> Delivery:
    """Where sending stands. A conversation that begins to go out does so from what is not handled yet."""
    return snapshot.record.delivery or Delivery(upto=snapshot.record.cursor)


def of_a_channel(key: Key) -> bool:
    """Whether *key* may be that of a channel's conversation, "channel:account:customer": only where channels are known is it
    certain."""
    return key.id.count(":") >= 2


def not_passed_over(snapshot: Snapshot, record: Record) -> Record:
    """*record*, before its cursor moves on: what an operator wrote in a channel's conversation before any turn is to go out
    all the same, also if whoever writes this knows of no channel."""
    behind_it = [m for m in snapshot.messages if m.number > snapshot.record.cursor and goes_out(m)]
    if record.delivery is not None or not behind_it or not of_a_channel(snapshot.row.key):
        return record
    return structs.replace(record, delivery=delivery_of(snapshot))


def goes_out(message: Message | Draft) -> bool:
    """Whether a channel sends *message*; what was written in the platform's own inbox is there already."""
    return message.role in OUTWARD and not message.metadata.get("sent")


def waits_to_go(snapshot: Snapshot, record: Record, drafts: Sequence[Draft] = ()) -> bool:
    """Whether anything still has to be sent through a channel."""
    delivery, messages = record.delivery, snapshot.messages
    if delivery is None:
        return False
    unseen = delivery.upto < (messages[0].number - 1 if messages else snapshot.row.head)  # nobody knows what is there
    return (
        bool(delivery.again)
        or unseen
        or any(goes_out(message) for message in messages if message.number > delivery.upto)
        or any(map(goes_out, drafts))
    )


def has_to_go(snapshot: Snapshot) -> bool:
    """Whether anything has to be sent, also where nothing ever was: from the first message that is not handled on."""
    return waits_to_go(snapshot, structs.replace(snapshot.record, delivery=delivery_of(snapshot)))


def next_act(
    snapshot: Snapshot,
    record: Record,
    policy: Policy,
    *,
    at: float,
    claim: str | None = None,
    until: float | None = None,
    drafts: list[Draft] | tuple[Draft, ...] = (),
) -> Act:
    """The whole next row, given the next record: who holds the claim and when somebody has to look again."""
    head = snapshot.row.head + len(drafts)
    if record.cursor < head:
        due_at: float | None = max(at, record.retry_at)
    else:
        if policy.retention_s is not None and not record.oldest_at and snapshot.messages:
            first = snapshot.messages[0]
            record = structs.replace(record, oldest_at=first.created_at if first.number == record.dropped + 1 else 0.0)
        due_at = next_due(record, policy, head=head)
        old = snapshot.row.due_at
        if old is not None and due_at is not None and at < old <= due_at:
            due_at = old  # early is allowed, late is not, and what stays the same costs no index write
    if record.delivery is not None:
        if waits_to_go(snapshot, record, drafts):
            send_at = max(at, record.delivery.at)
            due_at = send_at if due_at is None else min(due_at, send_at)
        else:
            record = structs.replace(record, delivery=structs.replace(record.delivery, upto=head))
    if claim is None and record.alone:
        record = structs.replace(record, alone=False)
    if claim is not None and until is None:
        until = at + policy.claim_s
    return Act(record=record, drafts=tuple(drafts), claim=claim, claimed_until=until or 0.0, due_at=due_at)


def next_due(record: Record, policy: Policy, *, head: int) -> float | None:
    """When an idle conversation has to be looked at: its session ends, or its oldest entries grow too old."""
    dues = []
    if policy.session_ttl_s is not None and record.state != NONE:
        dues.append(record.active_at + policy.session_ttl_s)
    if policy.retention_s is not None and head > record.dropped:
        # (An oldest_at of 0 is not known: the sweep finds out.)
        dues.append(record.oldest_at + policy.retention_s)
    dues += [reminder.at for reminder in record.reminders]
    return min(dues, default=None)


def behind(snapshot: Snapshot, number: int) -> list[Message]:
    """The messages of the window that are numbered above *number*."""
    count = snapshot.row.head - number
    return list(snapshot.messages[-count:]) if count > 0 else []


def outcome(record: Record, number: int, found: list[Message]) -> Outcome | None:
    """What became of message *number*, given the entries *found* behind it; None while it is unread."""
    if record.cursor < number:
        return None
    about = [
        message for message in found if message.reply_to and (message.reply_from or 0) <= number <= message.reply_to
    ]
    replies = [message for message in about if message.role == "assistant"]
    notes = {message.metadata.get("kind"): message.text for message in about if message.role == "system"}
    if replies or not notes:
        return Outcome("answered", replies)
    return Outcome("failed", dead=notes["dead"]) if "dead" in notes else Outcome("dropped")
