"""The rules of conversations, as pure functions: no await, no clock, no chance. Times, tokens and ids are arguments.

A `Snapshot` is a conversation at one revision; each rule looks at one and answers what to do or what to write. The
store writes, the engine waits; everything that can be right or wrong about a turn is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import dropwhile, islice

from msgspec import Raw, json, structs

from ..model import ASKING, TALK, Content, Message
from .backoff import believed
from .commits import make_note, next_commit, note_passed_over
from .dead_letters import close_replayed
from .keys import SAVED
from .record import Record, Reminder, untried
from .releases import begin_version, end_version
from .reminders import keep_reminders
from .sessions import is_session_over
from .snapshots import (
    NOTHING,
    Commit,
    Draft,
    Policy,
    Snapshot,
    delivery_of,
    has_outbound,
    is_cut,
    is_other_log,
    messages_after,
    place_of,
    unread_messages,
)
from .streams import draft_said, reply_id

TOGETHER = frozenset({"debounce", "burst", "interrupt"})
"""What `overlap` is where messages that wait are answered together."""

DEAD_SHOWN = 100
"""So many numbers of messages set aside are kept in a record."""


def choose_batch(snapshot: Snapshot, policy: Policy) -> list[Message]:
    """Return the unread messages that the next turn answers together.

    After a first failure, or death, they are tried one by one, so that an innocent message does not share the fate of a
    guilty one.
    """
    waiting = unread_messages(snapshot)
    if policy.overlap in TOGETHER and not (snapshot.record.begun or snapshot.record.deaths):
        return waiting
    return waiting[:1]


def ready_at(snapshot: Snapshot, policy: Policy, *, at: float) -> float:
    """Return when the next turn may begin: after the pause that follows a failure, and for debounce once the user is quiet; not later than
    the settings let anything wait, counted from now, *at*."""
    waiting, longest_s = unread_messages(snapshot), policy.pause_most_s
    held = believed(held_until(snapshot.record, waiting, policy), policy.channel_within_s, at=at)
    ready = snapshot.record.retry_at
    ready = held if held == ready else believed(ready, longest_s, at=at)
    if policy.overlap == "debounce" and waiting:
        quiet = min(waiting[-1].created_at + policy.quiet_s, waiting[0].created_at + policy.max_wait_s)
        ready = max(ready, believed(quiet, longest_s, at=at))
    return max(ready, held)


def is_paced(message: Message, policy: Policy) -> bool:
    """Tell whether a turn that answers *message* counts for `channel_rate`: nobody else limits who writes through a channel."""
    return message.channel not in ("", SAVED) and policy.channel_turns is not None


def held_until(record: Record, waiting: Sequence[Message], policy: Policy) -> float:
    """Return when the first of the *waiting* messages may be answered by `channel_rate`: so many turns at once, and then one for each
    share of the time."""
    if not record.paced or not waiting or not is_paced(waiting[0], policy) or policy.channel_turns is None:
        return 0.0
    return record.paced - policy.channel_within_s * (1 - 1 / policy.channel_turns)


def pace(record: Record, answered: Message, policy: Policy, *, at: float) -> float:
    """Return `Record.paced` after a turn that has *answered* a message."""
    if policy.channel_turns is None or not is_paced(answered, policy):
        return record.paced
    return max(min(record.paced, at + policy.channel_within_s), at) + policy.channel_within_s / policy.channel_turns


def slice_plain_history(snapshot: Snapshot, first: Message, policy: Policy) -> list[Message]:
    """Return what `collect_history` does, where that is a piece of the window as it is and nobody can change anything in it; else
    nothing."""
    messages, since = snapshot.messages, snapshot.record.since
    if not messages or first.number < snapshot.row.head:
        return []
    oldest = messages[0].number
    start = max(since, oldest, first.number - policy.history)
    if snapshot.plain > start:
        return []
    said = list(messages[start - oldest : first.number - oldest])
    if policy.history_bytes is None and len(said) > 1 and said[1].reply_from == start:
        return said  # it begins with a question and its answer, as nearly always
    if start > since and start > oldest:
        before = messages[start - oldest - 1]
        if before.role not in TALK or before.redacted:
            return []  # it may be that nothing was said before it
    return fit_history(said, policy, cut=start > since)


def collect_history(snapshot: Snapshot, first: Message, policy: Policy) -> list[Message]:
    """Return the talk of the current session before message *first*, the last ones, each reply behind what it answers.

    In the log a reply may stand behind messages that came while it was made; those that are still unread do not
    belong to it.
    """
    since, messages = snapshot.record.since, (*snapshot.messages, *snapshot.beyond)
    if first.number <= snapshot.row.head:
        messages = tuple([m for m in messages if m.number < first.number or m.role not in ASKING])
    said = [m for m in messages if m.role in TALK and m.number >= since and not m.redacted]
    if any([message.reply_to and message.reply_to != message.number - 1 for message in said]):
        said.sort(key=lambda message: (message.reply_to or message.number, message.number))
    return fit_history(said, policy, cut=bool(messages) and messages[0].number > since)


def lacks_history(snapshot: Snapshot, policy: Policy, first: Message) -> bool:
    """Tell whether more of the talk of the session in which *first* is answered may be in the log than in the snapshot: notes have taken
    its place, or only the end of the log was read."""
    messages, record = snapshot.messages, snapshot.record
    if not messages:
        return False
    oldest = messages[0].number
    if oldest <= record.since or oldest <= record.dropped + 1:
        return False
    if snapshot.plain <= oldest:
        lacks = len(messages) < policy.history
    else:
        lacks = sum(message.role in TALK for message in messages) <= policy.history
    return lacks and not is_session_over(record, policy, first.created_at, first.number)


def count_needed(snapshot: Snapshot, policy: Policy, *, at: float) -> int:
    """Return how many of the last entries of the log a turn has to have at hand that answers a message of time *at*: those of the session
    that is live then, those that wait, and those that are not sent yet."""
    record, head = snapshot.record, snapshot.row.head
    passed = head
    if record.cursor < head or (policy.retention_s is not None and not record.oldest_at):
        passed = 0
    elif not is_session_over(record, policy, at):
        passed = record.since - 1
    if record.delivery is not None:
        passed = min(passed, record.delivery.upto)
    return head - max(passed, record.dropped)


def fit_history(said: list[Message], policy: Policy, *, cut: bool) -> list[Message]:
    """Return the last messages of *said*, as many and as large as the settings allow, from the first message of a turn on.

    So no result of a tool is without its call, and no answer without its question. *cut*: something came before *said*.
    """
    start, most_bytes = max(len(said) - policy.history, 0), policy.history_bytes
    if most_bytes is not None:
        for place in range(len(said) - 1, start - 1, -1):
            most_bytes -= size_of(said[place].content)
            if most_bytes < 0:
                start = place + 1
                break
    if start or cut:
        for place in range(start, len(said)):
            if _begins_turn(said, place):
                return said[place:] if place else said
        if any(message.role in ASKING for message in said[start:]):
            return []
    # What an operator wrote where nobody had asked belongs to no turn. An answer that was saved does not say to what.
    of_earlier = SAVED if start or cut else None
    return list(dropwhile(lambda message: message.reply_to or message.channel == of_earlier, said[start:]))


def _begins_turn(said: list[Message], place: int) -> bool:
    """Tell whether the first of the messages that were answered together stands at *place*."""
    first = said[place]
    if first.role not in ASKING:
        return False
    for reply in islice(said, place + 1, None):
        if reply.reply_to is not None and reply.reply_to >= first.number:
            return (reply.reply_from or reply.reply_to) >= first.number
    return True


def size_of(content: Content) -> int:
    """Return the bytes of a message's text, or of its parts as JSON."""
    return len(content.encode()) if isinstance(content, str) else len(json.encode(content))


