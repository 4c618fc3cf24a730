"""Why a conversation is as it is, read out of its log and its record."""

from __future__ import annotations

import pytest

from chatkeep.conversation.record import OutboxState, Record, Reminder
from chatkeep.drivers.base import AT_ONCE, Key, Row
from chatkeep.server.story import Inside, NoteShown, ReminderShown, TurnMade, inside_from, list_turns, note_shown

from ..support.snapshots import message, note

pytestmark = pytest.mark.rules

ROW = Row(key=Key("", "ada"), revision="r9", incarnation="r1", head=7, body=b"12345", updated_at=50.0)


def test_a_turn_is_what_replies_have_answered() -> None:
    """Its time is that of the last message that it took; it took until its first reply."""
    log = [
        message(1, created_at=10.0),
        message(2, created_at=11.0),
        message(3, "assistant", reply_from=1, reply_to=2, created_at=13.5),
        message(4, "assistant", reply_from=1, reply_to=2, created_at=20.0, metadata={"stopped": True}),
        message(5, "event", created_at=30.0),
        message(6, "assistant", reply_to=5, created_at=29.0, metadata={"interrupted": True}),
    ]
    expected = [
        TurnMade(first=1, last=2, replies=[3, 4], at=11.0, took_s=2.5, stopped=True),
        TurnMade(first=5, last=5, replies=[6], at=30.0, took_s=0.0, interrupted=True),
    ]

    assert expected == list_turns(log)


def test_what_was_asked_may_be_out_of_sight() -> None:
    """Then nobody knows how long it took; and what answers nothing is no turn."""
    log = [message(8, "assistant", reply_to=7, created_at=13.0), message(9, "assistant"), message(10, "operator")]

    assert [TurnMade(first=7, last=7, replies=[8], at=13.0, took_s=0.0)] == list_turns(log)


def test_a_note_shows_what_is_known_of_its_kind_and_the_rest_beside() -> None:
    told = note(4, "delivery", about=3, status="failed", reason="131047", author="ann", assignee="", tries=2)
    expected = NoteShown(
        number=4,
        kind="delivery",
        at=told.created_at,
        about=3,
        author="ann",
        assignee="",
        status="failed",
        reason="131047",
        text="hello"[:0],
        metadata={"tries": 2},
    )

    assert expected == note_shown(told)


def test_a_note_that_names_no_kind_is_a_note() -> None:
    """Members of another type than text are not taken for text; its own words are cut."""
    told = message(4, "system", "x" * 2000, metadata={"reason": 3, "kind": None})
    shown = note_shown(told)

    assert ("note", 0, None, "", "x" * 1000, {}) == (
        shown.kind,
        shown.about,
        shown.assignee,
        shown.reason,
        shown.text,
        shown.metadata,
    )
    assert "said" == note_shown(note(5, "kept", text="said", content="other")).text


def test_what_is_done_next_is_read_off_row_and_record() -> None:
    row = Row(
        key=ROW.key,
        revision="r9",
        incarnation="r1",
        head=7,
        body=b"12345",
        updated_at=50.0,
        due_at=60.0,
        lease="t",
        leased_until=70.0,
    )
    record = Record(
        session=2,
        cursor=5,
        begun=3,
        raised=2,
        deaths=1,
        alone=True,
        failed_at=40.0,
        retry_at=65.0,
        reminders=(Reminder(90.0, "cart"),),
        delivery=OutboxState(upto=4, tries=2, at=61.0, reason="timeout"),
        dropped=1,
    )
    expected = Inside(
        session=2,
        cursor=5,
        head=7,
        revision="r9",
        begun=3,
        raised=2,
        deaths=1,
        alone=True,
        failed_at=40.0,
        retry_at=65.0,
        reminders=[ReminderShown(90.0, "cart")],
        lease_until=70.0,
        next_at=60.0,
        sent_upto=4,
        send_tries=2,
        send_at=61.0,
        send_reason="timeout",
        dropped=1,
        size=5,
    )

    assert expected == inside_from(row, record)


@pytest.mark.parametrize(
    ("expected", "due_at", "lease"), [((0.0, 0.0), None, None), ((50.0, 0.0), AT_ONCE, None), ((60.0, 70.0), 60.0, "t")]
)
def test_what_is_due_at_once_is_due_since_the_last_change(
    expected: tuple[float, float], due_at: float | None, lease: str | None
) -> None:
    """And the end of a lease that nobody holds is no time of anything."""
    row = Row(
        key=ROW.key, revision="r", incarnation="r", updated_at=50.0, due_at=due_at, lease=lease, leased_until=70.0
    )
    inside = inside_from(row, Record())

    assert expected == (inside.next_at, inside.lease_until)
    assert (None, 0, 0.0, "") == (inside.sent_upto, inside.send_tries, inside.send_at, inside.send_reason)
