"""What is written can be read again: a state that could not is refused where it is made, and one that cannot be is cleared."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec
import pydantic
import pytest

from chatkeep import BadMessage, Corrupt, HandlerFailed, TooLarge, Turn, UsageError
from chatkeep.conversation.state import StateCodec
from chatkeep.drivers.base import Key

from ..support.waiting import until


@dataclass
class Order:
    """A dataclass."""

    seats: int = 1
    name: str = ""
    cart: list[str] = field(default_factory=list)


class Packed(msgspec.Struct):
    """A Struct."""

    seats: int = 1
    name: str = ""
    cart: list[str] = []


class Model(pydantic.BaseModel):
    """A pydantic model, whose members have other names outside."""

    seats: int = pydantic.Field(1, ge=0, alias="seatCount")
    name: str = ""
    cart: list[str] = []


class Loose(pydantic.BaseModel):
    """What older code took for a state: anything goes, so it is stored as it is."""

    seats: Any = 1
    name: str = ""
    cart: Any = []


KINDS = [Order, Packed, Model]


async def seating(turn: Turn[Any]) -> str:
    """Says how many seats there are; "bad" spoils them."""
    if turn.text == "bad":
        turn.state.seats = "two"
    elif turn.text.isdecimal():
        turn.state.seats = int(turn.text)
    return f"{turn.state.seats} seats"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quick", ["0ms", "50ms"])
async def test_a_turn_that_makes_an_unreadable_state_fails_and_the_state_before_stands(
    opened: Any, kind: Any, quick: str
) -> None:
    """On both ways: the message is set aside with the member named, and the conversation goes on."""
    keep = await opened(seating, state=kind, attempts=1, quick=quick)
    assert "4 seats" == (await keep.receive("ada", "4")).replies[0].text
    with pytest.raises(HandlerFailed, match=r"state\.seats.*Nothing was stored"):
        await keep.receive("ada", "bad", id="m")

    assert "4 seats" == (await keep.receive("ada", "still?")).replies[0].text
    assert ["m"] == [message.id for message in await keep.dead_letters("ada")]
    assert 4 == (await keep.conversation("ada")).state.seats


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_that_makes_an_unreadable_state_is_refused(opened: Any, kind: Any) -> None:
    """By an error of chatkeep's own, and nothing is written."""
    keep = await opened(seating, state=kind)
    await keep.receive("ada", "4")
    before = await keep.conversation("ada")
    for value in ("two", None, object(), Decimal("2.5")):
        with pytest.raises(BadMessage, match=r"ada: state\.seats.*Nothing was stored"):
            await keep.change("ada", lambda state, value=value: setattr(state, "seats", value))

    assert before == await keep.conversation("ada")


@pytest.mark.slow
async def test_a_rebuilt_state_that_could_not_be_read_is_the_hooks_fault(opened: Any) -> None:
    """The message waits, and is not blamed."""

    async def rebuild(turn: Turn[Any]) -> Any:
        return Order(seats="two")  # type: ignore[arg-type]

    keep = await opened(seating, state=Order, on_missing=rebuild)
    with pytest.raises(HandlerFailed, match=r"on_missing.*state\.seats"):
        await keep.receive("ada", "hi")

    assert 1 == (await keep.conversation("ada")).unread


async def test_what_is_no_json_is_refused_wherever_it_would_be_stored(opened: Any) -> None:
    """Parts, metadata and the data of reminders: each would be something else when it is read."""
    price = {"price": Decimal("9.90")}

    async def bot(turn: Turn[Any]) -> Any:
        match turn.text:
            case "part":
                return {"type": "offer", **price}
            case "reminder":
                turn.remind("1h", "later", price)
        return "ok"

    keep = await opened(bot, attempts=1)
    for way, named in {
        "part": r"content\[0\]\.price is a Decimal",
        "reminder": r"the data of reminder 'later'\.price is a Decimal",
    }.items():
        with pytest.raises(HandlerFailed, match=named):
            await keep.receive("ada", way)
    for content, metadata in (([price], None), ("hi", price), ([{"bytes": b"x"}], None), ([{"pair": (1, 2)}], None)):
        with pytest.raises(BadMessage, match=r"ada: (content|metadata).* is a .*othing was touched"):
            await keep.receive("ada", content, metadata=metadata)

    assert "ok" == (await keep.receive("ada", "hi")).replies[0].text


