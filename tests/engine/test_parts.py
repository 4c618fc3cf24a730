"""Each part of a process tells what it has done, and how it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from chatkeep import Chatkeep, Stats, Turn
from chatkeep.conversation.outbox import Sent

from ..support.clock import Clock
from ..support.stores import FAST
from ..support.waiting import until


class Outlet:
    """Delivers at once, but for what says "later"."""

    async def open(self) -> None:
        """Nothing to get ready."""

    async def close(self) -> None:
        """Nothing to give back."""

    async def send(self, conversation: str, content: Any, **told: Any) -> Sent:
        """Sends."""
        if "later" in str(content):
            return Sent(status="retry", channel="sms", cause="platform", reason="not now")
        return Sent(status="delivered", ids=("1",), channel="sms")

    def takes(self, tenant: str, conversation: str) -> bool:
        """Tells whose."""
        return conversation.startswith("sms:")


async def test_each_part_counts_what_it_does(tmp_path: Path) -> None:
    """Acts by verb, the cache with its bytes, turns, attempts to send by channel and outcome, the sweep, who watches; and ages."""
    clock = Clock()
    keep: Chatkeep[Any] = Chatkeep(f"sqlite:///{tmp_path}/chat.db", **FAST, clock=clock)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        return turn.text

    keep.deliver(Outlet())
    fresh = keep.stats()
    async with keep:
        await keep.receive("ada", "hello")
        await keep.receive("sms:1", "hello")
        await until(lambda: keep.stats().outbox.attempts.get("sms", {}).get("delivered"))
        await keep.receive("sms:2", "later")
        await until(lambda: keep.stats().outbox.attempts.get("sms", {}).get("retry"))
        await keep.receive("ada", "again")
        watching = keep.events("ada", after=0)
        event = await anext(watching)
        await until(lambda: keep.stats().sweeper.behind_s is not None)
        clock.now += 60
        found = keep.stats()
        await watching.aclose()  # type: ignore[attr-defined]
        await until(lambda: keep.stats().streams.watching == 0)
    closed = keep.stats()

    assert isinstance(found, Stats)
    assert (0, {}, {}, False, None) == (
        fresh.engine.turns,
        fresh.store.acts,
        fresh.outbox.attempts,
        fresh.sweeper.running,
        fresh.sweeper.behind_s,
    )
    assert event is not None
    assert ("sqlite", "") == (found.store.engine, found.store.trouble)
    assert found.store.acts["append"] + found.store.acts["write"] >= 4
    assert found.cache.entries >= 3
    assert found.cache.bytes > 0
    assert found.engine.turns >= 4
    assert found.outbox.sends
    assert found.outbox.last_sent_s is not None
    assert 60 <= found.outbox.last_sent_s
    assert found.sweeper.running
    assert 1 == found.streams.watching
    assert 60 <= found.since_s
    assert found.shared_cache is None
    assert not closed.sweeper.running
    assert found == msgspec.json.decode(msgspec.json.encode(found), type=Stats)
