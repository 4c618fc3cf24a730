"""Streamed replies: what one has said so far is kept in the record, and is the beginning of what is recorded in the end.

Watchers are shown what the record says and nothing else, so whatever act takes the message from those that wait records a reply
that begins with it: the turn that ends, a stop, or whoever sets the message aside.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Raw, structs

from ..model import Content, Message
from .commits import next_commit, note_passed_over
from .keys import RESERVED
from .record import Said, untried
from .releases import begin_version
from .reminders import keep_reminders
from .sessions import is_session_over, open_session
from .snapshots import Commit, Draft, Policy, Snapshot, delivery_of, is_cut, unread_messages

GROWING = frozenset({"text", "reasoning"})
"""Types of parts that grow while they are said; what they say stands under the name of the type."""

STREAMED = f"{RESERVED}reply:"
"""How the ids of streamed replies begin."""

Ending = Literal["stopped", "interrupted"]
"""Why a streamed reply ends before its handler has: somebody stopped it, or its process died or its handler failed. It stands in the
metadata of the reply."""


def reply_id(incarnation: str, number: int) -> str:
    """Return the id of the streamed reply to message *number*, which is known before the reply is recorded."""
    return f"{STREAMED}{incarnation}.{number}"


def find_said(snapshot: Snapshot) -> Said | None:
    """Return what the reply to the first unread message has said so far, if it has said anything."""
    said = snapshot.record.said
    if said is None:
        return None
    # (A version that does not know of `said` may have answered the message and carried this along.)
    waiting = unread_messages(snapshot)
    return said if waiting and waiting[0].number == said.number else None


def record_said(snapshot: Snapshot, said: Said, policy: Policy, *, at: float) -> Commit:
    """Record what a streamed reply has said so far."""
    row, record = snapshot.row, begin_version(snapshot, structs.replace(snapshot.record, said=said), policy)
    return next_commit(snapshot, record, policy, at=at, lease=row.lease, until=row.leased_until)


def draft_said(snapshot: Snapshot, last: int, ending: Ending) -> list[Draft]:
    """Return the reply that the first unread message gets when it is not answered any further: what was said so far, if anything
    was. *last*: the last message that it answers."""
    said = find_said(snapshot)
    return [] if said is None else [_draft(snapshot, said.number, last, said.content, ending)]


def end_reply(
    snapshot: Snapshot,
    answered: list[Message],
    content: Content,
    ending: Ending,
    policy: Policy,
    *,
    at: float,
    fresh: tuple[Raw, int] | None = None,
    lease: str | None = None,
    out: bool = False,
) -> Commit:
    """End the reply to the *answered* messages with what it has said, *content*, and go on behind them; where it has said nothing
    they are passed over. The state stays as it is; where the session is over, one opens with the *fresh* state and its schema.

    *lease*: held while others wait; *out*: as in `finish_turn`.
    """
    first, last = answered[0], answered[-1]
    waiting, cut = [message for message in unread_messages(snapshot) if message.number > last.number], is_cut(snapshot)
    old, head = snapshot.record, snapshot.row.head + 1
    record = structs.replace(
        untried(old),
        cursor=waiting[0].number - 1 if waiting else snapshot.messages[-1].number if cut else head,
        reminders=keep_reminders(old.reminders, answered),
    )
    if content:
        draft = _draft(snapshot, first.number, last.number, content, ending)
        if not is_session_over(old, policy, first.created_at, first.number):
            record = structs.replace(record, active_at=max(old.active_at, last.created_at))
        elif fresh is not None:
            record = open_session(record, *fresh, number=first.number, at=last.created_at)
        if out:
            record = structs.replace(record, delivery=delivery_of(snapshot))
    else:
        draft = note_passed_over(first.number, last.number)
    keeps = lease if waiting or cut else None
    until = snapshot.row.leased_until if keeps is not None and keeps == snapshot.row.lease else None
    return next_commit(snapshot, record, policy, at=at, lease=keeps, until=until, drafts=[draft])


def _draft(snapshot: Snapshot, first: int, last: int, content: Content, ending: Ending) -> Draft:
    return Draft(
        role="assistant",
        content=content,
        id=reply_id(snapshot.row.incarnation, first),
        reply_to=last,
        reply_from=first,
        metadata={ending: True},
    )
