"""The three-way merge of plain JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkeep import Misconfigured
from chatkeep.conversation.merge import (
    MISSING,
    Loss,
    Merged,
    Overlap,
    Version,
    changed_members,
    check_rules,
    merge,
    merge_apart,
    plain,
)

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"]) | st.sampled_from([0.5, 1.0])


def by_id(item: dict[str, Any]) -> int:
    """What tells items apart."""
    return int(item["id"])


values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4, unique_by=plain)
        | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
        | st.lists(st.fixed_dictionaries({"id": st.integers(0, 3)}, optional={"n": inner}), max_size=3, unique_by=by_id)
    ),
    max_leaves=8,
)
sides = st.builds(Version, values | st.just(MISSING), st.sampled_from([1.0, 2.0]), st.sampled_from(["p", "q"]))
some_bases = values | st.just(MISSING)


def of(value: Any, at: float = 1.0, by: str = "") -> Version:
    """One side."""
    return Version(value, at, by)


CASES: dict[str, tuple[Any, Any, Any, Any, tuple[Loss, ...]]] = {
    "members of both": ({"a": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 3}, {"a": 1, "c": 3, "b": 2}, ()),
    "the same twice": ({}, {"a": 1}, {"a": 1}, {"a": 1}, ()),
    "a scalar of both": ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 3}, (Loss(("a",), 2, 1.0, "phone"),)),
    "true is not 1": ({"a": 0}, {"a": 1}, {"a": True}, {"a": True}, (Loss(("a",), 1, 1.0, "phone"),)),
    "removed and edited": ({"a": 1}, {}, {"a": 2}, {"a": 2}, ()),
    "edited and removed": ({"a": 1}, {"a": 2}, {}, {"a": 2}, ()),
    "removed and untouched": ({"a": 1, "b": 1}, {"b": 1}, {"a": 1, "b": 1}, {"b": 1}, ()),
    "items of both": (["tea"], ["tea", "milk"], ["tea", "eggs"], ["tea", "milk", "eggs"], ()),
    "an item removed, one added": (["tea", "milk"], ["tea"], ["tea", "milk", "eggs"], ["tea", "eggs"], ()),
    "the same item added by both": ([], ["milk"], ["milk"], ["milk"], ()),
    "two of a kind": (["a"], ["a", "a"], ["a"], ["a", "a"], ()),
    "put in front": (["a"], ["z", "a"], ["a", "b"], ["z", "a", "b"], ()),
    "items by id": (
        [{"id": 1, "n": 1}, {"id": 2, "n": 1}],
        [{"id": 1, "n": 2}, {"id": 2, "n": 1}],
        [{"id": 1, "n": 1, "hot": True}],
        [{"id": 1, "n": 2, "hot": True}],
        (),
    ),
    "an item edited and removed": ([{"id": 1, "n": 1}], [{"id": 1, "n": 2}], [], [{"id": 1, "n": 2}], ()),
    "an item edited by both": (
        [{"id": 1, "n": 1}],
        [{"id": 1, "n": 2}],
        [{"id": 1, "n": 3}],
        [{"id": 1, "n": 3}],
        (Loss(("1", "n"), 2, 1.0, "phone"),),
    ),
    "other types": ({"a": 1}, {"a": [1]}, {"a": {"x": 1}}, {"a": {"x": 1}}, (Loss(("a",), [1], 1.0, "phone"),)),
    "no base": (MISSING, {"a": 1, "b": 1}, {"b": 2}, {"b": 2, "a": 1}, (Loss(("b",), 1, 1.0, "phone"),)),
    "both removed": ({"a": 1}, MISSING, MISSING, MISSING, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_two_sides_are_put_together(case: str) -> None:
    """The earlier one is the phone's, the later one the laptop's."""
    base, earlier, later, value, losses = CASES[case]

    assert Merged(value, losses) == merge(base, of(earlier, 1.0, "phone"), of(later, 2.0, "laptop"))


@given(some_bases, sides, sides)
def test_it_does_not_matter_which_side_comes_first(base: Any, one: Version, other: Version) -> None:
    """Not even where both have the same time and device."""
    first, second = merge(base, one, other), merge(base, other, one)

    assert plain(first.value) == plain(second.value)
    assert first.losses == second.losses


@given(some_bases, sides, sides)
def test_who_has_changed_nothing_gives_way(base: Any, one: Version, other: Version) -> None:
    """Without a loss; and merging the result once more changes nothing."""
    result = merge(base, one, other).value

    assert Merged(one.value) == merge(base, one, Version(base, other.at, other.by))
    assert plain(result) == plain(merge(one.value, one, Version(result, other.at, other.by)).value)


@given(some_bases, sides, sides)
def test_a_side_that_is_sent_again_has_no_second_effect(base: Any, one: Version, other: Version) -> None:
    """A write whose answer got lost meets a value that has it already."""
    once = merge(base, one, other)
    again = merge(base, one, Version(once.value, max(one.at, other.at) + 1, "server"))

    assert plain(once.value) == plain(again.value)


@given(st.lists(values, max_size=4), st.lists(values, max_size=4), st.lists(values, max_size=4))
def test_no_item_that_was_added_is_missing(base: list[Any], mine: list[Any], theirs: list[Any]) -> None:
    """Items without an id, by their value."""
    found = merge(base, of(mine, 1.0), of(theirs, 2.0)).value
    there = {plain(item) for item in found} if isinstance(found, list) else set()
    before = {plain(item) for item in base}
    nameless = [item for side in (mine, theirs) for item in side if not (isinstance(item, dict) and "id" in item)]

    assert {plain(item) for item in nameless} - before <= there


leaves = st.integers(0, 9)
forms = st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xy"), leaves, min_size=2), min_size=1)


@given(forms, forms, forms)
def test_every_scalar_that_gave_way_is_told(base: Any, mine: Any, theirs: Any) -> None:
    """A scalar of either side is in the result, or in the losses, or was removed or replaced by the other from what it was."""
    found = merge(base, of(mine, 1.0, "p"), of(theirs, 2.0, "q"))
    told = {loss.path: loss.value for loss in found.losses}
    for name, members in mine.items():
        for member, value in members.items():
            was = base.get(name, {}).get(member, MISSING)
            stands = found.value.get(name, {}).get(member, MISSING)
            if value != was and stands != value:
                assert value == told[name, member]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.integers(0, 9)), max_size=30))
def test_three_devices_converge(edits: list[tuple[int, str, int]]) -> None:
    """Each edits its own copy and syncs when it likes; when all have synced twice they have the same."""
    server: Any = {}
    bases: list[Any] = [{}, {}, {}]
    copies: list[Any] = [{}, {}, {}]

    def sync(device: int, at: float) -> None:
        nonlocal server
        server = merge(bases[device], Version(copies[device], at, f"{device}"), Version(server, at - 0.5, "")).value
        bases[device] = copies[device] = server

    added: set[int] = set()
    for at, (device, name, value) in enumerate(edits, 1):
        items = copies[device].get("items", [])
        copies[device] = {**copies[device], name: value, "items": [*items, at]}
        added.add(at)
        if value % 3 == 0:
            sync(device, float(at))
    for device in (0, 1, 2, 0, 1):
        sync(device, 1000.0 + device)

    assert copies[0] == copies[1] == copies[2] == server
    assert added == set(server.get("items", []))


def test_rules_are_for_members_by_name() -> None:
    """A counter, a high score, tags that nobody can remove, and a function."""
    base = {"n": 5, "best": 3, "tags": ["a"], "note": "x", "odd": 1}
    phone = {"n": 7, "best": 9, "tags": ["b"], "note": "y", "odd": "text"}
    laptop = {"n": 4, "best": 6, "tags": ["a", "c"], "note": "z", "odd": 2}
    rules: Any = {
        "n": "sum",
        "best": "max",
        "tags": "union",
        "note": lambda was, had, has: f"{had} {has}",
        "odd": "sum",
    }
    found = merge(base, of(phone, 1.0, "phone"), of(laptop, 2.0, "laptop"), rules)

    assert {"n": 6, "best": 9, "note": "y z", "odd": 2} == {n: v for n, v in found.value.items() if n != "tags"}
    assert {"a", "b", "c"} == set(found.value["tags"])
    assert (Loss(("odd",), "text", 1.0, "phone"),) == found.losses


def test_members_that_differ_are_named() -> None:
    """None where no members can be named."""
    assert frozenset({"b", "c", "d"}) == changed_members({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1.0, "d": 1})
    assert frozenset() == changed_members([1], [1])
    assert changed_members([1], {}) is None


APART: dict[str, tuple[Any, Any, Any, Any]] = {
    "other members": ({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 2, "c": 3}, {"a": 2, "b": 2, "c": 3}),
    "within an object": ({"o": {"a": 1, "b": 1}}, {"o": {"a": 2, "b": 1}}, {"o": {"a": 1}}, {"o": {"a": 2}}),
    "an object that both made": ({}, {"o": {"a": 1}}, {"o": {"b": 1}}, {"o": {"a": 1, "b": 1}}),
    "one removed": ({"a": 1, "b": 1}, {"b": 1}, {"a": 1, "b": 2}, {"b": 2}),
    "a list of one": ({"a": [1]}, {"a": [1, 2]}, {"a": [1], "b": 1}, {"a": [1, 2], "b": 1}),
    "no objects": (1, 1, 2, 2),
    "the same value": ({"n": 1}, {"n": 2}, {"n": 2}, Overlap),
    "both removed": ({"n": 1}, {}, {}, Overlap),
    "removed and changed": ({"n": 1}, {}, {"n": 2}, Overlap),
    "a list of both": ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}, Overlap),
    "another type": ({"n": 1}, {"n": 1.0}, {"n": True}, Overlap),
    "an object and a number": ({"n": {}}, {"n": {"a": 1}}, {"n": 1}, Overlap),
    "a number that became objects": ({"n": 1}, {"n": {"a": 1}}, {"n": {"b": 1}}, Overlap),
}


@pytest.mark.parametrize("case", APART)
def test_what_does_not_overlap_is_put_together(case: str) -> None:
    """Whichever side comes first; what overlaps is refused, also where both sides have the same."""
    base, one, other, expected = APART[case]
    for pair in ((one, other), (other, one)):
        if expected is Overlap:
            with pytest.raises(Overlap):
                merge_apart(base, *pair)
        else:
            assert plain(expected) == plain(merge_apart(base, *pair))


@given(values, values)
def test_a_side_that_has_changed_nothing_gives_way_whole(base: Any, other: Any) -> None:
    """Whatever the other has made of it."""
    assert plain(other) == plain(merge_apart(base, base, other)) == plain(merge_apart(base, other, base))


objects = st.dictionaries(st.sampled_from("xyz"), values, max_size=3)


@given(objects, objects, objects)
def test_no_change_of_either_side_is_lost(base: Any, one: Any, other: Any) -> None:
    """Every place that a side has changed is in the result as that side has it; where that cannot be, nothing comes of it."""

    def kept(was: Any, has: Any, result: Any) -> bool:
        if plain(was) == plain(has):
            return True
        if isinstance(has, dict) and isinstance(result, dict) and (was is MISSING or isinstance(was, dict)):
            names = has.keys() | (was or {}).keys()
            return all(kept((was or {}).get(n, MISSING), has.get(n, MISSING), result.get(n, MISSING)) for n in names)
        return plain(has) == plain(result)

    try:
        result = merge_apart(base, one, other)
    except Overlap:
        return
    assert kept(base, one, result)
    assert kept(base, other, result)


def test_a_rule_is_one_of_four_or_a_function() -> None:
    rules: dict[str, Any] = {"a": "later", "b": "union", "c": "sum", "d": "max", "e": lambda base, one, other: one}

    assert rules is check_rules(rules)
    with pytest.raises(
        Misconfigured, match=r"^merge_rules\['cart'\] is 'longest': a rule is later, union, sum, max, or"
    ):
        check_rules({"cart": "longest"})  # type: ignore[dict-item]
