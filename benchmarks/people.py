"""What devices cost: bytes of a sync, and the time of a merge: `python -m benchmarks.people [CONVERSATIONS]`.

Each conversation has 50 messages; ten have changed since the device last looked.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
from typing import Any

import msgspec

from chatkeep import Chatkeep
from chatkeep.conversation.merge import Version, merge

MESSAGES = 50
CHANGED = 10


async def sync(count: int) -> None:
    """Print what a device that knows *count* conversations is told when ten have changed."""
    keep: Chatkeep[Any] = Chatkeep("memory://")
    async with keep:
        ada = keep.user("ada")
        for number in range(count):
            said = [
                {"id": f"m{n}", "content": f"What was said at last, and answered, number {n}"} for n in range(MESSAGES)
            ]
            await ada.save(f"conversation-{number}", title=f"About the matter {number}", messages=said)
        everything = await ada.changes()
        cursor, whole = everything.cursor, len(msgspec.json.encode(everything))
        while everything.more:
            everything = await ada.changes(cursor)
            cursor, whole = everything.cursor, whole + len(msgspec.json.encode(everything))
        for number in range(CHANGED):
            await ada.save(f"conversation-{number}", messages=[{"id": "new", "content": "One more"}])
        began = time.perf_counter()
        changed = await ada.changes(cursor)
        took = time.perf_counter() - began
    answer = msgspec.json.encode(changed)
    told = f"{len(answer):,} bytes ({len(gzip.compress(answer, 5)):,} as gzip) in {took * 1000:.1f} ms"
    print(f"{count:,} conversations of {MESSAGES} messages: all of the list {whole:,} bytes; {CHANGED} changed: {told}")


def merged(count: int) -> None:
    """Print how long two lists of *count* items take that have half of them in common."""
    both = [{"id": f"b{n}", "text": "what was said"} for n in range(count // 2)]
    sides = [[{"id": f"{name}{n}", "text": "what was said"} for n in range(count // 2)] for name in "ac"]
    began = time.perf_counter()
    merge(both, Version(both + sides[0], 1.0, "a"), Version(sides[1] + both, 2.0, "c"))
    print(f"two lists of {count:,} items merged in {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    for size in (1_000, 10_000, 100_000):
        merged(size)
    asyncio.run(sync(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000))