def has_same_input(before: Snapshot, now: Snapshot, *, last: int | None = None) -> bool:
    """Tell whether a handler that saw *before* would see the same in *now*, so that its result may be written on top of
    it. *last*: the last message that it saw, where more of *before* waits."""
    a, b = before.record, now.record
    return before is now or (
        before.row.incarnation == now.row.incarnation
        and before.row.head <= now.row.head
        and (a.cursor, a.session, a.schema, a.since, a.paused) == (b.cursor, b.session, b.schema, b.since, b.paused)
        and not _saw_redacted(before, now, before.row.head if last is None else last)
        and not is_other_log(place_of(before), now.messages)
        and a.state == b.state
    )


def _saw_redacted(before: Snapshot, now: Snapshot, last: int) -> bool:
    """Tell whether a handler that saw *before* up to message *last* may have seen what nobody is to see any more."""
    since = now.record.redactions - before.record.redactions
    if not since:
        return False
    # What was withdrawn while it waited, each by an act of its own, was not seen yet.
    unseen = [
        sum(m.redacted and m.role in ASKING and m.number > last for m in there.messages) for there in (before, now)
    ]
    return unseen[1] - unseen[0] != since


def has_same_place(before: Snapshot, now: Snapshot) -> bool:
    """Tell whether what is answered first in *before* is what is answered first in *now*: also in a log that was rolled back, and went on
    from there, a message may have that number."""
    same = (before.row.incarnation, before.record.cursor) == (now.row.incarnation, now.record.cursor)
    return same and (before is now or not is_other_log(place_of(before), now.messages))


