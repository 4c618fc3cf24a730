"""Who looks after a conversation."""

from __future__ import annotations

import pytest

from chatkeep.conversation.assignments import hand_back, take_over
from chatkeep.conversation.record import Record


@pytest.mark.parametrize(
    ("record", "by", "assignee"),
    [
        pytest.param(Record(), "kim", "kim", id="the bot had it"),
        pytest.param(Record(paused=True), "kim", "kim", id="a person had it, and nobody knows which"),
        pytest.param(Record(paused=True, assignee="lee"), "kim", "lee", id="somebody else has it"),
        pytest.param(Record(assignee="lee"), "kim", "kim", id="the bot had it back"),
        pytest.param(Record(assignee="lee"), "", "lee", id="a program takes it over"),
        pytest.param(Record(), "", "", id="a program takes it over from the bot"),
    ],
)
def test_who_takes_over_has_it_unless_a_person_has(record: Record, by: str, assignee: str) -> None:
    """The bot is paused in any case."""
    taken = take_over(record, by)

    assert (assignee, True) == (taken.assignee, taken.paused)


def test_handing_back_takes_it_from_the_person() -> None:
    """Where the bot was on nothing changes, also not whose it is."""
    assert Record() == hand_back(Record(paused=True, assignee="kim"))
    assert Record(assignee="kim") == hand_back(Record(assignee="kim"))
