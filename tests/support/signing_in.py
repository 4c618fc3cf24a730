"""A process that claims a guest, saves or deletes, and is killed: `python -m tests.support.signing_in URL ACT POINT N TENANT`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from chatkeep import Chatkeep
from chatkeep.drivers import driver_for
from chatkeep.people.claims import UNDO_S
from chatkeep.storage.seal_note import SPACE
from chatkeep.testing.crash import VERBS, CrashDriver, CrashPoint, wrapped

from .clock import Clock

GUEST = "guest:7f3a"
SAVED = [{"id": f"m{n}", "content": f"text {n}"} for n in range(5)]


class Counted(CrashDriver):
    """Dies at acts on conversations; what a sealed store does with its keys beside them is not counted."""

    def __getattr__(self, name: str) -> Any:
        counted, uncounted = super().__getattr__(name), getattr(self.inner, name)
        if name not in VERBS:
            return uncounted

        async def verb(act: Any) -> Any:
            key = getattr(act, "key", None)
            return await (uncounted if key is not None and key.tenant == SPACE else counted)(act)

        return verb


async def act(url: str, what: str, point: str, nth: int, tenant: str) -> None:
    """Does *what*, and dies of it when *point* is reached for the *nth* time from then on."""
    crash, clock = CrashPoint("never"), Clock()
    clock.now += UNDO_S + 1 if what == "settle" else 0
    keep: Chatkeep[Any] = Chatkeep(wrapped(Counted(driver_for(url), crash)), poll="1h", clock=clock)
    async with keep:
        crash.point, crash.left = point, nth
        ada = keep.tenant(tenant).user("ada")
        match what:
            case "claim":
                await ada.claim(GUEST)
            case "undo":
                await ada.undo_claim(GUEST)
            case "save":
                await ada.save("new", title="T", messages=SAVED)
            case "delete":
                await ada.delete("g0")
            case "erase":
                await ada.erase()
            case "settle":
                [one async for one in ada.conversations()]


if __name__ == "__main__":
    asyncio.run(act(*sys.argv[1:4], int(sys.argv[4]), sys.argv[5]))
