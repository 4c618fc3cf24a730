"""The keys that seal: which are taken, and what opens with them."""

from __future__ import annotations

import pytest

from chatkeep import Misconfigured
from chatkeep.secrecy import SHORTEST
from chatkeep.storage.key_ring import KeyRing, fresh_key

NEW, OLD = "new key " * 4, "old key " * 4


@pytest.mark.parametrize("keys", [[], ["a" * (SHORTEST - 1)], [NEW, "short"], ["short", NEW]])
def test_a_key_that_can_be_guessed_is_refused(keys: list[str]) -> None:
    """Wherever it stands; and no key is no ring."""
    with pytest.raises(Misconfigured, match=f"at least {SHORTEST} bytes each"):
        KeyRing(keys)


def test_bytes_count_and_not_characters() -> None:
    """As everywhere that a secret is measured."""
    assert 1 == len(KeyRing(["é" * (SHORTEST // 2)]).marks)


def test_the_newest_key_seals_and_each_opens() -> None:
    """What was sealed by another one, bound to something else, or altered does not."""
    ring, before = KeyRing([NEW, OLD]), KeyRing([OLD])
    sealed = ring.seal(b"tea", b"ada"), before.seal(b"tea", b"ada")

    assert ring.marks == [ring.first, before.first]
    assert (b"tea", b"tea") == (ring.open(ring.first, sealed[0], b"ada"), ring.open(before.first, sealed[1], b"ada"))
    assert ring.open(ring.first, sealed[0], b"ben") is None
    assert ring.open(before.first, sealed[0], b"ada") is None
    assert before.open(ring.first, sealed[0], b"ada") is None
    for altered in (sealed[0][:-1], b"", sealed[0][:-1] + b"x"):
        assert ring.open(ring.first, altered, b"ada") is None
    assert sealed[0] != ring.seal(b"tea", b"ada")


def test_the_mark_of_a_key_is_what_stores_have() -> None:
    """Eight characters that are the same in every release: without them nobody finds what opens a row."""
    assert ["ebde5376"] == KeyRing([NEW]).marks
    assert fresh_key() != fresh_key()
