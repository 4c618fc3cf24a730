"""Two versions of an application on one store: what is pinned stays where it began, kill -9 in the middle strands nobody."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatkeep import Chatkeep, Turn
from chatkeep.conversation.releases import Plan, find_canary
from chatkeep.drivers.base import Key
from chatkeep.engine import releases

from ..support.stores import FAST, LASTING, store_url
from ..support.waiting import until

OLD = """
import asyncio, sys
from chatkeep import Chatkeep
from chatkeep.engine import releases
releases.SAY_S = 0.1

keep = Chatkeep(sys.argv[1], poll="50ms", version="1", pin=sys.argv[2])

@keep.on_message
async def bot(turn):
    if turn.text == "pay":
        await turn.step("pay", lambda: "paid by 1")
        print("paid", flush=True)
        await asyncio.Event().wait()
    return f"1 for {turn.version}"

async def main():
    async with keep:
        for conversation in ("ada", "eve"):
            await keep.receive(conversation, "hi", id="m1")
        print("there", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(params=LASTING)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that outlives its processes."""
    return store_url(request.param, request, tmp_path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version is gone after a second, not after ten."""
    monkeypatch.setattr(releases, "SAY_S", 0.1)
    monkeypatch.setattr(releases, "GONE_S", 1.0)


@asynccontextmanager
async def running(url: str, pin: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The old version, in a process of its own."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OLD, url, pin, stdout=asyncio.subprocess.PIPE)
    try:
        await reached(process, "there")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def reached(process: asyncio.subprocess.Process, place: str) -> None:
    """Waits until the process says that it is there."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert place == (await process.stdout.readline()).decode().strip()


def application(url: str, version: str, pin: str) -> Chatkeep[Any]:
    """One version of the application; it says which it is, and which one began what it goes on with."""
    keep: Chatkeep[Any] = Chatkeep(url, **FAST, version=version, pin=pin)

    @keep.on_message
    async def bot(turn: Turn) -> str:
        paid = await turn.step("pay", lambda: f"paid by {version}") if turn.text == "pay" else ""
        return f"{version} for {turn.version} {paid}".strip()

    return keep


async def last_of(keep: Chatkeep[Any], conversation: str) -> str:
    """The last words of a conversation."""
    found = await keep.conversation(conversation)
    return found.messages[-1].text if found is not None and not found.unread else ""


async def test_a_session_stays_with_its_version_until_that_is_killed(url: str) -> None:
    """Whoever takes its messages. Then the new version goes on, in the middle of a turn too: it knows who began it, nothing that was
    recorded is done again, and the session is the new one's from then on."""
    new = application(url, "2", "session")
    async with running(url, "session") as old, new:
        there = [(await new.receive("ada", f"n{n}", id=f"n{n}")).replies[0].text for n in range(3)]
        await new.accept("eve", "pay", id="m2")
        await reached(old, "paid")
        old.kill()
        await until(lambda: last_of(new, "eve"), within=20)
        taken_over = await last_of(new, "eve")
        later = [(await new.receive(name, "and now?", id="n9")).replies[0].text for name in ("ada", "eve", "eve")]

    assert ["1 for 1"] * 3 == there
    assert "2 for 1 paid by 1" == taken_over
    assert ["2 for 1", "2 for 2", "2 for 2"] == later


async def test_a_turn_stays_with_its_version_and_the_next_one_is_anybodys(url: str) -> None:
    """With pin="turn": the process is killed behind a step, and another one of the same version goes on, not one of the newer."""
    same, new = application(url, "1", "turn"), application(url, "2", "turn")
    async with running(url, "turn") as old:
        async with Chatkeep(url) as asking:
            await asking.accept("eve", "pay", id="m2")
            await reached(old, "paid")
        async with new, same:
            await until(lambda: new._engine.shared.plan.present == {"1", "2"})
            old.kill()
            await until(lambda: last_of(new, "eve"), within=20)
            found = await last_of(new, "eve")
            next_one = (await new.receive("eve", "hi", id="m3")).replies[0].text

    assert "1 for 1 paid by 1" == found
    assert next_one in ("1 for 1", "2 for 2")


async def test_a_canary_takes_its_share_and_is_backed_out(url: str) -> None:
    """The share was said before it was deployed; what it had is answered by the other version then, which is told whose it was."""
    names = [f"c{n}" for n in range(40)]
    plan = Plan(frozenset({"1", "2"}), {"2": 0.3})
    canaries = {name for name in names if find_canary(Key("", name), plan)}
    stable, canary = (application(url, version, "session") for version in ("1", "2"))
    async with stable:
        await stable.set_canary("2", 0.3)
        async with canary:
            await until(lambda: stable._engine.shared.plan.present == {"1", "2"})
            for keep, some in ((stable, names[::2]), (canary, names[1::2])):
                for name in some:
                    await keep.accept(name, "hi", id="m1")
            await until(lambda: all_answered(stable, names), within=30)
            first = {name: await last_of(stable, name) for name in names}
            await stable.set_canary("2", 0)
            await until(lambda: canary._engine.shared.plan.shares == {"2": 0.0})
            for name in names:
                await canary.accept(name, "again", id="m2")
            await until(lambda: all_answered(stable, names), within=30)
            second = {name: await last_of(stable, name) for name in names}

    assert 0 < len(canaries) < len(names)
    assert {name: "2 for 2" if name in canaries else "1 for 1" for name in names} == first
    assert {name: "1 for 2" if name in canaries else "1 for 1" for name in names} == second


async def test_a_look_that_began_before_a_share_was_given_does_not_undo_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read which shares there were before, and ends after the new one was given: the newer answer stands."""
    monkeypatch.setattr(releases, "SAY_S", 60.0)
    async with application("memory://", "1", "session") as keep:
        await keep.set_canary("2", 0.3)
        own = keep._engine.sweeper.versions
        get, read, go_on = own._records.get, asyncio.Event(), asyncio.Event()

        async def slow(name: str) -> Any:
            found = await get(name)
            read.set()
            await go_on.wait()
            return found

        with monkeypatch.context() as patch:
            patch.setattr(own._records, "get", slow)
            looking = asyncio.create_task(own.look())
            await read.wait()
        await keep.set_canary("2", 0)
        go_on.set()
        await looking

        assert {"2": 0.0} == keep._engine.shared.plan.shares


async def all_answered(keep: Chatkeep[Any], names: list[str]) -> bool:
    """Whether nothing waits in any of these conversations."""
    return all([await last_of(keep, name) for name in names])
