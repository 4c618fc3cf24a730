"""States of every kind: what is put in comes back equal, or is refused with the member named."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import math
import threading
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import pydantic
import pytest
from msgspec import Struct
from pydantic import AliasPath, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, computed_field
from pydantic.alias_generators import to_camel

from chatkeep import BadMessage, Corrupt, Misconfigured, Unsupported, UsageError
from chatkeep.conversation.codec import json_of
from chatkeep.conversation.state import StateCodec
from chatkeep.drivers.base import Key

ADA = Key("", "ada")
NOON = dt.datetime(2031, 5, 6, 12, tzinfo=dt.UTC)
T = TypeVar("T")


class Stage(enum.Enum):
    """A member that JSON keeps as text."""

    MENU = "menu"
    CART = "cart"


class Level(enum.IntEnum):
    """A number with a name."""

    LOW = 1


class Word(enum.StrEnum):
    """Text with a name."""

    TEA = "tea"


Pair = namedtuple("Pair", "a b")


# -- dict ----------------------------------------------------------------------------------------------------------------

KEPT: dict[str, Any] = {
    "text": "é\u2028😀",
    "backslashes": "\\u0000 \\",
    "digits": "1" * 40,
    "numbers": [0, -1, 2**53 - 1, 1 - 2**53, 0.1 + 0.2, -0.0, 1e300, True, None],
    "nested": {"a": [{"b": {"c": [[{"d": [1, None, 1.5]}]]}}]},
}

REFUSED: dict[str, tuple[Any, str]] = {
    "Decimal": ([{"price": Decimal("9.90")}], r"state\.x\[0\]\.price is a Decimal"),
    "whole Decimal": (Decimal("1"), r"state\.x is a Decimal"),
    "datetime": (NOON, "datetime"),
    "date": (NOON.date(), "date"),
    "timedelta": (dt.timedelta(1), "timedelta"),
    "UUID": (uuid.UUID(int=5), "UUID"),
    "bytes": (b"\xff", "bytes"),
    "bytearray": (bytearray(b"a"), "bytearray"),
    "set": ({1}, "set"),
    "frozenset": (frozenset({1}), "frozenset"),
    "tuple": ((1, 2), "tuple"),
    "empty tuple": ((), "tuple"),
    "named tuple": (Pair(1, 2), "Pair"),
    "Enum": (Stage.MENU, "Stage"),
    "IntEnum": (Level.LOW, "Level"),
    "StrEnum": (Word.TEA, "Word"),
    "StrEnum as a key": ({Word.TEA: 1}, "no text"),
    "number as a key": ({1: "a"}, r"state\.x has the key 1"),
    "OrderedDict": (OrderedDict(a=1), "OrderedDict"),
    "defaultdict": (defaultdict(list), "defaultdict"),
    "Counter": (Counter("a"), "Counter"),
    "deque": (deque([1]), "deque"),
    "Raw": (msgspec.Raw(b"[1]"), "Raw"),
    "NaN": (math.nan, "nan"),
    "infinity": ([None, -math.inf], r"state\.x\[1\] is the number -inf"),
    "2**53": (2**53, r"state\.x is 9,007,199,254,740,992 .*keep it as text"),
    "2**63": (2**63, "64 bits"),
    "2**70": ({"a": -(2**70)}, r"state\.x\.a is a number of more than 64 bits"),
    "NUL": ("a\0b", "NUL"),
    "NUL in a key": ({"a\0": 1}, "NUL"),
    "half a character": ("\ud800", "surrogate"),
    "object": (object(), "object"),
    "deep below": ({"a": {"b": {"c": {"d": {"e": {"f": (1,)}}}}}}, r"state\.x\.a\.b\.c\.d\.e\.f is a tuple"),
}


@pytest.mark.parametrize("value", KEPT.values(), ids=KEPT)
def test_a_dict_state_keeps_what_json_has(value: Any) -> None:
    """Equal and of the same types."""
    states: StateCodec[Any] = StateCodec(dict, limit=10**6)

    assert repr({"x": value}) == repr(states.decode(ADA, states.encode(ADA, {"x": value}), 1))


@pytest.mark.parametrize(("value", "said"), REFUSED.values(), ids=REFUSED)
def test_a_dict_state_refuses_what_json_has_not(value: Any, said: str) -> None:
    """With the member and the way out; messages, results of steps and reminders do the same."""
    with pytest.raises(BadMessage, match=rf"ada: .*{said}.*Nothing was stored\..*typed state"):
        StateCodec(dict, limit=10**6).encode(ADA, {"x": value})
    with pytest.raises(BadMessage, match=r"the result.*Nothing was touched"):
        json_of(ADA, {"x": value}, "the result of step 'pay'")


class Basket(Struct):
    """A typed state with something in it that can be changed."""

    cart: list[dict[str, str]] = []
    note: str = ""


@pytest.mark.parametrize("kind", [dict, Basket])
def test_a_state_is_read_as_it_was_written_also_where_it_is_not_read_again(kind: Any) -> None:
    """What was read when it was checked is given out once, and is nobody else's: neither the writer's, nor the next one's."""
    states: StateCodec[Any] = StateCodec(kind, limit=10**6, kept=2)
    state = kind(cart=[{"sku": "a"}], note="n")
    raw = states.encode(ADA, state)
    (first, before), (second, _) = states.take_apart(ADA, raw, 1), states.take_apart(ADA, raw, 1)

    assert [state, state, type(state)] == [first, second, type(first)]
    cart = first["cart"] if kind is dict else first.cart
    cart[0]["sku"] = "b"
    assert [state, second] == [kind(cart=[{"sku": "a"}], note="n")] * 2
    later = states.encode(ADA, first, before)
    assert state == states.take_apart(ADA, raw, 1)[0]  # what is there is another state now, and was given to nobody
    assert first == states.take_apart(ADA, later, 1)[0]


