"""How long to wait before something that failed is tried again, and whether a time that another clock has written can be believed."""

from __future__ import annotations

AHEAD_S = 3600.0
"""Clocks of hosts that write to one store may differ by so much; what is later than that was written by one that was ahead."""

DOUBLINGS_MOST = 1000
"""More would be no float any more; by then *longest_s* has long been reached."""


def backoff(failures: int, *, first_s: float, longest_s: float, jitter_s: float = 0.0) -> float:
    """Tell the pause after so many *failures* in a row: *first_s* after one, twice as long after each further one, up to
    *longest_s*; *jitter_s* comes on top, so that what failed together is not tried again together."""
    doublings = min(max(failures - 1, 0), DOUBLINGS_MOST)
    return min(first_s * 2.0**doublings, longest_s) + jitter_s


def believed(time: float, longest_s: float, *, at: float) -> float:
    """Return *time*, until which something waits; *at*, now, where it is further ahead than any pause, which is *longest_s* at most:
    then it was said by a clock that was ahead, and waiting for that may take years."""
    return time if time <= at + longest_s else at


def is_ahead(time: float, *, at: float) -> bool:
    """Tell whether *time* is later than any clock may be that is right *at* this time."""
    return time > at + AHEAD_S
