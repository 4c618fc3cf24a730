"""What instances tell each other: coalesced, never one's own, and to who may be meant."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection
from typing import Any

from chatkeep.drivers.base import Key
from chatkeep.drivers.memory import MemoryDriver
from chatkeep.engine import notifier as news
from chatkeep.engine.notifier import Notifier

from ..support.waiting import nothing_happens_for, time_passes

ADA, BOB = Key("", "ada"), Key("", "bob")


class Counting(MemoryDriver):
    """Counts how often it announces."""

    announced = 0
    meanwhile: Callable[[], None] | None = None

    async def announce(self, marks: Collection[str]) -> None:
        """Announces, and counts; something may happen meanwhile."""
        self.announced += 1
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        await super().announce(marks)


async def instance(url: str, heard: list[Any]) -> tuple[Counting, Notifier]:
    """An instance that notes what it hears."""
    driver = Counting(url)
    await driver.open()
    told = Notifier(driver, changed=heard.append, work=lambda: heard.append("work"))
    told.open()
    return driver, told


async def test_others_hear_of_what_they_know_and_nobody_hears_their_own() -> None:
    """A change reaches who waits for it, or has written there too; work reaches everybody else."""
    url = f"memory://{secrets.token_hex(8)}"
    here: list[Any] = []
    there: list[Any] = []
    (_, one), (_, two) = await instance(url, here), await instance(url, there)
    two.expect(ADA)
    one.tell(ADA)
    one.tell(BOB)
    one.tell_of_work()
    await one.close()
    await asyncio.sleep(0)

    assert ([], [ADA, "work"]) == (here, there)


async def test_a_thousand_changes_are_a_few_announcements() -> None:
    """What changes within a moment is told together, and a conversation once."""
    url = f"memory://{secrets.token_hex(8)}"
    heard: list[Any] = []
    (driver, one), (_, two) = await instance(url, []), await instance(url, heard)
    keys = [Key("", f"c{number}") for number in range(250)]
    for key in keys:
        two.expect(key)
    for _ in range(4):
        for key in keys:
            one.tell(key)
    await one.close()
    await asyncio.sleep(0)

    assert keys == heard
    assert 3 == driver.announced


async def test_what_is_told_while_it_is_announced_is_not_forgotten() -> None:
    """And a closed one tells what was left, then nothing more."""
    url = f"memory://{secrets.token_hex(8)}"
    heard: list[Any] = []
    (driver, one), (_, two) = await instance(url, []), await instance(url, heard)
    two.expect(ADA)
    two.expect(BOB)
    driver.meanwhile = lambda: one.tell(BOB)
    one.tell(ADA)
    await time_passes(3 * news.PAUSE_S)
    await one.close()
    one.tell(ADA)
    await nothing_happens_for(2 * news.PAUSE_S)

    assert [ADA, BOB] == heard
    assert 2 == driver.announced


async def test_news_that_end_with_their_loop_begin_nothing() -> None:
    """As `asyncio.run` ends what is left of a Chatkeep that nobody has closed: it says nothing of tasks that were destroyed."""
    _, one = await instance(f"memory://{secrets.token_hex(8)}", [])
    one.tell(ADA)
    await asyncio.sleep(0)
    for task in running():
        task.cancel()
    await asyncio.gather(*running(), return_exceptions=True)

    assert [] == running()


def running() -> list[asyncio.Task[Any]]:
    """The tasks that announce something."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep news"]
