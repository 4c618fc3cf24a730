"""From a platform's request to the log: what a channel reads can be accepted as it is, and counts once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from chatkeep import Turn
from chatkeep.channels import Inbound, Received

from ..support.samples import CHANNELS, CORPUS, case


def posted() -> list[list[Inbound]]:
    """What is in each request of the corpus."""
    cases = [case(path) for path in sorted(CORPUS.glob("*.json"))]
    return [
        CHANNELS[one["channel"]].parse(
            json.dumps(one["body"]).encode(), [tuple(pair) for pair in one.get("headers", [])]
        )
        for one in cases
    ]


async def test_a_redelivered_request_has_no_second_effect(opened: Callable[..., Any]) -> None:
    """F31, F33: every request comes several times, in any order; each message is in the log once, and is answered once."""

    async def bot(turn: Turn[Any]) -> str:
        return "ok"

    keep = await opened(bot)
    requests = posted()
    messages = {(one.conversation, one.id): one for found in requests for one in found if isinstance(one, Received)}
    deliveries = requests * 3
    random.Random(7).shuffle(deliveries)
    for found in deliveries:
        for one in found:
            if isinstance(one, Received):
                await keep.accept(one.conversation, one.content, id=one.id, role=one.role, metadata=one.metadata)
    receipts = [
        await keep.receive(one.conversation, one.content, id=one.id, role=one.role)
        for one in messages.values()
        if one.role != "operator"
    ]
    logs = {place: [message async for message in keep.history(place)] for place in {place for place, _ in messages}}
    said = {
        (place, m.id): (m.content, m.role)
        for place, log in logs.items()
        for m in log
        if m.role not in ("assistant", "system")
    }

    assert {key: (one.content, one.role) for key, one in messages.items()} == said
    assert {(True, "answered", 1)} == {(one.duplicate, one.status, len(one.replies)) for one in receipts}
    assert len(receipts) == len([message for log in logs.values() for message in log if message.role == "assistant"])
