"""Old code beside new code on one store: nothing that the newer one has written is lost, and nobody waits for the older one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pydantic
import pytest

from chatkeep import Turn

from ..support.clock import Clock
from ..support.waiting import until


@dataclass
class Order:
    """The state of the older version."""

    cart: list[str] = field(default_factory=list)
    note: str = ""


@dataclass
class NewOrder(Order):
    """That of the newer one."""

    address: str = ""


class Packed(msgspec.Struct):
    """The state of the older version."""

    cart: list[str] = []
    note: str = ""


class NewPacked(Packed):
    """That of the newer one."""

    address: str = ""


class Model(pydantic.BaseModel):
    """The state of the older version."""

    cart: list[str] = []
    note: str = ""


class NewModel(Model):
    """That of the newer one."""

    address: str = ""


KINDS: list[tuple[Any, Any]] = [(Order, NewOrder), (Packed, NewPacked), (Model, NewModel)]


async def shop(turn: Turn[Any]) -> str:
    """Notes an address where the state has one, and what is said; "again" begins anew, "later" sets a reminder."""
    if turn.text.startswith("to "):
        turn.state.address = turn.text[3:]
    elif turn.text == "again":
        turn.state = type(turn.state)()
    elif turn.text == "later":
        turn.remind("1h", "later")
    else:
        turn.state.cart.append(turn.reminder or turn.text)
    return "ok"


@pytest.mark.parametrize(("kind", "newer"), KINDS)
@pytest.mark.parametrize("quick", ["0ms", "50ms"])
async def test_what_newer_code_has_added_to_the_state_survives_older_code(
    opened: Any, kind: Any, newer: Any, quick: str
) -> None:
    """Whatever the older code does: it answers on both ways, changes, clears a slot, fires a reminder, drops old log."""
    clock = Clock()
    new = await opened(shop, state=newer, clock=clock)
    await new.receive("ada", "to 5 High Street")
    await new.close()
    old = await opened(shop, state=kind, clock=clock, retention="2h", quick=quick)
    await old.receive("ada", "tea")
    await old.receive("ada", "later")

    def noted(state: Any) -> None:
        state.note = "soon"

    await old.change("ada", noted)
    clock.now += 3700

    async def reminded() -> bool:
        return "later" in (await old.conversation("ada")).state.cart

    await until(reminded)
    await old.clear("ada", "note")
    await old.pause("ada")
    await old.resume("ada")
    clock.now += 7300

    async def dropped() -> bool:
        return [] == (await old.conversation("ada")).messages

    await until(dropped)
    found = await (await opened(shop, state=newer, clock=clock)).conversation("ada")

    assert newer(cart=["tea", "later"], note="", address="5 High Street") == found.state


@pytest.mark.parametrize(("kind", "newer"), KINDS)
async def test_what_is_cleared_is_cleared_with_what_only_newer_code_knows(opened: Any, kind: Any, newer: Any) -> None:
    """Cleared from outside, by a handler that begins anew, and by the end of the session."""
    clock = Clock()
    new = await opened(shop, state=newer, clock=clock)
    old = await opened(shop, state=kind, clock=clock)
    brief = await opened(shop, state=kind, clock=clock, session_ttl="1h")
    for name in ("ada", "bob", "cyd"):
        await new.receive(name, f"to {name}")
        await old.receive(name, "tea")
    await old.clear("ada")
    await old.receive("bob", "again")
    clock.now += 3700
    await brief.receive("cyd", "cake")

    assert ["", "", ""] == [(await new.conversation(name)).state.address for name in ("ada", "bob", "cyd")]
