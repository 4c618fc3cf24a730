"""By which marks filters find conversations."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.conversation.keys import SAVED
from chatkeep.conversation.marks import (
    FAILING,
    OFF,
    UNDELIVERED,
    assignee_mark,
    channel_mark,
    is_of_row,
    marks_of_message,
    marks_of_record,
)
from chatkeep.conversation.record import OutboxState, Record

from ..support.snapshots import message, note


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, []),
        ({"dead": (3,)}, [FAILING]),
        ({"paused": True}, [OFF]),
        ({"delivery": OutboxState(tries=1)}, [UNDELIVERED]),
        ({"delivery": OutboxState()}, []),
        ({"assignee": "kim"}, [assignee_mark("kim")]),
        ({"dead": (3,), "paused": True, "assignee": "kim"}, [FAILING, OFF, assignee_mark("kim")]),
    ],
)
def test_a_record_has_the_marks_of_what_is_true_of_it(members: dict[str, Any], expected: list[str]) -> None:
    """And no others."""
    assert expected == marks_of_record(Record(**members))


@pytest.mark.parametrize("kind", ["delivery", "status"])
@pytest.mark.parametrize(
    ("status", "expected"),
    [("failed", [UNDELIVERED]), ("uncertain", [UNDELIVERED]), ("delivered", []), ("read", [])],
)
def test_a_delivery_that_has_failed_has_a_mark(kind: str, status: str, expected: list[str]) -> None:
    """Whether a send or a platform says so."""
    assert expected == marks_of_message(note(2, kind, status=status))


def test_other_notes_have_none() -> None:
    """Whatever is in them, and wherever they came from."""
    assert [] == marks_of_message(note(2, "once_ended", status="failed"))
    assert [] == marks_of_message(message(2, "system", channel="whatsapp", metadata={"kind": "dropped"}))


def test_what_is_said_through_a_channel_has_the_channels_mark() -> None:
    """What a save has brought came through none, and a user's own status is nobody's."""
    assert [channel_mark("whatsapp")] == marks_of_message(message(1, channel="whatsapp"))
    assert [] == marks_of_message(message(1))
    assert [] == marks_of_message(message(1, channel=SAVED))
    assert [] == marks_of_message(message(1, metadata={"kind": "status", "status": "failed"}))


def test_only_an_entry_can_have_some_marks() -> None:
    """Whoever looks for the others need not look at the log."""
    marks = [FAILING, OFF, UNDELIVERED, assignee_mark("kim"), channel_mark("telegram")]

    assert [True, True, False, True, False] == [is_of_row(mark) for mark in marks]
