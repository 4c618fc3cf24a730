"""The names of customers, where two instances hear of the same ones at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatkeep.app import core_of
from chatkeep.channels.aliases import Aliases
from chatkeep.channels.base import Received

ADA, NEXT = "whatsapp:1550:4917", "whatsapp:1550:4918"


def said(number: str, at: float, *former: str) -> Received:
    """What somebody said under this number; or, with *former*, that it is theirs now, and took the place of that one."""
    name = f"whatsapp:1550:{number}"
    return Received(
        conversation=name, account="1550", to=number, id=f"{at}", content="", at=at, names=(name,), former=former
    )


async def test_a_number_that_is_given_up_while_a_message_of_before_is_looked_up_stays_given_up(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever has the number next would be shown the first customer's words."""
    keep = await opened()
    one, other, looked, go = *(Aliases(core_of(keep)) for _ in range(2)), asyncio.Event(), asyncio.Event()
    put = one._put

    async def put_later(*arguments: Any, **told: Any) -> None:
        looked.set()
        await go.wait()
        await put(*arguments, **told)

    monkeypatch.setattr(one, "_put", put_later)
    first = asyncio.create_task(one.conversation_of("", said("4917", 10.0)))
    await looked.wait()
    moved = await other.conversation_of("", said("4918", 20.0, ADA))
    go.set()
    found = [await first, moved, await other.conversation_of("", said("4918", 31.0))]
    another = await other.conversation_of("", said("4917", 30.0))

    assert [ADA, ADA, ADA] == found
    assert f"{ADA}~20" == another
    assert ["4918", "4917"] == [await other.address_of("", one) for one in (ADA, another)]
