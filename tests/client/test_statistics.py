"""What a client counts of its attempts."""

from __future__ import annotations

import pytest

from chatkeep.client.statistics import Statistics

pytestmark = pytest.mark.rules


def test_attempts_add_up_and_the_slowest_stays() -> None:
    counted = Statistics()
    for seconds in (0.5, 2.0, 1.0):
        counted.note_time(seconds)

    assert (3.5, 2.0) == (counted.seconds, counted.slowest)


def test_two_clients_count_apart() -> None:
    one, other = Statistics(), Statistics()
    one.notices["offline"] = 1

    assert {} == other.notices
