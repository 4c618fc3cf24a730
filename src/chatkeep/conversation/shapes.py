"""Values as JSON and back, and whether what comes back is what was put in.

Plain JSON is what a dict state, parts of messages, metadata, results of steps and the data of reminders are made of. A typed state
is a dataclass, a msgspec Struct or a pydantic model. Neither is stored before it is known that it will be read as it was.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import cache, cached_property, lru_cache
from gc import get_referents
from typing import Annotated, Any, Generic, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from ..errors import EXITS, describe_fault, presentable
from ..model import State

DEEPEST = 64
PLAIN_LEVELS = 5  # deeper values are looked at by slower code; each level makes the type that says so twice as large, and as slow to make

JSON_TYPES = frozenset({dict, list, str, int, float, bool, type(None)})
"""What JSON has. Of other types only the text would be stored: a Decimal would come back as a str, a tuple as a list."""

LEAVES = frozenset({str, int, float, bool, type(None), bytes, Decimal})
NUMBERS = frozenset({int, float})

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode

SAFE = 2**53 - 1
"""The greatest integer that browsers, and all who hold numbers as doubles, give back as it was (RFC 7493)."""

STORABLE = range(-(2**63), 2**63)
"""Integers that every store keeps: for what no browser gives back."""

_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 16
_ABSENT = object()
UNREAD: Any = object()
"""In the place of what JSON is read as, where nobody has read it."""

COMPUTED = "__pydantic_computed_fields__"
OURS = ("msgspec", "pydantic")  # whose equalities are known
CHANGED = " would come back with another value"
OBJECT_EQUALITY: Any = object.__eq__


class Unfit(Exception):
    """The value would not come back as it is; the text names the member and says why."""


# -- plain JSON ----------------------------------------------------------------------------------------------------------


def encoded(value: Any, what: str, allowed: Container[int] = ()) -> bytes:
    """Return *value* as JSON, if it is made of JSON's own types and every store can keep it. Raises `Unfit`, naming the member of *what*.

    *allowed*: integers that may be there although a browser would change them. Promised: decoding gives an equal value of the same
    types. Subclasses count as other types: a StrEnum would come back as a str.
    """
    return encoded_and_read(value, what, allowed)[0]


def encoded_and_read(value: Any, what: str, allowed: Container[int] = ()) -> tuple[bytes, Any]:
    """Return what `encoded` does, and what decoding gives, which nobody else holds; UNREAD where that is not at hand."""
    try:
        raw = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as fault:
        raise Unfit(misfit(value, what, allowed) or f"{what} cannot be written as JSON ({fault})") from fault
    copy = _copy(value, raw)
    if copy is UNREAD and (reason := misfit(value, what, allowed)):
        raise Unfit(reason)
    return raw, copy


def repaired(value: Any) -> Any:
    """Return *value* with what no store can hold put so that every one can, where that says nearly the same: NUL and half characters as
    U+FFFD, numbers that a browser would change as text, tuples as lists."""
    if isinstance(value, str):
        # (As UTF-16 the halves of one character, which a stream may have torn apart, come together again.)
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
    if isinstance(value, dict):
        return {repaired(name): repaired(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [repaired(item) for item in value]
    if type(value) in NUMBERS and _reason(value, ()):
        return str(value)
    return value


def _plain_at(levels: int) -> Any:
    """Return the type of JSON of so many levels, but for its NUL characters, that every store keeps as it is."""
    number = Annotated[int, Meta(ge=-SAFE, le=SAFE)]
    finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
    scalar = str | number | finite | bool | None
    if not levels:
        return scalar
    inner = _plain_at(levels - 1)
    return scalar | list[inner] | dict[str, inner]  # type: ignore[valid-type]


@cache
def _holder(levels: int) -> Any:
    """Return the type of a tuple of one value of so many levels."""
    return msgspec.defstruct("_Plain", [("value", _plain_at(levels))], array_like=True, gc=False)


def _copy(value: Any, raw: bytes) -> Any:
    """Return what decoding *raw* would give for *value*: a copy. The quick way to a yes; whoever gets UNREAD has to look closer.

    One conversion looks at keys, numbers and depth, and takes a tuple for a list and a Decimal for a float; so the types are
    looked at before, a whole level of the value at once.
    """
    levels = 0
    found: Sequence[Any] = (value,)
    while found:
        if not JSON_TYPES.issuperset(map(type, found)):
            return UNREAD
        # (Of dicts and lists, what is in them, though not keys that are text; of text and numbers, nothing.)
        found = get_referents(*found)
        levels += 1
    try:
        copy = msgspec.convert((value,), _holder(min(levels, PLAIN_LEVELS)))
    except msgspec.ValidationError:
        return UNREAD
    # (The first look is at one byte, and nearly always enough.)
    return copy.value if b"\\" not in raw or b"\\u0000" not in raw else UNREAD


def misfit(value: Any, what: str, allowed: Container[int] = ()) -> str:
    """Return which member of *what* cannot be stored as JSON everywhere, and why; "" when all can."""
    pending: list[tuple[Any, int, Any]] = [(value, 0, ())]
    while pending:
        item, depth, place = pending.pop()
        if depth > DEEPEST + 1:
            return f"{what} holds more than {DEEPEST} levels of nesting"
        if reason := _reason(item, allowed):
            return f"{_path(what, place)} {reason}"
        if type(item) is dict:
            for name in item:
                if type(name) is not str:
                    return f"{_path(what, place)} has the key {name!r:.40}, which is no text (JSON would make it text)"
                if reason := _reason(name, ()):
                    return f"{_path(what, place)} has a key that {reason}"
            pending += [(inner, depth + 1, (place, name)) for name, inner in item.items()]
        elif type(item) is list:
            pending += [(inner, depth + 1, (place, index)) for index, inner in enumerate(item)]
    return ""


def _path(what: str, place: Any) -> str:
    steps = []
    while place:
        place, step = place
        steps.append(_step(step))
    return what + "".join(reversed(steps))


def _step(step: Any) -> str:
    return f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r:.40}]"


def long_numbers(value: Any) -> frozenset[int]:
    """Return the integers in plain JSON that a browser would change; a float of that size may come back as one."""
    found, pending = set(), [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict | list):
            pending += item.values() if isinstance(item, dict) else item
        elif type(item) in NUMBERS and abs(item) > SAFE:
            found.add(int(item))
    return frozenset(found)


def _reason(item: Any, allowed: Container[int]) -> str:
    kind = type(item)
    if kind not in JSON_TYPES:
        return f"is a {kind.__name__}, which is none of JSON's types (str, int, float, bool, None, list, dict)"
    if kind is str:
        if "\0" in item:
            return "holds a NUL character, which cannot be stored everywhere"
        try:
            item.encode()
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate), which cannot be stored"
    if kind is float and not math.isfinite(item):
        return f"is the number {item}, which JSON has not"
    if kind is int and not -SAFE <= item <= SAFE and item not in allowed:
        return (
            f"is {item:,} and a browser gives back no integer beyond {SAFE:,} as it was: keep it as text"
            if (item in STORABLE)
            else "is a number of more than 64 bits, which cannot be stored everywhere: keep it as text"
        )
    return ""


# -- typed states --------------------------------------------------------------------------------------------------------


class Shape(Generic[State]):
    """
    How a state of type *kind* is written as JSON and read again. Raises `TypeError` when no state can be of that type.

    A pydantic model is written under the names of its fields, whatever aliases they have, and without computed fields.
    """

    def __init__(self, kind: type[State]) -> None:
        self.kind = kind
        self.name = getattr(kind, "__name__", str(kind))
        self.type: Any = get_origin(kind) or kind  # of Box[int] the instances are Boxes
        self.plain = kind is dict
        self.advice = (
            "Put JSON's own types there, or open the Chatkeep with a typed state (a dataclass, Struct or pydantic model)."
            if self.plain
            else f"Put a value there that is of the type which {self.name} declares and that JSON can hold."
        )
        """What to do about a state that is unfit."""
        self._pydantic = hasattr(kind, "model_validate_json")
        if not self._pydantic and not (
            isinstance(self.type, type) and (self.plain or is_dataclass(self.type) or issubclass(self.type, Struct))
        ):
            raise TypeError(f"state={self.name} is not a dict, dataclass, msgspec Struct or pydantic model.")
        self._equality_tells = _equality_tells(kind, set())
        self.stored_names = stored_names_of(self.type)
        """The names under which members are stored, each with the member's own."""
        try:
            self._decode = None if self._pydantic else msgspec.json.Decoder(kind).decode
        except TypeError as fault:
            raise TypeError(f"state={self.name} cannot be read from JSON: {fault}.") from fault

    def encode(self, state: State, allowed: Container[int] = ()) -> tuple[bytes, State]:
        """Return *state* as JSON that was read again and found to be the same, and what it was read as, which nobody else holds (UNREAD
        where that is not at hand). Raises `Unfit`, naming the member that would not be the same.

        The same is: of the same types, member by member, private and undeclared ones included, each equal (==); a type without
        an equality of its own by what its instances hold. An int may come back as the equal float, an instance of a
        subclass of str, dict and the like as the equal plain one, a date with its offset and without its zone's name. *allowed* as
        for `encoded`. Which
        fields of a pydantic model were set is not kept, nor is what a `cached_property` holds.
        """
        if self.plain:
            return encoded_and_read(state, "state", allowed)
        raw = self.write(state)
        suspect = _is_suspect(raw)
        if suspect or self._pydantic:  # (a pydantic model may write what is no JSON, such as NaN)
            try:
                plain = _decode(raw)
            except (ValueError, RecursionError) as fault:
                raise Unfit(f"state is written as something that is no JSON ({fault})") from fault
            if suspect and _copy(plain, raw) is UNREAD and (reason := misfit(plain, "state", allowed)):
                raise Unfit(reason)
        try:
            back = self.decode(raw)
        except Exception as fault:  # the application's own types may raise anything
            raise Unfit(told(fault)) from fault
        try:
            lost = "" if self._equality_tells and state == back else difference(state, back)
        except Exception as fault:
            raise Unfit(f"state cannot be compared with what would come back ({fault!r:.200})") from fault
        if lost:
            raise Unfit(f"state{lost}")
        return raw, back

    def decode(self, raw: bytes | msgspec.Raw) -> State:
        """Return the state in *raw*. Raises what its type raises; `Unfit` where that is no Exception, for which nobody is prepared."""
        try:
            if self._decode is None:
                return cast("State", cast(Any, self.kind).model_validate_json(bytes(raw), by_alias=False, by_name=True))
            return cast("State", self._decode(raw))
        except (Exception, *EXITS):
            raise
        except BaseException as fault:
            raise Unfit(describe_fault(fault)) from fault

    def json_of(self, state: State) -> Any:
        """Return *state* as plain JSON, as `decode` takes it, for people to see and change: also what is not stored, as it has its
        default."""
        if not self.plain:
            _fill(state)
        shown = _decode(self.write(state))
        if isinstance(state, Struct) and state.__struct_config__.omit_defaults and isinstance(shown, dict):
            left_out = {name: own for name, own in self.stored_names.items() if own and name not in shown}
            held = {
                name: value for name, own in left_out.items() if (value := getattr(state, own)) is not msgspec.UNSET
            }
            shown |= msgspec.to_builtins(held, str_keys=True)
        return shown

    def write(self, state: State) -> bytes:
        """Return *state* as JSON, whether or not it would come back. Raises `Unfit`."""
        try:
            return _write(state)
        except Exception as fault:
            raise Unfit(_unwritable(state, "state", fault)) from fault


