"""What comes to an end in great numbers: sessions ended a second, and how late reminders come that fall due meanwhile.

    python -m benchmarks.ends [STORE_URL] [--sessions 50000] [--reminders 40]

All sessions are over at one moment, as after a weekend, with the settings as they are by default. Reminders fall due while the
sweep goes through them; each is to come within two polls of its time.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from typing import Any

from chatkeep import Chatkeep, Turn
from chatkeep.durations import seconds

TTL_S = 1800.0
TOGETHER = 500


async def measure(url: str, sessions: int, reminders: int) -> None:
    """Prints the two figures."""
    ahead, late = 0.0, list[float]()
    due: dict[str, float] = {}

    def clock() -> float:
        return time.time() + ahead

    async def bot(turn: Turn[dict[str, Any]]) -> str:
        turn.state["n"] = turn.state.get("n", 0) + 1
        if turn.reminder:
            late.append(clock() - due[turn.conversation])
        return "ok"

    keep = Chatkeep(url, session_ttl=f"{TTL_S:g}s", clock=clock)
    keep.on_message(bot)
    began = time.monotonic()
    async with keep:
        for start in range(0, sessions, TOGETHER):
            some = range(start, min(start + TOGETHER, sessions))
            await asyncio.gather(*(keep.receive(f"c{number}", "hi") for number in some))
        print(f"{sessions:,} conversations made in {time.monotonic() - began:.1f} s")

    async def remind(turn: Turn[dict[str, Any]]) -> str:
        due[turn.conversation] = clock() + float(turn.text)
        turn.remind(float(turn.text), "later")
        return "ok"

    # Names that come behind all others in the index, and times within the walk.
    keep = Chatkeep(url, session_ttl=f"{TTL_S:g}s", clock=clock)
    keep.on_message(remind)
    async with keep:
        asked = time.time()
        for number in range(reminders):
            await keep.receive(f"z{number}", f"{TTL_S + 2 + number * 0.25:g}")
    ahead = asked + TTL_S + 1 - time.time()  # none is due yet, however long a busy machine has taken until here
    keep = Chatkeep(url, session_ttl=f"{TTL_S:g}s", clock=clock)
    keep.on_message(bot)
    async with keep:
        began, cpu = time.monotonic(), time.process_time()
        while await left(keep, clock()):  # noqa: ASYNC110 (another process might end them)
            await asyncio.sleep(0.2)
        took, worked = time.monotonic() - began, time.process_time() - cpu
        while len(late) < reminders:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0.2)
        poll_s = seconds(keep.settings.poll)
    late.sort()
    print(f"{sessions / took:,.0f} ended sessions a second ({worked / sessions * 1e6:.0f} us of this process each)")
    print(
        f"{reminders} reminders: half within {late[len(late) // 2]:.2f} s, the last {late[-1]:.2f} s late; two polls are {2 * poll_s:g} s"
    )


async def left(keep: Chatkeep[Any], at: float) -> bool:
    """Whether anything has been due for more than two polls."""
    return bool(await keep._engine.store.rows("due", until=at - 2.0, limit=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--sessions", type=int, default=50_000)
    parser.add_argument("--reminders", type=int, default=40)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(asked.url or f"sqlite:///{folder}/ends.db", asked.sessions, asked.reminders))
