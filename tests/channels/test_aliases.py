"""The names of customers, where two instances hear of the same ones at the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatkeep.app import core_of
from chatkeep.channels.aliases import Aliases
from chatkeep.channels.base import Received

ADA, NEXT = "whatsapp:1550:4917", "whatsapp:1550:4918"


def said(number: str, at: float, *former: str, user: str = "") -> Received:
    """What somebody said under this number, and as this *user*; or, with *former*, that it has taken the place of that one."""
    names = tuple(f"whatsapp:1550:{name}" for name in (user, number) if name)
    told: dict[str, Any] = {"id": f"{at}", "content": "", "at": at}
    return Received(conversation=names[0], account="1550", to=number, names=names, former=former, **told)


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


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([], id="nothing"),
        pytest.param([said("4918", 21.0, user="DE.1")], id="who is known by a user id since"),
        pytest.param(
            [said("4918", 21.0, user="DE.1"), said("4918", 22.0, user="DE.2")],
            id="whose new number is another's by now",
        ),
    ],
)
@pytest.mark.parametrize("comes", [said("4917", 30.0), said("4917", 30.0, "whatsapp:1550:4919")])
async def test_whoever_has_a_number_next_is_not_who_gave_it_up(
    opened: Any, before: list[Received], comes: Received
) -> None:
    """Whatever is known since of the first customer, whose conversation is called by the number; also somebody who says that another
    number was theirs."""
    keep = await opened()
    names = Aliases(core_of(keep))
    found = [await names.conversation_of("", item) for item in (said("4917", 10.0), said("4918", 20.0, ADA), *before)]
    another = await names.conversation_of("", comes)

    assert [ADA, ADA] == found[:2]
    assert another not in found
    assert "4917" == await names.address_of("", another)
