"""Credentials as text: random, told apart, and checked for typing errors before anything is looked up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep.auth.format import DIGITS, make_credential, name_of


@given(st.sampled_from(["service", "token", "share"]), st.integers(0, 53), st.sampled_from(DIGITS))
def test_a_typo_is_seen_without_a_look_up(kind: Any, place: int, letter: str) -> None:
    """One letter that is wrong, anywhere, and it names nothing."""
    text = make_credential(kind)
    wrong = text[:place] + letter + text[place + 1 :]

    assert name_of(text) is not None
    assert (name_of(wrong) is None) == (wrong != text)


def test_a_credential_is_256_random_bits() -> None:
    """43 letters of 62 hold them; no two are the same, and each kind is told by its prefix."""
    made = [make_credential("token") for _ in range(1000)]

    assert {"ck_c_"} == {text[:5] for text in made}
    assert {54} == {len(text) for text in made}
    assert 1000 == len({text[5:48] for text in made})
    assert 62**43 > 2**256
    assert ["ck_k_", "ck_h_"] == [make_credential("service")[:5], make_credential("share")[:5]]


@pytest.mark.parametrize(
    "text", ["", "ck_c_", "ck_x_" + "0" * 49, "Bearer", "ck_c_" + "é" * 49, "0" * 100_000, "\udcff" * 9]
)
def test_what_is_no_credential_names_nothing(text: str) -> None:
    """Whatever is sent."""
    assert name_of(text) is None
