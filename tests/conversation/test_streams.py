"""Streamed replies: what was shown is the beginning of what is recorded."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep.conversation.record import OutboxState, Reminder, Said
from chatkeep.conversation.snapshots import HELD, Policy, shorten
from chatkeep.conversation.streams import draft_said, end_reply, find_said, record_said, reply_id

from ..support.snapshots import AT, message, snapshot

LEASE = {"lease": "t", "leased_until": AT + 7}
POLICY = Policy(lease_s=10.0, session_ttl_s=500.0)


def test_what_was_said_is_of_the_first_message_that_waits() -> None:
    """A version that knows nothing of streams may have answered it meanwhile."""
    said = Said(1, "He")

    assert said == find_said(snapshot(message(1), message(2), said=said))
    assert find_said(snapshot(message(1), message(2), said=said, cursor=1)) is None
    assert find_said(snapshot(message(1), said=said, cursor=1)) is None
    assert find_said(snapshot(message(1))) is None


def test_what_is_said_is_recorded_under_the_lease_that_is_there() -> None:
    """Nothing else changes."""
    act = record_said(snapshot(message(1), row=LEASE), Said(1, "He"), POLICY, at=AT)

    assert ("t", AT + 7, Said(1, "He"), ()) == (act.lease, act.leased_until, act.record.said, act.drafts)


def test_who_takes_the_message_away_leaves_a_reply_that_begins_so() -> None:
    """Under the id that watchers know; where nothing was said, none."""
    (draft,) = draft_said(snapshot(message(1), message(2), said=Said(1, "He")), 2, "stopped")

    assert ("assistant", "He", reply_id("i", 1), 1, 2, {"stopped": True}) == (
        draft.role,
        draft.content,
        draft.id,
        draft.reply_from,
        draft.reply_to,
        draft.metadata,
    )
    assert [] == draft_said(snapshot(message(1)), 1, "stopped")


def ended(*messages: Any, content: Any = "He", answered: int = 1, **options: Any) -> Any:
    """What is written when the reply to the first so many messages ends."""
    record = options.pop("record", {})
    there = snapshot(*messages, row=options.pop("row", LEASE), **record)
    return end_reply(there, list(messages[:answered]), content, "interrupted", POLICY, at=AT, **options)


def test_an_ended_reply_passes_what_it_answers_and_nothing_else() -> None:
    """The tries of the next message begin anew; a lease is kept for as long as it had where others wait."""
    tried = {"begun": 2, "said": Said(1, "He"), "state": Raw(b"{}"), "active_at": AT - 99}
    alone = ended(message(1), record=tried, lease="t")
    more = ended(message(1), message(2), message(3), record=tried, answered=2, lease="t")
    other = ended(message(1), message(2), record=tried, lease="new")

    assert (2, None) == (alone.record.cursor, alone.lease)
    assert (2, "t", AT + 7) == (more.record.cursor, more.lease, more.leased_until)
    assert ("new", AT + 10) == (other.lease, other.leased_until)
    assert (0, None, AT - 98) == (more.record.begun, more.record.said, more.record.active_at)
    assert [("He", 1, 2, {"interrupted": True})] == [
        (draft.content, draft.reply_from, draft.reply_to, draft.metadata) for draft in more.drafts
    ]


def test_a_reply_that_has_said_nothing_passes_its_messages_over() -> None:
    """No session opens, and nothing begins to go out."""
    act = ended(message(1), content="", fresh=(Raw(b"{}"), 3), out=True)

    assert ("system", {"kind": "dropped"}, 1) == (act.drafts[0].role, act.drafts[0].metadata, act.drafts[0].reply_to)
    assert (0, None, 2) == (act.record.session, act.record.delivery, act.record.cursor)


@pytest.mark.parametrize(
    ("state", "fresh", "session"),
    [(b"null", (Raw(b"{}"), 3), 5), (b"null", None, 4), (b'{"a":1}', (Raw(b"{}"), 3), 4)],
)
def test_a_session_opens_where_there_is_none(state: bytes, fresh: Any, session: int) -> None:
    """With the state that it is given; a live one stays as it is."""
    live = {"state": Raw(state), "session": 4, "active_at": AT - 99}
    act = ended(message(1), record=live, fresh=fresh)

    assert session == act.record.session
    assert (b"{}" if session == 5 else state) == bytes(act.record.state)


def test_a_session_is_never_active_earlier_than_it_was() -> None:
    """Messages may be older than the one before."""
    live = {"state": Raw(b"{}"), "active_at": AT}

    assert AT == ended(message(1), record=live).record.active_at


def test_where_replies_go_out_this_one_does() -> None:
    """And reminders that a user's message makes superfluous go."""
    act = ended(message(1), out=True, record={"reminders": (Reminder(at=AT + 9, name="a"),)})

    assert (OutboxState(upto=0), ()) == (act.record.delivery, act.record.reminders)


def test_what_is_beyond_a_cut_backlog_is_not_passed() -> None:
    """The cursor stops at the last message that is held, and the lease is kept."""
    whole = snapshot(*[message(n) for n in range(1, 2 * HELD + 2)], row=LEASE)
    cut = shorten(whole, 2)
    cut = structs.replace(cut, record=structs.replace(cut.record, cursor=HELD - 1))
    act = end_reply(cut, [cut.messages[-1]], "He", "stopped", POLICY, at=AT, lease="t")

    assert (HELD, "t") == (act.record.cursor, act.lease)
