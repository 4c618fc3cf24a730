"""What the buckets of a Redis have answered, put together in order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.drivers.base import Scan
from chatkeep.drivers.redis.replies import places_in

BUCKETS = 3


def answered(act: Scan, places: list[tuple[float, bytes]]) -> list[bytes]:
    """What a bucket answers: members and their scores, or members behind the name of their owner."""
    if act.index in ("due", "recent"):
        return [part for score, member in places for part in (member, b"%d" % score)]
    before = f"{act.owner}\0".encode() if act.index == "owner" else b""
    return [before + member for _, member in places]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.binary(min_size=1, max_size=3)), unique_by=lambda one: one[1], max_size=30
    ),
    st.integers(1, 5),
    st.integers(1, 8),
    st.sampled_from(["due", "recent", "key", "owner"]),
)
def test_the_pages_of_all_buckets_are_the_pages_of_the_whole(
    members: list[tuple[int, bytes]], share: int, limit: int, index: Any
) -> None:
    """However much each of them gives at a time: nothing is passed over, nothing comes twice, and it ends."""
    act = Scan(index, limit=limit, owner="é" if index == "owner" else "")
    scored = index in ("due", "recent")
    whole = sorted((float(score) if scored else 0.0, member) for score, member in members)
    buckets = [sorted(place for place in whole if place[1][0] % BUCKETS == n) for n in range(BUCKETS)]
    found: list[tuple[float, bytes]] = []
    more = True
    while more:
        left = [[place for place in bucket if not found or place > found[-1]][:share] for bucket in buckets]
        page, more = places_in(act, [answered(act, places) for places in left], share, limit)

        assert len(page) <= limit
        assert page or not more
        found += page

    assert whole == found


@pytest.mark.parametrize("full", [False, True])
def test_behind_a_full_page_nothing_is_known(full: bool) -> None:
    """Other buckets may have gone further; what they have there comes later."""
    pages = [[b"a", b"c"], [b"b", b"z"] if full else [b"b"]]
    found, more = places_in(Scan("key", limit=10), pages, 2, 10)

    assert ([b"a", b"b", b"c"], True) == ([member for _, member in found], more)
