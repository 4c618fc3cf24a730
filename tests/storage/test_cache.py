"""The cache: bounded by number and by bytes, newest wins, its statistics add up."""

from __future__ import annotations

import random
from typing import Any

from msgspec import Raw, structs

from chatkeep.conversation.record import Record
from chatkeep.conversation.snapshots import Snapshot
from chatkeep.drivers.base import Key, Row
from chatkeep.model import Message
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


def test_who_keeps_more_of_a_conversation_is_told_when_it_is_not_held_any_more() -> None:
    """Pushed out, dropped (also one that is not held: it may be erased), or distrusted with all others."""
    gone: list[str] = []
    cache = Cache(entries=2, bytes=10**6, dropped=lambda key: gone.append(key.id))
    for name in "abcd":
        cache.put(snapshot(name))
    cache.drop(Key("", "a"))
    cache.drop(Key("", "c"))
    cache.distrust()

    assert ["a", "b", "a", "c", "d"] == gone


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


def said(number: int, size: int = 10, **more: Any) -> Message:
    """A message of the log."""
    given: dict[str, Any] = {"id": f"m{number}", "role": "user", "content": "x" * size, "created_at": 1.0} | more
    return Message(number=number, **given)


def window(messages: list[Message], *, head: int, redactions: int = 0, at: float = 0.0) -> Snapshot:
    """A snapshot of a conversation that holds these messages."""
    there = snapshot("a", head=head, at=at)
    return structs.replace(there, record=Record(redactions=redactions), messages=tuple(messages))


def test_what_is_known_of_a_snapshot_is_what_is_known_of_one_put_anew() -> None:
    """As a log grows, messages come and go; now and then earlier ones come back, none is left, or one was redacted, or other instances
    have answered so many that none of those of before is in the window."""
    cache, chosen = Cache(entries=3, bytes=10**6), random.Random(7)
    log = [said(number, size=chosen.randrange(50)) for number in range(1, 1000)]
    log[150] = said(151, content=[{"type": "image"}])
    redactions, end = 0, 30
    for step in range(300):
        first = max(end - chosen.randrange(10, 30), 0)
        if step % 10 == 0:
            redactions += 1
            log[end - 5] = said(end - 4, size=0, redacted=True)
        held = window(log[first:end] if step % 50 != 49 else [], head=end, redactions=redactions, at=float(step))
        cache.put(held)
        holds = [message for message in log if cache.holds_id(held, message.id)]

        assert list(held.messages) == holds
        assert weigh(held) == cache.statistics.bytes
        end += 0 if end > 940 else chosen.randrange(30, 60) if step % 25 == 0 else chosen.randrange(4)


def test_the_ids_of_a_snapshot_that_is_not_held_are_its_own() -> None:
    """An older one, and one that is held no more."""
    cache = Cache(entries=3, bytes=10**6)
    older = window([said(1)], head=1)
    cache.put(window([said(1), said(2)], head=2))

    assert [True, False] == [cache.holds_id(older, id) for id in ("m1", "m2")]
    cache.drop(Key("", "a"))
    assert cache.holds_id(older, "m1")