async def test_a_reminder_that_could_not_become_a_message_is_refused_when_it_is_set(opened: Any) -> None:
    """Too long for a message, or too deep: it would stand in the way of its conversation when its time has come."""
    deep: Any = 1
    for _ in range(64):
        deep = [deep]

    async def bot(turn: Turn[Any]) -> str:
        if turn.reminder:
            return f"{turn.reminder}: {len(turn.message.content[0]['data'])}"  # type: ignore[arg-type,index]
        turn.remind(0.0, "now", {"long": "x" * 600, "deep": deep, "fits": "x" * 300}[turn.text])
        return "set"

    keep = await opened(bot, attempts=1, message_limit=512)
    with pytest.raises(HandlerFailed, match=r"TooLarge.*448"):
        await keep.receive("ada", "long")
    with pytest.raises(HandlerFailed, match="levels of nesting"):
        await keep.receive("ada", "deep")
    await keep.receive("ada", "fits")

    async def rung() -> bool:
        return "now: 300" in [message.text async for message in keep.history("ada")]

    await until(rung)
    assert issubclass(TooLarge, UsageError)


async def spoiled(opened: Any, kind: Any) -> Any:
    """An open Chatkeep of *kind*, on a store where older code has left what it cannot read: a seat, or seat and cart."""
    keep = await opened(None, state=Loose)
    for name, change in {"ada": {"seats": "two"}, "bob": {"seats": "two", "cart": 5}}.items():
        await keep.change(name, lambda state, change=change: Loose(name=name, **change))
        await keep.accept(name, "hello?", role="operator")
    await keep.close()
    return await opened(seating, state=kind, retry_after="1ms")


@pytest.mark.parametrize("kind", KINDS)
async def test_what_cannot_be_read_is_cleared_and_goes_on(opened: Any, kind: Any) -> None:
    """All of it, or the slot that is wrong; the log stays."""
    keep = await spoiled(opened, kind)
    with pytest.raises(Corrupt, match=r"ada.*clear the state or the member"):
        await keep.conversation("ada")
    with pytest.raises(Corrupt, match="ada"):
        await keep.change("ada", lambda state: None)
    found = await keep.clear("ada", "seats")

    assert (1, "ada", "") == (found.state.seats, found.state.name, found.fault)
    assert "1 seats" == (await keep.receive("ada", "hi")).replies[0].text
    half = await keep.clear("bob", "seats")
    assert (None, True) == (half.state, "cart" in half.fault)
    whole = await keep.clear("bob")
    assert (1, "", []) == (whole.state.seats, whole.state.name, whole.state.cart)
    assert "1 seats" == (await keep.receive("bob", "hi")).replies[0].text
    assert "hello?" in [message.text async for message in keep.history("bob")]


async def test_a_message_that_waits_behind_an_unreadable_state_is_answered_when_that_is_cleared(opened: Any) -> None:
    """The caller is told that it cannot be read; the message is kept, and answered afterwards."""
    keep = await spoiled(opened, Order)
    with pytest.raises(Corrupt, match="ada"):
        await keep.receive("ada", "7", id="m")
    await keep.clear("ada")

    assert "7 seats" == (await keep.receive("ada", "7", id="m")).replies[0].text


async def test_forgetting_is_done_once_and_on_top_of_others(opened: Any) -> None:
    """With an id; twenty at once among changes leave nothing else changed."""
    keep = await opened(seating, state=Order)
    await keep.change("ada", lambda state: Order(seats=5, name="ada"))
    await keep.clear("ada", "seats", id="f1")
    await keep.change("ada", lambda state: setattr(state, "seats", 6))
    again = await keep.clear("ada", "seats", id="f1")
    more = [keep.change("ada", lambda state, n=n: state.cart.append(str(n))) for n in range(10)]
    await asyncio.gather(*more, *(keep.clear("ada", "name") for _ in range(10)))
    found = (await keep.conversation("ada")).state

    assert 6 == again.state.seats
    assert (6, "", 10) == (found.seats, found.name, len(found.cart))


async def test_who_only_looks_may_clear(opened: Any) -> None:
    """A viewer knows no fresh state: without one the session is over, and the next message begins another."""
    keep = await opened(seating, state=Order, schema=3, upgrades={1: dict, 2: dict})
    await keep.receive("ada", "4")
    viewer = await opened(None, schema=0)
    await viewer.clear("ada", "seats")
    assert 1 == (await keep.conversation("ada")).state.seats
    await keep.receive("ada", "5")
    before = await keep.conversation("ada")
    await viewer.clear("ada")
    await viewer.clear("nobody")
    after = await keep.receive("ada", "hi")

    assert "1 seats" == after.replies[0].text
    assert before.session + 1 == (await keep.conversation("ada")).session
    assert "1 seats" == (await keep.receive("nobody", "hi")).replies[0].text


