"""What is handed over in the place of a driver or channel is refused by name, with all that it lacks."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from chatkeep import Misconfigured
from chatkeep.kinds import refuse_other


class Outlet(Protocol):
    """What is asked for."""

    name: str

    def send(self) -> None: ...
    def close(self) -> None: ...
    def _inner(self) -> None: ...


class Whole:
    name = "mail"

    def send(self) -> None: ...
    def close(self) -> None: ...


class Half:
    def close(self) -> None: ...


def test_what_has_all_members_passes_whatever_its_class() -> None:
    """Names with an underscore are nobody's business."""
    refuse_other(Whole(), Outlet, "outlet", "Write both.")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Half(), "Half is no outlet: it lacks name, send. Write both. Nothing was opened."),
        (Half, "Half is a class; an outlet is an object of it, Half(...). Nothing was opened."),
        (None, "NoneType is no outlet: it lacks close, name, send. Write both. Nothing was opened."),
    ],
)
def test_what_it_lacks_is_told_at_once(found: Any, expected: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        refuse_other(found, Outlet, "outlet", "Write both.")

    assert expected == str(refused.value)


def test_the_article_is_that_of_the_name() -> None:
    with pytest.raises(Misconfigured, match="; a sink is an object of it"):
        refuse_other(Half, Outlet, "sink", "")
