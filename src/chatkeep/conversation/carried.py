"""Members of a stored state that this version's type does not know, because a newer version has written them: set apart when the
state is read, and put back when it is written.

What a member belongs to is told by its place: names of members and keys of dicts. An item of a list is the same item when it is the
same object, else when it has the same "id", else when nothing of it has changed, else when the list is as long as it was and nobody
else is at its place. What belongs to an item that is told in none of these ways goes, and what belonged to an object in whose
place there is another one with another "id".
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from msgspec import Struct, field

from .merge import id_of, key_items
from .shapes import members_of, stored_names_of


class Carried(Struct):
    """What is carried along for one value, and inside it.

    of: the value. members: those of an object that its type does not know; tail: items behind those that it knows, where it is
    stored as a list. inside: for what is in it, by name or index. items: of a list, all that was in it, by what makes each the
    same item. id: the object's "id", None if it has none.
    """

    of: Any
    members: dict[str, Any] = {}
    tail: list[Any] = []
    inside: dict[Any, Carried] = {}
    items: list[tuple[Any, Hashable]] = field(default_factory=list)
    id: str | int | None = None


def find_unknown(stored: Any, value: Any, known: Any) -> Carried | None:
    """Return what of the JSON *stored* has no place in the *value* that was read from it, which is written as *known*; None: nothing."""
    found = Carried(value)
    names = members_of(type(value))
    steps: Any = ()
    if isinstance(stored, dict) and isinstance(known, dict):
        found.id = id_of(known)
        # (Whatever is no object of members keeps all keys, but may write them in another way.)
        if names is not None or len(stored) > len(known):
            own = known.keys() | stored_names_of(type(value)).keys() | _extra(value).keys()
            found.members = {name: inner for name, inner in stored.items() if name not in own}
        steps = stored.keys() & known.keys()
    elif isinstance(stored, list) and isinstance(known, list):
        if names is not None and issubclass(type(value), Struct):
            found.tail, steps = stored[len(known) :], range(min(len(known), len(stored)))
        elif len(stored) == len(known) and not isinstance(value, set | frozenset):
            steps = range(len(known))
            items = value if isinstance(value, list | tuple) else [None] * len(known)
            found.items = list(zip(items, key_items(known), strict=False))
    for step in steps:
        if (inner := find_unknown(stored[step], _at(value, step), known[step])) is not None:
            found.inside[step] = inner
    return found if found.members or found.tail or found.inside else None


def put_back(carried: Carried, value: Any, written: Any) -> None:
    """Put what is carried along into the plain JSON *written* that was made of *value*, wherever it still belongs."""
    if value is not None and type(value) is not type(carried.of):
        return
    where = {step: step for step in carried.inside}
    if isinstance(written, dict):
        for name, inner in carried.members.items():
            written.setdefault(name, inner)
    elif isinstance(written, list):
        if carried.items:
            where = _recognise(carried, value, written)
        written += carried.tail
    for step, inner in carried.inside.items():
        now: Any = where.get(step)
        if (isinstance(written, dict) and now in written) or (isinstance(written, list) and now is not None):
            there = _at(value, now)
            same = there is not None and there is inner.of
            if same or inner.id is None or id_of(written[now]) == inner.id:
                put_back(inner, there, written[now])


def _recognise(carried: Carried, value: Any, written: list[Any]) -> dict[int, int]:
    """Return where the items that were in a list stand now."""
    objects = value if isinstance(value, list | tuple) and len(value) == len(written) else [None] * len(written)
    there = {id(item): index for index, item in enumerate(objects) if item is not None}
    where = {index: there[id(item)] for index, (item, _) in enumerate(carried.items) if id(item) in there}
    taken = set(where.values())
    keys = {key: index for index, key in enumerate(key_items(written)) if index not in taken}
    for index, (_, key) in enumerate(carried.items):
        if index not in where and key in keys:
            where[index] = keys.pop(key)
    if len(carried.items) == len(written):
        taken = set(where.values())
        where |= {index: index for index in range(len(written)) if index not in where and index not in taken}
    return where


def _at(value: Any, step: Any) -> Any:
    """Return what is at a *step* of JSON in the value that it is made of; None where that cannot be told."""
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list | tuple):
        return value[step] if isinstance(step, int) and step < len(value) else None
    if isinstance(step, int):
        names = members_of(type(value)) or ()
        return getattr(value, names[step], None) if step < len(names) else None
    extra = _extra(value)
    return extra[step] if step in extra else getattr(value, stored_names_of(type(value)).get(step) or step, None)


def _extra(value: Any) -> dict[str, Any]:
    return getattr(value, "__pydantic_extra__", None) or {}
