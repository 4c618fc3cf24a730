"""Keys, rows and where they stand in the indexes."""

from __future__ import annotations

import pytest
from msgspec import structs

from chatkeep.drivers.base import RECENT_GRAIN_S, Key, Row
from chatkeep.drivers.rows import mark_of, row_at

ROW = Row(key=Key("salon", "ada"), revision="r", incarnation="i")


def test_a_key_is_called_by_both_parts_where_there_are_two() -> None:
    assert ("salon/ada", "ada") == (str(Key("salon", "ada")), str(Key("", "ada")))


@pytest.mark.parametrize(
    ("expected", "due_at", "leased_until"),
    [
        (None, None, 0.0),
        (None, None, 50.0),
        (20.0, 20.0, 0.0),
        (20.0, 20.0, 10.0),
        (50.0, 20.0, 50.0),
        (50.0, 0.0, 50.0),
    ],
)
def test_a_row_is_due_when_its_lease_is_over(expected: float | None, due_at: float | None, leased_until: float) -> None:
    assert expected == structs.replace(ROW, due_at=due_at, leased_until=leased_until).wake


def test_what_was_changed_in_one_step_of_time_stands_at_one_place() -> None:
    """The place moves only when a step is over, and before 1970 too."""
    times = (-0.5, 0.0, RECENT_GRAIN_S - 0.5, RECENT_GRAIN_S, 2 * RECENT_GRAIN_S + 1)

    assert [-1, 0, 0, 1, 2] == [structs.replace(ROW, updated_at=at).recent for at in times]


def test_a_place_is_a_row_that_says_nothing_else() -> None:
    expected = Row(key=ROW.key, revision="", incarnation="", owner="bea", updated_at=7.0, due_at=9.0)

    assert expected == row_at(ROW.key, owner="bea", updated_at=7.0, due_at=9.0)


def test_a_mark_stays_as_it_is_and_tells_tenants_apart() -> None:
    """It is stored, in tombstones: another one for the same key would let an act through that an erasure has to refuse."""
    assert "b44145f58d31e615d5eada6b489ab7d9" == mark_of(Key("", "ada"))
    assert "20b5827b2cd09f5624e79c16eef8f3f3" == mark_of(Key("salon", "ada"))
    assert 4 == len({mark_of(key) for key in (Key("", "ada"), Key("a", "da"), Key("ad", "a"), Key("", "bob"))})
