"""What goes with the words of a message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from chatkeep.conversation.record import OutboxState, Reminder, Said
from chatkeep.conversation.redaction import (
    GONE,
    NOTES_MOST,
    SHORTEST,
    notes_about,
    redact_found,
    redact_messages,
    versions_of,
)
from chatkeep.conversation.snapshots import HELD, Draft, Policy, shorten

from ..support.snapshots import AT, message, note, snapshot

CARD = "my card is 4111"


def status(number: int, /, **told: Any) -> Any:
    """What a platform has said of a reply."""
    return message(number, "system", "", metadata={"kind": "status"} | told)


def redacted(there: Any, *numbers: int, notes: Any = (), **options: Any) -> Any:
    """What is written when these messages of it are redacted."""
    gone = [one for one in there.messages if one.number in numbers]
    return redact_messages(there, gone, notes, Policy(), at=AT, **options)


def test_what_waits_is_passed_over_and_the_others_go_on_waiting() -> None:
    """A message that nobody answers is not noted as that."""
    there = snapshot(message(1), message(2, "operator"), message(3), message(4), delivery=OutboxState())
    first, second, all_three = redacted(there, 1), redacted(there, 2), redacted(there, 1, 3, 4)

    def kinds(act: Any) -> list[str]:
        return [draft.metadata["kind"] for draft in act.drafts]

    assert (["redacted", "dropped"], 2) == (kinds(first), first.record.cursor)
    assert (["redacted"], 0) == (kinds(second), second.record.cursor)
    assert (["redacted"] * 3 + ["dropped"] * 3, 10) == (kinds(all_three), all_three.record.cursor)
    assert (1, 3, 4) == all_three.blank


def test_what_was_answered_is_not_passed_over_again() -> None:
    """It is counted, so that whoever has seen it looks again; a dead letter is closed."""
    there = snapshot(message(1), message(2, "assistant"), message(3), cursor=3, dead=(1, 3), redactions=4)
    act = redacted(there, 1)

    assert (["redacted"], (3,), 5, 4) == (
        [draft.metadata["kind"] for draft in act.drafts],
        act.record.dead,
        act.record.redactions,
        act.record.cursor,
    )
    assert ["~redacted:i.1"] == [draft.id for draft in act.drafts]


def test_the_attempts_at_a_message_go_with_it() -> None:
    """What a reply to it has said so far is recorded; those at another one stay."""
    tried: dict[str, Any] = {"begun": 2, "said": Said(1, "He")}
    there = snapshot(message(1), message(2), **tried)
    first, second = redacted(there, 1), redacted(there, 2)

    assert (0, None, "He") == (first.record.begun, first.record.said, first.drafts[-1].content)
    assert (2, Said(1, "He")) == (second.record.begun, second.record.said)


def test_an_operators_words_that_may_have_to_go_out_are_not_passed() -> None:
    """Unless they are what is removed."""
    there = snapshot(message(1), message(2, "operator"), message(3, "operator"))

    assert 0 == redacted(there, 1, 2).record.cursor
    assert 7 == redacted(there, 1, 2, 3).record.cursor


def test_an_amendment_waits() -> None:
    """It is written last, and nothing passes it."""
    amended = Draft(role="user", content="my card", id="~amend:i.1")
    act = redacted(snapshot(message(1)), 1, amendment=amended)

    assert (amended, 3) == (act.drafts[-1], act.record.cursor)
    assert 3 == len(act.drafts)


def test_of_a_cut_backlog_no_more_is_passed_than_is_held() -> None:
    """Though all that is held was answered, or is redacted."""
    cut = shorten(snapshot(*[message(n) for n in range(1, 2 * HELD + 2)]), 2)
    act = redact_messages(cut, cut.messages, (), Policy(), at=AT)

    assert HELD == act.record.cursor


def test_a_reply_that_was_not_sent_yet_is_not_sent() -> None:
    """Nor the rest of one that was half sent."""
    half = OutboxState(upto=1, half=2, parts=1, done=("a",), tries=3, at=9.0, again=(1, 2))
    there = snapshot(message(1), message(2, "assistant"), cursor=2, delivery=half)
    gone, other = redacted(there, 2).record.delivery, redacted(there, 1).record.delivery

    assert (0, 0, (), 0, 0.0, (1,)) == (gone.half, gone.parts, gone.done, gone.tries, gone.at, gone.again)
    assert (2, 1, ("a",), 3, 9.0, (2,)) == (
        other.half,
        other.parts,
        other.done,
        other.tries,
        other.at,
        other.again,
    )


@pytest.mark.parametrize(("said", "is_found"), [("x" * SHORTEST, True), ("x" * (SHORTEST - 1), False)])
def test_steps_and_reminders_that_quote_it_lose_the_quotation(said: str, is_found: bool) -> None:
    """At any depth; a short text is found by accident."""
    quoting = Raw(json.dumps({"a": [f"He said {said}!", 7], "b": {"c": said}}).encode())
    there = snapshot(
        message(1, content=said), steps={"s": quoting}, reminders=(Reminder(at=9.0, name="r", data=quoting, keep=True),)
    )
    record = redacted(there, 1).record
    there_not = snapshot(message(1), message(2, content=said), cursor=1, steps={"s": quoting})
    second = redacted(there_not, 2).record
    expected = {"a": [f"He said {GONE}!", 7], "b": {"c": GONE}} if is_found else json.loads(bytes(quoting))

    assert [expected] == [json.loads(bytes(reminder.data)) for reminder in record.reminders]
    assert {} == record.steps, "its turn was thrown away"
    assert second.steps in ({}, {"s": Raw(json.dumps(expected, separators=(",", ":")).encode())})


def test_notes_that_may_quote_it_are_found() -> None:
    """Why it was set aside, and what a platform has said of its replies: by the message's number, or an id of the platform."""
    notes = [
        note(10, "dead", about=1, content="it said 4111"),
        note(11, "delivery", about=1, reason="bad", ids=["w1"]),
        note(12, "delivery", about=1, ids=["w2"]),
        status(13, id="w1", reason="bad"),
        status(14, number=2, reason="bad"),
        note(15, "status", reason="bad"),
        note(16, "dead", about=3, content="another one"),
        message(17, "system", content="x", reply_to=1, reply_from=1, metadata={"kind": "dead"}, redacted=True),
        message(18, "assistant", reply_to=1, reply_from=1),
        message(19, "system", content="x", reply_to=4, reply_from=1, metadata={"kind": "dropped"}),
    ]

    assert [10, 11, 19, 13] == [one.number for one in notes_about(notes, [message(1)])]
    assert [19, 14] == [one.number for one in notes_about(notes, [message(2)])]
    assert [] == notes_about(notes, [message(9)])


