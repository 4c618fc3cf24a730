"""How long to wait before something that failed is tried again."""

from __future__ import annotations

DOUBLINGS_MOST = 1000
"""More would be no float any more; by then *longest_s* has long been reached."""


def backoff(failures: int, *, first_s: float, longest_s: float, jitter_s: float = 0.0) -> float:
    """Tell the pause after so many *failures* in a row: *first_s* after one, twice as long after each further one, up to
    *longest_s*; *jitter_s* comes on top, so that what failed together is not tried again together."""
    doublings = min(max(failures - 1, 0), DOUBLINGS_MOST)
    return min(first_s * 2.0**doublings, longest_s) + jitter_s
