"""An outlet for replies, in whose place a channel's would stand: what it was given, and what it answers."""

from __future__ import annotations

import asyncio
from typing import Any

from chatkeep import Turn
from chatkeep.conversation.outbox import Sent

from .waiting import takes, until

ADA = "pigeon:loft-1:ada"


class Loft:
    """An outlet that writes down what it is given and answers as it is told; `then` gives the next answers."""

    def __init__(self, *then: Sent) -> None:
        self.sent: list[tuple[str, str, int]] = []
        self.then = list(then)
        self.gate: asyncio.Event | None = None
        self.busy = 0
        self.most = 0

    def takes(self, tenant: str, conversation: str) -> bool:
        """Pigeons only, and not those of the evil."""
        return conversation.startswith("pigeon:") and tenant != "evil"

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def send(self, conversation: str, content: Any, *, key: str, skip: int, at: float) -> Sent:
        """Sends one."""
        self.busy += 1
        self.most = max(self.most, self.busy)
        self.sent.append((key, content, skip))
        if self.gate is not None:
            await self.gate.wait()
        await takes(0.002)
        self.busy -= 1
        return self.then.pop(0) if self.then else Sent(status="delivered", ids=(f"p{len(self.sent)}",))

    @property
    def texts(self) -> list[str]:
        """What was sent."""
        return [content for _, content, _ in self.sent]


async def twice(turn: Turn[Any]) -> list[str]:
    """Two replies to everything."""
    return [f"{turn.text}-a", f"{turn.text}-b"]


async def statuses(keep: Any) -> list[tuple[int, str]]:
    """How each delivery of Ada's stands."""
    return [(sending.number, sending.status) for sending in await keep.deliveries(ADA)]


async def all_delivered(keep: Any, count: int) -> None:
    """Waits until so many replies of Ada's are delivered."""

    async def settled() -> bool:
        return [status for _, status in await statuses(keep)] == ["delivered"] * count

    await until(settled, within=10.0)
