"""When a session is over, and how the next one opens."""

from __future__ import annotations

import pytest
from msgspec import Raw

from chatkeep.conversation.record import NONE, Record
from chatkeep.conversation.sessions import is_session_over, open_session
from chatkeep.conversation.snapshots import Policy

LIVE = Record(state=Raw(b"{}"), session=2, since=5, active_at=100.0, version="v1")


@pytest.mark.parametrize(
    ("ttl", "at", "number", "expected"),
    [
        (None, 1e9, 9, False),
        (30.0, 129.9, 9, False),
        (30.0, 130.0, 9, True),
        (30.0, 131.0, 5, False),  # the message that has begun it is tried again
        (0.0, 100.0, 9, True),
        (0.0, 100.0, 5, False),
        (30.0, 50.0, 9, False),  # an older message of a backlog expires nothing
    ],
)
def test_a_session_is_over_by_the_time_of_the_message(
    ttl: float | None, at: float, number: int, expected: bool
) -> None:
    """And for no message that it has begun with."""
    assert expected is is_session_over(LIVE, Policy(session_ttl_s=ttl), at, number)


def test_without_a_state_there_is_no_session() -> None:
    """Whatever the time to live is."""
    assert is_session_over(Record(state=NONE, since=5), Policy(), 0.0, 5)


def test_a_session_opens_with_a_fresh_state_and_no_version() -> None:
    """It is the next one; nothing of the attempts changes."""
    opened = open_session(LIVE, Raw(b"[]"), 3, number=9, at=200.0)

    assert (3, 3, 9, 200.0, "") == (opened.session, opened.schema, opened.since, opened.active_at, opened.version)
    assert b"[]" == bytes(opened.state)
