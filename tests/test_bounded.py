"""The dict that holds the keys set last."""

from __future__ import annotations

from chatkeep.bounded import Newest


def test_it_holds_the_keys_that_were_set_last() -> None:
    """Setting a key again makes it the newest, reading it does not; what is over the number goes, the oldest first."""
    held: Newest[str, int] = Newest(2)
    held["ada"], held["eve"] = 1, 2
    held["ada"] = 3
    held["bob"] = 4

    assert [("ada", 3), ("bob", 4)] == list(held.items())
    assert 3 == held.get("ada")

    held["eve"] = 5

    assert ["bob", "eve"] == list(held)
    held.update(ada=6, dan=7)
    assert ["ada", "dan"] == list(held)
    assert None is held.pop("bob", None)
