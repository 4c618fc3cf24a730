"""Three-way merge of plain JSON: what two writers have made of the same value, put together.

Each side says from which *base* it began. What only one side has changed is taken from that side; objects are merged member by
member, lists item by item. Where both have changed the same place, the later one stands and what the earlier one had there is
reported as a `Loss`: nothing goes in silence. The same two sides give the same result whichever of them comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from ..errors import Misconfigured


class Missing(Struct, frozen=True):
    """Stands where there is no value."""

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()


class Version(Struct, frozen=True):
    """What one writer has made of a value: when, in seconds since 1970, and on which device. `MISSING` has removed it."""

    value: Any
    at: float = 0.0
    by: str = ""


class Loss(Struct, frozen=True):
    """A value that gave way to a later one, and where: names of members, and of list items their id."""

    path: tuple[str, ...]
    value: Any
    at: float
    by: str


class Merged(Struct, frozen=True):
    """The value that both sides agree on from now on, and what gave way in it."""

    value: Any
    losses: tuple[Loss, ...] = ()


Rule = Literal["later", "union", "sum", "max"] | Callable[[Any, Any, Any], Any]
"""How one member is merged. later: as described above. union: of lists all items of both, whatever was removed. sum: of numbers,
with both changes added. max: the greater one. A function is given base, earlier and later value, each perhaps `MISSING`, and
returns the value that stands."""


def check_rules(rules: Mapping[str, Rule]) -> Mapping[str, Rule]:
    """Return *rules*, if each is one. Raises `Misconfigured`."""
    for name, rule in rules.items():
        if not callable(rule) and rule not in ("later", "union", "sum", "max"):
            raise Misconfigured(f"merge_rules[{name!r}] is {rule!r}: a rule is later, union, sum, max, or a function.")
    return rules


def merge(base: Any, one: Version, other: Version, rules: Mapping[str, Rule] | None = None) -> Merged:
    """
    Return what *one* and *other* have made of *base*, put together.

    Values are plain JSON, no deeper than a state may be, or `MISSING`; they are not changed, and the result may share parts
    with them. An edit stands against a removal. List items are the same item when they are objects with the same "id", or
    else equal values; what either side has added is there. A tie in time goes by device, then by value, so that both sides
    decide alike. *rules* are for members of an object at the top, by name.
    """
    earlier, later = sorted((one, other), key=lambda side: (side.at, side.by, plain(side.value)))
    losses: list[Loss] = []
    chosen = rules or {}
    sides = base, earlier.value, later.value

    def lose(path: tuple[str, ...], value: Any) -> None:
        losses.append(Loss(path, value, earlier.at, earlier.by))

    if chosen and isinstance(earlier.value, dict) and isinstance(later.value, dict):
        value: Any = _merge_members(*sides, (), lose, chosen)
    else:
        value = _merge_values(*sides, (), lose)
    return Merged(value, tuple(losses))


class Overlap(Exception):
    """Both sides have changed the same place."""


def merge_apart(base: Any, one: Any, other: Any) -> Any:
    """
    Return what two writers have made of *base*, where they have changed different members of it; else raises `Overlap`.

    Stricter than `merge`, for writers that may begin again: where both have changed a value, even to the same one, or one
    has removed what the other has changed, or both have changed the same list, neither stands.
    """
    was = plain(base)
    if plain(one) == was:
        return other
    if plain(other) == was:
        return one
    if not (isinstance(one, dict) and isinstance(other, dict) and (base is MISSING or isinstance(base, dict))):
        raise Overlap
    begun: dict[str, Any] = base if isinstance(base, dict) else {}
    merged = {}
    for name in dict.fromkeys([*other, *one, *begun]):
        value = merge_apart(begun.get(name, MISSING), one.get(name, MISSING), other.get(name, MISSING))
        if value is not MISSING:
            merged[name] = value
    return merged


def changed_members(before: Any, after: Any) -> frozenset[str] | None:
    """Return the names of the members that differ between two objects; None when one of them is no object and they differ."""
    if plain(before) == plain(after):
        return frozenset()
    if not isinstance(before, dict) or not isinstance(after, dict):
        return None
    names = before.keys() | after.keys()
    return frozenset(n for n in names if plain(before.get(n, MISSING)) != plain(after.get(n, MISSING)))


def plain(value: Any) -> bytes:
    """Return *value* as JSON in one canonical form: equal for values that are the same, so True is not 1, and 1 is not 1.0."""
    return b"" if value is MISSING else msgspec.json.encode(value, order="sorted")


Lose = Callable[[tuple[str, ...], Any], None]


def _merge_values(base: Any, earlier: Any, later: Any, path: tuple[str, ...], lose: Lose) -> Any:
    was, had, has = plain(base), plain(earlier), plain(later)
    if had in (was, has):
        return later
    if has == was or later is MISSING:  # an edit stands against a removal
        return earlier
    if earlier is MISSING:
        return later
    if isinstance(earlier, dict) and isinstance(later, dict):
        return _merge_members(base, earlier, later, path, lose, {})
    if isinstance(earlier, list) and isinstance(later, list):
        return _merge_items(base, earlier, later, path, lose)
    lose(path, earlier)
    return later


def _merge_members(
    base: Any,
    earlier: dict[str, Any],
    later: dict[str, Any],
    path: tuple[str, ...],
    lose: Lose,
    rules: Mapping[str, Rule],
) -> dict[str, Any]:
    begun = base if isinstance(base, dict) else {}
    merged = {}
    for name in [*later, *(name for name in earlier if name not in later)]:
        sides = begun.get(name, MISSING), earlier.get(name, MISSING), later.get(name, MISSING)
        rule = rules.get(name, "later")
        value = (
            _merge_values(*sides, (*path, name), lose) if rule == "later" else _apply(rule, *sides, (*path, name), lose)
        )
        if value is not MISSING:
            merged[name] = value
    return merged


def _merge_items(base: Any, earlier: list[Any], later: list[Any], path: tuple[str, ...], lose: Lose) -> list[Any]:
    begun, had, has = _keyed(base if isinstance(base, list) else []), _keyed(earlier), _keyed(later)
    merged: dict[Hashable, Any] = {}
    for key in [*has, *(key for key in had if key not in has)]:
        sides = begun.get(key, MISSING), had.get(key, MISSING), has.get(key, MISSING)
        value = _merge_values(*sides, (*path, str(key[1])), lose)
        if value is not MISSING:
            merged[key] = value
    # The later side's order; what only the earlier one has stands behind what it stood behind there.
    first: list[Hashable] = []
    behind: dict[Hashable, list[Hashable]] = {key: [] for key in has if key in merged}
    group = first
    for key in had:
        if key in behind:
            group = behind[key]
        elif key in merged:
            group.append(key)
    order = first + [one for key, others in behind.items() for one in (key, *others)]
    return [merged[key] for key in order]


def _keyed(items: list[Any]) -> dict[tuple[str, Hashable, int], Any]:
    return dict(zip(key_items(items), items, strict=True))


def id_of(item: Any) -> str | int | None:
    """Return the "id" by which an *item* is known among others; None where it has none."""
    id = item.get("id") if isinstance(item, dict) else None
    return id if isinstance(id, str) or type(id) is int else None


def key_items(items: list[Any]) -> list[tuple[str, Hashable, int]]:
    """Return what makes each of *items* the same item in another list: kind of name, name, and how many of that name stand before."""
    keys: list[tuple[str, Hashable, int]] = []
    seen: dict[tuple[str, Hashable], int] = {}
    for item in items:
        id = id_of(item)
        name: tuple[str, Hashable] = ("id", id) if id is not None else ("value", plain(item).decode())
        seen[name] = count = seen.get(name, -1) + 1
        keys.append((*name, count))
    return keys


def _apply(rule: Rule, base: Any, earlier: Any, later: Any, path: tuple[str, ...], lose: Lose) -> Any:
    if callable(rule):
        return rule(base, earlier, later)
    if rule == "union" and isinstance(earlier, list) and isinstance(later, list):
        return _merge_items([], earlier, later, path, lose)
    numbers = [value for value in (earlier, later) if type(value) in (int, float)]
    if rule == "max" and len(numbers) == 2:
        return max(numbers)
    if rule == "sum" and len(numbers) == 2:
        begun = base if type(base) in (int, float) else 0
        return earlier + later - begun
    return _merge_values(base, earlier, later, path, lose)  # the rule does not fit these values