@pytest.mark.parametrize("kind", [None, Order, Packed, Model, Loose])
@pytest.mark.parametrize("number", [2**53, -(2**53), 2**62 + 1])
async def test_a_number_that_a_browser_would_change_is_refused(opened: Any, kind: Any, number: int) -> None:
    """In a state, wherever it is set; 2**53 - 1 is kept."""

    def made(seats: int) -> Any:
        state = kind()
        state.seats = seats
        return state

    async def bot(turn: Turn[Any]) -> Any:
        if kind is None:
            turn.state["seats"] = int(turn.text)
        else:
            turn.state.seats = int(turn.text)
        return "ok"

    keep = await opened(bot, attempts=1, **({"state": kind} if kind else {}))
    for edge in (2**53 - 1, 1 - 2**53):
        if edge > 0 or kind is not Model:  # (which takes none below zero)
            assert "ok" == (await keep.receive("ada", str(edge))).replies[0].text
    before = (await keep.conversation("ada")).state
    with pytest.raises(HandlerFailed, match="keep it as text"):
        await keep.receive("ada", str(number))
    with pytest.raises(BadMessage, match="keep it as text"):
        await keep.change("ada", lambda state: state.update(seats=number) if kind is None else made(number))

    assert before == (await keep.conversation("ada")).state


async def test_such_a_number_is_refused_in_messages_and_reminders_and_text_in_a_reply(opened: Any) -> None:
    """What people see is refused; the result of a step is seen by nobody, and was done already."""
    taken = []

    async def bot(turn: Turn[Any]) -> Any:
        if turn.text == "reply":
            return [{"type": "card", "id": 2**53}]
        if turn.text == "remind":
            turn.remind("1h", "later", {"id": [2**53]})
        taken.append(await turn.step("pay", lambda: {"id": 2**62 + 1}))
        return "ok"

    keep = await opened(bot, attempts=1)
    for content, metadata in (([{"type": "card", "id": 2**53}], None), ("hi", {"id": 2**53})):
        with pytest.raises(BadMessage, match="keep it as text"):
            await keep.receive("ada", content, metadata=metadata)
    with pytest.raises(HandlerFailed, match="keep it as text"):
        await keep.receive("ada", "remind")
    receipt = await keep.receive("ada", "reply")  # a reply is repaired: the user is not left without it
    await keep.receive("ada", "step")

    assert [{"type": "card", "id": f"{2**53}"}] == receipt.replies[0].content
    assert [{"id": 2**62 + 1}] == taken


def test_numbers_that_are_stored_already_stand_until_they_are_changed() -> None:
    """An older version took them: nothing that comes afterwards is refused for their sake."""
    key, old = Key("", "ada"), msgspec.Raw(b'{"seats":1152921504606846977,"cart":[1e17]}')
    for kind in (dict, Loose):
        states: StateCodec[Any] = StateCodec(kind, limit=1000)
        state, before = states.take_apart(key, old, 1)
        changed = state | {"name": "ada"} if kind is dict else state.model_copy(update={"name": "ada"})

        assert b"1152921504606846977" in bytes(states.encode(key, changed, before))
        with pytest.raises(BadMessage, match="keep it as text"):
            states.encode(key, kind(seats=2**60 + 2), before)
        upgraded: StateCodec[Any] = StateCodec(kind, schema=2, upgrades={1: dict}, limit=1000)
        state, before = upgraded.take_apart(key, old, 1)

        assert 2**60 + 1 == msgspec.json.decode(upgraded.encode(key, state, before))["seats"]


class Checked(pydantic.BaseModel):
    """A model that looks at what is assigned, and takes bytes."""

    model_config = pydantic.ConfigDict(validate_assignment=True)

    seats: int = 1
    photo: bytes = b""


EDITS = {
    "assigned": (lambda state: setattr(state, "seats", "two"), r"ada: state\.seats cannot be read"),
    "made": (lambda state: Checked(seats="two"), r"ada: state\.seats cannot be read"),  # type: ignore[arg-type]
    "bytes": (lambda state: setattr(state, "photo", b"\xff\x00"), r"ada: state\.photo cannot be written"),
}


@pytest.mark.parametrize("case", EDITS)
async def test_a_change_speaks_of_the_member_and_not_in_words_of_pydantic(opened: Any, case: str) -> None:
    """The same error as for any other type; what else an edit raises comes through."""
    keep = await opened(state=Checked)
    edit, said = EDITS[case]
    with pytest.raises(BadMessage, match=said + ".*Nothing was stored"):
        await keep.change("ada", edit)
    with pytest.raises(ValueError, match="invalid literal"):
        await keep.change("ada", lambda state: setattr(state, "seats", int("two")))
