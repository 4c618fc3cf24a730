"""What sealing costs a turn: `python -m benchmarks.sealing [STORE ...]`. Each store must be a fresh one; without any, SQLite and memory."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import sys
import tempfile
import time
from typing import Any

from chatkeep import Chatkeep, Turn

TURNS = 2000
FIRST = 300
TEXT = "A margherita and two lemonades for table seven, please; and is there something without nuts for dessert?"


async def measure(url: str, keys: tuple[str, ...], name: str) -> tuple[float, float, float]:
    """Return the milliseconds that a turn takes, one that begins a conversation, and a message that is accepted."""
    keep = Chatkeep[Any](url, seal_keys=keys)

    @keep.on_message
    async def bot(turn: Turn[Any]) -> str:
        turn.state["cart"] = [*turn.state.get("cart", []), turn.text][-8:]
        return f"That was number {len(turn.state['cart'])}."

    async def timed(count: int, act: Any) -> float:
        took = []
        for number in range(count):
            began = time.perf_counter()
            await act(number)
            took.append(time.perf_counter() - began)
        return 1000 * statistics.median(took)

    async with keep:
        first = await timed(FIRST, lambda n: keep.receive(f"{name}-{n}", TEXT))
        turn = await timed(TURNS, lambda n: keep.receive(f"{name}-{n % 20}", TEXT))
        accepted = await timed(FIRST, lambda n: keep.tenant("quiet").create(f"{name}-{n}"))
    return turn, first, accepted


async def main(urls: list[str]) -> None:
    """Print a line for each store."""
    with tempfile.TemporaryDirectory() as folder:
        print("store                 turn, ms        first turn, ms  creation, ms    (plain, sealed: medians)")
        for url in urls or ["memory://bench", f"sqlite:///{folder}/chat.db"]:
            plain = await measure(url, (), "plain")
            sealed = await measure(url, (secrets.token_hex(16),), "sealed")
            cells = "  ".join(f"{a:6.3f} {b:6.3f} " for a, b in zip(plain, sealed, strict=True))
            print(f"{url.partition('://')[0]:<20}  {cells}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
