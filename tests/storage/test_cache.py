"""The cache: bounded by number and by bytes, newest wins, its statistics add up."""

from __future__ import annotations

from msgspec import Raw

from chatkeep.conversation.record import Record
from chatkeep.conversation.snapshots import Snapshot
from chatkeep.drivers.base import Key, Row
from chatkeep.storage.cache import Cache, weigh


def snapshot(name: str, head: int = 1, incarnation: str = "b", size: int = 10, at: float = 0.0) -> Snapshot:
    """A small conversation."""
    row = Row(key=Key("", name), revision=f"{at}", incarnation=incarnation, head=head, updated_at=at)
    return Snapshot(row, Record(state=Raw(b"x" * size)), ())


def test_the_least_recently_used_go_first_and_all_is_counted() -> None:
    """Three fit, the fourth pushes out the one that was not used."""
    cache = Cache(entries=3, bytes=10**6)
    for name in "abc":
        cache.put(snapshot(name))
    cache.get(Key("", "a"))
    cache.put(snapshot("d"))

    assert [True, False, True, True] == [cache.get(Key("", name)) is not None for name in "abcd"]
    found = cache.statistics
    assert (4, 1, 1, 3) == (found.hits, found.misses, found.evictions, found.entries)
    assert 3 * weigh(snapshot("a")) == found.bytes


def test_bytes_are_a_bound_of_their_own() -> None:
    """Large states push out small ones; one that is larger than all is not kept."""
    cache = Cache(entries=100, bytes=5000)
    for name in "abcdefgh":
        cache.put(snapshot(name, size=500))

    assert cache.statistics.bytes <= 5000
    cache.put(snapshot("huge", size=10_000))
    assert (0, 0) == (cache.statistics.entries, cache.statistics.bytes)


def test_an_older_answer_that_arrives_late_does_not_replace_a_newer_one() -> None:
    """Same incarnation, lower head: ignored. Another incarnation: taken."""
    cache = Cache(entries=3, bytes=10**6)
    cache.put(snapshot("a", head=5))
    cache.put(snapshot("a", head=4))
    assert 5 == cache.get(Key("", "a")).row.head  # type: ignore[union-attr]
    cache.put(snapshot("a", head=5, at=2.0))
    cache.put(snapshot("a", head=5, at=1.0))
    assert 2.0 == cache.get(Key("", "a")).row.updated_at  # type: ignore[union-attr]
    cache.put(snapshot("a", head=1, incarnation="c"))

    assert 1 == cache.get(Key("", "a")).row.head  # type: ignore[union-attr]
    cache.drop(Key("", "a"))
    cache.drop(Key("", "a"))
    assert (0, 0) == (cache.statistics.entries, cache.statistics.bytes)


def test_without_entries_nothing_is_held() -> None:
    """cache_entries=0 pauses it off."""
    cache = Cache(entries=0, bytes=10**6)
    cache.put(snapshot("a"))

    assert cache.get(Key("", "a")) is None