def test_a_cycle_is_refused() -> None:
    """As too deep, which it is."""
    cycle: dict[str, Any] = {}
    cycle["again"] = [cycle]
    with pytest.raises(BadMessage, match="levels of nesting"):
        StateCodec(dict, limit=10**6).encode(ADA, cycle)


# -- typed states --------------------------------------------------------------------------------------------------------


@dataclass
class Thing:
    """In a member."""

    name: str = ""
    note: Any = None


@dataclass
class Special(Thing):
    """More than the member's type has."""

    more: int = 0


@dataclass(eq=False)
class Odd:
    """Without an equality."""

    value: int = 0


@dataclass
class Data:
    """A dataclass with a member of each sort."""

    seats: int = 1
    price: float = 0.0
    name: str = ""
    maybe: int | None = None
    either: int | str = 0
    at: dt.datetime | None = None
    amount: Decimal = Decimal(0)
    key: uuid.UUID | None = None
    blob: bytes = b""
    tags: set[str] = field(default_factory=set)
    pair: tuple[int, str] = (0, "")
    stage: Stage = Stage.MENU
    cart: list[Thing] = field(default_factory=list)
    by_number: dict[int, Thing] = field(default_factory=dict)
    thing: Thing = field(default_factory=Thing)
    odd: Odd = field(default_factory=Odd)
    anything: Any = None
    aside: Any = field(default=None, compare=False)
    made: int = field(init=False, default=5)
    _private: int = 0

    @cached_property
    def twice(self) -> int:
        """Derived, and not stored."""
        return self.seats * 2


class SThing(Struct):
    """In a member."""

    name: str = ""
    note: Any = None


class SSpecial(SThing):
    """More than the member's type has."""

    more: int = 0


class SOdd(Struct, eq=False):
    """Without an equality."""

    value: int = 0


class Packed(Struct, rename="camel", kw_only=True):
    """A Struct with a member of each sort."""

    seats: int = 1
    price: float = 0.0
    name: str = ""
    maybe: int | None = None
    either: int | str = 0
    at: dt.datetime | None = None
    amount: Decimal = Decimal(0)
    key: uuid.UUID | None = None
    blob: bytes = b""
    tags: set[str] = msgspec.field(default_factory=set)
    pair: tuple[int, str] = (0, "")
    stage: Stage = Stage.MENU
    cart: list[SThing] = []
    by_number: dict[int, SThing] = {}
    thing: SThing = msgspec.field(default_factory=SThing)
    odd: SOdd = msgspec.field(default_factory=SOdd)
    anything: Any = None
    _private: int = 0