def is_wanted(before: Snapshot, now: Snapshot, tried: list[Message], policy: Policy, *, lease: str) -> bool:
    """Tell whether the turn that began on *before* with the messages *tried*, under *lease*, is to go on: nobody has stopped it,
    nobody else runs it, and, with overlap="interrupt", no other message waits."""
    if now.row.lease != lease or not has_same_place(before, now):
        return False
    return policy.overlap != "interrupt" or all(m.number <= tried[-1].number for m in unread_messages(now))


def is_same_turn(before: Snapshot, now: Snapshot, first: Message, *, opens: bool) -> bool:
    """Tell whether the turn that began on *before* with message *first* is still to be answered in *now*, in the same session.

    The state may be another. A turn that *opens* a session may find that a change from outside has opened it meanwhile. Where
    *first* is not in the log yet, nothing but notes may have come into it.
    """
    a, b = before.record, now.record
    if _saw_redacted(before, now, before.row.head) or is_other_log(place_of(before), now.messages):
        return False
    cursor, came = b.cursor, messages_after(now, before.row.head)
    if first.number > before.row.head and now.row.head == cursor and all(message.role == "system" for message in came):
        cursor = a.cursor
    return (
        before.row.incarnation == now.row.incarnation
        and before.row.head <= now.row.head
        and (a.cursor, a.paused) == (cursor, b.paused)
        and (
            (a.session, a.since) == (b.session, b.since)
            or (opens and (b.session, b.since) == (a.session + 1, first.number))
        )
    )


