"""What is known of credentials: one read a second, their last use, and nobody is judged without the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chatkeep.auth.credentials import forget, list_tokens, stored_credentials
from chatkeep.auth.format import name_of
from chatkeep.errors import Unavailable
from chatkeep.server.known_credentials import KnownCredentials

from ..support.salon import ADA, Clock, House, housed
from ..support.waiting import nothing_happens_for, time_passes, until


async def test_the_last_use_is_noted_coarsely(house: House, clock: Clock, tmp_path: Path) -> None:
    """Once an hour and behind the answer; the second use writes nothing, on no instance."""
    token = await house.token()

    async def used() -> float | None:
        return (await list_tokens(house.keep, "salon", "ada"))[0].last_used_at

    async def revisions() -> list[str]:
        rows = await house.keep._engine.store.rows("key", tenant="~access")
        return [row.revision for row in rows if row.key.id == name_of(token)]

    assert await used() is None
    await house.may(token)
    await until(used)
    before = await revisions()
    clock.ahead = 3000
    await house.may(token)
    async with housed(f"sqlite:///{tmp_path}/chat.db", clock=clock) as other:
        await other.may(token)
        await nothing_happens_for(0.1)
    assert before == await revisions()


async def test_noting_a_last_use_brings_nothing_back(house: House) -> None:
    """One that was erased while its use was being noted stays erased."""
    name = str(name_of(await house.token()))
    held = await stored_credentials(house.keep).get(name)
    assert held is not None
    await forget(house.keep, "salon", "ada")
    known = KnownCredentials(house.keep)
    known.note_use(name, held)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep access"])

    assert await stored_credentials(house.keep).get(name) is None


async def test_a_busy_token_costs_one_read_a_second(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who come at once wait for the same look."""
    token, reads = await house.token(), []
    driver = house.keep._engine.store.driver
    read = driver.read

    async def counting(act: Any) -> Any:
        reads.append(act.key)
        return await read(act)

    await house.may(token)
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name() == "chatkeep access"])
    await time_passes(1.1)
    monkeypatch.setattr(driver, "read", counting)
    answers = await asyncio.gather(*[house.may(token) for _ in range(40)])

    assert [200] * 40 == answers
    assert 1 == len([key for key in reads if key.tenant == "~access"])


async def test_without_a_store_nobody_is_let_in_or_turned_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """503: a token that cannot be looked at is neither good nor bad, and is looked at again when the store is back."""
    token = await house.token()
    driver = house.keep._engine.store.driver

    async def away(act: Any) -> Any:
        raise Unavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(driver, "read", away)
        answers = [await house.ask("GET", f"{ADA}/messages", token=token) for _ in range(2)]
    assert [503, 503] == [answer.status for answer in answers]

    async def is_let_in() -> bool:
        return await house.may(token) == 200

    await until(is_let_in)  # the store is left alone for a moment where a sweep has met its absence too
