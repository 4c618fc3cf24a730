"""What the sweep leaves alone: until somebody has written to it, or for a while."""

from __future__ import annotations

import pytest
from msgspec import structs

from chatkeep.drivers.base import Key, Row
from chatkeep.engine.left_alone import AGAIN_S, LeftAlone, Unreadable

ADA, BOB = Key("", "ada"), Key("", "bob")
ROW = Row(key=ADA, revision="r1", incarnation="i", head=1)
CHANGED = structs.replace(ROW, revision="r2")


class Hands:
    """A clock that stands still until it is turned."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("at", "expected"), [(999.0, False), (1000.0, True), (1004.9, True), (1005.0, False)])
def test_a_conversation_is_left_alone_for_a_while(at: float, expected: bool) -> None:
    """Not before, by a clock that was set back, and no longer."""
    clock = Hands()
    alone = LeftAlone(clock)
    alone.add(ADA, "r1", 5.0)
    clock.now = at

    assert expected is alone.skip(ROW)


def test_it_is_looked_at_once_somebody_has_written() -> None:
    """Or when it was read elsewhere; of another conversation nothing is said."""
    alone = LeftAlone(Hands())
    alone.add(ADA, "r1", 5.0)

    assert [True, False, False] == [alone.skip(row) for row in (ROW, CHANGED, structs.replace(ROW, key=BOB))]
    alone.discard(ADA)
    alone.discard(BOB)
    assert not alone.skip(ROW)


def test_where_no_revision_is_named_it_is_the_one_that_is_met_next() -> None:
    """From then on, until the same end."""
    clock = Hands()
    alone = LeftAlone(clock)
    alone.add(ADA, "", 5.0)
    clock.now += 4.0

    assert [True, True, False] == [alone.skip(row) for row in (ROW, ROW, CHANGED)]
    clock.now += 1.0
    assert not alone.skip(ROW)


def test_what_cannot_be_read_is_told_once_and_counted_while_it_is_met() -> None:
    """It is left alone for a while, then met again; what nobody meets any more is not counted."""
    clock = Hands()
    alone = LeftAlone(clock)
    unreadable = Unreadable(clock, alone)

    assert "" == unreadable.trouble
    assert [True, False, True] == [unreadable.add(key, "r1", "damaged") for key in (ADA, ADA, BOB)]
    assert (True, True, 2) == (alone.skip(ROW), ADA in unreadable, len(unreadable))
    assert "2 conversations wait that this version cannot read; the last: damaged" == unreadable.trouble
    clock.now += AGAIN_S
    assert not alone.skip(ROW)
    unreadable.add(BOB, "r1", "newer")
    clock.now += AGAIN_S + 0.1
    assert "1 conversation waits that this version cannot read; the last: newer" == unreadable.trouble
    assert (False, True, 1) == (ADA in unreadable, BOB in unreadable, len(unreadable))
    clock.now -= 9 * AGAIN_S
    assert (0, "") == (len(unreadable), unreadable.trouble)


def test_what_was_read_is_looked_at_at_once() -> None:
    """By whatever it was left alone; who was never met changes nothing of that."""
    alone = LeftAlone(Hands())
    unreadable = Unreadable(Hands(), alone)
    unreadable.add(ADA, "r1", "damaged")
    unreadable.discard(ADA)

    assert (False, False) == (ADA in unreadable, alone.skip(ROW))
    alone.add(ADA, "r1", 5.0)
    unreadable.discard(ADA)
    assert alone.skip(ROW)
