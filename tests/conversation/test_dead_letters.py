"""Which dead letters are open, and how one is closed."""

from __future__ import annotations

from chatkeep.conversation.dead_letters import (
    close_replayed,
    dismiss_letter,
    is_replay,
    note_ids,
    replay_id,
)
from chatkeep.conversation.snapshots import Policy

from ..support.snapshots import AT, message, snapshot


def test_only_what_chatkeep_has_handed_in_again_closes_a_letter() -> None:
    """Anybody may write "replay_of" into the metadata of a message."""
    replay = message(5, id=replay_id(2), metadata={"replay_of": 2})
    amendment = message(6, id="~amend:i.3", metadata={"replay_of": 3})
    other = message(7, metadata={"replay_of": 4})
    named = message(8, id=replay_id(4))

    assert [True, True, False, False] == [is_replay(one) for one in (replay, amendment, other, named)]
    assert (4, 9) == close_replayed((2, 3, 4, 9), [replay, amendment, other, named])
    assert (2,) == close_replayed((2,), [other])


def test_the_note_of_a_letter_has_one_of_two_ids() -> None:
    """The act that creates a conversation does not know its incarnation."""
    assert ["~dead:i.2", "~dead:.2"] == note_ids("i", 2)


def test_a_letter_is_dismissed_once() -> None:
    """With a note that names it; one that is closed, or never was one, is left alone."""
    there = snapshot(message(1), message(2), dead=(1, 2), cursor=2)
    act = dismiss_letter(there, 1, Policy(), at=AT)

    assert act is not None
    assert (2,) == act.record.dead
    assert [("~dismissed:i.1", 1, 1)] == [(draft.id, draft.reply_from, draft.reply_to) for draft in act.drafts]
    assert 3 == act.record.cursor
    assert dismiss_letter(there, 3, Policy(), at=AT) is None
