"""Which reminders stand, and what each becomes."""

from __future__ import annotations

import pytest
from msgspec import Raw, structs

from chatkeep.conversation.record import Record, Reminder
from chatkeep.conversation.reminders import keep_reminders, ring_reminder
from chatkeep.conversation.snapshots import Draft, Policy, Snapshot
from chatkeep.conversation.turns import finish_turn, set_aside
from chatkeep.drivers.base import Key, Row
from chatkeep.settings import Overlap

from ..support.snapshots import message

PLAIN, KEPT = Reminder(at=10.0, name="ask"), Reminder(at=20.0, name="bill", keep=True)


def test_a_user_who_writes_needs_no_reminding() -> None:
    """But for what is to be kept; an event, such as another reminder, is nobody who writes."""
    assert (KEPT,) == keep_reminders((PLAIN, KEPT), [message(1, "event"), message(2)])
    assert (PLAIN, KEPT) == keep_reminders((PLAIN, KEPT), [message(1, "event")])


def test_what_the_turn_has_set_takes_the_place_of_what_was() -> None:
    """And what it has taken back is gone."""
    later = Reminder(at=30.0, name="bill")

    assert (PLAIN, later) == keep_reminders((PLAIN, KEPT), [], {"bill": later})
    assert (PLAIN,) == keep_reminders((PLAIN, KEPT), [], {"bill": None, "none": None})
    assert (later,) == keep_reminders((PLAIN,), [message(1)], {"bill": later})


def test_a_reminder_comes_once_under_the_same_id() -> None:
    """Whoever brings it; the next one of the name has another id, by its time or by the log behind it."""
    rung = ring_reminder(Reminder(at=10.0004, name="ask", data=Raw(b'{"n":1}')), 7)

    assert ("event", "~reminder:10000.7:ask") == (rung.role, rung.id)
    assert [{"type": "reminder", "name": "ask", "data": {"n": 1}}] == rung.content
    assert 3 == len({rung.id, ring_reminder(PLAIN, 8).id, ring_reminder(Reminder(at=10.001, name="ask"), 7).id})


@pytest.mark.parametrize("overlap", ["queue", "drop"])
def test_a_user_whose_message_is_passed_over_has_written_too(overlap: Overlap) -> None:
    """Set aside because its handler keeps failing, also where it was tried before it was in the log; or dropped behind the event that
    was answered."""
    policy = Policy(overlap=overlap)
    record = Record(reminders=(PLAIN, KEPT), state=Raw(b"{}"))
    row = Row(key=Key("", "ada"), revision="r", incarnation="b", head=2)
    waits = Snapshot(row, record, (message(1, "event"), message(2)))
    event_fails = set_aside(waits, 1, "why", policy, at=5.0)
    user_fails = set_aside(structs.replace(waits, record=event_fails.record), 2, "why", policy, at=5.0)
    blank = structs.replace(waits, row=structs.replace(row, head=0), messages=())
    comes = set_aside(blank, 1, "why", policy, at=5.0, arriving=Draft(role="user", content="x"))
    ends = finish_turn(waits, [waits.messages[0]], [], policy, state=record.state, schema=1, opens=False, at=5.0)

    assert (PLAIN, KEPT) == event_fails.record.reminders
    assert ((KEPT,), (KEPT,)) == (user_fails.record.reminders, comes.record.reminders)
    assert ((KEPT,) if overlap == "drop" else (PLAIN, KEPT)) == ends.record.reminders
