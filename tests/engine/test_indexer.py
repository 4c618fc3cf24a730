"""The full-text index, kept up to date while bots answer."""

from __future__ import annotations

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.app import core_of
from chatkeep.drivers import driver_for
from chatkeep.drivers.base import Ability, IndexText, searching

from ..support.stores import FAST
from ..support.waiting import until


async def test_the_sweep_puts_in_what_is_said(url: str) -> None:
    """By whichever process, and what was there when somebody asked for the index; it ends nothing else."""
    if Ability.SEARCH not in driver_for(url).abilities:
        pytest.skip("it has none")
    keep, asks = Chatkeep(url, **FAST), Chatkeep(url, **FAST)

    @keep.on_message
    async def bot(turn: Turn) -> str:
        return f"heard {turn.text}"

    async with asks:
        for number in range(5):
            await asks.accept(f"c{number}", f"early {number}", role="operator")
        await core_of(asks).text_index.step(limit=0, keep=True)
        async with keep:
            await keep.receive("ada", "late")
            driver = searching(core_of(asks).driver)
            assert driver is not None

            async def is_complete() -> bool:
                answer = await driver.index_text(IndexText(1))
                return not answer.entries

            await until(is_complete)
            early = await core_of(asks).text_index.find("", "early", before=None, limit=9)
            late = await core_of(asks).text_index.find("", "heard late", before=None, limit=9)

    assert (5, [("ada", 2)]) == (len(early.hits), [(hit.key.id, hit.number) for hit in late.hits])
