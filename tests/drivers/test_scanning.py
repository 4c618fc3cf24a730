"""Where a page of places ends in the index that has steps."""

from __future__ import annotations

import pytest

from chatkeep.drivers.base import AT_ONCE, Key, row_at
from chatkeep.drivers.durable_object import acts
from chatkeep.drivers.redis import scripts
from chatkeep.drivers.scanning import Order, first_steps

PLACES = [(step, f"{n}") for n, step in enumerate([-9, -9, -9, -7, -7, -5, -5])]


@pytest.mark.parametrize(
    ("least", "ended", "count"),
    [(1, False, 3), (3, False, 3), (4, False, 5), (6, False, 5), (6, True, 7), (5, True, 5), (100, True, 7)],
)
def test_the_first_steps_of_an_index_are_whole(least: int, ended: bool, count: int) -> None:
    """As many as have the places that are wanted; the last one only where nothing is behind it."""
    assert count == first_steps(PLACES, least, ended=ended)


@pytest.mark.parametrize(("places", "ended", "count"), [([], False, 0), ([], True, 0), (PLACES[:3], False, 0)])
def test_a_step_that_may_go_on_is_none(places: list[tuple[int, str]], ended: bool, count: int) -> None:
    """Whoever asks fetches more places first."""
    assert count == first_steps(places, 1, ended=ended)


@pytest.mark.parametrize("order", [acts, scripts])
def test_what_is_never_due_stands_nowhere_among_the_due(order: Order) -> None:
    """Not where it stood when it was due at once: a scan that has found it there a moment before must not show it."""
    was, row = row_at(Key("", "a"), due_at=AT_ONCE), row_at(Key("", "a"))

    assert order.place_of("due", was) < order.place_of("due", row)
