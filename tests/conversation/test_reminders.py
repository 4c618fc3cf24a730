"""Which reminders stand, and what each becomes."""

from __future__ import annotations

from msgspec import Raw

from chatkeep.conversation.record import Reminder
from chatkeep.conversation.reminders import keep_reminders, ring_reminder

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
