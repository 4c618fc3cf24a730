"""Who works on a conversation, and what a death of its process counts."""

from __future__ import annotations

import pytest

from chatkeep.conversation.leases import SUSPECT, count_death, is_suspect, release_lease, renew_lease, take_lease
from chatkeep.conversation.snapshots import Policy

from ..support.snapshots import AT, message, snapshot

POLICY = Policy(lease_s=10.0, max_begun=3)


@pytest.mark.parametrize(
    ("alone", "died", "expected"),
    [(False, True, (2, 1, False)), (True, True, (2, 2, False)), (True, False, (1, 1, True))],
)
def test_only_a_death_alone_is_an_attempt(alone: bool, died: bool, expected: tuple[int, int, bool]) -> None:
    """Whatever else ran there may have caused it."""
    record = count_death(snapshot(message(1), deaths=1, begun=1, alone=alone), died=died)

    assert expected == (record.deaths, record.begun, record.alone)


def test_where_nothing_is_unread_nobody_has_died_of_it() -> None:
    """The process may have been about to give the lease back."""
    there = snapshot(message(1), cursor=1, deaths=1)

    assert there.record == count_death(there, died=True)


def test_so_many_deaths_make_a_suspect() -> None:
    """This one counts."""
    seen = [is_suspect(snapshot(message(1), deaths=deaths), died=True) for deaths in range(SUSPECT + 1)]

    assert [False] * (SUSPECT - 1) + [True] * 2 == seen
    assert not is_suspect(snapshot(message(1), deaths=SUSPECT - 1), died=False)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("was_alone", [False, True])
def test_the_lease_is_taken_for_its_time_and_says_whether_alone(alone: bool, was_alone: bool) -> None:
    """Whatever the one before has said."""
    act = take_lease(snapshot(message(1), alone=was_alone), POLICY, token="t", at=AT, alone=alone)

    assert ("t", AT + 10.0, alone) == (act.lease, act.leased_until, act.record.alone)


@pytest.mark.parametrize(("begun", "is_set_aside"), [(4, False), (5, True)])
def test_what_dies_alone_too_often_is_set_aside(begun: int, is_set_aside: bool) -> None:
    """So many attempts less those that raised; the death that is counted now makes one more. The note says how often."""
    there = snapshot(message(1), message(2), deaths=8, begun=begun - 1, raised=2, alone=True)
    act = take_lease(there, POLICY, token="t", at=AT, died=True)

    assert ((1,) if is_set_aside else ()) == act.record.dead
    if is_set_aside:
        assert "its process died 9 times while it was tried, 3 times with no other handler" in str(act.drafts)
    else:
        assert "t" == act.lease


def test_who_is_there_is_not_set_aside_for_deaths_of_before() -> None:
    """Only a takeover from a dead process ends in that."""
    act = take_lease(snapshot(message(1), begun=9), POLICY, token="t", at=AT)

    assert ("t", ()) == (act.lease, act.record.dead)


def test_a_lease_is_kept_for_as_long_again_or_given_back() -> None:
    """From a time on, if it is said; the attempts stay."""
    there = snapshot(message(1), row={"lease": "t", "leased_until": AT + 1}, begun=1, retry_at=3.0)
    kept = renew_lease(there, POLICY, at=AT)
    back = [release_lease(there, POLICY, at=AT, retry_at=retry_at) for retry_at in (None, AT + 5)]

    assert ("t", AT + 10.0) == (kept.lease, kept.leased_until)
    assert [(None, 3.0, 1), (None, AT + 5, 1)] == [(act.lease, act.record.retry_at, act.record.begun) for act in back]
    assert AT + 5 == back[1].due_at
