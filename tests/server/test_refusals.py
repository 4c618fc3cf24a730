"""Refusals say the same wherever somebody is turned away."""

from __future__ import annotations

import pytest

from chatkeep.server.refusals import REFUSED, forbidden, gone, not_found, refuse_step, unauthorized
from chatkeep.server.wire import Refused

pytestmark = pytest.mark.rules


def test_each_refusal_has_its_status_and_its_type() -> None:
    refusals = [unauthorized(), forbidden("no"), not_found(), gone("Nothing was written.")]

    assert [
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not-found"),
        (412, "precondition-failed"),
    ] == [(refusal.status_code, refusal.word) for refusal in refusals]
    assert {"www-authenticate": "Bearer"} == unauthorized().headers
    assert "no" == forbidden("no").detail
    assert gone("Nothing was written.").detail.endswith("or it was erased. Nothing was written.")


def test_who_may_not_learns_nothing_of_what_is_there() -> None:
    """The words are the same each time, so no answer can be told from another."""
    assert REFUSED == unauthorized().detail
    assert "There is nothing at this address." == not_found().detail


@pytest.mark.parametrize("conversation", [".", ".."])
def test_what_a_browser_takes_for_a_step_is_no_id(conversation: str) -> None:
    with pytest.raises(Refused) as refused:
        refuse_step(conversation)

    assert (400, "bad-key") == (refused.value.status_code, refused.value.word)
    assert f"cannot be called {conversation!r}" in str(refused.value.detail)


@pytest.mark.parametrize("conversation", [None, "", "...", "a.", "ada"])
def test_any_other_id_can_be_asked_for(conversation: str | None) -> None:
    refuse_step(conversation)
