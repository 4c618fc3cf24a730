"""Two processes on one store."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest

from chatkeep import Chatkeep, StateChanged

from ..support.soaking import SOAK

EACH = 150 * SOAK
WRITER = """
import asyncio, sys
from chatkeep import Chatkeep

keep = Chatkeep(sys.argv[1], attempts=50)

@keep.on_message
async def bot(turn):
    turn.state.setdefault("seen", []).append(turn.text)
    return turn.text

async def main():
    async with keep:
        for n in range(int(sys.argv[3])):
            receipt = await keep.receive("shared", f"{sys.argv[2]}.{n}", id=f"{sys.argv[2]}.{n}")
            assert [reply.text for reply in receipt.replies] == [f"{sys.argv[2]}.{n}"], receipt

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "redis", "postgresql"], indirect=True)
async def test_each_message_of_two_processes_to_one_conversation_is_applied_once(url: str) -> None:
    """As many from each process, each waiting for its answer: every one applied once, in the order of each sender."""
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, url, name, str(EACH)]) for name in "ab"]
    codes = [await asyncio.to_thread(writer.wait, 120) for writer in writers]
    keep: Chatkeep[dict[str, Any]] = Chatkeep(url)
    async with keep:
        found = await keep.conversation("shared")
        log = [message.text async for message in keep.history("shared") if message.role == "user"]

    assert [0, 0] == codes
    assert found is not None
    assert log == found.state["seen"]
    assert sorted(f"{name}.{n}" for name in "ab" for n in range(EACH)) == sorted(log)
    for name in "ab":
        assert [f"{name}.{n}" for n in range(EACH)] == [text for text in log if text.startswith(name)]


CHANGER = """
import asyncio, sys, time
from chatkeep import Chatkeep

async def main():
    async with Chatkeep(sys.argv[1]) as keep:
        for n in range(9):
            await asyncio.sleep(0.3)
            await keep.change("quiet", lambda state: state.update(at=time.time()))

asyncio.run(main())
"""


@pytest.mark.parametrize("url", ["sqlite", "redis", "postgresql"], indirect=True)
async def test_who_watches_a_quiet_conversation_hears_at_once_of_another_process(url: str) -> None:
    """Within a fifth of a second mostly, on a quick machine; where nobody is told, it is looked at every five."""
    keep: Chatkeep[dict[str, Any]] = Chatkeep(url)
    late: list[float] = []
    async with keep, asyncio.timeout(60):
        await keep.create("quiet")
        events = keep.events("quiet")
        changer = subprocess.Popen([sys.executable, "-c", CHANGER, url])
        async for event in events:
            if isinstance(event, StateChanged):
                late.append(time.time() - msgspec.json.decode(event.state)["at"])
            if len(late) == 8:
                break
        assert 0 == await asyncio.to_thread(changer.wait, 30)

    assert statistics.median(late) < 1
