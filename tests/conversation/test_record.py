"""The record: what of a message that was tried stays for another one."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw, structs

from chatkeep.conversation.codec import body_of
from chatkeep.conversation.record import OF_A_TRY, Record, Said, untried
from chatkeep.drivers.base import Key

TRIED: dict[str, Any] = {
    "begun": 1,
    "raised": 1,
    "deaths": 1,
    "alone": True,
    "retry_at": 5.0,
    "failed_at": 5.0,
    "steps": {"paid": Raw(b"1")},
    "said": Said(5, "One moment"),
}


@pytest.mark.parametrize("name", OF_A_TRY)
def test_nothing_of_a_try_stays_for_another_message(name: str) -> None:
    """Whichever of it there is, and not even in what is stored."""
    key, fresh = Key("", "ada"), Record(cursor=4)
    other = untried(structs.replace(fresh, **{name: TRIED[name]}))

    assert (fresh, body_of(key, fresh)) == (other, body_of(key, other))
