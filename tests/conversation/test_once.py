"""Notes of calls that must not be made twice."""

from __future__ import annotations

import pytest

from chatkeep.conversation.once import (
    TRIES_MOST,
    Call,
    call_from,
    find_doubts,
    find_last,
    mark_of_call,
    note_begun,
    note_ended,
    note_ids,
)
from chatkeep.conversation.snapshots import Draft
from chatkeep.model import Message

from ..support.snapshots import message

PAY = Call(name="abc.0", tool="pay", arguments='{"sum":1}', number=3, began_at=990.0)


def entry(number: int, draft: Draft) -> Message:
    """The note as it stands in the log."""
    return message(
        number,
        draft.role,
        draft.content,
        id=draft.id,
        reply_to=draft.reply_to,
        reply_from=draft.reply_from,
        metadata=draft.metadata,
        created_at=990.0,
    )


def again(call: Call, name: str) -> Call:
    """The same call under another name."""
    return Call(name=name, tool=call.tool, arguments=call.arguments, number=call.number, began_at=call.began_at)


def test_a_call_is_read_from_its_note() -> None:
    """With all that it takes to ask the other side about it."""
    assert PAY == call_from(entry(7, note_begun(PAY)))


@pytest.mark.parametrize(("result", "outcome"), [(None, "not done"), ("null", "done"), ('"paid"', "done")])
def test_an_end_says_whether_it_was_done(result: str | None, outcome: str) -> None:
    """A result of null is a result."""
    ended = note_ended(PAY, result, "kim")

    assert ("~once:abc.0.ended", result or "", 3, 3) == (ended.id, ended.content, ended.reply_to, ended.reply_from)
    assert {
        "kind": "once_ended",
        "call": "abc.0",
        "tool": "pay",
        "outcome": outcome,
        "by": "kim",
    } == ended.metadata


def test_each_call_of_a_turn_has_a_mark_of_its_own() -> None:
    """The same one, each time the turn is tried."""
    one = ("t1", "pay", b"{}", 0)
    others = [("t2", "pay", b"{}", 0), ("t1", "buy", b"{}", 0), ("t1", "pay", b"[]", 0), ("t1", "pay", b"{}", 1)]

    assert mark_of_call(*one) == mark_of_call(*one)
    assert 5 == len({mark_of_call(*each) for each in (one, *others)})


def test_the_notes_of_a_call_are_found_by_their_ids() -> None:
    """As often as it may begin."""
    ids = note_ids("abc")

    assert {note_begun(PAY).id, note_ended(PAY, None, "").id} <= {*ids}
    assert 2 * TRIES_MOST == len({*ids})


def test_the_last_try_counts() -> None:
    """However the notes are ordered; one without an end is in doubt."""
    second = again(PAY, "abc.1")
    notes = [entry(9, note_begun(second)), entry(7, note_begun(PAY)), entry(8, note_ended(PAY, None, ""))]
    ended = entry(10, note_ended(second, '"paid"', ""))

    assert (0, None, None) == find_last([])
    assert (1, PAY, notes[2]) == find_last(notes[1:])
    assert (2, second, None) == find_last(notes)
    assert (2, second, ended) == find_last([*notes, ended])


def test_doubts_are_calls_that_have_begun_and_not_ended() -> None:
    """Other entries are none; of one that was redacted nobody can be asked."""
    second, third = again(PAY, "abc.1"), again(PAY, "d.0")
    redacted = entry(4, note_begun(third))
    redacted = Message(
        number=4, id=redacted.id, role="system", content="", created_at=0.0, redacted=True, metadata={"kind": "blank"}
    )
    notes = [entry(1, note_begun(PAY)), entry(2, note_ended(PAY, "1", "")), entry(3, note_begun(second)), redacted]

    assert [second] == find_doubts([message(0), *notes])