def _fill(value: Any) -> None:
    """Give each dataclass in *value* the defaults that it has of its class alone: msgspec neither sets nor writes these."""
    names = members_of(type(value))
    if names is not None:
        if is_dataclass(value) and hasattr(value, "__dict__"):
            for name in names:
                vars(value).setdefault(name, getattr(value, name))
        for inner in _held(value, names).values():
            _fill(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            _fill(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _fill(inner)


def _is_suspect(raw: bytes) -> bool:
    """Tell whether JSON may hold what some store would lose: cheap tests that say yes now and then for nothing."""
    return (
        (b"\\" in raw and b"\\u0000" in raw)
        # (Taking brackets out tells their number in a tenth of the time of counting them.)
        or 2 * len(raw) - len(raw.replace(b"{", b"")) - len(raw.replace(b"[", b"")) > DEEPEST
        # (In 16 digits every third byte is one, five times: a look at these saves nearly everybody one at all.)
        or (raw[::3].translate(_DIGITS).rfind(b"00000") >= 0 and raw.translate(_DIGITS).rfind(_LONG_NUMBER) >= 0)
    )


def difference(before: Any, after: Any, seen: frozenset[tuple[int, int]] = frozenset()) -> str:
    """Return which member of *before* is another in *after*, which was read from it, and how; "" when they are the same."""
    if before is after:
        return ""
    kind, other = type(before), type(after)
    if kind is not other:
        if kind in NUMBERS and other in NUMBERS and before == after:
            return ""
        if members_of(kind) is None and members_of(other) is None and _equal(before, after):
            return ""
        return f" is a {kind.__name__} and would come back as a {other.__name__}"
    if kind in LEAVES:
        return "" if _equal(before, after) else CHANGED
    if kind is list or kind is tuple:
        if len(before) != len(after):
            return f" would come back with {len(after)} items instead of {len(before)}"
        if LEAVES.issuperset(map(type, before)) and before == after:
            return ""
        return _first_lost(enumerate(before), after, seen)
    if kind is dict:
        if before.keys() != after.keys():
            return " would come back with other keys"
        if LEAVES.issuperset(map(type, before.values())) and before == after:
            return ""
        return _first_lost(before.items(), after, seen)
    names = members_of(kind)
    if names is None:
        if kind.__eq__ is not OBJECT_EQUALITY:
            return "" if _equal(before, after) else CHANGED
        if (id(before), id(after)) in seen:  # objects that hold each other
            return ""
        seen |= {(id(before), id(after))}
    held, found = _held(before, names), _held(after, names)
    for name, inner in held.items():
        if name not in found:
            if isinstance(getattr(kind, name, None), cached_property) or name in getattr(kind, COMPUTED, ()):
                continue
            return f".{name} is no member of {kind.__name__} that is stored, and would be lost"
        if lost := difference(inner, found[name], seen):
            return f".{name}{lost}"
    for name in found.keys() - held.keys():
        if not isinstance(getattr(kind, name, None), cached_property):
            return f".{name} was deleted, and would come back"
    return ""


def _equality_tells(kind: Any, seen: set[Any]) -> bool:
    """Tell whether == of *kind* looks at all that `difference` looks at, and so may be asked first: it takes a tenth of the time.

    That of a dataclass does not (undeclared attributes, compare=False), nor need one that people have written.
    """
    inside: list[Any] = list(get_args(kind))
    kind = get_origin(kind) or kind
    if isinstance(kind, type) and kind not in seen:
        seen.add(kind)
        if is_dataclass(kind):
            return False
        if members_of(kind) is not None:
            if any(
                "__eq__" in vars(base) for base in kind.__mro__[:-1] if base.__module__.partition(".")[0] not in OURS
            ):
                return False
            try:
                inside += get_type_hints(kind).values()
            except Exception:  # names that cannot be looked up here
                return False
    return all(_equality_tells(inner, seen) for inner in inside)


def _first_lost(pairs: Iterable[tuple[Any, Any]], after: Any, seen: frozenset[tuple[int, int]]) -> str:
    for step, inner in pairs:
        if lost := difference(inner, after[step], seen):
            return _step(step) + lost
    return ""


def shared(one: Any, other: Any, path: str) -> str:
    """Return which member two fresh states have in common, so that what one conversation changes is changed in all; "" if none."""
    kind: Any = type(one)
    names = members_of(kind)
    if one is other:
        return path if kind in (list, dict, set, bytearray) or (names is not None and not is_frozen(kind)) else ""
    if names is None or kind is not type(other):
        return ""
    others = _held(other, names)
    return _first(shared(inner, others.get(name), f"{path}.{name}") for name, inner in _held(one, names).items())


def is_frozen(kind: Any) -> bool:
    """Tell whether no member of a dataclass, Struct or pydantic model of type *kind* can be set."""
    if issubclass(kind, Struct):
        return bool(kind.__struct_config__.frozen)
    if hasattr(kind, "model_config"):
        return bool(kind.model_config.get("frozen"))
    return bool(kind.__dataclass_params__.frozen)


def _first(reasons: Iterable[str]) -> str:
    return next(filter(None, reasons), "")


def _equal(before: Any, after: Any) -> bool:
    # (What is not even equal to itself is NaN.)
    return bool(before == after) or bool(before != before and after != after)


def _members(kind: Any) -> tuple[str, ...] | None:
    """Return the members that instances of *kind* are made of; None when it is neither dataclass, Struct nor pydantic model."""
    if issubclass(kind, Struct):
        return cast("tuple[str, ...]", kind.__struct_fields__)
    if hasattr(kind, "__pydantic_fields__") and hasattr(kind, "model_validate_json"):
        return tuple(kind.__pydantic_fields__)
    if is_dataclass(kind):
        return tuple(field.name for field in fields(kind))
    return None


members_of: Callable[[Any], tuple[str, ...] | None] = lru_cache(maxsize=1024)(_members)


def _held(value: Any, names: tuple[str, ...] | None) -> dict[str, Any]:
    """Return the members that *value* has now: declared, private, and put there without being declared."""
    held: dict[str, Any] = getattr(value, "__dict__", {})
    if "__orig_class__" in held:  # (Box[int]() notes its type in the instance.)
        held = {name: inner for name, inner in held.items() if name != "__orig_class__"}
    if names is None:
        return held
    # (A dataclass leaves what has the value of its class to the class.)
    if missing := [name for name in names if name not in held]:
        there = {name: getattr(value, name, _ABSENT) for name in missing}
        held = held | {name: inner for name, inner in there.items() if inner is not _ABSENT}
    for more in ("__pydantic_private__", "__pydantic_extra__"):
        if inner := getattr(value, more, None):
            held = held | inner
    return held


def unknown(sent: Any, state: Any, shown: Any, path: str = "") -> str:
    """Tell which member of the plain JSON *sent* has no place in the *state* that was made of it, which is *shown* as JSON; "" if none."""
    names = members_of(type(state))
    if names is None:
        if isinstance(sent, list) and isinstance(state, list | tuple) and len(sent) == len(state):
            shown = shown if isinstance(shown, list) and len(shown) == len(sent) else [None] * len(sent)
            rows = enumerate(zip(sent, state, shown, strict=True))
            return _first(unknown(*row, f"{path}[{n}]") for n, row in rows)
        written, extra = {}, state if isinstance(state, dict) else {}
    else:
        written, extra = stored_names_of(type(state)), getattr(state, "__pydantic_extra__", None) or {}
    if not isinstance(sent, dict) or (names is None and not extra):
        return ""
    shown = shown if isinstance(shown, dict) else {}
    for name, inner in sent.items():
        if names is not None and name not in written and name not in extra and name not in shown:
            return f"{path}.{name}".lstrip(".")
        there = extra[name] if name in extra else getattr(state, written.get(name) or name, None)
        if lost := unknown(inner, there, shown.get(name), f"{path}.{name}"):
            return lost
    return ""


def _stored_members(kind: Any) -> dict[str, str]:
    """Return the names under which members of *kind* are stored, each with the member's own; that of a tag has none."""
    if issubclass(kind, Struct):
        tag = kind.__struct_config__.tag_field
        return dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)) | (
            {tag: ""} if tag else {}
        )
    return {name: name for name in members_of(kind) or ()}


