"""What a Chatkeep asks of its store."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep import Settings, Unsupported
from chatkeep.drivers.base import Ability
from chatkeep.engine.needs import refuse_lacking

PLAIN: dict[str, Any] = {"retention": None, "session_ttl": None, "on_outage": "refuse", "cache": None}


@pytest.mark.parametrize(
    ("lacks", "changed", "answers", "words"),
    [
        ("LOG", {}, False, "every Chatkeep needs LOG"),
        ("SCAN", {}, True, "a handler .on_message. needs SCAN"),
        ("SCAN", {"retention": "1d"}, False, "retention needs SCAN"),
        ("SCAN", {"session_ttl": "1d"}, False, "session_ttl needs SCAN"),
        ("EPOCH", {"on_outage": "journal", "journal": "j"}, False, 'on_outage="journal" needs EPOCH'),
        ("EPOCH", {"cache": "redis://127.0.0.1/0"}, False, "cache needs EPOCH"),
    ],
)
def test_what_a_store_lacks_is_refused_where_it_is_asked_for(
    lacks: str, changed: dict[str, Any], answers: bool, words: str
) -> None:
    """With the name of the setting; a store that has it is taken."""
    settings = Settings(**PLAIN | changed)
    abilities = {ability for ability in Ability if ability.name != lacks}

    with pytest.raises(Unsupported, match=words):
        refuse_lacking(abilities, settings, answers=answers)
    refuse_lacking({*Ability}, settings, answers=answers)


@pytest.mark.parametrize("lacks", ["SCAN", "EPOCH", "SHARED", "WATCH", "DURABLE"])
def test_what_nothing_asks_for_may_be_lacking(lacks: str) -> None:
    """A process that only writes does with little."""
    refuse_lacking({ability for ability in Ability if ability.name != lacks}, Settings(**PLAIN), answers=False)