def test_a_status_names_the_reply_that_others_of_its_id_are_about() -> None:
    """Also where no delivery was noted."""
    one, two = status(10, id="w1", number=2, reason="bad"), status(11, id="w1", reason="worse")

    assert [10, 11] == [one.number for one in notes_about([one, two], [message(2)])]
    assert [] == notes_about([one, two], [message(3)])


def test_so_many_notes_lose_their_reasons_in_one_act() -> None:
    """The last ones."""
    notes = [note(n, "dead", about=1, content="x") for n in range(2, NOTES_MOST + 3)]

    assert [*range(3, NOTES_MOST + 3)] == [one.number for one in notes_about(notes, [message(1)])]


def test_a_reason_is_taken_out_and_the_rest_of_the_note_is_written_again() -> None:
    """But of a dead letter, whose blank note says all that is left to say."""
    notes = [
        note(2, "delivery", about=1, status="failed", reason="4111 is no card"),
        note(3, "dead", about=1, content="4111 is no card"),
        status(4, id="w", reason="4111"),
    ]
    act = redacted(snapshot(message(1), *notes, cursor=4), 1, notes=notes)
    again = act.drafts[1:]

    assert (1, 2, 3, 4) == act.blank
    assert [({"kind": "delivery", "status": "failed"}, 1, 1), ({"kind": "status", "id": "w"}, 0, 0)] == [
        (draft.metadata, draft.reply_from, draft.reply_to) for draft in again
    ]
    assert ["~noted:i.2", "~noted:i.4"] == [draft.id for draft in again]
    assert [notes[0].created_at, notes[2].created_at] == [draft.created_at for draft in again]
    assert "4111" not in str(again)


def test_other_versions_of_it_go_too() -> None:
    """Those of messages that a save has brought; the notes of other losses stay."""
    conflicts = [
        note(5, "conflict", about=0, path=["m1"], content=CARD),
        note(6, "conflict", path=["m2"]),
        note(7, "conflict", path=["m1"]),
    ]
    for one, about in zip(conflicts, ("message", "message", "state"), strict=True):
        one.metadata["about"] = about

    assert [5] == [one.number for one in versions_of([*conflicts, message(8)], [message(1)])]
    there = snapshot(message(1), *conflicts, cursor=7)
    assert {1, 5} <= {*redact_found(there, [there.messages[0]], conflicts, Policy(), at=AT).blank}
