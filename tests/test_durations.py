"""Durations and rates as people write them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from chatkeep.durations import duration_fault, in_words, rate_of, seconds


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        (" 2m ", 120.0),
        ("1.5h", 5400.0),
        ("7d", 604_800.0),
        (timedelta(minutes=1), 60.0),
        (0, 0.0),
        (2.5, 2.5),
        ("999999999s", 999_999_999.0),
    ],
)
def test_a_duration_is_a_number_and_a_unit(written: Any, expected: float) -> None:
    """Or a number of seconds, where a program gives it."""
    assert expected == seconds(written)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("30", "is not a duration"),
        ("30 s", "is not a duration"),
        ("-1s", "is not a duration"),
        (True, "or seconds as a number"),
        (None, "or seconds as a number"),
        (-1, "out of range"),
        ("1000000000s", "out of range"),
        (float("nan"), "out of range"),
        (timedelta(seconds=-1), "out of range"),
    ],
)
def test_anything_else_is_none(written: Any, words: str) -> None:
    """It is said what to write."""
    with pytest.raises(ValueError, match=words):
        seconds(written)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("off", None),
        ("30/minute", (30, 60.0)),
        (" 1 / second ", (1, 1.0)),
        ("2/hour", (2, 3600.0)),
        ("9/day", (9, 86_400.0)),
    ],
)
def test_a_rate_is_so_many_in_a_time(rate: str, expected: Any) -> None:
    """Or off."""
    assert expected == rate_of(rate)


@pytest.mark.parametrize("rate", ["0/minute", "-1/minute", "30", "30/week", "", "on", None, 30, "1234567890/day"])
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    """Nobody is let in without a limit because of a slip."""
    with pytest.raises(ValueError, match="is not a rate"):
        rate_of(rate)


@pytest.mark.parametrize(
    ("duration", "source", "words"),
    [
        (30, "", ""),
        ("30s", "CHATKEEP_LEASE", ""),
        (30000, "chatkeep.toml", "'30000' has no unit"),
        (" 30.5 ", "", "has no unit"),
        ("soon", "", "is not a duration"),
        (-1, "", "out of range"),
        (True, "chatkeep.toml", "is not a duration"),
    ],
)
def test_only_a_program_may_leave_the_unit_out(duration: Any, source: str, words: str) -> None:
    """Whoever writes 30000 into a file may mean milliseconds."""
    fault = duration_fault(duration, source)

    assert (words in fault, bool(words)) == (True, bool(fault))


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, "0 seconds"),
        (0.0004, "0 seconds"),
        (0.25, "250 milliseconds"),
        (1, "1 second"),
        (61.5, "1 minute 1 second"),
        ("30000s", "8 hours 20 minutes"),
        (86_400, "1 day"),
        (1e9, "11,574 days 1 hour"),
    ],
)
def test_a_duration_is_told_by_its_two_largest_units(duration: Any, expected: str) -> None:
    """As people say it."""
    assert expected == in_words(duration)
