"""Members that a newer version has put into a state stay when an older one writes the state, wherever they still belong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from msgspec import Raw, Struct, structs

from chatkeep.conversation.state import StateCodec
from chatkeep.drivers.base import Key

ADA = Key("", "ada")


@dataclass
class Line:
    """An item of an order."""

    name: str = ""
    count: int = 1


@dataclass
class Order:
    """A dataclass."""

    note: str = ""
    to: Line | None = None
    lines: list[Line] = field(default_factory=list)
    shelf: dict[str, Line] = field(default_factory=dict)


class LineS(Struct, omit_defaults=True, rename="camel"):
    """An item of an order, as a Struct."""

    name: str = ""
    count: int = 1


class OrderS(Struct):
    """A Struct."""

    note: str = ""
    to: LineS | None = None
    lines: list[LineS] = []
    shelf: dict[str, LineS] = {}


class LineP(pydantic.BaseModel):
    """An item of an order, as a pydantic model with an alias."""

    model_config = pydantic.ConfigDict(populate_by_name=True)
    name: str = ""
    count: int = pydantic.Field(1, alias="howMany")


class OrderP(pydantic.BaseModel):
    """A pydantic model."""

    note: str = ""
    to: LineP | None = None
    lines: list[LineP] = []
    shelf: dict[str, LineP] = {}


class Cash(Struct, tag=True):
    """Paid in cash."""

    given: int = 0


class Card(Struct, tag=True):
    """Paid by card."""

    last: str = ""


class Point(Struct, array_like=True):
    """Stored as an array."""

    x: int = 0
    y: int = 0


class Name(TypedDict):
    """A dict whose keys are known."""

    first: str


class Shop(Struct):
    """A state of many structures."""

    at: Point = msgspec.field(default_factory=Point)
    paid: Cash | Card | None = None
    name: Name | None = None
    pair: tuple[Line, Line] | None = None


class Marked(Struct):
    """What is known by an id, as a Struct."""

    id: str = ""


class Spot(Struct, array_like=True):
    """An array with an object in it."""

    product: Marked = msgspec.field(default_factory=Marked)
    note: str = ""


@dataclass
class Product:
    """What is known by an id."""

    id: str = ""
    count: int = 1


@dataclass
class Cart:
    """Products in each kind of place."""

    chosen: Product | None = None
    lines: list[Product] = field(default_factory=list)
    shelf: dict[str, Product] = field(default_factory=dict)


KINDS: list[tuple[Any, Any]] = [(Order, Line), (OrderS, LineS), (OrderP, LineP)]

THERE = {
    "note": "hi",
    "paid": True,
    "to": {"name": "ada", "count": 2, "zip": "8001"},
    "lines": [
        {"name": "tea", "count": 2, "size": "L"},
        {"name": "cake", "count": 2},
        {"name": "pie", "count": 3, "size": "S", "with": {"cream": [1, {"x": None}]}},
    ],
    "shelf": {"a": {"name": "jam", "count": 2, "best": 7}, "b": {"name": "jam", "count": 2}},
}


def rewritten(kind: Any, there: Any, change: Callable[[Any], Any]) -> Any:
    """What stands there when code that knows the members of *kind* has read it, made a change, and written it."""
    states: StateCodec[Any] = StateCodec(kind, limit=100_000)
    state, before = states.take_apart(ADA, Raw(msgspec.json.encode(there)), 1)
    given = change(state)
    state = state if given is None else given
    raw = states.encode(ADA, state, before)

    assert state == states.decode(ADA, raw, 1)
    return msgspec.json.decode(raw)


def nothing(state: Any) -> None:
    """No change."""


@pytest.mark.parametrize(("kind", "line"), KINDS)
def test_members_stay_at_every_depth(kind: Any, line: Any) -> None:
    """In the state, in a member, in the items of a list, and under the keys of a dict."""

    def change(state: Any) -> None:
        state.note = "changed"
        state.to.count = 5
        state.lines[0].count = 4
        state.shelf["a"].name = "honey"

    assert THERE == rewritten(kind, THERE, nothing)

    changed = rewritten(kind, THERE, change)

    assert ("changed", True) == (changed["note"], changed["paid"])
    assert {"name": "ada", "count": 5, "zip": "8001"} == changed["to"]
    assert {"name": "tea", "count": 4, "size": "L"} == changed["lines"][0]
    assert THERE["lines"][1:] == changed["lines"][1:]  # type: ignore[index]
    assert {"name": "honey", "count": 2, "best": 7} == changed["shelf"]["a"]


@pytest.mark.parametrize(("kind", "line"), KINDS)
def test_items_of_a_list_are_followed(kind: Any, line: Any) -> None:
    """Whatever is done with the list; and what is taken out of it goes with all it had."""

    def sizes(change: Callable[[Any], Any]) -> list[tuple[str, Any]]:
        return [(one["name"], one.get("size")) for one in rewritten(kind, THERE, change)["lines"]]

    def rebuilt(state: Any) -> None:
        state.lines = [line(name="new")] + [line(name=one.name, count=one.count) for one in reversed(state.lines)]

    def in_place(state: Any) -> None:
        state.lines[0] = line(name="chai")

    def changed_beside_a_new_one(state: Any) -> None:
        state.lines[0].name = "chai"
        state.lines.insert(0, line(name="new"))

    assert [("cake", None), ("pie", "S")] == sizes(lambda state: state.lines.pop(0) and None)
    assert [("pie", "S"), ("cake", None), ("tea", "L")] == sizes(lambda state: state.lines.reverse())
    assert [("new", None), ("chai", "L"), ("cake", None), ("pie", "S")] == sizes(changed_beside_a_new_one)
    assert [("new", None), ("pie", "S"), ("cake", None), ("tea", "L")] == sizes(rebuilt)
    assert [("chai", "L"), ("cake", None), ("pie", "S")] == sizes(in_place)
    assert [] == sizes(lambda state: state.lines.clear())


def test_an_item_without_what_a_removed_equal_one_had_does_not_inherit_it() -> None:
    """Two lines say the same to this version; the one with the member goes."""
    there = {"lines": [{"name": "tea", "count": 2, "size": "L"}, {"name": "tea", "count": 2}]}

    assert [{"name": "tea", "count": 2}] == rewritten(Order, there, lambda state: state.lines.pop(0) and None)["lines"]


def test_a_list_that_cannot_be_followed_keeps_nothing_that_may_be_anothers() -> None:
    """All items are new objects with other values, and one more than there were."""

    def change(state: Order) -> None:
        state.lines = [Line("a"), Line("b"), Line("c"), Line("d")]

    assert [{"name": name, "count": 1} for name in "abcd"] == rewritten(Order, THERE, change)["lines"]


def test_what_stands_in_the_place_of_another_does_not_inherit_from_it() -> None:
    """The chosen product is another one now, and has another id: the price of the one before is not its price."""

    def priced() -> dict[str, Any]:
        return {"id": "tea", "count": 1, "price": 990}

    there = {"chosen": priced(), "lines": [priced()], "shelf": {"top": priced()}}
    product = {"tea": {"id": "tea", "count": 2, "price": 990}, "pie": {"id": "pie", "count": 2}}

    def change(id: str) -> Callable[[Cart], None]:
        def put(state: Cart) -> None:
            state.chosen, state.lines[0], state.shelf["top"] = Product(id, 2), Product(id, 2), Product(id, 2)

        return put

    def rename(state: Cart) -> None:
        assert state.chosen is not None
        state.chosen.id = state.lines[0].id = state.shelf["top"].id = "green tea"

    for id, written in product.items():
        after = {"chosen": written, "lines": [written], "shelf": {"top": written}}
        assert after == rewritten(Cart, there, change(id)), id
    renamed = priced() | {"id": "green tea"}
    assert {"chosen": renamed, "lines": [renamed], "shelf": {"top": renamed}} == rewritten(Cart, there, rename)


@pytest.mark.parametrize(("kind", "line"), KINDS)
def test_what_is_gone_takes_its_members_along(kind: Any, line: Any) -> None:
    """A member that is None now, and a key that was taken out."""

    def change(state: Any) -> None:
        state.to = None
        del state.shelf["a"]

    changed = rewritten(kind, THERE, change)

    assert changed["to"] is None
    assert {"b": {"name": "jam", "count": 2}} == changed["shelf"]


def test_a_state_that_is_replaced_goes_on() -> None:
    """As code does that copies with changes, and as a frozen type needs it."""

    class Frozen(Struct, frozen=True):
        seats: int = 1

    there = {"seats": 4, "paid": True}

    assert {**THERE, "note": "x"} == rewritten(Order, THERE, lambda state: replace(state, note="x"))
    assert {"seats": 1, "paid": True} == rewritten(Frozen, there, lambda state: structs.replace(state, seats=1))
    assert {"seats": 1, "paid": True} == rewritten(Frozen, there, lambda state: Frozen())
    copied = rewritten(OrderP, THERE, lambda state: state.model_copy(update={"note": "x"}))
    assert {**THERE, "note": "x"} == copied


def test_members_that_the_type_keeps_itself_are_its_own() -> None:
    """A model that allows more, and a plain dict inside, keep them; and what is taken out of them stays out."""

    class Open(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")
        seats: int = 1
        more: dict[str, Any] = {}

    def change(state: Any) -> None:
        del state.__pydantic_extra__["paid"]
        del state.more["a"]

    there = {"seats": 2, "paid": True, "gift": 1, "more": {"a": 1, "b": {"c": 2}}}

    assert {"seats": 2, "gift": 1, "more": {"b": {"c": 2}}} == rewritten(Open, there, change)


def test_keys_that_are_written_in_another_way_do_not_come_back() -> None:
    """A key that is no text has one form in JSON here, and may have had another."""

    @dataclass
    class Shelf:
        by_id: dict[UUID, Line] = field(default_factory=dict)

    name = "ABCDEF00-0000-0000-0000-000000000001"
    there = {"by_id": {name: {"name": "tea", "count": 1, "size": "L"}}, "paid": 1}

    assert {"by_id": {}, "paid": 1} == rewritten(Shelf, there, lambda state: state.by_id.clear())


def test_members_of_other_structures() -> None:
    """Arrays of a fixed order, typed dicts, tuples, and one of several types."""

    there = {
        "at": [1, 2, "home", {"z": 3}],
        "paid": {"type": "Card", "last": "4242", "expires": "12/31"},
        "name": {"first": "Ada", "last": "L."},
        "pair": [{"name": "a", "count": 1, "k": 1}, {"name": "b", "count": 1, "k": 2}],
    }

    def change(state: Shop) -> None:
        state.at.x = 7
        state.paid.last = "1111"  # type: ignore[union-attr]
        state.pair[1].count = 9  # type: ignore[index]

    changed = rewritten(Shop, there, change)

    assert [7, 2, "home", {"z": 3}] == changed["at"]
    assert {"type": "Card", "last": "1111", "expires": "12/31"} == changed["paid"]
    assert there["name"] == changed["name"]
    assert [{"name": "a", "count": 1, "k": 1}, {"name": "b", "count": 9, "k": 2}] == changed["pair"]

    def other_type(state: Shop) -> None:
        state.paid = Cash(5)

    assert {"type": "Cash", "given": 5} == rewritten(Shop, there, other_type)["paid"]


def test_a_type_that_reads_older_names_gets_the_value_that_was_written() -> None:
    """What would turn the state into another one when it is read again is not kept."""

    class Person(pydantic.BaseModel):
        first: str = ""

        @pydantic.model_validator(mode="before")
        @classmethod
        def take_old_name(cls, data: Any) -> Any:
            if isinstance(data, dict) and "name" in data:
                return {**data, "first": data["name"]}
            return data

    def change(state: Person) -> None:
        state.first = "Eve"

    assert {"first": "Eve"} == rewritten(Person, {"name": "Ada"}, change)


def test_an_upgraded_state_is_what_the_upgrade_made_of_it() -> None:
    """What the upgrade leaves out goes: this is how a member that nobody needs any more is removed."""
    states: StateCodec[Any] = StateCodec(
        Order, schema=2, upgrades={1: lambda plain: {**plain, "note": "up"}}, limit=10_000
    )
    state, before = states.take_apart(ADA, Raw(b'{"note":"hi","old":1}'), 1)

    assert ("up", None) == (state.note, before.carried)


def test_a_slot_is_cleared_and_the_rest_stays() -> None:
    """Clearing takes a slot with all that is in it, and all of the state with all."""
    states: StateCodec[Any] = StateCodec(Order, limit=10_000)
    raw = Raw(msgspec.json.encode(THERE))

    left, _ = states.cleared(ADA, raw, 1, "to")
    assert {name: value for name, value in THERE.items() if name != "to"} == msgspec.json.decode(left)
    assert states.fresh() == states.cleared(ADA, raw, 1, None)[0]


def test_what_is_in_an_array_is_followed_by_its_place() -> None:
    """An object there keeps its members while it is the same object, whatever its id is, and inherits none of another's; what stands
    behind the members that are known stays too."""

    def renamed(state: Spot) -> None:
        state.product.id = "b"

    def replaced(state: Spot) -> None:
        state.product = Marked("b")

    there = [{"id": "a", "size": "L"}, "here", "newer"]

    assert there == rewritten(Spot, there, nothing)
    assert [{"id": "b", "size": "L"}, "here", "newer"] == rewritten(Spot, there, renamed)
    assert [{"id": "b"}, "here", "newer"] == rewritten(Spot, there, replaced)
