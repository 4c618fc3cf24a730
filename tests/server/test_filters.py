"""A filter of the desk, as what its list looks for."""

from __future__ import annotations

import pytest

from chatkeep.server.filters import Filter
from chatkeep.server.items import Wanted
from chatkeep.server.principals import Principal
from chatkeep.server.wire import Refused

pytestmark = pytest.mark.rules

AGENT = Principal(kind="operator", id="ann", scopes=frozenset({"list", "read", "reveal"}))
VIEWER = Principal(kind="operator", id="vic", scopes=frozenset({"list"}))
KEY = Principal(kind="service", id="k1", scopes=frozenset({"list"}))


@pytest.mark.parametrize(
    ("expected", "whose", "assignee"),
    [(None, "all", ""), ("bob", "all", "bob"), ("ann", "mine", ""), ("ann", "mine", "bob"), ("", "nobody", "bob")],
)
def test_whose_a_conversation_is_at_the_desk(expected: str | None, whose: str, assignee: str) -> None:
    """The account that is named, who asks, or nobody; None is whoever's."""
    assert expected == Filter(whose=whose, assignee=assignee).wanted_by(AGENT).assignee  # type: ignore[arg-type]


def test_logs_are_searched_for_who_may_read_them() -> None:
    expected = Wanted(show="failing", channel="whatsapp", owner="o", text="cake", in_logs=True, named_first=False)
    asked = Filter(show="failing", channel="whatsapp", owner="o", text=" cake ")

    assert expected == asked.wanted_by(AGENT, named_first=False)
    assert (False, True) == (asked.wanted_by(KEY).in_logs, asked.wanted_by(KEY).named_first)


@pytest.mark.parametrize("asked", [Filter(text="ada"), Filter(owner="ada")], ids=["text", "owner"])
def test_who_sees_nothing_personal_does_not_search_for_it(asked: Filter) -> None:
    with pytest.raises(Refused, match=r"^403: vic may not see what is personal, and so not search for it"):
        asked.wanted_by(VIEWER)

    assert Wanted(show="off", in_logs=False) == Filter(show="off").wanted_by(VIEWER)
