"""Where an open client may be used: in the event loop and the process of its opening."""

from __future__ import annotations

import asyncio
import os

import pytest

from chatkeep.client.confinement import Confinement
from chatkeep.errors import NotOpen, UsageError

pytestmark = pytest.mark.rules


async def begun() -> Confinement:
    """One that was opened in the running loop."""
    made = Confinement()
    made.begin()
    return made


async def test_where_it_was_opened_it_may_be_used() -> None:
    made = await begun()
    made.check("ada")
    made.refuse_elsewhere("ada")

    assert not made.has_ended
    with pytest.raises(UsageError, match="open already"):
        made.refuse_second()


def test_in_another_loop_it_is_refused_while_the_first_lives() -> None:
    first = asyncio.new_event_loop()
    try:
        made = first.run_until_complete(begun())

        async def elsewhere() -> None:
            with pytest.raises(NotOpen, match=r"^ada: the client was opened in another event loop"):
                made.check("ada")
            with pytest.raises(UsageError, match="open already"):
                made.refuse_second()

        asyncio.run(elsewhere())
    finally:
        first.close()


def test_when_its_loop_is_over_it_can_be_closed_and_opened_anew() -> None:
    """And not used."""
    made = asyncio.run(begun())

    async def later() -> None:
        with pytest.raises(NotOpen, match=r"^ada: the event loop in which the client was opened has ended"):
            made.check("ada")
        made.refuse_elsewhere("ada")
        made.refuse_second()
        made.begin()
        made.check("ada")

    assert made.has_ended
    asyncio.run(later())


async def test_a_fork_has_to_open_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    made = await begun()
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    for refuse in (lambda: made.check("ada"), lambda: made.refuse_elsewhere("ada"), made.refuse_second):
        with pytest.raises(NotOpen, match="another process, of which this one is a fork"):
            refuse()


def test_what_was_never_opened_is_confined_to_nothing() -> None:
    made = Confinement()
    made.refuse_elsewhere("ada")
    made.check("ada")

    assert not made.has_ended
