"""The pause before what failed is tried again, and times that a clock ahead has written."""

from __future__ import annotations

from typing import Any, cast

from tenacity import RetryCallState, wait_exponential

from chatkeep.conversation.backoff import AHEAD_S, backoff, believed, is_ahead


def test_it_grows_as_the_usual_exponential_backoff_does() -> None:
    """The values are those of tenacity's `wait_exponential`, from the first failure to more than a float can double."""
    for first_s, longest_s in ((0.25, 60.0), (1.0, 5.0), (30.0, 2.0)):
        usual = wait_exponential(multiplier=first_s, max=longest_s)
        for failures in (1, 2, 3, 8, 40, 1001, 5000):
            attempt = RetryCallState(retry_object=cast(Any, None), fn=None, args=(), kwargs={})
            attempt.attempt_number = failures

            assert usual(attempt) == backoff(failures, first_s=first_s, longest_s=longest_s)


def test_jitter_comes_on_top_of_the_longest_pause_too() -> None:
    """What failed together is spread also when its pauses have stopped growing."""
    assert 5.5 == backoff(100, first_s=1.0, longest_s=5.0, jitter_s=0.5)


def test_an_hour_is_no_clock_ahead() -> None:
    """More is."""
    assert [False, False, True] == [is_ahead(time, at=100.0) for time in (90.0, 100.0 + AHEAD_S, 101.0 + AHEAD_S)]


def test_a_time_that_no_pause_reaches_is_not_believed() -> None:
    """It was said by a clock that was ahead: then the time is now. What is over, or just as far as the longest pause, is believed."""
    assert [90.0, 160.0, 100.0] == [believed(time, 60.0, at=100.0) for time in (90.0, 160.0, 160.5)]