def finish_turn(
    snapshot: Snapshot,
    answered: list[Message],
    replies: list[Content],
    policy: Policy,
    *,
    state: Raw,
    schema: int,
    opens: bool,
    at: float,
    lease: str | None = None,
    arriving: Draft | None = None,
    reminders: Mapping[str, Reminder | None] = NOTHING,
    out: bool = False,
    streamed: bool = False,
    notes: Sequence[Draft] = (),
) -> Commit:
    """Record a turn: the new *state* (of a new session, if it *opens* one), the *replies*, and that *answered* are
    answered. *reminders* are those that it set, or, with None, cancelled; *out*: the replies go out through a channel; *streamed*:
    the last reply was shown while it was made, under an id that is known before. *notes* are written behind the replies.

    *lease* is kept while work remains. *arriving*: the one message itself, when it is accepted and answered in this
    act.
    """
    head = snapshot.row.head
    first, last = (head + 1, head + 1) if arriving else (answered[0].number, answered[-1].number)
    drafts = [arriving] if arriving else []
    drafts += [Draft(role="assistant", content=reply, reply_to=last, reply_from=first) for reply in replies]
    if streamed and replies:
        drafts[-1] = structs.replace(drafts[-1], id=reply_id(snapshot.row.incarnation, first))
    drafts += notes
    old, cut = snapshot.record, bool(snapshot.beyond)
    waiting = unread_messages(snapshot) if head != old.cursor else []
    passed = answered
    if waiting:
        waiting = [message for message in waiting if message.number > last]
    if (waiting or cut) and policy.overlap == "drop":
        first_dropped = waiting[0].number if waiting else last + 1
        drafts.append(note_passed_over(first_dropped, head if cut else waiting[-1].number))
        passed, waiting, cut = [*answered, *waiting], [], False
    record = structs.replace(
        untried(old),
        state=state,
        schema=schema,
        session=old.session + opens,
        since=first if opens else old.since,
        cursor=waiting[0].number - 1 if waiting else snapshot.messages[-1].number if cut else head + len(drafts),
        active_at=max(old.active_at, answered[-1].created_at),
        dead=close_replayed(old.dead, answered) if old.dead else (),
        paced=pace(old, answered[0], policy, at=at) if answered[0].channel else old.paced,
        reminders=keep_reminders(old.reminders, passed, reminders) if old.reminders or reminders else (),
    )
    if out:
        delivery = delivery_of(snapshot)
        if replies and lease and not delivery.sending and not has_outbound(snapshot, old):
            # Whoever holds the lease sends the first reply at once, and says so in this same act.
            delivery = structs.replace(delivery, sending=head + (2 if arriving else 1), at=0.0)
            record = structs.replace(record, sending_deaths=0)
        record = structs.replace(record, delivery=delivery)
    if record.version or policy.pin == "session":
        record = end_version(record, policy)
    keeps = bool(waiting) or cut or (out and bool(replies))
    if record.paced and (held := held_until(record, waiting, policy)) > at:
        record, keeps = structs.replace(record, retry_at=held), out and bool(replies)
    return next_commit(snapshot, record, policy, at=at, lease=lease if keeps else None, drafts=drafts)


def record_step(snapshot: Snapshot, name: str, result: Raw, policy: Policy, *, at: float) -> Commit:
    """Record what a step of the turn that runs has given."""
    row, record = snapshot.row, snapshot.record
    record = begin_version(snapshot, structs.replace(record, steps={**record.steps, name: result}), policy)
    return next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until)


def is_last_attempt(
    record: Record, tried: list[Message], policy: Policy, *, at: float, hangs: bool = False, final: bool = False
) -> bool:
    """Tell whether messages whose attempt fails *at* this time have had their chances; *hangs* and *final* as in `fail_turn`.

    Who was tried together with others has not. Handlers that hang, and deaths, have a count of their own.
    """
    raised, tries = record.raised + (not hangs), record.begun + 1
    return len(tried) == 1 and (
        final
        or at >= failing_since(record, policy, at=at) + policy.retry_for_s
        or (policy.max_raised is not None and (tries if hangs else raised) >= policy.max_raised)
        or tries - raised >= policy.max_begun
    )


def failing_since(record: Record, policy: Policy, *, at: float) -> float:
    """Return since when a message has been tried that fails again *at* this time, as if there had been no while in which nobody tried it,
    because no process ran or the bot was silent."""
    if not record.failed_at:
        return at
    # The record's two times are of one clock, and so the time between them is right where this one's is ahead or behind.
    tried_until = max(min(at, record.retry_at + policy.turn_s), record.retry_at)
    return at - max(tried_until - record.failed_at, 0.0)


