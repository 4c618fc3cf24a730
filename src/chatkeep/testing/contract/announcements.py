"""Clauses on what drivers on one store tell each other. The drivers that break them stand below."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ...drivers.base import Ability, Driver
from .broken import Intact, caught_by
from .clauses import Clauses, clause
from .steps import need

AGAIN_S = 0.025
"""An announcement that nobody has heard is made again after so long, two hundred times: a driver may begin to listen late."""


class Announcements(Clauses):
    """What drivers on one store tell each other."""

    @clause
    async def test_an_announcement_is_heard_by_all_who_watch(self, one: Driver, two: Driver) -> None:
        """By other drivers and by the one that announced it, until it is closed. Without WATCH it goes nowhere."""
        heard: tuple[list[str], list[str]] = ([], [])
        for driver, ears in zip((one, two), heard, strict=True):
            driver.watch(ears.extend)
        for turn in range(200):
            await one.announce([f"a{turn}", "b"])
            await asyncio.sleep(AGAIN_S)
            if Ability.WATCH not in one.abilities or all("b" in ears for ears in heard):
                break

        assert [Ability.WATCH in one.abilities] * 2 == ["b" in ears for ears in heard]
        assert {"b"} | {f"a{turn}" for turn in range(200)} >= {*heard[0], *heard[1]}

        await two.close()
        heard[1].clear()
        await one.announce(["late"])
        await asyncio.sleep(0.1)

        assert [] == heard[1]

    @clause
    async def test_a_hundred_marks_go_in_one_announcement(self, one: Driver, two: Driver) -> None:
        """That many at once, as long as `mark_of` makes them, arrive whole."""
        need(one, Ability.WATCH)
        marks = [f"{turn:032x}" for turn in range(100)]
        heard: list[str] = []
        two.watch(heard.extend)
        for _ in range(200):
            await one.announce(marks)
            await asyncio.sleep(AGAIN_S)
            if heard:
                break

        assert set(marks) == set(heard)


# Drivers that break these clauses


@caught_by("an_announcement_is_heard_by_all_who_watch", "a_hundred_marks_go_in_one_announcement")
class AnnouncesToItself(Intact):
    """Other instances hear nothing."""

    async def announce(self, marks: Collection[str]) -> None:
        if self._heard is not None:
            self._heard(list(marks))


@caught_by("an_announcement_is_heard_by_all_who_watch")
class HearsWhenClosed(Intact):
    """A closed driver goes on calling back."""

    async def close(self) -> None:
        self._heard = None
        await super().close()


@caught_by("a_hundred_marks_go_in_one_announcement")
class AnnouncementsCutShort(Intact):
    """What does not fit into a payload is left out."""

    async def announce(self, marks: Collection[str]) -> None:
        await super().announce(list(marks)[:60])
