"""What acts say of themselves: their key, about how large they are, and the row that an append makes."""

from __future__ import annotations

import pytest

from chatkeep.drivers.acts import (
    Act,
    Append,
    Count,
    Entries,
    Erase,
    Fence,
    Lease,
    Read,
    Scan,
    Write,
    behind_erasure,
)
from chatkeep.drivers.base import Entry, Key, Row
from chatkeep.drivers.full_text import SLOTS, EntryWords, IndexText, Search, Term, first_place

KEY = Key("salon", "ada")
ENTRIES = [Entry(0, "m1", "user", b"x" * 100), Entry(0, "m2", "user", b"y" * 10)]
ROW = Row(key=KEY, revision="r", incarnation="i", body=b"z" * 1000)


@pytest.mark.parametrize(
    ("expected", "act"),
    [
        (100 + 10 + 2 * 64, Append(KEY, ENTRIES, "r", 1.0)),
        (1000, Write(ROW, None)),
        (1000 + 100 + 10 + 2 * 64, Write(ROW, None, ENTRIES)),
        (128, Read(KEY, 5)),
        (0, IndexText(10)),
        (5 + 8 + 4 + 8, IndexText(10, [EntryWords(1, 1, 1.0, ["hello", "cart"])])),
    ],
)
def test_a_batch_is_filled_by_what_its_acts_send(expected: int, act: Act) -> None:
    assert expected == act.size


@pytest.mark.parametrize(
    ("expected", "act"),
    [
        ("salon/ada", Read(KEY, 5)),
        ("salon/ada", Write(ROW, None)),
        ("salon/ada", Entries(KEY)),
        ("salon/ada", Erase(KEY, 1.0)),
        ("The index", Scan("due", 10)),
        ("A rate limit", Count("token:1", 60.0, 1.0)),
        ("The epoch", Fence("e")),
        ("The full-text index", Search([Term("cart")], 10)),
        ("The full-text index", IndexText(10)),
    ],
)
def test_an_error_names_what_the_act_was_about(expected: str, act: Act) -> None:
    """And not the name of a user that a counter is kept under."""
    assert expected == str(act)


def test_what_is_counted_or_fenced_is_no_conversation() -> None:
    assert [Key("", "token:1"), Key("", ""), Key("", "")] == [
        Count("token:1", 60.0, 1.0).key,
        Fence("e").key,
        IndexText(10).key,
    ]


@pytest.mark.parametrize(
    ("lease", "token", "until"), [(None, None, 0.0), (Lease("t", 9.0), "t", 9.0)], ids=["free", "leased"]
)
def test_an_append_makes_a_row_of_its_own_incarnation(lease: Lease | None, token: str | None, until: float) -> None:
    expected = Row(
        key=KEY,
        revision="r",
        incarnation="r",
        owner="ada",
        updated_at=7.0,
        due_at=8.0,
        lease=token,
        leased_until=until,
    )

    assert expected == Append(KEY, ENTRIES, "r", 7.0, due_at=8.0, lease=lease, owner="ada").make_row()


@pytest.mark.parametrize(("expected", "erased_at"), [(10.0, None), (10.0, 9.0), (10.001, 10.0), (12.001, 12.0)])
def test_another_try_is_later_than_the_erasure(expected: float, erased_at: float | None) -> None:
    """The time of the act itself, where that is later anyway."""
    assert expected == pytest.approx(behind_erasure(10.0, erased_at), abs=1e-9)


def test_hits_of_one_second_stand_before_those_of_the_next() -> None:
    assert [0, 0, SLOTS, 100 * SLOTS] == [first_place(at) for at in (0.0, 0.99, 1.0, 100.5)]