def fail_turn(
    snapshot: Snapshot,
    tried: list[Message],
    reason: str,
    policy: Policy,
    *,
    at: float,
    retry_at: float,
    arriving: Draft | None = None,
    lease: str | None = None,
    final: bool = False,
    replies: Sequence[Content] = (),
    out: bool = False,
) -> Commit:
    """Count an attempt that failed; a message that was tried alone is set aside when it has had its chances.

    *lease*: kept until then, because the attempt still runs: it hangs. *final*: another attempt would fail like this one.
    *replies*, *out*: as in `set_aside`.
    """
    record, hangs = snapshot.record, lease is not None
    if is_last_attempt(record, tried, policy, at=at, hangs=hangs, final=final):
        return set_aside(snapshot, tried[0].number, reason, policy, at=at, arriving=arriving, replies=replies, out=out)
    failed_at = failing_since(record, policy, at=at)
    record = structs.replace(
        record,
        begun=record.begun + 1,
        raised=record.raised + (not hangs),
        failed_at=failed_at,
        # (The last attempt is made when the time is over, and not a pause later.)
        retry_at=min(retry_at, failed_at + policy.retry_for_s),
        deaths=0,
        alone=False,
    )
    record = begin_version(snapshot, record, policy)
    return next_commit(snapshot, record, policy, at=at, lease=lease, drafts=[arriving] if arriving else [])


def set_aside(
    snapshot: Snapshot,
    number: int,
    reason: str,
    policy: Policy,
    *,
    at: float,
    arriving: Draft | None = None,
    replies: Sequence[Content] = (),
    out: bool = False,
) -> Commit:
    """Pass over a message that keeps failing and note why; the next one is handled. A replay that fails takes the place of
    the dead letter that it repeats. *replies*: what is said to the user instead of an answer; *out*: through a channel."""
    record, unread = snapshot.record, unread_messages(snapshot)
    waiting = [later for later in unread if later.number > number]
    failed = [message for message in unread if message.number == number]
    dead = close_replayed(record.dead, failed)
    why = make_note("dead", f"{snapshot.row.incarnation}.{number}", content=reason, first=number, last=number)
    drafts = [arriving, why] if arriving else [why, *draft_said(snapshot, number, "interrupted")]
    drafts += [Draft(role="assistant", content=reply, reply_to=number, reply_from=number) for reply in replies]
    end = snapshot.messages[-1].number if is_cut(snapshot) else snapshot.row.head + len(drafts)
    record = structs.replace(
        untried(record),
        cursor=waiting[0].number - 1 if waiting else end,
        dead=(*dead, number)[-DEAD_SHOWN:],
        reminders=keep_reminders(record.reminders, [arriving] if arriving else failed),
        delivery=delivery_of(snapshot) if out and len(drafts) > 1 + bool(arriving) else record.delivery,
    )
    return next_commit(snapshot, record, policy, at=at, drafts=drafts)


def skip_unread(snapshot: Snapshot, policy: Policy, *, at: float) -> Commit | None:
    """Pass over everything unread without an answer, and reminders that are due by *at*; None when there is neither."""
    waiting = unread_messages(snapshot)
    old, row = snapshot.record, snapshot.row
    reminders = tuple(reminder for reminder in keep_reminders(old.reminders, waiting) if reminder.at > at)
    if not waiting:
        if reminders == old.reminders:
            return None
        record = structs.replace(old, reminders=reminders)
        return next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until)
    last = row.head if is_cut(snapshot) else waiting[-1].number
    drafts = [*draft_said(snapshot, waiting[0].number, "stopped"), note_passed_over(waiting[0].number, last)]
    record = structs.replace(
        untried(old),
        cursor=row.head + len(drafts),
        reminders=reminders,
    )
    # (Whoever holds the lease may be sending; a turn of theirs sees that the cursor has moved.)
    return next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until, drafts=drafts)