stored_names_of: Callable[[Any], dict[str, str]] = lru_cache(maxsize=1024)(_stored_members)


def told(fault: BaseException) -> str:
    """Return what a decoder says of a value that it cannot read: the member first, and nothing of the value."""
    fault = presentable(fault)
    try:
        said = str(fault)
    except BaseException:  # its own __str__ may raise whatever it likes
        said = ""
    text, _, place = (said or type(fault).__name__).partition(" - at `$")
    if isinstance(fault, ValueError) and hasattr(fault, "error_count"):  # pydantic's
        first = cast(Any, fault).errors()[0]
        text, place = first["msg"], "".join(map(_step, first["loc"]))
    return f"state{place.rstrip('`')} cannot be read ({text})"


def _unwritable(value: Any, path: str, fault: Exception) -> str:
    """Return the innermost member of *value* that cannot be written, by trying one after the other."""
    for _ in range(DEEPEST):
        names = members_of(type(value))
        inside: dict[Any, Any] = {}
        if names is not None:
            inside = _held(value, names)
        elif isinstance(value, dict | list | tuple):
            inside = value if isinstance(value, dict) else dict(enumerate(value))
        for step, inner in inside.items():
            try:
                _write(inner) if not hasattr(value, "model_dump_json") else _write(value, {step})
            except Exception as deeper:
                value, path, fault = inner, path + _step(step), deeper
                break
        else:
            break
    return f"{path} cannot be written as JSON ({fault!s:.200})"


def _write(value: Any, include: set[str] | None = None) -> bytes:
    if hasattr(value, "model_dump_json"):
        raw = value.model_dump_json(include=include, by_alias=False, round_trip=True, warnings=False)
        return cast(bytes, raw.encode())
    return _encode(value)
