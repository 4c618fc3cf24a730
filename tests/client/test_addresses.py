"""Addresses on a server."""

from __future__ import annotations

from typing import Any

import pytest

from chatkeep.client.addresses import conversation_at, given, with_query

pytestmark = pytest.mark.rules


@pytest.mark.parametrize(
    ("id", "expected"),
    [("ada", "ada"), ("a/b?c#d", "a%2Fb%3Fc%23d"), ("..", ".."), ("é %", "%C3%A9%20%25"), ("~", "~")],
)
def test_a_conversation_has_one_step_of_the_path(id: str, expected: str) -> None:
    """Whatever is in its name."""
    assert f"/v1/conversations/{expected}" == conversation_at(id)


def test_only_what_is_given_is_asked_for() -> None:
    """None is nothing; 0, "" and False are something."""
    asked: dict[str, Any] = {"a": 0, "b": None, "c": "", "d": False}

    assert {"a": 0, "c": "", "d": False} == given(**asked)
    assert "/x?a=0&c=&d=False" == with_query("/x", **asked)
    assert "/x?a=%26%3D" == with_query("/x", a="&=")
    assert "/x" == with_query("/x", b=None)