class PThing(BaseModel):
    """In a member."""

    name: str = ""
    note: Any = None


class PSpecial(PThing):
    """More than the member's type has."""

    more: int = 0


class Model(BaseModel):
    """A pydantic model with a member of each sort, and an alias for each."""

    model_config = ConfigDict(alias_generator=to_camel)
    seats: int = Field(1, ge=0)
    price: float = 0.0
    name: str = ""
    maybe: int | None = None
    either: int | str = 0
    at: dt.datetime | None = None
    amount: Decimal = Decimal(0)
    key: uuid.UUID | None = None
    blob: bytes = b""
    tags: set[str] = set()
    pair: tuple[int, str] = (0, "")
    stage: Stage = Stage.MENU
    cart: list[PThing] = []
    by_number: dict[int, PThing] = {}
    thing: PThing = PThing()
    anything: Any = None
    other_way: str = Field("", validation_alias=AliasPath("a", 1), serialization_alias="b")
    secret: SecretStr = SecretStr("")
    hidden: int = Field(0, exclude=True)
    _private: int = PrivateAttr(0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @computed_field
    @property
    def total(self) -> int:
        """Derived, and not stored."""
        return self.seats * 2

    @computed_field
    @cached_property
    def twice(self) -> int:
        """The same, remembered."""
        return self.seats * 2


THINGS: dict[type, tuple[type, type]] = {Data: (Thing, Special), Packed: (SThing, SSpecial), Model: (PThing, PSpecial)}

SAME: dict[str, Any] = {
    "seats": 7,
    "price": 2,
    "name": "é\u2028😀\\u0000",
    "maybe": 3,
    "either": "x",
    "at": NOON,
    "amount": Decimal("9.90"),
    "key": uuid.UUID(int=5),
    "blob": b"abc",
    "tags": {"a", "b"},
    "pair": (1, "x"),
    "stage": Stage.CART,
    "anything": {"a": [1, None, "x"]},
    "other_way": "x",
}

OTHER: dict[str, tuple[str, Any]] = {
    "wrong type": ("seats", "two"),
    "text that looks like a number": ("seats", "2"),
    "None": ("name", None),
    "number for text": ("name", 5),
    "fraction": ("seats", 1.5),
    "NaN": ("price", math.nan),
    "infinity": ("price", math.inf),
    "2**70": ("seats", 2**70),
    "2**70 anywhere": ("anything", [2**70]),
    "NUL": ("name", "a\0"),
    "half a character": ("name", "\ud800"),
    "list of others": ("cart", [5]),
    "tuple in Any": ("anything", (1, 2)),
    "tuple deep in Any": ("anything", {"a": [(1,)]}),
    "datetime in Any": ("anything", NOON),
    "bytes in Any": ("anything", b"x"),
    "set in Any": ("anything", {1}),
    "number as key in Any": ("anything", {1: 2}),
    "object in Any": ("anything", object()),
    "function": ("anything", len),
    "list for a set": ("tags", ["a", "a"]),
    "list for a tuple": ("pair", [1, "x"]),
    "text for an Enum": ("stage", "menu"),
    "dict for a model": ("thing", {"name": "x"}),
    "private": ("_private", "x"),
}


def came_back(kind: Any, change: Callable[[Any], Any]) -> tuple[Any, Any]:
    """A state that was changed, and what came back. Raises `BadMessage`."""
    states: StateCodec[Any] = StateCodec(kind, limit=10**6)
    state = kind()
    state = change(state) or state
    return state, states.decode(ADA, states.encode(ADA, state), 1)


@pytest.mark.parametrize(
    ("kind", "member"), [(kind, name) for kind in THINGS for name in SAME if hasattr(kind(), name)]
)
def test_a_typed_state_keeps_what_its_type_declares(kind: Any, member: str) -> None:
    """Each sort of member comes back equal and of its type."""
    _, back = came_back(kind, lambda state: setattr(state, member, SAME[member]))

    assert SAME[member] == getattr(back, member)
    assert member == "price" or type(SAME[member]) is type(getattr(back, member))


@pytest.mark.parametrize("kind", THINGS)
def test_models_in_members_come_back(kind: Any) -> None:
    """In a member, a list, and a dict whose keys are numbers."""
    thing, _ = THINGS[kind]

    def change(state: Any) -> None:
        state.thing, state.cart, state.by_number = thing(name="a"), [thing(name="b", note=[1])], {7: thing(name="c")}

    state, back = came_back(kind, change)

    assert (state.thing, state.cart, state.by_number) == (back.thing, back.cart, back.by_number)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", THINGS)
@pytest.mark.parametrize(("member", "value"), OTHER.values(), ids=OTHER)
def test_a_typed_state_refuses_what_would_not_come_back(kind: Any, member: str, value: Any) -> None:
    """With the member named, and never stored as something else."""
    with pytest.raises(BadMessage, match=rf"ada: state\.{member}.*Nothing was stored\. Put a value there"):
        came_back(kind, lambda state: setattr(state, member, value))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", THINGS)
def test_an_instance_of_a_subclass_is_refused(kind: Any) -> None:
    """What the member's type does not have would be lost."""
    _, special = THINGS[kind]
    with pytest.raises(BadMessage, match=rf"state\.cart\[0\] is a {special.__name__}"):
        came_back(kind, lambda state: setattr(state, "cart", [special(name="x", more=1)]))


@pytest.mark.parametrize("kind", THINGS)
def test_a_deleted_member_is_refused(kind: Any) -> None:
    """It would be there again, as in a fresh state."""
    with pytest.raises(BadMessage, match=r"state\.tags was deleted|state .*'tags' is unset"):
        came_back(kind, lambda state: delattr(state, "tags"))


@pytest.mark.parametrize("kind", [Data, Packed])
def test_what_has_no_equality_is_compared_by_its_members(kind: Any) -> None:
    """It comes back, and what would not is found in it."""
    came_back(kind, lambda state: setattr(state.odd, "value", 3))
    with pytest.raises(BadMessage, match=r"state\.odd\.value"):
        came_back(kind, lambda state: setattr(state.odd, "value", "x"))


def test_an_undeclared_attribute_is_refused() -> None:
    """A misspelt member of a dataclass would be lost; also one in a list."""

    def misspelt(thing: Any) -> None:
        thing.nane = "x"

    with pytest.raises(BadMessage, match=r"state\.nane is no member of Data"):
        came_back(Data, misspelt)
    with pytest.raises(BadMessage, match=r"state\.cart\[1\]\.nane is no member of Thing"):
        came_back(Data, lambda state: state.cart.extend([Thing(), Thing()]) or misspelt(state.cart[1]))
    with pytest.raises(BadMessage, match=r"state\.aside is a tuple"):
        came_back(Data, lambda state: setattr(state, "aside", (1,)))


def test_what_is_derived_need_not_be_stored() -> None:
    """cached_property and computed fields."""
    for kind in (Data, Model):
        state, back = came_back(kind, lambda state: None if state.twice else state)

        assert (2, 2) == (state.twice, back.twice)


def test_what_pydantic_would_lose_is_refused() -> None:
    """Secrets, excluded and private members; each fresh one is fine, also with a lock in it."""
    for member, value in (("secret", SecretStr("x")), ("hidden", 5), ("_private", 5)):
        with pytest.raises(BadMessage, match=rf"state\.{member} would come back with another value"):
            came_back(Model, lambda state, member=member, value=value: setattr(state, member, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Replaced as a whole."""

    seats: int = 1
    tags: tuple[str, ...] = ()


class Box(Struct, Generic[T]):
    """Of something."""

    value: T | None = None


class PBox(BaseModel, Generic[T]):
    """Of something."""

    value: T | None = None


@dataclass
class DBox(Generic[T]):
    """Of something."""

    value: T | None = None


class Cat(BaseModel):
    """A pet."""

    kind: Literal["cat"] = Field("cat", alias="petKind")
    lives: int = 9


class Dog(BaseModel):
    """A pet."""

    kind: Literal["dog"] = Field("dog", alias="petKind")


class Home(BaseModel):
    """With one pet of two sorts."""

    pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()


class SCat(Struct, tag=True):
    """A pet."""

    lives: int = 9


class SDog(Struct, tag=True):
    """A pet."""

    age: int = 0


class SHome(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """With one pet of two sorts."""

    pet: SCat | SDog = msgspec.field(default_factory=SCat)


class Row(Struct, array_like=True):
    """Stored as an array."""

    seats: int = 1


class Loose(BaseModel):
    """Takes undeclared members."""

    model_config = ConfigDict(extra="allow")
    seats: int = 1


class Forbidding(BaseModel):
    """A computed member beside extra="forbid"."""

    model_config = ConfigDict(extra="forbid")
    cents: list[int] = []

    @computed_field
    @property
    def total(self) -> int:
        """Derived."""
        return sum(self.cents)


class JsonHolder(BaseModel):
    """A Json member, which is written as text."""

    config: pydantic.Json[list[int]] = []


@pydantic.dataclasses.dataclass
class PData:
    """A dataclass of pydantic's."""

    seats: int = 1


WHOLE: dict[str, tuple[Any, Any]] = {
    "frozen": (Frozen, Frozen(seats=2, tags=("a",))),
    "Struct of int": (Box[int], Box(5)),
    "Struct of things": (Box[SThing], Box(SThing("a"))),
    "model of int": (PBox[int], PBox[int](value=5)),
    "dataclass of int": (DBox[int], DBox(5)),
    "discriminated": (Home, Home(pet=Cat(lives=3))),
    "tagged": (SHome, SHome(SDog(3))),
    "array": (Row, Row(3)),
    "undeclared": (Loose, Loose(seats=2, more=[1])),
    "computed": (Forbidding, Forbidding(cents=[1, 2])),
    "Json": (JsonHolder, JsonHolder(config="[1]")),
    "pydantic's dataclass": (PData, PData(4)),
}


@pytest.mark.parametrize(("kind", "state"), WHOLE.values(), ids=WHOLE)
def test_states_of_many_kinds_come_back(kind: Any, state: Any) -> None:
    """Frozen ones, generic ones, unions, tags, arrays, undeclared and computed members."""
    _, back = came_back(kind, lambda fresh: state)

    assert (type(state), state) == (type(back), back)


class Trimmed(BaseModel):
    """A validator that changes what it is given."""

    name: str = ""

    @pydantic.field_validator("name")
    @classmethod
    def trim(cls, name: str) -> str:
        """Without spaces."""
        return name.strip()


class Counting(Struct):
    """Another each time it is read."""

    n: int = 0

    def __post_init__(self) -> None:
        self.n += 1


class Crossed(Struct):
    """Members that must fit each other."""

    begins: int = 0
    ends: int = 0

    def __post_init__(self) -> None:
        if self.ends < self.begins:
            raise ValueError("it ends before it begins")


class Quarrelsome(Struct):
    """With a member whose comparison raises."""

    note: Any = None


class Unwilling:
    """Cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no")

    __hash__ = None  # type: ignore[assignment]


def test_a_validator_that_changes_a_value_is_refused() -> None:
    """It would silently be another one; what the validator leaves alone is fine."""
    came_back(Trimmed, lambda state: setattr(state, "name", "ada"))
    with pytest.raises(BadMessage, match=r"state\.name would come back with another value"):
        came_back(Trimmed, lambda state: setattr(state, "name", " ada "))
    with pytest.raises(BadMessage, match="it ends before it begins"):
        came_back(Crossed, lambda state: setattr(state, "begins", 5))


@dataclass
class Inner:
    """In a model of another kind."""

    name: str = ""
    aside: Any = field(default=None, compare=False)


class Outer(Struct):
    """A Struct with dataclasses deep in it."""

    inner: dict[str, list[Inner | None]] = {}


class POuter(BaseModel):
    """A pydantic model with dataclasses deep in it."""

    inner: dict[str, list[Inner | None]] = {}


class Blind(Struct):
    """Says that all are equal."""

    note: Any = None

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [Outer, POuter])
def test_an_equality_that_leaves_members_out_is_not_believed(kind: Any) -> None:
    """That of a dataclass, however deep it is, and one that people have written."""
    state = kind(inner={"a": [None, Inner("x")]})
    state.inner["a"][1].aside = (1,)
    with pytest.raises(BadMessage, match=r"state\.inner\.a\[1\]\.aside is a tuple"):
        came_back(kind, lambda fresh: state)
    state.inner["a"][1] = Inner("x")
    state.inner["a"][1].nane = 1
    with pytest.raises(BadMessage, match=r"state\.inner\.a\[1\]\.nane is no member"):
        came_back(kind, lambda fresh: state)
    with pytest.raises(BadMessage, match=r"state\.note is a tuple"):
        came_back(Blind, lambda fresh: Blind((1,)))


def test_a_cycle_of_objects_is_refused() -> None:
    """With its member."""
    for kind in (Data, Packed, Model):
        with pytest.raises(BadMessage, match=r"state\.anything"):
            came_back(kind, lambda state: setattr(state, "anything", [state]))


@dataclass
class Validated:
    """A default that is none of its type."""

    seats: int = None  # type: ignore[assignment]


class Bound(BaseModel):
    """A default that its own validator refuses."""

    seats: int = Field(0, ge=1)


class Masked(BaseModel):
    """A default that is lost."""

    token: SecretStr = SecretStr("x")


@dataclass
class Locked:
    """Something that is no JSON."""

    lock: Any = field(default_factory=threading.Lock)


@dataclass
class Shared:
    """An instance that all fresh states would have in common."""

    odd: Odd = Odd()  # noqa: RUF009


UNFIT: dict[str, tuple[Any, str]] = {
    "default of another type": (Validated, r"state\.seats cannot be read"),
    "default that is refused": (Bound, r"state\.seats"),
    "default that is lost": (Masked, r"state\.token"),
    "no JSON": (Locked, r"state\.lock cannot be written"),
    "another each time": (Counting, r"state\.n"),
    "shared by all": (Shared, r"state\.odd.*shared"),
    "needs arguments": (Pair, "dict, dataclass"),
    "no type": (Data | None, "dict, dataclass"),
    "subclass of dict": (OrderedDict, "dict, dataclass"),
}


@pytest.mark.parametrize(("kind", "said"), UNFIT.values(), ids=UNFIT)
def test_a_type_whose_fresh_state_does_not_come_back_is_misconfigured(kind: Any, said: str) -> None:
    """At construction, naming the member."""
    with pytest.raises(Misconfigured, match=f"state=.*{said}"):
        StateCodec(kind, limit=10**6)


@dataclass
class Counted:
    """A dataclass that refuses what it is made of."""

    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("fewer than none")


def test_what_a_type_itself_refuses_is_told_in_its_words() -> None:
    """It names no member, so what is meant is the state."""
    state = Counted()
    state.n = -1
    with pytest.raises(BadMessage, match=r"state cannot be read \(fewer than none\)"):
        StateCodec(Counted, limit=10**6).encode(ADA, state)


# -- upgrades, and clearing ----------------------------------------------------------------------------------------------


@dataclass
class Seat:
    """With a member that older states have not."""

    row: int = 7


@dataclass
class Hall:
    """Holds such at every depth."""

    first: Seat = field(default_factory=Seat)
    more: list[Seat] = field(default_factory=list)
    named: dict[str, Seat] = field(default_factory=dict)


class House(Struct):
    """The same, in a Struct."""

    hall: Hall = msgspec.field(default_factory=Hall)


def test_defaults_are_shown_at_every_depth() -> None:
    """Of what was stored before there was the member: whoever reads it over HTTP sees what the bot sees."""
    states: StateCodec[Any] = StateCodec(House, limit=10**6)
    raw = msgspec.Raw(b'{"hall":{"first":{},"more":[{}],"named":{"a":{"row":8}}}}')
    found = states.shape.json_of(states.decode(ADA, raw, 1))

    assert {"hall": {"first": {"row": 7}, "more": [{"row": 7}], "named": {"a": {"row": 8}}}} == found


def test_an_upgrade_gives_plain_json() -> None:
    """A Decimal in a dict state would be text."""
    states: StateCodec[Any] = StateCodec(dict, schema=2, upgrades={1: lambda old: {"at": NOON}}, limit=10**6)
    with pytest.raises(Unsupported, match=r"upgrades to schema 2.*state\.at is a datetime.*mend the upgrade"):
        states.decode(ADA, msgspec.Raw(b"{}"), 1)


class Abort(BaseException):
    """No Exception, as what a library in Rust raises when it gives up."""


class Wordless(Exception):
    """Cannot put itself into words."""

    def __str__(self) -> str:
        raise Abort


@pytest.mark.parametrize("fault", [Abort, Wordless, StopIteration, GeneratorExit, asyncio.CancelledError])
def test_whatever_code_of_the_application_raises_is_told_of_that_state(fault: type[BaseException]) -> None:
    """By an upgrade, a downgrade, or the type itself: who lists conversations goes on, and no cancellation is made of it."""

    def step(old: Any) -> Any:
        raise fault

    @dataclass
    class Strict:
        seats: int = 0

        def __post_init__(self) -> None:
            if self.seats > 9:
                raise fault

    name = fault.__name__
    for newer, steps in ((2, {"upgrades": {1: step}}), (1, {"downgrades": {2: step}})):
        states: StateCodec[Any] = StateCodec(dict, schema=newer, limit=10**6, **steps)
        with pytest.raises(Unsupported, match=rf"grades\[{3 - newer}\] raised {name}.*mend the .*grade"):
            states.decode(ADA, msgspec.Raw(b"{}"), 3 - newer)
    strict: StateCodec[Any] = StateCodec(Strict, limit=10**6)
    with pytest.raises(Corrupt, match=rf"cannot be read \({name}\).*clear the state or the member"):
        strict.decode(ADA, msgspec.Raw(b'{"seats":10}'), 1)
    high = Strict()
    high.seats = 10
    with pytest.raises(BadMessage, match=rf"cannot be read \({name}\)"):
        strict.encode(ADA, high)


@pytest.mark.parametrize("code", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_ends_it_also_in_an_upgrade(code: type[BaseException]) -> None:
    """As it does in a handler."""

    def step(old: Any) -> Any:
        raise code

    with pytest.raises(code):
        StateCodec(dict, schema=2, upgrades={1: step}, limit=10**6).decode(ADA, msgspec.Raw(b"{}"), 1)


async def waits(old: Any) -> Any:
    """Nobody awaits an upgrade."""
    return old


def yields(old: Any) -> Any:
    """Nor goes through what it yields."""
    yield old


@pytest.mark.parametrize("name", ["upgrades", "downgrades"])
@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ({"1": dict}, "has the numbers of schemas as its keys, not '1'"),
        ({2: None}, r"\[2\] is a function that returns the new value, and not None"),
        ({2: waits}, r"\[2\] is a function .* not <function waits"),
        ({2: yields}, r"\[2\] is a function .* not <function yields"),
    ],
)
def test_steps_that_could_never_be_taken_are_misconfigured(name: str, steps: Any, said: str) -> None:
    """At once, and not by the first state that has to take them."""
    more: Any = {name: steps}
    with pytest.raises(Misconfigured, match=f"^{name}.*{said}" if "keys" in said else f"^{name}{said}"):
        StateCodec(dict, schema=3 if name == "upgrades" else 1, limit=10**6, **more)


BROKEN: dict[str, tuple[Any, bytes]] = {
    "dataclass": (Data, b'{"seats":"two","name":"ada"}'),
    "Struct": (Packed, b'{"seats":"two","name":"ada"}'),
    "pydantic": (Model, b'{"seats":"two","name":"ada"}'),
}


@pytest.mark.parametrize(("kind", "raw"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_can_be_cleared(kind: Any, raw: bytes) -> None:
    """All of it, or the member that is wrong; another one leaves it as unreadable as it was."""
    states: StateCodec[Any] = StateCodec(kind, limit=10**6)
    stored = msgspec.Raw(raw)
    with pytest.raises(Corrupt, match="clear the state or the member"):
        states.decode(ADA, stored, 1)

    assert 1 == states.decode(ADA, *states.cleared(ADA, stored, 1, None)).seats
    back = states.decode(ADA, *states.cleared(ADA, stored, 1, "seats"))
    assert (1, "ada") == (back.seats, back.name)
    left, _ = states.cleared(ADA, stored, 1, "name")
    assert b'"ada"' not in bytes(left)
    with pytest.raises(UsageError, match="no slot 'nane'"):
        states.cleared(ADA, stored, 1, "nane")


def test_a_slot_is_cleared_under_the_name_it_is_stored_as() -> None:
    """Also of a frozen state; one without slots is refused, and so is what would make a readable state unreadable."""
    packed: StateCodec[Any] = StateCodec(Packed, limit=10**6)
    state = Packed(by_number={1: SThing("a")})
    for name in ("by_number", "byNumber"):  # its own, and that in JSON, which a page knows
        assert {} == packed.decode(ADA, *packed.cleared(ADA, packed.encode(ADA, state), 1, name)).by_number
    assert b"{}" == bytes(packed.cleared(ADA, msgspec.Raw(b"{}"), 1, "byNumber")[0])
    frozen: StateCodec[Any] = StateCodec(Frozen, limit=10**6)
    assert 1 == frozen.decode(ADA, *frozen.cleared(ADA, frozen.encode(ADA, Frozen(seats=5)), 1, "seats")).seats
    with pytest.raises(UsageError, match="no object"):
        StateCodec(Row, limit=10**6).cleared(ADA, msgspec.Raw(b"[1]"), 1, "seats")
    crossed: StateCodec[Any] = StateCodec(Crossed, limit=10**6)
    with pytest.raises(BadMessage, match="without 'ends' the state cannot be read"):
        crossed.cleared(ADA, crossed.encode(ADA, Crossed(3, 5)), 1, "ends")


def test_a_slot_of_an_old_state_is_cleared_in_todays_shape() -> None:
    """What an upgrade would make of it again is gone too; where no upgrade leads on, it is taken out of what is there."""
    up: StateCodec[Any] = StateCodec(dict, schema=2, upgrades={1: lambda old: old | {"branch": "x"}}, limit=10**6)
    left = up.cleared(ADA, msgspec.Raw(b'{"cart":[1]}'), 1, "branch")
    assert {"cart": [1]} == up.decode(ADA, *left)

    def broken(old: Any) -> Any:
        raise RuntimeError

    stuck: StateCodec[Any] = StateCodec(dict, schema=2, upgrades={1: broken}, limit=10**6)
    assert (b'{"cart":[1]}', 1) == (lambda raw, n: (bytes(raw), n))(
        *stuck.cleared(ADA, msgspec.Raw(b'{"x":2,"cart":[1]}'), 1, "x")
    )


def test_a_comparison_that_raises_is_no_crash() -> None:
    """It is refused as what it is: not known to come back."""
    with pytest.raises(BadMessage, match=r"state\.note"):
        came_back(Quarrelsome, lambda state: setattr(state, "note", Unwilling()))


def test_a_dataclass_that_cannot_be_read_at_all_is_misconfigured() -> None:
    """InitVar is none of its members."""

    @dataclass
    class Made:
        """With an InitVar."""

        start: InitVar[int] = 0
        n: int = 0

    with pytest.raises(Misconfigured, match=r"state=Made.*InitVar"):
        StateCodec(Made, limit=9)
