"""What notes of a person's changes say of a state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from chatkeep import ChangedSince, UsageError
from chatkeep.conversation.edits import VALUES_MOST, describe, edits_in, find_note, find_state, may_move, undo

from ..support.snapshots import ADA, message, note


def raw(value: Any) -> Raw:
    """A state as it is stored."""
    return Raw(json.dumps(value).encode())


def change(number: int, **slots: Any) -> Any:
    """The note of a change; of each slot what was and is: a pair, in which ... stands for nothing."""
    told = {
        name: {part: value for part, value in (("was", was), ("now", now)) if value is not ...}
        for name, (was, now) in slots.items()
    }
    return note(number, "change", id=f"~change:{number}", slots=told, schema=1, by="kim")


def test_only_slots_that_differ_are_described() -> None:
    """Each as it was and as it is; one that came or went has one side. True is not 1."""
    told = describe(raw({"a": 1, "b": 2, "c": True, "d": 4}), raw({"a": 1, "b": 3, "c": 1, "e": 5}), 7, "kim", 9)

    assert {
        "by": "kim",
        "schema": 7,
        "undoes": 9,
        "slots": {"b": {"was": 2, "now": 3}, "c": {"was": True, "now": 1}, "d": {"was": 4}, "e": {"now": 5}},
    } == told


def test_a_state_without_slots_is_not_described() -> None:
    """Who changed it is."""
    assert {"by": "kim", "schema": 1} == describe(raw([1]), raw({}), 1, "kim") == describe(raw({}), raw(1), 1, "kim")


@pytest.mark.parametrize(("length", "fits"), [(0, True), (1, False)])
def test_large_values_are_named_and_not_kept(length: int, fits: bool) -> None:
    """So many bytes are kept, and no more."""
    room = VALUES_MOST - len('{"a":{"now":""}}')
    told = describe(raw({}), raw({"a": "x" * (room + length)}), 1, "kim")

    assert ("slots" in told, "large" in told) == (fits, not fits)


def test_edits_are_read_from_notes_of_changes_alone() -> None:
    """A user may write the same into the metadata of a message."""
    slots = {"a": {"was": 1}, "b": "odd"}

    assert ["a"] == [*edits_in(note(1, "change", slots=slots))]
    assert {} == edits_in(message(1, metadata={"kind": "change", "slots": slots}))
    assert {} == edits_in(note(1, "other", slots=slots))
    assert {} == edits_in(note(1, "change", slots=["a"]))


def test_a_note_is_found_or_it_is_said_why_not() -> None:
    """It is not there, it was redacted, or it holds nothing."""
    log = [message(1), change(2, a=(1, 2)), message(3, "system", redacted=True, id="~change:3")]

    assert 2 == find_note(ADA, log, 2).number
    for number, why in ((9, "is not in the log"), (3, "was redacted"), (1, "holds no slots as they were")):
        with pytest.raises(UsageError, match=f"entry {number} {why}"):
            find_note(ADA, log, number)


def test_an_undo_puts_slots_back_that_are_as_the_change_left_them() -> None:
    """Others stay; one that is so already asks for nothing."""
    edit = change(2, a=(1, 2), b=(..., 3), c=(4, ...))
    undone = undo(ADA, edit, raw({"a": 2, "b": 3, "d": 5}), 1)
    assert undone is not None

    assert {"a": 1, "c": 4, "d": 5} == json.loads(bytes(undone))
    assert undo(ADA, edit, undone, 1) is None


@pytest.mark.parametrize(
    ("state", "schema", "words"),
    [
        ({"a": 2, "b": 3}, 2, "another form"),
        ([1], 1, "another form"),
        ({"a": 2.5, "b": 3}, 1, "slot 'a' is not what"),
        ({"a": 2}, 1, "slot 'b' is not what"),
        ({"a": 1, "b": 3}, 1, "slot 'a' is not what"),
    ],
)
def test_an_undo_overwrites_nothing(state: Any, schema: int, words: str) -> None:
    """Neither what somebody has written since, nor a state of another form."""
    with pytest.raises(ChangedSince, match=words):
        undo(ADA, change(2, a=(1, 2), b=(..., 3)), raw(state), schema)


def test_a_state_of_before_is_known_back_to_the_last_turn() -> None:
    """Notes between are taken back, the last one first; other notes change nothing."""
    log = [
        message(1),
        message(2, "assistant"),
        change(3, a=(1, 2)),
        note(4, "delivery"),
        change(5, a=(2, 3), b=(..., 4)),
    ]
    now = {"a": 3, "b": 4, "c": 5}
    found = [find_state(now, log, number, begun=False) for number in (5, 4, 3, 2)]

    assert [now, {"a": 2, "c": 5}, {"a": 2, "c": 5}, {"a": 1, "c": 5}] == [one.slots for one in found]
    assert [(True, "")] * 4 == [(one.complete, one.why) for one in found]


def test_behind_a_turn_only_what_notes_hold_is_known() -> None:
    """Those since the turn before, and those up to the turn after; a slot that was not there is not told."""
    log = [
        change(1, z=(0, 1)),
        message(2),
        change(3, a=(1, 2), b=(5, ...)),
        change(4, c=(7, 8), d=(..., 9)),
        message(5),
        change(6, a=(8, 9)),
    ]
    found = find_state({"a": 9}, log, 3, begun=False)

    assert ({"a": 2, "c": 7}, False, 3) == (found.slots, found.complete, found.number)
    assert "a turn came later" in found.why


@pytest.mark.parametrize(
    ("state", "later", "begun", "why"),
    [
        ({}, (), True, "a new session has begun since"),
        (None, (), False, "the session is over"),
        ([1], (), False, "the state has no slots"),
        ({}, (message(2, "event"),), False, "a turn came later"),
        ({}, (note(2, "change", by="kim"),), False, "entry 2, holds no slots"),
        ({}, (note(2, "change", large=["a"]),), False, "entry 2, does not hold the values, which were too large"),
        ({}, (message(2, "system", id="~change:2", redacted=True),), False, "entry 2, was redacted"),
    ],
)
def test_it_is_said_why_no_more_is_known(state: Any, later: Any, begun: bool, why: str) -> None:
    """So that nobody takes a part for the whole."""
    found = find_state(state, [message(1), *later], 1, begun=begun)

    assert not found.complete
    assert why in found.why


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (message(1), True),
        (message(1, "event"), True),
        (message(1, "assistant"), True),
        (message(1, "operator"), False),
        (note(1, "delivery"), False),
        (change(1, a=(1, 2)), False),
        (note(1, "change"), True),
        (message(1, "system", id="~change:1"), True),
        (message(1, "operator", id="~change:1"), False),
    ],
)
def test_the_state_may_move_with_turns_and_changes_that_hold_nothing(entry: Any, expected: bool) -> None:
    """An operator's words alone change no state."""
    assert expected is may_move(entry)
